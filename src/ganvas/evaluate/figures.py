"""How figures are written: digits, shares, intervals, and parts of a whole in words."""

from __future__ import annotations

import math

from ganvas.evaluate.result import Score

# A share of a whole, and how people say it.
PARTS = (
    (0.1, "a tenth"),
    (0.2, "a fifth"),
    (0.25, "a quarter"),
    (1 / 3, "a third"),
    (0.4, "two fifths"),
    (0.5, "half"),
    (0.6, "three fifths"),
    (2 / 3, "two thirds"),
    (0.75, "three quarters"),
    (0.8, "four fifths"),
    (0.9, "nine tenths"),
    (1.0, "nearly all"),
)


def part(value: float) -> str:
    """A share, 0 to 1, as people say it: the nearest of tenths, quarters, thirds and fifths."""
    return min(PARTS, key=lambda known: abs(known[0] - value))[1]


def number(value: float | None) -> str:
    """A figure in three digits: `0.0123`, `1.20`, `24.1`, `12,300`; `-` for none."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    size = math.floor(math.log10(abs(value)))
    return f"{value:,.{max(2 - size, 0)}f}"


def share(value: float | None) -> str:
    """A figure of about 0 to 1 in two digits behind the point; `-` for none."""
    return "-" if value is None else f"{value:.2f}"


def spell(score: Score | None, to: str = " to ") -> str:
    """A figure with its interval: `0.0123 (0.0101 to 0.0145)`; `-` for none."""
    if score is None:
        return "-"
    if score.low is None or score.high is None:
        return number(score.value)
    ends = (score.value, score.low, score.high)
    span = max(score.high - score.low, abs(score.value) / 100, 1e-12)  # more digits than the interval has say nothing
    places = max(1 - math.floor(math.log10(span)), 0)
    if places > 6:
        value, low, high = (f"{each:.1e}" for each in ends)
    else:
        value, low, high = (f"{round(each, places) + 0.0:,.{places}f}" for each in ends)  # + 0.0: no -0.0000
    return f"{value} ({low}{to}{high})"


def plural(count: int, thing: str) -> str:
    """`1 image`, `5,000 images`."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def percent(value: float, places: int = 0) -> str:
    """A share, 0 to 1, in per cent: `6 %`."""
    return f"{100 * value:.{places}f} %"
