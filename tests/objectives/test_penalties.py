"""Penalties against closed forms, an fp64 NumPy formula differentiated by hand, and gradients by differences."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganvas.errors import SettingError
from ganvas.objectives import PENALTIES, penalty

B, C, H, W = 5, 2, 3, 4
PIXELS = C * H * W
GRADIENT = ["r1", "r2", "r1+r2"]
ALL = [*GRADIENT, "wgan-gp", "finite-difference"]


def random(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    return random(B, C, H, W, seed=1).requires_grad_(), random(B, C, H, W, seed=2).requires_grad_()


def apply(
    name: str, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, seed: int = 3, **settings: float
) -> Tensor:
    source = torch.Generator(real.device).manual_seed(seed)
    return penalty(name, **settings)(critic, real, fake, critic(real), critic(fake), source)


def quadratic(matrix: Tensor, vector: Tensor) -> Callable[[Tensor], Tensor]:
    """D(x) = x·Mx + v·x, whose gradient is (M + Mᵀ)x + v."""

    def critic(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return ((flat @ matrix) * flat).sum(1) + flat @ vector

    return critic


def test_the_table() -> None:
    assert sorted(PENALTIES) == sorted([*ALL, "none"])
    assert [name for name in PENALTIES if penalty(name).needs_image_grad] == GRADIENT
    assert all(penalty(name).name == name for name in PENALTIES)


def test_linear_critic_in_closed_form(images: tuple[Tensor, Tensor]) -> None:
    """D(x) = a·x: the slope is a everywhere."""
    a = random(PIXELS, seed=4)
    critic = quadratic(torch.zeros(PIXELS, PIXELS, dtype=torch.float64), a)
    squared = a.square().sum().item()
    assert apply("r1", critic, *images, gamma=3.0).item() == pytest.approx(1.5 * squared, rel=1e-12)
    assert apply("r2", critic, *images, gamma=3.0).item() == pytest.approx(1.5 * squared, rel=1e-12)
    assert apply("r1+r2", critic, *images, gamma=3.0).item() == pytest.approx(3.0 * squared, rel=1e-12)
    expected = 7.0 * (math.sqrt(squared) - 1) ** 2
    assert apply("wgan-gp", critic, *images, gamma=7.0).item() == pytest.approx(expected, rel=1e-12)
    unit = quadratic(torch.zeros(PIXELS, PIXELS, dtype=torch.float64), a / a.norm())
    assert apply("wgan-gp", unit, *images).item() == pytest.approx(0, abs=1e-25)
    assert apply("none", critic, *images).item() == 0


def test_quadratic_critic_against_numpy(images: tuple[Tensor, Tensor]) -> None:
    matrix, vector = random(PIXELS, PIXELS, seed=5), random(PIXELS, seed=6)
    critic = quadratic(matrix, vector)
    m, v = matrix.numpy(), vector.numpy()
    x, y = (image.detach().numpy().reshape(B, -1) for image in images)

    def squared_slope(points: np.ndarray) -> np.ndarray:
        return ((points @ (m + m.T) + v) ** 2).sum(axis=1)

    r1, r2 = (1.3 / 2 * squared_slope(points).mean() for points in (x, y))
    assert apply("r1", critic, *images, gamma=1.3).item() == pytest.approx(r1, rel=1e-10)
    assert apply("r2", critic, *images, gamma=1.3).item() == pytest.approx(r2, rel=1e-10)
    assert apply("r1+r2", critic, *images, gamma=1.3).item() == pytest.approx(r1 + r2, rel=1e-10)
    assert r1 != pytest.approx(r2, rel=1e-6)

    u = torch.rand(B, 1, 1, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64).numpy().reshape(B, 1)
    gp = 10 * ((np.sqrt(squared_slope(u * x + (1 - u) * y)) - 1) ** 2).mean()
    assert apply("wgan-gp", critic, *images).item() == pytest.approx(gp, rel=1e-10)

    source = torch.Generator().manual_seed(3)
    shape = (B, C, H, W)
    noise = [torch.randn(shape, generator=source, dtype=torch.float64).numpy().reshape(B, -1) for _ in range(2)]

    def answer(points: np.ndarray) -> np.ndarray:
        return np.einsum("bi,ij,bj->b", points, m, points) + points @ v

    moves = [((answer(p) - answer(p + 0.1 * e)) ** 2).mean() for p, e in zip((x, y), noise, strict=True)]
    expected = 2.0 / (2 * 0.1**2) * sum(moves)
    assert apply("finite-difference", critic, *images, gamma=2.0, sigma=0.1).item() == pytest.approx(
        expected, rel=1e-10
    )


def test_finite_difference_is_r1_and_r2_on_average() -> None:
    """Linear critic: exact in expectation for any σ. One (a·ε)² is ‖a‖²·χ², whose standard deviation is √2·‖a‖²."""
    many = 20_000
    a = random(PIXELS, seed=7)
    still = torch.zeros(many, C, H, W, dtype=torch.float64)
    critic = quadratic(torch.zeros(PIXELS, PIXELS, dtype=torch.float64), a)
    estimate = apply("finite-difference", critic, still, still, gamma=0.8, sigma=0.5).item()
    exact = 0.8 * a.square().sum().item()  # both kinds: γ/2 + γ/2
    deviation = exact * math.sqrt(2) / math.sqrt(2 * many)
    assert abs(estimate - exact) < 5 * deviation
    assert 5 * deviation < 0.04 * exact, "the bound would catch a wrong factor"


def test_finite_difference_tends_to_the_gradient_penalty() -> None:
    """Curved critic, the same ε: (D(x + σε) − D(x))²/σ² → (∇D·ε)²."""
    critic = quadratic(random(PIXELS, PIXELS, seed=5), random(PIXELS, seed=6))
    real, fake = random(B, C, H, W, seed=1).requires_grad_(), random(B, C, H, W, seed=2).requires_grad_()
    slopes = torch.autograd.grad(critic(real).sum() + critic(fake).sum(), (real, fake))
    source = torch.Generator().manual_seed(3)
    noise = [torch.randn(real.shape, generator=source, dtype=torch.float64) for _ in range(2)]
    along = [(g * e).flatten(1).sum(1).square().mean() for g, e in zip(slopes, noise, strict=True)]
    limit = 0.5 * sum(t.item() for t in along)
    errors = [
        abs(apply("finite-difference", critic, real, fake, sigma=sigma).item() - limit) for sigma in (1e-2, 1e-3, 1e-4)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 1e-3 * limit


class SmallCritic(nn.Module):
    """Smooth, with two weights to check; convolution and a bend, as in a real critic."""

    def forward(self, x: Tensor, kernel: Tensor, head: Tensor) -> Tensor:
        hidden = nn.functional.softplus(nn.functional.conv2d(x, kernel, padding=1))
        return hidden.flatten(1) @ head


@pytest.mark.parametrize("name", ALL)
def test_gradients_against_differences(name: str) -> None:
    """gradcheck on the critic's weights: the derivative that training follows, itself taken through ∇D."""
    network = SmallCritic()
    kernel = (0.3 * random(3, 1, 3, 3, seed=8)).requires_grad_()
    head = (0.3 * random(3 * 4, seed=9)).requires_grad_()

    def as_function(kernel: Tensor, head: Tensor) -> Tensor:
        real, fake = (random(2, 1, 2, 2, seed=seed).requires_grad_() for seed in (10, 11))
        return apply(name, lambda x: network(x, kernel, head), real, fake, gamma=1.7)

    assert torch.autograd.gradcheck(as_function, (kernel, head))
    assert torch.autograd.gradgradcheck(as_function, (kernel, head))


