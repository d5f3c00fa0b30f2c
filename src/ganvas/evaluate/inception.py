"""The standard FID network: Inception-v3 with the weights that TensorFlow published in December 2015, as features.

    open_inception()("uint8 [B, H, W, C]") ──▶ float32 [B, 2048], comparable with the FID of papers

Szegedy et al. 2016, "Rethinking the Inception Architecture", section 6, in the variant that Heusel et al. 2017 took for
the FID. It differs from the Inception-v3 of today's libraries in three places: average pools leave the padding out of
the mean, the pool of the last block is a maximum, and there are 1008 outputs. The network is a table of branches here;
its parameters bear the names that they have in the usual port's file, so that this file loads.
"""

from __future__ import annotations

import hashlib
import http.client
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.errors import CheckpointError
from ganvas.evaluate.inputs import RECIPE, in_full_batches, resize
from ganvas.evaluate.weights import read_pinned
from ganvas.files import one_line, storage_errors, write_bytes
from ganvas.runtime import choose_machine
from ganvas.tensorfile import read_tensors, weights_hash

FILE = "pt_inception-2015-12-05-6726825d.pth"
ADDRESS = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
# The first eight digits are part of the published name. The whole digest and the length are those that several
# independent public records of the file agree on.
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
BYTES = 95_628_359
VARIABLE = "GANVAS_INCEPTION"
ANSWER_SECONDS = 10.0  # how long the server may stay silent

