"""Feature vectors of real pictures, kept beside the prepared pictures: each is computed once for all evaluations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from ganvas.checkpoint import load, publish
from ganvas.data.cache import Dataset
from ganvas.data.decode import Pixels
from ganvas.errors import CheckpointError, StorageError
from ganvas.evaluate.features import Features, vectors
from ganvas.evaluate.subject import in_batches

KEPT = "vectors"  # the folder beside the prepared pictures


def real_vectors(
    dataset: Dataset,
    indices: np.ndarray,
    features: Features,
    progress: Callable[[int, int], None] | None = None,
    mirrored: bool = False,
) -> np.ndarray:
    """Vectors of the pictures at `indices`, float32 `[N, D]`, from the store where they are there and whole.

    The store is keyed by the network (its name and weights), by the pictures' digest and by which of them; a damaged
    one is computed anew. A disk that is full only costs the next evaluation its head start.
    """
    chosen = hashlib.sha256(np.ascontiguousarray(indices, dtype="<i8").tobytes()).hexdigest()
    key = hashlib.sha256(f"{features.identity} {dataset.digest} {chosen} {mirrored}".encode()).hexdigest()[:24]
    store = dataset.root.parent / KEPT / key
    of = {"identity": features.identity, "digest": dataset.digest}
    about: dict[str, Any] = {**of, "chosen": chosen, "mirrored": mirrored}
    with suppress(CheckpointError, StorageError):
        found = load(store)
        rows = found.tensors.get("vectors", {}).get("rows")
        if rows is not None and found.state == about and len(rows) == len(indices):
            kept: np.ndarray = rows.numpy()
            return kept
    batches = in_batches(dataset, indices)
    made = vectors(features, turned(batches) if mirrored else batches, len(indices), progress)
    with suppress(StorageError):
        publish(store, 0, {"vectors": {"rows": torch.from_numpy(made)}}, about)
    return made


def turned(batches: Iterator[Pixels]) -> Iterator[Pixels]:
    """Each image mirrored left to right."""
    for images in batches:
        yield np.ascontiguousarray(images[:, :, ::-1])
