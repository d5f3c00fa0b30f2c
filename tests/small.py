"""Pictures drawn by rule, and the settings of a run that takes a second or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# The smallest networks and batches there are. fp32, so that the same is tested on every processor.
TINY: dict[str, Any] = {
    "size": 32,
    "width": 8,
    "z_dim": 16,
    "batch": 4,
    "samples": 4,
    "frames": 1,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
}


def draw(folder: Path, count: int, first: int = 0) -> Path:
    """Write `count` colour pictures, 32x32, each a disc on a gradient; picture i is the same always."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:32, 0:32]
    for index in range(first, first + count):
        random = np.random.default_rng(index)
        centre, radius = random.uniform(8, 24, 2), random.uniform(4, 10)
        inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        ground = random.uniform(0, 120, 3) + random.uniform(0, 4, 3) * x[:, :, None]
        pixels = np.where(inside[:, :, None], random.uniform(100, 255, 3), ground)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index:03d}.png")
    return folder
