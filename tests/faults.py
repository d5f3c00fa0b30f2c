"""What the tests that break things share: work in a process of its own that may die, a small disk, another user."""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ganvas import runtime

PATIENCE_SECONDS = 120  # far beyond what any piece of work here takes
NOBODY = 65534
CLONE_NEWNS = 0x20000  # <linux/sched.h>
SYSTEM_CALLS = ("write", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "open")


@dataclass(frozen=True)
class Ended:
    """How a child process ended: exit code, or minus the signal; what it said; its peak memory and its time."""

    code: int
    out: str
    err: str
    peak_bytes: int
    seconds: float


class Child:
    """Runs `work` in a fork of this process: as quick to start as a function, and free to be killed.

    The exit code is what `work` returns (None: 0), or 70 with a traceback on stderr where it raises.
    """

    def __init__(self, work: Callable[[], int | None]) -> None:
        self._said = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 (read when it has ended)
        self._began = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking where there are threads
            self.pid = os.fork()
        if self.pid == 0:
            code = 70
            runtime.usable_cores = lambda: 1  # OpenMP's threads do not live on in a fork; it would wait for them
            try:
                for number, file in enumerate(self._said, start=1):
                    os.dup2(file.fileno(), number)
                sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
                code = work() or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self) -> Ended:
        """Wait for its end; a child that does not end is killed, and the test fails."""
        while True:
            found, status, usage = os.wait4(self.pid, os.WNOHANG)
            if found:
                break
            if time.monotonic() - self._began > PATIENCE_SECONDS:
                self.kill()
                os.waitpid(self.pid, 0)
                pytest.fail(f"a child did not end: {self._text(0)}{self._text(1)}")
            time.sleep(0.002)
        seconds = time.monotonic() - self._began
        code = os.waitstatus_to_exitcode(status)
        # Of a fork that called no other program this is its own peak: it starts with what it shares with its parent.
        return Ended(code, self._text(0), self._text(1), usage.ru_maxrss * 1024, seconds)

    def _text(self, which: int) -> str:
        self._said[which].seek(0)
        return self._said[which].read().decode("utf-8", "replace")


def in_child(work: Callable[[], int | None]) -> Ended:
    """Run `work` in a child to its end."""
    return Child(work).wait()


def assert_one_line(ended: Ended, *words: str) -> None:
    """Exit 2, with one line on stderr that holds `words`, and no traceback anywhere."""
    assert ended.code == 2, (ended.code, ended.out, ended.err)
    assert ended.err.startswith("ganvas: ") and ended.err.count("\n") == 1 and len(ended.err) < 700, ended.err
    assert "Traceback" not in ended.out + ended.err
    for word in words:
        assert word in ended.err, ended.err


class Death(BaseException):
    """Stands for the death of the process: no handler may do any work after it."""


def die() -> None:
    raise Death


class Fault:
    """Lets the first `when` system calls that change files through; then each dies, or one alone fails with an errno.

    The write it dies in is torn: half of its bytes arrive.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, when: int, failure: int | None, die: Callable[[], None] = die
    ) -> None:
        self.count, self.when, self.failure, self.die = 0, when, failure, die
        for name in SYSTEM_CALLS:
            patch.setattr(os, name, self.wrap(name, getattr(os, name)))

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **named)  # reading
            self.count += 1
            if self.count > self.when and self.failure is None:
                if name == "write" and self.count == self.when + 1:
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])  # torn
                self.die()
            if self.count == self.when + 1 and self.failure is not None:
                named_as = [str(arguments[0])] if isinstance(arguments[0], str | os.PathLike) else []
                raise OSError(self.failure, os.strerror(self.failure), *named_as)
            return real(*arguments, **named)

        return call


def mount_small(folder: Path, size: str) -> None:
    """In a child: lay an empty file system of `size` ("64k", "1m") over `folder`, which only the child sees."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True, capture_output=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True, capture_output=True
    )


def remount(folder: Path, options: str) -> None:
    """In the same child: change its file system, such as "ro" or "size=64m"."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


@functools.cache
def can_mount() -> bool:
    """Whether this process may make a small disk: root on Linux, in a container that allows it."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        return in_child(lambda: mount_small(Path(folder), "64k")).code == 0


def become_nobody() -> None:
    """In a child: give up root's right to read and write everything."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def memory_limit(total_bytes: int) -> None:
    """In a child: let the address space grow by so much and no more; going beyond is a MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + total_bytes, used + total_bytes))
