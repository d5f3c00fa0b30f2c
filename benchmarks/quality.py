"""Better pictures per minute? Every entrant trains for the same time on the same pictures; samples are then scored.

    python benchmarks/quality.py --data faces --minutes 10            # about 90 minutes; alone on the machine
    python benchmarks/quality.py --data avatars --entrants tutorial,ours --minutes 5
    python benchmarks/quality.py --count 500                          # from 500 pictures only; looks for copies too
    python benchmarks/quality.py --only-score                         # score stored samples again
    python benchmarks/quality.py --quick                              # some seconds each, to see that it runs

    tutorial    tutorial_dcgan.py, PyTorch's defaults throughout, in a process that never imports ganvas
    reference   the reference system's network as ganvas trains it: `--preset dcgan`, for minutes instead of epochs
    stylegan2, r3gan, ladagan       published networks and recipes, cut to fit: rivals.py says how
    ours        `ganvas.train(source, minutes=…)` and nothing else

One after another, each in a process of its own. Scores are against pictures that nobody trained on. Results are
written after each entrant; those of the same settings that are there already are kept, unless --again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ganvas  # noqa: F401 (before torch: it sets up how threads wait)

# isort: split
import numpy as np
from rich.console import Console
from rich.table import Table

from ganvas.config import DataSettings
from ganvas.data.cache import Dataset, prepare
from ganvas.errors import GanvasError
from ganvas.evaluate.features import open_features
from ganvas.named import resolve
from quality_scores import Judge, Pixels, write_grid
from quality_worker import Task, samples_path
from rivals import CHANGES, CUT
from train_throughput import TUNING
from train_worker import describe_machine

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared" / "data"
STORED = {"faces": SHARED / "faces-128.zip", "cifar10": SHARED / "cifar10.zip"}
TUTORIAL, OURS = "tutorial", "ours"
ENTRANTS = {
    TUTORIAL: "the network of `dcgan` in plain PyTorch with its defaults, fp32, batch 64; made for 64 px only",
    "reference": "ganvas train --preset dcgan: the reference system's network and recipe, for minutes and not epochs",
    **CUT,
    OURS: "ganvas train, with no setting but size, seed and minutes",
}
TUTORIAL_SIDE = 64
FEATURES = "lite0"
FEW = 2000  # pictures to learn from, up to which samples are searched for copies of them
# What must agree for stored results to be kept.
SETTINGS = ("data", "size", "minutes", "count", "seed", "samples", "marks", "threads", "device")


@dataclass(frozen=True)
class Pictures:
    """What all train on and what all are scored against."""

    source: str  # as ganvas.train wants it
    train: Pixels
    heldout: Pixels
    flip: bool
    digest: str


def open_pictures(data: str, size: int, count: int | None, cache: Path) -> Pictures:
    """`data` prepared as ganvas does. With `count` only some are trained on; what is held out of all stays that."""

    def prepared(count: int | None) -> Dataset:
        opened = resolve(source, count=count, side=size)
        return prepare(opened, DataSettings(size=(size, size), count=count), cache)

    source = str(STORED.get(data, data))
    everything = prepared(None)
    some, unseen = everything, everything.heldout
    if count is not None:
        some = prepared(count)
        known = {some.names[index] for index in some.train}
        unseen = np.array([index for index in unseen if everything.names[index] not in known], np.int64)
    train, heldout = np.array(some.images[some.train]), np.array(everything.images[unseen])
    return Pictures(source, train, heldout, bool(some.settings.flip), f"{some.digest} {everything.digest}")


def why_not(name: str, size: int) -> str | None:
    """Why an entrant cannot make pictures of `size`, in words; None where it can."""
    if name == TUTORIAL and size != TUTORIAL_SIDE:
        return f"not at this size: it makes {TUTORIAL_SIDE} px"
    if name != OURS and size & (size - 1):
        return "not at this size: it makes powers of two"
    return None


def run_entrant(name: str, task: Task) -> dict[str, Any]:
    """Train one, alone: what its process said, or `{"failed": why}`."""
    untuned = {key: value for key, value in os.environ.items() if not key.startswith(TUNING)}
    command = [sys.executable, str(HERE / "quality_worker.py"), name, json.dumps(asdict(task))]
    load = os.getloadavg()[0]
    print(f"{name}: {task.minutes:g} minutes; load before {load:.1f}", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=untuned)
    if done.returncode:
        return {"failed": f"its process ended with code {done.returncode}; its error is above"}
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**told, "load_before": load}


def score_entrant(judge: Judge, folder: Path, row: dict[str, Any], train: Pixels) -> None:
    """Add to `row` the scores of its last samples, and the Fréchet distance at each mark; draw a grid."""
    for one in row["marks"]:
        images = np.load(samples_path(folder, one["mark"]))
        if one is row["marks"][-1]:
            row["scores"] = judge.scores(images)
            if len(train) <= FEW:
                row["copies"] = judge.copies(images, train)
            one["fd"] = row["scores"]["fd"]
            write_grid(folder.with_suffix(".png"), images)
        else:
            one["fd"] = judge.distance(images)


def compete(asked: argparse.Namespace) -> dict[str, Any]:
    """Everything: pictures, entrants, scores; the JSON is written after each entrant."""
    pictures = open_pictures(asked.data, asked.size, asked.count, asked.to / ".cache")
    judge = Judge(pictures.heldout, open_features(FEATURES), look_for_faces=asked.data == "faces")
    np.save(asked.to / "pictures.npy", pictures.train)
    write_grid(asked.to / "real.png", pictures.heldout)

    settings = {name: getattr(asked, name) for name in SETTINGS} | {
        "data": Path(asked.data).stem,
        "pictures": len(pictures.train), "held_out": len(pictures.heldout), "flip": pictures.flip,
        "digest": pictures.digest, "features": judge.features.name, "resizer": judge.features.resizer,
    }  # fmt: skip
    result = stored(asked.out, settings)
    if asked.only_score and not result["entrants"]:
        sys.exit(f"{asked.out}: holds no results of these settings, so there is nothing to score")
    result["machine"] = describe_machine()
    if result["real"] is None or asked.only_score:
        chosen = np.random.default_rng(0).permutation(len(pictures.train))[: asked.samples]
        result["real"] = {
            "what": "training pictures, scored as samples are",
            "scores": judge.scores(pictures.train[chosen]),
        }

    for name in asked.entrants:
        row, folder, changes = result["entrants"].get(name), asked.to / name, asked.change.get(name, {})
        if unable := why_not(name, asked.size):
            row = {"failed": unable}
        elif asked.only_score:
            if row is None or "failed" in row:
                continue
            changes = row["changes"]
        elif row is None or "failed" in row or row["changes"] != changes or asked.again:
            row = run_entrant(name, Task(
                folder=str(folder), source=pictures.source, pictures=str(asked.to / "pictures.npy"), size=asked.size,
                minutes=asked.minutes, marks=asked.marks, samples=asked.samples, seed=asked.seed, flip=pictures.flip,
                count=asked.count, threads=asked.threads, device=asked.device, changes=asked.change,
            ))  # fmt: skip
        if "failed" not in row and ("scores" not in row or asked.only_score):
            score_entrant(judge, folder, row, pictures.train)
        changed = "".join(f"; {key} {value:g} instead of its own" for key, value in changes.items())
        result["entrants"][name] = {**row, "what": ENTRANTS[name] + changed, "changes": changes}
        write_json(asked.out, result)
    write_json(asked.out, result)
    return result


def stored(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The results that `path` holds, if they are of these settings; else new ones."""
    fresh: dict[str, Any] = {"settings": settings, "machine": None, "real": None, "entrants": {}}
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return fresh
    if found.get("settings") == json.loads(json.dumps(settings)):
        return found
    kept = path.with_suffix(".other.json")
    kept.write_text(path.read_text())
    print(f"{path}: is of other settings; it is kept as {kept.name}, and will be written anew", file=sys.stderr)
    return fresh


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Replace `path` at once, so that an interruption leaves the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    temporary.replace(path)


