"""R1 and R2: the critic's slope in image space is drawn to zero, on the reals, the fakes or both.

    R1 = γ/2 · E[‖∇D(x)‖²]        R2 = γ/2 · E[‖∇D(G(z))‖²]

Mescheder, Geiger & Nowozin 2018, "Which Training Methods for GANs do actually Converge?", section 4.1, eq. 9 and 10.
∇: the gradient with respect to the picture; ‖·‖²: summed over channels and pixels, so that a sensible γ grows with
their number; E: mean over the batch. Both together: Huang et al. 2024 (R3GAN), section 2.

The gradient is taken of the *sum* of the logits, in one backward pass for all images. For a critic that treats each
image by itself that is each image's own gradient; with minibatch statistics it is the slope of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ganvas.objectives.base import Critic, check_number, mean_of, precise


@dataclass(frozen=True)
class R1:
    """γ/2 · E[‖∇D(x)‖²], on real pictures. Needs a critic that can be differentiated twice."""

    gamma: float = 1.0
    name: ClassVar[str] = "r1"
    needs_image_grad: ClassVar[bool] = True
    draws: ClassVar[bool] = False
    on_real: ClassVar[bool] = True
    on_fake: ClassVar[bool] = False

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
        """Return γ/2 · E[‖∇D‖²], added up over the kinds of pictures that this penalty is on; see Penalty."""
        chosen = [(real, real_logits)] * self.on_real + [(fake, fake_logits)] * self.on_fake
        images, logits = [image for image, _ in chosen], [logit.sum() for _, logit in chosen]
        assert all(image.requires_grad for image in images), "requires_grad_() comes before the critic's forward pass"
        assert real is not fake, "the slopes on reals and fakes would be added before they are squared"
        # One call for both kinds: where the critic saw them in one batch, that is one backward pass and not two.
        gradients = torch.autograd.grad(logits, images, create_graph=True)
        squares = [mean_of(precise(gradient).square().flatten(1).sum(1)) for gradient in gradients]
        return 0.5 * self.gamma * torch.stack(squares).sum()


class R2(R1):
    """γ/2 · E[‖∇D(G(z))‖²], on generated pictures."""

    name: ClassVar[str] = "r2"
    on_real: ClassVar[bool] = False
    on_fake: ClassVar[bool] = True


class R1R2(R1):
    """R1 + R2 with one γ."""

    name: ClassVar[str] = "r1+r2"
    on_fake: ClassVar[bool] = True
