"""A run folder on disk: atomic, checksummed, data and never code.

    runs/photos/
      config.json  manifest.json  metrics.jsonl  samples/
      checkpoints/000000123456/            named by images seen
        networks.safetensors  …            one file a part
        state.json                         everything that is not a tensor
        manifest.json                      bytes and SHA-256 of each file, and of itself
      generator/                           the same layout, written by `publish`

A checkpoint is written into a temporary folder beside its place, flushed to the disk, then renamed: it is there wholly
or not at all. `.tmp-*` is an interrupted write and `.old-*` a folder on its way out; `clean` mends both.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from ganvas.errors import CheckpointError, SettingError, TrainingError
from ganvas.files import (
    JSON,
    MAX_JSON_BYTES,
    decode_json,
    encode_json,
    lock,
    make_folder,
    one_line,
    read_bytes,
    read_json,
    storage_errors,
    sync_folder,
    write_file,
    write_json,
)
from ganvas.tensorfile import Expected, pack, read_tensors, weights_hash

__all__ = [
    "JSON",
    "Checkpoint",
    "Expected",
    "clean",
    "load",
    "load_latest",
    "lock",
    "publish",
    "read_json",
    "save",
    "weights_hash",
    "write_json",
]

Parts: TypeAlias = Mapping[str, Expected]  # part -> name -> (shape, dtype)

FORMAT = "ganvas-checkpoint-1"
MAX_PARTS = 64
MAX_MANIFEST_BYTES = 2**20

_PART = re.compile(r"[a-z][a-z0-9_]{0,60}")
_FILE = re.compile(r"[a-z][a-z0-9_]{0,60}\.safetensors|state\.json")
_NUMBER = re.compile(r"(?:\.old-)?([0-9]{12,15})")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass
class Checkpoint:
    """What a checkpoint folder holds; tensors are contiguous and on the CPU."""

    path: Path
    seen_images: int
    tensors: dict[str, dict[str, Tensor]]  # part -> name -> tensor
    state: dict[str, JSON]
    skipped: list[str] = field(default_factory=list)  # newer checkpoints that are damaged, each as "file: why"


def save(
    folder: Path | str,
    seen_images: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, JSON],
    keep: int = 2,
    *,
    assert_finite: bool = True,
) -> Path:
    """Save checkpoint `seen_images` (a count) of the run `folder`, then remove older ones; return its path.

    `tensors` maps part -> name -> tensor, kept bit by bit (dtypes: see `tensorfile.pack`). The newest `keep`
    checkpoints stay, and those whose state has `"keep": true`. A checkpoint numbered after this one was left behind
    (it was damaged, or training went back before it), so it goes as well. One writer only: hold `lock(folder)`.

    Raises StorageError with path and bytes where the disk is full or not writable, TrainingError naming a tensor that
    is not finite: the checkpoints before are then whole and nothing is left over. SettingError: `keep` below 1.
    """
    if keep < 1:
        raise SettingError(f"keep={keep}: at least 1 checkpoint must stay; give 1 or more")
    if not 0 <= seen_images < 10**15:
        raise ValueError(f"seen_images={seen_images} is outside 0 to 10^15")
    checkpoints = Path(folder) / "checkpoints"
    target = checkpoints / f"{seen_images:012d}"
    publish(target, seen_images, tensors, state, assert_finite=assert_finite)
    _prune(checkpoints, seen_images, keep)
    return target


def publish(
    target: Path | str,
    seen_images: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, JSON],
    *,
    assert_finite: bool = True,
) -> None:
    """Write the checkpoint folder `target`, replacing one that is there; `load` reads it. Raises as `save` does."""
    target = Path(target)
    blobs = {}
    for part, named in tensors.items():
        if not _PART.fullmatch(part):
            raise ValueError(f"part name {part!r}: use lower-case letters, digits and '_'")
        try:
            blobs[f"{part}.safetensors"] = pack(named, assert_finite=assert_finite)
        except TrainingError as exc:
            raise TrainingError(f"{part}: {exc}") from None
    try:
        blobs["state.json"] = encode_json(dict(state))
        decode_json(blobs["state.json"])  # what a reader would refuse must not be written
        if len(blobs["state.json"]) > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES:,} bytes")
    except ValueError as exc:
        raise TrainingError(f"the training state cannot be saved ({exc}); use an earlier checkpoint") from exc
    files = {name: {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()} for name, blob in blobs.items()}
    blobs["manifest.json"] = _seal({"format": FORMAT, "seen_images": seen_images, "files": files})

    with storage_errors(target, sum(map(len, blobs.values()))):
        make_folder(target.parent)
        sync_folder(target.parent.parent)
        _mend(target.parent, target.name)
        temporary = target.parent / f".tmp-{target.name}"
        try:
            temporary.mkdir()
            for name, blob in blobs.items():
                write_file(temporary / name, blob)
            sync_folder(temporary)
            _put(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def load(
    path: Path | str,
    expect: Parts | Callable[[dict[str, Any]], Parts] | None = None,
    *,
    parts: Collection[str] | None = None,
) -> Checkpoint:
    """Read the checkpoint folder `path`, checking every byte that is used.

    `expect` maps part -> name -> (shape, dtype): these parts must be there and match exactly, which is found out
    before their data is read. It may be a function of the state that returns that, or raises ValueError. `parts` limits
    what is read and checked (a generator needs no optimiser). Raises CheckpointError of one line that names the file.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    seen_images, files = manifest["seen_images"], manifest["files"]
    state = _read_state(path / "state.json", files["state.json"])
    if callable(expect):
        try:
            expect = expect(state)
        except ValueError as exc:
            raise CheckpointError(one_line(f"{path / 'state.json'}: {exc}; use another checkpoint")) from exc
    stored = {name.removesuffix(".safetensors") for name in files} - {"state.json"}
    wanted = stored if parts is None else set(parts)
    for part in sorted(wanted | set(expect or {})):
        if part not in stored:
            raise CheckpointError(one_line(f"{path}: has no part '{part}'; use a checkpoint of this kind of run"))
    tensors = {}
    for part in sorted(wanted):
        name = f"{part}.safetensors"
        size, sha256 = files[name]["bytes"], files[name]["sha256"]
        tensors[part] = read_tensors(path / name, (expect or {}).get(part), size=size, sha256=sha256)
    return Checkpoint(path, seen_images, tensors, state)


