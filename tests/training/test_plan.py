"""The plan: what was asked stays, what was not is filled in with a reason, and what cannot be is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganvas.config import DEFAULT_MINUTES, PRESETS, RunConfig, group_settings, make_config
from ganvas.data.cache import Dataset, prepare
from ganvas.data.source import open_source
from ganvas.errors import SettingError
from ganvas.networks import FAMILIES
from ganvas.runtime import Machine
from ganvas.training.augment import MOST
from ganvas.training.plan import (
    PLAIN,
    default_augmentation,
    default_gamma,
    default_interval,
    derive,
    describe_budget,
    images_budget,
    measure,
    plain_share,
)

DEVICES = "cpu", "cuda"
MACHINE = Machine("cpu", torch.float32, 1, "for a test")


@pytest.fixture(scope="module")
def dataset(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(open_source(pictures), make_config("x", data={"size": 32}).data, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def labelled(classed: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    settings = make_config("x", data={"size": 32, "classes": True}).data
    return prepare(open_source(classed), settings, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_everything_is_settled_and_explained(dataset: Dataset, preset: str) -> None:
    # What is asked of the pictures, other than here, reaches them when they are prepared.
    asked = make_config("discs", preset, data={"size": 32, "fit": "crop", "flip": None})
    plan = derive(asked, dataset, MACHINE)
    for group in ("data", "network", "objective", "training"):
        for name, value in getattr(plan.config, group):
            before = getattr(getattr(asked, group), name)
            if before is not None:
                assert value == before, f"{name} was asked for"
            optional = {"minutes", "images", "epochs", "count", "workers", "gamma", "ema_images", "metric"}
            optional |= {"patch"} if preset == "dcgan" else set()
            assert value is not None or name in optional, name
    assert plan.config.objective.penalty == "none" or plan.config.objective.gamma is not None
    assert plan.channels == 3 and plan.classes == () and plan.pictures == len(dataset.train)
    for name in ("precision", "flip", "channels", "z_dim", "penalty_every"):
        assert plan.reasons[name] and "\n" not in plan.reasons[name]
    assert derive(plan.config, dataset, MACHINE).config == plan.config, "settled once, settled for good"


def test_what_was_asked_for_has_no_reason(dataset: Dataset, tiny: dict[str, Any]) -> None:
    asked = make_config("discs", data={"size": 32}, network={"width": 8, "z_dim": 16}, training={"batch": 4})
    plan = derive(asked, dataset, MACHINE)
    assert {"width", "z_dim", "batch"}.isdisjoint(plan.reasons)
    assert "32x32 on a cpu" in plan.reasons["patch"], "what was not asked for says what it was derived from"
    assert (plan.config.network.width, plan.config.network.z_dim, plan.config.training.batch) == (8, 16, 4)


def test_a_budget_is_always_there(dataset: Dataset) -> None:
    assert derive(make_config("discs", data={"size": 32}), dataset, MACHINE).config.training.minutes == DEFAULT_MINUTES
    for budget in ({"images": 100}, {"epochs": 2.0}):
        settings = derive(make_config("d", data={"size": 32}, training=budget), dataset, MACHINE).config.training
        assert settings.minutes is None


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"network": {"network": "stile"}}, ["stile", "did you mean 'style'"]),
        ({"objective": {"objective": "hing"}}, ["hing", "did you mean 'hinge'"]),
        ({"objective": {"penalty": "r3"}}, ["r3", "r1+r2"]),
    ],
)
def test_unknown_names_are_refused_in_one_line(dataset: Dataset, groups: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        derive(make_config("discs", data={"size": 32}, **groups), dataset, MACHINE)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_classes_need_a_network_that_learns_them(labelled: Dataset) -> None:
    data = {"size": 32, "classes": True}
    plan = derive(make_config("classed", data=data), labelled, MACHINE)
    assert plan.classes == ("early", "late")
    with pytest.raises(SettingError, match="dcgan does not learn classes"):
        derive(make_config("classed", "dcgan", data=data), labelled, MACHINE)


def test_the_penalty_is_weighed_by_what_it_sums_over() -> None:
    """R1 and R2 sum over pixels, so their weight grows with them; wgan-gp has its paper's 10 at any size."""
    for name in ("r1", "r2", "r1+r2", "finite-difference"):
        small, large = (default_gamma(name, side**2) for side in (64, 256))
        assert small and large and 0 < small < large
    assert default_gamma("wgan-gp", 1) == default_gamma("wgan-gp", 10**6, growing=True) == 10.0
    assert default_gamma("none", 64 * 64) is None
    assert default_interval("wgan-gp") == 1


