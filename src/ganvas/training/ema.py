"""The generator that is kept: an exponential moving average of the one that is trained."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def half_life(batch: int, seen_images: int, asked: int | None) -> float:
    """Images after which an old weight counts half.

    `asked`, or batch · 10/32 thousand (Karras et al. 2020, the ratio of their configurations), but at most 5 % of the
    images seen, so that the average does not drag the first blobs along (Karras et al. 2021, the ramp-up of 0.05).
    """
    longest = batch * 10_000 / 32 if asked is None else float(asked)
    return min(longest, 0.05 * seen_images)


def start_average(generator: nn.Module) -> nn.Module:
    """Return a copy of `generator` that is never trained directly and is in evaluation mode."""
    return copy.deepcopy(generator).eval().requires_grad_(False)


@torch.no_grad()
def update_average(average: nn.Module, generator: nn.Module, batch: int, half_life: float) -> None:
    """Move `average` towards `generator`: θ̄ ← β θ̄ + (1 − β) θ with β = 2^(−batch / half_life); 0 copies it.

    Running statistics (batch normalisation) are averaged like weights; counters are copied.
    """
    weight = 1.0 - 0.5 ** (batch / half_life) if half_life > 0 else 1.0
    kept, live = list(_tensors(average)), list(_tensors(generator))
    torch._foreach_lerp_([t for t in kept if t.is_floating_point()], [t for t in live if t.is_floating_point()], weight)
    for old, new in zip(kept, live, strict=True):
        if not old.is_floating_point():
            old.copy_(new)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
