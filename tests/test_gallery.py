"""The page of a run: it needs nothing but itself, and what it calls real was never trained on."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganvas.errors import CheckpointError, StorageError
from ganvas.gallery import last_metrics, real_pictures, write_gallery
from ganvas.generator import Generator
from ganvas.images import grid, read_provenance


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "action", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(page: Page) -> list[bytes]:
    return [base64.b64decode(link.split(",", 1)[1]) for link in page.links]


def pixels(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def page(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = write_gallery(trained, tmp_path_factory.mktemp("page") / "gallery.html")
    return Page(path.read_text("utf-8"))


def test_the_page_stands_alone(page: Page) -> None:
    assert page.links and all(re.match(r"data:image/(png|webp);base64,", link) for link in page.links)
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    assert not re.search(r"url\(|@import", page.text)


def test_it_shows_what_the_generator_makes(page: Page, trained: Path) -> None:
    generator = Generator.load(trained)
    made = generator.sample(range(generator.config.training.samples))
    images = shown(page)
    assert np.array_equal(pixels(images[0]), grid(made))
    mark = read_provenance(images[0])
    assert mark is not None and mark.weights == generator.weights
    assert "Generated" in page.text and "Real" in page.text and "held out" in page.text
    assert generator.weights in page.text
    assert (trained / "film.webp").read_bytes() in images


def test_what_it_calls_real_is_held_out(page: Page, trained: Path) -> None:
    from ganvas.data.cache import load
    from ganvas.files import read_json

    manifest: dict = read_json(trained / "manifest.json")  # type: ignore[assignment,type-arg]
    dataset = load(Path(manifest["cache"]))
    real, note = real_pictures(trained, 64)
    assert "held out" in note
    assert real is not None and len(real) == len(dataset.heldout) > 0
    assert {image.tobytes() for image in real} == {dataset.images[index].tobytes() for index in dataset.heldout}
    assert read_provenance(shown(page)[1]) is None, "no mark of a model on what no model made"
    assert np.array_equal(pixels(shown(page)[1]), grid(real))


def test_fewer_are_spread_over_all_held_out(trained: Path) -> None:
    two, all_of_them = real_pictures(trained, 2)[0], real_pictures(trained, 64)[0]
    assert two is not None and all_of_them is not None
    assert np.array_equal(two, all_of_them[[0, -1]])


def copy_of(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    return to


def test_a_second_page_replaces_the_first(trained: Path, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path / "run")
    path = write_gallery(run)
    assert path == run / "gallery.html"
    first = path.read_bytes()
    assert write_gallery(run).read_bytes() == first


def test_without_pictures_film_or_metrics_there_is_still_a_page(trained: Path, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path / "run")
    for name in ("film.webp", "metrics.jsonl", "manifest.json"):
        (run / name).unlink(missing_ok=True)
    page = Page(write_gallery(run).read_text())
    assert len(shown(page)) == 2 and "Real" not in page.text


def test_names_cannot_write_into_the_page(trained: Path, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path / "<script>alert(1)<img src=x onerror=a>")
    page = Page(write_gallery(run).read_text())
    assert "script" not in page.tags and "x" not in page.links
    assert "<script>alert(1)" in page.text


def test_last_metrics_are_the_last_whole_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_metrics(path) == {}
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert last_metrics(path) == {"a": 2}
    for damaged in ("", '{"a": 1}\n{"a"', "\n"):
        path.write_text(damaged)
        assert last_metrics(path) == {}


def test_a_run_may_end_with_a_score_or_a_check_up(trained: Path, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path / "run")
    step = {
        "seen_images": 24, "seconds": 1.0, "images_per_second": 123.0,
        "discriminator_loss": 0.5, "generator_loss": 0.25,
    }  # fmt: skip
    score = {"seen_images": 24, "seconds": 1.1, "metric": "FD lite0@96", "score": 70.0}
    for rows, speed in (([step, score], True), ([score], False)):
        (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        text = Page(write_gallery(run).read_text()).text
        assert ("123 images/s" in text) == speed and ("D 0.50, G 0.25" in text) == speed


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        write_gallery(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_is_one_line(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError) as caught:
        write_gallery(trained, tmp_path / "file" / "gallery.html")
    assert "\n" not in str(caught.value)
