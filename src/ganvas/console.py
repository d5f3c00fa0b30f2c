"""What a person sees in the terminal while ganvas works."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ganvas.training.loop import Watcher
from ganvas.training.plan import describe_budget

if TYPE_CHECKING:
    from ganvas.data.cache import Dataset
    from ganvas.training.log import Tick
    from ganvas.training.monitor import Care, Finding
    from ganvas.training.plan import Cost, Plan
    from ganvas.training.run import Position


class Output(Console):
    """The terminal, or the file or pipe in its place."""

    def on_broken_pipe(self) -> None:
        """Leave it to the command line, which knows the exit code; rich would exit with 1."""
        raise BrokenPipeError


console = Output(highlight=False)
FEW = 100  # pictures; with fewer a generator can only repeat them


class Counter:
    """A bar of things done: a context manager and a callback `(done, total)`, gone when it is over."""

    def __init__(self, what: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._what = what
        self._task: TaskID | None = None

    def __enter__(self) -> Counter:
        if console.is_interactive:
            self._progress.start()
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task(self._what, total=total)
        self._progress.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if console.is_interactive:  # elsewhere rich would print an empty line
            self._progress.stop()


class Stages:
    """A bar for work in several stages: a context manager and a callback `(stage, done, total)`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._stage = ""
        self._bar: Counter | None = None

    def __enter__(self) -> Stages:
        return self

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self.__exit__()
            self._stage, self._bar = stage, Counter(f"{self._what}: {stage}").__enter__()
        if self._bar is not None:
            self._bar(done, total)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__()
            self._bar = None


class Eta(ProgressColumn):
    """Time left by the share of the budget used."""

    def render(self, task: object) -> Text:
        seconds = getattr(task, "fields", {}).get("left")
        if seconds is None:
            return Text("--:-- left")
        return Text(f"{int(seconds) // 60}:{int(seconds) % 60:02d} left")