SIDE = 299
CLASSES = 1008
DIMENSIONS = 2048
EPSILON = 1e-3  # of batch normalisation, as in the original graph


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, batch normalisation and a rectifier."""

    name: str
    out: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = True  # padded so that stride 1 keeps the size; a stride of 2 is never padded

    @property
    def padding(self) -> tuple[int, int]:
        """Pixels added above and below, and left and right."""
        return (self.kernel[0] // 2, self.kernel[1] // 2) if self.same and self.stride == 1 else (0, 0)


# What happens to the output of the step before: a convolution, several side by side, or a 3x3 pool: the mean or the
# maximum with stride 1, or the maximum with stride 2.
Step: TypeAlias = "Conv | tuple[Conv, ...] | Literal['mean', 'max', 'shrink']"
Branch: TypeAlias = tuple[Step, ...]
Block: TypeAlias = tuple[Branch, ...]  # branches of one input; their outputs are stacked in this order


def _grid35(pool: int) -> Block:
    """A block on the grid of 35x35 (Szegedy et al. 2016, figure 5; its first branch still has a 5x5)."""
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))),
        ("mean", Conv("branch_pool", pool)),
    )


def _grid17(width: int) -> Block:
    """A block on the grid of 17x17, with 7x7 factorised (figure 6)."""
    across, down = (1, 7), (7, 1)
    return (
        (Conv("branch1x1", 192),),
        (Conv("branch7x7_1", width), Conv("branch7x7_2", width, across), Conv("branch7x7_3", 192, down)),
        (
            Conv("branch7x7dbl_1", width),
            Conv("branch7x7dbl_2", width, down),
            Conv("branch7x7dbl_3", width, across),
            Conv("branch7x7dbl_4", width, down),
            Conv("branch7x7dbl_5", 192, across),
        ),
        ("mean", Conv("branch_pool", 192)),
    )


def _grid8(pool: Literal["mean", "max"]) -> Block:
    """A block on the grid of 8x8, whose 3x3 branches fan out (figure 7)."""

    def fan(name: str) -> tuple[Conv, Conv]:
        return Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1))

    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), fan("branch3x3_2")),
        (Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, (3, 3)), fan("branch3x3dbl_3")),
        (pool, Conv("branch_pool", 192)),
    )


_STEM: Branch = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), 2),
    Conv("Conv2d_2a_3x3", 32, (3, 3), same=False),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    "shrink",
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), same=False),
    "shrink",
)
_TO_17: Block = (
    (Conv("branch3x3", 384, (3, 3), 2),),
    (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3), 2)),
    ("shrink",),
)
_TO_8: Block = (
    (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2)),
    (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, (3, 3), 2),
    ),
    ("shrink",),
)
NETWORK: tuple[tuple[str, Block], ...] = (
    ("", (_STEM,)),
    ("Mixed_5b.", _grid35(32)),
    ("Mixed_5c.", _grid35(64)),
    ("Mixed_5d.", _grid35(64)),
    ("Mixed_6a.", _TO_17),
    ("Mixed_6b.", _grid17(128)),
    ("Mixed_6c.", _grid17(160)),
    ("Mixed_6d.", _grid17(160)),
    ("Mixed_6e.", _grid17(192)),
    ("Mixed_7a.", _TO_8),
    ("Mixed_7b.", _grid8("mean")),
    ("Mixed_7c.", _grid8("max")),
)


def convolutions() -> Iterator[tuple[str, int, Conv]]:
    """Every convolution as (its full name, its number of input channels, what it is), in the order they run."""
    width = 3
    for prefix, block in NETWORK:
        joined = 0
        for branch in block:
            channels = width
            for step in branch:
                if isinstance(step, str):
                    continue
                together = step if isinstance(step, tuple) else (step,)
                for conv in together:
                    yield prefix + conv.name, channels, conv
                channels = sum(conv.out for conv in together)
            joined += channels
        width = joined


def expected() -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the weights file, but for the counters `num_batches_tracked`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, channels, conv in convolutions():
        shapes[f"{name}.conv.weight"] = (conv.out, channels, *conv.kernel)
        shapes |= {f"{name}.bn.{part}": (conv.out,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {"fc.weight": (CLASSES, DIMENSIONS), "fc.bias": (CLASSES,)}


Folded: TypeAlias = dict[str, tuple[Tensor, Tensor]]  # name of a convolution -> its weight and its bias


def fold(tensors: Mapping[str, Tensor]) -> Folded:
    """Batch normalisation worked into the convolutions: γ (w * x − μ) / √(σ² + ε) + β is (s w) * x + (β − s μ).

    Computed in fp64, kept in fp32; s = γ / √(σ² + ε) for each output channel.
    """
    folded: Folded = {}
    for name, _, _ in convolutions():
        gamma, beta, mean, variance = (
            tensors[f"{name}.bn.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / torch.sqrt(variance + EPSILON)
        weight = tensors[f"{name}.conv.weight"].double() * scale[:, None, None, None]
        folded[name] = weight.float(), (beta - scale * mean).float()
    return folded


def pool3(images: Tensor, folded: Folded) -> Tensor:
    """The mean over the last grid: fp32 `[B, 3, 299, 299]` in about [-1, 1] to fp32 `[B, 2048]`."""
    x = images
    for prefix, block in NETWORK:
        x = torch.cat([_run(branch, x, prefix, folded) for branch in block], dim=1)
    return x.mean(dim=(2, 3))


def _run(branch: Branch, x: Tensor, prefix: str, folded: Folded) -> Tensor:
    for step in branch:
        if step == "mean":
            x = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        elif step == "max":
            x = F.max_pool2d(x, 3, stride=1, padding=1)
        elif isinstance(step, str):
            x = F.max_pool2d(x, 3, stride=2)
        else:
            together = step if isinstance(step, tuple) else (step,)
            made = []
            for conv in together:
                weight, bias = folded[prefix + conv.name]
                made.append(F.conv2d(x, weight, bias, conv.stride, conv.padding).relu_())
            x = made[0] if len(made) == 1 else torch.cat(made, dim=1)
    return x


class Inception:
    """The network as features; build one with `open_inception`."""

    name = "inception"
    dimensions = DIMENSIONS
    resizer = f"bicubic, antialiased, to {SIDE}x{SIDE}, then (x - 128) / 128"

    def __init__(self, tensors: Mapping[str, Tensor], device: str) -> None:
        self.device = device
        made_of = f"{RECIPE} {weights_hash(tensors)}"
        self.identity = f"{self.name}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"
        # Channels last: half as fast again on a CPU.
        self._folded = {
            name: (weight.to(device, memory_format=torch.channels_last), bias.to(device))
            for name, (weight, bias) in fold(tensors).items()
        }

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Vectors of images: uint8 `[B, H, W, 1 or 3]` to fp32 `[B, 2048]`; each depends on its image alone."""
        return in_full_batches(images, self.device, DIMENSIONS, self._vectors)

    @torch.inference_mode()
    def _vectors(self, images: np.ndarray) -> np.ndarray:
        # On a GPU convolutions otherwise round to TF32's ten bits, by whichever kernel is fastest that day.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            x = (resize(images, SIDE, self.device) - 128) / 128
            made: np.ndarray = pool3(x.contiguous(memory_format=torch.channels_last), self._folded).cpu().numpy()
        return made


