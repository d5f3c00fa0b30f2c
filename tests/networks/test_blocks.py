"""The blocks against their papers' formulas, written out independently, and the promises in their docstrings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ganvas.networks import blocks, style
from ganvas.networks.blocks import Conv2d, Linear, ModulatedConv2d, activate, minibatch_deviation, normalise


def weight_scaled(layer: ModulatedConv2d, x: Tensor, w: Tensor) -> Tensor:
    """Karras et al. 2020, eqs. 1 and 3, every image with weights of its own; demodulated to GAIN rather than to 1."""
    made = []
    for image, one in zip(x, w, strict=True):
        style = layer.affine.weight @ one / math.sqrt(len(one)) + layer.affine.bias
        scaled = layer.weight * layer.scale * style[None, :, None, None]  # eq. 1
        if layer.demodulate:
            scaled = blocks.GAIN * scaled / (scaled**2).sum((1, 2, 3), keepdim=True).add(1e-8).sqrt()  # eq. 3
        made.append(F.conv2d(image[None], scaled, layer.bias, padding=scaled.shape[-1] // 2))
    return torch.cat(made)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_modulating_activations_is_modulating_weights(
    demodulate: bool, kernel: int, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    layer = ModulatedConv2d(6, 5, kernel, w_dim=7, demodulate=demodulate).to(dtype)
    with torch.no_grad():
        layer.bias.normal_()
    x, w = torch.randn(3, 6, 8, 5, dtype=dtype), torch.randn(3, 7, dtype=dtype)
    expected = weight_scaled(layer, x, w)
    assert torch.allclose(layer(x, w), expected, rtol=0, atol=tolerance)
    wanted = torch.autograd.grad(expected.square().sum(), layer.parameters())
    for found, right in zip(torch.autograd.grad(layer(x, w).square().sum(), layer.parameters()), wanted, strict=True):
        assert torch.allclose(found, right, rtol=tolerance, atol=100 * tolerance), "the gradient is the same as well"


def test_demodulation_keeps_unit_scale_through_the_activation() -> None:
    torch.manual_seed(1)
    layer, plain = ModulatedConv2d(32, 8, 3, 16), ModulatedConv2d(32, 8, 3, 16, demodulate=False)
    x, w = torch.randn(4, 32, 64, 64), 3 * torch.randn(4, 16)
    with torch.no_grad():
        inner = layer(x, w)[:, :, 1:-1, 1:-1]  # the border sees zeros beside the image
        assert (inner.var((2, 3)) / blocks.GAIN**2 - 1).abs().max() < 0.12  # of 3,844 neighbouring values each
        assert inner.var((2, 3)).mean().item() == pytest.approx(blocks.GAIN**2, rel=0.02)
        assert activate(inner).square().mean().item() == pytest.approx(1, abs=0.02)
        assert plain(x, w).var((2, 3)).mean() > 2 * blocks.GAIN**2, "so strong are the styles where nothing demodulates"


def test_styles_begin_as_the_identity_and_their_scale_is_undone() -> None:
    torch.manual_seed(2)
    layer = ModulatedConv2d(4, 3, 3, 5)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(layer.affine(torch.zeros(1, 5)), torch.ones(1, 4))
    before = layer(x, torch.zeros(2, 5))
    with torch.no_grad():
        layer.affine.bias.mul_(50.0)
    assert torch.allclose(layer(x, torch.zeros(2, 5)), before, atol=1e-4), "one factor for all inputs cancels"


@pytest.mark.parametrize("gain", [1.0, blocks.GAIN])
def test_equalised_layers_keep_the_second_moment(gain: float) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        y = Linear(256, 512, gain)(torch.randn(512, 256))
        assert y.square().mean().item() == pytest.approx(gain**2, rel=0.03)
        z = Conv2d(64, 64, 3, gain)(torch.randn(4, 64, 34, 34))[:, :, 1:-1, 1:-1]
        assert z.square().mean().item() == pytest.approx(gain**2, rel=0.03)
        # He et al. 2015, eq. 15: with this gain a leaky ReLU leaves it as it was.
        if gain == blocks.GAIN:
            assert activate(y).square().mean().item() == pytest.approx(1, rel=0.03)


def test_layers_compute_in_the_dtype_of_their_input_and_keep_fp32_weights() -> None:
    x, w = torch.randn(2, 4, 8, 8), torch.randn(2, 6)
    for dtype in (torch.float32, torch.bfloat16):
        assert Conv2d(4, 5, 3)(x.to(dtype)).dtype == dtype
        assert ModulatedConv2d(4, 5, 3, 6)(x.to(dtype), w).dtype == dtype
        assert Linear(6, 5)(w.to(dtype)).dtype == dtype
    layer = Conv2d(4, 5, 3)
    layer(x.bfloat16()).sum().backward()
    assert layer.weight.dtype == torch.float32 and layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)


def deviation(x: np.ndarray, group: int) -> np.ndarray:
    """Karras et al. 2018, section 3, by loops: images B/G apart are a group."""
    batch = len(x)
    size = next(n for n in range(min(group, batch), 0, -1) if batch % n == 0)
    step = batch // size
    answer = np.empty(batch)
    for image in range(batch):
        members = [x[other] for other in range(batch) if other % step == image % step]
        assert len(members) == size
        answer[image] = np.sqrt(np.var(np.stack(members), axis=0) + 1e-8).mean()
    return answer


@given(batch=st.integers(1, 18), group=st.integers(1, 9), seed=st.integers(0, 99))
def test_minibatch_deviation_against_numpy(batch: int, group: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(batch, 3, 2, 4))
    y = minibatch_deviation(torch.from_numpy(x), group).numpy()
    assert y.shape == (batch, 4, 2, 4)
    assert np.array_equal(y[:, :3], x), "what was there stays"
    expected = np.broadcast_to(deviation(x, group)[:, None, None], (batch, 2, 4))
    np.testing.assert_allclose(y[:, 3], expected, rtol=1e-10)


def test_a_collapsed_batch_shows_in_the_deviation() -> None:
    one = torch.randn(1, 3, 4, 4)
    assert minibatch_deviation(one.repeat(8, 1, 1, 1))[:, 3].max() < 1e-3
    assert minibatch_deviation(torch.randn(8, 3, 4, 4))[:, 3].min() > 0.5


def test_normalise_keeps_the_direction_only() -> None:
    z = torch.randn(5, 32)
    assert torch.allclose(normalise(z).square().mean(1), torch.ones(5), atol=1e-5)
    assert torch.allclose(normalise(7 * z), normalise(z), atol=1e-5)
    assert F.cosine_similarity(z, normalise(z)).min() > 0.9999


def test_resampling_doubles_halves_and_keeps_the_mean() -> None:
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float64).view(2, 3, 4, 6)
    assert np.array_equal(blocks.upsample(x).numpy(), x.numpy().repeat(2, axis=2).repeat(2, axis=3))
    assert torch.equal(blocks.downsample(blocks.upsample(x)), x)


def test_blur_interpolates_and_erases_a_checkerboard() -> None:
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float64).view(2, 3, 4, 6)
    smooth = blocks.blur(blocks.upsample(x))
    assert smooth.shape == (2, 3, 8, 12)
    assert torch.allclose(blocks.blur(torch.ones_like(x)), torch.ones_like(x))
    ramp = smooth[0, 0, 4, 1:-1]
    assert torch.allclose(ramp.diff(), torch.full((9,), 0.5, dtype=torch.float64)), "a slope of 1 becomes 1/2"
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    board = ((rows + columns) % 2).double().expand(1, 1, 8, 8) * 2 - 1
    assert blocks.blur(board)[..., 1:-1, 1:-1].abs().max() < 1e-12


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 1, 4)])
def test_the_gradient_of_blur_is_blur(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(blocks.blur, x)
    assert torch.autograd.gradgradcheck(blocks.blur, x)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (5, 2, 2), (1, 1, 0)])
def test_convolve_is_the_convolution_and_its_derivatives_are_its_own(kernel: int, stride: int, padding: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, kernel, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return blocks.convolve(x, weight, bias, stride, padding)

    assert torch.equal(convolved(x, weight, bias), F.conv2d(x, weight, bias, stride, padding))
    assert torch.autograd.gradcheck(convolved, (x, weight, bias))
    assert torch.autograd.gradgradcheck(convolved, (x, weight, bias))


@pytest.mark.parametrize("images", [4, 8, 16])
def test_a_slopes_gradient_in_bf16_is_that_in_fp32(images: int) -> None:
    """The library's own points elsewhere (a cosine of 0.5) with AMX and fewer than 16 images."""
    torch.manual_seed(0)
    layers = Conv2d(32, 32, 3, blocks.GAIN), Conv2d(32, 32, 3, blocks.GAIN)
    x = torch.randn(images, 32, 32, 32).contiguous(memory_format=torch.channels_last)

    def gradient(dtype: torch.dtype) -> Tensor:
        seen = x.to(dtype).requires_grad_(True)
        answer = layers[1](activate(layers[0](seen))).float().tanh().sum()
        (slope,) = torch.autograd.grad(answer, seen, create_graph=True)
        (found,) = torch.autograd.grad(slope.float().square().sum(), layers[0].weight)
        return found.flatten()

    assert F.cosine_similarity(gradient(torch.bfloat16), gradient(torch.float32), 0) > 0.95


