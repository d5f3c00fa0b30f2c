"""The data doctor: its counts add up, it finds what was put in, and invents nothing."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from ganvas import draw
from ganvas.config import DataSettings
from ganvas.data.doctor import Report, expectation, inspect
from ganvas.data.source import open_source
from ganvas.errors import DataError, SettingError, StorageError


def fill(folder: Path, count: int, start: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(start, start + count):
        (folder / f"{seed:04d}.png").write_bytes(draw.portrait(seed)[0])
    return folder


def examine(folder: Path, **settings: object) -> Report:
    chosen = DataSettings.model_validate({"workers": 0, **settings})
    return inspect(open_source(folder), chosen, folder.parent / "cache", spec="photos/")


def printed(report: Report, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(report.tables())
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty portraits, of which 3 come again (as a file, as a JPEG, enlarged), with 4 files that are no pictures."""
    folder = fill(tmp_path / "photos", 40)
    shutil.copy(folder / "0005.png", folder / "copy of 5.png")
    with Image.open(folder / "0006.png") as picture:
        picture.save(folder / "saved again.jpg", quality=90)
    with Image.open(folder / "0007.png") as picture:
        picture.resize((256, 256), Image.Resampling.BICUBIC).save(folder / "enlarged.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.jpg").write_bytes(b"<!doctype html><html>not found</html>")
    (folder / "half.png").write_bytes((folder / "0001.png").read_bytes()[:700])
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_counts_add_up_and_every_file_is_accounted_for(photos: Path) -> None:
    facts = examine(photos).facts
    files = len(list(photos.iterdir()))
    assert facts["seen"] == files == facts["accepted"] + facts["warned"] + facts["set_aside"]
    assert facts["set_aside"] == 4 == sum(group["count"] for group in facts["set_aside_reasons"])
    assert facts["train"] + facts["held_out"] == facts["accepted"] + facts["warned"] == 43
    named = {name for group in facts["set_aside_reasons"] for name in group["names"]}
    assert named == {"empty.png", "page.jpg", "half.png", "notes.txt"}
    assert all(group["reason"] and group["fix"] for group in facts["set_aside_reasons"])


def test_duplicates_put_in_are_found_and_none_invented(photos: Path) -> None:
    found = examine(photos).facts["duplicates"]
    assert found["exact"] == [["0005.png", "copy of 5.png"]]
    assert sorted(map(sorted, found["near"])) == [["0006.png", "saved again.jpg"], ["0007.png", "enlarged.png"]]
    assert found["surplus"] == 3 and found["complete"]


def test_a_clean_set_has_no_duplicates_and_no_complaints(tmp_path: Path) -> None:
    report = examine(fill(tmp_path / "clean", 120))
    assert report.facts["duplicates"]["surplus"] == 0
    assert report.facts["set_warnings"] == []
    assert report.facts["different"] == report.facts["train"] == 114


def test_repeated_pictures_do_not_count_as_different(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 10)
    for number in range(10):
        shutil.copy(folder / f"{number:04d}.png", folder / f"again {number}.png")
    facts = examine(folder).facts
    assert facts["different"] <= 10
    assert any("repeat another one" in line for line in facts["set_warnings"])


def test_near_copies_across_the_held_out_part_are_reported(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 60)
    for path in sorted(folder.iterdir()):
        with Image.open(path) as picture:
            picture.save(path.with_suffix(".jpg"), quality=95)
    report = examine(folder)
    held = {report.dataset.names[index].split(".")[0] for index in report.dataset.heldout}
    trained = {report.dataset.names[index].split(".")[0] for index in report.dataset.train}
    assert held & trained  # the split knows exact copies only
    assert report.facts["duplicates"]["held_out_with_a_copy_in_training"] == len(held & trained)
    assert any("will flatter" in line for line in report.facts["set_warnings"])


def test_small_pictures_scarce_classes_and_flip_are_spoken_of(tmp_path: Path) -> None:
    for kind, start in (("cat", 0), ("dog", 100)):
        fill(tmp_path / "pets" / kind, 60 if kind == "cat" else 20, start)
    facts = examine(tmp_path / "pets", classes=True, size=128, flip=True).facts
    assert facts["classes"] == {"cat": 60, "dog": 20}
    assert any("fewer than 50 pictures: dog" in line for line in facts["set_warnings"])
    assert any("enlarged" in line for line in facts["set_warnings"])
    assert facts["mirror"]["flip"] is True and "as asked for" in facts["mirror"]["why"]
    assert facts["suggested_command"] == "ganvas train photos/ --size 128 --minutes 10"


def test_expectations_follow_the_number_of_pictures() -> None:
    words = [expectation(count)["word"] for count in (1, 99, 100, 999, 1000, 9999, 10_000, 99_999, 100_000, 10**8)]
    assert words[::2] == words[1::2]
    assert len(set(words)) == 5
    assert "memorise" in words[0]
    with pytest.raises(SettingError, match="0 pictures"):
        expectation(0)


def test_tables_name_the_files_and_what_to_do(photos: Path) -> None:
    (photos / "[bold]odd[red].png").write_bytes(b"")
    text = printed(examine(photos))
    for words in ("seen", "48 = ", "empty.png", "What to expect", "ganvas train photos/", "mirroring"):
        assert words in text
    assert "[bold]odd[red].png" in text
    assert printed(examine(photos), width=40)  # a narrow terminal is no error


def test_sheet_and_json_are_written(photos: Path) -> None:
    report = examine(photos)
    sheet, facts = report.write(photos.parent / "check" / "deep")
    assert json.loads(facts.read_text()) == json.loads(json.dumps(report.facts))
    with Image.open(sheet) as opened:
        opened.load()
        assert opened.mode == "RGB" and opened.width == 1200
        plain = examine(fill(photos.parent / "other", 43, 500)).contact_sheet()
        assert opened.height > plain.height  # pairs and set-aside names take room of their own


def test_the_sheet_shows_the_pictures_as_they_are_trained_on(tmp_path: Path) -> None:
    report = examine(fill(tmp_path / "photos", 3))
    sheet = report.contact_sheet()
    shown = sheet.tobytes()
    for image in report.dataset.images:  # 64 pixels are not enlarged, so every row of them is in the sheet
        assert image[32].tobytes() in shown


def test_a_folder_that_cannot_be_written_is_one_line(photos: Path) -> None:
    report = examine(photos)
    with pytest.raises(StorageError, match="not a folder"):
        report.write(photos / "0001.png")


def test_no_picture_at_all_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        examine(tmp_path / "photos")
    assert "\n" not in str(caught.value)


def test_progress_counts_both_parts(photos: Path) -> None:
    told: list[tuple[str, int, int]] = []
    inspect(open_source(photos), DataSettings(workers=0), photos.parent / "cache", progress=lambda *at: told.append(at))
    assert ("decode", 46, 46) in told
    assert told[-1] == ("compare", 43, 43)


def test_the_doctor_needs_no_torch() -> None:
    program = "import sys, ganvas.data.doctor, ganvas.named; print('torch' in sys.modules, 'datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
