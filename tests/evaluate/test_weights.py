"""Weights are read only where their digest is the one in our source, and never as code."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ganvas.errors import CheckpointError
from ganvas.evaluate import weights
from ganvas.evaluate.weights import read_pinned

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}


def saved(value: Any) -> bytes:
    """What torch.save writes of a value."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def written(folder: Path, data: bytes, name: str = "weights.pth") -> tuple[Path, str]:
    """A file of these bytes, and its digest."""
    path = folder / name
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_what_was_saved_is_read(tmp_path: Path, name: str) -> None:
    data = saved(TENSORS) if name.endswith(".pth") else safetensors.torch.save(TENSORS)
    found = read_pinned(*written(tmp_path, data, name))
    assert found.keys() == TENSORS.keys() and all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)


def test_a_link_is_followed(tmp_path: Path) -> None:
    path, digest = written(tmp_path, saved(TENSORS))
    (tmp_path / "link.pth").symlink_to(path)
    assert read_pinned(tmp_path / "link.pth", digest).keys() == TENSORS.keys()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("fault", ["a bit", "cut off", "longer", "empty"])
def test_another_file_is_not_even_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: str
) -> None:
    data = saved(TENSORS) if name.endswith(".pth") else safetensors.torch.save(TENSORS)
    digest = hashlib.sha256(data).hexdigest()
    other = {"a bit": data[:-1] + bytes([data[-1] ^ 1]), "cut off": data[:-9], "longer": data + b"x", "empty": b""}[
        fault
    ]
    path, _ = written(tmp_path, other, name)

    def parsed(*_: object, **__: object) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(weights.torch, "load", parsed)
    monkeypatch.setattr(weights.safetensors.torch, "load", parsed)
    with pytest.raises(CheckpointError, match=r"weights\.\w+: .*SHA-256") as caught:
        read_pinned(path, digest)
    assert "\n" not in str(caught.value)


class _Writes:
    """Its pickle runs a call when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_is_not_run_even_where_the_digest_is_right(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for data in (saved({"a": _Writes(trap)}), pickle.dumps({"a": _Writes(trap)})):
        with pytest.raises(CheckpointError):
            read_pinned(*written(tmp_path, data))
        assert not trap.exists()
    pickle.loads(pickle.dumps(_Writes(trap)))  # noqa: S301
    assert trap.exists(), "the trap does work"


@pytest.mark.parametrize("value", [[torch.zeros(1)], {"a": 1}, torch.zeros(1), {"a": {"b": torch.zeros(1)}}])
def test_only_named_tensors_are_weights(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="named tensors"):
        read_pinned(*written(tmp_path, saved(value)))


def test_missing_too_large_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        read_pinned(tmp_path / "none.pth", "0" * 64)
    with pytest.raises(CheckpointError):
        read_pinned(tmp_path, "0" * 64)
    path, digest = written(tmp_path, saved(TENSORS))
    monkeypatch.setattr(weights, "MAX_BYTES", 100)
    with pytest.raises(CheckpointError, match="100 allowed"):
        read_pinned(path, digest)
