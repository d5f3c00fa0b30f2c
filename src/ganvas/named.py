"""Sets of pictures by name: drawn by rule, built in, or fetched from the hub; and writing any source out as files.

    resolve("avatars") ──▶ Source      resolve("photos/") ──▶ open_source      resolve("hub:owner/name") ──▶ open_hub

The command line meets pictures only through `resolve`, so that a name works wherever a folder does.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from ganvas import draw
from ganvas.data.hub import is_hub_folder, open_hub
from ganvas.data.source import Source, open_source
from ganvas.data.workers import clean_start
from ganvas.errors import DataError, MissingExtra, SettingError, StorageError, did_you_mean
from ganvas.files import storage_errors


@dataclass(frozen=True)
class NamedSet:
    """A set that can be asked for by name; `hub` is its address on the hub, None for those that need no network."""

    name: str
    what: str
    count: int
    size: str
    licence: str
    extra: str | None = None
    hub: str | None = None

    @property
    def offline(self) -> bool:
        return self.hub is None


def _on_hub(name: str, what: str, count: int, size: str, licence: str, address: str) -> NamedSet:
    return NamedSet(name, what, count, size, licence, "hub", address)


# Counts are those of the split that is opened. Licences are what the makers state; where they restrict use it says so,
# because a set that can be fetched is not thereby free to use.
_SETS = (
    NamedSet("avatars", "portraits drawn by rule, with attributes; any count", 5000, "any", "CC0 1.0"),
    NamedSet("digits", "handwritten digits of scikit-learn, 10 classes", 1797, "8x8", "CC BY 4.0", "digits"),
    _on_hub("mnist", "handwritten digits, 10 classes", 60_000, "28x28", "MIT (as the hub states)", "ylecun/mnist"),
    _on_hub("fashion-mnist", "clothing, 10 classes", 60_000, "28x28", "MIT", "zalando-datasets/fashion_mnist"),
    _on_hub("cifar10", "small photographs, 10 classes", 50_000, "32x32", "not stated", "uoft-cs/cifar10"),
    _on_hub("celeba", "faces, 40 attributes", 162_770, "178x218", "research only", "flwrlabs/celeba"),
    _on_hub("lsun", "bedrooms", 287_968, "256 wide", "not stated", "pcuenq/lsun-bedrooms"),
    _on_hub("ffhq", "faces, aligned", 70_000, "256x256", "CC BY-NC-SA 4.0", "merkol/ffhq-256"),
    _on_hub("afhq", "faces of cats, dogs and wild animals", 16_130, "512x512", "CC BY-NC 4.0", "huggan/AFHQ"),
)
NAMED: dict[str, NamedSet] = {known.name: known for known in _SETS}


class AvatarSource(Source):
    """Portraits drawn when they are read: `avatars/000000.png` is the portrait of seed 0, and so on.

    The label is the colour of the hair, or of what else the style varies; all attributes are kept.
    """

    def __init__(self, count: int, style: str = draw.DEFAULT_STYLE, side: int = 64) -> None:
        if not 1 <= count <= 100_000_000:
            raise SettingError(f"count {count} is outside 1 to 100,000,000; 5000 is the usual choice")
        if not 8 <= side <= 2048:
            raise SettingError(f"size {side} is outside 8 to 2048 pixels; 64 is the usual choice")
        self.style, self.side, self._count = style, side, count
        self.name = "avatars" if style == draw.DEFAULT_STYLE else f"avatars-{style}"
        self.licence = draw.licence(style)
        # Another version, ours or of the drawing libraries, may draw other pictures for the same seeds.
        made_by = [
            f"{package}=={version(package)}" for package in ("ganvas", "dicebear-core", "dicebear-styles", "resvg-py")
        ]
        key = f"avatars\0{style}\0{side}\0{count}\0{draw.licence(style)}\0{made_by}\0{self._sample()}"
        self.fingerprint = hashlib.sha256(key.encode()).hexdigest()

    def _sample(self) -> str:
        """Return a digest of one portrait: it changes with our own palettes and framing."""
        return hashlib.sha256(draw.portrait(0, self.style, self.side)[0]).hexdigest()

    @cached_property
    def _names(self) -> Sequence[str]:
        width = max(6, len(str(self._count - 1)))  # so that names sort as the seeds do
        return [f"{self.name}/{seed:0{width}d}.png" for seed in range(self._count)]

    def names(self) -> Sequence[str]:
        return self._names

    def read(self, name: str) -> bytes:
        return draw.portrait(_number(name), self.style, self.side)[0]

    def label(self, name: str) -> str | None:
        found = self.attributes(name)
        colours = [key for key in found if key.endswith("_colour")]
        return found.get("hair_colour") or (found[colours[0]] if colours else None)

    def attributes(self, name: str) -> dict[str, str]:
        return draw.attributes(_number(name), self.style)


class DigitSource(Source):
    """scikit-learn's 1,797 handwritten digits: 8x8 in 17 greys, enlarged four times, white on black; label 0 to 9."""

    name = "digits"
    licence = "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak (UCI 1998), CC BY 4.0"
    fingerprint = hashlib.sha256(b"digits 32x32 bicubic 1").hexdigest()

    def __init__(self) -> None:
        if find_spec("sklearn") is None:
            raise MissingExtra("the set 'digits'", "digits")
        self._greys, self._labels = _load_digits()

    def names(self) -> Sequence[str]:
        return [f"digits/{row:04d}.png" for row in range(len(self._labels))]

    def read(self, name: str) -> bytes:
        # 16 is the darkest ink. Bicubic, because training sizes begin at 16 pixels and squares of 4 would be learned.
        grey = np.rint(self._greys[_number(name)] * (255 / 16)).astype(np.uint8)
        written = io.BytesIO()
        Image.fromarray(grey).resize((32, 32), Image.Resampling.BICUBIC).save(written, "png")
        return written.getvalue()

    def label(self, name: str) -> str | None:
        return str(self._labels[_number(name)])


