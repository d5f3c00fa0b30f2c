"""From encoded bytes to checked pixels: decode one picture fully, or say why it is set aside; and fit it to a size.

What a file is, is decided by its first bytes and never by its suffix. Only plain raster formats are handed to Pillow.
The pixel cap is applied before anything is decoded; then the picture is decoded to the end, because a header, and
Pillow's `verify()`, say nothing about the missing half of a file. Colours become sRGB, 8 bits, upright, opaque.
"""

from __future__ import annotations

import io
import posixpath
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageChops, ImageFile, UnidentifiedImageError

from ganvas.data import colour, pnm
from ganvas.data.kinds import Kind, kind_of, kind_of_suffix, load_plugin

__all__ = [
    "Fit",
    "Picture",
    "Pixels",
    "SetAside",
    "decode",
    "fit",
    "header_size",
    "kind_of",
    "printable",
    "to_channels",
]

Fit = Literal["crop", "pad", "stretch"]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]

STRIP_PIXELS = 4_000_000  # large pictures become sRGB in strips, so that one picture never needs several full copies
MAX_SIDE = 65_535  # JPEG's own limit; a longer and so thinner picture cannot be decoded smaller
# Each scan of a progressive JPEG costs a pass over all pixels. Encoders write about ten.
MAX_JPEG_SCANS, LARGE_JPEG_SCANS = 100, 16
# Some decoders keep several copies of the picture at once, 16 to 20 bytes a pixel: a third of the cap for these.
COPYING = {"WEBP": 3, "AVIF": 3}
SLOW_PIXELS = 600_000  # of what Pillow decodes in Python, value by value: two seconds of it
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda up: up[:, ::-1],
    3: lambda up: up[::-1, ::-1],
    4: lambda up: up[::-1],
    5: lambda up: up.swapaxes(0, 1),
    6: np.rot90,
    7: lambda up: up[::-1, ::-1].swapaxes(0, 1),
    8: lambda up: np.rot90(up, -1),
}  # an upright picture as it was stored; EXIF tag 0x0112, CIPA DC-008 (Exif 2.32) section 4.6.4


@dataclass(frozen=True)
class SetAside:
    """A file that was not used: its (printable) name, why, and what its owner can do about it."""

    name: str
    reason: str
    fix: str


@dataclass(frozen=True)
class Picture:
    """A decoded picture: upright, opaque, sRGB.

    `pixels` is uint8 [H, W, C], C = 1 where all channels agree everywhere (then `grey`), else 3. It may be smaller
    than the file's `size` (height, width; upright) when `draft_size` was given. `mode` is Pillow's name of what the
    file held. `warnings` say what was changed that its owner might not expect.
    """

    pixels: Pixels
    warnings: tuple[str, ...]
    grey: bool
    mode: str
    size: tuple[int, int]


class _RefusedError(Exception):
    """A picture is set aside: (reason, fix)."""


def decode(
    data: bytes,
    name: str,
    *,
    background: str = "#ffffff",
    max_pixels: int = 64_000_000,
    draft_size: tuple[int, int] | None = None,
) -> Picture | SetAside:
    """Decode the bytes of one file, or say why it is set aside. Never raises for bad input.

    `background` is the colour under transparent pixels; `max_pixels` the cap on height × width. With `draft_size`
    (height, width) a picture at least twice as large in both directions is decoded smaller, never below twice that
    size: by libjpeg's scaled inverse transform for JPEG, by averaging blocks for the others.
    """
    shown, kind = printable(name), kind_of(data[:4096])
    if not data:
        return SetAside(shown, "it is empty", "copy it again from where it came")
    if not kind.readable:
        return SetAside(shown, f"it is {kind.what}", kind.fix)
    try:
        # Pillow warns about sizes (the cap here is stricter) and harmless metadata; a warning is no answer.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data, kind, name, background, max_pixels, draft_size)
    except _RefusedError as refused:
        reason, fix = refused.args
        return SetAside(shown, reason, fix)
    except Exception as error:  # a decoder may fail on hostile bytes with nearly any class
        return SetAside(shown, *_reason(kind, error))


