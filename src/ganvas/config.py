"""Every setting of a run: typed, described, checked once before any picture is opened, and round-tripped as JSON.

`None` means "derived": from the pictures, the machine or the budget, when the run starts. A run folder stores the
settings after derivation, so that nothing is guessed twice. Presets are rows of one table at the end.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from ganvas.errors import SettingError, did_you_mean

MIN_SIDE, MAX_SIDE = 16, 1024


def _lone(value: object) -> object:
    """The word in a list of one, which is how the command line hands over a setting whose type is a tuple."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def parse_size(value: object) -> tuple[int, int]:
    """Read `64`, `"64"`, `"96x64"` or `(96, 64)` as (height, width) in pixels; raise ValueError otherwise."""
    value = _lone(value)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,5})\s*(?:[x×]\s*(\d{1,5})\s*)?", value, re.IGNORECASE)
        if not match:
            raise ValueError(f"'{value}' is not a size: write 64, or height x width as 96x64")
        height = int(match[1])
        width = int(match[2]) if match[2] else height
    elif isinstance(value, int) and not isinstance(value, bool):
        height = width = value
    elif isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(side, int) for side in value):
        height, width = value
    else:
        raise ValueError(f"{value!r} is not a size: write 64, or height x width as 96x64")
    for side in (height, width):
        if not MIN_SIDE <= side <= MAX_SIDE:
            raise ValueError(f"a side of {side} pixels is outside {MIN_SIDE} to {MAX_SIDE}")
        if side % 8:
            raise ValueError(
                f"a side of {side} pixels is not a multiple of 8; try {max(MIN_SIDE, round(side / 8) * 8)}"
            )
    return height, width


Size = Annotated[
    tuple[int, int],
    BeforeValidator(parse_size),
    PlainSerializer(lambda size: f"{size[0]}x{size[1]}", return_type=str),
]


