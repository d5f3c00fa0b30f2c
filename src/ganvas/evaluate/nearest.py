"""Nearest neighbours, exactly: a picture that is there twice is found at a distance of 0, not of a rounding error."""

from __future__ import annotations

import numpy as np
import torch

from ganvas.errors import DataError

BLOCK = 2**21  # numbers in one block of a search: 16 MiB in fp64


def nearest(queries: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest row of `base [N, D]` to each of `queries [M, D]`: (Euclidean distances float64 `[M]`, indices int64
    `[M]`). See `neighbours`."""
    distances, indices = neighbours(queries, base, 1)
    return distances[:, 0], indices[:, 0]


def neighbours(queries: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest rows of `base [N, D]` to each of `queries [M, D]`, nearest first, of equals the lowest index
    first: (Euclidean distances float64 `[M, k]`, indices int64 `[M, k]`).

    Matrix products in fp64 find the candidates: all that can be among the k within the products' rounding. The
    distances of those are then computed anew from the differences. Beside its arguments and results it needs about
    150 MiB at most. Raises DataError for `k` outside 1 to N, for different D, and for numbers that are not finite.
    """
    check(queries, base)
    if not 1 <= k <= len(base):
        raise DataError(f"k {k} is outside 1 to {len(base)}, the pictures to search; give more pictures")
    rows = max(1, min(len(base), BLOCK // base.shape[1]))
    many = max(1, BLOCK // max(rows, base.shape[1]))
    distances = np.full((len(queries), k), np.inf)
    indices = np.full((len(queries), k), len(base), np.int64)
    for start in range(0, len(base), rows):
        block = torch.from_numpy(base[start : start + rows].astype(np.float64))
        for first in range(0, len(queries), many):
            part = slice(first, first + many)
            asked = torch.from_numpy(queries[part].astype(np.float64))
            row, column, apart = _candidates(asked, block, k)
            # What earlier blocks had competes with what this one has.
            row = np.concatenate([np.repeat(np.arange(len(asked)), k), row])
            column = np.concatenate([indices[part].ravel(), column + start])
            apart = np.concatenate([distances[part].ravel(), apart])
            order = np.lexsort((column, apart, row))
            places = order[np.searchsorted(row[order], np.arange(len(asked)))[:, None] + np.arange(k)]
            distances[part], indices[part] = apart[places], column[places]
    return distances, indices


def count_within(features: np.ndarray, limit: float) -> np.ndarray:
    """How many other rows of `features [N, D]` lie at most `limit` away from each row: int64 `[N]`."""
    check(features)
    rows = torch.from_numpy(features.astype(np.float64))
    many = max(1, BLOCK // len(rows))
    found = []
    for start in range(0, len(rows), many):
        squares, slack = _squares(rows[start : start + many], rows)
        found.append((squares <= limit**2 + slack).sum(dim=1) - 1)  # without itself
    return torch.cat(found).numpy()


def check(*features: np.ndarray) -> None:
    """Raise DataError unless all are `[N, D]` with one D, at least one row and column, and finite."""
    for each in features:
        if each.ndim != 2 or not each.size or each.shape[1] != features[0].shape[1]:
            shapes = " and ".join(str(list(one.shape)) for one in features)
            raise DataError(f"features of shapes {shapes} cannot be compared; give [N, D] with one D and no empty set")
        if not np.isfinite(each).all():
            raise DataError("features hold numbers that are not finite; look at the network and the pictures")


def _candidates(queries: torch.Tensor, base: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, column, distance) of all pairs that may be among the `k` nearest of a row; both are fp64 `[*, D]`.

    A pair is out only where the lower end of its square lies above the k-th of the row's upper ends.
    """
    squares, slack = _squares(queries, base)
    limit = (squares + slack).topk(min(k, len(base)), dim=1, largest=False).values[:, -1:]
    row, column = (squares - slack <= limit).nonzero(as_tuple=True)
    many = max(1, BLOCK // queries.shape[1])
    parts = [slice(at, at + many) for at in range(0, len(row), many)]
    apart = torch.cat([(queries[row[part]] - base[column[part]]).norm(dim=1) for part in parts])
    return row.numpy(), column.numpy(), apart.numpy()


def _squares(queries: torch.Tensor, base: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distances `|q|^2 + |b|^2 - 2 q.b` `[M, N]` in fp64, and by how much each may err at most.

    A sum of D products errs by at most `D u` times the sum of their magnitudes, u = 2^-53 (Higham 2002, eq. 3.5), so
    that the three terms together err by less than `2 (D + 4) u (|q| + |b|)^2`.
    """
    longs, lengths = queries.norm(dim=1)[:, None], base.norm(dim=1)[None]
    squares = torch.addmm(longs**2 + lengths**2, queries, base.T, alpha=-2)
    return squares, (longs + lengths) ** 2 * ((queries.shape[1] + 4) * 2.0**-52)
