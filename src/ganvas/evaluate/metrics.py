"""How far two sets of feature vectors are apart: Fréchet distance, KID and MIND. Pure functions, all in fp64.

A set is a float array `[N, D]`, a row for each image. `manifold.py` has those that count neighbours. NumPy does the
linear algebra: its eigenvalues and products were 2 to 4 times faster than torch's where this was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ganvas.evaluate.manifold import checked, checked_pair, density_coverage, manifold, precision_recall

__all__ = [
    "Accumulator",
    "Interval",
    "Moments",
    "density_coverage",
    "frechet_distance",
    "kid",
    "manifold",
    "mind",
    "precision_recall",
    "root_trace",
]

ROWS = 1024  # rows that are worked on at once
POOL = 10_000  # images of each set that the KID looks at: its cost grows with their square
NORMAL_95 = 1.959964  # standard errors on either side that hold 95 % of a normal distribution
WELL_CONDITIONED = 1e-10  # smallest to largest pivot, from which on Cholesky's factor is precise enough


class Interval(NamedTuple):
    """A figure and its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of a set of vectors: all that the Fréchet distance knows of it.

    `mean` is `[D]`, `covariance` `[D, D]` with divisor `count - 1`, fp64. `factor` `[count, D]`, where there are no
    more vectors than dimensions, is a root of the covariance: `factor.T @ factor`. It is smaller, and more precise.
    """

    count: int
    mean: np.ndarray
    covariance: np.ndarray
    factor: np.ndarray | None = None

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """The moments of float `[N, D]`. Raises ValueError for fewer than 2 rows, SettingError for NaN or infinity."""
        accumulator = Accumulator()
        accumulator.update(features)
        return accumulator.moments()


class Accumulator:
    """Moments of vectors that come in batches; holds two `[D, D]` arrays, however many come.

    Blocks are centred, then merged by the pairwise update of Chan, Golub & LeVeque 1983: with the difference δ of
    the two means, `M = M1 + M2 + δδᵀ n1 n2 / (n1 + n2)`. Nothing is squared before its mean is off, so that a mean
    of 1e6 costs no digits. Blocks have a size of their own: how the vectors were batched does not change one bit.
    """

    def __init__(self) -> None:
        self.count = 0  # vectors seen
        self._merged = 0  # of them, how many are in _mean and _scatter
        self._mean = self._scatter = np.zeros(0)
        self._rows = np.zeros((0, 0))

    def update(self, features: np.ndarray) -> None:
        """Take in float `[B, D]`. Raises ValueError for another shape, SettingError for NaN or infinity."""
        features = checked(features, 0)
        if not self._rows.size:
            dimensions = features.shape[1]
            self._rows = np.empty((max(dimensions, ROWS), dimensions))
            self._mean, self._scatter = np.zeros(dimensions), np.zeros((dimensions, dimensions))
        if features.shape[1] != self._rows.shape[1]:
            raise ValueError(f"vectors of {features.shape[1]} dimensions after some of {self._rows.shape[1]}")
        while len(features):
            held = self.count - self._merged
            if held == len(self._rows):
                self._mean, self._scatter = self._with(self._rows)
                self._merged, held = self.count, 0
            taken = min(len(self._rows) - held, len(features))
            self._rows[held : held + taken] = features[:taken]
            self.count += taken
            features = features[taken:]

    def moments(self) -> Moments:
        """The moments of all vectors until now. Raises ValueError for fewer than 2."""
        if self.count < 2:
            raise ValueError(f"{self.count} vectors: a covariance needs 2 at least")
        rows = self._rows[: self.count - self._merged]
        mean, scatter = self._with(rows)
        factor = None
        if self.count <= len(mean):  # then they are all in `rows` still
            factor = (rows - mean) / np.sqrt(self.count - 1)
        return Moments(self.count, mean, scatter / (self.count - 1), factor)

    def _with(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and scatter with these rows merged in."""
        mean = rows.mean(axis=0)
        centred = rows - mean
        total = self._merged + len(rows)
        shift = mean - self._mean
        scatter = self._scatter + centred.T @ centred + np.outer(shift, shift) * (self._merged * len(rows) / total)
        return self._mean + shift * (len(rows) / total), scatter


