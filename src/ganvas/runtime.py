"""The machine: how to make it fast before the first tensor, and what it can do.

`prepare()` must run before torch is imported, because OpenMP reads its environment once: `import ganvas` runs it,
unless torch is there already. Everything else here may be called at any time.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ganvas.errors import SettingError

if TYPE_CHECKING:
    import torch

# glibc's mallopt parameters, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP_BYTES = 1 << 30


def prepare() -> None:
    """Set what must be set before torch is loaded; what the user has set in the environment stays.

    OpenMP threads that wait for each other spin by default, for milliseconds at a time: with another busy process on
    the machine they burn the very core that the thread they wait for needs, and training slows tenfold. Waiting
    passively costs a few per cent on an idle machine and slows in proportion on a busy one.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Let the allocator reuse large blocks rather than return them to the system after each use; say whether it could.

    With glibc's defaults every tensor above 32 MB, and many smaller, is mapped and its pages faulted in anew each time
    it is made: as dear as the arithmetic on it. Only glibc has the call; elsewhere nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)) and bool(libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


@contextmanager
def nothing_old_is_searched() -> Iterator[None]:
    """Leave what is there when it is entered out of the search for objects that refer to each other in circles.

    Python makes that search again and again as a step makes objects, and each time goes through all that torch has
    brought along: 3 % of training's time.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and its container's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))


def started_by_torchrun() -> bool:
    """Whether this is one of the processes that `torchrun`, or something like it, started for one run."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def rank() -> int:
    """Which of the processes of a run this is, from 0: the first leads."""
    return int(os.environ["RANK"]) if started_by_torchrun() else 0


def processes_here() -> int:
    """How many processes of the run share this machine, this one included."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) if started_by_torchrun() else 1


@dataclass(frozen=True)
class Machine:
    """Where the networks run and in what precision: the answers of `choose_machine`."""

    device: str  # "cpu", "cuda" or "mps"
    dtype: torch.dtype  # of convolutions; weights are always fp32
    threads: int
    why: str  # how the precision was decided, for the plan


def choose_machine(device: str | None = None, precision: str | None = None, threads: int | None = None) -> Machine:
    """Pick device, precision and threads, and set torch up for them. `None` means: find out.

    Several processes of one run on this machine share its cores, and have a GPU each where there are enough.

    On a CPU subnormal numbers are flushed to zero (they cost a hundred cycles each and mean nothing here). Raises
    SettingError for a device that this machine or this build of torch does not have.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = device or next(name for name, there in available.items() if there)
    if not available[device]:
        raise SettingError(
            f"device '{device}' is not available to this torch ({torch.__version__}); leave --device out"
        )
    threads = threads or max(1, usable_cores() // processes_here())
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    if device == "cuda" and started_by_torchrun():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    if precision:
        return Machine(device, torch.bfloat16 if precision == "bf16" else torch.float32, threads, "as asked")
    use_bf16, why = decide_bf16(device)
    return Machine(device, torch.bfloat16 if use_bf16 else torch.float32, threads, why)


def one_thread() -> None:
    """Set the calling thread up to compute each operation by itself, where several threads share out batches.

    As `choose_machine` does for the process, subnormal numbers are zero, which is set thread by thread.
    """
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def decide_bf16(device: str) -> tuple[bool, str]:
    """Whether bf16 convolutions are faster here, and the reason in words; read off the hardware, never assumed.

    A CPU computes them twice as fast as fp32 with AVX-512's bf16 instructions and up to ten times with AMX; without
    either it emulates them, and is slower.
    """
    import torch

    if device == "mps":
        return False, "Apple's GPU trains in fp32"
    if device == "cuda":
        there = torch.cuda.is_bf16_supported(including_emulation=False)
        return there, "the GPU has bf16" if there else "the GPU lacks bf16"
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    for key, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX-512 bf16 instructions")):
        if capabilities.get(key):
            return True, f"the CPU has {name}"
    return False, "the CPU has neither AMX nor AVX-512 bf16 instructions"


if "torch" not in sys.modules:
    prepare()
