"""Portraits drawn by rule: a seed and a style give one picture and the attributes that it shows.

The styles are JSON definitions that come with `dicebear-styles`; `dicebear-core` picks the parts and colours and writes
an SVG, `resvg` renders it. Every style has its own licence. Only those dedicated to the public domain (CC0) are used,
and that is read from the definition each time, so that a changed licence in a later version is noticed.
"""

from __future__ import annotations

import io
import json
import re
from functools import cache, lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import resvg_py
from dicebear import Style
from dicebear.options import Options
from dicebear.renderer import Renderer
from dicebear.resolver import Resolver
from PIL import Image

from ganvas.errors import SettingError, did_you_mean

# Chosen by looking at every CC0 style at 64 pixels: each head at one place, size and angle, in colour once a palette
# is given, filled shapes rather than lines alone.
DEFAULT_STYLE = "lorelei"

_CC0_NAME, _CC0_URL = "CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/"
_WHITE = "#ffffff"
_OTHERS = "lorelei, open-peeps and pixel-art are portraits in colour"

# Colours by name, so that an attribute reads "auburn" and not "#a8481f". They replace a style's own colours only where
# the style has that colour; a style without a background gets one of these.
_BACKGROUND = {
    "sky": "#b6e3f4",
    "lilac": "#c9b8ec",
    "periwinkle": "#d1d4f9",
    "rose": "#ffd5dc",
    "peach": "#ffe3c0",
    "mint": "#c7ecd0",
    "cream": "#f6eec2",
    "blue": "#8fc7e8",
}
_SKIN = {
    "porcelain": "#ffe0c2",
    "fair": "#f6cfa8",
    "beige": "#eab98a",
    "tan": "#d79a66",
    "brown": "#b97a4c",
    "deep": "#9a6240",
}
_HAIR = {
    "black": "#26222b",
    "dark brown": "#4a2c1c",
    "brown": "#7b4524",
    "auburn": "#a8481f",
    "golden": "#c98b3c",
    "blond": "#e8c96f",
    "grey": "#a6a6ae",
    "blue": "#3a4a86",
    "plum": "#7d3c6d",
}
_CLOTHES = {
    "red": "#e05a47",
    "orange": "#f2a33a",
    "yellow": "#f5d547",
    "green": "#4fae76",
    "teal": "#2f8f9d",
    "blue": "#3d6fd1",
    "violet": "#7a56c2",
    "pink": "#d9598c",
    "white": "#f4f4f4",
    "graphite": "#41464f",
}
_OUTLINE = {"dark": "#2a1f22"}
_PALETTES: dict[str, dict[str, dict[str, str]]] = {
    "lorelei": {
        "skin": _SKIN,
        "hair": _HAIR,
        "mouth": {"red": "#b3322f", "wine": "#8c2a2a"},
        "earrings": {"gold": "#f2c14e", "silver": "#e0e0e6"},
        "glasses": {"black": "#26222b", "red": "#7d2e2e", "blue": "#2d4d7d"},
        "hairAccessories": {"white": _WHITE},
        "eyebrows": _OUTLINE,
        "eyes": _OUTLINE,
        "freckles": _OUTLINE,
        "nose": _OUTLINE,
        "outline": _OUTLINE,
    },
    "open-peeps": {
        "skin": _SKIN,
        "clothing": _CLOTHES,
        "headContrast": _HAIR,
        # Hair and outlines are one colour in this style, so only dark ones keep a face readable.
        "ink": {"black": "#17141a", "brown": "#3a2216", "auburn": "#6b3413", "blue": "#2a3163", "plum": "#5a1f4f"},
    },
    "pixel-art": {"skin": _SKIN, "hair": _HAIR, "clothing": _CLOTHES},
}
# Lorelei leaves a broad margin; a head that fills the frame leaves more of its 64 pixels to the face.
_FRAMING: dict[str, dict[str, float]] = {"lorelei": {"scale": 1.22, "translateY": 3}, "open-peeps": {"scale": 1.08}}


def _folder() -> Traversable:
    return files("dicebear_styles")


def _definition(style: str) -> dict[str, Any]:
    definition: dict[str, Any] = json.loads(_folder().joinpath(f"{style}.json").read_text("utf-8"))
    return definition


def _is_cc0(definition: dict[str, Any]) -> bool:
    found = definition.get("meta", {}).get("license", {})
    return bool(found.get("name") == _CC0_NAME and found.get("url") == _CC0_URL)


def _needs_fonts(definition: dict[str, Any]) -> bool:
    """Tell whether a style writes letters: those would depend on the fonts of the machine."""
    return '"variable"' in json.dumps(definition)


@cache
def styles() -> tuple[str, ...]:
    """Return the names of all styles that may be used, sorted: licence CC0, and no letters in the picture."""
    names = sorted(entry.name.removesuffix(".json") for entry in _folder().iterdir() if entry.name.endswith(".json"))
    return tuple(name for name in names if _is_cc0(found := _definition(name)) and not _needs_fonts(found))


def licence(style: str = DEFAULT_STYLE) -> str:
    """Return one line: title, creator, source and licence of `style`, as its definition states them.

    Raises:
        SettingError: no such style, or its licence is not CC0.
    """
    meta = _checked(style)[1]["meta"]
    return (
        f"{meta['source']['name']} by {meta['creator']['name']} ({meta['source']['url']}), "
        f"{meta['license']['name']} ({meta['license']['url']})"
    )


