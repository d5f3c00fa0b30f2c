"""Every kind of good, odd and bad picture file, made in memory: name -> bytes. Shared by tests of bad input."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageCms, features

SIDE = 48


def colours(height: int = SIDE, width: int = 64) -> np.ndarray:
    """A smooth uint8 [H, W, 3] picture in which every corner and channel differs."""
    y, x = np.mgrid[0:height, 0:width]
    planes = (255 * x / (width - 1), 255 * y / (height - 1), 255 * (x + y) / (height + width - 2))
    return np.stack(planes, axis=-1).astype(np.uint8)


def encode(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    """Return a picture (or its uint8 pixels) as a file of Pillow's format `kind`."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(
    width: int, height: int, *, depth: int = 8, colour: int = 2, rows: bytes = b"", extra: bytes = b""
) -> bytes:
    """A PNG put together chunk by chunk, so that its parts may contradict each other; `rows` are unpacked IDAT."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(rows, 9)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def rgb16_png() -> bytes:
    """A PNG of 16 bits a channel: `colours()` with every value times 257."""
    wide = colours().astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    return raw_png(wide.shape[1], wide.shape[0], depth=16, rows=rows)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def cmyk() -> Image.Image:
    return Image.fromarray(colours()).convert("CMYK")


def lab() -> Image.Image:
    """`colours()` as CIE L*a*b*."""
    made = ImageCms.profileToProfile(
        Image.fromarray(colours()), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert made is not None
    return made


def plain_cmyk() -> bytes:
    """A CMYK JPEG that is not inverted and has no Adobe marker."""
    inks = cmyk()
    inverted = Image.frombytes("CMYK", inks.size, bytes(255 - value for value in inks.tobytes()))
    return without_adobe_marker(encode(inverted, "JPEG"))


def pnm(largest: int) -> bytes:
    """`colours()` as a binary PPM with values from 0 to `largest`, and a comment in its header."""
    values = np.rint(colours() / 255 * largest).astype(np.uint8 if largest < 256 else ">u2")
    height, width = values.shape[:2]
    return b"P6 # by hand\n%d %d\n%d\n" % (width, height, largest) + values.tobytes()


def webp_canvas(side: int) -> bytes:
    """An animated WebP of two frames of 16x16 pixels on a canvas that says to be `side` pixels wide and high."""

    def three(value: int) -> bytes:
        return struct.pack("<I", value)[:3]

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data

    frame = bytes(6) + three(15) * 2 + three(100) + b"\0" + encode(colours(16, 16), "WEBP")[12:]
    body = chunk(b"VP8X", b"\x02\0\0\0" + three(side - 1) * 2) + chunk(b"ANIM", bytes(6))
    body += chunk(b"ANMF", frame) * 2
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def odd_tiff() -> bytes:
    """A TIFF of six 8-bit inks a pixel, which is a valid file and no picture that anybody shows."""
    entries = (
        (256, 3, 8),
        (257, 3, 8),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 5),
        (273, 4, 200),
        (277, 3, 6),
        (279, 4, 384),
    )
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return (b"II*\0" + struct.pack("<I", 8) + directory + bytes(4)).ljust(200, b"\0") + bytes(384)


def without_adobe_marker(jpeg: bytes) -> bytes:
    """Cut the APP14 segment out of a JPEG."""
    at = jpeg.index(b"\xff\xee")
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]


def p3_profile() -> bytes:
    """An ICC profile with Display P3's primaries and sRGB's curve: sRGB's own, its colourants and name replaced."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # Colourants of Display P3 adapted to D50 (X, Y, Z), from Apple's published profile.
    primaries = {
        b"rXYZ": (0.51512, 0.2412, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.1571, 0.06657, 0.78407),
    }
    for index in range(int.from_bytes(profile[128:132], "big")):
        entry = 132 + 12 * index
        name, offset, size = struct.unpack(">4sII", profile[entry : entry + 12])
        if name in primaries:
            values = [round(value * 65536) for value in primaries[name]]
            profile[offset + 8 : offset + 20] = struct.pack(">3i", *values)
        if name == b"desc":
            text = bytes(profile[offset : offset + size])
            profile[offset : offset + size] = text.replace("sRGB".encode("utf-16-be"), "P3__".encode("utf-16-be"))
    return bytes(profile)


