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
from ganvas.images import SUFFIXES as NAMED
from ganvas.images import grid, read_provenance, write_image
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

    Where there is one picture to write, a grid or a single image, `to` may name it: "faces.png", ".jpg" or ".webp";
    so named, it replaces none but a picture that ganvas made.
    `seeds` are ranges (`latents.parse_seeds`), so a million cost nothing to hold. Each file names its seed, the weights
    and that it was made by a model. Raises SettingError for a format, truncation or class that is not there, and
    StorageError when the disk does not take it: what was written by then is whole.
    """
    if format not in SUFFIXES:
        raise SettingError(f"format '{format}' is unknown{did_you_mean(format, list(SUFFIXES))}: {', '.join(SUFFIXES)}")
    total, folder = sum(map(len, seeds)), Path(to)
    if as_grid and total > MAX_GRID:
        raise SettingError(f"a grid of {total:,} images: the most is {MAX_GRID:,}; leave --grid out to write files")
    picture = named_picture(folder, format, total, as_grid)
    batches = generator.stream(chain.from_iterable(seeds), truncation=truncation, label=label)
    if picture is None:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if as_grid:
            picture = folder / f"grid-{_span(seeds)}{SUFFIXES[format]}"
    if picture is not None:
        images = np.concatenate([images for _, images in batches])
        pixels = grid(images) if as_grid else images[0]
        write_image(picture, pixels, generator.provenance(seeds[0][0] if total == 1 else None))
        return Made(total, picture)
    done = 0
    for count in write_files(generator, batches, folder, SUFFIXES[format]):
        done += count
        if progress is not None:
            progress(done, total)
    return Made(total, folder)


def named_picture(to: Path, format: str, total: int, as_grid: bool) -> Path | None:
    """The one picture that `to` names, by its suffix; None where it names a folder. Raises for what cannot be written.

    A picture that ganvas made is replaced; StorageError for any other file, SettingError for more images than one
    picture has, and for a `format` other than what the name says.
    """
    if to.is_dir():
        return None
    named = NAMED.get(to.suffix.lower())
    fits = named is not None and (as_grid or total == 1)
    if to.exists() and not (fits and read_provenance(to)):
        what = "a file that ganvas did not make" if fits else "a file, not a folder to write images into"
        raise StorageError(f"{to}: is {what}; name another with --to")
    if named is None:
        return None
    if not fits:
        raise SettingError(f"{to}: names one picture, and these are {total:,} images; add --grid, or name a folder")
    if format not in ("png", named):
        raise SettingError(f"format {format}: {to} names another; leave one of the two out")
    return to


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
