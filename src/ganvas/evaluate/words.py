"""What the figures of an evaluation say, in plain words.

Nothing is judged by itself: every figure stands against that of real pictures, measured in the same way, and a share
counts as lower only where the difference is more than chance would make it. Where the numbers cannot carry a claim,
the words say that instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, pstdev
from typing import NamedTuple

from ganvas.evaluate.figures import number, part, percent, plural, share, spell
from ganvas.evaluate.result import Attribute, Copying, Evaluation, Point, Score, Scores
from ganvas.files import one_line

FEW = 100  # images or pictures below which a share is a hint at best
MANY = 1_000  # from which on an interval that cannot tell two sets apart means that they are close
SMALL = 0.1  # a share of what real pictures reach that is not worth words
CLOSE = 0.15  # of the samples nearer to training pictures than 95 % of unseen ones: three times what chance gives
CHECKPOINTS = 6  # scores in a curve before its direction means anything
MOST = 7  # sentences


class Line(NamedTuple):
    """A sentence. The first to go where there are too many has the greatest `rank`: 0 stays, 1 finds, 2 reassures."""

    text: str
    rank: int


def say(evaluation: Evaluation) -> list[str]:
    """What the figures say, in three to seven sentences, the most important first; each judged against real pictures.

    They speak of sharpness and variety, distance, copies, twins, missing attribute values, the worst class, and
    whether training longer would help; and of how little can be said where images or pictures are few.
    """
    copying = about_copying(evaluation.copying)
    found = any(each.copied for each in evaluation.copying)
    lines = [
        about_number(evaluation),
        copying if found else None,
        about_quality(evaluation),
        about_distance(evaluation.samples, evaluation.real),
        about_kid(evaluation.samples, evaluation.real),
        None if found else copying,
        about_twins(evaluation),
        about_attributes(evaluation.attributes),
        about_classes(evaluation.classes),
        None if found else about_training(evaluation.curve, evaluation.seen_images),  # more training copies more
    ]
    kept = [line for line in lines if line]
    while len(kept) > MOST:
        kept.remove(max(reversed(kept), key=lambda line: line.rank))  # of equals the last
    return [line.text for line in kept]


def about_number(evaluation: Evaluation) -> Line | None:
    """Whether the sets are so small, or so chosen, that the rest has to be read with care."""
    count, reference = evaluation.samples.count, evaluation.samples.reference
    if min(count, reference) < FEW:
        both = f"{plural(count, 'image')} against {plural(reference, 'picture')}"
        return Line(f"Too few to measure well: {both} give a hint, so trust your eyes first.", 0)
    if evaluation.protocol.split == "train":
        return Line("The reference is the pictures trained on, so copying them would look like quality here.", 0)
    return None


def about_quality(evaluation: Evaluation) -> Line:
    """How many samples look real, and how much of the variety of real pictures is there.

    What is missing of precision and density is put down to the samples' looks, what is missing of recall and coverage
    to their variety; but only while most samples look real, since those that do not cannot cover anything.
    """
    samples, real = evaluation.samples, evaluation.real
    n = _smaller(samples)
    looks = [lacking(samples, real, name) for name in ("precision", "density")]
    spread = [lacking(samples, real, name) for name in ("recall", "coverage")]
    clear, varied = [each for each in looks if each is not None], [each for each in spread if each is not None]
    if not clear or not varied:
        return Line("Sharpness and variety cannot be judged from so few images and pictures.", 0)
    poor = max(clear)
    said = _looks(poor, evaluation.protocol.features)
    rough = "; roughly, since so few real pictures stand beside" if 2 * _smaller(real) < n else ""
    figures = f" ({_against(samples, real, 'precision')}; {_against(samples, real, 'coverage')}{rough})"
    if poor >= 0.6:
        return Line(f"{said}, so that their variety cannot be judged{figures}.", 0)
    least, most = min(varied), max(varied)
    if poor >= 0.3:  # what lies beside the real pictures covers none of them: both measures have to agree
        most = least
    few = n < FEW
    if most < SMALL:
        joined = "as far as so few show, " if few else ""
        also = "yet" if poor >= 0.3 else "and"
        return Line(f"{said}, {also} {joined}about as varied as real pictures{figures}.", 0)
    missing = _missing(least, most)
    truncated = evaluation.truncation is not None and evaluation.truncation < 1
    why = f", some of it given away by truncation {evaluation.truncation:g}" if truncated else ""
    join = "and" if poor >= 0.3 else "but"
    return Line(f"{said}, {join} {missing} of the variety {'seems' if few else 'is'} missing{why}{figures}.", 0)


def _looks(poor: float, features: str) -> str:
    """How real the samples look, given what is missing of precision or density; pixels do not know what is sharp."""
    of_pixels = features.startswith("pixels")
    if poor < SMALL:
        return "Close to the pictures" if of_pixels else "Sharp"
    if poor < 0.3:
        return "Mostly close to the pictures" if of_pixels else "Fairly sharp"
    if poor < 0.6:
        return "Often unlike the pictures" if of_pixels else "Often blurred, broken or otherwise unlike real pictures"
    return "Mostly unlike the pictures" if of_pixels else "Mostly blurred, broken or otherwise unlike real pictures"


def _missing(least: float, most: float) -> str:
    """Two estimates of a missing share in words: `about a third`, `a tenth to a half`, `up to a fifth`."""
    low, high = part(least), part(most)
    if high == low:
        return high if high == "nearly all" else f"about {high}"
    return f"up to {high}" if least < SMALL else f"{low} to {high}"


def _against(samples: Scores, real: Scores, name: str) -> str:
    """`recall 0.42, real pictures 0.81`."""
    return f"{name} {share(getattr(samples, name))}, real pictures {share(getattr(real, name))}"


def lacking(samples: Scores, real: Scores, name: str) -> float | None:
    """The share, 0 to 1, of a figure of real pictures that samples do not reach; 0 where chance may explain it.

    A difference counts from two standard errors on: those of two shares, `sqrt(p(1-p)(1/n + 1/m))`, or for density,
    whose terms scatter by about 1, `sqrt(1/n + 1/m)`. None where either figure is missing or real pictures have 0.
    """
    own, theirs = getattr(samples, name), getattr(real, name)
    if own is None or theirs is None or theirs <= 0:
        return None
    n, m = _smaller(samples), _smaller(real)
    p = (own * n + theirs * m) / (n + m)
    scatter = 1.0 if name == "density" else p * (1 - p)
    if theirs - own <= 2 * math.sqrt(max(scatter, 0) * (1 / n + 1 / m)):
        return 0.0
    return float(min(max(1 - own / theirs, 0), 1))


def about_distance(samples: Scores, real: Scores) -> Line:
    """The Fréchet distance in terms of that of real pictures."""
    own, theirs = samples.frechet_distance, real.frechet_distance
    if own is None or theirs is None:
        return Line("The Fréchet distance could not be computed from so few.", 0)
    figures = f"{number(own)} against {number(theirs)}"
    uneven = ""
    if (samples.count, samples.reference) != (real.count, real.reference):
        uneven = f"; that row has {real.count:,} images, the samples {samples.count:,}: read it roughly"
    ratio = own / theirs if theirs > 0 else math.inf
    if math.isinf(ratio):
        return Line(f"The Fréchet distance is {figures} of real pictures{uneven}.", 0)
    if ratio < 0.8 and not uneven:
        said = "below that of other real pictures, which samples seldom reach but by copying"
    elif ratio <= 1.15:
        said = "no greater than that of other real pictures"
    else:
        said = f"about {f'{ratio:.1f}' if ratio < 3 else f'{ratio:,.0f}'} times that of other real pictures"
    return Line(f"The Fréchet distance is {said} ({figures}{uneven}).", 0)


def about_kid(samples: Scores, real: Scores) -> Line:
    """Whether the kernel distance, with its interval, can tell samples from real pictures at all."""
    own = samples.kid
    if own is None:
        return Line("KID could not be computed from so few.", 0)
    figures = f"{spell(own)}, where real pictures have {spell(real.kid)}" if real.kid else spell(own)
    if own.low is None or own.high is None:
        return Line(f"KID is {figures}; there is no interval to judge it by.", 0)
    if own.low > _high(real.kid):
        wide = own.high - own.low > abs(own.value)
        more = "; how far is uncertain, so evaluate more images" if wide else ""
        return Line(f"By KID the samples differ from real pictures by more than chance: {figures}{more}.", 0)
    few = "; with so few it may miss a difference" if _smaller(samples) < MANY else ""
    return Line(f"KID cannot tell the samples from real pictures: {figures}{few}.", 0)


def about_copying(copying: Sequence[Copying]) -> Line | None:
    """Whether training pictures come back, in any feature space; or whether samples only keep close to them."""
    if not copying:
        return None
    found = [each for each in copying if each.copied]
    shown = max(found or copying, key=lambda each: each.closer)
    lie = f"{percent(shown.closer)} of the samples lie nearer to one than 95 % of unseen pictures do, 5 % is chance"
    if found:
        where = " and ".join(each.features for each in found)
        return Line(f"Training pictures come back (by {where}; {lie}): look at the closest pairs.", 0)
    heldout = min(each.heldout for each in copying)
    if heldout < FEW:
        return Line(f"No copies of training pictures show, but {heldout} held-out pictures are few to tell by.", 1)
    if shown.closer > CLOSE or any(each.c_t is not None and each.c_t < -3 for each in copying):
        also = "smooth or little varied samples do so too"
        return Line(f"No training picture is copied as such, but samples keep close to them: {lie}; {also}.", 1)
    return Line(f"No sign of copied training pictures: {lie}.", 2)


def about_twins(evaluation: Evaluation) -> Line | None:
    """Whether samples repeat each other more than real pictures do: beyond three deviations of a Poisson count."""
    twins = evaluation.duplicates
    if twins is None:
        return None
    usual = f"real pictures: {twins.expected:,}"
    if twins.repeated > twins.expected + 3 * math.sqrt(twins.expected + 1):
        said = f"{twins.repeated:,} of {twins.samples:,} samples nearly repeat another ({usual})"
        return Line(f"{said}; the largest group has {twins.largest:,} images.", 1)
    return Line(f"The samples repeat each other no more than real pictures do ({twins.repeated:,}; {usual}).", 2)


def about_attributes(attributes: Sequence[Attribute]) -> Line | None:
    """Which values of known attributes are missing, or else rare, by the probes that are to be trusted."""
    trusted = [each for each in attributes if is_trusted(each)]
    if not trusted:
        return None
    for verdict in ("missing", "rare"):
        lost = [(each.name, value) for each in trusted for value in each.values if value.verdict == verdict]
        lost.sort(key=lambda pair: -pair[1].real)
        if lost:
            named = ", ".join(f"{one_line(name)} {one_line(one.value)} ({percent(one.real)})" for name, one in lost[:4])
            more = f", and {len(lost) - 4} more" if len(lost) > 4 else ""
            word = "Missing among the samples" if verdict == "missing" else "Rarer than among real pictures"
            return Line(f"{word}: {named}{more}; in brackets, how many real pictures have it.", 1)
    values = sum(len(each.values) for each in trusted)
    return Line(f"None of the {values} values of {plural(len(trusted), 'known attribute')} is missing or rare.", 2)


def is_trusted(attribute: Attribute) -> bool:
    """Whether a probe sees an attribute: it makes at most half of the errors of always naming the commonest value."""
    return attribute.accuracy > attribute.chance and 1 - attribute.accuracy <= 0.5 * (1 - attribute.chance)


def about_classes(classes: Sequence[Scores]) -> Line | None:
    """The class that is worst by KID, where its interval is clear of the others'; by coverage where KID is missing."""
    by_kid = [(each.kid, each) for each in classes if each.kid and each.kid.low is not None]
    if len(by_kid) >= 2 and len(by_kid) == len(classes):
        (kid, worst), *others = sorted(by_kid, key=lambda pair: -pair[0].value)
        usual = median(other.value for other, _ in others)
        said = f"class is {one_line(worst.name)}: KID {spell(kid)}, the others' median {number(usual)}"
        if kid.low is not None and kid.low > max(_high(other) for other, _ in others):
            return Line(f"The worst {said}.", 1)
        if kid.low is not None and kid.low > usual:
            return Line(f"The worst {said}, though not clear of every other.", 1)
        return Line("No class is clearly worse than the others by KID.", 2)
    by_coverage = [each for each in classes if each.coverage is not None]
    if len(by_coverage) < 2:
        return None
    lowest, *rest = sorted(by_coverage, key=lambda each: each.coverage or 0)
    middle = sorted(rest, key=lambda each: each.coverage or 0)[len(rest) // 2]
    if not lacking(lowest, middle, "coverage"):
        return Line("No class is clearly worse than the others by coverage.", 2)
    figures = f"coverage {share(lowest.coverage)}, others about {share(middle.coverage)}"
    return Line(f"The worst class is {one_line(lowest.name)}: {figures}.", 1)


def about_training(curve: Sequence[Point], seen_images: int | None) -> Line | None:
    """Whether the score while training (lower is better) still falls at the end, or was better before.

    The last third of the curve is held against the third before it, and both against the scatter of neighbours.
    """
    points = sorted((each for each in curve if math.isfinite(each.score)), key=lambda point: point.seen_images)
    if len(points) < CHECKPOINTS or seen_images is None:
        return None
    scores = [point.score for point in points]
    third = len(scores) // 3
    last, before = fmean(scores[-third:]), fmean(scores[-2 * third : -third])
    steps = [after - first for first, after in zip(scores[-2 * third :], scores[-2 * third + 1 :], strict=False)]
    scatter = pstdev(steps) / math.sqrt(2)  # of one score: a difference of two has twice the variance
    chance = 2 * scatter * math.sqrt(2 / third)
    if before - last > max(chance, 0.05 * abs(before)):
        return Line("The score was still falling when training ended: training longer is likely to help.", 1)
    place = scores.index(min(scores))
    best, end = points[place], fmean(scores[-2:])
    around = fmean(scores[max(place - 1, 0) : place + 2])  # one low score among many may be luck
    if end - around > max(3 * scatter, 0.05 * abs(around)):
        when = f"at {best.seen_images:,} images seen ({number(best.score)}, at the end about {number(end)})"
        if seen_images <= best.seen_images:
            return Line(f"The score was best {when}; training on from there made it worse.", 1)
        return Line(f"The score was better before, {when}: the generator of that moment is in best/.", 1)
    return Line("The score no longer fell when training ended.", 2)


def _high(kid: Score | None) -> float:
    """The upper end of an interval; 0, a perfect score, where there is none."""
    return 0.0 if kid is None else kid.value if kid.high is None else kid.high


def _smaller(scores: Scores) -> int:
    """How many of each the measures that count neighbours took, at least 1."""
    return max(min(scores.count, scores.reference), 1)
