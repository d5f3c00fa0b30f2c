"""What the networks are built of: equalised layers, modulation, resampling, minibatch statistics.

Every layer keeps its weights in fp32 (the master copy that the optimiser moves) and computes in the dtype of what it is
given, so that `x.to(torch.bfloat16)` at the door of a network is all that mixed precision takes. Feature maps are
`[B, C, H, W]` in channels-last memory, which is what matrix units want.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SLOPE = 0.2  # of every leaky ReLU
GPU_CHANNELS = 8  # a multiple of which a GPU's matrix units want
VECTOR_BYTES = 64  # that a CPU computes with at once, at most
GAIN = math.sqrt(2.0 / (1.0 + SLOPE**2))  # keeps the second moment through a leaky ReLU (He et al. 2015, eq. 15)


class Equalised(nn.Module):
    """A layer with equalised learning rate: it computes with weights that are N(0, 1) at first, times a factor.

    Scaling at run time instead of at initialisation gives every layer the same effective step under Adam
    (Karras et al. 2018, "Progressive Growing of GANs", section 4.1). Training scales and casts the weights of a whole
    network at once (`training.weights`): to `dtype`, which is what the layer will be given, and into `working`.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    dtype: torch.dtype = torch.float32
    working: tuple[Tensor, ...] | None = None

    def factors(self) -> list[tuple[nn.Parameter, float]]:
        """The weight, and the bias if there is one, each with what it is multiplied by."""
        raise NotImplementedError

    def ready(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight and bias to compute with, in `dtype`."""
        found = self.working or tuple(
            (own if factor == 1.0 else own * factor).to(dtype) for own, factor in self.factors()
        )
        return found[0], found[1] if len(found) > 1 else None


def settle(network: nn.Module) -> nn.Module:
    """Scale and cast the weights of `network`, which learns no more, once and for all; it is returned."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, Equalised):
                layer.working = None
                layer.working = tuple(one for one in layer.ready(layer.dtype) if one is not None)
    return network


class _Passes(threading.local):
    """What the calling thread has said of the passes that it makes."""

    once = False


_passes = _Passes()


@contextmanager
def differentiated_once() -> Iterator[None]:
    """Promise that what this thread computes within it is differentiated once at most: `convolve` is then quicker.

    Autograd tells its own convolution, and not ours, which gradients nobody asks for.
    """
    before, _passes.once = _passes.once, True
    try:
        yield
    finally:
        _passes.once = before


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """`F.conv2d`, and sound and quick where it is differentiated twice, as a penalty on the critic's slope does.

    The library's second derivative turns the batch into channels and the maps into kernels as large as they are, which
    is slow. On a CPU with AMX such a convolution in bf16 even comes out wrong, by more than its own length, where there
    are fewer than 16 channels, so where a share has fewer than 16 images. On a GPU channels are made up to what its
    matrix units take at once.
    """
    if x.is_cuda and (missing := -x.shape[1] % GPU_CHANNELS):
        x, weight = F.pad(x, (0, 0, 0, 0, 0, missing)), F.pad(weight, (0, 0, 0, 0, 0, missing))
    if _passes.once or x.device.type == "mps" or not torch.is_grad_enabled():
        return F.conv2d(x, weight, bias, stride, padding)
    convolved: Tensor = _Convolution.apply(GRADIENT, x, weight, None, bias, stride, padding)  # type: ignore[no-untyped-call]
    return convolved


X, WEIGHT, GRADIENT = range(3)  # the three of ⟨x ∗ w + b, g⟩


class _Convolution(torch.autograd.Function):
    """The gradient of ⟨x ∗ w + b, g⟩ by one of x, w and g; by g it is the convolution itself.

    The form is linear in each of the three, so that the gradient by one is made of the two others, and has gradients
    that are again of this form, with the direction in the place of that one. `by` says which it is; what is given for
    it has no part but its shape and layout.
    """

    @staticmethod
    def forward(
        ctx: Any, by: int, x: Tensor, weight: Tensor, gradient: Tensor | None, bias: Tensor | None, *how: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight, gradient)
        ctx.by, ctx.how = by, how
        if by == GRADIENT:
            return F.conv2d(x, weight, bias, *how)
        found: Tensor = _slopes(gradient, x, weight, how, (by == X, by == WEIGHT, False))[by]
        return found

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        _, *wanted, by_bias, _, _ = ctx.needs_input_grad
        three = list(ctx.saved_tensors)
        three[ctx.by] = direction
        if ctx.by == GRADIENT and not torch.is_grad_enabled():  # both in one call
            x, weight, bias = _slopes(direction, three[X], three[WEIGHT], ctx.how, (*wanted[:GRADIENT], by_bias))
            return None, x, weight, None, bias, None, None

        def gradient(by: int) -> Tensor | None:
            if by == ctx.by or not wanted[by]:
                return None
            like = None if by == GRADIENT else three[by].detach()
            found: Tensor = _Convolution.apply(  # type: ignore[no-untyped-call]
                by, *three[:by], like, *three[by + 1 :], None, *ctx.how
            )
            return found

        bias = direction.sum((0, 2, 3)) if by_bias else None
        return None, gradient(X), gradient(WEIGHT), gradient(GRADIENT), bias, None, None


def _slopes(
    gradient: Tensor | None, x: Tensor, weight: Tensor, how: tuple[int, ...], wanted: tuple[bool, ...]
) -> tuple[Any, Any, Any]:
    """The gradients of a convolution by input, weight and bias: those `wanted`, in one call of the library's."""
    stride, padding = how
    found: tuple[Any, Any, Any] = torch.ops.aten.convolution_backward(
        gradient, x, weight, [len(weight)], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, wanted
    )
    return found


class Linear(Equalised):
    """Fully connected: `y = x (g/√n W)ᵀ + b`, n inputs: `[B, n] -> [B, outputs]`.

    A `rate` below 1 makes the step of its learning so much smaller.
    """

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias: nn.Parameter = nn.Parameter(torch.full((outputs,), bias / rate))
        self.scale, self.rate = gain / math.sqrt(inputs) * rate, rate

    def factors(self) -> list[tuple[nn.Parameter, float]]:
        return [(self.weight, self.scale), (self.bias, self.rate)]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.ready(x.dtype))


