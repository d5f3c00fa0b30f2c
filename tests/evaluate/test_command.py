"""`ganvas evaluate` as it is typed: tables, words, and where the report goes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ganvas import cli
from ganvas.evaluate.result import Evaluation
from small import draw


@pytest.fixture(autouse=True)
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with runs/first and runs/second in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        shutil.copytree(trained, Path("runs", name))


def said(capsys: pytest.CaptureFixture[str], line: str) -> str:
    code = cli.run(line.split())
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def evaluations(folder: str) -> list[Evaluation]:
    written = json.loads(Path(folder, "report.json").read_text("utf-8"))["evaluations"]
    return [Evaluation.model_validate(each) for each in written]


def test_one_run_is_reported_in_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "evaluate runs/first --features pixels")
    (found,) = evaluations("runs/first")
    assert "pixels@32" in out and "first" in out and "real pictures" in out
    for line in found.words:
        assert " ".join(line.split()) in " ".join(out.split()), "what the report says is printed too"
    page = Path("runs/first/report.html").read_text("utf-8")
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert str(Path("runs/first/report.html")) in out


def test_several_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "evaluate runs/first runs/second --features pixels --to both")
    assert [each.name for each in evaluations("both")] == ["first", "second"]
    assert "first" in out and "second" in out
    assert not Path("runs/first/report.html").exists()


def test_features_are_never_mixed(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "evaluate runs/first --features pixels@32,pixels@8")
    assert [each.protocol.features for each in evaluations("runs/first")] == ["pixels@32", "pixels@8"]
    assert out.count("real pictures ") >= 2, "a table for each"


def test_images_of_any_origin_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    draw(Path("photos"), 60)
    draw(Path("samples"), 30, first=500)
    said(capsys, "evaluate samples --data photos --features pixels --split all")
    (found,) = evaluations("runs/.evaluate/samples")
    assert (found.samples.count, found.seen_images, found.protocol.split) == (30, None, "all")
    assert sorted(path.name for path in Path("samples").iterdir())[0] == "500.png", "nothing is written among them"