def load_latest(
    folder: Path | str,
    *,
    expect: Parts | Callable[[dict[str, Any]], Parts] | None = None,
    parts: Collection[str] | None = None,
    upto: int | None = None,
) -> Checkpoint | None:
    """Read the newest valid checkpoint of the run `folder`; None where it has none. Writes nothing.

    `upto` passes over those of more images seen.

    Damaged ones are passed over and named in `skipped`. Raises CheckpointError where all are damaged or do not match
    `expect` (see `load`).
    """
    checkpoints = Path(folder) / "checkpoints"
    skipped: list[str] = []
    for seen_images, path in _numbered(checkpoints):
        if upto is not None and seen_images > upto:
            continue
        try:
            found = load(path, expect, parts=parts)
        except CheckpointError as exc:
            skipped.append(str(exc))
            continue
        found.skipped = skipped
        return found
    if skipped:
        raise CheckpointError(
            one_line(
                f"{checkpoints}: none of {len(skipped)} checkpoints can be used, the newest because {skipped[0]}; "
                "without a copy, train into a new run folder"
            )
        )
    return None


def clean(folder: Path | str) -> None:
    """Remove what interrupted saves left in the run `folder`, and put back a folder that was being replaced.

    Call it before training goes on, under `lock(folder)`. Raises StorageError where the folder cannot be written.
    """
    folder = Path(folder)
    with storage_errors(folder):
        for place in (folder, folder / "checkpoints", folder / "samples"):
            if place.is_dir():
                _mend(place)


def _numbered(checkpoints: Path) -> list[tuple[int, Path]]:
    """(images seen, path) of each checkpoint, newest first; one that is being replaced comes after its new self."""
    try:
        names = [entry.name for entry in os.scandir(checkpoints)]
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise CheckpointError(one_line(f"{checkpoints}: cannot be read ({exc}); check its permissions")) from exc
    matches = [match for match in map(_NUMBER.fullmatch, names) if match]
    matches.sort(key=lambda match: (int(match[1]), not match[0].startswith(".old-")), reverse=True)
    return [(int(match[1]), checkpoints / match[0]) for match in matches]


def _put(temporary: Path, target: Path) -> None:
    """Rename `temporary` to `target`, and a folder that is in the way to `.old-…` for that moment."""
    old = target.parent / f".old-{target.name}"
    replaced = target.exists()
    if replaced:
        os.rename(target, old)  # noqa: PTH104 (the tests inject their faults into os)
    try:
        os.rename(temporary, target)  # noqa: PTH104
    except OSError:
        if replaced:
            os.rename(old, target)  # noqa: PTH104
        raise
    sync_folder(target.parent)
    if replaced:
        shutil.rmtree(old, ignore_errors=True)


