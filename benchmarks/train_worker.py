"""The contenders of train_throughput.py, each in a process of its own: set up, warm up, then train on request.

    python train_worker.py dcgan '{"seconds": 2.0, "batch": 64, "channels": 1, "device": null}'

First writes one line of JSON about itself, then answers each line on standard input with one on standard output. What
must be set before torch is loaded is set here or nowhere, so torch and ganvas are imported inside functions.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PICTURES = 1024  # enough for the width that `style` has by default
WARM_CYCLES = 4  # on a GPU the penalised step is recorded in the fourth
# Operations that are convolutions or matrix products, by the names that torch's profiler gives them.
PRODUCTS = (
    "aten::mkldnn_convolution", "aten::convolution_backward", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm",
)  # fmt: skip
# And parts of the names of kernels that compute them on a GPU.
PRODUCT_KERNELS = ("gemm", "conv", "cutlass", "xmma", "nvjet", "fprop", "dgrad", "wgrad")
# How many maps, and of which side: enough to keep the device busy.
PEAK_MAPS = {"cpu": (64, 16), "cuda": (1024, 32)}
SHARE_TRIES = 5  # of the share of time in products, each with one cycle to be timed and one to be profiled
PEAK_SECONDS = 0.1  # of each of the eight convolutions, each round


@dataclass(frozen=True)
class Settings:
    """What train_throughput.py was asked for, the same for all contenders."""

    seconds: float  # of a turn, about
    batch: int  # of dcgan and tutorial
    channels: int  # of their images
    device: str | None


def pick_device(settings: Settings) -> str:
    """The device asked for, else cuda where there is one, else cpu: the same answer in every process."""
    import torch

    return settings.device or ("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Contender:
    """Something that trains."""

    step: Callable[[], object]
    gflop: float  # of training on one image: products, 2·MAC
    batch: int
    cycle: int  # steps after which its work repeats: the lazy penalty's interval
    threads: int
    about: dict[str, Any]


def ours(network: str, precision: str | None, settings: Settings) -> Contender:
    """Set up a network of ganvas with the settings that `ganvas train` derives, and the step that its loop takes."""
    import ganvas.runtime  # noqa: F401, I001 - sets the process up, so it comes before torch

    import numpy as np

    from ganvas.config import DataSettings, make_config
    from ganvas.data.cache import Dataset
    from ganvas.runtime import choose_machine
    from ganvas.training.game import Game, Turn
    from ganvas.training.plan import derive, measure
    from ganvas.training.players import make_players
    from ganvas.training.team import Team

    channels = settings.channels if network == "dcgan" else 3
    machine = choose_machine(pick_device(settings), precision)
    data = DataSettings(size=(64, 64), channels="grey" if channels == 1 else "rgb", flip=False)
    images = np.random.default_rng(0).integers(0, 256, (PICTURES, 64, 64, channels), dtype=np.uint8)
    everyone = np.arange(PICTURES)
    dataset = Dataset(
        root=Path(), name="noise", images=images, labels=None, classes=(), names=[], attributes=None,
        train=everyone, heldout=everyone[:0], digest="", report={}, licence=None, settings=data, mirror_accuracy=None,
    )  # fmt: skip
    given = {"batch": settings.batch} if network == "dcgan" else {}
    preset = "dcgan" if network == "dcgan" else "default"
    plan = derive(make_config("noise", preset, data=data.model_dump(), training=given), dataset, machine)
    config = plan.config
    batch, rate, every = config.training.batch, config.training.learning_rate, config.objective.penalty_every
    assert batch is not None and rate is not None and every is not None
    gflop = measure(plan, steps=2).training_gflop
    team = Team(config.training.shares or 1, machine.threads).__enter__()  # until the process ends
    game = Game(plan, dataset, make_players(config, channels, 0, machine), team)
    done = 0

    def step() -> None:
        nonlocal done
        weight = float(every) if config.objective.penalty != "none" and done % every == 0 else 0.0
        game.step(Turn(done * batch, batch, done, rate, critic_rate=1.0, penalty=weight, augmentation=0.0))
        done += 1

    about = {
        "precision": config.training.precision,
        "why": machine.why,
        "images": f"64x64x{channels}",
        "shares": team.size,
    }
    return Contender(step, gflop, batch, every, machine.threads, about)


def tutorial(settings: Settings) -> Contender:
    """Set up the tutorial's network and loop. Nothing of ganvas is imported: this process keeps PyTorch's defaults."""
    import torch

    from tutorial_dcgan import SIDE, Z_DIM, Loop

    device, batch = pick_device(settings), settings.batch
    torch.manual_seed(0)
    images = torch.rand(PICTURES, settings.channels, SIDE, SIDE) * 2 - 1
    loop = Loop(settings.channels, device)

    def step() -> None:
        real = images[torch.randint(PICTURES, (batch,))].to(device)
        loop.step(real, (torch.rand(batch, Z_DIM) * 2 - 1).to(device))

    about = {"precision": "fp32", "why": "PyTorch's default", "images": f"64x64x{settings.channels}"}
    return Contender(step, count_gflop(step) / batch, batch, 1, torch.get_num_threads(), about)


def count_gflop(step: Callable[[], object]) -> float:
    """GFLOP of the products of one step, 2·MAC."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops()) / 1e9


