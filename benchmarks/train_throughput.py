"""Images per second of training: ganvas against the same network as a tutorial writes it, taken in turns in one run.

    python benchmarks/train_throughput.py                   # four minutes at most
    python benchmarks/train_throughput.py --contention      # and with a busy process beside each; try --limit 600

Allocator and OpenMP belong to a process, so each contender is one, started once, warmed up, and asleep on a pipe when
it is not its turn. A round lets each train for about two seconds; ratios are taken within a round, so that a machine
that speeds up or slows down between rounds moves both sides alike. Medians over the rounds are reported, with extremes.

    dcgan           as ganvas runs it: precision, memory layout, allocator and OpenMP chosen by ganvas.runtime
    dcgan fp32      the same with bf16 off
    tutorial        tutorial_dcgan.py: the same function (tests/test_benchmarks.py), PyTorch's defaults throughout
    style           our default network and objective at 64×64 RGB, the lazy penalty included
    peak            3×3 convolutions, channels last, in the process of `style`: what this machine can do at best

A step of ours is all that the training loop does in one: picking and converting pictures, latents, both players, the
average. Nothing here depends on what the pictures show, so they are noise. This process never imports ganvas: its
settings would be inherited.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

CONTENDERS = ("dcgan", "dcgan fp32", "tutorial", "style")  # the names that train_worker.py knows
OURS, FP32, TUTORIAL, STYLE = CONTENDERS
PAUSE_SECONDS = 0.3  # between turns: OpenMP's threads spin for a while after their work, unless told otherwise
TUNING = ("OMP_", "KMP_", "GOMP_", "MKL_", "MALLOC_", "ONEDNN_", "DNNL_", "TORCH_", "LD_PRELOAD", "GLIBC_TUNABLES")
HERE = Path(__file__).resolve().parent


class Worker:
    """A contender's process. `hello` is what it said of itself and of the machine once it was warm."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        untuned = {key: value for key, value in os.environ.items() if not key.startswith(TUNING)}
        command = [sys.executable, str(HERE / "train_worker.py"), name, json.dumps(settings)]
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=untuned, bufsize=1
        )
        self.hello: dict[str, Any] = self._answer()

    def ask(self, do: str, share: float = 1.0) -> Any:
        """Let it take a turn, alone: `do` is "train" (images/s) or "peaks" (GFLOP/s of each case)."""
        assert self.process.stdin is not None
        time.sleep(PAUSE_SECONDS)
        self.process.stdin.write(json.dumps({"do": do, "share": share}) + "\n")
        return self._answer()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker '{self.name}' ended with code {self.process.wait()}; its error is above")
        return json.loads(line)


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core's worth of somebody else's work running."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def take_rounds(workers: dict[str, Worker], rounds: int, contention: bool, until: float) -> dict[str, list[Any]]:
    """Let everybody have a turn, `rounds` times: name -> images/s of each round; "peaks" and "busy <name>" likewise.

    After the first, a round is begun only if one like the last would end before `until` on the performance counter.
    """
    taken: dict[str, list[Any]] = {}
    length = 0.0
    for number in range(rounds):
        began = time.perf_counter()
        if number and began + length > until:
            print(f"no time for round {number + 1}: a larger --limit allows it", file=sys.stderr)
            break
        for name, worker in workers.items():
            taken.setdefault(name, []).append(worker.ask("train"))
        taken.setdefault("peaks", []).append(workers[STYLE].ask("peaks"))
        for name in (OURS, STYLE, TUTORIAL) if contention else ():
            with busy_process():
                taken.setdefault(f"busy {name}", []).append(workers[name].ask("train", share=0.5))
        speeds = ", ".join(f"{name} {taken[name][-1]:.0f}" for name in workers)
        print(f"round {number + 1} of {rounds}: {speeds} images/s", file=sys.stderr, flush=True)
        length = time.perf_counter() - began
    return taken


