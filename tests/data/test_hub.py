"""The hub's format, offline: original bytes, labels and attributes of a set made here; one line for what is wrong."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganvas.data import hub
from ganvas.data.hub import is_hub_folder, open_hub
from ganvas.errors import DataError, MissingExtra

datasets = pytest.importorskip("datasets")


def encoded(seed: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, kind)
    return written.getvalue()


ROWS = [encoded(seed) for seed in range(6)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def made(**more: Any) -> Any:
    columns = {
        "note": [f"note {row}" for row in range(6)],
        "smiling": [row % 2 == 0 for row in range(6)],
        "img": [{"bytes": data, "path": None} for data in ROWS],
        "label": [row % 2 for row in range(6)],
    }
    features = {
        "note": datasets.Value("string"),
        "smiling": datasets.Value("bool"),
        "img": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
    }
    return datasets.Dataset.from_dict(columns | more, features=datasets.Features(features))


def as_parquet(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    made().to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return folder


def as_saved(folder: Path) -> Path:
    made().save_to_disk(folder)
    return folder


def as_saved_with_splits(folder: Path) -> Path:
    datasets.DatasetDict(test=made().select(range(2)), train=made()).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("write", [as_parquet, as_saved, as_saved_with_splits])
def test_local_folder_gives_the_original_bytes_labels_and_attributes(write: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "cats")
    assert is_hub_folder(folder)
    source = open_hub(str(folder))
    assert source.name == "cats"
    assert list(source.names()) == [f"{row:06d}.jpg" for row in range(6)]
    for row, name in enumerate(source.names()):
        assert source.read(name) == ROWS[row]
        assert source.label(name) == ("cat", "dog")[row % 2]
        assert source.attributes(name) == {"note": f"note {row}", "smiling": str(row % 2 == 0).lower()}


def test_is_the_same_after_pickling_and_opening_again(tmp_path: Path) -> None:
    folder = as_parquet(tmp_path / "cats")
    source = open_hub(str(folder))
    copied = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert copied.read("000004.jpg") == ROWS[4]
    assert copied.fingerprint == source.fingerprint == open_hub(str(folder)).fingerprint
    assert open_hub(str(as_parquet(tmp_path / "other"))).fingerprint != source.fingerprint


def test_splits_are_chosen_by_name(tmp_path: Path) -> None:
    folder = as_saved_with_splits(tmp_path / "cats")
    assert len(open_hub(f"{folder}:test").names()) == 2
    with pytest.raises(DataError, match=r"no split 'tset'.*did you mean 'test'"):
        open_hub(f"{folder}:tset")
    with pytest.raises(DataError, match="it has no splits"):
        open_hub(f"{as_saved(tmp_path / 'plain')}:test")


def test_folder_of_pictures_with_metadata(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "train").mkdir(parents=True)
    for row in range(3):
        (folder / "train" / f"{row}.jpg").write_bytes(ROWS[row])
    table = "file_name,mood\n" + "".join(f"{row}.jpg,mood {row}\n" for row in range(3))
    (folder / "train" / "metadata.csv").write_text(table)
    assert not is_hub_folder(folder)
    source = open_hub(str(folder))
    found = {source.attributes(name)["mood"]: source.read(name) for name in source.names()}
    assert found == {f"mood {row}": ROWS[row] for row in range(3)}


def test_a_row_cannot_make_us_read_a_file_outside_its_set(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(9, "PNG"))
    inside = tmp_path / "set" / "inside.png"
    inside.parent.mkdir()
    inside.write_bytes(encoded(8, "PNG"))
    paths = [str(secret), str(inside), str(tmp_path / "set" / ".." / "secret.png"), str(tmp_path / "set" / "gone.png")]
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": None, "path": path} for path in paths]},
        features=datasets.Features({"image": datasets.Image()}),
    )
    source = hub.HubSource(rows, "hostile", root=inside.parent)
    names = source.names()
    for row in (0, 2):
        with pytest.raises(OSError, match="outside its set"):
            source.read(names[row])
    assert source.read(names[1]) == encoded(8, "PNG")
    with pytest.raises(OSError, match="not there"):
        source.read(names[3])


def test_a_set_without_pictures_names_its_columns(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"words": ["a", "b"]}).save_to_disk(tmp_path / "text")
    with pytest.raises(DataError, match=r"no column holds pictures; its columns are words \(Value\)"):
        open_hub(str(tmp_path / "text"))


def test_damaged_parquet_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        open_hub(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_without_a_network_the_answer_is_one_line_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    flags = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    began = time.monotonic()
    with pytest.raises(DataError, match=r"cannot be reached.*avatars") as caught:
        open_hub("ylecun/mnist")
    # Not a measure of speed: the library's own retries, which this guards against, take over 20 seconds.
    assert time.monotonic() - began < 10
    assert "\n" not in str(caught.value)
    assert flags == (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)


@pytest.mark.parametrize(
    ("kind", "words"), [("GatedRepoError", "accept its terms"), ("RepositoryNotFoundError", "no such data set")]
)
def test_what_the_hub_refuses_says_what_to_do(kind: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    refusal = type("Refused", (getattr(errors, kind),), {"__init__": lambda self: None})

    def refuse(*_: object, **__: object) -> None:
        raise refusal()

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(DataError, match=words):
        open_hub("someone/something")


def test_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'ganvas\[hub\]'"):
        open_hub("ylecun/mnist")


@pytest.mark.parametrize("address", ["x", "a/b/c/d", "../up", "a b/c", ""])
def test_what_is_no_address_is_refused_before_the_network(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_described", lambda name: pytest.fail("the network was asked"))
    with pytest.raises(DataError, match="hub:owner/name"):
        open_hub(address)


def test_importing_is_lazy_and_opening_never_loads_torch(tmp_path: Path) -> None:
    folder = as_parquet(tmp_path / "cats")
    program = (
        "import sys; import ganvas.data.hub as hub\n"
        "assert 'datasets' not in sys.modules and 'torch' not in sys.modules\n"
        f"hub.open_hub({str(folder)!r}).read('000000.jpg'); print('torch' in sys.modules)"
    )
    environment = {"HF_HOME": str(tmp_path / "home"), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["False"]
