"""What each of the two players minimises.

A critic D answers one number per picture (a logit); a generator G turns latents z into pictures. They play

    min_G max_D  E[log D(x)] + E[log(1 − D(G(z)))]          minimax.py, Goodfellow et al. 2014, eq. 1

and every other objective here is a descendant of that line, with r = D(x) for a real, f = D(G(z)) for a fake:

                        the critic minimises (mean)       the generator minimises (mean)
    minimax             softplus(−r) + softplus(f)        −softplus(f)            = log(1 − σ(f)), in nats
    ├─ non-saturating   the same                          softplus(−f)            no flat slope while losing
    │  └─ relativistic  softplus(−(r − f))                softplus(−(f − r))      only pairs are compared
    ├─ least-squares    ½(r − 1)² + ½f²                   ½(f − 1)²               regress a label
    ├─ hinge            max(0, 1 − r) + max(0, 1 + f)     −f                      stop pulling beyond a margin
    └─ wasserstein      f − r                             −f                      a distance; needs wgan-gp

    σ(t) = 1/(1 + e⁻ᵗ) and softplus(t) = log(1 + eᵗ), so that softplus(−t) = −log σ(t)

A penalty keeps the critic smooth, and is added to the critic's loss:

    r1                  γ/2 ‖∇D(x)‖²                     on reals             zero_centred.py
    r2                  γ/2 ‖∇D(G(z))‖²                  on fakes             zero_centred.py
    r1+r2               both                                                 zero_centred.py
    finite-difference   γ/(2σ²) (D(x + σε) − D(x))²      both, no ∇           finite_difference.py
    wgan-gp             γ (‖∇D(x̂)‖ − 1)²                 on lines between     wgan_gp.py

A step of training, for any pair of names (a penalty is linear in γ, so a schedule may scale what it returns):

    objective, smooth = adversarial("relativistic"), penalty("r1+r2", gamma=2.0)
    if smooth.needs_image_grad:
        real.requires_grad_(), fake.requires_grad_()
    r, f = critic(real), critic(fake)
    loss = objective.critic_loss(r, f) + smooth(critic, real, fake, r, f, noise)
"""

from __future__ import annotations

from dataclasses import fields

from ganvas.errors import SettingError, did_you_mean
from ganvas.objectives.base import Critic, Objective, Penalty
from ganvas.objectives.finite_difference import FiniteDifference
from ganvas.objectives.hinge import Hinge
from ganvas.objectives.least_squares import LeastSquares
from ganvas.objectives.minimax import Minimax
from ganvas.objectives.no_penalty import NoPenalty
from ganvas.objectives.non_saturating import NonSaturating
from ganvas.objectives.relativistic import Relativistic
from ganvas.objectives.wasserstein import Wasserstein
from ganvas.objectives.wgan_gp import WGANGP
from ganvas.objectives.zero_centred import R1, R1R2, R2

__all__ = ["ADVERSARIAL", "PENALTIES", "Critic", "Objective", "Penalty", "adversarial", "penalty"]

ADVERSARIAL: dict[str, Objective] = {
    objective.name: objective
    for objective in (Minimax(), NonSaturating(), Hinge(), LeastSquares(), Wasserstein(), Relativistic())
}

PENALTIES: dict[str, type[NoPenalty | R1 | WGANGP | FiniteDifference]] = {
    kind.name: kind for kind in (NoPenalty, R1, R2, R1R2, WGANGP, FiniteDifference)
}


def adversarial(name: str) -> Objective:
    """Return the objective called `name`; raise SettingError for a name that is not in ADVERSARIAL."""
    if name not in ADVERSARIAL:
        raise SettingError(_unknown("objective", name, list(ADVERSARIAL)))
    return ADVERSARIAL[name]


def penalty(name: str, **settings: float | None) -> Penalty:
    """Return the penalty called `name` with its settings; one that is None keeps the penalty's default.

    Settings: `gamma` (weight; λ of wgan-gp), and for "finite-difference" also `sigma`. Raises SettingError for a name
    that is not in PENALTIES, a setting that the penalty does not have, or a value that it does not allow.
    """
    if name not in PENALTIES:
        raise SettingError(_unknown("penalty", name, list(PENALTIES)))
    given = {field: value for field, value in settings.items() if value is not None}
    known = [field.name for field in fields(PENALTIES[name])]
    for field in given:
        if field not in known:
            raise SettingError(_unknown(f"setting of penalty '{name}'", field, known))
    return PENALTIES[name](**given)


def _unknown(what: str, value: str, known: list[str]) -> str:
    return f"unknown {what} '{value}'{did_you_mean(value, known)}; known: {', '.join(known) or 'none'}"
