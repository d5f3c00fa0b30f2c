"""Pictures out: uint8 pixels to PNG, JPEG, WebP and films, each marked with where it came from. Never imports torch.

The mark is an XMP packet with the generator's version, weights, seed and the IPTC Digital Source Type
`trainedAlgorithmicMedia` (IPTC Photo Metadata Standard, Digital Source Type NewsCodes), in the place that each format
has for it; a PNG also carries plain text fields. The same input gives the same bytes: there is no time in any of them.
"""

from __future__ import annotations

import math
import re
import struct
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ganvas.errors import DataError, MissingExtra, SettingError, did_you_mean
from ganvas.files import make_folder, one_line, storage_errors, write_bytes

Pixels: TypeAlias = NDArray[np.uint8]

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

# Measured on photographs of 64 to 1024 pixels: level 3 is within 2 % of level 6 (5 to 14 % smaller on soft faces) in
# 40 to 60 % of its time; WebP method 2 is within 2 % of method 4 in about half of its time.
_PNG_LEVEL = 3
_WEBP_METHOD = 2
_MAX_SIDE = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383}
_MAX_XMP_BYTES = 65_000
_MAX_FIELD = 1_000
_NAMESPACE = "urn:ganvas:provenance:1:"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_XMP_BOX = UUID("be7acfcb-97a9-42e8-9c71-999491e3afac")  # where MP4 keeps XMP (Adobe XMP specification, part 3)
_NOT_IN_XML = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Provenance:
    """Where a generated picture came from.

    Text is kept to 1,000 characters, and characters that XML cannot hold become '?'.
    """

    version: str  # of ganvas
    weights: str  # the first 16 hex digits of checkpoint.weights_hash
    seed: int | None = None  # None: more than one seed, as in a grid or a film
    data: str | None = None  # name or licence of the training pictures

    def __post_init__(self) -> None:
        for name in ("version", "weights", "data"):
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, _NOT_IN_XML.sub("?", text)[:_MAX_FIELD])

    def named(self) -> dict[str, str]:
        """The fields that are set, as text."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: str(value) for name, value in values if value is not None}

    def xmp(self) -> bytes:
        """An XMP packet (UTF-8) with these fields and the digital source type."""
        own = "".join(f"<ganvas:{name}>{escape(text)}</ganvas:{name}>" for name, text in self.named().items())
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
            '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
            '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            f'<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:Iptc4xmpExt="{_IPTC}" '
            f'xmlns:ganvas="{_NAMESPACE}">'
            f"<xmp:CreatorTool>ganvas {escape(self.version)}</xmp:CreatorTool>"
            f"<Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>"
            f"{own}</rdf:Description></rdf:RDF></x:xmpmeta>"
            '<?xpacket end="r"?>'
        ).encode()


def encode(pixels: Pixels, format: str, provenance: Provenance | None, quality: int = 92) -> bytes:
    """`pixels` (uint8 [H, W, C], C 1 = grey or 3 = RGB) as the bytes of a "png", "jpeg" or "webp" file.

    `quality` is 1 to 100 for JPEG and WebP; 100 makes WebP lossless, and PNG always is. `provenance=None` leaves no
    mark. Raises SettingError for another format, quality, shape or dtype, or a side the format cannot hold.
    """
    if format not in _MAX_SIDE:
        known = ", ".join(_MAX_SIDE)
        raise SettingError(one_line(f"format '{format}': known are {known}{did_you_mean(format, [*_MAX_SIDE])}"))
    if not 1 <= quality <= 100:
        raise SettingError(f"quality={quality}: give 1 (small) to 100 (best)")
    image = _image(pixels, format)
    options: dict[str, Any] = {"xmp": provenance.xmp()} if provenance else {}
    if format == "png":
        options = {"compress_level": _PNG_LEVEL, "pnginfo": _png_text(provenance)}
    elif format == "jpeg":
        options |= {"quality": quality, "subsampling": 0 if quality >= 90 else 2, "optimize": True}
    else:
        options |= {"quality": quality, "lossless": quality == 100, "method": _WEBP_METHOD}
    file = BytesIO()
    image.save(file, format.upper(), **options)
    return file.getvalue()


def write_image(path: Path | str, pixels: Pixels, provenance: Provenance | None, quality: int = 92) -> None:
    """Write `pixels` (see `encode`) to `path`, in the format that its suffix names; parents are made.

    The file appears whole, under its name, or not at all. Raises SettingError as `encode` does and for another
    suffix, StorageError where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    format = _by_suffix(path, SUFFIXES)
    _write(path, encode(pixels, format, provenance, quality))


