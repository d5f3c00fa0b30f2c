"""Injected faults: death at any moment, a failing or full disk, flipped bits, cut, missing and exchanged files.

The numbers C1 to C5 name the promises: whatever happens, the newest sound checkpoint loads and nothing wrong ever does.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import select
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from faults import Death, Fault
from ganvas.checkpoint import Checkpoint, clean, load, load_latest, publish, save
from ganvas.errors import CheckpointError, GanvasError, StorageError


def parts(value: int) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors that tell in every element which save they came from; small, so that no thread pool is touched."""
    return {
        "networks": {f"layer{i}.weight": torch.full((64, 64), value, dtype=torch.int64) for i in range(4)},
        "optimiser": {"moment": torch.full((4096,), float(value)), "step": torch.tensor(value)},
    }


def value_of(found: Checkpoint) -> int:
    """The one value that every tensor and the state agree on."""
    value = found.state["value"]
    assert isinstance(value, int)
    expected = parts(value)
    assert found.tensors.keys() == expected.keys()
    for part, tensors in expected.items():
        assert found.tensors[part].keys() == tensors.keys()
        assert all(torch.equal(found.tensors[part][name], tensor) for name, tensor in tensors.items())
    return value


def latest(folder: Path) -> Checkpoint:
    found = load_latest(folder)
    assert found is not None
    return found


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name != ".lock"]


def save_for_ever(folder: Path, value: int, reports: int) -> None:
    """The body of a child process: save again and again, at old and new numbers, reporting each save that is done."""
    while True:
        value += 1
        save(folder, value // 2, parts(value), {"value": value})  # each number twice: new ones and replaced ones
        os.write(reports, value.to_bytes(8, "little"))


@pytest.mark.parametrize("kills", [200, pytest.param(2000, marks=pytest.mark.torture)])
def test_c1_kill_at_random_moments(tmp_path: Path, kills: int) -> None:
    rng = random.Random(kills)
    save(tmp_path, 0, parts(0), {"value": 0})
    reported = value = 0
    for attempt in range(kills):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                save_for_ever(tmp_path, value, writer)
            finally:
                os._exit(1)
        os.close(writer)
        select.select([reader], [], [], 10)  # it has begun
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        while block := os.read(reader, 8):
            reported = int.from_bytes(block, "little")
        os.close(reader)
        value = value_of(latest(tmp_path))  # also without cleaning, as a reader beside the trainer does
        assert value in (reported, reported + 1), "a save that was reported must never be lost"
        if attempt % 3:
            clean(tmp_path)
            assert leftovers(tmp_path) == []
            assert value_of(latest(tmp_path)) == value
    assert value > kills
    assert len(list((tmp_path / "checkpoints").iterdir())) <= 4
    print(f"C1: {kills:,} kills of a process that saves for ever, {value:,} saves, 0 unloadable")


def faulty_save(
    folder: Path, number: int, value: int, when: int, failure: int | None
) -> tuple[BaseException | None, int]:
    """Save with a fault at system call `when`; return what was raised, and how many calls there were."""
    with pytest.MonkeyPatch.context() as patch:
        fault = Fault(patch, when, failure)
        try:
            save(folder, number, parts(value), {"value": value})
            return None, fault.count
        except (Death, GanvasError) as exc:
            return exc, fault.count


@pytest.mark.parametrize("number", [2, 3], ids=["replaced", "new"])
def test_c2_death_at_every_system_call(tmp_path: Path, number: int) -> None:
    """The run holds checkpoints 1 and 2 when the process dies at the k-th call of the next save."""
    outcomes = []
    for when in range(200):
        run = tmp_path / str(when)
        for value in (1, 2):
            save(run, value, parts(value), {"value": value})
        raised, _ = faulty_save(run, number, 7, when, failure=None)
        before = value_of(latest(run))
        clean(run)
        found = latest(run)
        assert value_of(found) == before and found.skipped == [] and leftovers(run) == []
        outcomes.append(before)
        save(run, 9, parts(9), {"value": 9})  # and training goes on
        assert value_of(latest(run)) == 9
        shutil.rmtree(run)
        if raised is None:
            break
    assert raised is None and when >= 24  # 4 files opened, written and flushed make 12 of them
    # Up to one call the old state, from then on the new one.
    assert outcomes == sorted(outcomes) and set(outcomes) == {2, 7}


@pytest.mark.parametrize("number", [2, 3], ids=["replaced", "new"])
@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC])
def test_c2_failure_of_every_system_call(tmp_path: Path, number: int, failure: int) -> None:
    stored = failed = 0
    for when in range(200):
        run = tmp_path / str(when)
        for value in (1, 2):
            save(run, value, parts(value), {"value": value})
        raised, count = faulty_save(run, number, 7, when, failure)
        found = latest(run)
        assert found.skipped == []
        if raised is None:
            stored += 1
            assert value_of(found) == 7
        else:
            failed += 1
            assert isinstance(raised, StorageError) and str(run) in str(raised) and str(raised).isprintable()
            assert value_of(found) in (2, 7)  # 7: only the last flush failed, after the rename
        clean(run)
        assert leftovers(run) == [] and value_of(latest(run)) == value_of(found)
        shutil.rmtree(run)
        if count <= when:
            break
    assert count <= when and stored and failed >= 17  # what fails after the last flush is left for later


