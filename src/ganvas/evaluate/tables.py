"""The tables of a report, as HTML. Only scores of one protocol, from as many images, ever share a column."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ganvas.evaluate.charts import tone
from ganvas.evaluate.figures import number, percent, plural, share, spell
from ganvas.evaluate.result import Attribute, Copying, Duplicates, Evaluation, Scores
from ganvas.evaluate.words import is_trusted

SPLITS = {"heldout": "held out of training", "train": "trained on", "all": "half of all, at random"}


class Column(NamedTuple):
    """A score: its names, what is better, what it means, and its figure as text."""

    name: str
    short: str
    better: str
    meaning: str
    figure: Callable[[Scores], str]


COLUMNS = (
    Column(
        "Fréchet distance, FD", "FD", "lower is better",
        "How far apart the two clouds of features lie, each taken as a Gaussian. It falls with more images, so it is "
        "read against the row of real pictures.",
        lambda row: number(row.frechet_distance),
    ),
    Column(
        "KID", "KID", "lower is better",
        "Kernel distance: another distance of the clouds, whose mean does not depend on how many images there are; 0 "
        "for real pictures, a little below by chance. In brackets its 95 % interval.",
        lambda row: spell(row.kid, ", "),
    ),
    Column(
        "precision", "precision", "higher is better",
        "The share of samples that lie among real pictures: they look real. Blur, noise and artefacts lower it.",
        lambda row: share(row.precision),
    ),
    Column(
        "recall", "recall", "higher is better",
        "The share of real pictures that lie among the samples: how much of the variety is there.",
        lambda row: share(row.recall),
    ),
    Column(
        "density", "density", "near real pictures is best",
        "As precision, less moved by odd pictures. Above that of real pictures, samples crowd where pictures are "
        "commonest.",
        lambda row: share(row.density),
    ),
    Column(
        "coverage", "coverage", "higher is better",
        "As recall, less moved by odd samples: the share of real pictures that have a sample near them.",
        lambda row: share(row.coverage),
    ),
    Column(
        "MIND", "MIND", "lower is better",
        "Sliced Wasserstein distance: how far the clouds are apart along many directions, taken one by one.",
        lambda row: number(row.mind),
    ),
)  # fmt: skip
ARROWS = {"lower is better": "↓", "higher is better": "↑", "near real pictures is best": "≈"}
HEADS = [f"{column.short}&nbsp;{ARROWS[column.better]}" for column in COLUMNS]
SCORES_EXPLAINED = [(column.name, f"{ARROWS[column.better]} {column.better}", column.meaning) for column in COLUMNS]
COPYING_EXPLAINED = [
    (
        "copies", "",
        "Yes where samples lie far nearer to one training picture than to the next ones, more of them than chance and "
        "likeness among real pictures explain. Mirror images count.",
    ),
    (
        "nearer than 95 %", "5 % is chance",
        "How many samples lie nearer to a training picture than 95 % of the held-out pictures do, which cannot be "
        "copies.",
    ),
    (
        "median distance", "1 is that of unseen pictures",
        "That of samples to the nearest training picture, over that of held-out pictures.",
    ),
    (
        "C_T", "0 is chance, below -3 is too near",
        "A z-score: whether samples are nearer to training pictures than held-out ones are, region by region (Meehan, "
        "Chaudhuri and Dasgupta 2020); p is of its test. Smooth or little varied samples lower it too.",
    ),
]  # fmt: skip


class Name(NamedTuple):
    """What a report calls the subject of an evaluation: a number from 1 on, and a title that no other subject has."""

    number: int
    title: str


def name_all(evaluations: Sequence[Evaluation]) -> list[Name]:
    """A name for each evaluation; the same for those of one subject in several features."""
    keys = [(each.source, each.weights, each.truncation) for each in evaluations]
    distinct = list(dict.fromkeys(keys))
    first = [evaluations[keys.index(key)] for key in distinct]
    titles = [each.name for each in first]
    ways: tuple[Callable[[Evaluation], str], ...] = (
        lambda each: each.source,
        lambda each: f"{each.source}, truncation {each.truncation}",
        lambda each: f"{each.source}, truncation {each.truncation}, weights {each.weights}",
    )
    for way in ways:
        titles = [way(each) if titles.count(title) > 1 else title for each, title in zip(first, titles, strict=True)]
    return [Name(distinct.index(key) + 1, titles[distinct.index(key)]) for key in keys]


def by_protocol(evaluations: Sequence[Evaluation]) -> list[list[int]]:
    """The evaluations whose scores may share a column, by index: of one protocol and one number of images."""
    groups: dict[object, list[int]] = {}
    for index, each in enumerate(evaluations):
        key = (each.protocol, each.pictures, each.samples.count, each.samples.reference)
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def protocol_line(evaluation: Evaluation) -> str:
    """What the scores of an evaluation depend on beside the images and the features, in one line of text."""
    protocol, row = evaluation.protocol, evaluation.samples
    return (
        f"{plural(row.count, 'image')} against {reference_of(evaluation)}, at {'x'.join(map(str, protocol.size))}; "
        f"{protocol.dimensions:,} dimensions; {protocol.resizer}; digest {protocol.data_digest[:8]}; "
        f"ganvas {protocol.ganvas}"
    )


def reference_of(evaluation: Evaluation) -> str:
    """`762 pictures of faces (held out of training)`."""
    split = SPLITS.get(evaluation.protocol.split, evaluation.protocol.split)
    return f"{plural(evaluation.samples.reference, 'picture')} of {evaluation.pictures} ({split})"


def rows_of(evaluations: Sequence[Evaluation], names: Sequence[Name]) -> list[tuple[Name | None, str, Scores]]:
    """The rows of one table: each subject, then real pictures, each kind of row of them once."""
    rows: list[tuple[Name | None, str, Scores]] = [
        (name, name.title, each.samples) for each, name in zip(evaluations, names, strict=True)
    ]
    reals = list(dict.fromkeys(each.real for each in evaluations))
    for real in reals:
        beside = [str(name.number) for each, name in zip(evaluations, names, strict=True) if each.real == real]
        title = "real pictures" if len(reals) == 1 else f"real pictures beside {', '.join(beside)}"
        rows.append((None, title, real))
    return rows


def scores_table(rows: Sequence[tuple[Name | None, str, Scores]], numbered: bool) -> str:
    """A row for each set of images, a column for each score; real pictures set off."""
    body = [
        Row(
            (number_chip(name.number) if name and numbered else "") + html.escape(title),
            [f"{row.count:,}", *(html.escape(column.figure(row)) for column in COLUMNS)],
            "" if name else "real",
        )
        for name, title, row in rows
    ]
    return wide("Scores", ["", "images", *HEADS], body)


def classes_table(classes: Sequence[Scores]) -> str:
    """A row for each class, the farthest from its pictures first."""
    ordered = sorted(classes, key=lambda row: -(row.kid.value if row.kid else row.frechet_distance or 0))
    body = [
        Row(
            html.escape(row.name),
            [f"{row.count:,}", f"{row.reference:,}", *(html.escape(column.figure(row)) for column in COLUMNS)],
        )
        for row in ordered
    ]
    return wide("Scores of classes", ["class", "images", "pictures", *HEADS], body)


def copying_table(copying: Sequence[Copying]) -> str:
    """A row for each feature space in which copies were looked for."""
    heads = ["features", "copies", "nearer than 95 %", "median distance", "C_T", "p"]
    body = [
        Row(
            html.escape(each.features),
            [
                flag("yes", "bad") if each.copied else flag("no sign", "good"),
                percent(each.closer, 1),
                f"{each.median_ratio:.2f}&times;",
                "-" if each.c_t is None else f"{each.c_t:.1f}",
                "-" if each.p_value is None else f"{each.p_value:.2g}",
                *(f"{count:,}" for count in (each.samples, each.heldout, each.train)),
            ],
        )
        for each in copying
    ]
    return wide("Copying", [*heads, "samples", "held out", "training"], body)


def explanations(of: Sequence[tuple[str, str, str]]) -> str:
    """A list of terms, each with what is better, and its meaning; all of them text."""
    return "".join(
        f"<div><dt>{html.escape(term)} <small>{html.escape(better)}</small><dd>{html.escape(meaning)}</div>"
        for term, better, meaning in of
    )


def twins_line(twins: Duplicates) -> str:
    """Samples that repeat each other, beside the same count of real pictures."""
    largest = f" The largest group of them has {plural(twins.largest, 'image')}." if twins.largest else ""
    return (
        f"<p>Samples that nearly repeat another: <b>{twins.repeated:,}</b> of {twins.samples:,}; of as many real "
        f"pictures: {twins.expected:,}.{largest}</p>"
    )


def attribute_bars(attribute: Attribute) -> str:
    """How often real pictures and samples have each value; open where something is missing, rare or too frequent."""
    trusted = is_trusted(attribute)
    odd = [value for value in attribute.values if value.verdict in ("missing", "rare", "too frequent")]
    counts = [f"{sum(value.verdict == word for value in odd)} {word}" for word in ("missing", "rare", "too frequent")]
    found = ", ".join(each for each in counts if not each.startswith("0 ")) or "as it should be"
    largest = max([0.01, *(max(value.real, value.samples) for value in attribute.values)])
    rows = ""
    for value in sorted(attribute.values, key=lambda value: -value.real):
        kind = {"missing": "bad", "rare": "bad", "too frequent": "odd"}.get(value.verdict, "")
        tag = flag(value.verdict, kind) if kind and trusted else ""
        bars = "".join(
            f'<span class="bar {name}" style="width:{100 * size / largest:.1f}%"></span>'
            for name, size in (("of-real", value.real), ("of-samples", value.samples))
        )
        rows += (
            f'<tr><th>{html.escape(value.value)} {tag}<td class="bars">{bars}'
            f"<td>{percent(value.real, 1)}<br>{percent(value.samples, 1)}"
        )
    seen = f"probe right on {percent(attribute.accuracy)} of held-out pictures, guessing on {percent(attribute.chance)}"
    said = found if trusted else "not judged: the probe can hardly see it"
    return (
        f"<details{' open' if odd and trusted else ''}><summary><b>{html.escape(attribute.name)}</b> "
        f'<small>{said}; {text(seen)}</small></summary><table class="values">{rows}</table></details>'
    )


def time_bars(seconds: dict[str, float]) -> str:
    """Where the time went, stage by stage, in the order of the work."""
    total = sum(seconds.values()) or 1.0
    rows = "".join(
        f'<tr><th>{html.escape(stage)}<td class="bars"><span class="bar of-samples" style="width:'
        f'{100 * spent / total:.1f}%"></span><td>{spent:,.1f}&nbsp;s<br>{percent(spent / total)}'
        for stage, spent in seconds.items()
    )
    return f'<table class="values">{rows}</table>'


def facts_table(evaluation: Evaluation) -> str:
    """Everything that has to be the same before two scores may be compared, and what was evaluated."""
    protocol = evaluation.protocol
    facts = {
        "evaluated": evaluation.source,
        "images": f"{evaluation.samples.count:,}",
        "images seen in training": None if evaluation.seen_images is None else f"{evaluation.seen_images:,}",
        "weights": evaluation.weights,
        "truncation": None if evaluation.truncation is None else f"{evaluation.truncation:g}",
        "reference": reference_of(evaluation),
        "size": "x".join(map(str, protocol.size)),
        "features": f"{protocol.features}, {protocol.dimensions:,} dimensions",
        "resizing": protocol.resizer,
        "digest of the pictures": protocol.data_digest,
        "made with": f"ganvas {protocol.ganvas}",
    }
    rows = "".join(f"<tr><th>{key}<td>{html.escape(text)}" for key, text in facts.items() if text is not None)
    return f'<table class="facts">{rows}</table>'


def text(line: str) -> str:
    """A line of text as HTML; a number stays on the line of its unit."""
    return html.escape(line).replace(" %", "&nbsp;%")


def number_chip(series: int) -> str:
    """The number of a subject in its colour."""
    return f'<span class="chip k{tone(series)}">{series}</span> '


def flag(text: str, kind: str) -> str:
    """A word that stands out: good, odd or bad."""
    return f'<span class="flag {kind}">{html.escape(text)}</span>'


LONG = ' class="long"'  # a cell that has a line of its own on a narrow page


class Row(NamedTuple):
    """A row of a table: its head and its cells as HTML, and a class of its own where it has one."""

    head: str
    cells: Sequence[str]
    css: str = ""


def wide(label: str, heads: Sequence[str], rows: Sequence[Row]) -> str:
    """A table of many columns. On a narrow page each row becomes a small card whose cells carry the heads.

    In between it scrolls by itself, for which the keyboard can reach it. `label` and `heads` are HTML.
    """
    top = "".join(f'<th scope="col">{head}' for head in heads)
    body = "".join(
        f'<tr class="{row.css}"><th scope="row">{row.head}'
        + "".join(
            f'<td data-head="{head}"{LONG if len(html.unescape(head)) > 12 or "(" in cell else ""}>{cell}'
            for head, cell in zip(heads[1:], row.cells, strict=True)
        )
        for row in rows
    )
    table = f"<table><thead><tr>{top}</thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">{table}</div>'
