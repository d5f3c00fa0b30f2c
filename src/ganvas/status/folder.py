"""The files of a run folder, read while another process may write, replace or remove any of them.

Every read is bounded: metrics.jsonl by its end, checkpoints by their JSON (of tensor files only the size is looked
at), the disk usage by a number of entries. Nothing is created, changed, locked or removed.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ganvas.errors import CheckpointError
from ganvas.files import MAX_JSON_BYTES, decode_json, encode_json, one_line, open_regular, read_bytes

FORMAT = "ganvas-checkpoint-1"  # of ganvas.checkpoint, which cannot be asked: it loads torch
MAX_MANIFEST_BYTES = 2**20
MAX_FILES = 65
TAIL_BYTES = 8 * 2**20  # of metrics.jsonl: some ten hours on a CPU
MAX_ENTRIES = 20_000  # files that are added up
TRIES, PAUSE_SECONDS = 5, 0.02

_NUMBER = re.compile(r"(?:\.old-)?([0-9]{12,15})")
_NO_ACTION = re.compile(rb'"action"\s*:\s*null')
Found = TypeVar("Found")
Row = dict[str, Any]


class Stored(NamedTuple):
    """A checkpoint whose JSON is sound and whose files have the right sizes."""

    path: Path
    seen_images: int
    state: dict[str, Any]
    written: float  # seconds since 1970


class Rows(NamedTuple):
    """Rows of metrics.jsonl, oldest first, as far as its end was read."""

    ticks: list[Row]  # the last few
    scores: list[Row]
    findings: list[Row]  # of the monitor: those with an action, and the newest
    from_images: int  # images seen at the first row that was read; 0 where the whole file was
    written: float | None  # when it was last, in seconds since 1970; None: there is no such file


def _end_of(path: Path, limit: int) -> tuple[list[bytes], int, float]:
    """The lines in the last `limit` bytes of a file, where these begin, and when it was written."""
    with open_regular(path) as (descriptor, size), os.fdopen(descriptor, "rb", closefd=False) as file:
        start = max(0, size - limit)
        file.seek(start)
        return file.read(size - start).split(b"\n"), start, os.fstat(descriptor).st_mtime


def read_rows(path: Path, limit: int = TAIL_BYTES) -> Rows:
    """The rows in the last `limit` bytes of `path`; a line that is half-written or no row is passed over.

    Raises CheckpointError where it is there and cannot be read.
    """
    try:
        lines, start, written = _end_of(path, limit)
    except CheckpointError:
        if not os.path.lexists(path):
            return Rows([], [], [], 0, None)
        lines, start, written = _end_of(path, limit)  # a run that begins may have made it in between
    lines.pop()  # what follows the last line end: nothing, or half a row
    if start:
        del lines[:1]  # begins somewhere in a row
    ticks = _rows(lines, b'"images_per_second"', "images_per_second", 20)
    scores = _rows(lines, b'"metric"', "score", 1000)
    findings = _rows(lines, b'"state"', "state", 1)
    acted = _rows([line for line in lines if b'"action"' in line and not _NO_ACTION.search(line)], b"", "state", 1000)
    first = next((row["seen_images"] for line in lines if start and (row := _row(line)) is not None), 0)
    return Rows(ticks, scores, acted + [row for row in findings if row not in acted], first, written)


def _rows(lines: list[bytes], mark: bytes, key: str, most: int) -> list[Row]:
    """The last `most` rows that have `key`; only lines that hold `mark` are parsed."""
    found: list[Row] = []
    for line in reversed(lines):
        if mark not in line or (row := _row(line)) is None:
            continue
        if isinstance(row.get(key), str) if key == "state" else number(row.get(key), negative=True) is not None:
            found.append(row)
        if len(found) == most:
            break
    return found[::-1]


def _row(line: bytes) -> Row | None:
    """A line as a row: a dictionary with images seen and seconds; None where it is none."""
    with suppress(ValueError):
        row = decode_json(line)
        if isinstance(row, dict) and is_count(row.get("seen_images")) and number(row.get("seconds")) is not None:
            return row
    return None


def number(value: object, *, negative: bool = False) -> float | None:
    """`value` where it is a number that a run may hold, else None: files are written by others."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e15 < value < 1e15:
        return None
    return float(value) if negative or value >= 0 else None


def is_count(value: object) -> bool:
    """Whether `value` is a whole number from 0 to 10^15."""
    return type(value) is int and 0 <= value < 10**15


def newest_checkpoint(folder: Path) -> tuple[Stored | None, list[str]]:
    """The newest checkpoint of the run `folder` that seems sound, and what is wrong with each newer one."""
    checkpoints = folder / "checkpoints"

    def attempt() -> tuple[Stored | None, list[str]]:
        try:
            names = [path.name for path in checkpoints.iterdir()]
        except FileNotFoundError:
            return None, []
        except OSError as exc:
            return None, [one_line(f"{checkpoints}: cannot be read ({exc.strerror}); check its permissions")]
        numbers = sorted(
            (
                (int(match[1]), not name.startswith(".old-"), name)
                for name in names
                if (match := _NUMBER.fullmatch(name))
            ),
            reverse=True,
        )
        return first_sound([checkpoints / name for _, _, name in numbers])

    return believe(attempt)


