"""The networks of rivals.py: StyleGAN2, R3GAN and a likeness of LadaGAN, from their papers' descriptions.

Generators: `z [B, Z] -> images [B, C, H, W]` fp32; critics: images -> logits `[B]` fp32. `side` is a power of two from
32 up, `scale` multiplies all widths, `dtype` is what maps from 8 pixels up are computed in; weights stay fp32.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.networks.blocks import minibatch_deviation

SLOPE, ROOT = 0.2, math.sqrt(2.0)
GAIN = math.sqrt(2 / (1 + SLOPE**2))


class Layer(nn.Module):
    """Linear layer (kernel 0) or convolution, in the dtype of its input; weights N(0, gain² / inputs) at the start.

    `equal` scales them at run time instead, which equalises the learning rate; `rate` is relative to other layers'.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 0, *, gain: float = 1.0, bias: float | None = 0.0,
        groups: int = 1, equal: bool = False, rate: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        shape = (outputs, inputs // groups, *[kernel] * 2) if kernel else (outputs, inputs)
        deviation = gain / math.sqrt(math.prod(shape[1:]))
        self.scale = deviation * rate if equal else 1.0
        drawn = torch.randn(shape) * (1 / rate if equal else deviation)
        self.weight = nn.Parameter(drawn.contiguous(memory_format=torch.channels_last) if kernel else drawn)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate)) if bias is not None else None
        self.kernel, self.groups, self.rate = kernel, groups, rate

    def scaled(self) -> Tensor:
        return self.weight * self.scale if self.scale != 1.0 else self.weight

    def forward(self, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        weight = self.scaled().to(x.dtype)
        bias = (self.bias * self.rate).to(x.dtype) if self.bias is not None else None
        if not self.kernel:
            return F.linear(x, weight, bias)
        padding = self.kernel // 2 if padding is None else padding
        return F.conv2d(x, weight, bias, stride, padding, groups=self.groups)


def leaky(x: Tensor, gain: float = ROOT) -> Tensor:
    return F.leaky_relu(x, SLOPE) * gain if gain != 1.0 else F.leaky_relu(x, SLOPE)


def filtered(x: Tensor, before: int, after: int) -> Tensor:
    """[1, 3, 3, 1] / 8 along both axes, zeros beyond the border: `before + after - 3` pixels more of each side."""
    p = F.pad(x, (before, after, before, after))
    p = (p[:, :, :-3] + 3 * (p[:, :, 1:-2] + p[:, :, 2:-1]) + p[:, :, 3:]) / 8
    return (p[..., :-3] + 3 * (p[..., 1:-2] + p[..., 2:-1]) + p[..., 3:]) / 8


def doubled(x: Tensor) -> Tensor:
    """Twice the side, by the filter [1, 3, 3, 1], which is what linear interpolation is."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def halved(x: Tensor) -> Tensor:
    """Half the side, by the filter [1, 3, 3, 1]."""
    return filtered(x, 1, 2)[:, :, ::2, ::2]


def in_memory(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def sides_up_to(side: int, first: int = 4) -> list[int]:
    return [first << i for i in range(int(math.log2(side // first)) + 1)]


# StyleGAN2


def style2_width(side: int, scale: int) -> int:
    return min(1024 * scale // side, 128 * scale)


class Modulated(nn.Module):
    """Modulated convolution, eqs. 1 and 3, on activations rather than weights, which is the same function."""

    def __init__(self, inputs: int, outputs: int, kernel: int, w_dim: int, double: bool = False, last: bool = False):
        super().__init__()
        self.style = Layer(w_dim, inputs, bias=1.0, equal=True)
        self.conv = Layer(inputs, outputs, kernel, equal=True)
        self.noise = None if last else nn.Parameter(torch.zeros(()))
        self.doubles = double

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style, weight, bias = self.style(w), self.conv.scaled(), self.conv.bias
        assert isinstance(bias, Tensor)
        x, kernel = x * style.to(x.dtype)[:, :, None, None], weight.to(x.dtype)
        if self.doubles:
            x = 4 * filtered(F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2), 1, 1)
        else:
            x = F.conv2d(x, kernel, padding=weight.shape[-1] // 2)
        shift = bias.to(x.dtype)[:, None, None]
        if self.noise is None:
            return x + shift
        demodulation = torch.rsqrt(style.square() @ weight.square().sum((2, 3)).t() + 1e-8)
        noise = torch.randn(len(x), 1, *x.shape[2:], device=x.device, dtype=x.dtype) * self.noise.to(x.dtype)
        return leaky(x * demodulation.to(x.dtype)[:, :, None, None] + noise + shift)


class Style2Generator(nn.Module):
    """Mapping network, constant, two modulated convolutions a side, images added up over skips (fig. 7b)."""

    def __init__(self, side: int, channels: int, scale: int, dtype: torch.dtype, z_dim: int = 128) -> None:
        super().__init__()
        self.dtype, self.sides = dtype, sides_up_to(side)
        widths = [style2_width(n, scale) for n in self.sides]
        self.mapping = nn.ModuleList(Layer(z_dim, z_dim, gain=1.0, equal=True, rate=0.01) for _ in range(2))
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.enter = nn.ModuleList(Modulated(a, b, 3, z_dim, double=True) for a, b in pairwise(widths))
        self.refine = nn.ModuleList(Modulated(n, n, 3, z_dim) for n in widths)
        self.show = nn.ModuleList(Modulated(n, channels, 1, z_dim, last=True) for n in widths)

    def forward(self, z: Tensor) -> Tensor:
        w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            w = leaky(layer(w))
        x = self.constant.expand(len(w), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        image: Tensor | None = None
        for i, (refine, show) in enumerate(zip(self.refine, self.show, strict=True)):
            x = self.enter[i - 1](x.to(self.dtype), w) if i else x
            x = refine(x, w)
            shown = show(x, w).float()
            image = shown if image is None else doubled(image) + shown
        assert image is not None
        return image


class Style2Block(nn.Module):
    """One halving of the residual critic (fig. 7c)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = Layer(inputs, inputs, 3, equal=True)
        self.second = Layer(inputs, outputs, 3, equal=True)
        self.skip = Layer(inputs, outputs, 1, bias=None, equal=True)

    def forward(self, x: Tensor) -> Tensor:
        y = leaky(self.first(x))
        y = leaky(self.second(filtered(y, 2, 2), stride=2, padding=0), 1.0)
        skip: Tensor = self.skip(halved(x)) / ROOT
        return y + skip


class Style2Critic(nn.Module):
    def __init__(self, side: int, channels: int, scale: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        widths = [style2_width(n, scale) for n in sides_up_to(side)][::-1]
        self.enter = Layer(channels, widths[0], 1, equal=True)
        self.blocks = nn.ModuleList(Style2Block(a, b) for a, b in pairwise(widths))
        self.judge = Layer(widths[-1] + 1, widths[-1], 3, equal=True)
        self.features = Layer(widths[-1] * 16, widths[-1], equal=True)
        self.logit = Layer(widths[-1], 1, equal=True)

    def forward(self, images: Tensor) -> Tensor:
        x = leaky(self.enter(in_memory(images, self.dtype)))
        for block in self.blocks:
            x = block(x)
        x = leaky(self.judge(minibatch_deviation(x.float(), group=4)))
        return self.logit(leaky(self.features(x.flatten(1)))).squeeze(1)  # type: ignore[no-any-return]


# R3GAN


def r3_width(side: int, scale: int) -> int:
    """64 up to 16 pixels, then halving down to 16; multiples of 8, so that groups of 16 fill twice as many."""
    return max(16, 64 * 16 // max(side, 16)) * scale


class R3Block(nn.Module):
    """1×1, grouped 3×3, 1×1, twice as wide within; fix-up start: the last is 0, the others shrink with L^(-1/4)."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        gain, wide = GAIN * blocks**-0.25, 2 * width
        self.first = Layer(width, wide, 1, gain=gain)
        self.second = Layer(wide, wide, 3, gain=gain, groups=wide // 16)
        self.third = Layer(wide, width, 1, gain=0.0, bias=None)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.third(leaky(self.second(leaky(self.first(x), 1.0)), 1.0))
        return x + y


class R3Generator(nn.Module):
    """A learned 4×4 basis whose maps z weighs, then one residual block a side, filtered doubling between."""

    def __init__(self, side: int, channels: int, scale: int, dtype: torch.dtype, z_dim: int = 64) -> None:
        super().__init__()
        self.dtype = dtype
        widths = [r3_width(n, scale) for n in sides_up_to(side)]
        self.basis = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.weigh = Layer(z_dim, widths[0], bias=None)
        self.blocks = nn.ModuleList(R3Block(n, len(widths)) for n in widths)
        self.change = nn.ModuleList(change_width(a, b) for a, b in pairwise(widths))
        self.show = Layer(widths[-1], channels, 1, bias=None)

    def forward(self, z: Tensor) -> Tensor:
        x = in_memory(self.basis * self.weigh(z)[:, :, None, None], torch.float32)
        for i, block in enumerate(self.blocks):
            x = block(doubled(self.change[i - 1](x.to(self.dtype))) if i else x)
        images: Tensor = self.show(x).float()
        return images


class R3Critic(nn.Module):
    """The generator turned round: blocks, filtered halving, and a 4×4 basis, one kernel a map, before the logit."""

    def __init__(self, side: int, channels: int, scale: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        widths = [r3_width(n, scale) for n in sides_up_to(side)][::-1]
        self.enter = Layer(channels, widths[0], 1, bias=None)
        self.blocks = nn.ModuleList(R3Block(n, len(widths)) for n in widths)
        self.change = nn.ModuleList(change_width(a, b) for a, b in pairwise(widths))
        self.basis = Layer(widths[-1], widths[-1], 4, bias=None, groups=widths[-1])
        self.logit = Layer(widths[-1], 1, bias=None)

    def forward(self, images: Tensor) -> Tensor:
        x = self.enter(in_memory(images, self.dtype))
        for i, block in enumerate(self.blocks):
            x = block(self.change[i - 1](halved(x)) if i else x)
        x = self.basis(x.float(), padding=0)
        return self.logit(x.flatten(1)).squeeze(1)  # type: ignore[no-any-return]


def change_width(inputs: int, outputs: int) -> nn.Module:
    return nn.Identity() if inputs == outputs else Layer(inputs, outputs, 1, bias=None)


# LadaGAN, a likeness


class Additive(nn.Module):
    """Additive attention, linear in the number of places (Wu et al. 2021, Fastformer, eqs. 3 to 5), four heads.

    Each place has a query and a value; the queries' softmax over all places gives one global query a head, which
    multiplies every value. The keys' second round is left out, as LadaGAN has one attention vector a head.
    """

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.query, self.value, self.out = Layer(width, width), Layer(width, width), Layer(width, width)
        self.weigh = Layer(width, heads)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        query, value = self.query(x), self.value(x)
        attention = (self.weigh(query).float() / math.sqrt(x.shape[2] / self.heads)).softmax(1).to(x.dtype)
        heads = query.unflatten(2, (self.heads, -1))  # [B, N, heads, width / heads]
        everywhere = (attention[..., None] * heads).sum(1).flatten(1)
        return self.out(everywhere[:, None] * value) + query  # type: ignore[no-any-return]


class Ladaformer(nn.Module):
    """Attention and a perceptron on the places of a map; z, if any, modulates the normalisation before each."""

    def __init__(self, width: int, z_dim: int = 0) -> None:
        super().__init__()
        self.attend, self.widen, self.narrow = Additive(width), Layer(width, 2 * width), Layer(2 * width, width)
        self.modulate = nn.ModuleList(Layer(z_dim, 2 * width) for _ in range(2 if z_dim else 0))

    def forward(self, maps: Tensor, z: Tensor | None = None) -> Tensor:
        x = maps.flatten(2).transpose(1, 2)
        x = x + self.attend(self.normalised(x, z, 0))
        x = x + self.narrow(F.gelu(self.widen(self.normalised(x, z, 1)), approximate="tanh"))
        return in_memory(x.transpose(1, 2).unflatten(2, maps.shape[2:]), maps.dtype)

    def normalised(self, x: Tensor, z: Tensor | None, which: int) -> Tensor:
        y = F.layer_norm(x.float(), x.shape[2:])
        if z is not None:
            gain, shift = self.modulate[which](z)[:, None].chunk(2, 2)
            y = y * (1 + gain) + shift
        return y.to(x.dtype)


class LadaGenerator(nn.Module):
    """Many channels at 8 and 16 pixels, where attention is; pixel shuffle, which spends three quarters of them."""

    def __init__(self, side: int, channels: int, scale: int, dtype: torch.dtype, z_dim: int = 128) -> None:
        super().__init__()
        self.dtype, self.first = dtype, 256 * scale
        widths = [self.first, self.first // 4, *[32 * scale] * int(math.log2(side // 32))]  # at 8, 16, … side / 2
        self.project = Layer(z_dim, self.first * 64)
        self.attend = nn.ModuleList(Ladaformer(n, z_dim) for n in widths[:2])
        self.change = nn.ModuleList(Layer(a // 4, b, 3, gain=GAIN) for a, b in pairwise(widths))
        self.refine = nn.ModuleList(Layer(n, n, 3, gain=GAIN) for n in widths[2:])
        self.show = Layer(widths[-1] // 4, channels, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = in_memory(self.project(z).view(-1, self.first, 8, 8), self.dtype)
        for i in range(len(self.change) + 1):
            x = self.change[i - 1](F.pixel_shuffle(x, 2)) if i else x
            x = self.attend[i](x, z) if i < 2 else x + self.refine[i - 2](leaky(x, 1.0))
        images: Tensor = self.show(leaky(F.pixel_shuffle(x, 2), 1.0)).float()
        return images.tanh()


class LadaCritic(nn.Module):
    """Residual halvings, one attention block at 16 pixels."""

    def __init__(self, side: int, channels: int, scale: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        widths = [min(1024 // n, 256) * scale for n in sides_up_to(side)][::-1]
        self.enter = Layer(channels, widths[0], 3, gain=GAIN)
        self.first = nn.ModuleList(Layer(a, a, 3, gain=GAIN) for a in widths[:-1])
        self.second = nn.ModuleList(Layer(a, b, 3, gain=GAIN) for a, b in pairwise(widths))
        self.skip = nn.ModuleList(Layer(a, b, 1, bias=None) for a, b in pairwise(widths))
        self.attend = Ladaformer(widths[-3])
        self.logit = Layer(widths[-1] * 16, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.enter(in_memory(images, self.dtype))
        for first, second, skip in zip(self.first, self.second, self.skip, strict=True):
            if x.shape[2] == 16:
                x = self.attend(x)
            y: Any = second(leaky(F.avg_pool2d(first(leaky(x, 1.0)), 2), 1.0))
            x = (skip(F.avg_pool2d(x, 2)) + y) / ROOT
        return self.logit(leaky(x.float().flatten(1), 1.0)).squeeze(1)  # type: ignore[no-any-return]
