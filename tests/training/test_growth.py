"""A batch that grows: whatever happens in between, the same step takes the same images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganvas.training.growth import PATIENCE, Growth

FIRST, DOUBLINGS = st.integers(2, 64), st.integers(0, 4)


@given(first=FIRST, doublings=DOUBLINGS, steps=st.integers(1, 3000))
def test_steps_are_counted_as_they_are_taken(first: int, doublings: int, steps: int) -> None:
    growth, seen, before = Growth(first, first << doublings), 0, 0
    for step in range(steps):
        assert growth.steps(seen) == step
        batch = growth.batch(seen)
        assert growth.first <= max(batch, before) == batch <= growth.last, "it never shrinks"
        seen, before = seen + batch, batch
    assert growth.steps(seen) == steps


@given(first=FIRST, doublings=DOUBLINGS)
def test_it_doubles_with_the_root_of_the_images(first: int, doublings: int) -> None:
    growth = Growth(first, first << doublings)
    for batch in (first << n for n in range(doublings)):
        assert growth.batch(PATIENCE * batch**2 - 1) == batch
        assert growth.batch(PATIENCE * batch**2) == 2 * batch
    assert growth.batch(10**15) == growth.last


def test_the_rate_grows_with_the_root_of_the_batch() -> None:
    growth = Growth(16, 64)
    assert [growth.pace(batch) for batch in (16, 32, 64)] == pytest.approx([1, 2**0.5, 2])


@pytest.mark.parametrize(("first", "last", "fits"), [(16, 64, True), (8, 8, True), (16, 48, False), (64, 16, False)])
def test_the_last_is_the_first_doubled_some_times(first: int, last: int, fits: bool) -> None:
    assert Growth.fits(first, last) == fits
