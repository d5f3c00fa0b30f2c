"""Where pictures come from: a folder, a zip archive, or an fsspec address of either.

A source lists names and hands out encoded bytes; it never decodes. What must not be opened (a link that leaves the
folder, a pipe, a device, a file that is plainly no picture) is set aside while listing, with a reason. An archive that
tries to harm (parent folders, absolute names, links, bombs) is refused as a whole.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ganvas.data.decode import SetAside, printable
from ganvas.data.kinds import kind_of
from ganvas.errors import DataError, did_you_mean

MAX_FILE_BYTES = 200 * 1024 * 1024  # one file is held in memory while it is decoded: 600 MB in all
MAX_RATIO = 100  # an archive that grows more than this is a bomb; photographs barely compress
SMALL_BYTES = 1024 * 1024  # a member below this is harmless at any ratio
LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"}
# Files that are plainly something else are not even read; every other file is judged by its content.
NOT_PICTURES = frozenset(
    f".{suffix}"
    for suffix in re.findall(
        r"\w+",
        """txt md rst csv tsv json jsonl yaml yml toml xml html htm log ini cfg py ipynb js css sh bat exe dll so lnk
        zip tar gz tgz bz2 xz 7z rar doc docx xls xlsx ppt pptx mp3 wav flac ogg m4a mp4 mov avi mkv webm xmp aae
        npy npz mat h5 hdf5 pkl pickle pt pth ckpt safetensors onnx parquet db sqlite torrent url""",
    )
)


class Source(ABC):
    """A named list of encoded pictures. Picklable: worker processes get a copy, so no open handle is ever pickled."""

    name: str  # short and usable as a folder name: "photos", "faces-128"
    fingerprint: str  # hex key of the listing (names, sizes, times or checksums): cheap, changes when the content does
    licence: str | None = None  # recorded with the run
    set_aside: Sequence[SetAside] = ()  # entries refused before reading; they count as seen
    shareable: bool = True  # False where another process would not find the same bytes (memory://)

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Return the sorted, unique, relative POSIX names of the candidate pictures."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the encoded bytes of one picture; raise OSError where it cannot be read."""

    def label(self, name: str) -> str | None:
        """Return the class of a picture: its top-level sub-folder below what all names share; None if it has none."""
        return None

    def attributes(self, name: str) -> dict[str, str]:
        """Return what else is known of a picture, such as {"hair": "curly"}; empty by default."""
        return {}


def open_source(spec: str | Path) -> Source:
    """Open a folder, a zip archive, or an fsspec address (`s3://…`, `memory://…`, `file://…`) of either.

    Raises DataError where there is no such thing, no picture in it, its driver is not installed, or it is hostile.
    """
    if isinstance(spec, str) and "://" in spec:
        return _open_address(spec)
    return _open_local(Path(spec).expanduser())


class _Listed(Source):
    """A source whose names were listed once, when it was opened."""

    def __init__(self, name: str, entries: Iterable[tuple[str, object]], set_aside: Sequence[SetAside]) -> None:
        ordered = sorted(entries)
        self.name = _folder_name(name)
        self.set_aside = tuple(set_aside)
        self._names = [entry for entry, _ in ordered]
        parents = {posixpath.dirname(entry) for entry in self._names}
        self._common = posixpath.commonpath(parents) if "" not in parents and parents else ""
        digest = hashlib.sha256()
        for entry, key in ordered:
            digest.update(f"{entry}\0{key}\n".encode("utf-8", "surrogateescape"))
        # A file that is refused today and mended tomorrow changes the listing, and so the cache.
        digest.update(repr([(aside.name, aside.reason) for aside in self.set_aside]).encode())
        self.fingerprint = digest.hexdigest()
        if not self._names:
            first = self.set_aside[0] if self.set_aside else None
            others = f" among its {len(self.set_aside)} entries ({first.name}: {first.reason})" if first else ""
            raise DataError(f"{name}: there is no picture in it{others}; give a folder or zip of pictures")

    def names(self) -> Sequence[str]:
        return self._names

    def label(self, name: str) -> str | None:
        below = name[len(self._common) + 1 :] if self._common else name
        return below.split("/", 1)[0] if "/" in below else None


