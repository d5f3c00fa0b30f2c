"""Several processes on one run: the same bits as one, and none of them waits for one that has died."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganvas.checkpoint import load_latest
from ganvas.config import make_config
from ganvas.data.cache import prepare
from ganvas.data.source import open_source
from ganvas.errors import SettingError
from ganvas.runtime import Machine
from ganvas.training.crew import ALONE, joined
from ganvas.training.game import Turn
from ganvas.training.plan import derive
from ganvas.training.team import Team, add_up

PATIENCE_SECONDS = 120
C11_SECONDS = 30.0  # after the death of one, the others must be gone
LOST = "another process of this run has ended"
SETTINGS = {
    "size": 32, "width": 8, "z-dim": 8, "batch": 16, "shares": 4, "threads": 1, "precision": "fp32", "frames": 2,
    "save-minutes": 100,
}  # fmt: skip


@contextmanager
def started(source: Path, run: Path, processes: int, **changes: object) -> Iterator[list[subprocess.Popen[str]]]:
    """`ganvas train` in so many processes, as torchrun would start them; those left at the end are killed."""
    settings = {**SETTINGS, **{name.replace("_", "-"): value for name, value in changes.items()}}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    all_of_them = {
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    found = []
    try:
        for rank in range(processes):
            mine = {name: str(value) for name, value in {**all_of_them, "RANK": rank, "LOCAL_RANK": rank}.items()}
            program = [sys.executable, "-m", "ganvas", "train", str(source), "--to", str(run), *words]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            found.append(subprocess.Popen(program, env={**os.environ, **mine}, text=True, **pipes))  # type: ignore[call-overload]
        yield found
    finally:
        for process in found:
            process.kill()
            process.communicate()


def finish(processes: list[subprocess.Popen[str]], seconds: float = PATIENCE_SECONDS) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each, once all have ended; TimeoutExpired if they do not."""
    ends = [process.communicate(timeout=seconds) for process in processes]
    return [(process.returncode, *said) for process, said in zip(processes, ends, strict=True)]


