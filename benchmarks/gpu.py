"""Everything worth knowing of a GPU in one command, within eight minutes: generation, training speed, quality.

    python benchmarks/gpu.py                          # on the first CUDA device; CIFAR-10 where it is at hand
    python benchmarks/gpu.py --data faces --size 64
    python benchmarks/gpu.py --device cpu --quick     # some seconds, to see that it runs

Runs generation.py, train_throughput.py and quality.py (ours only), one after another, each with its own limits, and
gathers what they measured in one file. Training for quality gets `--minutes`, or what is left of `--limit` once the
others are done and scoring has its share. A part that fails is reported and does not stop the others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
SCORING_SECONDS = 60.0  # kept for preparing pictures, features of samples and of pictures
LEAST_MINUTES = 0.05


def run_part(name: str, arguments: list[str], folder: Path, limit: float) -> dict[str, Any]:
    """Run one benchmark, alone: its JSON with the seconds it took, or `{"failed": why}`."""
    out, start = folder / f"{name}.json", time.perf_counter()
    print(f"{name}.py {' '.join(arguments)}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *arguments, "--out", str(out)], timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit:.0f} s"}
    if done.returncode:
        return {"failed": f"its process ended with code {done.returncode}; its error is above"}
    found: dict[str, Any] = json.loads(out.read_text())
    return {**found, "took_seconds": time.perf_counter() - start}


def run_all(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every part, and the seconds in all."""
    start = time.perf_counter()

    def left() -> float:
        return asked.limit - (time.perf_counter() - start)

    speed = ["--device", asked.device]
    generating = ["--count", "64", "--rounds", "1"] if asked.quick else ["--count", "2048", "--rounds", "2"]
    training = (
        ["--rounds", "1", "--seconds", "0.1"] if asked.quick else ["--rounds", "3", "--seconds", "1", "--limit", "60"]
    )
    parts = {"generation": run_part("generation", [*speed, *generating], folder, 0.2 * asked.limit)}
    parts["train_throughput"] = run_part("train_throughput", [*speed, *training], folder, left() - SCORING_SECONDS)
    # A part may have failed by taking all the time: then this one fails too, and says so.
    minutes = max(LEAST_MINUTES, min(asked.minutes, (left() - SCORING_SECONDS) / 60))
    learning = ["--quick"] if asked.quick else ["--minutes", f"{minutes:.2f}"]
    learning += ["--data", asked.data, "--size", str(asked.size), "--entrants", "ours", "--to", str(asked.to)]
    learned = run_part("quality", [*speed, *learning, "--again"], folder, max(left(), 1.0))
    ours = learned.get("entrants", {}).get("ours", {})
    parts["quality"] = {"failed": ours["failed"]} if "failed" in ours else learned
    return {"parts": parts, "seconds": time.perf_counter() - start}


def lines(result: dict[str, Any]) -> list[str]:
    """What a person wants to know, one line each."""
    told = []
    for name, part in result["parts"].items():
        if "failed" in part:
            told.append(f"{name}: failed: {part['failed']}")
            continue
        if name == "generation":
            for row in part["rows"]:
                told.append(
                    f"generation to {row['to']}, {row['way']}: {row['images_per_second']:,.0f} images/s, "
                    f"{row['against_plain']:.2f}x plain"
                )
        elif name == "train_throughput":
            for way, row in part["contenders"].items():
                told.append(
                    f"training, {way}: {row['images_per_second']['median']:,.0f} images/s, "
                    f"{row['gflop_per_second']['median']:,.0f} GFLOP/s, {row['share_of_peak']['median']:.0%} of peak"
                )
        else:
            row, settings = part["entrants"]["ours"], part["settings"]
            scores, real = row["scores"], part["real"]["scores"]
            told.append(
                f"quality, {settings['data']} {settings['size']} px, {settings['minutes']:g} minutes: "
                f"{row['seen_images']:,} images at {row['images_per_second']:,.0f}/s; FD {scores['fd']:.1f} "
                f"(real {real['fd']:.1f}), precision {scores['precision']:.2f}, recall {scores['recall']:.2f}"
            )
    return told


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--data", default="cifar10", help="as quality.py takes it")
    parser.add_argument("--size", type=int, help="pixels; 32 for cifar10, else 64")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training for quality, at most")
    parser.add_argument("--limit", type=float, default=470.0, help="seconds for everything")
    parser.add_argument("--quick", action="store_true", help="some seconds each, to see that it runs")
    parser.add_argument("--to", type=Path, default=HERE.parent / "runs" / "gpu", help="folder for samples and grids")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.json")
    asked = parser.parse_args(given)
    if asked.minutes <= 0 or asked.limit <= SCORING_SECONDS:
        parser.error(f"--minutes must be above 0, --limit above {SCORING_SECONDS:g}")
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is none here; --device cpu --quick tries the command itself")
    asked.size = asked.size or (32 if asked.data == "cifar10" else 64)
    return asked


def main() -> None:
    asked = parse()
    with tempfile.TemporaryDirectory() as folder:
        result = run_all(asked, Path(folder))
    print(*lines(result), f"{result['seconds']:.0f} s in all", sep="\n")
    if not asked.quick:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {asked.out}; sample grids in {asked.to}")
    if any("failed" in part for part in result["parts"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
