"""The status of a run: of folders made by hand, of every odd folder, and of a run that trains meanwhile."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ganvas import __version__, checkpoint, files
from ganvas.config import make_config
from ganvas.errors import CheckpointError
from ganvas.files import lock, write_json
from ganvas.status import (
    Status,
    figures,
    folder,
    process,
    runs_in,
    show,
    status,
    status_lines,
    status_table,
    summary,
    words,
)
from small import TINY

WEIGHTS = {"generator": {"weight": torch.arange(64.0)}, "networks": {"weight": torch.ones(3)}}
BUDGET = {"images": 8000}


def tick(seen: int, seconds: float | None = None, rate: float = 100.0) -> dict[str, Any]:
    return {"seen_images": seen, "seconds": seen / 100 if seconds is None else seconds, "images_per_second": rate}


def score(seen: int, value: float, metric: str = "lite0@96") -> dict[str, Any]:
    return {"seen_images": seen, "seconds": seen / 100, "metric": metric, "score": value}


def finding(seen: int, state: str, action: str | None = None, why: str = "because") -> dict[str, Any]:
    return {"seen_images": seen, "seconds": seen / 100, "state": state, "why": why, "action": action, "margin": 1.0}


def made(path: Path, seen: int = 4000, rows: list[dict[str, Any]] | None = None, **training: Any) -> Path:
    """A run folder as training writes it, stopped at `seen` images after a hundredth as many seconds."""
    path.mkdir(parents=True)
    budget = training if {"minutes", "epochs"} & set(training) else {**BUDGET, **training}
    config = make_config("photos/", data={"size": 64}, network={"width": 8}, training=budget).model_dump(mode="json")
    write_json(path / "config.json", config)
    pictures = {"source": "photos/", "licence": "CC0", "train": 90, "held_out": 10, "classes": [], "digest": "0" * 64}
    about = {"format": "ganvas-run-1", "ganvas": __version__, "name": "photos", "pictures": pictures}
    write_json(path / "manifest.json", about)
    log(path, rows if rows is not None else [tick(seen)])
    if seen:
        saved(path, seen)
    return path


def log(path: Path, rows: list[dict[str, Any]]) -> None:
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def saved(path: Path, seen: int, **state: Any) -> Path:
    config = json.loads((path / "config.json").read_text())
    return checkpoint.save(path, seen, WEIGHTS, {"config": config, "seconds": seen / 100, "channels": 3, **state})


def tree(path: Path) -> dict[str, tuple[int, bytes]]:
    """Every name below `path`, with time of change and content."""
    found = {}
    for each in sorted(path.rglob("*")):
        found[str(each.relative_to(path))] = (each.stat().st_mtime_ns, each.read_bytes() if each.is_file() else b"")
    return found


def printed(table: Any, width: int = 100) -> str:
    """What a terminal shows, blanks and line ends made one blank."""
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return " ".join(capture.get().split())


HOLD = """
import sys, time
from ganvas.files import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def holding(run: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of `run`, as a trainer does."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            yield other
        finally:
            other.kill()


# How far, how fast, how long.


def test_a_stopped_run_is_told_in_full(tmp_path: Path) -> None:
    run = made(tmp_path / "photos", 4000, [tick(2000), tick(4000), score(4000, 50.0)])
    found = status(run, now=time.time() + 90)
    assert (found.name, found.state, found.process, found.version) == ("photos", "stopped", None, __version__)
    assert (found.pictures.source, found.pictures.licence) == ("photos/", "CC0")
    assert (found.pictures.train, found.pictures.held_out) == (90, 10)
    assert (found.seen_images, found.seconds, found.share, found.budget) == (4000, 40.0, 0.5, "8,000 images")
    assert found.images_per_second == 100.0 and found.seconds_left is None
    assert found.saved is not None and found.saved.seen_images == 4000 and 89 <= found.saved.age_seconds < 150
    assert found.last_score is not None and found.last_score.value == 50.0 and found.best_score == found.last_score
    assert found.commands["go on"] == f"ganvas train photos/ --to {run}"
    assert found.settings["network"] == "style" and found.settings["size"] == "64x64"
    assert not found.notes
    text = printed(status_lines(found), 200)
    for part in ("stopped", "90 to train on", "4,000 images seen in 40 s; 50% of 8,000 images", "not watched", "CC0"):
        assert part in text


@given(
    st.one_of(st.none(), st.floats(0.01, 1e6)),
    st.one_of(st.none(), st.integers(1, 10**12)),
    st.one_of(st.none(), st.floats(0.01, 1e6)),
    st.integers(1, 10**6),
    st.integers(0, 10**9),
    st.floats(0, 1e8),
)
def test_the_budget_is_that_of_training(
    minutes: float | None, images: int | None, epochs: float | None, pictures: int, seen: int, seconds: float
) -> None:
    """The same answers as the functions that end a run, which cannot be asked at run time: they load torch."""
    from ganvas.training.loop import budget_used
    from ganvas.training.plan import describe_budget, images_budget
    from ganvas.training.run import Moment

    config = make_config("x", training={"minutes": minutes, "images": images, "epochs": epochs})
    settings = config.model_dump(mode="json")["training"]
    assert figures.budget_words(settings) == describe_budget(config)
    limit = figures.limits(settings, pictures)
    assert limit[1] == images_budget(config, pictures)
    share = figures.share_used(limit, seen, seconds)
    if minutes or images or epochs:
        used = budget_used(Moment(seen, seconds), minutes, images_budget(config, pictures))
        assert share == pytest.approx(min(1.0, used)) and (share == 1.0) == (used >= 1.0)
    else:
        assert share is None


def test_a_run_is_finished_when_its_budget_is_saved_and_not_before(tmp_path: Path) -> None:
    run = made(tmp_path / "run", 7984, [tick(7984), tick(8000)])
    found = status(run)
    assert found.state == "stopped" and "16 images after the newest checkpoint will be trained again" in found.notes
    saved(run, 8000)
    found = status(run)
    assert (found.state, found.share, found.seconds_left) == ("finished", 1.0, None)
    assert found.commands["go on"].endswith("--images 16000")


def test_the_time_left_is_what_the_budget_lacks(tmp_path: Path) -> None:
    run = made(tmp_path / "run", 4000, [tick(4000, rate=50.0), tick(6000, 70.0, rate=50.0)])
    with lock(run):
        found = status(run)
        assert (found.seen_images, found.seconds, found.seconds_left) == (6000, 70.0, 2000 / 50)
    timed = made(tmp_path / "timed", 4000, [tick(6000, 70.0)], minutes=2)
    with lock(timed):
        assert status(timed).seconds_left == 2 * 60 - 70.0


def test_a_run_that_went_back_is_where_it_went_back_to(tmp_path: Path) -> None:
    """Images seen fall with a roll-back while its time stays spent: the newest row is the newest in time."""
    run = made(
        tmp_path / "run", 1000, [tick(1000, 10.0), {**finding(1000, "collapsing", "roll back"), "seconds": 55.0}]
    )
    with lock(run):
        assert (status(run).seen_images, status(run).seconds) == (1000, 55.0)


def test_speed_is_all_images_over_all_time(tmp_path: Path) -> None:
    rows = [tick(100 * step, 1.0, rate) for step, rate in enumerate((20.0, 5.0, 10.0))]
    assert status(made(tmp_path / "run", rows=rows)).images_per_second == pytest.approx(3 / (1 / 20 + 1 / 5 + 1 / 10))


# Who trains in it.


def test_a_live_run_is_told_from_a_dead_one(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    with holding(run) as other:
        found = status(run)
        assert found.state == "training" and found.process is not None
        assert found.process.pid == other.pid and found.process.is_certain
        assert found.commands["stop and save"] == f"kill {other.pid}" and "go on" not in found.commands
        assert f"training now (process {other.pid})" in printed(status_lines(found))
        other.kill()
        while Path("/proc", str(other.pid), "stat").read_text().split()[2] != "Z":
            time.sleep(0.01)
        assert status(run).state == "stopped", "dead, though its parent has not collected it yet"
    found = status(run)
    assert found.state == "stopped" and any("died without saving" in note for note in found.notes)
    with lock(run):
        assert status(run).process.pid == os.getpid()  # type: ignore[union-attr]
    found = status(run)
    assert found.state == "stopped" and not found.notes, "the lock was let go of in good order"


def test_a_number_that_now_belongs_to_another_process_is_no_trainer(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    (run / ".lock").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    assert status(run).state == "stopped"
    with (run / ".lock").open() as opened:  # and a process that has it open is one
        assert opened and status(run).state == "training"


def test_where_processes_cannot_be_looked_into_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path / "run")
    (run / ".lock").write_text(json.dumps({"pid": 71, "host": "elsewhere\x1b[2J"}))
    found = status(run)
    assert found.state == "training" and found.process is not None and not found.process.is_certain
    assert "process 71 on elsewhere?[2J" in found.process.host or found.process.host == "elsewhere?[2J"
    assert "as far as can be told from here" in printed(status_lines(found)) and "stop and save" not in found.commands

    monkeypatch.setattr(process, "PROCESSES", tmp_path / "no-such-place")
    with holding(run) as other:
        assert status(run).state == "training"
        other.kill()
        other.wait()
    assert status(run).state == "stopped"


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", '{"pid": 1}', '{"pid": "x", "host": ""}', "\0" * 9, "[" * 4000]
)
def test_a_lock_that_says_nothing_is_nobody(tmp_path: Path, text: str) -> None:
    run = made(tmp_path / "run")
    (run / ".lock").write_text(text)
    assert status(run).state == "stopped"


@pytest.mark.parametrize("pid", [0, -1, -(2**40), 2**70])
def test_a_number_that_no_process_has_is_nobody(tmp_path: Path, pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path / "run")
    (run / ".lock").write_text(json.dumps({"pid": pid, "host": socket.gethostname()}))
    assert status(run).state == "stopped"
    monkeypatch.setattr(process, "PROCESSES", tmp_path / "no-such-place")
    assert status(run).state == "stopped"


def test_looking_never_keeps_a_trainer_out(tmp_path: Path) -> None:
    """The lock is taken and let go of 200 times while another thread looks without a pause."""
    run = made(tmp_path / "run")
    stop, states, errors = threading.Event(), set(), []

    def look() -> None:
        while not stop.is_set():
            try:
                states.add(status(run).state)
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(200):
            with lock(run):  # StorageError if somebody else had it
                time.sleep(0.001)
    finally:
        stop.set()
        thread.join()
    assert not errors and states <= {"training", "stopped"}


def test_looking_opens_nothing_for_writing_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    run = made(tmp_path / "run", rows=[tick(4000), score(4000, 1.0), finding(4000, "healthy")])
    checkpoint.publish(run / "best", 3000, WEIGHTS, {"score": 1.0, "metric": "lite0@96"})
    (run / ".lock").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    before = tree(tmp_path)
    opened = os.open

    def only_reading(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC), path
        return opened(path, flags, *rest, **named)

    def never(*_: Any) -> None:
        raise AssertionError("a lock was asked for")

    monkeypatch.setattr(os, "open", only_reading)
    monkeypatch.setattr(fcntl, "flock", never)
    monkeypatch.setattr(fcntl, "lockf", never)
    show([run])
    show([tmp_path], as_json=True)
    assert tree(tmp_path) == before


# Scores and health.


def test_scores_are_the_last_and_the_best_kept(tmp_path: Path) -> None:
    rows = [score(1000, 60.0), score(2000, 40.0), score(3000, 45.0), tick(4000)]
    run = made(tmp_path / "run", rows=rows)
    found = status(run)
    assert found.last_score is not None and found.best_score is not None
    assert (found.last_score.value, found.best_score.value, found.best_score.seen_images) == (45.0, 40.0, 2000)
    # A best/ that was kept before the rows that are read.
    checkpoint.publish(run / "best", 500, WEIGHTS, {"score": 30.0, "metric": "lite0@96", "seconds": 5.0})
    found = status(run)
    assert found.best_score is not None and (found.best_score.value, found.best_score.seen_images) == (30.0, 500)
    assert found.commands["generate the best"].startswith(f"ganvas generate {run / 'best'} ")
    # Another metric's is not comparable.
    log(run, [*rows, score(3500, 0.5, "pixels@8")])
    found = status(run)
    assert found.best_score is not None and (found.best_score.metric, found.best_score.value) == ("pixels@8", 0.5)
    assert found.trend is None


@given(st.lists(st.floats(1, 100), min_size=5, max_size=6), st.floats(0.1, 1000), st.integers(1, 10**6))
def test_the_trend_knows_no_units(values: list[float], scale: float, step: int) -> None:
    plain = figures.trend(list(enumerate(values, 1)))
    assert figures.trend([(i * step, v * scale) for i, v in enumerate(values, 1)]) == plain or any(
        abs(a - b) < 1e-6 for i, a in enumerate(values) for b in values[i + 1 :]
    )
    mirrored = {"better": "worse", "worse": "better", "level": "level"}
    assert figures.trend([(i, v) for i, v in enumerate(reversed(values), 1)]) == mirrored[str(plain)]


@given(st.integers(1, 4), st.floats(0, 1e6))
def test_one_odd_score_turns_no_trend(where: int, odd: float) -> None:
    falling = [(i, 100.0 - 10 * i) for i in range(6)]
    assert figures.trend(falling) == "better"
    falling[where] = where, odd
    assert figures.trend(falling) == "better"


def test_too_few_scores_or_one_moment_have_no_trend() -> None:
    assert figures.trend([(1, 5.0), (2, 4.0)]) is None
    assert figures.trend([(1, 5.0), (1, 4.0), (1, 3.0)]) is None
    assert figures.trend([(1, 5.0), (2, 5.0), (3, 5.0)]) == "level"


def test_health_is_the_newest_state_and_all_that_was_done(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    assert status(run).health.state == "not watched"
    acts = [finding(1000, "critic too strong", "more penalty"), finding(2000, "collapsing", "roll back")]
    log(
        run, [acts[0], finding(1500, "healthy"), acts[1], tick(3500), finding(4000, "healthy", why="nothing to remark")]
    )
    care = {"penalty": 2.0, "rate": 1.0, "critic_rate": 1.0, "augmentation": 0.0, "roll_backs": 1}
    saved(run, 4016, monitor={"care": care, "memory": {}})
    health = status(run).health
    assert (health.state, health.why, health.seen_images) == ("healthy", "nothing to remark", 4000)
    assert [(act.seen_images, act.state, act.action) for act in health.interventions] == [
        (1000, "critic too strong", "more penalty"),
        (2000, "collapsing", "roll back"),
    ]
    assert health.treatment == {"penalty": 2.0, "roll_backs": 1.0}
    text = printed(status_lines(status(run)), 200)
    assert "2 interventions; penalty 2; roll backs 1" in text
    assert "at 1,000 images, critic too strong: more penalty (because)" in text


def test_a_run_that_the_monitor_ended_says_why(tmp_path: Path) -> None:
    early = made(tmp_path / "early", rows=[tick(4000), finding(4000, "finished improving", "stop", "no better since")])
    found = status(early)
    assert (found.state, found.why) == ("finished", "finished improving: no better since")
    given_up = made(tmp_path / "given-up", rows=[tick(4000), finding(4000, "diverged", "stop", "went back 3 times")])
    found = status(given_up)
    assert (found.state, found.why) == ("stopped", "diverged: went back 3 times")
    log(given_up, [finding(4000, "diverged", "stop"), tick(4400)])
    assert status(given_up).why == "", "it went on since"


# metrics.jsonl: half-written, hostile, huge.


@given(st.integers(0, 10**6))
def test_a_half_written_row_is_no_row(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    rows = [tick(100), score(200, 9.5), finding(300, "healthy"), tick(400), score(500, 8.5)]
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    whole = b"".join(lines)
    cut %= len(whole) + 1
    ends = [len(b"".join(lines[: n + 1])) for n in range(len(lines))]
    kept = rows[: sum(end <= cut for end in ends)]
    path = tmp_path_factory.mktemp("rows") / "metrics.jsonl"
    path.write_bytes(whole[:cut])
    found = folder.read_rows(path)
    assert found.ticks == [row for row in kept if "images_per_second" in row]
    assert found.scores == [row for row in kept if "score" in row]
    assert found.findings == [row for row in kept if "state" in row]


HOSTILE = [
    b'{"seen_images": NaN, "seconds": 1, "metric": "x", "score": 1}',
    b'{"seen_images": 1, "seconds": -1, "metric": "x", "score": 1}',
    b'{"seen_images": 1, "seconds": 1e400, "images_per_second": 1}',
    b'{"seen_images": true, "seconds": 1, "images_per_second": 1}',
    b'{"seen_images": 1, "seconds": 1, "metric": 5, "score": "best"}',
    b'{"seen_images": 1, "seconds": 1, "images_per_second": 1' + b"0" * 5000 + b"}",
    b'{"seen_images": 1' + b"0" * 300 + b', "seconds": 1, "images_per_second": 1}',
    b'{"seen_images": 1, "seconds": 1, "state": {"a": 1}, "action": 7}',
    b'["metric", "state", "images_per_second", "action"]',
    b'"images_per_second" "metric" "state" "action"',
    b"[" * 100_000 + b'"state"',
    b'\xff\xfe\x00 "state"',
    b"",
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_a_line_that_is_no_row_is_passed_over(tmp_path: Path, line: bytes) -> None:
    run = made(tmp_path / "run", rows=[])
    good = json.dumps(score(10, 3.0)).encode()
    (run / "metrics.jsonl").write_bytes(good + b"\n" + line + b"\n")
    found = status(run)
    assert found.last_score is not None and found.last_score.value == 3.0 and found.health.state == "not watched"
    assert printed(status_lines(found))


@given(st.binary(max_size=400))
def test_any_bytes_are_answered(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("rows") / "metrics.jsonl"
    path.write_bytes(data)
    assert folder.read_rows(path).written is not None


def test_a_huge_file_is_read_from_its_end_only(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    tail = "".join(json.dumps(row) + "\n" for row in [tick(3900), finding(4000, "healthy", "less augmentation")])
    with (run / "metrics.jsonl").open("wb") as file:
        file.write(json.dumps(finding(1, "collapsing", "roll back")).encode() + b"\n")
        file.truncate(3 * 2**30)  # a hole: no disk is used
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + tail.encode())
    tracemalloc.start()
    found = status(run)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [act.action for act in found.health.interventions] == ["less augmentation"]
    assert found.health.from_images == 3900 and "since 3,900 images" in words.health_words(found.health)
    assert peak < 4 * folder.TAIL_BYTES


def test_the_end_of_a_long_file_says_what_the_whole_says(tmp_path: Path) -> None:
    rows = [row for step in range(3000) for row in (tick(step), score(step, step % 7), finding(step, "healthy"))]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole, end = folder.read_rows(path), folder.read_rows(path, limit=20_000)
    assert whole.ticks == end.ticks and whole.findings == end.findings
    assert end.scores == whole.scores[-len(end.scores) :] and len(end.scores) > 20
    assert whole.from_images == 0 < end.from_images == end.scores[0]["seen_images"]


# Checkpoints and other files: damaged, missing, of another version.


def test_what_a_checkpoint_is_agrees_with_the_module_that_writes_it(tmp_path: Path) -> None:
    """`ganvas.checkpoint` loads torch and so cannot be used there: hold the two together here."""
    assert folder.FORMAT == checkpoint.FORMAT
    assert folder._NUMBER.pattern == checkpoint._NUMBER.pattern
    run = made(tmp_path / "run")
    path = saved(run, 5000)
    for name in ("manifest.json", "state.json"):
        data = (path / name).read_bytes()
        places = random.Random(0).sample(range(len(data)), 50)
        for place in places:
            for bent in (data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], data[:place]):
                (path / name).write_bytes(bent)
                with pytest.raises(CheckpointError) as ours:
                    folder.read_checkpoint(path)
                with pytest.raises(CheckpointError):
                    checkpoint.load(path)
                assert name in str(ours.value) and "\n" not in str(ours.value)
        (path / name).write_bytes(data)
        folder.read_checkpoint(path)


def cut_weights(path: Path) -> None:
    file = path / "networks.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def link_weights(path: Path) -> None:
    (path / "networks.safetensors").rename(path / "elsewhere")
    (path / "networks.safetensors").symlink_to(path / "elsewhere")


def rename(path: Path) -> None:
    path.rename(path.with_name("000000005001"))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "weights cut": cut_weights,
    "weights gone": lambda path: (path / "generator.safetensors").unlink(),
    "weights a link": link_weights,
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "state changed": lambda path: (path / "state.json").write_text("{}"),
    "another's number": rename,
    "all gone": lambda path: [each.unlink() for each in path.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_counts(tmp_path: Path, damage: str) -> None:
    run = made(tmp_path / "run", 4000, [])
    DAMAGE[damage](saved(run, 5000))
    found = status(run)
    assert found.state == "stopped" and found.saved is not None and found.saved.seen_images == found.seen_images == 4000
    assert any("the newest checkpoint cannot be used" in note and "00000500" in note for note in found.notes)
    assert checkpoint.load_latest(run).seen_images == 4000, "training agrees"  # type: ignore[union-attr]
    cut_weights(run / "checkpoints" / "000000004000")
    found = status(run)
    assert found.state == "damaged" and "no checkpoint can be used" in found.why and found.saved is None
    assert "go on" not in found.commands and "generate" not in found.commands
    with pytest.raises(CheckpointError):
        checkpoint.load_latest(run)


def test_a_run_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    run = made(tmp_path / "run", 0, [tick(400)])
    found = status(run)
    assert (found.state, found.saved, found.seen_images) == ("stopped", None, 0)
    assert "training begins anew" in printed(status_lines(found)) and "generate" not in found.commands
    with lock(run):
        assert "nothing yet" in printed(status_lines(status(run)))


def test_a_run_that_only_begins_is_a_run(tmp_path: Path) -> None:
    """Between taking the lock and writing config.json, training makes its networks."""
    run = tmp_path / "run"
    with lock(run):
        found = status(run)
        assert found.state == "training" and not found.notes and found.budget == ""
        assert printed(status_lines(found)) and runs_in(tmp_path) == [run]
    with pytest.raises(CheckpointError, match="is not a run folder"):
        status(run)


def test_a_configuration_of_another_version_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["training"]["spice"] = 7
    write_json(run / "config.json", config)
    found = status(run)
    assert found.state == "damaged" and "spice" in found.why, "this version wrote the manifest"
    manifest = json.loads((run / "manifest.json").read_text())
    write_json(run / "manifest.json", {**manifest, "ganvas": "9.0"})
    found = status(run)
    assert found.state == "other version" and "9.0" in found.why and "spice" in found.why
    assert (found.seen_images, found.share, found.pictures.train) == (4000, 0.5, 90), "what can be read is told"
    assert set(found.commands) == set()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"version": 1}', b"\xff", b'{"training": 3, "data": []}']
)
def test_damaged_json_is_an_answer(tmp_path: Path, content: bytes) -> None:
    for name in ("config.json", "manifest.json"):
        run = made(tmp_path / name)
        (run / name).write_bytes(content)
        found = status(run)
        assert found.state == ("damaged" if name == "config.json" else "stopped")
        assert found.seen_images == 4000 and printed(status_lines(found))
        if name == "config.json":
            assert "config.json" in found.why and "\n" not in found.why


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "metrics.jsonl", "best"])
def test_a_missing_file_is_an_answer(tmp_path: Path, name: str) -> None:
    run = made(tmp_path / "run")
    (run / name).unlink(missing_ok=True)
    found = status(run)
    assert found.state == ("damaged" if name == "config.json" else "stopped")
    if name == "config.json":
        assert "holds a copy of it" in found.why, "every checkpoint has one"
        assert found.settings["network"] == "style"
    assert any("manifest.json" in note for note in found.notes) == (name == "manifest.json")


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "metrics.jsonl", "best", ".lock"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_what_is_no_file_is_never_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    run = made(tmp_path / "run")
    (run / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(run / name)
    elif kind == "folder":
        (run / name).mkdir()
    else:
        (run / name).symlink_to(run / name)
    assert status(run).state == ("damaged" if name == "config.json" else "stopped")


def test_a_silent_process_is_pointed_out(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    with lock(run):
        assert not status(run).notes
        later = status(run, now=time.time() + 3600)
        assert any("nothing was written for" in note for note in later.notes)
        past = status(run, now=time.time() - 10**6)  # the clock was set back
        assert not past.notes and past.saved is not None and past.saved.age_seconds == 0


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    (run / "samples").mkdir()
    (run / "samples" / "a.png").write_bytes(b"x" * 12345)
    (run / "samples" / "b.png").symlink_to(run / "samples" / "a.png")
    (run / "more").symlink_to(tmp_path)
    found = status(run)
    files_in = [path for path in run.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(found.disk_bytes.values()) == sum(path.stat().st_size for path in files_in)
    assert found.disk_bytes["samples"] == 12345 and found.is_disk_complete
    part, complete = folder.disk_bytes(run, limit=3)
    assert not complete and sum(part.values()) < sum(found.disk_bytes.values())


# What is no run, and several runs.


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    run = made(tmp_path / "runs" / "photos")
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"png")
    checkpoint.publish(tmp_path / "exported", 10, WEIGHTS, {})
    cases = {
        tmp_path / "runs" / "fotos": "did you mean 'photos'",
        run / "config.json": "is a file, not a run folder",
        tmp_path / "empty": "is empty",
        tmp_path / "pictures": "is not a run folder",
        tmp_path / "exported": "is a generator without its training",
        run / "checkpoints" / "000000004000": "is a generator without its training",
        tmp_path / ("x" * 300): "cannot be read",
        tmp_path / "a\0b": "no such run folder",
        tmp_path / "line\nend": "no such run folder",
    }
    for path, answer in cases.items():
        for ask in (status, runs_in):
            with pytest.raises(CheckpointError) as caught:
                ask(path)
            assert answer in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="holds run folders and is none"):
        status(tmp_path / "runs")


def test_a_folder_of_runs_is_a_row_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    for name in ("b", "a", ".cache"):
        made(runs / name)
    (runs / "notes.txt").write_text("x")
    (runs / "other").mkdir()
    assert runs_in(runs) == [runs / "a", runs / "b"] and runs_in(runs / "a") == [runs / "a"]
    assert show([runs]) == 0
    said = capsys.readouterr().out
    assert said.index(" a ") < said.index(" b ") and said.count("stopped") == 2
    assert show([runs], as_json=True) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == ["a", "b"]
    show([runs / "b", runs / "a"], as_json=True)
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == ["b", "a"]
    show([runs / "a"], as_json=True)
    assert json.loads(capsys.readouterr().out)["name"] == "a"
    show([runs / "a"])
    assert "4,000 images seen" in capsys.readouterr().out


def test_a_folder_removed_meanwhile_is_said_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        made(tmp_path / name)
    look = summary.look

    def removed(path: Path, *rest: Any) -> Status:
        if path.name == "a":
            shutil.rmtree(path)
        return look(path, *rest)

    monkeypatch.setattr(summary, "look", removed)
    show([tmp_path], as_json=True)
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == ["b"]
    made(tmp_path / "a")
    with pytest.raises(CheckpointError, match="was removed while it was read"):
        show([tmp_path / "a"])


def test_text_out_of_files_steers_no_terminal(tmp_path: Path) -> None:
    run = made(tmp_path / "[red]x[/nope]")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["pictures"]["licence"] = "\x1b[31m[bold]\n\r\u202e mine [/]"
    write_json(run / "manifest.json", manifest)
    log(run, [finding(1, "[/] \x07", "[link] \x1b]8;;", "\n" * 3)])
    (run / "[b]\x1b").mkdir()
    (run / "[b]\x1b" / "x").write_bytes(b"x" * 10**6)
    found = status(run)
    for table in (status_lines(found), status_table([found])):
        assert not set(printed(table, 300)) & {"\x1b", "\x07", "\r", "\u202e"}
    assert "[bold]" in printed(status_lines(found), 300)


def test_json_comes_back_the_same(tmp_path: Path) -> None:
    run = made(tmp_path / "run", rows=[tick(4000), score(4000, 5.0), finding(4000, "collapsing", "roll back")])
    found = status(run)
    assert Status.model_validate_json(found.model_dump_json()) == found


def test_it_needs_no_torch(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    code = "import sys; from ganvas.status import show; show([sys.argv[1]]); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True).stdout
    assert said.endswith("False\n") and "4,000 images seen" in said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (119.6, "120 s"), (120, "2 min"), (7199, "119 min"), (11100, "3 h 05 min"), (400_000, "4 days")],
)
def test_durations_read_well(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


# While it trains.


def before_first_read(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do `act` after the names in a folder were read and before the first checkpoint of them is."""
    read, acts = folder.read_checkpoint, [act]

    def later(path: Path) -> folder.Stored:
        if acts:
            acts.pop()()
        return read(path)

    monkeypatch.setattr(folder, "read_checkpoint", later)


def test_a_checkpoint_that_is_pruned_in_between_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path / "run", 4000, [])
    before_first_read(monkeypatch, lambda: checkpoint.save(run, 6000, WEIGHTS, {"seconds": 60.0}, keep=1))
    found = status(run)
    assert found.saved is not None and found.saved.seen_images == 6000 and not found.notes


def test_a_best_generator_that_is_being_replaced_is_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two renames of a replacement there is only the old one, under another name."""
    run = made(tmp_path / "run", 0, [])
    checkpoint.publish(run / "best", 3000, WEIGHTS, {"score": 7.0, "metric": "lite0@96"})
    before_first_read(monkeypatch, lambda: (run / "best").rename(run / ".old-best"))
    found = status(run)
    assert found.best_score is not None and found.best_score.seen_images == 3000 and not found.notes


def test_checkpoints_that_come_and_go_never_look_damaged(tmp_path: Path) -> None:
    """Another thread saves, replaces and prunes without a pause: every answer is a checkpoint that was whole."""
    run = made(tmp_path / "run", 0, [])
    stop, failures = threading.Event(), []

    def write() -> None:
        seen = 0
        try:
            while not stop.is_set():
                seen += 16
                saved(run, seen)
                saved(run, seen)
                checkpoint.publish(run / "best", seen, WEIGHTS, {"score": 1.0, "metric": "m"})
        except Exception as error:
            failures.append(error)

    with lock(run):
        thread = threading.Thread(target=write)
        thread.start()
        try:
            before, answers = 0, 0
            while answers < 150:
                found = status(run)
                assert not found.notes, found.notes
                assert found.seen_images >= before
                before, answers = found.seen_images, answers + 1
        finally:
            stop.set()
            thread.join()
    assert not failures and before > 0


class Better:
    """A metric that costs nothing and always improves, so that best/ is replaced every time."""

    name, score = "better", 100.0

    def seconds(self, dataset: Any, sample: Any) -> float:
        return 0.0

    def __call__(self, dataset: Any, sample: Any) -> float:
        self.score *= 0.9
        return self.score


def busy(source: str, run: str, settings: dict[str, Any]) -> None:
    """Train, saving and scoring after every step: files come and go as often as they can."""
    from ganvas.training import loop, scoring

    before = scoring.Scorer.is_due
    scoring.Scorer.is_due = lambda self, progress: True  # type: ignore[method-assign]
    try:
        loop.train(source, run, scored_by=lambda config: Better(), **settings)
    finally:
        scoring.Scorer.is_due = before  # type: ignore[method-assign]


def result(run: Path) -> dict[str, bytes]:
    """Every file of a run; of those that hold seconds or times of day only the name."""
    timed = {"state.json", "metrics.jsonl", "manifest.json"}
    paths = [path for path in run.rglob("*") if path.is_file()]
    return {str(path.relative_to(run)): b"" if path.name in timed else path.read_bytes() for path in paths}


@pytest.mark.slow
def test_a_run_that_was_looked_at_is_the_run_nobody_looked_at(pictures: Path, tmp_path: Path) -> None:
    """A real run in a process of its own, looked at all the while: no error, and the same bytes in the end."""
    settings = {**TINY, "images": 100, "frames": 20, "save_minutes": 1e-6}
    run, alone = tmp_path / "seen" / "run", tmp_path / "unseen" / "run"
    code = f"import ganvas, test_status; test_status.busy({str(pictures)!r}, {str(run)!r}, {settings!r})"
    home = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    looks, states = 0, []
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=home) as trainer:
        try:
            while trainer.poll() is None:
                if not (run / "config.json").exists():
                    time.sleep(0.002)
                    continue
                found = status(run)
                looks += found.state == "training"
                states += [found.state] if states[-1:] != [found.state] else []
                assert not found.notes, found.notes
                assert found.process is None or found.process.pid == trainer.pid
                assert printed(status_lines(found))
                time.sleep(0.002)  # leaves the trainer a core
            assert trainer.stderr is not None and trainer.returncode == 0, trainer.stderr.read()
        finally:
            trainer.kill()
    assert looks >= 50 and states in (["training"], ["training", "finished"])
    found = status(run)
    assert (found.state, found.seen_images, found.share, found.pictures.train) == ("finished", 100, 1.0, 76)
    assert found.best_score is not None and found.last_score is not None and found.trend == "better"
    assert found.best_score.seen_images == found.last_score.seen_images == 100

    busy(str(pictures), str(alone), settings)
    assert result(run) == result(alone)


def test_a_finished_real_run(trained: Path) -> None:
    found = status(trained)
    assert (found.state, found.seen_images, found.pictures.train, found.pictures.held_out) == ("finished", 24, 76, 4)
    assert found.saved is not None and Path(found.saved.path).is_dir() and not found.notes
    assert files.read_json(trained / "config.json")["training"]["seed"] == found.settings["seed"]  # type: ignore[index,call-overload]
