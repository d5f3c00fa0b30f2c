"""A checkpoint gives back what was saved bit by bit, or says in one line which file is at fault."""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import ganvas
from faults import in_child, memory_limit
from ganvas import checkpoint, files, tensorfile
from ganvas.checkpoint import load, load_latest, publish, save, weights_hash
from ganvas.errors import CheckpointError, SettingError, StorageError, TrainingError
from hostile import EXPECT, GOOD, model_files

HOSTILE = model_files()


def one_line(caught: pytest.ExceptionInfo[Exception]) -> str:
    text = str(caught.value)
    assert text.isprintable() and 20 < len(text) < 1000
    return text


def small(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"networks": {"g.w": torch.full((3, 4), value)}, "optimiser": {"step": torch.tensor(int(value))}}


def awkward() -> dict[str, torch.Tensor]:
    """Every dtype, 0 dimensions, no elements, and each kind of memory layout."""
    rng = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, 5, 3, generator=rng)
    shared = torch.arange(20)
    return {
        "fp32": base,
        "fp64": base.double() / 3,
        "bf16": base.bfloat16(),
        "fp16": base.half(),
        "subnormal": torch.tensor([1e-42, -0.0, 3.4e38]),
        "int64": torch.tensor([-(2**63), 2**63 - 1]),
        "int32": torch.tensor([-(2**31)], dtype=torch.int32),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "scalar_int": torch.tensor(2**40),
        "empty": torch.zeros(0, 3),
        "empty_too": torch.zeros(2, 0),
        "transposed": base.transpose(0, 3),
        "strided": base[::2, 1:4],
        "expanded": torch.ones(1, 3).expand(5, 3),
        "channels_last": base.to(memory_format=torch.channels_last),
        "shared": shared,
        "shared_view": shared[5:10],
        "needs_grad": base.clone().requires_grad_(),
    }


def test_every_tensor_comes_back_bit_by_bit(tmp_path: Path) -> None:
    tensors = awkward()
    state = {"epoch": 3, "best": 0.1, "big": 2**80, "name": "é\ud800", "list": [None, True, {"x": -0.0}]}
    path = save(tmp_path, 7, {"networks": tensors, "nothing": {}}, state)
    assert path == tmp_path / "checkpoints" / "000000000007"
    assert sorted(entry.name for entry in path.iterdir()) == [
        "manifest.json",
        "networks.safetensors",
        "nothing.safetensors",
        "state.json",
    ]
    expect = {"networks": {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}}
    found = load_latest(tmp_path, expect=expect)
    assert found is not None and found.path == path and found.seen_images == 7 and found.skipped == []
    assert found.state == state and found.tensors["nothing"] == {}
    assert found.tensors["networks"].keys() == tensors.keys()
    for name, tensor in tensors.items():
        back = found.tensors["networks"][name]
        assert back.is_contiguous() and back.dtype == tensor.dtype and back.shape == tensor.shape, name
        raw = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)
        assert torch.equal(back.reshape(-1).view(torch.uint8), raw), name
    back = found.tensors["networks"]["fp32"]
    back += 1  # writable and its own memory
    assert torch.equal(load(path).tensors["networks"]["fp32"], tensors["fp32"])


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    for run in ("a", "b"):
        save(tmp_path / run, 1, {"networks": awkward()}, {"x": 1})
    names = sorted((tmp_path / "a" / "checkpoints" / "000000000001").iterdir())
    assert len(names) == 3
    for file in names:
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


def test_newest_ones_and_kept_ones_stay(tmp_path: Path) -> None:
    for seen in (10, 20, 30, 40, 1_000_000_000_000):
        save(tmp_path, seen, small(1), {"keep": seen == 10}, keep=2)
    names = sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir())
    assert names == ["000000000010", "000000000040", "1000000000000"]
    latest = load_latest(tmp_path)
    assert latest is not None and latest.seen_images == 10**12


def test_the_checkpoint_just_saved_is_the_latest_even_after_going_back(tmp_path: Path) -> None:
    for seen in (10, 20, 30):
        save(tmp_path, seen, small(seen), {"keep": True}, keep=3)
    save(tmp_path, 15, small(15), {}, keep=3)
    latest = load_latest(tmp_path)
    assert latest is not None and latest.seen_images == 15
    save(tmp_path, 15, small(99), {}, keep=3)
    latest = load_latest(tmp_path)
    assert latest is not None and latest.tensors["networks"]["g.w"][0, 0] == 99
    assert sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir()) == ["000000000010", "000000000015"]


