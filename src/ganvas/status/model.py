"""A status in numbers and words, as `--json` writes it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal["training", "finished", "stopped", "damaged", "other version"]
Trend = Literal["better", "level", "worse"]


class Part(BaseModel):
    """A part of a status; immutable. None: not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Process(Part):
    """The process that trains in the run folder."""

    pid: int
    host: str
    is_certain: bool = Field(description="False: on another machine, or of another user; it may have died.")


class Pictures(Part):
    """What the run learns from."""

    source: str | None = None
    licence: str | None = None
    train: int | None = None
    held_out: int | None = None
    classes: int = 0


class Score(Part):
    """A score of the averaged generator; lower is better."""

    metric: str
    value: float
    seen_images: int
    seconds: float | None = None


class Intervention(Part):
    """What the monitor did, and why."""

    seen_images: int
    seconds: float
    state: str
    action: str
    why: str


class Health(Part):
    """What the monitor says."""

    state: str = Field(description="Of the newest row; 'not watched' where there is none.")
    why: str = ""
    seen_images: int | None = None
    treats: bool = Field(
        False, description="Whether what the monitor judges is answered, and not with --no-interventions only named."
    )
    treatment: dict[str, float] = Field({}, description="Factors and counts in force, where they differ from none.")
    interventions: list[Intervention] = []
    from_images: int = Field(0, description="Interventions before so many images were not read (the file is long).")


class Saved(Part):
    """The newest checkpoint that seems sound."""

    path: str
    seen_images: int
    seconds: float
    age_seconds: float


class Status(Part):
    """How a run is. All counts are of images seen, all times in seconds of training over all resumes."""

    run: str = Field(description="The folder, as it was given.")
    name: str
    state: State
    why: str = Field("", description="What is damaged or of another version, or what ended the run.")
    process: Process | None = None
    version: str | None = Field(None, description="The ganvas that began or last went on with it.")
    pictures: Pictures = Pictures()
    settings: dict[str, str | int | float] = Field(
        {}, description="Those that say what is learned, against which loss."
    )
    seen_images: int = 0
    seconds: float = 0.0
    budget: str = Field("", description="In words, such as '10 minutes'.")
    share: float | None = Field(None, description="Of the budget, 0 to 1.")
    images_per_second: float | None = Field(None, description="Lately, with everything that takes time.")
    seconds_left: float | None = Field(None, description="While it trains.")
    saved: Saved | None = None
    last_score: Score | None = None
    best_score: Score | None = None
    trend: Trend | None = None
    health: Health = Health(state="not watched")
    disk_bytes: dict[str, int] = {}
    is_disk_complete: bool = Field(True, description="False: there were too many files to add up.")
    commands: dict[str, str] = Field({}, description="What to do next -> the line to type.")
    notes: list[str] = []
