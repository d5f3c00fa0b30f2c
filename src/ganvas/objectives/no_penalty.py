"""No penalty at all, for objectives that are to be seen by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ganvas.objectives.base import Critic, precise


@dataclass(frozen=True)
class NoPenalty:
    """Adds 0, and looks at nothing."""

    name: ClassVar[str] = "none"
    needs_image_grad: ClassVar[bool] = False
    draws: ClassVar[bool] = False

    def __call__(
        self,
        critic: Critic,
        real: Tensor,
        fake: Tensor,
        real_logits: Tensor,
        fake_logits: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return 0 on the logits' device; see Penalty."""
        return torch.zeros_like(precise(real_logits[0]))