class FolderSource(_Listed):
    """A local folder, flat or nested. Links are followed only to files inside it; pipes and devices never opened."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        set_aside: list[SetAside] = []
        entries: list[tuple[str, object]] = []
        for name in _walk(self._root, set_aside):
            aside, key = self._examine(name)
            if aside is None:
                entries.append((name, key))
            else:
                set_aside.append(aside)
        super().__init__(root.name or self._root.name or "pictures", entries, sorted(set_aside, key=lambda a: a.name))

    def _examine(self, name: str) -> tuple[SetAside | None, str]:
        """Decide without opening whether a file may be read, and return its content key."""
        path = self._root / name
        shown = printable(name)
        if path.is_symlink():
            if not path.exists():
                return SetAside(shown, "it is a link to nothing", "remove the link"), ""
            if not path.resolve().is_relative_to(self._root):
                return SetAside(shown, "it is a link that leaves the folder", "copy the picture into the folder"), ""
            if path.is_dir():
                return SetAside(shown, "it is a link to a folder", "give that folder itself"), ""
        try:
            status = path.stat()
        except OSError as error:
            return SetAside(shown, f"it cannot be examined ({error.strerror})", "check its permissions"), ""
        if not stat.S_ISREG(status.st_mode):
            return SetAside(shown, "it is a pipe, socket or device, not a file", "remove it from the folder"), ""
        return _plainly_not(name, status.st_size), f"{status.st_size} {status.st_mtime_ns}"

    def read(self, name: str) -> bytes:
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root):  # the folder changed since it was listed
            raise OSError("it now leads out of the folder")
        # Should a pipe have taken the file's place, O_NONBLOCK keeps the opening from waiting for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError("it is no longer a regular file")
            return file.read(MAX_FILE_BYTES)


class ZipSource(_Listed):
    """A zip archive, local or behind an fsspec address; each process opens its own handle when it first reads."""

    def __init__(self, address: str, *, remote: bool = False) -> None:
        self._address, self._remote = address, remote
        self._handle: tuple[int, zipfile.ZipFile] | None = None
        self.shareable = not address.startswith("memory:")
        try:
            archive = self._open()
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            raise DataError(
                f"{address}: not a zip archive that can be read ({error}); give a folder or a whole zip"
            ) from None
        except OSError as error:
            raise DataError(f"{address}: cannot be opened ({error}); check the path and its permissions") from None
        set_aside: list[SetAside] = []
        members: dict[str, zipfile.ZipInfo] = {}
        _refuse_hostile(address, archive)
        for info in archive.infolist():
            if info.is_dir() or _is_litter(info.filename):
                continue
            aside = _plainly_not(info.filename, info.file_size)
            if aside is None and info.filename in members:
                aside = SetAside(printable(info.filename), "another member has the same name", "pack it once only")
            if aside is None:
                members[info.filename] = info
            else:
                set_aside.append(aside)
        entries = [(name, f"{info.file_size} {info.CRC:08x}") for name, info in members.items()]
        super().__init__(posixpath.basename(address.replace("\\", "/")).rsplit(".", 1)[0], entries, set_aside)

    def _open(self) -> zipfile.ZipFile:
        """Open this process's own handle: one that a parent opened must not be shared across a fork."""
        if self._handle is None or self._handle[0] != os.getpid():
            file: Any = _filesystem(self._address)[0].open(self._address, "rb") if self._remote else self._address
            self._handle = os.getpid(), zipfile.ZipFile(file)
        return self._handle[1]

    def read(self, name: str) -> bytes:
        try:
            return self._open().read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError) as error:
            raise OSError(f"damaged in the archive: {error}") from None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_handle": None}


