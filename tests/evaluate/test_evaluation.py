"""The whole verb, on small runs and folders: what stands beside what, and what is said of bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganvas.data.cache import Dataset
from ganvas.errors import CheckpointError, DataError, SettingError
from ganvas.evaluate import evaluate
from ganvas.evaluate.evaluation import notes_on, parts
from ganvas.evaluate.memory import KEPT, real_vectors
from ganvas.evaluate.result import Evaluation
from ganvas.evaluate.subject import open_images, open_run, pictures_of_run, read_curve
from ganvas.generator import Generator
from small import draw


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of folders is made where one is."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to write into; its prepared pictures stay where they were."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "discs"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """700 pictures, of which 64 are held out."""
    return draw(tmp_path_factory.mktemp("many") / "discs", 700)


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 other pictures drawn by the same rule: what a perfect generator would make."""
    return draw(tmp_path_factory.mktemp("more") / "others", 200, first=10_000)


def figures(what: Path, **options: Any) -> Evaluation:
    evaluation, _ = evaluate(what, features="pixels", **options)
    return evaluation


def test_a_run_is_measured_against_what_it_never_saw(run: Path) -> None:
    evaluation, shown = evaluate(run, features="pixels")
    dataset = pictures_of_run(run, pytest.fail, None)
    assert evaluation.protocol.split == "heldout"
    assert evaluation.samples.reference == evaluation.real.reference == len(dataset.heldout)
    assert evaluation.samples.count == evaluation.real.count == len(dataset.train), "as many real ones stand beside"
    assert evaluation.seen_images == 24 and evaluation.weights == Generator.load(run).weights
    assert np.array_equal(shown.samples, Generator.load(run).sample(range(64)))
    held = {picture.tobytes() for picture in dataset.images[dataset.heldout]}
    assert {picture.tobytes() for picture in shown.real} <= held
    assert evaluation.words and Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation


def test_a_run_of_24_images_is_worse_than_pictures_of_the_same_kind(run: Path, more: Path, pictures: Path) -> None:
    bad, good = figures(run), figures(more, data=pictures)
    assert bad.samples.frechet_distance and good.samples.frechet_distance
    assert bad.samples.frechet_distance > 2 * good.samples.frechet_distance


def test_what_a_perfect_generator_would_make_is_as_good_as_real(more: Path, many: Path) -> None:
    """Two hundred unseen pictures of the same kind, and two hundred training pictures, against the same reference."""
    evaluation = figures(more, data=many)
    assert evaluation.samples.count == 200 and evaluation.real.count == 200
    ours, real = evaluation.samples, evaluation.real
    assert ours.frechet_distance == pytest.approx(real.frechet_distance, rel=0.25)
    assert ours.kid is not None and ours.kid.low is not None and ours.kid.high is not None
    assert ours.kid.low < 0.02 and abs(ours.kid.value) < 0.05
    assert not any(each.copied for each in evaluation.copying)


def test_replayed_training_pictures_are_called_copies(many: Path, tmp_path: Path) -> None:
    evaluation = figures(replay(many, tmp_path / "replayed"), data=many)
    assert all(each.copied for each in evaluation.copying) and evaluation.copying
    pair = evaluation.copying[0].pairs[0]
    assert pair.distance < 1e-6 and pair.name.endswith(".png")
    assert any(line.startswith("Training pictures come back") for line in evaluation.words)


def replay(source: Path, folder: Path) -> Path:
    """150 of the pictures that training would see, under other names."""
    from ganvas.config import DataSettings
    from ganvas.data.cache import prepare
    from ganvas.data.source import open_source

    dataset = prepare(open_source(source), DataSettings(size=(32, 32)), folder.parent / "cache")
    folder.mkdir()
    for number, index in enumerate(dataset.train[:150]):
        shutil.copyfile(source / dataset.names[index], folder / f"sample-{number}.png")
    return folder


