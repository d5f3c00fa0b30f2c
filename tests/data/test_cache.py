"""The cache: what is in it, that it is the same however it was made, and that no fault leaves a bad one behind."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import corpus
import numpy as np
import pytest
from PIL import Image

from ganvas.config import DataSettings
from ganvas.data import cache
from ganvas.data.cache import load, prepare
from ganvas.data.decode import Picture, decode, fit, to_channels
from ganvas.data.report import held_out_size, split
from ganvas.data.source import Source, open_source
from ganvas.errors import CheckpointError, DataError, StorageError


class Memory(Source):
    """Pictures in memory; those named "kill…" end the process that reads them, if it is a worker."""

    def __init__(self, files: dict[str, bytes], name: str = "memory", fingerprint: str = "f" * 64) -> None:
        self.files, self.name, self.fingerprint = files, name, fingerprint

    def names(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        if "kill" in name and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        if "gone" in name:
            raise FileNotFoundError(2, "No such file or directory")
        return self.files[name]

    def label(self, name: str) -> str | None:
        return name.split("/")[0] if "/" in name else None

    def attributes(self, name: str) -> dict[str, str]:
        return {"first": name[0]}


def random_files(count: int, *, grey: bool = False, side: int = 20, seed: int = 0) -> dict[str, bytes]:
    random = np.random.default_rng(seed)
    pictures = random.integers(0, 256, (count, side, side, 1 if grey else 3), dtype=np.uint8)
    return {f"{i:05d}.png": corpus.encode(p[..., 0] if grey else p, "PNG") for i, p in enumerate(pictures)}


SMALL = DataSettings(size=(16, 16), workers=0)


def test_pictures_names_labels_and_attributes_are_in_order(tmp_path: Path) -> None:
    files = {f"{'ab'[i % 2]}/{name}": data for i, (name, data) in enumerate(random_files(30).items())}
    seen: list[tuple[int, int]] = []
    settings = SMALL.model_copy(update={"classes": True})
    dataset = prepare(Memory(files), settings, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert dataset.names == sorted(files) and dataset.classes == ("a", "b")
    assert dataset.labels is not None and dataset.labels.dtype == np.int64
    for index, name in enumerate(dataset.names):
        picture = decode(files[name], name)
        assert isinstance(picture, Picture)
        assert np.array_equal(dataset.images[index], fit(picture.pixels, (16, 16), "crop"))
        assert dataset.classes[dataset.labels[index]] == name[0]
    assert dataset.attributes is not None and dataset.attributes[0] == {"first": "a"}
    assert isinstance(dataset.images, np.memmap) and not dataset.images.flags.writeable
    assert np.array_equal(np.load(dataset.root / "images.npy"), dataset.images)
    assert seen[-1] == (30, 30) and sorted(seen) == seen
    assert sorted([*dataset.train, *dataset.heldout]) == list(range(30))


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    files = random_files(90) | {"bad.png": b"", "x.jpg": corpus.good()["cmyk.jpg"]}
    made = [
        prepare(Memory(files), DataSettings(size=(16, 24), workers=workers), tmp_path / str(workers))
        for workers in (0, 1, 2)
    ]
    assert len({dataset.digest for dataset in made}) == 1
    assert len({(dataset.root / "images.npy").read_bytes() for dataset in made}) == 1
    assert len({json.dumps(dataset.report) for dataset in made}) == 1
    assert made[0].report["set_aside"] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_picture_that_kills_its_process_is_set_aside_and_the_others_are_not(tmp_path: Path) -> None:
    files = random_files(70)
    files |= {"00010-kill.png": files["00010.png"], "00066-kill.png": files["00066.png"]}
    dataset = prepare(Memory(files), DataSettings(size=(16, 16), workers=2), tmp_path)
    assert dataset.names == sorted(name for name in files if "kill" not in name)
    (group,) = dataset.report["set_aside_reasons"]
    assert group["names"] == ["00010-kill.png", "00066-kill.png"] and "died" in group["reason"]


def test_counts_always_add_up_over_every_kind_of_file(tmp_path: Path) -> None:
    files = corpus.good() | corpus.odd() | {name: data for name, (data, _) in corpus.bad().items()}
    files["gone.png"] = b""
    dataset = prepare(Memory(files), SMALL, tmp_path)
    report = dataset.report
    assert report["seen"] == len(files) == report["accepted"] + report["warned"] + report["set_aside"]
    assert (report["accepted"], report["warned"]) == (len(corpus.good()), len(corpus.odd()))
    assert sum(group["count"] for group in report["set_aside_reasons"]) == report["set_aside"]
    assert len(dataset.images) == report["accepted"] + report["warned"]
    assert all(group["reason"] and group["fix"] for group in report["set_aside_reasons"])


def test_channels_are_grey_only_when_every_picture_is(tmp_path: Path) -> None:
    grey = random_files(40, grey=True)
    as_rgb = {name: corpus.encode(Image.open(io.BytesIO(d)).convert("RGB"), "PNG") for name, d in grey.items()}
    one = prepare(Memory(grey, "one"), SMALL, tmp_path)
    two = prepare(Memory(as_rgb, "two"), SMALL, tmp_path)
    assert one.settings.channels == two.settings.channels == "grey" and one.images.shape[3] == 1
    assert np.array_equal(one.images, two.images)
    late = grey | {"99999.png": next(iter(random_files(1, seed=5).values()))}  # the last one is in colour
    three = prepare(Memory(late, "three"), SMALL, tmp_path)
    assert three.settings.channels == "rgb"
    assert np.array_equal(three.images[:40], np.repeat(one.images, 3, axis=3))
    forced = prepare(Memory(late, "four"), SMALL.model_copy(update={"channels": "grey"}), tmp_path)
    last = decode(late["99999.png"], "x")
    assert isinstance(last, Picture)
    expected = to_channels(fit(last.pixels, (16, 16), "crop"), "grey")
    assert np.array_equal(forced.images[40], expected)
    assert forced.images.shape == (41, 16, 16, 1)


def test_size_is_derived_from_the_median_smaller_side(tmp_path: Path) -> None:
    small = prepare(Memory(random_files(9, side=40), "small"), DataSettings(), tmp_path)
    large = prepare(Memory(random_files(9, side=48), "large"), DataSettings(), tmp_path)
    assert small.settings.size == (32, 32) and large.settings.size == (64, 64)


def test_held_out_sizes_and_that_duplicates_stay_together(tmp_path: Path) -> None:
    assert [held_out_size(n) for n in (1, 19, 20, 100, 639)] == [0, 0, 1, 5, 31]
    assert [held_out_size(n) for n in (640, 1280, 2000, 100_000, 1_000_000)] == [64, 64, 100, 5000, 5000]
    digests = [bytes([i // 3 % 256, i // 768]) for i in range(900)]  # every picture three times
    names = [f"{i}.png" for i in range(900)]
    train, heldout = split(names, digests)
    assert not {digests[i] for i in train} & {digests[i] for i in heldout}
    assert 62 <= len(heldout) <= 64 and len(train) + len(heldout) == 900
    train, heldout = split(names, [b"same"] * 900)
    assert len(heldout) == 0  # all alike: nothing can be held out, and training keeps everything
    alone, _ = np.array(split(names, [str(i).encode() for i in range(900)])[1]), None
    assert len(alone) == 64


def test_count_takes_the_same_random_subset_each_time(tmp_path: Path) -> None:
    source = Memory(random_files(60))
    settings = SMALL.model_copy(update={"count": 25})
    one, two = (prepare(source, settings, tmp_path / side) for side in "ab")
    assert one.names == two.names and len(one.names) == 25 and one.names != source.names()[:25]
    assert one.report["not_chosen"] == 35
    other = prepare(Memory(source.files, fingerprint="e" * 64), settings, tmp_path)
    assert other.names != one.names


def test_settings_that_change_pixels_change_the_folder_and_others_do_not(tmp_path: Path) -> None:
    source = Memory(random_files(5))
    same = [SMALL, SMALL.model_copy(update={"workers": 1}), SMALL.model_copy(update={"flip": True})]
    assert len({prepare(source, settings, tmp_path).root for settings in same}) == 1
    assert prepare(source, same[2], tmp_path).settings.flip is True
    assert prepare(source, SMALL, tmp_path).settings.flip is False
    changes = [{"size": (24, 24)}, {"fit": "pad"}, {"background": "#000000"}, {"channels": "grey"}, {"count": 3}]
    roots = {prepare(source, SMALL.model_copy(update=change), tmp_path).root for change in changes}
    assert len(roots) == len(changes) and prepare(source, SMALL, tmp_path).root not in roots


def test_the_second_time_nothing_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Memory(random_files(5))
    first = prepare(source, SMALL, tmp_path)
    monkeypatch.setattr(cache, "prepare_many", None)
    again = prepare(source, SMALL, tmp_path)
    assert again.digest == first.digest and again.settings == first.settings


def test_every_flipped_bit_is_found_and_mended(tmp_path: Path) -> None:
    source = Memory(random_files(4))
    whole = prepare(source, SMALL, tmp_path)
    random = np.random.default_rng(0)
    for file in ("images.npy", "meta.json"):
        path = whole.root / file
        data = path.read_bytes()
        for at in random.integers(0, len(data), 100):
            damaged = bytearray(data)
            damaged[at] ^= 1 << random.integers(0, 8)
            path.write_bytes(damaged)
            with pytest.raises((DataError, CheckpointError), match=file):
                load(whole.root)
        path.write_bytes(data)
    for harm in (lambda p: p.write_bytes(p.read_bytes()[:-2]), Path.unlink, lambda p: p.write_bytes(b"")):
        for file in ("images.npy", "meta.json"):
            harm(whole.root / file)  # type: ignore[operator]
            with pytest.raises((DataError, CheckpointError), match=file):
                load(whole.root)
            assert prepare(source, SMALL, tmp_path).digest == whole.digest
    assert load(whole.root).digest == whole.digest


LIES = {
    "no shape": lambda meta: meta.pop("shape"),
    "a shape of three": lambda meta: meta.update(shape=[4, 16, 16]),
    "a shape that overflows": lambda meta: meta.update(shape=[2**62, 16, 16, 3]),
    "a negative shape": lambda meta: meta.update(shape=[-4, 16, -16, 3]),
    "a shape of texts": lambda meta: meta.update(shape=["4", "16", "16", "3"]),
    "labels for others": lambda meta: meta.update(labels=[0] * 9, classes=["a"]),
    "labels that are no numbers": lambda meta: meta.update(labels=["a", "b", "c", "d"]),
    "names for others": lambda meta: meta.update(names=["a"]),
    "held out beyond the end": lambda meta: meta.update(heldout=[10**9]),
    "held out below 0": lambda meta: meta.update(heldout=[-1]),
    "settings of another kind": lambda meta: meta.update(settings={"size": "huge"}),
    "no settings": lambda meta: meta.pop("settings"),
    "a number of names": lambda meta: meta.update(names=4),
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_an_index_that_was_made_up_is_refused_and_made_anew(tmp_path: Path, lie: str) -> None:
    """Its checksum is right: somebody wrote it so."""
    source = Memory(random_files(4))
    whole = prepare(source, SMALL, tmp_path)
    meta = json.loads((whole.root / "meta.json").read_text())["content"]
    LIES[lie](meta)  # type: ignore[no-untyped-call]
    (whole.root / "meta.json").write_text(json.dumps({"sha256": cache._sha256_of(meta), "content": meta}))
    for check in (True, False):
        with pytest.raises(DataError) as caught:
            load(whole.root, check=check)
        assert str(whole.root) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert prepare(source, SMALL, tmp_path).digest == whole.digest


def test_a_leftover_from_the_future_is_removed_like_any_other(tmp_path: Path) -> None:
    """The clock was set back since; one of this very minute may still be about to get its name."""
    for name, age in (("old", -3600), ("future", 3600), ("now", 0)):
        (tmp_path / f".tmp-{name}").mkdir()
        index = tmp_path / f".tmp-{name}" / "meta.json"
        index.write_text("{}")
        os.utime(index, (time.time() + age,) * 2)
    prepare(Memory(random_files(2)), SMALL, tmp_path)
    assert [path.name for path in tmp_path.glob(".tmp-*")] == [".tmp-now"]


KILLED = """
import sys, os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_cache import Memory, random_files, SMALL
from ganvas.data.cache import prepare
def progress(done, total):
    if done >= {after}:
        os.kill(os.getpid(), signal.{how})
