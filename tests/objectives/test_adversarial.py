"""Each loss against an fp64 NumPy formula written independently, its closed forms, signs and symmetries."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ganvas.errors import SettingError
from ganvas.objectives import ADVERSARIAL, adversarial
from ganvas.objectives.minimax import value

Pair = tuple[np.ndarray, np.ndarray]


def sigmoid(t: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-t))


# The papers' own formulas, naive on purpose: they share no trick with the code, and hold while |logit| is moderate.
CRITIC: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "minimax": lambda r, f: -(np.log(sigmoid(r)).mean() + np.log(1 - sigmoid(f)).mean()),
    "non-saturating": lambda r, f: -(np.log(sigmoid(r)).mean() + np.log(1 - sigmoid(f)).mean()),
    "hinge": lambda r, f: -(np.minimum(0, -1 + r).mean() + np.minimum(0, -1 - f).mean()),
    "least-squares": lambda r, f: (((r - 1) ** 2).mean() + (f**2).mean()) / 2,
    "wasserstein": lambda r, f: -(r.mean() - f.mean()),
    "relativistic": lambda r, f: -np.log(sigmoid(r - f)).mean(),
}
GENERATOR: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "minimax": lambda r, f: np.log(1 - sigmoid(f)).mean(),
    "non-saturating": lambda r, f: -np.log(sigmoid(f)).mean(),
    "hinge": lambda r, f: -f.mean(),
    "least-squares": lambda r, f: ((f - 1) ** 2).mean() / 2,
    "wasserstein": lambda r, f: -f.mean(),
    "relativistic": lambda r, f: -np.log(sigmoid(f - r)).mean(),
}
NAMES = sorted(CRITIC)


def logits(largest: float) -> st.SearchStrategy[Pair]:
    """Reals and fakes, as many of each."""

    def pair(size: int) -> st.SearchStrategy[Pair]:
        one = arrays(np.float64, size, elements=st.floats(-largest, largest, width=32))
        return st.tuples(one, one)

    return st.integers(1, 9).flatmap(pair)


def slopes(name: str, player: str, real: float, fake: float) -> tuple[float, float]:
    """The derivatives of a player's loss with respect to one real and one fake logit."""
    r, f = (torch.tensor([t], dtype=torch.float64, requires_grad=True) for t in (real, fake))
    loss = getattr(adversarial(name), f"{player}_loss")(r, f)
    grads = torch.autograd.grad(loss, (r, f), allow_unused=True)
    return tuple(0.0 if g is None else g.item() for g in grads)


def test_the_table_holds_what_is_tested() -> None:
    assert sorted(ADVERSARIAL) == NAMES == sorted(GENERATOR)
    assert all(adversarial(name).name == name for name in NAMES)
    assert [name for name in NAMES if adversarial(name).paired] == ["relativistic"]


@pytest.mark.parametrize("name", NAMES)
@given(pair=logits(12))
def test_losses_equal_the_papers_formulas(name: str, pair: Pair) -> None:
    real, fake = map(torch.from_numpy, pair)
    objective = adversarial(name)
    assert objective.critic_loss(real, fake).item() == pytest.approx(CRITIC[name](*pair), rel=1e-10, abs=1e-10)
    assert objective.generator_loss(real, fake).item() == pytest.approx(GENERATOR[name](*pair), rel=1e-10, abs=1e-10)
    if not objective.paired:
        assert torch.equal(objective.generator_loss(None, fake), objective.generator_loss(real, fake))


@given(pair=logits(12))
def test_minimax_is_the_formula_verbatim(pair: Pair) -> None:
    """E[log D(x)] + E[log(1 − D(G(z)))], with D a probability."""
    d_real, d_fake = sigmoid(pair[0]), sigmoid(pair[1])
    expected = np.mean(np.log(d_real)) + np.mean(np.log(1 - d_fake))
    assert value(*map(torch.from_numpy, pair)).item() == pytest.approx(expected, rel=1e-10)


def test_equal_distributions_give_minus_log_four() -> None:
    nothing = torch.zeros(5, dtype=torch.float64)  # D = 1/2 everywhere: theorem 1 of the paper
    assert value(nothing, nothing).item() == pytest.approx(-math.log(4), abs=1e-15)
    for name in ("minimax", "non-saturating"):
        assert adversarial(name).critic_loss(nothing, nothing).item() == pytest.approx(math.log(4), abs=1e-15)
    relativistic = adversarial("relativistic")
    assert relativistic.critic_loss(nothing, nothing).item() == pytest.approx(math.log(2), abs=1e-15)
    half = nothing + 0.5
    assert adversarial("least-squares").critic_loss(half, half).item() == 0.25


def test_the_best_critic_is_the_density_ratio() -> None:
    """Proposition 1: on two coins, V is greatest at D = p/(p + q), where V = −log 4 + 2·JS(p‖q)."""
    p, q = np.array([0.8, 0.2]), np.array([0.3, 0.7])
    counts = (torch.tensor([0] * 8 + [1] * 2), torch.tensor([0] * 3 + [1] * 7))
    best = torch.from_numpy(np.log(p / q)).requires_grad_()
    reached = value(best[counts[0]], best[counts[1]])
    middle = (p + q) / 2
    js = (np.sum(p * np.log(p / middle)) + np.sum(q * np.log(q / middle))) / 2
    assert reached.item() == pytest.approx(-math.log(4) + 2 * js, abs=1e-12)
    (slope,) = torch.autograd.grad(reached, best)
    assert slope.abs().max() < 1e-12
    for step in ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1)):
        worse = best.detach() + torch.tensor(step)
        assert value(worse[counts[0]], worse[counts[1]]) < reached


