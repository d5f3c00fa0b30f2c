"""SOAP: Adam along the axes in which a layer's gradients are least entangled, found on the way.

    L ← β L + (1 − β) G Gᵀ        R ← β R + (1 − β) Gᵀ G        second moments of G [outputs, inputs], side by side
    G' = Q_Lᵀ G Q_R               the gradient in the eigenbases Q_L, Q_R of both
    W ← W − rate · Q_L Adam(G') Q_Rᵀ

Vyas et al. 2024, "SOAP: Improving and Stabilizing Shampoo using Adam", algorithm 3; L and R are those of Gupta et al.
2018, "Shampoo". Adam gives each weight a step of its own, which is right where gradients of different weights have
nothing to do with each other; between the channels of a layer they have, and the eigenbases part what belongs
together. A kernel's positions count as so many more columns of L's matrix and rows of R's, and may be a third side,
turned as channels are: maps are smooth, so that gradients at neighbouring positions are nearly the same, and the little
by which they differ, which is what makes fine detail, would have steps of no more than its share.

A layer's step may be clipped to a root mean square of so many learning rates: it is longer where gradients grow faster
than Adam's memory of them (Shazeer and Stern 2018, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
sections 5 and 6). Most are half to three quarters of one long, one in twenty is longer than 1.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ganvas.training.weights import Weights

LOOK, TURN = 4, 5  # steps from one look at the gradients to the next; looks from one turn of a basis to the next
MEMORY = 0.85  # β of L and R, a look
EARLY = 8  # steps at first of which each brings a look and a turn: the moments are those of few gradients
LARGE = 64  # channels on both sides: so large products are quicker in bf16 on a CPU that has it
LONGEST = 256  # channels: along a longer side, as of a map that is laid out flat, gradients stay as they are


class Side:
    """What is known of the gradients along one side of a layer, `n` channels."""

    def __init__(self, n: int, device: torch.device) -> None:
        self.moments = torch.zeros(n, n, device=device)
        self.basis = torch.eye(n, device=device)  # eigenvectors in columns, largest eigenvalue first

    def learn(self, rows: Tensor, weight: Tensor, first: bool, turn: bool) -> None:
        """Take in a gradient `[n, others]` with a `weight`, and `turn` the basis towards the eigenvectors.

        By one step of orthogonal iteration, as in the paper's algorithm 4: the basis hardly changes from one turn to
        the next, and what Adam remembers along its axes stays true. At weight 0 the gradient may be no number.
        """
        self.moments.lerp_((rows @ rows.t()).nan_to_num_(0.0, 0.0, 0.0), weight)
        if first:
            self.basis.copy_(torch.linalg.eigh(self.moments)[1].flip(1))
        elif turn:
            self.basis.copy_(torch.linalg.qr(self.moments @ self.basis)[0])


class Layer:
    """A layer with what is known of its sides; `None` where a side is longer than `LONGEST`, of one, or not turned.

    `step` and `gradient` are its parts of what Adam moves and is given, `[outputs, positions, inputs]`; layers of
    different `number` turn their bases in different steps. What is turned is rounded to `dtype` where a layer is large;
    moments and bases are fp32.
    """

    def __init__(self, number: int, step: Tensor, gradient: Tensor, positions: bool, dtype: torch.dtype) -> None:
        self.number, self.step, self.gradient = number, step, gradient
        outputs, places, inputs = step.shape
        self.dtype = dtype if min(outputs, inputs) >= LARGE else torch.float32
        self.left, self.middle, self.right = (
            Side(n, step.device) if 1 < n <= LONGEST else None for n in (outputs, places if positions else 1, inputs)
        )

    def learn(self, gradient: Tensor, weight: Tensor, count: int) -> None:
        """Take in the gradient `[outputs, positions, inputs]` of step `count`."""
        turn = count <= EARLY or (count // LOOK + self.number) % TURN == 0
        if self.left is not None:
            self.left.learn(gradient.flatten(1), weight, count == 1, turn)
        if self.middle is not None:
            self.middle.learn(gradient.transpose(0, 1).flatten(1), weight, count == 1, turn)
        if self.right is not None:
            self.right.learn(gradient.flatten(0, 1).t(), weight, count == 1, turn)

    def into_basis(self, gradient: Tensor) -> Tensor:
        """Q_Lᵀ G Q_R of `[outputs, positions, inputs]`, and positions turned alike."""
        return self._turned(gradient, lambda side: side.basis.t())

    def out_of_basis(self, step: Tensor) -> Tensor:
        """Q_L G Q_Rᵀ, and positions: what `into_basis` was given."""
        return self._turned(step, lambda side: side.basis)

    def _turned(self, matrix: Tensor, axes: Callable[[Side], Tensor]) -> Tensor:
        """Multiply each side by its axes."""
        turned = matrix if self.middle is None else axes(self.middle) @ matrix
        turned = turned.to(self.dtype)
        if self.right is not None:
            turned = turned @ axes(self.right).t().to(self.dtype)
        return turned if self.left is None else (axes(self.left).to(self.dtype) @ turned.flatten(1)).view_as(turned)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it."""
        return {
            f"{name}_{what}": tensor
            for name, side in (("left", self.left), ("middle", self.middle), ("right", self.right))
            if side is not None
            for what, tensor in (("moments", side.moments), ("basis", side.basis))
        }


