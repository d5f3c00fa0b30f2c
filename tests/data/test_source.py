"""Sources: what is listed, what is set aside unopened, what is refused as a whole."""

from __future__ import annotations

import io
import os
import pickle
import stat
import struct
import sys
import zipfile
from pathlib import Path

import fsspec
import pytest
from corpus import colours, encode

from ganvas.data.source import Source, open_source
from ganvas.errors import DataError

PNG = encode(colours(16, 16), "PNG")


def fill(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


def pack(path: Path, names: list[str], data: bytes = PNG) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, data)
    return path


def test_folder_is_listed_recursively_sorted_without_litter(tmp_path: Path) -> None:
    wanted = ["a.png", "b/a.png", "b/c/z.png", "é 写.png"]
    fill(tmp_path, [*wanted, ".hidden.png", ".git/x.png", "Thumbs.db", "__MACOSX/a.png", "b/.DS_Store"])
    source = open_source(tmp_path)
    assert list(source.names()) == sorted(wanted)
    assert source.read("b/c/z.png") == PNG
    assert source.set_aside == () and source.licence is None
    assert [source.label(name) for name in sorted(wanted)] == [None, "b", "b", None]


@pytest.mark.parametrize("kind", ["folder", "zip", "memory"])
def test_a_common_root_is_no_class(tmp_path: Path, kind: str) -> None:
    names = ["set/cat/1.png", "set/cat/deep/2.png", "set/dog/1.png"]
    source = make(tmp_path, kind, names)
    assert list(source.names()) == names
    assert [source.label(name) for name in names] == ["cat", "cat", "dog"]
    flat = make(tmp_path / "other", kind, ["faces/1.png", "faces/2.png"])
    assert {flat.label(name) for name in flat.names()} == {None}


def make(tmp_path: Path, kind: str, names: list[str]) -> Source:
    tmp_path.mkdir(exist_ok=True)
    if kind == "folder":
        return open_source(fill(tmp_path / "folder", names))
    if kind == "zip":
        return open_source(pack(tmp_path / "archive.zip", names))
    memory = fsspec.filesystem("memory")
    root = f"/{tmp_path.name}-{len(names)}"
    for name in names:
        memory.pipe_file(f"{root}/{name}", PNG)
    return open_source(f"memory:/{root}")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX links and pipes")
def test_links_pipes_and_foreign_suffixes_are_set_aside_and_never_opened(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", ["a.png", "b.png"])
    outside = fill(tmp_path / "elsewhere", ["secret.png"])
    (root / "inside.png").symlink_to(root / "a.png")
    (root / "leaves.png").symlink_to(outside / "secret.png")
    (root / "folder-link").symlink_to(outside)
    (root / "self").symlink_to(root)
    (root / "nothing.png").symlink_to(root / "gone.png")
    (root / "notes.txt").write_text("hello")
    os.mkfifo(root / "pipe.png")  # opening it for reading would wait for ever
    source = open_source(root)
    assert list(source.names()) == ["a.png", "b.png", "inside.png"]
    reasons = {aside.name: aside.reason for aside in source.set_aside}
    assert "leaves" in reasons["leaves.png"] and "leaves" in reasons["folder-link"]
    assert "folder" in reasons["self"] and "nothing" in reasons["nothing.png"]
    assert "pipe" in reasons["pipe.png"] and "suffix" in reasons["notes.txt"]
    assert all(aside.fix for aside in source.set_aside)
    (root / "b.png").unlink()
    os.mkfifo(root / "b.png")  # swapped after listing
    with pytest.raises(OSError, match="regular"):
        source.read("b.png")
    (root / "a.png").unlink()
    (root / "a.png").symlink_to(outside / "secret.png")
    with pytest.raises(OSError, match="out of the folder"):
        source.read("a.png")


def test_fingerprint_follows_names_and_content_but_not_the_place(tmp_path: Path) -> None:
    one = pack(tmp_path / "one.zip", ["a.png", "b.png"])
    (tmp_path / "moved").mkdir()
    again = pack(tmp_path / "moved" / "two.zip", ["b.png", "a.png"])
    assert open_source(one).fingerprint == open_source(again).fingerprint
    changed = pack(tmp_path / "three.zip", ["a.png", "b.png"], PNG[:-1] + b"x")
    renamed = pack(tmp_path / "four.zip", ["a.png", "c.png"])
    assert len({open_source(path).fingerprint for path in (one, changed, renamed)}) == 3
    folder = fill(tmp_path / "folder", ["a.png"])
    before = open_source(folder).fingerprint
    assert open_source(folder).fingerprint == before
    os.utime(folder / "a.png", ns=(1, 1))
    assert open_source(folder).fingerprint != before


@pytest.mark.parametrize("kind", ["folder", "zip", "memory"])
def test_a_source_survives_pickling_without_open_handles(tmp_path: Path, kind: str) -> None:
    source = make(tmp_path, kind, ["x/a.png", "y/b.png"])
    source.read("x/a.png")  # opens a handle where there is one
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own bytes)
    assert copy.read("y/b.png") == PNG
    assert (copy.names(), copy.fingerprint, copy.name) == (source.names(), source.fingerprint, source.name)


