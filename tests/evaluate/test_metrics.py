"""Distances of feature vectors against closed forms, against formulas written as loops, and against other libraries."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ganvas.errors import SettingError
from ganvas.evaluate import metrics
from ganvas.evaluate.metrics import Accumulator, Moments, frechet_distance, kid, mind, root_trace


def exact(mean: Any, covariance: Any) -> Moments:
    return Moments(1000, np.array(mean, dtype=np.float64), np.array(covariance, dtype=np.float64))


def turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def normal(seed: int, count: int, dimensions: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Correlated: every dimension has its share of those before it."""
    random = np.random.default_rng(seed)
    mix = np.eye(dimensions) + 0.3 * np.tril(random.normal(size=(dimensions, dimensions)), -1)
    return scale * random.normal(size=(count, dimensions)) @ mix + shift


# Moments


def test_moments_are_numpys() -> None:
    x = normal(0, 2500, 30)
    moments = Moments.of(x)
    assert moments.count == 2500
    assert np.allclose(moments.mean, x.mean(0), rtol=1e-13, atol=1e-13)
    assert np.allclose(moments.covariance, np.cov(x.T), rtol=1e-12, atol=1e-12)
    assert moments.factor is None


@given(st.lists(st.integers(0, 700), max_size=8), st.integers(1, 40))
def test_batching_changes_not_one_bit(batches: list[int], dimensions: int) -> None:
    x = np.random.default_rng(dimensions).normal(size=(sum(batches) + 2, dimensions)).astype(np.float32)
    accumulator = Accumulator()
    for start, size in zip(np.cumsum([0, *batches]), [*batches, 2], strict=True):
        accumulator.update(x[start : start + size])
        if accumulator.count > 1:
            accumulator.moments()  # looking on the way does no harm
    found, once = accumulator.moments(), Moments.of(x)
    assert found.count == once.count
    assert np.array_equal(found.mean, once.mean)
    assert np.array_equal(found.covariance, once.covariance)


@given(st.permutations(range(60)))
def test_order_changes_nothing_but_rounding(order: list[int]) -> None:
    x, y = normal(0, 60, 8), normal(1, 50, 8)
    a, b = Moments.of(x), Moments.of(x[order])
    assert np.allclose(a.covariance, b.covariance, rtol=0, atol=1e-13)
    assert frechet_distance(a, Moments.of(y)) == pytest.approx(frechet_distance(b, Moments.of(y)), abs=1e-10)
    assert kid(x, normal(1, 60, 8)) == pytest.approx(kid(x[order], normal(1, 60, 8)), abs=1e-10)
    assert mind(x, y, projections=10) == pytest.approx(mind(x[order], y, projections=10), rel=1e-12)


def test_a_large_mean_costs_no_digits() -> None:
    x = normal(3, 3000, 5)
    far = Moments.of(x + 2.0**26)  # adding it rounds x itself to 2^-27
    assert np.allclose(far.covariance, Moments.of(x).covariance, rtol=0, atol=1e-6)
    squares_first = ((x + 2.0**26).T @ (x + 2.0**26) - 3000 * np.outer(far.mean, far.mean)) / 2999
    assert not np.allclose(squares_first, far.covariance, rtol=0, atol=1e-2), "the sum of squares cannot do this"


@pytest.mark.parametrize("count", [2, 3, 20, 21])
def test_a_factor_is_a_root_of_the_covariance(count: int) -> None:
    moments = Moments.of(normal(4, count, 20))
    assert (moments.factor is not None) == (count <= 20)
    if moments.factor is not None:
        assert np.allclose(moments.factor.T @ moments.factor, moments.covariance, rtol=0, atol=1e-13)


# Fréchet distance


def test_distance_of_equal_covariances_is_that_of_the_means() -> None:
    m = np.array([1.0, -2.0, 0.5])
    for covariance in (np.eye(3), np.cov(normal(0, 50, 3).T)):
        assert frechet_distance(exact(m, covariance), exact(0 * m, covariance)) == pytest.approx(m @ m, abs=1e-12)


@given(st.floats(0, 10), st.floats(0, 10), st.integers(1, 20))
def test_distance_of_round_gaussians(s1: float, s2: float, dimensions: int) -> None:
    a, b = (exact(np.zeros(dimensions), s**2 * np.eye(dimensions)) for s in (s1, s2))
    assert frechet_distance(a, b) == pytest.approx(dimensions * (s1 - s2) ** 2, abs=1e-9)


def test_distance_of_commuting_covariances() -> None:
    axes, one, two = turn(0.7), np.array([4.0, 1.0]), np.array([0.25, 9.0])
    a, b = (exact([0, 0], axes @ np.diag(variances) @ axes.T) for variances in (one, two))
    assert frechet_distance(a, b) == pytest.approx(((np.sqrt(one) - np.sqrt(two)) ** 2).sum(), abs=1e-12)


