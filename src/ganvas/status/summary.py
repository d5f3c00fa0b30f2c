"""The status of a run, put together from what its folder holds at one moment."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ganvas import __version__
from ganvas.config import RunConfig, describe
from ganvas.errors import CheckpointError, did_you_mean
from ganvas.files import one_line, read_json
from ganvas.status.figures import (
    budget_words,
    entries,
    health_of,
    how_far,
    limits,
    pictures_of,
    row_seconds,
    scores_of,
    seconds_left,
    settings_of,
    share_used,
    speed,
    text,
)
from ganvas.status.folder import Rows, Stored, best_generator, disk_bytes, newest_checkpoint, number, read_rows
from ganvas.status.model import Health, Process, Saved, State, Status
from ganvas.status.process import Holder, holder

TRIES = 3
SILENT_SECONDS = 300.0  # without a row, after which a live run is worth a look


def status(path: Path | str, *, now: float | None = None) -> Status:
    """The status of the run folder `path`, which may be live; `now` (seconds since 1970) is what ages count from.

    Nothing is written, locked or removed. Raises CheckpointError, one line, where `path` is no run folder.
    """
    path = Path(path)
    try:
        refuse(path)
        for _ in range(TRIES):
            before = holder(path)
            answer = look(path, before, time.time() if now is None else now)
            if holder(path) == before:  # else a trainer came or went in between
                break
        if not path.is_dir():
            raise CheckpointError(one_line(f"{path}: was removed while it was read; train one with ganvas train"))
    except OSError as error:
        raise CheckpointError(
            one_line(f"{path}: cannot be read ({error.strerror or error}); check its permissions")
        ) from None
    return answer


def runs_in(path: Path | str) -> list[Path]:
    """The run folder `path` itself, or the run folders right below it, by name.

    Raises CheckpointError, one line, where there is none.
    """
    path = Path(path)
    try:
        if path.is_dir() and not is_run(path):
            found = [each for each in sorted(path.iterdir()) if each.name[:1] != "." and each.is_dir() and is_run(each)]
            if found:
                return found
        refuse(path)
    except OSError as error:
        raise CheckpointError(
            one_line(f"{path}: cannot be read ({error.strerror or error}); check its permissions")
        ) from None
    return [path]


def is_run(path: Path) -> bool:
    """Whether training has begun in the folder `path`, or is about to."""
    if (path / "config.json").is_file() or (path / "checkpoints").is_dir():
        return True
    held = holder(path)
    return held is not None and held.alive is not False


def refuse(path: Path) -> None:
    """Raise CheckpointError where `path` is no run folder: what it is instead, and what to do."""
    if not path.exists():
        near = sorted(each.name for each in path.parent.iterdir() if each.is_dir()) if path.parent.is_dir() else []
        hint = did_you_mean(path.name, near)
        raise CheckpointError(one_line(f"{path}: there is no such run folder{hint}; train one with ganvas train"))
    step = "give the folder that ganvas train wrote, such as runs/photos"
    if not path.is_dir():
        raise CheckpointError(one_line(f"{path}: is a file, not a run folder; {step}"))
    if is_run(path):
        return
    if (path / "state.json").is_file():
        raise CheckpointError(one_line(f"{path}: is a generator without its training; {step}"))
    inner = next((each for each in sorted(path.iterdir()) if each.is_dir() and is_run(each)), None)
    if inner is not None:
        raise CheckpointError(one_line(f"{path}: holds run folders and is none; give one of them, such as {inner}"))
    empty = "is empty" if next(path.iterdir(), None) is None else "is not a run folder"
    raise CheckpointError(one_line(f"{path}: {empty}; {step}"))


def look(path: Path, held: Holder | None, now: float) -> Status:
    """Read everything once, and put it together. What training writes last is read first, so that the rest is there."""
    notes: list[str] = []
    live = held is not None and held.alive is not False
    best, spoilt = best_generator(path)
    stored, damaged = newest_checkpoint(path)
    rows = _rows(path, notes)
    manifest = _manifest(path, notes, is_begun=stored is not None or not live)
    config, unusable = _config(path)
    notes += [f"best/ cannot be used: {line}" for line in spoilt]
    about = stored.state if stored else {}
    config = config or entries(about.get("config"))

    pictures, health, version = pictures_of(config, manifest, about), health_of(rows, config, about), manifest["ganvas"]
    seen_images, seconds = how_far(rows, stored, live)
    limit, rate = limits(entries(config.get("training")), pictures.train), speed(rows)
    share = share_used(limit, seen_images, seconds)
    state, why = _state(live, share, stored, damaged, unusable, version, health, rows, bool(config))
    notes += _remarks(held, rows, stored, damaged, seen_images, now)
    last, top, direction = scores_of(rows, best)
    disk, is_complete = disk_bytes(path)
    return Status(
        run=str(path),
        name=one_line(path.resolve().name),
        state=state,
        why=one_line(why),
        process=Process(pid=held.pid, host=held.host, is_certain=held.alive is True) if live and held else None,
        version=version,
        pictures=pictures,
        settings=settings_of(config, about),
        seen_images=seen_images,
        seconds=seconds,
        budget=budget_words(entries(config.get("training"))),
        share=share,
        images_per_second=rate,
        seconds_left=seconds_left(limit, seen_images, seconds, rate) if live else None,
        saved=_saved(stored, now),
        last_score=last,
        best_score=top,
        trend=direction,
        health=health,
        disk_bytes=disk,
        is_disk_complete=is_complete,
        commands=_commands(path, state, config, pictures.source, stored, best, held if live else None),
        notes=[one_line(note) for note in notes],
    )


def _config(path: Path) -> tuple[dict[str, Any], str]:
    """The stored configuration as it stands there, and why this ganvas cannot use it ("" where it can)."""
    try:
        found = read_json(path / "config.json")
    except CheckpointError as error:
        return {}, str(error)
    try:
        RunConfig.model_validate(found)
    except ValidationError as error:
        return entries(found), f"{path / 'config.json'}: {describe(error)}"
    return entries(found), ""


def _manifest(path: Path, notes: list[str], is_begun: bool) -> dict[str, Any]:
    """The run's manifest; where it cannot be read an empty one, and a note unless the run only begins."""
    try:
        found = entries(read_json(path / "manifest.json"))
    except CheckpointError as error:
        if is_begun:
            notes.append(f"{error}; ganvas train writes it anew")
        found = {}
    return {**found, "ganvas": text(found.get("ganvas"))}