def test_c2_a_published_folder_stays_readable_whatever_fails(tmp_path: Path) -> None:
    generator, fault = tmp_path / "generator", None
    publish(generator, 1, parts(1), {"value": 1})
    for when in range(200):
        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, when, errno.EIO)
            try:
                publish(generator, 2, parts(2), {"value": 2})
            except StorageError as exc:
                assert str(generator) in str(exc)
        assert value_of(load(generator)) in (1, 2)
        if fault.count <= when:
            break
        clean(tmp_path)
        publish(generator, 1, parts(1), {"value": 1})
    assert fault is not None and 20 < fault.count <= when


def test_c3_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    """A file size limit in a child process stops the write midway, as a full disk does."""
    save(tmp_path, 1, parts(1), {"value": 1})
    for limit in (0, 1, 100, 5_000, 20_000, 130_000):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                save(tmp_path, 2, parts(2), {"value": 2})
            except StorageError as exc:
                os.write(writer, str(exc).encode())
            finally:
                os._exit(0)
        os.close(writer)
        message = os.read(reader, 10_000).decode()
        os.close(reader)
        assert os.waitpid(child, 0)[1] == 0
        assert message.isprintable() and str(tmp_path / "checkpoints" / "000000000002") in message
        assert "full" in message and "free some space" in message
        needed = int(message.split(" bytes")[0].split()[-1].replace(",", ""))
        assert leftovers(tmp_path) == [] and value_of(latest(tmp_path)) == 1
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000000001"]
    path = save(tmp_path, 2, parts(2), {"value": 2})
    assert sum(file.stat().st_size for file in path.iterdir()) == needed


def damaged_latest(folder: Path, damaged: Path) -> None:
    """`damaged` is found, named, and the checkpoint before it is used."""
    found = latest(folder)
    assert value_of(found) == 1
    assert len(found.skipped) == 1 and str(damaged) in found.skipped[0] and found.skipped[0].isprintable()
    with pytest.raises(CheckpointError, match=damaged.name.replace(".", r"\.")):
        load(damaged.parent)


