"""Weights of a network in one tensor: nothing that anybody else sees may change, and no gradient may."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ganvas.networks import dcgan, style
from ganvas.training.weights import Weights

SIZE, WIDTH, Z = (32, 32), 8, 16


def generator(dtype: torch.dtype = torch.float32, classes: int = 0) -> style.Generator:
    torch.manual_seed(0)
    return style.Generator(SIZE, 3, WIDTH, Z, classes, dtype=dtype)


def critic(dtype: torch.dtype = torch.float32, classes: int = 0) -> style.Discriminator:
    torch.manual_seed(0)
    return style.Discriminator(SIZE, 3, WIDTH, classes, dtype=dtype)


@pytest.mark.parametrize("make", [generator, critic])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_computes_and_is_named_as_before(make: type, dtype: torch.dtype) -> None:
    network = make(dtype)
    plain, before = copy.deepcopy(network), {name: one.clone() for name, one in network.state_dict().items()}
    weights = Weights(network)
    given = torch.randn(4, Z) if make is generator else torch.randn(4, 3, *SIZE)
    assert torch.equal(network(given), plain(given))
    assert list(network.state_dict()) == list(before)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.stride() == before[name].stride(), name
        assert parameter.requires_grad
    assert len(weights.masters) == 1 and weights.masters[0].dtype == torch.float32


@pytest.mark.parametrize("classes", [0, 3])
def test_gathered_gradients_are_those_of_the_parameters(classes: int) -> None:
    """Against the same network that scales its weights by itself, parameter by parameter; classes have an embedding."""
    for network, given in (
        (generator(classes=classes), torch.randn(4, Z)),
        (critic(classes=classes), torch.randn(4, 3, *SIZE)),
    ):
        label = (torch.tensor([0, 1, 2, 0]),) if classes else ()
        plain = copy.deepcopy(network)
        wanted = torch.autograd.grad(plain(given, *label).square().sum(), list(plain.parameters()))
        weights = Weights(network)
        gradients = weights.gather(torch.autograd.grad(network(given, *label).square().sum(), weights.leaves), 0)
        assert len(weights.masters) == (2 if classes else 1)
        optimiser = torch.optim.Adam(weights.masters)
        for master, one in zip(weights.masters, gradients, strict=True):
            optimiser.state[master] = {"gradient": one}
        for (name, parameter), own in zip(network.named_parameters(), wanted, strict=True):
            found = weights.part(optimiser, parameter)["gradient"]
            assert torch.allclose(found, own, rtol=1e-4, atol=1e-5 * float(own.abs().max()) + 1e-7), name


def test_a_critic_in_bf16_gives_gradients_in_fp32_close_to_those_in_fp32() -> None:
    images, found = torch.randn(4, 3, *SIZE), []
    for dtype in (torch.float32, torch.bfloat16):
        network = critic(dtype)
        weights = Weights(network)
        assert {leaf.dtype for leaf in weights.leaves} == {torch.float32, dtype}
        (gradient,) = weights.gather(torch.autograd.grad(network(images).sum(), weights.leaves), 0)
        assert gradient.dtype == torch.float32
        found.append(gradient)
    assert nn.functional.cosine_similarity(*found, dim=0) > 0.99


def test_what_moves_the_masters_moves_the_network_once_refreshed() -> None:
    network, latents = generator(), torch.randn(2, Z)
    weights = Weights(network)
    before = network(latents)
    with torch.no_grad():
        weights.masters[0].mul_(1.5)
    assert torch.equal(network(latents), before), "copies are as they were"
    weights.refresh()
    plain = style.Generator(SIZE, 3, WIDTH, Z)
    plain.load_state_dict(network.state_dict())
    assert torch.equal(network(latents), plain(latents)) and not torch.equal(network(latents), before)
    with torch.no_grad():
        next(network.parameters()).zero_()
    weights.refresh()
    plain.load_state_dict(network.state_dict())
    assert torch.equal(network(latents), plain(latents)), "a parameter is a view of the masters"


def test_members_gather_into_memory_of_their_own() -> None:
    network = critic()
    weights = Weights(network)

    def gathered(member: int, seed: int) -> Tensor:
        images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(seed))
        (one,) = weights.gather(torch.autograd.grad(network(images).sum(), weights.leaves), member)
        return one

    first, copied = gathered(0, 1), gathered(0, 1).clone()
    gathered(1, 2)
    assert torch.equal(first, copied)
    assert gathered(0, 3).data_ptr() == first.data_ptr(), "used again"


def test_networks_of_other_layers_stay_as_they_are() -> None:
    network = dcgan.Discriminator(32, 3)
    own = list(network.parameters())
    weights = Weights(network)
    assert [id(one) for one in weights.masters] == [id(one) for one in own] == [id(one) for one in weights.leaves]
    gradients = [torch.randn_like(one) for one in own]
    assert all(a is b for a, b in zip(weights.gather(gradients, 0), gradients, strict=True))
    weights.refresh()
