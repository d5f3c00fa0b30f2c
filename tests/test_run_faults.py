"""Injected faults in a whole training, not only in a save: death, a full or read-only disk, a folder that goes away.

The numbers C1 to C12 name the promises. Whatever happens, the answer is one line, what was saved is whole, and the same
line again ends with the very bytes of a run that nothing happened to.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import functools
import os
import random
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ganvas
from faults import (
    Child,
    Fault,
    assert_one_line,
    become_nobody,
    can_mount,
    in_child,
    mount_small,
    remount,
)
from ganvas import cli
from ganvas.checkpoint import load_latest
from ganvas.errors import CheckpointError, GanvasError
from ganvas.files import read_json, write_json
from ganvas.generator import Generator
from ganvas.training.loop import Watcher, train
from small import TINY, draw

# Saved after every step; without annealing a run is the same whatever its budget. Of networks that fill 2 MB.
SETTINGS: dict[str, Any] = {**TINY, "patch": 2, "anneal": 0.0, "save_minutes": 1e-9, "samples": 2}
BATCH = TINY["batch"]
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in {**SETTINGS, "metric": "none"}.items()]
FOR_EVER = 10**9

needs_mount = pytest.mark.skipif(not can_mount(), reason="a small disk needs root on Linux")


def line(source: Path, folder: Path, images: int = FOR_EVER) -> list[str]:
    """A line for `ganvas`."""
    return ["train", str(source), "--to", str(folder), f"--images={images}", *FLAGS]


def command(source: Path, folder: Path, images: int = FOR_EVER) -> Callable[[], int]:
    """The command line as work for a child."""
    return lambda: cli.run(line(source, folder, images))


def tensors_of(folder: Path) -> dict[str, bytes]:
    """The newest checkpoint's tensor files, byte by byte."""
    newest = max((folder / "checkpoints").iterdir())
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name != ".lock"]


@pytest.fixture(scope="module")
def place(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for runs, in which the pictures are prepared."""
    folder = tmp_path_factory.mktemp("faults")
    train(pictures, folder / "first", images=BATCH, **SETTINGS)
    yield folder


@pytest.fixture(scope="module")
def straight(pictures: Path, place: Path) -> Callable[[int], dict[str, bytes]]:
    """`straight(n)`: the tensor files of a run of n images that nothing happened to."""

    @functools.cache
    def run(images: int) -> dict[str, bytes]:
        settings = {**SETTINGS, "save_minutes": 1.0}
        return tensors_of(train(pictures, place / f"straight-{images}", images=images, **settings).folder)

    return run


class Reporter(Watcher):
    """Writes the number of each checkpoint that was saved into a pipe."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def prepared(self, plan: Any, dataset: Any, position: Any) -> None:
        os.write(self.pipe, (0).to_bytes(8, "little"))

    def saved(self, path: Path) -> None:
        os.write(self.pipe, int(path.name).to_bytes(8, "little"))


@pytest.mark.parametrize("kills", [8, pytest.param(1000, marks=pytest.mark.torture)])
def test_c1_kills_of_a_training_lose_nothing(
    pictures: Path, place: Path, straight: Callable[[int], dict[str, bytes]], kills: int
) -> None:
    """SIGKILL at moments that nobody chose, in the start, the steps and the saves; the end is the same bytes."""
    rng, folder, reported, seen = random.Random(kills), place / f"killed-{kills}", 0, 0
    for attempt in range(kills):
        reader, writer = os.pipe()
        child = Child(
            lambda pipe=writer: train(pictures, folder, watcher=Reporter(pipe), images=FOR_EVER, **SETTINGS) and None
        )
        os.close(writer)
        if attempt % 4:  # the others die in their first moments
            select.select([reader], [], [], 60)
        time.sleep(rng.uniform(0, 0.15))
        child.kill()
        assert child.wait().code == -signal.SIGKILL
        while block := os.read(reader, 8):
            reported = max(reported, int.from_bytes(block, "little"))
        os.close(reader)
        found = load_latest(folder)
        seen = found.seen_images if found is not None else 0
        assert found is None or found.skipped == []
        assert seen in (reported, reported + BATCH), "a save that was reported must never be lost"
        reported = seen
        if found is not None and attempt % 10 == 0:
            assert Generator.load(folder).seen_images == seen
    train(pictures, folder, **{**SETTINGS, "images": seen + 3 * BATCH})
    assert leftovers(folder) == []
    assert tensors_of(folder) == straight(seen + 3 * BATCH)
    print(f"C1: {kills:,} kills of a training, 0 unloadable; its {seen + 3 * BATCH:,} images end bit for bit the same")


def calls_of(work: Callable[[], object]) -> int:
    """How many system calls that change files a piece of work makes."""
    reader, writer = os.pipe()

    def count() -> None:
        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, FOR_EVER, None)
            work()
            found = fault.count
        os.write(writer, found.to_bytes(8, "little"))

    ended = in_child(count)
    os.close(writer)
    assert ended.code == 0, ended.err
    number = int.from_bytes(os.read(reader, 8), "little")
    os.close(reader)
    return number


