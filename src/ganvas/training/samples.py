"""How a run looks as it goes: grids of the same latents over time, and the film that they make in the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from ganvas import __version__
from ganvas.checkpoint import weights_hash
from ganvas.config import RunConfig
from ganvas.generator import to_pixels
from ganvas.images import Provenance, grid, write_film, write_image
from ganvas.latents import label_of, latents
from ganvas.networks import FAMILIES

FILM_SECONDS = 8


def is_due(progress: float, drawn: float | None, frames: int) -> bool:
    """Whether a grid is due at `progress`, when the last was drawn at `drawn` (shares of the budget, 0 to 1;
    None: none was yet).

    Grids come at progress (k / frames)²: often at first, when pictures change most and a person wants to see that it
    works, and slowly at the end; always at the very start and end.
    """
    return drawn is None or progress >= 1.0 or math.sqrt(progress) - math.sqrt(drawn) >= 1.0 / frames


@torch.inference_mode()
def draw(average: nn.Module, config: RunConfig, classes: int, seeds: Sequence[int]) -> np.ndarray:
    """The images of `seeds` by the averaged generator: uint8 `[N, H, W, C]`."""
    device = next(average.parameters()).device
    prior = FAMILIES[config.network.network].prior
    assert config.network.z_dim is not None
    made = []
    for start in range(0, len(seeds), 64):
        some = seeds[start : start + 64]
        arguments = [torch.from_numpy(latents(some, config.network.z_dim, prior)).to(device)]
        if classes:
            arguments.append(torch.tensor([label_of(seed, classes) for seed in some], device=device))
        made.append(to_pixels(average(*arguments)))
    return np.concatenate(made)


def write_grid(folder: Path, average: nn.Module, config: RunConfig, classes: int, seen_images: int) -> Path:
    """Draw the images of seeds 0, 1, 2, ... by the averaged generator into samples/<images seen>.png."""
    made = draw(average, config, classes, range(config.training.samples))
    path = folder / "samples" / f"{seen_images:012d}.png"
    provenance = Provenance(version=__version__, weights=weights_hash(average.state_dict())[:16], seed=None)
    write_image(path, grid(made), provenance)
    return path


def drop_after(folder: Path, seen_images: int) -> None:
    """Remove grids newer than the checkpoint that a resume starts from: they will be drawn again."""
    for path in (folder / "samples").glob("[0-9]*.png"):
        if path.stem.isdigit() and int(path.stem) > seen_images:
            path.unlink()


def make_film(folder: Path) -> Path | None:
    """Join the grids so far into film.webp, about 8 seconds; None when there are fewer than two."""
    paths = sorted(path for path in (folder / "samples").glob("[0-9]*.png") if path.stem.isdigit())
    frames: list[np.ndarray] = []
    for path in paths:
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image)
        except (OSError, SyntaxError, ValueError):  # damaged: the film does without it
            continue
        frames.append(pixels if pixels.ndim == 3 else pixels[:, :, None])
    if len(frames) < 2:
        return None
    frames += [frames[-1]] * max(1, len(frames) // 5)  # rest on the result
    target = folder / "film.webp"
    write_film(target, frames, max(1, round(len(frames) / FILM_SECONDS)), Provenance(__version__, "", None))
    return target
