"""One step of the game: the discriminator learns to tell, then the generator learns to deceive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ganvas.networks.blocks import differentiated_once
from ganvas.objectives import Objective, Penalty
from ganvas.training.augment import augment
from ganvas.training.players import Players
from ganvas.training.soap import Each, Soap, in_turn
from ganvas.training.team import Team
from ganvas.training.weights import Weights

PENALTY_STREAM = 1 << 62  # keeps what a penalty draws apart from the latents, which are drawn from the bare seed


class Share(NamedTuple):
    """What one member of the team keeps of its part of a batch between the two halves of a step."""

    member: int
    inputs: tuple[Tensor, ...]  # what the generator made the fakes of: latents [b, Z], and labels [b] with classes
    changes: Tensor | None  # what augmentation does to them, [b, NUMBERS]
    fake: Tensor | None  # [b, C, H, W], with its graph, as the discriminator sees it; None: it is to be made again
    loss: Tensor
    smoothness: Tensor
    real_logits: Tensor  # [b]
    fake_logits: Tensor


class Losses(NamedTuple):
    """Scalars of one step, still on the device: reading one waits for it."""

    discriminator: Tensor
    generator: Tensor
    penalty: Tensor
    real_logit: Tensor
    fake_logit: Tensor
    finite: Tensor  # whether the discriminator's gradients were, and the generator's: bool [2]; else it did not move


def to_tensor(pixels: np.ndarray | Tensor, device: str) -> Tensor:
    """Pictures to what networks see: `uint8 [B, H, W, C] -> fp32 [B, C, H, W]` in [-1, 1], channels last in memory."""
    return torch.as_tensor(pixels, device=device).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def draw_latents(prior: str, count: int, z_dim: int, random: torch.Generator, device: str) -> Tensor:
    """Draw `[count, z_dim]` latents: standard normal, or uniform on [-1, 1]. Drawn on the CPU: alike on any device."""
    if prior == "uniform":
        return (torch.rand(count, z_dim, generator=random) * 2 - 1).to(device)
    return torch.randn(count, z_dim, generator=random).to(device)


def play(
    players: Players,
    real: Tensor,
    latents: Tensor,
    labels: Tensor | None,
    objective: Objective,
    penalty: Penalty | None,
    penalty_weight: float,
    seed: int,
    team: Team,
    changes: Tensor | None = None,
) -> Losses:
    """Train both players on one batch: `real [B, C, H, W]`, `latents [B, Z]`, `labels [B]` or None.

    One batch of fakes serves both: the discriminator sees it cut off from the generator, then, one update wiser, judges
    it again with the gradient flowing through. A paired objective compares those verdicts with the logits that the
    reals had before the update, which saves a pass. `penalty` is None on steps that go without; `seed` is what it
    draws from. Every member of the team plays on its share of the batch, and the gradients are averaged; where members
    take turns, fakes are made twice, rather than all kept with their graphs. With `changes [2, B, NUMBERS]`, of
    the reals and of the fakes, the discriminator sees everything through `augment`.
    """
    generator, discriminator = players.generator, players.discriminator
    generator_weights, discriminator_weights = players.generator_weights, players.discriminator_weights

    def see(images: Tensor, changes: Tensor | None) -> Tensor:
        """What the discriminator sees of `images`."""
        return images if changes is None else augment(images, changes)

    def tell_apart(
        member: int,
        real: Tensor,
        latents: Tensor,
        of_real: Tensor | None,
        of_fake: Tensor | None,
        *label: Tensor,
    ) -> tuple[Share, list[Tensor]]:
        with torch.set_grad_enabled(not team.takes_turns):
            fake = see(generator(latents, *label), of_fake)
        real, seen = see(real, of_real), fake.detach()
        smoothness = torch.zeros((), device=real.device)
        if penalty is None:
            with differentiated_once():
                real_logits, fake_logits = judge_both(discriminator, real, seen, *label)
        else:
            if penalty.needs_image_grad:
                real, seen = real.requires_grad_(True), seen.requires_grad_(True)
            real_logits, fake_logits = discriminator(real, *label), discriminator(seen, *label)
            random = None
            if penalty.draws:
                random = torch.Generator(real.device).manual_seed(seed + PENALTY_STREAM + member)
            smoothness = penalty(
                lambda images: discriminator(images, *label), real, seen, real_logits, fake_logits, random
            )
        loss = objective.critic_loss(real_logits, fake_logits)
        gradients = torch.autograd.grad(loss + penalty_weight * smoothness, discriminator_weights.leaves)
        made = None if team.takes_turns else fake
        told = (loss.detach(), smoothness.detach(), real_logits.detach(), fake_logits.detach())
        share = Share(member, (latents, *label), of_fake, made, *told)
        return share, discriminator_weights.gather(gradients, member)

    def deceive(share: Share) -> tuple[Tensor, list[Tensor]]:
        fake = share.fake if share.fake is not None else see(generator(*share.inputs), share.changes)
        with differentiated_once():
            logits = discriminator(fake, *share.inputs[1:])
        loss = objective.generator_loss(share.real_logits, logits)
        gradients = torch.autograd.grad(loss, generator_weights.leaves)
        return loss.detach(), generator_weights.gather(gradients, share.member)

    # The discriminator: tell reals from fakes.
    extra = () if labels is None else (team.split(labels),)
    both = [team.split(one) for one in changes] if changes is not None else [[None] * team.size] * 2
    given = team.split(real), team.split(latents), *both, *extra
    shares, gradients = team.play(tell_apart, team.members, *given)
    with team.resting():
        critic_finite = move(players.discriminator_optimiser, discriminator_weights, team.average(gradients), team.each)

    # The generator: be taken for real.
    losses, gradients = team.play(deceive, shares)
    told = [
        torch.stack([share.loss, loss, share.smoothness, share.real_logits.mean(), share.fake_logits.mean()])
        for share, loss in zip(shares, losses, strict=True)
    ]
    with team.resting():
        *mean, scalars = team.average([[*own, row] for own, row in zip(gradients, told, strict=True)])
        finite = move(players.generator_optimiser, generator_weights, mean, team.each)
    critic, other, smoothness, real_logit, fake_logit = scalars.unbind()
    return Losses(critic, other, smoothness, real_logit, fake_logit, torch.stack([critic_finite, finite]))


def judge_both(discriminator: nn.Module, real: Tensor, fake: Tensor, *label: Tensor) -> tuple[Tensor, Tensor]:
    """The logits [b] of `real` and of `fake`, [b, C, H, W] each, both with `label` [b] or none.

    In one pass where the network can keep the two apart, which halves the work on its weights; else (batch
    normalisation) in two.
    """
    if not getattr(discriminator, "takes_sets", False):
        return discriminator(real, *label), discriminator(fake, *label)
    both: Tensor = discriminator(torch.cat([real, fake]), *(one.repeat(2) for one in label), sets=2)
    real_logits, fake_logits = both.chunk(2)
    return real_logits, fake_logits


def move(optimiser: torch.optim.Optimizer, weights: Weights, gradients: list[Tensor], each: Each = in_turn) -> Tensor:
    """`update` of a player's weights, and of the copies that it computes with."""
    finite = update(optimiser, weights.masters, gradients, each)
    weights.refresh()
    return finite


def update(
    optimiser: torch.optim.Optimizer, weights: Sequence[Tensor], gradients: list[Tensor], each: Each = in_turn
) -> Tensor:
    """Take one step of the optimiser, and say so: a bool of one element.

    Gradients that are not finite would poison weights and moments for good: then no step is taken, and the answer is
    false.
    """
    finite = torch.stack(torch._foreach_norm(gradients)).isfinite().all()
    for weight, gradient in zip(weights, gradients, strict=True):
        # A penalty's second differentiation returns some in another memory layout than their weights', and torch's
        # fused Adam walks the memory of both without a look at strides: it would move the wrong weights.
        weight.grad = gradient if gradient.stride() == weight.stride() else torch.empty_like(weight).copy_(gradient)
    if finite.is_cuda:
        # The GPU looks by itself and nobody waits for it: this is how torch's own scaling of gradients skips steps.
        optimiser.found_inf = (~finite).float()  # type: ignore[attr-defined]
    elif not finite:
        return finite
    if isinstance(optimiser, Soap):
        optimiser.step(each=each)
    else:
        optimiser.step()
    return finite
