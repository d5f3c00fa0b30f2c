"""Pictures out: pixels and marks come back, bytes repeat, grids have the geometry they promise."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ganvas import images
from ganvas.errors import DataError, GanvasError, MissingExtra, SettingError, StorageError
from ganvas.images import Provenance, encode, grid, parse_xmp, read_provenance, write_film, write_image

FORMATS = ("png", "jpeg", "webp")
AWKWARD = "é <&>\"' ]]> 画 😀 &amp; <?xpacket end?>"
MARK = Provenance(version="0.1.0", weights="0123456789abcdef", seed=42, data=AWKWARD)
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def picture(height: int = 24, width: int = 40, channels: int = 3, seed: int = 0) -> images.Pixels:
    """Smooth colour with a little noise."""
    rng = np.random.default_rng(seed)
    y, x, c = np.mgrid[:height, :width, :channels]
    smooth = 128 + 80 * np.sin(x / 9 + c + seed) + 40 * np.cos(y / 7 - c)
    return np.clip(smooth + rng.normal(0, 2, smooth.shape), 0, 255).astype(np.uint8)


def opened(data: bytes) -> images.Pixels:
    with Image.open(BytesIO(data)) as image:
        pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def packet_in(data: bytes, format: str) -> bytes:
    """The XMP packet, found by walking the file's own structure and not by the library that wrote it."""
    if format == "png":
        place = 8
        while place < len(data):
            (size,), kind = struct.unpack(">I", data[place : place + 4]), data[place + 4 : place + 8]
            body = data[place + 8 : place + 8 + size]
            assert zlib.crc32(kind + body) == struct.unpack(">I", data[place + 8 + size : place + 12 + size])[0]
            assert kind != b"IDAT", "the mark comes before the pixels, where a reader of headers finds it"
            if kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
                assert body[18:22] == b"\0\0\0\0"  # not compressed, no language: as the XMP specification asks
                return body[22:]
            place += 12 + size
    elif format == "jpeg":
        place = 2
        while data[place] == 0xFF:
            marker, size = data[place + 1], struct.unpack(">H", data[place + 2 : place + 4])[0]
            body = data[place + 4 : place + 2 + size]
            if marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                return body[29:]
            place += 2 + size
    else:
        assert data[:4] == b"RIFF" and data[8:12] == b"WEBP"
        place = 12
        while place < len(data):
            kind, (size,) = data[place : place + 4], struct.unpack("<I", data[place + 4 : place + 8])
            if kind == b"XMP ":
                return data[place + 8 : place + 8 + size]
            place += 8 + size + size % 2
    raise AssertionError(f"no XMP in the {format}")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("format", FORMATS)
def test_pixels_come_back(format: str, channels: int) -> None:
    pixels = picture(channels=channels)
    back = opened(encode(pixels, format, MARK))
    if format == "webp" and channels == 1:
        assert np.ptp(back.astype(int), axis=2).max() <= 4  # WebP has no grey, only colours close to it
        back = back[:, :, :1]
    assert back.shape == pixels.shape
    error = np.abs(back.astype(int) - pixels)
    assert error.max() == 0 if format == "png" else 0 < error.mean() < 3
    turned = np.asfortranarray(pixels)[::-1, ::-1]
    assert encode(turned, format, MARK) == encode(turned.copy(), format, MARK)


def test_quality() -> None:
    pixels = picture(64, 64)
    assert (opened(encode(pixels, "webp", MARK, quality=100)) == pixels).all()
    for format in ("jpeg", "webp"):
        low, high = (encode(pixels, format, None, quality=quality) for quality in (30, 95))
        assert len(low) < len(high)
        assert np.abs(opened(high) - pixels.astype(int)).mean() < np.abs(opened(low) - pixels.astype(int)).mean()


