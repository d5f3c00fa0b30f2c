"""Which pictures come next: shuffled each epoch, each exactly once, and all of it a function of one integer.

`position` is the number of images drawn so far. Nothing else is remembered, so a resumed run, another batch size or
another number of processes draws the same pictures in the same order.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from ganvas.data.cache import Dataset

Indices = np.ndarray[Any, np.dtype[np.int64]]
Flips = np.ndarray[Any, np.dtype[np.bool_]]

EPOCHS_KEPT = 2  # a batch at the border needs two


class Batches:
    """The endless order of `size` training pictures.

    Epoch e is one permutation, made from the key (seed, e) of the counter-based generator Philox 4x64 (Salmon et al.
    2011, "Parallel random numbers: as easy as 1, 2, 3"). Only its raw 64-bit stream is used, which NumPy promises to
    keep between versions: the permutation sorts it, and the mirrored half is its lowest bit.
    """

    def __init__(self, size: int, seed: int, flip: bool) -> None:
        """Take the number of training pictures, at least 1; ValueError otherwise."""
        if size < 1:
            raise ValueError(f"size={size} must be at least 1")
        self.size, self.seed, self.flip = size, seed, flip
        self._epochs: OrderedDict[int, tuple[Indices, Flips]] = OrderedDict()

    def take(self, position: int, count: int) -> tuple[Indices, Flips]:
        """Return what follows the first `position` images: int64 [count] in 0..size-1, and bool [count].

        The indices count training pictures (`gather` maps them to the cache); True means mirrored left to right.
        """
        if position < 0 or count < 0:
            raise ValueError(f"position={position} and count={count} must not be negative")
        indices, flips = np.empty(count, np.int64), np.zeros(count, np.bool_)
        done = 0
        while done < count:
            epoch, start = divmod(position + done, self.size)
            order, mirrored = self._epoch(epoch)
            length = min(count - done, self.size - start)
            indices[done : done + length] = order[start : start + length]
            flips[done : done + length] = mirrored[start : start + length]
            done += length
        return indices, flips

    def _epoch(self, epoch: int) -> tuple[Indices, Flips]:
        """Return the order of one epoch and who is mirrored in it; the last two are kept."""
        if epoch not in self._epochs:
            key = np.array([self.seed % 2**64, epoch], dtype=np.uint64)
            stream = np.random.Philox(key=key).random_raw(2 * self.size)
            order = np.argsort(stream[: self.size], kind="stable").astype(np.int64)
            mirrored = (stream[self.size :] & np.uint64(1)).astype(np.bool_) if self.flip else np.zeros(self.size, bool)
            self._epochs[epoch] = order, mirrored
            while len(self._epochs) > EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]


def gather(dataset: Dataset, indices: Indices, flips: Flips) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return training pictures as uint8 [B, H, W, C]; `indices` (0..len(dataset.train)-1) and `flips` as from `take`.

    Indices are looked up in `dataset.train`, so no held-out picture can be drawn.
    """
    images = np.ascontiguousarray(dataset.images[dataset.train[indices]])
    images[flips] = images[flips][:, :, ::-1]
    return images


def gather_labels(dataset: Dataset, indices: Indices) -> Indices | None:
    """Return the class numbers int64 [B] of training pictures, None where the set has no classes."""
    return None if dataset.labels is None else dataset.labels[dataset.train[indices]]
