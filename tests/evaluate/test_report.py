"""The report shows what was measured: nothing from outside, nothing compared that cannot be, nothing cut."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import PROTOCOL, attribute, copying, curve, evaluation, scores, twins
from PIL import Image
from rich.console import Console

from ganvas.errors import StorageError
from ganvas.evaluate.report import Shown, console_tables, curves, write_report
from ganvas.evaluate.result import Evaluation, Score
from ganvas.evaluate.tables import COLUMNS, by_protocol, name_all
from ganvas.images import read_provenance

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=a> [red]"
PIXELS = PROTOCOL.model_copy(update={"features": "pixels@32", "dimensions": 3072})


class Page(HTMLParser):
    """The elements of a page, its text, its tables (rows of cells, heads among them) and its charts (their texts)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self.charts: list[str] = []
        self._inside = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        elif tag == "svg":
            self.charts.append("")
        if tag in ("svg", "style", "table", "th", "td"):
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("svg", "style", "table"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            return
        self.text += data
        if self._inside == "svg":
            self.charts[-1] += data + "\n"
        elif self._inside in ("th", "td"):
            self.tables[-1][-1][-1] += data

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.tags if attribute in attributes]

    def pictures(self) -> list[bytes]:
        return [base64.b64decode(link.split(",", 1)[1]) for link in self.all("src")]

    def scores(self) -> list[list[list[str]]]:
        """The tables of scores: their first head is empty."""
        return [table for table in self.tables if table[0][0] == ""]