def show(result: dict[str, Any]) -> None:
    """Print the scores, what each entrant is, and the curve."""
    console, machine, settings = Console(), result["machine"], result["settings"]
    if not console.is_terminal:
        console.width = 140  # in a file or a log there is no window to fit
    rows = {name: result["entrants"][name] for name in ENTRANTS if name in result["entrants"]}
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores; GPU: {machine['gpu'] or 'none'}; torch {machine['torch']}; "
        f"{settings['pictures']:,} pictures to learn from, {settings['held_out']:,} held out",
        highlight=False,
    )
    console.print(score_table(rows, result["real"]["scores"], settings))
    for name, row in rows.items():
        failed = f" ({row['failed']})" if "failed" in row else ""
        console.print(f"{name}: {row['what']}{failed}", style="dim", highlight=False)
    for name, row in rows.items():
        for space, found in row.get("copies", {}).items():
            console.print(f"{name}: {of_copies(space, found)}", highlight=False, soft_wrap=True)
    console.print(curve_table({name: row for name, row in rows.items() if "failed" not in row}, settings["marks"]))


def of_copies(space: str, found: dict[str, Any]) -> str:
    """What the search for copies found in a space of features, in a line."""
    c_t = "" if found["c_t"] is None else f", C_T {found['c_t']:.1f}, p {found['p_value']:.2f}"
    near, twins = f"{found['closer']:.0%} of samples are nearer than 95 % of unseen pictures", found["twins"]
    again = f"{twins['repeated']} of {twins['samples']} repeat another (of pictures {twins['expected']})"
    return f"{'COPIES' if found['copied'] else 'no copies'} in {space}: {near}{c_t}; {again}"


