"""The verb, in the order in which it happens: samples against real pictures, beside real against real pictures."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ganvas import __version__
from ganvas.data.cache import Dataset
from ganvas.errors import CheckpointError, SettingError
from ganvas.evaluate import metrics
from ganvas.evaluate.attributes import probe
from ganvas.evaluate.copying import duplicate_samples, find_copies
from ganvas.evaluate.features import Features, open_features, vectors
from ganvas.evaluate.manifold import manifold
from ganvas.evaluate.memory import real_vectors, turned
from ganvas.evaluate.report import Shown
from ganvas.evaluate.result import Attribute, Copying, Evaluation, Pair, Protocol, Score, Scores
from ganvas.evaluate.subject import (
    Subject,
    check_same_channels,
    is_run,
    open_images,
    open_run,
    pictures_like,
    pictures_of_run,
    read_curve,
)
from ganvas.evaluate.words import say
from ganvas.generator import missing

Split = Literal["heldout", "train", "all"]
COUNT = 5_000  # samples, unless told: intervals are narrow enough, and a CPU is done in minutes
COPY_SAMPLES = 2_000  # samples that are compared with every training picture
REFERENCE = 50_000  # pictures at most in the reference, as papers have it
TRAIN = 20_000  # training pictures at most whose features are taken
SHOWN = 64  # images of each kind that the report shows
CLASS_MIN = 20  # images and pictures below which a class has no scores of its own
MANIFOLD_MIN = 8  # images and pictures below which there are too few neighbours to count

Said = Callable[[str, int, int], None]  # (stage, done, total)


@dataclass
class Clock:
    """Where the time goes, stage by stage, in seconds; and the stage's progress to whoever looks on."""

    said: Said
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Time what happens inside as `name`."""
        start = time.perf_counter()
        try:
            yield lambda done, total: self.said(name, done, total)
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)


def evaluate(
    what: str | Path,
    *,
    data: str | Path | None = None,
    features: str | Callable[[np.ndarray], np.ndarray] = "lite0",
    count: int | None = None,
    split: Split = "heldout",
    truncation: float = 1.0,
    size: tuple[int, int] | None = None,
    classes: bool = False,
    device: str | None = None,
    precision: str | None = "fp32",
    tell: Callable[[str], None] = warnings.warn,
    said: Said = lambda stage, done, total: None,
) -> tuple[Evaluation, Shown]:
    """Measure a run, or a folder of images, against pictures that it has not seen.

    `what`: a run folder, or images: a folder, zip or address, which then need `data`, the pictures they should be
    like. `features`: a name that `open_features` knows, or a callable from uint8 `[B, H, W, C]` to `[B, D]`. `count`:
    images to compare; by default 5,000, or as many as there are training pictures for the row beside it. `split`: the
    reference is the held-out pictures, those trained on, or all. `size` and `classes` tell how to read a folder.

    Returns the figures, and the pictures that the report shows with them. Raises GanvasError, one line.
    """
    clock = Clock(said)
    with clock.stage("opening") as progress:
        subject, dataset = open_both(str(what), data, truncation, size, classes, device, precision, tell, progress)
        network = open_features(features, device=device)
        reference, others = parts(dataset, split)
        count = how_many(subject, count, len(others))
    notes = notes_on(subject, dataset, count, others, split)

    with clock.stage("features of real pictures") as progress:
        real = real_vectors(dataset, reference, network, progress)
        beside = real_vectors(dataset, others[:count], network, progress)
    with clock.stage("samples and their features") as progress:
        shown: list[np.ndarray] = []
        made = vectors(network, watched(subject.batches(count), shown), count, progress)
    with clock.stage("metrics"):
        samples_row, real_row = compare("samples", made, real), compare("real", beside, real)
        per_class = by_class(subject, dataset, made, real, reference)
    with clock.stage("copying") as progress:
        copying = copies(subject, dataset, network, made, progress)
        twins = duplicate_samples(made[:COPY_SAMPLES], beside[:COPY_SAMPLES])
    with clock.stage("attributes"):
        attributes = attributes_of(dataset, network, made)

    curve, curve_features = read_curve(subject.run)
    evaluation = Evaluation(
        name=subject.name,
        source=subject.source,
        pictures=dataset.name,
        seen_images=subject.seen_images,
        weights=subject.weights,
        truncation=subject.truncation,
        protocol=Protocol(
            features=network.name,
            dimensions=made.shape[1],
            resizer=network.resizer,
            split=split,
            size=subject.size,
            data_digest=dataset.digest,
            ganvas=__version__,
        ),
        samples=samples_row,
        real=real_row,
        classes=per_class,
        copying=copying,
        duplicates=twins,
        attributes=attributes,
        curve=curve,
        curve_features=curve_features,
        notes=notes,
        seconds=clock.seconds,
    )
    pairs = pictures_of_pairs(subject, dataset, copying)
    heldout = dataset.heldout if len(dataset.heldout) else dataset.train
    spread = heldout[np.linspace(0, len(heldout) - 1, min(SHOWN, len(heldout)), dtype=np.int64)]
    real_shown = np.asarray(dataset.images[spread])
    return evaluation.model_copy(update={"words": say(evaluation)}), Shown(
        samples=np.concatenate(shown)[:SHOWN], real=real_shown, pairs=pairs
    )


def open_both(
    what: str,
    data: str | Path | None,
    truncation: float,
    size: tuple[int, int] | None,
    classes: bool,
    device: str | None,
    precision: str | None,
    tell: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> tuple[Subject, Dataset]:
    """The images, and the pictures to measure them against. Raises SettingError for words that do not go together."""
    path = Path(what)
    if is_run(path):
        if size is not None or classes:
            raise SettingError(f"{what}: a run has its own size and classes; leave --size and --classes out")
        subject = open_run(path, truncation, device, precision)
        dataset = pictures_of_run(path, tell, progress) if data is None else None
    else:
        if data is None and not path.exists() and "://" not in what:
            raise CheckpointError(missing(path))
        if data is None:
            raise SettingError(
                f"{what}: is not a run folder; images need pictures to be measured against: --data photos/"
            )
        if truncation != 1.0:
            raise SettingError(f"truncation {truncation:g}: {what} holds images, not a generator; leave it out")
        subject, dataset = open_images(what, size, classes, tell, progress), None
    if dataset is None:
        dataset = pictures_like(subject, str(data), tell, progress)
    check_same_channels(subject, dataset)
    return subject, dataset


def parts(dataset: Dataset, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the reference, and of the real pictures for the row beside the samples: they share no picture.

    Each is in a random order that is always the same. `all` is cut into two halves, so that there is a row beside.
    """
    random = np.random.default_rng(0)
    train, heldout = random.permutation(dataset.train), random.permutation(dataset.heldout)
    if split != "all" and not len(heldout):
        total = len(train)
        raise SettingError(f"split {split}: of {total} pictures none is held out (that takes 20); use --split all")
    if split == "heldout":
        return heldout, train
    if split == "train":
        return train[:REFERENCE], heldout
    both = random.permutation(np.concatenate([train, heldout]))
    return both[::2][:REFERENCE], both[1::2][:REFERENCE]