def products_share(contender: Contender, device: str, timed: Callable[[Callable[[], object], int], float]) -> float:
    """Share of a cycle of steps that threads, or the GPU, spend inside convolutions and matrix products, 0 to 1.

    Of the time of all threads that take shares, measured without the profiler: waiting, Python and all other operations
    are the rest. Inside a product its own time is counted, and not what it calls. A median, for machines are noisy.
    """
    from torch._C._profiler import _ExperimentalConfig
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    everywhere = _ExperimentalConfig(profile_all_threads=device == "cpu")

    def measure() -> float:
        seconds = timed(contender.step, contender.cycle)
        with profile(activities=[activity], experimental_config=everywhere) as taken:
            timed(contender.step, contender.cycle)
        if device == "cuda":
            kernels = [one for one in taken.key_averages() if any(part in one.key.lower() for part in PRODUCT_KERNELS)]
            return float(sum(one.self_device_time_total for one in kernels) / 1e6 / seconds)
        inside = sum(one.self_cpu_time_total for one in taken.key_averages() if one.key in PRODUCTS) / 1e6
        return float(inside / (seconds * contender.about.get("shares", 1)))

    return median(measure() for _ in range(SHARE_TRIES))


def peak_cases(device: str) -> dict[str, tuple[Callable[[], object], float]]:
    """3×3 convolutions of square maps, channels last: name -> (what to run, its GFLOP)."""
    import torch
    import torch.nn.functional as F

    count, side = PEAK_MAPS[device]

    def case(channels: int, dtype: torch.dtype, backward: bool) -> Callable[[], object]:
        def tensor(*shape: int) -> Tensor:
            made = torch.randn(*shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
            return made.requires_grad_(backward)

        x, weight = tensor(count, channels, side, side), tensor(channels, channels, 3, 3)
        slope = torch.ones_like(x, requires_grad=False)

        def run() -> object:
            y = F.conv2d(x, weight, padding=1)
            return torch.autograd.grad(y, (x, weight), slope) if backward else y

        return run

    return {
        f"{count} maps of {side}×{side}, {channels} channels, {name}, {'both ways' if backward else 'forward'}": (
            case(channels, dtype, backward),
            2 * count * side**2 * 9 * channels**2 * (3 if backward else 1) / 1e9,
        )
        for channels in (128, 256)
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
        for backward in (False, True)
    }


def describe_machine() -> dict[str, Any]:
    """What the numbers depend on: processor, cores, matrix instructions, torch."""
    import torch

    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    name = str(capabilities.get("cpu_name") or platform.processor() or platform.machine())
    with contextlib.suppress(OSError):
        named = [
            line.split(":", 1)[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
        ]
        name = named[0].strip() if named else name
    return {
        "cpu": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "amx_bf16": bool(capabilities.get("amx_bf16")),
        "avx512_bf16": bool(capabilities.get("avx512_bf16")),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def serve(name: str, settings: Settings) -> None:
    """Be one contender: warm up, then answer each line of JSON on standard input with one on standard output."""
    if name == "tutorial":
        contender = tutorial(settings)
    else:
        network, _, precision = name.partition(" ")
        contender = ours(network, precision or None, settings)
    import torch

    device = pick_device(settings)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    cases = peak_cases(device) if name == "style" else {}

    def timed(function: Callable[[], object], times: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(times):
            function()
        wait()
        return time.perf_counter() - start

    def peaks() -> dict[str, float]:
        found, held = {}, torch.get_num_threads()
        torch.set_num_threads(contender.threads)  # a team of several leaves one to each operation
        for case, (run, gflop) in cases.items():
            times = max(1, round(PEAK_SECONDS / timed(run, 1)))
            found[case] = gflop * times / timed(run, times)
        torch.set_num_threads(held)
        return found

    cycle = contender.cycle
    timed(contender.step, WARM_CYCLES * cycle)
    cycles = max(1, round(settings.seconds / timed(contender.step, cycle)))
    about = {
        **contender.about,
        "batch": contender.batch,
        "steps_a_turn": cycles * cycle,
        "gflop_per_image": contender.gflop,
        "products_share": products_share(contender, device, timed) if name != "tutorial" else None,
        "threads": contender.threads,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
    }
    print(json.dumps({"about": about, "machine": describe_machine()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "peaks":
            print(json.dumps(peaks()), flush=True)
        else:
            steps = max(1, round(cycles * request["share"])) * cycle
            print(json.dumps(steps * contender.batch / timed(contender.step, steps)), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the process that holds the watch says what there is to say
    serve(sys.argv[1], Settings(**json.loads(sys.argv[2])))
