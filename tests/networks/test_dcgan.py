"""The tutorial network is the reference's layer by layer, and what is mended in it is mended without changing it."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganvas.networks.dcgan import Convolution, Discriminator, Generator, TransposedConvolution, widths

# DCGAN-Tensorflow at 64x64: 1024 features reshaped to 1x1, then 5x5 stride-2 transposed convolutions.
GENERATOR_64 = [1024, 512, 256, 128, 64, 32, 3]
DISCRIMINATOR_64 = [3, 64, 128, 256, 512, 1024]


def test_the_generator_is_the_references() -> None:
    network = Generator(64, 3)
    assert (network.enter.in_features, network.enter.out_features) == (100, 1024)
    layers = [*network.layers, network.to_image]
    assert [(layer.in_channels, layer.out_channels) for layer in layers] == list(itertools.pairwise(GENERATOR_64))
    assert [layer.kernel_size for layer in layers] == [(2, 2)] + [(5, 5)] * 5
    assert all(layer.stride == (2, 2) for layer in layers)
    assert [norm.num_features for norm in network.norms] == GENERATOR_64[1:-1], "after every hidden convolution"
    assert [layer.bias is not None for layer in layers] == [False] * 5 + [True], "the norm has the hidden ones' bias"
    shapes = [tuple(layer.weight.shape) for layer in layers]
    assert shapes[0] == (1024, 512, 2, 2) and shapes[1] == (512, 256, 5, 5) and shapes[-1] == (32, 3, 5, 5)


def test_the_discriminator_is_the_references() -> None:
    network = Discriminator(64, 3)
    found = [(layer.in_channels, layer.out_channels) for layer in network.layers]
    assert found == list(itertools.pairwise(DISCRIMINATOR_64))
    assert all(layer.kernel_size == (5, 5) and layer.stride == (2, 2) for layer in network.layers)
    assert all(layer.padding == (2, 2) and layer.bias is None for layer in network.layers)
    assert [norm.num_features for norm in network.norms] == DISCRIMINATOR_64[1:]
    assert (network.logit.in_features, network.logit.out_features) == (1024 * 2 * 2, 1)


def plain(network: Generator) -> nn.Sequential:
    """The generator as a tutorial writes it: 5x5 everywhere, also on the 1x1 map; weights copied."""
    parts: list[nn.Module] = [nn.Linear(network.enter.in_features, network.enter.out_features), nn.ReLU()]
    parts.append(nn.Unflatten(1, (network.enter.out_features, 1, 1)))
    for layer, norm in zip([*network.layers, network.to_image], [*network.norms, None], strict=True):
        bias = layer.bias is not None
        full = nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 5, 2, 2, 1, bias=bias)
        with torch.no_grad():
            full.weight.normal_()  # the taps that meet nothing may hold anything
            if layer.kernel_size == (2, 2):
                full.weight[:, :, 2:4, 2:4] = layer.weight
            else:
                full.weight.copy_(layer.weight)
            if bias:
                full.bias.copy_(layer.bias)
        parts.append(full)
        if norm is not None:
            other = nn.BatchNorm2d(norm.num_features)
            other.load_state_dict(norm.state_dict())
            parts += [other, nn.ReLU()]
    parts[0].load_state_dict(network.enter.state_dict())
    return nn.Sequential(*parts, nn.Tanh())


@pytest.mark.parametrize(("side", "channels"), [(16, 1), (32, 3)])
def test_the_generator_computes_what_a_tutorials_does(side: int, channels: int) -> None:
    torch.manual_seed(0)
    network = Generator(side, channels)
    reference, z = plain(network), torch.rand(6, 100) * 2 - 1
    for train in (True, False):
        network.train(train)
        reference.train(train)
        with torch.no_grad():
            assert torch.allclose(network(z), reference(z), atol=1e-4)


@pytest.mark.parametrize(("side", "channels"), [(16, 1), (32, 3)])
def test_the_discriminator_computes_what_a_tutorials_does(side: int, channels: int) -> None:
    torch.manual_seed(0)
    network, images = Discriminator(side, channels), torch.rand(5, channels, side, side) * 2 - 1
    x = images
    for layer, norm in zip(network.layers, network.norms, strict=True):
        x = F.conv2d(x, layer.weight, None, 2, 2)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), unbiased=False, keepdim=True) + norm.eps).sqrt()
        x = F.leaky_relu(x, 0.2)
    expected = x.flatten(1) @ network.logit.weight[0] + network.logit.bias
    with torch.no_grad():
        assert torch.allclose(network(images), expected, atol=1e-4)


@torch.no_grad()
def test_on_a_point_only_the_middle_taps_live() -> None:
    layer = TransposedConvolution(6, 4, point=True).double()
    full = torch.randn(6, 4, 5, 5, dtype=torch.float64)
    full[:, :, 2:4, 2:4] = layer.weight
    x = torch.randn(3, 6, 1, 1, dtype=torch.float64)
    expected = F.conv_transpose2d(x, full, None, stride=2, padding=2, output_padding=1)
    assert expected.shape == (3, 4, 2, 2)
    assert torch.allclose(layer(x), expected, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 4), (4, 8)])
def test_the_matrix_product_is_the_convolution(height: int, width: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(x, weight, None, 2, 2)
    found = Convolution.as_matrix_product(x, weight)
    assert torch.allclose(found, expected, atol=1e-12)
    direction = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(found, (x, weight), direction),
        torch.autograd.grad(expected, (x, weight), direction),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-12)


def test_the_matrix_products_gradient_is_its_derivative() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Convolution.as_matrix_product, (x, weight))
    assert torch.autograd.gradgradcheck(Convolution.as_matrix_product, (x, weight), fast_mode=True), "penalties need it"


@pytest.mark.parametrize("side", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_goes_in_and_out(side: int, channels: int) -> None:
    with torch.device("meta"):
        images = Generator(side, channels)(torch.zeros(2, 100))
        assert images.shape == (2, channels, side, side)
        assert images.dtype == torch.float32
        assert Discriminator(side, channels)(images).shape == (2,)


def test_widths_double_towards_the_small_end_up_to_1024() -> None:
    assert widths(32, 6) == [32, 64, 128, 256, 512, 1024]
    assert widths(64, 7) == [64, 128, 256, 512, 1024, 1024, 1024]


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch_once_trained() -> None:
    torch.manual_seed(0)
    network = Generator(16, 3)
    for _ in range(5):
        network(torch.rand(8, 100) * 2 - 1)  # running averages gather
    z, others = torch.rand(1, 100) * 2 - 1, torch.rand(7, 100) * 2 - 1
    mixed = torch.cat([z, others])
    assert (network(mixed)[0] - network(torch.cat([z, -others]))[0]).abs().max() > 1e-3, "in training it does"
    network.eval()
    assert torch.allclose(network(mixed)[:1], network(z), atol=1e-5)


def test_running_averages_move_in_training() -> None:
    network = Generator(16, 3)
    before = [norm.running_var.clone() for norm in network.norms]
    network(torch.rand(8, 100) * 2 - 1)
    assert all(not torch.equal(norm.running_var, old) for norm, old in zip(network.norms, before, strict=True))


def test_weights_begin_as_small_normal_numbers() -> None:
    torch.manual_seed(0)
    for network in (Generator(32, 3), Discriminator(32, 3)):
        kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        drawn = [part for part in network.modules() if isinstance(part, kinds)]
        weights = torch.cat([part.weight.detach().flatten() for part in drawn])
        count = len(weights)
        assert weights.mean().abs() < 5 * 0.02 / count**0.5
        assert weights.std().item() == pytest.approx(0.02, rel=5 / (2 * count) ** 0.5)
        within = (weights.abs() < 0.02).float().mean().item()
        assert within == pytest.approx(0.6827, abs=5 * 0.5 / count**0.5), "normal: 68 % within one deviation"
        assert all(part.bias is None or not part.bias.any() for part in drawn)


def test_bf16_stays_close_to_fp32() -> None:
    torch.manual_seed(0)
    exact, rough = Discriminator(16, 3), Discriminator(16, 3, dtype=torch.bfloat16)
    rough.load_state_dict(exact.state_dict())
    images = torch.rand(16, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        right, found = exact(images), rough(images)
    assert found.dtype == torch.float32
    assert 0 < (found - right).norm() / (right - right.mean()).norm() < 0.1