def spread(values: list[float]) -> dict[str, float]:
    """Median and extremes."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratios(above: list[float], below: list[float]) -> dict[str, float]:
    """Median and extremes of the quotient, round by round."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def summarise(hellos: dict[str, Any], taken: dict[str, list[Any]]) -> dict[str, Any]:
    """Everything that is reported, as JSON: the raw turns too."""
    best = [max(cases.values()) for cases in taken["peaks"]]
    contenders = {}
    for name in CONTENDERS:
        about = hellos[name]["about"]
        gflops = [speed * about["gflop_per_image"] for speed in taken[name]]
        contenders[name] = {
            **about,
            "images_per_second": spread(taken[name]),
            "against_tutorial": ratios(taken[name], taken[TUTORIAL]) if name in (OURS, FP32) else None,
            "gflop_per_second": spread(gflops),
            "share_of_peak": ratios(gflops, best),
            "speed_left_beside_busy_process": (
                ratios(taken[f"busy {name}"], taken[name]) if f"busy {name}" in taken else None
            ),
        }
    cases = {case: spread([found[case] for found in taken["peaks"]]) for case in taken["peaks"][0]}
    return {
        "machine": hellos[OURS]["machine"],
        "contenders": contenders,
        "peak_gflop_per_second": spread(best),
        "peak_cases": cases,
        "rounds": taken,
    }


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table

    def text(values: dict[str, float] | None, form: str = ".0f") -> str:
        return f"{values['median']:{form}} ({values['min']:{form}}–{values['max']:{form}})" if values else "–"

    console, machine = Console(), result["machine"]
    if not console.is_terminal:
        console.width = 140  # in a file or a log there is no window to fit
    flags = [name for name in ("amx_bf16", "avx512_bf16") if machine[name]] or ["no bf16 instructions"]
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, {', '.join(flags)}; GPU: {machine['gpu'] or 'none'}; "
        f"torch {machine['torch']}, Python {machine['python']}",
        f"load before: {machine['load_before']:.1f}; medians (least–most) of {machine['rounds']} rounds",
        sep="\n",
        highlight=False,
    )
    table = Table(title="Training, in turns")
    for column in ("", "images", "batch", "precision"):
        table.add_column(column)
    for column in ("images/s", "× tutorial", "GFLOP/image", "GFLOP/s", "of peak", "in products"):
        table.add_column(column, justify="right")
    for name, row in result["contenders"].items():
        table.add_row(
            name, row["images"], str(row["batch"]), row["precision"],
            text(row["images_per_second"], ".1f"), text(row["against_tutorial"], ".2f"),
            f"{row['gflop_per_image']:.2f}", f"{row['gflop_per_second']['median']:.0f}",
            f"{row['share_of_peak']['median']:.0%}",
            f"{row['products_share']:.0%}" if row["products_share"] is not None else "–",
        )  # fmt: skip
    console.print(table)
    table = Table(title=f"Convolution peak: {text(result['peak_gflop_per_second'])} GFLOP/s")
    table.add_column("3×3, channels last; a round's peak is its best")
    table.add_column("GFLOP/s", justify="right")
    for case, values in result["peak_cases"].items():
        table.add_row(case, text(values))
    console.print(table)
    fair = machine["cores"] / (machine["cores"] + 1)
    for name, row in result["contenders"].items():
        if row["speed_left_beside_busy_process"]:
            left = text(row["speed_left_beside_busy_process"], ".2f")
            console.print(f"{name} beside a busy process: {left} of its speed alone; an even share is {fair:.2f}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender")
    parser.add_argument("--limit", type=float, default=230.0, help="seconds after which no further round fits")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn, about")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1, help="of dcgan's images, on both sides")
    parser.add_argument("--batch", type=int, default=64, help="of dcgan, on both sides")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--contention", action="store_true", help="also beside a process that spins")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "train_throughput.json")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.batch < 2 or arguments.seconds <= 0:
        parser.error("--rounds must be at least 1, --batch at least 2, --seconds above 0")
    return arguments


def main() -> None:
    """Start everybody, take the rounds, print and store."""
    arguments = parse()
    began, load = time.perf_counter(), os.getloadavg()[0]
    settings = {name: getattr(arguments, name) for name in ("seconds", "batch", "channels", "device")}
    workers: dict[str, Worker] = {}
    try:
        for name in CONTENDERS:  # one after the other: a warm-up beside another's would mislead both
            workers[name] = Worker(name, settings)
        taken = take_rounds(workers, arguments.rounds, arguments.contention, began + arguments.limit)
    finally:
        for worker in workers.values():
            worker.close()
    result = summarise({name: worker.hello for name, worker in workers.items()}, taken)
    result["machine"] |= {"load_before": load, "rounds": len(taken[OURS])}
    result["seconds"] = time.perf_counter() - began
    show(result)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['seconds']:.0f} s; written to {arguments.out}")


if __name__ == "__main__":
    main()