@given(
    st.tuples(st.floats(0.01, 50), st.floats(0.01, 50)),
    st.tuples(st.floats(0.01, 50), st.floats(0.01, 50)),
    st.floats(0, 3.2),
)
def test_root_of_covariances_that_do_not_commute(
    one: tuple[float, float], two: tuple[float, float], angle: float
) -> None:
    """In two dimensions `(Tr M^(1/2))² = Tr M + 2 (det M)^(1/2)`, by Cayley and Hamilton."""
    a, b = np.diag(one), turn(angle) @ np.diag(two) @ turn(angle).T
    right = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    assert root_trace(exact([0, 0], a), exact([0, 0], b)) == pytest.approx(right, rel=1e-9)


@pytest.mark.parametrize("dimensions", [3, 40, 150])
def test_distance_is_that_of_the_matrix_square_root(dimensions: int) -> None:
    x, y = normal(5, 400, dimensions), normal(6, 300, dimensions, scale=1.4, shift=0.2)
    s, t = np.cov(x.T), np.cov(y.T)
    right = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real)
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(right, rel=1e-8)


def test_root_of_covariances_of_rank_one() -> None:
    """Of `u uᵀ` and `v vᵀ` it is `|u·v|`; two points span one line."""
    u, v = np.random.default_rng(7).normal(size=(2, 50))
    a, b = Moments.of(np.stack([u, -u]) / np.sqrt(2)), Moments.of(np.stack([v, -v]) / np.sqrt(2))
    assert root_trace(a, b) == pytest.approx(abs(u @ v), rel=1e-12)
    alone = exact(a.mean, a.covariance), exact(b.mean, b.covariance)  # from the covariances only
    assert root_trace(*alone) == pytest.approx(abs(u @ v), rel=1e-7)


@pytest.mark.parametrize(("n", "m"), [(30, 40), (30, 400), (400, 30), (60, 61)])
def test_fewer_images_than_dimensions_cost_no_precision(n: int, m: int) -> None:
    """Against the matrix square root within the span of the fewer images, where their covariance is of full rank."""
    x, y = normal(8, n, 60), normal(9, m, 60, scale=2)
    found = frechet_distance(Moments.of(x), Moments.of(y))
    few = x if n < m else y
    span = np.linalg.svd(few - few.mean(0), full_matrices=False)[2][: min(n, m, 61) - 1]
    inner = scipy.linalg.sqrtm(np.cov(span @ x.T) @ np.cov(span @ y.T))
    traces = np.trace(np.cov(x.T)) + np.trace(np.cov(y.T))
    assert found == pytest.approx(((x.mean(0) - y.mean(0)) ** 2).sum() + traces - 2 * np.trace(inner).real, rel=1e-8)


def collapsed(count: int, dimensions: int) -> np.ndarray:
    return normal(10, 7, dimensions)[np.random.default_rng(0).integers(0, 7, count)]


