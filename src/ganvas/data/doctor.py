"""The data doctor: what is in a set of pictures, what is wrong with it, and what to expect from training on it.

    report = inspect(source, settings, cache_root);  report.tables() ──▶ terminal;  report.write(folder) ──▶ files

Decoding is `prepare`'s, so what is inspected is what will be trained on, and training finds its cache made.
"""

from __future__ import annotations

import io
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from ganvas.config import DataSettings
from ganvas.data.cache import Dataset, prepare
from ganvas.data.duplicates import Duplicates, find_duplicates
from ganvas.data.sheet import draw_sheet
from ganvas.data.source import Source
from ganvas.data.symmetry import FEWEST, SAFE_ACCURACY, flip_is_safe
from ganvas.errors import SettingError, StorageError
from ganvas.files import storage_errors, write_bytes, write_json

SHEET, REPORT = "sheet.png", "report.json"
SHOWN_GROUPS = 50  # of duplicates, in report.json
SHOWN_REASONS = 12
MANY_DUPLICATES = 0.05
SMALL_CLASS = 50

# (fewer pictures than this, word, what to expect). Different pictures for training are counted, so neither copies nor
# held-out ones. The borders are rules of thumb, not measurements on the set at hand: adversarial training without
# augmentation is known to memorise below some thousands of pictures (Karras et al. 2020, arXiv:2006.06676, figure 1).
_EXPECTATIONS: tuple[tuple[float, str, str], ...] = (
    (
        100,
        "will memorise",
        "Too few to learn variety from: expect your own pictures back, nearly unchanged. Good for trying things out.",
    ),
    (
        1_000,
        "small",
        "Expect recognisable images if all pictures show one subject in one framing, and expect many to resemble a "
        "training picture; train for a short time, and compare what comes out with the training pictures.",
    ),
    (
        10_000,
        "good for one subject",
        "Usually enough for one aligned subject (faces, one kind of object) at 64 pixels; with mixed subjects expect "
        "textures and outlines rather than objects. More pictures would still help.",
    ),
    (
        100_000,
        "good",
        "Enough for one subject in much variety. On one computer the training time, not the number of pictures, is "
        "likely to be the limit.",
    ),
    (
        float("inf"),
        "large",
        "More than a short training can look at: every picture may be seen only a few times. Give it hours, or use "
        "--count for a first look.",
    ),
)


@dataclass(frozen=True)
class Report:
    """What was found. `facts` is all of it as JSON values; the other fields hold what pictures are drawn from."""

    dataset: Dataset
    duplicates: Duplicates
    facts: dict[str, Any]

    def tables(self) -> RenderableType:
        """Return everything a person should know, for `rich.print`."""
        parts: list[RenderableType] = [_summary(self.facts)]
        if self.facts["set_aside_reasons"]:
            parts.append(_reasons("Set aside", self.facts["set_aside_reasons"]))
        if self.facts["warning_reasons"]:
            parts.append(_reasons("Used, but look at these", self.facts["warning_reasons"]))
        parts += [f"[yellow]![/] {escape(line)}" for line in self.facts["set_warnings"]]
        expected = self.facts["expectation"]
        parts.append(f"\n[bold]What to expect:[/] {expected['word']}. {expected['text']}")
        parts.append(f"[bold]Next:[/] {escape(self.facts['suggested_command'])}")
        return Group(*parts)

    def contact_sheet(self) -> Image.Image:
        """Return a picture (RGB) of the set: random pictures as trained on, pairs of near copies, names set aside."""
        dataset, groups = self.dataset, self.duplicates.near + self.duplicates.exact
        random = np.random.default_rng(0).permutation(len(dataset.images))[:96]
        aside = [f"{name}: {group['reason']}" for group in self.facts["set_aside_reasons"] for name in group["names"]]
        return draw_sheet(
            dataset.images,
            title=f"{dataset.name}: {len(dataset.images):,} pictures at {self.facts['size']}",
            chosen=sorted(random.tolist()),
            pairs=[(group[0], group[1]) for group in groups],
            lines=aside,
        )

    def write(self, folder: Path | str) -> tuple[Path, Path]:
        """Write the contact sheet and report.json into `folder`; return their paths. Raises StorageError."""
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise StorageError(f"{folder}: it is not a folder; name another one for the report")
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        encoded = io.BytesIO()
        self.contact_sheet().save(encoded, "png")
        write_bytes(folder / SHEET, encoded.getvalue())
        write_json(folder / REPORT, self.facts)
        return folder / SHEET, folder / REPORT