@lru_cache(maxsize=1)
def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return (greys float64 [1797, 8, 8] in 0 to 16, labels int [1797])."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images, found.target


def _number(name: str) -> int:
    return int(Path(name).stem)


def resolve(
    spec: str | Path,
    *,
    classes: bool = False,
    count: int | None = None,
    side: int = 64,
    notice: Callable[[str], None] = warnings.warn,
) -> Source:
    """Turn what a person wrote into a source of pictures.

    Args:
        spec: a folder, zip or address; a name of `NAMED`; `avatars:style`; `hub:owner/name[/config][:split]`,
            `hub:folder[:split]` or `hf://datasets/owner/name`. A local folder or file wins over a set of the same name.
        classes: refuse a source in which no picture has a class.
        count: how many avatars to draw; sets of fixed size are cut by `DataSettings.count` instead.
        side: side in pixels at which avatars are drawn; give the longer side of the training size.
        notice: is told, in one line, where the same word means two things.

    Raises:
        DataError: there is no such thing, or it cannot be reached. MissingExtra: it needs an extra. SettingError: a
            style or count that is not allowed, or no classes where they are asked for.
    """
    source = _resolve(str(spec), count, side, notice)
    if classes and not any(source.label(name) is not None for name in source.names()):
        raise SettingError(f"classes: no picture of '{spec}' has a class; put them into one sub-folder a class")
    return source


def _resolve(text: str, count: int | None, side: int, notice: Callable[[str], None]) -> Source:
    if not text.strip():
        raise DataError(f"'{text}' names no pictures; give a folder, a zip, or one of {', '.join(NAMED)}")
    word, _, style = text.partition(":")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise DataError(f"{text}: there is no such user on this machine; write the folder's whole path") from None
    if path.exists():
        if text in NAMED:
            notice(
                f"'{text}' here is the local {'folder' if Path(text).is_dir() else 'file'}, not the set of that name"
            )
        return open_hub(text) if path.is_dir() and is_hub_folder(path) else open_source(path)
    if word == "avatars":
        return AvatarSource(NAMED["avatars"].count if count is None else count, style or draw.DEFAULT_STYLE, side)
    if text == "digits":
        return DigitSource()
    if word in NAMED and (address := NAMED[word].hub):
        return open_hub(f"{address}:{style}" if style else address, word, NAMED[word].licence)
    if found := re.fullmatch(r"hub:(?://)?(.+)", text) or re.fullmatch(r"hf://datasets/([^/]+/[^/]+)/?", text):
        return open_hub(found[1])
    if "://" not in text and not re.search(r"[/\\.]", text):
        here = [entry.name for entry in Path().iterdir() if not entry.name.startswith(".")]
        near = did_you_mean(word, [*NAMED, *here])
        raise DataError(f"'{text}' is no folder here and no named set{near}; the sets are {', '.join(NAMED)}")
    return open_source(text)


