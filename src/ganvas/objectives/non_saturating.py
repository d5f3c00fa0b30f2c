"""The minimax game with a generator's loss that does not go flat while the generator is losing.

    generator: minimise −E[log D(G(z))]        discriminator: minimise −V(D, G), as in minimax

Goodfellow et al. 2014, "Generative Adversarial Nets", section 3: the same fixed point, and much stronger gradients
early in learning. D = σ(logit); the slope per logit is D(G(z)) − 1, nearly −1 where minimax has nearly 0.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from ganvas.objectives.base import mean_of, precise
from ganvas.objectives.minimax import Minimax


class NonSaturating(Minimax):
    """Minimax for the discriminator; the generator maximises the log-probability of passing as real. In nats."""

    name: ClassVar[str] = "non-saturating"

    def generator_loss(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """Return −E[log D(G(z))] in nats, at least 0. `fake`: logits [B]."""
        return -mean_of(logsigmoid(precise(fake)))
