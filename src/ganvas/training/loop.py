"""Training, from a folder of pictures to a run folder, top to bottom in the order in which it happens."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganvas.checkpoint import clean, lock
from ganvas.config import DataSettings, RunConfig, group_settings, make_config
from ganvas.data.cache import Dataset, prepare
from ganvas.data.source import Source
from ganvas.errors import DataError, TrainingError
from ganvas.latents import latents
from ganvas.named import resolve
from ganvas.networks import FAMILIES
from ganvas.runtime import choose_machine
from ganvas.training import samples
from ganvas.training.augment import MOST
from ganvas.training.crew import ALONE, OVER, WEIGHTS, Crew, joined
from ganvas.training.game import Game, Turn
from ganvas.training.log import Log, Tick
from ganvas.training.memory import fit
from ganvas.training.monitor import CHECK_IMAGES, Care, Finding
from ganvas.training.plan import Plan, default_interval, derive, images_budget
from ganvas.training.players import Players, make_players
from ganvas.training.run import (
    Interruption,
    Moment,
    Position,
    Stopwatch,
    begin,
    describe_run,
    go_back,
    going_on,
    resume,
    save_run,
    seed_after,
    stored_config,
)
from ganvas.training.scoring import Metric, Scorer
from ganvas.training.step import Losses
from ganvas.training.team import Team
from ganvas.training.vitals import IMAGES, CheckUp, Vitals

LOG_STEPS = 25  # steps from one row of metrics to the next; on a GPU ten times as many, which take less time
GPU_CHECK_STEPS = 150  # from one check-up to the next, at least: as many as between two with 16 images a step
SAVED_PART = 0.2  # of a budget in minutes: so much at most lies between two checkpoints


class Watcher:
    """What training tells whoever looks on; override what you want to hear. Nothing here may slow the loop."""

    def preparing(self, done: int, total: int) -> None:
        """`done` of `total` pictures are decoded."""

    def prepared(self, plan: Plan, dataset: Dataset, position: Position) -> None:
        """Training is about to start, or to go on."""

    def tick(self, tick: Tick) -> None:
        """Some steps later."""

    def picture(self, path: Path) -> None:
        """A sample grid was drawn."""

    def scored(self, metric: str, value: float, is_best: bool) -> None:
        """The averaged generator was scored; `is_best`: it is kept in best/."""

    def finding(self, finding: Finding, care: Care) -> None:
        """The monitor judged the run; `care` is the treatment it is under from now on."""

    def saved(self, path: Path) -> None:
        """A checkpoint was written."""

    def note(self, line: str) -> None:
        """Something that a person should know, though training goes on."""


@dataclass(frozen=True)
class Run:
    """How a training session ended. `signal` is the one that interrupted it, or None when the budget was used."""

    folder: Path
    seen_images: int
    seconds: float
    signal: int | None = None
    film: Path | None = None


def train(
    source: str | Path | Source,
    to: str | Path | None = None,
    *,
    preset: str = "default",
    watcher: Watcher | None = None,
    scored_by: Callable[[RunConfig], Metric | None] = lambda config: None,
    **settings: Any,
) -> Run:
    """Train a generator on pictures, or go on where an earlier call stopped.

    `source`: a folder, a zip, an fsspec address of either, or a Source. `to`: the run folder, by default
    runs/<name of the source>. `scored_by`: makes the metric to take while training out of the configuration, or None;
    `ganvas.train` brings the usual one. `settings`: any field of the groups in `ganvas.config`, such as
    `minutes=10, size=64`.
    Raises GanvasError, one line, before any training when something is wrong with them.
    """
    given = group_settings(settings)
    asked = make_config(str(source), preset, **given)
    pictures, folder = find(source, to, asked, given)
    return train_on(pictures, folder, asked, given, watcher or Watcher(), scored_by)


def find(
    source: str | Path | Source,
    to: str | Path | None,
    asked: RunConfig,
    given: dict[str, dict[str, Any]],
    notice: Callable[[str], None] = warnings.warn,
) -> tuple[Source, Path]:
    """The pictures and the run folder: `to`, or runs/<name of the source>.

    A run that goes on opens its pictures as it did at first, whatever of that is not repeated now.
    """
    pictures = open_pictures(source, asked.data, notice)
    folder = Path(to) if to else Path("runs") / pictures.name
    stored = stored_config(folder)
    if stored is not None:
        pictures = open_pictures(source, going_on(stored, given, folder).data, notice)
    return pictures, folder


def open_pictures(
    source: str | Path | Source, settings: DataSettings, notice: Callable[[str], None] = warnings.warn
) -> Source:
    """The source of pictures that a person named, as `settings` want it; one that is open already stays as it is."""
    if isinstance(source, Source):
        return source
    side = max(settings.size) if settings.size else 64
    return resolve(source, classes=settings.classes, count=settings.count, side=side, notice=notice)


def train_on(
    source: Source,
    folder: Path,
    asked: RunConfig,
    given: dict[str, dict[str, Any]],
    watcher: Watcher,
    scored_by: Callable[[RunConfig], Metric | None] = lambda config: None,
) -> Run:
    """Train into the run `folder`; `asked` is the configuration for a new run, `given` what the user wrote of it."""
    with joined() as crew:
        if crew.rank:
            return follow(source, folder, crew)
        stored = stored_config(folder)
        config = asked if stored is None else going_on(stored, given, folder, asked.preset)
        metric = scored_by(config)  # first: it says what is wrong with its name
        plan, dataset = make_plan(source, folder, config, watcher, crew)
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder):
            clean(folder)
            return play_on(folder, plan, dataset, watcher, metric, crew)


def make_plan(
    source: Source, folder: Path, config: RunConfig, watcher: Watcher, crew: Crew = ALONE
) -> tuple[Plan, Dataset]:
    """Prepare the pictures, look at the machine, settle every setting. Prepared pictures are cached beside the run."""
    settings = config.training
    machine = choose_machine(settings.device, settings.precision, settings.threads)
    dataset = prepare(source, config.data, folder.parent / ".cache", progress=watcher.preparing)
    plan = derive(config, dataset, machine, crew.size)
    may_cut = config.training.shares is None and FAMILIES[config.network.network].divisible
    return fit(plan, may_cut, crew.size), dataset


def play_on(
    folder: Path, plan: Plan, dataset: Dataset, watcher: Watcher, metric: Metric | None = None, crew: Crew = ALONE
) -> Run:
    """The loop. Everything random in a step follows from the seed and the images seen, so a resume is exact."""
    config, machine, settings = plan.config, plan.machine, plan.config.training
    rate, every, anneal, growth = settings.learning_rate, config.objective.penalty_every, settings.anneal, plan.growth
    assert rate is not None and every is not None and anneal is not None and config.network.z_dim is not None

    players = make_players(config, plan.channels, len(plan.classes), machine)
    position = resume(folder, plan, dataset, players)
    begin(folder, plan, dataset)
    crew.say(json.dumps({"config": config.model_dump(mode="json"), "pictures": dataset.digest}).encode())
    share_out(players, crew)
    limit = images_budget(config, len(dataset.train))
    pause = 60 * min(settings.save_minutes, SAVED_PART * (settings.minutes or math.inf))

    samples.drop_after(folder, position.seen_images)
    log = Log(folder, position.seen_images, settings.tensorboard)
    watcher.prepared(plan, dataset, position)
    stopwatch = Stopwatch(position.seconds)
    last_saved = last_logged = position.moment()
    losses: Losses | None = None
    monitor = position.monitor

    def sample(seeds: Sequence[int]) -> np.ndarray:
        return samples.draw(players.average, config, len(plan.classes), seeds)

    def carry_out(finding: Finding, vitals: Vitals | None) -> None:
        """Go back where the monitor says so; raise TrainingError where nothing helps."""
        watcher.finding(finding, monitor.care)
        if finding.action == "roll back":
            go_back(folder, plan, dataset, players, position, finding.upto)
            share_out(players, crew)
            log.go_back(position.seen_images)
            samples.drop_after(folder, position.seen_images)
        log.finding(position.seen_images, position.seconds, finding, vitals)
        if finding.action == "stop" and finding.state != "finished improving":  # the weights are not worth saving
            log.close()
            raise TrainingError(
                f"{finding.why}; the last checkpoint is whole: train a new run with a lower --learning-rate "
                "or a higher --gamma"
            )

    with Interruption() as interruption, Team(settings.shares or 1, machine.threads, crew, plan.at_once) as team:
        game = Game(plan, dataset, players, team)
        progress = budget_used(position.moment(), settings.minutes, limit)
        scorer = Scorer(metric, folder, dataset, sample, team.resting, watcher.note, progress)
        count = min(IMAGES, len(dataset.train))
        look = torch.from_numpy(latents(range(count), config.network.z_dim, game.prior)).to(machine.device)
        check_up = CheckUp(dataset, look, len(plan.classes))
        check_images, log_steps = CHECK_IMAGES, LOG_STEPS
        if machine.device == "cuda":
            check_images, log_steps = max(GPU_CHECK_STEPS * growth.last, check_images), 10 * LOG_STEPS
        while True:
            position.seconds = stopwatch.seconds()
            progress = budget_used(position.moment(), settings.minutes, limit)

            # Pictures first: a person wants to see something before anything else.
            drawn = budget_used(position.drawn, settings.minutes, limit) if position.drawn else None
            if samples.is_due(progress, drawn, settings.frames):
                position.drawn = position.moment()
                path = samples.write_grid(folder, players.average, config, len(plan.classes), position.seen_images)
                log.picture(path, position.seen_images)
                watcher.picture(path)

            # Measure, now and then.
            finding, vitals = None, None
            if interruption.signal is None and scorer.is_due(progress) and (score := scorer.score()) is not None:
                log.score(position.seen_images, position.seconds, scorer.name, score)
                about = describe_run(plan, dataset, position)
                is_best = scorer.keep_if_best(score, players.average, position.seen_images, about)
                watcher.scored(scorer.name, score, is_best)
                finding = monitor.after_score(score, progress)
            if finding is not None:
                carry_out(finding, None)
            if progress >= 1.0 or interruption.signal is not None or (finding and finding.action == "stop"):
                break

            # One step. The learning rate is constant, falls slowly, and then to zero as the budget runs out.
            falling = annealed(progress, anneal) * decayed(position.seen_images, settings.decay_images or 0)
            step, batch = growth.steps(position.seen_images), growth.batch(position.seen_images)
            turn = Turn(
                position.seen_images,
                batch,
                seed=(seed_after(monitor, plan) << 31) ^ position.seen_images,
                rate=rate * growth.pace(batch) * falling * monitor.care.rate,
                critic_rate=monitor.care.critic_rate,
                penalty=penalty_weight(config.objective.penalty, every, step, monitor.care.penalty),
                augmentation=min(MOST, (settings.augment or 0.0) + monitor.care.augmentation),
            )
            crew.say(turn.message())
            before, losses = losses, game.step(turn)
            position.seen_images += turn.batch

            # Look after it: judge how it is, and save it while it is sound.
            # A GPU is still at it: by the time that the next step is on its way, it has judged this one.
            finding = monitor.after_step(before is None or bool(before.finite.all()))
            if finding is None and position.seen_images // check_images > turn.seen_images // check_images:
                with team.resting():
                    vitals = check_up.take(players.generator, players.discriminator, position.seen_images)
                finding = monitor.after_check_up(vitals)
            due = position.seconds - last_saved.seconds > pause
            if due and losses.finite.all() and not monitor.doubts:
                last_saved = position.moment()
                try:
                    watcher.saved(save_run(folder, plan, dataset, players, position))
                except TrainingError as error:  # weights that are not finite are never saved
                    finding = monitor.broken(str(error))

            # Tell, and carry out what the monitor asks for.
            if (step + 1) % log_steps == 0 and losses.finite.all():
                tick = make_tick(position, last_logged, progress, turn.rate, losses)
                last_logged = position.moment()
                log.write(tick)
                watcher.tick(tick)
            if finding is not None:
                carry_out(finding, vitals)
                last_logged = min(last_logged, position.moment())  # it may have gone back
                if finding.action == "stop":
                    break

    if losses is not None:
        watcher.saved(save_run(folder, plan, dataset, players, position))
    log.close()
    film = samples.make_film(folder)
    return Run(folder, position.seen_images, position.seconds, interruption.signal, film)


def share_out(players: Players, crew: Crew) -> None:
    """Give the other processes of the run what the first one holds: weights, averages, moments."""
    crew.say(WEIGHTS)
    crew.spread(players.everything())


def follow(source: Source, folder: Path, crew: Crew) -> Run:
    """Be one of the other processes of a run: play the turns that the first one says, write and print nothing."""
    seen_images = 0
    with Interruption():  # the first process decides what a signal means for all
        if (message := crew.hear()) == OVER:
            return Run(folder, 0, 0.0)
        told = json.loads(message)
        plan, dataset = make_plan(source, folder, RunConfig.model_validate(told["config"]), Watcher(), crew)
        if dataset.digest != told["pictures"]:
            raise DataError(f"{dataset.name}: holds other pictures here than for process 0; bring the same ones here")
        players = make_players(plan.config, plan.channels, len(plan.classes), plan.machine)
        with Team(plan.config.training.shares or 1, plan.machine.threads, crew, plan.at_once) as team:
            game = Game(plan, dataset, players, team)
            while (message := crew.hear()) != OVER:
                if message == WEIGHTS:
                    crew.spread(players.everything())
                    players.refresh()
                else:
                    turn = Turn.read(message)
                    game.step(turn)
                    seen_images = turn.seen_images + turn.batch
    return Run(folder, seen_images, 0.0)


def budget_used(moment: Moment, minutes: float | None, images: int | None) -> float:
    """Share of the budget used up, 0 to 1 and beyond: of the time or of the images, whichever is further."""
    by_time = moment.seconds / (minutes * 60) if minutes else 0.0
    by_images = moment.seen_images / images if images else 0.0
    return max(by_time, by_images)


def decayed(seen_images: int, constant_images: int) -> float:
    """Factor of the learning rate: 1, then 1/√(images / constant images) after those; 0 of them: always 1.

    As in Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models" (EDM2): a rate
    that suits the first steps is too high for late ones, whatever the budget.
    """
    return math.sqrt(constant_images / max(constant_images, seen_images)) if constant_images else 1.0


def annealed(progress: float, last: float) -> float:
    """Factor of the learning rate: 1, then linearly to 0 over the `last` part of the budget."""
    return min(1.0, max(0.0, 1.0 - progress) / last) if last > 0 else 1.0


def penalty_weight(kind: str, every: int, step: int, factor: float) -> float:
    """What a step's penalty weighs; 0: it goes without. `factor` is the monitor's: 1 as asked, 2 twice that.

    A run without a penalty has none until the monitor asks for more: then R1 at its defaults, at first once.
    """
    if kind == "none":
        every, factor = default_interval("r1"), 0.0 if factor == 1.0 else factor / 2
    return every * factor if step % every == 0 else 0.0


def make_tick(now: Position, before: Moment, progress: float, rate: float, losses: Losses) -> Tick:
    """Read the losses off the device."""
    discriminator, generator, smoothness, real, fake = (float(value) for value in losses[:5])
    return Tick(
        seen_images=now.seen_images,
        seconds=now.seconds,
        images_per_second=(now.seen_images - before.seen_images) / max(now.seconds - before.seconds, 1e-9),
        progress=min(1.0, progress),
        learning_rate=rate,
        discriminator_loss=discriminator,
        generator_loss=generator,
        penalty=smoothness,
        real_logit=real,
        fake_logit=fake,
    )
