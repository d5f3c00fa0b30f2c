"""The checked cache: every picture decoded once, kept as uint8 in one memory-mapped file beside what is known of it.

A cache folder appears by one rename after everything in it is on the disk, and carries the SHA-256 of its pixels and
of its index; a folder that does not match is made anew. Its name holds a key of the content and the settings that
change pixels, so another size or another picture never meets an old cache.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ganvas.config import DataSettings
from ganvas.data.decode import Pixels, SetAside, header_size, printable, to_channels
from ganvas.data.report import Tally, split
from ganvas.data.source import Source
from ganvas.data.symmetry import flip_is_safe, mirror_accuracy
from ganvas.data.workers import Prepared, Recipe, prepare_many
from ganvas.errors import CheckpointError, DataError, StorageError
from ganvas.files import encode_json, lock, read_json, storage_errors, sync_folder, write_file

FORMAT = 1  # of the cache and of how pictures are decoded; another number makes every cache anew
IMAGES, META = "images.npy", "meta.json"
MAX_META_BYTES = 4 * 2**30
SAMPLE = 128  # files whose headers are read to choose a size
SMALL_SIDE = 48  # sets whose median smaller side is below this are trained at 32x32
FEW = 200  # below this, starting worker processes costs more than it saves

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Dataset:
    """Prepared pictures. `images` is uint8 [N, H, W, C], read-only and memory-mapped, in the order of `names`.

    `labels` is int64 [N] into `classes`, or None; `attributes` one dict a picture, or None. `train` and `heldout` are
    sorted int64 indices that together are all N. `digest` is a SHA-256 over shape, pixels, labels, order and split.
    `settings` has size, channels and flip derived; `mirror_accuracy` (0.5 to 1) is what flip was derived from.
    """

    root: Path
    name: str
    images: Pixels
    labels: Array | None
    classes: tuple[str, ...]
    names: list[str]
    attributes: list[dict[str, str]] | None
    train: Array
    heldout: Array
    digest: str
    report: dict[str, Any]
    licence: str | None
    settings: DataSettings
    mirror_accuracy: float | None


def prepare(
    source: Source,
    settings: DataSettings,
    cache_root: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Return the prepared pictures of a source: from the cache where it is there and whole, else decoded now.

    `progress` is called with (files done, files in all). Raises DataError where no picture can be used, StorageError
    where the cache cannot be written.
    """
    size = settings.size or _derive_size(source)
    settings = settings.model_copy(update={"size": size})
    folder = Path(cache_root) / f"{source.name}-{_key(source, settings)[:12]}"
    # A run that goes on asks for the channels that it once derived: what was prepared without asking will do.
    undecided = settings.model_copy(update={"channels": None})
    for known in {folder, Path(cache_root) / f"{source.name}-{_key(source, undecided)[:12]}"}:
        if known.exists():
            with suppress(DataError, CheckpointError):
                dataset = load(known)
                if settings.channels in (None, dataset.settings.channels):
                    return _with_settings(dataset, settings)
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder.parent)
    # A short name of its own, and a lock that dies with this process: so the next one can tell what was left behind.
    temporary = folder.parent / f".tmp-{secrets.token_hex(6)}"
    try:
        with lock(temporary):
            _build(source, settings, temporary, progress)
        _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _with_settings(load(folder, check=False), settings)


