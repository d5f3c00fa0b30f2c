"""Least squares: the critic regresses a label, and pictures far on the right side are pulled back as well.

    critic: minimise ½ E[(D(x) − b)²] + ½ E[(D(G(z)) − a)²]        generator: minimise ½ E[(D(G(z)) − c)²]

Mao et al. 2017, "Least Squares Generative Adversarial Networks", eq. 2, with the 0-1 labels of eq. 9: a = 0 for fakes,
b = 1 for reals, and c = 1, what the generator wants to hear. D is the logit itself. The critic's best answer to equal
distributions is D = 1/2, a loss of 1/4.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ganvas.objectives.base import mean_of, precise

FAKE_LABEL, REAL_LABEL, WANTED_LABEL = 0.0, 1.0, 1.0
"""a, b and c of the paper."""


class LeastSquares:
    """Squared distance of the critic's answer to the labels a = 0, b = 1, c = 1."""

    name: ClassVar[str] = "least-squares"
    paired: ClassVar[bool] = False

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return ½ E[(D(x) − b)²] + ½ E[(D(G(z)) − a)²], at least 0. `real`, `fake`: logits [B]."""
        reals, fakes = (precise(real) - REAL_LABEL).square(), (precise(fake) - FAKE_LABEL).square()
        return 0.5 * mean_of(reals) + 0.5 * mean_of(fakes)

    def generator_loss(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """Return ½ E[(D(G(z)) − c)²], at least 0."""
        return 0.5 * mean_of((precise(fake) - WANTED_LABEL).square())
