"""One entrant of quality.py in a process of its own: trains until its time is used up, then draws its samples.

    python quality_worker.py stylegan2 '{"minutes": 10.0, ...}'              # see Task

Writes `samples-<mark>.npy`, uint8 [N, H, W, C], for each mark, and one line of JSON on standard output. What must be
set before torch is loaded is set here or nowhere, so torch and ganvas are imported inside functions.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
TUTORIAL_BATCH = 64
SAMPLE_BATCH = 64
SYNC_STEPS = 16  # on a GPU, steps between two looks at a clock that has waited for it


@dataclass(frozen=True)
class Task:
    """What quality.py asks of an entrant, the same for all."""

    folder: str  # for samples
    source: str  # what ganvas.train is given
    pictures: str  # the same training pictures: .npy, uint8 [N, H, W, C]
    size: int
    minutes: float
    marks: list[float]  # shares of the time, rising; the last is 1
    samples: int
    seed: int
    flip: bool  # whether half of the pictures may be mirrored; as ganvas derived it
    count: int | None = None
    threads: int | None = None
    device: str | None = None
    changes: dict[str, dict[str, float]] = field(default_factory=dict)  # to recipes of rivals, by name


@dataclass(frozen=True)
class Snapshot:
    """A generator as it was at a mark."""

    mark: float
    seconds: float
    seen_images: int
    generator: Any


def clocked(
    step: Callable[[float], int], copy: Callable[[], Any], minutes: float, marks: list[float], wait: Callable[[], None]
) -> list[Snapshot]:
    """Take steps until the time is used up; copy the generator at each mark, with the clock stopped.

    `step` is given the progress, 0 to 1, and returns the images it trained on; `wait` until the device is idle.
    """
    found: list[Snapshot] = []
    seen, steps, seconds, start = 0, 0, 0.0, time.perf_counter()
    while len(found) < len(marks):
        seen += step(min(1.0, seconds / (60 * minutes)))
        steps += 1
        if steps % SYNC_STEPS == 0:
            wait()
        seconds = time.perf_counter() - start
        if seconds < 60 * minutes * marks[len(found)]:
            continue
        wait()
        seconds = time.perf_counter() - start
        while len(found) < len(marks) and seconds >= 60 * minutes * marks[len(found)]:
            found.append(Snapshot(marks[len(found)], seconds, seen, copy()))
            tell(f"{found[-1].mark:.0%}: {seen:,} images in {seconds:.0f} s")
        start = time.perf_counter() - seconds  # what copying took does not count
    return found


def tell(line: str) -> None:
    """For whoever looks on."""
    print(f"  {line}", file=sys.stderr, flush=True)


def to_tensor(pixels: Pixels) -> Tensor:
    """uint8 `[B, H, W, C]` to fp32 `[B, C, H, W]` in [-1, 1]."""
    import torch

    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_pixels(images: Tensor) -> Pixels:
    """And back, clipped and rounded."""
    import torch

    scaled = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def draw(generate: Callable[[int], Tensor], count: int) -> Pixels:
    """`count` samples, from batches that are always full."""
    import torch

    with torch.no_grad():
        made = [to_pixels(generate(SAMPLE_BATCH)) for _ in range(-(-count // SAMPLE_BATCH))]
    return np.concatenate(made)[:count]


def waiting(device: str) -> Callable[[], None]:
    """What lets the device finish."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None


