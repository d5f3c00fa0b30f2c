"""What an evaluation found, as it is written to report.json: every score with all that makes it comparable."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Result(BaseModel):
    """A part of a result; immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(Result):
    """One figure, with the ends of its 95 % interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


class Scores(Result):
    """One set of images against the reference pictures. None: could not be computed from so few."""

    name: str = Field(description="samples, real, or the class.")
    count: int = Field(description="Images in the set.")
    reference: int = Field(description="Pictures in the reference.")
    frechet_distance: float | None = Field(description="0 is best; falls with more images.")
    kid: Score | None = Field(description="0 is best, unbiased; a little below 0 by chance.")
    precision: float | None = Field(description="Share of images among the real ones, 0 to 1.")
    recall: float | None = Field(description="Share of real pictures among the images, 0 to 1.")
    density: float | None = Field(description="As precision, robust to outliers; about 1 for real pictures.")
    coverage: float | None = Field(description="As recall, robust to outliers, 0 to 1.")
    mind: float | None = Field(description="Sliced Wasserstein distance, 0 is best.")


class Pair(Result):
    """A sample and the training picture nearest to it."""

    sample: int = Field(description="Index among the samples.")
    picture: int = Field(description="Index in the prepared pictures.")
    name: str = Field(description="The picture's file.")
    mirrored: bool = Field(description="The sample's mirror image is meant.")
    distance: float = Field(description="Euclidean, in feature space.")


class Copying(Result):
    """Whether samples lie nearer to training pictures than unseen pictures do, in one feature space."""

    features: str
    samples: int
    heldout: int
    train: int
    median_ratio: float = Field(description="Median distance of samples to training, over that of held-out pictures.")
    closer: float = Field(description="Share of samples nearer to training than the nearest 5 % of held-out pictures.")
    c_t: float | None = Field(description="Meehan et al.'s C_T, a z-score: below -3 samples lie nearer than chance.")
    p_value: float | None = Field(description="Of the test behind c_t, one-sided.")
    copied: bool = Field(description="What the figures together say.")
    pairs: list[Pair] = Field(description="The closest 16, nearest first.")


class Duplicates(Result):
    """Samples that are nearly each other."""

    samples: int
    repeated: int = Field(description="Samples that have a twin among the others.")
    largest: int = Field(description="Images in the largest group of twins; 0 when there is none.")
    expected: int = Field(description="The same count among as many training pictures.")


class Value(Result):
    """One value of an attribute: how often real pictures have it, how often samples do."""

    value: str
    real: float = Field(description="Share of real pictures, 0 to 1, as the probe sees them.")
    samples: float = Field(description="Share of samples, 0 to 1, as the probe sees them.")
    verdict: str = Field(description="missing, rare, as it should be, or too frequent.")


class Attribute(Result):
    """One known attribute of the pictures, such as hair, and what became of its values."""

    name: str
    accuracy: float = Field(description="Of the probe on held-out pictures, 0 to 1.")
    chance: float = Field(description="What naming the most frequent value would reach.")
    values: list[Value]


class Protocol(Result):
    """What a score depends on beside the images: scores of other protocols are not comparable."""

    features: str
    dimensions: int
    resizer: str
    split: str = Field(description="Which pictures are the reference: heldout, train or all.")
    size: tuple[int, int] = Field(description="Height and width at which pictures and samples are compared.")
    data_digest: str
    ganvas: str


class Point(Result):
    """The proxy's score at one moment of training."""

    seen_images: int
    seconds: float
    score: float


class Evaluation(Result):
    """One run, or folder of images, evaluated."""

    name: str
    source: str = Field(description="The run folder, or the folder of images.")
    pictures: str = Field(description="The pictures that it is compared with.")
    seen_images: int | None = Field(description="Of training; None for a folder.")
    weights: str | None
    truncation: float | None
    protocol: Protocol
    samples: Scores
    real: Scores
    classes: list[Scores] = []
    copying: list[Copying] = []
    duplicates: Duplicates | None = None
    attributes: list[Attribute] = []
    curve: list[Point] = []
    curve_features: str | None = None
    words: list[str] = Field(default=[], description="What the figures say, in plain words.")
    notes: list[str] = Field(default=[], description="What was left out or bounded, and why.")
    seconds: dict[str, float] = Field(default={}, description="Where the time went.")