def test_only_who_promises_gets_the_librarys_convolution() -> None:
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, requires_grad=True)
    ours = blocks.convolve(x, weight).grad_fn
    with blocks.differentiated_once():
        assert "ConvolutionBackward0" in str(blocks.convolve(x, weight).grad_fn)
        with pytest.raises(KeyError), blocks.differentiated_once():
            raise KeyError
        assert "ConvolutionBackward0" in str(blocks.convolve(x, weight).grad_fn)
    assert type(blocks.convolve(x, weight).grad_fn) is type(ours) and "_Convolution" in str(ours)


@pytest.mark.parametrize("channels", [1, 3, 4, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ways_of_a_gpu_to_resample_give_what_the_librarys_do(channels: int, dtype: torch.dtype) -> None:
    x = torch.randn(2, channels, 4, 6).to(dtype).contiguous(memory_format=torch.channels_last)
    doubled, halved = blocks.repeated(x), blocks.averaged(x)
    assert torch.equal(doubled, F.interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(halved, F.avg_pool2d(x, 2))
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in (doubled, halved))


@pytest.mark.parametrize("channels", [1, 5, 16, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_rescaling_is_the_same_however_many_channels(
    channels: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, channels, 4, 6).to(dtype).contiguous(memory_format=layout)
    scale, shift = torch.randn(2, channels).to(dtype), torch.randn(channels).to(dtype)
    found = blocks.rescale(x, scale, shift)
    expected = x.double() * scale.double()[:, :, None, None] + shift.double()[:, None, None]
    torch.testing.assert_close(found, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)
    if channels > 1 and layout is torch.channels_last:
        assert found.stride() == x.stride()


def test_gradients_of_rescaling_few_channels() -> None:
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    scale = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    shift = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(blocks.rescale, (x, scale, shift))


@pytest.mark.parametrize("outputs", [5, 40])
def test_doubling_within_a_convolution_is_doubling_before_it(outputs: int) -> None:
    torch.manual_seed(0)
    layer, x, w = ModulatedConv2d(6, outputs, 3, w_dim=7), torch.randn(3, 6, 4, 4), torch.randn(3, 7)
    torch.testing.assert_close(layer(x, w, double=True), layer(blocks.upsample(x), w))


def test_repetition_and_its_gradients_of_a_gpu() -> None:
    """Gradients of the first and of the second order, against differences."""
    x = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    for function in (blocks._Upsample.apply, blocks.downsample):
        wide = (
            x if function is not blocks.downsample else torch.randn(1, 2, 4, 2, dtype=torch.float64, requires_grad=True)
        )
        assert torch.autograd.gradcheck(lambda values, f=function: f(values).pow(3), (wide,))
        assert torch.autograd.gradgradcheck(lambda values, f=function: f(values).pow(3), (wide,))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_settled_network_makes_the_same_images(dtype: torch.dtype) -> None:
    """To the bit; and it is stored as it was."""
    network, z = style.Generator((32, 32), 3, 16, 24, classes=2, dtype=dtype), torch.randn(3, 24)
    label, stored = torch.tensor([0, 1, 1]), {name: one.clone() for name, one in network.state_dict().items()}
    before = network(z, label)
    assert blocks.settle(network) is network
    assert all(layer.working is not None for layer in network.modules() if isinstance(layer, blocks.Equalised))
    assert torch.equal(network(z, label), before)
    assert all(torch.equal(one, stored[name]) for name, one in network.state_dict().items())
    assert network.state_dict().keys() == stored.keys()
