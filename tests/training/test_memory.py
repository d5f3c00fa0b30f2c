"""Memory: what a step takes is found before the first, fewer shares at once change no bit, too little is one line."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ganvas.cli import run
from ganvas.config import DataSettings, make_config
from ganvas.data.cache import Dataset, prepare
from ganvas.data.source import open_source
from ganvas.errors import SettingError, TrainingError
from ganvas.objectives import adversarial, penalty
from ganvas.runtime import Machine
from ganvas.training import memory
from ganvas.training.augment import draw_changes
from ganvas.training.memory import BASE_BYTES, Held, Need, exhaustion, fit, free_bytes, measure_need
from ganvas.training.plan import Plan, derive, trial
from ganvas.training.players import make_players
from ganvas.training.step import play
from ganvas.training.team import SMALLEST, Team
from ganvas.training.weights import ALIGNMENT

KIB = 1024
SMALL = {"network": {"width": 8, "z_dim": 8}, "training": {"batch": 16, "minutes": 1.0}}


@pytest.fixture(scope="module")
def dataset(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(open_source(pictures), make_config("x", data={"size": 32}).data, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def plan(dataset: Dataset) -> Plan:
    machine = Machine("cpu", torch.float32, 2, "for a test")
    return derive(make_config("x", data={"size": 32}, **SMALL), dataset, machine)


def with_adam(plan: Plan) -> Plan:
    """What SOAP works in would be more than such small networks take for some images."""
    training = plan.config.training.model_copy(update={"optimiser": "adam"})
    return replace(plan, config=plan.config.model_copy(update={"training": training}))


def test_bytes_are_counted_while_they_live() -> None:
    with Held() as held:
        one = torch.zeros(1000)
        view = one[:10] + 0  # a view is no memory of its own, the sum is
        assert held.now == 4000 + 40
        two = torch.zeros(500, dtype=torch.float64)
        assert held.peak == held.now == 8040
        del one, two
        assert held.now == 40
        torch.zeros(100)
    assert held.peak == 8040 and len(view) == 10


def test_what_a_step_takes_follows_from_a_trial_on_a_few_images(plan: Plan) -> None:
    need = measure_need(plan)
    _, step = trial(with_adam(plan))
    step(4, True, Team(1, 1))
    with Held() as held:
        step(32, True, Team(1, 1))
    assert need.per_share + 32 * need.per_image == pytest.approx(held.peak, rel=0.1)
    players, _ = trial(plan)
    learned = (*players.generator.parameters(), *players.discriminator.parameters())
    weights = sum(4 * ALIGNMENT * math.ceil(p.numel() / ALIGNMENT) for p in learned)  # fp32, laid together
    average = sum(p.nbytes for p in players.generator.parameters())
    copies = players.generator_weights.nbytes + players.discriminator_weights.nbytes
    assert copies == pytest.approx(2 * weights, rel=0.01), "factors, and scaled: in fp32"
    bases = sum(one.nbytes for name, one in players.tensors()["optimisers"].items() if re.search("(left|right)_", name))
    assert bases > 0
    remembered, working = 3 * weights + average + bases, 2 * weights  # with two moments and what SOAP knows
    assert need.fixed == pytest.approx(remembered + copies + working, rel=0.01)
    assert need.gradients == pytest.approx(weights, rel=0.01)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"meminfo": "MemTotal: 9 kB\nMemAvailable:   500 kB\n"}, 500 * KIB),
        ({"meminfo": "MemAvailable: 500 kB\n", "memory.max": "max\n", "memory.current": "1"}, 500 * KIB),
        (
            {
                "meminfo": "MemAvailable: 500 kB\n", "memory.max": "300000\n", "memory.current": "200000\n",
                "memory.stat": "anon 1\ninactive_file 50000\n",
            },
            150_000,
        ),
        (
            {"meminfo": "MemAvailable: 1 kB\n", "memory.max": "9", "memory.current": "99", "memory.stat": "anon 1"},
            0,
        ),
        ({"meminfo": "MemTotal: 9 kB\n"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_free_memory_is_what_kernel_and_container_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "own").write_text("0::/\n")
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
    assert free_bytes("cpu") == expected
    assert free_bytes("mps") is None


@pytest.mark.parametrize(
    ("own", "folder", "limit", "used"),
    [
        ("0::/", ".", "memory.max", "memory.current"),
        ("0::/user/job", "user/job", "memory.max", "memory.current"),
        ("0::/user/job", "user", "memory.max", "memory.current"),
        ("0::/nobody/sees/this", ".", "memory.max", "memory.current"),
        ("4:cpu,memory:/job\n0::/", "memory/job", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("4:memory:/hidden/here", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_every_control_group_that_holds_this_process_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, folder: str, limit: str, used: str
) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 9000 kB\n")
    (tmp_path / "own").write_text(own + "\n")
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, text in {limit: "5000", used: "3000", "memory.stat": "anon 3\ninactive_file 500\n"}.items():
        (tmp_path / folder / name).write_text(text)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
    assert free_bytes("cpu") == 2500


# 2 shares of 8 images in the plan; bytes are chosen so that each step down halves what images take.
NEED = Need(fixed=0.0, gradients=0.0, per_share=0.0, per_image=1e6)


@pytest.mark.parametrize(
    ("images", "may_cut", "shares", "at_once"),
    [(16, True, 2, 2), (15, True, 2, 1), (8, False, 2, 1), (7, True, 4, 1), (4, True, 4, 1)],
)
def test_fewer_at_once_then_smaller_shares(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, images: int, may_cut: bool, shares: int, at_once: int
) -> None:
    monkeypatch.setattr(memory, "measure_need", lambda plan: NEED)
    monkeypatch.setattr(memory, "free_bytes", lambda device: BASE_BYTES + memory.SPARE * images * 1e6)
    fitted = fit(plan, may_cut)
    assert (fitted.config.training.shares, fitted.at_once) == (shares, at_once)
    assert ("shares" in fitted.reasons) == (at_once < shares)
    assert fitted.config.model_copy(update={"training": plan.config.training}) == plan.config


@pytest.mark.parametrize(("images", "may_cut"), [(3, True), (7, False)])
def test_what_cannot_fit_is_refused(plan: Plan, monkeypatch: pytest.MonkeyPatch, images: int, may_cut: bool) -> None:
    monkeypatch.setattr(memory, "measure_need", lambda plan: NEED)
    monkeypatch.setattr(memory, "free_bytes", lambda device: BASE_BYTES + memory.SPARE * images * 1e6)
    with pytest.raises(SettingError, match=r"memory: training takes about 0\.1 GB, and 0\.1 GB are free; close"):
        fit(plan, may_cut)


def test_the_command_line_says_so_and_writes_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1_000_000)
    assert run(["train", str(pictures), "--to", str(tmp_path / "run"), "--size", "32", "--images", "16"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ganvas: memory: ") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("family", ["style", "dcgan"])
@pytest.mark.parametrize(("side", "width"), [(32, 8), (32, 64), (64, 32)])
def test_plenty_is_more_than_twice_what_is_needed(dataset: Dataset, family: str, side: int, width: int) -> None:
    machine = Machine("cpu", torch.float32, 2, "for a test")
    preset = "dcgan" if family == "dcgan" else "default"
    asked = make_config("x", preset, data={"size": 32}, network={"width": width} if family == "style" else {})
    plan = derive(asked, dataset, machine)
    plan = replace(plan, config=plan.config.model_copy(update={"data": DataSettings(size=(side, side))}))
    training = plan.config.training
    assert training.batch is not None and training.shares is not None
    need = measure_need(plan).of(training.batch / training.shares, training.shares, training.shares)
    assert memory.plenty(plan) - BASE_BYTES > 2 * (need - BASE_BYTES)


def test_with_plenty_nothing_is_tried(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "measure_need", lambda plan: pytest.fail("a trial"))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**12)
    assert fit(plan, True) == plan


def test_where_the_system_does_not_say_everything_is_at_once(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    assert fit(plan, True) == plan


@pytest.mark.parametrize("augmentation", [0.0, 0.7])
@pytest.mark.parametrize("kind", [None, "r1", "finite-difference"])
def test_taking_turns_changes_no_bit(kind: str | None, augmentation: float) -> None:
    """Fakes are made twice then, and changed alike both times."""
    smooth = penalty(kind, gamma=1.0) if kind else None
    moved = []
    for at_once in (4, 2, 1):
        config = make_config("x", data={"size": 32}, network={"width": 8, "z_dim": 8}, training={"learning_rate": 0.01})
        players = make_players(config, 1, 0, Machine("cpu", torch.float32, 1, ""))
        random = torch.Generator().manual_seed(5)
        with Team(4, 1, at_once=at_once) as team:
            for seed in range(2):
                real = torch.rand(16, 1, 32, 32, generator=random) * 2 - 1
                z = torch.randn(16, 8, generator=random)
                changes = draw_changes(16, augmentation, random) if augmentation else None
                losses = play(players, real, z, None, adversarial("relativistic"), smooth, 8.0, seed, team, changes)
        moved.append([*players.generator.parameters(), *players.discriminator.parameters(), losses.generator])
    for first, *others in zip(*moved, strict=True):
        assert all(torch.equal(first, other) for other in others)


def test_turns_take_less_memory(plan: Plan) -> None:
    """The peak that one thread sees: of all shares' fakes kept with their graphs, or of one at a time."""
    _, step = trial(with_adam(plan))
    peaks = []
    for team in (Team(4, 1, at_once=4), Team(4, 1, at_once=1)):
        with Held() as held:  # neither is entered: all play in this thread
            step(32, True, team)
        peaks.append(held.peak)
    assert peaks[1] < 0.7 * peaks[0]


