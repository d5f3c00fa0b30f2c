"""Several cores on one step: each plays on its own share of the batch, and they meet only to add up gradients.

The usual way, every operation cut up among all cores, makes them wait for each other after each of a step's thousands
of operations: small ones gain little, and one core that another program holds up for a moment holds all of them up,
which makes a busy machine ten times slower rather than a third. Shares meet twice a step. What a step computes depends
on the number of shares, not on how many threads or processes (`training.crew`) work on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from ganvas.runtime import nothing_old_is_searched, one_thread
from ganvas.training.crew import ALONE, Crew

First = TypeVar("First")
SMALLEST = 4  # images in a share: batch statistics of fewer say nothing


def shares_for(batch: int, threads: int, device: str, divisible: bool) -> int:
    """How many shares to cut a batch into: one a thread where it divides evenly, one in all on a GPU.

    Networks that normalise over the batch (`divisible` false) are not cut: it would change what they compute.
    """
    if device != "cpu" or not divisible:
        return 1
    return max(n for n in range(1, threads + 1) if batch % n == 0 and (n == 1 or batch // n >= SMALLEST))


class Team:
    """The members that play this process's part of the `shares` of a batch, one share each. Enter it before `play`.

    `at_once` of them are at work at the same time, by default all, each in a thread of its own; one alone plays in the
    caller's. `members` are their numbers among those of all processes of the run. While it is entered, Python does not
    search what was there before (`runtime.nothing_old_is_searched`).
    """

    def __init__(self, shares: int, threads: int, crew: Crew = ALONE, at_once: int | None = None) -> None:
        self.shares, self.crew = shares, crew
        self.size = shares // crew.size
        self.members = range(crew.rank * self.size, (crew.rank + 1) * self.size)
        self.at_once = min(at_once or self.size, self.size)
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._entered = ExitStack()

    def __enter__(self) -> Team:
        self._entered.enter_context(nothing_old_is_searched())
        if self.at_once > 1:
            # An operation is not cut up further: the members are the parallelism.
            torch.set_num_threads(1)
            self._pool = ThreadPoolExecutor(self.at_once, "ganvas", initializer=one_thread)
        else:
            torch.set_num_threads(self._threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        torch.set_num_threads(self._threads)
        self._entered.close()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """All threads for one thing, while the members have nothing to do."""
        with threads(self._threads):
            yield

    @property
    def takes_turns(self) -> bool:
        """Whether some wait while others work: what a member need not keep meanwhile, it should not."""
        return self.at_once < self.size

    def split(self, batch: Tensor) -> Sequence[Tensor]:
        """Cut `[B, ...]` into one tensor a member; the parts of other processes are left out."""
        return batch.chunk(self.shares)[self.members.start : self.members.stop]

    def play(
        self, function: Callable[..., tuple[First, list[Tensor]]], *arguments: Sequence[object]
    ) -> tuple[list[First], list[list[Tensor]]]:
        """Call `function` for every member with its own arguments; return both lists of answers, in their order."""
        answers = self._map(function, *arguments)
        return [answer[0] for answer in answers], [answer[1] for answer in answers]

    def each(self, function: Callable[[Any], None], things: Sequence[Any]) -> None:
        """Call `function` for each thing: the members share them out, and each is computed by one thread.

        A product that is cut up among threads may round otherwise.
        """
        with threads(1):
            self._map(function, things)

    def _map(self, function: Callable[..., First], *arguments: Sequence[Any]) -> list[First]:
        return list((map if self._pool is None else self._pool.map)(function, *arguments))

    def average(self, gradients: list[list[Tensor]]) -> list[Tensor]:
        """The mean over all shares, other processes' included, of each member's list of tensors.

        They are added up in pairs, and these in pairs: the same sums, bit for bit, in one process or in several, where
        each has a power of two of shares. What is given may be overwritten.
        """
        total = add_up(self.crew.gather(add_up(gradients)))
        if self.shares > 1:
            torch._foreach_div_(total, float(self.shares))
        return total


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Cut operations of the calling thread up among so many threads, and afterwards among as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def add_up(lists: list[list[Tensor]]) -> list[Tensor]:
    """The sum of lists of tensors, pair by pair, in the first's memory."""
    while len(lists) > 1:
        for one, other in zip(lists[::2], lists[1::2], strict=False):
            torch._foreach_add_(one, other)
        lists = lists[::2]
    return lists[0]
