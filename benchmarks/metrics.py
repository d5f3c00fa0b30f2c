"""What an evaluation's figures cost: the Fréchet distance against the usual ways, and every stage end to end.

    python benchmarks/metrics.py [--rounds 3] [--count 5000] [--quick] [--out benchmarks/results/metrics.json]

First, two sets of 2,048-dimensional vectors, as the standard network has them: ganvas, `scipy.linalg.sqrtm`, which
papers' code takes, and torchmetrics, in turns in one process; medians. They must agree, or nothing is reported. Then
5,000 pictures against 5,000 others at 64 x 64, from pixels to figures, with `lite0` features: where the time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy.linalg
import torch
from rich.console import Console
from rich.table import Table

from ganvas.config import DataSettings
from ganvas.data.cache import prepare
from ganvas.data.source import open_source
from ganvas.evaluate.features import open_features, vectors
from ganvas.evaluate.metrics import Moments, frechet_distance, kid, manifold, mind
from ganvas.named import AvatarSource

FACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "faces-128.zip"
RESULT = Path(__file__).resolve().parent / "results" / "metrics.json"
SIDE = 64
OURS, SQRTM, TORCHMETRICS = "ganvas", "scipy.linalg.sqrtm", "torchmetrics"


class Given(torch.nn.Module):
    """Features that are what is put in: torchmetrics then does its own part alone."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.num_features = dimensions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def ours(real: np.ndarray, fake: np.ndarray) -> tuple[Any, Callable[[Any], float]]:
    """Means and covariances, and what makes the distance of them; so for each contender."""
    return (Moments.of(real), Moments.of(fake)), lambda both: frechet_distance(*both)


def by_sqrtm(real: np.ndarray, fake: np.ndarray) -> tuple[Any, Callable[[Any], float]]:
    """The textbook's way, in NumPy and SciPy."""

    def distance(both: Any) -> float:
        (mean, covariance), (other_mean, other_covariance) = both
        root = scipy.linalg.sqrtm(covariance @ other_covariance)
        shift = mean - other_mean
        return float(shift @ shift + np.trace(covariance + other_covariance - 2 * root.real))

    return [(rows.mean(axis=0, dtype=np.float64), np.cov(rows.T, dtype=np.float64)) for rows in (real, fake)], distance


def by_torchmetrics(real: np.ndarray, fake: np.ndarray) -> tuple[Any, Callable[[Any], float]]:
    """torchmetrics, in fp64."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=Given(real.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real).double(), real=True)
    metric.update(torch.from_numpy(fake).double(), real=False)
    return metric, lambda filled: float(filled.compute())


CONTENDERS = {OURS: ours, SQRTM: by_sqrtm, TORCHMETRICS: by_torchmetrics}


def features_like(seed: int, count: int, dimensions: int, shift: float) -> np.ndarray:
    """Correlated, at least 0, of falling variance and float32, as a network's pooled features are."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(0).normal(size=(dimensions, dimensions)) / np.sqrt(dimensions)
    mix *= (1 + np.arange(dimensions)) ** -0.5
    return np.abs(random.normal(size=(count, dimensions)) @ mix + shift).astype(np.float32)


def compare(dimensions: int, count: int, rounds: int) -> dict[str, Any]:
    """Seconds of each contender for covariances and distance, `rounds` turns each. SystemExit where they disagree."""
    real, fake = features_like(1, count, dimensions, 0.0), features_like(2, count, dimensions, 0.01)
    taken: dict[str, dict[str, list[float]]] = {name: {"moments": [], "distance": []} for name in CONTENDERS}
    values = {}
    for contender in CONTENDERS.values():  # warm: libraries load their kernels
        state, distance = contender(real[:64, :32], fake[:64, :32])
        distance(state)
    for _ in range(rounds):
        for name, contender in CONTENDERS.items():
            start = time.perf_counter()
            state, distance = contender(real, fake)
            between = time.perf_counter()
            values[name] = distance(state)
            taken[name]["moments"].append(between - start)
            taken[name]["distance"].append(time.perf_counter() - between)
    if not np.allclose(list(values.values()), values[OURS], rtol=1e-6):
        raise SystemExit(f"the ways disagree, so their times mean nothing: {values}")
    return {"dimensions": dimensions, "count": count, "rounds": rounds, "values": values, "seconds": taken}


