"""The benchmark of quality: rivals that train, a second measure that measures, scores and marks that are in order."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from ganvas.evaluate.features import open_features

BENCHMARKS = str(Path(__file__).resolve().parents[1] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
try:
    import quality
    import quality_worker
    from quality_scores import Judge, write_grid
    from rivals import CUT, RECIPES, Loop, gflop_per_image, r3gan_gamma
    from sliced_wasserstein import pyramid, sliced_wasserstein
finally:
    sys.path.remove(BENCHMARKS)

BATCH = 4
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def blobs(count: int, seed: int, side: int = 32, channels: int = 3) -> Pixels:
    """Pictures with detail at every scale, mid-grey on average, far from black and white."""
    random = np.random.default_rng(seed)
    coarse = random.normal(0, 1, (count, 4, 4, channels)).repeat(side // 4, 1).repeat(side // 4, 2)
    return (128 + 15 * coarse + 6 * random.normal(0, 1, (count, side, side, channels))).clip(40, 215).astype(np.uint8)


def batch_of(loop: Loop, channels: int, count: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    real = torch.rand(count, channels, loop.side, loop.side, generator=random) * 2 - 1
    return real, torch.randn(count, loop.z_dim, generator=random)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("side", "channels"), [(32, 3), (64, 1), (128, 3)])
def test_a_rival_makes_the_size_that_was_asked_for(name: str, side: int, channels: int) -> None:
    torch.manual_seed(0)
    loop = Loop(name, side, channels)
    real, z = batch_of(loop, channels)
    with torch.no_grad():
        images, logits = loop.generator(z), loop.critic(real)
    assert images.shape == real.shape and logits.shape == (BATCH,)
    assert images.dtype == logits.dtype == torch.float32
    assert 0.05 < images.std() < 3  # neither nothing nor an explosion before the first step
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_move_both_players_and_the_average_and_stay_finite(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    loop = Loop(name, 32, 1, dtype=dtype)
    real, z = batch_of(loop, 1)
    networks = (loop.generator, loop.critic, loop.average)
    before = [[weight.detach().clone() for weight in network.parameters()] for network in networks]
    for progress in (0.0, 0.5, 1.0):
        losses = loop.step(real, z, progress)
    assert all(bool(loss.isfinite()) for loss in losses)
    assert loop.seen_images == 3 * BATCH
    for network, old in zip(networks, before, strict=True):
        now = list(network.parameters())
        assert all(bool(weight.isfinite().all()) for weight in now)
        moved = sum(not torch.equal(a, b) for a, b in zip(now, old, strict=True))
        assert moved > 0.9 * len(now)


@pytest.mark.parametrize("name", ["r3gan", "ladagan"])
def test_a_batch_in_two_shares_teaches_what_it_teaches_whole(name: str) -> None:
    """Gradients are means over images, the penalty's too: two halves give the same where no image looks at another."""
    found = []
    for threads in (1, 2):
        torch.manual_seed(0)
        loop = Loop(name, 32, 1, threads=threads)
        assert loop.shares == threads
        loss, _ = loop.step(*batch_of(loop, 1))  # the other comes after Adam's first step, which is of signs alone
        found.append([loss, *(weight.grad for weight in loop.critic.parameters())])
    for whole, halves in zip(*found, strict=True):
        assert whole is not None and halves is not None
        assert (whole - halves).norm() <= 1e-3 * whole.norm() + 1e-6


def test_a_recipe_can_be_changed_and_only_as_it_is_said() -> None:
    loop = Loop("r3gan", 32, 1, changes={"rate": 1e-5, "batch": 8})
    loop.step(*batch_of(loop, 1))
    assert loop.batch == 8
    assert loop.optimisers[0].param_groups[0]["lr"] == pytest.approx(1e-5)
    with pytest.raises(ValueError, match="depth"):
        Loop("r3gan", 32, 1, changes={"depth": 2})


def test_r3gan_begins_at_ten_times_its_last_gamma() -> None:
    """Huang et al. 2024, table of settings: 0.05 at 32 pixels, 2 at 64, 150 at 256."""
    for side, first in ((32, 0.05), (64, 2.0), (256, 150.0)):
        assert r3gan_gamma(side, 16, 0.0) == pytest.approx(first)
        assert r3gan_gamma(side, 16, 1.0) == pytest.approx(first / 10)


def test_a_penalty_that_comes_rarely_costs_its_share() -> None:
    """Steps without it count fully, one with it by its interval; and a side that is no power of two is refused."""
    torch.manual_seed(0)
    loop = Loop("stylegan2", 32, 1)
    real, z = batch_of(loop, 1)
    counted = {}
    for every in (16, 2, 1):
        loop.recipe = replace(loop.recipe, every=every)
        counted[every] = gflop_per_image(loop, real, z)
    assert 0 < counted[16] < counted[2] < counted[1]
    plain = 2 * counted[2] - counted[1]
    assert counted[16] == pytest.approx(plain + (counted[1] - plain) / 16)
    with pytest.raises(ValueError, match="side 48"):
        Loop("r3gan", 48, 3)


