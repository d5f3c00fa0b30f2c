"""Runs made to fail, watched and unwatched, beside healthy ones: what the monitor saw, when, and what it was worth.

    python benchmarks/monitor.py                     # 12 healthy runs, then every failure twice; 90 minutes
    python benchmarks/monitor.py --only healthy      # or "healthy faces", or names of failures, with commas between
    python benchmarks/monitor.py --part watched      # or unwatched
    python benchmarks/monitor.py --table             # of the results that are stored; trains nothing

Each run sees the same number of images at 32x32. A failure is provoked first with nobody who acts (what is seen is only
noted, not even numbers that are not finite are answered; a step without finite gradients is not taken in either) and
then under the monitor; both are scored by the same features, on the same number of samples, against the same pictures.
Two processes may share the work and one file of results.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ganvas  # noqa: F401 (before torch: it sets up how threads wait)

# isort: split
import numpy as np
import torch

from ganvas.config import make_config
from ganvas.data.cache import load, prepare
from ganvas.errors import GanvasError
from ganvas.evaluate.features import open_features, vectors
from ganvas.evaluate.memory import real_vectors
from ganvas.evaluate.metrics import Moments, frechet_distance
from ganvas.generator import Generator
from ganvas.training import game
from ganvas.training.loop import Watcher, open_pictures, train
from ganvas.training.monitor import Finding, Monitor
from ganvas.training.players import Players

DATA = Path(__file__).parents[2] / "shared" / "data"
RESULTS = Path(__file__).parent / "results" / "monitor.json"
FACES = str(DATA / "faces-128.zip")
HEALTHY = {"faces": FACES, "cifar": str(DATA / "cifar10.zip"), "avatars": "avatars", "digits": "digits"}
SEEDS = (3, 4, 5)  # the thresholds were set by looking at runs of seeds 0 to 2
IMAGES = 40_000
SAMPLES = 2_000
SIZE = 32


class Notes(Watcher):
    """Keeps what the monitor said, and where in the run."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.found: list[dict[str, Any]] = []
        self.seen, self.stop_at = 0, stop_at

    def tick(self, tick: Any) -> None:
        self.seen = tick.seen_images
        if self.stop_at is not None and self.seen >= self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)
            self.stop_at = None

    def finding(self, finding: Any, care: Any) -> None:
        if finding.state != "healthy" or finding.action:
            self.found.append({"at": self.seen, "state": finding.state, "action": finding.action, "why": finding.why})


@contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value for an attribute, for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def during(first: int, last: int, change: Callable[..., Any]) -> Any:
    """`play`, its arguments changed while `first` to `last` images have been seen: `change(players, real, latents)`."""
    plain = game.play
    count = {"seen": 0}

    def play(players: Players, real: torch.Tensor, latents: torch.Tensor, *others: Any) -> Any:
        count["seen"] += len(real)
        if first <= count["seen"] < last:
            real, latents = change(players, real, latents)
        return plain(players, real, latents, *others)

    return patched(game, "play", play)


class Swapped:
    """An objective with reals and fakes exchanged while `on`."""

    def __init__(self, objective: Any, first: int, last: int) -> None:
        self.objective, self.first, self.last, self.calls = objective, first, last, 0
        self.name, self.paired = objective.name, objective.paired

    def critic_loss(self, real: Any, fake: Any) -> Any:
        self.calls += len(real)
        swap = self.first <= self.calls < self.last
        return self.objective.critic_loss(fake, real) if swap else self.objective.critic_loss(real, fake)

    def generator_loss(self, real: Any, fake: Any) -> Any:
        return self.objective.generator_loss(real, fake)


def not_a_number(players: Players, real: Any, latents: Any) -> Any:
    return torch.full_like(real, torch.nan), latents


def same_picture(players: Players, real: Any, latents: Any) -> Any:
    return real[:1].expand_as(real).contiguous(), latents


def same_latent(players: Players, real: Any, latents: Any) -> Any:
    return real, latents[:1].expand_as(latents).contiguous()


def noise(players: Players, real: Any, latents: Any) -> Any:
    return torch.randn_like(real).clamp(-1, 1), latents