def score_table(rows: dict[str, Any], real: dict[str, Any], settings: dict[str, Any]) -> Table:
    """A row an entrant, and one of real pictures."""
    base = rows.get(TUTORIAL, {}).get("scores", {}).get("fd")
    table = Table(
        title=f"{settings['data']}, {settings['size']} px, {settings['minutes']:g} minutes; {settings['features']}"
    )
    table.add_column("")
    for column in (
        "images/s", "images", "GFLOP/image", "FD", "of tutorial's", "KID ×1000", "precision", "recall", "SWD", "faces",
    ):  # fmt: skip
        table.add_column(column, justify="right")

    def scores(found: dict[str, Any]) -> list[str]:
        faces = "–" if found["faces"] is None else f"{found['faces']:.0%}"
        return [
            f"{found['fd']:.1f}", f"{found['fd'] / base:.2f}" if base else "–",
            f"{1000 * found['kid']:.1f} ± {1000 * found['kid_error']:.1f}",
            f"{found['precision']:.2f}", f"{found['recall']:.2f}", f"{found['swd']:.1f}", faces,
        ]  # fmt: skip

    for name, row in rows.items():
        if "failed" in row:
            table.add_row(name, "–")
            continue
        gflop = f"{row['gflop_per_image']:.2f}" if row.get("gflop_per_image") else "–"
        name += "" if row.get("finite", True) else " (broke: weights are not finite)"
        table.add_row(name, f"{row['images_per_second']:.1f}", f"{row['seen_images']:,}", gflop, *scores(row["scores"]))
    table.add_row("real", "", "", "", *scores(real))
    return table


def curve_table(rows: dict[str, Any], marks: list[float]) -> Table:
    """The Fréchet distance of each entrant at each mark."""
    table = Table(title="FD as time passes")
    table.add_column("of the time")
    for name in rows:
        table.add_column(name, justify="right")
    for index, mark in enumerate(marks):
        table.add_row(f"{mark:.0%}", *(f"{row['marks'][index]['fd']:.1f}" for row in rows.values()))
    return table