def test_drawings_get_far_more_of_the_penalty_than_photographs_and_small_batches(dataset: Dataset) -> None:
    random = np.random.default_rng(0)
    photograph = random.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    drawing = np.full_like(photograph, 40)
    drawing[:, 8:20, 8:20] = photograph[:, 8:20, 8:20]
    assert plain_share(photograph[0]) < 0.01 and plain_share(drawing[0]) > PLAIN
    for images, gamma in ((photograph, 0.075), (drawing, 2.5)):
        plan = derive(make_config("d"), replace(dataset, images=images, train=np.arange(4)), MACHINE)
        assert plan.config.objective.gamma == gamma
        assert ("plain areas" in plan.reasons["gamma"]) == (gamma > 1)
        assert ("where the batch grows" in plan.reasons["gamma"]) == (gamma < 1)
        training = plan.config.training
        found = training.first_batch, training.batch, training.anneal, training.learning_rate, training.clip
        assert found == ((16, 16, 0.1, 0.01, 0.0) if gamma > 1 else (16, 64, 0.25, 0.0125, 1.0))
    published = derive(make_config("d", objective={"penalty": "wgan-gp"}), dataset, MACHINE)
    assert published.config.objective.gamma == 10.0
    assert "published" in published.reasons["gamma"]
    asked = make_config("d", objective={"gamma": 3.0})
    assert derive(asked, dataset, MACHINE).config.objective.gamma == 3.0


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, "soap"),
        ({"network": "dcgan"}, "adam"),
        ({"beta1": 0.5}, "adam"),
        ({"optimiser": "adam"}, "adam"),
        ({"optimiser": "soap", "network": "dcgan"}, "optimiser = soap: is for the layers of style"),
        ({"optimiser": "adam", "clip": 1.0}, "clip = 1: is for the steps of soap, not of adam"),
        ({"optimiser": "adam", "turn_positions": True}, "turn-positions: is for the steps of soap, not of adam"),
        ({"optimiser": "soap", "beta1": 0.5}, "beta1 = 0.5: soap goes without"),
    ],
)
def test_soap_is_for_style_and_needs_no_mean(dataset: Dataset, settings: dict[str, Any], found: str) -> None:
    config = make_config("d", **group_settings(settings))
    if found not in ("soap", "adam"):
        with pytest.raises(SettingError, match=found):
            derive(config, dataset, MACHINE)
        return
    plan = derive(config, dataset, MACHINE)
    assert plan.config.training.optimiser == found
    assert plan.config.training.turn_positions is (found == "soap")
    for device, there in (("cuda", found), ("mps", "adam" if "optimiser" not in settings else found)):
        on_gpu = derive(config, dataset, replace(MACHINE, device=device))
        assert on_gpu.config.training.optimiser == there
        assert on_gpu.config.training.turn_positions is False, "not tried there"


def test_more_images_a_step_on_a_gpu_and_as_many_steps_before_the_rate_falls(dataset: Dataset) -> None:
    """As many as on a CPU with a batch that stays as it is."""
    grows, gpu = (derive(make_config("d"), dataset, replace(MACHINE, device=name)).config.training for name in DEVICES)
    stays = derive(make_config("d", training={"batch": grows.first_batch}), dataset, MACHINE).config.training
    assert grows.batch and stays.batch and gpu.batch and stays.decay_images and gpu.decay_images
    assert gpu.batch > grows.batch and gpu.decay_images / gpu.batch == stays.decay_images / stays.batch


def test_a_rate_that_grows_with_the_batch_falls_sooner(dataset: Dataset) -> None:
    grows = derive(make_config("d"), dataset, MACHINE).config.training
    stays = derive(make_config("d", training={"batch": grows.first_batch}), dataset, MACHINE).config.training
    assert grows.decay_images and stays.decay_images
    assert grows.decay_images < stays.decay_images