class Conv2d(Equalised):
    """Same-size convolution: `[B, n, H, W] -> [B, outputs, H, W]`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        gain: float = 1.0,
        bias: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        weight = torch.randn(outputs, inputs, kernel, kernel)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.dtype = gain / math.sqrt(inputs * kernel**2), dtype

    def factors(self) -> list[tuple[nn.Parameter, float]]:
        return [(self.weight, self.scale), *([(self.bias, 1.0)] if self.bias is not None else [])]

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.ready(x.dtype)
        return convolve(x, weight, bias, padding=weight.shape[-1] // 2)


class ModulatedConv2d(Equalised):
    """Convolution whose input channels are scaled by a style and whose output is brought back to a variance of GAIN².

    Karras et al. 2020 ("Analyzing and Improving the Image Quality of StyleGAN", eqs. 1 and 3) scale the weights,
    `w'_{oik} = s_i w_{oik}`, and demodulate by `d_o = 1 / sqrt(Σ_{i,k} w'²_{oik})`. Scaling the activations instead,
    `y_o = d_o · conv(s ⊙ x, w)_o + b_o`, is the same function: one dense convolution for the whole batch where theirs
    needs one group an image. The style is an affine map of w, with bias 1 so that it starts as the identity.

    `x [B, n, H, W], w [B, D] -> [B, outputs, H, W]`; of twice the height and width with `double`, which repeats the
    input when it has been scaled, and so a quarter of the values.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        w_dim: int,
        demodulate: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.affine = Linear(w_dim, inputs, bias=1.0)
        weight = torch.randn(outputs, inputs, kernel, kernel)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(outputs))
        self.scale, self.dtype = 1.0 / math.sqrt(inputs * kernel**2), dtype
        self.demodulate = demodulate

    def factors(self) -> list[tuple[nn.Parameter, float]]:
        # Demodulation divides by the weights' length, so that their scale need not be applied before.
        return [(self.weight, 1.0 if self.demodulate else self.scale), (self.bias, 1.0)]

    def forward(self, x: Tensor, w: Tensor, double: bool = False) -> Tensor:
        style = self.affine(w)  # fp32: small, and squared below
        weight, bias = self.ready(x.dtype)
        assert bias is not None
        x = x * style.to(x.dtype)[:, :, None, None]
        if double:
            x = upsample(x)
        if not self.demodulate:
            return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        y = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        lengths = weight.permute(0, 2, 3, 1).flatten(1, 2).square().sum(1, dtype=style.dtype)  # in memory's order
        demodulation = GAIN * torch.rsqrt(style.square() @ lengths.t() + 1e-8 / self.scale**2)
        return rescale(y, demodulation.to(x.dtype), bias)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU in place, without its gain: the layer before, which needs its output no more, has it in its scale."""
    return F.leaky_relu(x, SLOPE, inplace=True)


def channels_last(x: Tensor) -> Tensor:
    """`[B, C, H, W]` with channels last in memory, and with strides that say so where there is one channel.

    One channel lies in either order; by its usual strides the library takes it for channels first, and goes on so.
    """
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last)
    return x.reshape(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2)


def rescale(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`x [B, C, H, W]` times `scale [B, C]` plus `shift [C]`."""
    if x.device.type != "cpu" or x.shape[1] * x.element_size() >= VECTOR_BYTES:
        return torch.addcmul(shift[:, None, None], x, scale[:, :, None, None])
    rescaled: Tensor = _Rescale.apply(x, scale, shift)  # type: ignore[no-untyped-call]
    return rescaled