SETS: dict[str, np.ndarray] = {
    "more images than dimensions": normal(11, 500, 100),
    "fewer images than dimensions": normal(11, 60, 100),
    "as many": normal(11, 100, 100),
    "repeated images, many": collapsed(500, 100),
    "repeated images, few": collapsed(60, 100),
    "features that are always 0": normal(11, 500, 100) * (np.arange(100) % 3 > 0),
    "features of very different size": normal(11, 500, 100) * 10.0 ** -(np.arange(100) // 12),
    "one image only": np.ones((50, 100)),
}


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_set_is_at_no_distance_from_itself(kind: str, scale: float) -> None:
    moments = Moments.of(scale * SETS[kind])
    assert frechet_distance(moments, moments) <= 1e-4
    again = Moments.of(scale * SETS[kind][::-1])
    assert frechet_distance(moments, again) <= 1e-4
    trace = np.trace(moments.covariance)
    for other in (moments, again):  # the distance never goes below 0, so this looks at both sides
        assert root_trace(moments, other) == pytest.approx(trace, abs=max(1e-8 * trace, 1e-12))


def test_rounding_does_not_add_up_where_images_are_nearly_repeated() -> None:
    """Hundreds of eigenvalues that are tiny beside the largest, though not so tiny that the covariance is singular."""
    random = np.random.default_rng(0)
    few = random.normal(size=(7, 600))[random.integers(0, 7, 900)]
    moments = Moments.of(few + 1e-5 * random.normal(size=few.shape))
    assert root_trace(moments, moments) == pytest.approx(np.trace(moments.covariance), rel=1e-9)


def test_distance_is_symmetric() -> None:
    for one in SETS.values():
        a, b = Moments.of(one), Moments.of(normal(12, 90, 100, shift=0.1))
        assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


# KID


def kid_by_loops(real: np.ndarray, fake: np.ndarray) -> float:
    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    n, m = len(real), len(fake)
    own = sum(k(real[i], real[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    own += sum(k(fake[i], fake[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return float(own - 2 * sum(k(x, y) for x in real for y in fake) / (n * m))


@pytest.mark.parametrize("rows", [7, 1024])
def test_kid_is_its_formula(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "ROWS", rows)
    x, y = normal(0, 20, 6), normal(1, 20, 6, shift=0.4)
    assert kid(x, y).value == pytest.approx(kid_by_loops(x, y), abs=1e-10)


@pytest.mark.parametrize("rows", [7, 1024])
def test_kid_is_the_mean_over_its_subsets(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(0, 30, 6), normal(1, 25, 6, shift=0.4)
    drawn: list[np.ndarray] = []
    chosen = metrics.chosen

    def watched(*given: Any) -> np.ndarray:
        drawn.append(chosen(*given))
        return drawn[-1]

    monkeypatch.setattr(metrics, "ROWS", rows)
    monkeypatch.setattr(metrics, "chosen", watched)
    found = kid(x, y, subset=9, subsets=4)
    in_x, in_y = drawn
    assert (in_x[:, :4].sum(0) == 9).all()
    assert (in_y[:, :4].sum(0) == 9).all()
    values = [kid_by_loops(x[in_x[:, s] > 0], y[in_y[:, s] > 0]) for s in range(4)]
    assert found.value == pytest.approx(np.mean(values), abs=1e-10)


def test_the_jackknife_is_that_of_images_left_out() -> None:
    x, y = normal(0, 12, 4), normal(1, 15, 4, shift=0.4)
    found = kid(x, y, subset=12, subsets=30)
    variance = 0.0
    for rows, without in (
        (x, [kid_by_loops(np.delete(x, i, 0), y) for i in range(12)]),
        (y, [kid_by_loops(x, np.delete(y, i, 0)) for i in range(15)]),
    ):
        variance += (len(rows) - 1) * float(np.var(without))
    assert (found.high - found.low) / 2 >= 1.9599 * np.sqrt(variance)
    every = kid(x, y[:12])  # one subset, which has all: no error from choosing
    variance = 11 * float(np.var([kid_by_loops(np.delete(x, i, 0), y[:12]) for i in range(12)]))
    variance += 11 * float(np.var([kid_by_loops(x, np.delete(y[:12], i, 0)) for i in range(12)]))
    assert (every.high - every.low) / 2 == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize(
    ("shift", "subset", "subsets"), [(0.0, 1000, 1), (0.0, 20, 20), (0.5, 1000, 1), (0.5, 20, 20), (0.5, 10, 3)]
)
def test_the_interval_holds_the_truth_95_times_in_100(shift: float, subset: int, subsets: int) -> None:
    """New images each time. Where both sets are alike it may hold more often: the jackknife errs upwards there."""
    runs = []
    for trial in range(200):
        random = np.random.default_rng(trial)
        x, y = random.normal(size=(2, 60, 8))
        runs.append(kid(np.abs(x), np.abs(y) + shift, subset=subset, subsets=subsets, seed=trial))
    value, low, high = np.array(runs).T
    truth = value.mean() if shift else 0.0
    assert abs(value.mean() - truth) < 4 * value.std() / np.sqrt(200), "no bias"
    assert ((low <= truth) & (truth <= high)).mean() >= 0.91
    claimed = (high - low).mean() / 2 / 1.96
    assert 0.9 < claimed / value.std() < (1.25 if shift else 1.8)


def test_kid_of_a_large_set_looks_at_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(0, 90, 4), normal(1, 30, 4, shift=1)
    whole = kid(x, y, subset=20)
    monkeypatch.setattr(metrics, "POOL", 40)
    part = kid(x, y, subset=20)
    assert part.low < whole.value < part.high
    assert part.high - part.low > whole.high - whole.low, "and its interval knows"


def test_kid_needs_subsets_of_two() -> None:
    x = normal(0, 9, 4)
    for wrong in ({"subset": 1}, {"subsets": 0}):
        with pytest.raises(ValueError, match="subset"):
            kid(x, x, **wrong)


# MIND


def directions_of(seed: int, count: int, dimensions: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.stack([row / np.sqrt((row**2).sum()) for row in random.standard_normal((count, dimensions))])


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 30), (7, 9), (30, 4)])
def test_mind_is_its_formula(n: int, m: int) -> None:
    """Unequal numbers: every image as often as makes them equal, which changes neither distribution."""
    x, y = normal(0, n, 5), normal(1, m, 5, shift=0.4)
    common = np.lcm(n, m)
    total = 0.0
    for direction in directions_of(3, 70, 5):
        a = sorted(float(row @ direction) for row in np.repeat(x, common // n, axis=0))
        b = sorted(float(row @ direction) for row in np.repeat(y, common // m, axis=0))
        total += sum((one - other) ** 2 for one, other in zip(a, b, strict=True)) / common
    assert mind(x, y, projections=70, seed=3) == pytest.approx(3 * 5 * total / 70, abs=1e-10)


def test_mind_of_a_shift_is_three_times_its_square() -> None:
    """`E (u·v)² = |v|² / D`, and a shift moves every projection by u·v."""
    x, v = normal(0, 40, 30), np.linspace(-1, 1, 30)
    assert mind(x, x + v, projections=20_000) == pytest.approx(3 * v @ v, rel=4 * np.sqrt(2 / 20_000))


def test_mind_of_a_set_with_itself_is_0() -> None:
    x = normal(0, 30, 6)
    assert mind(x, x) == 0
    assert mind(x, np.repeat(x, 3, axis=0)) == pytest.approx(0, abs=1e-25)


# Other libraries


class Same(nn.Module):
    """Features that are the images."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_features = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def fed(metric: Any, real: np.ndarray, fake: np.ndarray) -> Any:
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(fake), real=False)
    return metric.compute()


@pytest.mark.parametrize(("n", "m"), [(500, 300), (500, 30)])
def test_frechet_distance_is_torchmetrics(n: int, m: int) -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    x, y = normal(0, n, 48), normal(1, m, 48, scale=1.2, shift=0.1)
    theirs = float(fed(fid.FrechetInceptionDistance(feature=Same(48)), x, y))
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(theirs, rel=1e-5)


def test_kid_is_torchmetrics() -> None:
    module = pytest.importorskip("torchmetrics.image.kid")
    x, y = normal(0, 200, 48), normal(1, 200, 48, scale=1.2, shift=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns of the memory it takes
        metric = module.KernelInceptionDistance(feature=Same(48), subsets=2, subset_size=200)
    assert kid(x, y).value == pytest.approx(float(fed(metric, x, y)[0]), rel=1e-5)


# Which way they move


def modes(seed: int, count: int, of: int = 8) -> np.ndarray:
    """Eight groups, far apart in 12 dimensions; images are from the first `of` of them."""
    random = np.random.default_rng(seed)
    centres = 6 * np.random.default_rng(99).normal(size=(8, 12))
    return centres[random.integers(0, of, count)] + random.normal(size=(count, 12))


REAL, ALIKE = modes(1, 400), modes(2, 400)
WORSE = {
    "shifted": ALIKE + 2,
    "scaled": 1.5 * ALIKE,
    "half of the modes": modes(3, 400, of=4),
    "repeated": modes(4, 400)[np.arange(400) % 12],
}
DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "frechet": lambda real, fake: frechet_distance(Moments.of(real), Moments.of(fake)),
    "kid": lambda real, fake: kid(real, fake, subset=200, subsets=20).value,
    "mind": lambda real, fake: mind(real, fake, projections=200),
}


@pytest.mark.parametrize("worse", WORSE)
@pytest.mark.parametrize("name", DISTANCES)
def test_distances_grow_as_images_get_worse(name: str, worse: str) -> None:
    distance = DISTANCES[name]
    assert distance(REAL, WORSE[worse]) > 2 * abs(distance(REAL, ALIKE))


# What cannot be measured


@pytest.mark.parametrize("metric", [kid, mind, lambda a, b: frechet_distance(Moments.of(a), Moments.of(b))])
def test_bad_vectors_are_refused(metric: Callable[[np.ndarray, np.ndarray], Any]) -> None:
    x = normal(0, 20, 5)
    broken = x.copy()
    broken[[3, 7], 2] = np.nan, np.inf
    with pytest.raises(SettingError, match="2 of 20 vectors"):
        metric(x, broken)
    for bad in (x[:1], x[0], x[:, :3], x[None], (x > 0), x[:, :0]):
        with pytest.raises(ValueError, match=r"vectors|moments"):
            metric(x, bad)


def test_vectors_keep_their_dimensions() -> None:
    accumulator = Accumulator()
    accumulator.update(normal(0, 3, 5))
    with pytest.raises(ValueError, match="6 dimensions after some of 5"):
        accumulator.update(normal(0, 3, 6))
    with pytest.raises(ValueError, match="needs 2"):
        Accumulator().moments()