def tutorial(task: Task) -> dict[str, Any]:
    """The tutorial as it stands. Nothing of ganvas is imported: this process keeps PyTorch's defaults."""
    import torch

    from train_worker import describe_machine
    from tutorial_dcgan import Z_DIM, Loop

    device = task.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if task.threads:
        torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    images = to_tensor(np.load(task.pictures))
    loop = Loop(images.shape[1], device)

    def noise(count: int) -> Tensor:
        return (torch.rand(count, Z_DIM) * 2 - 1).to(device)

    def step(progress: float) -> int:
        real = images[torch.randint(len(images), (TUTORIAL_BATCH,))].to(device)
        loop.step(real, noise(TUTORIAL_BATCH))
        return TUTORIAL_BATCH

    snapshots = clocked(step, lambda: deepcopy(loop.generator), task.minutes, task.marks, waiting(device))
    for snapshot in snapshots:
        torch.manual_seed(task.seed + 1)
        generator = snapshot.generator  # in training mode still, as tutorials leave it: statistics of the batch
        save(task, snapshot.mark, draw(lambda count, network=generator: network(noise(count)), task.samples))  # type: ignore[misc]
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        loop.step(images[:8].to(device), noise(8))
    about = {"batch": TUTORIAL_BATCH, "precision": "fp32", "gflop_per_image": counter.get_total_flops() / 8 / 1e9}
    return report(snapshots, describe_machine(), **about, **sizes(loop.generator, loop.discriminator))


def rival(name: str, task: Task) -> dict[str, Any]:
    """One of rivals.py, in a process that ganvas.runtime has set up as it does for ganvas itself."""
    from ganvas.runtime import choose_machine, one_thread  # sets the process up, so it comes before torch

    # isort: split
    import torch

    from rivals import Loop, gflop_per_image
    from train_worker import describe_machine

    machine = choose_machine(task.device, None, task.threads)
    torch.manual_seed(task.seed)
    pictures = np.load(task.pictures)
    loop = Loop(
        name, task.size, pictures.shape[3], machine.device, machine.dtype, machine.threads, task.changes.get(name)
    )
    random = np.random.default_rng(task.seed)

    def batch(count: int) -> tuple[Tensor, Tensor]:
        chosen = pictures[random.integers(len(pictures), size=count)]
        if task.flip:
            mirrored = random.random(count) < 0.5
            chosen[mirrored] = chosen[mirrored][:, :, ::-1]
        return to_tensor(chosen).to(machine.device), torch.randn(count, loop.z_dim).to(machine.device)

    def step(progress: float) -> int:
        loop.step(*batch(loop.batch), progress)
        return loop.batch

    if loop.shares > 1:
        one_thread()  # the shares are the parallelism
    snapshots = clocked(step, lambda: deepcopy(loop.average), task.minutes, task.marks, waiting(machine.device))
    torch.set_num_threads(machine.threads)
    for snapshot in snapshots:
        torch.manual_seed(task.seed + 1)
        average = snapshot.generator
        made = draw(lambda count, net=average: net(torch.randn(count, loop.z_dim).to(machine.device)), task.samples)  # type: ignore[misc]
        save(task, snapshot.mark, made)
    precision = "bf16" if machine.dtype == torch.bfloat16 else "fp32"
    finite = all(bool(weight.isfinite().all()) for weight in loop.average.parameters())
    about = {"batch": loop.batch, "precision": precision, "shares": loop.shares, "finite": finite}
    about["gflop_per_image"] = gflop_per_image(loop, *batch(8))
    return report(snapshots, describe_machine(), **about, **sizes(loop.generator, loop.critic))