class _Rescale(torch.autograd.Function):
    """By rows of a map, for which scale and shift are laid out: up to thirteen times as fast where channels are few.

    The library takes the channels of one place at a time, and then each by itself. A function of its own, because the
    activation that follows works in place, which is dear on what autograd sees to be a view.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        found = torch.empty_like(x, memory_format=torch.channels_last)
        torch.addcmul(shift.repeat(x.shape[3]), by_rows(x), _along(scale, x), out=by_rows(found))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        by_x, rows = torch.empty_like(x, memory_format=torch.channels_last), by_rows(gradient)
        torch.mul(rows, _along(scale, x), out=by_rows(by_x))
        by_scale = (rows * by_rows(x)).sum(1).view(len(x), x.shape[3], -1).sum(1)
        return by_x, by_scale, rows.sum((0, 1)).view(x.shape[3], -1).sum(0)


def by_rows(x: Tensor) -> Tensor:
    """`[B, C, H, W] -> [B, H, W · C]`: in channels-last memory the same memory."""
    batch, _, height, _ = x.shape
    return x.permute(0, 2, 3, 1).reshape(batch, height, -1)


def _along(scale: Tensor, x: Tensor) -> Tensor:
    """A scale `[B, C]` for each place of a row of `x`: `[B, 1, W · C]`."""
    return scale.repeat(1, x.shape[3])[:, None]


def upsample(x: Tensor) -> Tensor:
    """Double height and width by repetition: `[B, C, H, W] -> [B, C, 2H, 2W]`."""
    if not x.is_cuda:
        return F.interpolate(x, scale_factor=2, mode="nearest")
    doubled: Tensor = _Upsample.apply(x)  # type: ignore[no-untyped-call]
    return doubled


class _Upsample(torch.autograd.Function):
    """Repetition whose gradient is taken by averaging: on a GPU several times as fast as the library's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return repeated(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return downsample(gradient) * 4


def repeated(x: Tensor) -> Tensor:
    """The values of `upsample` in channels-last memory; where it can, a GPU moves several channels at once."""
    batch, channels, height, width = x.shape
    places = x.permute(0, 2, 3, 1).contiguous()
    if channels * x.element_size() % 8 == 0:
        places = places.view(torch.int64)
    apart = places[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1)
    return apart.reshape(batch, 2 * height, 2 * width, -1).view(x.dtype).permute(0, 3, 1, 2)


def averaged(x: Tensor) -> Tensor:
    """The values of `downsample` in channels-last memory, the way that is quick on a GPU."""
    batch, channels, height, width = x.shape
    apart = x.permute(0, 2, 3, 1).reshape(batch, height // 2, 2, width // 2, 2, channels)
    return apart.mean((2, 4)).permute(0, 3, 1, 2)


def blur(x: Tensor) -> Tensor:
    """Filter with [1, 2, 1]/4 along both axes, edges repeated: `[B, C, H, W]`, the same shape.

    It passes nothing at the highest frequency, which is where the checkerboard of a pixel shuffle lies, and turns
    repetition (`upsample`) into interpolation.
    """
    blurred: Tensor = _Blur.apply(x)  # type: ignore[no-untyped-call]
    return blurred


class _Blur(torch.autograd.Function):
    """The filter's matrix is symmetric, also where edges are repeated: its gradient is the same filter once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # On a CPU slices are several times as fast as a convolution.
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        rows = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
        return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return blur(gradient)


def downsample(x: Tensor) -> Tensor:
    """Halve height and width by averaging: `[B, C, H, W] -> [B, C, H/2, W/2]`."""
    halved: Tensor = _Downsample.apply(x)  # type: ignore[no-untyped-call]
    return halved


class _Downsample(torch.autograd.Function):
    """Average pooling whose gradient is taken by repetition: three times as fast on a CPU as the library's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return averaged(x) if x.is_cuda else F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return upsample(gradient * 0.25)


def minibatch_deviation(x: Tensor, group: int = 8, sets: int = 1) -> Tensor:
    """Append a channel with the standard deviation over a group of images: `[B, C, H, W] -> [B, C + 1, H, W]`.

    A critic that sees how much its batch varies can punish a generator that has collapsed (Karras et al. 2018,
    section 3). Groups are formed of images B/group apart; the deviation is averaged over channels and places. The
    group shrinks to the largest divisor of B that is at most `group`; one image alone has deviation 0. A batch of
    several `sets` of images, one after the other, gives each what it would have alone.
    """
    batch, _, height, width = x.shape
    own = batch // sets
    size = max(n for n in range(1, min(group, own) + 1) if own % n == 0)
    grouped = x.reshape(sets, size, own // size, -1)
    variance = (grouped - grouped.mean(1, keepdim=True)).square().mean(1)  # thirty times as fast as var()
    deviation = (variance + 1e-8).sqrt().mean(2)
    channel = deviation.repeat(1, size).view(batch, 1, 1, 1).expand(batch, 1, height, width)
    return torch.cat([x, channel], 1)


def normalise(z: Tensor) -> Tensor:
    """Scale each row to unit second moment, so that only its direction counts: `[B, D] -> [B, D]`."""
    return z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