@torch.no_grad()
def poison(players: Players, real: Any, latents: Any) -> Any:
    next(iter(players.generator.parameters()))[0] = torch.nan
    players.refresh()
    return real, latents


@torch.no_grad()
def shatter(players: Players, real: Any, latents: Any) -> Any:
    for weight in players.generator.parameters():
        weight.mul_(30.0)
    players.refresh()
    return real, latents


def strong_critic() -> Any:
    plain = Players.set_learning_rate

    def ten_times(self: Players, rate: float, critic_rate: float = 1.0) -> None:
        plain(self, rate, critic_rate * 10)

    return patched(Players, "set_learning_rate", ten_times)


def swapped(first: int, last: int) -> Any:
    plain = game.adversarial
    return patched(game, "adversarial", lambda name: Swapped(plain(name), first, last))


def damage(folder: Path) -> None:
    """Flip one bit in the middle of every file of the newest checkpoint that holds weights."""
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: path.name)
    for path in newest.glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 16
        path.write_bytes(content)


HALF = IMAGES // 2
NOTHING = "nothing: the untouched run"
ON_DISK = "newest checkpoint damaged on disk"
# name -> (settings, what is wrong while it trains)
FAILURES: dict[str, tuple[dict[str, Any], Callable[[], Any] | None]] = {
    NOTHING: ({}, None),
    "rate x30": ({"learning_rate": 0.36}, None),
    "no penalty": ({"penalty": "none"}, None),
    "critic x10": ({}, strong_critic),
    "reals and fakes swapped for 3000 images": ({}, lambda: swapped(HALF, HALF + 3_000)),
    "50 pictures": ({"count": 53}, None),
    "one picture for 4000 images": ({}, lambda: during(HALF, HALF + 4_000, same_picture)),
    "one latent for 8000 images": ({}, lambda: during(HALF, HALF + 8_000, same_latent)),
    "noise for 2000 images": ({}, lambda: during(HALF, HALF + 2_000, noise)),
    "NaN in a batch": ({}, lambda: during(HALF, HALF + 16, not_a_number)),
    "NaN in a weight": ({}, lambda: during(HALF, HALF + 16, poison)),
    "weights x30": ({}, lambda: during(HALF, HALF + 16, shatter)),
    ON_DISK: ({}, None),
}


def run(source: str, folder: Path, settings: dict[str, Any], features: Any, failure: str = "") -> dict[str, Any]:
    """Train, score, and tell what the monitor said."""
    wrong = FAILURES[failure][1] if failure else None
    notes = Notes(HALF if failure == ON_DISK else None)
    start = time.perf_counter()
    failed = None
    # A checkpoint every few seconds, as minutes are to a run of hours.
    common: dict[str, Any] = {"images": IMAGES, "size": SIZE, "save_minutes": 0.15, "samples": 64, "frames": 2}
    with (wrong or nullcontext)():
        try:
            train(source, folder, watcher=notes, **{**common, **settings})
            if failure == ON_DISK:
                damage(folder)
                train(source, folder, watcher=notes, **{**common, **settings})
        except GanvasError as error:
            failed = str(error)
    row = {
        "source": source if source in ("avatars", "digits") else Path(source).name,
        "settings": settings,
        "seconds": round(time.perf_counter() - start, 1),
        "said": notes.found,
    }
    try:
        row["fd"] = round(score(folder, features), 1)
    except GanvasError as error:
        row["fd"], failed = None, failed or str(error)
    row["failed"] = failed
    vitals = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    row["vitals"] = [each for each in vitals if "margin" in each]
    return row


def score(folder: Path, features: Any) -> float:
    """The Fréchet distance of a run's samples to its training pictures (for a few pictures: to all faces)."""
    dataset = load(Path(json.loads((folder / "manifest.json").read_text())["cache"]))
    if len(dataset.train) < 500:
        settings = make_config(FACES, data={"size": SIZE}).data
        dataset = prepare(open_pictures(FACES, settings), settings, folder.parent / ".cache")
    real = real_vectors(dataset, np.sort(np.random.default_rng(0).permutation(dataset.train)[:SAMPLES]), features)
    generator = Generator.load(folder, precision=None)
    made = vectors(features, (images for _, images in generator.stream(range(SAMPLES))), SAMPLES)
    return frechet_distance(Moments.of(real), Moments.of(made))


