"""What each command does, with the parts that need torch or much else; `cli` only parses and calls one of these."""

from __future__ import annotations

import os
import shlex
import sys
import webbrowser
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from ganvas import named
from ganvas.config import DataSettings, NetworkSettings, RunConfig, parse_size
from ganvas.console import Counter, Stages, TrainingLine, console, plan_table
from ganvas.data.doctor import inspect
from ganvas.errors import SettingError
from ganvas.evaluate.evaluation import Split, evaluate
from ganvas.evaluate.proxy import proxy_for
from ganvas.evaluate.report import console_tables, write_report
from ganvas.evaluate.subject import is_run
from ganvas.files import write_json
from ganvas.gallery import write_gallery
from ganvas.generation import generate
from ganvas.generator import Generator
from ganvas.latents import MAX_SEED, parse_seeds
from ganvas.networks import FAMILIES, build, patch_for, width_for
from ganvas.networks.summary import summarise, table
from ganvas.runtime import rank
from ganvas.training.loop import Watcher, find, make_plan, open_pictures, train_on
from ganvas.training.plan import describe_budget, images_budget, measure

MAX_CLASSES = 100_000
Given = dict[str, dict[str, Any]]


def train_run(asked: RunConfig, to: Path | None, given: Given) -> int:
    """Train, or go on; exit code 0, or 128 + the signal that interrupted."""
    if rank():  # the first process of the run tells
        train_on(*find(asked.source, to, asked, given, lambda line: None), asked, given, Watcher())
        return 0
    source, folder = find(asked.source, to, asked, given, tell)
    with TrainingLine() as line:
        run = train_on(source, folder, asked, given, line, proxy_for)
    how_far = f"{run.seen_images:,} images in {run.seconds / 60:.1f} minutes"
    if run.signal is not None:
        again = shlex.join(["ganvas", "train", asked.source, *(("--to", str(to)) if to else ())])
        done = f"stopped and saved at {how_far}" if run.seen_images else "stopped before the first step"
        console.print(f"{done}; go on with: {again}", soft_wrap=True)
        return 128 + run.signal
    console.print(f"done: {how_far}", soft_wrap=True)
    if run.seen_images == line.began:
        used = f"nothing was trained now: the run's budget of {line.budget} was used up before"
        console.print(f"{used}; to go on, give it a larger one with --minutes or --images", soft_wrap=True)
    for what, path in (("run", run.folder), ("film", run.film), ("gallery", write_gallery(run.folder))):
        console.print(f"  {what:8} {path}", soft_wrap=True)
    console.print(
        f"make images with: ganvas generate {shlex.quote(str(run.folder))} --seeds 0-63 --grid", soft_wrap=True
    )
    return 0


def plan_run(asked: RunConfig, to: Path | None, given: Given) -> int:
    """Print what `train_run` would do, with a short trial of its speed."""
    source, folder = find(asked.source, to, asked, given, tell)
    with TrainingLine() as line:
        plan, _ = make_plan(source, folder, asked, line)
    images = images_budget(plan.config, plan.pictures)
    budget = describe_budget(plan.config)
    console.print(plan_table(plan, measure(plan), budget, plan.config.training.minutes, images))
    return 0


def tell(line: str) -> None:
    """Print something that a person should know though nothing is wrong."""
    console.print(line, style="yellow", soft_wrap=True)


def generate_images(
    run: Path,
    seeds: str | None,
    count: int | None,
    to: Path | None,
    format: str,
    grid: bool,
    truncation: float,
    label: str | None,
    device: str | None,
    precision: str,
) -> int:
    """Write images; the default is the 64 of seeds 0-63."""
    if seeds is not None and count is not None:
        raise SettingError("seeds and count: give one of the two; --count N is --seeds 0-(N-1)")
    if count is not None and not 1 <= count <= MAX_SEED:
        step = "write --count 64" if count < 1 else f"write one up to {MAX_SEED}"
        raise SettingError(
            f"count {count}: is {'less than 1 image' if count < 1 else 'more than there are seeds'}; {step}"
        )
    ranges = parse_seeds(seeds) if seeds is not None else [range(count or 64)]
    generator = Generator.load(run, device=device, precision=precision)
    with Counter("generating") as counter:
        made = generate(
            generator,
            ranges,
            to or run / "generated",
            format=format,
            as_grid=grid,
            truncation=truncation,
            label=label,
            progress=counter,
        )
    console.print(f"{made.count:,} image{'s' * (made.count != 1)} in {made.path}", soft_wrap=True)
    return 0


