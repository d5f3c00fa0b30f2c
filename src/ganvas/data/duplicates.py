"""Pictures that are in a set more than once: the same pixels, or the same picture saved, scaled or lightened again.

A perceptual hash finds the candidates, and the pixels decide: sets of one subject (faces, drawings) share their coarse
structure, so that a hash alone would call different pictures the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import imagehash
import numpy as np
from PIL import Image

from ganvas.data.decode import Pixels

HASH_DISTANCE = 6  # of 64 bits; saving a 64-pixel drawing as JPEG at quality 70 or more moves its hash by 0 to 4
# Of 255; what the mean of a block may differ by in a copy. Of 200 such JPEGs at quality 85 all are below (at most 21),
# at 70 nine in ten; of the 1.1 million pairs among 1,500 different portraits none is below and close in its hash.
BLOCK_LEVELS = 24.0
BLOCKS = 16  # a picture is compared as 16 x 16 block means per channel
SHIFTED_LEVELS = 72.0  # up to here it may be a copy that was cut out a little differently: shifts decide
SIDE, BLOCK, SHIFT = 64, 4, 3  # then both are compared at 64 x 64 pixels, one moved by up to 3 of them
MAX_SHIFTED = 10_000  # pairs compared so, at about half a millisecond each
MAX_PAIRS = 200_000  # a set of one picture repeated would have billions


@dataclass(frozen=True)
class Duplicates:
    """Groups of indices into the images, each sorted, largest group first; a group is near-alike, a part of it exactly.

    `exact` holds groups of identical pixels, `near` groups of at least two different versions of one picture (which
    may hold exact copies as well). `complete` is False where the search stopped at `MAX_PAIRS` or `MAX_SHIFTED`.
    """

    exact: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, ...], ...]
    complete: bool

    @cached_property
    def merged(self) -> tuple[tuple[int, ...], ...]:
        """Groups in which exact and near copies are taken together; no index is in two of them."""
        return _largest_first(_groups(_links(self.exact + self.near)))

    @property
    def surplus(self) -> int:
        """How many pictures could be left out without losing a different one."""
        return sum(len(group) - 1 for group in self.merged)


def find_duplicates(images: Pixels, progress: Callable[[int, int], None] | None = None) -> Duplicates:
    """Find pictures that are alike among uint8 [N, H, W, C] (C = 1 or 3).

    Two are exact copies when all pixels agree. They are near copies when their 64-bit perceptual hashes (imagehash's
    `phash`: the signs of the lowest 8 x 8 cosine coefficients against their median) differ in at most `HASH_DISTANCE`
    bits and no block mean differs by more than `BLOCK_LEVELS`, as they are or moved by a few hundredths of their side.
    Being alike is passed on: a group may drift.
    """
    by_pixels: dict[bytes, list[int]] = {}
    hashes = np.empty(len(images), np.uint64)
    blocks = np.empty((len(images), BLOCKS * BLOCKS * images.shape[3]), np.uint8)
    for index, image in enumerate(images):
        by_pixels.setdefault(_digest(image), []).append(index)
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        hashes[index] = np.packbits(imagehash.phash(picture).hash.ravel()).view(">u8")[0]
        # The box filter gives the mean of each block at any size of picture.
        blocks[index] = np.asarray(picture.resize((BLOCKS, BLOCKS), Image.Resampling.BOX)).ravel()
        if progress is not None:
            progress(index + 1, len(images))
    exact = [group for group in by_pixels.values() if len(group) > 1]
    first = np.array([group[0] for group in by_pixels.values()], np.int64)  # copies need not be searched again
    pairs: list[tuple[int, int]] = []
    shifted = 0
    for left, right in _close(hashes[first]):
        left, right = first[left], first[right]
        apart = np.abs(blocks[left].astype(np.int16) - blocks[right]).max(axis=1)
        pairs += zip(left[apart <= BLOCK_LEVELS].tolist(), right[apart <= BLOCK_LEVELS].tolist(), strict=True)
        doubtful = np.flatnonzero((apart > BLOCK_LEVELS) & (apart <= SHIFTED_LEVELS))
        for index in doubtful[: MAX_SHIFTED - shifted]:
            if _apart_when_shifted(images[left[index]], images[right[index]]) <= BLOCK_LEVELS:
                pairs.append((int(left[index]), int(right[index])))
        shifted += len(doubtful)
        if len(pairs) > MAX_PAIRS or shifted > MAX_SHIFTED:
            break
    complete = len(pairs) <= MAX_PAIRS and shifted <= MAX_SHIFTED
    near = _groups(pairs)
    return Duplicates(_largest_first(exact), _largest_first(near), complete)


def _apart_when_shifted(left: Pixels, right: Pixels) -> float:
    """Return by how much block means differ at most, at the shift of `right` at which they differ least (in 255ths).

    Both are resized to `SIDE` x `SIDE`; blocks of `BLOCK` pixels are compared at all shifts of up to `SHIFT` pixels in
    both directions, without the border that a shift moves out of sight. What differs in one place still does then.
    """
    fixed, moved = _box_means(left), _box_means(right)
    start, stop = BLOCK, SIDE - 2 * BLOCK + 1
    centre = fixed[start:stop:BLOCK, start:stop:BLOCK]
    shifts = range(-SHIFT, SHIFT + 1)
    return min(
        float(np.abs(centre - moved[start + down : stop + down : BLOCK, start + along : stop + along : BLOCK]).max())
        for down in shifts
        for along in shifts
    )


def _box_means(image: Pixels) -> np.ndarray:
    """Return float32 [SIDE - BLOCK + 1, same, C]: the mean of the block of pixels that begins at each place."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32).reshape(SIDE, SIDE, -1)
    sums = np.pad(pixels.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0), (0, 0)))
    boxes = sums[BLOCK:, BLOCK:] - sums[:-BLOCK, BLOCK:] - sums[BLOCK:, :-BLOCK] + sums[:-BLOCK, :-BLOCK]
    means: np.ndarray = boxes / np.float32(BLOCK * BLOCK)
    return means


def _digest(image: Pixels) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


def _close(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (left, right) index arrays, left < right, of all pairs at most `HASH_DISTANCE` bits apart.

    Every pair is compared, in blocks of about 4 million; 10,000 pictures are 50 million comparisons of one word.
    """
    rows = max(1, 4_000_000 // max(1, len(hashes)))
    for start in range(0, len(hashes), rows):
        distance = np.bitwise_count(hashes[start : start + rows, None] ^ hashes[None, start:])
        left, right = np.nonzero(distance <= HASH_DISTANCE)
        later = right > left
        for at in range(0, int(later.sum()), 50_000):  # bounds the memory of the comparison of blocks that follows
            part = slice(at, at + 50_000)
            yield left[later][part] + start, right[later][part] + start


def _links(groups: tuple[tuple[int, ...], ...]) -> list[tuple[int, int]]:
    return [(group[0], other) for group in groups for other in group[1:]]


def _groups(pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Return the connected components of the pairs, each sorted (union-find with path halving)."""
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for left, right in pairs:
        parent[root(right)] = root(left)
    found: dict[int, list[int]] = {}
    for node in sorted(parent):
        found.setdefault(root(node), []).append(node)
    return list(found.values())


def _largest_first(groups: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(group) for group in sorted(groups, key=lambda group: (-len(group), group)))
