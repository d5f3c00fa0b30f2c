"""Augmentation: nothing at probability 0, the same for all players, and gradients that flow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ganvas.training.augment import augment, colour, cut_out, translate


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(64, 3, 32, 24, generator=drawn(7), dtype=torch.float64) * 2 - 1


def test_nothing_is_drawn_at_probability_0(images: Tensor) -> None:
    random = drawn()
    before = random.get_state()
    assert augment(images, 0.0, random) is images
    assert torch.equal(before, random.get_state())


@pytest.mark.parametrize("probability", [0.2, 0.7])
def test_each_image_is_changed_with_the_probability(images: Tensor, probability: float) -> None:
    many = images.repeat(20, 1, 1, 1)
    untouched = (cut_out(many, probability, drawn()) == many).flatten(1).all(1)
    share = 1 - untouched.double().mean().item()
    assert abs(share - probability) < 4 * (probability * (1 - probability) / len(many)) ** 0.5


def test_equal_seeds_are_equal_changes_and_others_are_not(images: Tensor) -> None:
    assert torch.equal(augment(images, 0.5, drawn(1)), augment(images, 0.5, drawn(1)))
    assert not torch.equal(augment(images, 0.5, drawn(1)), augment(images, 0.5, drawn(2)))


def test_translation_moves_whole_pixels_and_brings_in_grey(images: Tensor) -> None:
    """Against moving each image by hand to where its own most telling pixels went."""
    moved = translate(images, 1.0, drawn())
    for before, after in zip(images[:16], moved[:16], strict=True):
        found = []
        for down in range(-4, 5):
            for across in range(-3, 4):
                placed = torch.zeros_like(before)
                rows, columns = slice(max(0, -down), 32 - max(0, down)), slice(max(0, -across), 24 - max(0, across))
                to_rows, to_columns = slice(max(0, down), 32 + min(0, down)), slice(max(0, across), 24 + min(0, across))
                placed[:, rows, columns] = before[:, to_rows, to_columns]
                found.append(torch.equal(placed, after))
        assert sum(found) == 1


def test_a_cut_out_is_a_rectangle_of_at_most_half_of_each_side(images: Tensor) -> None:
    for image in cut_out(images, 1.0, drawn()):
        gone = (image == 0).all(0)
        rows, columns = gone.any(1).nonzero().flatten(), gone.any(0).nonzero().flatten()
        assert 0 < len(rows) <= 17 and 0 < len(columns) <= 13
        assert gone[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_colour_keeps_the_layout(images: Tensor) -> None:
    """Every change of colour is linear in the image plus a constant: grey images stay correlated with themselves."""
    grey = images.mean(1, keepdim=True).expand_as(images)
    changed = colour(grey, 1.0, drawn())
    for before, after in zip(grey[:, 0].flatten(1), changed[:, 0].flatten(1), strict=True):
        assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.999


def test_gradients_flow_through() -> None:
    small = torch.rand(3, 2, 8, 8, dtype=torch.float64, generator=drawn(3)).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda images: augment(images, 0.8, drawn(5)), (small,))


@pytest.mark.parametrize("channels", [1, 3])
def test_shape_type_and_range_stay(channels: int) -> None:
    images = torch.rand(4, channels, 16, 16) * 2 - 1
    changed = augment(images, 0.8, drawn())
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
    assert changed.isfinite().all() and changed.abs().max() < 5
