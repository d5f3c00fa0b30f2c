"""The promise of a resume: interrupted and uninterrupted runs end with the same bytes, whatever happened in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ganvas.checkpoint import load_latest
from ganvas.console import TrainingLine
from ganvas.errors import CheckpointError, SettingError
from ganvas.training import game, growth, loop
from ganvas.training.loop import Run, Watcher, train
from small import TINY, draw

BATCH, STEPS, EVERY = 4, 24, 3
EPOCH = 19  # steps: 76 training pictures, which a test below holds
# Grids are drawn at every step, so that a watcher can interrupt after any of them.
COMMON: dict[str, Any] = {
    **TINY, "batch": BATCH, "images": STEPS * BATCH, "frames": 2000, "samples": 2, "flip": True, "penalty_every": EVERY,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "style": COMMON,
    # Noise of its own in the penalty, and a batch that is computed in two shares on two threads.
    "shares": {**COMMON, "penalty": "finite-difference", "batch": 8, "images": 12 * 8, "threads": 2, "shares": 2},
    "dcgan": {**{k: v for k, v in COMMON.items() if k not in ("width", "precision")}, "preset": "dcgan"},
    "classes": {**COMMON, "classes": True, "penalty": "wgan-gp", "batch": 3, "images": 33},
}


class Stop(Watcher):
    """Interrupts once `seen` images are seen; keeps the notes of the start."""

    def __init__(self, seen: int | None = None) -> None:
        self.seen, self.notes = seen, []

    def prepared(self, plan: Any, dataset: Any, position: Any) -> None:
        self.notes, self.start, self.dataset = position.notes, position.seen_images, dataset

    def picture(self, path: Path) -> None:
        if self.seen is not None and int(path.stem) >= self.seen:
            os.kill(os.getpid(), signal.SIGINT)


def until(source: Path, folder: Path, settings: dict[str, Any], seen: int) -> Run:
    """Train until `seen` images are seen, then interrupt."""
    run = train(source, folder, watcher=Stop(seen), **settings)
    assert (run.seen_images, run.signal) == (seen, signal.SIGINT)
    return run


def tensors_of(folder: Path) -> dict[str, bytes]:
    """The newest checkpoint's tensor files, byte by byte."""
    newest = max((folder / "checkpoints").iterdir())
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}


def assert_same_run(one: Path, other: Path) -> None:
    """Every tensor, every byte of the tensor files, every sample grid."""
    left, right = load_latest(one), load_latest(other)
    assert left is not None and right is not None and left.seen_images == right.seen_images
    assert set(left.tensors) == set(right.tensors) == {"generator", "networks", "optimisers"}
    for part, tensors in left.tensors.items():
        differing = [name for name, tensor in tensors.items() if not torch.equal(tensor, right.tensors[part][name])]
        assert not differing, f"{part}: {differing[:5]}"
    assert tensors_of(one) == tensors_of(other)
    grids = [{path.name: path.read_bytes() for path in (run / "samples").iterdir()} for run in (one, other)]
    assert grids[0] == grids[1]


