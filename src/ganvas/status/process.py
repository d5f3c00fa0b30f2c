"""Which process trains in a run folder, learned without taking its lock: to take it, even for a moment, would refuse
a trainer that starts just then.

`files.lock` writes process number and host into `.lock` while it holds it, and empties the file when it lets go. A
process that is killed leaves its number there, and the number may since belong to another one. Where the system says
which files a process has open (Linux) a number therefore counts only with the very file open.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple

from ganvas.errors import CheckpointError
from ganvas.files import one_line, open_regular

PROCESSES = Path("/proc")
MAX_BYTES = 4096
TRIES, PAUSE_SECONDS = 3, 0.005  # a text that is just being written is whole a moment later


class Holder(NamedTuple):
    """The process that `.lock` names. `alive`: it trains here now; False: it died; None: cannot be told from here."""

    pid: int
    host: str
    alive: bool | None
    since: float  # when it took the lock, in seconds since 1970


def holder(folder: Path) -> Holder | None:
    """Who holds the run `folder`, or held it when it died; None where it was let go of, or never held."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        try:
            with open_regular(folder / ".lock") as (descriptor, size):
                text = os.read(descriptor, MAX_BYTES) if size else b""
                file = os.fstat(descriptor)
        except CheckpointError:
            return None
        if not text:
            return None
        try:
            owner = json.loads(text)
            pid, host = int(owner["pid"]), one_line(owner["host"])[:100]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        here = host == socket.gethostname()
        return Holder(pid, host, _holds(pid, file) if here else None, file.st_mtime)
    return None


def _holds(pid: int, file: os.stat_result) -> bool | None:
    """Whether process `pid` of this machine has `file` open; None where only that it exists can be told."""
    if pid <= 0:
        return False
    if not (PROCESSES / "self" / "fd").is_dir():
        return _exists(pid)
    try:
        descriptors = list((PROCESSES / str(pid) / "fd").iterdir())
    except PermissionError:  # another user's
        return None if _exists(pid) else False
    except OSError:  # gone, or dead and not yet collected by its parent
        return False
    for descriptor in descriptors:
        try:
            opened = descriptor.stat()
        except OSError:  # closed since
            continue
        if (opened.st_dev, opened.st_ino) == (file.st_dev, file.st_ino):
            return True
    return False


def _exists(pid: int) -> bool:
    """Whether there is a process `pid`. Signal 0 asks without doing anything, except on Windows, where it is Ctrl-C."""
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return bool(kernel.GetLastError() == 5)  # ERROR_ACCESS_DENIED: there is one, of another user
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == 259  # STILL_ACTIVE
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
