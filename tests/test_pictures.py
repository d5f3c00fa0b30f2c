"""Every row of the bar for pictures, through `ganvas data check` and `ganvas train`: see tests/pictures_table.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from faults import in_child
from ganvas import cli
from pictures_table import (
    ENTRIES,
    FILES,
    GROUPS,
    PLAIN,
    SETS,
    SOURCES,
    TRAIN,
    Input,
    answer,
    draw,
    large,
    shown,
    warm_up,
)

PAGE = Path(__file__).parents[1] / "docs" / "pictures.md"


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    warm_up()


def check(one: Input) -> None:
    if not one.runs_here():
        pytest.skip("this machine does not let it be made")
    assert answer(one).problems == ()


@pytest.mark.parametrize("one", [*ENTRIES, *SOURCES, *SETS], ids=lambda one: one.name)
def test_entries_sources_and_sets(one: Input) -> None:
    check(one)


@pytest.mark.parametrize("one", FILES[::17], ids=lambda one: one.name[:40])
def test_some_files_each_among_plain_ones(one: Input) -> None:
    """A few each time; all of them in the long form below, and all at once in the next test."""
    check(one)


def test_all_files_at_once(tmp_path: Path) -> None:
    """Both commands on one folder that holds every kind of file."""
    draw(PLAIN, tmp_path)
    for one in FILES:
        one.make(tmp_path)
    report = tmp_path / "report"
    kinds = [one.answer for one in FILES]

    def work() -> int:
        os.chdir(tmp_path)
        return cli.run(["data", "check", "photos", "--to", str(report)]) or cli.run(["train", "photos", *TRAIN.split()])

    ended = in_child(work)
    assert (ended.code, ended.err) == (0, "")
    assert "Traceback" not in ended.out
    facts = json.loads((report / "report.json").read_text())
    assert facts["seen"] == PLAIN + len(FILES) == facts["accepted"] + facts["warned"] + facts["set_aside"]
    assert facts["accepted"] == PLAIN + kinds.count("accepted")
    assert facts["warned"] == kinds.count("warned")
    assert facts["set_aside"] == kinds.count("set aside")
    pictures = json.loads((tmp_path / "runs" / "photos" / "manifest.json").read_text())["pictures"]
    assert pictures["train"] + pictures["held_out"] == facts["accepted"] + facts["warned"]
    # Each refusal gives file, reason and fix.
    assert sorted(name for group in facts["set_aside_reasons"] for name in group["names"]) == sorted(
        one.name for one in FILES if one.answer == "set aside"
    )
    assert all(group["reason"] and group["fix"] for group in facts["set_aside_reasons"])


@pytest.mark.torture
def test_every_input_by_itself() -> None:
    inputs = [one for one in [*FILES, *large()] if one.runs_here()]
    wrong = {one.name: found.problems for one in inputs if (found := answer(one)).problems}
    assert wrong == {}
    print(
        f"pictures: {len(inputs):,} files, {len(inputs):,} answered as promised by data check and train, 0 tracebacks"
    )


def test_the_page_has_every_input_and_no_failure() -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ") and not line.startswith("| input ")]
    inputs = [*(one for group in GROUPS.values() for one in group), *large()]
    assert [cells[0][2:] for cells in rows] == [shown(one.name) for one in inputs]
    assert [cells[1] for cells in rows] == [one.answer for one in inputs]
    assert {cells[2] for cells in rows} <= {"yes", "cannot be made here"}
    assert all(float(cells[3]) <= 600 for cells in rows if cells[3].strip())
