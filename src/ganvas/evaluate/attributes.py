"""Which values of known attributes (hair, glasses, ground) are missing or rare among samples: a probe reads them.

A linear probe learns the attributes from the training pictures' features. It makes mistakes, so samples are never
compared with the true shares, but with what the probe sees in real pictures that it did not learn from: held-out ones,
and, in cross-validation, training pictures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ganvas.errors import DataError
from ganvas.evaluate.copying import surplus
from ganvas.evaluate.nearest import check
from ganvas.evaluate.result import Attribute, Value

Verdict = Literal["missing", "rare", "as it should be", "too frequent"]

MAX_VALUES = 200  # of an attribute; one with more is a text or a number
LEAST = 20  # training pictures, and held-out ones, below which nothing is read; also pictures of a value
NOT_GIVEN = "not given"  # the value of pictures that lack the attribute
FOLDS = 5
RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0)  # over the features' variance, which is 1
READABLE = 0.5  # of the pictures of a value, and of those seen as it, the share that must be seen rightly
CHANCE = 0.01  # that any value of any attribute gets a verdict by chance, all together
FOLD_CHANGE = 2.0  # of the odds, before a value is rare or too frequent
MISSING = 0.1  # of the share of real pictures that are rightly seen; at most so much may be left of a missing value


@dataclass(frozen=True)
class Known:
    """One attribute, and which of its values each picture has: places int64 [*] in `values`, -1 for one not there."""

    name: str
    values: list[str]
    train: np.ndarray
    heldout: np.ndarray


@dataclass(frozen=True)
class Seen:
    """How many real pictures and samples are seen as one value, and what share of real ones is mistaken for it."""

    value: str
    real: int
    samples: int
    by_mistake: float


def probe(
    real_features: np.ndarray,
    attributes: Sequence[dict[str, str]],
    heldout_features: np.ndarray,
    heldout_attributes: Sequence[dict[str, str]],
    sample_features: np.ndarray,
) -> list[Attribute]:
    """Read every attribute of 2 to 200 values in the samples `[M, D]`, and compare its values' shares with those that
    are read in real pictures: the held-out ones `[H, D]`, and those that the probe learns from, `real_features [N, D]`
    with their `attributes`, each of which is read by a probe that learned from the four other fifths of them.

    The probe is a ridge regression to each value's indicator, then a linear discriminant analysis of those scores
    (Hastie, Tibshirani and Friedman 2009, section 4.3), which is made from the cross-validated scores.

    Left out are values of fewer than 20 training pictures, and those that the probe cannot read: seen rightly in less
    than half of the training pictures that have them, or of those seen as them. Left out are attributes whose accuracy
    on held-out pictures is not above chance at the lower end of its 95 % interval (Wilson's score), and those without
    a readable value.

    A value is rare where the odds of seeing it are half or less of those in real pictures, too frequent where they are
    double or more, and Fisher's exact test finds that by chance less than once in 100 for all values together
    (Bonferroni). A rare one is missing where it is seen no more often than by mistake and a tenth of its rightly seen
    share. Empty where training or held-out pictures are fewer than 20. Raises DataError for shapes that do not go
    together and numbers that are not finite.
    """
    check(real_features, heldout_features, sample_features)
    for features, known in ((real_features, attributes), (heldout_features, heldout_attributes)):
        if len(features) != len(known):
            raise DataError(f"{len(features)} vectors with {len(known)} pictures' attributes; give one of each")
    found = find(attributes, heldout_attributes)
    if not found or min(len(attributes), len(heldout_attributes)) < LEAST:
        return []
    scores = ridge(real_features, heldout_features, sample_features, [each.train for each in found])
    read = [(each, *see(each, *parts)) for each, parts in zip(found, scores, strict=True)]
    read = [(each, seen, right) for each, seen, right in read if seen and is_above_chance(each, right)]
    tests = 2 * sum(len(seen) for _, seen, _ in read)
    of, of_real = len(sample_features), len(real_features) + len(heldout_features)
    return [
        Attribute(
            name=each.name,
            accuracy=right / len(heldout_features),
            chance=chance_of(each),
            values=[
                Value(
                    value=one.value,
                    real=one.real / of_real,
                    samples=one.samples / of,
                    verdict=judge(one, of, of_real, CHANCE / tests),
                )
                for one in seen
            ],
        )
        for each, seen, right in read
    ]


def find(train: Sequence[dict[str, str]], heldout: Sequence[dict[str, str]]) -> list[Known]:
    """The attributes that have 2 to 200 values among the training pictures, values from the most frequent down."""
    found = []
    for name in dict.fromkeys(key for picture in train for key in picture):
        given = [picture.get(name, NOT_GIVEN) for picture in train]
        values = [value for value, _ in Counter(sorted(given)).most_common()]
        if 2 <= len(values) <= MAX_VALUES:
            place = {value: index for index, value in enumerate(values)}
            unseen = [place.get(picture.get(name, NOT_GIVEN), -1) for picture in heldout]
            found.append(Known(name, values, np.array([place[value] for value in given]), np.array(unseen)))
    return found


def ridge(
    train: np.ndarray, heldout: np.ndarray, samples: np.ndarray, codes: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each attribute, with places `codes [N]`, the scores of its C values for training pictures (each by a fit
    without its fold), held-out pictures and samples: float64 `[N, C]`, `[H, C]`, `[M, C]`.

    `W = (X'X + a n I)^-1 X'Y` of standardised features X and centred indicators Y, with the `a` of RIDGES that has the
    least squared error on the first fold.
    """
    x, *others = standardise(train, heldout, samples)
    y = torch.cat([torch.eye(int(code.max()) + 1, dtype=x.dtype)[code] for code in codes], dim=1)
    y -= y.mean(dim=0)
    folds = torch.from_numpy(np.random.default_rng(0).permutation(len(x))).chunk(FOLDS)
    grams, products = [x[fold].T @ x[fold] for fold in folds], [x[fold].T @ y[fold] for fold in folds]
    gram, product = torch.stack(grams).sum(dim=0), torch.stack(products).sum(dim=0)

    def without(fold: int, strength: float) -> torch.Tensor:
        """The scores of a fold, by a fit to the others."""
        count = len(x) - len(folds[fold])
        return x[folds[fold]] @ solve(gram - grams[fold], product - products[fold], strength * count)

    strength = min(RIDGES, key=lambda strength: float(((without(0, strength) - y[folds[0]]) ** 2).mean()))
    left_out = torch.empty_like(y)
    for fold, rows in enumerate(folds):
        left_out[rows] = without(fold, strength)
    weights = solve(gram, product, strength * len(x))
    places = np.cumsum([int(code.max()) + 1 for code in codes])[:-1]
    parts = (np.split(each.numpy(), places, axis=1) for each in (left_out, *(other @ weights for other in others)))
    return list(zip(*parts, strict=True))


def standardise(train: np.ndarray, *others: np.ndarray) -> list[torch.Tensor]:
    """Features of mean 0 and variance 1 over the training pictures, fp64; those that never vary are left out.

    Where there are fewer pictures than features, all are turned into the space that the pictures span: a ridge
    regression has no weight outside of it.
    """
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    varies = deviation > 1e-9 * np.abs(train).max()
    both = [
        torch.from_numpy((each[:, varies].astype(np.float64) - mean[varies]) / deviation[varies])
        for each in (train, *others)
    ]
    if both[0].shape[0] < both[0].shape[1]:
        basis = torch.linalg.qr(both[0].T).Q
        both = [each @ basis for each in both]
    return both


def solve(gram: torch.Tensor, product: torch.Tensor, ridge: float) -> torch.Tensor:
    """`(gram + ridge I)^-1 product`, fp64."""
    return torch.cholesky_solve(product, torch.linalg.cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype)))


