"""A score of the averaged generator while it trains: taken rarely enough to be cheap, and never the end of training.

What is measured is not training's business: a metric is handed in. `ganvas.evaluate.proxy` has the usual one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from ganvas.checkpoint import load, publish
from ganvas.data.cache import Dataset
from ganvas.errors import CheckpointError

SHARE = 0.03  # of the time of training, at most
TRIAL_SECONDS = 0.5  # what a trial may take
BEST = "best"  # the folder of the generator that scored best; `Generator.load` reads it

Sample = Callable[[Sequence[int]], np.ndarray]  # seeds to images, uint8 [N, H, W, C]


class Metric(Protocol):
    """A score of samples against the pictures of a run; lower is better."""

    name: str

    def seconds(self, dataset: Dataset, sample: Sample) -> float:
        """How long the next score will take, found by a trial on a few images that takes a small part of that."""

    def __call__(self, dataset: Dataset, sample: Sample) -> float:
        """The score of the samples of seeds 0, 1, 2, ... May raise anything."""


class Scorer:
    """Decides when a score is due, takes it, and keeps the best generator. Without a metric nothing is ever due."""

    def __init__(
        self,
        metric: Metric | None,
        folder: Path,
        dataset: Dataset,
        sample: Sample,
        resting: Callable[[], AbstractContextManager[None]],
        notice: Callable[[str], None],
        progress: float,
    ) -> None:
        self._metric, self._folder, self._dataset = metric, folder, dataset
        self._sample, self._resting, self._notice = sample, resting, notice
        self._began, self._began_at = time.monotonic(), progress
        self._spent = 0.0  # seconds
        self._cost: float | None = None  # seconds of the next score; None: no trial yet
        self.name = metric.name if metric is not None else ""
        self.best = _best_score(folder / BEST, self.name)

    def is_due(self, progress: float) -> bool:
        """Whether a score may be taken at `progress` (0 to 1) of the budget.

        All scores of a session together take at most SHARE of its time so far, and what one at the very end needs is
        put by, as far as it can be told, so that the result is among those scored.
        """
        if self._metric is None:
            return False
        seconds = time.monotonic() - self._began
        if self._cost is None and seconds * SHARE > TRIAL_SECONDS:
            self._cost = self._guarded(lambda metric: metric.seconds(self._dataset, self._sample))
        if self._cost is None:
            return False
        done = (progress - self._began_at) / max(1.0 - self._began_at, 1e-9)  # of this session
        allowed = seconds * SHARE - self._spent
        to_come = seconds / max(done, 1e-9) * SHARE - self._spent
        return allowed >= self._cost and (progress >= 1.0 or to_come >= 2 * self._cost)

    def score(self) -> float | None:
        """Take a score. None when it failed, which ends the scoring and not the training."""
        before = time.monotonic()
        value = self._guarded(lambda metric: metric(self._dataset, self._sample))
        self._cost = time.monotonic() - before
        return value

    def keep_if_best(self, value: float, average: nn.Module, seen_images: int, state: dict[str, Any]) -> bool:
        """Write the averaged generator to best/ where no score before was as good; say whether it was written."""
        if value >= self.best:
            return False
        about = {**state, "score": value, "metric": self.name}
        publish(self._folder / BEST, seen_images, {"generator": average.state_dict()}, about)
        self.best = value
        return True

    def _guarded(self, work: Callable[[Metric], float]) -> float | None:
        assert self._metric is not None
        before = time.monotonic()
        try:
            with self._resting():
                value = float(work(self._metric))
            failure = None if math.isfinite(value) else f"it is {value}"
        except Exception as error:  # of any kind: a metric, also a user's own, must never end a run
            failure = (str(error).splitlines() or [type(error).__name__])[0][:200]
        self._spent += time.monotonic() - before
        if failure is None:
            return value
        self._notice(f"the score {self.name} could not be taken ({failure}); training goes on without it")
        self._metric = None
        return None


def _best_score(best: Path, metric: str) -> float:
    """The score of the generator in best/, where there is one and the same metric scored it."""
    try:
        state = load(best, parts=[]).state
    except CheckpointError:
        return math.inf
    score = state.get("score")
    return float(score) if isinstance(score, (int, float)) and state.get("metric") == metric else math.inf