@pytest.mark.parametrize("format", FORMATS)
def test_the_mark_is_well_formed_and_in_its_place(format: str) -> None:
    data = encode(picture(), format, MARK)
    root = ElementTree.fromstring(packet_in(data, format).decode())
    (description,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    texts = {re.sub(r".*[}]", "", element.tag): element.text for element in description}
    assert description.findtext(IPTC) == TRAINED
    assert texts == {
        "CreatorTool": "ganvas 0.1.0",
        "DigitalSourceType": TRAINED,
        "version": "0.1.0",
        "weights": "0123456789abcdef",
        "seed": "42",
        "data": AWKWARD,
    }


def test_a_png_carries_plain_text_too() -> None:
    with Image.open(BytesIO(encode(picture(), "png", MARK))) as image:
        text = {name: str(value) for name, value in image.info.items()}
    assert text["Software"] == "ganvas 0.1.0" and TRAINED in text["Comment"]
    assert text["ganvas seed"] == "42" and text["ganvas weights"] == MARK.weights and text["ganvas data"] == AWKWARD


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(FORMATS),
    st.builds(
        Provenance,
        version=st.text(max_size=1200),
        weights=st.text(max_size=20),
        seed=st.none() | st.integers(-(2**64), 2**64),
        data=st.none() | st.text(max_size=1200),
    ),
)
def test_any_mark_comes_back_from_any_format(format: str, mark: Provenance) -> None:
    assert read_provenance(encode(picture(8, 8), format, mark)) == mark
    assert len(mark.version) <= 1000


def test_marks_of_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.JPG", "c.jpeg", "deep/er/d.webp"):
        write_image(tmp_path / name, picture(), MARK)
        assert read_provenance(tmp_path / name) == read_provenance(str(tmp_path / name)) == MARK
    write_image(tmp_path / "plain.png", picture(), None)
    assert read_provenance(tmp_path / "plain.png") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.JPG", "c.jpeg", "deep", "plain.png"]
    for data in (b"", b"text", encode(picture(), "png", MARK)[:40], b"\xff\xd8\xff\xe1", b"RIFF\0\0\0\0WEBP"):
        assert read_provenance(data) is None
    with pytest.raises(DataError, match=r"nothing\.png"):
        read_provenance(tmp_path / "nothing.png")
    with pytest.raises(DataError, match="is no file"):
        read_provenance(tmp_path)


def test_a_bomb_is_not_decoded() -> None:
    header = struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    assert read_provenance(b"\x89PNG\r\n\x1a\n" + chunk) is None
    header = struct.pack(">II5B", 12_000, 12_000, 8, 2, 0, 0, 0)  # Pillow only warns about this one
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    assert read_provenance(b"\x89PNG\r\n\x1a\n" + chunk) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda xmp: xmp[:-30],
        lambda xmp: b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + xmp,
        lambda xmp: xmp.replace(b"urn:ganvas", b"urn:other"),
        lambda xmp: xmp.replace(b">42<", b">many<"),
        lambda xmp: xmp.replace(b">42<", b">" + b"1" * 5000 + b"<"),
        lambda xmp: xmp + b" " * 70_000,
        lambda xmp: xmp.decode().encode("utf-16"),
        lambda xmp: re.sub(rb"<ganvas:weights>.*</ganvas:weights>", b"", xmp),
        lambda xmp: b"",
    ],
)
def test_foreign_and_hostile_packets_are_no_mark(change: object) -> None:
    assert parse_xmp(MARK.xmp()) == MARK
    assert callable(change) and parse_xmp(change(MARK.xmp())) is None


def test_bytes_repeat_in_another_process() -> None:
    code = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1]); import test_images as t;"
        "print([hashlib.sha256(t.encode(t.picture(), f, t.MARK)).hexdigest() for f in t.FORMATS]);"
        "assert 'torch' not in sys.modules"
    )
    run = [sys.executable, "-c", code, str(Path(__file__).parent)]
    first, second = (subprocess.run(run, check=True, capture_output=True).stdout for _ in range(2))
    assert first == second and len(eval(first)) == 3


