"""A run folder as training sees it: begin one, or go on with one; what must agree, what may change."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from pydantic import ValidationError

from ganvas import __version__
from ganvas.checkpoint import load_latest, read_json, save, write_json
from ganvas.config import GROUPS, RunConfig, describe
from ganvas.data.cache import Dataset
from ganvas.errors import CheckpointError, SettingError
from ganvas.networks.style import PATCH
from ganvas.training.monitor import Monitor
from ganvas.training.monitor import stored as stored_monitor
from ganvas.training.plan import Plan
from ganvas.training.players import Players, make_players

# What a later command may change about a run that has begun. The rest defines what is learned.
CHANGEABLE = {
    "data": {"workers"},
    "training": {
        "minutes",
        "images",
        "epochs",
        "device",
        "precision",
        "threads",
        "save_minutes",
        "metric",
        "interventions",
        "tensorboard",
    },
}
BEFORE: dict[str, dict[str, Any]] = {  # what settings that came later say of a run that began without them
    "network": {"patch": PATCH},
    "training": {"augment": 0.0, "clip": 0.0, "decay_images": 0, "optimiser": "adam", "turn_positions": False},
}
KEEP = 2  # checkpoints


def stored_config(folder: Path) -> RunConfig | None:
    """The configuration of the run in `folder`; None where no run has begun; CheckpointError if damaged."""
    path = folder / "config.json"
    if not path.exists():
        if folder.exists() and not _is_untouched(folder):
            raise SettingError(f"{folder}: is there already and is not a run folder; name another with --to")
        return None
    found: Any = read_json(path)
    if isinstance(found, dict):
        # Settings that came later: a run that began without them goes on without.
        for group, before in BEFORE.items():
            if isinstance(found.get(group), dict):
                found[group] = before | found[group]
    try:
        return RunConfig.model_validate(found)
    except ValidationError as error:
        raise CheckpointError(f"{path}: is not a run's configuration ({describe(error)}); restore it") from None


def _is_untouched(folder: Path) -> bool:
    """Whether `folder` holds at most what a start leaves that was killed before its config.json was there."""

    def is_ours(entry: Path) -> bool:
        begun = entry.name == "samples" and entry.is_dir() and not any(entry.iterdir())
        return begun or entry.name == ".lock" or entry.name.startswith(".tmp-")

    return folder.is_dir() and all(map(is_ours, folder.iterdir()))


def going_on(stored: RunConfig, given: dict[str, dict[str, Any]], folder: Path, preset: str = "default") -> RunConfig:
    """The stored configuration with what `given` may change; raises SettingError for what it may not.

    `given` holds what the user wrote, group by group; `preset` "default" counts as not written. A new budget replaces
    the old one.
    """
    if preset not in ("default", stored.preset):
        raise SettingError(
            f"preset = {preset}: {folder} was begun with {stored.preset}; leave it out to go on, "
            "or begin another run with --to"
        )
    update: dict[str, Any] = {}
    for group in GROUPS:
        settings = getattr(stored, group)
        for name, value in given.get(group, {}).items():
            before = getattr(settings, name)
            checked = getattr(type(settings).model_validate({name: value}), name)
            if checked == before or value is None:
                continue
            if name not in CHANGEABLE.get(group, ()):
                raise SettingError(
                    f"{name.replace('_', '-')} = {_word(checked)}: {folder} was begun with {_word(before)}; "
                    f"leave it out to go on, or begin another run with --to"
                )
            update.setdefault(group, {})[name] = checked
    budget = {name: given.get("training", {}).get(name) for name in ("minutes", "images", "epochs")}
    if any(value is not None for value in budget.values()):
        update.setdefault("training", {}).update(budget)
    groups = {group: getattr(stored, group).model_copy(update=changes) for group, changes in update.items()}
    return stored.model_copy(update=groups)


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return "none" if value is None else str(value)


class Moment(NamedTuple):
    """A point in a run."""

    seen_images: int = 0
    seconds: float = 0.0


@dataclass
class Position:
    """How far a run is; all that training remembers beside the players' tensors."""

    seen_images: int = 0
    seconds: float = 0.0  # of training, over all resumes
    drawn: Moment | None = None  # when the last sample grid was drawn
    notes: list[str] = field(default_factory=list)  # what a resume has to say
    monitor: Monitor = field(default_factory=Monitor)

    def moment(self) -> Moment:
        """This point, as something that stays."""
        return Moment(self.seen_images, self.seconds)


