"""Images to files: each file is its seed's image, says so, and no more of them wait than there is memory for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganvas.errors import SettingError, StorageError
from ganvas.generation import Made, generate
from ganvas.generator import Generator
from ganvas.images import grid, read_provenance
from ganvas.latents import parse_seeds

module = import_module("ganvas.generation")


@pytest.fixture(scope="module")
def generator(trained: Path) -> Generator:
    return Generator.load(trained)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_files_hold_the_images_of_their_seeds(generator: Generator, tmp_path: Path) -> None:
    made = generate(generator, parse_seeds("0-17,40,1000000-1000001"), tmp_path / "out")
    seeds = [*range(18), 40, 10**6, 10**6 + 1]
    assert made == Made(len(seeds), tmp_path / "out")
    names = [f"seed{seed:06d}.png" for seed in seeds]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    for name, image in zip(names, generator.sample(seeds), strict=True):
        assert np.array_equal(pixels(tmp_path / "out" / name), image)


@pytest.mark.parametrize(("format", "suffix"), [("png", ".png"), ("jpeg", ".jpg"), ("webp", ".webp")])
@pytest.mark.parametrize("as_grid", [False, True])
def test_every_format_is_what_it_says_and_says_where_it_came_from(
    generator: Generator, tmp_path: Path, format: str, suffix: str, as_grid: bool
) -> None:
    made = generate(generator, [range(3, 6)], tmp_path, format=format, as_grid=as_grid)
    paths = [tmp_path / f"grid-3-5{suffix}"] if as_grid else [tmp_path / f"seed00000{n}{suffix}" for n in (3, 4, 5)]
    assert sorted(tmp_path.iterdir()) == sorted(paths) and made.count == 3
    assert made.path == (paths[0] if as_grid else tmp_path)
    images = generator.sample(range(3, 6))
    expected = [grid(images)] if as_grid else list(images)
    for path, seed, image in zip(paths, [None] if as_grid else [3, 4, 5], expected, strict=True):
        with Image.open(path) as opened:
            assert opened.format == format.upper()
        assert abs(pixels(path).astype(int) - image).mean() < (0.001 if format == "png" else 12)
        mark = read_provenance(path)
        assert mark is not None and mark == generator.provenance(seed)
        assert b"trainedAlgorithmicMedia" in path.read_bytes()


def test_the_same_line_writes_the_same_bytes(generator: Generator, tmp_path: Path) -> None:
    for _ in range(2):
        generate(generator, [range(4)], tmp_path / "a")
    generate(generator, [range(2, 3)], tmp_path / "b")
    assert (tmp_path / "b" / "seed000002.png").read_bytes() == (tmp_path / "a" / "seed000002.png").read_bytes()


def test_a_grid_of_one_names_its_seed(generator: Generator, tmp_path: Path) -> None:
    made = generate(generator, [range(9, 10)], tmp_path, as_grid=True)
    assert made.path.name == "grid-9.png"
    mark = read_provenance(made.path)
    assert mark is not None and mark.seed == 9


@pytest.mark.parametrize("name", ["all.png", "new/all.WEBP", "all.jpeg"])
@pytest.mark.parametrize("as_grid", [False, True])
def test_one_picture_may_be_named(generator: Generator, tmp_path: Path, name: str, as_grid: bool) -> None:
    wanted = [range(6)] if as_grid else [range(7, 8)]
    for _ in range(2):  # its own file is replaced
        made = generate(generator, wanted, tmp_path / name, as_grid=as_grid)
    assert made == Made(6 if as_grid else 1, tmp_path / name)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    mark = read_provenance(tmp_path / name)
    assert mark is not None and mark.seed == (None if as_grid else 7)
    images = generator.sample(wanted[0])
    expected = grid(images) if as_grid else images[0]
    assert abs(pixels(tmp_path / name).astype(int) - expected).mean() < (0.001 if name == "all.png" else 12)


def test_a_folder_may_have_the_name_of_a_picture(generator: Generator, tmp_path: Path) -> None:
    folder = tmp_path / "out.png"
    folder.mkdir()
    assert generate(generator, [range(2)], folder, as_grid=True).path == folder / "grid-0-1.png"


def test_a_picture_of_another_is_not_replaced(generator: Generator, tmp_path: Path) -> None:
    theirs = tmp_path / "mine.png"
    Image.new("RGB", (4, 4)).save(theirs)
    before = theirs.read_bytes()
    for as_grid in (False, True):
        with pytest.raises(
            StorageError, match=r"mine\.png: is a file that ganvas did not make; name another with --to"
        ):
            generate(generator, [range(1)], theirs, as_grid=as_grid)
    assert theirs.read_bytes() == before and list(tmp_path.iterdir()) == [theirs]


def test_options_reach_the_images(trained_classes: Path, tmp_path: Path) -> None:
    generator = Generator.load(trained_classes)
    generate(generator, [range(2)], tmp_path, truncation=0.5, label="late")
    for seed, image in enumerate(generator.sample(range(2), truncation=0.5, label="late")):
        assert np.array_equal(pixels(tmp_path / f"seed{seed:06d}.png"), image)


def test_progress_counts_every_image(generator: Generator, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    generate(generator, [range(20), range(30, 35)], tmp_path, progress=lambda *counts: told.append(counts))
    assert told == sorted(told) and told[-1] == (25, 25) and len(told) > 1


class Lazy:
    """A pool that does its work only when its answer is asked for, and counts what waits meanwhile."""

    waiting = most = 0

    def __init__(self, *_: object) -> None:
        type(self).waiting = type(self).most = 0

    def __enter__(self) -> Lazy:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable[..., None], *arguments: Any) -> Any:
        kind = type(self)
        kind.waiting += 1
        kind.most = max(kind.most, kind.waiting)

        class Answer:
            def result(self) -> None:
                kind.waiting -= 1
                function(*arguments)

        return Answer()


def test_no_more_images_wait_than_is_allowed(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, ahead = 4, 10
    monkeypatch.setattr(module, "ThreadPoolExecutor", Lazy)
    monkeypatch.setattr(module, "AHEAD", ahead)

    def batches() -> Iterator[tuple[list[int], np.ndarray]]:
        for start in range(0, 60, batch):
            assert Lazy.waiting <= ahead, "before more are made, those that waited too many are written"
            yield list(range(start, start + batch)), np.zeros((batch, 8, 8, 3), np.uint8)

    counts = list(module.write_files(generator, batches(), tmp_path, ".png"))
    assert counts == [batch] * 15
    assert Lazy.waiting == 0 and ahead < Lazy.most <= ahead + batch
    assert len(list(tmp_path.iterdir())) == 60


def test_a_million_seeds_cost_nothing_to_hold(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch is written before the last seed is looked at."""

    class Enough(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert total == 10**12
        raise Enough

    with pytest.raises(Enough):
        generate(generator, [range(10**12)], tmp_path, progress=stop)
    assert 0 < len(list(tmp_path.iterdir())) <= 64


def test_a_full_disk_is_one_line_and_what_was_written_is_whole(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = module.write_image, []

    def write(path: Path, *arguments: Any) -> None:
        if len(written) >= 3:
            raise StorageError(f"{path}: cannot write: the disk is full")
        written.append(path)
        real(path, *arguments)

    monkeypatch.setattr(module, "usable_cores", lambda: 1)
    monkeypatch.setattr(module, "write_image", write)
    with pytest.raises(StorageError, match="disk is full"):
        generate(generator, [range(6)], tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(written) and len(written) == 3
    for path in written:
        assert pixels(path).shape == (32, 32, 3)


def test_a_folder_that_cannot_be_made_is_one_line(generator: Generator, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(StorageError) as caught:
        generate(generator, [range(1)], tmp_path / "taken")
    assert str(tmp_path / "taken") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "gif"}, "format 'gif' is unknown"),
        ({"format": "pngg"}, "did you mean 'png'"),
        ({"truncation": 2.0}, "outside 0 to 1"),
        ({"label": "cat"}, "trained without classes"),
        ({"as_grid": True, "seeds": [range(5000)]}, "a grid of 5,000 images"),
    ],
)
def test_bad_options_are_refused_before_anything_is_made(
    generator: Generator, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    seeds = options.pop("seeds", [range(2)])
    with pytest.raises(SettingError) as caught:
        generate(generator, seeds, tmp_path, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
