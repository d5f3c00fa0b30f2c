"""Images to files: as many as asked for, one a seed or all in one grid, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from ganvas.errors import SettingError, StorageError, did_you_mean
from ganvas.files import storage_errors
from ganvas.generator import Generator
from ganvas.images import grid, write_image
from ganvas.runtime import usable_cores

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
MAX_GRID = 4096  # images; beyond this no screen shows one
AHEAD = 256  # images that may wait to be written


@dataclass(frozen=True)
class Made:
    """What `generate` wrote: how many images, and the folder or the grid's file."""

    count: int
    path: Path


def generate(
    generator: Generator,
    seeds: Sequence[range],
    to: Path | str,
    *,
    format: str = "png",
    as_grid: bool = False,
    truncation: float = 1.0,
    label: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Made:
    """Write the images of `seeds` into the folder `to` as seed<number>.<format>, or with `as_grid` into one picture.

    `seeds` are ranges (`latents.parse_seeds`), so a million cost nothing to hold. Each file names its seed, the weights
    and that it was made by a model. Raises SettingError for a format, truncation or class that is not there, and
    StorageError when the disk does not take it: what was written by then is whole.
    """
    if format not in SUFFIXES:
        raise SettingError(f"format '{format}' is unknown{did_you_mean(format, list(SUFFIXES))}: {', '.join(SUFFIXES)}")
    total, folder = sum(map(len, seeds)), Path(to)
    if as_grid and total > MAX_GRID:
        raise SettingError(f"a grid of {total:,} images: the most is {MAX_GRID:,}; leave --grid out to write files")
    batches = generator.stream(chain.from_iterable(seeds), truncation=truncation, label=label)
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder}: is a file, not a folder to write images into; name another with --to")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if as_grid:
        images = np.concatenate([images for _, images in batches])
        path = folder / f"grid-{_span(seeds)}{SUFFIXES[format]}"
        write_image(path, grid(images), generator.provenance(seeds[0][0] if total == 1 else None))
        return Made(total, path)
    done = 0
    for count in write_files(generator, batches, folder, SUFFIXES[format]):
        done += count
        if progress is not None:
            progress(done, total)
    return Made(total, folder)


def write_files(
    generator: Generator, batches: Iterable[tuple[list[int], np.ndarray]], folder: Path, suffix: str
) -> Iterator[int]:
    """Write each image of `batches` to its file and yield how many a batch had; files are encoded in threads."""
    waiting: list[Future[None]] = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for seeds, images in batches:
            for seed, image in zip(seeds, images, strict=True):
                path = folder / f"seed{seed:06d}{suffix}"
                waiting.append(pool.submit(write_image, path, image, generator.provenance(seed)))
            while len(waiting) > AHEAD:
                waiting.pop(0).result()
            yield len(seeds)
        for future in waiting:
            future.result()


def _span(seeds: Sequence[range]) -> str:
    first, last = seeds[0][0], seeds[-1][-1]
    return f"{first}" if first == last else f"{first}-{last}"
