"""Charts are well-formed, in their box, in the page's colours, and their labels never lie on each other."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ganvas.evaluate.charts import (
    LETTER,
    LINE,
    STYLE,
    TONES,
    Mark,
    Series,
    linear_ticks,
    log_ticks,
    place,
    quality_map,
    score_curve,
    short,
    spread,
    tone,
)

BOX = (40.0, 12.0, 304.0, 276.0)
share = st.floats(0, 1)
inside = st.tuples(st.floats(BOX[0], BOX[2]), st.floats(BOX[1], BOX[3]))


@given(st.lists(inside, max_size=40))
def test_labels_on_the_map_never_meet(points: list[tuple[float, float]]) -> None:
    labels = [str(number) for number in range(1, len(points) + 1)]
    places = place(points, labels, BOX)
    for index, (x, y) in enumerate(places):
        half = LETTER * len(labels[index]) / 2
        assert BOX[0] <= x - half and x + half <= BOX[2] and BOX[1] <= y - LINE / 2 and y + LINE / 2 <= BOX[3]
        for other, (ox, oy) in enumerate(places[:index]):
            apart = half + LETTER * len(labels[other]) / 2
            assert abs(x - ox) >= apart - 1e-9 or abs(y - oy) >= LINE - 1e-9


def test_a_lonely_label_lies_beside_its_point() -> None:
    ((x, y),) = place([(150.0, 150.0)], ["samples"], BOX)
    assert abs(y - 150) < LINE and 0 < x - LETTER * len("samples") / 2 - 150 < 12


@given(st.lists(st.floats(0, 264), max_size=20))
def test_labels_in_a_column_keep_their_order_and_distance(wanted: list[float]) -> None:
    places = spread(wanted, LINE, 0, 264)
    assert all(-1e-6 <= spot <= 264 + 1e-6 for spot in places)
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    assert all(places[later] - places[first] >= LINE - 1e-6 for first, later in pairwise(order))


def test_labels_in_a_column_with_room_stay_where_they_belong() -> None:
    assert spread([200.0, 20.0, 100.0], LINE, 0, 264) == [200.0, 20.0, 100.0]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_linear_ticks_are_few_round_and_enclose(low: float, span: float) -> None:
    high = low + span
    if high - low < 1e-9 * abs(low):
        return
    ticks = linear_ticks(low, high)
    step = ticks[1] - ticks[0]
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= low + 1e-6 * step and ticks[-1] >= high - 1e-6 * step
    lead = step / 10 ** math.floor(math.log10(step * (1 + 1e-6)))
    assert min(abs(lead - nice) for nice in (1, 2, 5)) < 1e-3


@given(st.floats(1e-6, 1e6), st.floats(10, 1e6))
def test_log_ticks_enclose(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert ticks[0] <= low * (1 + 1e-9) and ticks[-1] >= low * ratio * (1 - 1e-9)
    assert 2 <= len(ticks) <= 15 and all(after > before for before, after in pairwise(ticks))


def test_ticks_are_written_short() -> None:
    assert [short(value) for value in (0, 0.05, 20, 2500, 1.5e6, 3e9)] == ["0", "0.05", "20", "2.5k", "1.5M", "3G"]


def marks(points: list[tuple[float, float]]) -> list[Mark]:
    found = [Mark(str(i), p, r, i, f"run <{i}> & co") for i, (p, r) in enumerate(points, 1)]
    return [*found, Mark("real", 0.8, 0.8, 0, "real pictures")]


def numbers_in(svg: str) -> list[float]:
    return [float(value) for value in re.findall(r'\b(?:cx|cy|x|y)="(-?[\d.]+)"', svg)]


@given(st.lists(st.tuples(share, share), max_size=12))
def test_the_map_is_well_formed_and_accessible(points: list[tuple[float, float]]) -> None:
    svg = quality_map(marks(points), "m0")
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img" and root.attrib["aria-labelledby"].split() == ["m0-t", "m0-d"]
    told = root.findtext("desc") or ""
    assert "real pictures: precision 0.80, recall 0.80" in told
    assert all(f"run <{number}> & co" in told for number in range(1, len(points) + 1))
    assert len(root.findall("circle")) == len(points) + 1
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert all(-1 <= value <= max(width, height) for value in numbers_in(svg))


def test_the_map_puts_sharp_above_and_varied_to_the_right() -> None:
    svg = quality_map([Mark("1", 0.9, 0.1, 1, "a"), Mark("2", 0.2, 0.7, 2, "b")], "m")
    (sharp, varied) = ElementTree.fromstring(svg).findall("circle")
    assert float(sharp.attrib["cy"]) < float(varied.attrib["cy"])
    assert float(sharp.attrib["cx"]) < float(varied.attrib["cx"])
    above = quality_map([Mark("1", 1.2, 0.5, 1, "a")], "m")
    assert float(ElementTree.fromstring(above).findall("circle")[0].attrib["cy"]) >= 12, "beyond 1 is drawn at 1"


curves = st.lists(
    st.lists(st.floats(-1, 1e5), min_size=2, max_size=30),
    min_size=1,
    max_size=8,
)


@given(curves)
@example([[1.0, 5e-324]])
@example([[0.0, 5e-324]])
def test_a_curve_stays_in_its_box_whatever_the_scores(values: list[list[float]]) -> None:
    lines = [
        Series(str(number), number, tuple(range(100, 100 + 50 * len(scores), 50)), tuple(scores), f"<run {number}>")
        for number, scores in enumerate(values, 1)
    ]
    root = ElementTree.fromstring(score_curve(lines, "FD <x>", "c0"))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    drawn = [path.attrib["d"] for path in root.findall("path") if path.attrib["class"].startswith("s")]
    for path in drawn:
        for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path):
            assert 0 <= float(x) <= width and 0 <= float(y) <= height
    assert (root.findtext("title") or "").startswith("FD <x>")


def test_a_curve_falls_when_scores_fall_and_its_ring_is_at_the_best() -> None:
    svg = score_curve([Series("", 1, (100, 200, 300), (30.0, 10.0, 20.0), "run")], "FD", "c")
    root = ElementTree.fromstring(svg)
    path = next(each for each in root.findall("path") if each.attrib["class"] == "s1").attrib["d"]
    points = [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]
    assert points[0][1] < points[2][1] < points[1][1], "up in the picture is a smaller y"
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    ring = root.findall("circle")[0].attrib
    assert (float(ring["cx"]), float(ring["cy"])) == pytest.approx(points[1])


def test_colours_come_from_the_page_alone() -> None:
    svg = quality_map(marks([(0.5, 0.5)] * 9), "m") + score_curve([Series("1", 1, (1, 2), (2.0, 1.0), "a")], "FD", "c")
    assert not re.search(r"#[0-9a-fA-F]{3}|rgb\(|(?:fill|stroke)=\"(?!none)", svg)
    used = set(re.findall(r"\b[ts](\d)\b", " ".join(re.findall(r'class="([^"]*)"', svg))))
    assert used <= {str(number) for number in range(1, TONES + 1)}
    assert all(f"--c{number}:" in STYLE.split("@media")[0] for number in used)
    assert all(f"--c{number}:" in STYLE.split("@media")[1] for number in used), "dark has its own"
    assert [tone(number) for number in (1, TONES, TONES + 1)] == [1, TONES, 1]
