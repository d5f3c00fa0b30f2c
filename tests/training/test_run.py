"""A run folder as training sees it: what may change on the way, signals, and the clock."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from ganvas.config import GROUPS, RunConfig, group_settings, make_config
from ganvas.errors import CheckpointError, SettingError
from ganvas.files import write_json
from ganvas.training import run
from ganvas.training.run import Interruption, Stopwatch, going_on, stored_config

STORED = make_config(
    "photos",
    data={"size": 64, "flip": True},
    network={"width": 16, "patch": 2},
    objective={"gamma": 1.0},
    training={"minutes": 10, "batch": 32, "seed": 7},
)


def going(**flat: Any) -> RunConfig:
    return going_on(STORED, group_settings(flat), Path("runs/photos"))


def test_nothing_given_changes_nothing() -> None:
    assert going() == STORED
    assert going(size="64x64", width=16, minutes=10, seed=7, gamma=None) == STORED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threads", 1),
        ("device", "cpu"),
        ("precision", "fp32"),
        ("save_minutes", 5.0),
        ("tensorboard", True),
        ("workers", 0),
    ],
)
def test_what_does_not_define_the_run_may_change(name: str, value: object) -> None:
    changed = going(**{name: value})
    group = next(group for group in GROUPS if name in type(getattr(STORED, group)).model_fields)
    assert getattr(getattr(changed, group), name) == value
    assert changed.model_copy(update={group: getattr(STORED, group)}) == STORED, "and nothing else did"


@pytest.mark.parametrize("budget", [{"minutes": 20}, {"images": 5000}, {"epochs": 3.0}, {"images": 9, "epochs": 1.0}])
def test_a_new_budget_replaces_the_old(budget: dict[str, Any]) -> None:
    settings = going(**budget).training
    for name in ("minutes", "images", "epochs"):
        assert getattr(settings, name) == budget.get(name)


OTHERS: dict[str, Any] = {
    "size": "96x64", "fit": "pad", "channels": "grey", "background": "#000000", "classes": True, "flip": False,
    "count": 5, "max_megapixels": 1.0, "network": "dcgan", "width": 24, "patch": 1, "z_dim": 64, "objective": "hinge",
    "penalty": "none", "gamma": 2.0, "penalty_every": 2, "batch": 16, "first_batch": 16, "learning_rate": 0.5,
    "beta1": 0.5, "beta2": 0.5, "anneal": 0.0, "ema_images": 5, "augment": 0.5, "decay_images": 9, "seed": 8,
    "samples": 9, "frames": 7, "shares": 2, "optimiser": "adam", "clip": 3.0, "turn_positions": True,
}  # fmt: skip


def test_every_setting_either_may_change_or_is_refused_below() -> None:
    settings = {name for group in GROUPS for name in type(getattr(STORED, group)).model_fields}
    assert settings == set(OTHERS) | {name for names in run.CHANGEABLE.values() for name in names}


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_what_defines_the_run_may_not_change(name: str) -> None:
    with pytest.raises(SettingError) as caught:
        going(**{name: OTHERS[name]})
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{name.replace('_', '-')} = {OTHERS[name]}: runs/photos was begun with ")
    assert "--to" in line


def test_a_run_from_before_a_setting_goes_on_without_it(tmp_path: Path) -> None:
    stored = STORED.model_dump(mode="json")
    for name in ("augment", "clip", "decay_images", "optimiser", "turn_positions"):
        del stored["training"][name]
    del stored["network"]["patch"]
    write_json(tmp_path / "config.json", stored)
    found = stored_config(tmp_path)
    assert found is not None
    training = found.training
    assert (training.augment, training.clip, training.decay_images, training.optimiser) == (0.0, 0.0, 0, "adam")
    assert training.turn_positions is False
    assert found.network.patch == 2


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    assert stored_config(tmp_path / "new") is None
    assert stored_config(tmp_path) is None, "an empty folder may become a run"
    (tmp_path / "thesis.doc").touch()
    for taken in (tmp_path, tmp_path / "thesis.doc"):
        with pytest.raises(SettingError, match="is not a run folder"):
            stored_config(taken)


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, STORED.model_dump(mode="json"))
    assert stored_config(tmp_path) == STORED
    good = path.read_text()
    for bad in (good[:-20], good.replace('"batch": 32', '"batch": -1'), "[]", good.replace("beta1", "beta9"), ""):
        path.write_text(bad)
        with pytest.raises(CheckpointError) as caught:
            stored_config(tmp_path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_wish_and_handlers_come_back(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    with Interruption() as interruption:
        assert interruption.signal is None
        os.kill(os.getpid(), number)
        assert interruption.signal == number
    assert {each: signal.getsignal(each) for each in before} == before


def test_a_second_interrupt_is_immediate() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interruption():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def look() -> None:
        with Interruption() as interruption:
            seen.append((signal.getsignal(signal.SIGINT), interruption.signal))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(before, None)]


def test_the_stopwatch_leaves_pauses_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(run.time, "monotonic", lambda: now)
    first = Stopwatch(0.0)
    now += 30
    assert first.seconds() == 30
    now += 10_000  # the machine was off
    second = Stopwatch(30.0)
    now += 5
    assert second.seconds() == 35