def frechet_distance(a: Moments, b: Moments) -> float:
    """Fréchet distance between the Gaussians of these moments: Dowson & Landau 1982; Heusel et al. 2017, eq. 6.

    `|m1 - m2|² + Tr(S1 + S2 - 2 (S1 S2)^(1/2))`, at least 0. Despite its name it is the square of a distance. It is
    biased: from N images of one and the same distribution it is above 0, and falls as N grows.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"moments of {len(a.mean)} and of {len(b.mean)} dimensions")
    shift = a.mean - b.mean
    return max(0.0, float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * root_trace(a, b)))


def root_trace(a: Moments, b: Moments) -> float:
    """`Tr (S1 S2)^(1/2)` of two covariances, without a matrix square root.

    With roots `Ri` such that `Si = Riᵀ Ri`, `S1 S2` has the nonzero eigenvalues of `P Pᵀ`, `P = R1 R2ᵀ`, and their
    square roots are the singular values of P. The eigenvalues of `P Pᵀ` come several times faster, but rounding in
    them is `1e-16 * largest`, of which the square root is not small: many that should be 0 would add up. So P's own
    singular values are taken where a covariance is (nearly) singular.
    """
    (first, sure), (second, sure_too) = root(a), root(b)
    product = first @ second.T
    if not (sure and sure_too):
        return float(np.linalg.svd(product, compute_uv=False).sum())
    return float(np.sqrt(np.linalg.eigvalsh(product @ product.T).clip(0)).sum())


def root(moments: Moments) -> tuple[np.ndarray, bool]:
    """Some R `[rank or more, D]` with `Rᵀ R` the covariance, and whether that is well conditioned."""
    if moments.factor is not None:
        return moments.factor, False
    try:
        lower = np.linalg.cholesky(moments.covariance)
        pivots = np.diagonal(lower) ** 2
        if pivots.min() > WELL_CONDITIONED * pivots.max():
            return lower.T, True
    except np.linalg.LinAlgError:
        pass
    values, axes = np.linalg.eigh(moments.covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return np.sqrt(values[kept])[:, None] * axes[:, kept].T, False


def kid(real: np.ndarray, fake: np.ndarray, *, subset: int = 1000, subsets: int = 100, seed: int = 0) -> Interval:
    """Kernel Inception Distance: Bińkowski et al. 2018. Unbiased: 0 on average where both sets are alike.

    The squared maximum mean discrepancy with the kernel `k(x, y) = (x·y / D + 1)³`, by the unbiased estimator (Gretton
    et al. 2012, eq. 3), on average over `subsets` random subsets of `subset` images of each (or as many as there are).

    The interval is for the images: what the figure would do, were others drawn from the same two distributions.
    Subsets overlap, so the spread of their values tells nothing of that. Its standard error is the jackknife's, each
    image in turn left out of the estimate from all (errs upwards: Efron & Stein 1981), plus the error that the random
    choice of subsets leaves (which takes 2 of them to see).

    Of a set of more than POOL images a random POOL is looked at.

    Raises ValueError for fewer than 3 rows or another shape, SettingError for NaN or infinity.
    """
    if subset < 2 or subsets < 1:
        raise ValueError(f"{subsets} subsets of {subset}: 1 of 2 is needed at least")
    random = np.random.default_rng(seed)
    real, fake = (pooled(rows, random) for rows in checked_pair(real, fake, 3))
    size = min(subset, len(real), len(fake))
    if size == len(real) == len(fake):
        subsets = 1  # all subsets are the same
    in_real, in_fake = (chosen(len(rows), size, subsets, random) for rows in (real, fake))

    real_real, fake_fake = own_sums(real, in_real), own_sums(fake, in_fake)
    real_fake, fake_real = cross_sums(real, fake, in_real, in_fake)
    n, m = in_real.sum(axis=0), in_fake.sum(axis=0)
    values = (in_real * real_real).sum(axis=0) / (n * (n - 1)) + (in_fake * fake_fake).sum(axis=0) / (m * (m - 1))
    values -= 2 * (in_real * real_fake).sum(axis=0) / (n * m)

    variance = left_out(real_real[:, -1], real_fake[:, -1], len(fake))
    variance += left_out(fake_fake[:, -1], fake_real[:, -1], len(real))
    if subsets > 1:
        variance += float(values[:-1].var(ddof=1)) / subsets
    value, error = float(values[:-1].mean()), NORMAL_95 * float(np.sqrt(variance))
    return Interval(value, value - error, value + error)


def pooled(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """At most POOL of the rows, at random, as fp64."""
    if len(rows) > POOL:
        rows = rows[random.choice(len(rows), POOL, replace=False)]
    return rows.astype(np.float64)


def chosen(count: int, size: int, subsets: int, random: np.random.Generator) -> np.ndarray:
    """Which images are in which subset, 0 or 1, fp64 `[count, subsets + 1]`; the last has them all."""
    members = np.zeros((count, subsets + 1))
    for subset in members.T[:-1]:
        subset[random.choice(count, size, replace=False)] = 1
    members[:, -1] = 1
    return members


def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`(x·y / D + 1)³` for each row x of a and y of b: `[len(a), len(b)]`."""
    base: np.ndarray = (a / a.shape[1]) @ b.T
    base += 1
    cube: np.ndarray = base * base
    cube *= base
    return cube


