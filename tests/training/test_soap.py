"""SOAP: Adam where there is nothing to turn, the same in turned coordinates, quicker where channels are entangled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ganvas.networks.blocks import Conv2d, Linear
from ganvas.training import soap
from ganvas.training.soap import Soap
from ganvas.training.step import move
from ganvas.training.weights import Weights

RATE = 0.01


class Net(nn.Module):
    """Layers of each kind, and a weight outside of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other, self.skip = Conv2d(6, 10, 3), Conv2d(12, 7, 3), Conv2d(6, 10, 1)
        self.linear, self.free = Linear(12, 7), nn.Parameter(torch.randn(3, 4))


def made() -> tuple[Net, Weights]:
    torch.manual_seed(0)
    net = Net()
    return net, Weights(net)


def moved(own: torch.optim.Adam, weights: Weights, gradients: list[Tensor]) -> bool:
    """Take a step, and learn of it where that is to be done."""
    finite = move(own, weights, gradients)
    if isinstance(own, Soap):
        own.learn(finite)
    return bool(finite)


def random_gradients(weights: Weights, seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn_like(master) for master in weights.masters]


def orthogonal(n: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n))[0]


def test_without_bases_it_is_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soap, "LONGEST", 1)
    (_, mine), (_, plain) = made(), made()
    optimiser, adam = (
        Soap(mine, lr=RATE, betas=(0.0, 0.99)),
        torch.optim.Adam(plain.masters, lr=RATE, betas=(0.0, 0.99)),
    )
    for seed in range(5):
        for own, weights in ((optimiser, mine), (adam, plain)):
            assert moved(own, weights, random_gradients(weights, seed))
    for one, other in zip(mine.masters, plain.masters, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_first_step_is_adams() -> None:
    _, weights = made()
    before, gradients = [one.detach().clone() for one in weights.masters], random_gradients(weights, 1)
    optimiser = Soap(weights, lr=RATE, betas=(0.0, 0.99))
    assert moved(optimiser, weights, [one.clone() for one in gradients])
    for old, new, gradient in zip(before, weights.masters, gradients, strict=True):
        assert torch.allclose(new, old - RATE * gradient.sign(), atol=1e-5)


@pytest.mark.parametrize(
    ("rate", "clip", "longest"), [(RATE, 1.0, 1.0), (RATE, 2.5, 2.5), (0.0, 1.0, 0.0), (RATE, 0.0, 0.0)]
)
def test_a_gradient_that_grows_at_once_moves_a_layer_no_farther_than_the_clip(
    rate: float, clip: float, longest: float
) -> None:
    """Nine steps of like gradients, then one of a hundredfold: Adam makes it ten times as long as the rate."""
    net, weights = made()
    optimiser = Soap(weights, clip, lr=RATE, betas=(0.0, 0.99))
    for seed in range(9):
        assert moved(optimiser, weights, random_gradients(weights, seed))
    for group in optimiser.param_groups:
        group["lr"] = rate
    before = {layer: layer.weight.detach().clone() for layer in (net.conv, net.other)}
    assert moved(optimiser, weights, [100 * one for one in random_gradients(weights, 9)])
    for layer, weight in before.items():
        step = (layer.weight.detach() - weight).square().mean().sqrt().item()
        if clip:
            assert step == pytest.approx(longest * rate, rel=1e-3)
        else:
            assert step > 2.9 * rate, "and here it may"


def test_a_basis_is_orthonormal_and_finds_what_is_entangled() -> None:
    net, weights = made()
    optimiser = Soap(weights, lr=RATE, betas=(0.0, 0.99))
    left, right = orthogonal(7, 2), orthogonal(12, 3)
    lengths = 2.0 ** -torch.arange(12.0)
    for seed in range(200):
        gradients = random_gradients(weights, seed)
        own = weights.matrices(gradients[0])[net.other.weight]
        own.copy_(torch.einsum("ab,bkc,dc->akd", left, own * lengths[:7, None, None] * lengths, right))
        assert moved(optimiser, weights, gradients)
    assert set(optimiser.layers) == {net.conv.weight, net.other.weight}, "kernels; for the others Adam does"
    layer = optimiser.layers[net.other.weight]
    assert layer.left is not None and layer.right is not None
    for side, axes in ((layer.left, left), (layer.right, right)):
        basis = side.basis
        assert torch.allclose(basis.t() @ basis, torch.eye(len(basis)), atol=1e-5)
        alike = (basis.t() @ axes).abs().diagonal()
        assert (alike[:5] > 0.9).all(), "the axes come in the order of their moments"
    conv = optimiser.layers[net.conv.weight]
    assert conv.left is not None and conv.left.basis.shape == (10, 10)
    assert conv.right is not None and conv.right.basis.shape == (6, 6), "channels, not positions of the kernel"


@pytest.mark.parametrize("positions", [False, True])
def test_turning_there_and_back_changes_nothing(positions: bool) -> None:
    net, weights = made()
    optimiser = Soap(weights, positions=positions, lr=RATE, betas=(0.0, 0.99))
    for seed in range(3):
        assert moved(optimiser, weights, random_gradients(weights, seed))
    everything = weights.matrices(weights.masters[0].data)
    for parameter, layer in optimiser.layers.items():
        assert ("middle_basis" in layer.tensors()) is positions
        matrix = everything[parameter]
        there = layer.into_basis(matrix)
        assert not torch.allclose(there, matrix, atol=1e-2) and torch.allclose(there.norm(), matrix.norm())
        assert torch.allclose(layer.out_of_basis(there), matrix, atol=1e-5)
    place = weights.matrices(weights.masters[0].data)[net.conv.weight]
    assert place.shape == (10, 9, 6) and torch.equal(place[2, 5, 4], net.conv.weight[2, 4, 1, 2]), "row by row"


def test_large_layers_are_turned_in_the_lower_precision_and_others_are_not() -> None:
    torch.manual_seed(0)
    net = nn.ModuleList([Conv2d(64, 80, 3), Conv2d(63, 80, 3)])
    rough, fine = (Soap(Weights(net), dtype=dtype, lr=RATE) for dtype in (torch.bfloat16, torch.float32))
    for parameter, layer in fine.layers.items():
        other = rough.layers[parameter]
        for side, copy in ((layer.left, other.left), (layer.right, other.right)):
            assert side is not None and copy is not None
            side.basis.copy_(orthogonal(len(side.basis), len(side.basis)))
            copy.basis.copy_(side.basis)
        gradient = torch.randn_like(layer.step)
        for one, same in (
            (layer.into_basis(gradient), other.into_basis(gradient)),
            (layer.out_of_basis(gradient), other.out_of_basis(gradient)),
        ):
            error = ((same.float() - one).norm() / one.norm()).item()
            if layer.step.shape[2] == 64:
                assert 1e-4 < error < 1e-2 and same.dtype == torch.bfloat16
            else:
                assert torch.equal(same, one)


def bowl(optimiser: Callable[[Weights], torch.optim.Adam], axes: Tensor, steps: int = 300) -> float:
    """How far from the floor of a quadratic bowl, a thousand times as steep along some `axes [12, 12]` as others.

    The coordinates are a kernel's input channels.
    """
    net, weights = made()
    own = optimiser(weights)

    def kernel() -> Tensor:
        return net.other.weight.detach().permute(0, 2, 3, 1)

    steep, target = 10.0 ** -torch.linspace(0, 3, 12), kernel() + 0.3 * torch.randn(7, 3, 3, 12)
    for step in range(steps):
        error = (kernel() - target) @ axes
        gradients = [torch.zeros_like(master) for master in weights.masters]
        weights.matrices(gradients[0])[net.other.weight].copy_(((error * steep) @ axes.t()).flatten(1, 2))
        own.param_groups[0]["lr"] = RATE * (1 - step / steps)
        assert moved(own, weights, gradients)
    return float((((kernel() - target) @ axes).square() * steep).sum())


def test_channels_that_are_entangled_do_not_slow_it_down() -> None:
    """Adam is quick where the steep axes are the weights' own, and slow where they lie across them."""
    own, across = torch.eye(12), orthogonal(12, 4)

    def plain(weights: Weights) -> torch.optim.Adam:
        return torch.optim.Adam(weights.masters, lr=RATE, betas=(0.0, 0.9))

    def turning(weights: Weights) -> torch.optim.Adam:
        return Soap(weights, lr=RATE, betas=(0.0, 0.9))

    assert bowl(plain, across) > 1e-3 and bowl(plain, own) < 1e-6
    assert bowl(turning, across) < 1e-6 and bowl(turning, own) < 1e-6


def test_positions_that_are_entangled_do_not_slow_it_down() -> None:
    """As above, with the nine positions of a kernel in the place of its input channels; only where they are turned."""
    across, steep = orthogonal(9, 5), 10.0 ** -torch.linspace(0, 3, 9)

    def left(positions: bool, steps: int = 300) -> float:
        net, weights = made()
        own = Soap(weights, positions=positions, lr=RATE, betas=(0.0, 0.9))
        kernel = weights.matrices(weights.masters[0].data)[net.other.weight]
        target = kernel + 0.3 * torch.randn(7, 9, 12)
        for step in range(steps):
            error = across.t() @ (kernel - target)
            gradients = [torch.zeros_like(master) for master in weights.masters]
            weights.matrices(gradients[0])[net.other.weight].copy_(across @ (steep[:, None] * error))
            own.param_groups[0]["lr"] = RATE * (1 - step / steps)
            assert moved(own, weights, gradients)
        return float(((across.t() @ (kernel - target)).square() * steep[:, None]).sum())

    assert left(positions=True) < 1e-6 < 1e-3 < left(positions=False)


def test_a_step_that_is_not_taken_teaches_nothing() -> None:
    """Nor on a GPU, where nobody waits to hear whether it was."""
    net, weights = made()
    optimiser = Soap(weights, lr=RATE, betas=(0.0, 0.99), fused=True)
    for seed in range(3):
        assert moved(optimiser, weights, random_gradients(weights, seed))
    before = [one.clone() for layer in optimiser.layers.values() for one in layer.tensors().values()]
    broken = [torch.full_like(one, torch.nan) for one in random_gradients(weights, 4)]
    masters = [one.detach().clone() for one in weights.masters]
    assert not moved(optimiser, weights, broken)
    layer = optimiser.layers[net.conv.weight]
    for one in optimiser.layers.values():  # as it is on a GPU
        one.learn(weights.matrices(broken[0])[net.conv.weight] if one is layer else one.gradient, torch.zeros(()), 12)
    after = [one for layer in optimiser.layers.values() for one in layer.tensors().values()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert all(torch.equal(*pair) for pair in zip(masters, weights.masters, strict=True))