@cache
def good() -> dict[str, bytes]:
    """Files that are accepted without a word."""
    pixels, image = colours(), Image.fromarray(colours())
    files = {
        "rgb.jpg": encode(pixels, "JPEG"),
        "progressive.jpg": encode(pixels, "JPEG", progressive=True),
        "rgb.png": encode(pixels, "PNG"),
        "rgb.webp": encode(pixels, "WEBP", lossless=True),
        "rgb.bmp": encode(pixels, "BMP"),
        "rgb.tiff": encode(pixels, "TIFF"),
        "lzw.tif": encode(pixels, "TIFF", compression="tiff_lzw"),
        "rgb.ppm": encode(pixels, "PPM"),
        "palette.gif": encode(image.quantize(32), "GIF"),
        "palette.png": encode(image.quantize(32), "PNG"),
        "one-bit.png": encode(image.convert("1"), "PNG"),
        "grey.jpg": encode(image.convert("L"), "JPEG"),
        "opaque.png": encode(image.convert("RGBA"), "PNG"),
        "opaque-grey-alpha.png": encode(image.convert("LA"), "PNG"),
        "cmyk.jpg": encode(cmyk(), "JPEG"),
        "cmyk-not-adobe.jpg": plain_cmyk(),
        "cmyk.tif": encode(cmyk(), "TIFF"),
        "lab.tif": encode(lab(), "TIFF"),
        "p3.png": encode(pixels, "PNG", icc_profile=p3_profile()),
        "grey16.png": encode((pixels[..., 0].astype(np.uint16) * 257), "PNG"),
        "rgb16.png": rgb16_png(),
        "rgb16.ppm": pnm(65535),
        "rgb10.ppm": pnm(1023),
        "rgb7.ppm": pnm(127),
        "ycbcr.tif": encode(image.convert("YCbCr"), "TIFF"),
        "1x1.png": encode(pixels[:1, :1], "PNG"),
        "снимок 写真 📷.png": encode(pixels, "PNG"),
        "n" * 251 + ".png": encode(pixels, "PNG"),
        "no-suffix": encode(pixels, "PNG"),
    }
    if features.check("avif"):
        files["rgb.avif"] = encode(pixels, "AVIF")
    return files | {f"exif{value}.jpg": encode(pixels, "JPEG", exif=exif(value)) for value in range(2, 9)}