def how_many(subject: Subject, count: int | None, beside: int) -> int:
    """Images to compare: as asked; else 5,000, or fewer where real pictures beside them are fewer."""
    there = subject.count
    if count is None:
        count = min(COUNT, max(beside, 2), there or COUNT)
    if count < 2:
        raise SettingError(f"count {count}: statistics need 2 images at least; 1,000 is a good start")
    if there is not None and count > there:
        raise SettingError(f"count {count:,}: {subject.source} holds {there:,} images; ask for as many or fewer")
    return count


def notes_on(subject: Subject, dataset: Dataset, count: int, others: np.ndarray, split: Split) -> list[str]:
    """What bounds the figures."""
    notes = []
    if len(others) < count:
        notes.append(
            f"The row of real pictures has {len(others):,} images and the samples {count:,}: the Fréchet distance "
            "falls with more images, so compare those two with care."
        )
    if len(dataset.train) > TRAIN:
        notes.append(f"Copies were looked for among {TRAIN:,} of {len(dataset.train):,} training pictures in features.")
    if not len(dataset.heldout):
        notes.append("No picture is held out, so copying cannot be told from learning here.")
    if subject.run is None and split == "heldout":
        notes.append("Held out are those pictures that ganvas would hold out; another tool may have trained on them.")
    return notes


