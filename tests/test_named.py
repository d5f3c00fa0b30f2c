"""Sets by name: what a word resolves to, what is kept with the pictures, and writing a set out as files."""

from __future__ import annotations

import csv
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganvas import draw, named
from ganvas.data.source import FolderSource
from ganvas.errors import DataError, GanvasError, MissingExtra, SettingError, StorageError
from ganvas.named import NAMED, AvatarSource, export_set, list_table, resolve


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def photos(folder: Path, count: int = 2) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(draw.portrait(number, size=32)[0])
    return folder


def test_avatars_are_the_portraits_of_their_numbers() -> None:
    source = resolve("avatars", count=1200, side=32)
    assert len(source.names()) == 1200
    assert source.names()[:2] == ["avatars/000000.png", "avatars/000001.png"]
    assert list(source.names()) == sorted(set(source.names()))
    for seed in (0, 1199):
        data, attributes = draw.portrait(seed, size=32)
        name = f"avatars/{seed:06d}.png"
        assert source.read(name) == data
        assert source.attributes(name) == attributes
        assert source.label(name) == attributes["hair_colour"]
    assert source.licence is not None and "CC0 1.0" in source.licence and "Lisa Wischofsky" in source.licence


def test_avatars_come_as_5000_and_any_count_is_possible() -> None:
    assert len(resolve("avatars").names()) == NAMED["avatars"].count == 5000
    names = resolve("avatars", count=1_000_001).names()
    assert names[-1] == "avatars/1000000.png" and names[1] == "avatars/0000001.png"
    for count in (0, -3):
        with pytest.raises(SettingError, match="count"):
            resolve("avatars", count=count)


def test_fingerprint_follows_content() -> None:
    def key(**changed: object) -> str:
        return AvatarSource(**({"count": 10, "style": "lorelei", "side": 64} | changed)).fingerprint  # type: ignore[arg-type]

    assert key() == key() == pickle.loads(pickle.dumps(AvatarSource(10))).fingerprint  # noqa: S301
    assert len({key(), key(count=11), key(style="pixel-art"), key(side=32)}) == 4


def test_a_style_can_be_named_and_only_cc0_is_drawn() -> None:
    source = resolve("avatars:pixel-art", count=3)
    assert source.names()[0] == "avatars-pixel-art/000000.png"
    assert source.read(source.names()[0]) == draw.portrait(0, "pixel-art")[0]
    with pytest.raises(SettingError, match="only CC0"):
        resolve("avatars:adventurer")


def test_digits_are_scikit_learn_s() -> None:
    bundled = pytest.importorskip("sklearn.datasets").load_digits()
    source = resolve("digits", classes=True)
    assert len(source.names()) == 1797
    for row in (0, 5, 1796):
        name = source.names()[row]
        assert source.label(name) == str(bundled.target[row])
        opened = Image.open(io.BytesIO(source.read(name)))
        assert (opened.mode, opened.size) == ("L", (32, 32))
        # Enlarging and taking block means gives the digit back, up to what the filter smooths.
        means = np.asarray(opened, np.float64).reshape(8, 4, 8, 4).mean(axis=(1, 3)) / 255 * 16
        assert np.abs(means - bundled.images[row]).mean() < 1.0


def test_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'ganvas\[digits\]'"):
        resolve("digits")


def test_a_local_folder_wins_and_says_so() -> None:
    photos(Path("avatars"))
    told: list[str] = []
    source = resolve("avatars", notice=told.append)
    assert isinstance(source, FolderSource)
    assert len(told) == 1 and "local folder" in told[0] and "\n" not in told[0]
    told.clear()
    photos(Path("mine"))
    assert isinstance(resolve(Path("mine"), notice=told.append), FolderSource)
    assert told == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("avatras", "did you mean 'avatars'"),
        ("qqqq", "the sets are avatars, digits"),
        ("fashon-mnist", "did you mean 'fashion-mnist'"),
        ("photos/", "no such file or folder"),
        ("nothing.zip", "no such file or folder"),
        ("hub:nonsense", "hub:owner/name"),
        ("", "names no pictures"),
        ("digits:x", "did you mean 'digits'"),
    ],
)
def test_what_is_unknown_is_one_line(spec: str, words: str) -> None:
    with pytest.raises(GanvasError, match=words) as caught:
        resolve(spec)
    assert "\n" not in str(caught.value)


