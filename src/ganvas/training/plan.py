"""What a run is going to do, decided before its first step: every derived setting with its reason, and the cost.

Nothing is guessed later. What is decided here is stored as the run's configuration, and a resume reads it from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ganvas.config import BUDGETS, DEFAULT_MINUTES, DataSettings, RunConfig, Settings, TrainingSettings
from ganvas.data.cache import Dataset
from ganvas.errors import SettingError
from ganvas.networks import FAMILIES, check, patch_for, width_for
from ganvas.objectives import Penalty, adversarial, penalty
from ganvas.runtime import Machine
from ganvas.training.augment import draw_changes
from ganvas.training.growth import Growth
from ganvas.training.players import Players, make_players
from ganvas.training.step import draw_latents, play, to_tensor
from ganvas.training.team import SMALLEST, Team, shares_for

Group = TypeVar("Group", bound=Settings)
FIRST, LARGEST = 16, 64  # images a step, on a CPU
PLAIN, PLAIN_OF = 0.5, 1000  # share of equal neighbours from which on pictures are drawn; pictures that are looked at


@dataclass(frozen=True)
class Plan:
    """A run's settings after derivation, and why each derived one is what it is."""

    config: RunConfig
    machine: Machine
    channels: int
    classes: tuple[str, ...]
    pictures: int  # that training sees
    reasons: dict[str, str] = field(default_factory=dict)  # setting -> one line
    at_once: int | None = None  # shares of a batch in memory at the same time; None: all of this process's

    @property
    def growth(self) -> Growth:
        """How many images each step takes."""
        first, last = self.config.training.first_batch, self.config.training.batch
        assert first is not None and last is not None
        return Growth(first, last)


def derive(config: RunConfig, dataset: Dataset, machine: Machine, processes: int = 1) -> Plan:
    """Fill in every setting that is None, from the pictures, the machine, the budget, and how many processes train.

    Raises SettingError when the networks cannot make what is asked for, or when objective and penalty do not exist.
    """
    size, pictures = dataset.settings.size, len(dataset.train)
    assert size is not None
    height, width = size
    channels = int(dataset.images.shape[3])
    name, device = config.network.network, machine.device
    family = check(name, size, len(dataset.classes))
    adversarial(config.objective.objective)

    reasons = {
        "precision": f"{'bf16' if machine.dtype == torch.bfloat16 else 'fp32'}: {machine.why}",
        "flip": _flip_reason(config.data, dataset),
        "channels": f"{'grey' if channels == 1 else 'rgb'}: {_channels_reason(config.data, channels)}",
    }
    shape = f"of {height}x{width} on a {device}"
    network = fill(
        config.network,
        reasons,
        width=(width_for(size, pictures, device), f"for {pictures:,} pictures {shape}"),
        patch=(
            patch_for(size, device) if name == "style" else None,
            f"pixels a side of what the largest stage makes at one place, for pictures {shape}",
        ),
        z_dim=(family.z_dim, f"what {name} is made for"),
    )
    kind, plain = config.objective.penalty, 0.0
    if config.objective.gamma is None or config.training.batch is None:
        plain = fmean(plain_share(dataset.images[index]) for index in dataset.train[:PLAIN_OF])
    optimiser = config.training.optimiser or default_optimiser(name, device, config.training.beta1)
    check_optimiser(optimiser, name, config.training)
    growing = config.training.batch is None and batch_grows(name, device, optimiser, plain > PLAIN)
    objective = fill(
        config.objective,
        reasons,
        gamma=(default_gamma(kind, height * width, growing, plain > PLAIN), why_gamma(kind, growing, plain)),
        penalty_every=(default_interval(kind), "steps from one penalty to the next, which weighs so many times more"),
    )
    penalty(kind, gamma=objective.gamma)
    batch, first, shares = decide_batch(config.training, name, growing, machine, processes)
    training = fill(
        config.training,
        reasons,
        batch=(batch, f"for {name} on a {device}"),
        first_batch=(first, why_first(first, batch)),
        optimiser=(optimiser, f"for {name} on a {device}"),
        clip=(default_clip(growing), "longest step of a layer, in learning rates; 0: any"),
        turn_positions=(optimiser == "soap" and device == "cpu", f"for {name} with {optimiser} on a {device}"),
        learning_rate=(default_rate(name, optimiser, growing), f"for {name} with {optimiser}, at the first batch"),
        decay_images=(
            default_decay(name, first, growing),
            "images after which the learning rate falls as 1/√images; 0: never",
        ),
        anneal=(default_anneal(growing), "last part of the budget, over which the learning rate falls to zero"),
        augment=(
            default_augmentation(pictures),
            f"for {pictures:,} pictures: the fewer, the sooner they are learned by heart",
        ),
        interventions=(name != "dcgan", f"answers to what goes wrong, for {name}"),
    )
    precision = "bf16" if machine.dtype == torch.bfloat16 else "fp32"
    found = {"shares": shares, "device": device, "precision": precision, "threads": machine.threads}
    if all(getattr(training, budget) is None for budget in BUDGETS):
        reasons["minutes"] = f"{DEFAULT_MINUTES:g}: no budget was given"
        found["minutes"] = DEFAULT_MINUTES
    groups = {"data": dataset.settings, "network": network, "objective": objective}
    full = config.model_copy(update={**groups, "training": training.model_copy(update=found)})
    return Plan(full, machine, channels, dataset.classes, pictures, reasons)


