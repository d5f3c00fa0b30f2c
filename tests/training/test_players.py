"""What is saved of the players is all of them, and comes back bit by bit into the same memory layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ganvas.config import RunConfig, make_config
from ganvas.networks import FAMILIES
from ganvas.runtime import Machine
from ganvas.training.players import Players, make_players
from ganvas.training.soap import LARGE, Soap
from ganvas.training.step import move

MACHINE = Machine("cpu", torch.float32, 1, "for a test")


def config_of(network: str, **training: Any) -> RunConfig:
    return make_config(
        "pictures",
        data={"size": 32},
        network={"network": network, "width": 8, "z_dim": 16},
        training={"learning_rate": 1e-3, **training},
    )


def step(players: Players, seed: int) -> None:
    """Move every weight of both by a gradient."""
    torch.manual_seed(seed)
    images = players.generator(torch.randn(4, 16))
    loss = players.discriminator(images).square().sum()
    for weights, optimiser in (
        (players.generator_weights, players.generator_optimiser),
        (players.discriminator_weights, players.discriminator_optimiser),
    ):
        gradients = torch.autograd.grad(loss, weights.leaves, retain_graph=True)
        assert move(optimiser, weights, weights.gather(gradients, 0))
    with torch.no_grad():
        for old, new in zip(players.average.parameters(), players.generator.parameters(), strict=True):
            old.lerp_(new, 0.1)


@pytest.fixture(params=sorted(FAMILIES))
def config(request: pytest.FixtureRequest) -> RunConfig:
    return config_of(request.param)


def test_the_same_seed_makes_the_same_players(config: RunConfig) -> None:
    one, two = (make_players(config, 3, 0, MACHINE).tensors() for _ in range(2))
    other = config.model_copy(update={"training": config.training.model_copy(update={"seed": 1})})
    three = make_players(other, 3, 0, MACHINE).tensors()
    assert all(torch.equal(one[part][name], two[part][name]) for part in one for name in one[part])
    assert any(not torch.equal(one["networks"][name], three["networks"][name]) for name in one["networks"])


def test_soap_clips_as_the_settings_say() -> None:
    """A first step is as long as the rate in each weight, so that half of it is what a clip of a half leaves."""
    lengths = []
    for clip in (0.0, 0.5):
        players = make_players(config_of("style", optimiser="soap", clip=clip), 3, 0, MACHINE)
        kernels = [one for one in players.discriminator.parameters() if one.dim() == 4 and one.shape[-1] == 3]
        before = [one.detach().clone() for one in kernels]
        step(players, 1)
        lengths.append([(new - old).norm().item() for new, old in zip(kernels, before, strict=True)])
    assert lengths[1] == pytest.approx([one / 2 for one in lengths[0]], rel=1e-3)


@pytest.mark.parametrize("turned", [False, True])
def test_soap_turns_positions_as_the_settings_say(turned: bool) -> None:
    players = make_players(config_of("style", optimiser="soap", turn_positions=turned), 3, 0, MACHINE)
    for optimiser in (players.generator_optimiser, players.discriminator_optimiser):
        assert isinstance(optimiser, Soap)
        assert all((layer.middle is not None) is turned for layer in optimiser.layers.values())
    saved = [name for name in players.tensors()["optimisers"] if name.endswith("middle_basis")]
    assert bool(saved) is turned, "and a checkpoint keeps them"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_soap_turns_in_what_the_convolutions_compute_in(dtype: torch.dtype) -> None:
    config = config_of("style", optimiser="soap")
    config = config.model_copy(update={"network": config.network.model_copy(update={"width": LARGE // 4})})
    optimiser = make_players(config, 3, 0, replace(MACHINE, dtype=dtype)).discriminator_optimiser
    assert isinstance(optimiser, Soap)
    found = {min(layer.step.shape[::2]): layer.dtype for layer in optimiser.layers.values()}
    assert found[LARGE] == dtype and found[LARGE // 2] == torch.float32


def test_everything_that_a_step_changes_is_saved(config: RunConfig) -> None:
    players = make_players(config, 3, 0, MACHINE)
    saved = players.tensors()
    assert set(saved) == {"generator", "networks", "optimisers"}
    for module, prefix in ((players.generator, "generator."), (players.discriminator, "discriminator.")):
        for name in module.state_dict():
            assert prefix + name in saved["networks"]
        for name, _ in module.named_parameters():
            for moment in ("step", "exp_avg", "exp_avg_sq"):
                assert f"{prefix}{name}.{moment}" in saved["optimisers"]
    assert set(saved["generator"]) == set(players.average.state_dict()), "what generates is the average"
    before = {part: {name: tensor.clone() for name, tensor in named.items()} for part, named in saved.items()}
    step(players, 0)
    for part in saved:
        moved = sum(not torch.equal(before[part][name], tensor) for name, tensor in players.tensors()[part].items())
        assert moved > 0, part


def test_restoring_keeps_every_bit_and_the_memory_layout(config: RunConfig) -> None:
    source = make_players(config, 3, 0, MACHINE)
    step(source, 1)
    stored = {
        part: {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in named.items()}
        for part, named in source.tensors().items()
    }
    target = make_players(config, 3, 0, MACHINE)
    step(target, 2)
    live = target.tensors()
    layout = {
        (part, name): (tensor.data_ptr(), tensor.stride()) for part in live for name, tensor in live[part].items()
    }
    target.restore(stored)
    for part, named in target.tensors().items():
        for name, tensor in named.items():
            assert tensor.equal(source.tensors()[part][name]), (part, name)
            assert (tensor.data_ptr(), tensor.stride()) == layout[part, name]
    conv = [p for p in target.discriminator.parameters() if p.dim() == 4 and p.shape[2] > 1 and p.shape[1] > 1]
    assert conv and all(p.is_contiguous(memory_format=torch.channels_last) for p in conv)
    step(source, 3)
    step(target, 3)
    for part, named in target.tensors().items():
        for name, tensor in named.items():
            assert tensor.equal(source.tensors()[part][name]), f"the next step is the same: {part} {name}"


def test_expected_describes_the_tensors(config: RunConfig) -> None:
    players = make_players(config, 3, 0, MACHINE)
    for part, named in players.expected().items():
        for name, (shape, dtype) in named.items():
            tensor = players.tensors()[part][name]
            assert (tuple(tensor.shape), tensor.dtype) == (shape, dtype)


def test_both_players_get_the_settings_of_adam() -> None:
    players = make_players(config_of("style", learning_rate=0.125, beta1=0.25, beta2=0.5), 3, 0, MACHINE)
    for optimiser in (players.generator_optimiser, players.discriminator_optimiser):
        assert [(group["lr"], group["betas"]) for group in optimiser.param_groups] == [(0.125, (0.25, 0.5))]
    players.set_learning_rate(0.5)
    for optimiser in (players.generator_optimiser, players.discriminator_optimiser):
        assert [group["lr"] for group in optimiser.param_groups] == [0.5]


def test_filled_moments_step_like_fresh_ones() -> None:
    """Adam's state is made before the first step; the first step must not notice."""
    players = make_players(config_of("style"), 1, 0, MACHINE)
    (parameter,) = players.discriminator_weights.masters
    before, gradient = parameter.detach().clone(), torch.randn_like(parameter)
    parameter.grad = gradient.clone(memory_format=torch.preserve_format)
    players.discriminator_optimiser.step()
    beta1, beta2, rate, epsilon = 0.0, 0.99, 1e-3, 1e-8  # Kingma and Ba 2015, algorithm 1, first step
    mean = (1 - beta1) * gradient / (1 - beta1)
    square = (1 - beta2) * gradient**2 / (1 - beta2)
    assert torch.allclose(parameter, before - rate * mean / (square.sqrt() + epsilon), atol=1e-6)
