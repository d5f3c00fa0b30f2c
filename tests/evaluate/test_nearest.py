"""The search against one that looks at every pair in whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganvas.errors import DataError
from ganvas.evaluate import nearest as module
from ganvas.evaluate.nearest import count_within, nearest, neighbours


def whole(seed: int, count: int, dimensions: int, values: int = 4) -> np.ndarray:
    """Whole numbers, so few of them that many rows are at one distance, and some are equal."""
    return np.random.default_rng(seed).integers(0, values, (count, dimensions)).astype(np.float32)


def by_looking_at_all(queries: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    squares = ((queries[:, None].astype(int) - base[None].astype(int)) ** 2).sum(axis=2)
    indices = np.argsort(squares, axis=1, kind="stable")[:, :k]  # stable: of equals the lowest index first
    return np.sqrt(np.take_along_axis(squares, indices, axis=1)), indices


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 40), st.integers(1, 5), st.data())
def test_the_neighbours_are_those_of_a_search_through_all(
    seed: int, queries: int, base: int, dimensions: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, base))
    asked, there = whole(seed, queries, dimensions), whole(seed + 1, base, dimensions)
    distances, indices = neighbours(asked, there, k)
    right, places = by_looking_at_all(asked, there, k)
    assert np.array_equal(indices, places)
    assert np.allclose(distances, right, rtol=1e-15, atol=0)
    assert distances.dtype == np.float64 and indices.dtype == np.int64


@pytest.mark.parametrize("block", [7, 64, 1000])
def test_blocks_of_any_size_give_the_same(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, there = whole(0, 50, 3), whole(1, 90, 3)
    right, places = neighbours(asked, there, 6)
    monkeypatch.setattr(module, "BLOCK", block)
    distances, indices = neighbours(asked, there, 6)
    assert np.array_equal(indices, places) and np.array_equal(distances, right)


def test_a_copy_has_a_distance_of_exactly_nothing_also_far_from_the_origin() -> None:
    base = np.random.default_rng(0).normal(1e5, 1.0, (400, 30)).astype(np.float32)
    distances, indices = nearest(base[::-1], base)
    assert not distances.any()
    assert np.array_equal(indices, np.arange(400)[::-1])


def test_rounding_in_the_products_hides_no_neighbour() -> None:
    # |q|^2 is 1e16 here: the products alone err by whole units, which is more than all distances.
    base = np.full((50, 4), 5e7)
    base[:, 0] += np.arange(50) * 1e-3
    distances, indices = nearest(base + np.array([2e-4, 0, 0, 0]), base)
    assert np.array_equal(indices, np.arange(50))
    assert np.allclose(distances, 2e-4, rtol=1e-3)


def test_arrays_that_may_only_be_read_are_searched() -> None:
    base = whole(0, 20, 3).astype(np.float64)
    base.flags.writeable = False
    assert not nearest(base, base)[0].any()


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 4), st.integers(0, 5))
def test_rows_within_a_distance_are_counted(seed: int, count: int, dimensions: int, limit: int) -> None:
    rows = whole(seed, count, dimensions)
    squares = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    assert np.array_equal(count_within(rows, float(limit)), (squares <= limit**2).sum(axis=1) - 1)


@pytest.mark.parametrize(
    ("queries", "base", "said"),
    [
        (np.zeros((3, 4)), np.zeros((3, 5)), r"\[3, 4\] and \[3, 5\]"),
        (np.zeros((0, 4)), np.zeros((3, 4)), "empty"),
        (np.zeros((3, 4)), np.zeros(4), r"\[N, D\]"),
        (np.full((3, 4), np.nan), np.zeros((3, 4)), "not finite"),
        (np.zeros((3, 4)), np.full((3, 4), np.inf), "not finite"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(queries: np.ndarray, base: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        nearest(queries, base)


@pytest.mark.parametrize("k", [0, 4])
def test_more_neighbours_than_there_are_pictures_are_refused(k: int) -> None:
    with pytest.raises(DataError, match=f"k {k} is outside 1 to 3"):
        neighbours(np.zeros((2, 2)), np.zeros((3, 2)), k)
