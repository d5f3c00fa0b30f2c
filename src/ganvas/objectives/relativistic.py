"""Relativistic pairing: each generated picture is judged against one real picture, and only the difference counts.

    critic: minimise E[softplus(−(D(x) − D(G(z))))]        generator: minimise E[softplus(−(D(G(z)) − D(x)))]

softplus(t) = log(1 + eᵗ), so that softplus(−t) = −log σ(t): the critic is asked for the probability
σ(D(x) − D(G(z))) that x is the more real of the pair. Jolicoeur-Martineau 2018, "The relativistic discriminator", RpGAN
in section 4, paired as in Huang et al. 2024, "The GAN is dead; long live the GAN!" (R3GAN), section 2: a critic that
must rank every pair cannot put all generated pictures on one side of a single threshold, which is how modes are lost.

Equal distributions: D(x) − D(G(z)) = 0 and both losses are log 2, about 0.693 nats.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import softplus

from ganvas.objectives.base import mean_of, precise


class Relativistic:
    """Image i of the reals is paired with image i of the fakes. Losses in nats, at least 0."""

    name: ClassVar[str] = "relativistic"
    paired: ClassVar[bool] = True

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return E[softplus(−(D(x) − D(G(z))))]. `real`, `fake`: logits [B], the same B."""
        assert real.shape == fake.shape, f"pairs need as many reals as fakes, not {len(real)} and {len(fake)}"
        return mean_of(softplus(-(precise(real) - precise(fake))))

    def generator_loss(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """Return E[softplus(−(D(G(z)) − D(x)))]: the critic's loss with the two swapped."""
        assert real is not None, "the relativistic generator's loss needs the logits of real pictures"
        return self.critic_loss(fake, real)
