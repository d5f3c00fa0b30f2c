"""Does a generator give its training pictures back? Nearest training pictures, Meehan et al.'s C_T, copies, twins.

Distances alone do not tell: a blurred or collapsed generator lies nearer to the training pictures than unseen pictures
do, since it lies nearer to everything. A copy is far nearer to *one* training picture than to the next ones. So every
query has a ratio, of its nearest distance to that of its k-th neighbour, and copying is judged by how many samples have
a ratio that real pictures do not have among other real pictures; distances and C_T are told beside it.

The rule was set on 10,294 photographs of faces at 64x64, in pixels and in lite0@96, with 40 to 9,000 of them as
training pictures, and tried on CIFAR-10, digits and drawn portraits:
    other real pictures as samples: called copied in 0 of 1,230 random splits in each of the two spaces;
    blurred, averaged, projected, flat, noisy images, or ten of such over and over: never, with a C_T (of one cell) down
    to -31;
    every fifth sample or more a training picture, also mirrored, one level lighter, in 32 levels, as JPEG (quality 75),
    moved by one pixel: always on faces, in both spaces. Every thirtieth: always in pixels.
Not seen: copies that are moved as far as the next pictures are (in lite0 by light noise or blur, in pixels by a shift
of two of 64: so look in both), a few copies among thousands of samples, and copies of a set most of whose pictures come
more than once, nearly the same: those look like copies of each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from ganvas.errors import DataError
from ganvas.evaluate.nearest import check, count_within, nearest, neighbours
from ganvas.evaluate.result import Copying, Duplicates, Pair

SHOWN = 16  # closest pairs that are told
NEIGHBOURS = 10  # of the ratio; a picture may be in the training set up to nine times, nearly the same
LEVELS = (0.05, 0.1, 0.2, 0.35, 0.5)  # ratios that are looked at, over the median of real pictures' ratios
LEAST_SHARE = 0.02  # of the samples, beyond twice the share of real pictures, before they are called copied
CHANCE = 1e-4  # at each level: the chance of so many copies if samples were like real pictures
AMONG = 2_000  # training pictures that are compared with the others, to know real pictures' ratios
PER_CELL, MAX_CELLS, LEAST_IN_CELL = 50, 20, 10  # of C_T
MEANS_FROM = 5_000  # training pictures at most that the cells are made from


class Cell(NamedTuple):
    """One cell of C_T: how many held-out pictures and samples fell into it, and their z-score."""

    heldout: int
    samples: int
    z: float


class CT(NamedTuple):
    """C_T, its one-sided p-value (small: copying), and the cells that it was averaged over; None without any."""

    value: float | None
    p_value: float | None
    cells: tuple[Cell, ...]


def rank_z(heldout: np.ndarray, samples: np.ndarray) -> float:
    """The z-score of Mann and Whitney's U, negative where `samples` are smaller than `heldout` (both float [*]).

    U counts pairs in which the sample is larger, ties as half; its variance is corrected for ties (Lehmann 1975,
    eq. 1.35). 0 where all are equal.
    """
    n, m = len(heldout), len(samples)
    _, which, ties = np.unique(np.concatenate([heldout, samples]), return_inverse=True, return_counts=True)
    ranks = np.cumsum(ties) - (ties - 1) / 2  # the mean rank of equals
    u = ranks[which[n:]].sum() - m * (m + 1) / 2
    total = n + m
    variance = m * n / 12 * (total + 1 - float((ties.astype(float) ** 3 - ties).sum()) / (total * (total - 1)))
    return float((u - m * n / 2) / math.sqrt(variance)) if variance > 0 else 0.0


def means(points: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Centres of `count` cells of `points [N, D]`, float64 `[count, D]`: k-means++ (Arthur and Vassilvitskii 2007),
    then Lloyd's iterations until nothing moves, 50 at most. The same seed and points give the same centres."""
    random = np.random.default_rng(seed)
    if len(points) > MEANS_FROM:
        points = points[random.choice(len(points), MEANS_FROM, replace=False)]
    points = points.astype(np.float64)
    centres: np.ndarray = points[random.integers(len(points))][None]
    apart = nearest(points, centres)[0]
    while len(centres) < count and apart.any():
        chosen = points[random.choice(len(points), p=apart**2 / (apart**2).sum())][None]
        centres = np.concatenate([centres, chosen])
        apart = np.minimum(apart, nearest(points, chosen)[0])
    cells = np.full(len(points), -1)
    for _ in range(50):
        before, cells = cells, nearest(points, centres)[1]
        if np.array_equal(before, cells):
            break
        for cell in np.unique(cells):  # a centre that lost all its points stays where it is
            centres[cell] = points[cells == cell].mean(axis=0)
    return centres