@pytest.mark.parametrize("name", NAMES)
def test_the_players_pull_in_opposite_directions(name: str) -> None:
    for_real, for_fake = slopes(name, "critic", 0.3, 0.2)
    assert for_real < 0 < for_fake, "the critic raises reals and lowers fakes"
    assert slopes(name, "generator", 0.3, 0.2)[1] < 0, "the generator raises fakes"


def test_slopes_in_closed_form() -> None:
    d = 1 / (1 + math.exp(4.0))
    assert slopes("minimax", "generator", 0, -4.0)[1] == pytest.approx(-d)
    assert slopes("non-saturating", "generator", 0, -4.0)[1] == pytest.approx(d - 1)
    assert slopes("hinge", "critic", 1.01, -1.01) == (0, 0), "outside the margin a picture has no pull"
    assert slopes("hinge", "critic", 0.99, -0.99) == (-1, 1)
    assert slopes("hinge", "generator", 0, 50.0)[1] == -1, "the generator has no margin"
    assert slopes("wasserstein", "critic", 7, -9) == (-1, 1)
    assert slopes("least-squares", "critic", 3, 0.5) == (2, 0.5), "also pictures too far on the right side"
    assert slopes("relativistic", "critic", 1, -3)[0] == pytest.approx(-d)
    assert slopes("relativistic", "generator", 1, -3) == pytest.approx((1 - d, d - 1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@given(pair=logits(1e4))
def test_finite_at_extreme_logits(name: str, dtype: torch.dtype, pair: Pair) -> None:
    r, f = (torch.from_numpy(t).to(dtype).requires_grad_() for t in pair)
    objective = adversarial(name)
    for loss in (objective.critic_loss(r, f), objective.generator_loss(r, f)):
        assert loss.shape == () and loss.isfinite()
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        for gradient in torch.autograd.grad(loss, (r, f), allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_logits_are_added_up_in_fp32(name: str) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        r, f = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)).to(dtype)
        objective = adversarial(name)
        assert torch.equal(objective.critic_loss(r, f), objective.critic_loss(r.float(), f.float()))
        assert torch.equal(objective.generator_loss(r, f), objective.generator_loss(r.float(), f.float()))


@pytest.mark.parametrize("name", NAMES)
@given(pair=logits(50), seed=st.integers(0, 1000))
def test_the_order_of_a_batch_means_nothing(name: str, pair: Pair, seed: int) -> None:
    r, f = map(torch.from_numpy, pair)
    objective = adversarial(name)
    random = np.random.default_rng(seed)
    first = torch.from_numpy(random.permutation(len(r)))
    second = first if objective.paired else torch.from_numpy(random.permutation(len(f)))
    for loss in (objective.critic_loss, objective.generator_loss):
        torch.testing.assert_close(loss(r[first], f[second]), loss(r, f), rtol=1e-9, atol=1e-9)


def test_pairs_are_pairs() -> None:
    r, f = torch.tensor([5.0, -5.0]), torch.tensor([4.0, -6.0])
    relativistic = adversarial("relativistic")
    assert relativistic.critic_loss(r, f.flip(0)) > relativistic.critic_loss(r, f) + 1


@given(pair=logits(50), constant=st.floats(-100, 100))
def test_relativistic_knows_differences_only(pair: Pair, constant: float) -> None:
    r, f = map(torch.from_numpy, pair)
    relativistic = adversarial("relativistic")
    shifted = relativistic.critic_loss(r + constant, f + constant)
    torch.testing.assert_close(shifted, relativistic.critic_loss(r, f), rtol=1e-9, atol=1e-9)
    assert torch.equal(relativistic.generator_loss(r, f), relativistic.critic_loss(f, r)), "each mirrors the other"


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str) -> None:
    objective = adversarial(name)
    r = torch.tensor([-2.3, 0.4, 3.1], dtype=torch.float64, requires_grad=True)
    f = torch.tensor([0.7, -3.2, 1.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(objective.critic_loss, (r, f))
    assert torch.autograd.gradcheck(lambda f: objective.generator_loss(r.detach(), f), (f,))


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_the_wrong_shape_are_not_broadcast(name: str) -> None:
    with pytest.raises(AssertionError):
        adversarial(name).critic_loss(torch.zeros(4, 1), torch.zeros(4, 1))


def test_unequal_batches() -> None:
    r, f = torch.zeros(4), torch.zeros(6)
    for name in NAMES:
        objective = adversarial(name)
        if objective.paired:
            with pytest.raises(AssertionError):
                objective.critic_loss(r, f)
            with pytest.raises(AssertionError):
                objective.generator_loss(None, f)
        else:
            assert objective.critic_loss(r, f).isfinite()


def test_an_unknown_name_says_what_was_meant() -> None:
    with pytest.raises(
        SettingError, match=r"'relativstic' \(did you mean 'relativistic'\?\); known: minimax"
    ) as caught:
        adversarial("relativstic")
    assert "\n" not in str(caught.value)
