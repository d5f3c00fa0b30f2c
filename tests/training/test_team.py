"""A batch cut into shares trains as the whole batch does: the members' gradients are averaged, in a fixed order."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganvas.config import make_config
from ganvas.objectives import adversarial, penalty
from ganvas.runtime import Machine
from ganvas.training.players import Players, make_players
from ganvas.training.step import play
from ganvas.training.team import SMALLEST, Team, shares_for

THREADS = torch.get_num_threads()


def players() -> Players:
    config = make_config(
        "x", data={"size": 32}, network={"width": 8, "z_dim": 8}, training={"learning_rate": 1e-3, "batch": 8}
    )
    return make_players(config, 1, 0, Machine("cpu", torch.float32, THREADS, ""))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    return torch.rand(8, 1, 32, 32, generator=random) * 2 - 1, torch.randn(8, 8, generator=random)


def critic_gradients(real: torch.Tensor, latents: torch.Tensor, size: int) -> list[torch.Tensor]:
    both = players()
    with Team(size, THREADS) as team:
        play(both, real, latents, None, adversarial("relativistic"), penalty("r1+r2", gamma=1.0), 1.0, 0, team)
    return [master.grad.clone() for master in both.discriminator_weights.masters if master.grad is not None]


def test_gradients_of_two_shares_are_the_mean_of_the_gradients_of_the_halves() -> None:
    real, latents = batch()
    together = critic_gradients(real, latents, 2)
    first, second = critic_gradients(real[:4], latents[:4], 1), critic_gradients(real[4:], latents[4:], 1)
    for whole, one, other in zip(together, first, second, strict=True):
        torch.testing.assert_close(whole, (one + other) / 2, rtol=1e-4, atol=1e-6)


def test_two_shares_give_the_same_bits_each_time() -> None:
    real, latents = batch()
    for one, other in zip(critic_gradients(real, latents, 2), critic_gradients(real, latents, 2), strict=True):
        assert torch.equal(one, other)


def test_members_do_not_cut_operations_further_and_leaving_restores_the_threads() -> None:
    before = torch.get_num_threads()
    with Team(2, before) as team:
        assert torch.get_num_threads() == 1
        answers, _ = team.play(lambda member: (member * 10, []), range(2))
        assert answers == [0, 10]
        with team.resting():
            assert torch.get_num_threads() == before, "all of them, for what is not shared out"
        assert torch.get_num_threads() == 1
        assert gc.get_freeze_count() > 0, "what was there before is not searched"
    assert torch.get_num_threads() == before and gc.get_freeze_count() == 0


def test_an_error_in_a_member_reaches_the_caller() -> None:
    def fail(member: int) -> tuple[int, list[torch.Tensor]]:
        raise ValueError(f"member {member}")

    with Team(2, THREADS) as team, pytest.raises(ValueError, match="member 0"):
        team.play(fail, range(2))


@given(batch=st.integers(2, 512), threads=st.integers(1, 128))
def test_shares_divide_the_batch_and_are_large_enough_for_its_statistics(batch: int, threads: int) -> None:
    shares = shares_for(batch, threads, "cpu", divisible=True)
    assert 1 <= shares <= threads
    assert batch % shares == 0
    assert shares == 1 or batch // shares >= SMALLEST


def test_batch_normalisation_and_gpus_keep_the_batch_whole() -> None:
    assert shares_for(64, 8, "cpu", divisible=False) == 1
    assert shares_for(64, 8, "cuda", divisible=True) == 1


@pytest.mark.parametrize("at_once", [1, 2])
def test_each_thing_is_computed_by_one_thread_whoever_does_it(at_once: int) -> None:
    found: list[tuple[str, int]] = []
    with Team(2, 2, at_once=at_once) as team, team.resting():
        team.each(lambda thing: found.append((thing, torch.get_num_threads())), ["a", "b", "c"])
        assert torch.get_num_threads() == 2, "as before"
    assert sorted(found) == [("a", 1), ("b", 1), ("c", 1)]


def test_an_error_in_one_of_them_reaches_the_caller() -> None:
    with Team(2, 2) as team, pytest.raises(ZeroDivisionError):
        team.each(lambda thing: 1 / thing, [1, 0])
