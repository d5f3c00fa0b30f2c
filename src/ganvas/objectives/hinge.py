"""The hinge loss: a critic that stops pulling at pictures it already tells apart by a margin.

    critic: minimise E[max(0, 1 − D(x))] + E[max(0, 1 + D(G(z)))]        generator: minimise −E[D(G(z))]

Lim & Ye 2017, "Geometric GAN", section 3 (a soft-margin separating hyperplane); Miyato et al. 2018, "Spectral
Normalization for Generative Adversarial Networks", eq. 16 and 17. D is the logit itself, no probability.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import relu

from ganvas.objectives.base import mean_of, precise


class Hinge:
    """A margin of 1 on either side of 0; reals beyond +1 and fakes beyond −1 give the critic no gradient."""

    name: ClassVar[str] = "hinge"
    paired: ClassVar[bool] = False

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return E[max(0, 1 − D(x))] + E[max(0, 1 + D(G(z)))], at least 0. `real`, `fake`: logits [B]."""
        return mean_of(relu(1 - precise(real))) + mean_of(relu(1 + precise(fake)))

    def generator_loss(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """Return −E[D(G(z))]: the generator has no margin, or it would rest where the critic rests."""
        return -mean_of(fake)