FILES = ("networks.safetensors", "optimiser.safetensors", "state.json", "manifest.json")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Checkpoints 1 and 2."""
    for value in (1, 2):
        save(tmp_path, value, parts(value), {"value": value, "note": "some text, some numbers: 0.125"})
    return tmp_path


@pytest.mark.parametrize("flips", [200, pytest.param(4000, marks=pytest.mark.torture)])
def test_c4_each_flipped_bit_is_found(run: Path, flips: int) -> None:
    rng = random.Random(flips)
    for attempt in range(flips):
        file = run / "checkpoints" / "000000000002" / FILES[attempt % len(FILES)]
        whole = file.read_bytes()
        spoilt = bytearray(whole)
        # Half of the flips in the first 512 bytes, where headers are.
        place = rng.randrange(len(whole) if attempt % 8 < 4 else min(512, len(whole)))
        spoilt[place] ^= 1 << rng.randrange(8)
        file.write_bytes(spoilt)
        damaged_latest(run, file)
        file.write_bytes(whole)
    assert value_of(latest(run)) == 2
    print(f"C4: {flips:,} flipped bits in a checkpoint's files, {flips:,} found and named, the one before was used")


def test_c4_a_flipped_bit_in_every_byte_of_the_manifest(run: Path) -> None:
    rng = random.Random(5)
    file = run / "checkpoints" / "000000000002" / "manifest.json"
    whole = file.read_bytes()
    for place in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << rng.randrange(8)
        file.write_bytes(spoilt)
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            load(file.parent)


@pytest.mark.parametrize("name", FILES)
def test_c5_cut_off_grown_missing_and_exchanged_files(run: Path, name: str) -> None:
    file = run / "checkpoints" / "000000000002" / name
    whole = file.read_bytes()
    for data in (b"", whole[:1], whole[: len(whole) // 2], whole[:-1], whole + b"\0", bytes(len(whole))):
        file.write_bytes(data)
        damaged_latest(run, file)
    file.unlink()
    damaged_latest(run, file)
    for other in FILES:
        if other != name:
            shutil.copy(file.with_name(other), file)
            damaged_latest(run, file)
    # The same file of the other checkpoint: sound by itself, and wrong here.
    shutil.copy(run / "checkpoints" / "000000000001" / name, file)
    damaged_latest(run, file)
    file.write_bytes(whole)
    assert value_of(latest(run)) == 2


@pytest.mark.torture
@pytest.mark.parametrize("name", FILES)
def test_c5_cut_off_at_every_size(run: Path, name: str) -> None:
    file = run / "checkpoints" / "000000000002" / name
    whole = file.read_bytes()
    # Every byte where there is structure; between the headers and the end, where there are only numbers, every 97th.
    sizes = [size for size in range(len(whole)) if size < 4096 or size > len(whole) - 512 or size % 97 == 0]
    for size in sizes:
        file.write_bytes(whole[:size])
        damaged_latest(run, file)
    print(f"C5: {name} cut off at {len(sizes):,} sizes, {len(sizes):,} found and named, the one before was used")


def test_c5_an_exchanged_folder_is_found(run: Path) -> None:
    one, two = (run / "checkpoints" / f"00000000000{number}" for number in (1, 2))
    shutil.rmtree(two)
    shutil.copytree(one, two)
    damaged_latest(run, two / "manifest.json")
    shutil.rmtree(two)
    two.write_text("not a folder")
    found = latest(run)
    assert value_of(found) == 1 and str(two) in found.skipped[0]


def test_training_that_passed_over_a_damaged_checkpoint_removes_it(run: Path) -> None:
    (run / "checkpoints" / "000000000002" / "state.json").write_bytes(b"")
    number = latest(run).seen_images
    save(run, number + 5, parts(6), {"value": 6})
    found = latest(run)
    assert value_of(found) == 6 and found.skipped == []


def test_clean_touches_nothing_else(run: Path) -> None:
    for name in ("config.json", ".gitignore", "samples/0.png", "checkpoints/notes.txt", "notes.tmp"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("x")
    before = {path.relative_to(run) for path in run.rglob("*")}
    (run / ".tmp-abc").write_text("half")
    (run / "checkpoints" / ".tmp-000000000009").mkdir()
    (run / "checkpoints" / ".tmp-000000000009" / "state.json").write_text("half")
    (run / "outside").mkdir()
    (run / "outside" / "precious").write_text("x")
    (run / "samples" / ".tmp-link").symlink_to(run / "outside")
    clean(run)
    clean(run / "not there")
    after = {path.relative_to(run) for path in run.rglob("*")}
    assert after == before | {Path("outside"), Path("outside/precious")}
