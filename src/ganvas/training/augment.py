"""Augmentation that the generator can learn through: what the discriminator sees, reals and fakes alike, is changed at
random, so that few pictures cannot be learned by heart.

The changes are those of Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training", section 3.2:
colour (brightness, saturation, contrast), translation by up to an eighth, a cut-out square of half the side. Each is
applied to an image with probability p, independently: below about 0.8 a generator cannot take the change for a part of
the pictures (Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", section 2.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 0.8  # probability of each change from which on it would leak into what is generated


def augment(images: Tensor, probability: float, random: torch.Generator) -> Tensor:
    """Change each of `images [B, C, H, W]`, in [-1, 1], at random; gradients flow through. `probability`: 0 to 1.

    `random` is a generator of the CPU, so that the same is drawn on every device. At 0 images come back as they are.
    """
    if probability <= 0:
        return images
    for change in (colour, translate, cut_out):
        images = change(images, probability, random)
    return images


def colour(images: Tensor, probability: float, random: torch.Generator) -> Tensor:
    """Brightness ±0.5, then saturation ×(0 to 2), then contrast ×(0.5 to 1.5), each with the probability."""
    brightness, saturation, contrast = _drawn(images, 3, random) - 0.5
    images = images + _chosen(images, probability, random) * brightness
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (1 + _chosen(images, probability, random) * 2 * saturation)
    mean = images.mean((1, 2, 3), keepdim=True)
    changed: Tensor = mean + (images - mean) * (1 + _chosen(images, probability, random) * contrast)
    return changed


def translate(images: Tensor, probability: float, random: torch.Generator) -> Tensor:
    """Move by up to an eighth of each side, whole pixels; what comes in is mid-grey, 0."""
    count, _, height, width = images.shape
    chosen = _chosen(images, probability, random).flatten()
    moves = []
    for side in (height, width):
        most = max(1, round(side / 8))
        step = torch.randint(-most, most + 1, (count,), generator=random).to(images.device)
        moves.append((step * chosen).long())
    rows = torch.arange(height, device=images.device)[None] + moves[0][:, None]
    columns = torch.arange(width, device=images.device)[None] + moves[1][:, None]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    at = torch.arange(count, device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[at, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]]
    return moved.permute(0, 3, 1, 2) * inside


def cut_out(images: Tensor, probability: float, random: torch.Generator) -> Tensor:
    """Put 0 over a rectangle of half of each side, its centre anywhere in the image."""
    _, _, height, width = images.shape
    down, across = _drawn(images, 2, random)
    rows = torch.arange(height, device=images.device)[None, None, :, None]
    columns = torch.arange(width, device=images.device)[None, None, None]
    hole = ((rows - down * height).abs() <= height / 4) & ((columns - across * width).abs() <= width / 4)
    cut: Tensor = images * (1 - hole * _chosen(images, probability, random))
    return cut


def _drawn(images: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Uniform numbers on [0, 1): `[count, B, 1, 1, 1]`."""
    return torch.rand(count, len(images), 1, 1, 1, generator=random).to(images)


def _chosen(images: Tensor, probability: float, random: torch.Generator) -> Tensor:
    """1 for an image that is changed, 0 for others: `[B, 1, 1, 1]`."""
    return (torch.rand(len(images), 1, 1, 1, generator=random) < probability).to(images)
