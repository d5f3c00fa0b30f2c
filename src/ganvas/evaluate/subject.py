"""What is evaluated, and the pictures it is measured against: a trained run, or a folder of images of any origin."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ganvas.checkpoint import read_json
from ganvas.config import MAX_SIDE, MIN_SIDE, DataSettings
from ganvas.data.cache import Dataset, load, prepare
from ganvas.data.decode import Pixels, header_size
from ganvas.data.source import Source
from ganvas.errors import CheckpointError, DataError, SettingError
from ganvas.evaluate.result import Point
from ganvas.generator import Generator
from ganvas.latents import label_of
from ganvas.named import resolve

CACHE = Path("runs") / ".cache"
BATCH = 64  # images that are handed on at a time
HEADERS = 64  # files whose headers are read to learn the size of a folder of images

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Subject:
    """Images to evaluate. `count` is how many there are; None where as many can be made as are asked for."""

    name: str
    source: str
    size: tuple[int, int]
    channels: int
    count: int | None
    classes: tuple[str, ...]
    batches: Callable[[int], Iterator[Pixels]]  # the first n images, as uint8 [B, H, W, C] with B up to 64
    pick: Callable[[Sequence[int]], Pixels]  # images by their index: uint8 [N, H, W, C]
    labels: Callable[[int], np.ndarray | None]  # the classes of the first n images: int64 [n], or None
    run: Path | None = None
    seen_images: int | None = None
    weights: str | None = None
    truncation: float | None = None


def is_run(path: Path) -> bool:
    """Whether `path` is a folder that training, or `Generator.save`, wrote."""
    return (path / "checkpoints").is_dir() or (path / "manifest.json").is_file()


def home_of(path: Path) -> Path:
    """The run folder that a generator's folder belongs to: that of runs/photos/best is runs/photos."""
    return path.parent if not (path / "checkpoints").is_dir() and (path.parent / "checkpoints").is_dir() else path


def open_run(path: Path, truncation: float, device: str | None, precision: str | None) -> Subject:
    """The generator of a run folder as a subject; image i is that of seed i. Raises CheckpointError, SettingError."""
    generator = Generator.load(path, device=device, precision=precision)
    generator.stream([], truncation=truncation)  # says what is wrong with the truncation, if anything is

    def batches(count: int) -> Iterator[Pixels]:
        for _, images in generator.stream(range(count), truncation=truncation):
            yield images

    def labels(count: int) -> np.ndarray | None:
        if not generator.classes:
            return None
        return np.array([label_of(seed, len(generator.classes)) for seed in range(count)], dtype=np.int64)

    home = home_of(path)
    name = home.resolve().name if home == path else f"{home.resolve().name}/{path.name}"
    return Subject(
        name=name,
        source=str(path),
        size=generator.size,
        channels=generator.channels,
        count=None,
        classes=generator.classes,
        batches=batches,
        pick=lambda seeds: generator.sample(seeds, truncation=truncation),
        labels=labels,
        run=home,
        seen_images=generator.seen_images,
        weights=generator.weights,
        truncation=truncation,
    )


def open_images(
    spec: str, size: tuple[int, int] | None, classes: bool, tell: Callable[[str], None], progress: Progress | None
) -> Subject:
    """A folder, zip or address of images as a subject, in an order of their own drawn by hash, the same always.

    `size` None: that which most of them have, rounded to a multiple of 8. Raises DataError, SettingError.
    """
    source = resolve(spec, classes=classes, notice=tell)
    settings = DataSettings(size=size or common_size(source), classes=classes, flip=False)
    dataset = prepare(source, settings, CACHE, progress=progress)
    order = np.random.default_rng(0).permutation(len(dataset.images))

    def batches(count: int) -> Iterator[Pixels]:
        return in_batches(dataset, order[:count])

    assert dataset.settings.size is not None
    return Subject(
        name=source.name,
        source=spec,
        size=dataset.settings.size,
        channels=int(dataset.images.shape[3]),
        count=len(dataset.images),
        classes=dataset.classes,
        batches=batches,
        pick=lambda indices: np.asarray(dataset.images[order[list(indices)]]),
        labels=lambda count: None if dataset.labels is None else dataset.labels[order[:count]],
    )


