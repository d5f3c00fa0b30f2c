"""Copies are found however they were saved, and different pictures of one subject are not called copies."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ganvas import draw
from ganvas.data import duplicates
from ganvas.data.duplicates import HASH_DISTANCE, find_duplicates


def portraits(count: int, size: int = 64) -> list[Image.Image]:
    return [Image.open(io.BytesIO(draw.portrait(seed, size=size)[0])) for seed in range(count)]


def stacked(pictures: list[Image.Image], size: int = 64) -> np.ndarray:
    return np.stack([np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS)) for picture in pictures])


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    written = io.BytesIO()
    picture.save(written, "jpeg", quality=quality)
    return Image.open(io.BytesIO(written.getvalue())).convert("RGB")


def test_exact_copies_are_grouped() -> None:
    images = stacked(portraits(12))
    found = find_duplicates(images[[0, 1, 2, 3, 1, 5, 1, 0, 8]])
    assert found.exact == ((1, 4, 6), (0, 7))
    assert found.near == () and found.surplus == 3 and found.complete


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: as_jpeg(picture, 50),
        lambda picture: picture.resize((96, 96), Image.Resampling.BICUBIC),
        lambda picture: ImageEnhance.Brightness(picture).enhance(1.03),
    ],
    ids=["jpeg", "scaled", "lighter"],
)
def test_near_copies_are_found_and_matched_to_the_right_picture(change: object) -> None:
    originals = portraits(40, 128)
    images = np.concatenate([stacked(originals), stacked([change(one) for one in originals])])  # type: ignore[operator]
    found = find_duplicates(images)
    expected = {(index, index + 40) for index in range(40)}
    assert set(found.near) | set(found.exact) <= expected  # none invented
    assert len(set(found.near) | set(found.exact)) >= 38
    assert found.surplus == len(found.merged)


def test_different_pictures_of_one_subject_are_no_copies() -> None:
    assert find_duplicates(stacked(portraits(300))).merged == ()


def test_the_hash_alone_would_invent_copies() -> None:
    """The pixels decide: the same drawing in other colours has nearly the same hash."""
    images = stacked(portraits(1))
    recoloured = images.copy()
    recoloured[(images == images[0, 0, 0]).all(axis=-1)] = (30, 120, 60)
    assert find_duplicates(np.concatenate([images, recoloured])).merged == ()


def test_copies_cut_out_at_another_place_pass_because_shifts_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a hash that lets them through (it is made wider here), the pixels agree at some shift and only there."""
    monkeypatch.setattr(duplicates, "HASH_DISTANCE", 24)
    cuts = [[picture.crop((at, at, at + 124, at + 124)) for picture in portraits(40, 128)] for at in (0, 2)]
    images = np.concatenate([stacked(cut, 62) for cut in cuts])
    found = find_duplicates(images)
    assert set(found.merged) <= {(index, index + 40) for index in range(40)}
    monkeypatch.setattr(duplicates, "SHIFTED_LEVELS", 0.0)
    assert len(found.merged) >= 10 > 2 * len(find_duplicates(images).merged)


def test_a_shift_is_measured_as_none_and_a_change_as_one() -> None:
    random = np.random.default_rng(2)
    scene = np.kron(random.integers(0, 256, (14, 14, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    left, right = scene[:64, :64], scene[2:66, 3:67]
    assert duplicates._apart_when_shifted(left, right) < 1e-2
    changed = right.copy()
    changed[28:36, 28:36] = 255 - changed[28:36, 28:36]
    assert duplicates._apart_when_shifted(left, changed) > duplicates.BLOCK_LEVELS


def test_grey_flat_and_single_pictures_are_handled() -> None:
    flat = np.zeros((4, 16, 16, 1), np.uint8)
    flat[1:3] = 8
    flat[3] = 200
    found = find_duplicates(flat)
    assert found.exact == ((1, 2),)
    assert found.merged == ((0, 1, 2),)
    assert find_duplicates(flat[:1]).merged == ()


def test_close_pairs_are_all_pairs_within_the_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    hashes = random.integers(0, 2**63, 300, dtype=np.uint64)
    for index in range(0, 200, 2):  # neighbours that differ in 0 to 12 bits
        bits = random.choice(64, index % 13, replace=False)
        hashes[index + 1] = hashes[index] ^ np.uint64(sum(1 << int(bit) for bit in bits))
    numbers = [int(value) for value in hashes]
    expected = {
        (left, right)
        for left, right in itertools.combinations(range(300), 2)
        if (numbers[left] ^ numbers[right]).bit_count() <= HASH_DISTANCE
    }
    found = [
        pair for parts in duplicates._close(hashes) for pair in zip(*(part.tolist() for part in parts), strict=True)
    ]
    assert len(found) == len(expected) and set(found) == expected


def test_a_set_of_one_drawing_repeated_stops_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_PAIRS", 50)
    images = np.full((60, 16, 16, 3), 90, np.uint8)
    images[np.arange(60), 0, 0] = np.arange(60)[:, None]  # all different, all alike
    found = find_duplicates(images)
    assert not found.complete
    assert found.near
