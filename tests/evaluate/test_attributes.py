"""A value that samples lack is found, real pictures are told to lack none, and what cannot be read is left out."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ganvas import draw
from ganvas.errors import DataError
from ganvas.evaluate.attributes import CHANCE, Known, Seen, find, is_above_chance, judge, probe, ridge, see
from ganvas.evaluate.result import Attribute

GROUND = {"sky": (0.5, 0.7, 0.9), "rose": (0.9, 0.6, 0.6), "mint": (0.6, 0.9, 0.7), "cream": (0.9, 0.9, 0.7)}
DISC = {"red": (0.8, 0.1, 0.1), "blue": (0.1, 0.2, 0.8), "green": (0.1, 0.6, 0.2), "black": (0.1, 0.1, 0.1)}
SHARES = {
    "ground": ([*GROUND], [0.4, 0.3, 0.2, 0.1]),
    "disc": ([*DISC], [0.4, 0.3, 0.25, 0.05]),
    "bar": (["none", "above"], [0.9, 0.1]),
    "mood": (["calm", "glad", "sad"], [0.5, 0.3, 0.2]),  # nothing in the picture shows it
}
Pictures = tuple[np.ndarray, list[dict[str, str]]]
Picked = Callable[[dict[str, str]], bool]


def drawn(seed: int, count: int) -> Pictures:
    """Discs on a ground, some below a bar, 12x12 in colour with noise: (pixels [N, 432], attributes)."""
    random = np.random.default_rng(seed)
    chosen = {name: random.choice(values, count, p=shares) for name, (values, shares) in SHARES.items()}
    y, x = np.mgrid[0:12, 0:12]
    images = np.empty((count, 12, 12, 3))
    for index in range(count):
        images[index] = GROUND[chosen["ground"][index]]
        middle = random.uniform(5, 8, 2)
        images[index][(y - middle[0]) ** 2 + (x - middle[1]) ** 2 < 9] = DISC[chosen["disc"][index]]
        if chosen["bar"][index] == "above":
            images[index, :2] = 0.5
    images += random.normal(0, 0.08, images.shape)
    attributes = [
        {name: str(chosen[name][index]) for name in SHARES} | {"file": f"{seed}-{index}"} for index in range(count)
    ]
    return images.reshape(count, -1).astype(np.float32), attributes


def keep(pictures: Pictures, picked: Picked) -> np.ndarray:
    return pictures[0][[picked(each) for each in pictures[1]]]


@pytest.fixture(scope="module")
def train() -> Pictures:
    return drawn(0, 700)


@pytest.fixture(scope="module")
def heldout() -> Pictures:
    return drawn(1, 100)


def verdicts(found: list[Attribute]) -> dict[tuple[str, str], str]:
    """What is not as it should be."""
    told = {(each.name, one.value): one.verdict for each in found for one in each.values}
    return {value: verdict for value, verdict in told.items() if verdict != "as it should be"}


def test_real_pictures_lack_nothing(train: Pictures, heldout: Pictures) -> None:
    wrong = [verdicts(probe(*train, *heldout, drawn(seed, 400)[0])) for seed in range(2, 18)]
    assert sum(map(bool, wrong)) <= 1  # one in a hundred is allowed: two of sixteen have a chance of 1 %


@pytest.mark.parametrize(
    ("name", "value"), [("ground", "cream"), ("ground", "sky"), ("disc", "black"), ("bar", "above"), ("bar", "none")]
)
def test_a_value_that_was_dropped_is_missing(train: Pictures, heldout: Pictures, name: str, value: str) -> None:
    samples = keep(drawn(2, 800), lambda picture: picture[name] != value)
    told = verdicts(probe(*train, *heldout, samples))
    assert told[name, value] == "missing"
    assert {found for found, _ in told} == {name}  # the others are drawn apart from it


def test_values_that_are_rarer_or_more_frequent_are_told(train: Pictures, heldout: Pictures) -> None:
    random = np.random.default_rng(0)
    samples = keep(drawn(2, 2500), lambda picture: picture["ground"] != "mint" or random.random() < 0.3)
    told = verdicts(probe(*train, *heldout, samples))
    assert told == {("ground", "mint"): "rare"}
    samples = keep(drawn(3, 2500), lambda picture: picture["disc"] == "black" or random.random() < 0.2)
    assert verdicts(probe(*train, *heldout, samples)) == {("disc", "black"): "too frequent"}


def test_the_shares_are_those_of_the_pictures(train: Pictures, heldout: Pictures) -> None:
    samples = drawn(2, 400)
    for each in probe(*train, *heldout, samples[0]):
        for one in each.values:
            real = np.mean([picture[each.name] == one.value for picture in train[1] + heldout[1]])
            made = np.mean([picture[each.name] == one.value for picture in samples[1]])
            assert one.real == pytest.approx(real, abs=0.03)
            assert one.samples == pytest.approx(made, abs=0.03)
        assert each.accuracy > 0.95
        shares = [np.mean([picture[each.name] == one.value for picture in heldout[1]]) for one in each.values]
        assert each.chance == pytest.approx(max(shares))


def test_what_the_picture_does_not_show_is_left_out(train: Pictures, heldout: Pictures) -> None:
    names = [each.name for each in probe(*train, *heldout, drawn(2, 100)[0])]
    assert names == ["ground", "disc", "bar"]  # no mood; and each file has its own name


def test_a_value_that_cannot_be_told_from_another_is_left_out(train: Pictures, heldout: Pictures) -> None:
    def renamed(pictures: Pictures, seed: int) -> Pictures:
        """A fifth of what is red is called crimson: nothing shows which."""
        random = np.random.default_rng(seed)
        crimson = [each["disc"] == "red" and random.random() < 0.2 for each in pictures[1]]
        return pictures[0], [
            each | {"disc": "crimson"} if is_crimson else each
            for each, is_crimson in zip(pictures[1], crimson, strict=True)
        ]

    found = probe(*renamed(train, 0), *renamed(heldout, 1), drawn(2, 300)[0])
    disc = next(each for each in found if each.name == "disc")
    assert {one.value for one in disc.values} == {"red", "blue", "green", "black"}
    assert not verdicts(found)


def test_pictures_without_the_attribute_have_a_value_of_their_own(train: Pictures, heldout: Pictures) -> None:
    def bare(pictures: Pictures) -> Pictures:
        return pictures[0], [{"bar": "above"} if each["bar"] == "above" else {} for each in pictures[1]]

    found = probe(*bare(train), *bare(heldout), drawn(2, 300)[0])
    assert [one.value for one in found[0].values] == ["not given", "above"]


def test_a_value_that_no_training_picture_has_is_never_seen_rightly(train: Pictures, heldout: Pictures) -> None:
    shown = [each | {"ground": "new"} if each["ground"] == "rose" else each for each in heldout[1]]
    found = next(each for each in probe(*train, heldout[0], shown, drawn(2, 50)[0]) if each.name == "ground")
    roses = np.mean([each["ground"] == "rose" for each in heldout[1]])
    assert found.accuracy <= 1 - roses


def test_few_pictures_in_many_dimensions_are_read(heldout: Pictures) -> None:
    few = drawn(0, 120)
    assert few[0].shape[0] < few[0].shape[1]
    samples = keep(drawn(2, 500), lambda picture: picture["ground"] != "sky")
    assert verdicts(probe(*few, *heldout, samples))["ground", "sky"] == "missing"


def test_scale_and_shift_of_the_features_do_not_matter(train: Pictures, heldout: Pictures) -> None:
    samples = drawn(2, 200)[0]

    def other(features: np.ndarray) -> np.ndarray:
        wide = np.concatenate([features, np.full((len(features), 2), 7.0)], axis=1)  # some that never vary
        return wide * np.logspace(-2, 4, wide.shape[1]) - 3

    plain = probe(*train, *heldout, samples)
    assert probe(other(train[0]), train[1], other(heldout[0]), heldout[1], other(samples)) == plain


def test_a_portrait_without_its_ground_is_missed() -> None:
    pictures, known = [], []
    for seed in range(420):
        file, chosen = draw.portrait(seed, size=16)
        pictures.append(np.asarray(Image.open(io.BytesIO(file)), np.float32).ravel())
        known.append(chosen)
    features = np.stack(pictures)
    parts = features[:260], known[:260], features[260:320], known[260:320]
    real = features[320:]
    assert not verdicts(probe(*parts, real))
    lost = max({each["background_colour"] for each in known[320:]}, key=lambda colour: _count(known, colour))
    kept = real[[each["background_colour"] != lost for each in known[320:]]]
    samples = np.tile(kept, (4, 1))  # a generator gives more of them
    assert verdicts(probe(*parts, samples))["background_colour", lost] == "missing"


def _count(known: list[dict[str, str]], colour: str) -> int:
    return sum(each["background_colour"] == colour for each in known)


# The steps


def test_the_scores_are_those_of_a_ridge_regression_without_the_fold() -> None:
    random = np.random.default_rng(0)
    x, heldout, samples = random.normal(size=(200, 6)), random.normal(size=(30, 6)), random.normal(size=(20, 6))
    codes = (x @ random.normal(size=(6, 3)) + 0.5 * random.normal(size=(200, 3))).argmax(axis=1)
    (left_out, in_heldout, in_samples), _ = ridge(x, heldout, samples, [codes, codes % 2])
    assert (left_out.shape, in_heldout.shape, in_samples.shape) == ((200, 3), (30, 3), (20, 3))
    # Were a picture's own value in its scores, they would fit it better than those of a fit to all do.
    y = np.eye(3)[codes] - np.eye(3)[codes].mean(axis=0)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    own = z @ np.linalg.lstsq(z, y, rcond=None)[0]
    assert ((left_out - y) ** 2).mean() > ((own - y) ** 2).mean()
    assert ((left_out - y) ** 2).mean() < (y**2).mean()
    assert np.allclose(in_heldout.sum(axis=1), 0, atol=1e-9)


def test_the_scores_are_read_by_a_linear_discriminant_analysis() -> None:
    random = np.random.default_rng(0)
    own = random.choice(3, 900, p=[0.6, 0.3, 0.1])
    mix = random.normal(size=(3, 3))
    scores = random.normal(size=(900, 3)) @ mix + np.array([[0, 0, 0], [3, 0, 1], [0, 4, 0]])[own]
    right = LinearDiscriminantAnalysis(solver="lsqr").fit(scores[:600], own[:600])
    seen, rightly = see(
        Known("a", ["x", "y", "z"], own[:600], own[600:700]), scores[:600], scores[600:700], scores[700:]
    )
    assert rightly == (right.predict(scores[600:700]) == own[600:700]).sum()
    in_real = np.bincount(right.predict(scores[:700]), minlength=3)
    in_samples = np.bincount(right.predict(scores[700:]), minlength=3)
    mistaken = [((right.predict(scores[:600]) == place) & (own[:600] != place)).mean() for place in range(3)]
    assert [(one.real, one.samples) for one in seen] == list(zip(in_real, in_samples, strict=True))
    assert [one.by_mistake for one in seen] == pytest.approx(mistaken)


@pytest.mark.parametrize(("apart", "readable"), [(1.0, ["common"]), (6.0, ["common", "scarce"])])
def test_a_value_that_is_mostly_overlooked_is_left_out(apart: float, readable: list[str]) -> None:
    random = np.random.default_rng(0)
    own = random.choice(2, 1000, p=[0.75, 0.25])
    scores = random.normal(size=(1000, 1)) + apart * own[:, None]
    scores = np.concatenate([-scores, scores], axis=1)
    seen, _ = see(Known("a", ["common", "scarce"], own, own), scores, scores, scores)
    assert [one.value for one in seen] == readable
    assert (seen[0].samples < 1000) and seen[0].by_mistake > 0  # the scarce one is seen at times


def test_labels_by_chance_are_hardly_ever_read() -> None:
    read = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        features = random.normal(size=(160, 300))  # enough dimensions to learn any labels by heart
        known = [{"coin": str(side)} for side in random.integers(0, 2, 160)]
        read += bool(probe(features[:100], known[:100], features[100:], known[100:], features[100:]))
    assert read <= 3  # the lower end of the interval is above chance once in 40


def test_values_are_found_and_attributes_of_one_or_too_many_are_not() -> None:
    train = [{"a": "x", "one": "same", "many": str(index)} for index in range(201)] + [{"a": "y"}, {"a": "y"}]
    found = find(train, [{"a": "y"}, {"a": "z"}, {}])
    assert [each.name for each in found] == ["a", "one"]  # "one" is not given twice
    assert found[0].values == ["x", "y"] and found[0].heldout.tolist() == [1, -1, -1]
    assert found[1].values == ["same", "not given"]


@pytest.mark.parametrize(("right", "clear"), [(50, False), (55, False), (60, True), (90, True)])
def test_the_interval_is_wilsons(right: int, clear: bool) -> None:
    known = Known("a", ["x", "y"], np.zeros(1), np.array([0] * 49 + [1] * 51))
    low = scipy.stats.binomtest(right, 100).proportion_ci(method="wilson").low
    assert is_above_chance(known, right) == (low > 0.49) == clear


@pytest.mark.parametrize(
    ("real", "samples", "by_mistake", "said"),
    [
        (100, 0, 0.0, "missing"),
        (100, 9, 0.0, "missing"),
        (100, 15, 0.0, "rare"),
        (100, 15, 0.01, "missing"),  # they may well all be mistakes
        (100, 60, 0.0, "as it should be"),
        (100, 150, 0.0, "as it should be"),
        (100, 250, 0.0, "too frequent"),
        (900, 990, 0.0, "too frequent"),
        (900, 800, 0.0, "rare"),
        (900, 940, 0.0, "as it should be"),
        (4, 0, 0.0, "as it should be"),
        (0, 0, 0.0, "as it should be"),
        (1000, 1000, 0.0, "as it should be"),
    ],
)
def test_the_verdict(real: int, samples: int, by_mistake: float, said: str) -> None:
    assert judge(Seen("x", real, samples, by_mistake), 1000, 1000, CHANCE / 100) == said


def test_too_few_pictures_are_not_read(train: Pictures) -> None:
    few = drawn(1, 19)
    assert probe(*train, *few, few[0]) == []
    assert probe(*few, *train, few[0]) == []
    assert probe(train[0], [{} for _ in train[1]], train[0], [{} for _ in train[1]], few[0]) == []


def test_vectors_without_attributes_are_refused(train: Pictures, heldout: Pictures) -> None:
    with pytest.raises(DataError, match="one of each"):
        probe(train[0], train[1][1:], *heldout, heldout[0])
    with pytest.raises(DataError, match="cannot be compared"):
        probe(*train, *heldout, heldout[0][:, 1:])
    with pytest.raises(DataError, match="not finite"):
        probe(*train, *heldout, heldout[0] * np.nan)