class Bar(Progress):
    """A progress bar with a line of text under it, cut to the width of the terminal."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below:
            yield Text(self.below, style="dim", no_wrap=True, overflow="ellipsis")


class TrainingLine(Watcher):
    """The progress line of `ganvas train`; where the output is no terminal, a plain line every half minute instead."""

    PLAIN_SECONDS = 30.0

    def __init__(self) -> None:
        self._decoding: Counter | None = None
        self._line = Bar(
            TextColumn("training"),
            BarColumn(bar_width=20),  # the whole line is to fit 100 columns
            TaskProgressColumn(),
            Eta(),
            TextColumn("{task.fields[words]}"),
            console=console,
            refresh_per_second=2,  # drawing takes time from training
        )
        self._task: TaskID | None = None
        self._grid = ""
        self._score, self._state = "", "healthy"
        self._spoken = 0.0
        self.began = 0  # images seen before this session
        self.budget = ""

    def __enter__(self) -> TrainingLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_decoding()
        if self._task is not None:
            self._line.below = ""
            self._line.stop()

    def preparing(self, done: int, total: int) -> None:
        if self._decoding is None:
            self._decoding = Counter("preparing pictures").__enter__()
        self._decoding(done, total)

    def prepared(self, plan: Plan, dataset: Dataset, position: Position) -> None:
        self._end_decoding()
        report = dataset.report
        console.print(
            f"{dataset.name}: {report['accepted'] + report['warned']:,} pictures"
            + (f", {report['set_aside']:,} set aside" if report["set_aside"] else "")
            + f"; {plan.pictures:,} to train on, {len(dataset.heldout):,} held out"
        )
        if plan.pictures < FEW:
            few = f"fewer than {FEW} pictures: expect your own back, nearly unchanged; ganvas data check says more"
            console.print(few, style="yellow", soft_wrap=True)
        for note in position.notes:
            console.print(note, style="yellow", soft_wrap=True)
        if position.seen_images:
            console.print(f"going on at {position.seen_images:,} images")
        config = plan.config
        self.began, self.budget = position.seen_images, describe_budget(config)
        size = "x".join(map(str, config.data.size or ()))
        what = f"training {config.network.network} at {size} for {self.budget}"
        console.print(f"{what}; Ctrl-C saves, and the same line goes on", soft_wrap=True)
        if console.is_interactive:
            self._task = self._line.add_task("", total=1.0, words="", left=None)
            self._line.start()

    def tick(self, tick: Tick) -> None:
        left = tick.seconds * (1 - tick.progress) / tick.progress if tick.progress > 0 else None
        words = (
            f"{tick.seen_images:,} images  {tick.images_per_second:.0f}/s  "
            f"D {tick.discriminator_loss:.2f}  G {tick.generator_loss:.2f}{self._score}"
        )
        if self._task is not None:
            self._line.update(self._task, completed=tick.progress, words=words, left=left)
        elif tick.seconds - self._spoken >= self.PLAIN_SECONDS:
            self._spoken = tick.seconds
            console.print(f"{tick.progress:4.0%}  {words}  {self._grid}", soft_wrap=True)

    def picture(self, path: Path) -> None:
        self._grid = str(path)
        self._line.below = f"newest images: {path}"

    def scored(self, metric: str, value: float, is_best: bool) -> None:
        self._score = f"  FD {value:.0f}{' best' if is_best else ''}"

    def finding(self, finding: Finding, care: Care) -> None:
        if finding.action is not None:
            console.print(
                f"{finding.state}: {finding.why}; {what_was_done(finding, care)}", style="yellow", soft_wrap=True
            )
            self._state = ""
        elif finding.state != self._state:
            self._state = finding.state
            if finding.state != "healthy":
                console.print(f"{finding.state}: {finding.why}", style="yellow", soft_wrap=True)

    def note(self, line: str) -> None:
        console.print(line, style="yellow", soft_wrap=True)

    def _end_decoding(self) -> None:
        if self._decoding is not None:
            self._decoding.__exit__()
            self._decoding = None


def what_was_done(finding: Finding, care: Care) -> str:
    """The monitor's action in plain words."""
    factors = (("penalty", care.penalty), ("rate", care.rate), ("discriminator's rate", care.critic_rate))
    changes = [f"{value:.3g} times the {name}" for name, value in factors if value != 1.0]
    words = {
        "more penalty": f"the penalty is {care.penalty:g} times what it was at first",
        "slower critic": f"the discriminator learns at {care.critic_rate:g} times its rate",
        "more augmentation": f"its pictures are changed by {care.augmentation:g} more often than the plan says",
        "less augmentation": f"its pictures are changed by {care.augmentation:g} more often than the plan says",
        "roll back": f"went back to before, with {' and '.join(changes) or 'other latents'}",
        "stop": "stopped",
    }
    return words[finding.action or "stop"]


def plan_table(plan: Plan, cost: Cost, budget: str, minutes: float | None, images: int | None) -> Table:
    """What `ganvas train --dry-run` prints: each decision with its reason, the cost, and what the budget buys."""
    table = Table(title=f"plan for {plan.config.source}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    config = plan.config
    assert config.data.size is not None
    height, width = config.data.size
    table.add_row("pictures", f"{plan.pictures:,} to train on, as {height}x{width}x{plan.channels}")
    table.add_row("network", f"{config.network.network}, width {config.network.width}")
    gamma = "" if config.objective.gamma is None else f", gamma {config.objective.gamma:g}"
    every = config.objective.penalty_every
    table.add_row(
        "objective", f"{config.objective.objective}, penalty {config.objective.penalty}{gamma} every {every} steps"
    )
    for name, reason in plan.reasons.items():
        table.add_row(name.replace("_", "-"), reason)
    table.add_row("generator", f"{cost.generator_gflop:.3f} GFLOP an image")
    table.add_row("discriminator", f"{cost.discriminator_gflop:.3f} GFLOP an image")
    table.add_row(
        "training", f"{cost.training_gflop:.2f} GFLOP an image, {cost.images_per_second:.0f} images/s in a short trial"
    )
    expected = [cost.images_per_second * minutes * 60] if minutes else []
    expected += [float(images)] if images else []
    count = min(expected)
    table.add_row("budget", budget)
    table.add_row(
        "expected",
        f"about {float(f'{count:.2g}'):,.0f} images seen, {count / plan.pictures:.1f} epochs, "
        f"{count / cost.images_per_second / 60:.1f} minutes",
    )
    return table