prepare(Memory(random_files(130)), SMALL.model_copy(update={{"workers": {workers}}}), Path({root!r}), progress=progress)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("how", "workers"), [("SIGKILL", 0), ("SIGKILL", 2), ("SIGINT", 2)])
def test_an_interrupted_preparation_leaves_nothing_that_is_trusted(tmp_path: Path, how: str, workers: int) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), after=64, how=how, workers=workers, root=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == (-signal.SIGKILL if how == "SIGKILL" else -signal.SIGINT)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".tmp-")] == []
    assert len(list(tmp_path.iterdir())) == (1 if how == "SIGKILL" else 0)
    if how == "SIGINT":
        assert done.stderr.count(b"Traceback") <= 1  # the parent's own, none of the workers'
    dataset = prepare(Memory(random_files(130)), SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == [dataset.root] and len(dataset.images) == 130


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageError) as caught:
            prepare(Memory(random_files(100)), SMALL, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value) and "images.npy" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_picture_at_all_is_one_line_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of its 2 files is a picture \(2: it is empty\)"):
        prepare(Memory({"a.png": b"", "b.png": b""}), SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_classes_need_sub_folders(tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"classes": True})
    with pytest.raises(DataError, match="two or more sub-folders"):
        prepare(Memory(random_files(5)), settings, tmp_path)
    files = {f"{'ab'[i % 2]}/{name}": data for i, (name, data) in enumerate(random_files(4).items())}
    dataset = prepare(Memory(files | {"loose.png": corpus.good()["rgb.png"]}), settings, tmp_path)
    assert "loose.png" not in dataset.names and dataset.report["set_aside"] == 1 and dataset.report["seen"] == 5
    assert prepare(Memory(files), SMALL, tmp_path).labels is None  # not asked for