def inspect(
    source: Source,
    settings: DataSettings,
    cache_root: Path,
    *,
    spec: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Decode every picture, look for copies, and say what to expect.

    Args:
        source: where the pictures come from.
        settings: how they would be trained on; what is None is derived.
        cache_root: where prepared pictures are kept, for the training that follows.
        spec: what the person wrote for the source; the suggested command repeats it.
        progress: is called with (what is done: "decode" or "compare", pictures done, pictures in all).

    Raises:
        DataError: no picture can be used. StorageError: the cache cannot be written.
    """

    def tell(what: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(what, done, total)

    dataset = prepare(source, settings, cache_root, progress=tell("decode"))
    duplicates = find_duplicates(dataset.images, tell("compare"))
    return Report(dataset, duplicates, _facts(dataset, duplicates, spec or source.name))


def _facts(dataset: Dataset, duplicates: Duplicates, spec: str) -> dict[str, Any]:
    """Return the report as JSON values: what `prepare` counted, and what the doctor adds."""
    different = len(dataset.train) - _repeated(duplicates, dataset.train)
    height, width = dataset.images.shape[1:3]
    size = str(height) if height == width else f"{height}x{width}"
    facts = dict(dataset.report) | {
        "size": f"{width} x {height} pixels",
        "channels": "grey" if dataset.images.shape[3] == 1 else "RGB",
        "fit": dataset.settings.fit,
        "train": len(dataset.train),
        "held_out": len(dataset.heldout),
        "classes": _class_counts(dataset),
        "different": different,
        "duplicates": _duplicate_facts(dataset, duplicates),
        "mirror": _mirror(dataset),
        "expectation": expectation(different),
        "suggested_command": f"ganvas train {shlex.quote(spec)} --size {size} --minutes 10",
    }
    return facts | {"set_warnings": [*dataset.report["set_warnings"], *_more_warnings(dataset, facts)]}


def expectation(different: int) -> dict[str, Any]:
    """Say what training on `different` pictures (1 or more) usually gives: {"pictures", "word", "text"}.

    Raises SettingError for less than 1.
    """
    if different < 1:
        raise SettingError(f"{different} pictures: there is nothing to expect from fewer than 1; give a folder of them")
    word, text = next((word, text) for limit, word, text in _EXPECTATIONS if different < limit)
    return {"pictures": different, "word": word, "text": text}


def _repeated(duplicates: Duplicates, indices: np.ndarray[Any, Any]) -> int:
    """Return how many of `indices` repeat another one of them, exactly or nearly."""
    wanted = set(indices.tolist())
    inside = [sum(index in wanted for index in group) for group in duplicates.merged]
    return sum(count - 1 for count in inside if count > 1)


def _duplicate_facts(dataset: Dataset, duplicates: Duplicates) -> dict[str, Any]:
    held = set(dataset.heldout.tolist())
    crossing = [group for group in duplicates.merged if 0 < sum(index in held for index in group) < len(group)]
    return {
        "exact_groups": len(duplicates.exact),
        "near_groups": len(duplicates.near),
        "surplus": duplicates.surplus,
        "complete": duplicates.complete,
        "held_out_with_a_copy_in_training": sum(index in held for group in crossing for index in group),
        "exact": [[dataset.names[index] for index in group[:20]] for group in duplicates.exact[:SHOWN_GROUPS]],
        "near": [[dataset.names[index] for index in group[:20]] for group in duplicates.near[:SHOWN_GROUPS]],
    }


def _class_counts(dataset: Dataset) -> dict[str, int]:
    if dataset.labels is None:
        return {}
    counts = Counter(dataset.labels.tolist())
    return {name: counts[index] for index, name in enumerate(dataset.classes)}


def _mirror(dataset: Dataset) -> dict[str, Any]:
    """Say whether mirrored pictures will be trained on, and why."""
    accuracy, flip = dataset.mirror_accuracy, bool(dataset.settings.flip)
    if accuracy is None:
        why = f"fewer than {FEWEST} training pictures: whether mirror images look alike cannot be told"
    else:
        told = f"a small classifier tells a picture from its mirror image {accuracy:.0%} of the time"
        safe = flip_is_safe(accuracy)
        why = f"{told}; {'at most' if safe else 'more than'} {SAFE_ACCURACY:.0%} {'is safe' if safe else 'is not'}"
    if flip != flip_is_safe(accuracy):
        why = f"as asked for, although {why}"
    return {"flip": flip, "accuracy": accuracy, "why": why}


def _more_warnings(dataset: Dataset, facts: dict[str, Any]) -> list[str]:
    """Add to what `prepare` warns of: near copies, leaks into the held-out part, enlargement, scarce classes."""
    count, found = len(dataset.images), facts["duplicates"]
    lines = []
    if found["near_groups"] and found["surplus"] > MANY_DUPLICATES * count:
        lines.append(f"{found['surplus']} of {count} pictures repeat another one, exactly or nearly: see {SHEET}")
    if found["held_out_with_a_copy_in_training"]:
        leaked = found["held_out_with_a_copy_in_training"]
        lines.append(f"{leaked} held-out pictures have near copies in training: scores on them will flatter")
    if not found["complete"]:
        lines.append("the search for near copies stopped early: there are more than are counted here")
    median = facts["sizes"].get("median", dataset.images.shape[1:3])
    if median[0] < dataset.images.shape[1] or median[1] < dataset.images.shape[2]:
        lines.append(f"half of the pictures are smaller than {facts['size']} and are enlarged: a smaller --size fits")
    scarce = [name for name, number in facts["classes"].items() if number < SMALL_CLASS]
    if scarce:
        shown = ", ".join(scarce[:5]) + (", …" if len(scarce) > 5 else "")
        lines.append(f"{len(scarce)} classes have fewer than {SMALL_CLASS} pictures: {shown}")
    return lines


def _summary(facts: dict[str, Any]) -> Table:
    """Return the counts and derived settings as a table of two columns."""
    table = Table(show_header=False, box=None, title=escape(facts["source"]), title_justify="left", title_style="bold")
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in _rows(facts):
        table.add_row(name, escape(value))
    return table


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    used = f"{facts['accepted']:,} accepted + {facts['warned']:,} with a warning + {facts['set_aside']:,} set aside"
    copies, mirror, sizes = facts["duplicates"], facts["mirror"], facts["sizes"]
    rows = [("seen", f"{facts['seen']:,} = {used}")]
    if facts["not_chosen"]:
        rows.append(("left out by --count", f"{facts['not_chosen']:,}"))
    if sizes:
        small, middle, large = (
            f"{width}x{height}" for height, width in map(sizes.get, ("smallest", "median", "largest"))
        )
        rows.append(("sizes (width x height)", f"{small} to {large}, median {middle}, {sizes['distinct']:,} different"))
    rows += [
        ("modes", ", ".join(f"{mode} {number:,}" for mode, number in facts["modes"].items())),
        ("trained at", f"{facts['size']}, {facts['channels']}, {facts['fit']}"),
        ("held out", f"{facts['held_out']:,} of {facts['train'] + facts['held_out']:,}, never trained on"),
        ("exact copies", f"{copies['exact_groups']:,} groups, identical at this size"),
        ("near copies", f"{copies['near_groups']:,} groups"),
        ("mirroring", f"{'on' if mirror['flip'] else 'off'}: {mirror['why']}"),
        ("licence", facts["licence"] or "not known"),
    ]
    if facts["classes"]:
        rows.append(("classes", ", ".join(f"{name} {number:,}" for name, number in facts["classes"].items())))
    return rows


def _reasons(title: str, groups: Sequence[dict[str, Any]]) -> Table:
    """Return a table of reasons: how many files, why, which, and what to do."""
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=None)
    for column in ("files", "why", "which", "what to do"):
        table.add_column(column, justify="right" if column == "files" else "left", overflow="fold")
    for group in groups[:SHOWN_REASONS]:
        more = group["count"] - len(group["names"][:3])
        shown = ", ".join(group["names"][:3]) + (f" and {more:,} more" if more else "")
        table.add_row(f"{group['count']:,}", escape(group["reason"]), escape(shown), escape(group["fix"]))
    if len(groups) > SHOWN_REASONS:
        table.add_row("", f"and {len(groups) - SHOWN_REASONS} more reasons, in {REPORT}", "", "")
    return table