class Settings(BaseModel):
    """A group of settings; immutable, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# The settings that `ganvas train --help` shows before all others.
OFTEN = Group("Often used", sort_key=1)
Often = Parameter(group=OFTEN)
# How the command line reads a size: one word, where its type says two numbers.
ONE_WORD = Parameter(
    n_tokens=1,
    accepts_keys=False,
    negative="",
    metavar="SIZE",
    group=OFTEN,
    converter=lambda _, tokens: parse_size(tokens[0].value),
)


class DataSettings(Settings):
    """How pictures become training images."""

    size: Annotated[Size | None, ONE_WORD] = Field(
        None, description="Height x width in pixels: 64, or 96x64. Derived: 64 on a CPU."
    )
    fit: Literal["crop", "pad", "stretch"] = Field("crop", description="How other proportions are made to fit.")
    channels: Literal["grey", "rgb"] | None = Field(None, description="Derived: grey when every picture is grey.")
    background: str = Field(
        "#ffffff", pattern=r"^#[0-9a-fA-F]{6}$", description="Colour under transparent pixels, and of padding."
    )
    classes: bool = Field(False, description="Sub-folders are classes: learn one label each.")
    flip: bool | None = Field(None, description="Mirror half of the pictures. Derived: when mirror images look alike.")
    count: int | None = Field(None, ge=1, le=100_000_000, description="Use at most this many pictures.")
    max_megapixels: float = Field(64.0, gt=0, le=10_000, description="Set larger pictures aside.")
    workers: int | None = Field(None, ge=0, le=256, description="Processes that decode; derived: one a core.")


class NetworkSettings(Settings):
    """What is learned: the generator and its discriminator."""

    network: str = Field("style", description="style (ours), or dcgan (the tutorial network).")
    width: int | None = Field(
        None, ge=8, le=512, description="Channels of style at half of the size; derived from size, data and device."
    )
    patch: int | None = Field(
        None,
        ge=1,
        le=2,
        description="Pixels a side that one place of style's largest stage stands for: 1 is slower, and finer; derived "
        "from size.",
    )
    z_dim: int | None = Field(None, ge=2, le=1024, description="Length of the latent; derived: 128, dcgan 100.")


class ObjectiveSettings(Settings):
    """Against which loss."""

    objective: str = Field(
        "non-saturating",
        description="non-saturating, relativistic, minimax, hinge, least-squares or wasserstein.",
    )
    penalty: str = Field(
        "r1+r2", description="r1, r1+r2, r2, finite-difference, wgan-gp or none: holds the discriminator's slope."
    )
    gamma: float | None = Field(None, ge=0, le=1e6, description="Weight of the penalty; derived from the pictures.")
    penalty_every: int | None = Field(
        None, ge=1, le=64, description="Steps from one penalty to the next, which then weighs as many times more."
    )


class TrainingSettings(Settings):
    """For how long, how fast, on what."""

    minutes: Annotated[float | None, Often] = Field(
        None, gt=0, le=1e6, description="Budget in minutes of training, over all resumes; 30 where no budget is given."
    )
    images: Annotated[int | None, Often] = Field(None, ge=1, le=10**12, description="Budget in images seen.")
    epochs: float | None = Field(None, gt=0, le=1e6, description="Budget in passes over the pictures.")
    batch: int | None = Field(
        None, ge=2, le=65536, description="Images a step; derived: 16 to 64 on a CPU, 128 with CUDA, else 32; dcgan 64."
    )
    first_batch: int | None = Field(
        None,
        ge=2,
        le=65536,
        description="Images a step at first, doubled on the way to --batch; derived: the same, but 16 on a CPU.",
    )
    optimiser: Literal["soap", "adam"] | None = Field(
        None, description="Adam, or Adam in the eigenbases of each layer's gradients; derived: soap for style."
    )
    clip: float | None = Field(
        None, ge=0, le=100, description="Longest step of a layer, in learning rates, with soap; 0: any. Derived."
    )
    turn_positions: bool | None = Field(
        None, description="Whether soap turns the positions of a kernel as it does channels; derived: on a CPU."
    )
    learning_rate: float | None = Field(None, gt=0, le=1, description="Of both players, at the first batch; derived.")
    beta1: float = Field(0.0, ge=0, lt=1, description="Adam's decay of the gradient's average.")
    beta2: float = Field(0.99, gt=0, lt=1, description="Adam's decay of the squared gradient's average.")
    decay_images: int | None = Field(
        None, ge=0, le=10**12, description="Images after which the learning rate falls as 1/√images; 0: never. Derived."
    )
    anneal: float | None = Field(
        None, ge=0, le=1, description="Last part of the budget, in which the learning rate falls to 0. Derived."
    )
    ema_images: int | None = Field(
        None, ge=0, description="Half-life, in images, of the generator's average; 0: none. Derived from the batch."
    )
    augment: float | None = Field(
        None,
        ge=0,
        le=0.8,
        description="Probability of each random change (colour, position, cut-out) to what the discriminator sees; "
        "derived: more for fewer pictures.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Everything random follows from it.")
    device: Literal["cpu", "cuda", "mps"] | None = Field(None, description="Derived: cuda, else mps, else cpu.")
    precision: Literal["bf16", "fp32"] | None = Field(
        None, description="Of convolutions; weights stay fp32. Derived: bf16 where the processor is faster with it."
    )
    shares: int | None = Field(
        None, ge=1, le=1024, description="Parts of a batch that are computed side by side; derived: one a thread."
    )
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; derived: one a core we may use.")
    samples: int = Field(64, ge=1, le=1024, description="Images in each sample grid, of seeds 0, 1, 2, ...")
    frames: int = Field(40, ge=1, le=2000, description="Sample grids over the budget; they also make the film.")
    save_minutes: float = Field(
        2.0, gt=0, le=1440, description="Minutes from one checkpoint to the next, at most a fifth of --minutes."
    )
    metric: str | None = Field(
        None, description="Features of the score while training, or none; derived: lite0@96 where its extra is there."
    )
    interventions: bool | None = Field(
        None,
        description="Answer what the monitor judges to go wrong, not only what is certainly broken; derived: "
        "yes, but not for dcgan.",
    )
    tensorboard: bool = Field(False, description="Also write TensorBoard logs (extra: tensorboard).")


class RunConfig(Settings):
    """All that defines a run: stored in its folder as config.json."""

    version: Literal[1] = 1
    source: str = Field(description="Where the pictures came from.")
    preset: str = "default"
    data: DataSettings = DataSettings()
    network: NetworkSettings = NetworkSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    training: TrainingSettings = TrainingSettings()


GROUPS = ("data", "network", "objective", "training")
BUDGETS = ("minutes", "images", "epochs")
DEFAULT_MINUTES = 30.0

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {},
    # DCGAN-Tensorflow as it is published: sigmoid cross-entropy, non-saturating generator, no penalty, no average.
    "dcgan": {
        "data": {"fit": "stretch", "flip": False},
        "network": {"network": "dcgan"},
        "objective": {"objective": "non-saturating", "penalty": "none"},
        "training": {
            "epochs": 20,
            "batch": 64,
            "learning_rate": 2e-4,
            "beta1": 0.5,
            "beta2": 0.999,
            "decay_images": 0,
            "anneal": 0.0,
            "ema_images": 0,
            "augment": 0.0,
        },
    },
}


def with_preset(preset: str, given: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Lay what the user gave over the preset's row: `group -> setting -> value`.

    A budget that the user gives replaces the preset's. Raises SettingError for an unknown preset.
    """
    if preset not in PRESETS:
        raise SettingError(f"preset '{preset}' is unknown{did_you_mean(preset, list(PRESETS))}: {', '.join(PRESETS)}")
    merged = {group: {**PRESETS[preset].get(group, {}), **given.get(group, {})} for group in GROUPS}
    if any(given.get("training", {}).get(name) is not None for name in BUDGETS):
        for name in BUDGETS:
            if name not in given["training"]:
                merged["training"].pop(name, None)
    return merged


