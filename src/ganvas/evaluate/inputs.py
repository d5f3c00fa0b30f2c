"""Pictures as networks take them: resized the one way that all share, in batches that are always full."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ganvas.errors import SettingError

# Images go through a network so many at a time, the last batch filled up: convolution libraries pick other kernels,
# and so other roundings, for other batch sizes. 16 is what a CPU's cache holds best.
BATCH = {"cpu": 16, "cuda": 64, "mps": 32}
# Counts changes to how images are prepared: vectors that were kept from before one are not used after it.
RECIPE = 1


def in_full_batches(
    images: np.ndarray, device: str, dimensions: int, network: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """What `network` makes of images, fp32 `[B, dimensions]`; the last batch is filled up with its last image.

    `images`: uint8 `[B, H, W, 1 or 3]`. Raises SettingError for anything else.
    """
    check_images(images)
    size, rows = BATCH[device], [np.zeros((0, dimensions), np.float32)]
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        full = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
        rows.append(network(full)[: len(batch)])
    return np.concatenate(rows)


def resize(images: np.ndarray, side: int, device: str = "cpu") -> Tensor:
    """uint8 `[B, H, W, 1 or 3]` to fp32 `[B, 3, side, side]`, 0 to 255: bicubic, antialiased, never rounded between.

    Grey is repeated. As clean-fid does (Parmar et al. 2022, "On Aliased Resizing", section 3): Pillow's bicubic on
    each channel as floats, then clipped. As two products with matrices here, many times as fast.
    """
    height, width = images.shape[1:3]
    x = torch.from_numpy(images.copy()).to(device).permute(0, 3, 1, 2).float()  # a copy: views may be read-only
    rows, columns = (torch.from_numpy(bicubic(length, side)).float().to(device) for length in (height, width))
    x = x if width == side else x @ columns.T
    x = x if height == side else rows @ x
    clipped: Tensor = x.clamp(0.0, 255.0)
    return clipped.expand(-1, 3, -1, -1)


@lru_cache(maxsize=16)
def bicubic(before: int, after: int) -> np.ndarray:
    """The matrix, fp64 `[after, before]`, that resamples a line of pixels; each row sums to 1.

    Keys 1981, "Cubic convolution interpolation", eq. 15, with a = -1/2. Where the line gets shorter the kernel is
    stretched by as much, which keeps frequencies out that `after` pixels cannot hold. At the ends it is cut off.
    """
    scale = before / after
    stretch = max(scale, 1.0)
    centre = (np.arange(after)[:, None] + 0.5) * scale
    x = np.abs(np.arange(before)[None] + 0.5 - centre) / stretch
    near = 1.5 * x**3 - 2.5 * x**2 + 1.0
    far = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    weights = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
    matrix: np.ndarray = weights / weights.sum(1, keepdims=True)
    return matrix


@lru_cache(maxsize=16)
def area(before: int, after: int) -> np.ndarray:
    """How much of each of `before` pixels lies in each of `after` equal parts of the line, in 1/`after` pixels.

    Whole numbers, fp64 `[after, before]`; each row sums to `before`.
    """
    pixel, part = np.arange(before)[None] * after, np.arange(after)[:, None] * before
    matrix: np.ndarray = np.maximum(np.minimum(pixel + after, part + before) - np.maximum(pixel, part), 0.0)
    return matrix


def check_images(images: np.ndarray) -> None:
    """Raise SettingError unless `images` are uint8 `[B, H, W, 1 or 3]`."""
    is_batch = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
    if not is_batch or images.shape[3] not in (1, 3) or 0 in images.shape[1:3]:
        what = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
        raise SettingError(f"images: {what}; features take uint8 [B, H, W, C], C 1 or 3")
