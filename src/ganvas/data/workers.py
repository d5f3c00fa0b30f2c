"""Many pictures through read, decode and fit: in this process, or in worker processes that may die without harm.

Workers are spawned, not forked: the parent may hold torch's threads, and a forked copy of those can hang. They import
NumPy and Pillow only. Each has its own copy of the source and so its own archive handle.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import numpy as np

from ganvas.data.colour import ground
from ganvas.data.decode import Fit, Pixels, SetAside, decode, fit, printable, to_channels
from ganvas.data.source import Source

CHUNK = 32  # pictures sent to a worker at a time: a message costs about a millisecond
CHUNK_BYTES = 8 * 2**20  # and no more than this comes back in one message
AHEAD = 3  # chunks in flight for each worker; bounds what waits in memory


@dataclass(frozen=True)
class Recipe:
    """What every picture goes through; `size` is (height, width), `channels` None keeps grey pictures at one."""

    size: tuple[int, int]
    fit: Fit = "crop"
    channels: Literal["grey", "rgb"] | None = None
    background: str = "#ffffff"
    max_pixels: int = 64_000_000


@dataclass(frozen=True)
class Prepared:
    """A picture ready for the cache: `pixels` uint8 [H, W, 1 or 3], `digest` of them, and what the file was."""

    name: str
    pixels: Pixels
    digest: bytes
    warnings: tuple[str, ...]
    mode: str
    size: tuple[int, int]


Outcome = Prepared | SetAside


def prepare_one(source: Source, name: str, recipe: Recipe) -> Outcome:
    """Read, decode and fit one picture; a SetAside where that cannot be done."""
    try:
        data = source.read(name)
    except OSError as error:
        why = printable(" ".join(str(error.strerror or error).split()))[:160]
        return SetAside(printable(name), f"it cannot be read ({why})", "check its permissions, or copy it again")
    picture = decode(data, name, background=recipe.background, max_pixels=recipe.max_pixels, draft_size=recipe.size)
    if isinstance(picture, SetAside):
        return picture
    pixels = picture.pixels
    if recipe.fit == "pad" and recipe.channels != "grey" and len(set(ground(recipe.background, "RGB"))) > 1:
        pixels = to_channels(pixels, "rgb")  # the padding has a colour, even around a grey picture
    pixels = fit(pixels, recipe.size, recipe.fit, recipe.background)
    if recipe.channels is not None:
        pixels = to_channels(pixels, recipe.channels)
    pixels = np.ascontiguousarray(pixels)
    digest = blake2b(pixels.data, digest_size=16).digest()
    return Prepared(name, pixels, digest, picture.warnings, picture.mode, picture.size)


def prepare_many(source: Source, names: Sequence[str], recipe: Recipe, workers: int) -> Iterator[list[Outcome]]:
    """Yield the outcomes in the order of `names`, a chunk at a time, by `workers` processes (0: in this one).

    A picture on which a worker dies is set aside; the others do not notice.
    """
    length = max(1, min(CHUNK, CHUNK_BYTES // (3 * recipe.size[0] * recipe.size[1])))
    chunks = [list(names[at : at + length]) for at in range(0, len(names), length)]
    # A source defined in the user's own script cannot be found by a worker, which does not run that script.
    if workers == 0 or not source.shareable or type(source).__module__ == "__main__":
        yield from ([prepare_one(source, name, recipe) for name in chunk] for chunk in chunks)
    else:
        yield from _in_processes(source, chunks, recipe, workers)


def _in_processes(source: Source, chunks: list[list[str]], recipe: Recipe, workers: int) -> Iterator[list[Outcome]]:
    waiting, flying = deque(chunks), deque[tuple[list[str], Future[list[Outcome]]]]()
    pool = _Pool(source, recipe, min(workers, len(chunks)))
    try:
        while waiting or flying:
            while waiting and len(flying) < AHEAD * workers:
                flying.append((waiting[0], pool.submit(waiting.popleft())))
            chunk, future = flying.popleft()
            try:
                outcomes = future.result()
            except BrokenProcessPool:
                # Nobody can tell which picture killed it, so this chunk is gone through one by one; the other
                # chunks in flight start again, and if the culprit is in one of those, its turn comes.
                pool.stop()
                outcomes = _one_by_one(source, chunk, recipe)
                pool = _Pool(source, recipe, workers)
                flying = deque((c, f if _succeeded(f) else pool.submit(c)) for c, f in flying)
            yield outcomes
    finally:
        pool.stop()


def _one_by_one(source: Source, chunk: list[str], recipe: Recipe) -> list[Outcome]:
    """Prepare each picture in a process that may die of it."""
    outcomes: list[Outcome] = []
    pool = _Pool(source, recipe, 1)
    try:
        for name in chunk:
            try:
                outcomes += pool.submit([name]).result()
            except BrokenProcessPool:
                pool.stop()
                pool = _Pool(source, recipe, 1)
                try:
                    pool.submit([]).result()
                except BrokenProcessPool:  # no process can live here at all, so the picture is not to blame
                    outcomes.append(prepare_one(source, name, recipe))
                    continue
                reason = "the process that decoded it died (it may need more memory than there is)"
                outcomes.append(SetAside(printable(name), reason, "save it again or smaller, or remove it"))
    finally:
        pool.stop()
    return outcomes


def _succeeded(future: Future[list[Outcome]]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


class _Pool:
    """A process pool whose submit never raises, and that stops after at most one more picture a worker."""

    def __init__(self, source: Source, recipe: Recipe, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        # A bare byte without a lock: a worker that dies can leave a lock locked for ever.
        self._stop = context.RawValue("b", 0)
        self._pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(source, recipe, self._stop))

    def submit(self, chunk: list[str]) -> Future[list[Outcome]]:
        try:
            with clean_start():
                return self._pool.submit(_work, chunk)
        except BrokenProcessPool as error:
            future: Future[list[Outcome]] = Future()
            future.set_exception(error)
            return future

    def stop(self) -> None:
        """End the workers. They are asked, not killed: one killed amid its answer would leave us reading for ever."""
        self._stop.value = 1
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def clean_start() -> Iterator[None]:
    """Let processes that start here neither run the user's script nor take part in Ctrl-C.

    multiprocessing imports the parent's main script into each worker: that would import torch there, and start the
    training again where a script has no `if __name__ == "__main__"`. Workers need nothing of it.
    """
    main, signals = sys.modules["__main__"], {signal.SIGINT}
    old = signal.pthread_sigmask(signal.SIG_BLOCK, signals) if hasattr(signal, "pthread_sigmask") else None
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if old is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)


_job: tuple[Source, Recipe, Any] | None = None  # of a worker process, set once when it begins; Any: a ctypes byte


def _begin(source: Source, recipe: Recipe, stop: Any) -> None:
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _job = source, recipe, stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent is killed: a pool's workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(chunk: list[str]) -> list[Outcome]:
    assert _job is not None
    source, recipe, stop = _job
    return [prepare_one(source, name, recipe) for name in chunk if not stop.value]
