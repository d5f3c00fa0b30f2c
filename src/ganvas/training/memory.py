"""Whether a step fits into memory: measured on a few images before the first one, not guessed.

A batch is cut into shares (`training.team`). What is in memory at once is the networks with all that training remembers
of them, and one share for each member at work: fewer at once, or more and smaller shares, take less.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ganvas.errors import SettingError, TrainingError
from ganvas.runtime import processes_here
from ganvas.training.plan import Plan, default_first, trial, why_first
from ganvas.training.soap import Soap
from ganvas.training.team import SMALLEST, Team

TRIAL_IMAGES = SMALLEST, 2 * SMALLEST
# What libraries take for themselves, for other layouts, workspaces and blocks that are kept: on a CPU a process grew by
# 1.8 times what its tensors take at 256 px, and by a tenth of a gigabyte where they take nearly nothing.
SPARE, BASE_BYTES = 2.0, 100_000_000
# With so much the trial is not worth its second: bytes for an image, pixel and channel of the largest maps, and for the
# square of these channels. Training takes less than half of that.
PLENTY_MAPS, PLENTY_WEIGHTS = 500, 200_000
CGROUP, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")


class Need(NamedTuple):
    """Bytes that training takes, about."""

    fixed: float  # networks, the copies that they compute with, averages, moments
    gradients: float  # of both players, for each share
    per_share: float  # what a share at work takes whatever its size: gradients
    per_image: float

    def of(self, images: float, shares: int, at_once: int) -> float:
        """With so many shares of so many images each, so many of them at once."""
        at_work = at_once * (self.per_share + images * self.per_image)
        return BASE_BYTES + SPARE * (self.fixed + shares * self.gradients + at_work)


class Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that this thread makes while it is entered, as long as each lives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        for found in tree_leaves(answer):
            if isinstance(found, Tensor):
                self._add(found.untyped_storage())
        return answer

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def free_bytes(device: str) -> int | None:
    """Memory that this process can still have on `device`; None where the system does not say.

    Of a CPU what the kernel calls available, and no more than the container's limit leaves.
    """
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    if device != "cpu":
        return None
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return max(0, int(min([free, *map(left_of, control_groups())])))


class ControlGroup(NamedTuple):
    """A folder of the kernel's, and the names that its two versions give to limit and use."""

    folder: Path
    limit: str
    used: str


def control_groups() -> Iterator[ControlGroup]:
    """Those that this process is in, its container's among them, and all above."""
    try:
        own = [line.split(":", 2) for line in OWN_CGROUPS.read_text().splitlines()]
    except OSError:
        return
    for number, controllers, path in own:
        if number == "0":
            base, limit, used = CGROUP, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, used = CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = Path(path.strip("/"))
        for each in (folder, *folder.parents):  # in a container the upper ones alone may be visible
            yield ControlGroup(base / each, limit, used)


def left_of(group: ControlGroup) -> float:
    """Bytes that a group's limit leaves; infinite where it has none."""
    try:
        limit, used = (int((group.folder / name).read_text()) for name in (group.limit, group.used))
        counters = dict(line.split() for line in (group.folder / "memory.stat").read_text().splitlines())
        # Pages of files are what the kernel gives up first.
        return limit - used + int(counters.get("total_inactive_file", counters.get("inactive_file", 0)))
    except (OSError, ValueError):  # "max", or no such files
        return math.inf


def measure_need(plan: Plan) -> Need:
    """Play one penalised step on a few images, and on twice as many, with throw-away networks."""
    players, _ = trial(plan)
    weights = players.generator_weights, players.discriminator_weights
    optimisers = players.generator_optimiser, players.discriminator_optimiser
    fixed = sum(tensor.nbytes for tensor in players.everything()) + sum(own.nbytes for own in weights)
    fixed += sum(own.nbytes for own in optimisers if isinstance(own, Soap))
    gradients = sum(master.nbytes for own in weights for master in own.masters)
    # What SOAP works in is nothing beside a batch, but may be more than a few images take, which are what is measured.
    adam = plan.config.training.model_copy(update={"optimiser": "adam"})
    _, step = trial(replace(plan, config=plan.config.model_copy(update={"training": adam})))
    step(TRIAL_IMAGES[0], True, Team(1, plan.machine.threads))  # the first makes room for gradients, which stays
    peaks = []
    for images in TRIAL_IMAGES:
        with Held() as held:
            step(images, True, Team(1, plan.machine.threads))
        peaks.append(held.peak)
    per_image = max(0.0, (peaks[1] - peaks[0]) / (TRIAL_IMAGES[1] - TRIAL_IMAGES[0]))
    return Need(fixed, gradients, max(0.0, peaks[0] - TRIAL_IMAGES[0] * per_image), per_image)


def plenty(plan: Plan) -> float:
    """Bytes of free memory with which there is no need to look more closely."""
    config = plan.config
    assert config.data.size is not None and config.training.batch is not None
    height, width = config.data.size
    channels = config.network.width or 64
    maps = config.training.batch * height * width * channels * PLENTY_MAPS
    return BASE_BYTES + maps + channels**2 * PLENTY_WEIGHTS


def fit(plan: Plan, may_cut: bool, processes: int = 1) -> Plan:
    """`plan` with as many shares at once as memory allows; where one is too large, and `may_cut`, with smaller ones.

    Fewer at once change nothing but the time. `processes` is how many the run has. Raises SettingError where even the
    smallest do not fit: the line says what is needed, what there is, and what to change.
    """
    free = free_bytes(plan.machine.device)
    config = plan.config
    batch, shares = config.training.batch, config.training.shares
    assert batch is not None and shares is not None
    if free is None:
        return plan
    if plan.machine.device == "cpu":
        free //= processes_here()
    if free > plenty(plan):
        return plan
    need, before = measure_need(plan), shares

    def takes(at_once: int) -> float:
        return need.of(batch / shares, shares // processes, at_once)

    # One at once has all threads for each operation, as a single share has.
    while takes(1) > free:
        if not may_cut or batch % (2 * shares) or batch // (2 * shares) < SMALLEST:
            line = f"memory: training takes about {_gb(takes(1))}, and {_gb(free)} are free"
            raise SettingError(
                f"{line}; close other programs, or begin a run with a smaller --size, --width or --batch"
            )
        shares *= 2
    at_once = next(count for count in range(before // processes, 0, -1) if takes(count) <= free)
    cut, reasons = {"shares": shares}, dict(plan.reasons)
    if shares > before:  # at first, too, a share needs some images
        first = cut["first_batch"] = max(plan.growth.first, default_first(batch, shares))
        reasons["first_batch"] = f"{first}: {why_first(first, batch)}"
    changed = config.model_copy(update={"training": config.training.model_copy(update=cut)})
    if at_once < shares // processes:
        reasons["shares"] = f"{shares}, {at_once} at once: {_gb(free)} of memory are free"
    return replace(plan, config=changed, reasons=reasons, at_once=at_once)


@contextmanager
def exhaustion() -> Iterator[None]:
    """Turn what torch says where memory is used up all the same into one line."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = str(error)
        if isinstance(error, RuntimeError) and "allocate memory" not in said and "out of memory" not in said:
            raise
        raise TrainingError(
            "memory: all of it is used up; the last checkpoint is whole: close other programs and go on, "
            "or begin a run with a smaller --size, --width or --batch"
        ) from error


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
