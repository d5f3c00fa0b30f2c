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
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

from ganvas.data import colour
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
MAX_JPEG_SCANS = 100  # each scan of a progressive JPEG costs a pass over all pixels; encoders write about ten
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF tag 0x0112, CIPA DC-008 (Exif 2.32) section 4.6.4


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
    load_plugin(kind.name)
    # Opening reads headers only; the cap below is stricter than Pillow's and says what it found.
    ceiling, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=(kind.name,))
    finally:
        Image.MAX_IMAGE_PIXELS = ceiling
    mode, (width, height) = image.mode, image.size
    if width < 1 or height < 1:
        raise _RefusedError(f"it has no pixels ({width}x{height})", "remove it")
    if width * height > max_pixels:
        raise _too_large(width, height, max_pixels)
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
    if pixels.shape[2] == 3 and bool((pixels == pixels[..., :1]).all()):
        pixels = np.ascontiguousarray(pixels[..., :1])
    size = (width, height) if orientation >= 5 else (height, width)
    return Picture(pixels, tuple(notes), pixels.shape[2] == 1, mode, size)


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
    out: Pixels | None = None
    for top in range(0, image.height, rows):
        whole = rows >= image.height
        strip = flatten(image if whole else image.crop((0, top, image.width, min(top + rows, image.height))))
        if factor > 1:
            strip = strip.reduce(factor)
        if orientation in UPRIGHT and whole:
            strip, orientation = strip.transpose(UPRIGHT[orientation]), 1
        part = np.asarray(strip)
        part = part[..., None] if part.ndim == 2 else part
        if whole:
            out = part
        else:
            if out is None:
                out = np.empty((-(-image.height // factor), part.shape[1], part.shape[2]), np.uint8)
            out[top // factor : top // factor + len(part)] = part
    assert out is not None
    notes += flatten.notes
    if orientation in UPRIGHT:
        turned = Image.fromarray(out[..., 0] if out.shape[2] == 1 else out).transpose(UPRIGHT[orientation])
        out = np.asarray(turned).reshape(turned.height, turned.width, out.shape[2])
    return out


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
    if kind.name == "JPEG" and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise _RefusedError(f"it is a JPEG of more than {MAX_JPEG_SCANS} scans, built to be slow", "remove it")
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


def _too_large(width: int, height: int, max_pixels: int) -> _RefusedError:
    asked = f"its {width}x{height} = {width * height / 1e6:.0f} megapixels are over the cap of {max_pixels / 1e6:g}"
    return _RefusedError(asked, "save it smaller, or raise max_megapixels if you trust it")


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
