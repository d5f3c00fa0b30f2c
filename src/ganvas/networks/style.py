"""`style`: our default pair. A mapping network and modulated convolutions against a lean residual critic.

    z ─ normalise ─ mapping ─▶ w ──┬──────┬──────────────┬─ … ─┐           latent, then intermediate latent
                      linear h×w ◀─┴─▶ stage ─▶ stage ×2 ─▶ … ─▶ stage ×2  feature maps, widest when smallest
                                          └─ to image ─ + ─ … ─ + ────────▶ image [B, C, H, W] in about [-1, 1]

    image ─ pixel unshuffle ─▶ block ÷2 ─▶ … ─▶ block ÷2 ─ minibatch deviation ─▶ logit

With patches of 2×2 the image ends are pixel-shuffled: full resolution, where activations cost more than arithmetic, is
never computed, and a filter takes the checkerboard away, with all that is as fine. With patches of one pixel there is a
stage at full resolution, of few channels, and no such filter. Channels change at the lower of two resolutions, which
halves the cost of a stage. Sources: Karras et al. 2019 and 2020 (mapping, modulation, skip outputs, residual critic);
Shi et al. 2016 (pixel shuffle).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.networks.blocks import (
    GAIN,
    Conv2d,
    Linear,
    ModulatedConv2d,
    activate,
    blur,
    channels_last,
    downsample,
    minibatch_deviation,
    normalise,
    upsample,
)

MAPPING_RATE = 0.1  # of the other layers' learning rate
PATCH = 2  # of networks of which nothing is said, as of early versions


@dataclass(frozen=True)
class Stages:
    """The resolutions of a pair, smallest first, with their widths; the image is `patch` times the last."""

    sides: tuple[tuple[int, int], ...]
    widths: tuple[int, ...]


def stages(size: tuple[int, int], width: int, patch: int = PATCH) -> Stages:
    """Halve `size` (height, width) down to a side of 4 to 7 where it divides; `width` channels at half of the size.

    Widths grow by a factor of two a stage up to `4 * width`: capacity is cheap where maps are small. The largest stage
    has a place for every `patch` × `patch` pixels, 2 or 1. With 1 there is one stage more, of half as many channels,
    and the smallest is no wider than the next.
    """
    height, breadth = size[0] // 2, size[1] // 2
    sides = [(height, breadth)]
    while height % 2 == 0 and breadth % 2 == 0 and min(height, breadth) >= 8:
        height, breadth = height // 2, breadth // 2
        sides.append((height, breadth))
    widths = [min(width * 2**i, width * 4) for i in range(len(sides))]
    if patch == 1:
        sides, widths = [size, *sides], [-(-width // 16) * 8, *widths[:-1], min(widths[-2:])]
    return Stages(tuple(reversed(sides)), tuple(reversed(widths)))


def is_small(side: tuple[int, int]) -> bool:
    """Whether a map is so small that fp32 costs nothing: these stages keep full precision in mixed training."""
    return min(side) < 8


class Mapping(nn.Module):
    """Turn a latent into an intermediate latent: `z [B, Z] (, label [B]) -> w [B, D]`, two or more layers, fp32.

    With classes, an embedding of the label joins the normalised latent. It trains more slowly than the rest, as in
    Karras et al. 2019, appendix C: at full rate it soon maps many latents to one place, and images repeat.
    """

    def __init__(self, z_dim: int, w_dim: int, depth: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(classes, w_dim)) if classes else None
        inputs = [z_dim + (w_dim if classes else 0)] + [w_dim] * (depth - 1)
        self.layers = nn.ModuleList(Linear(n, w_dim, GAIN, rate=MAPPING_RATE) for n in inputs)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        x = normalise(z)
        if self.embed is not None:
            if label is None:
                raise ValueError("this generator was trained with classes: a label [B] is needed")
            x = torch.cat([x, normalise(self.embed[label])], 1)
        for layer in self.layers:
            x = activate(layer(x))
        return x


class Stage(nn.Module):
    """One resolution of the generator: `[B, n, h, w] -> [B, outputs, H, W]`, doubled unless it is the first."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, double: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.enter = ModulatedConv2d(inputs, outputs, 3, w_dim, dtype=dtype) if double else None
        self.refine = ModulatedConv2d(outputs, outputs, 3, w_dim, dtype=dtype)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        if self.enter is not None:
            x = activate(self.enter(x, w))
        return activate(self.refine(x, w, double=self.enter is not None))


@torch.no_grad()
def start_smooth(layer: nn.Module, pixels: int) -> None:
    """Begin with the weights that a pixel shuffle turns into one patch of so many `pixels` equal.

    So there is no checkerboard to unlearn: Aitken et al. 2017 ("Checkerboard artifact free sub-pixel convolution",
    section 3).
    """
    weight = layer.get_parameter("weight")
    weight.copy_(weight[::pixels].repeat_interleave(pixels, 0))


