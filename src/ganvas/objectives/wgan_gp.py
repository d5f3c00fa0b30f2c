"""WGAN-GP: the critic's slope is drawn to 1 on the lines between real and generated pictures.

    λ · E[(‖∇D(x̂)‖ − 1)²],   x̂ = u·x + (1 − u)·G(z),   u ~ U[0, 1], one per pair of pictures

Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", eq. 3, λ = 10 there. ‖·‖: the Euclidean norm over
channels and pixels. A best critic of the Wasserstein game has slope 1 almost everywhere on these lines (proposition 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ganvas.objectives.base import Critic, check_number, mean_of, precise


@dataclass(frozen=True)
class WGANGP:
    """λ · E[(‖∇D(x̂)‖ − 1)²]; `gamma` is λ. One more forward pass, on images that are neither real nor generated."""

    gamma: float = 10.0
    name: ClassVar[str] = "wgan-gp"
    needs_image_grad: ClassVar[bool] = False
    draws: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self.name, "gamma", self.gamma)

    def __call__(
        self,
        critic: Critic,
        real: Tensor,
        fake: Tensor,
        real_logits: Tensor,
        fake_logits: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return λ · E[(‖∇D(x̂)‖ − 1)²]; the logits at hand are of no use to it. See Penalty."""
        assert real.shape == fake.shape, f"lines need as many reals as fakes, not {len(real)} and {len(fake)}"
        real, fake = real.detach(), fake.detach()
        u = torch.rand(len(real), 1, 1, 1, generator=generator, device=real.device, dtype=real.dtype)
        between = (u * real + (1 - u) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        # vector_norm's derivative at 0 is 0, where that of a written-out square root is not a number.
        norm = torch.linalg.vector_norm(precise(gradient).flatten(1), dim=1)
        return self.gamma * mean_of((norm - 1).square())