def compare(name: str, images: np.ndarray, reference: np.ndarray) -> Scores:
    """Every metric of one set of vectors `[N, D]` against the reference `[M, D]`.

    Those that count neighbours take as many of each, since their balls shrink as pictures get more.
    """
    n = min(len(images), len(reference))
    around = manifold(reference[:n], images[:n]) if n >= MANIFOLD_MIN else None
    kid = metrics.kid(reference, images) if n > 2 else None
    distance = metrics.frechet_distance(metrics.Moments.of(reference), metrics.Moments.of(images)) if n > 1 else None
    return Scores(
        name=name,
        count=len(images),
        reference=len(reference),
        frechet_distance=distance,
        kid=None if kid is None else Score(value=kid.value, low=kid.low, high=kid.high),
        precision=None if around is None else around.precision,
        recall=None if around is None else around.recall,
        density=None if around is None else around.density,
        coverage=None if around is None else around.coverage,
        mind=metrics.mind(reference, images) if n > 1 else None,
    )


def by_class(
    subject: Subject, dataset: Dataset, made: np.ndarray, real: np.ndarray, reference: np.ndarray
) -> list[Scores]:
    """Scores of each class that has at least CLASS_MIN images and pictures; none without classes."""
    labels = subject.labels(len(made))
    if labels is None or dataset.labels is None:
        return []
    rows = []
    real_labels = np.array([dataset.classes[label] for label in dataset.labels[reference]])
    made_labels = np.array([subject.classes[label] for label in labels])
    for name in subject.classes:
        images, pictures = made[made_labels == name], real[real_labels == name]
        if min(len(images), len(pictures)) >= CLASS_MIN:
            rows.append(compare(name, images, pictures))
    return rows


def copies(
    subject: Subject,
    dataset: Dataset,
    network: Features,
    made: np.ndarray,
    progress: Callable[[int, int], None],
) -> list[Copying]:
    """The search for copies, in features and in pixels. Empty where nothing is held out to compare with."""
    if not len(dataset.heldout):
        return []
    spaces = [network] if network.name.startswith("pixels") else [network, open_features("pixels")]
    train = np.random.default_rng(0).permutation(dataset.train)[:TRAIN]
    count = min(len(made), COPY_SAMPLES)
    found = []
    for space in spaces:
        own = made[:count] if space is network else vectors(space, subject.batches(count), count)
        found.append(
            find_copies(
                space.name,
                train=real_vectors(dataset, train, space, progress),
                heldout=real_vectors(dataset, dataset.heldout, space),
                samples=own,
                heldout_mirrored=real_vectors(dataset, dataset.heldout, space, mirrored=True),
                samples_mirrored=vectors(space, turned(subject.batches(count)), count, progress),
                indices=train,
                names=dataset.names,
            )
        )
    return found


def attributes_of(dataset: Dataset, network: Features, made: np.ndarray) -> list[Attribute]:
    """What became of the pictures' known attributes; empty where none are known."""
    if dataset.attributes is None or not len(dataset.heldout):
        return []
    train = np.random.default_rng(0).permutation(dataset.train)[:TRAIN]
    known = dataset.attributes
    return probe(
        real_vectors(dataset, train, network),
        [known[index] for index in train],
        real_vectors(dataset, dataset.heldout, network),
        [known[index] for index in dataset.heldout],
        made,
    )


def pictures_of_pairs(
    subject: Subject, dataset: Dataset, copying: Sequence[Copying]
) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """The closest pairs of the first feature space as pictures: the sample (mirrored where that is nearer), the
    training picture, and a caption."""
    pairs: list[Pair] = copying[0].pairs if copying else []
    if not pairs:
        return []
    samples = subject.pick([pair.sample for pair in pairs])
    found = []
    for image, pair in zip(samples, pairs, strict=True):
        words = f"sample {pair.sample}, {pair.name}, distance {pair.distance:.3g}"
        turned_or_not = image[:, ::-1] if pair.mirrored else image
        caption = f"{words}, mirrored" if pair.mirrored else words
        found.append((turned_or_not, np.asarray(dataset.images[pair.picture]), caption))
    return found


def watched(batches: Iterator[np.ndarray], shown: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Hand batches on, and keep the first SHOWN images."""
    for images in batches:
        if sum(map(len, shown)) < SHOWN:
            shown.append(images)
        yield images