def test_every_entrant_says_what_it_is() -> None:
    assert set(CUT) == set(RECIPES) <= set(quality.ENTRANTS)
    assert all(len(what) > 20 for what in quality.ENTRANTS.values())


def test_marks_come_in_order_and_copying_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a second and a copy of an hour, by a clock that only they move."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(quality_worker.time, "perf_counter", lambda: clock.now)
    seen: list[float] = []

    def step(progress: float) -> int:
        clock.now += 1
        seen.append(progress)
        return 10

    def copy() -> int:
        clock.now += 3600
        return len(seen)

    found = quality_worker.clocked(step, copy, 1.0, [0.1, 0.25, 0.5, 1.0], lambda: None)
    assert [one.mark for one in found] == [0.1, 0.25, 0.5, 1.0]
    assert [one.seconds for one in found] == pytest.approx([6, 15, 30, 60])
    assert [one.seen_images for one in found] == [60, 150, 300, 600]
    assert [one.generator for one in found] == [6, 15, 30, 60]
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] < 1


def test_a_step_longer_than_the_run_passes_every_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(quality_worker.time, "perf_counter", lambda: clock.now)

    def step(progress: float) -> int:
        clock.now += 500
        return 10

    found = quality_worker.clocked(step, lambda: None, 1.0, [0.5, 1.0], lambda: None)
    assert [(one.mark, one.seconds) for one in found] == [(0.5, 500), (1.0, 500)]


@pytest.mark.parametrize(
    ("marks", "expected"), [([0.1, 0.25, 0.5, 1.0], 0.05), ([0.5, 1.0], 0.5), ([0.333, 1.0], 0.01)]
)
def test_checkpoints_fall_on_every_mark(marks: list[float], expected: float) -> None:
    assert quality_worker.interval(marks) == pytest.approx(expected)


