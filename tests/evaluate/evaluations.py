"""Evaluations made by hand, as good as real pictures in everything but what a test changes."""

from __future__ import annotations

from typing import Any

from ganvas.evaluate.result import (
    Attribute,
    Copying,
    Duplicates,
    Evaluation,
    Point,
    Protocol,
    Score,
    Scores,
    Value,
)

PROTOCOL = Protocol(
    features="lite0@128",
    dimensions=1280,
    resizer="bicubic, antialiased, to 128x128",
    split="heldout",
    size=(64, 64),
    data_digest="b1946ac92492d2347c6235b4d2611184",
    ganvas="0.1.0",
)


def scores(name: str = "samples", **changed: Any) -> Scores:
    """What other real pictures reach, 5,000 against 2,400."""
    usual: dict[str, Any] = {
        "name": name,
        "count": 5000,
        "reference": 2400,
        "frechet_distance": 8.0,
        "kid": Score(value=0.0001, low=-0.0003, high=0.0005),
        "precision": 0.8,
        "recall": 0.8,
        "density": 1.0,
        "coverage": 0.95,
        "mind": 0.03,
    }
    return Scores(**usual | changed)


def evaluation(samples: Scores | None = None, **changed: Any) -> Evaluation:
    """Of a run called discs, with nothing beside its scores."""
    usual: dict[str, Any] = {
        "name": "discs",
        "source": "runs/discs",
        "pictures": "photos",
        "seen_images": 100_000,
        "weights": "0123456789abcdef",
        "truncation": 1.0,
        "protocol": PROTOCOL,
        "samples": samples or scores(),
        "real": scores("real"),
    }
    return Evaluation(**usual | changed)


def copying(features: str = "lite0@128", **changed: Any) -> Copying:
    """Samples that are no nearer to training pictures than held-out ones."""
    usual: dict[str, Any] = {
        "features": features,
        "samples": 2000,
        "heldout": 2400,
        "train": 19_000,
        "median_ratio": 0.99,
        "closer": 0.05,
        "c_t": 0.4,
        "p_value": 0.66,
        "copied": False,
        "pairs": [],
    }
    return Copying(**usual | changed)


def twins(repeated: int, expected: int = 2, largest: int = 2) -> Duplicates:
    """`repeated` of 2,000 samples."""
    return Duplicates(samples=2000, repeated=repeated, largest=largest, expected=expected)


def attribute(name: str, verdicts: dict[str, str], accuracy: float = 0.95, chance: float = 0.3) -> Attribute:
    """An attribute whose values are equally common among real pictures; the verdict of each is given."""
    share = {"missing": 0.0, "rare": 0.2, "too frequent": 2.0}
    even = 1 / len(verdicts)
    values = [
        Value(value=value, real=even, samples=even * share.get(verdict, 1.0), verdict=verdict)
        for value, verdict in verdicts.items()
    ]
    return Attribute(name=name, accuracy=accuracy, chance=chance, values=values)


def curve(values: list[float], step: int = 1000) -> list[Point]:
    """A score every `step` images."""
    return [Point(seen_images=step * place, seconds=float(place), score=value) for place, value in enumerate(values, 1)]
