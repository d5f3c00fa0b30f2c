"""Augmentation: nothing at probability 0, the same for all players, and gradients that flow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ganvas.training.augment import COLOUR, TRANSLATION, augment, colour, cut_out, draw_changes, translate


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def changes(images: Tensor, probability: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All numbers for `images`; then those of colour, of translation and of the cut-out."""
    every = draw_changes(len(images), probability, drawn(seed))[0].to(images)
    return every, *every.tensor_split((COLOUR, COLOUR + TRANSLATION), 1)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(64, 3, 32, 24, generator=drawn(7), dtype=torch.float64) * 2 - 1


def test_nothing_changes_at_probability_0(images: Tensor) -> None:
    torch.testing.assert_close(augment(images, changes(images, 0.0)[0]), images)


@pytest.mark.parametrize("probability", [0.2, 0.7])
def test_each_image_is_changed_with_the_probability(images: Tensor, probability: float) -> None:
    many = images.repeat(20, 1, 1, 1)
    untouched = (cut_out(many, changes(many, probability)[3]) == many).flatten(1).all(1)
    share = 1 - untouched.double().mean().item()
    assert abs(share - probability) < 4 * (probability * (1 - probability) / len(many)) ** 0.5


def test_equal_seeds_are_equal_changes_and_others_are_not(images: Tensor) -> None:
    first, again, other = (augment(images, changes(images, 0.5, seed)[0]) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_translation_moves_whole_pixels_and_brings_in_grey(images: Tensor) -> None:
    """Against moving each image by hand to where its own most telling pixels went."""
    moved = translate(images, changes(images)[2])
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
    for image in cut_out(images, changes(images)[3]):
        gone = (image == 0).all(0)
        rows, columns = gone.any(1).nonzero().flatten(), gone.any(0).nonzero().flatten()
        assert 0 < len(rows) <= 17 and 0 < len(columns) <= 13
        assert gone[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_colour_keeps_the_layout(images: Tensor) -> None:
    """Every change of colour is linear in the image plus a constant: grey images stay correlated with themselves."""
    grey = images.mean(1, keepdim=True).expand_as(images)
    changed = colour(grey, changes(grey)[1])
    for before, after in zip(grey[:, 0].flatten(1), changed[:, 0].flatten(1), strict=True):
        assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.999


def test_gradients_flow_through() -> None:
    small = torch.rand(3, 2, 8, 8, dtype=torch.float64, generator=drawn(3)).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda images: augment(images, changes(small, 0.8, 5)[0]), (small,))


def test_translation_goes_everywhere_and_no_further(images: Tensor) -> None:
    """Also for the largest number below 1, whose product with the count of places rounds up to it."""
    last = torch.nextafter(torch.ones(()), torch.zeros(()))
    ends = torch.stack([torch.zeros(2), last.expand(2)])
    for place, down, across in zip(ends, (-4, 4), (-3, 3), strict=True):
        moved = translate(images[:1].float(), torch.cat([place, torch.ones(1)])[None])
        expected = torch.roll(images[:1].float(), (-down, -across), (2, 3))
        assert torch.equal(moved[:, :, 8:-8, 8:-8], expected[:, :, 8:-8, 8:-8])


@pytest.mark.parametrize("channels", [1, 3])
def test_shape_type_and_range_stay(channels: int) -> None:
    images = torch.rand(4, channels, 16, 16) * 2 - 1
    changed = augment(images, changes(images, 0.8)[0])
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
    assert changed.isfinite().all() and changed.abs().max() < 5
