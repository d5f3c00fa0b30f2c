"""Is it healthy? Judges the vitals of a run as an engineer would, and says what to do about it.

Knows nothing of networks or files: numbers come in, findings go out, and the loop carries out what they ask for.
The thresholds are from the literature and from looking at few runs; benchmarks/monitor.py is there to set them by runs
that are made to fail, and until that is done nothing but what is certainly broken is answered unless asked for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ganvas.training.augment import MOST
from ganvas.training.vitals import Vitals

State = Literal[
    "healthy", "critic too strong", "critic over-fitting", "collapsing", "diverged", "stalled", "finished improving"
]
Action = Literal["more penalty", "slower critic", "more augmentation", "less augmentation", "roll back", "stop"]

CHECK_IMAGES = 2_000  # from one check-up to the next
WARM_UP = 4  # check-ups before anything but divergence is judged: at first all images are one grey blob
IN_A_ROW = 2  # check-ups that must agree
REST = 3  # check-ups after a treatment before the next, for it to work
MARGIN = 3.0  # standard deviations between reals and fakes from which on the critic is too strong
OVERFIT = 0.6  # of the gap to the fakes that lies between known and unseen pictures (Karras et al. 2020, section 3)
FALLEN = 0.4  # of its best so far: variety that was there and is gone
SPREAD = 0.35  # variance of fakes over that of reals below which variety is missing
APART = 0.35  # distance between neighbours, fakes over reals, below which images are clones
SATURATED = 0.5  # share of values at black or white, above that of reals: noise or flat signs
SKIPS = 3  # steps in a row without finite gradients
ROLL_BACKS = 3  # then it stops and says what to try
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
    critic_rate: float = 1.0
    augmentation: float = 0.0  # probability of each change
    roll_backs: int = 0

    def after_roll_back(self) -> Care:
        """Gentler than before, with other latents: twice the penalty, half the rate."""
        return replace(
            self,
            penalty=min(MOST_PENALTY, self.penalty * 2),
            rate=max(LEAST_RATE / 2, self.rate / 2),
            roll_backs=self.roll_backs + 1,
        )


@dataclass(frozen=True)
class Finding:
    """What the monitor says: a state, why in one line of plain words, and what it did about it (None: nothing)."""

    state: State
    why: str
    action: Action | None = None


@dataclass
class Memory:
    """What the monitor remembers; stored with every checkpoint, so that a resume goes on judging as before."""

    check_ups: int = 0
    suspected: dict[str, int] = field(default_factory=dict)  # state -> check-ups in a row
    resting: int = 0  # check-ups until the next treatment may begin
    best_spread: float = 0.0
    best_apart: float = 0.0
    scores: list[float] = field(default_factory=list)  # oldest first
    well_at: int = 0  # images seen at the last check-up that found nothing
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
        return self._roll_back("diverged", f"{SKIPS} steps in a row had gradients that are not finite")

    def broken(self, why: str) -> Finding:
        """Judge weights that cannot be saved."""
        return self._roll_back("diverged", why)

    def after_check_up(self, vitals: Vitals) -> Finding:
        """Judge a check-up. The answer's state is that of the run from now on."""
        memory = self.memory
        memory.check_ups += 1
        memory.resting = max(0, memory.resting - 1)
        early = memory.check_ups <= WARM_UP
        state, why = self._judge(vitals)
        if early and state != "diverged":
            state, why = "healthy", "too early to tell"
        memory.best_spread = max(memory.best_spread, min(1.0, vitals.spread))
        memory.best_apart = max(memory.best_apart, min(1.0, vitals.apart))
        memory.suspected = {state: memory.suspected.get(state, 0) + 1}
        if state == "healthy":
            memory.state, memory.well_at = "healthy", vitals.seen_images
            return self._relaxed(vitals, why)
        if memory.suspected[state] < IN_A_ROW:
            return Finding(memory.state, why)
        memory.state = state
        if memory.resting:
            return Finding(state, f"{why}; what was done about it is still at work")
        return self._treat(state, why)

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
        if progress < STALL_BEFORE and min(scores[-STALL_SCORES:]) > 0.98 * min(scores[:-STALL_SCORES], default=0.0):
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

    def _judge(self, vitals: Vitals) -> tuple[State, str]:
        memory = self.memory
        if vitals.saturated > SATURATED:
            return "diverged", f"{vitals.saturated:.0%} more of the image is pure black or white than in pictures"
        if vitals.spread < SPREAD and vitals.spread < FALLEN * memory.best_spread:
            return (
                "collapsing",
                f"images vary {vitals.spread:.2f} times as much as pictures, and did {memory.best_spread:.2f}",
            )
        if vitals.apart < APART and vitals.apart < FALLEN * memory.best_apart:
            return "collapsing", f"images are {vitals.apart:.2f} times as far apart as pictures: many are clones"
        if vitals.overfit is not None and vitals.overfit > OVERFIT:
            return "critic over-fitting", f"{vitals.overfit:.0%} of what the critic sees is which pictures it knows"
        if vitals.margin > MARGIN:
            return "critic too strong", f"it tells images from pictures by {vitals.margin:.1f} standard deviations"
        return "healthy", "nothing to remark"

    def _treat(self, state: State, why: str) -> Finding:
        """Choose the answer to a state that has lasted, and put it into `care`."""
        if not self.treats:
            return Finding(state, why)
        care = self.care
        self.memory.resting = REST
        if state in ("diverged", "collapsing"):
            return self._roll_back(state, why)
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

    def _roll_back(self, state: State, why: str) -> Finding:
        self.memory.state = state
        if self.care.roll_backs >= ROLL_BACKS:
            return Finding(state, f"{why}, after going back {ROLL_BACKS} times", "stop")
        self.care = self.care.after_roll_back()
        # What was learned of the time that is now undone does not count; what was healthy then is so again.
        before = self.memory
        self.memory = Memory(check_ups=0, resting=REST, scores=before.scores, well_at=before.well_at, state=state)
        return Finding(state, why, "roll back")


def stored(state: dict[str, Any], treats: bool) -> Monitor:
    """The monitor that a checkpoint's state holds; a new one where it holds none or another version's."""
    try:
        found = state["monitor"]
        return Monitor(treats, Care(**found["care"]), Memory(**found["memory"]))
    except (KeyError, TypeError):
        return Monitor(treats)