def _rows(path: Path, notes: list[str]) -> Rows:
    """The end of metrics.jsonl; where it cannot be read no rows, and a note."""
    try:
        return read_rows(path / "metrics.jsonl")
    except CheckpointError as error:
        notes.append(str(error))
        return Rows([], [], [], 0, None)


def _state(
    live: bool,
    share: float | None,
    stored: Stored | None,
    damaged: list[str],
    unusable: str,
    version: str | None,
    health: Health,
    rows: Rows,
    has_config: bool,
) -> tuple[State, str]:
    """The state, and its reason where there is one."""
    if live:
        return "training", ""
    if unusable and has_config and version not in (None, __version__):
        return "other version", f"{unusable}; ganvas {version} wrote it, and this is {__version__}"
    if unusable:
        copy = f"; {stored.path / 'state.json'} holds a copy of it under config" if stored else ""
        return "damaged", f"{unusable}{copy}"
    if damaged and stored is None:
        return "damaged", f"no checkpoint can be used, the newest because {damaged[0]}"
    if stored is not None and share is not None and share >= 1.0:
        return "finished", ""
    final = health.interventions[-1] if health.interventions else None
    went_on = final is not None and rows.ticks and rows.ticks[-1]["seconds"] > final.seconds
    if final is not None and final.action == "stop" and not went_on:
        reason = f"{final.state}: {final.why}"
        return "finished" if final.state == "finished improving" else "stopped", reason
    return "stopped", ""


def _remarks(
    held: Holder | None, rows: Rows, stored: Stored | None, damaged: list[str], seen_images: int, now: float
) -> list[str]:
    """What is worth knowing beside the state."""
    notes = []
    if damaged and stored is not None:
        notes.append(f"the newest checkpoint cannot be used ({damaged[0]}); the one before it can")
    if held is None or held.alive is False:
        if held is not None:
            notes.append(f"its process ({held.pid}) died without saving what came after the newest checkpoint")
        lost = max((row["seen_images"] for row in rows.ticks), default=0) - seen_images
        if lost > 0:
            notes.append(f"{lost:,} images after the newest checkpoint will be trained again")
        return notes
    if rows.ticks and rows.written is not None:
        silent = now - max(rows.written, held.since)
        if silent > max(SILENT_SECONDS, 20 * row_seconds(rows)):
            notes.append(
                f"nothing was written for {silent / 60:.0f} minutes: is its process suspended, or the disk full?"
            )
    return notes


def _saved(stored: Stored | None, now: float) -> Saved | None:
    if stored is None:
        return None
    age = max(0.0, now - stored.written)  # a clock that was set back makes no checkpoint of the future
    seconds = number(stored.state.get("seconds")) or 0.0
    return Saved(path=str(stored.path), seen_images=stored.seen_images, seconds=seconds, age_seconds=age)


def _commands(
    path: Path,
    state: State,
    config: dict[str, Any],
    source: str | None,
    stored: Stored | None,
    best: Stored | None,
    held: Holder | None,
) -> dict[str, str]:
    """What can be done next, each with its line."""
    lines: dict[str, str] = {}
    again = ["ganvas", "train", source or "PICTURES", "--to", str(path)]
    if held is not None and held.alive and sys.platform != "win32":
        lines["stop and save"] = f"kill {held.pid}"
    if state == "stopped":
        lines["go on"] = shlex.join(again)
    if state == "finished":
        lines["go on"] = shlex.join([*again, *_larger(entries(config.get("training")))])
    if stored is not None and state != "other version":
        lines["generate"] = shlex.join(["ganvas", "generate", str(path), "--seeds", "0-63", "--grid"])
        if best is not None and best.seen_images != stored.seen_images:
            lines["generate the best"] = shlex.join(
                ["ganvas", "generate", str(path / "best"), "--seeds", "0-63", "--grid"]
            )
        lines["evaluate"] = shlex.join(["ganvas", "evaluate", str(path)])
        lines["look"] = shlex.join(["ganvas", "gallery", str(path), "--open"])
    return lines


def _larger(training: dict[str, Any]) -> list[str]:
    """Twice the budget, as options."""
    budgets = {name: number(training.get(name)) for name in ("minutes", "images", "epochs")}
    return [word for name, value in budgets.items() if value for word in (f"--{name}", f"{2 * value:.10g}")]