class RemoteSource(_Listed):
    """A folder behind an fsspec address; listed once, read file by file."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.shareable = not address.startswith("memory:")
        files, root = _filesystem(address)
        root = root.rstrip("/")
        set_aside: list[SetAside] = []
        entries: list[tuple[str, object]] = []
        self._paths: dict[str, str] = {}
        for path, info in files.find(root, detail=True).items():
            name = posixpath.relpath(path, root or "/")
            if name.startswith("../") or _is_litter(name):
                continue
            aside = _plainly_not(name, info.get("size") or 0)
            if aside is not None:
                set_aside.append(aside)
                continue
            stamp = next((info[key] for key in ("ETag", "etag", "md5Hash", "mtime", "created") if key in info), "")
            entries.append((name, f"{info.get('size')} {stamp}"))
            self._paths[name] = path
        super().__init__(posixpath.basename(root) or "pictures", entries, sorted(set_aside, key=lambda a: a.name))

    def read(self, name: str) -> bytes:
        try:
            return bytes(_filesystem(self._address)[0].cat_file(self._paths[name]))
        except OSError:
            raise
        except Exception as error:  # each driver has errors of its own; a picture that cannot be had is set aside
            raise OSError(str(error)) from error


def _open_local(path: Path) -> Source:
    """Open a local folder or zip archive, judged by what it is and not by its suffix."""
    try:
        if path.is_dir():
            return FolderSource(path)
        if not path.exists():
            near = (
                did_you_mean(path.name, [entry.name for entry in path.parent.iterdir() if entry.exists()])
                if path.parent.is_dir()
                else ""
            )
            raise DataError(f"{path}: there is no such file or folder{near}; give a folder or zip of pictures")
        if not path.is_file():
            raise DataError(f"{path}: neither a folder nor a file; give a folder or zip of pictures")
        with path.open("rb") as file:
            kind = kind_of(file.read(4096))
        if zipfile.is_zipfile(path) or path.suffix.lower() == ".zip":
            return ZipSource(str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror or error}); check its permissions") from None
    if kind.readable:
        raise DataError(f"{path}: one picture is not a set; give the folder it is in")
    raise DataError(f"{path}: it is {kind.what}, not a folder or zip of pictures")


def _open_address(address: str) -> Source:
    """Open what stands behind an fsspec address; raise DataError where it cannot be had."""
    files, path = _filesystem(address)
    if "file" in ((files.protocol,) if isinstance(files.protocol, str) else files.protocol):
        return _open_local(Path(path))  # the local rules on links and devices apply
    try:
        if files.isdir(path):
            return RemoteSource(address)
        if not files.exists(path):
            raise DataError(f"{address}: there is nothing at this address; check its spelling and your access")
        with files.open(path, "rb") as file:
            kind = kind_of(file.read(4096))
        if kind.name == "ZIP" or path.lower().endswith(".zip"):
            return ZipSource(address, remote=True)
    except DataError:
        raise
    except Exception as error:  # a driver raises what it likes: no credentials, no network, no bucket
        line = " ".join(str(error).split())[:200]
        raise DataError(
            f"{address}: cannot be read ({type(error).__name__}: {line}); check access and network"
        ) from None
    raise DataError(f"{address}: it is {kind.what}; give the address of a folder or zip of pictures")


def _filesystem(address: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address and the path in it (fsspec keeps one instance per process)."""
    import fsspec  # only addresses need it
    from fsspec.registry import known_implementations

    if "::" in address:
        raise DataError(f"{address}: chained addresses are not opened; give the address of the zip or folder itself")
    protocol = address.split("://", 1)[0].lower()
    try:
        files, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        hint = str(known_implementations.get(protocol, {}).get("err", error))
        package = re.search(r"[Ii]nstall \"?'?([\w.-]+)", hint)
        step = f"pip install {package[1]}" if package else hint
        raise DataError(f"{address}: reading {protocol}:// needs a driver: {step}") from None
    except ValueError:
        near = did_you_mean(protocol, list(fsspec.available_protocols()))
        raise DataError(
            f"{address}: '{protocol}' is no kind of address that can be read{near}; give a folder, a zip or a named set"
        ) from None
    except Exception as error:  # a driver may look for credentials at once
        raise DataError(f"{address}: cannot be opened ({' '.join(str(error).split())[:200]}); check access") from None
    return files, str(path)


