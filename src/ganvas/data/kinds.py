"""What a file is, told by its first bytes: the raster formats that are read, and what the others are called."""

from __future__ import annotations

import importlib
import posixpath
from dataclasses import dataclass
from functools import cache

from PIL import features


@dataclass(frozen=True)
class Kind:
    """A kind of file: Pillow's name of the format, words for a message, whether it is read, and else what to do."""

    name: str
    what: str
    readable: bool = False
    fix: str = "remove it, or save it as PNG or JPEG"


# Formats that Pillow may decode. Vector, document and exotic formats start other programs or have seen little testing.
READABLE = {
    "JPEG": "a JPEG",
    "PNG": "a PNG",
    "GIF": "a GIF",
    "WEBP": "a WebP",
    "BMP": "a BMP",
    "TIFF": "a TIFF",
    "PPM": "a PNM",
    "AVIF": "an AVIF",
}
PLUGINS = {
    "JPEG": "Jpeg",
    "PNG": "Png",
    "GIF": "Gif",
    "WEBP": "WebP",
    "BMP": "Bmp",
    "TIFF": "Tiff",
    "PPM": "Ppm",
    "AVIF": "Avif",
}
SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), "PPM"),
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    ".gif": "GIF",
    ".webp": "WEBP",
    ".avif": "AVIF",
}
MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF", "PDF", "a PDF document"),
    (b"%!PS", "EPS", "a PostScript (EPS) drawing"),
    (b"\xc5\xd0\xd3\xc6", "EPS", "a PostScript (EPS) drawing"),
    (b"8BPS", "PSD", "a Photoshop document"),
    (b"\0\0\0\x0cjP  ", "JPEG2000", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000", "a JPEG 2000"),
    (b"\xff\x0a", "JXL", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JXL", "a JPEG XL"),
    (b"PK\x03\x04", "ZIP", "a zip archive"),
    (b"PK\x05\x06", "ZIP", "a zip archive"),
    (b"\x1f\x8b", "GZIP", "a gzip archive"),
    (b"7z\xbc\xaf", "7Z", "a 7-zip archive"),
    (b"Rar!", "RAR", "a RAR archive"),
    (b"\0\0\x01\0", "ICO", "an icon"),
    (b"\x1aE\xdf\xa3", "MATROSKA", "a film"),
    (b"\x93NUMPY", "NPY", "a NumPy array"),
)
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def kind_of(head: bytes) -> Kind:
    """Tell what a file is from its first bytes (up to 4,096 are looked at)."""
    for magic, name in MAGIC:
        if head.startswith(magic):
            return Kind(name, READABLE[name], True)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _if_supported("WEBP")
    if head[:1] == b"P" and head[1:2] in b"123456fF" and head[2:3] in b" \t\r\n#" and len(head) > 2:
        return Kind("PPM", READABLE["PPM"], True)
    if head[4:8] == b"ftyp":
        brands = {head[at : at + 4] for at in (8, *range(16, min(int.from_bytes(head[:4], "big"), 256), 4))}
        if brands & {b"avif", b"avis"}:
            return _if_supported("AVIF")
        if brands & HEIF_BRANDS:
            return Kind("HEIC", "a HEIC, which is not read", fix="save it as JPEG (a phone does so when it shares it)")
        return Kind("MP4", "a film")
    for magic, name, what in FOREIGN:
        if head.startswith(magic):
            return Kind(name, what)
    return _text_or_unknown(head)


def kind_of_suffix(name: str) -> str | None:
    """Return the format that a name's suffix promises; None where it promises none."""
    return SUFFIXES.get(posixpath.splitext(name)[1].lower())


@cache
def load_plugin(name: str) -> None:
    """Register one of Pillow's decoders; asking Pillow for a format it has not met would load all forty."""
    importlib.import_module(f"PIL.{PLUGINS[name]}ImagePlugin")


@cache
def _if_supported(name: str) -> Kind:
    """Return the kind, readable only where this Pillow was built with its library."""
    supported = bool(features.check(name.lower()))
    return Kind(name, READABLE[name], supported, "save it as JPEG, or install a Pillow that reads it")


def _text_or_unknown(head: bytes) -> Kind:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg") or (start.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in start):
        return Kind("SVG", "an SVG drawing", fix="render it to PNG")
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return Kind("HTML", "a web page", fix="download the picture itself, not the page around it")
    if head and b"\0" not in head and sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head) == 0:
        try:
            head.decode("utf-8", "strict" if len(head) < 4090 else "ignore")
        except UnicodeDecodeError:
            pass
        else:
            return Kind("TEXT", "text")
    return Kind("UNKNOWN", "in no picture format that is read")