def fill(group: Group, reasons: dict[str, str], **derived: tuple[Any, str]) -> Group:
    """Put a derived value where a setting is None, and its reason into `reasons`; `derived` maps name to both."""
    missing = {name: found for name, found in derived.items() if getattr(group, name) is None and found[0] is not None}
    reasons.update({name: f"{value}: {reason}" for name, (value, reason) in missing.items()})
    return group.model_copy(update={name: value for name, (value, _) in missing.items()})


def batch_grows(network: str, device: str, optimiser: str, drawn: bool) -> bool:
    """Whether a run whose batch nobody asked for takes the recipe with a growing one, which docs/recipe.md has.

    It is for `style` with SOAP on a CPU: with a lighter penalty, and a rate that is higher and falls sooner.
    Pictures that are `drawn` were worse for it: their critic is ahead as it is.
    """
    return network == "style" and device == "cpu" and optimiser == "soap" and not drawn


def decide_batch(
    asked: TrainingSettings, network: str, grows: bool, machine: Machine, processes: int
) -> tuple[int, int, int]:
    """Images a step, those at first, and how many shares both are cut into; raises SettingError where it is uneven."""
    batch = asked.batch or (LARGEST if grows else default_batch(network, machine.device))
    divisible = FAMILIES[network].divisible
    each = shares_for(max(1, batch // processes), machine.threads, machine.device, divisible)
    shares = asked.shares or processes * each
    check_shares(shares, batch, network, divisible, processes)
    first = asked.first_batch or (default_first(batch, shares) if grows else batch)
    check_first(first, batch, shares)
    return batch, first, shares


def check_shares(shares: int, batch: int, network: str, divisible: bool, processes: int = 1) -> None:
    """Raise SettingError unless a batch can be cut into so many equal shares, and these dealt out to all processes."""
    if processes > 1 and not divisible:
        raise SettingError(f"{processes} processes: {network} normalises over the batch, which stays whole; start one")
    if shares > 1 and not divisible:
        raise SettingError(
            f"shares {shares}: {network} normalises over the batch, which stays whole; leave --shares out"
        )
    if batch % shares:
        another = "leave --shares out" if processes == 1 else f"give a --batch that {processes} divides"
        raise SettingError(f"shares {shares}: do not divide a batch of {batch}; {another}")
    if shares % processes:
        raise SettingError(
            f"{processes} processes: the {shares} shares of a batch cannot be dealt out to them evenly; "
            f"start as many as divide {shares}, or begin another run with --to"
        )


def check_first(first: int, batch: int, shares: int) -> None:
    """Raise SettingError unless `first` doubled some times is `batch`, and is cut into `shares` evenly."""
    if not Growth.fits(first, batch):
        raise SettingError(
            f"first-batch {first}: doubled some times it must be the batch, {batch}; give half of that, or leave it out"
        )
    if first % shares:
        raise SettingError(f"first-batch {first}: {shares} shares do not divide it; leave it out, or give --shares")


def check_optimiser(optimiser: str, network: str, asked: TrainingSettings) -> None:
    """Raise SettingError where `optimiser` cannot train `network` with the settings that are `asked`."""
    if optimiser != "soap":
        if asked.clip:
            raise SettingError(f"clip = {asked.clip:g}: is for the steps of soap, not of {optimiser}; leave it out")
        if asked.turn_positions:
            raise SettingError(f"turn-positions: is for the steps of soap, not of {optimiser}; leave it out")
        return
    if network != "style":
        raise SettingError(f"optimiser = soap: is for the layers of style, not of {network}; use adam")
    if asked.beta1:
        raise SettingError(
            f"beta1 = {asked.beta1:g}: soap goes without a mean of gradients; leave it at 0, or use adam"
        )


def default_batch(network: str, device: str) -> int:
    """Images a step that do not grow: few on a CPU, where minutes buy few and more steps make more of each.

    A CUDA device is not even busy with fewer than so many. `dcgan` keeps the 64 of its source: batch normalisation
    needs them.
    """
    if network == "dcgan":
        return 64
    return {"cpu": FIRST, "cuda": 128}.get(device, 32)


def default_first(batch: int, shares: int) -> int:
    """Images a step at first, on a CPU, which is as busy with few: `batch` halved down to 16, or to 4 a share."""
    first = batch
    while first % 2 == 0 and first // 2 >= max(FIRST, SMALLEST * shares) and first // 2 % shares == 0:
        first //= 2
    return first


def why_first(first: int, batch: int) -> str:
    """The reason that a plan gives for it."""
    return "the batch does not grow" if first == batch else f"images a step at first, doubled on the way to {batch}"


def default_optimiser(network: str, device: str, beta1: float) -> str:
    """SOAP for `style` (docs/recipe.md), where the device has what it computes with; else Adam."""
    return "soap" if network == "style" and device != "mps" and not beta1 else "adam"


def default_rate(network: str, optimiser: str, growing: bool = False) -> float:
    """Learning rate of both players: with equalised weights as docs/recipe.md found, else 0.0002 (Radford et al. 2016).

    Some runs break with Adam at 0.024, and with SOAP at 0.018 where nothing is clipped.
    """
    if network != "style":
        return 2e-4
    if optimiser == "adam":
        return 1.2e-2
    return 1.25e-2 if growing else 1e-2


def default_clip(growing: bool) -> float:
    """Longest root mean square of a layer's step, in learning rates: 1 with a `growing` batch and its longer steps.

    Else 0, any: it shortens most those with a penalty, which drawings need whole (docs/recipe.md).
    """
    return 1.0 if growing else 0.0


def default_decay(network: str, batch: int, growing: bool = False) -> int:
    """Images after which the learning rate falls as 1/√images (docs/recipe.md); `dcgan` keeps its rate.

    With a `growing` batch, whose rate is higher, after a quarter as many.
    """
    if network != "style":
        return 0
    return (3_200 if growing else 12_500) * batch


def default_anneal(growing: bool) -> float:
    """Last part of the budget, over which the rate falls to zero: a quarter with a `growing` batch, else a tenth.

    docs/recipe.md has what it brings there; with the many images of a GPU only the tenth was tried.
    """
    return 0.25 if growing else 0.1


def default_augmentation(pictures: int) -> float:
    """Probability of each change to what the discriminator sees: it learns few pictures by heart within minutes."""
    return 0.5 if pictures < 1_000 else 0.2 if pictures < 3_000 else 0.0


def default_gamma(name: str, pixels: int, growing: bool = False, drawn: bool = False) -> float | None:
    """Weight of the penalty: 10 for wgan-gp (Gulrajani et al. 2017), else 1 at 64×64, in proportion to the pixels.

    The slope that it weighs is summed over pixels. With R1 + R2 and a `growing` batch 0.3 of that: in few images, a
    critic that may be steeper brings more variety. Ten times for pictures that are `drawn`, of plain areas:
    there the least unevenness gives a generated one away, and a critic that is let to see it teaches nothing else.
    docs/recipe.md has the measurements.
    """
    if name == "none":
        return None
    photographs = 0.3 if name == "r1+r2" and growing else 1.0
    return 10.0 if name == "wgan-gp" else round((10.0 if drawn else photographs) * pixels / 64**2, 4)


def why_gamma(name: str, growing: bool, plain: float) -> str:
    """The reason that a plan gives for γ, as `default_gamma` derives it."""
    if name == "wgan-gp":
        return "what it was published with"
    reason = "by pixels, which a slope is summed over"
    if plain > PLAIN:
        return f"{reason}, and ten times as much for plain areas: {plain:.0%} of neighbouring pixels are equal"
    return f"{reason}, and 0.3 of that where the batch grows" if name == "r1+r2" and growing else reason


def plain_share(image: np.ndarray) -> float:
    """Share of pixels that equal the one to their right, of a picture `[H, W, C]`; a few per cent in photographs."""
    return float((image[:, 1:] == image[:, :-1]).all(-1).mean())


def default_r1(images: np.ndarray) -> Penalty:
    """R1 at its default γ for pictures `[N, H, W, C]`: what a critic's slope is held against."""
    height, width = images.shape[1:3]
    return penalty("r1", gamma=default_gamma("r1", height * width))


def default_interval(name: str) -> int:
    """Steps between penalties: each step for wgan-gp, whose slope must hold everywhere; lazily for the others."""
    return 1 if name in ("wgan-gp", "none") else 8


def images_budget(config: RunConfig, pictures: int) -> int | None:
    """The budget in images seen, from `images` and `epochs`, whichever is less; None when only time limits the run."""
    limits = [config.training.images] if config.training.images else []
    if config.training.epochs:
        limits.append(max(1, round(config.training.epochs * pictures)))
    return min(limits) if limits else None


def describe_budget(config: RunConfig) -> str:
    """The budget in words: `"10 minutes"`, `"50,000 images"`."""
    settings = config.training
    parts = [f"{settings.minutes:g} minutes"] if settings.minutes else []
    parts += [f"{settings.images:,} images"] if settings.images else []
    parts += [f"{settings.epochs:g} epochs"] if settings.epochs else []
    return " or ".join(parts)


@dataclass(frozen=True)
class Cost:
    """What training costs here: floating-point operations by count, speed by trial."""

    generator_gflop: float  # one image forward, 2·MAC
    discriminator_gflop: float
    training_gflop: float  # one image through one step of both players, the penalty's share included
    images_per_second: float


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating-point operations, 2·MAC, of this thread while it is entered; double backward included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=answer)
        return answer


def trial(plan: Plan) -> tuple[Players, Callable[[int, bool, Team], None]]:
    """Throw-away players, and a step of theirs: on how many images of noise, with the penalty or without, by whom."""
    config, machine = plan.config, plan.machine
    assert config.data.size is not None and config.network.z_dim is not None
    size, z_dim = config.data.size, config.network.z_dim
    players = make_players(config, plan.channels, len(plan.classes), machine)
    random = torch.Generator().manual_seed(0)
    objective = adversarial(config.objective.objective)
    smooth = penalty(config.objective.penalty, gamma=config.objective.gamma)
    prior = FAMILIES[config.network.network].prior

    def step(images: int, with_penalty: bool, team: Team) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (images, *size, plan.channels), dtype=np.uint8)
        real, latents = to_tensor(pixels, machine.device), draw_latents(prior, images, z_dim, random, machine.device)
        labels = torch.zeros(images, dtype=torch.int64, device=machine.device) if plan.classes else None
        now = smooth if with_penalty else None
        changes = None
        if config.training.augment:
            changes = draw_changes(images, config.training.augment, random).to(machine.device)
        losses = play(players, real, latents, labels, objective, now, 1.0, 0, team, changes)
        players.learn(losses.finite, team.each)

    return players, step