def nobody_acts() -> Any:
    """The monitor speaks, and that is all."""
    return patched(Monitor, "_roll_back", lambda self, state, why, *_: Finding(state, why))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--part", choices=("unwatched", "watched", "both"), default="both")
    parser.add_argument("--to", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    names = asked.only.split(",") if asked.only else ["healthy", *FAILURES]
    known = ["healthy", *(f"healthy {data}" for data in HEALTHY), *FAILURES]
    for name in names:
        if name not in known:
            parser.error(f"--only {name}: is none of {', '.join(known)}")
    if asked.table:
        if not asked.to.exists():
            parser.error(f"--to {asked.to}: there are no such results; leave --table out to take them")
        print(table(json.loads(asked.to.read_text())))
        return
    features = open_features("lite0@96")
    more = {"threads": asked.threads, "shares": 2} if asked.threads else {}
    root = Path(tempfile.mkdtemp())
    for name in names:
        if name.startswith("healthy"):
            for data, source in HEALTHY.items():
                if name not in ("healthy", f"healthy {data}"):
                    continue
                for seed in SEEDS:
                    settings = {"seed": seed, "interventions": False, **more}
                    settings |= {"count": 8000} if data in ("avatars", "cifar") else {}
                    row = run(source, root / f"{data}{seed}", settings, features)
                    keep(asked.to, f"healthy {data} {seed}", row)
            continue
        for part in ("unwatched", "watched") if asked.part == "both" else (asked.part,):
            folder = root / f"{name}-{part}".replace(" ", "-").replace(":", "")
            settings = {**FAILURES[name][0], "interventions": part == "watched", **more}
            with nobody_acts() if part == "unwatched" else nullcontext():
                row = run(FACES, folder, settings, features, name)
            keep(asked.to, f"{name}: {part}", row)
    shutil.rmtree(root)


def table(results: dict[str, Any]) -> str:
    """The results in Markdown; distances also as multiples of the untouched run's, which has the same seed."""
    healthy = {name: row for name, row in results.items() if name.startswith("healthy")}
    faces = [row["fd"] for name, row in healthy.items() if "faces" in name]
    sound = results[f"{NOTHING}: watched"]["fd"]
    alarms = [name for name, row in healthy.items() if row["said"]]
    lines = [
        f"{len(healthy)} healthy runs, false alarms in {len(alarms)}: {', '.join(alarms) or 'none'}.",
        f"FD of the healthy runs on faces: {', '.join(f'{fd:.0f}' for fd in faces)}.",
        "",
        "| failure | said at, images | what | what it did | FD unwatched | FD watched | of untouched |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in FAILURES:
        before, after = results.get(f"{name}: unwatched"), results.get(f"{name}: watched")
        if before is None or after is None:
            continue
        first = after["said"][0] if after["said"] else {"at": "-", "state": "nothing"}
        acts = [each["action"] for each in after["said"] if each["action"]]
        did = ", ".join(f"{acts.count(act)}x {act}" for act in dict.fromkeys(acts)) or "-"
        left = f"{before['fd'] or 'none'}" + (" (failed)" if before["failed"] else "")
        ratio = f"{after['fd'] / sound:.2f}" if after["fd"] else "none"
        lines.append(f"| {name} | {first['at']} | {first['state']} | {did} | {left} | {after['fd']} | {ratio} |")
    return "\n".join(lines)


def keep(path: Path, name: str, row: dict[str, Any]) -> None:
    """Show a row, and write it beside those that are there."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results[name] = row
    first = row["said"][0] if row["said"] else None
    print(f"{name:55} FD {row['fd']}  {row['seconds']} s  {len(row['said'])} said  {first or ''} {row['failed'] or ''}")
    sys.stdout.flush()
    path.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
