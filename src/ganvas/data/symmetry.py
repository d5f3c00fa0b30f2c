"""May pictures be mirrored? Only where nobody, at small scale, can tell them from their mirror images.

How it is decided. Each of at most 1,000 training pictures x is shown as the difference phi(x) - phi(mirror x), where
phi holds its pixels at 24 x 24 (composition: which side is lighter, which way things face) and, at 32 x 32, the mean
responses of random filters after a ReLU (strokes, wherever they are: letters, digits). A ridge classifier fitted on
one half of the pictures says of the other half which of each pair is the original; then the halves change places.
Half right, 0.5, is guessing: the set knows no left and right. Measured with 1,000 pictures (5 draws): objects 0.48 to
0.54, aligned faces 0.58 to 0.62 (the light), handwritten digits 0.89 to 0.90, printed text 0.87 to 0.94; with 256 the
first two stay under 0.61 and the others above 0.76. Up to `SAFE_ACCURACY` is taken as safe; under 256 pictures nothing
can be told, and so nothing is mirrored.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]

SAFE_ACCURACY = 0.65
FEWEST = 256
MOST = 1000
COMPOSITION_SIDE, STROKE_SIDE = 24, 32  # pixels a side of what is compared
FILTERS, FILTER_SIDE = 64, 5  # random filters and their side
RIDGE = 0.1  # as a share of the features' mean square sum
AT_ONCE = 16  # pictures whose responses are computed together: they stay in the processor's cache
ROWS_AT_ONCE = 4
UNDECIDED = 1e-3  # an original should score 1; what is this near to 0 is rounding
SLICE_BYTES = 64 * 2**20  # pictures are read this much at a time
READ_BYTES = 512 * 2**20  # and no more in all, unless that leaves too few of them


def flip_is_safe(accuracy: float | None) -> bool:
    """Tell from `mirror_accuracy` whether mirrored pictures may be trained on; None (cannot tell) is not safe."""
    return accuracy is not None and accuracy <= SAFE_ACCURACY


def mirror_accuracy(
    images: np.ndarray[Any, np.dtype[np.uint8]], train_indices: np.ndarray[Any, np.dtype[np.int64]], seed: int = 0
) -> float | None:
    """Return how often a classifier tells a picture from its mirror image: 0.5 (never) to 1.

    `images` is uint8 [N, H, W, C], of which `train_indices` are looked at. None where there are fewer than 256.
    """
    if len(train_indices) < FEWEST:
        return None
    random = np.random.default_rng(seed)
    count = min(MOST, len(train_indices), max(FEWEST, READ_BYTES // images[0].size))
    chosen = random.permutation(train_indices)[:count]
    composition, drawing = _small(images, chosen)
    filters = random.standard_normal((FILTER_SIDE * FILTER_SIDE, FILTERS)).astype(np.float32)
    filters -= filters.mean(axis=0)  # blind to brightness, which the pixels show already
    # The right half of the difference says the same as the left, negated.
    pixels = (composition - composition[:, :, ::-1])[:, :, : COMPOSITION_SIDE // 2].reshape(count, -1)
    strokes = _responses(drawing, filters) - _responses(drawing[:, :, ::-1], filters)
    features = np.concatenate([_unit(pixels), _unit(strokes)], axis=1)
    features, half = features[random.permutation(count)], count // 2
    scores = (_score(features[:half], features[half:]), _score(features[half:], features[:half]))
    return float(np.average(scores, weights=(count - half, half)))


def _score(fitted: Floats, judged: Floats) -> float:
    """Fit ridge regression of 1 on odd features, w = (F'F + lambda I)^-1 F'1, and return the share with f.w > 0.

    The features are odd (mirroring negates them), so the mirrored pictures add nothing and there is no intercept.
    No difference at all counts as half right.
    """
    gram = fitted.T @ fitted
    ridge = RIDGE * float(np.trace(gram)) / len(gram) + 1e-5 * len(fitted)
    weights = np.linalg.solve(gram + ridge * np.eye(len(gram)), fitted.sum(axis=0))
    margin = judged @ weights
    undecided = np.abs(margin) < UNDECIDED
    return float((margin >= UNDECIDED).mean() + 0.5 * undecided.mean())


def _unit(features: Floats) -> Floats:
    """Scale one group of features to a mean square sum of 1 a picture, so that neither group drowns the other.

    Differences of symmetric pictures are rounding errors, about 1e-6; the constant keeps those small.
    """
    return features / np.float32(np.sqrt(np.square(features).sum(axis=1).mean()) + 1e-2)


def _small(images: np.ndarray[Any, np.dtype[np.uint8]], chosen: np.ndarray[Any, Any]) -> tuple[Floats, Floats]:
    """Return grey float32 [n, 24, 24] and [n, 32, 32] in 0..1, each pixel the mean over its area of the picture."""
    height, width, channels = images.shape[1:]
    chosen = np.sort(chosen)
    smaller = []
    for side in (COMPOSITION_SIDE, STROKE_SIDE):
        smaller.append((_areas(height, side) / (255 * channels), _areas(width, side).T, list[Floats]()))
    step = max(1, SLICE_BYTES // (4 * images[0].size))
    for start in range(0, len(chosen), step):
        grey = images[chosen[start : start + step]].sum(axis=3, dtype=np.float32)
        for down, right, parts in smaller:
            parts.append(down @ grey @ right)
    composition, drawing = (np.concatenate(parts) for _, _, parts in smaller)
    return composition, drawing


def _areas(pixels: int, side: int) -> Floats:
    """Return float32 [side, pixels]: row i averages the i-th of `side` equal stretches; exactly symmetric."""
    edges = np.arange(side + 1) * pixels  # in units of 1/side pixel, so whole numbers
    starts = np.arange(pixels) * side
    overlap = np.minimum(edges[1:, None], starts + side) - np.maximum(edges[:-1, None], starts)
    return (overlap.clip(0) / pixels).astype(np.float32)


def _responses(pictures: Floats, filters: Floats) -> Floats:
    """Return float32 [n, FILTERS]: the mean over each picture of the ReLU of each filter's response."""
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (FILTER_SIDE, FILTER_SIDE), axis=(1, 2))
    out = np.empty((len(pictures), FILTERS), np.float32)
    for start in range(0, len(pictures), AT_ONCE):
        part = windows[start : start + AT_ONCE]
        # Many small products: BLAS gives a large one to all cores, and on a busy machine waits for the last of them.
        response = part.reshape(-1, part.shape[2] * ROWS_AT_ONCE, FILTER_SIDE * FILTER_SIDE) @ filters
        np.maximum(response, 0, out=response)
        out[start : start + AT_ONCE] = response.reshape(len(part), -1, FILTERS).mean(axis=1)
    return out
