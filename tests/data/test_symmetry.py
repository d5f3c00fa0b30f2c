"""Is it safe to mirror? Sets that know left and right, and sets that do not."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ganvas.data.source import open_source
from ganvas.data.symmetry import flip_is_safe, mirror_accuracy
from ganvas.data.workers import Prepared, Recipe, prepare_many

SHARED = Path(__file__).parents[3] / "shared" / "data"


def accuracy(images: np.ndarray) -> float:
    found = mirror_accuracy(images, np.arange(len(images)))
    assert found is not None
    return found


@cache
def text(count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    pages = []
    for _ in range(count):
        page = Image.new("L", (64, 64), 255)
        for y in range(int(random.integers(0, 10)), 64, 12):
            letters = "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz   "), 16))
            ImageDraw.Draw(page).text((int(random.integers(-8, 3)), y), letters, fill=0)
        pages.append(np.asarray(page))
    return np.stack(pages)[..., None]


def blobs(count: int, *, lit_from: float) -> np.ndarray:
    """Discs anywhere, brighter on the left where `lit_from` > 0."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[0:32, 0:32]
    centre = random.uniform(8, 24, (count, 2, 1, 1))
    disc = (np.hypot(y - centre[:, 0], x - centre[:, 1]) < random.uniform(4, 10, (count, 1, 1))) * 120.0
    pictures = 80 + disc - lit_from * (x - 15.5) + random.normal(0, 10, (count, 32, 32))
    return pictures.clip(0, 255).astype(np.uint8)[..., None]


def test_text_and_digits_are_not_mirrored() -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits().images[:600]
    digits = (digits * 15.9).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)[..., None]
    for images in (text(400), digits):
        found = accuracy(images)
        assert found > 0.7 and not flip_is_safe(found)


def test_light_from_one_side_is_seen_and_none_is_not_invented() -> None:
    assert accuracy(blobs(600, lit_from=2)) > 0.95
    assert flip_is_safe(accuracy(blobs(600, lit_from=0)))


def test_a_set_mirrored_at_random_is_safe_whatever_it_shows() -> None:
    images = text(400).copy()
    chosen = np.random.default_rng(2).random(len(images)) < 0.5
    images[chosen] = images[chosen][:, :, ::-1]
    assert abs(accuracy(images) - 0.5) < 4 * 0.5 / np.sqrt(400)


def test_mirror_images_of_themselves_and_plain_colours_are_exactly_undecided() -> None:
    half = np.random.default_rng(0).integers(0, 256, (300, 40, 28, 3), dtype=np.uint8)
    assert accuracy(np.concatenate([half, half[:, :, ::-1]], axis=2)) == pytest.approx(0.5, abs=0.02)
    assert accuracy(np.broadcast_to(half[:, :1, :1], (300, 64, 64, 3))) == pytest.approx(0.5, abs=0.02)


def test_too_few_pictures_cannot_tell() -> None:
    assert mirror_accuracy(np.zeros((300, 16, 16, 1), np.uint8), np.arange(255)) is None
    assert not flip_is_safe(None)


def test_only_training_pictures_are_looked_at_and_the_answer_repeats() -> None:
    images = blobs(600, lit_from=2)
    train = np.arange(0, 600, 2)
    found = mirror_accuracy(images, train)
    images[1::2] = images[1::2][:, :, ::-1]
    assert mirror_accuracy(images, train) == found


@pytest.mark.parametrize("archive", ["faces-128.zip", "cifar10.zip"])
def test_real_faces_and_objects_may_be_mirrored(archive: str) -> None:
    if not (SHARED / archive).exists():
        pytest.skip(f"{archive} is not at hand; the drawn sets above stand in for it")
    source = open_source(SHARED / archive)
    names = source.names()[:: len(source.names()) // 500][:500]
    outcomes = [outcome for chunk in prepare_many(source, names, Recipe((32, 32)), 0) for outcome in chunk]
    images = np.stack([outcome.pixels[..., :1] for outcome in outcomes if isinstance(outcome, Prepared)])
    assert flip_is_safe(accuracy(images))
