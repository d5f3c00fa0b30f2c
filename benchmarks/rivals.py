"""Published systems that ganvas is measured against, written anew from their papers and cut to what a laptop trains.

    loop = Loop("stylegan2", side=64, channels=3)
    loop.step(real, z, progress)                      # both players and the average
    images = loop.average(z)                          # fp32 [B, C, H, W], about [-1, 1]

    stylegan2   Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN"
    r3gan       Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern Baseline GAN"
    ladagan     Morales-Juarez and Fuentes-Pineda 2024, "Efficient GANs using linear additive-attention Transformers"

Only network and recipe are theirs. All have what nobody can claim: convolutions in bf16 where the machine is faster
with it, channels-last memory, a batch shared out among the cores, one batch of fakes for both players, a generator's
average that is never older than a twentieth of the run. What was cut is in `CUT`, which the benchmark prints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.runtime import one_thread
from ganvas.training.ema import half_life, update_average
from ganvas.training.step import update
from ganvas.training.team import Team
from rival_networks import LadaCritic, LadaGenerator, R3Critic, R3Generator, Style2Critic, Style2Generator

CHANGES = ("batch", "gamma", "rate")
FEWEST = 8  # images in a share: minibatch statistics of fewer say little

CUT = {
    "stylegan2": "all widths 1/16 at 64 px and at most 128 (of 512), mapping of 2 layers (of 8), latents of 128 (of "
    "512); no path-length penalty, no style mixing; R1 added to every 16th step's loss instead of a step of its own",
    "r3gan": "widths 1/12 at 4-16 px (64 of 768), 32 at 32 and 16 at 64 px; 1 block a stage (of 2); batch 16 (of 256); "
    "rates five times the paper's: with few channels Adam's steps move the function less, and at 2e-4 it only swung; "
    "schedules last the whole run; the gamma is the paper's for the size",
    "ladagan": "a likeness, of its description: widths 1/4 (256 at 8 px, 64 at 16), one attention block a stage, no "
    "balanced consistency; critic residual and lean with one attention block; R1's gamma, rate and batch chosen by us",
}


def cosine(progress: float, first: float, last: float) -> float:
    """From `first` to `last` along half a cosine; `progress` 0 to 1."""
    return last + (first - last) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class Recipe:
    """How a rival trains, as its paper says. Functions are of the run's progress, 0 to 1; gamma also of the side."""

    networks: Callable[[int, int, int, torch.dtype], tuple[nn.Module, nn.Module]]  # side, channels, scale, dtype
    z_dim: int
    batch: int
    gpu_batch: int
    paired: bool  # relativistic pairs, else the non-saturating loss
    gamma: Callable[[int, int, float], float]  # side, batch, progress
    every: int  # steps from one penalty to the next, which weighs as many times more
    on_fakes: bool  # R1 + R2, else R1
    rate: Callable[[float], float]
    betas: Callable[[float], tuple[float, float]]


def heuristic_gamma(side: int, batch: int, progress: float) -> float:
    """0.0002 N / M of N pixels and a batch of M: Karras et al. 2020, "Training GANs with Limited Data", appendix C."""
    return 0.0002 * side * side / batch


def r3gan_gamma(side: int, batch: int, progress: float) -> float:
    """Ten times the last value, then down to it: 0.05 at 32 px, 2 at 64, 150 at 256 (its table of settings).

    Between 64 and 256 px in proportion to a power of the side.
    """
    first = 0.05 if side <= 32 else 2.0 * (side / 64) ** (math.log(75) / math.log(4))
    return cosine(progress, first, first / 10)


def lada_gamma(side: int, batch: int, progress: float) -> float:
    """1 at 64 px, in proportion to the pixels: ours to choose."""
    return side * side / 64**2


RECIPES = {
    "stylegan2": Recipe(
        lambda side, channels, scale, dtype: (
            Style2Generator(side, channels, scale, dtype), Style2Critic(side, channels, scale, dtype),
        ),
        z_dim=128, batch=32, gpu_batch=32, paired=False, gamma=heuristic_gamma, every=16, on_fakes=False,
        rate=lambda progress: 0.0025, betas=lambda progress: (0.0, 0.99),
    ),
    "r3gan": Recipe(
        lambda side, channels, scale, dtype: (
            R3Generator(side, channels, scale, dtype), R3Critic(side, channels, scale, dtype),
        ),
        z_dim=64, batch=16, gpu_batch=64, paired=True, gamma=r3gan_gamma, every=1, on_fakes=True,
        rate=lambda progress: cosine(progress, 1e-3, 2.5e-4), betas=lambda progress: (0.0, cosine(progress, 0.9, 0.99)),
    ),
    "ladagan": Recipe(
        lambda side, channels, scale, dtype: (
            LadaGenerator(side, channels, scale, dtype), LadaCritic(side, channels, scale, dtype),
        ),
        z_dim=128, batch=32, gpu_batch=64, paired=False, gamma=lada_gamma, every=8, on_fakes=False,
        rate=lambda progress: 6e-4, betas=lambda progress: (0.0, 0.99),
    ),
}  # fmt: skip


