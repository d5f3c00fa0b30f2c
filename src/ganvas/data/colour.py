"""Any colour model of Pillow to opaque 8-bit sRGB or grey: profiles, inks, 16-bit and float values, transparency."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageColor

STRIP_PIXELS = 4_000_000  # that are looked at at a time
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def ground(background: str, mode: str) -> Any:
    """Return a background such as "#ffffff" as Pillow takes it for a new image of mode "L" or "RGB"."""
    return ImageColor.getcolor(background, mode)


class Flattener:
    """Turns strips of one image into opaque sRGB ("RGB") or grey ("L"); `notes` collects what was changed.

    It is built from the whole image, so that what must be known of all of it (the range of float values, the
    profile) is the same in every strip. Raises ValueError for a mode that it cannot read.
    """

    def __init__(self, image: Image.Image, background: str) -> None:
        self._background = background
        self._profile: bytes | None = image.info.get("icc_profile") or None
        self._range: tuple[float, float] | None = None
        self._notes: dict[str, None] = {}  # ordered, and each note once
        if image.mode == "I" and image.format == "PPM":
            self._range = (0.0, 65535.0)  # Pillow stretches a 16-bit PNM to this
        elif image.mode in ("I", "F"):
            self._range = self._value_range(image)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def __call__(self, strip: Image.Image) -> Image.Image:
        """Return the strip as "L" or "RGB"."""
        mode = strip.mode
        if mode in SIXTEEN_BIT:
            wide = np.asarray(strip).astype(np.uint32)
            return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
        if self._range is not None:
            low, high = self._range
            values = np.nan_to_num(np.asarray(strip, dtype=np.float64), nan=low, posinf=high, neginf=low)
            unit = (values - low) / (high - low) if high > low else np.zeros_like(values)
            return Image.fromarray(np.rint(unit.clip(0, 1) * 255).astype(np.uint8))
        if mode == "LAB":
            return _lab_to_srgb(strip)
        if mode in ("La", "RGBa"):
            strip = strip.convert({"La": "LA", "RGBa": "RGBA"}[mode])
        elif mode in ("P", "PA") or "transparency" in strip.info:
            strip = strip.convert("RGBA" if strip.has_transparency_data else "RGB")
        if strip.mode in ("LA", "RGBA"):
            return self._opaque(strip)
        if strip.mode == "1":
            strip = strip.convert("L")
        if strip.mode in ("L", "RGB", "CMYK"):
            return self._srgb(strip)
        if strip.mode in ("YCbCr", "RGBX", "HSV"):
            return strip.convert("RGB")
        raise ValueError(f"colour mode {strip.mode} is not read")

    def _opaque(self, strip: Image.Image) -> Image.Image:
        """Composite "LA" or "RGBA" on the background, where it is transparent at all."""
        alpha = strip.getchannel("A")
        base = self._srgb(strip.convert(strip.mode[:-1]))
        if alpha.getextrema()[0] == 255:
            return base
        self._notes[f"it is transparent in places; put on a ground of {self._background}"] = None
        red, green, blue = ground(self._background, "RGB")
        if not red == green == blue:
            base = base.convert("RGB")
        under = Image.new(base.mode, base.size, ground(self._background, base.mode))
        under.paste(base, mask=alpha)
        return under

    def _srgb(self, strip: Image.Image) -> Image.Image:
        """Apply the embedded profile to "L", "RGB" or "CMYK"; without one, take the values as they are."""
        transform = _to_srgb(self._profile, strip.mode) if self._profile else None
        if isinstance(transform, str):
            self._notes[transform] = None
        elif transform is not None:
            return ImageCms.applyTransform(strip, transform) or strip
        return strip.convert("RGB") if strip.mode == "CMYK" else strip

    def _value_range(self, image: Image.Image) -> tuple[float, float]:
        """Choose which values become 0 and 255: [0, 1], [0, 255], or else the smallest and largest found."""
        low, high = float("inf"), float("-inf")
        rows = max(1, STRIP_PIXELS // image.width)  # a copy of all values would be the largest thing in memory
        for top in range(0, image.height, rows):
            values = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
            finite = values[np.isfinite(values)] if image.mode == "F" else values
            if finite.size:
                low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        if low > high:
            raise ValueError("none of its values is a number")
        self._notes[f"its values from {low:g} to {high:g} were rescaled to 8 bits"] = None
        if low >= 0 and high <= 1 and image.mode == "F":
            return 0.0, 1.0
        if low >= 0 and high <= 255:
            return 0.0, 255.0
        return low, high


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | str | None:
    """Build the transform of a profile to sRGB; None where there is nothing to do, a warning where it is unusable."""
    space = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[mode]
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != space:
            return "its colour profile is for another colour model; taken without it"
        if "sRGB" in (source.profile.profile_description or ""):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "its colour profile cannot be read; taken as sRGB"


def _lab_to_srgb(strip: Image.Image) -> Image.Image:
    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    converted = ImageCms.applyTransform(strip, transform)
    assert converted is not None  # only None when asked to work in place
    return converted