@cache
def odd() -> dict[str, bytes]:
    """Files that are used with a warning."""
    pixels, image = colours(), Image.fromarray(colours())
    clear = image.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    frames = [image, image.rotate(90), image.rotate(180)]
    return {
        "no-iend.png": encode(pixels, "PNG")[:-12],
        "animated.gif": encode(image, "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": encode(image, "WEBP", save_all=True, append_images=frames[1:]),
        "animated.png": encode(image, "PNG", save_all=True, append_images=frames[1:]),
        "pages.tif": encode(image, "TIFF", save_all=True, append_images=frames[1:]),
        "float.tif": encode(Image.fromarray((pixels[..., 0] / 255).astype(np.float32)), "TIFF"),
        "int32.tif": encode(Image.fromarray(pixels[..., 0].astype(np.int32) * 1000), "TIFF"),
        "alpha.png": encode(clear, "PNG"),
        "grey-alpha.png": encode(clear.convert("LA"), "PNG"),
        "alpha.webp": encode(clear, "WEBP", lossless=True),
        "transparent-colour.png": encode(image.convert("L"), "PNG", transparency=0),
        "a-png.jpg": encode(pixels, "PNG"),
        "a-jpeg.png": encode(pixels, "JPEG"),
        "broken-profile.png": encode(pixels, "PNG", icc_profile=b"no profile at all" * 20),
    }


@cache
def bad() -> dict[str, tuple[bytes, str]]:
    """Files that are set aside: bytes, and a word that the reason must contain."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, 64, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    gif, webp = encode(image.quantize(64), "GIF"), encode(pixels, "WEBP", quality=90)
    jpeg, png, tiff = encode(pixels, "JPEG"), encode(pixels, "PNG"), encode(pixels, "TIFF")
    text_bomb = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 80_000_000, 9))
    damaged = bytearray(png)
    damaged[len(damaged) // 2] ^= 1
    heic = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + b"\0" * 200
    return {
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"these are not pixels\n" * 20, "text"),
        "page.jpg": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "web page"),
        "noise.jpg": (np.random.default_rng(1).bytes(5000), "no picture format"),
        "zeros.jpg": (bytes(5000), "no picture format"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "half-progressive.jpg": ((p := encode(pixels, "JPEG", progressive=True))[: len(p) // 2], "truncated"),
        "half.png": (png[: len(png) // 2], "truncated"),
        "half.webp": (webp[: len(webp) // 2], "truncated"),
        "half.gif": (gif[: len(gif) // 2], "truncated"),
        "half.tif": (tiff[: len(tiff) // 2], "truncated"),
        "header-only.png": (png[:33], "PNG"),
        "magic-only.jpg": (jpeg[:3], "JPEG"),
        "damaged.png": (bytes(damaged), "checksum"),
        "12000.png": (raw_png(12000, 12000, depth=1, colour=0, rows=bytes(12000 * 1501)), "megapixels"),
        "60000.png": (raw_png(60000, 60000, rows=bytes(1000)), "cap"),
        "little-idat.png": (raw_png(7000, 7000, rows=bytes(1000)), "truncated"),
        "text-bomb.png": (raw_png(4, 4, rows=bytes(52), extra=text_bomb), "bomb"),
        "0x0.png": (raw_png(0, 0), "PNG"),
        "0x0.gif": (b"GIF89a" + bytes(7) + b";", "GIF"),
        "thin.png": (raw_png(70_000, 4, rows=bytes(4 * (1 + 3 * 70_000))), "side"),
        "canvas.webp": (webp_canvas(8000), "megapixels"),
        "written-out.ppm": (b"P3 900 700 255\n" + b"7 " * (900 * 700 * 3), "slowly"),
        "half.ppm": (pnm(65535)[:9000], "truncated"),
        "six-inks.tif": (odd_tiff(), "TIFF"),
        "scans.jpg": (jpeg + b"\xff\xda" * 200, "scans"),
        "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>', "SVG"),
        "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "PostScript"),
        "document.pdf": (b"%PDF-1.7\n1 0 obj\n", "PDF"),
        "eps-named.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        "phone.heic": (heic, "HEIC"),
        "film.jpg": (b"\0\0\0\x18ftypisom\0\0\0\0isomavc1" + bytes(200), "film"),
        "photoshop.psd": (b"8BPS\0\x01" + bytes(100), "Photoshop"),
        "archive.jpg": (b"PK\x03\x04" + bytes(100), "zip"),
        "float-nan.tif": (encode(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"), "number"),
    }


def gradient(mode: str, width: int = 8000, height: int = 8000) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert(mode)


def _scaled(kind: type, factor: float) -> Image.Image:
    return Image.fromarray(np.asarray(gradient("L")).astype(kind) * kind(factor))


def _many_scans() -> bytes:
    """A progressive JPEG whose first scan comes 90 times: valid, and a pass over 64 megapixels each."""
    jpeg = encode(gradient("RGB"), "JPEG", progressive=True)
    first = jpeg.index(b"\xff\xda")
    second = jpeg.index(b"\xff\xda", first + 2)
    return jpeg[:first] + jpeg[first:second] * 90 + jpeg[second:]


def _runs_of_one() -> bytes:
    """A BMP of 4000 x 4000 pixels, each a run of its own."""
    body = (b"\x01\x07" * 4000 + b"\0\0") * 4000 + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, 4000, 4000, 1, 8, 1, len(body), 0, 0, 256, 0) + bytes(1024)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body


# As large as the cap allows, or beyond in a way of their own: name -> (maker, answer, a word of the reason). Made when
# asked for: together they take a minute and a gigabyte.
LARGE: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "64-rgb.jpg": (lambda: encode(gradient("RGB"), "JPEG"), "accepted", ""),
    "64-progressive.jpg": (lambda: encode(gradient("RGB"), "JPEG", progressive=True, exif=exif(6)), "accepted", ""),
    "64-cmyk.jpg": (lambda: encode(gradient("CMYK"), "JPEG"), "accepted", ""),
    "64-thin.jpg": (lambda: encode(gradient("RGB", 65_000, 980), "JPEG", progressive=True), "accepted", ""),
    "64-rgba.png": (lambda: encode(gradient("RGBA"), "PNG", compress_level=1, exif=exif(5)), "accepted", ""),
    "64-grey-alpha.png": (lambda: encode(gradient("LA"), "PNG", compress_level=1), "accepted", ""),
    "64-p3.png": (lambda: encode(gradient("RGB"), "PNG", compress_level=1, icc_profile=p3_profile()), "accepted", ""),
    "64-rgba16.png": (lambda: raw_png(8000, 8000, depth=16, colour=6, rows=bytes(8000 * 64001)), "warned", ""),
    "64-grey16.png": (lambda: encode(_scaled(np.uint16, 257), "PNG", compress_level=1), "accepted", ""),
    "64-palette.gif": (lambda: encode(gradient("P"), "GIF"), "accepted", ""),
    "64-rgb.bmp": (lambda: encode(gradient("RGB"), "BMP"), "accepted", ""),
    "64-cmyk.tif": (lambda: encode(gradient("CMYK"), "TIFF", compression="tiff_lzw"), "accepted", ""),
    "64-float.tif": (lambda: encode(_scaled(np.float32, 1 / 255), "TIFF", compression="tiff_lzw"), "warned", ""),
    "64-int32.tif": (lambda: encode(_scaled(np.int32, 1000), "TIFF", compression="tiff_lzw"), "warned", ""),
    "64-rgb.ppm": (lambda: b"P6 8000 8000 255\n" + bytes(192_000_000), "accepted", ""),
    "64-rgb7.ppm": (lambda: b"P6 8000 8000 127\n" + bytes(192_000_000), "accepted", ""),
    "33-rgb16.ppm": (lambda: b"P6 5700 5700 65535\n" + bytes(5700 * 5700 * 6), "accepted", ""),
    "47-float.pfm": (lambda: b"Pf 6900 6900 -1.0\n" + bytes(6900 * 6900 * 4), "warned", ""),
    "21-rgb.webp": (lambda: encode(gradient("RGB", 4600, 4600), "WEBP", lossless=True, method=0), "accepted", ""),
    "64-rgb.webp": (lambda: webp_canvas(8000), "set aside", "megapixels"),
    "64-many-scans.jpg": (_many_scans, "set aside", "scans"),
    "16-runs-of-one.bmp": (_runs_of_one, "set aside", "slowly"),
    "64-written-out.pgm": (lambda: b"P2 8000 8000 255\n" + b"0 " * 64_000_000, "set aside", "slowly"),
    "64-million-wide.png": (lambda: raw_png(1_000_000, 64, rows=bytes(64 * 3_000_001)), "set aside", "side"),
}
if features.check("avif"):
    LARGE["21-rgb.avif"] = (lambda: encode(gradient("RGB", 4600, 4600), "AVIF", speed=10), "accepted", "")