def load(folder: Path, *, check: bool = True) -> Dataset:
    """Open a cache folder; with `check`, compare all its bytes with the SHA-256 that was written with them.

    Raises DataError (or CheckpointError) naming the file that is missing, damaged or not what it should be;
    `prepare` then makes the folder anew by itself.
    """
    folder = Path(folder)
    written = read_json(folder / META, MAX_META_BYTES)
    if not isinstance(written, dict) or not isinstance(written.get("content"), dict):
        raise DataError(f"{folder / META}: is not the index of a cache; remove the folder and prepare again")
    meta: dict[str, Any] = written["content"]  # type: ignore[assignment]
    if written.get("sha256") != _sha256_of(meta) or meta.get("format") != FORMAT:
        raise DataError(f"{folder / META}: is damaged or of another version; remove the folder and prepare again")
    try:
        images = _open_images(folder / IMAGES, meta, check)
        labels = None if meta["labels"] is None else np.array(meta["labels"], dtype=np.int64)
        heldout = np.array(meta["heldout"], dtype=np.int64)
        if {len(images), len(meta["names"])} | ({len(labels)} if labels is not None else set()) != {len(images)}:
            raise ValueError("other numbers of pictures, names and labels")
        if len(heldout) and not 0 <= heldout.min() <= heldout.max() < len(images):
            raise ValueError("pictures held out that are not there")
        return Dataset(
            root=folder,
            name=meta["name"],
            images=images,
            labels=labels,
            classes=tuple(meta["classes"]),
            names=meta["names"],
            attributes=meta["attributes"],
            train=np.setdiff1d(np.arange(len(images), dtype=np.int64), heldout),
            heldout=heldout,
            digest=meta["digest"],
            report=meta["report"],
            licence=meta["licence"],
            settings=DataSettings.model_validate(meta["settings"]),
            mirror_accuracy=meta["mirror_accuracy"],
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:  # its checksum is right, but who wrote it?
        why = (str(error).splitlines() or ["a field is odd"])[0][:120]
        raise DataError(f"{folder / META}: is not the index of a cache ({why}); remove it and prepare again") from None


def _key(source: Source, settings: DataSettings) -> str:
    """Return a hex key of the content and of every setting that changes what is written."""
    chosen = settings.model_dump(mode="json", exclude={"flip", "workers"})
    return hashlib.sha256(json.dumps([FORMAT, source.fingerprint, chosen], sort_keys=True).encode()).hexdigest()


def _derive_size(source: Source) -> tuple[int, int]:
    """Return 64x64, or 32x32 where the median smaller side of 128 pictures, by their headers, is below 48 pixels."""
    names = source.names()
    sides = []
    for name in names[:: -(-len(names) // SAMPLE)]:
        with suppress(OSError):  # an unreadable file is set aside later, with its reason
            size = header_size(source.read(name))
            sides += [min(size)] if size is not None else []
    return (32, 32) if sides and float(np.median(sides)) < SMALL_SIDE else (64, 64)


def _choose(source: Source, settings: DataSettings) -> tuple[list[str], list[SetAside], int]:
    """Return the names to decode, what classes set aside, and how many `count` left out.

    A random subset, but the same one for the same content: names are ranked by a hash seeded with the fingerprint.
    """
    names, set_aside = list(source.names()), list(source.set_aside)
    if settings.classes:
        unlabelled = {name for name in names if source.label(name) is None}
        if len({source.label(name) for name in names} - {None}) < 2:
            raise DataError(f"{source.name}: classes need two or more sub-folders of pictures; leave classes off")
        reason = ("it is in no sub-folder, so it has no class", "move it into the sub-folder of its class")
        set_aside += [SetAside(printable(name), *reason) for name in sorted(unlabelled)]
        names = [name for name in names if name not in unlabelled]
    left_out = max(0, len(names) - settings.count) if settings.count is not None else 0
    if left_out:
        salt = source.fingerprint.encode()[:64]
        rank = {name: hashlib.blake2b(name.encode("utf-8", "surrogateescape"), key=salt).digest() for name in names}
        names = sorted(sorted(names, key=rank.__getitem__)[: settings.count])
    return names, set_aside, left_out


def _build(source: Source, settings: DataSettings, folder: Path, progress: Callable[[int, int], None] | None) -> None:
    """Decode everything into `folder`: images.npy and meta.json, flushed to the disk."""
    assert settings.size is not None
    names, set_aside, left_out = _choose(source, settings)
    recipe = Recipe(
        settings.size, settings.fit, settings.channels, settings.background, int(settings.max_megapixels * 1e6)
    )
    workers = settings.workers if settings.workers is not None else _cores()
    workers = 0 if len(names) < FEW and settings.workers is None else workers
    tally, used, done = Tally(set_aside), list[str](), 0
    with _Writer(folder / IMAGES, settings.size, settings.channels) as writer:
        for outcomes in prepare_many(source, names, recipe, workers):
            for outcome in outcomes:
                tally.add(outcome)
                if isinstance(outcome, Prepared):
                    writer.append(outcome.pixels)
                    used.append(outcome.name)
            done += len(outcomes)
            if progress is not None:
                progress(done, len(names))
        if not used:
            none = "its only file is no picture" if tally.seen == 1 else f"none of its {tally.seen} files is a picture"
            raise DataError(f"{source.name}: {none} ({tally.main_reasons()}); give a folder or zip of pictures")
        pixels_sha, file_sha = writer.finish()
    images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
    meta = _describe(source, settings, images, used, tally, left_out)
    meta |= {"images_sha256": file_sha, "digest": _digest(pixels_sha, meta)}
    data = encode_json({"sha256": _sha256_of(meta), "content": meta})
    with storage_errors(folder / META, len(data)):
        write_file(folder / META, data)
        sync_folder(folder)


def _describe(
    source: Source, settings: DataSettings, images: Pixels, names: list[str], tally: Tally, left_out: int
) -> dict[str, Any]:
    """Return what is known of the pictures besides their pixels, as JSON values."""
    train, heldout = split(names, tally.digests)
    accuracy = mirror_accuracy(images, train)
    channels = "grey" if images.shape[3] == 1 else "rgb"
    flip = settings.flip if settings.flip is not None else flip_is_safe(accuracy)
    found = [source.label(name) for name in names] if settings.classes else []
    classes = sorted({label for label in found if label is not None})
    number = {label: index for index, label in enumerate(classes)}
    attributes = [source.attributes(name) for name in names]
    return {
        "format": FORMAT,
        "name": source.name,
        "fingerprint": source.fingerprint,
        "licence": source.licence,
        "shape": list(images.shape),
        "names": names,
        "labels": [number[label] for label in found if label is not None] if settings.classes else None,
        "classes": classes,
        "attributes": attributes if any(attributes) else None,
        "heldout": heldout.tolist(),
        "mirror_accuracy": accuracy,
        "settings": settings.model_copy(update={"channels": channels, "flip": flip}).model_dump(mode="json"),
        "report": tally.report(source.name, source.licence, left_out),
    }


class _Writer:
    """Appends pictures to an .npy file whose length is known only at the end.

    While channels are undecided it writes one channel, until the first colour picture: then what is there is written
    again with three. Its hash covers the pixels and then the header, which is written last.
    """

    def __init__(self, path: Path, size: tuple[int, int], channels: Literal["grey", "rgb"] | None) -> None:
        self._path, self._size = path, size
        self._channels: Literal["grey", "rgb"] = channels or "grey"
        self._count = 0
        self._begin()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, pixels: Pixels) -> None:
        """Add uint8 [H, W, 1 or 3]."""
        if pixels.shape[2] == 3 and self._channels == "grey":
            self._to_rgb()
        self._write(np.ascontiguousarray(to_channels(pixels, self._channels)).data.cast("B"))
        self._count += 1

    def finish(self) -> tuple[str, str]:
        """Complete the header and flush all to the disk; return the SHA-256 of the pixels, and of pixels + header."""
        pixels = self._hash.hexdigest()
        header = _npy_header(self._shape())
        with storage_errors(self._path):
            self._file.seek(0)
            self._file.write(header)
            os.fsync(self._file.fileno())
        self._hash.update(header)
        return pixels, self._hash.hexdigest()

    def _shape(self) -> tuple[int, int, int, int]:
        return (self._count, *self._size, 1 if self._channels == "grey" else 3)

    def _begin(self) -> None:
        self._hash = hashlib.sha256()
        with storage_errors(self._path):
            self._file = self._path.open("wb", buffering=0)
            self._file.write(_npy_header(self._shape()))

    def _write(self, data: memoryview) -> None:
        self._hash.update(data)
        with storage_errors(self._path, len(data)):
            while data:
                data = data[self._file.write(data) :]

    def _to_rgb(self) -> None:
        """Write what is there again with three channels."""
        start, length = self._file.tell() - self._count * self._size[0] * self._size[1], self._size[0] * self._size[1]
        self._file.close()
        with storage_errors(self._path):
            grey = self._path.rename(self._path.with_suffix(".grey"))
        self._channels = "rgb"
        self._begin()
        with grey.open("rb") as old:
            old.seek(start)
            for _ in range(self._count):
                one = np.frombuffer(old.read(length), np.uint8).reshape(*self._size, 1)
                self._write(np.repeat(one, 3, axis=2).data.cast("B"))
        grey.unlink()


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of a C-ordered uint8 .npy file (NEP 1); NumPy pads it so that N can grow in place."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _open_images(path: Path, meta: dict[str, Any], check: bool) -> Pixels:
    """Map the pixels; DataError where they are not those that the index was written for."""
    header, shape = _npy_header(tuple(meta["shape"])), tuple(meta["shape"])
    again = "remove the folder and prepare again"
    try:
        if path.is_symlink() or path.stat().st_size != len(header) + math.prod(shape):
            raise DataError(f"{path}: is not of the size that was written; {again}")
        with path.open("rb") as file:
            if file.read(len(header)) != header:
                raise DataError(f"{path}: its header is damaged; {again}")
            if check:
                digest = hashlib.file_digest(file, "sha256")
                digest.update(header)
                if digest.hexdigest() != meta["images_sha256"]:
                    raise DataError(f"{path}: its pixels are damaged (SHA-256 differs); {again}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {again}") from None
    images: Pixels = np.memmap(path, np.uint8, "r", len(header), shape)
    return images


def _digest(pixels_sha: str, meta: dict[str, Any]) -> str:
    """Return the SHA-256 over shape, pixels, labels, order and split."""
    parts = [meta["shape"], pixels_sha, meta["labels"], meta["classes"], meta["names"], meta["heldout"]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _sha256_of(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _with_settings(dataset: Dataset, settings: DataSettings) -> Dataset:
    """Answer with the settings that were asked for; channels and, where it was not asked for, flip as derived."""
    flip = settings.flip if settings.flip is not None else flip_is_safe(dataset.mirror_accuracy)
    derived = settings.model_copy(update={"channels": dataset.settings.channels, "flip": flip})
    return replace(dataset, settings=derived)


def _publish(temporary: Path, folder: Path) -> None:
    """Give a finished folder its name. Where another process was first, its folder is as good."""
    with storage_errors(folder):
        try:
            load(folder)
        except (DataError, CheckpointError):
            shutil.rmtree(folder, ignore_errors=True)  # damaged, or not there at all
            os.replace(temporary, folder)  # noqa: PTH105 (the tests inject their faults into os)
            sync_folder(folder.parent)


def _remove_leftovers(cache_root: Path) -> None:
    """Remove what preparations that died left behind; those at work hold their lock."""
    for leftover in cache_root.glob(".tmp-*"):
        with suppress(OSError):  # finished, its lock given back, and about to get its name
            if abs(time.time() - (leftover / META).stat().st_mtime) < 60:  # in the future: the clock was set back
                continue
        with suppress(StorageError), lock(leftover):
            shutil.rmtree(leftover, ignore_errors=True)


def _cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
