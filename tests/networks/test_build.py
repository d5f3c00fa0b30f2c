"""The table of families: what it builds, what it refuses and in which words."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganvas.config import NetworkSettings
from ganvas.errors import SettingError
from ganvas.networks import FAMILIES, build, build_generator, check, dcgan, patch_for, style, width_for


def settings_of(name: str) -> NetworkSettings:
    return NetworkSettings(network=name, width=8, z_dim=FAMILIES[name].z_dim)


@pytest.mark.parametrize(("name", "kind"), [("style", style), ("dcgan", dcgan)])
def test_a_name_builds_its_pair(name: str, kind: object) -> None:
    with torch.device("meta"):
        pair = build(settings_of(name), (32, 32), 1, 0, torch.bfloat16)
        assert isinstance(pair.generator, kind.Generator)
        assert isinstance(pair.discriminator, kind.Discriminator)
        assert pair.generator.dtype == pair.discriminator.dtype == torch.bfloat16
        images = pair.generator(torch.zeros(2, FAMILIES[name].z_dim))
        assert images.shape == (2, 1, 32, 32)
        assert pair.discriminator(images).shape == (2,)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_generator_alone_is_the_pairs(name: str) -> None:
    with torch.device("meta"):
        alone = build_generator(settings_of(name), (32, 32), 3).state_dict()
        paired = build(settings_of(name), (32, 32), 3).generator.state_dict()
    assert {key: tensor.shape for key, tensor in alone.items()} == {key: t.shape for key, t in paired.items()}


def test_settings_reach_the_network() -> None:
    with torch.device("meta"):
        small = build_generator(NetworkSettings(network="style", width=8, z_dim=24), (32, 64), 3, classes=5)
        large = build_generator(NetworkSettings(network="style", width=16, z_dim=24), (32, 64), 3, classes=5)
    assert small.z_dim == 24 and small.mapping.embed.shape[0] == 5
    count = [sum(p.numel() for p in network.parameters()) for network in (small, large)]
    assert count[1] > 2 * count[0]


@pytest.mark.parametrize(
    ("name", "size", "classes", "words"),
    [
        ("stile", (64, 64), 0, ["'stile'", "did you mean 'style'", "dcgan"]),
        ("qqqq", (64, 64), 0, ["'qqqq'", "style, dcgan"]),
        ("dcgan", (64, 96), 0, ["64x96", "power-of-two", "--network style"]),
        ("dcgan", (48, 48), 0, ["48x48", "power-of-two"]),
        ("dcgan", (512, 512), 0, ["512x512", "16 to 256"]),
        ("dcgan", (64, 64), 10, ["classes", "--network style"]),
        ("style", (16, 16), 0, ["16x16", "32 to 256"]),
        ("style", (64, 264), 0, ["64x264", "32 to 256"]),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(
    name: str, size: tuple[int, int], classes: int, words: list[str]
) -> None:
    for refused in (
        lambda: check(name, size, classes),
        lambda: build(NetworkSettings(network=name, width=8, z_dim=16), size, 3, classes),
    ):
        with pytest.raises(SettingError) as caught:
            refused()
        line = str(caught.value)
        assert "\n" not in line
        for word in words:
            assert word in line


@given(height=st.integers(4, 32), breadth=st.integers(4, 32), pictures=st.integers(1, 10**7))
def test_derived_widths_are_allowed_and_ordered(height: int, breadth: int, pictures: int) -> None:
    size = (8 * height, 8 * breadth)
    assert patch_for(size, "cpu") == (1 if size[0] * size[1] <= 64 * 64 else 2)
    assert patch_for(size, "cuda") == 2
    cpu, gpu = (width_for(size, pictures, device) for device in ("cpu", "cuda"))
    for width in (cpu, gpu):
        assert width % 8 == 0
        NetworkSettings(width=width)
    assert cpu <= gpu, "a GPU can afford more"
    assert width_for(size, 100, "cpu") <= cpu <= width_for(size, 10**8, "cpu"), "more pictures never get less"
