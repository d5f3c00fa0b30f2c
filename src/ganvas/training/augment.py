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
COLOUR, TRANSLATION, CUT_OUT = 6, 3, 3  # numbers that each change takes, for one image
CHANCES = 3, 4, 5, 8, 11  # those that say whether: 1 or 0
NUMBERS = COLOUR + TRANSLATION + CUT_OUT


def draw_changes(count: int, probability: float, random: torch.Generator) -> Tensor:
    """What `augment` does with `count` reals and as many fakes, `[2, count, NUMBERS]`; each with `probability`, 0 to 1.

    `random` is a generator of the CPU, so that the same is drawn for every device.
    """
    numbers = torch.rand(2, count, NUMBERS, generator=random)
    numbers[..., CHANCES] = (numbers[..., CHANCES] < probability).to(numbers)
    return numbers


def augment(images: Tensor, changes: Tensor) -> Tensor:
    """Change each of `images [B, C, H, W]`, in [-1, 1], as `changes [B, NUMBERS]` say; gradients flow through."""
    of_colour, of_translation, of_cut_out = torch.split(changes.to(images), [COLOUR, TRANSLATION, CUT_OUT], 1)
    return cut_out(translate(colour(images, of_colour), of_translation), of_cut_out)


def colour(images: Tensor, numbers: Tensor) -> Tensor:
    """Brightness ±0.5, then saturation ×(0 to 2), then contrast ×(0.5 to 1.5), each by its own chance."""
    brightness, saturation, contrast, lighter, coloured, sharper = numbers[:, :, None, None, None].unbind(1)
    images = images + lighter * (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (1 + coloured * (2 * saturation - 1))
    mean = images.mean((1, 2, 3), keepdim=True)
    changed: Tensor = mean + (images - mean) * (1 + sharper * (contrast - 0.5))
    return changed


def translate(images: Tensor, numbers: Tensor) -> Tensor:
    """Move by up to an eighth of each side, whole pixels; what comes in is mid-grey, 0."""
    count, _, height, width = images.shape
    *places, chosen = numbers.unbind(1)
    moves = []
    for side, place in zip((height, width), places, strict=True):
        most = max(1, round(side / 8))
        step = (place * (2 * most + 1)).floor().clamp(max=2 * most) - most  # a product may round up
        moves.append((step * chosen).long())
    rows = torch.arange(height, device=images.device)[None] + moves[0][:, None]
    columns = torch.arange(width, device=images.device)[None] + moves[1][:, None]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    at = torch.arange(count, device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[at, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]]
    return moved.permute(0, 3, 1, 2) * inside


def cut_out(images: Tensor, numbers: Tensor) -> Tensor:
    """Put 0 over a rectangle of half of each side, its centre anywhere in the image."""
    _, _, height, width = images.shape
    down, across, chosen = numbers[:, :, None, None, None].unbind(1)
    rows = torch.arange(height, device=images.device)[None, None, :, None]
    columns = torch.arange(width, device=images.device)[None, None, None]
    hole = ((rows - down * height).abs() <= height / 4) & ((columns - across * width).abs() <= width / 4)
    cut: Tensor = images * (1 - hole * chosen)
    return cut