@pytest.mark.parametrize("name", ALL)
def test_descending_flattens_the_critic(name: str, images: tuple[Tensor, Tensor]) -> None:
    """The sign: a step against the gradient lowers a steep critic's slope."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 8), nn.Softplus(), nn.Linear(8, 1), nn.Flatten(0)).double()
    with torch.no_grad():
        critic[3].weight.mul_(30)
    optimiser = torch.optim.SGD(critic.parameters(), lr=1e-4)
    slopes = []
    for _ in range(5):
        x = images[0].detach().requires_grad_()
        slopes.append(torch.autograd.grad(critic(x).sum(), x)[0].norm().item())
        optimiser.zero_grad()
        apply(name, critic, *images).backward()
        optimiser.step()
    assert slopes == sorted(slopes, reverse=True) and slopes[-1] < 0.99 * slopes[0]


@pytest.mark.parametrize(("name", "calls"), [("none", 0), *((name, 0) for name in GRADIENT), ("wgan-gp", 1)])
def test_extra_forward_passes(name: str, calls: int, images: tuple[Tensor, Tensor]) -> None:
    seen = []

    def counted(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x.flatten(1).sum(1).square()

    real, fake = images
    penalty(name)(counted, real, fake, counted(real), counted(fake), None)
    assert seen == [B] * (2 + calls)
    seen.clear()
    still = real.detach(), fake.detach()
    penalty("finite-difference")(counted, *still, counted(still[0]), counted(still[1]), None)
    assert seen == [B] * 4


def test_one_batch_for_both_kinds_gives_the_same_gradient_penalty(images: tuple[Tensor, Tensor]) -> None:
    critic = quadratic(random(PIXELS, PIXELS, seed=5), random(PIXELS, seed=6))
    real, fake = images
    together = critic(torch.cat([real, fake])).chunk(2)
    torch.testing.assert_close(penalty("r1+r2")(critic, real, fake, *together), apply("r1+r2", critic, real, fake))


@pytest.mark.parametrize("name", ["wgan-gp", "finite-difference"])
def test_chance_comes_from_the_given_source_only(name: str, images: tuple[Tensor, Tensor]) -> None:
    critic = quadratic(random(PIXELS, PIXELS, seed=5), random(PIXELS, seed=6))
    state = torch.get_rng_state()
    first, again, other = (apply(name, critic, *images, seed=seed).item() for seed in (3, 3, 4))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ALL)
def test_linear_in_gamma(name: str, images: tuple[Tensor, Tensor]) -> None:
    """A schedule of γ may scale what a penalty returns."""
    critic = quadratic(random(PIXELS, PIXELS, seed=5), random(PIXELS, seed=6))
    once, thrice, never = (apply(name, critic, *images, gamma=g).item() for g in (1.0, 3.0, 0.0))
    assert thrice == pytest.approx(3 * once, rel=1e-12) and never == 0


@pytest.mark.parametrize("name", ALL)
def test_a_flat_critic_gives_finite_gradients(name: str, images: tuple[Tensor, Tensor]) -> None:
    weight = torch.zeros(PIXELS, dtype=torch.float64, requires_grad=True)
    apply(name, lambda x: x.flatten(1) @ weight, *images).backward()
    assert weight.grad is not None and weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["none", *ALL])
def test_bf16_critic_gives_an_fp32_penalty(name: str) -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(
        nn.Conv2d(C, 4, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(4 * H * W, 1), nn.Flatten(0)
    )
    real, fake = (random(B, C, H, W, seed=seed).float().requires_grad_() for seed in (1, 2))
    settings = {"sigma": 0.3} if name == "finite-difference" else {}  # well above bf16's rounding
    exact = apply(name, critic, real, fake, **settings)
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(real).dtype == torch.bfloat16
        rounded = apply(name, critic, real, fake, **settings)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=1e-6)


def test_images_without_the_flag_are_our_own_bug(images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(AssertionError, match="requires_grad_"):
        apply("r1", lambda x: x.flatten(1).sum(1), images[0].detach(), images[1].detach())
    with pytest.raises(AssertionError):
        apply("r1+r2", lambda x: x.flatten(1).sum(1), images[0], images[0])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("r3", {}, r"unknown penalty 'r3' \(did you mean 'r\d'\?\); known: none, r1, r2, r1\+r2, wgan-gp"),
        ("r1", {"gama": 1.0}, r"unknown setting of penalty 'r1' 'gama' \(did you mean 'gamma'\?\)"),
        ("r1", {"sigma": 0.1}, "known: gamma"),
        ("none", {"gamma": 1.0}, "known: none"),
        ("r2", {"gamma": -1.0}, "gamma=-1.0 must be a finite number, 0 or more"),
        ("wgan-gp", {"gamma": math.inf}, "gamma=inf must be"),
        ("finite-difference", {"sigma": 0.0}, "sigma=0.0 must be a finite number above 0"),
        ("finite-difference", {"sigma": math.nan}, "sigma=nan must be"),
    ],
)
def test_bad_settings_are_one_line(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        penalty(name, **settings)
    assert "\n" not in str(caught.value)


def test_none_keeps_the_default() -> None:
    assert penalty("finite-difference", gamma=None, sigma=None) == penalty("finite-difference")
    assert penalty("none", gamma=None) == penalty("none")
    assert penalty("wgan-gp").gamma == 10
