"""Cheap signals of how a run is, taken every few thousand images: what a person who knows training would look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from ganvas.data.cache import Dataset
from ganvas.training.plan import default_r1
from ganvas.training.step import to_tensor

STEEPNESS_OF = 8  # reals whose slope is taken: it costs three passes of the discriminator
IMAGES = 64  # of each kind: reals trained on, reals held out, fakes
FEWEST = 8  # held-out pictures below which nothing is said of over-fitting
SIDE = 8  # images are compared at this size: their layout and colours, not their grain


@dataclass(frozen=True)
class Vitals:
    """One check-up. Logits are the discriminator's; None where nothing is held out."""

    seen_images: int
    gap: float  # mean logit of reals less that of fakes
    margin: float  # the same in standard deviations of the logits (d')
    slope: float  # R1 on reals (half the squared slope of their logits) at the default γ of this size: 1 is steep
    overfit: float | None  # (D(trained on) - D(held out)) / (D(trained on) - D(fakes)): 0 healthy, 1 known by heart
    spread: float  # variance of fakes over that of reals, images at 8x8: below 1 there is less variety
    apart: float  # median distance of a fake to its nearest fake, over the same of reals: 0 when they are clones
    saturated: float  # share of fake values within 1 % of black or white, less the same of reals

    def row(self) -> dict[str, Any]:
        """As a row of metrics.jsonl."""
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()}


class CheckUp:
    """Takes vitals, always of the same latents and of the same pictures."""

    def __init__(self, dataset: Dataset, latents: Tensor, classes: int) -> None:
        """`latents [N, Z]`, N at most IMAGES. With classes, image i is of class i modulo their number."""
        random = np.random.default_rng(0)
        self._latents = latents
        self._labels = (torch.arange(len(latents), device=latents.device) % classes,) if classes else ()
        self._r1 = default_r1(dataset.images)
        self._reals = self._pictures(dataset, random.permutation(dataset.train)[:IMAGES])
        self._unseen = self._pictures(dataset, random.permutation(dataset.heldout)[:IMAGES])

    @torch.no_grad()
    def take(self, generator: nn.Module, discriminator: nn.Module, seen_images: int) -> Vitals:
        """The vitals now. Changes nothing in either network."""
        with judging(generator), judging(discriminator):
            fakes = generator(self._latents, *self._labels).float()
            fake_logits = discriminator(fakes, *self._labels).float()
            reals, labels = self._reals
            real_logits = discriminator(reals, *labels).float()
            unseen, labels = self._unseen
            unseen_logits = discriminator(unseen, *labels).float() if len(unseen) >= FEWEST else None
            slope = self._slope(discriminator)
        gap = (real_logits.mean() - fake_logits.mean()).item()
        noise = ((real_logits.var() + fake_logits.var()) / 2).sqrt().item()
        known = None if unseen_logits is None else (real_logits.mean() - unseen_logits.mean()).item()
        small, small_reals = shrink(fakes), shrink(reals)
        return Vitals(
            seen_images=seen_images,
            gap=gap,
            margin=gap / max(noise, 1e-9),
            slope=slope,
            overfit=None if known is None else known / gap if gap > 1e-6 else 0.0,
            spread=small.var(0).sum().item() / max(small_reals.var(0).sum().item(), 1e-9),
            apart=nearest(small) / max(nearest(small_reals), 1e-9),
            saturated=extreme(fakes) - extreme(reals),
        )

    @torch.enable_grad()
    def _slope(self, discriminator: nn.Module) -> float:
        reals = self._reals[0][:STEEPNESS_OF].detach().requires_grad_(True)
        logits = discriminator(reals, *(label[:STEEPNESS_OF] for label in self._reals[1]))
        return self._r1(discriminator, reals, reals.detach(), logits, logits).item()

    def _pictures(self, dataset: Dataset, indices: np.ndarray) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Pictures as the networks see them, and their classes where there are any."""
        device = self._latents.device
        images = to_tensor(np.array(dataset.images[indices]), str(device))
        if not self._labels or dataset.labels is None:
            return images, ()
        return images, (torch.from_numpy(dataset.labels[indices]).to(device),)


@contextmanager
def judging(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a moment: a look must not move the averages of batch normalisation."""
    was = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was)


def shrink(images: Tensor) -> Tensor:
    """Images `[B, C, H, W]` to vectors of their means over an 8x8 grid: `[B, 64 C]`."""
    return adaptive_avg_pool2d(images, SIDE).flatten(1)


def nearest(vectors: Tensor) -> float:
    """Median over the vectors of the distance to the nearest other."""
    if len(vectors) < 2:
        return 0.0
    # Without products of matrices, which leave clones a distance of rounding errors.
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    return distances.min(1).values.median().item()


def extreme(images: Tensor) -> float:
    """Share of values at the ends of the range, which is [-1, 1]."""
    return (images.abs() > 0.98).float().mean().item()