def _walk(root: Path, set_aside: list[SetAside]) -> Iterable[str]:
    """Yield the relative POSIX names below a folder, without litter; folders that cannot be listed are set aside."""

    def refuse(error: OSError) -> None:
        name = printable(Path(error.filename or root).relative_to(root).as_posix())
        set_aside.append(SetAside(name, f"the folder cannot be listed ({error.strerror})", "check its permissions"))

    for folder, folders, files in os.walk(root, onerror=refuse):
        prefix = "" if Path(folder) == root else Path(folder).relative_to(root).as_posix() + "/"
        links = [entry for entry in folders if os.path.islink(os.path.join(folder, entry))]  # noqa: PTH114, PTH118
        folders[:] = sorted(entry for entry in folders if entry not in links and not _is_litter(entry))
        yield from (prefix + entry for entry in sorted(files + links) if not _is_litter(entry))


def _is_litter(name: str) -> bool:
    """Tell hidden files and what operating systems leave behind."""
    return any(part.startswith(".") or part.lower() in LITTER for part in name.split("/"))


def _plainly_not(name: str, size: int) -> SetAside | None:
    """Return why a file is not worth reading, judged by suffix and size; None where it is."""
    if posixpath.splitext(name)[1].lower() in NOT_PICTURES:
        return SetAside(printable(name), "it is not a picture by its suffix", "leave it, or remove it from the set")
    if size > MAX_FILE_BYTES:
        reason = f"its file of {size / 1e6:.0f} MB is larger than {MAX_FILE_BYTES / 1e6:.0f} MB"
        return SetAside(printable(name), reason, "save it smaller, for instance as JPEG")
    return None


def _refuse_hostile(address: str, archive: zipfile.ZipFile) -> None:
    """Raise DataError where an archive could harm: names that escape, links, encryption, or growth like a bomb's."""
    packed = unpacked = 0
    for info in archive.infolist():
        shown, parts = printable(info.filename), re.split(r"[/\\]", info.orig_filename)
        if ".." in parts:
            _refuse(address, shown, "leads to a parent folder")
        if parts[0] == "" or re.match(r"[A-Za-z]:", info.orig_filename):
            _refuse(address, shown, "is an absolute name")
        if stat.S_ISLNK(info.external_attr >> 16):
            _refuse(address, shown, "is a link")
        if info.flag_bits & 0x1:
            _refuse(address, shown, "is encrypted")
        if info.file_size > SMALL_BYTES and info.file_size > MAX_RATIO * info.compress_size:
            _refuse(address, shown, f"grows more than {MAX_RATIO} times when unpacked")
        packed, unpacked = packed + info.compress_size, unpacked + info.file_size
    if unpacked > 16 * SMALL_BYTES and unpacked > MAX_RATIO * packed:
        raise DataError(f"{address}: the archive grows more than {MAX_RATIO} times when unpacked; refused as a bomb")
    if archive.fp is not None:
        archive.fp.seek(0, os.SEEK_END)
        if packed > archive.fp.tell():
            raise DataError(f"{address}: its members overlap; refused as a bomb")


def _refuse(address: str, member: str, why: str) -> None:
    raise DataError(f"{address}: member '{member}' {why}; the archive is refused, repack your own pictures")


def _folder_name(name: str) -> str:
    """Reduce a name to what every file system takes as a folder."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:80] or "pictures"
