"""What several tests share: how hypothesis runs, a folder of drawn pictures, and small runs that are trained once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import ganvas  # noqa: F401 (before torch, as users have it: it sets up how threads wait)
from small import TINY, draw

# No deadline: a machine with other work to do is not a failure.
settings.register_profile("no time limit", deadline=None, max_examples=40)
settings.load_profile("no time limit")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 80 pictures, of which 76 are trained on; read only."""
    return draw(tmp_path_factory.mktemp("sources") / "discs", 80)


@pytest.fixture(scope="session")
def classed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 pictures in two sub-folders, early and late; read only."""
    root = tmp_path_factory.mktemp("sources") / "classed"
    draw(root / "early", 20)
    draw(root / "late", 20, first=20)
    return root


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """Settings of a run that takes a second or two."""
    return dict(TINY)


@pytest.fixture(scope="session")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the style network, after 24 images; read only."""
    from ganvas.training.loop import train

    return train(pictures, tmp_path_factory.mktemp("runs") / "discs", images=24, **TINY).folder


@pytest.fixture(scope="session")
def trained_classes(classed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the style network with two classes; read only."""
    from ganvas.training.loop import train

    return train(classed, tmp_path_factory.mktemp("runs") / "classed", images=24, classes=True, **TINY).folder


@pytest.fixture(scope="session")
def trained_dcgan(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tutorial network at its smallest size; read only."""
    from ganvas.training.loop import train

    settings = {**TINY, "size": 16, "images": 16, "z_dim": 10}
    return train(pictures, tmp_path_factory.mktemp("runs") / "dcgan", preset="dcgan", **settings).folder


@pytest.fixture(autouse=True)
def torch_as_it_was() -> None:
    """Training sets torch's threads, and flushes subnormal numbers, for the whole process: not for the next test."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
        torch.set_flush_denormal(False)