def training(pictures: Path, folder: Path, images: int) -> Callable[[], None]:
    def work() -> None:
        train(pictures, folder, **{**SETTINGS, "images": images})

    return work


EVERY = [pytest.param(1, marks=pytest.mark.torture, id="every"), pytest.param(29, id="every 29th")]


@pytest.mark.parametrize("apart", EVERY)
def test_c2_death_at_system_calls_of_a_training(
    pictures: Path, place: Path, straight: Callable[[int], dict[str, bytes]], apart: int
) -> None:
    """From the first folder it makes to the film at its end; the same line again mends and ends it."""
    images = 3 * BATCH
    total, dead = calls_of(training(pictures, place / f"counted-{apart}", images)), 0
    assert total > 60
    for when in range(0, total, apart):
        folder = place / f"dies-{apart}"

        def work(when: int = when, folder: Path = folder) -> None:
            with pytest.MonkeyPatch.context() as patch:
                Fault(patch, when, None, lambda: os._exit(9))
                training(pictures, folder, images)()

        assert in_child(work).code == 9
        dead += 1
        with contextlib.suppress(CheckpointError):  # the config may not be there yet
            found = load_latest(folder)
            assert found is None or found.skipped == []
        training(pictures, folder, images)()
        assert tensors_of(folder) == straight(images), when
        assert leftovers(folder) == []
        shutil.rmtree(folder)
    print(f"C2: {dead:,} deaths at the system calls of a training, 0 unloadable, {dead:,} end bit for bit the same")


@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("apart", EVERY)
def test_c2_failure_of_system_calls_of_a_training(
    pictures: Path, place: Path, straight: Callable[[int], dict[str, bytes]], failure: int, apart: int
) -> None:
    """A disk that fails once: one line, exit 2, and the same line again ends the run; or it did not matter."""
    images = 3 * BATCH
    folder = place / f"fails-{apart}-{failure}"
    total, told = calls_of(command(pictures, place / f"counted-{apart}-{failure}", images)), 0
    for when in range(0, total, apart):

        def work(when: int = when) -> int:
            with pytest.MonkeyPatch.context() as patch:
                Fault(patch, when, failure)
                return command(pictures, folder, images)()

        ended = in_child(work)
        if ended.code != 0:
            assert_one_line(ended, str(place))
            told += 1
        found = load_latest(folder) if folder.exists() else None
        assert found is None or found.skipped == []
        training(pictures, folder, images)()
        assert tensors_of(folder) == straight(images), when
        shutil.rmtree(folder)
    assert told
    print(f"C2: {len(range(0, total, apart)):,} failed system calls ({errno.errorcode[failure]}), {told:,} answered by "
          "one line, 0 lost")  # fmt: skip