@given(fewer=st.integers(1, 10**7), more=st.integers(1, 10**7))
def test_fewer_pictures_are_changed_more(fewer: int, more: int) -> None:
    """And never so much that a generator takes the change for a part of the pictures."""
    fewer, more = sorted((fewer, more))
    assert MOST >= default_augmentation(fewer) >= default_augmentation(more) >= 0
    assert default_augmentation(100) > 0 == default_augmentation(10**6)


@given(
    images=st.none() | st.integers(1, 10**9), epochs=st.none() | st.floats(0.01, 1e4), pictures=st.integers(1, 10**6)
)
def test_the_budget_in_images_is_the_lesser(images: int | None, epochs: float | None, pictures: int) -> None:
    config = make_config("d", training={"images": images, "epochs": epochs, "minutes": 1})
    found = images_budget(config, pictures)
    if images is None and epochs is None:
        assert found is None
        return
    assert found is not None and found >= 1
    assert images is None or found <= images
    assert epochs is None or found <= max(1, epochs * pictures + 0.5)
    assert found == images or (epochs is not None and abs(found - max(1, epochs * pictures)) <= 0.5)


def test_the_budget_in_words() -> None:
    config = make_config("d", training={"minutes": 10, "images": 50_000, "epochs": 2.5})
    assert describe_budget(config) == "10 minutes or 50,000 images or 2.5 epochs"


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_cost_is_counted(dataset: Dataset, name: str) -> None:
    training = {"batch": 2, "optimiser": "adam"}  # SOAP's products are of the weights, which a small batch is less than
    groups: dict[str, Any] = {"network": {"network": name, "width": 8, "z_dim": 16}, "training": training}

    def cost_of(penalty: str, every: int | None = None) -> Any:
        objective = {"penalty": penalty, "penalty_every": every}
        config: RunConfig = make_config("discs", data={"size": 32}, objective=objective, **groups)
        return measure(derive(config, dataset, MACHINE), steps=2)

    plain, always, rarely = cost_of("none"), cost_of("r1+r2", 1), cost_of("r1+r2", 4)
    forward = plain.generator_gflop + 3 * plain.discriminator_gflop
    assert plain.images_per_second > 0 and plain.generator_gflop > 0
    assert 2 * forward < plain.training_gflop < 3.01 * forward, "one pass of G, three of D, and their backward passes"
    share = (rarely.training_gflop - plain.training_gflop) / (always.training_gflop - plain.training_gflop)
    assert share == pytest.approx(1 / 4), "a penalty every fourth step costs a quarter"


@pytest.mark.parametrize(
    ("settings", "threads", "found"),
    [
        ({}, 2, (64, 16, 2)),
        ({}, 8, (64, 32, 8)),  # four images a share, at first too
        ({}, 16, (64, 64, 16)),
        ({"batch": 32}, 2, (32, 32, 2)),  # as asked, from the first step on
        ({"batch": 32, "first_batch": 8}, 2, (32, 8, 2)),
        ({"optimiser": "adam"}, 2, (16, 16, 2)),
    ],
)
def test_a_batch_grows_where_nobody_asked_for_one(
    dataset: Dataset, settings: dict[str, Any], threads: int, found: tuple[int, int, int]
) -> None:
    plan = derive(make_config("d", training=settings), dataset, replace(MACHINE, threads=threads))
    asked = plan.config.training
    assert (asked.batch, asked.first_batch, asked.shares) == found
    assert (plan.growth.first, plan.growth.last) == (asked.first_batch, asked.batch)
    on_gpu = derive(make_config("d", training=settings), dataset, replace(MACHINE, device="cuda")).config.training
    assert on_gpu.first_batch == settings.get("first_batch", on_gpu.batch)


@pytest.mark.parametrize(
    "settings",
    [{"batch": 32, "first_batch": 12}, {"batch": 16, "first_batch": 32}, {"batch": 16, "first_batch": 4, "shares": 8}],
)
def test_a_first_batch_that_does_not_grow_to_the_last_is_refused(dataset: Dataset, settings: dict[str, int]) -> None:
    with pytest.raises(SettingError, match=f"first-batch {settings['first_batch']}"):
        derive(make_config("d", training=settings), dataset, MACHINE)
