"""Pictures from the model hub, or from a local folder in the hub's own format, through its `datasets` library.

Rows hold encoded pictures; their bytes are handed on as they are. The library is an extra and is imported only when a
set is opened. Without a network a set that was fetched before still opens, and any other is one line within seconds.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ganvas.data.decode import kind_of
from ganvas.data.source import MAX_FILE_BYTES, Source
from ganvas.errors import DataError, MissingExtra, did_you_mean

ANSWER_SECONDS = 5.0  # how long the hub may take to answer before a set counts as out of reach
_SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}
_IMAGE_NAMES, _LABEL_NAMES = ("image", "img"), ("label", "labels", "fine_label", "class")


class HubSource(Source):
    """The picture column of one split. Names are row numbers, `000123.png`, with the suffix that row 0 really has.

    The label is the name of the first class column (or of a plain column called "label"); every other plain column
    is an attribute. Rows that point to a file instead of holding one are read only from inside `root` or the
    library's own cache, so that a foreign set cannot make us open other files.
    """

    def __init__(self, rows: Any, name: str, licence: str | None = None, root: Path | None = None) -> None:
        import datasets

        features = rows.features
        images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
        if not images:
            columns = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
            raise DataError(f"{name}: no column holds pictures; its columns are {columns}")
        if len(rows) == 0:
            raise DataError(f"{name}: this split has no rows; name another one, as hub:owner/name:split")
        self._column = _first(images, _IMAGE_NAMES)
        # Not decoded: the original bytes go on to our own decoder, with its own rules.
        self._pictures = rows.select_columns([self._column]).cast_column(self._column, datasets.Image(decode=False))
        plain = [key for key, feature in features.items() if isinstance(feature, (datasets.Value, datasets.ClassLabel))]
        plain = [key for key in plain if getattr(features[key], "dtype", "") != "binary"]
        self._plain = rows.select_columns(plain) if plain else None
        self._classes = {key: features[key].names for key in plain if isinstance(features[key], datasets.ClassLabel)}
        self._label = _first(list(self._classes) or [key for key in plain if key in _LABEL_NAMES], _LABEL_NAMES)
        self._roots = [path.resolve() for path in (root, *_caches()) if path is not None]
        suffix = ".png"
        with suppress(OSError):  # a damaged first row is set aside like any other, when it is decoded
            suffix = _SUFFIX.get(kind_of(self.read("0")[:4096]).name, suffix)
        width = max(6, len(str(len(rows) - 1)))  # so that names sort as the rows do
        self._names = [f"{row:0{width}d}{suffix}" for row in range(len(rows))]
        self.name, self.licence = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-."), licence
        # The library's own fingerprint covers the files and every step applied to them.
        self.fingerprint = hashlib.sha256(f"{name}\0{rows._fingerprint}\0{len(rows)}".encode()).hexdigest()

    def names(self) -> Sequence[str]:
        return self._names

    def read(self, name: str) -> bytes:
        held = self._pictures[_row(name)][self._column] or {}
        if held.get("bytes"):
            return bytes(held["bytes"])
        if not held.get("path"):
            raise OSError("the row holds no picture")
        path = Path(held["path"]).resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise OSError("the row points to a file outside its set")
        if not path.is_file():
            raise OSError("the row points to a file that is not there")
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)

    def label(self, name: str) -> str | None:
        return None if not self._label else self._plain_row(name).get(self._label)

    def attributes(self, name: str) -> dict[str, str]:
        return {key: value for key, value in self._plain_row(name).items() if key != self._label}

    def _plain_row(self, name: str) -> dict[str, str]:
        """Return the row's plain columns as text, classes by their names; empty cells are left out."""
        row = self._plain[_row(name)] if self._plain is not None else {}
        return {key: self._text(key, value) for key, value in row.items() if value is not None}

    def _text(self, key: str, value: Any) -> str:
        names = self._classes.get(key)
        if names is not None and 0 <= value < len(names):
            return str(names[value])
        return str(value).lower() if isinstance(value, bool) else str(value)


def open_hub(address: str, name: str | None = None, licence: str | None = None) -> HubSource:
    """Open `owner/name`, `owner/name:split`, `owner/name/config:split`, or a local folder with an optional `:split`.

    Args:
        address: what stands after `hub:`; without a split "train", or the only one there is.
        name: what the source is called; derived from the address.
        licence: recorded with the run; derived from the set's own description.

    Raises:
        MissingExtra: `datasets` is not installed.
        DataError: there is no such set or split, no network, or no picture in it.
    """
    if find_spec("datasets") is None:
        raise MissingExtra("reading data sets of the hub", "hub")
    where, _, split = address.partition(":")
    folder = Path(where).expanduser()
    if where and folder.is_dir():
        with _libraries(offline=True):
            rows = _split_of(_load_folder(folder), split, where)
        return HubSource(rows, name or folder.resolve().name, licence or rows.info.license or None, folder)
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*){1,2}", where, flags=re.ASCII):
        raise DataError(f"'{where}' is no folder and no data set's name; write hub:owner/name or hub:owner/name:split")
    owner, repository, *config = where.split("/")
    repository = f"{owner}/{repository}"
    described = _described(repository)
    with _libraries(offline=described is None):
        rows = _load(repository, config[0] if config else None, split, offline=described is None)
    return HubSource(rows, name or repository.split("/")[1], licence or described or rows.info.license or None)