def measure(plan: Plan, steps: int = 6) -> Cost:
    """Count the operations of a step and time some steps on noise with throw-away networks; takes seconds."""
    config, machine, batch = plan.config, plan.machine, plan.config.training.batch
    assert config.data.size is not None and batch is not None and config.objective.penalty_every is not None
    players, step = trial(plan)

    def count(function: Callable[[], object]) -> float:
        with Operations() as counter:
            function()
        return float(counter.total) / batch / 1e9

    real = torch.zeros(batch, plan.channels, *config.data.size, device=machine.device)
    latents = torch.zeros(batch, config.network.z_dim or 0, device=machine.device)
    extra = (torch.zeros(batch, dtype=torch.int64, device=machine.device),) if plan.classes else ()
    with torch.no_grad():
        forward = count(lambda: players.generator(latents, *extra)), count(lambda: players.discriminator(real, *extra))
    alone = Team(1, machine.threads)  # operations are counted in the thread that asks
    plain, penalised = count(lambda: step(batch, False, alone)), count(lambda: step(batch, True, alone))
    share = 0.0 if config.objective.penalty == "none" else 1 / config.objective.penalty_every
    times = {}
    with Team(config.training.shares or 1, machine.threads, at_once=plan.at_once) as team:
        for with_penalty in (False, True):
            taken = []
            for _ in range(max(2, steps // 2)):
                start = time.perf_counter()
                step(batch, with_penalty, team)
                if machine.device == "cuda":
                    torch.cuda.synchronize()
                taken.append(time.perf_counter() - start)
            times[with_penalty] = float(np.median(taken))
    seconds = times[False] + share * (times[True] - times[False])
    return Cost(*forward, plain + share * (penalised - plain), batch / seconds)


def _flip_reason(asked: DataSettings, dataset: Dataset) -> str:
    answer = "yes" if dataset.settings.flip else "no"
    if asked.flip is not None:
        return f"{answer}: as asked"
    if dataset.mirror_accuracy is None:
        return f"{answer}: too few pictures to tell"
    return f"{answer}: a classifier tells a picture from its mirror image {dataset.mirror_accuracy:.0%} of the time"


def _channels_reason(asked: DataSettings, channels: int) -> str:
    if asked.channels is not None:
        return "as asked"
    return "every picture is grey" if channels == 1 else "there are coloured pictures"
