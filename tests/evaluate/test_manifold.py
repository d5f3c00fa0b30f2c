"""Precision, recall, density and coverage: by loops, by hand, and by what their papers prove of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganvas.errors import SettingError
from ganvas.evaluate import manifold as module
from ganvas.evaluate.manifold import density_coverage, manifold, precision_recall


def normal(seed: int, count: int, dimensions: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=(count, dimensions)) + shift


def apart(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(((x - y) ** 2).sum()))


def balls(rows: np.ndarray, k: int) -> list[float]:
    return [sorted(apart(x, y) for j, y in enumerate(rows) if j != i)[k - 1] for i, x in enumerate(rows)]


def by_loops(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    reach, reach_of_samples = balls(real, k), balls(fake, k)
    inside = [[apart(y, x) <= radius for x, radius in zip(real, reach, strict=True)] for y in fake]
    reached = [[apart(x, y) <= radius for y, radius in zip(fake, reach_of_samples, strict=True)] for x in real]
    return (
        sum(map(any, inside)) / len(fake),
        sum(map(any, reached)) / len(real),
        sum(map(sum, inside)) / (k * len(fake)),
        sum(map(any, zip(*inside, strict=True))) / len(real),
    )


@pytest.mark.parametrize("rows", [7, 512])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("n", "m"), [(40, 40), (25, 60), (60, 8)])
def test_all_four_are_their_formulas(n: int, m: int, k: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    real, fake = normal(0, n, 4), normal(1, m, 4, scale=1.3, shift=0.5)
    assert manifold(real, fake, k, k) == pytest.approx(by_loops(real, fake, k), abs=1e-10)
    assert (*precision_recall(real, fake, k), *density_coverage(real, fake, k)) == manifold(real, fake, k, k)


def test_each_pair_has_its_own_number_of_neighbours() -> None:
    real, fake = normal(0, 50, 4), normal(1, 50, 4, shift=0.5)
    found = manifold(real, fake)
    assert (found.precision, found.recall) == precision_recall(real, fake, 3)
    assert (found.density, found.coverage) == density_coverage(real, fake, 5)


def test_on_a_line_by_hand() -> None:
    """Real 0, 1, 3, 7 have radii 1, 1, 2, 4 to their nearest; samples 1.5, 2, 20 have 0.5, 0.5, 18."""
    real, fake = np.array([[0.0], [1], [3], [7]]), np.array([[1.5], [2.0], [20]])
    found = manifold(real, fake, 1, 1)
    assert found.precision == 2 / 3  # 1.5 and 2 are near 1 and 3; 20 is near nothing
    assert found.recall == 3 / 4  # 20 reaches down to 2, so to 3 and 7; 1.5 reaches down to 1; nothing reaches 0
    assert found.density == 4 / 3  # 1.5 and 2 are each in the balls of 1 and of 3
    assert found.coverage == 2 / 4


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_set_against_itself(k: int, offset: float) -> None:
    """The k-th neighbour lies on the sphere, and that counts as inside: k neighbours and the centre."""
    x = normal(0, 300, 20) + offset
    order = np.random.default_rng(0).permutation(300)
    assert manifold(x, x[order], k, k) == pytest.approx((1, 1, (k + 1) / k, 1), abs=1e-12)


def test_equal_vectors_are_neighbours_at_distance_0() -> None:
    """Each real vector five times: its 4th neighbour is at distance 0, and still its copies are inside."""
    apiece = normal(0, 10, 30)
    real = np.repeat(apiece, 5, axis=0)
    same = manifold(real, real, 4, 4)
    assert same == pytest.approx((1, 1, 5 / 4, 1))
    assert manifold(real, real + 1e-3, 4, 4) == (0, 0, 0, 0)


def test_a_generator_that_makes_one_image_only() -> None:
    real = normal(0, 60, 10)
    found = manifold(real, np.repeat(real[:1], 60, axis=0))
    assert found.precision == 1
    assert found.recall == 1 / 60
    assert found.coverage <= 0.5
    assert manifold(np.ones((9, 4)), np.ones((7, 4))) == pytest.approx((1, 1, 9 / 5, 1)), "nor does one point trip it"


@pytest.mark.parametrize(("n", "m"), [(60, 60), (40, 100)])
def test_sets_of_one_distribution_have_the_density_and_coverage_that_is_proved(n: int, m: int) -> None:
    """Naeem et al. 2020, section 3: whatever the distribution, on average over sets."""
    k = 5
    found = np.array([density_coverage(normal(2 * s, n, 3), normal(2 * s + 1, m, 3), k) for s in range(300)])
    mean, error = found.mean(axis=0), found.std(axis=0) / np.sqrt(300)
    missed = np.prod([(n - 1 - j) / (n + m - 1 - j) for j in range(k)])  # the k nearest of all others are real ones
    assert abs(mean[0] - 1) < 4 * error[0]
    assert abs(mean[1] - (1 - missed)) < 4 * error[1]


@given(st.permutations(range(30)), st.permutations(range(25)), st.floats(-100, 100), st.floats(0.01, 100))
def test_order_place_and_scale_do_not_matter(
    order: list[int], other_order: list[int], offset: float, scale: float
) -> None:
    real, fake = normal(0, 30, 5), normal(1, 25, 5, shift=0.3)
    moved = manifold(scale * real[order] + offset, scale * fake[other_order] + offset)
    assert moved == pytest.approx(manifold(real, fake), abs=1e-12)


def modes(seed: int, count: int, of: int = 8) -> np.ndarray:
    """Eight groups, far apart in 12 dimensions; vectors are from the first `of` of them."""
    random = np.random.default_rng(seed)
    centres = 6 * np.random.default_rng(99).normal(size=(8, 12))
    return centres[random.integers(0, of, count)] + random.normal(size=(count, 12))


def test_each_moves_the_right_way() -> None:
    real, alike = modes(1, 400), modes(2, 400)
    base = manifold(real, alike)
    half = manifold(real, modes(3, 400, of=4))
    assert half.precision > base.precision - 0.1, "what is made is good"
    assert half.recall == pytest.approx(base.recall / 2, abs=0.1)
    assert half.coverage == pytest.approx(base.coverage / 2, abs=0.1)
    shifted = manifold(real, alike + 2)
    assert all(now < 0.5 * before for now, before in zip(shifted, base, strict=True))
    repeated = manifold(real, modes(4, 400)[np.arange(400) % 12])
    assert repeated.precision > base.precision - 0.4
    assert repeated.recall < 0.2 * base.recall
    assert repeated.coverage < 0.4 * base.coverage
    wide, narrow = normal(5, 400, 12, scale=2), normal(5, 400, 12, scale=0.5)
    real = normal(6, 400, 12)
    base = manifold(real, normal(7, 400, 12))
    assert manifold(real, wide).precision < base.precision < manifold(real, narrow).precision
    assert manifold(real, narrow).recall < base.recall < manifold(real, wide).recall
    assert manifold(real, wide).density < base.density < manifold(real, narrow).density
    assert max(manifold(real, narrow).coverage, manifold(real, wide).coverage) < base.coverage


def test_bad_vectors_are_refused() -> None:
    x = normal(0, 20, 5)
    broken = x.copy()
    broken[3, 2] = np.nan
    with pytest.raises(SettingError, match="1 of 20 vectors"):
        manifold(x, broken)
    for bad in (x[:1], x[0], x[:, :3], x[:5], x > 0):
        with pytest.raises(ValueError, match="vectors"):
            manifold(x, bad)
    with pytest.raises(ValueError, match="neighbour"):
        precision_recall(x, x, k=20)
    with pytest.raises(ValueError, match="neighbour"):
        density_coverage(x, x, k=0)