@pytest.fixture(scope="module")
def whole(pictures: Path, classed: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Uninterrupted runs, made once a kind: `whole("style")` is its folder and its source."""
    made: dict[str, tuple[Path, Path]] = {}

    def get(kind: str) -> tuple[Path, Path]:
        if kind not in made:
            source = classed if kind == "classes" else pictures
            run = train(source, tmp_path_factory.mktemp("whole") / "run", **KINDS[kind])
            assert run.signal is None and run.seen_images == KINDS[kind]["images"]
            made[kind] = run.folder, source
        return made[kind]

    return get


def test_an_epoch_has_as_many_steps_as_these_tests_think(whole: Any) -> None:
    manifest = json.loads((whole("style")[0] / "manifest.json").read_text())
    assert manifest["pictures"]["train"] == EPOCH * BATCH


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(1, id="after one step"),
        pytest.param(EVERY, id="before a penalty"),
        pytest.param(EVERY + 1, id="after a penalty"),
        pytest.param(8, id="mid-epoch"),
        pytest.param(EPOCH, id="at the end of an epoch"),
        pytest.param(STEPS - 1, id="before the last step"),
    ],
)
def test_one_interruption_changes_no_bit(whole: Any, tmp_path: Path, steps: int) -> None:
    expected, source = whole("style")
    until(source, tmp_path / "run", COMMON, steps * BATCH)
    run = train(source, tmp_path / "run", **COMMON)
    assert run.signal is None
    assert_same_run(run.folder, expected)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_many_interruptions_change_no_bit(whole: Any, tmp_path: Path, kind: str) -> None:
    expected, source = whole(kind)
    settings = KINDS[kind]
    batch, folder = settings["batch"], tmp_path / "run"
    last = settings["images"] // batch
    for steps in (1, 2, last // 2, last - 1):
        until(source, folder, settings, steps * batch)
    watcher = Stop()
    run = train(source, folder, watcher=watcher)  # the run knows its settings
    assert watcher.start == (last - 1) * batch and watcher.notes == []
    assert_same_run(run.folder, expected)
    assert [row["seen_images"] for row in rows(folder)] == [row["seen_images"] for row in rows(expected)]


def test_a_batch_that_grows_goes_on_as_it_would_have_grown(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is doubled after 4 images and after 16: stopped before, at, and after that."""
    monkeypatch.setattr(growth, "PATIENCE", 1)
    settings = {**COMMON, "first_batch": 2, "batch": 8, "images": 40}
    straight = train(pictures, tmp_path / "straight", **settings)
    assert (straight.seen_images, straight.signal) == (40, None)
    for seen in (2, 4, 12, 16, 24):
        until(pictures, tmp_path / "run", settings, seen)
    assert_same_run(train(pictures, tmp_path / "run").folder, straight.folder)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resume_draws_no_grid_that_is_not_due(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopAtTick(Watcher):
        def tick(self, tick: Any) -> None:
            if tick.seen_images == 11 * BATCH:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop, "LOG_STEPS", 1)
    settings = {**COMMON, "frames": 3}
    straight = train(pictures, tmp_path / "straight", **settings).folder
    run = train(pictures, tmp_path / "run", watcher=StopAtTick(), **settings)
    assert run.signal == signal.SIGINT and run.seen_images == 11 * BATCH
    assert not (run.folder / "samples" / f"{run.seen_images:012d}.png").exists()
    assert_same_run(train(pictures, tmp_path / "run").folder, straight)


def test_an_interruption_before_the_first_step_saves_nothing_and_breaks_nothing(whole: Any, tmp_path: Path) -> None:
    expected, source = whole("style")
    until(source, tmp_path / "run", COMMON, 0)
    assert load_latest(tmp_path / "run") is None
    assert_same_run(train(source, tmp_path / "run", **COMMON).folder, expected)


def test_another_run_is_another_run(whole: Any, tmp_path: Path) -> None:
    """The comparison above can fail: one seed more, or one bit of the order, and nothing is the same."""
    expected, source = whole("style")
    other = train(source, tmp_path / "run", **{**COMMON, "seed": 1}).folder
    with pytest.raises(AssertionError):
        assert_same_run(other, expected)
    until(source, tmp_path / "bent", COMMON, 8 * BATCH)
    found = load_latest(tmp_path / "bent")
    assert found is not None
    moment = next(tensor for name, tensor in sorted(found.tensors["optimisers"].items()) if name.endswith("exp_avg_sq"))
    moment.view(-1)[0] += 1e-3
    from ganvas.checkpoint import save

    save(tmp_path / "bent", found.seen_images, found.tensors, found.state)
    with pytest.raises(AssertionError):
        assert_same_run(train(source, tmp_path / "bent", **COMMON).folder, expected)


@pytest.mark.parametrize("name", ["networks.safetensors", "optimisers.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_and_said(
    whole: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, source = whole("style")
    monkeypatch.setattr(loop, "LOG_STEPS", 1)
    folder = tmp_path / "run"
    until(source, folder, COMMON, 3 * BATCH)
    until(source, folder, COMMON, 8 * BATCH)
    newest = max((folder / "checkpoints").iterdir())
    assert newest.name == f"{8 * BATCH:012d}"
    data = bytearray((newest / name).read_bytes())
    data[len(data) // 2] ^= 1
    (newest / name).write_bytes(data)
    assert [row["seen_images"] for row in rows(folder)][-1] == 8 * BATCH

    with TrainingLine() as line:
        run = train(source, folder, watcher=line, **COMMON)
    told = " ".join(capsys.readouterr().out.split())
    assert "damaged" in told and name in told and "going on at 12 images" in told
    assert_same_run(run.folder, expected)
    assert [row["seen_images"] for row in rows(folder)] == list(range(BATCH, STEPS * BATCH + 1, BATCH)), (
        "rows after the checkpoint are dropped, and written again once"
    )


def test_nothing_is_trained_over_checkpoints_that_are_all_damaged(whole: Any, tmp_path: Path) -> None:
    done, source = whole("style")
    folder = tmp_path / "run"
    shutil.copytree(done, folder)
    for path in folder.glob("checkpoints/*/networks.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    before = sorted(path.name for path in (folder / "checkpoints").iterdir())
    with pytest.raises(CheckpointError, match=r"none of \d+ checkpoints can be used") as caught:
        train(source, folder, **{**COMMON, "images": 200})
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == before


def test_a_changed_setting_is_refused_and_a_new_thread_count_is_said(whole: Any, tmp_path: Path) -> None:
    done, source = whole("style")
    folder = tmp_path / "run"
    shutil.copytree(done, folder)
    with pytest.raises(SettingError) as caught:
        train(source, folder, **{**COMMON, "width": 16})
    assert "width = 16" in str(caught.value) and "begun with 8" in str(caught.value) and "\n" not in str(caught.value)
    watcher = Stop()
    train(source, folder, watcher=watcher, **{**COMMON, "threads": 2})
    assert len(watcher.notes) == 1 and "not bit-exact" in watcher.notes[0] and "2 threads" in watcher.notes[0]


def test_other_pictures_are_refused(tmp_path: Path) -> None:
    source = draw(tmp_path / "discs", 12)
    settings = {**COMMON, "images": 8}
    train(source, tmp_path / "run", **settings)
    draw(source, 1, first=99)
    with pytest.raises(SettingError) as caught:
        train(source, tmp_path / "run", **{**settings, "images": 16})
    assert "holds other pictures" in str(caught.value) and "\n" not in str(caught.value)
    (source / "099.png").unlink()
    assert train(source, tmp_path / "run", **{**settings, "images": 16}).seen_images == 16, (
        "bring them back: it goes on"
    )


def test_a_finished_run_again_trains_nothing(whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, source = whole("style")
    folder = tmp_path / "run"
    shutil.copytree(done, folder)
    before = {path: path.read_bytes() for path in folder.glob("checkpoints/**/*") if path.is_file()}

    def never(*_: Any) -> Any:
        raise AssertionError("a step was trained")

    monkeypatch.setattr(game, "play", never)
    run = train(source, folder, **COMMON)
    assert run.seen_images == STEPS * BATCH and run.signal is None
    assert {path: path.read_bytes() for path in folder.glob("checkpoints/**/*") if path.is_file()} == before
    assert_same_run(folder, done)
    assert rows(folder) == rows(done)


def test_a_larger_budget_goes_on(whole: Any, tmp_path: Path) -> None:
    """Without annealing, which looks at the budget, going on is what a larger budget from the start would have been."""
    _, source = whole("style")
    settings = {**COMMON, "anneal": 0.0, "frames": 1, "images": 8 * BATCH}
    folder = train(source, tmp_path / "run", **settings).folder
    run = train(source, folder, images=12 * BATCH)
    straight = train(source, tmp_path / "straight", **{**settings, "images": 12 * BATCH})
    assert run.seen_images == straight.seen_images == 12 * BATCH
    assert tensors_of(folder) == tensors_of(straight.folder)


def test_sigterm_saves_and_exits_with_143(whole: Any, tmp_path: Path) -> None:
    """A process of its own, stopped as a scheduler does it, at a moment that nobody chose; the rest is exact again."""
    _, source = whole("style")
    folder = tmp_path / "run"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**TINY, "anneal": 0.0}.items()]
    command = [sys.executable, "-m", "ganvas", "train", str(source), "--to", str(folder), "--images=100000000", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            metrics = folder / "metrics.jsonl"
            for _ in range(1200):
                if process.poll() is not None or (metrics.exists() and metrics.stat().st_size):
                    break
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 143, err
    found = load_latest(folder)
    assert found is not None and found.seen_images > 0 and not found.skipped
    assert f"stopped and saved at {found.seen_images:,} images" in " ".join(out.split())
    more = found.seen_images + 3 * BATCH
    train(source, folder, images=more)
    straight = train(source, tmp_path / "straight", images=more, **{**TINY, "anneal": 0.0}).folder
    assert tensors_of(folder) == tensors_of(straight)
