"""Figures are written so that reading them back loses no more than the last digit shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganvas.evaluate.figures import PARTS, number, part, percent, plural, share, spell
from ganvas.evaluate.result import Score


@given(st.floats(1e-9, 1e12), st.sampled_from([1, -1]))
def test_a_number_keeps_its_first_digits(value: float, sign: int) -> None:
    assert float(number(sign * value).replace(",", "")) == pytest.approx(
        sign * value, rel=0.06 if value < 1e-4 else 6e-3
    )


def test_numbers_are_easy_to_read() -> None:
    assert [number(value) for value in (0, 0.0123, 1.2, 24.1, 12_300, None)] == [
        "0", "0.0123", "1.20", "24.1", "12,300", "-",
    ]  # fmt: skip
    assert share(None) == "-" and share(0.666) == "0.67"
    assert percent(0.0525, 1) == "5.2 %" and percent(1) == "100 %"
    assert plural(1, "image") == "1 image" and plural(5000, "image") == "5,000 images"


@given(st.floats(-1, 1000), st.floats(1e-5, 10), st.floats(1e-5, 10))
def test_an_interval_is_as_exact_as_it_is_wide(value: float, below: float, above: float) -> None:
    score = Score(value=value, low=value - below, high=value + above)
    text = spell(score)
    shown, low, high = (float(each.replace(",", "")) for each in text.rstrip(")").replace("(", "to ").split(" to "))
    width = below + above
    for told, true in ((shown, score.value), (low, score.low), (high, score.high)):
        assert told == pytest.approx(true, abs=0.0501 * max(width, abs(value) / 100))
    assert "-0.0 " not in text and "-0.00)" not in text


def test_a_score_without_an_interval_stands_alone() -> None:
    assert spell(None) == "-"
    assert spell(Score(value=0.25)) == "0.250"
    assert "0.0" not in spell(Score(value=1e-9, low=-1e-9, high=3e-9)), "nothing is lost to rounding"
    assert "-0.000" not in spell(Score(value=0.01, low=-0.00001, high=0.02))


@given(st.floats(0.08, 1.0))
def test_a_share_in_words_is_the_nearest(value: float) -> None:
    told = next(size for size, words in PARTS if words == part(value))
    assert abs(told - value) <= 0.08