def resume(folder: Path, plan: Plan, dataset: Dataset, players: Players) -> Position:
    """Put the newest sound checkpoint into `players`; the start of a run where there is none.

    Raises CheckpointError when every checkpoint is damaged, and SettingError when the pictures are other ones.
    """
    found = load_latest(folder, expect=players.expected())
    if found is None:
        return Position(monitor=Monitor(bool(plan.config.training.interventions)))
    state: dict[str, Any] = found.state
    if state["data_digest"] != dataset.digest:
        raise SettingError(
            f"{dataset.name}: holds other pictures than {folder} was trained on; bring them back, "
            "or begin another run with --to"
        )
    check_config(state["config"], plan.config, folder)
    players.restore(found.tensors)
    position = Position(found.seen_images, float(state["seconds"]), Moment(*state["drawn"]) if state["drawn"] else None)
    position.monitor = stored_monitor(state, bool(plan.config.training.interventions), found.seen_images)
    position.notes += [f"passed over a damaged checkpoint: {line}" for line in found.skipped]
    now = fingerprint(plan)
    if state["machine"] != now:
        position.notes.append(f"not bit-exact: begun on {state['machine']}, going on with {now}")
    return position


def check_config(begun: dict[str, Any], config: RunConfig, folder: Path) -> None:
    """CheckpointError where config.json, which has no checksum, says other than the checkpoint, which has one."""
    for group in GROUPS:
        for name, value in getattr(config, group).model_dump(mode="json").items():
            before = begun[group].get(name, value)
            if before != value and name not in CHANGEABLE.get(group, ()):
                raise CheckpointError(
                    f"{folder / 'config.json'}: {name} = {_word(value)} where the checkpoint was trained with "
                    f"{_word(before)}; restore it"
                )


def fingerprint(plan: Plan) -> str:
    """What must agree for two runs to be equal bit by bit, in words."""
    machine = plan.machine
    return f"{machine.device}, {plan.config.training.precision}, {machine.threads} threads"


def begin(folder: Path, plan: Plan, dataset: Dataset) -> None:
    """Write config.json and manifest.json: what the run is, what its pictures are and whose."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", plan.config.model_dump(mode="json"))
    manifest: dict[str, Any] = {
        "format": "ganvas-run-1",
        "ganvas": __version__,
        "name": dataset.name,
        "pictures": {
            "source": plan.config.source,
            "licence": dataset.licence,
            "digest": dataset.digest,
            "train": len(dataset.train),
            "held_out": len(dataset.heldout),
            "classes": list(dataset.classes),
        },
        "cache": str(dataset.root),
        "why": plan.reasons,
    }
    write_json(folder / "manifest.json", manifest)


def save_run(folder: Path, plan: Plan, dataset: Dataset, players: Players, position: Position) -> Path:
    """Save everything that `resume` and `Generator.load` need, as one atomic checkpoint."""
    return save(folder, position.seen_images, players.tensors(), describe_run(plan, dataset, position), KEEP)


def describe_run(plan: Plan, dataset: Dataset, position: Position) -> dict[str, Any]:
    """What stands beside the tensors of a checkpoint."""
    return {
        "config": plan.config.model_dump(mode="json"),
        "size": list(dataset.images.shape[1:3]),
        "channels": plan.channels,
        "classes": list(plan.classes),
        "licence": dataset.licence,
        "data_digest": dataset.digest,
        "seconds": position.seconds,
        "drawn": list(position.drawn) if position.drawn else None,
        "machine": fingerprint(plan),
        "monitor": position.monitor.row(),
    }


def go_back(folder: Path, plan: Plan, dataset: Dataset, players: Players, position: Position, upto: int | None) -> None:
    """Put the last checkpoint of at most `upto` images (None: any) into `players`; new weights where there is none.

    It is saved again at once, with the monitor's new care: a run that is killed now goes on from there. Time stays
    spent.
    """
    found = None
    with suppress(CheckpointError):
        found = load_latest(folder, expect=players.expected(), upto=upto)
    if found is not None:
        players.restore(found.tensors)
    else:
        training = plan.config.training.model_copy(update={"seed": seed_after(position.monitor, plan)})
        fresh = plan.config.model_copy(update={"training": training})
        players.restore(make_players(fresh, plan.channels, len(plan.classes), plan.machine).tensors())
    position.seen_images = found.seen_images if found is not None else 0
    position.drawn = None
    save_run(folder, plan, dataset, players, position)


def seed_after(monitor: Monitor, plan: Plan) -> int:
    """The seed of what is drawn from now on: another one after each time the run went back."""
    return (plan.config.training.seed + monitor.care.roll_backs * 1_000_003) % 2**32


class Interruption:
    """Turns the first SIGINT or SIGTERM into a wish that the loop grants after its step; a second SIGINT is immediate.

    Outside the main thread, where signals cannot be caught, it does nothing.
    """

    signal: int | None = None

    def __enter__(self) -> Interruption:
        self._before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:
                break
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Stopwatch:
    """Seconds of training over all resumes."""

    def __init__(self, before: float) -> None:
        self._start = time.monotonic() - before

    def seconds(self) -> float:
        """Seconds since the run began, pauses between resumes left out."""
        return time.monotonic() - self._start