@needs_mount
@pytest.mark.parametrize("size", ["64k", "256k", "1m", "2m"])
def test_c3_a_disk_that_fills_up(
    pictures: Path, tmp_path: Path, straight: Callable[[int], dict[str, bytes]], size: str
) -> None:
    """A file system of its own, too small at first: one line with path and bytes, and it goes on when there is room."""
    disk, images = tmp_path / "disk", 6 * BATCH
    disk.mkdir()

    def work() -> int:
        mount_small(disk, size)
        code = cli.run(line(pictures, disk / "run", images))
        found = load_latest(disk / "run")
        assert found is None or found.skipped == []
        assert code == 2, "this size is not too small"
        remount(disk, "size=64m")
        with contextlib.redirect_stderr(None):
            assert cli.run(line(pictures, disk / "run", images)) == 0
        assert tensors_of(disk / "run") == straight(images)
        return code

    ended = in_child(work)
    assert_one_line(ended, str(disk), " bytes: ", "full", "free some space")


@needs_mount
def test_a_read_only_disk(pictures: Path, tmp_path: Path) -> None:
    """Nothing can be written: one line for a new run and for one that goes on; reading is as good as ever."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def prepared(work: Callable[[], int]) -> Callable[[], int]:
        def inside() -> int:
            mount_small(disk, "64m")
            train(pictures, disk / "run", images=BATCH, **SETTINGS)
            remount(disk, "ro")
            return work()

        return inside

    def look() -> int:
        to = str(tmp_path / "made")
        return cli.run(["generate", str(disk / "run"), "--count=2", "--to", to])

    assert_one_line(in_child(prepared(command(pictures, disk / "new"))), str(disk), "Read-only", "check the ")
    assert_one_line(in_child(prepared(command(pictures, disk / "run"))), str(disk), "Read-only", "check the ")
    ended = in_child(prepared(look))
    assert (ended.code, ended.err) == (0, ""), ended.err
    assert len(list((tmp_path / "made").iterdir())) == 2


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.parametrize("what", ["new", "going on"])
def test_a_folder_that_may_not_be_written(open_place: Path, what: str) -> None:
    source = draw(open_place / "discs", 12)
    runs = open_place / "runs"
    train(source, runs / "run", images=BATCH, **SETTINGS)
    for path in [runs, *runs.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder = runs / ("run" if what == "going on" else "new")
    import ganvas.commands  # noqa: F401 (nobody may not read where Python lies)

    before = sorted(path for path in runs.rglob("*"))

    def work() -> int:
        become_nobody()
        return cli.run(line(source, folder))

    assert_one_line(in_child(work), str(folder), "Permission denied", "check the ")
    assert sorted(path for path in runs.rglob("*")) == before
    for path in [runs, *runs.rglob("*")]:
        path.chmod(0o755)


def begun(source: Path, folder: Path) -> Child:
    """A training in a child that has saved its first checkpoint."""
    reader, writer = os.pipe()

    class Told(Reporter):
        def prepared(self, plan: Any, dataset: Any, position: Any) -> None: ...

        def saved(self, path: Path) -> None:
            with contextlib.suppress(OSError):
                super().saved(path)

    def work() -> int:
        os.set_blocking(writer, False)  # nobody reads more than the first
        return run_like_the_command(lambda: train(source, folder, watcher=Told(writer), images=FOR_EVER, **SETTINGS))

    child = Child(work)
    os.close(writer)
    assert select.select([reader], [], [], 60)[0] and os.read(reader, 8), child.wait()
    child.reader = reader  # type: ignore[attr-defined] (open as long as the child writes)
    return child


def run_like_the_command(work: Callable[[], Any]) -> int:
    """What `cli.run` makes of an error."""
    try:
        ended = work()
    except GanvasError as error:
        return cli.refuse(str(error), error.exit_code)
    return 128 + ended.signal if ended.signal is not None else 0


def remove(folder: Path) -> None:
    """rm -r, until nothing more is written into it meanwhile."""
    for _ in range(1000):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
    raise AssertionError(f"{folder} cannot be removed")


@pytest.mark.parametrize("times", [2, pytest.param(100, marks=pytest.mark.torture)])
def test_a_run_folder_that_is_removed_while_it_trains_does_not_come_back(
    pictures: Path, place: Path, times: int
) -> None:
    for _ in range(times):
        folder = place / "removed"
        child = begun(pictures, folder)
        remove(folder)
        ended = child.wait()
        assert_one_line(ended, str(folder), "removed or replaced")
        assert not folder.exists(), sorted(folder.rglob("*"))
    print(f"run folders removed while training: {times:,}, each answered by one line, 0 came back")


def test_a_run_folder_that_is_renamed_stays_whole_and_goes_on(
    pictures: Path, place: Path, straight: Callable[[int], dict[str, bytes]]
) -> None:
    folder, moved = place / "renamed", place / "moved"
    child = begun(pictures, folder)
    folder.rename(moved)
    assert_one_line(child.wait(), str(folder), "removed or replaced")
    assert not folder.exists()
    found = load_latest(moved)
    assert found is not None and found.skipped == []
    images = found.seen_images + 2 * BATCH
    train(pictures, moved, **{**SETTINGS, "images": images})
    assert tensors_of(moved) == straight(images)


def test_a_run_that_took_the_place_of_another_is_not_written_to(
    pictures: Path, place: Path, straight: Callable[[int], dict[str, bytes]]
) -> None:
    """The folder is removed, and begun anew, while the first training still believes in it."""
    folder = place / "replaced"
    child = begun(pictures, folder)
    child.kill(signal.SIGSTOP)
    remove(folder)
    train(pictures, folder, **{**SETTINGS, "images": 2 * BATCH})
    child.kill(signal.SIGCONT)
    assert_one_line(child.wait(), str(folder), "removed or replaced")
    assert tensors_of(folder) == straight(2 * BATCH)


def test_c12_a_second_training_is_refused_and_the_first_does_not_notice(
    pictures: Path, place: Path, straight: Callable[[int], dict[str, bytes]]
) -> None:
    folder = place / "two"
    child = begun(pictures, folder)
    assert_one_line(in_child(command(pictures, folder)), f"in use by process {child.pid}", "wait for it or stop it")
    # Readers need no lock, at whatever moment they come.
    for _ in range(5):
        Generator.load(folder).sample([1])
    child.kill(signal.SIGTERM)
    ended = child.wait()
    assert (ended.code, ended.err) == (143, "")
    found = load_latest(folder)
    assert found is not None and found.skipped == []
    assert tensors_of(folder) == straight(found.seen_images)


def test_a_clock_that_is_set_back_changes_nothing(
    pictures: Path, place: Path, straight: Callable[[int], dict[str, bytes]]
) -> None:
    """The wall clock jumps to and fro while it trains; what it decides by is the time since it began."""

    def work() -> int:
        rng = random.Random(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda: rng.uniform(-1e9, 4e9))
            return cli.run([*line(pictures, place / "clock", 4 * BATCH), "--minutes=60"])

    ended = in_child(work)
    assert ended.code == 0, ended.err
    assert tensors_of(place / "clock") == straight(4 * BATCH)


WALL_CLOCK = {"time.time", "time.time_ns", "datetime.now", "datetime.datetime.now", "datetime.utcnow", "time.localtime"}


def test_nothing_is_decided_by_the_wall_clock() -> None:
    """Where it is read at all; each place is looked at here, and says in the sources why it is sound."""
    root = Path(ganvas.__file__).parent
    users = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in WALL_CLOCK
    }
    # The cache: whether a folder that nobody holds is being given its name; status: how long ago, in words.
    assert users <= {"data/cache.py", "status/summary.py"}


# Files of a run, and what a flipped bit in one may do.


@pytest.fixture(scope="module")
def two(pictures: Path, place: Path) -> Path:
    """A run of 24 images with the checkpoints 20 and 24."""
    settings = {**SETTINGS, "frames": 4}
    return train(pictures, place / "two-checkpoints", **{**settings, "images": 6 * BATCH}).folder


PARTS = ("generator.safetensors", "networks.safetensors", "optimisers.safetensors", "state.json", "manifest.json")


@pytest.mark.parametrize("flips", [20, pytest.param(200, marks=pytest.mark.torture)])
@pytest.mark.parametrize("name", PARTS)
def test_c4_flipped_bits_in_the_files_of_a_real_checkpoint(two: Path, tmp_path: Path, name: str, flips: int) -> None:
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    older, newest = sorted((folder / "checkpoints").iterdir())
    file, rng = newest / name, random.Random(name)
    whole = file.read_bytes()
    for attempt in range(flips):
        spoilt = bytearray(whole)
        # Every other one in the first 4096 bytes, where headers are.
        place = rng.randrange(len(whole) if attempt % 2 else min(4096, len(whole)))
        spoilt[place] ^= 1 << rng.randrange(8)
        file.write_bytes(spoilt)
        found = load_latest(folder)
        assert found is not None and found.path == older, (name, place)
        assert len(found.skipped) == 1 and str(file) in found.skipped[0] and found.skipped[0].isprintable()
    if name in ("generator.safetensors", "state.json", "manifest.json"):
        assert Generator.load(folder).seen_images == int(older.name)
    print(f"C4: {flips:,} flipped bits in {name} of a real run, {flips:,} found and named, the one before was used")


OTHERS = ("manifest.json", "metrics.jsonl", "film.webp", "samples/000000000000.png")


@pytest.mark.parametrize("flips", [2, pytest.param(200, marks=pytest.mark.torture)])
@pytest.mark.parametrize("name", OTHERS)
def test_c4_flipped_bits_beside_the_checkpoints_change_no_weight(
    two: Path, pictures: Path, place: Path, straight: Callable[[int], dict[str, bytes]], name: str, flips: int
) -> None:
    """What a person reads, and training does not: it goes on to the same bytes."""
    rng, folder = random.Random(name), place / f"flipped-{Path(name).name}"
    for _ in range(flips):
        shutil.copytree(two, folder)
        (folder / name).touch()
        spoilt = bytearray((folder / name).read_bytes() or b"{}")
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(spoilt)
        train(pictures, folder, **{**SETTINGS, "frames": 4, "images": 8 * BATCH})
        assert tensors_of(folder) == straight(8 * BATCH)
        shutil.rmtree(folder)
    print(f"C4: {flips:,} flipped bits in {name} of a real run, 0 changed a weight")


@pytest.mark.parametrize("flips", [10, pytest.param(400, marks=pytest.mark.torture)])
def test_c4_flipped_bits_in_the_settings_are_found_or_harmless(
    two: Path, pictures: Path, place: Path, straight: Callable[[int], dict[str, bytes]], flips: int
) -> None:
    """config.json has no checksum, but the checkpoint holds the same settings, and has one."""
    rng, folder, found = random.Random(flips), place / "flipped-config", 0
    for _ in range(flips):
        shutil.copytree(two, folder)
        spoilt = bytearray((folder / "config.json").read_bytes())
        digits = [at for at, byte in enumerate(spoilt) if byte in b"0123456789"]
        at = rng.choice(digits) if rng.random() < 0.5 else rng.randrange(len(spoilt))
        spoilt[at] ^= 1 << rng.randrange(8)
        (folder / "config.json").write_bytes(spoilt)
        try:
            train(pictures, folder, **{**SETTINGS, "frames": 4, "images": 8 * BATCH})
        except GanvasError as error:
            assert "\n" not in str(error)
            found += 1
        else:
            assert tensors_of(folder) == straight(8 * BATCH), bytes(spoilt[at - 40 : at + 20])
        shutil.rmtree(folder)
    print(f"C4: {flips:,} flipped bits in config.json, {found:,} found and named, {flips - found:,} without effect")


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [("training", "seed", 1), ("training", "learning_rate", 0.5), ("training", "beta2", 0.5), ("network", "width", 16),
     ("objective", "gamma", 9.0), ("objective", "penalty", "r2"), ("objective", "penalty_every", 3),
     ("data", "flip", True), ("data", "background", "#000000"), ("training", "anneal", 0.25)],
)  # fmt: skip
def test_c4_an_exchanged_setting_is_found(
    two: Path, pictures: Path, tmp_path: Path, group: str, name: str, value: object
) -> None:
    """A setting that is valid by itself, and not what the run was trained with."""
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    config: Any = read_json(folder / "config.json")
    assert config[group][name] != value
    config[group][name] = value
    write_json(folder / "config.json", config)
    with pytest.raises(CheckpointError, match=r"config\.json|networks\.safetensors|generator\.safetensors") as caught:
        train(pictures, folder, images=8 * BATCH)
    assert "\n" not in str(caught.value)