def test_exhaustion_is_one_line() -> None:
    with pytest.raises(TrainingError, match="memory: all of it is used up"), exhaustion():
        torch.empty(2**60)
    with pytest.raises(TrainingError, match="memory"), exhaustion():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    with pytest.raises(RuntimeError, match="shapes"), exhaustion():
        raise RuntimeError("shapes cannot be multiplied")


def test_a_run_in_turns_ends_with_the_same_bits(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganvas.checkpoint import load_latest
    from ganvas.training.loop import train

    ends = []
    for name, free in (("all", 10**12), ("turns", None)):
        if free is None:
            monkeypatch.setattr(memory, "measure_need", lambda plan: Need(0.0, 0.0, 0.0, 1e9))
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free or BASE_BYTES + 10e9)
        finished = train(pictures, tmp_path / name, images=32, shares=2, **{**tiny, "batch": 8})
        found = load_latest(finished.folder)
        assert found is not None
        ends.append(found.tensors)
    for part, tensors in ends[0].items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, ends[1][part][name]), name


def test_more_shares_begin_with_more_images(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share needs some images to see how much they vary, in the first steps too."""
    asked = make_config("x", data={"size": 32}, network={"width": 8, "z_dim": 8}, training={"minutes": 1.0})
    plan = derive(asked, dataset, Machine("cpu", torch.float32, 2, "for a test"))
    assert (plan.config.training.shares, plan.config.training.first_batch) == (2, 16)
    monkeypatch.setattr(memory, "measure_need", lambda plan: NEED)
    monkeypatch.setattr(memory, "free_bytes", lambda device: BASE_BYTES + memory.SPARE * 8 * 1e6)
    found = fit(plan, True)
    fitted = found.config.training
    assert fitted.shares is not None and fitted.first_batch is not None and fitted.batch == 64
    assert fitted.shares > 2 and fitted.first_batch // fitted.shares == SMALLEST
    assert found.reasons["first_batch"].startswith(f"{fitted.first_batch}: ")
