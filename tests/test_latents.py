"""Seeds to latents: the same numbers for ever, each from its seed alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganvas.errors import SettingError
from ganvas.latents import LABEL_STREAM, LATENT_STREAM, MAX_SEED, label_of, latents, parse_seeds, uniforms

SEEDS = st.integers(0, MAX_SEED)

# Written down once. If one of these changes, every image that anybody has made changes with it.
NORMAL = {
    0: [2.28444147, -1.54945076, 1.92458534, -0.66375184],
    1: [0.85879499, 0.561876, 1.28326547, 0.1112373],
    2**40: [-0.4620437, 1.13721836, 0.29416758, -1.82657301],
}
UNIFORM = {
    0: [-0.9769064784049988, -0.5169016122817993, -0.7771483063697815, 0.1288292407989502],
    1: [-0.392863929271698, 0.6974174976348877, -0.6877304315567017, -0.9377871155738831],
    2**40: [0.7213996648788452, -0.8024315237998962, -0.1804640293121338, 0.6772570013999939],
}
LABELS = [8, 0, 5, 7, 9, 7, 4, 8, 6, 1, 7, 4]


@pytest.mark.parametrize("seed", sorted(NORMAL))
def test_golden_latents(seed: int) -> None:
    np.testing.assert_allclose(latents([seed], 4)[0], NORMAL[seed], rtol=1e-6)  # a cosine may differ in its last bit
    assert latents([seed], 4, "uniform")[0].tolist() == UNIFORM[seed]


def test_golden_labels() -> None:
    assert [label_of(seed, 10) for seed in range(12)] == LABELS


def philox(counter: int, key: tuple[int, int]) -> list[int]:
    """Philox 4x64 with ten rounds (Salmon et al. 2011, section 3.3), from the paper."""
    mask = 2**64 - 1
    c, (k0, k1) = [counter & mask, counter >> 64, 0, 0], key
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c[0], 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * c[2], 2**64)
        c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return c


def test_the_papers_generator_passes_its_own_known_answer() -> None:
    expected = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert philox(0, (0, 0)) == expected


@given(seed=SEEDS, stream=st.sampled_from([LATENT_STREAM, LABEL_STREAM]))
def test_uniforms_are_the_papers_bits(seed: int, stream: int) -> None:
    bits = [word for counter in (1, 2) for word in philox(counter, (seed, stream))]
    assert uniforms(seed, 7, stream).tolist() == [((word >> 11) + 0.5) / 2**53 for word in bits[:7]]


@given(seed=SEEDS, z_dim=st.integers(1, 33))
def test_normal_latents_are_box_and_mullers(seed: int, z_dim: int) -> None:
    half = -(-z_dim // 2)
    u = uniforms(seed, 2 * half)
    radius = np.sqrt(-2 * np.log(u[:half]))
    turned = radius * np.exp(2j * np.pi * u[half:])
    expected = np.concatenate([turned.real, turned.imag])[:z_dim]
    found = latents([seed], z_dim)[0]
    assert found.dtype == np.float32 and found.shape == (z_dim,)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@given(seeds=st.lists(SEEDS, max_size=9), prior=st.sampled_from(["normal", "uniform"]), place=st.integers(0, 8))
def test_a_latent_does_not_depend_on_its_batch(seeds: list[int], prior: str, place: int) -> None:
    rows = latents(seeds, 12, prior)
    assert rows.shape == (len(seeds), 12) and rows.dtype == np.float32
    for row, seed in zip(rows, seeds, strict=True):
        assert row.tobytes() == latents([seed], 12, prior)[0].tobytes()
    assert latents(reversed(seeds), 12, prior).tobytes() == rows[::-1].tobytes()


@pytest.mark.parametrize(("prior", "variance"), [("normal", 1.0), ("uniform", 1 / 3)])
def test_latents_follow_their_prior(prior: str, variance: float) -> None:
    z = latents(range(2000), 64, prior).astype(np.float64)
    deviation = np.sqrt(variance / z.size)
    assert abs(z.mean()) < 5 * deviation
    assert z.var() == pytest.approx(variance, rel=0.02)
    assert np.isfinite(z).all() and (prior == "normal" or np.abs(z).max() <= 1)
    if prior == "normal":
        for bound, share in ((1.0, 0.6827), (2.0, 0.9545), (3.0, 0.9973)):
            assert (np.abs(z) < bound).mean() == pytest.approx(share, abs=0.005)
    correlation = np.corrcoef(z.T) - np.eye(64)
    assert np.abs(correlation).max() < 0.13, "nor do entries know of each other"
    neighbours = (z[:-1] * z[1:]).mean() / variance
    assert abs(neighbours) < 5 / np.sqrt(z.size), "nor seeds beside each other"


@given(seed=SEEDS, classes=st.integers(1, 1000))
def test_labels_are_classes(seed: int, classes: int) -> None:
    assert 0 <= label_of(seed, classes) < classes


def test_labels_are_even() -> None:
    counts = np.bincount([label_of(seed, 5) for seed in range(5000)], minlength=5)
    assert np.abs(counts - 1000).max() < 150


RANGES = st.tuples(st.integers(0, MAX_SEED), st.integers(0, 10**6)).map(lambda t: (t[0], min(t[0] + t[1], MAX_SEED)))


@given(pairs=st.lists(RANGES, min_size=1, max_size=5), space=st.sampled_from(["", " "]))
def test_seeds_are_read_as_written(pairs: list[tuple[int, int]], space: str) -> None:
    text = ",".join(f"{space}{low}-{high}" if high > low else f"{low}{space}" for low, high in pairs)
    assert parse_seeds(text) == [range(low, high + 1) for low, high in pairs]


@pytest.mark.parametrize(
    "text", ["", ",", "a", "1-", "-1", "1--2", "1-2-3", "1.5", "9-3", "1,,2", "0x10", "1_000", "²", "١", "1 2",
             str(2**63), f"0-{2**63}", "1;2", "٣-٤"]
)  # fmt: skip
def test_other_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_seeds(text)
    assert f"'{text}'" in str(caught.value) and "\n" not in str(caught.value)


@given(text=st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        ranges = parse_seeds(text)
    except SettingError:
        return
    assert ranges and all(0 <= r[0] <= r[-1] <= MAX_SEED for r in ranges)