class Loop:
    """Both players of one rival, their optimisers, the generator's average, and a step."""

    def __init__(
        self,
        name: str,
        side: int,
        channels: int,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int = 1,
        changes: Mapping[str, float] | None = None,
    ) -> None:
        """`changes` to the recipe: of CHANGES, "batch", and the values that "gamma" and "rate" begin with.

        Raises ValueError for a side that is no power of two from 32 up or another change, KeyError for a name that is
        not in RECIPES.
        """
        changes = changes or {}
        if unknown := set(changes) - set(CHANGES):
            raise ValueError(f"{', '.join(unknown)}: cannot be changed; {', '.join(CHANGES)} can")
        if side < 32 or side & (side - 1):
            raise ValueError(f"side {side}: rivals make squares with a power of two from 32 up")
        self.name, self.side, self.recipe = name, side, RECIPES[name]
        on_gpu = device != "cpu"
        self.batch = int(changes.get("batch", self.recipe.gpu_batch if on_gpu else self.recipe.batch))
        self.z_dim, self.seen_images, self.steps = self.recipe.z_dim, 0, 0
        gamma, rate = self.recipe.gamma(side, self.batch, 0.0), self.recipe.rate(0.0)
        self.stronger, self.faster = changes.get("gamma", gamma) / gamma, changes.get("rate", rate) / rate
        made = self.recipe.networks(side, channels, 2 if on_gpu else 1, dtype)
        self.generator, self.critic = (network.to(device) for network in made)
        self.average = deepcopy(self.generator).eval().requires_grad_(False)
        self.optimisers = [
            torch.optim.Adam(network.parameters(), lr=1.0, betas=(0.0, 0.99), eps=1e-8, fused=device != "mps")
            for network in (self.generator, self.critic)
        ]
        self.shares = 1 if on_gpu else max(1, min(threads, self.batch // FEWEST))
        self.pool = ThreadPoolExecutor(self.shares, initializer=one_thread) if self.shares > 1 else None

    def step(self, real: Tensor, z: Tensor, progress: float = 0.0) -> tuple[Tensor, Tensor]:
        """Train both on one batch: `real [B, C, H, W]` in [-1, 1], `z [B, Z]`. Returns both losses, [] each."""
        recipe = self.recipe
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"], group["betas"] = recipe.rate(progress) * self.faster, recipe.betas(progress)
        due = self.steps % recipe.every == 0
        weight = recipe.gamma(self.side, self.batch, progress) * self.stronger / 2 * recipe.every if due else 0.0
        critic_loss, kept = self.each(partial(self.tell_apart, weight), real, z, player=1)
        self.critic.requires_grad_(False)
        generator_loss, _ = self.each(self.deceive, *kept, player=0)
        self.critic.requires_grad_(True)
        self.steps += 1
        self.seen_images += len(real)
        update_average(self.average, self.generator, len(real), half_life(len(real), self.seen_images, None))
        return critic_loss, generator_loss

    def tell_apart(self, weight: float, real: Tensor, z: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Any]:
        """The critic's half on one share: its loss, what the other half needs, gradients."""
        fake = self.generator(z)
        real, seen = real.requires_grad_(weight > 0), fake.detach().requires_grad_(weight > 0 and self.recipe.on_fakes)
        r, f = self.critic(real), self.critic(seen)
        loss = F.softplus(f - r).mean() if self.recipe.paired else (F.softplus(-r) + F.softplus(f)).mean()
        total = loss
        for images, logits in ((real, r), (seen, f)):
            if images.requires_grad:
                (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
                total = total + weight * slope.square().sum((1, 2, 3)).mean()
        return loss.detach(), (fake, r.detach()), torch.autograd.grad(total, list(self.critic.parameters()))

    def deceive(self, fake: Tensor, r: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Any]:
        """The generator's half on one share, as `tell_apart`."""
        f = self.critic(fake)
        loss = F.softplus(r - f).mean() if self.recipe.paired else F.softplus(-f).mean()
        return loss.detach(), (), torch.autograd.grad(loss, list(self.generator.parameters()))

    def each(self, half: Callable[..., Any], *batch: Any, player: int) -> tuple[Tensor, list[Any]]:
        """Play one half on every share of the batch, then move the player by the mean of the gradients."""
        parts = [part.chunk(self.shares) if isinstance(part, Tensor) else part for part in batch]
        run = self.pool.map if self.pool is not None else map
        losses, kept, gradients = zip(*run(half, *parts), strict=True)
        network, optimiser = (self.generator, self.critic)[player], self.optimisers[player]
        mean = Team(self.shares, self.shares).average([list(found) for found in gradients])
        update(optimiser, list(network.parameters()), mean)
        return torch.stack(losses).mean(), [list(part) for part in zip(*kept, strict=True)]


def gflop_per_image(loop: Loop, real: Tensor, z: Tensor) -> float:
    """GFLOP of training on one image, 2·MAC of all products of a step, the penalty's by its interval; trains on."""
    from torch.utils.flop_counter import FlopCounterMode

    loop.pool, loop.shares = None, 1  # operations are counted in the thread that asks
    found: list[float] = []
    for steps in (0, 1) if loop.recipe.every > 1 else (0,):  # a step with the penalty and one without
        loop.steps = steps
        with FlopCounterMode(display=False) as counter:
            counter.mod_tracker.__exit__()  # its split by module hooks every input; a penalty cannot differentiate past
            loop.step(real, z)
        found.append(counter.get_total_flops() / len(real) / 1e9)
    return found[-1] + (found[0] - found[-1]) / loop.recipe.every