def summary(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Medians of each contender, and how many times as long as ganvas it takes, turn by turn."""
    rows = {}
    base = found["seconds"][OURS]
    for name, taken in found["seconds"].items():
        rows[name] = {"moments": median(taken["moments"]), "distance": median(taken["distance"])}
        rows[name]["distance_ratio"] = median(map(float.__truediv__, taken["distance"], base["distance"]))
        whole, our_whole = (list(map(float.__add__, *times.values())) for times in (taken, base))
        rows[name]["whole_ratio"] = median(map(float.__truediv__, whole, our_whole))
    return rows


def pictures(count: int, folder: Path) -> tuple[str, np.ndarray]:
    """What they are, and `2 count` of them at random, uint8 `[2 count, 64, 64, C]`; fewer where there are fewer."""
    if FACES.exists():
        name, source = f"faces of {FACES.name}", open_source(FACES)
    else:
        name, source = "portraits drawn by rule", AvatarSource(2 * count)
    images = prepare(source, DataSettings(size=(SIDE, SIDE)), folder).images
    order = np.random.default_rng(0).permutation(len(images))[: 2 * count]
    return name, np.asarray(images[np.sort(order)])[np.argsort(np.argsort(order))]


def end_to_end(count: int) -> dict[str, Any]:
    """Seconds of every stage, and the figures."""
    with tempfile.TemporaryDirectory() as folder:
        name, images = pictures(count, Path(folder))
    half = len(images) // 2
    network = open_features("lite0")
    vectors(network, [images[:64]])  # warm
    seconds: dict[str, float] = {}
    figures: dict[str, Any] = {}

    def stage(what: str, function: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        made = function()
        seconds[what] = time.perf_counter() - start
        return made

    real, fake = (
        stage(f"features of {what}", lambda part=part: vectors(network, (part[i : i + 64] for i in range(0, half, 64))))
        for what, part in (("real pictures", images[:half]), ("images", images[half : 2 * half]))
    )
    figures["frechet_distance"] = stage(
        "Fréchet distance", lambda: frechet_distance(Moments.of(real), Moments.of(fake))
    )
    figures["kid"] = stage("KID and its interval", lambda: kid(real, fake))
    figures["manifold"] = stage("precision, recall, density, coverage", lambda: manifold(real, fake)._asdict())
    figures["mind"] = stage("MIND", lambda: mind(real, fake))
    about = {"pictures": name, "count": half, "side": SIDE, "channels": int(images.shape[3]), "features": network.name}
    return about | {"dimensions": int(real.shape[1]), "seconds": seconds, "figures": figures}


def show(result: dict[str, Any]) -> None:
    """Print both tables."""
    console = Console()
    if not console.is_terminal:
        console.width = 120  # in a file or a log there is no window to fit
    found, machine = result["frechet"], result["machine"]
    console.print(f"{machine['cores']} cores, torch {machine['torch']}; load before: {machine['load_before']:.1f}")
    table = Table(
        title=f"Fréchet distance: {found['count']:,} and {found['count']:,} of {found['dimensions']:,} numbers"
    )
    for column in ("way", "covariances, s", "distance, s", "x as long", "both, x as long"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, row in found["medians"].items():
        times = (f"{row['moments']:.2f}", f"{row['distance']:.2f}")
        table.add_row(name, *times, f"{row['distance_ratio']:.1f}", f"{row['whole_ratio']:.1f}")
    console.print(table)
    whole = result["end_to_end"]
    total = sum(whole["seconds"].values())
    count = f"{whole['count']:,}"
    table = Table(title=f"{count} against {count} {whole['pictures']}, {SIDE}x{SIDE}, {whole['features']}")
    for column in ("stage", "seconds", "share"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for what, seconds in whole["seconds"].items():
        table.add_row(what, f"{seconds:.2f}", f"{seconds / total:.0%}")
    table.add_row("all", f"{total:.2f}", "100%")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way to the Fréchet distance")
    parser.add_argument("--dimensions", type=int, default=2048, help="of its vectors")
    parser.add_argument("--count", type=int, default=5000, help="vectors, and pictures, of each set")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.dimensions, arguments.count, arguments.rounds = 256, 300, 2
    load, began = os.getloadavg()[0], time.perf_counter()
    found = compare(arguments.dimensions, arguments.count, arguments.rounds)
    found["medians"] = summary(found)
    result = {
        "machine": {
            "cores": os.cpu_count(),
            "load_before": load,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "scipy": scipy.__version__,
        },
        "frechet": found,
        "end_to_end": end_to_end(arguments.count),
    }
    result["seconds"] = time.perf_counter() - began
    show(result)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['seconds']:.0f} s; written to {arguments.out}")


if __name__ == "__main__":
    main()