def _decode(
    data: bytes, kind: Kind, name: str, background: str, max_pixels: int, draft_size: tuple[int, int] | None
) -> Picture:
    notes = _check_container(data, kind)
    suffix_kind = kind_of_suffix(name)
    if suffix_kind not in (None, kind.name):
        notes.append(f"it is {kind.what} despite its suffix {posixpath.splitext(name)[1]}")
    image = (pnm.scaled(data) if kind.name == "PPM" else None) or _open(data, kind)
    mode, (width, height) = image.mode, image.size
    _check_size(image, data, kind, max_pixels)
    if kind.name != "JPEG" and getattr(image, "is_animated", False):  # a phone's JPEG may hold a second picture
        notes.append("it has several frames or pages; the first is used")
    orientation = _orientation(image)
    by_adobe = "adobe" in image.info
    if draft_size is not None and kind.name == "JPEG":
        wanted = (2 * draft_size[1], 2 * draft_size[0])
        image.draft(None, wanted[::-1] if orientation >= 5 else wanted)
    image.load()
    if kind.name == "TIFF":
        orientation = 1  # Pillow has turned it while loading, and gave its size upright
    elif orientation == 1:
        orientation = _orientation(image)  # a PNG may say so only after its pixels
    if kind.name == "JPEG" and image.mode == "CMYK" and not by_adobe:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for Adobe's inverted kind
    pixels = _pixels(image, background, notes, draft_size, orientation)
    if pixels.shape[2] == 3 and _is_grey(pixels):
        pixels = np.ascontiguousarray(pixels[..., :1])
    size = (width, height) if orientation >= 5 else (height, width)
    return Picture(pixels, tuple(notes), pixels.shape[2] == 1, mode, size)


def _open(data: bytes, kind: Kind) -> Image.Image:
    """Read the header only. Our cap, which comes after this, is stricter than Pillow's and says what it found."""
    load_plugin(kind.name)
    ceiling, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(io.BytesIO(data), formats=(kind.name,))
    finally:
        Image.MAX_IMAGE_PIXELS = ceiling