def test_addresses_of_the_hub_reach_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(address: str, *_: object) -> None:
        asked.append(address)
        raise DataError("asked")

    monkeypatch.setattr(named, "open_hub", ask)
    for spec in ("mnist", "mnist:test", "hub:a/b", "hub:a/b:test", "hf://datasets/a/b", "celeba"):
        with pytest.raises(DataError, match="asked"):
            resolve(spec)
    assert asked == ["ylecun/mnist", "ylecun/mnist:test", "a/b", "a/b:test", "a/b", "flwrlabs/celeba"]


def test_classes_are_refused_where_there_are_none() -> None:
    photos(Path("flat"))
    with pytest.raises(SettingError, match="sub-folder"):
        resolve("flat", classes=True)
    photos(Path("nested/a"))
    photos(Path("nested/b"))
    assert resolve("nested", classes=True).label("a/0.png") == "a"


@pytest.mark.parametrize("workers", [0, 2])
def test_export_writes_the_pictures_their_attributes_and_the_licence(workers: int) -> None:
    source = AvatarSource(230, side=16)
    told: list[tuple[int, int]] = []
    written = export_set(source, Path("out/avatars"), 205, lambda *at: told.append(at), workers=workers)
    folder = Path("out/avatars")
    assert written == 205 and told[-1] == (205, 205)
    assert {path.name for path in folder.glob("*.png")} == {f"{seed:06d}.png" for seed in range(205)}
    with (folder / "attributes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 205
    for seed in (0, 101, 204):
        data, attributes = draw.portrait(seed, size=16)
        assert (folder / f"{seed:06d}.png").read_bytes() == data
        assert rows[seed] == {"file": f"{seed:06d}.png", "label": attributes["hair_colour"], **attributes}
    licence = (folder / "LICENCE.txt").read_text()
    assert "205 pictures" in licence and "CC0 1.0" in licence
    assert [path.name for path in Path("out").iterdir()] == ["avatars"]


def test_export_refuses_a_target_in_use_and_leaves_it_alone() -> None:
    photos(Path("mine"))
    before = {path: path.read_bytes() for path in Path("mine").iterdir()}
    for target in ("mine", "mine/0.png"):
        with pytest.raises(StorageError, match="not an empty folder"):
            export_set(AvatarSource(3), target)
    assert {path: path.read_bytes() for path in Path("mine").iterdir()} == before
    Path("empty").mkdir()
    assert export_set(AvatarSource(3, side=16), "empty") == 3


class _Broken(AvatarSource):
    def read(self, name: str) -> bytes:
        if name.endswith("000002.png"):
            raise OSError("damaged")
        return super().read(name)


class _Hostile(AvatarSource):
    def names(self) -> list[str]:
        return ["avatars/000000.png", "../outside/000001.png"]


@pytest.mark.parametrize(
    ("source", "words"), [(_Broken(5, side=16), "cannot be read"), (_Hostile(2, side=16), "leads out")]
)
def test_export_that_fails_leaves_nothing_behind(source: AvatarSource, words: str) -> None:
    Path("out").mkdir()
    with pytest.raises(DataError, match=words):
        export_set(source, "out/set")
    assert list(Path("out").iterdir()) == []
    assert not Path("outside").exists()


def test_export_of_a_folder_keeps_its_sub_folders_as_labels() -> None:
    photos(Path("pets/cat"), 1)
    photos(Path("pets/dog"), 1)
    assert export_set(resolve("pets"), "copy") == 2
    with Path("copy/attributes.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [
            {"file": "cat/0.png", "label": "cat"},
            {"file": "dog/0.png", "label": "dog"},
        ]
    assert "not known" in Path("copy/LICENCE.txt").read_text()


def test_table_lists_every_set_with_its_licence() -> None:
    rows = list_table()
    assert [row["name"] for row in rows] == list(NAMED)
    assert all(row["licence"] and row["needs"] for row in rows)
    assert {known.name for known in NAMED.values() if known.offline} == {"avatars", "digits"}
