"""What the files of a run say, in figures: how far, how fast, how well, how healthy. All of it is pure.

Settings are read off plain dictionaries: a run of another version of ganvas is to be answered as well.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ganvas.files import one_line
from ganvas.status.folder import Row, Rows, Stored, is_count, number
from ganvas.status.model import Health, Intervention, Pictures, Score, Trend

TREND_SCORES, TREND_SHARE = 6, 0.05
LONGEST = 300  # characters of a text out of a file


def entries(value: object) -> dict[str, Any]:
    """`value` where it is a dictionary, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: object) -> str | None:
    """`value` as one printable line where it is text, else None."""
    return one_line(value)[:LONGEST] if isinstance(value, str) and value else None


def count(value: object) -> int | None:
    """`value` where it is a count, else None."""
    return value if isinstance(value, int) and is_count(value) else None


def pictures_of(config: Mapping[str, Any], manifest: Mapping[str, Any], about: Mapping[str, Any]) -> Pictures:
    """What a run learns from: by its manifest, or by its configuration and the state of a checkpoint (`about`)."""
    known = entries(manifest.get("pictures"))
    classes = known.get("classes", about.get("classes"))
    return Pictures(
        source=text(known.get("source")) or text(config.get("source")),
        licence=text(known.get("licence")) or text(about.get("licence")),
        train=count(known.get("train")),
        held_out=count(known.get("held_out")),
        classes=len(classes) if isinstance(classes, list) else 0,
    )


def settings_of(config: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, str | int | float]:
    """The settings that say what is learned, and against which loss; those that are known."""
    training, network, objective = (entries(config.get(group)) for group in ("training", "network", "objective"))
    found = {
        "network": network.get("network"),
        "size": entries(config.get("data")).get("size"),
        "channels": count(about.get("channels")),
        "width": network.get("width"),
        "objective": objective.get("objective"),
        "penalty": objective.get("penalty"),
        "gamma": objective.get("gamma"),
        "batch": training.get("batch"),
        "learning_rate": training.get("learning_rate"),
        "seed": training.get("seed"),
    }
    kept: dict[str, str | int | float] = {}
    for name, value in found.items():
        known = text(value) if isinstance(value, str) else value if number(value) is not None else None
        if known is not None:
            kept[name] = known
    return kept


def limits(training: Mapping[str, Any], pictures: int | None) -> tuple[float | None, int | None]:
    """The budget of a run's training settings as (seconds, images seen); None where it sets no such limit."""
    minutes, images, epochs = (number(training.get(name)) for name in ("minutes", "images", "epochs"))
    by_images = [int(images)] if images else []
    if epochs and pictures:
        by_images.append(max(1, round(epochs * pictures)))
    return minutes * 60 if minutes else None, min(by_images, default=None)


def budget_words(training: Mapping[str, Any]) -> str:
    """The budget in words: `"10 minutes"`, `"50,000 images or 3 epochs"`; `""` where none is known."""
    minutes, images, epochs = (number(training.get(name)) for name in ("minutes", "images", "epochs"))
    parts = [f"{minutes:g} minutes"] if minutes else []
    parts += [f"{images:,.0f} images"] if images else []
    parts += [f"{epochs:g} epochs"] if epochs else []
    return " or ".join(parts)


def share_used(limit: tuple[float | None, int | None], seen_images: int, seconds: float) -> float | None:
    """Share of the budget used up, of time or of images, whichever is further: 0 to 1; None without a budget."""
    by_time = [seconds / limit[0]] if limit[0] else []
    by_images = [seen_images / limit[1]] if limit[1] else []
    return min(1.0, max(by_time + by_images)) if by_time or by_images else None


def seconds_left(
    limit: tuple[float | None, int | None], seen_images: int, seconds: float, rate: float | None
) -> float | None:
    """Seconds of training until the budget is used up, at `rate` images/s; None where that cannot be told."""
    left = [limit[0] - seconds] if limit[0] else []
    if limit[1] and rate:
        left.append((limit[1] - seen_images) / rate)
    return max(0.0, min(left)) if left else None