def test_what_is_remarkable_about_a_set_is_said(tmp_path: Path) -> None:
    picture = corpus.encode(corpus.colours(), "PNG")
    wide = corpus.encode(np.random.default_rng(0).integers(0, 256, (10, 40, 3), dtype=np.uint8), "PNG")
    sets = {
        "1 picture": {"a.png": picture},
        "alike": {"a.png": picture, "b.png": picture},
        "only 30": random_files(30),
        "exactly": random_files(100) | {f"copy{i}.png": picture for i in range(8)},
        "1x1": random_files(3) | {"dot.png": corpus.good()["1x1.png"]},
        "proportions": random_files(3) | {"wide.png": wide},
    }
    for index, (words, files) in enumerate(sets.items()):
        report = prepare(Memory(files, f"set{index}", str(index)), SMALL, tmp_path).report
        assert any(words in warning for warning in report["set_warnings"]), (words, report["set_warnings"])
    quiet = prepare(Memory(random_files(120), "quiet"), SMALL, tmp_path).report
    assert quiet["set_warnings"] == []


def test_a_memory_address_is_prepared_in_this_process(tmp_path: Path) -> None:
    import fsspec

    for name, data in random_files(3).items():
        fsspec.filesystem("memory").pipe_file(f"/cache-test/{name}", data)
    dataset = prepare(open_source("memory://cache-test"), SMALL.model_copy(update={"workers": 2}), tmp_path)
    assert len(dataset.images) == 3


