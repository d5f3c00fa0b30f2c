"""Vitals, on networks whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganvas.config import DataSettings
from ganvas.data.cache import Dataset, prepare
from ganvas.data.source import open_source
from ganvas.training.vitals import CheckUp, extreme, nearest, shrink
from small import draw


class Says(nn.Module):
    """A generator that answers with given images, or a critic that answers with a function of them."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
        self.norm = nn.BatchNorm1d(1)

    def forward(self, given: Tensor, *labels: Tensor) -> Tensor:
        self.norm(torch.randn(4, 1))  # its averages move, unless it is only looked at
        answer: Tensor = self.answer(given)
        return answer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = draw(tmp_path_factory.mktemp("vitals") / "discs", 400)
    found = prepare(open_source(folder), DataSettings(size=(32, 32)), tmp_path_factory.mktemp("cache"))
    assert len(found.heldout) == 20
    return found


def pictures(dataset: Dataset, indices: Any) -> Tensor:
    return torch.from_numpy(np.array(dataset.images[indices])).permute(0, 3, 1, 2).float() / 127.5 - 1


def brightness(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


def take(dataset: Dataset, fakes: Tensor, critic: Any = brightness) -> Any:
    with_slope = Says(lambda images: critic(images) + 0.0 * brightness(images))
    return CheckUp(dataset, torch.zeros(len(fakes), 2), 0).take(Says(lambda z: fakes), with_slope, 5)


def test_pictures_as_fakes_are_healthy(dataset: Dataset) -> None:
    vitals = take(dataset, pictures(dataset, dataset.train[:64]))
    assert vitals.seen_images == 5
    assert abs(vitals.margin) < 0.6 and 0.6 < vitals.spread < 1.6 and 0.6 < vitals.apart < 1.6
    assert abs(vitals.saturated) < 0.1


def test_fewer_faces_are_less_apart_and_less_spread(dataset: Dataset) -> None:
    reals = pictures(dataset, dataset.train[:64])
    one = reals[:1].expand(64, -1, -1, -1)
    four = reals[:4].repeat(16, 1, 1, 1)
    faint = reals * 0.5
    assert take(dataset, one).spread < 1e-6 and take(dataset, one).apart < 1e-3
    assert take(dataset, four).apart < 1e-3 < take(dataset, four).spread
    assert take(dataset, faint).spread == pytest.approx(0.25 * take(dataset, reals).spread, rel=1e-3)
    assert take(dataset, faint).apart == pytest.approx(0.5 * take(dataset, reals).apart, rel=1e-3)


def test_the_margin_is_in_standard_deviations(dataset: Dataset) -> None:
    fakes = pictures(dataset, dataset.train[:64])

    def critic(images: Tensor) -> Tensor:
        noise = torch.linspace(-1, 1, len(images))
        return noise + (0.0 if torch.equal(images, fakes) else 6.0)

    vitals = take(dataset, fakes, critic)
    # The spread of -1 to 1 in equal steps is about 0.59, the gap 6.
    assert vitals.margin == pytest.approx(6.0 / torch.linspace(-1, 1, 64).std().item(), rel=1e-3)
    scaled = take(dataset, fakes, lambda images: 100 * critic(images))
    assert scaled.margin == pytest.approx(vitals.margin, rel=1e-3), "a louder critic is not a stronger one"


def test_the_slope_is_that_of_the_logit_in_all_pixels(dataset: Dataset) -> None:
    """The mean over 3·32·32 pixels has the slope 1/3072 in each: a squared slope of 1/3072 in all."""
    fakes = pictures(dataset, dataset.train[:64])
    times = [take(dataset, fakes, lambda images, k=k: k * brightness(images)).slope for k in (1.0, 10.0)]
    assert times == pytest.approx([0.5 * 0.25 / 3072, 50 * 0.25 / 3072], rel=1e-3)


@pytest.mark.parametrize(("unseen", "overfit"), [(1.0, 0.0), (0.0, 1.0), (0.4, 0.6)])
def test_a_critic_that_knows_its_pictures_over_fits(dataset: Dataset, unseen: float, overfit: float) -> None:
    """Reals that it knows get 1, fakes 0, and what it has not seen the value of `unseen`."""
    fakes = torch.zeros(64, 3, 32, 32)
    held = pictures(dataset, dataset.heldout)

    def critic(images: Tensor) -> Tensor:
        if torch.equal(images, fakes):
            return torch.zeros(len(images))
        is_held = len(images) == len(held) and torch.equal(images.sum().round(), held.sum().round())
        return torch.full((len(images),), unseen if is_held else 1.0)

    assert take(dataset, fakes, critic).overfit == pytest.approx(overfit, abs=1e-6)


def test_without_held_out_pictures_nothing_is_said_of_over_fitting(dataset: Dataset) -> None:
    few = replace(dataset, heldout=dataset.heldout[:3])
    assert take(few, pictures(dataset, dataset.train[:64])).overfit is None


def test_noise_in_black_and_white_is_saturated(dataset: Dataset) -> None:
    assert take(dataset, torch.randn(64, 3, 32, 32).sign()).saturated > 0.8


def test_a_look_changes_nothing(dataset: Dataset) -> None:
    generator, critic = Says(lambda z: pictures(dataset, dataset.train[:8])), Says(brightness)
    critic.eval()
    before = generator.norm.running_mean
    assert before is not None
    kept = before.clone()
    CheckUp(dataset, torch.zeros(8, 2), 0).take(generator, critic, 0)
    assert torch.equal(kept, generator.norm.running_mean) and generator.training and not critic.training


def test_small_parts() -> None:
    grid = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert shrink(grid.expand(2, 1, 2, 2)).shape == (2, 64)
    assert nearest(torch.tensor([[0.0], [1.0], [1.5]])) == pytest.approx(0.5)
    assert nearest(torch.zeros(1, 3)) == 0.0
    assert extreme(torch.tensor([-1.0, 1.0, 0.0, 0.5])) == 0.5