@cache
def _checked(style: str) -> tuple[Style, dict[str, Any], Options]:
    """Return (parsed style, its JSON definition, the options it is drawn with), or raise SettingError."""
    try:
        definition = _definition(style) if re.fullmatch(r"[a-z0-9-]+", style) else None
    except FileNotFoundError:
        definition = None
    if definition is None:
        raise SettingError(f"style '{style}' does not exist{did_you_mean(style, styles())}; {_OTHERS}")
    if not _is_cc0(definition):
        found = definition.get("meta", {}).get("license", {}).get("name", "none stated")
        raise SettingError(
            f"style '{style}' has the licence '{found}', only {_CC0_NAME} is used"
            f"{did_you_mean(style, styles())}; {_OTHERS}"
        )
    if _needs_fonts(definition):
        raise SettingError(f"style '{style}' writes letters, which depend on this machine's fonts; use {DEFAULT_STYLE}")
    options: dict[str, Any] = {
        f"{name}Color": list(tones.values()) for name, tones in _palette(style, definition).items()
    }
    return Style(definition), definition, Options(options | _FRAMING.get(style, {}))


def _palette(style: str, definition: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return the colours by name with which we replace the style's own."""
    palette = _PALETTES.get(style, {})
    return palette if "background" in definition.get("colors", {}) else {"background": _BACKGROUND} | palette


@lru_cache(maxsize=8)  # a picture, its label and its attributes are usually asked for one after the other
def _drawn(seed: int, style: str) -> tuple[str, dict[str, str]]:
    """Return (SVG, attributes)."""
    if seed < 0:
        raise SettingError(f"seed {seed} is negative; a portrait's seed is 0 or more")
    parsed, definition, options = _checked(style)
    choices = _Choices(parsed, options, str(seed))
    svg = Renderer(parsed, choices).render()
    return svg, _named_choices(choices.resolved(), style, definition)


class _Choices(Resolver):
    """What `Avatar` picks for a seed, from options that were checked once: checking them again for each seed would
    take longer than drawing."""

    def __init__(self, style: Style, options: Options, seed: str) -> None:
        self._own_seed = seed
        super().__init__(style, options)

    def seed(self) -> str:
        return self._own_seed


def _named_choices(chosen: dict[str, Any], style: str, definition: dict[str, Any]) -> dict[str, str]:
    """Turn the choices that were made into {attribute: name}, with the same keys for every seed of a style.

    A part that is left out is "none", as is the colour of a part that is left out. Parts and colours with a single
    choice are no attributes.
    """
    palette = _palette(style, definition)
    named: dict[str, str] = {}
    components = definition["components"]
    for part, own_rule in components.items():
        rule = components[own_rule["extends"]] if "extends" in own_rule else own_rule
        weights = [variant.get("weight", 1) for variant in rule.get("variants", {}).values()]
        can_vary = sum(weight > 0 for weight in weights) > 1 or rule.get("probability", 100) < 100
        if can_vary and part != "animation":
            named[_snake(part)] = str(chosen.get(f"{part}Variant", "none"))
    own = {name: {tone: tone for tone in rule["values"]} for name, rule in definition.get("colors", {}).items()}
    for name, tones in (own | palette).items():
        if len(tones) > 1:
            tone = next(iter(chosen.get(f"{name}Color", [])), "none")
            named[f"{_snake(name)}_colour"] = {code: word for word, code in tones.items()}.get(tone, tone)
    return named


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def attributes(seed: int, style: str = DEFAULT_STYLE) -> dict[str, str]:
    """Return what the portrait of `seed` shows, without rendering it: the second value of `portrait`."""
    return dict(_drawn(seed, style)[1])


def portrait(seed: int, style: str = DEFAULT_STYLE, size: int = 64) -> tuple[bytes, dict[str, str]]:
    """Draw one portrait.

    Args:
        seed: 0 or more; the same seed, style and size give the same bytes in every process.
        style: one of `styles()`.
        size: side of the square picture in pixels, 8 to 2048.

    Returns:
        The PNG file (RGB, on a solid ground, padded to a square where the style is not square) and the attributes that
        it shows, for example `{"hair": "variant17", "hair_colour": "auburn", "glasses": "none", ...}`: parts by the
        style's own names, colours by ours or as `#rrggbb`.

    Raises:
        SettingError: no such style, a licence other than CC0, a negative seed, or a size outside the range.
    """
    if not 8 <= size <= 2048:
        raise SettingError(f"size {size} is outside 8 to 2048 pixels; 64 is the usual choice")
    svg, named = _drawn(seed, style)
    # No system fonts: a style without letters needs none, and searching them would cost more than drawing.
    rendered = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background=_WHITE, skip_system_fonts=True)
    with Image.open(io.BytesIO(rendered)) as opened:
        picture = opened.convert("RGB")
    if picture.size != (size, size):
        square = Image.new("RGB", (size, size), picture.getpixel((0, 0)))
        square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
        picture = square
    written = io.BytesIO()
    picture.save(written, "png")
    return written.getvalue(), dict(named)