def test_addresses_of_folder_and_zip(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/set.zip", pack(tmp_path / "set.zip", ["a.png"]).read_bytes())
    memory.pipe_file("/bucket/no-suffix", (tmp_path / "set.zip").read_bytes())
    for address in ("memory://bucket/set.zip", "memory://bucket/no-suffix", f"file://{tmp_path / 'set.zip'}"):
        source = open_source(address)
        assert list(source.names()) == ["a.png"] and source.read("a.png") == PNG
        assert source.shareable == address.startswith("file")
    assert open_source(f"file://{fill(tmp_path / 'f', ['b.png'])}").read("b.png") == PNG


@pytest.mark.parametrize(
    ("name", "word"),
    [("../a.png", "parent"), ("x/../../a.png", "parent"), ("..\\a.png", "parent"), ("/etc/a.png", "absolute"),
     ("C:\\a.png", "absolute"), ("\\\\host\\a.png", "absolute")],
)  # fmt: skip
def test_archives_whose_names_escape_are_refused(tmp_path: Path, name: str, word: str) -> None:
    with pytest.raises(DataError, match=word) as caught:
        open_source(pack(tmp_path / "evil.zip", ["good.png", name]))
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_archives_with_links_bombs_encryption_or_overlaps_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.png", bytes(5_000_000))
    with zipfile.ZipFile(tmp_path / "many.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(40):  # each small enough to be let through, together a bomb
            archive.writestr(f"{index}.png", bytes(900_000))
    data = bytearray(pack(tmp_path / "locked.zip", ["a.png"]).read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(data)
    data = bytearray(pack(tmp_path / "overlap.zip", ["a.png", "b.png"]).read_bytes())
    for at in (at for at in range(len(data)) if data[at : at + 4] == b"PK\x01\x02"):
        struct.pack_into("<I", data, at + 20, len(data) - 100)
    (tmp_path / "overlap.zip").write_bytes(data)
    for name, word in (("link", "link"), ("bomb", "100 times"), ("many", "100 times"), ("locked", "encrypted")):
        with pytest.raises(DataError, match=word):
            open_source(tmp_path / f"{name}.zip")
    with pytest.raises(DataError, match="overlap"):
        open_source(tmp_path / "overlap.zip")


def test_a_damaged_member_is_an_oserror_and_the_rest_can_be_read(tmp_path: Path) -> None:
    path = pack(tmp_path / "set.zip", ["a.png", "b.png"])
    data = bytearray(path.read_bytes())
    data[data.index(PNG) + 40] ^= 1
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(OSError, match="damaged"):
        source.read("a.png")
    assert source.read("b.png") == PNG


def test_what_is_no_set_of_pictures_gets_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("x")
    (tmp_path / "one.png").write_bytes(PNG)
    (tmp_path / "fake.zip").write_bytes(b"not a zip at all")
    (tmp_path / "notes").write_text("hello")
    (tmp_path / "photos").mkdir()
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    (tmp_path / "void.zip").write_bytes(buffer.getvalue())
    cases = {
        str(tmp_path / "empty"): "no picture",
        str(tmp_path / "words"): "among its 1",
        str(tmp_path / "one.png"): "folder",
        str(tmp_path / "fake.zip"): "not a zip",
        str(tmp_path / "void.zip"): "no picture",
        str(tmp_path / "notes"): "text",
        str(tmp_path / "photso"): "did you mean 'photos'",
        "memory://nothing-here": "nothing at this address",
        "zip://x::memory://y.zip": "chained",
        "ftpp://host/x": "did you mean",
    }
    for spec, words in cases.items():
        with pytest.raises(DataError) as caught:
            open_source(spec)
        assert words in str(caught.value), (spec, str(caught.value))
        assert "\n" not in str(caught.value)


def test_a_missing_driver_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DataError, match="pip install s3fs"):
        open_source("s3://bucket/pictures")
