"""What a run spends beside training: checkpoints, the monitor, sample grids and scores, as shares of its time.

    python benchmarks/overhead.py                   # five minutes of portraits drawn by rule, alone on the machine
    python benchmarks/overhead.py --data photos/ --minutes 30
    python benchmarks/overhead.py --quick           # some seconds, to see that it runs

A run of `ganvas.train` with no setting but its budget, size and pictures. The functions that its loop calls are timed
where it calls them, on the clock that its budget is on: while they work, training stands still. Asked for are at most
2 % for checkpoints and 1 % for the monitor (`--save-minutes` and CHECK_IMAGES decide how often).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import ganvas  # before torch: it sets up how threads wait

# isort: split
from ganvas.errors import GanvasError
from ganvas.training import loop, monitor, samples, scoring
from train_worker import describe_machine

RESULT = Path(__file__).resolve().parent / "results" / "overhead.json"
# What is timed: in which report line, whose attribute, its name.
TIMED: tuple[tuple[str, Any, str], ...] = (
    ("checkpoints", loop, "save_run"),
    ("monitor", loop.CheckUp, "take"),
    ("monitor", monitor.Monitor, "after_step"),
    ("monitor", monitor.Monitor, "after_check_up"),
    ("sample grids", samples, "write_grid"),
    ("scores", scoring.Scorer, "is_due"),  # its trial is in here
    ("scores", scoring.Scorer, "score"),
    ("scores", scoring.Scorer, "keep_if_best"),
    ("memory, before", loop, "fit"),
)


@contextmanager
def timed() -> Iterator[dict[str, list[float]]]:
    """Time every call of TIMED while it is entered: seconds of each, by report line."""
    found: dict[str, list[float]] = defaultdict(list)
    before = [(owner, name, getattr(owner, name)) for _, owner, name in TIMED]

    def wrap(line: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                found[line].append(time.perf_counter() - start)

        return call

    for line, owner, name in TIMED:
        setattr(owner, name, wrap(line, getattr(owner, name)))
    try:
        yield found
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="avatars", help="pictures, as ganvas train takes them")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    settings: dict[str, Any] = {"minutes": asked.minutes, "size": asked.size}
    if asked.quick:
        settings |= {"minutes": 0.1, "size": 32, "count": 300, "save_minutes": 0.02}
    load = os.getloadavg()[0]
    try:
        with tempfile.TemporaryDirectory() as folder, timed() as found:
            run = ganvas.train(asked.data, to=Path(folder) / "run", **settings)
    except GanvasError as error:
        parser.error(str(error))
    rows = {
        line: {"calls": len(calls), "share": sum(calls) / run.seconds, "median_s": median(calls), "most_s": max(calls)}
        for line, calls in found.items()
    }
    machine = describe_machine()
    print(f"{machine['cpu']}, {machine['cores']} cores; load before {load:.1f}; {run.seconds:.0f} s of training")
    print(f"{asked.data} at {settings['size']} px: {run.seen_images:,} images, {run.seen_images / run.seconds:.0f}/s")
    for line, row in rows.items():
        print(f"{line:14} {row['share']:7.2%} of the time, {row['calls']} calls, the longest {row['most_s']:.3f} s")
    if not asked.quick:
        told = {"machine": machine | {"load_before": load}, "run": {**settings, "data": asked.data}, "rows": rows}
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(
            json.dumps(told | {"seconds": run.seconds, "seen_images": run.seen_images}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