def ganvas_run(name: str, task: Task) -> dict[str, Any]:
    """`ganvas.train`, as the command line calls it; `reference` is its preset `dcgan`, for minutes and not epochs."""
    import ganvas

    # isort: split
    from ganvas.generator import Generator
    from ganvas.training.loop import Watcher
    from ganvas.training.plan import measure
    from train_worker import describe_machine

    # Beside the folder of the samples: the pictures that quality.py has prepared are found there.
    folder, kept = Path(task.folder).with_name(f"run-{name}"), Path(task.folder) / "checkpoints"
    for old in (folder, kept):
        shutil.rmtree(old, ignore_errors=True)
    snapshots: list[Snapshot] = []

    class Keeper(Watcher):
        """Keeps the first checkpoint after each mark."""

        plan: Any = None

        def prepared(self, plan: Any, dataset: Any, position: Any) -> None:
            self.plan = plan

        def saved(self, path: Path, over: bool = False) -> None:
            state = json.loads((path / "state.json").read_text())
            while len(snapshots) < len(task.marks) and (
                over
                or (
                    task.marks[len(snapshots)] < 1
                    and state["seconds"] >= 60 * task.minutes * task.marks[len(snapshots)]
                )
            ):
                mark = task.marks[len(snapshots)]
                place = kept / f"{mark:g}"
                shutil.copytree(path, place, copy_function=os.link)  # links: copying would be on its clock
                snapshots.append(Snapshot(mark, state["seconds"], int(path.name), place))
                tell(f"{mark:.0%}: {int(path.name):,} images in {state['seconds']:.0f} s")

    keeper = Keeper()
    kept.mkdir(parents=True)
    # The marks alone are ours to set: checkpoints come often enough to have one near each.
    settings: dict[str, Any] = {"save_minutes": task.minutes * interval(task.marks)}
    optional = {"count": task.count, "threads": task.threads, "device": task.device}
    settings |= {key: value for key, value in optional.items() if value is not None}
    settings |= {"fit": "crop"} if name == "reference" else {}  # the same pictures for all
    preset = "dcgan" if name == "reference" else "default"
    run = ganvas.train(
        task.source, folder, preset=preset, watcher=keeper, minutes=task.minutes, size=task.size, seed=task.seed,
        **settings,
    )  # fmt: skip
    last = max((path for path in (folder / "checkpoints").iterdir() if path.name.isdigit()), key=lambda p: int(p.name))
    keeper.saved(last, over=True)
    loaded = None
    for snapshot in snapshots:
        loaded = Generator.load(snapshot.generator, device=task.device, precision=None)
        save(task, snapshot.mark, loaded.sample(range(task.samples)))
    assert loaded is not None
    shutil.rmtree(kept)
    settled, cost = keeper.plan.config, measure(keeper.plan, steps=2)
    about = {
        "batch": settled.training.batch,
        "precision": settled.training.precision,
        "gflop_per_image": cost.training_gflop,
        "used_up": run.seconds >= 60 * task.minutes,
    }
    return report(snapshots, describe_machine(), **about, **sizes(loaded.network))


def interval(marks: list[float]) -> float:
    """The largest share of the time, in steps of a hundredth, that every mark is a multiple of."""
    from math import gcd

    return max(1, gcd(*(round(100 * mark) for mark in marks))) / 100


def sizes(generator: Any, critic: Any = None) -> dict[str, int | None]:
    """Numbers that training changes, of each network."""

    def count(network: Any) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    return {"generator_parameters": count(generator), "critic_parameters": count(critic) if critic else None}


def save(task: Task, mark: float, images: Pixels) -> None:
    """One .npy a mark."""
    np.save(samples_path(Path(task.folder), mark), images)


def samples_path(folder: Path, mark: float) -> Path:
    """Where the samples of a mark lie."""
    return folder / f"samples-{mark:g}.npy"


def report(snapshots: list[Snapshot], machine: dict[str, Any], **about: Any) -> dict[str, Any]:
    """What the process says of itself in the end."""
    last = snapshots[-1]
    marks = [{"mark": one.mark, "seconds": one.seconds, "seen_images": one.seen_images} for one in snapshots]
    speed = last.seen_images / last.seconds
    return {
        "seen_images": last.seen_images, "seconds": last.seconds, "images_per_second": speed, "marks": marks,
        **about, "machine": machine,
    }  # fmt: skip


def main() -> None:
    name, task = sys.argv[1], Task(**json.loads(sys.argv[2]))
    Path(task.folder).mkdir(parents=True, exist_ok=True)
    if name == "tutorial":
        told = tutorial(task)
    elif name in ("ours", "reference"):
        told = ganvas_run(name, task)
    else:
        told = rival(name, task)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
