"""The Wasserstein game: the critic measures how far the generated pictures must be moved to become the real ones.

    min_G max_{‖D‖_L ≤ 1} E[D(x)] − E[D(G(z))]

Arjovsky, Chintala & Bottou 2017, "Wasserstein GAN", eq. 2 and 3 (Kantorovich-Rubinstein duality): the maximum over all
D of Lipschitz constant 1 is the earth mover's distance between the two distributions, in the units of a pixel vector's
length. Nothing here bounds the slope of D, without which the loss has no minimum: use it with the penalty "wgan-gp".
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ganvas.objectives.base import mean_of


class Wasserstein:
    """A difference of means; D is the logit itself, and only differences of it mean anything."""

    name: ClassVar[str] = "wasserstein"
    paired: ClassVar[bool] = False

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return E[D(G(z))] − E[D(x)], minus the estimated distance. `real`, `fake`: logits [B]."""
        return mean_of(fake) - mean_of(real)

    def generator_loss(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """Return −E[D(G(z))], the part of the distance that the generator can change."""
        return -mean_of(fake)