def read_changes(text: str) -> dict[str, dict[str, float]]:
    """`r3gan.gamma=0.5,r3gan.rate=1e-4` by rival; ValueError for anything else."""
    found: dict[str, dict[str, float]] = {}
    for pair in filter(None, text.split(",")):
        place, value = pair.split("=")
        name, setting = place.split(".")
        if name not in CUT or setting not in CHANGES or float(value) <= 0:
            raise ValueError(pair)
        found.setdefault(name, {})[setting] = float(value)
    return found


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="faces", help="faces, avatars, cifar10, or a folder or zip of pictures")
    parser.add_argument("--size", type=int, default=64, help="pixels; a multiple of 8 from 32 up")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, each entrant")
    parser.add_argument("--entrants", default=",".join(ENTRANTS), help="names, with commas between")
    parser.add_argument("--count", type=int, help="pictures to learn from; all by default")
    parser.add_argument("--marks", default="0.1,0.25,0.5,1.0", help="shares of the time at which samples are drawn")
    parser.add_argument("--samples", type=int, default=2000, help="drawn at each mark")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--threads", type=int, help="of every entrant; default: one a core")
    parser.add_argument("--change", default="", help="a rival's recipe: r3gan.gamma=0.5,ladagan.batch=16")
    parser.add_argument("--to", type=Path, help="folder for samples and grids; default: runs/quality/…")
    parser.add_argument("--out", type=Path, help="default: results/quality_….json")
    parser.add_argument("--again", action="store_true", help="train the entrants anew though their results are there")
    parser.add_argument("--only-score", action="store_true", help="train nothing; score stored samples again")
    parser.add_argument("--quick", action="store_true", help="3 seconds each, 128 samples, 300 pictures: to see it run")
    asked = parser.parse_args(given)
    asked.entrants = [name for name in asked.entrants.split(",") if name]
    if unknown := [name for name in asked.entrants if name not in ENTRANTS]:
        parser.error(f"--entrants: {', '.join(unknown)} not known; there are {', '.join(ENTRANTS)}")
    if asked.size < 32 or asked.size % 8:
        parser.error(f"--size {asked.size}: must be a multiple of 8 from 32 up")
    try:
        asked.marks = sorted({*map(float, asked.marks.split(",")), 1.0})
        asked.change = read_changes(asked.change)
    except ValueError:
        parser.error("--marks: numbers with commas between; --change: RIVAL.gamma=NUMBER, or .rate, .batch")
    if asked.quick:
        asked.minutes, asked.samples, asked.count = 0.05, 128, 300
    if not 0 < asked.marks[0] <= asked.marks[-1] == 1 or asked.minutes <= 0 or asked.samples < 64:
        parser.error("--marks must be above 0 and at most 1, --minutes above 0, --samples at least 64")
    if asked.data in STORED and not STORED[asked.data].exists():
        print(f"{STORED[asked.data]}: is not there; portraits drawn by rule are used instead", file=sys.stderr)
        asked.data = "avatars"
    parts = [Path(asked.data).stem, f"{asked.size}px", f"{asked.minutes:g}min", f"seed{asked.seed}"]
    name = "-".join([*parts, *([f"{asked.count}pictures"] if asked.count else [])])
    asked.to = (asked.to or HERE.parent / "runs" / "quality" / name).resolve()
    asked.out = asked.out or (asked.to / "quality.json" if asked.quick else HERE / "results" / f"quality-{name}.json")
    return asked


def main() -> None:
    asked = parse()
    asked.to.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    try:
        result = compete(asked)
    except GanvasError as error:  # pictures that are not there, or cannot be learned from
        print(f"quality.py: {error}", file=sys.stderr)
        sys.exit(2)
    show(result)
    print(f"{time.perf_counter() - start:.0f} s; pictures in {asked.to}, figures in {asked.out}")


if __name__ == "__main__":
    main()