SCRIPT = """
import torch_stand_in
from pathlib import Path
from ganvas.config import DataSettings
from ganvas.data.cache import prepare
from ganvas.data.source import open_source
print("script runs")
print(len(prepare(open_source({folder!r}), DataSettings(size=(16, 16), workers=2), Path({root!r})).images))
"""


def test_an_unguarded_script_is_not_run_again_by_the_workers(tmp_path: Path) -> None:
    """Neither is what it imports: workers start in a fraction of the time that torch takes."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, data in random_files(40).items():
        (folder / name).write_bytes(data)
    (tmp_path / "torch_stand_in.py").write_text("print('imported')")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(folder=str(folder), root=str(tmp_path / "cache")))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split("\n") == ["imported", "script runs", "40", ""]


def test_no_torch_in_a_worker() -> None:
    code = "import sys, ganvas.data.workers, ganvas.data.cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), after=32, how="SIGKILL", workers=2, root=str(tmp_path))
    marker = f"GANVAS_TEST_{os.getpid()}"
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, env=os.environ | {marker: "1"})

    def left() -> Counter[str]:
        found: Counter[str] = Counter()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                found[process.name] += marker.encode() in (process / "environ").read_bytes()
            except OSError:
                continue
        return +found

    deadline = time.monotonic() + 10
    while left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left()


def test_a_finished_folder_of_another_process_is_taken(tmp_path: Path) -> None:
    source = Memory(random_files(4))
    dataset = prepare(source, SMALL, tmp_path)
    twin = tmp_path / ".tmp-twin"
    shutil.copytree(dataset.root, twin)
    before = (dataset.root / "meta.json").stat().st_mtime_ns
    cache._publish(twin, dataset.root)
    assert (dataset.root / "meta.json").stat().st_mtime_ns == before
