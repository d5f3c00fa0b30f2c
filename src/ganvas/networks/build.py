"""One table from a family's name to its networks, and the check that it can make the size asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from ganvas.config import NetworkSettings
from ganvas.errors import SettingError, did_you_mean
from ganvas.networks import dcgan, style

SMALL = 64 * 64  # pixels: on a CPU a picture of no more is made pixel by pixel


class Pair(NamedTuple):
    """The two players of the minimax game."""

    generator: nn.Module
    discriminator: nn.Module


@dataclass(frozen=True)
class Family:
    """What a family of networks can do."""

    z_dim: int
    prior: str  # "normal" or "uniform" on [-1, 1]
    rectangles: bool
    classes: bool
    divisible: bool  # whether a batch may be computed in parts: no statistics over the whole batch
    smallest: int
    largest: int


FAMILIES = {
    "style": Family(z_dim=128, prior="normal", rectangles=True, classes=True, divisible=True, smallest=32, largest=256),
    "dcgan": Family(
        z_dim=100, prior="uniform", rectangles=False, classes=False, divisible=False, smallest=16, largest=256
    ),
}


def check(name: str, size: tuple[int, int], classes: int) -> Family:
    """Return the family called `name`; raise SettingError when it cannot make `size` (height, width) or use classes."""
    if name not in FAMILIES:
        raise SettingError(f"network '{name}' is unknown{did_you_mean(name, list(FAMILIES))}: {', '.join(FAMILIES)}")
    family, (height, width) = FAMILIES[name], size
    asked = f"{height}x{width}"
    if not family.rectangles and (height != width or height & (height - 1)):
        raise SettingError(f"size {asked}: {name} makes squares with a power-of-two side; try --network style")
    if not all(family.smallest <= side <= family.largest for side in size):
        raise SettingError(f"size {asked}: {name} makes sides of {family.smallest} to {family.largest} pixels")
    if classes and not family.classes:
        raise SettingError(f"classes: {name} does not learn classes; leave --classes out, or use --network style")
    return family


def width_for(size: tuple[int, int], pictures: int, device: str) -> int:
    """Channels of `style` at half of the size, from what there is to learn and the machine that learns it.

    A CPU gets the widest pair that still sees enough images in minutes; a GPU, and images up to 32×32, twice that. Few
    pictures need less: capacity beyond them is spent on memorising. Larger images spend it on resolution instead.
    """
    width = 32 if device == "cpu" and size[0] * size[1] > 32 * 32 else 64
    if pictures < 1_000:
        width = max(24, width * 3 // 4)
    if size[0] * size[1] > 128 * 128:
        width = width * 3 // 4
    return -(-width // 8) * 8  # matrix units want multiples of eight


def patch_for(size: tuple[int, int], device: str) -> int:
    """Pixels a side that one place of the largest stage of `style` stands for: 2, and 1 for small pictures on a CPU.

    A 2×2 patch saves a third of a step's time, and costs what is finest, which small pictures are full of
    (docs/recipe.md, "A thirteenth search"). On a GPU one pixel is not measured yet.
    """
    return 1 if device == "cpu" and size[0] * size[1] <= SMALL else 2


def build_generator(
    settings: NetworkSettings,
    size: tuple[int, int],
    channels: int,
    classes: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """Build the generator alone. `settings` must be derived (width and z_dim set). Raises SettingError as `check`."""
    check(settings.network, size, classes)
    assert settings.z_dim is not None and settings.width is not None
    if settings.network == "dcgan":
        return dcgan.Generator(size[0], channels, settings.z_dim, dtype)
    patch = settings.patch or style.PATCH
    return style.Generator(size, channels, settings.width, settings.z_dim, classes, patch=patch, dtype=dtype)


def build(
    settings: NetworkSettings,
    size: tuple[int, int],
    channels: int,
    classes: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Pair:
    """Build generator and discriminator for images `[B, channels, height, width]`; weights are drawn at random."""
    generator = build_generator(settings, size, channels, classes, dtype)
    if settings.network == "dcgan":
        return Pair(generator, dcgan.Discriminator(size[0], channels, dtype))
    assert settings.width is not None
    patch = settings.patch or style.PATCH
    return Pair(generator, style.Discriminator(size, channels, settings.width, classes, patch, dtype))