def open_inception(path: str | None = None, *, device: str | None = None, threads: int | None = None) -> Inception:
    """Open the network with the weights of `path`, or with those that `find_weights` finds or fetches.

    Raises CheckpointError, one line, where there are none or where they are other ones.
    """
    tensors = read_weights(find_weights(path))
    return Inception(tensors, choose_machine(device, "fp32", threads).device)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the published file, told by its SHA-256, or a `.safetensors` file of the same tensors, fp32.

    No digest of a safetensors file is known, so only names and shapes are checked there: vectors are then as
    trustworthy as where it came from. `identity` has a hash of the weights and shows a difference.
    """
    found = read_tensors(path) if path.suffix == ".safetensors" else read_pinned(path, SHA256)
    tensors = {name: tensor for name, tensor in found.items() if not name.endswith(".num_batches_tracked")}
    wanted = expected()
    for name in sorted(wanted.keys() | tensors.keys()):
        shape = tuple(tensors[name].shape) if name in tensors else None
        if shape != wanted.get(name) or tensors[name].dtype != torch.float32:
            is_there = f"is {list(shape)}, {str(tensors[name].dtype)[6:]}" if shape is not None else "is missing"
            asked = f"asks for {list(wanted[name])}, float32" if name in wanted else "has no such tensor"
            what = f"its tensor {name} {is_there}; the FID network {asked}"
            raise CheckpointError(one_line(f"{path}: {what}; use {FILE}"))
    return tensors


def find_weights(path: str | None = None) -> Path:
    """Where the weights are: `path`, else as GANVAS_INCEPTION says, else in the user's cache, else fetched into it.

    Raises CheckpointError where a named file is not there, or where none can be fetched.
    """
    for named, by in ((path, "named in --features"), (os.environ.get(VARIABLE), f"named in {VARIABLE}")):
        if named:
            file = Path(named).expanduser()
            if not file.is_file():
                raise CheckpointError(one_line(f"{file}: is not a file, but is {by} as weights; get it at {ADDRESS}"))
            return file.resolve()
    kept = cache_folder() / FILE
    if not kept.is_file():
        fetch(kept)
    return kept


def cache_folder() -> Path:
    """The user's folder for what can be fetched again: `~/.cache/ganvas`, or below XDG_CACHE_HOME where that is set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ganvas"


def fetch(file: Path) -> None:
    """Fetch the published weights (96 MB) as `file`, which is written only when they are whole and the right ones.

    Raises CheckpointError where they cannot be had or are other ones, StorageError where they cannot be written.
    """
    by_hand = f"fetch {ADDRESS} where there is a network and put it at {file}, or name it: inception:PATH"
    received, digest = bytearray(), hashlib.sha256()
    try:
        with urlopen(ADDRESS, timeout=ANSWER_SECONDS) as answer:
            while len(received) <= BYTES and (part := answer.read(1 << 20)):
                received += part
                digest.update(part)
    except (OSError, http.client.HTTPException) as error:
        raise CheckpointError(one_line(f"inception: no weights here, and {_why(error)}; {by_hand}")) from None
    if digest.hexdigest() != SHA256:
        what = f"{len(received):,} bytes of {BYTES:,}, or others, came (SHA-256 differs)"
        raise CheckpointError(one_line(f"inception: {what}; try again, or {by_hand}"))
    with storage_errors(file, len(received)):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, bytes(received))


def _why(error: Exception) -> str:
    """What stopped a download, in a few words."""
    if isinstance(error, HTTPError):
        return f"their server answers {error.code} {error.reason}"
    reason = error.reason if isinstance(error, URLError) else error
    return f"their server cannot be reached ({reason})"
