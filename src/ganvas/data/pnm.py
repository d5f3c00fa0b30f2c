"""PNM pictures whose values go to another number than 255, brought to 8 bits at once.

Pillow reads them value by value in Python: minutes for what a camera's converter writes in 16 bits.
"""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

BLOCK = 4_000_000  # values that are scaled at a time, so that wide copies of them stay small

_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"  # netpbm's pgm(5) and ppm(5): a comment may stand before each number
_HEADER = re.compile(rb"P([56])" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,5})\s")


def scaled(data: bytes) -> Image.Image | None:
    """A binary PGM ("L") or PPM ("RGB") with values up to another number m than 255; None for any other file.

    Values are rounded to the nearest: `(255 v + m // 2) // m`, those above m taken for m. Raises ValueError where the
    file is cut off; so what is allocated is in proportion to the file.
    """
    header = _HEADER.match(data[:4096])
    if header is None:
        return None
    magic, width, height, largest = (int(number) for number in header.groups())
    if largest == 255 or not 1 <= largest <= 65535 or width < 1 or height < 1:
        return None
    bands = 3 if magic == 6 else 1
    kind = np.dtype(np.uint8) if largest < 256 else np.dtype(">u2")
    if width * height * bands * kind.itemsize > len(data) - header.end():
        raise ValueError("the file is truncated")
    stored = np.frombuffer(data, kind, width * height * bands, header.end()).reshape(height, width, bands)
    image = Image.new("RGB" if bands == 3 else "L", (width, height))
    rows = max(1, BLOCK // (width * bands))
    for top in range(0, height, rows):
        values = np.minimum(stored[top : top + rows], largest).astype(np.uint32)
        pixels = ((values * 255 + largest // 2) // largest).astype(np.uint8)
        image.paste(Image.fromarray(pixels if bands == 3 else pixels[..., 0]), (0, top))
    return image