def group_settings(flat: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort settings by the group they belong to: `{"size": 64, "minutes": 10}` to `{"data": ..., "training": ...}`.

    Raises SettingError for a name that no group has.
    """
    groups: dict[str, type[Settings]] = {
        "data": DataSettings,
        "network": NetworkSettings,
        "objective": ObjectiveSettings,
        "training": TrainingSettings,
    }
    grouped: dict[str, dict[str, Any]] = {group: {} for group in groups}
    known = {name: group for group, settings in groups.items() for name in settings.model_fields}
    for name, value in flat.items():
        if name not in known:
            raise SettingError(f"setting '{name}' is unknown{did_you_mean(name, list(known))}")
        grouped[known[name]][name] = value
    return grouped


def make_config(source: str, preset: str = "default", **given: dict[str, Any]) -> RunConfig:
    """Build and check a whole configuration; `given` maps a group of GROUPS to its settings.

    Raises SettingError, one line that names the first setting at fault, its value and its rule.
    """
    try:
        return RunConfig.model_validate({"source": source, "preset": preset, **with_preset(preset, given)})
    except ValidationError as error:
        raise SettingError(describe(error)) from None


def describe(error: ValidationError) -> str:
    """One line for the first fault in a validation error: the setting, the value, the rule."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][-1]) if first["loc"] else "settings"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = [
            field
            for group in (DataSettings, NetworkSettings, ObjectiveSettings, TrainingSettings)
            for field in group.model_fields
        ]
        return f"setting '{name}' is unknown{did_you_mean(name, known)}"
    value = _lone(first["input"])
    # The command line hands numbers over as text: no quotes around those.
    shown = value if isinstance(value, str) and re.fullmatch(r"[-+]?(\d[\d.]*|nan|inf)", value) else repr(value)
    return f"{name.replace('_', '-')} = {shown}: {_rule(name, first['type'], first.get('ctx', {}), message)}"


def _rule(name: str, kind: str, about: dict[str, Any], message: str) -> str:
    """The rule that a value breaks, in plain words; pydantic's own where they are plain."""
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
        groups = (DataSettings, NetworkSettings, ObjectiveSettings, TrainingSettings)
        rules = [rule for group in groups if name in group.model_fields for rule in group.model_fields[name].metadata]
        found = [(key, getattr(rule, key, None)) for rule in rules for key in words]
        return "must be " + " and ".join(f"{words[key]} {bound:,.12g}" for key, bound in found if bound is not None)
    plain = {
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_parsing": "must be a number",
        "finite_number": "must be a finite number",
        "string_pattern_mismatch": "must be a colour as #rrggbb, such as #ffffff",
        "model_type": "must be an object of settings by name",
        "missing": "must be there",
        "literal_error": f"must be {about.get('expected')}",
    }
    return plain.get(kind) or f"{message[0].lower()}{message[1:]}"
