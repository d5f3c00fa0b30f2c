"""Scoring while training: a small share of the time, the best generator kept, and no failure that ends a run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganvas.data.cache import Dataset
from ganvas.generator import Generator
from ganvas.training import scoring
from ganvas.training.loop import Watcher, train
from ganvas.training.scoring import BEST, SHARE, Sample, Scorer


class Scripted:
    """A metric that gives the scores it was made with, and fails where one is an error."""

    name = "scripted"

    def __init__(self, *scores: float | Exception, takes: float = 0.0) -> None:
        self.scores, self.takes = list(scores), takes
        # What comes after: a little worse than the best, which is no reason to stop.
        self.rest = 1.1 * min((score for score in scores if isinstance(score, float)), default=9.0)

    def seconds(self, dataset: Dataset, sample: Sample) -> float:
        assert sample(range(3)).dtype == np.uint8
        return self.takes

    def __call__(self, dataset: Dataset, sample: Sample) -> float:
        assert len(sample([0, 1])) == 2
        score = self.scores.pop(0) if self.scores else self.rest
        if isinstance(score, Exception):
            raise score
        return score


class Heard(Watcher):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.scores: list[tuple[float, bool]] = []
        self.notes: list[str] = []

    def scored(self, metric: str, value: float, is_best: bool) -> None:
        self.scores.append((value, is_best))

    def note(self, line: str) -> None:
        self.notes.append(line)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores whenever asked, however short the run."""
    monkeypatch.setattr(scoring, "SHARE", 1e9)


def run(pictures: Path, folder: Path, metric: Any, tiny: dict[str, Any], **more: Any) -> tuple[Path, Heard]:
    heard = Heard()
    settings = {**tiny, "images": 24, **more}
    return train(pictures, folder, watcher=heard, scored_by=lambda config: metric, **settings).folder, heard


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "score" in row]


def test_the_best_generator_is_kept_whatever_comes_after(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], at_once: None
) -> None:
    folder, heard = run(pictures, tmp_path / "run", Scripted(9.0, 4.0, 7.0), tiny)
    assert [best for score, best in heard.scores[:4]] == [True, True, False, False]
    best, last = Generator.load(folder / BEST), Generator.load(folder)
    at = next(row["seen_images"] for row in rows(folder) if row["score"] == 4.0)
    assert best.seen_images == at < last.seen_images
    assert best.weights != last.weights
    assert best.sample(range(2)).shape == (2, 32, 32, 3)


def test_scores_are_rows_of_the_metrics(pictures: Path, tmp_path: Path, tiny: dict[str, Any], at_once: None) -> None:
    folder, heard = run(pictures, tmp_path / "run", Scripted(3.0, 2.0), tiny)
    found = rows(folder)
    assert [row["score"] for row in found] == [score for score, _ in heard.scores]
    assert {row["metric"] for row in found} == {"scripted"}
    assert found[-1]["seen_images"] == 24, "the result itself is among those scored"


@pytest.mark.parametrize("trouble", [RuntimeError("no\nmemory"), math.nan, math.inf, ValueError()])
def test_a_metric_that_fails_ends_itself_and_not_the_run(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], at_once: None, trouble: Any
) -> None:
    folder, heard = run(pictures, tmp_path / "run", Scripted(5.0, trouble, 1.0), tiny)
    assert [score for score, _ in heard.scores] == [5.0]
    assert len(heard.notes) == 1 and "\n" not in heard.notes[0] and "training goes on" in heard.notes[0]
    assert Generator.load(folder).seen_images == 24


def test_scoring_changes_no_bit_of_what_is_learned(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = run(pictures, tmp_path / "plain", None, tiny)
    monkeypatch.setattr(scoring, "SHARE", 1e9)
    scored, heard = run(pictures, tmp_path / "scored", Scripted(), tiny)
    assert heard.scores
    assert Generator.load(plain).weights == Generator.load(scored).weights


def test_a_resumed_run_remembers_the_best_score(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], at_once: None
) -> None:
    folder, _ = run(pictures, tmp_path / "run", Scripted(*[4.0] * 20), tiny)
    before = Generator.load(folder / BEST).seen_images
    _, heard = run(pictures, folder, Scripted(*[5.0] * 20), tiny, images=48)
    assert heard.scores and not any(best for _, best in heard.scores)
    assert Generator.load(folder / BEST).seen_images == before
    _, heard = run(pictures, folder, Scripted(*[3.0] * 20), tiny, images=64)
    assert heard.scores[0] == (3.0, True)


def test_a_damaged_best_is_forgotten(pictures: Path, tmp_path: Path, tiny: dict[str, Any], at_once: None) -> None:
    folder, _ = run(pictures, tmp_path / "run", Scripted(4.0), tiny)
    (folder / BEST / "state.json").write_text("{")
    _, heard = run(pictures, folder, Scripted(5.0), tiny, images=48)
    assert heard.scores[0] == (5.0, True)


class Time:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("cost", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("began", [0.0, 0.5])
def test_scores_take_a_small_share_and_one_comes_at_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cost: float, began: float
) -> None:
    """A run of ten minutes, played through on a clock of its own."""
    clock = Time()
    monkeypatch.setattr(scoring, "time", clock)

    class Slow(Scripted):
        def __call__(self, dataset: Dataset, sample: Sample) -> float:
            clock.now += cost
            return 1.0

    def sample(seeds: Sequence[int]) -> np.ndarray:
        return np.zeros((len(seeds), 8, 8, 1), np.uint8)

    metric: Any = Slow(takes=cost)
    nothing: Any = None
    scorer = Scorer(metric, tmp_path, nothing, sample, nullcontext, pytest.fail, began)
    start, total, taken = clock.now, 600.0, []
    while (done := (clock.now - start) / total) < 1.0:
        if scorer.is_due(began + (1 - began) * done):
            taken.append(done)
            scorer.score()
        assert scorer._spent <= SHARE * (clock.now - start) + 1e-9
        clock.now += 0.5
    assert scorer.is_due(1.0), "what the last one needs is put by"
    assert len(taken) >= math.floor(SHARE * total / cost) - 2, "and the rest is used"
    assert time.monotonic is not clock.monotonic


def test_without_a_metric_nothing_is_ever_due(tmp_path: Path) -> None:
    nothing: Any = None
    scorer = Scorer(None, tmp_path, nothing, nothing, nullcontext, pytest.fail, 0.0)
    assert not scorer.is_due(0.5) and not scorer.is_due(1.0)
