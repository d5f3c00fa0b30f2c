"""The monitor's judgement, on vitals made for it; and that the loop carries out what it asks for."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ganvas.errors import TrainingError
from ganvas.generator import Generator
from ganvas.training import game, loop, monitor
from ganvas.training.loop import Watcher, train
from ganvas.training.monitor import (
    AUGMENT_STEP,
    MOST_PENALTY,
    PROVEN,
    REST,
    ROLL_BACKS,
    WARM_UP,
    Care,
    Finding,
    Monitor,
    stored,
)
from ganvas.training.players import Players
from ganvas.training.vitals import Vitals

WELL = Vitals(seen_images=0, gap=0.3, margin=1.0, slope=0.1, overfit=0.1, spread=0.9, apart=0.9, saturated=0.0)


def follow(watch: Monitor, *vitals: Vitals, start: int = 0) -> list[Finding]:
    return [watch.after_check_up(replace(each, seen_images=start + i)) for i, each in enumerate(vitals)]


@pytest.fixture
def watch() -> Monitor:
    """A monitor of a run that was well so far."""
    found = Monitor()
    assert {finding.state for finding in follow(found, *[WELL] * (WARM_UP + PROVEN))} == {"healthy"}
    return found


SICK = {
    "critic too strong": replace(WELL, margin=99.0),
    "critic over-fitting": replace(WELL, overfit=0.9),
    "collapsing": replace(WELL, spread=0.4),
    "diverged": replace(WELL, saturated=0.9),
}
ANSWERS = {
    "critic too strong": "more penalty",
    "critic over-fitting": "more augmentation",
    "collapsing": "roll back",
    "diverged": "roll back",
}


@pytest.mark.parametrize("state", SICK)
def test_a_state_that_lasts_is_named_and_answered(watch: Monitor, state: str) -> None:
    first, second = follow(watch, SICK[state], SICK[state], start=100)
    assert (first.state, first.action) == ("healthy", None), "one check-up may be chance"
    assert (second.state, second.action) == (state, ANSWERS[state])
    assert second.why and "\n" not in second.why


@pytest.mark.parametrize("state", SICK)
def test_one_bad_check_up_is_no_reason(watch: Monitor, state: str) -> None:
    found = follow(watch, *[SICK[state], WELL] * 4)
    assert {finding.state for finding in found} == {"healthy"} and not any(finding.action for finding in found)


@pytest.mark.parametrize("state", SICK)
def test_who_only_watches_says_so_and_does_nothing(state: str) -> None:
    watch = Monitor(treats=False)
    found = follow(watch, *[WELL] * 6, *[SICK[state]] * 6)
    assert found[-1].state == state and not any(finding.action for finding in found)
    assert watch.care == Care()


def test_clones_are_a_collapse_too(watch: Monitor) -> None:
    assert follow(watch, *[replace(WELL, apart=0.4)] * 2)[-1].state == "collapsing"


def test_variety_that_never_was_is_no_collapse() -> None:
    """Drawings on one ground, at first: little variety, but none was lost."""
    found = follow(Monitor(), *[replace(WELL, spread=0.2, apart=0.2)] * 12)
    assert {finding.state for finding in found} == {"healthy"}


def test_blobs_at_the_start_are_no_collapse() -> None:
    found = follow(Monitor(), *[replace(WELL, spread=0.01, apart=0.01)] * WARM_UP, *[WELL] * 4)
    assert {finding.state for finding in found} == {"healthy"}


def test_the_penalty_rises_step_by_step_and_then_the_critic_slows(watch: Monitor) -> None:
    actions = [finding.action for finding in follow(watch, *[SICK["critic too strong"]] * 60)]
    given = [action for action in actions if action]
    assert given[:4] == ["more penalty"] * 4 and given[4:] == ["slower critic"] * (len(given) - 4)
    assert watch.care.penalty == MOST_PENALTY and watch.care.critic_rate == monitor.LEAST_RATE
    at = [index for index, action in enumerate(actions) if action]
    assert min(later - before for before, later in itertools.pairwise(at)) >= REST, "each gets time to work"


def test_augmentation_follows_the_over_fitting_and_goes_again(watch: Monitor) -> None:
    follow(watch, *[SICK["critic over-fitting"]] * 3)
    assert watch.care.augmentation == pytest.approx(2 * AUGMENT_STEP)
    follow(watch, *[SICK["critic over-fitting"]] * 40)
    assert watch.care.augmentation == monitor.MOST
    follow(watch, *[WELL] * 40)
    assert watch.care.augmentation == 0.0


def test_after_three_times_it_does_not_go_back_again(watch: Monitor) -> None:
    given = []
    for _ in range(ROLL_BACKS):
        found = [watch.after_step(False) for _ in range(monitor.SKIPS)][-1]
        assert found is not None
        given.append(found.action)
    last = [watch.after_step(False) for _ in range(monitor.SKIPS)][-1]
    assert given == ["roll back"] * ROLL_BACKS and last is not None and last.action == "stop"
    assert watch.care.roll_backs == ROLL_BACKS and watch.care.rate < 1


def lost(watch: Monitor) -> Finding:
    """What it says to steps that are not finite."""
    return next(found for _ in range(monitor.SKIPS) if (found := watch.after_step(False)) is not None)


def test_a_run_that_was_well_had_an_accident_and_keeps_its_settings(watch: Monitor) -> None:
    assert lost(watch).action == "roll back"
    assert watch.care == Care(roll_backs=1)


def test_a_run_that_never_was_well_has_a_rate_that_is_too_high() -> None:
    watch = Monitor()
    follow(watch, *[WELL] * WARM_UP)
    assert [lost(watch).action for _ in range(2)] == ["roll back"] * 2
    assert watch.care.rate == pytest.approx(monitor.SLOWER**-2) and watch.care.critic_rate == watch.care.penalty == 1


@pytest.mark.parametrize("between", [0, WARM_UP + PROVEN])
def test_the_last_time_is_no_accident(watch: Monitor, between: int) -> None:
    for _ in range(ROLL_BACKS):
        rate = watch.care.rate
        lost(watch)
        follow(watch, *[WELL] * between)
    assert rate == 1 and watch.care.rate < 1


def test_a_critic_that_has_it_the_wrong_way_round_learns_too_fast() -> None:
    watch = Monitor()
    found = follow(watch, *[replace(WELL, margin=-0.2)] * monitor.INVERTED_IN_A_ROW)
    assert [finding.action for finding in found] == [None] * (monitor.INVERTED_IN_A_ROW - 1) + ["roll back"]
    assert watch.care.critic_rate < 1 and watch.care.rate == watch.care.penalty == 1


@pytest.mark.parametrize("change", [{"margin": -5.0}, {"saturated": 0.99}])
def test_what_cannot_be_right_is_diverged_from_the_first(change: dict[str, float]) -> None:
    watch = Monitor()
    found = follow(watch, *[replace(WELL, **change)] * 2)
    assert "roll back" in [finding.action for finding in found]
    assert {finding.state for finding in found if finding.action} == {"diverged"}


def test_images_that_burst_are_diverged_unless_the_weights_are_new(watch: Monitor) -> None:
    burst = [replace(WELL, spread=9.0)] * 2
    assert follow(watch, *burst)[-1].action == "roll back"
    assert not any(finding.action for finding in follow(Monitor(), *burst, *burst))


def test_a_collapse_of_a_run_that_never_was_well_raises_the_penalty() -> None:
    watch = Monitor()
    follow(watch, *[WELL] * WARM_UP, *[SICK["collapsing"]] * 2)
    assert watch.care.penalty > 1 > watch.care.rate


def test_a_skipped_step_now_and_then_is_nothing() -> None:
    watch = Monitor()
    assert not any(watch.after_step(finite) for finite in [False, False, True] * 20)


def test_scores_that_only_get_worse_end_the_run_at_its_best() -> None:
    watch = Monitor()
    found = [watch.after_score(score, 0.5) for score in [90.0, 50.0, 40.0, 60.0, 61.0, 62.0]]
    assert found[-1] is not None and (found[-1].state, found[-1].action) == ("finished improving", "stop")
    assert not any(found[:-1])


def test_scores_that_wobble_or_come_late_do_not() -> None:
    watch = Monitor()
    assert not any(watch.after_score(score, 0.5) for score in [90.0, 50.0, 60.0, 40.0, 44.0, 42.0, 45.0, 38.0])
    late = Monitor()
    assert not any(late.after_score(score, 0.95) for score in [40.0, 60.0, 61.0, 62.0, 63.0, 64.0])


def test_it_calls_a_run_stalled_only_where_six_scores_are_no_better_than_those_before() -> None:
    improving = Monitor()
    assert not any(improving.after_score(score, 0.2) for score in [90.0, 80.0, 72.0, 66.0, 61.0, 57.0, 54.0, 52.0])
    flat, before = Monitor(), [90.0, 50.0, 40.0]
    found = [flat.after_score(score, 0.2) for score in [*before, 41.0, 40.0, 42.0, 39.5, 41.0, 40.5]]
    assert not any(found[:-1]), "fewer than six after the best say nothing"
    assert found[-1] is not None and (found[-1].state, found[-1].action) == ("stalled", None)
    assert flat.after_score(35.0, 0.2) is None


def test_it_goes_on_after_a_resume_as_if_nothing_had_been(watch: Monitor) -> None:
    twin = stored({"monitor": json.loads(json.dumps(watch.row()))}, True, 0)
    sick = [SICK["critic too strong"]] * 9 + [SICK["collapsing"]] * 3
    assert follow(twin, *sick, start=50) == follow(watch, *sick, start=50)
    assert twin.row() == watch.row()


@pytest.mark.parametrize("state", [{}, {"monitor": {"care": {"odd": 1}}}, {"monitor": 3}])
def test_a_checkpoint_that_no_monitor_knows_is_worth_going_back_to(state: dict[str, Any]) -> None:
    found = stored(state, True, 5_000)
    assert found.care == Care()
    assert lost(found).upto == 5_000 and found.care == Care(roll_backs=1)


class Heard(Watcher):
    def __init__(self) -> None:
        self.found: list[Finding] = []

    def finding(self, finding: Finding, care: Care) -> None:
        self.found.append(finding)


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int], what: Any) -> None:
    """Do `what` to the players before the given steps of the next run, counted from 1."""
    plain, count = game.play, {"steps": 0}

    def play(players: Players, real: Any, *others: Any) -> Any:
        count["steps"] += 1
        if count["steps"] in steps:
            real = what(players, real)
        return plain(players, real, *others)

    monkeypatch.setattr(game, "play", play)


def nan_picture(players: Players, real: torch.Tensor) -> torch.Tensor:
    return torch.full_like(real, torch.nan)


@torch.no_grad()
def nan_weight(players: Players, real: torch.Tensor) -> torch.Tensor:
    next(players.generator.parameters()).fill_(torch.nan)
    return real


def test_c8_a_batch_that_is_not_finite_is_skipped(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, {3}, nan_picture)
    heard = Heard()
    folder = train(pictures, tmp_path / "run", watcher=heard, images=40, **tiny).folder
    assert heard.found == []
    assert Generator.load(folder).seen_images == 40


def test_c8_a_weight_that_is_not_finite_is_never_saved_and_training_goes_back(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, {5}, nan_weight)
    heard = Heard()
    settings = {**tiny, "images": 60, "save_minutes": 1e-9}  # a checkpoint after every step
    folder = train(pictures, tmp_path / "run", watcher=heard, **settings).folder
    assert [finding.action for finding in heard.found] == ["roll back"]
    assert Generator.load(folder).seen_images == 60, "whatever was undone is done again"
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["action"] for row in events if row.get("action")] == ["roll back"]


def test_what_is_not_finite_is_answered_unasked() -> None:
    watch = Monitor(treats=False)
    found = [watch.after_step(False) for _ in range(monitor.SKIPS)][-1]
    assert found is not None and found.action == "roll back"


@pytest.mark.parametrize("interventions", [True, False])
def test_c8_what_is_beyond_help_ends_in_one_line_and_nothing_is_lost(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, interventions: bool
) -> None:
    train(pictures, tmp_path / "run", images=20, **tiny)
    spoil(monkeypatch, set(range(3, 1000)), nan_picture)
    with pytest.raises(TrainingError) as caught:
        train(pictures, tmp_path / "run", **{**tiny, "images": 400, "interventions": interventions})
    assert "\n" not in str(caught.value) and "--learning-rate" in str(caught.value)
    assert Generator.load(tmp_path / "run").sample([0]).shape == (1, 32, 32, 3)


def collapse(monkeypatch: pytest.MonkeyPatch, at: range) -> dict[str, int]:
    """Let these check-ups of the next run, counted from 1, see a collapse, one every step; the answer counts them."""
    monkeypatch.setattr(loop, "CHECK_IMAGES", 4)
    seen = {"check_ups": 0}

    def take(self: Any, generator: Any, discriminator: Any, seen_images: int) -> Vitals:
        seen["check_ups"] += 1
        return replace(WELL, seen_images=seen_images, spread=0.01 if seen["check_ups"] in at else 0.9)

    monkeypatch.setattr(loop.CheckUp, "take", take)
    return seen


def test_a_collapse_goes_back_to_before_it(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check-ups that see a collapse once, late in the run."""
    seen = collapse(monkeypatch, range(10, 12))
    heard = Heard()
    settings = {**tiny, "images": 80, "save_minutes": 1e-9, "interventions": True}
    folder = train(pictures, tmp_path / "run", watcher=heard, **settings).folder
    actions = [finding for finding in heard.found if finding.action]
    assert [finding.state for finding in actions] == ["collapsing"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    went_back = next(row for row in rows if row.get("action"))
    assert 0 < went_back["seen_images"] <= 9 * 4, "to a checkpoint from before the first check-up that saw it"
    assert seen["check_ups"] > 20, "and on from there to the end"


def test_what_is_only_judged_ends_no_run_unless_asked(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that are black and white throughout look diverged: that is said, and training goes on."""
    monkeypatch.setattr(loop, "CHECK_IMAGES", 4)
    monkeypatch.setattr(loop.CheckUp, "take", lambda *given: replace(SICK["diverged"], seen_images=given[-1]))
    heard = Heard()
    settings = {**tiny, "images": 40, "interventions": False}
    folder = train(pictures, tmp_path / "run", watcher=heard, **settings).folder
    assert "diverged" in {finding.state for finding in heard.found}
    assert not any(finding.action for finding in heard.found)
    assert Generator.load(folder).seen_images == 40


@pytest.mark.parametrize("change", [{"slope": 3.0}, {"margin": 25.0}])
def test_a_critic_is_too_strong_by_its_margin_or_its_slope(watch: Monitor, change: dict[str, float]) -> None:
    found = follow(watch, *[replace(WELL, **change)] * 2)
    assert (found[-1].state, found[-1].action) == ("critic too strong", "more penalty")


@pytest.mark.parametrize("gap", [-2e4, 2e4])
def test_a_critic_whose_answers_run_off_is_diverged_at_once(gap: float) -> None:
    found = follow(Monitor(), replace(WELL, gap=gap))[0]
    assert (found.state, found.action) == ("diverged", "roll back")


def test_a_run_without_a_penalty_gets_one_where_its_critic_is_too_steep(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECK_IMAGES", 4)
    monkeypatch.setattr(loop.CheckUp, "take", lambda *given: replace(WELL, slope=5.0, seen_images=given[-1]))
    weights = []
    plain = game.Game.step

    def step(self: Any, turn: Any) -> Any:
        weights.append(turn.penalty)
        return plain(self, turn)

    monkeypatch.setattr(game.Game, "step", step)
    settings = {**tiny, "images": 160, "penalty": "none", "interventions": True}
    train(pictures, tmp_path / "run", **settings)
    assert not any(weights[: monitor.WARM_UP]) and max(weights) >= 8.0


@pytest.mark.parametrize("change", [{"spread": 0.1}, {"apart": 0.1}])
def test_variety_that_is_gone_at_one_blow_cannot_be_chance(watch: Monitor, change: dict[str, float]) -> None:
    assert follow(watch, replace(WELL, **change))[0].action == "roll back"


def test_a_critic_that_is_too_strong_spoils_nothing_that_was_learned() -> None:
    """What an accident then undoes is the time since the last look, not the whole run."""
    watch = Monitor(treats=False)
    follow(watch, *[SICK["critic too strong"]] * (WARM_UP + PROVEN), start=100)
    assert watch.memory.sound_at == 100 + WARM_UP + PROVEN - 1
    follow(watch, SICK["collapsing"], start=200)
    assert watch.memory.sound_at < 200


def test_what_is_certain_counts_before_what_must_be_seen_again(watch: Monitor) -> None:
    assert follow(watch, replace(WELL, margin=-7.0, spread=6.5))[0].action == "roll back"
    assert follow(Monitor(), replace(WELL, margin=-10.0, saturated=0.97))[0].action == "roll back"


def test_a_fault_that_was_not_mended_is_blamed_again() -> None:
    watch = Monitor()
    follow(watch, replace(WELL, gap=-2e4))
    follow(watch, *[WELL] * (WARM_UP + PROVEN), *[SICK["collapsing"]] * 2)
    assert watch.care == Care(critic_rate=monitor.SLOWER**-2, roll_backs=2)


def test_a_run_that_was_not_proven_begins_anew_where_its_weights_may_be_spoilt() -> None:
    bad = replace(WELL, margin=-7.0)
    watch, proven = Monitor(), Monitor()
    follow(watch, *[WELL] * (WARM_UP + PROVEN - 1), start=10)
    follow(proven, *[WELL] * (WARM_UP + PROVEN), start=10)
    assert follow(watch, bad)[0].upto == 0
    assert follow(proven, bad)[0].upto == 10 + WARM_UP + PROVEN - 1


def test_numbers_that_are_not_finite_are_never_saved_so_the_newest_checkpoint_will_do() -> None:
    watch = Monitor()
    follow(watch, *[WELL] * 3)
    assert lost(watch).action == "roll back" and lost(watch).upto is None


def test_a_failure_that_lasts_a_while_does_not_use_up_the_roll_backs(watch: Monitor) -> None:
    actions = [finding.action for finding in follow(watch, *[replace(WELL, margin=-7.0)] * REST)]
    assert actions == ["roll back"] + [None] * (REST - 1)


def test_a_collapse_that_nothing_helps_ends_the_run_at_what_was_sound(
    pictures: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    collapse(monkeypatch, range(13, 10_000))
    settings = {**tiny, "images": 2_000, "save_minutes": 1e-9, "interventions": True}
    with pytest.raises(TrainingError, match="after going back 3 times"):
        train(pictures, tmp_path / "run", **settings)
    assert Generator.load(tmp_path / "run").seen_images <= 12 * 4
