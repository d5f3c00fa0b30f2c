"""One step against plain torch, written the long way: each player moves by its own gradient and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.networks import dcgan, style
from ganvas.objectives import ADVERSARIAL, adversarial, penalty
from ganvas.training.players import Players
from ganvas.training.step import Losses, draw_latents, judge_both, play, to_tensor, update
from ganvas.training.team import Team
from ganvas.training.weights import Weights

RATE = 0.1


class Drawer(nn.Module):
    """A generator small enough for fp64: [B, 3] to [B, 1, 4, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 16), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).view(-1, 1, 4, 4)


class Judge(nn.Module):
    """A discriminator with a smooth slope: [B, 1, 4, 4] to [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)


def players_of(generator: nn.Module, discriminator: nn.Module) -> Players:
    """Plain gradient descent, so that a step shows the gradient itself."""
    optimisers: list[Any] = [torch.optim.SGD(net.parameters(), lr=RATE) for net in (generator, discriminator)]
    weights = Weights(generator), Weights(discriminator)
    return Players(generator, discriminator, copy.deepcopy(generator), *weights, *optimisers)


@pytest.fixture
def batch() -> tuple[Players, Tensor, Tensor]:
    torch.manual_seed(0)
    players = players_of(Drawer().double(), Judge().double())
    return players, torch.randn(6, 1, 4, 4, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)


# The papers' formulas in torch, of logits r of reals and f of fakes.
CRITIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "minimax": lambda r, f: -torch.log(torch.sigmoid(r)).mean() - torch.log(1 - torch.sigmoid(f)).mean(),
    "non-saturating": lambda r, f: -torch.log(torch.sigmoid(r)).mean() - torch.log(1 - torch.sigmoid(f)).mean(),
    "hinge": lambda r, f: torch.relu(1 - r).mean() + torch.relu(1 + f).mean(),
    "least-squares": lambda r, f: ((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2,
    "wasserstein": lambda r, f: f.mean() - r.mean(),
    "relativistic": lambda r, f: -torch.log(torch.sigmoid(r - f)).mean(),
}
GENERATOR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "minimax": lambda r, f: torch.log(1 - torch.sigmoid(f)).mean(),
    "non-saturating": lambda r, f: -torch.log(torch.sigmoid(f)).mean(),
    "hinge": lambda r, f: -f.mean(),
    "least-squares": lambda r, f: ((f - 1) ** 2).mean() / 2,
    "wasserstein": lambda r, f: -f.mean(),
    "relativistic": lambda r, f: -torch.log(torch.sigmoid(f - r)).mean(),
}


def by_hand(
    players: Players, real: Tensor, z: Tensor, name: str, gamma: float = 0.0
) -> tuple[nn.Module, nn.Module, list[float]]:
    """The step of a tutorial on copies: generator and discriminator after it, and [D loss, G loss, penalty]."""
    generator, discriminator = copy.deepcopy(players.generator), copy.deepcopy(players.discriminator)
    x, fake = real.detach().clone().requires_grad_(), generator(z).detach().requires_grad_()
    r, f = discriminator(x), discriminator(fake)
    slopes = torch.autograd.grad(r.sum() + f.sum(), (x, fake), create_graph=True)
    smooth = gamma / 2 * sum((slope**2).sum((1, 2, 3)).mean() for slope in slopes)
    loss = CRITIC[name](r, f)
    gradients = torch.autograd.grad(loss + smooth, list(discriminator.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(discriminator.parameters(), gradients, strict=True):
            parameter -= RATE * gradient
    deceived = GENERATOR[name](r.detach(), discriminator(generator(z)))
    gradients = torch.autograd.grad(deceived, list(generator.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(generator.parameters(), gradients, strict=True):
            parameter -= RATE * gradient
    return generator, discriminator, [loss.item(), deceived.item(), torch.as_tensor(smooth).item()]


def assert_same(found: nn.Module, right: nn.Module, tolerance: float) -> None:
    for (name, one), other in zip(found.named_parameters(), right.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=tolerance, atol=tolerance), name


def run(players: Players, real: Tensor, z: Tensor, name: str, smooth: Any = None, weight: float = 1.0) -> Losses:
    return play(players, real.clone(), z, None, adversarial(name), smooth, weight, 0, Team(1, 1))


@pytest.mark.parametrize("gamma", [0.0, 0.7])
@pytest.mark.parametrize("name", sorted(ADVERSARIAL))
def test_a_step_is_the_tutorials(batch: tuple[Players, Tensor, Tensor], name: str, gamma: float) -> None:
    players, real, z = batch
    generator, discriminator, (loss, deceived, smooth) = by_hand(players, real, z, name, gamma)
    losses = run(players, real, z, name, penalty("r1+r2", gamma=gamma) if gamma else None)
    assert losses.discriminator.item() == pytest.approx(loss, rel=1e-10)
    assert losses.generator.item() == pytest.approx(deceived, rel=1e-10)
    assert losses.penalty.item() == pytest.approx(smooth, rel=1e-10)
    assert_same(players.discriminator, discriminator, 1e-11)
    assert_same(players.generator, generator, 1e-11)


def test_the_weight_multiplies_the_penalty(batch: tuple[Players, Tensor, Tensor]) -> None:
    """A lazy penalty, every 4th step, weighs 4: the same step as one of four times its gamma."""
    players, real, z = batch
    generator, discriminator, _ = by_hand(players, real, z, "relativistic", gamma=4 * 0.5)
    run(players, real, z, "relativistic", penalty("r1+r2", gamma=0.5), weight=4.0)
    assert_same(players.discriminator, discriminator, 1e-11)
    assert_same(players.generator, generator, 1e-11)


def test_without_a_penalty_its_weight_means_nothing(batch: tuple[Players, Tensor, Tensor]) -> None:
    players, real, z = batch
    _, discriminator, _ = by_hand(players, real, z, "hinge")
    losses = run(players, real, z, "hinge", None, weight=1e6)
    assert losses.penalty.item() == 0
    assert_same(players.discriminator, discriminator, 1e-11)


@pytest.mark.parametrize("kind", ["none", "r1", "r2", "r1+r2", "wgan-gp", "finite-difference"])
def test_each_player_moves_by_its_own_gradient_only(batch: tuple[Players, Tensor, Tensor], kind: str) -> None:
    """A player whose optimiser stands still is not moved by the other's half of the step."""
    players, real, z = batch
    smooth = penalty(kind, gamma=None if kind == "none" else 1.0)
    for still, moving in ((0, 1), (1, 0)):
        networks = [players.generator, players.discriminator]
        optimisers = [players.generator_optimiser, players.discriminator_optimiser]
        before = [copy.deepcopy(network.state_dict()) for network in networks]
        rates = [RATE, RATE]
        rates[still] = 0.0
        for optimiser, rate in zip(optimisers, rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate
        run(players, real, z, "relativistic", smooth)
        for name, tensor in networks[still].state_dict().items():
            assert torch.equal(tensor, before[still][name]), name
        assert any(not torch.equal(t, before[moving][name]) for name, t in networks[moving].state_dict().items())
        assert all(parameter.requires_grad for network in networks for parameter in network.parameters())


def test_the_average_is_left_to_the_loop(batch: tuple[Players, Tensor, Tensor]) -> None:
    players, real, z = batch
    before = copy.deepcopy(players.average.state_dict())
    run(players, real, z, "relativistic")
    assert all(torch.equal(tensor, before[name]) for name, tensor in players.average.state_dict().items())


def test_old_gradients_do_not_add_up(batch: tuple[Players, Tensor, Tensor]) -> None:
    players, real, z = batch
    twin = players_of(copy.deepcopy(players.generator), copy.deepcopy(players.discriminator))
    for _ in range(3):
        run(players, real, z, "relativistic")
        generator, discriminator, _ = by_hand(twin, real, z, "relativistic")
        twin = players_of(generator, discriminator)
    assert_same(players.discriminator, twin.discriminator, 1e-10)
    assert_same(players.generator, twin.generator, 1e-10)


def test_a_step_of_the_tutorial_network_is_plain_torchs() -> None:
    """The whole path in fp32, batch normalisation included: losses and both gradients."""
    torch.manual_seed(0)
    players = players_of(dcgan.Generator(16, 3, 10), dcgan.Discriminator(16, 3))
    generator, discriminator = copy.deepcopy(players.generator), copy.deepcopy(players.discriminator)
    real, z = torch.rand(8, 3, 16, 16) * 2 - 1, torch.rand(8, 10) * 2 - 1
    ones, zeros = torch.ones(8), torch.zeros(8)
    fake = generator(z)
    r, f = discriminator(real), discriminator(fake.detach())
    loss = F.binary_cross_entropy_with_logits(r, ones) + F.binary_cross_entropy_with_logits(f, zeros)
    loss.backward()
    torch.optim.SGD(discriminator.parameters(), lr=RATE).step()
    deceived = F.binary_cross_entropy_with_logits(discriminator(fake), ones)
    deceived.backward()
    torch.optim.SGD(generator.parameters(), lr=RATE).step()

    losses = run(players, real, z, "non-saturating")
    assert losses.discriminator.item() == pytest.approx(loss.item(), rel=1e-5)
    assert losses.generator.item() == pytest.approx(deceived.item(), rel=1e-5)
    assert losses.real_logit.item() == pytest.approx(r.mean().item(), abs=1e-5)
    assert losses.fake_logit.item() == pytest.approx(f.mean().item(), abs=1e-5)
    assert_same(players.discriminator, discriminator, 1e-5)
    assert_same(players.generator, generator, 1e-5)


def test_labels_reach_both_players() -> None:
    seen: list[Tensor] = []

    class Labelled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            seen.append(label)
            return self.inner(x)

    players, label = players_of(Labelled(Drawer()), Labelled(Judge())), torch.arange(4)
    smooth = penalty("finite-difference", gamma=1.0)
    real, z, team = torch.randn(4, 1, 4, 4), torch.randn(4, 3), Team(1, 1)
    play(players, real, z, label, adversarial("hinge"), smooth, 1.0, 0, team)
    assert len(seen) >= 1 + 3 + 2, "generator; critic on reals, fakes and deceiving fakes; the penalty's own calls"
    assert all(torch.equal(given, label) for given in seen)


@pytest.mark.parametrize("size", [2, 3])
def test_shares_of_a_batch_add_up_to_the_whole(batch: tuple[Players, Tensor, Tensor], size: int) -> None:
    """These players look at each image by itself, so a batch cut up gives the same losses and the same step."""
    players, real, z = batch
    smooth = penalty("r1+r2", gamma=0.7)
    generator, discriminator, (loss, deceived, slope) = by_hand(players, real, z, "relativistic", gamma=0.7)
    with Team(size, 1) as team:
        losses = play(players, real.clone(), z, None, adversarial("relativistic"), smooth, 1.0, 0, team)
    assert losses.discriminator.item() == pytest.approx(loss, rel=1e-10)
    assert losses.generator.item() == pytest.approx(deceived, rel=1e-10)
    assert losses.penalty.item() == pytest.approx(slope, rel=1e-10)
    assert_same(players.discriminator, discriminator, 1e-11)
    assert_same(players.generator, generator, 1e-11)


def test_a_share_that_fails_is_heard(batch: tuple[Players, Tensor, Tensor]) -> None:
    players, real, z = batch
    with Team(2, 1) as team, pytest.raises(RuntimeError, match="shape"):
        play(players, real[:, :, :3], z, None, adversarial("hinge"), None, 1.0, 0, team)


def test_losses_are_cut_off_from_the_graph(batch: tuple[Players, Tensor, Tensor]) -> None:
    players, real, z = batch
    for value in run(players, real, z, "relativistic", penalty("r1", gamma=1.0))[:5]:
        assert value.shape == () and not value.requires_grad


def test_pixels_become_numbers_from_minus_one_to_one() -> None:
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    pixels[0, 0, 0], pixels[1, 2, 3] = 0, 255
    images = to_tensor(pixels, "cpu")
    assert images.shape == (2, 3, 3, 4) and images.dtype == torch.float32
    assert images.min() == -1 and images.max() == 1
    assert images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(images.numpy(), pixels.transpose(0, 3, 1, 2) / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("prior", ["normal", "uniform"])
def test_latents_follow_their_prior_and_their_generator(prior: str) -> None:
    one, two = (draw_latents(prior, 4096, 8, torch.Generator().manual_seed(5), "cpu") for _ in range(2))
    other = draw_latents(prior, 4096, 8, torch.Generator().manual_seed(6), "cpu")
    assert one.shape == (4096, 8) and torch.equal(one, two) and not torch.equal(one, other)
    variance = 1.0 if prior == "normal" else 1 / 3
    assert abs(one.mean().item()) < 0.03
    assert one.var().item() == pytest.approx(variance, rel=0.04)
    assert (one.abs().max() <= 1) == (prior == "uniform")


@pytest.mark.parametrize("members", [1, 2])
def test_the_layout_of_a_gradient_in_memory_does_not_matter(members: int) -> None:
    """A penalty hands some back in another layout than their weights have; torch's fused Adam looks at memory alone."""
    torch.manual_seed(0)
    start, gradient = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(start.clone().contiguous(memory_format=torch.channels_last))
        adam = torch.optim.Adam([weight], lr=RATE, betas=(0.0, 0.99), fused=True)
        gradients = [[gradient.clone().contiguous(memory_format=layout)] for _ in range(members)]
        assert update(adam, [weight], Team(members, 1).average(gradients))
        moved.append(weight.detach().clone())
    assert torch.equal(*moved)
    assert torch.allclose(moved[0] - start, -RATE * gradient.sign(), atol=1e-4), "Adam's first step is a sign's"


@pytest.mark.parametrize("kind", ["r1", "r1+r2"])
def test_a_penalised_step_of_the_style_critic_is_that_of_adam_without_fusing(kind: str) -> None:
    """Every convolution of the real network, against torch's plain Adam, which does look at strides."""
    moved = []
    for fused in (True, False):
        torch.manual_seed(0)
        networks = style.Generator((32, 32), 3, 8, 16), style.Discriminator((32, 32), 3, 8)
        average, weights = copy.deepcopy(networks[0]), [Weights(net) for net in networks]
        optimisers = [torch.optim.Adam(own.masters, lr=1e-3, betas=(0.0, 0.99), fused=fused) for own in weights]
        players = Players(*networks, average, *weights, *optimisers)
        real, z = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, 16)
        run(players, real, z, "non-saturating", penalty(kind, gamma=1.0))
        moved.append(list(networks[1].parameters()))
    for one, other in zip(*moved, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("classes", [0, 2])
def test_reals_and_fakes_are_judged_together_as_they_are_apart(classes: int) -> None:
    """In one pass or in two, each set gets its own verdicts: which is which, with its labels and its own statistics."""
    torch.manual_seed(0)
    critic = style.Discriminator((32, 32), 3, 8, classes)
    real, fake = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32) - 1
    label = (torch.tensor([0, 1, 1, 0]),) if classes else ()
    apart = critic(real, *label), critic(fake, *label)
    calls: list[int] = []
    critic.register_forward_hook(lambda module, given, answer: calls.append(len(given[0])))
    together = judge_both(critic, real, fake, *label)
    assert calls == [8], "one pass over both"
    for one, other in zip(together, apart, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert not torch.allclose(*together, atol=1e-3)
