"""Files that are written wholly or not at all, JSON of bounded size, and one writer to a folder. No torch here."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from ganvas.errors import CheckpointError, StorageError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

MAX_JSON_BYTES = 16 * 2**20
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
_BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
# Windows would translate line ends in a file that os.open opened as text.
_BINARY = getattr(os, "O_BINARY", 0)


def one_line(text: object) -> str:
    """`text` with every run of white space as one space and other control characters as `?`: fit for a message."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(str(text).split()))


@contextmanager
def storage_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn an OSError met while writing `path` (`needed` bytes in all) into a StorageError of one line."""
    try:
        yield
    except OSError as exc:
        size = "" if needed is None else f" {needed:,} bytes"
        why = "the disk, quota or file size limit is full" if exc.errno in _FULL else exc.strerror or exc
        step = "free some space" if exc.errno in _FULL else "check the folder and its permissions"
        raise StorageError(
            one_line(f"{path}: cannot write{size}: {why}; {step}, then run the same line again")
        ) from exc


def write_file(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write `data` to the new file `path`, flushed to the disk (`sync`). Raises OSError, also where `path` exists."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk, so that a rename in it outlives a power cut."""
    if sys.platform == "win32":
        return  # a folder cannot be opened there, and NTFS journals its names
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path | str, data: bytes, *, sync: bool = True) -> None:
    """Replace `path` by a file that holds `data`: after a crash there is the old file or the new one, never a part.

    `sync=False` waits for no disk: faster for many files, and sound unless the machine itself loses power.
    Raises StorageError where it cannot be written; the old file is then whole.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{secrets.token_hex(6)}")  # short: a name may already have 255 bytes
    with storage_errors(path, len(data)):
        try:
            write_file(temporary, data, sync=sync)
            os.replace(temporary, path)  # noqa: PTH105 (the tests inject their faults into os)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        if sync:
            sync_folder(path.parent)


def read_bytes(path: Path | str, limit: int) -> bytes:
    """Read the regular file `path` of at most `limit` bytes; never follows a link, never waits for a pipe or device.

    Raises CheckpointError of one line that names the file.
    """
    path = Path(path)
    with open_regular(path) as (descriptor, size):
        if size > limit:
            raise CheckpointError(one_line(f"{path}: {size:,} bytes are more than the {limit:,} allowed; not opened"))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(size)


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[int, int]]:
    """Open `path` for reading and yield (descriptor, bytes); CheckpointError where it is no readable regular file."""
    flags = os.O_RDONLY | _BINARY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        if path.is_symlink():
            raise CheckpointError(one_line(f"{path}: is a symbolic link; put the file itself there"))
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise CheckpointError(one_line(f"{path}: is missing; use another checkpoint or restore it")) from None
    except (OSError, ValueError) as exc:  # ValueError: a zero byte in the name
        raise CheckpointError(one_line(f"{path}: cannot be read ({exc}); check its permissions")) from exc
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(one_line(f"{path}: is not a regular file; restore it"))
        yield descriptor, status.st_size
    except OSError as exc:
        raise CheckpointError(one_line(f"{path}: cannot be read ({exc}); check the disk")) from exc
    finally:
        os.close(descriptor)


def encode_json(value: Any) -> bytes:
    """`value` as JSON text in ASCII, one entry a line; ValueError for a number that is not finite."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode("ascii")


def decode_json(data: bytes) -> JSON:
    """Read JSON strictly; ValueError for what is not UTF-8, names an entry twice, or holds NaN or infinity."""

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is not a number in JSON")

    def finite(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else refuse(digits[:20])

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            raise ValueError("an entry is named twice")
        return entries

    try:
        value: JSON = json.loads(
            data.decode("utf-8"), parse_constant=refuse, parse_float=finite, object_pairs_hook=unique
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def write_json(path: Path | str, value: JSON) -> None:
    """Replace `path` by `value` as JSON, atomically. Raises StorageError; ValueError for NaN or infinity."""
    write_bytes(path, encode_json(value))


def read_json(path: Path | str, limit: int = MAX_JSON_BYTES) -> JSON:
    """Read a JSON file of at most `limit` bytes. Raises CheckpointError of one line that names the file."""
    try:
        return decode_json(read_bytes(path, limit))
    except ValueError as exc:
        raise CheckpointError(one_line(f"{path}: is not valid JSON ({exc}); restore it from a copy")) from exc


# Descriptor -> the folder that it locks, as it was named and as an absolute path.
# A forked worker inherits an open lock and would hold it after the trainer died, so children close these at once.
_held: dict[int, tuple[Path, Path]] = {}


def _forget_locks() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


@contextmanager
def lock(folder: Path | str) -> Iterator[None]:
    """Be the only writer to `folder` (made where missing) until the block ends.

    The kernel holds the lock, so the death of its process frees it. File systems that know no locks fall back on the
    process number in the file: free when that process is dead. Raises StorageError that names the holder.
    """
    folder = Path(folder)
    path = folder / ".lock"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _BINARY | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        holder = _take(descriptor)
        if holder is not None:
            raise StorageError(
                one_line(f"{folder}: in use by {holder}; wait for it or stop it, or choose another folder")
            )
        mine = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        with storage_errors(path, len(mine)):
            _rewrite(descriptor, mine)
        _held[descriptor] = folder, folder.absolute()
        try:
            yield
        finally:
            _held.pop(descriptor, None)
            with suppress(OSError):
                _rewrite(descriptor, b"")  # the file stays: removing it would let two processes lock two files
                if sys.platform != "win32":
                    fcntl.flock(descriptor, fcntl.LOCK_UN)  # for every copy, also one in a child that just forked
    finally:
        with suppress(OSError):
            os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it; raises OSError.

    Never a part of a folder whose lock this process holds and that was removed, renamed or replaced meanwhile: that
    must neither come back half nor be mixed with what another process now writes there. Raises StorageError instead.
    """
    for descriptor, (name, locked) in _held.items():
        if folder.absolute().is_relative_to(locked) and not _is_at(descriptor, locked / ".lock"):
            raise StorageError(
                one_line(f"{name}: was removed or replaced while it was written to; put it back, or begin another")
            )
    folder.mkdir(parents=True, exist_ok=True)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether `path` is the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))  # noqa: PTH116
    except OSError:
        return False


def _take(descriptor: int) -> str | None:
    """Lock the open file; return None, or who holds it."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, 2**20, os.SEEK_SET)  # far behind the text, which others must still be able to read
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None
    except OSError as exc:
        busy = exc.errno in _BUSY
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        owner = json.loads(os.read(descriptor, 4096))
        pid, host = int(owner["pid"]), str(owner["host"])
    except (ValueError, KeyError, TypeError):
        return "another process" if busy else None
    if not busy and host == socket.gethostname() and not _alive(pid):
        return None
    return f"process {pid} on {host}"


def _alive(pid: int) -> bool:
    """Whether a process of this number exists here (signal 0 asks without doing anything)."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid > 0


def _rewrite(descriptor: int, data: bytes) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.truncate(descriptor, 0)
    os.write(descriptor, data)