def _mend(parent: Path, name: str = "") -> None:
    """Undo or finish interrupted writes in `parent`: all of them, or only those of the folder `name`."""
    for entry in list(parent.iterdir()):
        kind, target = entry.name[:5], entry.name[5:]
        if kind not in (".tmp-", ".old-") or (name and target != name):
            continue
        if kind == ".old-" and not (parent / target).exists():
            os.rename(entry, parent / target)  # noqa: PTH104 (the new folder never came: keep what was there)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _prune(checkpoints: Path, seen_images: int, keep: int) -> None:
    """Remove the checkpoints that `save` says must go. The new one is safe by now, so a failure here waits."""
    numbered = [(number, path) for number, path in _numbered(checkpoints) if not path.name.startswith(".")]
    older = [path for number, path in numbered if number < seen_images]
    newer = [path for number, path in numbered if number > seen_images]
    for path in newer + older[keep - 1 :]:
        if path in older and _is_kept(path):
            continue
        # Renamed first: a half-removed folder must not look like a damaged checkpoint.
        doomed = path.with_name(f".tmp-{path.name}")
        with suppress(OSError):
            os.rename(path, doomed)  # noqa: PTH104
            shutil.rmtree(doomed)


def _is_kept(path: Path) -> bool:
    try:
        state = read_json(path / "state.json")
    except CheckpointError:
        return False
    return isinstance(state, dict) and state.get("keep") is True


def _seal(manifest: dict[str, Any]) -> bytes:
    """The manifest's text, with the SHA-256 of itself: a flipped bit in it is found as in any other file."""
    own = hashlib.sha256(encode_json(manifest)).hexdigest()
    return encode_json({**manifest, "sha256": own})


def _read_manifest(path: Path) -> dict[str, Any]:
    """The checked manifest of the checkpoint folder `path`; CheckpointError where it, or the folder, is not sound."""
    file = path / "manifest.json"
    if path.is_symlink() or not path.is_dir():
        raise CheckpointError(one_line(f"{path}: is not a checkpoint folder; give one that holds manifest.json"))
    raw = read_bytes(file, MAX_MANIFEST_BYTES)
    try:
        manifest = decode_json(raw)
        if not isinstance(manifest, dict) or not str(manifest.get("format")).startswith("ganvas-checkpoint-"):
            raise ValueError("is not a checkpoint's manifest")
        if manifest["format"] != FORMAT:
            raise ValueError(f"has the format {str(manifest['format'])[:40]}, and this ganvas reads {FORMAT}")
        if raw != _seal({name: value for name, value in manifest.items() if name != "sha256"}):
            raise ValueError("is damaged: its own SHA-256 differs")
        _check_manifest(manifest)
    except ValueError as exc:
        raise CheckpointError(one_line(f"{file}: {exc}; restore it, or use another checkpoint")) from exc
    numbered = _NUMBER.fullmatch(path.name)
    if numbered and int(numbered[1]) != manifest["seen_images"]:
        raise CheckpointError(one_line(f"{file}: belongs to checkpoint {manifest['seen_images']:012d}; restore it"))
    return manifest


def _check_manifest(manifest: dict[str, Any]) -> None:
    """ValueError unless the fields have the types and bounds that `load` relies on."""
    seen_images, files = manifest.get("seen_images"), manifest.get("files")
    if type(seen_images) is not int or not 0 <= seen_images < 10**15:
        raise ValueError("has no valid count of images seen")
    if not isinstance(files, dict) or "state.json" not in files or len(files) > MAX_PARTS + 1:
        raise ValueError("has no valid list of files")
    for name, facts in files.items():
        if not _FILE.fullmatch(name):
            raise ValueError(f"names a file {name[:60]!r} that no checkpoint has")
        if not isinstance(facts, dict) or type(facts.get("bytes")) is not int or facts["bytes"] < 0:
            raise ValueError(f"has no valid size of {name}")
        if not isinstance(facts.get("sha256"), str) or not _SHA256.fullmatch(facts["sha256"]):
            raise ValueError(f"has no valid SHA-256 of {name}")


def _read_state(path: Path, facts: Mapping[str, Any]) -> dict[str, JSON]:
    raw = read_bytes(path, MAX_JSON_BYTES)
    try:
        if len(raw) != facts["bytes"] or hashlib.sha256(raw).hexdigest() != facts["sha256"]:
            raise ValueError("its SHA-256 differs from the manifest's: damaged or exchanged")
        state = decode_json(raw)
        if not isinstance(state, dict):
            raise ValueError("is not a JSON object")
    except ValueError as exc:
        raise CheckpointError(one_line(f"{path}: {exc}; restore it, or use another checkpoint")) from exc
    return state