def see(known: Known, train: np.ndarray, heldout: np.ndarray, samples: np.ndarray) -> tuple[list[Seen], int]:
    """(what is seen of each readable value, held-out pictures seen rightly) from the scores `[*, C]`."""
    own, count = known.train, len(known.values)
    shares = np.bincount(own, minlength=count) / len(own)
    centres = np.stack([train[own == place].mean(axis=0) for place in range(count)])
    spread = train - centres[own]
    within = spread.T @ spread / len(own)
    # The scores of all values sum to a constant, so that one direction has no variance.
    within += np.eye(count) * (1e-6 * np.trace(within) / count + 1e-300)
    weights = np.linalg.solve(within, centres.T)
    offset = np.log(shares) - 0.5 * (centres * weights.T).sum(axis=1)
    in_train, in_heldout, in_samples = ((part @ weights + offset).argmax(axis=1) for part in (train, heldout, samples))
    seen = []
    for place, value in enumerate(known.values):
        called, has = in_train == place, own == place
        right = int((called & has).sum())
        if has.sum() >= LEAST and right >= READABLE * max(called.sum(), has.sum()):
            real = int(called.sum() + (in_heldout == place).sum())
            seen.append(Seen(value, real, int((in_samples == place).sum()), float((called & ~has).mean())))
    return seen, int((in_heldout == known.heldout).sum())


def chance_of(known: Known) -> float:
    """The accuracy on held-out pictures of always naming the value that is most frequent in training."""
    return float((known.heldout == 0).mean())


def is_above_chance(known: Known, right: int) -> bool:
    """Whether the lower end of the 95 % interval of the accuracy (Wilson 1927) lies above chance."""
    n, z = len(known.heldout), 1.96
    rate = right / n
    middle = rate + z**2 / (2 * n)
    low = (middle - z * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))) / (1 + z**2 / n)
    return low > chance_of(known)


def judge(one: Seen, of: int, of_real: int, chance: float) -> Verdict:
    """The verdict on one value, of `of` samples and `of_real` real pictures, with each test at the level `chance`."""
    samples, real = one.samples / of, one.real / of_real
    ours, theirs = samples * (1 - real), real * (1 - samples)  # their ratio is that of the odds
    if FOLD_CHANGE * ours <= theirs and surplus(one.real, of_real, one.samples, of) < chance:
        rightly = max(0.0, real - one.by_mistake)
        return "missing" if samples <= one.by_mistake + MISSING * rightly else "rare"
    if ours >= FOLD_CHANGE * theirs and surplus(one.samples, of, one.real, of_real) < chance:
        return "too frequent"
    return "as it should be"
