"""Several processes on one run, as `torchrun` starts them: the first leads, the others play their shares of a batch.

    first process:   the whole loop ─ turn ─▶ own shares ─┐                    ┌▶ both players move, and so on
    every other:          waits ◀─ turn ─┘ └▶ own shares ─┴▶ gather, add up ───┴▶ the same players move alike

Only the first reads the clock, writes files, draws samples and judges. It tells the others each turn before it plays it
(`training.game.Turn`), so that all play the same one; each holds both players, and moves them by the same sums of
gradients, in the same order. What is trained therefore depends on the number of shares, not on that of processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ganvas.errors import TrainingError
from ganvas.runtime import started_by_torchrun

# A process that is killed is noticed at once, for its connections close; this is for machines that vanish. The first
# may prepare pictures for a long while before the others hear of it.
PATIENCE = timedelta(hours=2)
WEIGHTS, OVER = b"weights", b"over"  # what the first says beside turns: the weights follow; there are no more turns
LOST = (
    "another process of this run has ended, or cannot be reached; the last checkpoint is whole: "
    "the same line again goes on from it"
)


class ProcessLost(TrainingError):
    """The processes of a run are no longer complete."""


@dataclass(frozen=True)
class Crew:
    """The processes of a run, of which this one is `rank` of `size`. Every method raises ProcessLost when one is gone.

    All processes call the same methods in the same order: what one sends the others must be waiting for.
    """

    rank: int = 0
    size: int = 1

    def say(self, message: bytes) -> None:
        """Send bytes from the first process to all others, who `hear` them."""
        if self.size > 1:
            length = torch.tensor([len(message)], dtype=torch.int64)
            with complete():
                dist.broadcast(length, 0)
                dist.broadcast(torch.frombuffer(bytearray(message), dtype=torch.uint8), 0)

    def hear(self) -> bytes:
        """What the first process says next."""
        with complete():
            length = torch.zeros(1, dtype=torch.int64)
            dist.broadcast(length, 0)
            message = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(message, 0)
        return message.numpy().tobytes()

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Copy the first process's tensors into those of all others, which have the same shapes and dtypes."""
        if self.size == 1:
            return
        with torch.no_grad():
            for tensor in tensors:
                packed = tensor.contiguous().reshape(-1)  # memory layouts may differ between processes
                with complete():
                    dist.broadcast(packed, 0)
                if self.rank:
                    tensor.copy_(packed.view(tensor.shape))

    def gather(self, tensors: list[Tensor]) -> list[list[Tensor]]:
        """The tensors of all processes, in the order of their ranks; all of one dtype, on one device."""
        if self.size == 1:
            return [tensors]
        packed = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        received = [torch.empty_like(packed) for _ in range(self.size)]
        with complete():
            dist.all_gather(received, packed)
        lengths = [tensor.numel() for tensor in tensors]
        return [
            [part.view(tensor.shape) for part, tensor in zip(torch.split(whole, lengths), tensors, strict=True)]
            for whole in received
        ]


ALONE = Crew()


@contextmanager
def complete() -> Iterator[None]:
    """Turn what torch says of a connection that broke into one line."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(LOST) from error


@contextmanager
def joined() -> Iterator[Crew]:
    """The processes that torchrun started, connected; `ALONE` where it started none, or one.

    When the first leaves, by whatever way, it tells the others that it is over.
    """
    if not started_by_torchrun() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    with complete():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    crew = Crew(dist.get_rank(), dist.get_world_size())
    try:
        yield crew
    finally:
        with suppress(ProcessLost):  # nobody may be left to hear it
            if crew.rank == 0:
                crew.say(OVER)
        with suppress(RuntimeError):
            dist.destroy_process_group()