def list_table() -> list[dict[str, str]]:
    """Return the rows of `ganvas data list`, as {column: text}."""
    return [
        {
            "name": known.name,
            "what": known.what,
            "pictures": f"{known.count:,}",
            "size": known.size,
            "licence": known.licence,
            "needs": _needs(known),
        }
        for known in NAMED.values()
    ]


def _needs(known: NamedSet) -> str:
    """Say what has to be there: an extra and whether it is installed, a network."""
    if known.extra is None:
        return "nothing"
    module = {"hub": "datasets", "digits": "sklearn"}[known.extra]
    extra = f"extra '{known.extra}'{'' if find_spec(module) else ' (not installed)'}"
    return extra if known.offline else f"{extra}, network"


def export_set(
    source: Source,
    to: Path | str,
    count: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> int:
    """Write a source out as files: the pictures as they are, `attributes.csv` and `LICENCE.txt`.

    Everything is written beside `to` first and renamed into place at the end, so that `to` is whole or not there.

    Args:
        source: where the pictures come from.
        to: the folder to make; it may exist if it is empty.
        count: how many pictures, from the first; all by default.
        progress: is called with (pictures written, pictures in all).
        workers: processes that draw; derived: one a core where drawing takes longer than starting them.

    Returns:
        The number of pictures written.

    Raises:
        StorageError: the folder is not empty, or cannot be written. DataError: a picture cannot be read.
        SettingError: `count` is less than 1.
    """
    if count is not None and count < 1:
        raise SettingError(f"count {count} is less than 1; leave it out for all pictures")
    names = source.names()[:count]
    target = Path(to)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StorageError(f"{target}: it exists and is not an empty folder; choose another with --to, or remove it")
    partial = target.absolute().parent / f".{target.absolute().name}.{os.getpid()}.partial"
    try:
        with storage_errors(target):
            partial.mkdir(parents=True)
            rows = []
            for row in _written(source, names, partial, workers):
                rows.append(row)
                if progress is not None:
                    progress(len(rows), len(names))
            _write_table(partial / "attributes.csv", rows)
            (partial / "LICENCE.txt").write_text(_licence_text(source, len(rows)), encoding="utf-8")
            if target.exists():
                target.rmdir()  # empty; Windows does not rename onto it
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(rows)


def _written(source: Source, names: Sequence[str], folder: Path, workers: int | None) -> Iterator[dict[str, str]]:
    """Write the pictures into `folder`; yield each one's row of the table, in the order of `names`."""
    if workers is None:
        # Drawing 500 portraits takes about as long as starting the processes; reading files gains nothing from them.
        worth_it = isinstance(source, AvatarSource) and len(names) >= 500
        workers = (os.cpu_count() or 1) if worth_it else 0
    if workers < 2:
        yield from (_write_one(source, folder, name) for name in names)
        return
    chunks = [names[start : start + 100] for start in range(0, len(names), 100)]
    # Spawned, not forked: the caller may hold threads (a progress display, torch) that do not survive a fork.
    with ProcessPoolExecutor(min(workers, len(chunks)), get_context("spawn")) as pool:
        with clean_start():  # the processes start with the first chunks that are handed in
            drawn = pool.map(_write_chunk, repeat(source), repeat(folder), chunks)
        try:
            for rows in drawn:
                yield from rows
        except BrokenProcessPool:
            raise DataError(
                "a process that drew pictures died (out of memory?); draw fewer, or a smaller size"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _write_chunk(source: Source, folder: Path, names: Sequence[str]) -> list[dict[str, str]]:
    return [_write_one(source, folder, name) for name in names]


def _write_one(source: Source, folder: Path, name: str) -> dict[str, str]:
    """Write one picture below `folder`, and return its row of the table."""
    inside = name.removeprefix(f"{source.name}/")
    path = folder / inside
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{name}: this name leads out of the folder; nothing was written")
    try:
        data = source.read(name)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error}); nothing was written") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    label = source.label(name)
    return {"file": inside} | ({} if label is None else {"label": label}) | source.attributes(name)


def _write_table(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write the rows as CSV, with every column that any row has, in the order in which they appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        table.writerows(rows)


def _licence_text(source: Source, count: int) -> str:
    stated = source.licence or "not known: ask whoever made these pictures before you publish anything made from them"
    return f"{source.name}: {count:,} pictures\nLicence: {stated}\n"
