"""`dcgan`: the network that tutorials teach, as our readers know it from DCGAN-Tensorflow, with its defects mended.

    z [B, 100] uniform ─ linear 1024, ReLU ─ 5×5 transposed convolutions, each ×2: 512, 256, 128, 64, 32 ─ tanh ─▶ image
    image ─ 5×5 convolutions, each ÷2: 64, 128, 256, 512, 1024, leaky ReLU 0.2 ─ linear ─▶ logit            (at 64×64)

Batch normalisation and ReLU follow every hidden convolution; weights start as N(0, 0.02) (Radford et al. 2016,
section 4). One size down or up drops or adds the widest layer, up to 1024 channels. What is mended: batch
normalisation keeps running averages, which generation uses, so that an image does not depend on its batch; and of the
first transposed convolution's 5×5 weights, which meets a 1×1 map, only the 2×2 that can touch anything are kept.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.networks.blocks import SLOPE, convolve


class Convolution(nn.Conv2d):
    """5×5, stride 2, in the dtype of its input: `[B, n, H, W] -> [B, outputs, H/2, W/2]`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 5, stride=2, padding=2, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight.to(input.dtype)
        if input.device.type == "cpu" and input.shape[-1] <= 4:
            return self.as_matrix_product(input, weight)
        # A map of one channel has no layout, and what comes of it would be taken for channels-first.
        return convolve(input, weight, None, 2, 2).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def as_matrix_product(x: Tensor, weight: Tensor) -> Tensor:
        """The same convolution as one matrix product of gathered 5×5 patches: `[B, n, H, W] -> [B, m, H/2, W/2]`.

        On maps of 4×4 CPU convolution kernels are mostly idle: with 512 to 1024 channels, forward and backward take
        five times as long in bf16 as this does.
        """
        batch, channels, height, width = x.shape
        rows, columns = torch.arange(0, height, 2), torch.arange(0, width, 2)
        window = torch.arange(5)
        places = (rows[:, None, None, None] + window[:, None]) * (width + 4) + columns[:, None, None] + window
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 2, 2, 2, 2)).flatten(1, 2)  # [B, (H + 4)(W + 4), n]
        patches = padded.index_select(1, places.flatten()).view(-1, 25 * channels)
        y = patches @ weight.permute(0, 2, 3, 1).reshape(len(weight), -1).t()
        return y.view(batch, height // 2, width // 2, -1).permute(0, 3, 1, 2)


class TransposedConvolution(nn.ConvTranspose2d):
    """5×5, stride 2, in the dtype of its input: `[B, n, H, W] -> [B, outputs, 2H, 2W]`; 2×2 where the input is 1×1."""

    def __init__(self, inputs: int, outputs: int, point: bool = False, bias: bool = False) -> None:
        self.margins = (0, 0) if point else (2, 1)  # padding, output padding
        super().__init__(inputs, outputs, 2 if point else 5, stride=2, bias=bias)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        bias = self.bias.to(input.dtype) if self.bias is not None else None
        weight = self.weight.to(input.dtype)
        return F.conv_transpose2d(input, weight, bias, 2, *self.margins)


def widths(last: int, count: int) -> list[int]:
    """Channels of `count` layers, doubling from `last` at the image end to at most 1024."""
    return [min(last * 2**i, 1024) for i in range(count)]


def start(module: nn.Module) -> None:
    """Draw every convolution and linear weight from N(0, 0.02) and keep convolutions in channels-last memory."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(part.weight, 0.0, 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)


class Generator(nn.Module):
    """Latents to images: `z [B, z_dim]` in [-1, 1] `-> [B, C, side, side]` fp32 in [-1, 1]; `side` a power of two."""

    def __init__(self, side: int, channels: int, z_dim: int = 100, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.z_dim, self.dtype = z_dim, dtype
        hidden = widths(32, side.bit_length() - 1)[::-1]
        self.enter = nn.Linear(z_dim, hidden[0])
        self.layers = nn.ModuleList(
            TransposedConvolution(n, out, point=i == 0) for i, (n, out) in enumerate(pairwise(hidden))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in hidden[1:])
        self.to_image = TransposedConvolution(hidden[-1], channels, bias=True)
        start(self)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.enter(z))[:, :, None, None].to(self.dtype)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.relu(norm(layer(x)), inplace=True)
        return torch.tanh(self.to_image(x).float())


class Discriminator(nn.Module):
    """Images to logits: `[B, C, side, side] -> [B]` fp32; the sigmoid belongs to the objective."""

    def __init__(self, side: int, channels: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        hidden = widths(64, side.bit_length() - 2)
        self.layers = nn.ModuleList(Convolution(n, out) for n, out in zip([channels, *hidden], hidden, strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in hidden)
        self.logit = nn.Linear(hidden[-1] * 4, 1)
        start(self)

    def forward(self, images: Tensor) -> Tensor:
        x = images.contiguous(memory_format=torch.channels_last).to(self.dtype)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.leaky_relu(norm(layer(x)), SLOPE, inplace=True)
        logits: Tensor = self.logit(x.flatten(1).float())
        return logits.squeeze(1)
