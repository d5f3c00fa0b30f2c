"""Copies are found however they are hidden, and what is no copy is never called one: not blur, not collapse."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from ganvas.errors import DataError
from ganvas.evaluate.copying import (
    LEAST_IN_CELL,
    NEIGHBOURS,
    SHOWN,
    Near,
    are_copied,
    c_t,
    duplicate_samples,
    find_copies,
    look,
    means,
    rank_z,
    surplus,
)
from ganvas.evaluate.nearest import nearest
from ganvas.evaluate.result import Copying

FACES = Path(__file__).parents[3] / "shared" / "data" / "faces-128.zip"
SIDE = 32


# Pictures: uint8 [N, SIDE, SIDE]


@cache
def drawn(count: int = 800) -> np.ndarray:
    """Clouds: noise whose amplitude falls with the frequency, as that of photographs does."""
    across = np.fft.fftfreq(SIDE)[:, None] ** 2 + np.fft.rfftfreq(SIDE)[None] ** 2
    falling = 1 / np.sqrt(across + 1 / SIDE**2)
    noise = np.random.default_rng(0).normal(size=(count, SIDE, SIDE))
    clouds = np.fft.irfft2(np.fft.rfft2(noise) * falling, s=(SIDE, SIDE))
    return np.clip(128 + 40 * clouds / clouds.std(), 0, 255).astype(np.uint8)


@cache
def faces(count: int = 800) -> np.ndarray:
    if not FACES.exists():
        pytest.skip(f"{FACES.name} is not in ../shared/data; only drawn pictures are tried")
    with zipfile.ZipFile(FACES) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[:count]
        opened = [Image.open(io.BytesIO(archive.read(name))).convert("L") for name in names]
    return np.stack([np.asarray(one.resize((SIDE, SIDE), Image.Resampling.BOX)) for one in opened])


KINDS = {"drawn": drawn, "faces": faces}


@pytest.fixture(params=KINDS)
def pictures(request: pytest.FixtureRequest) -> np.ndarray:
    return KINDS[request.param]()


def blurred(images: np.ndarray, radius: float) -> np.ndarray:
    return each(images, lambda image: image.filter(ImageFilter.GaussianBlur(radius)))


def as_jpeg(images: np.ndarray, quality: int = 75) -> np.ndarray:
    def saved(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "jpeg", quality=quality)
        return Image.open(file)

    return each(images, saved)


def each(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def in_pixels(images: np.ndarray) -> np.ndarray:
    return (images.reshape(len(images), -1) / 255).astype(np.float32)


def search(train: np.ndarray, heldout: np.ndarray, samples: np.ndarray, mirror: bool = True) -> Copying:
    """Look for copies as the verb does, in pixels."""
    return find_copies(
        "pixels@32",
        in_pixels(train),
        in_pixels(heldout),
        in_pixels(samples),
        in_pixels(heldout[:, :, ::-1]) if mirror else None,
        in_pixels(samples[:, :, ::-1]) if mirror else None,
    )


def parts(pictures: np.ndarray, seed: int = 0, train: int = 450, heldout: int = 50) -> tuple[np.ndarray, ...]:
    """(training, held-out, other) pictures, drawn at random."""
    order = np.random.default_rng(seed).permutation(len(pictures))
    return tuple(pictures[chosen] for chosen in np.split(order, [train, train + heldout]))


# The rule


def test_other_real_pictures_are_no_copies(pictures: np.ndarray) -> None:
    for seed in range(5):
        found = search(*parts(pictures, seed))
        assert not found.copied
        assert 0.8 < found.median_ratio < 1.25


@pytest.mark.parametrize("train", [8, 15, 40, 100])
def test_other_real_pictures_are_no_copies_of_few(train: int) -> None:
    for seed in range(8):
        learned, heldout, others = parts(drawn(), seed, train, max(1, train // 20))
        assert not search(learned, heldout, others[:200]).copied


HIDDEN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as they are": lambda images: images,
    "mirrored": lambda images: images[:, :, ::-1],
    "one level lighter": lambda images: np.minimum(images, 254) + np.uint8(1),
    "in 32 levels": lambda images: images // 8 * 8,
    "as JPEG": as_jpeg,
    "as JPEG, mirrored": lambda images: as_jpeg(images)[:, :, ::-1],
    "a little blurred": lambda images: blurred(images, 0.5),
}


@pytest.mark.parametrize("hiding", HIDDEN)
@pytest.mark.parametrize("share", [1.0, 0.2])
def test_training_pictures_that_come_back_are_found(pictures: np.ndarray, hiding: str, share: float) -> None:
    train, heldout, others = parts(pictures)
    samples = others.copy()
    count = int(share * len(samples))
    samples[:count] = HIDDEN[hiding](train[:count])
    found = search(train, heldout, samples)
    assert found.copied
    assert found.closer >= 0.95 * share
    if share == 1:
        assert found.median_ratio < 0.5
        assert found.c_t is not None and found.c_t < -3
        assert found.p_value is not None and found.p_value < 1e-6


def test_a_mirrored_copy_needs_the_mirror_images(pictures: np.ndarray) -> None:
    train, heldout, _ = parts(pictures)
    samples = train[:300, :, ::-1]
    assert search(train, heldout, samples).copied
    assert not search(train, heldout, samples, mirror=False).copied


@pytest.mark.parametrize("train", [15, 40, 100])
def test_few_training_pictures_that_come_back_are_found(train: int) -> None:
    learned, heldout, others = parts(drawn(), 0, train, max(1, train // 20))
    shown_again = as_jpeg(learned[np.arange(400) % train])
    assert search(learned, heldout, shown_again).copied
    if train >= 40:
        assert search(learned, heldout, np.concatenate([shown_again[:100], others])).copied


NO_COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a little blurred": lambda images: blurred(images, 1),
    "blurred": lambda images: blurred(images, 2),
    "much blurred": lambda images: blurred(images, 6),
    "of little contrast": lambda images: images // 2 + 64,
    "averaged": lambda images: ((images.astype(int) + images[::-1]) // 2).astype(np.uint8)[: len(images) // 2],
    "flat": lambda images: np.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape).astype(np.uint8),
    "ten, over and over": lambda images: images[np.arange(len(images)) % 10],
    "one, over and over": lambda images: images[np.zeros(len(images), int)],
    "noise": lambda images: np.random.default_rng(0).integers(0, 256, images.shape).astype(np.uint8),
}


@pytest.mark.parametrize("change", NO_COPIES)
def test_what_is_poor_is_not_copied(pictures: np.ndarray, change: str) -> None:
    train, heldout, others = parts(pictures)
    assert not search(train, heldout, NO_COPIES[change](others)).copied


def test_blur_lies_nearer_and_so_distances_alone_would_accuse_it(pictures: np.ndarray) -> None:
    train, heldout, others = parts(pictures)
    found = search(train, heldout, blurred(others, 2))
    assert found.c_t is not None and found.c_t < -3
    assert found.closer > 0.2
    assert not found.copied


def test_ten_training_pictures_over_and_over_are_copies(pictures: np.ndarray) -> None:
    train, heldout, _ = parts(pictures)
    assert search(train, heldout, as_jpeg(train[np.arange(300) % 10])).copied


@pytest.mark.parametrize("times", [2, 12])
def test_pictures_that_are_in_the_set_several_times_hide_no_copies(times: int) -> None:
    train, heldout, others = parts(drawn())
    repeated = np.concatenate([train, *[train[:100]] * (times - 1)])
    assert search(repeated, heldout, train[:100] // 4 * 4).copied
    found = search(repeated, heldout, others)
    assert not found.copied and found.train == len(train)


def test_a_copy_is_told_from_the_next_pictures_though_its_own_is_there_five_times_nearly() -> None:
    train, heldout, _ = parts(drawn())
    versions = [as_jpeg(train[:20], quality) for quality in (95, 90, 85, 80)]
    repeated = in_pixels(np.concatenate([train, *versions]))
    assert look(in_pixels(train[:20] // 4 * 4), None, repeated, NEIGHBOURS).ratio.max() < 0.3
    assert look(in_pixels(heldout), None, repeated, NEIGHBOURS).ratio.min() > 0.5


def near(ratio: np.ndarray, row: np.ndarray) -> Near:
    return Near(ratio, ratio, row, np.zeros(len(row), bool))


REAL = np.linspace(0.7, 1, 3000)  # no real picture is near to one alone


@pytest.mark.parametrize(("hits", "copied"), [(10, False), (30, True)])
def test_one_copy_in_a_hundred_is_let_pass_and_three_are_not(hits: int, copied: bool) -> None:
    ratio = np.where(np.arange(4000) < 4 * hits, 0.1, 0.9)
    assert scipy.stats.fisher_exact([[int((ratio < 0.5).sum()), 4000], [0, 3000]]).pvalue < 1e-6
    assert are_copied(near(ratio, np.arange(4000)), REAL) == copied


def test_a_few_samples_prove_nothing() -> None:
    assert not are_copied(near(np.array([0.1] + [0.9] * 19), np.arange(20)), REAL[:50])


def test_one_copy_over_and_over_proves_nothing() -> None:
    ratio, row = np.where(np.arange(1000) < 200, 0.1, 0.9), np.arange(1000)
    assert are_copied(near(ratio, row), REAL)
    row[:200] = 7
    assert not are_copied(near(ratio, row), REAL)


def test_twice_what_real_pictures_have_is_let_pass() -> None:
    real = np.where(np.arange(3000) < 900, 0.1, 0.9)
    for share, copied in ((0.3, False), (0.55, False), (0.7, True)):
        assert are_copied(near(np.where(np.arange(2000) < 2000 * share, 0.1, 0.9), np.arange(2000)), real) == copied


# The pairs


def test_the_closest_pairs_are_told_with_their_files() -> None:
    train, heldout, others = parts(drawn())
    samples = others[:100].copy()
    samples[7], samples[40], samples[41] = train[3], train[400, :, ::-1], train[3] // 2 * 2
    indices = np.arange(len(train)) * 2 + 1
    names = [f"{index}.png" for index in range(2 * len(train))]
    found = find_copies(
        "pixels@32",
        *map(in_pixels, (train, heldout, samples, heldout[:, :, ::-1], samples[:, :, ::-1])),
        names=names,
        indices=indices,
    )
    first, second, third = found.pairs[:3]
    assert [(first.sample, first.picture, first.name, first.mirrored)] == [(7, 7, "7.png", False)]
    assert (second.sample, second.picture, second.name, second.mirrored) == (40, 801, "801.png", True)
    assert first.distance == second.distance == 0.0 < third.distance
    assert (third.sample, third.picture, third.mirrored) == (41, 7, False)
    assert len({pair.sample for pair in found.pairs}) == len(found.pairs) == SHOWN
    assert [pair.distance for pair in found.pairs] == sorted(pair.distance for pair in found.pairs)


def test_a_repeated_training_picture_is_told_by_its_first_place() -> None:
    train, heldout, others = parts(drawn(), train=40)
    twice = np.concatenate([train[:20], train[:20], train[20:]])  # picture 20 is row 40
    samples = np.concatenate([train[20:21], train[3:4], others[:20]])
    sets = [in_pixels(images) for images in (twice, heldout, samples)]
    found = find_copies("x", *sets)
    assert [(pair.picture, pair.distance) for pair in found.pairs[:2]] == [(40, 0.0), (3, 0.0)]
    found = find_copies("x", *sets, indices=np.arange(60) + 100)
    assert [pair.picture for pair in found.pairs[:2]] == [140, 103]


def test_the_same_search_gives_the_same() -> None:
    assert search(*parts(drawn())) == search(*parts(drawn()))


def test_a_few_pictures_are_searched_and_never_accused() -> None:
    train, heldout, _ = parts(drawn(), train=3, heldout=1)
    found = search(train, heldout, train)
    assert not found.copied and found.c_t is None and len(found.pairs) == 3


def test_held_out_copies_leave_finite_figures() -> None:
    train, _, _ = parts(drawn())
    found = search(train, train[:60], train[:100])
    assert (found.median_ratio, found.closer, found.c_t) == (1.0, 0.0, 0.0)
    assert found.copied  # training pictures do not lie so near to each other


def test_mirror_images_of_one_set_only_are_refused() -> None:
    train, heldout, others = map(in_pixels, parts(drawn()))
    with pytest.raises(DataError, match="of both"):
        find_copies("x", train, heldout, others, samples_mirrored=others)
    with pytest.raises(DataError, match="one of each"):
        find_copies("x", train, heldout, others, heldout, others[1:])
    with pytest.raises(DataError, match="empty"):
        find_copies("x", train, heldout[:0], others)


# C_T and the tests behind


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.lists(st.integers(0, 6), min_size=2, max_size=40))
def test_the_rank_test_is_scipys_with_ties(heldout: list[int], samples: list[int]) -> None:
    z = rank_z(np.array(heldout, float), np.array(samples, float))
    if len({*heldout, *samples}) == 1:
        assert z == 0
        return
    right = scipy.stats.mannwhitneyu(samples, heldout, alternative="less", method="asymptotic", use_continuity=False)
    assert scipy.stats.norm.cdf(z) == pytest.approx(right.pvalue, rel=1e-9)


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_the_exact_test_is_fishers(of: int, of_usual: int, data: st.DataObject) -> None:
    hits, usual = data.draw(st.integers(0, of)), data.draw(st.integers(0, of_usual))
    table = [[hits, of - hits], [usual, of_usual - usual]]
    right = scipy.stats.fisher_exact(table, alternative="greater").pvalue
    assert surplus(hits, of, usual, of_usual) == pytest.approx(right, rel=1e-9, abs=1e-12)


def crowds(seed: int, count: int, apart: float = 20.0) -> np.ndarray:
    """Points of the plane in four crowds."""
    random = np.random.default_rng(seed)
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * apart
    return corners[random.integers(0, 4, count)] + random.normal(size=(count, 2))


def test_the_cells_are_the_crowds() -> None:
    centres = means(crowds(0, 400), 4)
    assert sorted(np.rint(centres / 20).astype(int).tolist()) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert np.array_equal(centres, means(crowds(0, 400), 4))


def test_each_centre_is_the_mean_of_its_cell() -> None:
    points = np.random.default_rng(0).normal(size=(300, 3))
    centres = means(points, 5)
    cells = nearest(points, centres)[1]
    for cell in range(5):
        assert np.allclose(points[cells == cell].mean(axis=0), centres[cell])


def test_equal_points_have_one_cell() -> None:
    assert means(np.ones((30, 2)), 5).tolist() == [[1, 1]]


def test_c_t_is_the_mean_of_the_cells_weighted_by_held_out_pictures() -> None:
    train, heldout, samples = crowds(0, 400), crowds(1, 200), crowds(2, 300)
    test = c_t(train, heldout, samples, cells=4)
    distances = nearest(heldout, train)[0], nearest(samples, train)[0]
    corners = [np.rint(points / 20) @ [2, 1] for points in (heldout, samples)]
    zs = [rank_z(distances[0][corners[0] == corner], distances[1][corners[1] == corner]) for corner in range(4)]
    weights = [(corners[0] == corner).mean() for corner in range(4)]
    assert test.value == pytest.approx(np.dot(weights, zs))
    assert sorted(cell.z for cell in test.cells) == pytest.approx(sorted(zs))
    assert test.p_value == pytest.approx(scipy.stats.norm.cdf(np.dot(weights, zs) / np.linalg.norm(weights)))


def test_one_cell_is_the_rank_test() -> None:
    train, heldout, samples = crowds(0, 100), crowds(1, 40), crowds(2, 60)
    z = rank_z(nearest(heldout, train)[0], nearest(samples, train)[0])
    assert c_t(train, heldout, samples).value == pytest.approx(z)
    assert c_t(train, heldout, samples).p_value == pytest.approx(scipy.stats.norm.cdf(z))


def test_the_p_value_is_one_where_nothing_is_copied() -> None:
    random = np.random.default_rng(0)
    found = [c_t(*(random.normal(size=(count, 2)) for count in (150, 200, 200)), cells=4).p_value for _ in range(100)]
    assert scipy.stats.kstest([p for p in found if p is not None], "uniform").pvalue > 1e-3


def test_copies_are_below_nothing_and_strangers_above() -> None:
    train, heldout, samples = crowds(0, 400), crowds(1, 200), crowds(2, 200)
    copies = train[:200] + 0.01 * np.random.default_rng(3).normal(size=(200, 2))
    below, above = c_t(train, heldout, copies), c_t(train, heldout, samples + 3)
    assert below.value is not None and below.value < -3 and below.p_value is not None and below.p_value < 1e-9
    assert above.value is not None and above.value > 3 and above.p_value is not None and above.p_value > 1 - 1e-9


def test_copies_in_one_crowd_show_in_its_cell() -> None:
    train, heldout, samples = crowds(0, 400), crowds(1, 200), crowds(2, 400)
    there = samples.max(axis=1) < 10
    samples[there] = train[train.max(axis=1) < 10][: there.sum()][np.arange(there.sum()) % 60]
    zs = sorted(cell.z for cell in c_t(train, heldout, samples, cells=4).cells)
    assert zs[0] < -5 and zs[1] > -3


def test_a_cell_with_few_samples_is_left_out() -> None:
    train, heldout, samples = crowds(0, 400), crowds(1, 200), crowds(2, 400)
    there = samples.max(axis=1) < 10
    samples = np.concatenate([samples[~there], samples[there][: LEAST_IN_CELL - 1]])
    assert len(c_t(train, heldout, samples, cells=4).cells) == 3


def test_c_t_of_too_few_is_none() -> None:
    assert c_t(crowds(0, 50), crowds(1, LEAST_IN_CELL - 1), crowds(2, 50)) == (None, None, ())


# Twins


def test_real_pictures_have_no_twins(pictures: np.ndarray) -> None:
    found = duplicate_samples(in_pixels(pictures[:400]), in_pixels(pictures[400:]))
    assert found.samples == 400
    assert found.repeated <= 4 and found.expected <= 4  # of the photographs, a few were taken twice


def test_ten_images_over_and_over_are_twins(pictures: np.ndarray) -> None:
    random = np.random.default_rng(0)
    again = pictures[np.arange(400) % 10] + random.normal(0, 4, (400, SIDE, SIDE))
    found = duplicate_samples(in_pixels(again), in_pixels(pictures[400:]))
    assert (found.repeated, found.largest) == (400, 40)


def test_a_few_twins_are_counted() -> None:
    images = drawn()[:200].copy()
    images[1], images[50], images[150] = images[0], images[60] // 2 * 2, images[0]
    found = duplicate_samples(in_pixels(images), in_pixels(drawn()[600:]))
    assert (found.samples, found.repeated, found.largest, found.expected) == (200, 5, 3, 0)


def test_a_chain_of_twins_is_no_group() -> None:
    line = np.arange(100.0)[:, None] * [0.4, 0.0]  # each within half a unit of the next alone
    found = duplicate_samples(line, np.arange(100.0)[:, None] * [1.0, 0.0])
    assert (found.repeated, found.largest, found.expected) == (100, 3, 0)


def test_twins_of_training_pictures_are_expected_ones() -> None:
    train = drawn()[:200].copy()
    train[:20] = train[20:40]
    found = duplicate_samples(in_pixels(train[::-1]), in_pixels(train))
    assert (found.repeated, found.largest, found.expected) == (40, 2, 40)


def test_as_many_samples_as_training_pictures_are_compared() -> None:
    images = in_pixels(drawn())
    again = np.concatenate([images[:50], images[:50]])
    assert duplicate_samples(again, images[600:650]).repeated == 0
    assert duplicate_samples(again, images[600:700]).repeated == 100


def test_one_image_has_no_twin() -> None:
    found = duplicate_samples(np.zeros((1, 2)), np.zeros((5, 2)))
    assert (found.samples, found.repeated, found.largest, found.expected) == (1, 0, 0, 0)
