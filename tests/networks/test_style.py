"""The style pair: the shapes of every size, what each input may and may not change, and its precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from ganvas.networks import style
from ganvas.networks.blocks import Conv2d
from ganvas.networks.style import Discriminator, Generator, stages

SIDES = st.integers(4, 32).map(lambda n: 8 * n)  # every side that the family makes


@given(
    height=SIDES,
    breadth=SIDES,
    channels=st.sampled_from([1, 3]),
    classes=st.sampled_from([0, 3]),
    patch=st.sampled_from([1, 2]),
)
@example(height=32, breadth=32, channels=3, classes=0, patch=1)
@example(height=32, breadth=32, channels=3, classes=0, patch=2)
@example(height=256, breadth=256, channels=3, classes=0, patch=2)
@example(height=96, breadth=64, channels=3, classes=2, patch=2)
@example(height=64, breadth=96, channels=1, classes=0, patch=1)
@example(height=40, breadth=40, channels=3, classes=0, patch=2)
@example(height=72, breadth=48, channels=3, classes=0, patch=2)
def test_every_size_goes_in_and_out(height: int, breadth: int, channels: int, classes: int, patch: int) -> None:
    size, label = (height, breadth), None
    with torch.device("meta"):
        generator = Generator(size, channels, width=8, z_dim=16, classes=classes, patch=patch)
        critic = Discriminator(size, channels, width=8, classes=classes, patch=patch)
        if classes:
            label = torch.zeros(3, dtype=torch.int64)
        images = generator(torch.zeros(3, 16), label)
        assert images.shape == (3, channels, height, breadth)
        assert images.dtype == torch.float32
        assert critic(images, label).shape == (3,)


@given(height=SIDES, breadth=SIDES, width=st.integers(1, 64).map(lambda n: 8 * n), patch=st.sampled_from([1, 2]))
def test_stages_halve_the_image_down_to_a_small_map(height: int, breadth: int, width: int, patch: int) -> None:
    plan = stages((height, breadth), width, patch)
    assert plan.sides[-1] == (height // patch, breadth // patch), "the image is so many times the last"
    assert dict(zip(plan.sides, plan.widths, strict=True))[height // 2, breadth // 2] == width
    assert plan.widths[-1] == (width if patch == 2 else -(-width // 16) * 8)
    for small, large in zip(plan.sides, plan.sides[1:], strict=False):
        assert large == (2 * small[0], 2 * small[1])
    if patch == 1:
        assert plan.widths[0] == plan.widths[1]
    for deep, shallow in zip(plan.widths, plan.widths[1:], strict=False):
        assert shallow <= deep <= 4 * width
    first = plan.sides[0]
    assert min(first) < 8 or first[0] % 2 or first[1] % 2, "it stops only where it must"


def test_a_power_of_two_square_begins_at_four() -> None:
    assert all(stages((side, side), 8, patch).sides[0] == (4, 4) for side in (32, 64, 128, 256) for patch in (1, 2))


def pair(classes: int = 0, size: tuple[int, int] = (32, 48)) -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    return Generator(size, 3, 8, 16, classes), Discriminator(size, 3, 8, classes)


@torch.no_grad()
def test_synthesis_takes_one_latent_for_all_stages_or_one_each() -> None:
    generator, _ = pair()
    generator.eval()
    z = torch.randn(4, 16)
    w = generator.mapping(z)
    images = generator(z)
    assert torch.equal(generator.synthesise(w), images)
    each = w[:, None].repeat(1, len(generator.stages), 1)
    assert torch.allclose(generator.synthesise(each), images, atol=1e-6)
    for stage in range(len(generator.stages)):
        mixed = each.clone()
        mixed[:, stage] = generator.mapping(torch.randn(4, 16))
        assert (generator.synthesise(mixed) - images).abs().max() > 1e-3, f"stage {stage} listens to its latent"


def test_images_begin_without_a_checkerboard() -> None:
    """Aitken et al. 2017: the four weights of a 2x2 patch begin equal, so that neighbours do, up to their bias."""
    generator, _ = pair()
    x, w = torch.randn(2, generator.plan.widths[0], 8, 8), torch.randn(2, 16)
    with torch.no_grad():
        patches = generator.to_image[0](x, w).view(2, 3, 4, 8, 8)
    assert torch.equal(patches, patches[:, :, :1].expand_as(patches))
    assert patches.std() > 0.1


@torch.no_grad()
def test_only_the_direction_of_a_latent_counts() -> None:
    generator, _ = pair()
    z = torch.randn(2, 16)
    assert torch.allclose(generator.eval()(5 * z), generator(z), atol=1e-4)


@torch.no_grad()
def test_features_have_about_unit_scale_before_training() -> None:
    generator, critic = pair()
    images = generator(torch.randn(64, 16))
    assert 0.2 < images.std() < 4
    assert 0.05 < critic(torch.randn(8, 3, 32, 48)).abs().mean() < 5


@torch.no_grad()
def test_labels_change_images_and_verdicts_and_must_be_given() -> None:
    generator, critic = pair(classes=2)
    generator.eval()
    z, first, second = torch.randn(3, 16), torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)
    images = generator(z, first)
    assert torch.equal(generator(z, first), images)
    assert (generator(z, second) - images).abs().max() > 1e-2
    assert (critic(images, second) - critic(images, first)).abs().max() > 1e-3
    for call in (lambda: generator(z), lambda: critic(images)):
        with pytest.raises(ValueError, match="label"):
            call()


@torch.no_grad()
def test_a_label_adds_the_projection_on_its_embedding() -> None:
    """Miyato and Koyama 2018: the difference of two labels' logits is linear in their embeddings' difference."""
    _, critic = pair(classes=3)
    images = torch.randn(4, 3, 32, 48)
    assert critic.embed is not None
    critic.embed[2] = 2 * critic.embed[1] - critic.embed[0]
    logits = [critic(images, torch.full((4,), label)) for label in range(3)]
    assert torch.allclose(logits[2] - logits[1], logits[1] - logits[0], atol=1e-4)
    critic.embed.zero_()
    assert torch.equal(critic(images, torch.zeros(4, dtype=torch.int64)), critic(images, torch.ones(4).long()))


@torch.no_grad()
def test_the_critic_answers_alike_in_any_order_and_memory_layout() -> None:
    _, critic = pair()
    images = torch.randn(6, 3, 32, 48)
    logits, order = critic(images), torch.randperm(6)
    assert torch.allclose(critic(images[order]), logits[order], atol=1e-5), "one group: the deviation is the batch's"
    assert torch.equal(critic(images.contiguous(memory_format=torch.channels_last)), logits)


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 4, 8, 12])
def test_sets_in_one_batch_are_judged_as_they_would_be_alone(count: int) -> None:
    _, critic = pair(classes=2)
    first, second, label = torch.randn(count, 3, 32, 48), torch.randn(count, 3, 32, 48), torch.arange(count) % 2
    both = critic(torch.cat([first, second]), label.repeat(2), sets=2)
    assert torch.allclose(both, torch.cat([critic(first, label), critic(second, label)]), atol=1e-5)
    if count > 1:  # one alone deviates by nothing, wherever it is
        assert (critic(torch.cat([first, second]), label.repeat(2)) - both).abs().max() > 1e-5, "not as one set"


@torch.no_grad()
def test_the_critic_knows_its_batch_by_the_deviation_alone() -> None:
    _, critic = pair()
    one = torch.randn(1, 3, 32, 48)
    alone = critic(one)
    assert torch.allclose(critic(one.repeat(8, 1, 1, 1)), alone.expand(8), atol=1e-5), "copies deviate by nothing"
    assert (critic(torch.cat([one, torch.randn(7, 3, 32, 48)]))[0] - alone[0]).abs() > 1e-4


@pytest.mark.parametrize("classes", [0, 2])
def test_bf16_stays_close_to_fp32(classes: int) -> None:
    torch.manual_seed(1)
    networks: dict[torch.dtype, tuple[Generator, Discriminator]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        networks[dtype] = (
            Generator((32, 32), 3, 16, 16, classes, dtype=dtype).eval(),
            Discriminator((32, 32), 3, 16, classes, dtype=dtype),
        )
    exact, rough = networks[torch.float32], networks[torch.bfloat16]
    for precise, coarse in zip(exact, rough, strict=True):
        coarse.load_state_dict(precise.state_dict())
    z, label = torch.randn(8, 16), torch.arange(8) % 2 if classes else None
    images = [network(z, label) for network, _ in (exact, rough)]
    logits = [network(images[0].detach(), label) for _, network in (exact, rough)]
    for found, right in ((images[1], images[0]), (logits[1], logits[0])):
        assert found.dtype == torch.float32
        error = (found - right).norm() / right.norm()
        assert 0 < error < 0.03, "bf16 has 8 bits: an error of some 2^-8 a layer, and not none at all"
    slopes = [
        torch.autograd.grad(made.square().mean(), net.begin.weight)[0]
        for made, (net, _) in zip(images, (exact, rough), strict=True)
    ]
    assert torch.nn.functional.cosine_similarity(slopes[0].flatten(), slopes[1].flatten(), 0) > 0.98


def test_every_weight_is_trained() -> None:
    generator, critic = pair(classes=2)
    label = torch.tensor([0, 1, 0, 1])
    critic(generator(torch.randn(4, 16), label), label).square().sum().backward()
    for network in (generator, critic):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@torch.no_grad()
@pytest.mark.parametrize("patch", [1, 2])
def test_what_is_finest_is_there_where_nothing_is_shuffled(patch: int) -> None:
    """The filter after a pixel shuffle passes nothing at the highest frequency, along rows or columns."""
    torch.manual_seed(0)
    images = Generator((32, 48), 3, 8, 16, patch=patch)(torch.randn(4, 16))[..., 1:-1, 1:-1]  # edges are repeated
    highest = torch.hann_window(46) * (1.0 - 2.0 * (torch.arange(46) % 2))
    finest = (images * highest).mean(-1).abs().mean()
    assert finest < 1e-3 if patch == 2 else finest > 5e-3, finest


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_have_channels_last_all_the_way(channels: int, dtype: torch.dtype) -> None:
    """Where they change order every operation after it is several times as slow."""
    critic = Discriminator((32, 48), channels, 8, patch=1, dtype=dtype)
    seen: list[Tensor] = []
    for layer in critic.modules():
        if isinstance(layer, Conv2d) and layer is not critic.judge:  # whose small map is put together anew
            layer.register_forward_hook(lambda _, args, out: seen.extend([*args, out]))
    critic(torch.randn(4, channels, 32, 48).requires_grad_(True)).sum().backward()
    assert len(seen) == 20
    # By the strides alone, for one channel: `is_contiguous` takes that for either order.
    assert not [(maps.shape, maps.stride()) for maps in seen if maps.stride(1) != 1]


def test_pixel_shuffle_and_its_opposite_meet() -> None:
    """The critic's entrance undoes the generator's exit: each of four channels is one pixel of a 2x2 block."""
    seen: list[Tensor] = []
    _, critic = pair(size=(32, 32))
    critic.enter.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.zeros(1, 3, 32, 32)
    images[0, 1, 5, 8] = 1.0
    critic(images)
    assert seen[0].nonzero().tolist() == [[0, 4 * 1 + 2 * (5 % 2) + 8 % 2, 5 // 2, 8 // 2]]


def test_small_maps_keep_full_precision() -> None:
    generator = Generator((32, 32), 3, 8, 16, dtype=torch.bfloat16)
    seen: list[tuple[int, torch.dtype]] = []
    for stage in generator.stages:
        stage.refine.register_forward_hook(lambda _, args, out: seen.append((out.shape[-1], out.dtype)))
    generator(torch.randn(2, 16))
    assert seen and all(
        dtype == (torch.float32 if style.is_small((side, side)) else torch.bfloat16) for side, dtype in seen
    )
    assert {dtype for _, dtype in seen} == {torch.float32, torch.bfloat16}
