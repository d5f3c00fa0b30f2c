"""What the words say follows from the figures, always against real pictures, and never says more than they carry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from evaluations import PROTOCOL, attribute, copying, curve, evaluation, scores, twins
from hypothesis import given
from hypothesis import strategies as st

from ganvas.evaluate.result import Score
from ganvas.evaluate.words import about_distance, lacking, say


def words(samples: dict[str, Any] | None = None, **changed: Any) -> str:
    """All sentences, one a line."""
    return "\n".join(say(evaluation(scores(**samples or {}), **changed)))


def first(samples: dict[str, Any] | None = None, **changed: Any) -> str:
    return words(samples, **changed).split("\n")[0]


def test_samples_like_real_pictures_are_sharp_and_varied() -> None:
    said = words(copying=[copying()], duplicates=twins(2))
    assert said.startswith("Sharp, and about as varied as real pictures (precision 0.80, real pictures 0.80;")
    assert "missing" not in said and "blurred" not in said
    assert "Fréchet distance is no greater than that of other real pictures (8.00 against 8.00)" in said
    assert "KID cannot tell the samples from real pictures" in said
    assert "No sign of copied" in said and "no more than real pictures" in said


@pytest.mark.parametrize(
    ("recall", "coverage", "expected"),
    [
        (0.8, 0.95, "as varied"),
        (0.53, 0.63, "about a third of the variety is missing"),
        (0.4, 0.47, "about half of the variety is missing"),
        (0.4, 0.85, "a tenth to half of the variety is missing"),
        (0.8, 0.71, "up to a quarter of the variety is missing"),
        (0.01, 0.02, "nearly all of the variety is missing"),
    ],
)
def test_missing_variety_is_a_share_of_what_real_pictures_reach(recall: float, coverage: float, expected: str) -> None:
    said = first({"recall": recall, "coverage": coverage})
    assert said.startswith("Sharp, ") and expected in said, said


@pytest.mark.parametrize(
    ("precision", "density", "expected"),
    [
        (0.8, 1.3, "Sharp"),
        (0.64, 1.0, "Fairly sharp"),
        (0.8, 0.8, "Fairly sharp"),
        (0.4, 0.6, "Often blurred, broken or otherwise unlike real pictures"),
        (0.1, 0.1, "Mostly blurred, broken or otherwise unlike real pictures"),
    ],
)
def test_sharpness_is_precision_and_density_against_real_pictures(
    precision: float, density: float, expected: str
) -> None:
    assert first({"precision": precision, "density": density}).startswith(expected)


def test_a_low_figure_that_real_pictures_share_is_no_fault() -> None:
    low = {"precision": 0.3, "recall": 0.2, "density": 0.3, "coverage": 0.3}
    assert first(low, real=scores("real", **low)).startswith("Sharp, and about as varied")


def test_variety_is_not_judged_where_samples_do_not_look_real() -> None:
    said = first({"precision": 0.1, "recall": 0.1, "coverage": 0.1})
    assert "variety cannot be judged" in said and "missing" not in said
    both = {"precision": 0.45, "density": 0.55}
    assert "missing" not in first(both | {"coverage": 0.5}), "coverage falls with precision; recall has to agree"
    assert "and about half of the variety is missing" in first(both | {"coverage": 0.5, "recall": 0.4})


def test_pixels_know_nothing_of_sharpness() -> None:
    pixels = PROTOCOL.model_copy(update={"features": "pixels@32"})
    for precision in (0.8, 0.6, 0.4, 0.1):
        said = first({"precision": precision}, protocol=pixels)
        assert "harp" not in said and "blur" not in said


def test_truncation_is_named_where_it_costs_variety() -> None:
    assert "truncation 0.7" in first({"recall": 0.4, "coverage": 0.5}, truncation=0.7)
    assert "truncation" not in first({}, truncation=0.7)
    assert "truncation" not in first({"recall": 0.4}, truncation=None)


def test_a_difference_within_chance_is_none() -> None:
    few = {"count": 120, "reference": 120}
    real = scores("real", precision=0.8, **few)
    assert lacking(scores(precision=0.72, **few), real, "precision") == 0.0
    assert lacking(scores(precision=0.5, **few), real, "precision") == pytest.approx(3 / 8)
    many = {"count": 10_000, "reference": 10_000}
    assert lacking(scores(precision=0.72, **many), scores("real", **many), "precision") == pytest.approx(0.1)


def test_chance_alone_seldom_takes_variety_away() -> None:
    """Shares drawn from one and the same distribution are called different about once in forty draws, at any size."""
    random = np.random.default_rng(0)
    for n in (30, 300, 3000):
        wrong = 0
        for _ in range(400):
            own, theirs = random.binomial(n, 0.7, 2) / n
            size = {"count": n, "reference": n}
            wrong += lacking(scores(recall=own, **size), scores("real", recall=theirs, **size), "recall") != 0
        assert wrong / 400 < 0.06


def test_the_distance_is_told_in_terms_of_real_pictures() -> None:
    assert "about 3 times that of other real pictures (24.0 against 8.00)" in words({"frechet_distance": 24.0})
    assert "about 1.5 times" in words({"frechet_distance": 12.0})
    assert "below that of other real pictures, which samples seldom reach but" in words({"frechet_distance": 4.0})
    fewer = scores("real", count=600)
    said = words({"frechet_distance": 4.0}, real=fewer)
    assert "copying" not in said and "that row has 600 images, the samples 5,000: read it roughly" in said
    assert "is 0.500 against 0 of" in words({"frechet_distance": 0.5}, real=scores("real", frechet_distance=0.0))


def test_kid_speaks_by_its_interval() -> None:
    clear = words({"kid": Score(value=0.01, low=0.008, high=0.012)})
    assert "By KID the samples differ from real pictures by more than chance: 0.0100 (0.0080 to 0.0120)" in clear
    assert "uncertain" not in clear
    wide = words({"kid": Score(value=0.01, low=0.001, high=0.019)})
    assert "by more than chance" in wide and "how far is uncertain" in wide
    overlap = {"kid": Score(value=0.001, low=0.0004, high=0.002)}
    assert "cannot tell" in words(overlap) and "may miss" not in words(overlap)
    few = {"count": 500, "reference": 500}
    assert "with so few it may miss a difference" in words(overlap | few, real=scores("real", **few))
    assert "no interval" in words({"kid": Score(value=0.01)})


def test_copies_come_first_and_speak_of_every_feature_space() -> None:
    one = copying("lite0@128", copied=True, closer=0.93, c_t=-44.0)
    said = words(copying=[one, copying("pixels@32", closer=0.06)], curve=curve([100, 80, 60, 50, 40, 30, 20, 10]))
    assert said.startswith("Training pictures come back (by lite0@128; 93 % of the samples")
    assert "longer" not in said, "nobody is told to train on what copies already"
    both = first(copying=[one, copying("pixels@32", copied=True, closer=0.5)])
    assert "by lite0@128 and pixels@32" in both


def test_no_copies_is_said_with_its_limits() -> None:
    assert "No sign of copied training pictures: 5 % of the samples" in words(copying=[copying()])
    near = words(copying=[copying(), copying("pixels@32", closer=0.4)])
    assert "No training picture is copied as such" in near and "40 %" in near and "No sign" not in near
    assert "keep close" in words(copying=[copying(c_t=-5.0)])
    few = words(copying=[copying(heldout=40)])
    assert "40 held-out pictures are few to tell by" in few and "No sign" not in few
    assert "cop" not in words()


def test_twins_are_counted_against_those_among_real_pictures() -> None:
    assert "310 of 2,000 samples nearly repeat another (real pictures: 2); the largest group has 12 images" in words(
        duplicates=twins(310, largest=12)
    )
    for repeated, expected in ((0, 0), (3, 2), (2, 0), (110, 100)):
        assert "no more than real pictures" in words(duplicates=twins(repeated, expected))
    assert "repeat" not in words()


def test_missing_attribute_values_are_named_with_how_common_they_are() -> None:
    hair = attribute("hair", {"mohawk": "missing", "bun": "as it should be", "bald": "rare", "long": "too frequent"})
    said = words(attributes=[hair])
    assert "Missing among the samples: hair mohawk (25 %)" in said and "bald" not in said and "bun" not in said
    rare = attribute("hair", {"bald": "rare", "bun": "as it should be"})
    assert "Rarer than among real pictures: hair bald (50 %)" in words(attributes=[rare])
    many = attribute("hat", {str(place): "missing" for place in range(10)})
    assert ", and 6 more" in words(attributes=[many])
    fine = attribute("hair", {"bald": "as it should be", "bun": "as it should be"})
    assert "None of the 4 values of 2 known attributes is missing" in words(attributes=[fine, fine])


def test_a_probe_that_cannot_see_says_nothing() -> None:
    blind = attribute("earrings", {"hoop": "missing", "none": "as it should be"}, accuracy=0.72, chance=0.7)
    assert "hoop" not in words(attributes=[blind]) and "attribute" not in words(attributes=[blind])
    rare_value = attribute("hat", {"crown": "missing", "none": "as it should be"}, accuracy=0.99, chance=0.95)
    assert "crown" in words(attributes=[rare_value])


def kids(*values: float, width: float = 0.001) -> list[Any]:
    return [
        scores(f"class {place}", kid=Score(value=value, low=value - width, high=value + width))
        for place, value in enumerate(values)
    ]


def test_the_worst_class_is_named_where_the_intervals_allow_it() -> None:
    clear = words(classes=kids(0.01, 0.05, 0.012))
    assert "The worst class is class 1: KID 0.0500 (0.0490 to 0.0510), the others' median 0.0110." in clear
    close = words(classes=kids(0.01, 0.05, 0.049))
    assert "class 1" in close and "not clear of every other" in close
    assert "No class is clearly worse" in words(classes=kids(0.0100, 0.0105, 0.0102))
    assert "class 0" not in words(classes=kids(0.01))


def test_classes_without_kid_are_told_apart_by_coverage() -> None:
    rows = [scores(name, kid=None, coverage=value) for name, value in (("cat", 0.9), ("dog", 0.4), ("cow", 0.88))]
    assert "The worst class is dog: coverage 0.40, others about 0.90." in words(classes=rows)
    alike = [scores(name, kid=None, coverage=0.9) for name in ("cat", "dog")]
    assert "No class is clearly worse than the others by coverage" in words(classes=alike)


def test_a_falling_curve_asks_for_more_training() -> None:
    falling = curve([100.0 * 0.9**place for place in range(12)])
    assert "still falling when training ended" in words(curve=falling)
    assert "falling" not in words(curve=falling[:4]), "too short to have a direction"
    assert "falling" not in words(curve=falling, seen_images=None)


def test_a_curve_that_rose_again_points_at_the_best() -> None:
    values = [100, 80, 60, 50, 42, 40, 41, 45, 50, 55, 60, 65]
    said = words(curve=curve(values), seen_images=12_000)
    assert "was better before, at 6,000 images seen (40.0, at the end about 62.5)" in said and "best/" in said
    kept = words(curve=curve(values), seen_images=6000)
    assert "best at 6,000" in kept and "training on from there made it worse" in kept


def test_scores_that_are_no_numbers_are_passed_over() -> None:
    values = [100.0 * 0.9**place for place in range(12)]
    assert "still falling" in words(curve=curve([*values[:6], float("nan"), *values[6:], float("inf")]))


@pytest.mark.parametrize("seed", range(8))
def test_a_flat_curve_is_flat_whatever_its_noise(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.5, 30)
    said = words(curve=curve([float(value) for value in 20 + noise]), seen_images=30_000)
    assert "no longer fell" in said


def test_few_images_are_said_to_be_few_and_missing_figures_are_no_verdicts() -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("frechet_distance", "kid", "precision", "recall", "density", "coverage", "mind")
    )
    nothing |= {"count": 5, "reference": 4}
    said = say(evaluation(scores(**nothing), real=scores("real", **nothing)))
    assert "Too few to measure well: 5 images against 4 pictures" in said[0]
    assert "cannot be judged" in said[1] and 3 <= len(said) <= 7
    hint = words({"count": 60, "reference": 60, "recall": 0.1}, real=scores("real", count=60, reference=60))
    assert hint.startswith("Too few") and "seems missing" in hint


def test_a_reference_that_was_trained_on_is_named() -> None:
    trained_on = PROTOCOL.model_copy(update={"split": "train"})
    assert "pictures trained on" in first(protocol=trained_on)


def test_too_few_real_pictures_beside_make_it_rough() -> None:
    assert "roughly" in first(real=scores("real", count=300))
    assert "roughly" not in first(real=scores("real", count=2000))


shares = st.one_of(st.none(), st.floats(0, 1))
numbers = st.one_of(st.none(), st.floats(0, 1e6))
intervals = st.builds(lambda value, width: Score(value=value, low=value - width, high=value + width),
                      st.floats(-1e-3, 10), st.floats(0, 5))  # fmt: skip
rows = st.builds(
    scores,
    count=st.integers(2, 50_000),
    reference=st.integers(2, 50_000),
    frechet_distance=numbers,
    kid=st.one_of(st.none(), st.builds(Score, value=st.floats(-1, 1)), intervals),
    precision=shares,
    recall=shares,
    density=st.one_of(st.none(), st.floats(0, 5)),
    coverage=shares,
    mind=numbers,
)


@given(
    rows,
    rows,
    st.lists(rows, max_size=3),
    st.lists(st.builds(copying, copied=st.booleans(), closer=st.floats(0, 1), heldout=st.integers(1, 999)), max_size=2),
    st.one_of(st.none(), st.builds(twins, st.integers(0, 2000))),
    st.lists(st.just(attribute("hair", {"bald": "missing", "bun": "rare"})), max_size=1),
    st.lists(st.floats(0, 1e5), max_size=20),
)
def test_whatever_the_figures_there_are_three_to_seven_sentences(
    samples: Any, real: Any, classes: Any, copies: Any, duplicates: Any, attributes: Any, points: list[float]
) -> None:
    found = evaluation(
        samples, real=real, classes=classes, copying=copies, duplicates=duplicates, attributes=attributes,
        curve=curve(points),
    )  # fmt: skip
    said = say(found)
    assert 3 <= len(said) <= 7
    assert all(line.endswith(".") and (line[0].isupper() or line[0].isdigit()) for line in said)
    assert not any(word in line for line in said for word in ("nan", "None", "inf "))
    if any(each.copied for each in copies):
        assert any("Training pictures come back" in line for line in said[:2])


@pytest.mark.parametrize("theirs", [0.0, 5e-324])
def test_a_distance_of_next_to_nothing_is_not_divided_by(theirs: float) -> None:
    line = about_distance(scores(frechet_distance=1.0), scores(frechet_distance=theirs))
    assert "inf" not in line.text and "1.00 against" in line.text


def test_findings_outlive_reassurances() -> None:
    found = evaluation(
        scores(count=5000, reference=90, recall=0.1),
        copying=[copying()],
        duplicates=twins(310),
        attributes=[attribute("hair", {"bald": "missing", "bun": "as it should be"})],
        classes=kids(0.01, 0.05, 0.012),
        curve=curve([100.0 * 0.9**place for place in range(12)]),
    )
    said = "\n".join(say(found))
    assert all(word in said for word in ("Too few", "seems missing", "310", "bald", "class 1"))
    assert "No sign of copied" not in said, "of nine sentences the good news went first"
