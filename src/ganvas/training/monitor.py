"""Is it healthy? Judges the vitals of a run as an engineer would, and says what to do about it.

Knows nothing of networks or files: numbers come in, findings go out, and the loop carries out what they ask for.
The thresholds lie between what healthy runs showed and what runs that were made to fail did (benchmarks/monitor.py and
docs/train.md; all at 32x32). Healthy runs of two data sets differ more than a healthy run from one that is ill, so
they are wide: a false alarm costs a sound run more than a late one costs a failing run.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ganvas.training.augment import MOST
from ganvas.training.vitals import Vitals

State = Literal[
    "healthy", "critic too strong", "critic over-fitting", "collapsing", "diverged", "stalled", "finished improving"
]
Action = Literal["more penalty", "slower critic", "more augmentation", "less augmentation", "roll back", "stop"]

# Why a run had to go back: something from outside, or settings that make one player, both, or their variety go wrong.
Fault = Literal["accident", "critic", "both", "variety"]

CHECK_IMAGES = 2_500  # from one check-up to the next
WARM_UP = 4  # check-ups before anything but divergence is judged: at first all images are one grey blob
IN_A_ROW = 2  # check-ups that must agree, unless what is seen cannot be chance
REST = 3  # check-ups after a treatment before the next, for it to work
MARGIN = 20.0  # standard deviations between reals and fakes from which on the critic is too strong
STEEP = 1.0  # R1 on reals at the default gamma, from which on it is, too
LOUD = 1000.0  # between the logits of reals and fakes, either way: the critic is no critic any more
CLEAR = 0.5  # standard deviations between reals and fakes, below which a share of that is noise
OVERFIT = 0.6  # of the gap to the fakes that lies between known and unseen pictures (Karras et al. 2020, section 3)
FALLEN = 0.6  # of its best so far: variety that was there and is gone
GONE = 0.25  # of its best so far, by which it falls in no sound run, from one check-up to another
SPREAD = 0.5  # variance of fakes over that of reals below which variety is missing
APART = 0.6  # distance between neighbours, fakes over reals, below which images are clones
BURST = 4.0  # variance of fakes over that of reals, above which they are no images any more; new weights begin there
INVERTED, INVERTED_IN_A_ROW = -1.0, 3  # a margin that no sound critic has; check-ups with any below 0
SATURATED = 0.8  # share of values at black or white, above that of reals: noise or flat signs
SKIPS = 3  # steps in a row without finite gradients
ROLL_BACKS = 3  # then it stops and says what to try
PROVEN = 4  # check-ups after the warm-up that found the weights unspoilt: the settings are good
SLOWER = 3.0  # a learning rate that is too high is divided by it
MOST_PENALTY, LEAST_RATE = 16.0, 0.25  # factors of what was asked for
AUGMENT_STEP = 0.1
WORSE, WORSE_IN_A_ROW, FEWEST_SCORES = 1.15, 3, 5  # a score so many times the best is worse and not noise
LATE = 0.9  # of the budget: ending then saves nothing
STALL_SCORES, STALL_BEFORE = 6, 0.5  # scores that should have improved, before the rate falls and they do anyway


@dataclass(frozen=True)
class Care:
    """The treatment a run is under: factors of its settings, and how often it went back."""

    penalty: float = 1.0
    rate: float = 1.0  # of both players
    critic_rate: float = 1.0  # of the discriminator, beside that
    augmentation: float = 0.0  # probability of each change
    roll_backs: int = 0

    def after_roll_back(self, fault: Fault) -> Care:
        """With other latents, and gentler unless what happened was an accident."""
        care = replace(self, roll_backs=self.roll_backs + 1)
        if fault == "critic":
            return replace(care, critic_rate=self.critic_rate / SLOWER)
        if fault == "variety":
            care = replace(care, penalty=min(MOST_PENALTY, self.penalty * 2))
        return care if fault == "accident" else replace(care, rate=self.rate / SLOWER)


@dataclass(frozen=True)
class Finding:
    """What the monitor says: a state, why in one line of plain words, and what it did about it (None: nothing)."""

    state: State
    why: str
    action: Action | None = None
    upto: int | None = None  # where it asks to go back: images seen, up to which checkpoints are sound; None: all are


@dataclass(frozen=True)
class Sign:
    """What one check-up looks like; `in_a_row` of them count. `fault`: whose it is where that means going back."""

    state: State
    why: str
    fault: Fault = "both"
    in_a_row: int = IN_A_ROW


@dataclass
class Memory:
    """What the monitor remembers; stored with every checkpoint, so that a resume goes on judging as before."""

    check_ups: int = 0
    suspected: dict[str, int] = field(default_factory=dict)  # state -> check-ups in a row
    resting: int = 0  # check-ups until the next treatment may begin
    best_spread: float = 0.0
    best_apart: float = 0.0
    scores: list[float] = field(default_factory=list)  # oldest first
    sound: int = 0  # check-ups after the warm-up that found the weights unspoilt
    sound_at: int = 0  # images seen at the last of them: what lies before it is worth going back to
    blamed: Fault | None = None  # for the last time that it went back, unless that was an accident
    state: State = "healthy"


class Monitor:
    """Follows one run. `treats`: whether it may answer what it judges to go wrong; otherwise it only says so.

    Numbers that are not finite are no matter of judgement: the run always goes back from those.
    """

    def __init__(self, treats: bool = True, care: Care | None = None, memory: Memory | None = None) -> None:
        self.treats, self.care, self.memory = treats, care or Care(), memory or Memory()
        self._skipped = 0

    def after_step(self, finite: bool) -> Finding | None:
        """Judge one step by whether its gradients were finite; steps that are not are never taken."""
        self._skipped = 0 if finite else self._skipped + 1
        if self._skipped < SKIPS:
            return None
        self._skipped = 0
        return self._roll_back("diverged", f"{SKIPS} steps in a row had gradients that are not finite", "both", False)

    def broken(self, why: str) -> Finding:
        """Judge weights that cannot be saved."""
        return self._roll_back("diverged", why, "both", False)

    def after_check_up(self, vitals: Vitals) -> Finding:
        """Judge a check-up. The answer's state is that of the run from now on."""
        memory = self.memory
        memory.check_ups += 1
        memory.resting = max(0, memory.resting - 1)
        early = memory.check_ups <= WARM_UP
        seen = self._judge(vitals)
        if early and seen.state != "diverged":
            seen = Sign("healthy", "too early to tell")
        memory.best_spread = max(memory.best_spread, min(1.0, vitals.spread))
        memory.best_apart = max(memory.best_apart, min(1.0, vitals.apart))
        memory.suspected = {seen.state: memory.suspected.get(seen.state, 0) + 1}
        if not early and seen.state not in ("diverged", "collapsing"):
            memory.sound, memory.sound_at = memory.sound + 1, vitals.seen_images
        if seen.state == "healthy":
            memory.state = "healthy"
            return self._relaxed(vitals, seen.why)
        if memory.suspected[seen.state] < seen.in_a_row:
            return Finding(memory.state, seen.why)
        memory.state = seen.state
        if memory.resting:
            return Finding(seen.state, f"{seen.why}; what was done about it is still at work")
        return self._treat(seen)

    def after_score(self, score: float, progress: float) -> Finding | None:
        """Judge the scores so far: a run that only gets worse has found its best."""
        scores = self.memory.scores
        scores.append(score)
        if len(scores) < FEWEST_SCORES or progress > LATE:
            return None
        best = min(scores)
        if all(later > WORSE * best for later in scores[-WORSE_IN_A_ROW:]):
            self.memory.state = "finished improving"
            why = f"{WORSE_IN_A_ROW} scores in a row are worse than the best, {best:.0f}, which is kept in best/"
            return Finding("finished improving", why, "stop" if self.treats else None)
        before = min(scores[:-STALL_SCORES], default=math.inf)
        if progress < STALL_BEFORE and min(scores[-STALL_SCORES:]) > 0.98 * before:
            self.memory.state = "stalled"
            return Finding("stalled", f"the last {STALL_SCORES} scores are no better than those before")
        return None

    @property
    def doubts(self) -> bool:
        """Whether the last check-up looked as if the weights were spoilt: such are better not saved before the next."""
        return self.treats and bool({"collapsing", "diverged"} & self.memory.suspected.keys())

    def row(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"care": asdict(self.care), "memory": asdict(self.memory)}

    def _judge(self, vitals: Vitals) -> Sign:
        memory = self.memory
        if vitals.saturated > SATURATED:
            why = f"{vitals.saturated:.0%} more of the image is pure black or white than in pictures"
            certain = abs(vitals.gap) > LOUD or vitals.margin < INVERTED
            return Sign("diverged", why, "both", 1 if certain else IN_A_ROW)
        if abs(vitals.gap) > LOUD:
            why = f"the critic's answers have run off: {vitals.gap:.2g} from images to pictures"
            return Sign("diverged", why, "critic", 1)
        if vitals.margin < INVERTED:
            return Sign("diverged", wrong_way_round(vitals), "critic", 1)
        if vitals.spread > BURST and memory.check_ups > WARM_UP:
            return Sign("diverged", f"images vary {vitals.spread:.1f} times as much as pictures", "both")
        if vitals.spread < SPREAD and vitals.spread < FALLEN * memory.best_spread:
            why = f"images vary {vitals.spread:.2f} times as much as pictures, and did {memory.best_spread:.2f}"
            return Sign("collapsing", why, "variety", 1 if vitals.spread < GONE * memory.best_spread else IN_A_ROW)
        if vitals.apart < APART and vitals.apart < FALLEN * memory.best_apart:
            why = f"images are {vitals.apart:.2f} times as far apart as pictures: many are clones"
            return Sign("collapsing", why, "variety", 1 if vitals.apart < GONE * memory.best_apart else IN_A_ROW)
        if vitals.margin < 0.0:
            return Sign("diverged", wrong_way_round(vitals), "critic", INVERTED_IN_A_ROW)
        if vitals.overfit is not None and vitals.overfit > OVERFIT and vitals.margin > CLEAR:
            why = f"{vitals.overfit:.0%} of what the critic sees is which pictures it knows"
            return Sign("critic over-fitting", why)
        if vitals.margin > MARGIN:
            why = f"it tells images from pictures by {vitals.margin:.1f} standard deviations"
            return Sign("critic too strong", why)
        if vitals.slope > STEEP:
            why = f"its answers change too fast with a picture's pixels: R1 is {vitals.slope:.2g}"
            return Sign("critic too strong", why)
        return Sign("healthy", "nothing to remark")

    def _treat(self, seen: Sign) -> Finding:
        """Choose the answer to a state that has lasted, and put it into `care`."""
        state, why, care = seen.state, seen.why, self.care
        if not self.treats:
            return Finding(state, why)
        self.memory.resting = REST
        if state in ("diverged", "collapsing"):
            return self._roll_back(state, why, seen.fault, True)
        if state == "critic over-fitting" and care.augmentation < MOST:
            self.care = replace(care, augmentation=min(MOST, round(care.augmentation + AUGMENT_STEP, 3)))
            self.memory.resting = 0
            return Finding(state, why, "more augmentation")
        if state == "critic too strong" and care.penalty < MOST_PENALTY:
            self.care = replace(care, penalty=min(MOST_PENALTY, care.penalty * 2))
            return Finding(state, why, "more penalty")
        if state == "critic too strong" and care.critic_rate > LEAST_RATE:
            self.care = replace(care, critic_rate=max(LEAST_RATE, care.critic_rate / 2))
            return Finding(state, why, "slower critic")
        return Finding(state, f"{why}; everything that could be done was")

    def _relaxed(self, vitals: Vitals, why: str) -> Finding:
        """Take augmentation back where it is no longer needed: it is not free."""
        care = self.care
        if self.treats and care.augmentation > 0 and vitals.overfit is not None and vitals.overfit < OVERFIT - 0.2:
            self.care = replace(care, augmentation=max(0.0, round(care.augmentation - AUGMENT_STEP / 2, 3)))
            return Finding("healthy", "the critic no longer knows its pictures by heart", "less augmentation")
        return Finding("healthy", why)

    def _roll_back(self, state: State, why: str, fault: Fault, spoilt: bool) -> Finding:
        """Ask for an earlier time. Where the run had once been well, an accident has befallen it, and other latents are
        enough; else, and the last time, the settings are at fault: those that `fault` names, or the same as before.

        `spoilt`: what was saved since the last sound check-up is, too. A run that never had one begins anew then, for
        what wrong settings have done to weights outlasts them.
        """
        memory, proven = self.memory, self.memory.sound >= PROVEN
        memory.state = state
        if self.care.roll_backs >= ROLL_BACKS:
            return Finding(state, f"{why}, after going back {ROLL_BACKS} times", "stop")
        if memory.blamed is not None:
            fault = memory.blamed
        elif proven and self.care.roll_backs < ROLL_BACKS - 1:
            fault = "accident"
        self.care = self.care.after_roll_back(fault)
        # Of a run that was never proven nothing counts that was learned.
        self.memory = replace(memory, check_ups=0, suspected={}) if proven else Memory(scores=memory.scores)
        self.memory.state, self.memory.resting = state, REST
        self.memory.blamed = None if fault == "accident" else fault
        return Finding(state, why, "roll back", memory.sound_at if proven else 0 if spoilt else None)


def wrong_way_round(vitals: Vitals) -> str:
    """A critic that fools itself, in words."""
    return f"the critic prefers images to pictures, by {-vitals.margin:.1f} standard deviations"


def stored(state: dict[str, Any], treats: bool, seen_images: int) -> Monitor:
    """The monitor that a checkpoint's state holds, after so many images.

    One that holds none, or another version's, counts as sound: nobody has seen otherwise, and it is not thrown away.
    """
    try:
        found = state["monitor"]
        return Monitor(treats, Care(**found["care"]), Memory(**found["memory"]))
    except (KeyError, TypeError):
        return Monitor(treats, memory=Memory(sound=PROVEN, sound_at=seen_images))
