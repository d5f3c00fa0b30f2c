"""Sample grids and the film: when they are due, and that they show what the generator makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ganvas.generator import Generator
from ganvas.images import grid, read_provenance
from ganvas.training import samples


@given(frames=st.integers(1, 300), steps=st.integers(1, 2000))
def test_grids_come_at_the_start_at_the_end_and_at_most_as_often_as_asked(frames: int, steps: int) -> None:
    drawn: float | None = None
    at = []
    for step in range(steps + 1):
        progress = step / steps
        if samples.is_due(progress, drawn, frames):
            drawn = progress
            at.append(progress)
    assert at[0] == 0 and at[-1] == 1
    assert len(at) <= frames + 2
    if frames > 3 and steps > 50 * frames**2:
        assert len(at) >= frames - 1


def test_early_grids_are_closer_than_late_ones() -> None:
    at: list[float] = []
    for step in range(10_001):
        if samples.is_due(step / 10_000, at[-1] if at else None, 10):
            at.append(step / 10_000)
    gaps = np.diff(at[:-1])
    assert (np.diff(gaps) > 0).all()


@pytest.mark.parametrize("kind", ["trained", "trained_classes", "trained_dcgan"])
def test_the_last_grid_shows_the_images_of_seeds_0_1_2(kind: str, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(kind)
    generator = Generator.load(run)
    path = run / "samples" / f"{generator.seen_images:012d}.png"
    with Image.open(path) as image:
        shown = np.asarray(image).astype(int)
    expected = grid(generator.sample(range(generator.config.training.samples))).astype(int)
    assert shown.shape == expected.shape
    assert abs(shown - expected).max() <= 1, "another batch size rounds otherwise"
    mark = read_provenance(path)
    assert mark is not None and mark.weights == generator.weights and mark.seed is None


def test_grids_of_a_future_that_did_not_happen_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    for name in ("000000000000.png", "000000000100.png", "000000000200.png", "mine.png", "9.txt", "0abc.png"):
        (folder / name).touch()
    samples.drop_after(tmp_path, 100)
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["000000000000.png", "000000000100.png", "0abc.png", "9.txt", "mine.png"]
    samples.drop_after(tmp_path / "nowhere", 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_film_shows_the_grids_in_order_and_rests_on_the_last(tmp_path: Path, channels: int) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    shades = [10, 90, 170, 250]
    for index, shade in enumerate(shades):
        pixels = np.full((16, 16, channels), shade, np.uint8).squeeze()
        Image.fromarray(pixels).save(folder / f"{index * 10:012d}.png")
    path = samples.make_film(tmp_path)
    assert path == tmp_path / "film.webp"
    with Image.open(path) as film:
        found, times = [], []
        for frame in range(film.n_frames):
            film.seek(frame)
            found.append(np.asarray(film.convert("L")).mean())
            times.append(film.info["duration"])
    assert found == pytest.approx(shades, abs=3)
    assert times[-1] > max(times[:-1])


def test_no_film_of_less_than_two_grids(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    assert samples.make_film(tmp_path) is None
    Image.new("L", (8, 8)).save(tmp_path / "samples" / "000000000000.png")
    assert samples.make_film(tmp_path) is None
    assert not (tmp_path / "film.webp").exists()
