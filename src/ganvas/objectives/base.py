"""What an adversarial objective and a penalty look like, and the few lines that all of them share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ganvas.errors import SettingError

Critic = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] in, one logit per image [B] out."""


class Objective(Protocol):
    """What each of the two players minimises, as functions of the critic's logits alone.

    Logits are [B], unbounded; reals and fakes may have different B unless `paired`. Each loss is a scalar: the mean
    over the batch, in nats where it is a likelihood, in fp32 (fp64 logits stay fp64).
    """

    name: ClassVar[str]
    paired: ClassVar[bool]
    """The generator's loss needs the logits of as many real images too; take those without a graph."""

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the scalar that the critic minimises."""
        ...

    def generator_loss(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """Return the scalar that the generator minimises; `real` is read only where `paired`."""
        ...


class Penalty(Protocol):
    """A term added to the critic's loss that keeps the critic smooth.

    Where `needs_image_grad`, the loop calls `requires_grad_()` on both batches of images before the critic sees them:
    the penalty then differentiates the logits it is handed and costs no further forward pass. Other penalties ignore
    the flag and call `critic` themselves, on one batch at a time, as they find it (in its mode, under its autocast).

    A critic with minibatch statistics sees each image in its batch, so batches must be composed alike everywhere:
    give the critic the reals and the fakes in separate calls, or in one that keeps them apart, since penalties do.
    With classes, bind the labels first (`lambda images: network(images, labels)`): reals and fakes then carry the same
    labels in the same order.
    """

    name: ClassVar[str]
    needs_image_grad: ClassVar[bool]
    draws: ClassVar[bool]  # whether it uses random numbers

    def __call__(
        self,
        critic: Critic,
        real: Tensor,
        fake: Tensor,
        real_logits: Tensor,
        fake_logits: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the scalar to add, already multiplied by its weight, in fp32 (fp64 stays fp64).

        `real`, `fake`: images [B, C, H, W]; `fake` is cut off from the generator network. `real_logits`,
        `fake_logits`: [B], what `critic` answered to exactly these images, with their graph. `generator`: the source
        of random numbers, on the images' device; None means torch's own.
        """
        ...


def precise(values: Tensor) -> Tensor:
    """Return `values` in fp32, or in fp64 where they already are: 8 bits of bf16 are too few to add up a loss."""
    return values if values.dtype == torch.float64 else values.float()


def mean_of(logits: Tensor) -> Tensor:
    """Return the mean over the batch of one value per image, [B] -> []."""
    # A critic that answers [B, 1] would broadcast against [B] into [B, B] and train on nonsense, silently.
    assert logits.ndim == 1, f"the critic answers one logit per image, [B], not {list(logits.shape)}"
    return precise(logits).mean()


def check_number(penalty: str, field: str, value: float, *, zero: bool = True) -> None:
    """Raise SettingError unless `value` is finite and positive, or 0 where `zero` is allowed."""
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        rule = "a finite number, 0 or more" if zero else "a finite number above 0"
        raise SettingError(f"penalty '{penalty}': {field}={value} must be {rule}; leave it out for the default")
