"""Batches: every picture once an epoch, and all of it a function of the position."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganvas.data.batches import Batches, gather, gather_labels

SIZES, SEEDS = st.integers(1, 200), st.integers(0, 2**64 - 1)


@given(SIZES, SEEDS, st.integers(0, 5), st.booleans())
def test_every_picture_exactly_once_per_epoch(size: int, seed: int, epoch: int, flip: bool) -> None:
    indices, flips = Batches(size, seed, flip).take(epoch * size, size)
    assert sorted(indices) == list(range(size))
    assert indices.dtype == np.int64 and flips.dtype == np.bool_ and (flip or not flips.any())


@given(SIZES, SEEDS, st.lists(st.integers(0, 150), min_size=1, max_size=8), st.integers(0, 1000))
def test_any_batch_sizes_and_any_resumption_give_the_same_order(
    size: int, seed: int, counts: list[int], start: int
) -> None:
    whole_indices, whole_flips = Batches(size, seed, True).take(start, sum(counts))
    position, parts = start, []
    for count in counts:
        parts.append(Batches(size, seed, True).take(position, count))  # a fresh object: nothing is remembered
        position += count
    assert np.array_equal(np.concatenate([indices for indices, _ in parts]), whole_indices)
    assert np.array_equal(np.concatenate([flips for _, flips in parts]), whole_flips)


def test_epochs_seeds_and_flips_differ_and_flips_are_fair() -> None:
    batches = Batches(4000, 7, True)
    (first, flips), (second, other_flips) = batches.take(0, 4000), batches.take(4000, 4000)
    assert not np.array_equal(first, second) and not np.array_equal(flips, other_flips)
    assert not np.array_equal(first, Batches(4000, 8, True).take(0, 4000)[0])
    assert abs(flips.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    assert abs(np.corrcoef(first, flips)[0, 1]) < 4 / np.sqrt(4000)
    assert np.array_equal(first, Batches(4000, 7, False).take(0, 4000)[0])  # flip does not touch the order


def test_the_order_is_uniform() -> None:
    """Each of 4 pictures stands first equally often: chi-square over 2,000 epochs, 99.9 % point with 3 degrees."""
    batches = Batches(4, 3, False)
    counts = np.bincount([batches.take(4 * epoch, 1)[0][0] for epoch in range(2000)], minlength=4)
    assert ((counts - 500) ** 2 / 500).sum() < 16.27


def test_an_epoch_is_computed_once() -> None:
    batches = Batches(100, 0, True)
    orders = {id(batches._epoch(position // 100)[0]) for position in range(0, 100, 10)}
    assert len(orders) == 1
    batches.take(0, 1000)
    assert len(batches._epochs) <= 2


@pytest.mark.parametrize("size", [0, -1])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Batches(size, 0, False)


def test_gather_mirrors_left_to_right_and_never_touches_heldout() -> None:
    images = np.arange(6 * 2 * 3 * 1, dtype=np.uint8).reshape(6, 2, 3, 1)
    dataset = SimpleNamespace(images=images, train=np.array([0, 2, 5]), labels=np.array([9, 8, 7, 6, 5, 4]))
    indices, flips = np.array([2, 0, 1, 2]), np.array([False, True, False, True])
    found = gather(dataset, indices, flips)  # type: ignore[arg-type]
    assert np.array_equal(found, np.stack([images[5], images[0][:, ::-1], images[2], images[5][:, ::-1]]))
    found[:] = 0
    assert images[5].any()  # a copy
    assert gather_labels(dataset, indices).tolist() == [4, 9, 7, 4]  # type: ignore[arg-type, union-attr]
