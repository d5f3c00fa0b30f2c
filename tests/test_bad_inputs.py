"""Bad input gets one line that names the value and the next step, and leaves everything as it was."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bad_inputs import CASES, GROUPS, HEAD
from bad_workshop import Bad, ask, row, tidy, workshop

PAGE = Path(__file__).parents[1] / "docs" / "bad-input.md"
PATIENCE_SECONDS = 60  # far beyond what any answer takes: a command that waits for something would never end
# Words of the libraries below us, which no user should have to know.
JARGON = ("Traceback", "Error:", "Errno", "Unused Tokens", "pydantic", "validation", "input should", "should match")
# What a command may always leave: prepared pictures, whole, for the next run; and the lock file beside them.
CACHE = r"runs(/\.cache(/[\w-]+(/(\.lock|images\.npy|meta\.json))?)?)?"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workshop, with its two small runs; read only."""
    return workshop(tmp_path_factory.mktemp("bad") / "shop")


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Fail when the block does not end."""

    def give_up(*_: object) -> None:
        pytest.fail(f"no answer within {PATIENCE_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, str]:
    """Every entry below `folder`: the SHA-256 of a file, or the kind of another entry."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file():
            found[name] = "folder" if path.is_dir() and not path.is_symlink() else "other"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def assert_one_line(code: int, out: str, err: str) -> None:
    assert code == 2, err
    assert err.startswith("ganvas: ")
    assert [line for line in err.split("\n") if line] == [err.rstrip("\n")]
    assert len(err) < 600
    assert "Traceback" not in out
    for word in JARGON:
        assert word not in err


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.what}: {case.command[:60]}")
def test_one_line_and_nothing_lost(case: Bad, shop: Path, tmp_path: Path) -> None:
    if not case.runs_here():
        pytest.skip("this machine has what the command lacks")
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    with contextlib.chdir(folder):
        case.make()
    before = contents(folder)
    with patience():
        code, out, err = ask(case, folder)
    assert_one_line(code, out, err)
    assert case.value in tidy(err)
    assert case.step in tidy(err)
    after = contents(folder)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert [name for name in sorted(changed) if not re.fullmatch(f"{CACHE}|{case.leaves}", name)] == []
    # The page shows this very answer.
    assert row(case, code, err) in PAGE.read_text("utf-8").splitlines()


def test_the_page_holds_the_table_and_nothing_else() -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    assert lines[: len(HEAD.splitlines())] == HEAD.splitlines()
    assert [line for line in lines if line.startswith("## ")] == [f"## {title}" for title in GROUPS]
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| what is wrong")]
    assert [line.split(" | ")[0] for line in rows] == [f"| {case.what}" for case in CASES]


def test_a_damaged_newest_checkpoint_falls_back_on_the_one_before(shop: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    ahead = Bad("", "ganvas train photos/ --images 128", "", "")
    assert ask(ahead, folder)[0] == 0
    newest = folder / "runs/photos/checkpoints/000000000128/networks.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    code, out, err = ask(ahead, folder)
    assert (code, err) == (0, "")
    assert "passed over a damaged checkpoint" in out
    assert "going on at 64 images" in out


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    code, out, err = ask(Bad("", "ganvas train locked/", "", ""), tmp_path)
    assert_one_line(code, out, err)
    assert "locked" in err
    assert "permissions" in err


@pytest.mark.parametrize(
    "command",
    [
        "train",
        "train photoz",
        "train notes.txt --batch 0",
        "generate runs/none --seed 3",
        "data get avatars --to notes.txt",
    ],
)
def test_the_program_itself_answers_like_that(command: str, tmp_path: Path) -> None:
    """Not only the function: the process, its streams and its exit code."""
    (tmp_path / "notes.txt").write_text("hello")
    program = [sys.executable, "-m", "ganvas", *command.split()]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert_one_line(done.returncode, done.stdout, done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