def c_t(
    train: np.ndarray,
    heldout: np.ndarray,
    samples: np.ndarray,
    *,
    distances: tuple[np.ndarray, np.ndarray] | None = None,
    cells: int | None = None,
    seed: int = 0,
) -> CT:
    """The data-copying test of Meehan, Chaudhuri and Dasgupta 2020 (AISTATS, section 3), on features `[*, D]`.

    The space is cut into cells, by k-means of the training pictures. In each cell pi that has enough of both, `Z(pi)`
    is the z-score of the Mann-Whitney test between the samples' and the held-out pictures' distances to the nearest
    training picture; `C_T = sum P_n(pi) Z(pi) / sum P_n(pi)`, with `P_n(pi)` the share of held-out pictures there.
    Well below 0: copying. Well above: underfitting. Blur and collapse make it negative too.

    `cells`: 50 held-out pictures and 50 samples to a cell on average, 1 to 20, unless told; a cell needs 10 of each.
    `distances` of (held-out pictures, samples), where they are known. Were samples like held-out pictures, each Z
    would be standard normal and independent, so that C_T has the variance `sum w^2`, with weights w that sum to 1:
    the p-value is that of `C_T / sqrt(sum w^2)`, one-sided.
    """
    check(train, heldout, samples)
    if distances is None:
        distances = nearest(heldout, train)[0], nearest(samples, train)[0]
    count = cells or max(1, min(MAX_CELLS, len(heldout) // PER_CELL, len(samples) // PER_CELL))
    centres = means(train, count, seed)
    in_heldout, in_samples = nearest(heldout, centres)[1], nearest(samples, centres)[1]
    found = []
    for cell in range(len(centres)):
        theirs, ours = distances[0][in_heldout == cell], distances[1][in_samples == cell]
        if min(len(theirs), len(ours)) >= LEAST_IN_CELL:
            found.append(Cell(len(theirs), len(ours), rank_z(theirs, ours)))
    if not found:
        return CT(None, None, ())
    weights = np.array([cell.heldout for cell in found], float)
    weights /= weights.sum()
    value = float(weights @ [cell.z for cell in found])
    return CT(value, normal_tail(value / float(np.linalg.norm(weights))), tuple(found))


def normal_tail(z: float) -> float:
    """The chance that a standard normal number is below `z`."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def surplus(hits: int, of: int, usual: int, of_usual: int) -> float:
    """The chance of at least `hits` in `of`, beside `usual` in `of_usual`, were both of one rate: Fisher's exact test,
    one-sided."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, of + of_usual + 1)))])

    def log_choose(n: int, k: np.ndarray) -> np.ndarray:
        found: np.ndarray = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
        return found

    total = hits + usual
    here = np.arange(hits, min(of, total) + 1)
    here = here[total - here <= of_usual]
    logs = log_choose(of, here) + log_choose(of_usual, total - here) - log_choose(of + of_usual, np.array(total))
    return min(1.0, float(np.exp(logs).sum()))


class Near(NamedTuple):
    """What queries are near to: distance and ratio float64 [M], row of the training pictures and mirrored [M]."""

    distance: np.ndarray
    ratio: np.ndarray
    row: np.ndarray
    mirrored: np.ndarray


def look(queries: np.ndarray, mirrored: np.ndarray | None, train: np.ndarray, k: int) -> Near:
    """The nearest of `train [N, D]` (no two rows equal) to each query or its mirror image, whichever is nearer; the
    ratio is that distance over the one to the k-th neighbour of the same."""
    distances, rows = neighbours(queries, train, k)
    turned = np.zeros(len(queries), bool)
    if mirrored is not None:
        others, other_rows = neighbours(mirrored, train, k)
        turned = others[:, 0] < distances[:, 0]
        distances[turned], rows[turned] = others[turned], other_rows[turned]
    return Near(distances[:, 0], ratio_of(distances), rows[:, 0], turned)


def ratio_of(distances: np.ndarray) -> np.ndarray:
    """First over last of sorted distances `[M, k]`; 1 where the last is 0."""
    last = distances[:, -1]
    ratio: np.ndarray = np.divide(distances[:, 0], last, out=np.ones(len(last)), where=last > 0)
    return ratio


def among_themselves(train: np.ndarray, k: int) -> np.ndarray:
    """The ratios of up to 2,000 training pictures, spread evenly, each among the others: float64 [M]."""
    chosen = np.unique(np.linspace(0, len(train) - 1, min(AMONG, len(train))).astype(np.int64))
    return ratio_of(neighbours(train[chosen], train, k + 1)[0][:, 1:])  # the first is itself


def are_copied(samples: Near, real: np.ndarray) -> bool:
    """Whether samples are far nearer to one training picture than to the next ones, and real pictures are not.

    `real`: ratios of real pictures, of the held-out ones and of training pictures among the others. At each level
    (a ratio, as a part of the median of real ratios) the samples at or below it are counted. They are called copied
    where at some level (1) their share is at least twice that of real pictures and 2 % more, and (2) Fisher's exact
    test finds it by chance less than once in 10,000; in this, samples near the same picture count once, so that a
    generator that repeats itself proves nothing by repetition.
    """
    usual = float(np.median(real))
    for level in LEVELS:
        hit, ordinary = samples.ratio <= level * usual, int((real <= level * usual).sum())
        distinct = len(np.unique(samples.row[hit]))
        of = distinct + len(np.unique(samples.row[~hit]))
        if hit.mean() >= 2 * ordinary / len(real) + LEAST_SHARE and surplus(distinct, of, ordinary, len(real)) < CHANCE:
            return True
    return False


def find_copies(
    name: str,
    train: np.ndarray,
    heldout: np.ndarray,
    samples: np.ndarray,
    heldout_mirrored: np.ndarray | None = None,
    samples_mirrored: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    indices: np.ndarray | None = None,
) -> Copying:
    """Whether `samples` lie nearer to `train` than `heldout` pictures do, in the features `name`; all float `[*, D]`.

    `heldout_mirrored` and `samples_mirrored`, row by row the vectors of the mirror images: where they are given, the
    nearer of an image and its mirror image counts. `indices` are those of the training rows among the prepared
    pictures, `names` the files of all of those. Equal rows of `train` count as one picture.

    `copied` is what `are_copied` says; with fewer than 8 training pictures it is always False. `median_ratio` is 1
    where held-out pictures have a median distance of 0. Raises DataError for shapes that do not go together, empty sets
    and numbers that are not finite.
    """
    check(train, heldout, samples)
    check_mirrored(heldout, heldout_mirrored, samples, samples_mirrored)
    kept = first_of_equals(train)
    if len(kept) < len(train):
        train = train[kept]
    k = max(1, min(NEIGHBOURS, len(train) // 4))  # 1: all ratios are 1, which copies nothing
    unseen = look(heldout, heldout_mirrored, train, k)
    made = look(samples, samples_mirrored, train, k)
    test = c_t(
        train,
        as_near(heldout, heldout_mirrored, unseen),
        as_near(samples, samples_mirrored, made),
        distances=(unseen.distance, made.distance),
    )
    real = np.concatenate([unseen.ratio, among_themselves(train, k)]) if k > 1 else unseen.ratio
    usual = float(np.median(unseen.distance))
    median = float(np.median(made.distance))
    return Copying(
        features=name,
        samples=len(samples),
        heldout=len(heldout),
        train=len(train),
        median_ratio=median / usual if usual > 0 else 1.0,
        closer=float((made.distance < np.quantile(unseen.distance, 0.05)).mean()),
        c_t=test.value,
        p_value=test.p_value,
        copied=are_copied(made, real),
        pairs=closest_pairs(made, kept if indices is None else np.asarray(indices)[kept], names),
    )


def check_mirrored(
    heldout: np.ndarray, heldout_mirrored: np.ndarray | None, samples: np.ndarray, samples_mirrored: np.ndarray | None
) -> None:
    """Raise DataError unless both sets have mirror images, one of each image, or neither has."""
    if heldout_mirrored is None and samples_mirrored is None:
        return
    if heldout_mirrored is None or samples_mirrored is None:
        raise DataError("mirror images of one set only make its distances smaller; give those of both, or of neither")
    for own, mirrored in ((heldout, heldout_mirrored), (samples, samples_mirrored)):
        check(own, mirrored)
        if len(own) != len(mirrored):
            raise DataError(f"{len(own)} images with {len(mirrored)} mirror images; give one of each")


def first_of_equals(rows: np.ndarray) -> np.ndarray:
    """Indices, rising, of the rows of `rows [N, D]` that no earlier row equals."""
    seen: dict[bytes, int] = {}
    for index, row in enumerate(rows):
        zeros_alike = row + 0.0  # a negative zero has other bytes
        seen.setdefault(blake2b(zeros_alike.tobytes(), digest_size=16).digest(), index)
    return np.fromiter(seen.values(), np.int64)


def as_near(queries: np.ndarray, mirrored: np.ndarray | None, near: Near) -> np.ndarray:
    """Each query as it is, or mirrored where that is nearer."""
    return queries if mirrored is None else np.where(near.mirrored[:, None], mirrored, queries)


def closest_pairs(near: Near, indices: np.ndarray, names: Sequence[str] | None = None) -> list[Pair]:
    """The 16 samples that are nearest to a training picture, nearest first; each sample is in one pair.

    `indices [N]` of the training rows among the prepared pictures, and the `names` of those.
    """
    order = np.argsort(near.distance, kind="stable")[:SHOWN]
    pictures = indices[near.row[order]].tolist()
    return [
        Pair(
            sample=int(sample),
            picture=picture,
            name="" if names is None else names[picture],
            mirrored=bool(near.mirrored[sample]),
            distance=float(near.distance[sample]),
        )
        for sample, picture in zip(order, pictures, strict=True)
    ]


def duplicate_samples(features_samples: np.ndarray, features_train: np.ndarray) -> Duplicates:
    """Samples `[M, D]` that have a twin among the samples, against the same count among training pictures `[N, D]`.

    Twins are nearer to each other than half of the median distance from a training picture to the nearest other one.
    As many samples as training pictures are compared, the first min(M, N), since twins grow with their number. The
    largest group is the most samples that are twins of one and the same sample, with it: a chain of twins whose ends
    differ is no group. Images without detail are twins too: so are most pictures under a blur of an eighth of their
    side. All counts are 0 where either has one image only. Raises DataError for empty sets, different D, and numbers
    that are not finite.
    """
    check(features_samples, features_train)
    count = min(len(features_samples), len(features_train))
    if count < 2:
        return Duplicates(samples=count, repeated=0, largest=0, expected=0)
    samples, train = features_samples[:count], features_train[:count]
    # A copy has a distance of 0, whether it stands before or behind its twin.
    limit = 0.5 * float(np.median(neighbours(train, train, 2)[0][:, 1]))
    twins, usual = count_within(samples, limit), count_within(train, limit)
    return Duplicates(
        samples=count,
        repeated=int((twins > 0).sum()),
        largest=int(twins.max()) + 1 if twins.any() else 0,
        expected=int((usual > 0).sum()),
    )