def own_sums(rows: np.ndarray, members: np.ndarray) -> np.ndarray:
    """For each row and subset, the kernel summed over the subset's other rows: `[N, subsets]`, right for members."""
    sums = np.zeros_like(members)
    for start in range(0, len(rows), ROWS):  # strips right of the diagonal: the kernel is symmetric
        end = start + ROWS
        strip = kernel(rows[start:end], rows[start:])
        sums[start:end] += strip @ members[start:]
        sums[end:] += strip[:, ROWS:].T @ members[start:end]
    itself = (np.einsum("nd,nd->n", rows, rows) / rows.shape[1] + 1) ** 3
    sums -= itself[:, None]
    return sums


def cross_sums(a: np.ndarray, b: np.ndarray, in_a: np.ndarray, in_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of a the kernel summed over each subset of b, `[N, subsets]`, and for each row of b over a's."""
    of_a, of_b = np.empty_like(in_a), np.zeros_like(in_b)
    for start in range(0, len(a), ROWS):
        end = start + ROWS
        strip = kernel(a[start:end], b)
        of_a[start:end] = strip @ in_b
        of_b += strip.T @ in_a[start:end]
    return of_a, of_b


def left_out(own: np.ndarray, cross: np.ndarray, others: int) -> float:
    """The jackknife's variance of the unbiased estimate, over one set's images (Efron & Stein 1981).

    `own` and `cross` `[N]`: each image's kernel summed over the rest of its set, and over the `others` of the other.
    Leaving image i out, the estimate is, but for what is the same for all i, `2 cross_i / ((N - 1) others)
    - 2 own_i / ((N - 1)(N - 2))`.
    """
    n = len(own)
    without = 2 * cross / ((n - 1) * others) - 2 * own / ((n - 1) * (n - 2))
    return float((n - 1) / n * ((without - without.mean()) ** 2).sum())


def mind(real: np.ndarray, fake: np.ndarray, *, projections: int = 1000, seed: int = 0) -> float:
    """Monge Inception Distance: Berthet et al. 2026, arXiv 2605.06797.

    `3 D / P * sum over P directions u of W2²(u·real, u·fake)`: the squared sliced Wasserstein distance, times three
    times the dimensions. The u are uniform on the unit sphere. W2² is that of the two sorted lists of projections,
    `integral over t in 0..1 of (F⁻¹(t) - G⁻¹(t))²`; with as many images in both, the mean square of the differences
    in order. The paper has equal numbers; of unequal ones every image is used here, by the integral.

    Biased as the Fréchet distance is, but less: two sets of one distribution are a little above 0.

    Raises ValueError for fewer than 2 rows or another shape, SettingError for NaN or infinity.
    """
    real, fake = (rows.astype(np.float64) for rows in checked_pair(real, fake, 2))
    dimensions = real.shape[1]
    n, m = len(real), len(fake)
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # where a list goes on, in units of 1/(n m)
    widths = np.diff(ends, prepend=0)
    of_real, of_fake = (ends - 1) // m, (ends - 1) // n

    random = np.random.default_rng(seed)
    directions = random.standard_normal((projections, dimensions))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    total = 0.0
    for start in range(0, projections, 64):
        some = directions[start : start + 64]
        apart = np.sort(some @ real.T, axis=1)[:, of_real] - np.sort(some @ fake.T, axis=1)[:, of_fake]
        total += float(((apart * apart) @ widths).sum())
    return float(3 * dimensions * total / (projections * n * m))