def is_hub_folder(folder: Path) -> bool:
    """Tell a folder that `datasets` wrote (`save_to_disk`, parquet files) from a folder of picture files."""
    if any((folder / marker).is_file() for marker in ("dataset_dict.json", "state.json")):
        return True
    return any(any((folder / below).glob("*.parquet")) for below in ("", "data"))


def _described(repository: str) -> str | None:
    """Ask the hub for a set and return its licence ("unknown" where it states none); None where it cannot be reached.

    Asked first because `datasets` itself would retry for half a minute on a machine without a network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        found = HfApi().dataset_info(repository, timeout=ANSWER_SECONDS)
    except GatedRepoError:
        step = f"accept its terms at https://huggingface.co/datasets/{repository}, then: hf auth login"
        raise DataError(f"{repository}: the hub gives this set only to people who accepted its terms; {step}") from None
    except RepositoryNotFoundError:
        raise DataError(f"{repository}: the hub has no such data set, or it is private (hf auth login)") from None
    except Exception:  # no name server, no route, a proxy's refusal, a time-out, offline mode: all one to the user
        return None
    card = found.card_data
    return _words((card.get("license") or card.get("license_name")) if card is not None else None) or "unknown"


def _load(repository: str, config: str | None, split: str, *, offline: bool) -> Any:
    """Load one split from the hub or from the cache; every failure of the library becomes one line."""
    import datasets

    try:
        return datasets.load_dataset(repository, config, split=split or "train")
    except Exception as error:  # the library raises a dozen kinds of its own and of those below it
        if offline:
            raise DataError(
                f"{repository}: the hub cannot be reached and the set was not fetched before; check the network, "
                "or use a set that needs none: avatars"
            ) from None
        with suppress(Exception):
            known = datasets.get_dataset_split_names(repository, config)
            if (split or "train") not in known:
                raise _no_split(repository, split or "train", known) from None
        raise _failed(repository, error) from None


def _load_folder(folder: Path) -> Any:
    """Load a folder that `datasets` wrote, or one that it can read (parquet, pictures with metadata)."""
    import datasets

    try:
        if any((folder / marker).is_file() for marker in ("dataset_dict.json", "state.json")):
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(str(folder))
    except Exception as error:  # as in _load
        raise _failed(str(folder), error) from None


def _split_of(loaded: Any, split: str, where: str) -> Any:
    """Return the split asked for; without a wish "train", or the first there is."""
    if not isinstance(loaded, dict):
        if split:
            raise DataError(f"{where}: it has no splits; leave out ':{split}'")
        return loaded
    if split and split not in loaded:
        raise _no_split(where, split, list(loaded))
    return loaded[split or _first(list(loaded), ("train",))]


def _no_split(where: str, split: str, known: Sequence[str]) -> DataError:
    return DataError(f"{where}: there is no split '{split}'{did_you_mean(split, known)}; it has {', '.join(known)}")


def _failed(where: str, error: Exception) -> DataError:
    return DataError(f"{where}: the data set cannot be loaded ({type(error).__name__}: {_words(error)[:200]})")


def _words(value: object) -> str:
    """Return a licence or a message on one line."""
    listed = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return " ".join(" ".join(str(part).split()) for part in listed)


def _first(found: Sequence[str], preferred: Sequence[str]) -> str:
    """Return the first of `preferred` that was found, else the first found, else an empty string."""
    return next((key for key in preferred if key in found), found[0] if found else "")


def _row(name: str) -> int:
    return int(name.split(".", 1)[0])


def _caches() -> list[Path]:
    """Return the folders in which the hub's libraries keep what they fetched."""
    import datasets
    from huggingface_hub import constants

    return [Path(datasets.config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE)]


@contextmanager
def _libraries(*, offline: bool) -> Iterator[None]:
    """Quieten the libraries' logs; where `offline`, let them look only into their caches and show no progress."""
    import datasets
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as hub_logging

    flags = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    levels = datasets.logging.get_verbosity(), hub_logging.get_verbosity()
    bars = datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity_error()
    hub_logging.set_verbosity(logging.ERROR)
    if offline:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = flags
        datasets.logging.set_verbosity(levels[0])
        hub_logging.set_verbosity(levels[1])
        if not bars:
            datasets.enable_progress_bars()
