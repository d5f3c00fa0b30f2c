"""The report of evaluations: one page for looking, and the tables that the command prints."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from ganvas.evaluate import tables
from ganvas.evaluate.charts import Mark, Series, quality_map, score_curve
from ganvas.evaluate.figures import plural
from ganvas.evaluate.result import Evaluation
from ganvas.evaluate.style import STYLE
from ganvas.evaluate.tables import COLUMNS, Name, by_protocol, name_all, number_chip, protocol_line, rows_of
from ganvas.evaluate.words import say
from ganvas.files import one_line
from ganvas.images import Pixels, Provenance, encode
from ganvas.page import document, figure, inline, write_page

# The width in CSS pixels that a sheet of images is enlarged towards, by whole factors: two beside each other, or three.
TWO, THREE = 540, 344
CONSOLE = 100  # columns that a printed table may take
LARGE = 128  # image side, in pixels, above which pairs are made smaller, and images are not stored as PNG


@dataclass(frozen=True)
class Shown:
    """The pictures of one evaluation that its report shows."""

    samples: Pixels  # uint8 [n, H, W, C], up to 64
    real: Pixels  # uint8 [n, H, W, C], up to 64, held out of training where any are
    # A sample (mirrored where that is nearer), the training picture nearest to it, both uint8 [H, W, C]; a caption.
    pairs: list[tuple[Pixels, Pixels, str]] = field(default_factory=list)


def write_report(evaluations: Sequence[Evaluation], pictures: Sequence[Shown], to: Path) -> Path:
    """Write the page of `evaluations`, at least one, with the `pictures` of each, to `to`, and return that path.

    Several stand side by side, in one table and one figure for each protocol: scores of different features, pictures
    or numbers of images never share a column or a chart. Raises StorageError where it cannot be written.
    """
    names = name_all(evaluations)
    titles = list(dict.fromkeys(name.title for name in names))
    sections = (
        words(evaluations, names),
        sheets(evaluations, names, pictures),
        pairs(evaluations, names, pictures),
        scores(evaluations, names),
        maps_and_curves(evaluations, names),
        classes(evaluations, names),
        attributes(evaluations, names),
        copying(evaluations, names),
        times_and_protocols(evaluations, names),
    )
    title = ", ".join(titles) if len(titles) < 4 else f"{', '.join(titles[:2])} and {len(titles) - 2} more"
    body = f"<h1>{html.escape(title)}</h1><p>{html.escape(headline(evaluations))}</p><main>{''.join(sections)}</main>"
    write_page(to, document(f"{title} - ganvas evaluate", body, STYLE))
    return to


def headline(evaluations: Sequence[Evaluation]) -> str:
    """One line: what was compared with what."""
    first = evaluations[0]
    if len(evaluations) > 1:
        groups = len(by_protocol(evaluations))
        apart = "" if groups == 1 else f"; {groups} protocols, whose scores are not comparable, are kept apart"
        return f"{len(evaluations)} evaluations, beside real pictures{apart}."
    after = "" if first.seen_images is None else f", made after {plural(first.seen_images, 'image')} seen in training,"
    return f"{plural(first.samples.count, 'image')}{after} against {tables.reference_of(first)}."


def full(evaluation: Evaluation, name: Name, evaluations: Sequence[Evaluation]) -> str:
    """The title of one evaluation among others; `""` where it is the only one."""
    if len(evaluations) == 1:
        return ""
    several = len({each.protocol.features for each in evaluations}) > 1
    return f"{name.title}, by {evaluation.protocol.features}" if several else name.title


def words(evaluations: Sequence[Evaluation], names: Sequence[Name]) -> str:
    """What the figures say, and what bounds them."""
    cards = ""
    for each, name in zip(evaluations, names, strict=True):
        first, *others = each.words or say(each)
        said = leading(first) + "".join(f"<li>{tables.text(line)}" for line in others)
        notes = "".join(f"<li>{html.escape(line)}" for line in each.notes)
        content = f'<ul class="words">{said}</ul>' + (f'<ul class="notes">{notes}</ul>' if notes else "")
        cards += figure(full(each, name, evaluations), "", content)
    return f'<h2>What the figures say</h2><div class="grid">{cards}</div>'


def leading(line: str) -> str:
    """The first sentence as an item of a list, its figures in brackets set back."""
    said, bracket, figures = line.partition(" (")
    return f"<li>{tables.text(said)}" + (f"<small>{bracket}{tables.text(figures)}</small>" if bracket else "")


def sheets(evaluations: Sequence[Evaluation], names: Sequence[Name], pictures: Sequence[Shown]) -> str:
    """Samples beside real pictures, all at one scale; what two evaluations share is shown once."""
    cards: dict[object, str] = {}
    room = THREE if len(set(names)) > 1 else TWO
    for each, name, shown in zip(evaluations, names, pictures, strict=True):
        most = max(len(shown.samples), len(shown.real))
        columns = 1 if most == 0 else min(most, max(2, round(most**0.5)))
        mark = None if each.weights is None else Provenance(each.protocol.ganvas, each.weights)
        sample_title = "Samples" if len(evaluations) == 1 else name.title
        for title, note, images, about in (
            (sample_title, f"{len(shown.samples)} of {each.samples.count:,}", shown.samples, mark),
            ("Real pictures", "never trained on" if each.copying else f"of {each.pictures}", shown.real, None),
        ):
            key = (title, images.shape, images.tobytes())
            if len(images) and key not in cards:
                cards[key] = figure(title, note, sheet(images, columns, room, about))
    ordered = sorted(cards, key=lambda key: isinstance(key, tuple) and key[0] == "Real pictures")
    return f'<h2>Samples beside real pictures</h2><div class="grid">{"".join(cards[key] for key in ordered)}</div>'


def sheet(images: Pixels, columns: int, room: int, mark: Provenance | None) -> str:
    """Images in so many columns, enlarged by a whole factor or, where `room` (CSS pixels) is little, made smaller."""
    width = images.shape[2]
    row = columns * (width + 2)
    factor = max(1, (room - 2 * columns) // (columns * width))
    css = "smooth" if row > room * 1.1 else "many" if row > room / 2 else ""
    shown = "".join(as_img(image, mark, "", css) for image in images)
    columns_css = f"repeat({columns},minmax(0,{width * factor}px))"
    return f'<div class="sheet" style="grid-template-columns:{columns_css}">{shown}</div>'


def as_img(image: Pixels, mark: Provenance | None, alt: str, css: str) -> str:
    """One image inside the page: as it is, or where it is large as good WebP, for a page of a size that opens."""
    kind = "webp" if max(image.shape[:2]) > LARGE else "png"
    return inline(encode(image, kind, mark), kind, alt, css)


def pairs(evaluations: Sequence[Evaluation], names: Sequence[Name], pictures: Sequence[Shown]) -> str:
    """The samples nearest to a training picture, each beside it."""
    cards = ""
    for each, name, shown in zip(evaluations, names, pictures, strict=True):
        mark = None if each.weights is None else Provenance(each.protocol.ganvas, each.weights)
        found = ""
        for sample, picture, caption in shown.pairs:
            css = "smooth" if sample.shape[1] > LARGE else ""
            left, right = as_img(sample, mark, "sample", css), as_img(picture, None, "training picture", css)
            found += f"<div><span>{left}{right}</span>{html.escape(caption)}</div>"
        if found:
            title = full(each, name, evaluations) or "The closest pairs"
            note = "left a sample, right the training picture nearest to it; nearest first"
            cards += figure(title, note, f'<div class="pairs">{found}</div>')
    return f'<h2>Nearest training pictures</h2><div class="stack">{cards}</div>' if cards else ""


def scores(evaluations: Sequence[Evaluation], names: Sequence[Name]) -> str:
    """A table for each protocol, with real pictures beside, and what each column means."""
    several = len({name.number for name in names}) > 1
    cards = []
    for group in by_protocol(evaluations):
        rows = rows_of([evaluations[index] for index in group], [names[index] for index in group])
        first = evaluations[group[0]]
        cards.append(figure(f"By {first.protocol.features}", protocol_line(first), tables.scores_table(rows, several)))
    apart = "<p>Tables of different protocols cannot be compared with each other.</p>" if len(cards) > 1 else ""
    told = tables.explanations(tables.SCORES_EXPLAINED)
    return f'<h2>Scores</h2>{apart}<div class="stack">{"".join(cards)}</div><dl>{told}</dl>'


def maps_and_curves(evaluations: Sequence[Evaluation], names: Sequence[Name]) -> str:
    """Precision over recall for each protocol, and scores over images seen for each kind of score."""
    several = len({name.number for name in names}) > 1
    cards = ""
    for place, group in enumerate(by_protocol(evaluations)):
        rows = rows_of([evaluations[index] for index in group], [names[index] for index in group])
        marks = [
            Mark(_label(name, several), row.precision, row.recall, name.number if name else 0, title)
            for name, title, row in rows
            if row.precision is not None and row.recall is not None
        ]
        if any(mark.series for mark in marks):
            listed = [mark.series for mark in marks]
            keys = _legend([names[index] for index in group if names[index].number in listed], several)
            note = evaluations[group[0]].protocol.features
            ring = '<li><span class="chip ring"></span>real pictures' if 0 in listed and several else ""
            legend = f'<ol class="legend">{keys}{ring}</ol>' if several else ""
            cards += figure("Sharp and varied?", note, quality_map(marks, f"map{place}") + legend)
    for place, (features, lines) in enumerate(curves(evaluations, names).items()):
        drawn = [
            Series(str(name.number) if several else "", name.number, seen, found, name.title)
            for name, seen, found in lines
        ]
        legend = f'<ol class="legend">{_legend([name for name, _, _ in lines], several)}</ol>' if several else ""
        note = "taken while training; lower is better, the ring is the best; not to be compared with the table"
        cards += figure(f"{features[0]} over images seen", note, score_curve(drawn, features[0], f"c{place}") + legend)
    return f'<h2>At a glance</h2><div class="grid">{cards}</div>' if cards else ""


Curve = tuple[Name, tuple[int, ...], tuple[float, ...]]


def curves(evaluations: Sequence[Evaluation], names: Sequence[Name]) -> dict[tuple[str, ...], list[Curve]]:
    """Curves that may share a chart: of one kind of score, against the same pictures at one size; each run once."""
    found: dict[tuple[str, ...], list[Curve]] = {}
    for each, name in zip(evaluations, names, strict=True):
        points = sorted((point for point in each.curve if isfinite(point.score)), key=lambda point: point.seen_images)
        if len(points) < 2:
            continue
        line = (name, tuple(point.seen_images for point in points), tuple(point.score for point in points))
        key = (each.curve_features or "score", each.protocol.data_digest, str(each.protocol.size))
        if line not in found.setdefault(key, []):
            found[key].append(line)
    return found


def _label(name: Name | None, several: bool) -> str:
    if name is None:
        return "real"
    return str(name.number) if several else "samples"


def _legend(names: Sequence[Name], several: bool) -> str:
    if not several:
        return ""
    return "".join(f"<li>{number_chip(name.number)}{html.escape(name.title)}" for name in dict.fromkeys(names))


def classes(evaluations: Sequence[Evaluation], names: Sequence[Name]) -> str:
    """The scores of each class."""
    cards = [
        figure(
            full(each, name, evaluations) or f"By {each.protocol.features}",
            "each class against its own pictures, the farthest first; with more images the Fréchet distance is lower",
            tables.classes_table(each.classes),
        )
        for each, name in zip(evaluations, names, strict=True)
        if each.classes
    ]
    return f'<h2>Class by class</h2><div class="stack">{"".join(cards)}</div>' if cards else ""


def attributes(evaluations: Sequence[Evaluation], names: Sequence[Name]) -> str:
    """How often real pictures and samples have each value of the known attributes."""
    cards = "".join(
        figure(
            full(each, name, evaluations) or "Known attributes",
            f"as a probe on {each.protocol.features} features sees them",
            "".join(tables.attribute_bars(one) for one in each.attributes),
        )
        for each, name in zip(evaluations, names, strict=True)
        if each.attributes
    )
    key = '<p><span class="key of-real"></span>real pictures<span class="key of-samples"></span>samples</p>'
    return f'<h2>What is missing</h2>{key}<div class="grid">{cards}</div>' if cards else ""


def copying(evaluations: Sequence[Evaluation], names: Sequence[Name]) -> str:
    """Whether training pictures come back, and whether samples repeat each other."""
    cards = []
    for each, name in zip(evaluations, names, strict=True):
        content = tables.copying_table(each.copying) if each.copying else ""
        content += tables.twins_line(each.duplicates) if each.duplicates else ""
        if content:
            cards.append(figure(full(each, name, evaluations) or "Do training pictures come back?", "", content))
    if not cards:
        return ""
    told = tables.explanations(tables.COPYING_EXPLAINED)
    return f'<h2>Copies and twins</h2><div class="stack">{"".join(cards)}</div><dl>{told}</dl>'


def times_and_protocols(evaluations: Sequence[Evaluation], names: Sequence[Name]) -> str:
    """Where the time went, and everything that the scores depend on."""
    content = ""
    for each, name in zip(evaluations, names, strict=True):
        cards = figure("Protocol", "", tables.facts_table(each))
        if each.seconds:
            total = f"{sum(each.seconds.values()):,.0f} s in all"
            cards += figure("Where the time went", total, tables.time_bars(each.seconds))
        title = full(each, name, evaluations)
        grid = f'<div class="grid">{cards}</div>'
        content += f"<details><summary>{html.escape(title)}</summary>{grid}</details>" if title else grid
    return f"<h2>How it was measured</h2>{content}"


def console_tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """What the command prints, within 100 columns: a table for each protocol, with real pictures in its last rows.

    A long name goes on in the next line, and on a narrower terminal an interval too; no figure is ever cut.
    """
    names, found = name_all(evaluations), []
    for group in by_protocol(evaluations):
        first = evaluations[group[0]]
        rows = [
            (one_line(title), [f"{row.count:,}", *(column.figure(row) for column in COLUMNS)], "" if name else "dim")
            for name, title, row in rows_of([evaluations[index] for index in group], [names[index] for index in group])
        ]
        heads = ["images", *(column.short for column in COLUMNS)]
        widths = [max(map(len, cells)) for cells in zip(heads, *(figures for _, figures, _ in rows), strict=True)]
        caption = Text(one_line(f"{first.protocol.features}: {protocol_line(first)}"), style="dim")
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, caption=caption, caption_justify="left")
        table.add_column("run", overflow="fold", max_width=max(8, CONSOLE - sum(widths) - len(widths)))
        for place, head in enumerate(heads):
            pieces = [len(piece) for _, figures, _ in rows for piece in figures[place].split(" ")]
            table.add_column(head, justify="right", no_wrap=head != "KID", min_width=max(len(head), *pieces))
        for title, figures, style in rows:
            table.add_row(Text(title), *figures, style=style)
        found.append(table)
    return found