def discs(count: int, seed: int = 0, side: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def shown(seed: int = 0, **changed: Any) -> Shown:
    pairs = [(discs(1, 50 + place)[0], discs(1, 70 + place)[0], f"distance {place}") for place in range(3)]
    usual: dict[str, Any] = {"samples": discs(9, seed), "real": discs(4, 99), "pairs": pairs}
    return Shown(**usual | changed)


def rich_one(name: str = "discs", **changed: Any) -> Evaluation:
    """One with everything in it."""
    usual: dict[str, Any] = {
        "name": name,
        "source": f"runs/{name}",
        "classes": [scores("cat"), scores("dog", kid=Score(value=0.03, low=0.02, high=0.04))],
        "copying": [copying(), copying("pixels@32", copied=True)],
        "duplicates": twins(40, largest=4),
        "attributes": [attribute("hair", {"mohawk": "missing", "bun": "as it should be"})],
        "curve": curve([50, 40, 30, 25, 22, 20]),
        "curve_features": "FD lite0@96",
        "notes": ["A note."],
        "seconds": {"opening": 1.0, "metrics": 3.0},
    }
    return evaluation(**usual | changed)


def page_of(folder: Path, *evaluations: Evaluation, pictures: list[Shown] | None = None) -> Page:
    found = pictures or [shown(seed) for seed in range(len(evaluations))]
    return Page(write_report(evaluations, found, folder / "report.html"))


def pixels(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def test_the_page_stands_alone(tmp_path: Path) -> None:
    page = page_of(tmp_path, rich_one(), rich_one("other"))
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "base", "a"}
    assert all(re.match(r"data:image/(png|webp);base64,", link) for link in page.all("src"))
    raw = (tmp_path / "report.html").read_text("utf-8")
    outside = re.sub(r'src="data:[^"]*"', "", raw)
    assert not re.search(r"url\(|@import|https?:|srcset|href", outside)


def test_it_shows_the_samples_then_real_pictures_then_the_pairs(tmp_path: Path) -> None:
    pictures = shown()
    images = page_of(tmp_path, rich_one(), pictures=[pictures]).pictures()
    expected = [*pictures.samples, *pictures.real, *(image for pair in pictures.pairs for image in pair[:2])]
    assert len(images) == len(expected)
    assert all(np.array_equal(pixels(data), image) for data, image in zip(images, expected, strict=True))
    marked = [read_provenance(data) for data in images]
    assert all(mark is not None and mark.weights == "0123456789abcdef" for mark in [*marked[:9], *marked[13::2]])
    assert not any([*marked[9:13], *marked[14::2]]), "no mark of a model on what no model made"


def test_grey_and_large_pictures_are_shown_too(tmp_path: Path) -> None:
    large = Shown(samples=discs(2, side=160, channels=1), real=discs(1, side=160, channels=1))
    page = page_of(tmp_path, evaluation(weights=None), pictures=[large])
    assert [link[:16] for link in page.all("src")] == ["data:image/webp;"] * 3
    assert "Nearest training pictures" not in page.text and not any(map(read_provenance, page.pictures()))


def test_samples_and_real_pictures_have_one_scale(tmp_path: Path) -> None:
    page = page_of(tmp_path, evaluation())
    sheets = [attributes["style"] for _, attributes in page.tags if attributes.get("class") == "sheet"]
    assert len(sheets) == 2 and len(set(sheets)) == 1, "nine samples and four real pictures, in as many columns"


def test_real_pictures_stand_beside_in_every_table_of_scores(tmp_path: Path) -> None:
    page = page_of(tmp_path, evaluation(scores(recall=0.41)))
    (table,) = page.scores()
    head, own, real = table
    assert [cell.split("\xa0")[0] for cell in head] == ["", "images", *(column.short for column in COLUMNS)]
    assert own[0] == "discs" and real[0] == "real pictures"
    place = next(index for index, cell in enumerate(head) if cell.startswith("recall"))
    assert (own[place], real[place]) == ("0.41", "0.80")
    for text in ("lite0@128", "bicubic, antialiased, to 128x128", "5,000 images against 2,400 pictures", "held out"):
        assert text in page.text
    assert all(column.meaning in page.text for column in COLUMNS)


def test_every_cell_carries_its_head_for_narrow_pages(tmp_path: Path) -> None:
    page = page_of(tmp_path, rich_one())
    heads = set(page.all("data-head"))
    assert {f"{column.short}\xa0" for column in COLUMNS} <= {head[: head.find("\xa0") + 1] for head in heads}
    assert {"images", "C_T", "median distance"} <= heads


def test_scores_of_other_protocols_never_share_a_table_or_a_chart(tmp_path: Path) -> None:
    found = [
        evaluation(name="a", source="runs/a"),
        evaluation(scores(precision=0.123), name="a", source="runs/a", protocol=PIXELS),
        evaluation(scores(precision=0.321, count=900), name="b", source="runs/b"),
        evaluation(name="c", source="runs/c"),
    ]
    assert by_protocol(found) == [[0, 3], [1], [2]]
    page = page_of(tmp_path, *found)
    runs = [[row[0].split(" ")[-1] for row in table[1:-1]] for table in page.scores()]
    assert runs == [["a", "c"], ["a"], ["b"]]
    assert ["precision 0.12" in chart for chart in page.charts] == [False, True, False]
    assert "cannot be compared" in page.text


def test_two_runs_of_one_protocol_share_one_table_and_one_row_of_real_pictures(tmp_path: Path) -> None:
    page = page_of(tmp_path, *(evaluation(name=name, source=name) for name in "abc"))
    (table,) = page.scores()
    assert [row[0] for row in table] == ["", "1 a", "2 b", "3 c", "real pictures"]
    (chart,) = page.charts
    assert chart.count("precision 0.80") == 4


def test_rows_of_real_pictures_that_differ_are_all_shown(tmp_path: Path) -> None:
    other = evaluation(name="b", source="b", real=scores("real", recall=0.7))
    (table,) = page_of(tmp_path, evaluation(name="a"), other).scores()
    assert [row[0] for row in table[-2:]] == ["real pictures beside 1", "real pictures beside 2"]


def test_curves_of_other_features_or_pictures_never_share_a_chart() -> None:
    points = curve([3, 2, 1])
    elsewhere = PROTOCOL.model_copy(update={"data_digest": "0" * 32})
    found = [
        evaluation(name="a", source="a", curve=points, curve_features="FD lite0@96"),
        evaluation(name="b", source="b", curve=points, curve_features="FD lite0@96"),
        evaluation(name="c", source="c", curve=points, curve_features="FD pixels@32"),
        evaluation(name="d", source="d", curve=points, curve_features="FD lite0@96", protocol=elsewhere),
        evaluation(name="a", source="a", curve=points, curve_features="FD lite0@96", protocol=PIXELS),
        evaluation(name="e", source="e", curve=points[:1], curve_features="FD lite0@96"),
    ]
    drawn = {key: [name.title for name, _, _ in lines] for key, lines in curves(found, name_all(found)).items()}
    assert [(key[0], titles) for key, titles in drawn.items()] == [
        ("FD lite0@96", ["a", "b"]),
        ("FD pixels@32", ["c"]),
        ("FD lite0@96", ["d"]),
    ]


def test_text_from_outside_cannot_become_markup(tmp_path: Path) -> None:
    hostile = dict.fromkeys(("name", "source", "pictures", "curve_features"), HOSTILE)
    found = rich_one(
        **hostile,
        protocol=PROTOCOL.model_copy(update={"features": HOSTILE, "resizer": HOSTILE, "split": HOSTILE}),
        classes=[scores(HOSTILE), scores("dog")],
        copying=[copying(HOSTILE, copied=True)],
        attributes=[attribute(HOSTILE, {HOSTILE: "missing", "bun": "as it should be"})],
        words=["Sharp (" + HOSTILE, HOSTILE],
        notes=[HOSTILE],
        seconds={HOSTILE: 1.0},
    )
    pictures = shown(pairs=[(discs(1)[0], discs(1)[0], HOSTILE)])
    for others in ([], [rich_one("second")]):
        page = page_of(tmp_path, found, *others, pictures=[pictures, *(shown(1) for _ in others)])
        assert "script" not in {tag for tag, _ in page.tags} and "x" not in page.all("src")
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        assert page.text.count("<script>alert(1)") > 12


def test_a_sheet_is_shown_once_where_two_evaluations_share_it(tmp_path: Path) -> None:
    one, two = evaluation(), evaluation(protocol=PIXELS)
    images = page_of(tmp_path, one, two, pictures=[shown(pairs=[]), shown(pairs=[])]).pictures()
    assert len(images) == 9 + 4
    other = evaluation(name="other", source="runs/other")
    images = page_of(tmp_path, one, other, pictures=[shown(0, pairs=[]), shown(1, pairs=[])]).pictures()
    assert len(images) == 9 + 9 + 4, "the same real pictures beside two runs"


def test_ids_are_unique_and_charts_are_named(tmp_path: Path) -> None:
    page = page_of(tmp_path, rich_one(), rich_one("b", protocol=PIXELS, curve_features="FD pixels@32"))
    ids = page.all("id")
    assert len(ids) == len(set(ids)) == 2 * len(page.charts) == 8
    assert all(set(label.split()) <= set(ids) for label in page.all("aria-labelledby"))


def test_what_is_missing_is_marked_and_untrusted_probes_are_not_judged(tmp_path: Path) -> None:
    blind = attribute("earrings", {"hoop": "missing", "none": "as it should be"}, accuracy=0.71, chance=0.7)
    page = page_of(tmp_path, rich_one(attributes=[rich_one().attributes[0], blind]))
    cells = [row[0] for table in page.tables for row in table]
    assert "mohawk missing" in cells and "bun " in cells and "hoop " in cells
    assert "not judged" in page.text
    assert sum(tag == "details" and "open" in attributes for tag, attributes in page.tags) == 1


def test_sections_without_anything_to_show_are_left_out(tmp_path: Path) -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("frechet_distance", "kid", "precision", "recall", "density", "coverage", "mind")
    )
    bare = evaluation(scores(**nothing), real=scores("real", **nothing), seen_images=None, weights=None)
    page = page_of(tmp_path, bare, pictures=[shown(pairs=[])])
    for heading in ("Nearest training", "At a glance", "Class by class", "What is missing", "Copies and twins"):
        assert heading not in page.text
    assert "Too few" not in page.text and "cannot be judged" in page.text and not page.charts


