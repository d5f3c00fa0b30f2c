"""The two players with all that their training remembers: weights, averages, optimisers; to and from named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ganvas.config import RunConfig, TrainingSettings
from ganvas.networks import build
from ganvas.runtime import Machine
from ganvas.training.ema import start_average
from ganvas.training.soap import Each, Soap
from ganvas.training.weights import Weights

Tensors = dict[str, Tensor]


@dataclass
class Players:
    """Generator, discriminator, the average of the generator; the weights that learn, and an optimiser, of both."""

    generator: nn.Module
    discriminator: nn.Module
    average: nn.Module
    generator_weights: Weights
    discriminator_weights: Weights
    generator_optimiser: torch.optim.Adam
    discriminator_optimiser: torch.optim.Adam

    def tensors(self) -> dict[str, Tensors]:
        """Everything, by part; what `restore` takes. Tensors are the live ones, not copies."""
        networks = {
            f"{name}.{key}": tensor
            for name, module in (("generator", self.generator), ("discriminator", self.discriminator))
            for key, tensor in module.state_dict().items()
        }
        return {"generator": dict(self.average.state_dict()), "networks": networks, "optimisers": self._moments()}

    def everything(self) -> list[Tensor]:
        """The same in one list."""
        return [tensor for part in self.tensors().values() for tensor in part.values()]

    def expected(self) -> dict[str, dict[str, tuple[tuple[int, ...], torch.dtype]]]:
        """Shapes and dtypes of `tensors`, to check a checkpoint against."""
        return {
            part: {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
            for part, tensors in self.tensors().items()
        }

    @torch.no_grad()
    def restore(self, stored: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Copy `stored` into the live tensors, which keep their device and memory layout: not a bit is changed."""
        for part, tensors in self.tensors().items():
            for name, tensor in tensors.items():
                tensor.copy_(stored[part][name])
        self.refresh()

    def refresh(self) -> None:
        """Call it when tensors were changed: both networks then compute with what is there now."""
        self.generator_weights.refresh()
        self.discriminator_weights.refresh()
        for optimiser in (self.generator_optimiser, self.discriminator_optimiser):
            if isinstance(optimiser, Soap):
                optimiser.recount()

    def learn(self, finite: Tensor, each: Each) -> None:
        """After a step: what their optimisers find out of its gradients, if they were `finite`, as `Losses` has it."""
        for optimiser, taken in zip((self.discriminator_optimiser, self.generator_optimiser), finite, strict=True):
            if isinstance(optimiser, Soap):
                optimiser.learn(taken, each)

    def set_learning_rate(self, rate: float, critic_rate: float = 1.0) -> None:
        """Set both players' step size; the discriminator's is `critic_rate` times the generator's."""
        for optimiser, own in ((self.generator_optimiser, rate), (self.discriminator_optimiser, rate * critic_rate)):
            for group in optimiser.param_groups:
                if isinstance(group["lr"], Tensor):  # its place is what a recorded step reads
                    group["lr"].fill_(own)
                else:
                    group["lr"] = own

    def _moments(self) -> Tensors:
        """Adam's two moments and step counter of each weight, by name, and what SOAP knows of its layer."""
        found = {}
        for name, module, weights, optimiser in (
            ("generator", self.generator, self.generator_weights, self.generator_optimiser),
            ("discriminator", self.discriminator, self.discriminator_weights, self.discriminator_optimiser),
        ):
            for key, parameter in module.named_parameters():
                for moment, tensor in weights.part(optimiser, parameter).items():
                    found[f"{name}.{key}.{moment}"] = tensor
        return found


def make_players(config: RunConfig, channels: int, classes: int, machine: Machine) -> Players:
    """Build both networks from the configuration's seed, and their optimisers with moments at zero."""
    settings = config.training
    assert config.data.size is not None and settings.learning_rate is not None
    torch.manual_seed(settings.seed)  # initial weights; every later draw has a generator of its own
    generator, discriminator = build(config.network, config.data.size, channels, classes, machine.dtype)
    generator.to(machine.device)
    discriminator.to(machine.device)
    average = start_average(generator)
    weights = Weights(generator), Weights(discriminator)
    optimisers = [make_optimiser(player, settings, machine) for player in weights]
    return Players(generator, discriminator, average, *weights, *optimisers)


def make_optimiser(weights: Weights, settings: TrainingSettings, machine: Machine) -> torch.optim.Adam:
    """What moves a player's weights: Adam, or Adam in the eigenbases (`training.soap`), with all state in place."""
    device = machine.device
    adam: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "fused": device != "mps",
        "capturable": device == "cuda",  # all that a step reads is on the GPU (`training.recorder`)
    }
    if device == "cuda":
        adam["lr"] = torch.tensor(adam["lr"], device=device)
    if settings.optimiser == "soap":
        dtype = machine.dtype if device == "cpu" else torch.float32
        optimiser: torch.optim.Adam = Soap(weights, settings.clip or 0.0, bool(settings.turn_positions), dtype, **adam)
    else:
        optimiser = torch.optim.Adam(weights.masters, **adam)
    _fill(optimiser)
    return optimiser


def _fill(optimiser: torch.optim.Adam) -> None:
    """Give every weight Adam's state now rather than at the first step, so that a resume has somewhere to copy to."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            optimiser.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device if group["fused"] else "cpu"),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
