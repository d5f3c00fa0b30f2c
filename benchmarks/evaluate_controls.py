"""Does each figure move the right way? Pictures spoilt on purpose, measured as samples would be.

    python benchmarks/evaluate_controls.py [--features lite0] [--count 2000]

Faces (`../shared/data/faces-128.zip`, 64x64) and, for whole classes that are missing, CIFAR-10 (32x32). Half of the
pictures play the training set, the held-out ones the reference, and the other half, which neither contains, what a
perfect generator would make. Every row is that other half with something done to it. Writes a table and JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ganvas  # noqa: F401 (before torch: it sets up how threads wait)

# isort: split
import numpy as np
from PIL import Image, ImageFilter

from ganvas.config import DataSettings
from ganvas.data.cache import Dataset, prepare
from ganvas.data.source import open_source
from ganvas.evaluate.copying import duplicate_samples, find_copies
from ganvas.evaluate.evaluation import compare
from ganvas.evaluate.features import Features, open_features, vectors

DATA = Path(__file__).parents[2] / "shared" / "data"
RESULTS = Path(__file__).parent / "results" / "evaluate_controls.json"
CACHE = Path("runs") / ".cache"
Pixels = np.ndarray
FIGURES = ("frechet_distance", "kid", "precision", "recall", "density", "coverage", "mind")


def blurred(images: Pixels) -> Pixels:
    """Each image under a Gaussian of 1.5 pixels."""
    return each(images, lambda image: image.filter(ImageFilter.GaussianBlur(1.5)))


def noisy(images: Pixels) -> Pixels:
    """Each image with Gaussian noise of 20 of 255."""
    noise = np.random.default_rng(0).normal(0, 20, images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


def compressed(images: Pixels) -> Pixels:
    """One grey level up or down at random: what saving again as JPEG of high quality does."""
    change = np.random.default_rng(1).integers(-1, 2, images.shape)
    return (images.astype(int) + change).clip(0, 255).astype(np.uint8)


def each(images: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """`change` applied to every image."""
    plain = [image[:, :, 0] if image.shape[2] == 1 else image for image in images]
    changed = np.stack([np.asarray(change(Image.fromarray(image))) for image in plain])
    return changed.reshape(images.shape)


def measure(
    rows: dict[str, Pixels], train: Pixels, heldout: Pixels, features: Features, pixels: Features
) -> list[dict[str, Any]]:
    """All figures of every row, the search for copies in both spaces included."""
    spaces = [features, pixels]
    known = {space.name: vectors(space, batches(train)) for space in spaces}
    unseen = {space.name: vectors(space, batches(heldout)) for space in spaces}
    unseen_mirrored = {space.name: vectors(space, batches(mirrored(heldout))) for space in spaces}
    found = []
    for name, images in rows.items():
        start = time.perf_counter()
        made = {space.name: vectors(space, batches(images)) for space in spaces}
        turned = {space.name: vectors(space, batches(mirrored(images))) for space in spaces}
        scores = compare(name, made[features.name], unseen[features.name])
        copies = [
            find_copies(key, known[key], unseen[key], made[key], unseen_mirrored[key], turned[key]) for key in made
        ]
        twins = duplicate_samples(made[features.name], known[features.name][: len(images)])
        row: dict[str, Any] = {"name": name, "count": len(images)}
        row |= {figure: getattr(scores, figure) for figure in FIGURES}
        row["kid"] = scores.kid.value if scores.kid else None
        row |= {f"C_T {copy.features}": copy.c_t for copy in copies}
        row["copied"] = [copy.features for copy in copies if copy.copied]
        row |= {"repeated": twins.repeated, "expected": twins.expected}
        found.append(row)
        show(row, time.perf_counter() - start)
    return found


def mirrored(images: Pixels) -> Pixels:
    """Left and right exchanged."""
    return np.ascontiguousarray(images[:, :, ::-1])


def batches(images: Pixels) -> Any:
    """64 at a time."""
    return (images[start : start + 64] for start in range(0, len(images), 64))


def show(row: dict[str, Any], seconds: float) -> None:
    """One line of the table."""
    values = " ".join(f"{row[figure]:9.4f}" for figure in FIGURES)
    tests = " ".join(f"{key} {value:7.1f}" for key, value in row.items() if key.startswith("C_T") and value is not None)
    copied = "COPIED in " + ", ".join(row["copied"]) if row["copied"] else "not copied"
    print(f"{row['name']:34} {values}  {tests}  twins {row['repeated']}/{row['expected']}  {copied}  {seconds:.0f} s")
    sys.stdout.flush()


def faces(count: int, features: Features, pixels: Features) -> list[dict[str, Any]]:
    """The controls on faces."""
    dataset = prepare(open_source(DATA / "faces-128.zip"), DataSettings(size=(64, 64)), CACHE)
    train, perfect, heldout = thirds(dataset, count)
    hundred = perfect[np.random.default_rng(2).integers(0, 100, len(perfect))]
    a_fifth = perfect.copy()
    a_fifth[: len(perfect) // 5] = compressed(train[: len(perfect) // 5])
    halves = by_looks(perfect, features)
    rows = {
        "real pictures": perfect,
        "training pictures, as the row beside": train[:count],
        "blurred": blurred(perfect),
        "noisy": noisy(perfect),
        "half of eight kinds dropped": halves,
        "100 pictures, repeated": hundred,
        "training set replayed, one level off": compressed(train[:count]),
        "training set replayed, mirrored": mirrored(train[:count]),
        "a fifth of it replayed": a_fifth,
    }
    return measure(rows, train, heldout, features, pixels)


def by_looks(images: Pixels, features: Features) -> Pixels:
    """Images of the four larger of eight groups that k-means finds in the features, as many as there were."""
    from ganvas.evaluate.copying import means

    rows = vectors(features, batches(images))
    centres = means(rows, 8)
    group = ((rows[:, None] - centres[None]) ** 2).sum(2).argmin(1)
    kept = np.argsort(-np.bincount(group, minlength=8))[:4]
    left = np.flatnonzero(np.isin(group, kept))
    return images[left]


def classes(count: int, features: Features, pixels: Features) -> list[dict[str, Any]]:
    """CIFAR-10 whole, and with five of its ten classes."""
    settings = DataSettings(size=(32, 32), classes=True, count=12_000)
    dataset = prepare(open_source(DATA / "cifar10.zip"), settings, CACHE)
    order = np.random.default_rng(0).permutation(dataset.train)
    train, others = dataset.images[np.sort(order[:5_000])], np.sort(order[5_000:])
    assert dataset.labels is not None
    few = others[dataset.labels[others] < 5]
    rows = {
        "CIFAR-10": dataset.images[others[:: max(1, len(others) // count)][:count]],
        "five of its ten classes": dataset.images[few[:count]],
    }
    return measure(rows, np.asarray(train), np.asarray(dataset.images[dataset.heldout]), features, pixels)


def thirds(dataset: Dataset, count: int) -> tuple[Pixels, Pixels, Pixels]:
    """Training pictures, pictures of no part, held-out ones: uint8."""
    order = np.random.default_rng(0).permutation(dataset.train)
    half = len(order) // 2
    train, perfect = order[:half], order[half : half + count]
    return dataset.images[train], dataset.images[perfect], dataset.images[dataset.heldout]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", default="lite0")
    parser.add_argument("--count", type=int, default=2_000)
    asked = parser.parse_args()
    if not DATA.exists():
        sys.exit("../shared/data is not there: these controls are of its pictures")
    features, pixels = open_features(asked.features), open_features("pixels")
    print(f"{features.name}: {features.resizer}; {asked.count} images")
    print(f"{'':34} " + " ".join(f"{figure[:9]:>9}" for figure in FIGURES))
    found = {
        "features": features.name,
        "resizer": features.resizer,
        "faces": faces(asked.count, features, pixels),
        "cifar10": classes(asked.count, features, pixels),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
