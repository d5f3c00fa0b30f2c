"""A step on a GPU in one launch: recorded once, then played again and again on other pictures.

A step is some thousand small kernels. Python starts them one by one, and takes several times as long for that as the
GPU for computing them; a CUDA graph starts them all at once. What is recorded is the kernels with the memory that they
read and write: pictures and latents are therefore copied to where they were when it was recorded, weights and moments
stay where they are, and the learning rate is a tensor. Whatever else changes a step makes another recording.
"""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ganvas.training.step import Losses

WARM_UPS = 3  # steps of a kind as usual before it is recorded: libraries choose their algorithms in them
KEPT = 4  # recordings: with a penalty and without, before and after the monitor changed something

Step = Callable[..., Losses]
Inputs = Sequence[Tensor | None]


class Recorder:
    """Calls steps, and plays recordings of them where there are some; on the current CUDA device."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._memory = torch.cuda.graph_pool_handle()
        self._calls: Counter[Hashable] = Counter()
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._able = True

    def __call__(self, kind: Hashable, step: Step, *inputs: Tensor | None) -> Losses:
        """`step(*inputs)`, which are always of the same shapes; `kind` stands for all else that it depends on."""
        kind = kind, tuple(one is None for one in inputs)
        if kind in self._recordings:
            return self._recordings[kind].play(inputs)
        self._calls[kind] += 1
        if self._able and self._calls[kind] > WARM_UPS:
            try:
                recording = Recording(step, inputs, self._stream, self._memory)
            except RuntimeError as error:  # nothing has been computed: a driver that cannot, or no memory to spare
                self._able = False
                torch.cuda.synchronize()
                why = str(error).splitlines()[0]
                warnings.warn(
                    f"this GPU cannot record steps, which will take several times as long: {why}", stacklevel=2
                )
            else:
                self._recordings[kind] = recording
                while len(self._recordings) > KEPT:
                    self._recordings.popitem(last=False)
                return recording.play(inputs)
        return self._aside(step, inputs)

    def _aside(self, step: Step, inputs: Inputs) -> Losses:
        """A step as usual, on the stream that it will be recorded on."""
        main = torch.cuda.current_stream()
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            losses = step(*inputs)
        main.wait_stream(self._stream)
        return losses


class Recording:
    """One step. Raises RuntimeError where it cannot be recorded; then nothing has changed."""

    def __init__(self, step: Step, inputs: Inputs, stream: torch.cuda.Stream, memory: Any) -> None:
        self._inputs = [None if one is None else one.detach().clone() for one in inputs]
        self._graph = torch.cuda.CUDAGraph()
        # All share what they work in: one is played after the other, and leaves nothing there.
        with torch.cuda.graph(self._graph, pool=memory, stream=stream):
            self._losses = step(*self._inputs)

    @torch.no_grad()
    def play(self, inputs: Inputs) -> Losses:
        """The step on `inputs`."""
        for place, given in zip(self._inputs, inputs, strict=True):
            if place is not None and given is not None:
                place.copy_(given)
        self._graph.replay()
        return Losses(*(one.clone() for one in self._losses))
