"""The generator's average against its formula, written in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ganvas.training.ema import half_life, start_average, update_average


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).double()
    layers(torch.randn(5, 4, dtype=torch.float64))
    return layers


@given(batch=st.integers(1, 500), halving=st.floats(1, 1e5))
def test_one_update_is_the_formula(batch: int, halving: float) -> None:
    live, average = network(1), start_average(network(2))
    before = {name: tensor.numpy().copy() for name, tensor in average.state_dict().items()}
    kept = {name: tensor.numpy().copy() for name, tensor in live.state_dict().items()}
    update_average(average, live, batch, halving)
    beta = np.exp2(-batch / halving)
    for name, found in average.state_dict().items():
        if found.is_floating_point():
            expected = beta * before[name] + (1 - beta) * kept[name]
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12)
        else:
            assert torch.equal(found, live.state_dict()[name]), "counters are copied"
        assert np.array_equal(live.state_dict()[name].numpy(), kept[name]), "the trained one is only read"


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_after_its_half_life_an_old_weight_counts_half(batch: int) -> None:
    live, average = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(live.weight, 1.0)
    nn.init.zeros_(average.weight)
    for _ in range(640 // batch):
        update_average(average, live, batch, half_life=640)
    assert average.weight.item() == pytest.approx(0.5, abs=1e-12), "whatever the batch"


def test_no_half_life_copies() -> None:
    live, average = network(1), start_average(network(2))
    update_average(average, live, 8, half_life=0)
    for name, tensor in live.state_dict().items():
        assert torch.equal(average.state_dict()[name], tensor)


def test_the_average_moves_towards_the_trained_one() -> None:
    live, average = network(1), start_average(network(2))
    distances = []
    for _ in range(20):
        distances.append(
            sum((p - q).norm() for p, q in zip(live.parameters(), average.parameters(), strict=True)).item()
        )
        update_average(average, live, 1, half_life=4)
    assert all(later < earlier for earlier, later in itertools.pairwise(distances))
    assert distances[16] == pytest.approx(distances[0] / 2**4)


def test_the_average_is_a_copy_that_is_never_trained() -> None:
    live = network(1)
    average = start_average(live)
    assert live.training and not average.training
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(p.requires_grad for p in live.parameters())
    assert {p.data_ptr() for p in live.parameters()}.isdisjoint(p.data_ptr() for p in average.parameters())


@given(batch=st.integers(2, 4096), seen=st.integers(0, 10**9), asked=st.none() | st.integers(0, 10**7))
def test_the_half_life_never_reaches_back_to_the_first_blobs(batch: int, seen: int, asked: int | None) -> None:
    found = half_life(batch, seen, asked)
    assert 0 <= found <= 0.05 * seen
    if asked is not None:
        assert found <= asked
        assert found in (float(asked), 0.05 * seen)
    assert half_life(batch, seen + batch, asked) >= found, "it only grows"


def test_a_half_life_of_zero_means_no_average() -> None:
    assert half_life(32, 10**9, 0) == 0
