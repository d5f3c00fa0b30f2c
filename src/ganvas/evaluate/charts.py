"""Charts as inline SVG: they take their colours from the page, so they are at home in light and dark.

All measures are in units of the view box, about a pixel each on a narrow telephone; text is 11 of them high.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ganvas.evaluate.figures import number, share

WIDTH = 320.0
NOTHING = 1e-200  # a score of no more is 0 to an axis: steps of less have no logarithm
LETTER, LINE = 6.6, 13.0  # a generous width of a letter, and the height of a line of text
TONES = 6  # colours of series, as the style knows them; with more, colours come again and numbers tell them apart
DASHES = ("", "6 3", "2 3", "9 3 2 3")

STYLE = """
:root { --c1: #2460c0; --c2: #bf4a0b; --c3: #0c7a5c; --c4: #a2338c; --c5: #806600; --c6: #4a4fc4 }
@media (prefers-color-scheme: dark) {
  :root { --c1: #82aeff; --c2: #ff9d66; --c3: #52d3a8; --c4: #f094dd; --c5: #dfc24c; --c6: #b4b4ff }
}
svg { display: block; width: 100%; max-width: 27rem; height: auto; margin: 0 auto; font: 11px system-ui, sans-serif;
      fill: var(--soft) }
svg .ink { fill: var(--ink) } svg .axis { stroke: var(--soft); fill: none }
svg .rule { stroke: var(--line); fill: none }
svg .real { stroke: var(--ink); fill: none; stroke-width: 1.5 } svg .lead { stroke-dasharray: 1 3 }
svg .guide { stroke-dasharray: 3 3 }
svg .name { font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 3px; stroke-linejoin: round }
""" + "".join(
    f"svg .t{i} {{ fill: var(--c{i}) }} svg .s{i} {{ stroke: var(--c{i}); fill: none }}\n" for i in range(1, TONES + 1)
)


@dataclass(frozen=True)
class Mark:
    """A point on the map: its label, precision and recall (0 to 1), and its series from 1 on; 0 is real pictures."""

    label: str
    precision: float
    recall: float
    series: int
    title: str


@dataclass(frozen=True)
class Series:
    """A score over images seen, in that order."""

    label: str
    number: int
    seen: tuple[int, ...]
    scores: tuple[float, ...]
    title: str


def tone(series: int) -> int:
    """The colour, 1 to TONES, of a series from 1 on."""
    return (series - 1) % TONES + 1


def quality_map(marks: Sequence[Mark], key: str) -> str:
    """Precision over recall, both from 0 to 1: up is sharper, right is more varied; real pictures are a ring.

    `key` makes the ids of the chart's texts unique on its page. Labels lie beside their points and never on another.
    """
    left, top, side = 40.0, 12.0, 264.0
    bottom = top + side

    def at(recall: float, precision: float) -> tuple[float, float]:
        return left + side * _clip(recall), bottom - side * _clip(precision)

    parts = []
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x, y = at(tick, tick)
        parts.append(_line(left, y, left + side, y, "rule") + _line(x, top, x, bottom, "rule"))
        parts.append(_text(left - 6, y + 4, f"{tick:g}", "end") + _text(x, bottom + 15, f"{tick:g}", "middle"))
    parts.append(f'<path class="axis" d="M{left:g} {top:g}V{bottom:g}H{left + side:g}"/>')
    parts.append(_text(left + side / 2, bottom + 31, "recall: how much of the variety is there", "middle"))
    parts.append(
        f'<text transform="translate(10 {top + side / 2:g}) rotate(-90)" text-anchor="middle">'
        "precision: how many samples look real</text>"
    )
    for mark in marks:
        if mark.series == 0:
            x, y = at(mark.recall, mark.precision)
            parts.append(f'<path class="real guide" stroke-opacity=".5" d="M{left:g} {y:.1f}H{x:.1f}V{bottom:g}"/>')
    points = [at(mark.recall, mark.precision) for mark in marks]
    places = place(points, [mark.label for mark in marks], (left + 1, top, left + side, bottom - 1))
    for mark, (x, y), spot in zip(marks, points, places, strict=True):
        parts.append(_leader((x, y), spot, mark.label))
        dot = (
            f'<circle class="real" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
            if mark.series == 0
            else f'<circle class="t{tone(mark.series)}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
        )
        parts.append(dot)
    for mark, spot in zip(marks, places, strict=True):
        parts.append(_label(spot, mark.label, mark.series))
    told = "; ".join(f"{mark.title}: precision {share(mark.precision)}, recall {share(mark.recall)}" for mark in marks)
    return _svg(key, bottom + 38, "Precision over recall", told, parts)


def score_curve(lines: Sequence[Series], features: str, key: str) -> str:
    """Scores in one feature space over images seen, lower is better; a ring marks the best of each.

    The scores' axis is logarithmic where they span a factor of ten or more. `key` as for `quality_map`.
    """
    left, top, right, bottom = 44.0, 12.0, WIDTH - 36, 276.0
    every = [score if abs(score) > NOTHING else 0.0 for line in lines for score in line.scores]
    low, high = min(every), max(every)
    log = low > 0 and high / low >= 10
    ticks = log_ticks(low, high) if log else linear_ticks(min(low, 0.0) if low < high / 2 else low, high)
    most = max(count for line in lines for count in line.seen) or 1
    seen = [tick for tick in linear_ticks(0, most) if tick <= most]
    scale = math.log if log else float
    ticks = ticks if log else [tick for tick in ticks if tick <= high] or ticks[:1]
    first, last = scale(ticks[0]), scale(max(ticks[-1], high))

    def at(count: float, score: float) -> tuple[float, float]:
        span = (scale(score) - first) / ((last - first) or 1)
        return left + (right - left) * count / most, bottom - (bottom - top) * span

    parts = []
    for tick in ticks:
        y = at(0, tick)[1]
        parts.append(_line(left, y, right, y, "rule") + _text(left - 6, y + 4, short(tick), "end"))
    for tick in seen:
        parts.append(_text(at(tick, low)[0], bottom + 15, short(tick), "middle"))
    parts.append(f'<path class="axis" d="M{left:g} {top:g}V{bottom:g}H{right:g}"/>')
    parts.append(_text((left + right) / 2, bottom + 31, "images seen", "middle"))
    ends = []
    for line in lines:
        points = [at(count, score) for count, score in zip(line.seen, line.scores, strict=True)]
        ends.append(points[-1])
        dash = DASHES[(line.number - 1) // TONES % len(DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        drawn = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="s{tone(line.number)}" stroke-width="2"{dashed} d="M{drawn}"/>')
        x, y = points[line.scores.index(min(line.scores))]
        parts.append(f'<circle class="s{tone(line.number)}" stroke-width="1.5" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
    # The labels stand in a column on the right, in the order of the ends, so that their leaders never cross there.
    for line, (x, y), spot in zip(lines, ends, spread([y for _, y in ends], LINE, top, bottom), strict=True):
        if line.label:
            kind = f"s{tone(line.number)} lead"
            parts.append(_line(x, y, right + 2, y, kind) + _line(right + 2, y, right + 12, spot, kind))
            parts.append(_label((right + 14 + LETTER * len(line.label) / 2, spot), line.label, line.number))
    told = "; ".join(
        f"{line.title}: {number(line.scores[0])} at {line.seen[0]:,} images, best {number(min(line.scores))}, "
        f"{number(line.scores[-1])} at {line.seen[-1]:,}"
        for line in lines
    )
    return _svg(key, bottom + 38, f"{features} over images seen", told, parts)


def place(
    points: Sequence[tuple[float, float]], labels: Sequence[str], box: tuple[float, float, float, float]
) -> list[tuple[float, float]]:
    """Centres for labels beside their points, inside `box` (left, top, right, bottom).

    Labels are set one after the other, each at the nearest free place: off every other label, and off every point
    where that can be. Only when `box` is full may they meet.
    """
    taken: list[tuple[float, float, float]] = []  # centre and half width
    for (x, y), label in zip(points, labels, strict=True):
        half = LETTER * len(label) / 2
        options = [
            (x + ring * math.cos(angle) + half * _side(math.cos(angle)), y + (ring + LINE / 4) * math.sin(angle))
            for ring in (8, 10, 14, 19, 25, 32, 40, 50, 65, 85, 110, 150, 200, 260)
            for angle in (math.pi * turn / 8 for turn in (-1, 0, 1, -2, 2, -4, 4, -6, 6, 8, -7, 7, -3, 3, -5, 5))
        ]
        inside = [
            (cx, cy)
            for cx, cy in options
            if box[0] <= cx - half
            and cx + half <= box[2]
            and box[1] <= cy - LINE / 2
            and cy + LINE / 2 <= box[3]
            and not any(abs(cx - tx) < half + other and abs(cy - ty) < LINE for tx, ty, other in taken)
        ]
        clear = (
            (cx, cy)
            for cx, cy in inside
            if not any(abs(cx - px) < half + 5 and abs(cy - py) < LINE / 2 + 4 for px, py in points)
        )
        spot = next(clear, inside[0] if inside else (x, y))
        taken.append((*spot, half))
    return [(x, y) for x, y, _ in taken]


def spread(wanted: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Places from `low` to `high`, near those `wanted` and in their order, `apart` from each other where they fit."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    apart = min(apart, (high - low) / max(len(wanted) - 1, 1))
    places = [0.0] * len(wanted)
    least = low
    for index in order:  # downwards from the top: no place before its turn
        places[index] = max(wanted[index], least)
        least = places[index] + apart
    most = high
    for index in reversed(order):  # and back, where that went past the end
        places[index] = min(places[index], most)
        most = places[index] - apart
    return places


def linear_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` or below to `high` or above, at most about `most`, evenly apart."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / (most - 1)))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most - 1)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """The powers of ten, and where there are few their double and fivefold, that enclose `low` to `high`, above 0."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 3 else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    below, above = [tick for tick in ticks if tick <= low], [tick for tick in ticks if tick >= high]
    first, last = (below or ticks)[-1 if below else 0], (above or ticks)[0 if above else -1]
    return [tick for tick in ticks if first <= tick <= last]


def short(value: float) -> str:
    """A tick's number in few letters: `250k`, `1.2M`, `0.05`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.3g}" if value else "0"


def _svg(key: str, height: float, title: str, told: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{html.escape(title)}</title><desc id="{key}-d">{html.escape(told)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _label(spot: tuple[float, float], text: str, series: int) -> str:
    kind = f"t{tone(series)}" if series else "ink"
    x, y = spot
    return f'<text class="name {kind}" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{html.escape(text)}</text>'


def _leader(point: tuple[float, float], spot: tuple[float, float], label: str) -> str:
    """A thin line from a point to a label that had to go some way off."""
    return _line(*point, *spot, "axis") if math.dist(point, spot) > 18 + LETTER * len(label) / 2 else ""


def _side(value: float) -> int:
    """-1, 0 or 1: left of a point, above or below it, or right."""
    return 0 if abs(value) < 0.3 else 1 if value > 0 else -1


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)