def test_names_are_told_apart() -> None:
    def titles(*found: Evaluation) -> list[tuple[int, str]]:
        return [tuple(name) for name in name_all(found)]  # type: ignore[misc]

    same = {"name": "run", "source": "x/run"}
    assert titles(evaluation(**same), evaluation(**same, protocol=PIXELS)) == [(1, "run"), (1, "run")]
    assert titles(evaluation(**same), evaluation(name="run", source="y/run")) == [(1, "x/run"), (2, "y/run")]
    cut = titles(evaluation(**same), evaluation(**same, truncation=0.7))
    assert cut == [(1, "x/run, truncation 1.0"), (2, "x/run, truncation 0.7")]
    later = titles(evaluation(**same), evaluation(**same, weights="f" * 16))
    assert len({title for _, title in later}) == 2


def test_the_same_evaluations_give_the_same_bytes(tmp_path: Path) -> None:
    page_of(tmp_path, rich_one())
    first = (tmp_path / "report.html").read_bytes()
    page_of(tmp_path, rich_one())
    assert (tmp_path / "report.html").read_bytes() == first


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError) as caught:
        write_report([evaluation()], [shown()], tmp_path / "file" / "report.html")
    assert "\n" not in str(caught.value)


def printed(evaluations: list[Evaluation], width: int = 100) -> list[str]:
    """What a terminal of that width shows, line by line, without trailing spaces."""
    console = Console(width=width, file=StringIO(), force_terminal=False)
    for table in console_tables(evaluations):
        console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_the_printed_table_fits_and_cuts_nothing() -> None:
    widest = scores(
        count=50_000,
        frechet_distance=12_345.0,
        kid=Score(value=-0.00012, low=-0.00021, high=-0.00003),
        density=12.34,
        mind=0.0123,
    )
    lines = printed([evaluation(widest, name="a-long-name-" * 5)])
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    for figure in ("50,000", "12,345", "-0.00012 (-0.00021, -0.00003)", "12.34", "0.0123"):
        assert figure in text
    assert "…" not in text
    assert "".join(line[:15].strip() for line in lines[2:6]) == "a-long-name-" * 5


def test_a_narrow_terminal_still_has_every_figure() -> None:
    text = "\n".join(printed([evaluation()], width=80))
    assert "…" not in text
    assert all(figure in text for figure in ("0.00010", "(-0.00030,", "0.00050)", "0.95", "2,400"))


def test_printed_tables_keep_protocols_apart_and_end_with_real_pictures() -> None:
    tables = console_tables([evaluation(), evaluation(protocol=PIXELS), evaluation(name="b", source="b")])
    assert [table.row_count for table in tables] == [3, 2]
    lines = printed([evaluation(name="[red]x[/red]")])
    rows = [line for line in lines if "0.95" in line]
    assert "[red]x[/red]" in rows[0] and "real pictures" in rows[1]
    assert any("lite0@128: 5,000 images against 2,400 pictures of photos" in line for line in lines)