def _pixels(
    image: Image.Image, background: str, notes: list[str], draft_size: tuple[int, int] | None, orientation: int
) -> Pixels:
    """Return uint8 [H, W, 1 or 3] in sRGB, opaque and upright; strip by strip, averaging blocks for a draft."""
    factor = 1
    if draft_size is not None:
        target = draft_size[::-1] if orientation >= 5 else draft_size
        factor = max(1, min(image.height // (2 * target[0]), image.width // (2 * target[1])))
    flatten = colour.Flattener(image, background)
    rows = max(1, STRIP_PIXELS // image.width // factor) * factor
    stored: Pixels | None = None
    for top in range(0, image.height, rows):
        whole = rows >= image.height
        strip = flatten(image if whole else image.crop((0, top, image.width, min(top + rows, image.height))))
        if factor > 1:
            strip = strip.reduce(factor)
        part = _array(strip, len(strip.getbands()))
        if stored is None:
            height, width, channels = -(-image.height // factor), part.shape[1], part.shape[2]
            sides = (width, height) if orientation >= 5 else (height, width)
            upright = part if whole and orientation == 1 else np.empty((*sides, channels), np.uint8)
            # The strips are written upright: turning the whole at the end would need a copy of it.
            stored = UPRIGHT[orientation](upright) if orientation in UPRIGHT else upright
        if stored is not part:
            stored[top // factor : top // factor + len(part)] = part
    notes += flatten.notes
    return upright


def _is_grey(pixels: Pixels) -> bool:
    """Tell whether all channels of uint8 [H, W, 3] agree everywhere."""
    rows = max(1, STRIP_PIXELS // pixels.shape[1])
    blocks = (pixels[top : top + rows] for top in range(0, len(pixels), rows))
    return all(bool((block == block[..., :1]).all()) for block in blocks)


def fit(pixels: Pixels, size: tuple[int, int], how: Fit, background: str = "#ffffff") -> Pixels:
    """Resize uint8 [h, w, C] to [H, W, C]: crop the centre, pad with the background, or stretch.

    Resampling is antialiased: Pillow's Lanczos filter, three lobes wide at the output's scale, after averaging blocks
    where the picture is over three times too large (`reducing_gap=3`, which cannot be told from the full filter).
    """
    height, width = pixels.shape[:2]
    out_height, out_width = size
    if (height, width) == size:
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    box = (0.0, 0.0, float(width), float(height))
    if how == "crop":
        scale = max(out_width / width, out_height / height)
        keep_width, keep_height = min(width, out_width / scale), min(height, out_height / scale)
        left, top = (width - keep_width) / 2, (height - keep_height) / 2
        box = (left, top, left + keep_width, top + keep_height)
    elif how == "pad":
        scale = min(out_width / width, out_height / height)
        inner = (max(1, min(out_width, round(width * scale))), max(1, min(out_height, round(height * scale))))
        ground = Image.new(image.mode, (out_width, out_height), colour.ground(background, image.mode))
        resized = image.resize(inner, Image.Resampling.LANCZOS, reducing_gap=3.0)
        ground.paste(resized, ((out_width - inner[0]) // 2, (out_height - inner[1]) // 2))
        return _array(ground, pixels.shape[2])
    return _array(
        image.resize((out_width, out_height), Image.Resampling.LANCZOS, box, reducing_gap=3.0), pixels.shape[2]
    )


def to_channels(pixels: Pixels, channels: Literal["grey", "rgb"]) -> Pixels:
    """Return uint8 [H, W, 1] (luma of ITU-R BT.601, as Pillow's "L") or [H, W, 3] (grey repeated)."""
    if channels == "rgb":
        return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
    return pixels if pixels.shape[2] == 1 else _array(Image.fromarray(pixels).convert("L"), 1)


def header_size(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) as the header says, before any turning; None where it says nothing. Decodes nothing."""
    kind = kind_of(data[:4096])
    if not kind.readable:
        return None
    try:
        load_plugin(kind.name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=(kind.name,))
        return image.height, image.width
    except Exception:  # as in decode: what cannot be read is set aside there, with its reason
        return None


def printable(name: str) -> str:
    """Return a name with control characters and undecodable bytes escaped, safe to print and to write as JSON."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def _array(image: Image.Image, channels: int) -> Pixels:
    return np.asarray(image).reshape(image.height, image.width, channels)


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1 where it is missing or broken."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # broken metadata must not cost the picture
        return 1
    return value if isinstance(value, int) and value in UPRIGHT else 1


def _check_container(data: bytes, kind: Kind) -> list[str]:
    """Check what Pillow does not: raise _RefusedError for what is cut or slow on purpose; return warnings."""
    if kind.name == "WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise _RefusedError("it is truncated: its last part is missing", "copy it again from where it came")
    if kind.name == "PNG" and not _png_is_whole(data):
        return ["its end is missing (no IEND), though all pixels are there"]
    return []


def _png_is_whole(data: bytes) -> bool:
    """Tell whether a PNG's chunks reach IEND; raise _RefusedError where a pixel chunk's checksum is wrong.

    Pillow checks neither: it stops reading with the last row (PNG specification, third edition, section 5.3).
    """
    view, at = memoryview(data), 8
    while at + 12 <= len(data):
        length, name = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        end = at + 8 + length
        if end + 4 > len(data):
            return False
        if name == b"IDAT" and zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise _RefusedError(
                "it is damaged: the checksum of its pixels is wrong", "copy it again from where it came"
            )
        if name == b"IEND":
            return True
        at = end + 4
    return False


def _check_size(image: Image.Image, data: bytes, kind: Kind, max_pixels: int) -> None:
    """Raise _RefusedError where decoding would take too long or too much memory, judged by the header alone."""
    width, height = image.size
    pixels, sides = image.width * image.height, f"{width}x{height}"
    if width < 1 or height < 1:
        raise _RefusedError(f"it has no pixels ({sides})", "remove it")
    cap = max_pixels // COPYING.get(kind.name, 1)
    if pixels > cap:
        of = f" of {kind.what}" if kind.name in COPYING else ""
        asked = f"its {sides} = {pixels / 1e6:.0f} megapixels are over the cap{of} of {cap / 1e6:.3g}"
        raise _RefusedError(asked, "save it smaller, or raise max_megapixels if you trust it")
    if max(width, height) > MAX_SIDE:
        raise _RefusedError(f"its {sides} pixels have a side over {MAX_SIDE}", "cut it into pictures less thin")
    scans = data.count(b"\xff\xda") if kind.name == "JPEG" else 0
    if scans > MAX_JPEG_SCANS or (scans > LARGE_JPEG_SCANS and scans * pixels > LARGE_JPEG_SCANS * max_pixels):
        raise _RefusedError(f"it is a JPEG of {scans} scans, built to be slow", "remove it")
    codec = image.tile[0].codec_name if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    if codec in Image.DECODERS and pixels > SLOW_PIXELS:
        raise _RefusedError(f"it is {kind.what} of a kind that is read slowly, value by value", "save it as PNG")


def _reason(kind: Kind, error: Exception) -> tuple[str, str]:
    """Say in one line each why Pillow gave up, and what to do."""
    line = printable(" ".join(str(error).split()))[:120]
    mend = "open it in a picture editor and save it again, or remove it"
    if "truncated" in line.lower() or isinstance(error, EOFError):
        return "it is truncated: its last part is missing", "copy it again from where it came"
    if "Decompressed data too large" in line or "MAX_TEXT" in line:
        return "its text chunks grow like a bomb's", "remove it"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is", "save it smaller"
    if isinstance(error, UnidentifiedImageError):
        return f"it begins like {kind.what}, but its header cannot be read", mend
    return f"it is {kind.what} that cannot be decoded ({line or type(error).__name__})", mend