class Generator(nn.Module):
    """Latents to images: `z [B, Z] (, label [B]) -> [B, C, H, W]` fp32, about [-1, 1] (not clipped).

    `size` is (height, width) in pixels, `width` the channels of the stage at half of it, `classes` 0 for none, `patch`
    the pixels a side that one place of the largest stage stands for, 1 or 2. `dtype` is what the larger stages compute
    in.
    """

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        width: int,
        z_dim: int = 128,
        classes: int = 0,
        depth: int = 2,
        patch: int = PATCH,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.z_dim, self.w_dim, self.patch, self.dtype = z_dim, z_dim, patch, dtype
        self.plan = stages(size, width, patch)
        first, widths = self.plan.sides[0], self.plan.widths
        self.mapping = Mapping(z_dim, self.w_dim, depth, classes)
        self.begin = Linear(self.w_dim, widths[0] * first[0] * first[1], GAIN)
        self.dtypes = [torch.float32 if is_small(side) else dtype for side in self.plan.sides]
        self.stages = nn.ModuleList(
            Stage(before, after, self.w_dim, double=i > 0, dtype=self.dtypes[i])
            for i, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        self.to_image = nn.ModuleList(
            ModulatedConv2d(n, patch**2 * channels, 3, self.w_dim, demodulate=False, dtype=own)
            for n, own in zip(widths, self.dtypes, strict=True)
        )
        for layer in self.to_image:
            start_smooth(layer, patch**2)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return self.synthesise(self.mapping(z, label))

    def synthesise(self, w: Tensor) -> Tensor:
        """Intermediate latents to images: `w [B, D]`, or `[B, S, D]` with one for each of the S stages."""
        per_stage = [w] * len(self.stages) if w.dim() == 2 else w.unbind(1)
        # The layout comes from the latent: a learned constant, as published, has to be taught it through the styles.
        x = activate(self.begin(per_stage[0])).view(len(w), -1, *self.plan.sides[0])
        x = x.contiguous(memory_format=torch.channels_last)
        image: Tensor | None = None
        for stage, to_image, own, dtype in zip(self.stages, self.to_image, per_stage, self.dtypes, strict=True):
            x = stage(x.to(dtype), own)
            detail = to_image(x, own).float()
            if self.patch == 1:  # there is only the repetition to smooth
                image = detail if image is None else blur(upsample(image)) + detail
            else:
                detail = F.pixel_shuffle(detail, self.patch)
                image = blur(detail if image is None else upsample(image) + detail)
        assert image is not None
        return image


class Block(nn.Module):
    """One halving of the critic, residual: `[B, n, H, W] -> [B, outputs, H/2, W/2]` (Karras et al. 2020, fig. 7)."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.examine = Conv2d(inputs, inputs, 3, GAIN, dtype=dtype)
        self.shrink = Conv2d(inputs, outputs, 3, GAIN / math.sqrt(2), dtype=dtype)
        self.skip = Conv2d(inputs, outputs, 1, 1 / math.sqrt(2), bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        y = activate(self.shrink(downsample(activate(self.examine(x)))))
        skip: Tensor = self.skip(downsample(x))
        return y + skip


class Discriminator(nn.Module):
    """Images to logits: `[B, C, H, W] (, label [B]) -> [B]` fp32, higher where they look real.

    With classes, the logit is the projection of the last features on the label's embedding (Miyato and Koyama 2018).
    A batch may hold several `sets` of images, one after the other: each is judged as it would be alone, in one pass.
    """

    takes_sets = True

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        width: int,
        classes: int = 0,
        patch: int = PATCH,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.patch, self.dtype = patch, dtype
        self.plan = stages(size, width, patch)
        widths, (height, breadth) = self.plan.widths[::-1], self.plan.sides[0]
        self.enter = Conv2d(patch**2 * channels, widths[0], 3, GAIN, dtype=dtype)
        self.blocks = nn.ModuleList(Block(n, out, dtype) for n, out in pairwise(widths))
        self.judge = Conv2d(widths[-1] + 1, widths[-1], 3, GAIN)
        self.features = Linear(widths[-1] * height * breadth, widths[-1], GAIN)
        self.logit = Linear(widths[-1], 1)
        self.embed = nn.Parameter(torch.randn(classes, widths[-1])) if classes else None

    def forward(self, images: Tensor, label: Tensor | None = None, sets: int = 1) -> Tensor:
        patches = images if self.patch == 1 else F.pixel_unshuffle(images, self.patch)  # of one pixel it is a slow copy
        x = channels_last(patches).to(self.dtype)
        x = activate(self.enter(x))
        for block in self.blocks:
            x = block(x)
        x = activate(self.judge(minibatch_deviation(x.float(), sets=sets)))
        features = activate(self.features(x.flatten(1)))
        logit: Tensor = self.logit(features).squeeze(1)
        if self.embed is None:
            return logit
        if label is None:
            raise ValueError("this critic was trained with classes: a label [B] is needed")
        projection = (features * self.embed[label]).sum(1) / math.sqrt(features.shape[1])
        return logit + projection
