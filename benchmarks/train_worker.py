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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PICTURES = 1024  # enough for the width that `style` has by default
WARM_STEPS = 3
# Operations that are convolutions or matrix products, by the names that torch's profiler gives them.
PRODUCTS = (
    "aten::mkldnn_convolution", "aten::convolution_backward", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm",
)  # fmt: skip
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
    alone: Callable[[], object]  # the same step in the caller's thread only, where operations can be counted
    batch: int
    cycle: int  # steps after which its work repeats: the lazy penalty's interval
    threads: int
    about: dict[str, Any]


def ours(network: str, precision: str | None, settings: Settings) -> Contender:
    """Set up a network of ganvas with the settings that `ganvas train` derives, and the step that its loop takes."""
    import ganvas.runtime  # noqa: F401, I001 - sets the process up, so it comes before torch

    import numpy as np
    import torch

    from ganvas.config import DataSettings, make_config
    from ganvas.data.batches import Batches, gather
    from ganvas.data.cache import Dataset
    from ganvas.networks import FAMILIES
    from ganvas.objectives import adversarial, penalty
    from ganvas.runtime import choose_machine
    from ganvas.training.ema import half_life, update_average
    from ganvas.training.plan import derive
    from ganvas.training.players import make_players
    from ganvas.training.step import draw_latents, play, to_tensor
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
    batch, every, z_dim = config.training.batch, config.objective.penalty_every, config.network.z_dim
    assert batch is not None and every is not None and z_dim is not None

    players = make_players(config, channels, 0, machine)
    objective = adversarial(config.objective.objective)
    smooth = penalty(config.objective.penalty, gamma=config.objective.gamma)
    batches = Batches(PICTURES, batch, config.training.seed, flip=False)
    prior = FAMILIES[network].prior
    done = 0

    def step(team: Team) -> None:
        nonlocal done
        real = to_tensor(gather(dataset, *batches.take(done * batch, batch)), machine.device)
        latents = draw_latents(prior, batch, z_dim, torch.Generator().manual_seed(done), machine.device)
        play(players, real, latents, None, objective, smooth if done % every == 0 else None, every, done, team)
        done += 1
        halving = half_life(batch, done * batch, config.training.ema_images)
        update_average(players.average, players.generator, batch, halving)

    alone = partial(step, Team(1, machine.threads))
    team = Team(config.training.shares or 1, machine.threads).__enter__()  # until the process ends
    about = {
        "precision": config.training.precision,
        "why": machine.why,
        "images": f"64x64x{channels}",
        "shares": team.size,
    }
    return Contender(partial(step, team), alone, batch, every, machine.threads, about)


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
    return Contender(step, step, batch, 1, torch.get_num_threads(), about)


def count_gflop(contender: Contender) -> float:
    """GFLOP of training on one image: the products of a cycle of real steps, 2·MAC, by the images in it."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        # Only the total is wanted. Its split by module hooks every input, and a penalty cannot differentiate past that.
        counter.mod_tracker.__exit__()
        for _ in range(contender.cycle):
            contender.alone()
    return float(counter.get_total_flops()) / (contender.cycle * contender.batch) / 1e9


def products_share(contender: Contender) -> float:
    """Share of a cycle of steps that threads spend inside convolutions and matrix products, 0 to 1.

    Of the time of all threads that take shares, measured without the profiler: waiting, Python and all other operations
    are the rest. Inside a product its own time is counted, and not what it calls.
    """
    from torch._C._profiler import _ExperimentalConfig
    from torch.profiler import ProfilerActivity, profile

    start = time.perf_counter()
    for _ in range(contender.cycle):
        contender.step()
    seconds = time.perf_counter() - start
    everywhere = _ExperimentalConfig(profile_all_threads=True)
    with profile(activities=[ProfilerActivity.CPU], experimental_config=everywhere) as taken:
        for _ in range(contender.cycle):
            contender.step()
    inside = sum(one.self_cpu_time_total for one in taken.key_averages() if one.key in PRODUCTS) / 1e6
    return float(inside / (seconds * contender.about.get("shares", 1)))


def peak_cases(device: str) -> dict[str, tuple[Callable[[], object], float]]:
    """3×3 convolutions of 64 maps of 16×16, channels last: name -> (what to run, its GFLOP)."""
    import torch
    import torch.nn.functional as F

    def case(channels: int, dtype: torch.dtype, backward: bool) -> Callable[[], object]:
        def tensor(*shape: int) -> Tensor:
            made = torch.randn(*shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
            return made.requires_grad_(backward)

        x, weight = tensor(64, channels, 16, 16), tensor(channels, channels, 3, 3)
        slope = torch.ones_like(x, requires_grad=False)

        def run() -> object:
            y = F.conv2d(x, weight, padding=1)
            return torch.autograd.grad(y, (x, weight), slope) if backward else y

        return run

    return {
        f"{channels} channels, {name}, {'forward + backward' if backward else 'forward'}": (
            case(channels, dtype, backward),
            2 * 64 * 16**2 * 9 * channels**2 * (3 if backward else 1) / 1e9,
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
    gflop = count_gflop(contender)
    timed(contender.step, -(-WARM_STEPS // cycle) * cycle)
    cycles = max(1, round(settings.seconds / timed(contender.step, cycle)))
    about = {
        **contender.about,
        "batch": contender.batch,
        "steps_a_turn": cycles * cycle,
        "gflop_per_image": gflop,
        "products_share": products_share(contender) if device == "cpu" and name != "tutorial" else None,
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