def best_generator(folder: Path) -> tuple[Stored | None, list[str]]:
    """The generator in best/, or why it cannot be used. While it is being replaced, the one before."""
    return believe(lambda: first_sound([path for path in (folder / "best", folder / ".old-best") if path.exists()]))


def first_sound(paths: list[Path]) -> tuple[Stored | None, list[str]]:
    """The first of `paths` that seems sound, and what is wrong with those before it."""
    damaged: list[str] = []
    for path in paths:
        try:
            return read_checkpoint(path), damaged
        except CheckpointError as error:
            damaged.append(str(error))
    return None, damaged


def believe(attempt: Callable[[], tuple[Found, list[str]]]) -> tuple[Found, list[str]]:
    """Repeat `attempt` until it finds nothing damaged, or the same damage twice: what is being removed or replaced
    looks damaged for a moment."""
    found, damaged = attempt()
    for _ in range(TRIES):
        if not damaged:
            break
        before = damaged
        time.sleep(PAUSE_SECONDS)
        found, damaged = attempt()
        if damaged == before:
            break
    return found, damaged


def read_checkpoint(path: Path) -> Stored:
    """Read the JSON of the checkpoint folder `path`, and compare the sizes of its other files.

    Raises CheckpointError of one line that names the file. A bit flipped inside a tensor file is left to be found by
    whoever loads it: hashing takes seconds.
    """
    file = path / "manifest.json"
    raw = read_bytes(file, MAX_MANIFEST_BYTES)
    try:
        manifest = decode_json(raw)
        if not isinstance(manifest, dict) or not str(manifest.get("format")).startswith("ganvas-checkpoint-"):
            raise ValueError("is not a checkpoint's manifest")
        if manifest["format"] != FORMAT:
            raise ValueError(f"has the format {str(manifest['format'])[:40]}, and this ganvas reads {FORMAT}")
        body = {name: value for name, value in manifest.items() if name != "sha256"}
        if raw != encode_json({**body, "sha256": hashlib.sha256(encode_json(body)).hexdigest()}):
            raise ValueError("is damaged: its own SHA-256 differs")
        seen_images, files = _facts(manifest)
        numbered = _NUMBER.fullmatch(path.name)
        if numbered and int(numbered[1]) != seen_images:
            raise ValueError(f"belongs to checkpoint {seen_images:012d}")
    except ValueError as exc:
        raise CheckpointError(one_line(f"{file}: {exc}")) from None
    for name, (size, _) in files.items():
        with open_regular(path / name) as (_, found):
            if found != size:
                raise CheckpointError(
                    one_line(f"{path / name}: has {found:,} bytes instead of {size:,}: damaged or cut off")
                )
    state = _read_state(path / "state.json", files["state.json"][1])
    try:
        return Stored(path, seen_images, state, file.stat().st_mtime)
    except OSError as exc:
        raise CheckpointError(one_line(f"{file}: {exc.strerror}")) from None


def _facts(manifest: dict[str, Any]) -> tuple[int, dict[str, tuple[int, str]]]:
    """Images seen, and file -> (bytes, SHA-256), of a manifest; ValueError where they are not what they should be."""
    seen_images, files = manifest.get("seen_images"), manifest.get("files")
    if type(seen_images) is not int or not is_count(seen_images):
        raise ValueError("has no valid count of images seen")
    if not isinstance(files, dict) or "state.json" not in files or len(files) > MAX_FILES:
        raise ValueError("has no valid list of files")
    facts = {}
    for name, about in files.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}\.safetensors|state\.json", name) or not isinstance(about, dict):
            raise ValueError(f"names a file {name[:60]!r} that no checkpoint has")
        size, digest = about.get("bytes"), about.get("sha256")
        if type(size) is not int or not isinstance(digest, str):
            raise ValueError(f"has no valid facts of {name}")
        facts[name] = size, digest
    return seen_images, facts


def _read_state(path: Path, digest: str) -> dict[str, Any]:
    raw = read_bytes(path, MAX_JSON_BYTES)
    try:
        if hashlib.sha256(raw).hexdigest() != digest:
            raise ValueError("its SHA-256 differs from the manifest's: damaged or exchanged")
        state = decode_json(raw)
        if not isinstance(state, dict):
            raise ValueError("is not a JSON object")
    except ValueError as exc:
        raise CheckpointError(one_line(f"{path}: {exc}")) from None
    return state


def disk_bytes(folder: Path, limit: int = MAX_ENTRIES) -> tuple[dict[str, int], bool]:
    """Bytes by the first name below `folder` (its own files as "."), and whether all files were added up.

    Links count as nothing; at most `limit` entries are looked at.
    """
    totals: dict[str, int] = {}
    waiting = [(folder, ".")]
    looked = 0
    while waiting:
        place, part = waiting.pop()
        with suppress(OSError), os.scandir(place) as entries:  # removed since, or not ours to read
            for entry in entries:
                looked += 1
                if looked > limit:
                    return totals, False
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((Path(entry.path), entry.name if part == "." else part))
                    elif entry.is_file(follow_symlinks=False):
                        totals[part] = totals.get(part, 0) + entry.stat(follow_symlinks=False).st_size
    return totals, True
