"""Pictures prepared a second: `ganvas.data.cache.prepare`, end to end, against one process with plain Pillow.

    python benchmarks/data_throughput.py [--repeats 5] [--out benchmarks/results/data_throughput.json]

Both start from the same zip of JPEGs and end with 64 x 64 pictures. The plain loop is what a tutorial writes: read
from the zip, `Image.open`, convert, `resize` with Lanczos, into one array in memory. `prepare` does that and more: it
checks every file, writes and hashes a cache on the disk (flushed), splits off the held-out pictures, counts
duplicates and decides whether mirroring is safe; all of it is timed, from opening the archive to the open data set,
worker start-up included. The two alternate; medians are reported.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from rich.console import Console
from rich.table import Table

from ganvas.config import DataSettings
from ganvas.data.cache import prepare
from ganvas.data.source import open_source

SHARED = Path(__file__).parents[2] / "shared" / "data" / "faces-128.zip"
SIDE = 64


def made_archive(path: Path, count: int = 4000) -> Path:
    """Write a zip of `count` grey 128 x 128 JPEGs of smooth random shapes, where the real one is not at hand."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(count):
            coarse = Image.fromarray(random.integers(0, 256, (12, 12), dtype=np.uint8))
            buffer = io.BytesIO()
            coarse.resize((128, 128), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
            archive.writestr(f"made/{index:05d}.jpg", buffer.getvalue())
    return path


def plain(path: Path, side: int) -> np.ndarray:
    """One process: decode and resize every picture of a zip into an array."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        mode = Image.open(io.BytesIO(archive.read(names[0]))).mode
        out = np.empty((len(names), side, side, len(mode)), np.uint8)
        for index, name in enumerate(names):
            with Image.open(io.BytesIO(archive.read(name))) as image:
                small = image.convert(mode).resize((side, side), Image.Resampling.LANCZOS)
            out[index] = np.asarray(small).reshape(side, side, -1)
    return out


def ours(path: Path, side: int, workers: int | None) -> np.ndarray:
    """Everything that `ganvas train` does before its first step, into a fresh cache."""
    with tempfile.TemporaryDirectory() as cache:
        settings = DataSettings(size=(side, side), workers=workers)
        return np.array(prepare(open_source(path), settings, Path(cache)).images[:8])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=None, help="processes; default: one a core")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "data_throughput.json")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        path = SHARED
        if not path.exists():
            console.print(f"{SHARED.name} is not at hand: measuring on JPEGs made here instead")
            path = made_archive(Path(folder) / "made.zip")
        count = len(open_source(path).names())
        if not np.array_equal(ours(path, SIDE, arguments.workers), plain(path, SIDE)[:8]):  # also warms the disk cache
            raise SystemExit("the two ways disagree on the pixels; the comparison would mean nothing")
        seconds: dict[str, list[float]] = {"plain Pillow, one process": [], "ganvas prepare": []}
        for _ in range(arguments.repeats):
            for name, times in seconds.items():
                start = time.perf_counter()
                _ = plain(path, SIDE) if name.startswith("plain") else ours(path, SIDE, arguments.workers)
                times.append(time.perf_counter() - start)
    base = statistics.median(seconds["plain Pillow, one process"])
    table = Table(
        "way", "seconds (median)", "min", "max", "pictures/s", "ratio", title=f"{count:,} JPEGs to {SIDE}x{SIDE}"
    )
    rows = {}
    for name, times in seconds.items():
        middle = statistics.median(times)
        rows[name] = {"seconds": times, "pictures_per_second": count / middle, "ratio": base / middle}
        cells = (
            f"{middle:.2f}",
            f"{min(times):.2f}",
            f"{max(times):.2f}",
            f"{count / middle:,.0f}",
            f"{base / middle:.2f}",
        )
        table.add_row(name, *cells)
    console.print(table)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "pillow": PIL.__version__}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "archive": path.name,
        "pictures": count,
        "side": SIDE,
        "repeats": arguments.repeats,
        **machine,
        "ways": rows,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
