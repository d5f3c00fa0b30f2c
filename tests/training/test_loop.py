"""The loop: what it sees, for how long, what it leaves behind, and that broken numbers are never kept."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import ganvas
from ganvas.checkpoint import load_latest
from ganvas.errors import SettingError, TrainingError
from ganvas.networks import build
from ganvas.training import game, growth, loop
from ganvas.training.loop import Watcher, annealed, budget_used, decayed, penalty_weight, train
from ganvas.training.run import Moment


class Recorder(Watcher):
    """Keeps what training told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def preparing(self, done: int, total: int) -> None:
        self.told.append(("preparing", (done, total)))

    def prepared(self, plan: Any, dataset: Any, position: Any) -> None:
        self.dataset, self.plan = dataset, plan
        self.told.append(("prepared", position.seen_images))

    def tick(self, tick: Any) -> None:
        self.told.append(("tick", tick))

    def picture(self, path: Path) -> None:
        self.told.append(("picture", path))

    def saved(self, path: Path) -> None:
        self.told.append(("saved", path))

    def of(self, kind: str) -> list[Any]:
        return [what for name, what in self.told if name == kind]


@pytest.mark.parametrize("images", [1, 4, 21, 24])
def test_the_budget_is_met_to_a_batch(pictures: Path, tmp_path: Path, tiny: dict[str, Any], images: int) -> None:
    run = train(pictures, tmp_path / "run", images=images, **tiny)
    assert run.seen_images == -(-images // tiny["batch"]) * tiny["batch"]
    assert run.signal is None and run.seconds > 0
    assert run.folder == tmp_path / "run"
    found = load_latest(run.folder)
    assert found is not None and found.seen_images == run.seen_images


def test_epochs_are_passes_over_the_training_pictures(pictures: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    recorder = Recorder()
    run = train(pictures, tmp_path / "run", epochs=0.5, watcher=recorder, **tiny)
    assert 0 <= run.seen_images - len(recorder.dataset.train) / 2 <= tiny["batch"]


def test_what_is_told_and_left_behind(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_STEPS", 1)
    recorder = Recorder()
    run = train(pictures, tmp_path / "run", images=32, watcher=recorder, **{**tiny, "frames": 4})
    kinds = [kind for kind, _ in recorder.told]
    assert kinds.index("prepared") < kinds.index("picture") < kinds.index("tick") < kinds.index("saved")
    done = recorder.of("preparing")
    assert done[-1] == (80, 80) and done == sorted(done)

    shown = [int(path.stem) for path in recorder.of("picture")]
    assert shown[0] == 0 and shown[-1] == run.seen_images and len(shown) >= 4, "at the start and at the end too"
    assert sorted(path.name for path in (run.folder / "samples").iterdir()) == [f"{n:012d}.png" for n in shown]
    assert run.film == run.folder / "film.webp"
    with Image.open(run.film) as film:
        assert film.n_frames == len(shown)

    ticks = recorder.of("tick")
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [tick.seen_images for tick in ticks] == [row["seen_images"] for row in rows] == list(range(4, 36, 4))
    for tick, row in zip(ticks, rows, strict=True):
        assert row["discriminator_loss"] == pytest.approx(tick.discriminator_loss, abs=1e-6)
    seconds, progress = [tick.seconds for tick in ticks], [tick.progress for tick in ticks]
    assert seconds == sorted(seconds) and progress == pytest.approx([k / 8 for k in range(8)])

    assert recorder.of("saved") == [run.folder / "checkpoints" / f"{run.seen_images:012d}"]
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["pictures"]["train"] + manifest["pictures"]["held_out"] == 80
    assert not list(run.folder.rglob(".tmp-*"))


@pytest.mark.parametrize(("save_minutes", "expected"), [(2.0, 12), (0.1, 6)])
def test_a_short_budget_is_saved_on_the_way(
    pictures: Path,
    tmp_path: Path,
    tiny: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    save_minutes: float,
    expected: int,
) -> None:
    """A minute, in steps of a second: a fifth of it lies between two checkpoints, or as little as was asked for."""

    class Clock:
        def __init__(self, before: float) -> None:
            self.now = before

        def seconds(self) -> float:
            self.now += 1
            return self.now

    monkeypatch.setattr(loop, "Stopwatch", Clock)
    recorder = Recorder()
    train(pictures, tmp_path / "run", minutes=1.0, watcher=recorder, **{**tiny, "save_minutes": save_minutes})
    steps = [int(path.name) // tiny["batch"] for path in recorder.of("saved")]
    between = np.diff([0, *steps[:-1]])
    assert len(between) >= 4 and set(between) <= {expected, expected + 1}


def test_held_out_pictures_are_never_seen_and_all_others_once_an_epoch(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    real = game.to_tensor

    def watch(pixels: np.ndarray, device: str) -> torch.Tensor:
        seen.extend(pixels.copy())
        return real(pixels, device)

    monkeypatch.setattr(game, "to_tensor", watch)
    recorder = Recorder()
    train(pictures, tmp_path / "run", epochs=2.0, flip=True, watcher=recorder, **tiny)
    dataset = recorder.dataset
    assert len(dataset.heldout) >= 4

    def key(image: np.ndarray) -> bytes:
        return min(image.tobytes(), image[:, ::-1].tobytes())  # mirrored or not

    counts = Counter(map(key, seen))
    assert not [index for index in dataset.heldout if key(dataset.images[index]) in counts]
    assert [counts[key(dataset.images[index])] for index in dataset.train] == [2] * len(dataset.train)
    straight = sum(image.tobytes() in {dataset.images[i].tobytes() for i in dataset.train} for image in seen)
    assert 0.3 < straight / len(seen) < 0.7, "half of them mirrored"


def test_the_penalty_is_lazy_and_weighs_as_many_times_more(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[bool, float]] = []
    real = game.play

    def watch(*args: Any) -> Any:
        given.append((args[5] is not None, args[6]))
        return real(*args)

    monkeypatch.setattr(game, "play", watch)
    train(pictures, tmp_path / "run", images=28, penalty_every=3, **tiny)
    assert [there for there, _ in given] == [True, False, False, True, False, False, True]
    assert all(weight == 3 for there, weight in given if there)


def test_the_learning_rate_falls_to_zero_at_the_end(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    real = game.play

    def watch(players: Any, *args: Any) -> Any:
        optimisers = (players.generator_optimiser, players.discriminator_optimiser)
        (rate,) = {optimiser.param_groups[0]["lr"] for optimiser in optimisers}
        rates.append(rate)
        return real(players, *args)

    monkeypatch.setattr(game, "play", watch)
    train(pictures, tmp_path / "run", images=40, anneal=0.5, learning_rate=0.01, **tiny)
    assert rates == pytest.approx([0.01] * 6 + [0.008, 0.006, 0.004, 0.002])


def test_a_batch_that_grows_is_played_and_the_rate_with_it(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doubled after 4 images and after 16."""
    played: list[tuple[int, int, float]] = []
    real = game.Game.step

    def watch(self: game.Game, turn: game.Turn) -> Any:
        played.append((turn.seen_images, len(self._draw(turn)[0]), turn.rate))
        return real(self, turn)

    monkeypatch.setattr(growth, "PATIENCE", 1)
    monkeypatch.setattr(game.Game, "step", watch)
    settings = {**tiny, "first_batch": 2, "batch": 8, "anneal": 0.0, "learning_rate": 0.01}
    assert train(pictures, tmp_path / "run", images=32, **settings).seen_images == 32
    assert [turn[:2] for turn in played] == [(0, 2), (2, 2), (4, 4), (8, 4), (12, 4), (16, 8), (24, 8)]
    assert [rate for *_, rate in played] == pytest.approx([0.01] * 2 + [0.01 * 2**0.5] * 3 + [0.02] * 2)


@given(progress=st.floats(0, 1.5), last=st.just(0.0) | st.floats(1e-6, 1))
def test_annealing_is_one_then_a_line_to_zero(progress: float, last: float) -> None:
    factor = annealed(progress, last)
    assert 0 <= factor <= 1
    if last == 0 or progress <= 1 - last:
        assert factor == pytest.approx(1)
    elif progress < 1:
        assert factor == pytest.approx((1 - progress) / last, abs=1e-9)
    else:
        assert factor == 0


def test_the_budget_that_is_used_up_first_counts() -> None:
    moment = Moment(seen_images=500, seconds=90.0)
    assert budget_used(moment, 3.0, None) == pytest.approx(0.5)
    assert budget_used(moment, None, 2000) == pytest.approx(0.25)
    assert budget_used(moment, 3.0, 2000) == pytest.approx(0.5)
    assert budget_used(moment, 3.0, 400) == pytest.approx(1.25)


@pytest.mark.parametrize("log_steps", [1, 1000])
@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_numbers_that_are_not_finite_are_never_saved(
    pictures: Path,
    tmp_path: Path,
    tiny: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    log_steps: int,
    player: str,
) -> None:
    """Whether a row of metrics or the checkpoint itself meets them first."""
    train(pictures, tmp_path / "run", images=8, **tiny)
    monkeypatch.setattr(loop, "LOG_STEPS", log_steps)
    real, steps = game.play, []

    def poison(players: Any, *args: Any) -> Any:
        losses = real(players, *args)
        steps.append(1)
        if len(steps) == 2:
            with torch.no_grad():
                next(getattr(players, player).parameters()).fill_(torch.nan)
        return losses

    monkeypatch.setattr(game, "play", poison)
    with pytest.raises(TrainingError) as caught:
        train(pictures, tmp_path / "run", images=24, **tiny)
    assert "\n" not in str(caught.value) and "finite" in str(caught.value)
    found = load_latest(tmp_path / "run")
    assert found is not None and found.seen_images == 8 and not found.skipped, "the one before is whole"
    monkeypatch.undo()
    again = train(pictures, tmp_path / "run", images=24, **tiny)
    assert again.seen_images == 24, "and training can go on from it"


def test_a_second_writer_is_refused(pictures: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    from ganvas.errors import StorageError
    from ganvas.files import lock

    train(pictures, tmp_path / "run", images=4, **tiny)
    with lock(tmp_path / "run"), pytest.raises(StorageError, match="in use by"):
        train(pictures, tmp_path / "run", images=8, **tiny)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch": 0}, ["batch", "0"]),
        ({"batsh": 8}, ["batsh", "did you mean 'batch'"]),
        ({"preset": "dcgn"}, ["dcgn", "did you mean 'dcgan'"]),
        ({"size": "sixty"}, ["size", "sixty"]),
        ({"size": 65}, ["65", "64"]),
    ],
)
def test_bad_settings_stop_before_anything_is_written(
    pictures: Path, tmp_path: Path, settings: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(SettingError) as caught:
        train(pictures, tmp_path / "run", **settings)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_run_folder_is_named_after_the_source(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ganvas.train(pictures, images=4, **tiny).folder == Path("runs") / pictures.name


@given(seen=st.integers(0, 10**9), constant=st.integers(1, 10**6))
def test_the_rate_falls_with_the_root_of_the_images(seen: int, constant: int) -> None:
    factor = decayed(seen, constant)
    assert factor == 1.0 if seen <= constant else factor**2 == pytest.approx(constant / seen)
    assert decayed(seen, 0) == 1.0, "0: never"
    assert decayed(4 * constant, constant) == pytest.approx(0.5), "four times the images, half the rate"


def test_the_monitor_looks_at_latents_like_any_other(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn by torch from the run's own seed they would be rows of the first layer's weights, and images extreme."""
    looks = []

    class Spy(loop.CheckUp):
        def __init__(self, dataset: Any, latents: torch.Tensor, classes: int) -> None:
            looks.append(latents)
            super().__init__(dataset, latents, classes)

    monkeypatch.setattr(loop, "CheckUp", Spy)
    recorder = Recorder()
    run = train(pictures, tmp_path / "run", images=8, watcher=recorder, **{**tiny, "seed": 0, "z_dim": 64, "width": 16})
    torch.manual_seed(0)
    config = recorder.plan.config
    fresh, _ = build(config.network, config.data.size, 3, 0, torch.float32)
    weight = fresh.get_parameter("mapping.layers.0.weight")
    alike = torch.nn.functional.cosine_similarity(looks[0][:, None], weight[None], dim=2).abs().max()
    assert run.seen_images and alike < 0.7


def test_the_penalty_weighs_for_the_steps_it_is_left_out() -> None:
    asked = [penalty_weight("r1", 4, step, 1.0) for step in range(8)]
    assert asked == [4.0, 0.0, 0.0, 0.0] * 2
    assert [penalty_weight("r1", 4, step, 2.0) for step in range(8)] == [2 * weight for weight in asked]


def test_without_a_penalty_there_is_none_until_the_monitor_asks() -> None:
    assert not any(penalty_weight("none", 1, step, 1.0) for step in range(16))
    assert [penalty_weight("none", 1, step, 2.0) for step in range(16)] == [8.0, *[0.0] * 7] * 2
    assert penalty_weight("none", 1, 0, 4.0) == 16.0
