"""How far two sets of pictures are apart at each scale of detail, without a network that could be flattered.

Karras et al. 2018, "Progressive Growing of GANs for Improved Quality, Stability, and Variation", section 5: pictures
become Laplacian pyramids (Burt and Adelson 1983), each level gives patches of 7×7 at random places, patches are
normalised to mean 0 and variance 1 in each channel of their set, and the two clouds of patches are compared by the
sliced Wasserstein distance: over random directions, the mean distance between the two sorted lists of projections.

    python benchmarks/sliced_wasserstein.py a.npy b.npy              # two arrays, uint8 [N, H, W, C]
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]

PATCH = 7  # pixels, of a side
SMALLEST = 16  # pixels: the side of the last level, which holds what is left
SCALE = 1000.0  # as the paper prints it
FILTER = np.array([1, 4, 6, 4, 1], np.float32) / 16  # Burt and Adelson's, along each axis
AT_ONCE = 16  # directions


def sliced_wasserstein(
    a: Pixels, b: Pixels, *, patches: int = 64, directions: int = 256, most: int = 2000, seed: int = 0
) -> dict[int, float]:
    """Side of a level, in pixels -> distance · 1000; the finest level first.

    `a`, `b`: uint8 `[N, H, W, C]` of one shape but for N. Equally many are taken of both, at most `most`: the first.
    `patches` of each picture at each level, `directions` on the unit sphere; both are drawn from `seed`, the same for
    both sets. Each set is normalised by itself, as in the paper: a change of brightness or contrast that is the same
    in all pictures is not seen.

    Raises ValueError for other arrays, and for sides below 16 pixels.
    """
    for images in (a, b):
        if images.dtype != np.uint8 or images.ndim != 4 or min(images.shape[1:3]) < SMALLEST or not len(images):
            raise ValueError(f"pictures: {images.dtype} {list(images.shape)}; give uint8 [N, H, W, C], sides of 16 up")
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"pictures of {list(a.shape[1:])} and of {list(b.shape[1:])}")
    count = min(len(a), len(b), most)
    random = np.random.default_rng(seed)
    found: dict[int, float] = {}
    for level, other in zip(pyramid(a[:count]), pyramid(b[:count]), strict=True):
        side, channels = min(level.shape[2:]), level.shape[1]
        places = [random.integers(0, length - PATCH + 1, count * patches) for length in level.shape[2:]]
        first, second = (normalised(cut(images, *places), channels) for images in (level, other))
        found[side] = SCALE * sliced(first, second, directions, random)
    return found


def pyramid(images: Pixels) -> list[Floats]:
    """Laplacian pyramid, finest first: fp32 `[N, C, H, W]` a level; the last is what is left, 16 to 31 pixels."""
    x = images.transpose(0, 3, 1, 2).astype(np.float32)
    levels = []
    while min(x.shape[2:]) >= 2 * SMALLEST and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0:
        smaller = smooth(smooth(x, 2), 3)[:, :, ::2, ::2]
        levels.append(x - enlarged(smaller))
        x = smaller
    return [*levels, x]


def smooth(x: Floats, axis: int) -> Floats:
    """The five-tap filter along one axis; beyond the border pictures are mirrored."""
    length = x.shape[axis]
    padded = np.pad(x, [(2, 2) if i == axis else (0, 0) for i in range(x.ndim)], mode="reflect")
    made: Floats = np.zeros_like(x)
    for i, weight in enumerate(FILTER):
        made += weight * np.take(padded, range(i, i + length), axis)
    return made


def enlarged(x: Floats) -> Floats:
    """Twice the height and width: zeros put between, then the filter, four times as strong."""
    spread = np.zeros((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]), np.float32)
    spread[:, :, ::2, ::2] = 4 * x
    return smooth(smooth(spread, 2), 3)


def cut(level: Floats, rows: Any, columns: Any) -> Floats:
    """Patches with their upper left corners at `rows`, `columns`, as many of each image: `[patches, C, 7, 7]`."""
    images = np.repeat(np.arange(len(level)), len(rows) // len(level))
    within = np.arange(PATCH)
    down, across = rows[:, None, None] + within[None, :, None], columns[:, None, None] + within[None, None]
    patches: Floats = level[images[:, None, None], :, down, across]  # [patches, 7, 7, C]
    return patches.transpose(0, 3, 1, 2)


def normalised(patches: Floats, channels: int) -> Floats:
    """Mean 0 and variance 1 in each channel, then flat: `[patches, C · 49]`. What never varies becomes 0."""
    mean = patches.mean((0, 2, 3), keepdims=True, dtype=np.float64)
    deviation = patches.std((0, 2, 3), keepdims=True, dtype=np.float64)
    flat: Floats = ((patches - mean) / np.maximum(deviation, 1e-8)).astype(np.float32)
    return flat.reshape(len(patches), channels * PATCH * PATCH)


def sliced(a: Floats, b: Floats, directions: int, random: np.random.Generator) -> float:
    """Sliced Wasserstein-1 distance of two clouds of as many points `[N, D]`: E over u of E |sort(a·u) − sort(b·u)|."""
    axes = random.standard_normal((directions, a.shape[1]))
    axes = (axes / np.linalg.norm(axes, axis=1, keepdims=True)).astype(np.float32)
    total = 0.0
    for start in range(0, directions, AT_ONCE):
        some = axes[start : start + AT_ONCE]
        total += float(np.abs(np.sort(some @ a.T, axis=1) - np.sort(some @ b.T, axis=1)).mean(1, np.float64).sum())
    return total / directions


if __name__ == "__main__":
    levels = sliced_wasserstein(np.load(sys.argv[1]), np.load(sys.argv[2]))
    print(", ".join(f"{side} px {value:.2f}" for side, value in levels.items()))