def test_a_second_time_real_pictures_are_not_looked_at_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = figures(run)
    from ganvas.evaluate import memory

    monkeypatch.setattr(memory, "in_batches", lambda *_: pytest.fail("their vectors were kept"))
    second = figures(run)
    assert second.model_dump(exclude={"seconds"}) == first.model_dump(exclude={"seconds"})


def test_damaged_vectors_are_computed_anew(run: Path) -> None:
    first = figures(run)
    dataset = pictures_of_run(run, pytest.fail, None)
    kept = list((dataset.root.parent / KEPT).glob("*/vectors.safetensors"))
    assert kept
    for path in kept:
        content = bytearray(path.read_bytes())
        content[-3] ^= 16
        path.write_bytes(content)
    assert figures(run).samples == first.samples


def test_the_figures_do_not_depend_on_how_images_are_named(more: Path, many: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for number, path in enumerate(sorted(more.iterdir(), reverse=True)):
        shutil.copyfile(path, renamed / f"{number:04d}.png")
    one, other = figures(more, data=many, count=200), figures(renamed, data=many, count=200)
    assert one.samples.frechet_distance == pytest.approx(other.samples.frechet_distance, rel=1e-6)
    assert one.samples.mind == pytest.approx(other.samples.mind, rel=1e-6)


@pytest.mark.parametrize("split", ["heldout", "train", "all"])
def test_no_picture_stands_on_both_sides(trained: Path, split: Any) -> None:
    dataset = pictures_of_run(trained, pytest.fail, None)
    reference, beside = parts(dataset, split)
    assert not set(reference) & set(beside) and len(set(reference)) == len(reference) > 0
    if split != "all":
        assert set(reference) == set(dataset.heldout if split == "heldout" else dataset.train)


def test_classes_have_rows_of_their_own(tmp_path: Path) -> None:
    for root, first in (("data", 0), ("samples", 5_000)):
        draw(tmp_path / root / "early", 450 if root == "data" else 60, first=first)
        draw(tmp_path / root / "late", 450 if root == "data" else 60, first=first + 1_000)
    evaluation = figures(tmp_path / "samples", data=tmp_path / "data", classes=True)
    assert [row.name for row in evaluation.classes] == ["early", "late"]
    assert sum(row.count for row in evaluation.classes) == evaluation.samples.count == 120
    assert sum(row.reference for row in evaluation.classes) == evaluation.samples.reference


def test_a_class_that_is_wrong_shows_in_its_row(tmp_path: Path) -> None:
    draw(tmp_path / "data" / "early", 450)
    draw(tmp_path / "data" / "late", 450, first=1_000)
    draw(tmp_path / "samples" / "early", 60, first=5_000)
    late = tmp_path / "samples" / "late"
    late.mkdir()
    for number in range(60):
        Image.fromarray(np.full((32, 32, 3), 4 * number, np.uint8)).save(late / f"{number}.png")
    early, late_row = figures(tmp_path / "samples", data=tmp_path / "data", classes=True).classes
    assert early.frechet_distance and late_row.frechet_distance
    assert late_row.frechet_distance > 3 * early.frechet_distance


def test_pictures_that_were_cleared_away_are_prepared_again(run: Path) -> None:
    before = pictures_of_run(run, pytest.fail, None)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["cache"] = "nowhere"
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert pictures_of_run(run, pytest.fail, None).digest == before.digest


def test_other_pictures_are_refused(run: Path, tmp_path: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["cache"] = "nowhere"
    manifest["pictures"]["digest"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="--data"):
        figures(run)


def test_the_best_generator_of_a_run_has_the_runs_pictures(run: Path) -> None:
    Generator.load(run).save(run / "best")
    best = figures(run / "best")
    assert best.name == "discs/best" and best.samples == figures(run).samples


def test_a_folder_of_other_origin_has_the_size_of_its_images(more: Path, many: Path) -> None:
    subject = open_images(str(more), None, False, pytest.fail, None)
    assert subject.size == (32, 32) and subject.count == 200
    assert len({image.tobytes() for batch in subject.batches(200) for image in batch}) == 200
    first = next(subject.batches(10))
    assert np.array_equal(subject.pick(range(10)), first)


def test_truncation_reaches_the_samples(run: Path) -> None:
    subject = open_run(run, 0.0, None, "fp32")
    images = subject.pick([0, 1, 2])
    assert (images == images[0]).all(), "at 0 all are the mean image"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 1}, "count 1"),
        ({"truncation": 1.5}, "truncation 1.5"),
        ({"size": (32, 32)}, "leave --size"),
        ({"classes": True}, "leave --size and --classes"),
        ({"features": "lite9"}, "lite9"),
    ],
)
def test_bad_options_of_a_run_get_one_line(run: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError) as caught:
        evaluate(run, **{"features": "pixels", **options})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_bad_folders_get_one_line(more: Path, many: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    grey = tmp_path / "grey"
    grey.mkdir()
    for number in range(30):
        Image.fromarray(np.full((32, 32), number, np.uint8)).save(grey / f"{number}.png")
    few = draw(tmp_path / "few", 8)
    for what, options, words in (
        (more, {}, "--data"),
        (more, {"data": many, "truncation": 0.5}, "truncation 0.5"),
        (more, {"data": many, "count": 900}, "holds 200 images"),
        (more, {"data": tmp_path / "empty"}, "empty"),
        (tmp_path / "empty", {"data": many}, "empty"),
        (tmp_path / "nowhere", {"data": many}, "nowhere"),
        (grey, {"data": many}, "grey"),
        (more, {"data": few}, "--split all"),
    ):
        with pytest.raises((SettingError, DataError, CheckpointError)) as caught:
            figures(what, **options)
        assert words in str(caught.value) and "\n" not in str(caught.value), what


def test_tiny_sets_have_scores_where_they_can(tmp_path: Path) -> None:
    few = draw(tmp_path / "few", 12)
    evaluation = figures(draw(tmp_path / "samples", 3, first=50), data=few, split="all")
    assert evaluation.samples.precision is None and evaluation.samples.frechet_distance is not None
    assert evaluation.copying == [] and any("held out" in note for note in evaluation.notes)


def test_the_curve_is_that_of_the_newest_metric(tmp_path: Path) -> None:
    rows: Iterator[Any] = iter(
        [
            {"seen_images": 10, "seconds": 1.0, "metric": "FD pixels@32", "score": 9.0},
            {"seen_images": 10, "seconds": 1.0, "discriminator_loss": 1.0},
            {"seen_images": 20, "seconds": 2.0, "metric": "FD lite0@96", "score": 8.0},
            {"seen_images": 30, "seconds": 3.0, "metric": "FD lite0@96", "score": 7.0},
        ]
    )
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"seen_im')
    points, name = read_curve(tmp_path)
    assert name == "FD lite0@96" and [point.score for point in points] == [8.0, 7.0]
    assert read_curve(tmp_path / "nowhere") == ([], None)


def test_notes_say_what_bounds_the_figures(trained: Path) -> None:
    dataset: Dataset = pictures_of_run(trained, pytest.fail, None)
    reference, others = parts(dataset, "heldout")
    subject = open_run(trained, 1.0, None, "fp32")
    told = notes_on(subject, dataset, 5_000, others, "heldout")
    assert [("5,000" in note) for note in told] == [True]
    assert notes_on(subject, dataset, len(reference), reference, "train") == []


def test_vectors_of_mirrored_pictures_are_those_of_mirrored_pictures(trained: Path) -> None:
    from ganvas.evaluate.features import open_features

    dataset, pixels = pictures_of_run(trained, pytest.fail, None), open_features("pixels")
    straight = real_vectors(dataset, dataset.heldout, pixels)
    mirrored = real_vectors(dataset, dataset.heldout, pixels, mirrored=True)
    by_hand = pixels(np.ascontiguousarray(dataset.images[dataset.heldout][:, :, ::-1]))
    assert np.array_equal(mirrored, by_hand) and not np.array_equal(straight, mirrored)