def how_far(rows: Rows, stored: Stored | None, live: bool) -> tuple[int, float]:
    """(images seen, seconds of training): of a live run by its newest row, else by what is saved."""
    saved = (stored.seen_images, number(stored.state.get("seconds")) or 0.0) if stored else (0, 0.0)
    newest = [each[-1] for each in (rows.ticks, rows.scores, rows.findings) if each] if live else []
    moments = [(row["seen_images"], float(row["seconds"])) for row in newest]
    # By time, which never goes back: images seen do when a run is rolled back to an earlier checkpoint.
    return max([saved, *moments], key=lambda moment: moment[1])


def speed(rows: Rows) -> float | None:
    """Images a second over the last rows, which are equally many images apart: their harmonic mean."""
    rates = [rate for row in rows.ticks if (rate := number(row["images_per_second"]))]
    return statistics.harmonic_mean(rates) if rates else None


def row_seconds(rows: Rows) -> float:
    """Seconds from one row to the next, as a rule; 0 where there are too few to tell."""
    times = [float(row["seconds"]) for row in rows.ticks]
    return statistics.median(later - before for before, later in pairwise(times)) if times[1:] else 0.0


def scores_of(rows: Rows, best: Stored | None) -> tuple[Score | None, Score | None, Trend | None]:
    """The last score, the best one by the same metric (what best/ holds, or the lowest row), and the trend."""
    found = [score_of(row) for row in rows.scores]
    last = found[-1] if found else None
    same = [score for score in found if last is not None and score.metric == last.metric]
    top = min(same, key=lambda score: score.value, default=None)
    if best is not None and number(best.state.get("score"), negative=True) is not None:
        kept = score_of({**best.state, "seen_images": best.seen_images})
        if last is None or kept.metric == last.metric:
            top = kept
    return last, top, trend([(score.seen_images, score.value) for score in same])


def score_of(row: Row) -> Score:
    """A row with a score, or the state of best/."""
    return Score(
        metric=text(row.get("metric")) or "?",
        value=float(row["score"]),
        seen_images=row["seen_images"],
        seconds=number(row.get("seconds")),
    )


def trend(points: Sequence[tuple[int, float]]) -> Trend | None:
    """Where the last scores (images seen, score; lower is better) are going; None with fewer than three.

    The slope is the median of those between all pairs (Sen 1968, "Estimates of the regression coefficient based on
    Kendall's tau", section 2), which one odd score does not bend. Over their whole span it must move by more than
    TREND_SHARE of the median score to be called better or worse.
    """
    points = points[-TREND_SCORES:]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(points) for b in points[i + 1 :] if b[0] > a[0]]
    if len(points) < 3 or not slopes:
        return None
    moved = statistics.median(slopes) * (points[-1][0] - points[0][0])
    level = abs(statistics.median(value for _, value in points))
    if abs(moved) <= TREND_SHARE * level:
        return "level"
    return "better" if moved < 0 else "worse"


def health_of(rows: Rows, config: Mapping[str, Any], about: Mapping[str, Any]) -> Health:
    """What the monitor's rows say, and the treatment that the newest checkpoint's state (`about`) says is in force."""
    treats = entries(config.get("training")).get("interventions") is True
    care = entries(entries(about.get("monitor")).get("care"))
    rest = {"augmentation": 0.0, "roll_backs": 0.0}
    treatment = {
        name: known
        for name, value in care.items()
        if (known := number(value)) is not None and known != rest.get(name, 1.0)
    }
    acted = [row for row in rows.findings if text(row.get("action"))]
    if not rows.findings:
        return Health(state="not watched", treats=treats, treatment=treatment)
    newest = rows.findings[-1]
    return Health(
        state=text(newest["state"]) or "?",
        why=text(newest.get("why")) or "",
        seen_images=newest["seen_images"],
        treats=treats,
        treatment=treatment,
        interventions=[
            Intervention(
                seen_images=row["seen_images"],
                seconds=float(row["seconds"]),
                state=text(row["state"]) or "?",
                action=text(row["action"]) or "?",
                why=text(row.get("why")) or "",
            )
            for row in acted
        ],
        from_images=rows.from_images,
    )