def evaluate_all(
    what: list[str],
    data: str | None,
    features: str,
    count: int | None,
    split: Split,
    truncation: float,
    size: tuple[int, int] | None,
    classes: bool,
    to: Path | None,
    device: str | None,
    precision: str,
) -> int:
    """Evaluate each of `what` in each of the features; print the tables, write report.html and report.json."""
    found, shown = [], []
    for spec in features.split(","):
        for each in what:
            with Stages(each) as stages:
                evaluation, pictures = evaluate(
                    each,
                    data=data,
                    features=spec.strip(),
                    count=count,
                    split=split,
                    truncation=truncation,
                    size=size,
                    classes=classes,
                    device=device,
                    precision=precision,
                    tell=tell,
                    said=stages,
                )
            found.append(evaluation)
            shown.append(pictures)
    for one in console_tables(found):
        console.print(one)
    for one_run in found:
        for line in (*one_run.words, *one_run.notes):
            console.print(line if len(found) == 1 else f"{one_run.name}: {line}", soft_wrap=True)
    folder = to or report_folder(what)
    page = write_report(found, shown, folder / "report.html")
    write_json(folder / "report.json", {"evaluations": [one_run.model_dump(mode="json") for one_run in found]})
    for path in (page, folder / "report.json"):
        console.print(f"  {path}", soft_wrap=True)
    return 0


def report_folder(what: list[str]) -> Path:
    """Where a report goes unless told: into the run folder that it is about, else beside the other runs."""
    only = Path(what[0])
    if len(what) == 1 and is_run(only):
        return only
    return Path("runs") / ".evaluate" / "-".join(Path(each).stem for each in what)[:100]


def show_gallery(run: Path, to: Path | None, open_it: bool) -> int:
    """Write the page of a run, and open it where asked."""
    page = write_gallery(run, to)
    console.print(str(page), soft_wrap=True)
    screen = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if open_it and screen:
        webbrowser.open(page.resolve().as_uri())
    return 0


def check_data(spec: str, settings: DataSettings, to: Path | None) -> int:
    """Print the doctor's tables; write report.json and the contact sheet."""
    source = open_pictures(spec, settings, tell)
    with Counter("looking at pictures") as counter:
        report = inspect(source, settings, Path("runs") / ".cache", spec=spec, progress=lambda _, *done: counter(*done))
    console.print(report.tables())
    for path in report.write(to or Path("runs") / ".check" / source.name):
        console.print(f"  {path}", soft_wrap=True)
    return 0


def list_data() -> int:
    """Print the named sets."""
    rows = named.list_table()
    listing = Table(title="named sets", title_justify="left")
    for heading in rows[0]:
        listing.add_column(heading, no_wrap=heading == "name", overflow="fold")  # a name is typed: never cut it
    for row in rows:
        listing.add_row(*row.values())
    console.print(listing)
    return 0


def get_data(name: str, count: int | None, to: Path) -> int:
    """Write a named set out as files."""
    source = named.resolve(name, count=count)
    with Counter("writing pictures") as counter:
        written = named.export_set(source, to, count, counter)
    console.print(f"{written:,} pictures in {to} (licence: {source.licence or 'not stated'})", soft_wrap=True)
    return 0


def show_model(run: Path | None, network: str, size: str, channels: int, width: int | None, classes: int) -> int:
    """Print the layers of a run's networks, or of described ones."""
    if run is not None:
        generator = Generator.load(run)
        settings, shape = generator.config.network, generator.size
        channels, classes = generator.channels, len(generator.classes)
    else:
        try:
            shape = parse_size(size)
        except ValueError as error:
            raise SettingError(f"size = {size}: {error}") from None
        if not 0 <= classes <= MAX_CLASSES:
            raise SettingError(f"classes = {classes}: must be 0 (none) to {MAX_CLASSES:,}")
        if network not in FAMILIES:
            build(NetworkSettings(network=network), shape, channels)  # says what is known
        settings = NetworkSettings(
            network=network,
            width=width or width_for(shape, 10_000, "cpu"),
            patch=patch_for(shape, "cpu"),
            z_dim=FAMILIES[network].z_dim,
        )
    pair = build(settings, shape, channels, classes)
    labels = (torch.zeros(2, dtype=torch.int64),) if classes else ()
    console.print(table(summarise(pair.generator, torch.zeros(2, settings.z_dim or 0), *labels), title="generator"))
    images = torch.zeros(2, channels, *shape)
    console.print(table(summarise(pair.discriminator, images, *labels), title="discriminator"))
    return 0