def wait_for_rows(run: Path) -> None:
    """Until training is well on its way."""
    for _ in range(PATIENCE_SECONDS * 20):
        if (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") >= 2:
            return
        time.sleep(0.05)
    raise AssertionError(f"no rows in {run} after {PATIENCE_SECONDS} s")


def everything(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint: both networks, the average, both optimisers."""
    found = load_latest(run)
    assert found is not None
    return {f"{part}.{name}": tensor for part, tensors in found.tensors.items() for name, tensor in tensors.items()}


def assert_same(one: Path, other: Path) -> None:
    first, second = everything(one), everything(other)
    assert first.keys() == second.keys() and len(first) > 100
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_one_two_and_four_processes_train_the_same_bits(pictures: Path, tmp_path: Path) -> None:
    """C10 asks for 1e-5 after 20 steps. Here a penalty comes every eighth step and the batch crosses epochs."""
    for count in (1, 2, 4):
        with started(pictures, tmp_path / str(count), count, images=320) as processes:
            ends = finish(processes)
        assert [code for code, _, _ in ends] == [0] * count, ends
        assert "done: 320 images" in ends[0][1]
        assert all(not said and not wrong for _, said, wrong in ends[1:]), "only the first process speaks"
    assert_same(tmp_path / "1", tmp_path / "2")
    assert_same(tmp_path / "1", tmp_path / "4")


def test_a_run_goes_on_in_another_number_of_processes(pictures: Path, tmp_path: Path) -> None:
    """And with the same bits where its budget is of images and the learning rate does not hang on it."""
    for run, steps in {"whole": [(1, 192)], "parts": [(2, 96), (1, 192)]}.items():
        for count, images in steps:
            with started(pictures, tmp_path / run, count, images=images, anneal=0) as processes:
                assert [code for code, _, _ in finish(processes)] == [0] * count
    assert_same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_is_killed_the_others_end_and_the_run_goes_on(pictures: Path, tmp_path: Path, killed: int) -> None:
    """C11, without anybody who would stop the others: torchrun does that as well."""
    run = tmp_path / "run"
    with started(pictures, run, 2, images=32) as processes:
        finish(processes)
    with started(pictures, run, 2, images=1_000_000) as processes:
        wait_for_rows(run)
        processes[killed].send_signal(signal.SIGKILL)
        code, _, wrong = finish([processes[1 - killed]], C11_SECONDS)[0]
    assert code == 2 and LOST in wrong and wrong.count("\n") == 1
    assert wrong.startswith("ganvas: another" if killed else "ganvas: process 1: another")
    found = load_latest(run)
    assert found is not None and found.seen_images == 32 and not found.skipped
    with started(pictures, run, 1, images=64) as processes:
        assert finish(processes)[0][0] == 0
    assert "generator" in load_latest(run).tensors  # type: ignore[union-attr]


@pytest.mark.torture
def test_one_is_killed_at_any_moment(pictures: Path, tmp_path: Path) -> None:
    """From the first import to the middle of a save: the other ends, nothing is unloadable, and the run goes on."""
    run, random, times = tmp_path / "run", np.random.default_rng(0), 20
    rows, seen, met = run / "metrics.jsonl", 0, 0

    def together(began: float) -> bool:
        return rows.exists() and rows.stat().st_mtime > began

    for number in range(times):
        began = time.time()
        with started(pictures, run, 2, images=1_000_000, save_minutes=0.001) as processes:
            while number % 4 and not together(began):  # every fourth time at any moment, also before they have met
                time.sleep(0.05)
            time.sleep(random.uniform(0.0, 3.0))
            both, killed = together(began), int(random.integers(2))
            processes[killed].send_signal(signal.SIGKILL)
            if both:  # else the other waits for one that never comes, and torchrun ends it
                code, _, wrong = finish([processes[1 - killed]], C11_SECONDS)[0]
                assert code == 2 and LOST in wrong and wrong.count("\n") == 1, (code, wrong)
                met += 1
        found = load_latest(run) if (run / "checkpoints").exists() else None
        if found is not None:
            assert found.seen_images >= seen and not found.skipped
            seen = found.seen_images
    assert seen > 0
    print(f"C11: {times} of {times} left a run that loads; {met} of {met} others ended")


def test_a_wish_to_stop_saves_once_and_ends_all(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(pictures, run, 2, images=1_000_000) as processes:
        wait_for_rows(run)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        ends = finish(processes)
    assert [code for code, _, _ in ends] == [143, 0]
    assert "stopped and saved" in ends[0][1] and not ends[1][1]
    found = load_latest(run)
    assert found is not None and found.seen_images > 0


def test_torchrun_starts_it(pictures: Path, tmp_path: Path) -> None:
    words = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ganvas"]
    program += ["train", str(pictures), "--to", str(tmp_path / "run"), "--images", "16", *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: 16 images") == 1


def test_what_cannot_be_dealt_out_is_one_line(pictures: Path, tmp_path: Path) -> None:
    with started(pictures, tmp_path / "run", 3, images=16) as processes:
        ends = finish(processes)
    assert ends[0][0] == 2 and "4 shares" in ends[0][2] and ends[0][2].count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_plan_counts_processes(pictures: Path, tmp_path: Path) -> None:
    data = make_config("x", data={"size": 32}).data
    dataset = prepare(open_source(pictures), data, tmp_path)
    machine = Machine("cpu", torch.float32, 2, "for a test")
    for processes, shares in ((1, 2), (2, 4), (4, 8)):
        plan = derive(make_config("x", data={"size": 32}), dataset, machine, processes)
        assert plan.config.training.shares == shares
    with pytest.raises(SettingError, match="give a --batch that 3 divides"):
        derive(make_config("x", data={"size": 32}), dataset, machine, 3)
    with pytest.raises(SettingError, match="dcgan normalises over the batch"):
        derive(make_config("x", "dcgan", data={"size": 32}), dataset, machine, 2)


@given(
    whole=st.tuples(*[st.integers(0, 2**62)] * 3), real=st.tuples(*[st.floats(0, 1e9, allow_nan=False)] * 4)
)  # fmt: skip
def test_a_turn_survives_being_told(whole: tuple[int, int, int], real: tuple[float, float, float, float]) -> None:
    turn = Turn(*whole, *real)
    assert Turn.read(turn.message()) == turn


def test_sums_are_taken_in_pairs() -> None:
    """fp32 cannot hold 2²⁴ + 1, so that the order shows."""
    big, one = torch.tensor([2.0**24]), torch.tensor([1.0])
    assert add_up([[big.clone()], [one.clone()], [one.clone()], [one.clone()]])[0].item() == 2.0**24 + 2
    assert add_up([[big.clone()], [one.clone()], [one.clone()]])[0].item() == 2.0**24
    assert Team(4, 1).average([[big.clone()] for _ in range(4)])[0].item() == 2.0**24


def test_alone_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with joined() as crew:
        assert crew is ALONE
        crew.say(b"nobody hears this")
        tensors = [torch.ones(2)]
        assert crew.gather(tensors) == [tensors]
    assert not torch.distributed.is_initialized()