def read_provenance(source: Path | str | bytes) -> Provenance | None:
    """The mark of a ganvas picture (a file or its bytes); None where there is none, or it is no PNG, JPEG or WebP.

    Reads headers only, never the pixels. Raises DataError where the file cannot be opened.
    """
    if not isinstance(source, bytes) and not Path(source).is_file():  # a pipe would wait for ever
        raise DataError(one_line(f"{source}: is no file; check the name"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # no pixel is decoded here
            file = BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as image:
                packet = image.info.get("xmp")
    except (UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    except OSError as exc:
        if isinstance(source, bytes) or exc.errno is None:
            return None
        raise DataError(one_line(f"{source}: cannot be opened ({exc.strerror}); check its permissions")) from exc
    return parse_xmp(packet) if isinstance(packet, bytes) else None


def parse_xmp(packet: bytes) -> Provenance | None:
    """The mark in an XMP packet, which may be anybody's; None where it is not ganvas' own or not well-formed."""
    if len(packet) > _MAX_XMP_BYTES:
        return None
    try:
        text = packet.decode("utf-8")
        if "<!" in text:  # no packet needs a document type, and entities can grow without bound
            return None
        root = ElementTree.fromstring(text)
    except (UnicodeDecodeError, ElementTree.ParseError):
        return None
    tags = {field.name: f"{{{_NAMESPACE}}}{field.name}" for field in fields(Provenance)}
    found = {name: element.text or "" for name, tag in tags.items() if (element := root.find(f".//{tag}")) is not None}
    seed = found.get("seed")
    if (
        "version" not in found
        or "weights" not in found
        or (seed is not None and not re.fullmatch(r"-?[0-9]{1,40}", seed))
    ):
        return None
    return Provenance(found["version"], found["weights"], None if seed is None else int(seed), found.get("data"))


def grid(
    images: Pixels | Sequence[Pixels],
    columns: int | None = None,
    gap: int = 2,
    background: int | tuple[int, ...] = 255,
) -> Pixels:
    """Images uint8 [N, H, W, C], N ≥ 1, side by side, row by row -> uint8 [H', W', C], C kept (1 or 3).

    `gap` pixels of `background` (0 to 255, or one value a channel) lie between neighbours, none at the border, and
    fill the last row. `columns=None` picks a shape between 1:1 and 16:9 with few empty places. Raises SettingError.
    """
    try:
        batch = np.asarray(images)
    except ValueError as exc:
        raise SettingError("a grid needs images of one size; resize them first") from exc
    if batch.ndim != 4 or batch.dtype != np.uint8 or batch.shape[3] not in (1, 3) or 0 in batch.shape:
        raise SettingError(f"a grid needs uint8 [N, H, W, 1 or 3] with N ≥ 1; these are {_described(batch)}")
    count, height, width, channels = batch.shape
    if columns is None:
        columns = _columns(count, height + gap, width + gap)
    if columns < 1 or gap < 0:
        raise SettingError(f"columns={columns}, gap={gap}: give columns of 1 or more and a gap of 0 or more")
    shade = np.asarray(background)
    if shade.shape not in ((), (channels,)) or shade.min() < 0 or shade.max() > 255:
        raise SettingError(f"background={background}: give 0 to 255, or {channels} such values")
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    sheet = np.empty((rows, height + gap, columns, width + gap, channels), np.uint8)
    sheet[:] = shade
    for place, image in enumerate(batch):
        sheet[place // columns, :height, place % columns, :width] = image
    whole = sheet.reshape(rows * (height + gap), columns * (width + gap), channels)
    return np.ascontiguousarray(whole[: rows * (height + gap) - gap, : columns * (width + gap) - gap])


def write_film(
    path: Path | str, frames: Iterable[Pixels], fps: float, provenance: Provenance | None, quality: int = 92
) -> int:
    """Write `frames` (uint8 [H, W, C], C 1 or 3, all of one shape) as a film; return how many there were.

    `.webp` is an animation that loops (all frames in memory meanwhile; equal neighbours become one longer frame);
    `.mp4` is H.264 (one frame in memory; odd sides grow by one pixel). `fps` (frames a second) is above 0, to 100.
    Raises SettingError, StorageError, and MissingExtra where `.mp4` lacks its library.
    """
    path = Path(path)
    kind = _by_suffix(path, {".webp": "webp", ".mp4": "mp4"})
    if not 0 < fps <= 100:
        raise SettingError(f"fps={fps}: give above 0, to 100 frames a second")
    if not 1 <= quality <= 100:
        raise SettingError(f"quality={quality}: give 1 (small) to 100 (best)")
    data, count = (_webp_film if kind == "webp" else _mp4_film)(_alike(frames), fps, provenance, quality)
    _write(path, data)
    return count


def _webp_film(frames: Iterable[Pixels], fps: float, provenance: Provenance | None, quality: int) -> tuple[bytes, int]:
    images = [_image(frame, "webp") for frame in frames]
    # Whole milliseconds a frame, such that the rounding never adds up.
    times = [round(1000 * place / fps) for place in range(len(images) + 1)]
    file = BytesIO()
    images[0].save(
        file,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=[end - begin for begin, end in pairwise(times)],
        loop=0,
        quality=quality,
        lossless=quality == 100,
        method=_WEBP_METHOD,
        **({"xmp": provenance.xmp()} if provenance else {}),
    )
    return file.getvalue(), len(images)


def _mp4_film(frames: Iterable[Pixels], fps: float, provenance: Provenance | None, quality: int) -> tuple[bytes, int]:
    try:
        import av
    except ImportError as exc:
        raise MissingExtra("an .mp4 film", "film") from exc
    file, count, stream = BytesIO(), 0, None
    with av.open(file, "w", format="mp4") as container:
        for frame in frames:
            _image(frame, "png")  # the same checks
            odd = [(0, side % 2) for side in frame.shape[:2]]  # 4:2:0 colour needs even sides
            even = np.pad(np.broadcast_to(frame, (*frame.shape[:2], 3)), [*odd, (0, 0)], mode="edge")
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                stream.height, stream.width, stream.pix_fmt = *even.shape[:2], "yuv420p"
                # Quality 100 is crf 10 and 50 is crf 30. One thread and no macroblock tree: x264's bytes depend on the
                # number of threads, and with the tree differed in 7 ways in 120 runs on the same frames (PyAV 18).
                stream.options = {"crf": str(round(50 - 0.4 * quality)), "x264-params": "threads=1:mbtree=0"}
                if provenance:
                    container.metadata.update(
                        {"encoder": f"ganvas {provenance.version}", "comment": DIGITAL_SOURCE_TYPE}
                    )
            for packet in stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")):
                container.mux(packet)
            count += 1
        if stream is not None:
            for packet in stream.encode():
                container.mux(packet)
    xmp = provenance.xmp() if provenance else b""
    box = struct.pack(">I4s16s", 24 + len(xmp), b"uuid", _XMP_BOX.bytes) + xmp if provenance else b""
    return file.getvalue() + box, count


def _alike(frames: Iterable[Pixels]) -> Iterable[Pixels]:
    """The frames, with a SettingError where there are none or one differs in shape."""
    shape = None
    for place, frame in enumerate(frames):
        if shape is not None and frame.shape != shape:
            raise SettingError(f"frame {place} has shape {frame.shape}, those before it {shape}; make them alike")
        shape = frame.shape
        yield frame
    if shape is None:
        raise SettingError("a film needs at least one frame; there are none")


def _image(pixels: Pixels, format: str) -> Image.Image:
    """The checked pixels as a Pillow image of mode L or RGB."""
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise SettingError(f"a picture needs uint8 [H, W, 1 or 3]; this is {_described(pixels)}")
    if max(pixels.shape[:2]) > _MAX_SIDE[format]:
        limit = f"{_MAX_SIDE[format]:,}"
        raise SettingError(
            f"{pixels.shape[1]}x{pixels.shape[0]} pixels: {format} holds at most {limit} a side; use png"
        )
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))


def _described(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _png_text(provenance: Provenance | None) -> PngInfo:
    text = PngInfo()
    if provenance:
        text.add_text("Software", f"ganvas {provenance.version}")
        text.add_text("Comment", f"Made by a trained generator: {DIGITAL_SOURCE_TYPE}")
        for name, value in provenance.named().items():
            text.add_text(f"ganvas {name}", value)
        text.add_itxt("XML:com.adobe.xmp", provenance.xmp().decode())
    return text


def _columns(count: int, height: int, width: int) -> int:
    """How many columns for `count` cells of height x width: least (distance from 1:1 to 16:9) + (share left empty)."""

    def cost(columns: int) -> tuple[float, float]:
        rows = math.ceil(count / columns)
        aspect = columns * width / (rows * height)
        distance = abs(math.log(aspect / min(max(aspect, 1), 16 / 9)))
        return distance + 1 - count / (rows * columns), abs(math.log(aspect / (4 / 3)))

    return min(range(1, count + 1), key=cost)


def _by_suffix(path: Path, known: dict[str, str]) -> str:
    try:
        return known[path.suffix.lower()]
    except KeyError:
        raise SettingError(one_line(f"{path}: the suffix names the format; known are {', '.join(known)}")) from None


def _write(path: Path, data: bytes) -> None:
    with storage_errors(path, len(data)):
        make_folder(path.parent)
    write_bytes(path, data, sync=False)  # thousands of pictures cannot each wait for the disk