def test_parts_reads_only_those(tmp_path: Path) -> None:
    path = save(tmp_path, 1, small(1), {})
    (path / "optimiser.safetensors").unlink()
    assert set(load(path, parts=["networks"]).tensors) == {"networks"}
    with pytest.raises(CheckpointError, match="optimiser"):
        load(path)
    with pytest.raises(CheckpointError, match="no part 'critic'"):
        load(path, parts=["critic"])
    with pytest.raises(CheckpointError, match="no part 'critic'"):
        load(path, {"critic": {}}, parts=["networks"])


def test_publish_replaces_a_folder_that_load_reads(tmp_path: Path) -> None:
    for value in (1, 2):
        publish(tmp_path / "generator", value, small(value), {"settings": {"size": "64x64"}})
    found = load(tmp_path / "generator")
    assert found.seen_images == 2 and found.tensors["networks"]["g.w"][0, 0] == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["generator"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_are_not_finite_are_never_saved(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    save(tmp_path, 1, small(1), {})
    bad = {"networks": {"fine": torch.ones(2), "g.spoilt": torch.tensor([0.0, value], dtype=dtype)}}
    with pytest.raises(TrainingError, match=r"networks: g\.spoilt .*not finite") as caught:
        save(tmp_path, 2, bad, {})
    one_line(caught)
    with pytest.raises(TrainingError, match="state"):
        save(tmp_path, 2, small(1), {"loss": [value]})
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["000000000001"]
    path = save(tmp_path, 2, bad, {}, assert_finite=False)
    with pytest.raises(CheckpointError, match="not finite"):
        load(path)


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, name in (("Net/works", "a"), ("networks", "a/b"), ("networks", "")):
        with pytest.raises(ValueError):
            save(tmp_path, 1, {part: {name: torch.ones(1)}}, {})
    with pytest.raises(ValueError):
        save(tmp_path, 1, {"networks": {"c": torch.ones(1, dtype=torch.complex64)}}, {})
    with pytest.raises(ValueError):
        save(tmp_path, -1, small(1), {})
    with pytest.raises(SettingError, match="keep=0"):
        save(tmp_path, 1, small(1), {}, keep=0)
    with pytest.raises(TrainingError, match="twice"):
        save(tmp_path, 1, small(1), {"a": {1: 1, "1": 2}})  # type: ignore[dict-item]
    monkeypatch.setattr(checkpoint, "MAX_JSON_BYTES", 100)
    with pytest.raises(TrainingError, match="100 bytes"):
        save(tmp_path, 1, small(1), {"long": "x" * 100})
    monkeypatch.setattr(tensorfile, "MAX_HEADER_BYTES", 100)
    with pytest.raises(ValueError, match="header"):
        save(tmp_path, 1, {"networks": {f"{i}": torch.ones(1) for i in range(9)}}, {})
    assert list(tmp_path.iterdir()) == []


def test_weights_hash_knows_values_names_shapes_and_dtypes_but_no_layout() -> None:
    a, b = torch.randn(2, 3, 4, 5), torch.arange(6)
    base = weights_hash({"a": a, "b": b})
    assert len(base) == 64 and int(base, 16) >= 0
    assert weights_hash({"b": b.clone(), "a": a.to(memory_format=torch.channels_last)}) == base
    nudged = a.clone()
    nudged.view(torch.int32)[1, 2, 3, 4] ^= 1
    others = [
        {"a": nudged, "b": b},
        {"a": a, "c": b},
        {"a": a.reshape(2, 3, 20), "b": b},
        {"a": a, "b": b.view(torch.float64)},
        {"a": a},
    ]
    assert len({base, *map(weights_hash, others)}) == 6
    weights_hash({"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 2), "bool": torch.tensor([True])})
    independent = hashlib.sha256(b"x BF16 [2]\n" + b"\x80\x3f\x00\xc0").hexdigest()  # 1.0 and -2.0
    assert weights_hash({"x": torch.tensor([1.0, -2.0], dtype=torch.bfloat16)}) == independent


def test_the_good_model_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "good.onnx"  # content counts, not the suffix
    path.write_bytes(GOOD)
    tensors = tensorfile.read_tensors(path, EXPECT)
    assert tensors["a.weight"].tolist() == [[1, 2, 3], [4, 5, 6]] and tensors["b"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_model_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "networks.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(CheckpointError) as caught:
        tensorfile.read_tensors(path, EXPECT if name.startswith("unexpected") else None)
    assert str(path) in one_line(caught)
    if name.startswith("unexpected"):
        tensorfile.read_tensors(path)  # so it was EXPECT that refused it
    # The same inside a checkpoint whose manifest vouches for the file: a hostile run folder.
    folder = save(tmp_path / "run", 1, {"networks": {}}, {})
    shutil.copy(path, folder / "networks.safetensors")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["files"]["networks.safetensors"] = {
        "bytes": len(HOSTILE[name]),
        "sha256": hashlib.sha256(HOSTILE[name]).hexdigest(),
    }
    (folder / "manifest.json").write_bytes(checkpoint._seal(manifest))
    with pytest.raises(CheckpointError, match=r"networks\.safetensors") as caught:
        load(folder, {"networks": EXPECT})
    one_line(caught)


def test_hostile_model_files_cost_no_memory(tmp_path: Path) -> None:
    """All of them, in a process that may not have what they ask for."""
    for name, data in HOSTILE.items():
        (tmp_path / name).write_bytes(data)

    def work() -> None:
        memory_limit(200 * 2**20)
        for name in HOSTILE:
            before = time.monotonic()
            with pytest.raises(CheckpointError):
                tensorfile.read_tensors(tmp_path / name, EXPECT)
            print(f"{time.monotonic() - before:.3f} s  {name}")

    ended = in_child(work)
    assert ended.code == 0, ended.err
    slowest = max(ended.out.splitlines())
    print(f"model files: {len(HOSTILE)} hostile files, {len(HOSTILE)} refused within 200 MB; the slowest: {slowest}")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pickle", "pickle"),
        ("torch archive", "torch.save"),
        ("html", "web page"),
        ("onnx", "ONNX"),
        ("empty", "empty"),
        ("offsets overlap", "overlap or leave a hole"),
        ("offsets leave a hole", "overlap or leave a hole"),
    ],
)
def test_what_is_wrong_is_called_by_its_name(tmp_path: Path, name: str, words: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(CheckpointError, match=words):
        tensorfile.read_tensors(path)


def test_sizes_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(GOOD)
    os.truncate(path, tensorfile.MAX_FILE_BYTES + 1)  # sparse: reading it would fill the memory
    with pytest.raises(CheckpointError, match="more than"):
        tensorfile.read_tensors(path)
    os.truncate(path, 2**34)
    with pytest.raises(CheckpointError, match="instead of 52"):
        tensorfile.read_tensors(path, size=52)
    with pytest.raises(CheckpointError, match="describes 28 bytes"):
        tensorfile.read_tensors(path)


def test_links_pipes_and_folders_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1, small(1), {})
    for name in ("networks.safetensors", "state.json", "manifest.json"):
        file, aside = path / name, tmp_path / name
        file.rename(aside)
        for make in (lambda f=file, a=aside: f.symlink_to(a), lambda f=file: os.mkfifo(f), lambda f=file: f.mkdir()):
            make()
            with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
                load(path)
            one_line(caught)
            file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
        aside.rename(file)
    load(path)
    link = tmp_path / "checkpoints" / "000000000002"
    link.symlink_to(path)
    latest = load_latest(tmp_path)
    assert latest is not None and latest.seen_images == 1 and len(latest.skipped) == 1


def forge(path: Path, **fields: object) -> None:
    """Rewrite the manifest of `path` with other fields and a right checksum."""
    manifest: dict[str, Any] = json.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    (path / "manifest.json").write_bytes(checkpoint._seal({**manifest, **fields}))


@pytest.mark.parametrize(
    "fields",
    [
        {"format": "ganvas-checkpoint-2"},
        {"format": None},
        {"seen_images": -1},
        {"seen_images": True},
        {"seen_images": 10**30},
        {"seen_images": 2},
        {"files": []},
        {"files": {}},
        {"files": {"state.json": 3}},
        {"files": {"state.json": {"bytes": -1, "sha256": "0" * 64}}},
        {"files": {"state.json": {"bytes": 3, "sha256": "0" * 63 + "\n"}}},
        {"files": {"state.json": {"bytes": 3, "sha256": "0" * 64}, "../../../etc/passwd": {}}},
        {"files": {"state.json": {"bytes": 3, "sha256": "0" * 64}, "x.pickle": {}}},
    ],
)
def test_forged_manifests_are_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    path = save(tmp_path, 1, small(1), {})
    forge(path)
    load(path)
    forge(path, **fields)
    with pytest.raises(CheckpointError, match=r"manifest|state") as caught:
        load(path)
    one_line(caught)


def test_no_checkpoint_and_no_sound_checkpoint_are_told_apart(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "missing") is None
    (tmp_path / "checkpoints").mkdir()
    assert load_latest(tmp_path) is None
    for seen in (1, 2):
        (save(tmp_path, seen, small(1), {}) / "state.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"none of 2 checkpoints can be used.*000000000002/state\.json"):
        load_latest(tmp_path)
    (tmp_path / "plain").write_text("x")
    for path in (tmp_path / "plain", tmp_path / "nowhere", tmp_path / "a\nb"):
        with pytest.raises(CheckpointError, match="checkpoint folder") as caught:
            load(path)
        one_line(caught)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 200_000,
        b"NaN",
        b"[1e999]",
        b"[-Infinity]",
        b'{"a":1,"a":2}',
        b"1" * 5000,
        b"{}x",
    ],
)
def test_bad_json_is_one_line(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        files.read_json(path)
    one_line(caught)


def test_json_is_bounded_and_round_trips(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)  # the longest name there is
    value: files.JSON = {"ünïcode": ["\n", 1, -2.5e-300, None, False], "nested": {"a": {}}}
    files.write_json(path, value)
    files.write_json(path, value)
    assert files.read_json(path) == value and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(CheckpointError, match="more than the 10 allowed"):
        files.read_json(path, limit=10)
    with pytest.raises(ValueError):
        files.write_json(path, {"loss": float("nan")})
    with pytest.raises(StorageError, match="nowhere") as caught:
        files.write_json(tmp_path / "nowhere" / "x.json", 1)
    one_line(caught)


HOLD = """
import os, sys
from ganvas.files import lock
with lock(sys.argv[1]):
    if sys.argv[2] == "alone" or os.fork() == 0:
        print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, *, worker: bool = False) -> Iterator[int]:
    """The number of another process that holds the lock, killed at the end; its forked `worker` outlives the block."""
    run = [sys.executable, "-c", HOLD, str(folder), "worker" if worker else "alone"]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None and child.stdout.readline() == b"held\n"
            yield child.pid
        finally:
            child.kill()


def test_a_second_writer_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    with holder(tmp_path) as pid:
        with pytest.raises(StorageError, match=rf"process {pid} on {os.uname().nodename}") as caught:
            files.lock(tmp_path).__enter__()
        one_line(caught)
    for _ in range(3):  # the lock died with its process, though its file is still there
        with files.lock(tmp_path), pytest.raises(StorageError, match=f"process {os.getpid()} "):
            files.lock(tmp_path).__enter__()


def test_a_forked_worker_does_not_keep_the_lock_of_a_dead_trainer(tmp_path: Path) -> None:
    with holder(tmp_path, worker=True) as pid:
        with pytest.raises(StorageError, match=f"process {pid} "):
            files.lock(tmp_path).__enter__()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with files.lock(tmp_path):  # the worker still waits for its input, which closes with this block
            pass


def test_where_the_file_system_has_no_locks_the_process_number_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    with holder(tmp_path) as pid, pytest.raises(StorageError, match=f"process {pid} "):
        files.lock(tmp_path).__enter__()
    with files.lock(tmp_path), pytest.raises(StorageError, match=f"process {os.getpid()} "):
        files.lock(tmp_path).__enter__()
    (tmp_path / ".lock").write_text(json.dumps({"pid": pid, "host": "elsewhere"}))
    with pytest.raises(StorageError, match="on elsewhere"):  # nothing can be known about another machine's process
        files.lock(tmp_path).__enter__()


def test_a_lock_on_an_impossible_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError) as caught:
        files.lock(tmp_path / "file" / "run").__enter__()
    one_line(caught)


def test_no_pickle_is_reachable_and_json_files_need_no_torch() -> None:
    sources = [Path(module.__file__ or "") for module in (checkpoint, files, tensorfile)]
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            assert not {name.split(".")[0] for name in names} & {"pickle", "dill", "shelve", "marshal", "joblib"}
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save"), ("np", "load")}
    code = "import sys, ganvas.files; assert 'torch' not in sys.modules"
    root = Path(ganvas.__file__).parents[1] if ganvas.__file__ else Path()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