Each = Callable[[Callable[[Any], None], Sequence[Any]], None]


def in_turn(function: Callable[[Any], None], things: Sequence[Any]) -> None:
    """`function` of each thing, one after the other."""
    for thing in things:
        function(thing)


class Soap(torch.optim.Adam):
    """Moves the masters of `weights` as Adam does, but those of convolutions along the axes of their bases.

    Adam's first parameter stands for the tensor of all weights: zeros, in the bases, which Adam moves by a step; this
    is then turned back and added. β₁ is 0: a mean of gradients would have to be turned with the bases. `state` also
    holds what is known of layers, by parameter of the network. `clip`: the longest root mean square of a layer's step,
    in learning rates; 0: any. `positions`: whether these are turned. `dtype`: what large layers are turned in.
    """

    def __init__(
        self,
        weights: Weights,
        clip: float = 0.0,
        positions: bool = False,
        dtype: torch.dtype = torch.float32,
        **settings: Any,
    ) -> None:
        self._clip = clip
        self._weights, (self._whole, *others) = weights, weights.masters
        self._step = nn.Parameter(torch.zeros_like(self._whole))
        self._step.grad = torch.zeros_like(self._whole)
        steps, gradients = weights.matrices(self._step.data), weights.matrices(self._step.grad)
        kernels = [parameter for parameter, matrix in steps.items() if matrix.shape[1] > 1]
        kernels.sort(key=lambda parameter: parameter.numel(), reverse=True)  # so that several threads end together
        self.layers = {
            own: Layer(number, steps[own], gradients[own], positions, dtype) for number, own in enumerate(kernels)
        }
        super().__init__([self._step, *others], **settings)
        self.state.update({parameter: layer.tensors() for parameter, layer in self.layers.items()})
        self._count = 0  # of steps, as Adam counts them on the device

    @property
    def nbytes(self) -> int:
        """What it works in, beside its state, in bytes."""
        return 2 * self._step.nbytes

    @torch.no_grad()
    def step(self, closure: None = None, each: Each = in_turn) -> None:  # type: ignore[override]
        """Take a step by the gradients that the masters have; `each` may work on several layers at the same time."""
        assert self._whole.grad is not None and self._step.grad is not None

        def enter(one: tuple[Layer, Tensor]) -> None:
            layer, gradient = one
            layer.gradient.copy_(layer.into_basis(gradient))

        rate = self.param_groups[0]["lr"]

        def leave(layer: Layer) -> None:
            if self._clip:
                longest = self._clip * rate * layer.step.numel() ** 0.5
                layer.step.mul_((longest / (torch.linalg.vector_norm(layer.step) + 1e-12)).clamp(max=1.0))
            layer.step.copy_(layer.out_of_basis(layer.step))

        self._step.zero_()
        self._step.grad.copy_(self._whole.grad)
        each(enter, self._given())
        super().step()
        each(leave, list(self.layers.values()))
        self._whole.add_(self._step)

    @torch.no_grad()
    def learn(self, finite: Tensor, each: Each = in_turn) -> None:
        """Take in the gradients of the step that was taken, and turn the bases whose turn it is; call it after `step`.

        After the step, so that the first is Adam's own: along the axes of its own moments a single gradient is nearly
        diagonal, and Adam would make as much of the rounding beside the diagonal. Not within it, because what is done
        differs from step to step (`training.recorder`). `finite`: whether the step was taken, a bool of one element;
        a GPU is not waited for.
        """
        if not finite.is_cuda and not finite:
            return
        self._count += 1
        if self._count > EARLY and self._count % LOOK:
            return
        weight = finite * (1.0 if self._count == 1 else 1 - MEMORY)
        each(lambda one: one[0].learn(one[1], weight, self._count), self._given())

    def recount(self) -> None:
        """Call it when the state was changed: the steps taken are read from it."""
        self._count = int(self.state[self._step]["step"])

    def _given(self) -> list[tuple[Layer, Tensor]]:
        """The layers, each with its gradient."""
        assert self._whole.grad is not None
        gradients = self._weights.matrices(self._whole.grad)
        return [(layer, gradients[parameter]) for parameter, layer in self.layers.items()]
