"""Images per second of a trained generator, to memory and to files, against plain eager fp32; in turns, in one run.

    python benchmarks/generation.py                        # about a minute on two idle cores
    python benchmarks/generation.py --side 128 --device cuda
    python benchmarks/generation.py --quick                # a few images, to see that it runs

    plain           the same network in fp32 under `torch.no_grad`, 64 latents at a time; files one after another
    ganvas          `Generator.stream` and `generate` as they are, fp32: an image depends on its seed alone
    ganvas fastest  the same with `precision=None`, which picks bf16 where the machine is faster with it

Weights are random, which no time depends on: nothing is trained. Each way writes PNG files through Pillow; ours also
write into each where it came from. A round gives each way a turn; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import ganvas  # noqa: F401 (before torch: it sets up how threads wait)

# isort: split
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from ganvas.config import make_config
from ganvas.errors import SettingError
from ganvas.generation import generate
from ganvas.generator import Generator, to_pixels
from ganvas.networks import FAMILIES, build_generator
from ganvas.networks.build import patch_for, width_for
from ganvas.runtime import choose_machine
from train_worker import describe_machine

RESULT = Path(__file__).resolve().parent / "results" / "generation.json"
PLAIN_BATCH = 64
MANY = 10_000  # pictures, had it been trained: fewer would narrow it
PLAIN, OURS, FASTEST = "plain", "ganvas", "ganvas fastest"


def write_model(side: int, channels: int, device: str, folder: Path) -> None:
    """A generator with the widths that `ganvas train` gives it by default, untrained, as a folder to load."""
    shape = side, side
    width, patch = width_for(shape, MANY, device), patch_for(shape, device)
    network = {"width": width, "patch": patch, "z_dim": FAMILIES["style"].z_dim}
    config = make_config("noise", data={"size": shape}, network=network)
    torch.manual_seed(0)
    built = build_generator(config.network, shape, channels)
    about = {
        "config": config.model_dump(mode="json"), "channels": channels, "classes": [], "size": [side, side],
        "seen_images": 0,
    }  # fmt: skip
    Generator(built, about, "cpu").save(folder)


def plain_images(network: Any, count: int, device: str) -> list[Any]:
    """As a tutorial samples: batches of latents through the network, pixels on the CPU."""
    made = []
    with torch.no_grad():
        for _ in range(0, count, PLAIN_BATCH):
            made.append(to_pixels(network(torch.randn(PLAIN_BATCH, network.z_dim).to(device))))
    return made


def plain_files(network: Any, count: int, device: str, folder: Path) -> None:
    """And writes them, one file after another."""
    for number, image in enumerate(image for batch in plain_images(network, count, device) for image in batch):
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(folder / f"{number:06d}.png")


def ours_images(generator: Generator, count: int) -> None:
    for _ in generator.stream(range(count)):
        pass


def ways(model: Path, count: int, device: str | None, folder: Path) -> dict[str, dict[str, Callable[[], object]]]:
    """What is timed: "memory" and "files" -> way -> function."""
    exact, fastest = (Generator.load(model, device=device, precision=precision) for precision in ("fp32", None))
    plain = Generator.load(model, device=device, precision="fp32").network
    return {
        "memory": {
            PLAIN: partial(plain_images, plain, count, exact.device),
            OURS: partial(ours_images, exact, count),
            FASTEST: partial(ours_images, fastest, count),
        },
        "files": {
            PLAIN: partial(plain_files, plain, count, exact.device, folder),
            OURS: partial(generate, exact, [range(count)], folder),
            FASTEST: partial(generate, fastest, [range(count)], folder),
        },
    }


def take_rounds(to_time: dict[str, dict[str, Callable[[], object]]], count: int, rounds: int) -> dict[str, Any]:
    """Images per second of each round: kind -> way -> list. The first, which warms up, is left out."""
    taken: dict[str, Any] = {kind: {name: [] for name in by_way} for kind, by_way in to_time.items()}
    for number in range(rounds + 1):
        for kind, by_way in to_time.items():
            for name, function in by_way.items():
                start = time.perf_counter()
                function()
                if number:
                    taken[kind][name].append(count / (time.perf_counter() - start))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3)
    parser.add_argument("--count", type=int, default=1024, help=f"images of a turn, in multiples of {PLAIN_BATCH}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    if asked.quick:
        asked.count, asked.rounds = PLAIN_BATCH, 1
    if asked.count < PLAIN_BATCH or asked.count % PLAIN_BATCH or asked.rounds < 1:
        parser.error(f"--count must be a multiple of {PLAIN_BATCH}, --rounds at least 1")
    load, root = os.getloadavg()[0], Path(tempfile.mkdtemp())
    try:
        machine = choose_machine(asked.device)
        write_model(asked.side, asked.channels, machine.device, root / "model")
        (root / "files").mkdir()
        taken = take_rounds(ways(root / "model", asked.count, asked.device, root / "files"), asked.count, asked.rounds)
    except SettingError as error:
        parser.error(str(error))
    finally:
        shutil.rmtree(root)
    table = Table(title=f"Images per second, {asked.side}×{asked.side}×{asked.channels}; load before {load:.1f}")
    for column in ("", "to", "images/s", "× plain (least–most)"):
        table.add_column(column)
    rows = []
    for kind, by_way in taken.items():
        for name, speeds in by_way.items():
            ratios = [mine / theirs for mine, theirs in zip(speeds, by_way[PLAIN], strict=True)]
            rows.append({"way": name, "to": kind, "images_per_second": median(speeds), "against_plain": median(ratios)})
            spread = f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
            table.add_row(name, kind, f"{median(speeds):.0f}", spread)
    Console(width=100).print(table)
    if not asked.quick:
        told = {"machine": describe_machine() | {"load_before": load}, "rows": rows, "rounds": taken}
        asked.out.write_text(json.dumps(told | {"side": asked.side, "channels": asked.channels}, indent=1) + "\n")


if __name__ == "__main__":
    main()
