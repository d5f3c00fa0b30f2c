"""The two-player minimax game, as first written down.

    min_G max_D V(D, G) = E[log D(x)] + E[log(1 − D(G(z)))]

Goodfellow et al. 2014, "Generative Adversarial Nets", eq. 1. x: a real picture; z: a latent; G(z): a generated picture;
D(·) in (0, 1): the probability, says the discriminator, that a picture is real. D = σ(logit), σ the logistic function.

The best answer to a fixed generator is D = p_data / (p_data + p_G) (proposition 1). At the equilibrium p_G = p_data,
D = 1/2 everywhere and V = −log 4, about −1.386 nats (theorem 1); any other generator has
V = −log 4 + 2·JS(p_data ‖ p_G) against its best discriminator.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from ganvas.objectives.base import mean_of, precise


def value(real: Tensor, fake: Tensor) -> Tensor:
    """Return V(D, G) = E[log D(x)] + E[log(1 − D(G(z)))] in nats, at most 0. Goodfellow et al. 2014, eq. 1.

    `real`, `fake`: logits [B]. log σ(t) never forms σ(t), so that a logit of −10,000 gives −10,000 and not −∞; and
    1 − σ(t) = σ(−t).
    """
    return mean_of(logsigmoid(precise(real))) + mean_of(logsigmoid(-precise(fake)))


class Minimax:
    """Both players play the same V: the discriminator upwards, the generator downwards. Losses in nats."""

    name: ClassVar[str] = "minimax"
    paired: ClassVar[bool] = False

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return −V(D, G), because an optimiser minimises and the discriminator maximises V."""
        return -value(real, fake)

    def generator_loss(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """Return E[log(1 − D(G(z)))], the part of V that the generator can change.

        Its slope is −D(G(z)) per logit: nearly 0 while the discriminator sees through the generator. Section 3 of the
        paper therefore trains with the non-saturating loss instead.
        """
        return mean_of(logsigmoid(-precise(fake)))
