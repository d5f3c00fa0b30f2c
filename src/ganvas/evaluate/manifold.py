"""Do the samples lie where real pictures do, and do they reach all of them? Counted with balls around neighbours.

Each vector has a ball that just reaches its k-th nearest neighbour within its own set. All in fp64; no distance
matrix is ever whole, so memory grows with the number of vectors and not with its square.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from ganvas.errors import SettingError

ROWS = 512  # rows of a distance matrix at once: 40 MB against 10,000
ROUNDING = 1e-13  # of a squared norm: what rounding can do to a squared distance, and below what fp32 features resolve


class Manifold(NamedTuple):
    """Shares from 0 to 1, but for density, which has no upper end."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: np.ndarray, fake: np.ndarray, k_precision: int = 3, k_density: int = 5) -> Manifold:
    """Precision, recall, density and coverage of float `[M, D]` samples against float `[N, D]` real vectors.

    `precision`: share of samples in the ball of any real vector; `recall`: of real vectors in the ball of any sample,
    both with `k_precision` neighbours (Kynkäänniemi et al. 2019, eqs. 1 and 2). `density`: real balls that a sample is
    in, on average, over `k_density`; `coverage`: share of real balls that hold a sample, both with `k_density`
    neighbours (Naeem et al. 2020, section 3). Two sets of one distribution: density 1 on average, and coverage
    about `1 - 2^-k` where both are as large.

    A vector is no neighbour of itself; another that equals it is one, at distance 0. Balls are closed, as Kynkäänniemi
    et al. have them: what lies on the sphere, up to rounding, is inside. So a set against itself has density
    `(k + 1) / k`, and copies of a picture that the real set holds more than k times still count as inside.

    Raises ValueError for sets without a k-th neighbour or another shape, SettingError for NaN or infinity.
    """
    real, fake = checked_pair(real, fake, 2)
    if not 1 <= min(k_precision, k_density) <= max(k_precision, k_density) < min(len(real), len(fake)):
        raise ValueError(f"{len(real)} and {len(fake)} vectors have no neighbour {max(k_precision, k_density)}")
    centre = real.mean(axis=0, dtype=np.float64)  # distances do not change, and rounding in them gets smaller
    a, b = real - centre, fake - centre
    reach, wide = radii(a, [k_precision, k_density])
    (reach_of_samples,) = radii(b, [k_precision])

    a_norms = squared_norms(a)
    precise, inside = 0, 0
    recalled, covered = np.zeros(len(a), dtype=bool), np.zeros(len(a), dtype=bool)
    for start in range(0, len(b), ROWS):
        rows = slice(start, start + ROWS)
        distances = squared_distances(b[rows], a, squared_norms(b[rows]), a_norms)
        precise += int((distances <= reach).any(axis=1).sum())
        recalled |= (distances <= reach_of_samples[rows, None]).any(axis=0)
        held = distances <= wide
        inside += int(np.count_nonzero(held))
        covered |= held.any(axis=0)
    return Manifold(
        precision=precise / len(b),
        recall=float(recalled.mean()),
        density=inside / (k_density * len(b)),
        coverage=float(covered.mean()),
    )


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Precision and recall alone, as `manifold` has them."""
    result = manifold(real, fake, k, k)
    return result.precision, result.recall


def density_coverage(real: np.ndarray, fake: np.ndarray, k: int = 5) -> tuple[float, float]:
    """Density and coverage alone, as `manifold` has them."""
    result = manifold(real, fake, k, k)
    return result.density, result.coverage


def radii(rows: np.ndarray, neighbours: list[int]) -> list[np.ndarray]:
    """For each k, the squared distance from each row to its k-th neighbour, `[N]`, with what rounding can do added."""
    most, norms = max(neighbours), squared_norms(rows)
    best = np.full((len(rows), most), np.inf)  # the smallest distances until now
    for start in range(0, len(rows), ROWS):  # strips right of the diagonal: distances are symmetric
        end = min(start + ROWS, len(rows))
        strip = squared_distances(rows[start:end], rows[start:], norms[start:end], norms[start:])
        strip[np.arange(end - start), np.arange(end - start)] = np.inf
        best[start:end] = smallest(best[start:end], strip, 1)
        best[end:] = smallest(best[end:], strip[:, end - start :], 0)
    best.sort(axis=1)
    return [best[:, k - 1] + ROUNDING * (norms + best[:, k - 1]) for k in neighbours]


def smallest(best: np.ndarray, strip: np.ndarray, axis: int) -> np.ndarray:
    """The `best.shape[1]` smallest of each row of `best` `[N, k]` and of `strip` along `axis`."""
    count = best.shape[1]
    if strip.shape[axis] > count:  # torch's selection is several times faster than NumPy's
        strip = torch.topk(torch.from_numpy(strip), count, dim=axis, largest=False, sorted=False).values.numpy()
    both = np.concatenate([best, strip if axis == 1 else strip.T], axis=1)
    return np.partition(both, count - 1, axis=1)[:, :count]


def squared_norms(rows: np.ndarray) -> np.ndarray:
    """`|x|²` of each row, `[N]`."""
    norms: np.ndarray = np.einsum("nd,nd->n", rows, rows)
    return norms


def squared_distances(a: np.ndarray, b: np.ndarray, a_norms: np.ndarray, b_norms: np.ndarray) -> np.ndarray:
    """`|x - y|² = |x|² + |y|² - 2 x·y` for each row x of a and y of b, `[len(a), len(b)]`; 0 is up to rounding."""
    distances: np.ndarray = (-2 * a) @ b.T
    distances += a_norms[:, None]
    distances += b_norms
    return distances


def checked(rows: np.ndarray, least: int) -> np.ndarray:
    """The rows, if they are finite floats `[N, D]`, and `least` of them at the least.

    Raises ValueError, or SettingError for NaN or infinity: a function of the user's own may have made them.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.shape[1] == 0 or not np.issubdtype(rows.dtype, np.floating):
        raise ValueError(f"vectors must be floats [N, D], not {rows.dtype} {list(rows.shape)}")
    if len(rows) < least:
        raise ValueError(f"{len(rows)} vectors: {least} are needed at least")
    bad = len(rows) - int(np.isfinite(rows).all(axis=1).sum())
    if bad:
        raise SettingError(
            f"features: {bad:,} of {len(rows):,} vectors hold NaN or infinity; check the function that makes them"
        )
    return rows


def checked_pair(a: np.ndarray, b: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sets, each checked, and of as many dimensions as the other."""
    a, b = checked(a, least), checked(b, least)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"vectors of {a.shape[1]} and of {b.shape[1]} dimensions")
    return a, b
