"""A network's weights as training sees them: few tensors to move, and copies of them to compute with.

A layer with an equalised learning rate scales its weights and casts them each time it is used, and sends a gradient
back through both: several hundred small operations a step. Here the weights of all such layers lie in one tensor, and
what they compute with in two more, scaled, in fp32 and in the dtype of the convolutions. Adam then moves one tensor,
two operations refresh all copies, and the gradients of the copies, gathered into one tensor, are scaled by one more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ganvas.networks.blocks import Equalised

ALIGNMENT = 32  # numbers: where a weight begins in the tensor of all; 64 bytes of bf16


class Place(NamedTuple):
    """Where a weight lies in the tensor of all."""

    start: int
    shape: torch.Size
    stride: tuple[int, ...]

    def of(self, everything: Tensor) -> Tensor:
        """The view of `everything` that is this weight."""
        return everything.as_strided(self.shape, self.stride, self.start)

    def matrix(self, everything: Tensor) -> Tensor:
        """The same as `[outputs, positions, inputs]`, which is how it lies there, kernels with channels last."""
        whole = everything[self.start : self.start + self.shape.numel()]
        return whole.view(self.shape[0], -1, self.shape[1])


class Weights:
    """The weights of `network`, which stays as it is to everybody else: its parameters become views of one tensor.

    `masters` are what an optimiser moves, fp32; call `refresh` after each change of them, or of a parameter. `leaves`
    are what the network computes with, and what a loss is differentiated by; `gather` turns those gradients into ones
    of the masters. Parameters of other layers than equalised ones are their own master and leaf.
    """

    def __init__(self, network: nn.Module) -> None:
        layers = [module for module in network.modules() if isinstance(module, Equalised)]
        self._places: dict[nn.Parameter, Place] = {}
        self._gradients: dict[int, tuple[Tensor, list[Tensor]]] = {}  # of each member, whole and by place
        length = 0
        for parameter in (parameter for layer in layers for parameter, _ in layer.factors()):
            self._places[parameter] = Place(length, parameter.shape, parameter.stride())
            length += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        others = [parameter for parameter in network.parameters() if parameter not in self._places]
        self.masters: list[nn.Parameter] = others
        self.leaves: list[Tensor] = list(others)
        if not layers:
            return
        device = next(network.parameters()).device
        self._all = nn.Parameter(torch.zeros(length, device=device))
        self._factors, self._scaled = torch.zeros(length, device=device), torch.zeros(length, device=device)
        lower = {layer.dtype for layer in layers} - {torch.float32}
        self._rounded = {dtype: torch.zeros(length, dtype=dtype, device=device) for dtype in lower}
        self.masters = [self._all, *others]
        self.leaves = [*(copy for layer in layers for copy in self._adopt(layer)), *others]
        self.refresh()

    @torch.no_grad()
    def _adopt(self, layer: Equalised) -> list[Tensor]:
        """Move the parameters of `layer` into the tensor of all, and give it copies to compute with: these."""
        copies = []
        for parameter, factor in layer.factors():
            place = self._places[parameter]
            view = place.of(self._all.data)
            view.copy_(parameter)
            parameter.data = view
            place.of(self._factors).fill_(factor)
            copies.append(place.of(self._rounded.get(layer.dtype, self._scaled)).detach().requires_grad_(True))
        layer.working = tuple(copies)
        return copies

    @property
    def nbytes(self) -> int:
        """What the copies take, in bytes; each member that gathers takes as much as the masters for it."""
        if not self._places:
            return 0
        return sum(one.nbytes for one in (self._factors, self._scaled, *self._rounded.values()))

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute the copies anew."""
        if self._places:
            torch.mul(self._all, self._factors, out=self._scaled)
            for copy in self._rounded.values():
                copy.copy_(self._scaled)

    @torch.no_grad()
    def gather(self, gradients: Sequence[Tensor], member: int) -> list[Tensor]:
        """Gradients by `leaves`, in their order, as gradients by `masters`, in memory that each `member` has for it.

        What a member was given before is overwritten. Several may call it at the same time.
        """
        if not self._places:
            return list(gradients)
        if member not in self._gradients:
            everything = torch.zeros_like(self._all)
            self._gradients[member] = everything, [place.of(everything) for place in self._places.values()]
        everything, views = self._gradients[member]
        torch._foreach_copy_(views, list(gradients[: len(views)]))
        return [everything.mul_(self._factors), *gradients[len(views) :]]

    def matrices(self, everything: Tensor) -> dict[nn.Parameter, Tensor]:
        """The views of `everything` that are weights of layers, by parameter: `[outputs, positions, inputs]` each."""
        return {
            parameter: place.matrix(everything) for parameter, place in self._places.items() if len(place.shape) > 1
        }

    def part(self, optimiser: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What the state of an optimiser of `masters` holds of one parameter of the network; scalars are of all.

        Its first parameter is the tensor of all or stands for it.
        """
        own: dict[str, Tensor] = dict(optimiser.state.get(parameter, {}))
        place = self._places.get(parameter)
        if place is None:
            return own
        whole = optimiser.state[optimiser.param_groups[0]["params"][0]]
        return {name: place.of(one) if one.dim() else one for name, one in whole.items()} | own
