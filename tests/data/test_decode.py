"""Decoding: every kind of file to the right pixels, a warning, or a reason; and fitting to a size."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from functools import cache
from pathlib import Path

import corpus
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ganvas.data import kinds, pnm
from ganvas.data.decode import Picture, SetAside, decode, fit, header_size, printable, to_channels


def picture(data: bytes, name: str = "x", **options: object) -> Picture:
    decoded = decode(data, name, **options)  # type: ignore[arg-type]
    assert isinstance(decoded, Picture), decoded
    return decoded


def far(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("name", sorted(corpus.good()))
def test_good_files_are_accepted_without_a_word(name: str) -> None:
    decoded = picture(corpus.good()[name], name)
    assert decoded.warnings == ()
    assert decoded.pixels.dtype == np.uint8 and decoded.pixels.shape[:2] == decoded.size
    assert decoded.grey == (decoded.pixels.shape[2] == 1)


@pytest.mark.parametrize("name", sorted(corpus.odd()))
def test_odd_files_are_used_with_a_warning(name: str) -> None:
    assert picture(corpus.odd()[name], name).warnings


@pytest.mark.parametrize("name", sorted(corpus.bad()))
def test_bad_files_are_set_aside_with_reason_and_fix(name: str) -> None:
    data, word = corpus.bad()[name]
    refused = decode(data, name)
    assert isinstance(refused, SetAside), refused
    assert refused.name == name and word in refused.reason and refused.fix
    assert "\n" not in refused.reason + refused.fix


LOSSLESS = (
    "rgb.png", "rgb.webp", "rgb.bmp", "rgb.tiff", "lzw.tif", "rgb.ppm", "rgb16.png", "rgb16.ppm", "opaque.png",
    "no-suffix",
)  # fmt: skip


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_rgb_is_exact(name: str) -> None:
    assert (picture(corpus.good()[name]).pixels == corpus.colours()).all()


def test_sixteen_bits_float_and_integers_are_rescaled() -> None:
    red = corpus.colours()[..., :1]
    assert (picture(corpus.good()["grey16.png"]).pixels == red).all()  # v * 257 back to v
    assert (picture(corpus.odd()["float.tif"]).pixels == red).all()  # v / 255 back to v
    wide = red[..., 0].astype(np.int32) * 1000 - 3000  # no known scale: smallest to 0, largest to 255
    found = picture(corpus.encode(Image.fromarray(wide), "TIFF")).pixels
    assert (found == red).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_orientation_is_turned_upright(orientation: int, kind: str) -> None:
    upright = corpus.colours()
    # What a camera held so writes: the inverse of the turn that EXIF asks for.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
        6: np.rot90(upright), 7: np.rot90(upright, 2).swapaxes(0, 1), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = corpus.encode(np.ascontiguousarray(stored), kind, exif=corpus.exif(orientation), **options)
    decoded = picture(data)
    assert decoded.size == upright.shape[:2]
    assert far(decoded.pixels, upright) <= (4 if kind == "JPEG" else 0)
    drafted = picture(data, draft_size=(8, 8)).pixels
    assert far(fit(drafted, (8, 8), "stretch"), fit(upright, (8, 8), "stretch")) <= 12


def test_cmyk_jpeg_with_and_without_adobes_inversion_agree() -> None:
    inks = corpus.cmyk()
    adobe = corpus.encode(inks, "JPEG", quality=100)
    assert b"Adobe" in adobe
    inverted = Image.frombytes("CMYK", inks.size, bytes(255 - value for value in inks.tobytes()))
    plain = corpus.without_adobe_marker(corpus.encode(inverted, "JPEG", quality=100))
    assert b"Adobe" not in plain
    assert far(picture(adobe).pixels, corpus.colours()) <= 12
    assert far(picture(plain).pixels, picture(adobe).pixels) <= 12
    assert far(picture(corpus.good()["cmyk.tif"]).pixels, corpus.colours()) == 0


def test_a_p3_profile_becomes_srgb() -> None:
    """Against the published matrices: linear P3 to XYZ(D50) to linear sRGB, with sRGB's curve on both sides."""

    def linear(v: np.ndarray) -> np.ndarray:
        return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)

    def encoded(v: np.ndarray) -> np.ndarray:
        return np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055)

    p3 = np.array([[0.51512, 0.29198, 0.1571], [0.2412, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
    srgb = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
    values = np.array([[120, 110, 100], [90, 140, 110], [128, 128, 128], [200, 180, 190]], dtype=np.uint8)
    data = corpus.encode(values[None], "PNG", icc_profile=corpus.p3_profile())
    expected = encoded((linear(values / 255) @ p3.T @ np.linalg.inv(srgb).T).clip(0, 1)) * 255
    found = picture(data).pixels[0]
    assert np.abs(found - expected).max() < 2
    assert far(found, values) > 5  # and it did change something


def test_lab_palette_and_one_bit_keep_their_colours() -> None:
    lab = picture(corpus.good()["lab.tif"]).pixels.astype(int) - corpus.colours()
    assert np.abs(lab).mean() < 3  # 8 bits of L*a*b* are coarse where colours are strongest
    image = Image.fromarray(corpus.colours())
    palette = image.quantize(16)
    assert (picture(corpus.encode(palette, "PNG")).pixels == np.asarray(palette.convert("RGB"))).all()
    bits = picture(corpus.good()["one-bit.png"]).pixels
    assert set(np.unique(bits)) == {0, 255}


@pytest.mark.parametrize("background", ["#ffffff", "#000000", "#ff8000"])
def test_transparency_is_composited_on_the_stated_ground(background: str) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., :3], pixels[:2, :, 3] = (10, 200, 90), 255
    pixels[2, :, 3] = 51  # a fifth
    decoded = picture(corpus.encode(pixels, "PNG"), background=background)
    ground = np.array([int(background[at : at + 2], 16) for at in (1, 3, 5)])
    assert (decoded.pixels[0] == (10, 200, 90)).all() and (decoded.pixels[3] == ground).all()
    assert np.abs(decoded.pixels[2] - (0.2 * np.array((10, 200, 90)) + 0.8 * ground)).max() <= 1
    assert "transparent" in decoded.warnings[0] and background in decoded.warnings[0]


def test_animations_give_their_first_frame() -> None:
    for name in ("animated.webp", "animated.png", "pages.tif"):
        assert far(picture(corpus.odd()[name]).pixels, corpus.colours()) <= 40, name


@cache
def whole_files() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    files = {kind: corpus.encode(noise, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")}
    files["GIF"] = corpus.encode(image.quantize(64), "GIF")
    files["progressive"] = corpus.encode(noise, "JPEG", progressive=True)
    files["lossless"] = corpus.encode(noise, "WEBP", lossless=True)
    files["lzw"] = corpus.encode(noise, "TIFF", compression="tiff_lzw")
    return files


@pytest.mark.parametrize("kind", sorted(whole_files()))
@pytest.mark.parametrize("draft_size", [None, (8, 8)])
def test_no_prefix_of_a_file_passes_for_another_picture(kind: str, draft_size: tuple[int, int] | None) -> None:
    """Cut anywhere: set aside, or (where only a trailer is missing) exactly the whole picture."""
    data = whole_files()[kind]
    whole = picture(data, draft_size=draft_size).pixels
    cuts = {*range(0, len(data), max(1, len(data) // 60)), *range(max(0, len(data) - 40), len(data))}
    for cut in sorted(cuts):
        decoded = decode(data[:cut], "x", draft_size=draft_size)
        if isinstance(decoded, Picture):
            assert cut > 0.9 * len(data) and np.array_equal(decoded.pixels, whole), (kind, cut, len(data))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(sorted(whole_files())), st.integers(0, 400))
def test_garbage_never_raises(junk: bytes, kind: str, at: int) -> None:
    data = whole_files()[kind]
    for attempt in (junk, data[:at] + junk, data[:at] + junk + data[at + len(junk) :]):
        assert isinstance(decode(attempt, "x"), (Picture, SetAside))
        header_size(attempt)


def test_draft_never_goes_below_twice_the_target_and_agrees_with_the_full_picture() -> None:
    large = np.asarray(Image.fromarray(corpus.colours()).resize((800, 600), Image.Resampling.BICUBIC))
    for kind in ("JPEG", "PNG"):
        data = corpus.encode(large, kind)
        drafted, full = picture(data, draft_size=(64, 64)), picture(data)
        assert drafted.size == full.size == (600, 800)
        assert drafted.pixels.shape[0] >= 128 and drafted.pixels.shape[1] >= 128
        assert drafted.pixels.shape[0] < 600
        for how in ("crop", "pad", "stretch"):
            assert far(fit(drafted.pixels, (64, 64), how), fit(full.pixels, (64, 64), how)) <= 8  # type: ignore[arg-type]
    exact = picture(corpus.encode(large[:128, :128], "JPEG"), draft_size=(64, 64))
    assert exact.pixels.shape[:2] == (128, 128)


def test_strips_and_the_whole_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(corpus.colours(90, 70)).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    data = corpus.encode(image, "PNG", exif=corpus.exif(6))
    for draft_size in (None, (16, 16)):
        whole = picture(data, draft_size=draft_size)
        monkeypatch.setattr("ganvas.data.decode.STRIP_PIXELS", 700)
        strips = picture(data, draft_size=draft_size)
        monkeypatch.undo()
        assert np.array_equal(whole.pixels, strips.pixels) and whole.warnings == strips.warnings


def test_the_pixel_cap_is_checked_before_decoding_and_can_be_raised() -> None:
    data = corpus.encode(np.zeros((300, 300), np.uint8), "PNG")
    refused = decode(data, "x", max_pixels=300 * 300 - 1)
    assert isinstance(refused, SetAside) and "cap" in refused.reason
    assert picture(data, max_pixels=300 * 300).size == (300, 300)
    ceiling = Image.MAX_IMAGE_PIXELS
    decode(corpus.bad()["60000.png"][0], "x")
    assert ceiling == Image.MAX_IMAGE_PIXELS


def test_fit_crop_pad_and_stretch() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = 255  # the centre square is white
    assert (fit(pixels, (16, 16), "crop")[:, 3:-3] == 255).all()
    padded = fit(pixels, (16, 16), "pad", "#ff0000")
    assert (padded[:4] == (255, 0, 0)).all() and (padded[-4:] == (255, 0, 0)).all() and (padded[8, 0] == 0).all()
    stretched = fit(pixels, (16, 16), "stretch")
    assert (stretched[:, 6:10] >= 250).all() and (stretched[:, 0] <= 5).all()
    assert fit(pixels[..., :1], (16, 24), "pad").shape == (16, 24, 1)
    assert fit(pixels[:1, :1], (16, 16), "crop").shape == (16, 16, 3)


def test_fit_is_antialiased() -> None:
    """A one-pixel checkerboard, ten times too fine for the output, becomes its mean and not stripes."""
    board = ((np.indices((160, 160)).sum(0) % 2) * 255).astype(np.uint8)[..., None]
    assert np.abs(fit(board, (16, 16), "stretch").astype(int) - 127.5).max() <= 3


def test_channels() -> None:
    pixels = corpus.colours()
    grey = to_channels(pixels, "grey")
    assert grey.shape[2] == 1 and np.abs(grey[..., 0] - pixels @ (0.299, 0.587, 0.114)).max() <= 1
    assert (to_channels(grey, "rgb") == grey).all() and to_channels(pixels, "rgb") is pixels


def test_printable_escapes_what_a_terminal_would_obey() -> None:
    assert printable("a\nb\x1b[31m\udcff\u202e") == "a\\nb\\x1b[31m\\udcff\\u202e"
    assert printable("снимок 写真.png") == "снимок 写真.png"


@pytest.mark.parametrize("largest", [1, 7, 100, 254, 256, 1023, 4095, 65535])
def test_pnm_values_are_scaled_to_the_nearest(largest: int) -> None:
    """Against fractions, for every value (or 3,000 of them), in both kinds of file, and in more than one block."""
    values = np.unique(np.linspace(0, largest, 3000).astype(int))
    expected = [int(Fraction(255 * int(value), largest) + Fraction(1, 2)) for value in values]
    kind = "u1" if largest < 256 else ">u2"
    grey = b"P5\t%d\n# a note\n1 %d\n" % (len(values), largest) + values.astype(kind).tobytes()
    assert picture(grey).pixels[0, :, 0].tolist() == expected
    rows = np.stack([values, values[::-1], values], axis=1)  # one pixel a row
    for block in (pnm.BLOCK, 7):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pnm, "BLOCK", block)
            colour = picture(b"P6 1 %d %d " % (len(values), largest) + rows.astype(kind).tobytes()).pixels[:, 0]
        assert colour[:, 0].tolist() == colour[:, -1].tolist() == expected
        assert colour.shape[1] == 1 or colour[:, 1].tolist() == expected[::-1]


def test_pnm_headers_that_lie_allocate_nothing() -> None:
    for header in (b"P6 30000 30000 65535\n", b"P5 1000000000 1 100\n", b"P5 999999999 999999999 999\n"):
        refused = decode(header + bytes(100), "x.ppm")
        assert isinstance(refused, SetAside)
        assert "truncated" in refused.reason or "cap" in refused.reason, refused
    for header in (b"P6 0 5 65535\n", b"P6 5 5 0\n", b"P6 5 5 70000\n", b"P6 5 5\n", b"P6 #" + b"#" * 5000):
        assert isinstance(decode(header + bytes(200), "x.ppm"), SetAside), header


def test_what_takes_long_is_refused_by_its_header_unless_it_is_small() -> None:
    small = b"P3 90 70 255\n" + b"7 " * (90 * 70 * 3)
    assert picture(small).size == (70, 90)
    jpeg = corpus.encode(corpus.colours(), "JPEG", progressive=True)
    at = jpeg.index(b"\xff\xda")
    scan = jpeg[at : jpeg.index(b"\xff\xda", at + 2)]
    many = jpeg[:at] + scan * 50 + jpeg[at:]
    assert isinstance(decode(many, "x"), Picture)  # so many scans of a small picture harm nobody
    refused = decode(many, "x", max_pixels=corpus.SIDE * 64)
    assert isinstance(refused, SetAside)
    assert "60 scans" in refused.reason


def test_formats_that_are_decoded_in_copies_have_a_third_of_the_cap() -> None:
    data = corpus.encode(np.zeros((300, 300, 3), np.uint8), "WEBP")
    assert picture(data, max_pixels=3 * 300 * 300).size == (300, 300)
    refused = decode(data, "x", max_pixels=3 * 300 * 300 - 1)
    assert isinstance(refused, SetAside)
    assert "over the cap of a WebP" in refused.reason


@pytest.mark.parametrize("name", ["AVIF", "WEBP"])
def test_a_format_whose_library_is_missing_is_set_aside(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\0\0\0\x20ftypavif\0\0\0\0avifmif1" + bytes(200) if name == "AVIF" else corpus.webp_canvas(16)
    monkeypatch.setattr(kinds.features, "check", lambda feature: False)
    kinds._if_supported.cache_clear()
    try:
        refused = decode(data, "x")
    finally:
        kinds._if_supported.cache_clear()
    assert isinstance(refused, SetAside)
    assert kinds.READABLE[name] in refused.reason
    assert "save it as JPEG" in refused.fix


PEAK = """
import sys
from pathlib import Path
from ganvas.data.source import open_source
from ganvas.data.workers import Prepared, Recipe, prepare_one
source = open_source(sys.argv[1])
for name in source.names():
    found = prepare_one(source, name, Recipe((64, 64)))
    print(found.size if isinstance(found, Prepared) else found.reason)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
EACH_TIME = ("64-rgba.png", "64-float.tif", "33-rgb16.ppm", "21-rgb.webp", "64-written-out.pgm", "64-million-wide.png")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in EACH_TIME else pytest.mark.torture) for n in sorted(corpus.LARGE)]
)
def test_the_largest_pictures_stay_within_600_megabytes(name: str, tmp_path: Path) -> None:
    """Read, decoded and fitted as a worker does it, in a process of its own, whose peak is asked of the kernel."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to ask for the peak")
    make, kind, word = corpus.LARGE[name]
    (tmp_path / name).write_bytes(make())
    # Not ru_maxrss: a child inherits its parent's.
    program = [sys.executable, "-c", PEAK, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, check=True, text=True)
    answer, peak = done.stdout.splitlines()
    assert word in answer and (kind == "set aside") != answer.startswith("(")
    assert int(peak) * 1024 <= 600e6
    print(f"pictures: {name}: {int(peak) * 1024 / 1e6:.0f} MB, {answer}")
