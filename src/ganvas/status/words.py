"""A status as a person reads it: one run in full, several as a table with a row each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ganvas.errors import CheckpointError
from ganvas.files import one_line
from ganvas.status.model import Health, Score, Status
from ganvas.status.summary import runs_in, status

SHOWN = 10  # interventions
TREND = {"better": "getting better", "level": "level", "worse": "getting worse"}
STYLES = {"training": "green", "damaged": "red", "other version": "yellow"}


class Output(Console):
    """The terminal, or the file or pipe in its place."""

    def on_broken_pipe(self) -> None:
        """Leave it to the command line, which knows the exit code; rich would exit with 1."""
        raise BrokenPipeError


def show(paths: Sequence[Path], as_json: bool = False) -> int:
    """Print the status of each run, or of those in a folder of runs: in full for one, as a table for several.

    As JSON: an object for one run folder, a list otherwise. Raises CheckpointError, one line, for what is no run.
    """
    found: list[Status] = []
    alone = len(paths) == 1
    for path in map(Path, paths):
        runs = runs_in(path)
        alone = alone and runs == [path]
        for run in runs:
            try:
                found.append(status(run))
            except CheckpointError:
                if run == path:  # asked for by name; of those in a folder one may be removed meanwhile
                    raise
    if as_json:
        every = [each.model_dump(mode="json") for each in found]
        print(json.dumps(every[0] if alone else every, indent=1), flush=True)  # a broken pipe is met here, not at exit
        return 0
    output = Output(highlight=False)
    output.print(status_lines(found[0]) if alone else status_table(found))
    return 0


def status_lines(found: Status) -> Table:
    """One run in full: a line for each thing worth knowing."""
    table = Table(title=Text(found.run), show_header=False, title_justify="left", box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")

    def add(name: str, words: str, style: str = "") -> None:
        if words:
            table.add_row(name, Text(words, style=style))

    add("state", state_words(found), STYLES.get(found.state, ""))
    add("pictures", pictures_words(found))
    add("learns", settings_words(found))
    add("so far", progress_words(found))
    add("speed", speed_words(found))
    add("saved", saved_words(found))
    add("score", score_words(found))
    add("health", health_words(found.health))
    for each in found.health.interventions[-SHOWN:]:
        add("", f"at {each.seen_images:,} images, {each.state}: {each.action} ({each.why})")
    add("on disk", disk_words(found))
    for note in found.notes:
        add("note", note, "yellow")
    for what, line in found.commands.items():
        add(what, line)
    return table


def status_table(found: Sequence[Status]) -> Table:
    """Several runs, a row each."""
    table = Table()
    for heading in ("run", "state", "images", "done", "left", "score", "best", "health", "on disk"):
        table.add_column(heading, overflow="fold", justify="left" if heading in ("run", "state", "health") else "right")
    for each in found:
        last, best = each.last_score, each.best_score
        words = f"{each.state} ({each.process.pid})" if each.process else each.state
        table.add_row(
            Text(each.name),
            Text(words, style=STYLES.get(each.state, "")),
            Text(f"{each.seen_images:,}"),
            Text("" if each.share is None else f"{each.share:.0%}"),
            Text("" if each.seconds_left is None else duration(each.seconds_left)),
            Text("" if last is None else f"{last.value:.4g}"),
            Text("" if best is None else f"{best.value:.4g}"),
            Text(each.health.state),
            Text(size(sum(each.disk_bytes.values()))),
        )
    return table


def state_words(found: Status) -> str:
    """`training now (process 71)`, `finished`, `stopped`, `damaged: why`."""
    why = f": {found.why}" if found.why else ""
    if found.process is None:
        return f"{found.state}{why}"
    process = found.process
    if process.is_certain:
        return f"training now (process {process.pid})"
    return f"training, as far as can be told from here (process {process.pid} on {process.host})"


def pictures_words(found: Status) -> str:
    """Whence, how many, whose."""
    pictures = found.pictures
    words = [pictures.source or "unknown"]
    if pictures.train is not None:
        words.append(f"{pictures.train:,} to train on, {pictures.held_out or 0:,} held out")
    if pictures.classes:
        words.append(f"{pictures.classes:,} classes")
    words.append(f"licence: {pictures.licence or 'not stated'}")
    return "; ".join(words)


def settings_words(found: Status) -> str:
    """Network, size, objective."""
    known = found.settings
    if "network" not in known:
        return ""
    network = f"{known['network']}, width {known['width']}" if "width" in known else str(known["network"])
    channels = {1: ", grey", 3: ", colour"}.get(int(known.get("channels", 0)), "")
    words = [network, f"{known.get('size', '?')}{channels}", f"{known.get('objective', '?')}"]
    words.append(
        f"penalty {known.get('penalty', '?')}" + (f" with gamma {known['gamma']:g}" if "gamma" in known else "")
    )
    return "; ".join(words)


def progress_words(found: Status) -> str:
    """Images, minutes, share of the budget."""
    budget = f"; {found.share:.0%} of {found.budget}" if found.share is not None else ""
    return f"{found.seen_images:,} images seen in {duration(found.seconds)}{budget}"


def speed_words(found: Status) -> str:
    """Images a second, and the time left."""
    words = [] if found.images_per_second is None else [f"{found.images_per_second:.3g} images/s lately"]
    words += [] if found.seconds_left is None else [f"{duration(found.seconds_left)} left"]
    return ", ".join(words)


def saved_words(found: Status) -> str:
    """The newest checkpoint and its age."""
    if found.saved is None:
        return "nothing yet" if found.process else "nothing: training begins anew"
    return f"at {found.saved.seen_images:,} images, {duration(found.saved.age_seconds)} ago"


def score_words(found: Status) -> str:
    """The last score, the best, the trend."""

    def one(score: Score) -> str:
        return f"{score.value:.4g} at {score.seen_images:,} images"

    shown = found.last_score or found.best_score
    if shown is None:
        return "not taken"
    words = [f"{shown.metric}, lower is better"]
    words += [f"last {one(found.last_score)}"] if found.last_score else []
    words += [f"best {one(found.best_score)}"] if found.best_score else []
    words += [TREND[found.trend]] if found.trend else []
    return "; ".join(words)


def health_words(health: Health) -> str:
    """The state, its reason, and what was done in all."""
    if health.seen_images is None:
        return health.state
    words = [f"{health.state} at {health.seen_images:,} images" + (f" ({health.why})" if health.why else "")]
    if not health.treats:
        words.append("only watched")
    since = f" since {health.from_images:,} images" if health.from_images else ""
    count = len(health.interventions)
    words.append(f"{count or 'no'} intervention{'' if count == 1 else 's'}{since}")
    words += [f"{name.replace('_', ' ')} {value:g}" for name, value in health.treatment.items()]
    return "; ".join(words)


def disk_words(found: Status) -> str:
    """The whole, and the largest parts."""
    parts = sorted(found.disk_bytes.items(), key=lambda part: -part[1])
    named = [f"{one_line(name)} {size(count)}" for name, count in parts[:3] if name != "."]
    most = "" if found.is_disk_complete else "at least "
    return f"{most}{size(sum(found.disk_bytes.values()))}" + (f": {', '.join(named)}" if named else "")


def duration(seconds: float) -> str:
    """`"40 s"`, `"12 min"`, `"3 h 05 min"`, `"4 days"`."""
    minutes = int(seconds // 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02d} min" if hours < 72 else f"{hours // 24} days"


def size(count: float) -> str:
    """Bytes in the largest unit that leaves a whole number: `"512 B"`, `"48 MB"`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
