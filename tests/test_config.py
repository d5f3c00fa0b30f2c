"""Settings: every one described, checked at once, and the same after a trip through JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ganvas.config import (
    BUDGETS,
    GROUPS,
    MAX_SIDE,
    MIN_SIDE,
    PRESETS,
    DataSettings,
    NetworkSettings,
    ObjectiveSettings,
    RunConfig,
    TrainingSettings,
    group_settings,
    make_config,
    parse_size,
)
from ganvas.errors import SettingError

SETTINGS = {
    "data": DataSettings,
    "network": NetworkSettings,
    "objective": ObjectiveSettings,
    "training": TrainingSettings,
}
SIDES = st.integers(MIN_SIDE // 8, MAX_SIDE // 8).map(lambda n: 8 * n)
CONFIGS = st.builds(
    lambda size, preset, minutes, batch, seed, gamma, flip: make_config(
        "photos/ñ",
        preset,
        data={"size": size, "flip": flip},
        objective={"gamma": gamma},
        training={"minutes": minutes, "batch": batch, "seed": seed},
    ),
    size=st.none() | st.tuples(SIDES, SIDES),
    preset=st.sampled_from(sorted(PRESETS)),
    minutes=st.none() | st.floats(0.001, 1e6),
    batch=st.none() | st.integers(2, 65536),
    seed=st.integers(0, 2**32 - 1),
    gamma=st.none() | st.floats(0, 1e6),
    flip=st.sampled_from([None, True, False]),
)


@given(config=CONFIGS)
def test_a_configuration_survives_json(config: RunConfig) -> None:
    text = json.dumps(config.model_dump(mode="json"), allow_nan=False)
    assert RunConfig.model_validate(json.loads(text)) == config
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_every_setting_is_described_and_belongs_to_one_group() -> None:
    names: list[str] = []
    for group, kind in SETTINGS.items():
        for name, field in kind.model_fields.items():
            assert field.description and field.description.endswith("."), f"{group}.{name}"
            assert "\n" not in field.description
            names.append(name)
    assert len(names) == len(set(names)), "the command line knows them by name alone"
    assert set(RunConfig.model_fields) == {*GROUPS, "version", "source", "preset"}
    assert all(RunConfig.model_fields[group].annotation is kind for group, kind in SETTINGS.items())


def test_settings_are_sorted_by_their_group() -> None:
    flat = {name: None for kind in SETTINGS.values() for name in kind.model_fields}
    grouped = group_settings(flat)
    assert {group: set(names) for group, names in grouped.items()} == {
        group: set(kind.model_fields) for group, kind in SETTINGS.items()
    }


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError):
        make_config("x").training.batch = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        ({"batsh": 4}, "setting 'batsh' is unknown (did you mean 'batch'?)"),
        ({"learning-rate": 4}, "did you mean 'learning_rate'?"),
        ({"xyzzy": 4}, "setting 'xyzzy' is unknown"),
    ],
)
def test_an_unknown_setting_is_refused_with_what_is_close(flat: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError) as caught:
        group_settings(flat)
    assert words in str(caught.value)
    with pytest.raises(SettingError) as caught:
        make_config("x", training=flat)
    assert "is unknown" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("training", "batch", 0), ("training", "batch", 1), ("training", "batch", "many"), ("training", "minutes", 0),
        ("training", "minutes", float("nan")), ("training", "minutes", float("inf")), ("training", "images", -1),
        ("training", "learning_rate", 2.0), ("training", "beta1", 1.0), ("training", "beta2", 0.0),
        ("training", "seed", -1), ("training", "seed", 2**32), ("training", "device", "tpu"),
        ("training", "precision", "fp8"), ("training", "threads", 0), ("training", "frames", 0),
        ("data", "size", 17), ("data", "size", "64 by 64"), ("data", "fit", "squash"), ("data", "count", 0),
        ("data", "background", "red"), ("data", "max_megapixels", 0), ("network", "width", 4),
        ("network", "z_dim", 1), ("objective", "gamma", -1), ("objective", "penalty_every", 0),
    ],
)  # fmt: skip
def test_a_bad_value_names_the_setting_the_value_and_the_rule(group: str, name: str, value: object) -> None:
    with pytest.raises(SettingError) as caught:
        make_config("x", **{group: {name: value}})
    line = str(caught.value)
    assert line.startswith(f"{name.replace('_', '-')} = {value!r}: ") and "\n" not in line
    assert len(line) > len(f"{name} = {value!r}: ") + 10


@given(height=SIDES, width=SIDES)
def test_sizes_are_read_as_height_by_width(height: int, width: int) -> None:
    for written in (
        f"{height}x{width}",
        f" {height} × {width} ",
        f"{height}X{width}",
        (height, width),
        [height, width],
    ):
        assert parse_size(written) == (height, width)
    assert parse_size(height) == parse_size(str(height)) == (height, height)


@given(
    value=st.text(max_size=10)
    | st.integers()
    | st.booleans()
    | st.none()
    | st.lists(st.integers(), max_size=4)
    | st.floats()
)
def test_any_size_is_read_or_refused(value: object) -> None:
    try:
        height, width = parse_size(value)
    except ValueError:
        return
    assert all(MIN_SIDE <= side <= MAX_SIDE and side % 8 == 0 for side in (height, width))


@given(side=st.integers(MIN_SIDE, MAX_SIDE).filter(lambda n: n % 8))
def test_the_next_size_is_offered_and_allowed(side: int) -> None:
    with pytest.raises(ValueError) as caught:
        parse_size(side)
    offered = int(str(caught.value).rsplit(" ", 1)[1])
    assert parse_size(offered) == (offered, offered) and abs(offered - side) <= 8


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_fill_in_and_give_way(preset: str) -> None:
    plain = make_config("x", preset)
    for group, row in PRESETS[preset].items():
        for name, value in row.items():
            assert getattr(getattr(plain, group), name) == value
    assert make_config("x", preset, training={"beta1": 0.25}).training.beta1 == 0.25


def test_the_dcgan_preset_is_the_published_recipe() -> None:
    """Radford et al. 2016, section 4, and DCGAN-Tensorflow's flags."""
    config = make_config("x", "dcgan")
    assert config.network.network == "dcgan" and config.objective.objective == "non-saturating"
    assert config.objective.penalty == "none" and config.training.ema_images == 0
    settings = config.training
    assert (settings.learning_rate, settings.beta1, settings.batch, settings.epochs) == (2e-4, 0.5, 64, 20)


def test_a_preset_that_is_not_there() -> None:
    with pytest.raises(SettingError, match=r"preset 'dcgna' is unknown \(did you mean 'dcgan'\?\)"):
        make_config("x", "dcgna")


@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_replaces_the_presets(name: str) -> None:
    settings = make_config("x", "dcgan", training={name: 7}).training
    assert {each: getattr(settings, each) for each in BUDGETS} == {
        each: 7 if each == name else None for each in BUDGETS
    }