def pictures_of_run(path: Path, tell: Callable[[str], None], progress: Progress | None) -> Dataset:
    """The prepared pictures that a run was trained on, prepared again where they were cleared away.

    Raises CheckpointError when `path` does not say what they are, DataError when they are gone or other ones now.
    """
    path = home_of(path)
    manifest = read_json(path / "manifest.json")
    config = Generator.load(path).config
    known = manifest.get("pictures") if isinstance(manifest, dict) else None
    if not isinstance(manifest, dict) or not isinstance(known, dict):
        raise CheckpointError(f"{path}: does not say which pictures it was trained on; name them with --data")
    with suppress(CheckpointError, DataError):
        dataset = load(Path(str(manifest.get("cache"))))
        if dataset.digest == known.get("digest"):
            return dataset
    side = max(config.data.size or (64, 64))
    source = resolve(config.source, classes=config.data.classes, count=config.data.count, side=side, notice=tell)
    dataset = prepare(source, config.data, path.parent / ".cache", progress=progress)
    if dataset.digest != known.get("digest"):
        raise DataError(f"{config.source}: holds other pictures than {path} was trained on; name some with --data")
    return dataset


def pictures_like(subject: Subject, spec: str, tell: Callable[[str], None], progress: Progress | None) -> Dataset:
    """The pictures `spec`, prepared at the size of the subject. Raises DataError, SettingError."""
    source = resolve(spec, side=max(subject.size), notice=tell)
    has_classes = bool(subject.classes) and any(source.label(name) for name in source.names())
    return prepare(source, DataSettings(size=subject.size, classes=has_classes), CACHE, progress=progress)


def in_batches(dataset: Dataset, indices: np.ndarray) -> Iterator[Pixels]:
    """Pictures by their index, in that order: uint8 `[B, H, W, C]`, B up to 64."""
    for start in range(0, len(indices), BATCH):
        yield np.asarray(dataset.images[indices[start : start + BATCH]])


def common_size(source: Source) -> tuple[int, int]:
    """The height and width that most images of a source have, by their headers, as a multiple of 8 that is allowed."""
    names = source.names()
    sizes: dict[tuple[int, int], int] = {}
    for name in names[:: -(-len(names) // HEADERS)]:
        with suppress(OSError):
            found = header_size(source.read(name))
            if found is not None:
                sizes[found] = sizes.get(found, 0) + 1
    if not sizes:
        raise DataError(f"{source.name}: no image in it can be read; ganvas data check says why")
    height, width = (
        min(MAX_SIDE, max(MIN_SIDE, round(side / 8) * 8)) for side in max(sizes, key=lambda size: sizes[size])
    )
    return height, width


def check_same_channels(subject: Subject, dataset: Dataset) -> None:
    """Refuse to compare grey with colour: features would tell them apart by that alone."""
    if subject.channels != dataset.images.shape[3]:
        words = {1: "grey", 3: "in colour"}
        raise SettingError(
            f"{subject.name} is {words[subject.channels]} and {dataset.name} is {words[dataset.images.shape[3]]}; "
            "compare it with pictures of its own kind, named with --data"
        )


def read_curve(run: Path | None) -> tuple[list[Point], str | None]:
    """The scores that were taken while training, of the newest metric, and the features they are in."""
    path = run / "metrics.jsonl" if run is not None else None
    if path is None or not path.is_file():
        return [], None
    points: dict[str, list[Point]] = {}
    newest = None
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            point = Point(seen_images=row["seen_images"], seconds=row["seconds"], score=row["score"])
            newest = str(row["metric"])
        except (ValueError, KeyError, TypeError):
            continue  # the rows of losses, and the half row of a killed process
        points.setdefault(newest, []).append(point)
    return (points[newest], newest) if newest else ([], None)
