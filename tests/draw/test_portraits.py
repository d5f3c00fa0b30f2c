"""Portraits by rule: the same seed is the same file everywhere, attributes tell the truth, only CC0 is drawn."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
from dicebear import Avatar
from PIL import Image

from ganvas.draw import DEFAULT_STYLE, attributes, licence, portrait, portraits, styles
from ganvas.errors import SettingError


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_same_bytes_for_the_same_seed_in_another_process() -> None:
    here = {
        f"{style}/{seed}": portrait(seed, style) for style in (DEFAULT_STYLE, "pixel-art") for seed in (0, 7, 123456)
    }
    program = (
        "import hashlib, json; from ganvas.draw import portrait\n"
        "print(json.dumps({f'{style}/{seed}': [hashlib.sha256((got := portrait(seed, style))[0]).hexdigest(), got[1]]"
        " for style in ('lorelei', 'pixel-art') for seed in (123456, 7, 0)}))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    there = json.loads(answer.stdout)
    assert there == {key: [hashlib.sha256(data).hexdigest(), named] for key, (data, named) in here.items()}


@pytest.mark.parametrize("style", ["lorelei", "open-peeps", "voxel-art"])
def test_draws_what_the_library_s_own_entry_draws(style: str) -> None:
    parsed, definition, _ = portraits._checked(style)
    given = {f"{name}Color": list(tones.values()) for name, tones in portraits._palette(style, definition).items()}
    for seed in (0, 3, 99):
        given |= {"seed": str(seed), **portraits._FRAMING.get(style, {})}
        assert portraits._drawn(seed, style)[0] == Avatar(parsed, given).to_string()


@pytest.mark.parametrize("size", [8, 64, 100])
def test_is_an_rgb_square_on_a_solid_ground(size: int) -> None:
    opened = Image.open(io.BytesIO(portrait(1, size=size)[0]))
    assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", (size, size))


def test_background_attribute_is_the_colour_in_the_corner() -> None:
    palette = portraits._BACKGROUND
    for seed in range(20):
        data, named = portrait(seed)
        assert "#{:02x}{:02x}{:02x}".format(*pixels(data)[0, 0]) == palette[named["background_colour"]]


def test_skin_and_hair_attributes_are_colours_that_the_picture_holds() -> None:
    for seed in range(20):
        data, named = portrait(seed, size=128)
        seen = Counter(map(tuple, pixels(data).reshape(-1, 3).tolist()))
        for part, palette in (("skin", portraits._SKIN), ("hair", portraits._HAIR)):
            colour = palette[named[f"{part}_colour"]].lstrip("#")
            assert seen[tuple(bytes.fromhex(colour))] > 0, (seed, part)


def test_attributes_have_the_same_keys_for_every_seed_and_need_no_rendering() -> None:
    keys = {tuple(attributes(seed)) for seed in range(200)}
    assert len(keys) == 1
    assert {"hair", "eyes", "mouth", "skin_colour", "background_colour"} <= set(keys.pop())
    assert attributes(5) == portrait(5)[1]


def test_choices_are_balanced_and_accessories_keep_the_style_s_probability() -> None:
    found = [attributes(seed) for seed in range(600)]
    skins = Counter(one["skin_colour"] for one in found)
    assert set(skins) == set(portraits._SKIN)
    # Six skins: 100 each, standard deviation sqrt(600 * 1/6 * 5/6) = 9.1; five of them is far beyond chance.
    assert all(abs(count - 100) < 46 for count in skins.values())
    # Lorelei draws glasses at 10 %: 60, standard deviation 7.3.
    assert abs(sum(one["glasses"] != "none" for one in found) - 60) < 37
    assert len({json.dumps(one) for one in found}) == 600


def test_every_style_on_offer_is_cc0_and_draws_something_that_varies() -> None:
    assert DEFAULT_STYLE in styles()
    for style in styles():
        definition = json.loads(files("dicebear_styles").joinpath(f"{style}.json").read_text("utf-8"))
        assert definition["meta"]["license"]["name"] == "CC0 1.0"
    for style in styles()[::3]:  # drawing all of them would take most of the time of these tests
        drawn = {portrait(seed, style, 16)[0] for seed in range(2)}
        assert len(drawn) > 1, style
        assert all(pixels(data).std() > 0 for data in drawn), style


def test_licence_names_title_creator_source_and_licence() -> None:
    line = licence("open-peeps")
    for word in ("Open Peeps", "Pablo Stanley", "https://www.openpeeps.com/", "CC0 1.0"):
        assert word in line


@pytest.mark.parametrize("style", ["adventurer", "avataaars", "icons"])
def test_a_style_with_another_licence_is_refused(style: str) -> None:
    for act in (portrait, attributes):
        with pytest.raises(SettingError, match=r"licence '.+', only CC0") as caught:
            act(0, style)
        assert "\n" not in str(caught.value)
    assert style not in styles()


def test_the_licence_is_read_from_the_definition_not_from_a_list_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    definition = portraits._definition("lorelei")
    definition["meta"]["license"]["name"] = "CC BY 4.0"
    monkeypatch.setattr(portraits, "_definition", lambda style: definition)
    for cached in (portraits._checked, portraits.styles):
        cached.cache_clear()
    try:
        with pytest.raises(SettingError, match=r"CC BY 4\.0"):
            portrait(0, "lorelei")
    finally:
        monkeypatch.undo()
        for cached in (portraits._checked, portraits.styles):
            cached.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"style": "lorelai"}, "did you mean 'lorelei'"),
        ({"style": "../lorelei"}, "does not exist"),
        ({"style": "initials"}, "fonts"),
        ({"seed": -1}, "negative"),
        ({"size": 7}, "8 to 2048"),
        ({"size": 4096}, "8 to 2048"),
    ],
)
def test_bad_input_is_one_line(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        portrait(**({"seed": 0} | arguments))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
