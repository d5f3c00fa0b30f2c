"""Steps on a GPU: what is recorded and when, watched without one; and, where there is one, that it is the step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ganvas.config import DataSettings, make_config
from ganvas.data.cache import Dataset
from ganvas.runtime import choose_machine
from ganvas.training import recorder
from ganvas.training.game import Game, Turn
from ganvas.training.plan import derive
from ganvas.training.players import make_players
from ganvas.training.recorder import KEPT, WARM_UPS, Recorder
from ganvas.training.step import Losses, update
from ganvas.training.team import Team

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class FakeRecording:
    """Notes that it was made and played, as a recording without a GPU would."""

    made: list[FakeRecording]
    broken = False

    def __init__(self, step: Any, inputs: Any, stream: Any, memory: Any) -> None:
        if FakeRecording.broken:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.played = 0
        FakeRecording.made.append(self)

    def play(self, inputs: Any) -> str:
        self.played += 1
        return "played"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeRecording]:
    """A machine on which recording seems possible."""

    @contextmanager
    def stream(one: Any) -> Iterator[None]:
        yield

    other = SimpleNamespace(wait_stream=lambda one: None)
    for name, value in {
        "Stream": lambda: other, "current_stream": lambda: other, "stream": stream, "synchronize": lambda: None,
        "graph_pool_handle": lambda: (0, 1),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(recorder, "Recording", FakeRecording)
    FakeRecording.made, FakeRecording.broken = [], False
    return FakeRecording


def step(*inputs: Any) -> Any:
    return "computed"


def test_each_kind_is_recorded_once_it_is_warm(fake: type[FakeRecording]) -> None:
    play, z = Recorder(), torch.zeros(2)
    answers: list[Any] = [play(weight, step, z, None) for _ in range(WARM_UPS + 3) for weight in (0.0, 8.0)]
    assert answers == ["computed"] * 2 * WARM_UPS + ["played"] * 6
    assert [one.played for one in fake.made] == [3, 3]
    changed: Any = play(0.0, step, z, z)
    assert changed == "computed", "with something that was not there before it is another step"


def test_old_recordings_are_let_go(fake: type[FakeRecording]) -> None:
    play, z = Recorder(), torch.zeros(2)
    for weight in range(KEPT + 1):
        for _ in range(WARM_UPS + 1):
            play(weight, step, z)
    assert len(fake.made) == KEPT + 1
    play(1, step, z)
    assert len(fake.made) == KEPT + 1, "still there"
    play(0, step, z)
    assert len(fake.made) == KEPT + 2, "made anew, and at once: the libraries have chosen already"


def test_where_nothing_can_be_recorded_steps_are_computed(fake: type[FakeRecording]) -> None:
    FakeRecording.broken = True
    play, z = Recorder(), torch.zeros(2)
    with pytest.warns(UserWarning, match="cannot record steps") as said:
        answers: list[Any] = [play(0.0, step, z) for _ in range(WARM_UPS + 5)]
    assert answers == ["computed"] * (WARM_UPS + 5) and len(said) == 1


def game(recorded: bool, device: str = "cuda", classes: int = 0, optimiser: str = "soap") -> tuple[Game, float]:
    """A small run on noise, before its first step, and its learning rate."""
    machine = choose_machine(device, "bf16" if device == "cuda" else None)
    data = DataSettings(size=(32, 32), channels="rgb", flip=True)
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    everyone = np.arange(64)
    dataset = Dataset(
        root=None, name="noise", images=images, labels=everyone % classes if classes else None,  # type: ignore[arg-type]
        classes=tuple(map(str, range(classes))), names=[], attributes=None, train=everyone, heldout=everyone[:0],
        digest="", report={}, licence=None, settings=data, mirror_accuracy=None,
    )  # fmt: skip
    asked = {"data": data.model_dump(), "network": {"width": 16}, "training": {"batch": 16, "optimiser": optimiser}}
    plan = derive(make_config("noise", **asked), dataset, machine)
    players = make_players(plan.config, 3, classes, machine)
    made = Game(plan, dataset, players, Team(1, machine.threads))
    if not recorded:
        made._recorder = None
    assert plan.config.training.learning_rate is not None
    return made, plan.config.training.learning_rate


def played(one: Game, rate: float, steps: int, augmentation: float) -> tuple[list[Losses], Tensor]:
    """The losses of each step, and all weights in the end."""
    losses = [
        one.step(Turn(16 * step, 16, step, rate / (1 + step), 1.0, 8.0 * (step % 4 == 0), augmentation))
        for step in range(steps)
    ]
    return losses, torch.cat([tensor.detach().flatten().double().cpu() for tensor in one.players.everything()])


@needs_gpu
@pytest.mark.parametrize("optimiser", ["soap", "adam"])
@pytest.mark.parametrize(("augmentation", "classes"), [(0.0, 0), (0.5, 2)])
def test_a_recording_is_the_step(optimiser: str, augmentation: float, classes: int) -> None:
    """Also when rate, pictures, latents, labels and changes are others than when it was recorded."""
    found = []
    for recorded in (False, True):
        one, rate = game(recorded, "cuda", classes, optimiser)
        found.append(played(one, rate, 24, augmentation))
        assert not recorded or (one._recorder is not None and len(one._recorder._recordings) == 2)
    for plain, from_recording in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(torch.stack(plain[:5]), torch.stack(from_recording[:5]), rtol=0.1, atol=0.05)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0.1, atol=0.05)


@needs_gpu
def test_on_a_gpu_a_step_that_is_not_finite_is_not_taken() -> None:
    weight = torch.nn.Parameter(torch.ones(8, device="cuda"))
    rate = torch.tensor(0.1, device="cuda")
    adam = torch.optim.Adam([weight], lr=rate, betas=(0.0, 0.99), fused=True, capturable=True)
    assert not update(adam, [weight], [torch.full_like(weight, torch.nan)])
    assert torch.equal(weight, torch.ones_like(weight))
    assert update(adam, [weight], [torch.ones_like(weight)])
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 0.9))


def test_pictures_that_lie_on_the_device_are_those_that_are_gathered() -> None:
    """Which is where they lie on a GPU; here the CPU is the device."""
    one, _ = game(False, "cpu")
    for position in (0, 16, 56):  # the last meets the next epoch
        indices, flips = one._batches.take(position, 16)
        assert flips.any() and not flips.all()
        one._resident = None
        gathered = one._pictures(indices, flips)
        one._resident = torch.from_numpy(one._dataset.images[one._dataset.train])
        assert torch.equal(one._pictures(indices, flips), gathered)


def test_a_turn_says_what_augmentation_does() -> None:
    one, rate = game(False, "cpu")
    turn = Turn(0, 16, 5, rate, 1.0, 0.0, 0.5)
    *_, first = one._draw(turn)
    *_, again = one._draw(turn)
    *_, other = one._draw(turn._replace(seed=6))
    *_, nothing = one._draw(turn._replace(augmentation=0.0))
    assert first is not None and again is not None and other is not None and nothing is None
    assert first.shape[:2] == (2, 16), "the reals' and the fakes'"
    assert torch.equal(first, again) and not torch.equal(first, other) and not torch.equal(first[0], first[1])