@pytest.mark.slow
def test_a_run_of_ganvas_leaves_samples_of_each_mark(tmp_path: Path) -> None:
    """The process that `ours` is, on 40 pictures for a second or two."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, image in enumerate(blobs(40, 0)):
        Image.fromarray(image).save(pictures / f"{number:02d}.png")
    task = quality_worker.Task(
        folder=str(tmp_path / "ours"), source=str(pictures), pictures="", size=32, minutes=0.02, marks=[0.5, 1.0],
        samples=16, seed=0, flip=False, threads=1, device="cpu",
    )  # fmt: skip
    (tmp_path / "ours").mkdir()
    told = quality_worker.ganvas_run("ours", task)
    json.dumps(told)
    assert [one["mark"] for one in told["marks"]] == [0.5, 1.0]
    assert 0 < told["marks"][0]["seen_images"] <= told["marks"][1]["seen_images"] == told["seen_images"]
    for mark in task.marks:
        images = np.load(quality_worker.samples_path(tmp_path / "ours", mark))
        assert images.shape == (16, 32, 32, 3) and images.dtype == np.uint8


def test_equal_sets_are_no_distance_apart_and_order_of_the_two_does_not_matter() -> None:
    a, b = blobs(24, 0), blobs(24, 1)
    assert set(sliced_wasserstein(a, a).values()) == {0.0}
    assert sliced_wasserstein(a, b) == pytest.approx(sliced_wasserstein(b, a))
    assert all(value > 0 for value in sliced_wasserstein(a, b).values())


def test_brightness_that_moves_all_pictures_alike_is_not_seen() -> None:
    """Differences of a pyramid do not hold it, and the last level is normalised by its set."""
    a, b = blobs(24, 0), blobs(24, 1)
    assert sliced_wasserstein(a, b + np.uint8(20)) == pytest.approx(sliced_wasserstein(a, b), rel=1e-3, abs=1e-3)


def test_blur_is_seen_where_it_is() -> None:
    """The finest level moves farther than chance moves it, and the coarse one less."""

    def blurred(images: Pixels) -> Pixels:
        return np.stack([np.asarray(Image.fromarray(one).filter(ImageFilter.GaussianBlur(1))) for one in images])

    a, b = blobs(48, 0), blobs(48, 1)
    chance, moved = sliced_wasserstein(a, b), sliced_wasserstein(a, blurred(b))
    assert list(moved) == [32, 16]
    assert moved[32] > 2 * chance[32]
    assert moved[32] - chance[32] > moved[16] - chance[16]


def test_a_pyramid_can_be_put_together_again() -> None:
    """Burt and Adelson 1983: each level holds exactly what enlarging the next one misses."""
    from sliced_wasserstein import enlarged

    images = blobs(3, 0, side=64)
    levels = pyramid(images)
    assert [level.shape[2] for level in levels] == [64, 32, 16]
    whole = levels[-1]
    for level in levels[-2::-1]:
        whole = level + enlarged(whole)
    np.testing.assert_allclose(whole.transpose(0, 2, 3, 1), images, atol=1e-3)


def test_pictures_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        sliced_wasserstein(blobs(2, 0).astype(np.float32), blobs(2, 0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pictures of"):
        sliced_wasserstein(blobs(2, 0), blobs(2, 0, side=16))


def test_real_pictures_score_better_than_spoilt_ones(tmp_path: Path) -> None:
    """All figures at once, on arrays; the curve's figure is the last one's."""
    judge = Judge(blobs(40, 0), open_features("pixels@8"))
    real = judge.scores(blobs(40, 1))
    spoilt = judge.scores(np.random.default_rng(2).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    assert real["fd"] < spoilt["fd"] and real["kid"] < spoilt["kid"] and real["swd"] < spoilt["swd"]
    assert real["precision"] > spoilt["precision"]
    assert real["kid_error"] > 0 and real["faces"] is None
    assert judge.distance(blobs(40, 1)) == pytest.approx(real["fd"])
    write_grid(tmp_path / "grid.png", blobs(70, 0))
    assert Image.open(tmp_path / "grid.png").size == (8 * 32 + 7 * 2,) * 2


def test_copies_of_what_was_learned_from_are_found_also_mirrored_and_other_pictures_are_none() -> None:
    """And a line says so."""
    judge, train = Judge(blobs(60, 0), open_features("pixels@8")), blobs(80, 1)
    honest, copied = judge.copies(blobs(60, 2), train), judge.copies(train[:60, :, ::-1], train)
    assert set(honest) == set(copied) == {"pixels@8", "pixels@32"}
    assert not any(found["copied"] for found in honest.values())
    assert all(found["copied"] and found["c_t"] < -3 for found in copied.values())
    first, second = (quality.of_copies("pixels@8", found["pixels@8"]) for found in (honest, copied))
    assert first.startswith("no copies in pixels@8") and second.startswith("COPIES in pixels@8: 100% of samples")


def test_results_of_the_same_settings_are_kept_and_of_others_are_not(tmp_path: Path) -> None:
    path, settings = tmp_path / "quality.json", {"minutes": 10.0, "marks": [0.5, 1.0]}
    result = quality.stored(path, settings)
    result["entrants"]["ours"] = {"seen_images": 5}
    quality.write_json(path, result)
    assert quality.stored(path, settings)["entrants"] == {"ours": {"seen_images": 5}}
    assert quality.stored(path, {**settings, "minutes": 5.0})["entrants"] == {}
    assert json.loads((tmp_path / "quality.other.json").read_text()) == result  # and not lost either


def test_the_command_says_what_is_wrong_and_the_last_mark_is_the_end(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    changes = "r3gan.gamma=0.5,r3gan.rate=1e-4"
    asked = quality.parse(["--data", "avatars", "--marks", "0.5", "--change", changes, "--to", str(tmp_path)])
    assert asked.marks == [0.5, 1.0] and asked.change == {"r3gan": {"gamma": 0.5, "rate": 1e-4}}
    for wrong, said in (
        (["--entrants", "our"], "our not known"),
        (["--size", "50"], "multiple of 8"),
        (["--change", "ours.rate=1"], "RIVAL"),
    ):
        with pytest.raises(SystemExit):
            quality.parse(wrong)
        assert said in capsys.readouterr().err


def test_pictures_that_are_not_there_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["quality.py", "--data", "nowhere", "--to", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        quality.main()
    told = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and len(told) == 1 and told[0].startswith("quality.py: 'nowhere' is no folder")


def test_who_cannot_make_a_size_says_so() -> None:
    assert [quality.why_not(name, 64) for name in quality.ENTRANTS] == [None] * len(quality.ENTRANTS)
    assert quality.why_not("ours", 96) is None
    assert all("powers of two" in str(quality.why_not(name, 96)) for name in ("reference", "r3gan", "ladagan"))
    assert "64 px" in str(quality.why_not("tutorial", 32)) and quality.why_not("reference", 32) is None


def test_the_table_has_a_row_for_all_and_ratios_to_the_tutorial(capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"fd": 50.0, "kid": 0.01, "kid_error": 0.001, "precision": 0.5, "recall": 0.4, "swd": 9.0, "faces": 0.25}
    row = {
        "what": "a test", "images_per_second": 20.0, "seen_images": 12_000, "gflop_per_image": 1.0,
        "marks": [{"fd": 80.0}, {"fd": 50.0}], "scores": scores,
    }  # fmt: skip
    machine = {"cpu": "a processor", "cores": 2, "gpu": None, "torch": "2"}
    settings = {
        "data": "faces", "size": 64, "minutes": 10.0, "features": "lite0", "marks": [0.5, 1.0], "pictures": 9,
        "held_out": 3,
    }  # fmt: skip
    entrants = {
        "ours": {**row, "scores": {**scores, "fd": 20.0}},
        "tutorial": row,
        "r3gan": {"what": "", "failed": "no"},
    }
    quality.show({"machine": machine, "settings": settings, "real": {"scores": scores}, "entrants": entrants})
    printed = capsys.readouterr().out
    for text in ("tutorial", "r3gan", "ours", "real", "0.40", "25%", "10.0 ± 1.0", "12,000", "80.0"):
        assert text in printed