@pytest.mark.parametrize(
    ("pixels", "format", "quality", "words"),
    [
        (picture(), "gif", 92, "known are png, jpeg, webp"),
        (picture(), "jpg", 92, r"did you mean 'jpeg'"),
        (picture(), "jpeg", 0, "quality=0"),
        (picture(), "jpeg", 101, "quality=101"),
        (picture().astype(np.float32), "png", 92, "float32"),
        (picture()[:, :, 0], "png", 92, r"\[24, 40\]"),
        (picture()[:, :, :2], "png", 92, r"\[24, 40, 2\]"),
        (picture()[:0], "png", 92, r"\[0, 40, 3\]"),
        (np.zeros((1, 16_384, 3), np.uint8), "webp", 92, "16,383"),
        (np.zeros((65_501, 1, 3), np.uint8), "jpeg", 92, "65,500"),
    ],
)
def test_what_cannot_be_encoded_is_one_line(pixels: images.Pixels, format: str, quality: int, words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        encode(pixels, format, MARK, quality)
    assert str(caught.value).isprintable()


def test_the_largest_sides_are_held() -> None:
    for format, side in (("webp", 16_383), ("jpeg", 65_500)):
        assert opened(encode(np.zeros((side, 1, 3), np.uint8), format, MARK)).shape[0] == side


def test_a_write_that_fails_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_image(path, picture(), MARK)
    whole = path.read_bytes()

    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(StorageError, match=r"a\.png: cannot write [0-9,]+ bytes.*full"):
        write_image(path, picture(seed=1), MARK)
    monkeypatch.undo()
    assert path.read_bytes() == whole and [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(SettingError, match=r"\.png, \.jpg, \.jpeg, \.webp"):
        write_image(tmp_path / "a.tiff", picture(), MARK)
    with pytest.raises(StorageError):
        write_image(path / "below" / "b.png", picture(), MARK)


@settings(deadline=None, max_examples=80)
@given(
    count=st.integers(1, 40),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([1, 3]),
    columns=st.none() | st.integers(1, 50),
    gap=st.integers(0, 4),
)
def test_a_grid_holds_every_image_in_reading_order(
    count: int, height: int, width: int, channels: int, columns: int | None, gap: int
) -> None:
    batch = np.random.default_rng(count).integers(0, 200, (count, height, width, channels), np.uint8)
    sheet = grid(batch, columns, gap, background=255)
    wide = (sheet.shape[1] + gap) // (width + gap)
    rows = (sheet.shape[0] + gap) // (height + gap)
    assert sheet.shape == (rows * (height + gap) - gap, wide * (width + gap) - gap, channels)
    assert sheet.dtype == np.uint8 and sheet.flags.c_contiguous
    assert (rows - 1) * wide < count <= rows * wide  # no empty row
    assert columns is None or wide == min(columns, count)
    left = sheet.copy()
    for place, image in enumerate(batch):
        y, x = place // wide * (height + gap), place % wide * (width + gap)
        assert (sheet[y : y + height, x : x + width] == image).all()
        left[y : y + height, x : x + width] = 255
    assert (left == 255).all()


@pytest.mark.parametrize(
    ("count", "height", "width", "columns"),
    [
        (1, 64, 64, 1),
        (2, 64, 64, 2),
        (4, 64, 64, 2),
        (64, 64, 64, 8),
        (100, 64, 64, 10),
        (12, 64, 64, 4),
        (4, 32, 128, 1),
    ],
)
def test_a_grid_of_no_given_columns_has_the_expected_ones(count: int, height: int, width: int, columns: int) -> None:
    sheet = grid(np.zeros((count, height, width, 3), np.uint8))
    assert sheet.shape[1] == columns * (width + 2) - 2


@given(st.integers(9, 2000))
def test_a_grid_of_many_squares_is_between_square_and_wide(count: int) -> None:
    columns = images._columns(count, 66, 66)
    rows = -(-count // columns)
    assert 0.9 <= columns / rows <= 2 and rows * columns - count <= 0.2 * count


def test_grids_take_lists_and_colours_and_refuse_the_rest() -> None:
    sheet = grid([picture(4, 4), picture(4, 4)], columns=2, gap=1, background=(1, 2, 3))
    assert sheet[:, 4].tolist() == [[1, 2, 3]] * 4
    bad: list[tuple[object, dict[str, object]]] = [
        ([], {}),
        ([picture(4, 4), picture(5, 4)], {}),
        (picture(), {}),
        (np.zeros((2, 4, 4, 4), np.uint8), {}),
        (np.zeros((2, 4, 4, 3)), {}),
        ([picture()], {"columns": 0}),
        ([picture()], {"gap": -1}),
        ([picture()], {"background": 256}),
        ([picture()], {"background": (1, 2)}),
    ]
    for pictures, options in bad:
        with pytest.raises(SettingError) as caught:
            grid(pictures, **options)  # type: ignore[arg-type]
        assert str(caught.value).isprintable()


def film_frames(count: int = 7, height: int = 33, width: int = 49, channels: int = 3) -> list[images.Pixels]:
    return [np.roll(picture(height, width, channels), 5 * place, axis=1) for place in range(count)]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_webp_film_plays_every_frame_in_time(tmp_path: Path, channels: int) -> None:
    frames, path = film_frames(channels=channels), tmp_path / "film.webp"
    assert write_film(path, iter(frames), 30, MARK) == 7
    with Image.open(path) as film:
        assert film.n_frames == 7 and film.size == (49, 33) and film.info["loop"] == 0  # type: ignore[attr-defined]
        ends = []
        for place, frame in enumerate(frames):
            film.seek(place)
            assert np.abs(np.asarray(film.convert("RGB")).astype(int) - frame).mean() < 4
            ends.append(film.info["timestamp"] + film.info["duration"])
    assert ends == [33, 67, 100, 133, 167, 200, 233]  # 30 a second, rounded once and not seven times
    assert read_provenance(path) == MARK
    assert ElementTree.fromstring(packet_in(path.read_bytes(), "webp").decode()) is not None
    again = tmp_path / "again.webp"
    write_film(again, frames, 30, MARK)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_mp4_film_plays_every_frame_and_carries_the_mark(tmp_path: Path, channels: int) -> None:
    av = pytest.importorskip("av")
    frames, path = film_frames(channels=channels), tmp_path / "film.mp4"
    assert write_film(path, iter(frames), 12.5, MARK) == 7
    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate) == 12.5
        assert container.metadata["comment"] == TRAINED
        back = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(back) == 7 and back[0].shape == (34, 50, 3)  # odd sides grew
    for frame, decoded in zip(frames, back, strict=True):
        assert np.abs(decoded[:33, :49].astype(int) - frame).mean() < 8
    data, place, boxes = path.read_bytes(), 0, {}
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        boxes[kind] = data[place + 8 : place + size]
        place += size
    assert place == len(data) and boxes[b"uuid"][:16].hex() == "be7acfcb97a942e89c71999491e3afac"
    assert parse_xmp(boxes[b"uuid"][16:]) == MARK
    for _ in range(10):
        write_film(path, frames, 12.5, MARK)
        assert path.read_bytes() == data


def test_films_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(kind: type[GanvasError], words: str, name: str, frames: list[images.Pixels], fps: float = 10) -> None:
        with pytest.raises(kind, match=words) as caught:
            write_film(tmp_path / name, frames, fps, MARK)
        assert str(caught.value).isprintable() and list(tmp_path.iterdir()) == []

    for name in ("film.webp", "film.mp4"):
        refused(SettingError, "at least one frame", name, [])
        refused(SettingError, "frame 1 has shape", name, [picture(8, 8), picture(8, 10)])
        refused(SettingError, "uint8", name, [picture(8, 8).astype(np.float32)] * 2)
        refused(SettingError, "fps=0", name, film_frames(), 0)
    refused(SettingError, r"\.webp, \.mp4", "film.avi", film_frames())
    monkeypatch.setitem(sys.modules, "av", None)
    refused(MissingExtra, r"ganvas\[film\]", "film.mp4", film_frames())
