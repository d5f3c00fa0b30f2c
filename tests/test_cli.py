"""The command line: fast help without torch, one line for every error, output fit for terminals and for pipes."""

from __future__ import annotations

import io
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from annotated_types import Ge
from pydantic.fields import FieldInfo
from rich.console import Console

from ganvas import cli, config, console, named
from ganvas.errors import StorageError

COMMANDS = [
    "",
    "train",
    "generate",
    "evaluate",
    "status",
    "gallery",
    "data",
    "data check",
    "data list",
    "data get",
    "model",
    "model show",
]
WAIT_SECONDS = 60  # a limit on hanging, not a claim of speed


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command that must succeed prints, blanks made single; nothing may go to stderr."""
    code = cli.run(list(words))
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return " ".join(out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, *command.split(), "--help")
    assert text.startswith(f"Usage: ganvas {command}".strip())


def test_ganvas_alone_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys) == said(capsys, "--help")


def least_and_choices(field: FieldInfo) -> list[Any]:
    """The smallest value that a setting may have, where there is one, and all that it can be chosen from."""
    least = [bound.ge for bound in field.metadata if isinstance(bound, Ge)]
    kinds = [field.annotation, *get_args(field.annotation)]
    return least + [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]


WRITTEN = [
    pytest.param(group, name, value, id=f"{name}-{value}")
    for group in config.GROUPS
    for name, field in type(getattr(config.make_config("x"), group)).model_fields.items()
    for value in least_and_choices(field)
]


@pytest.mark.parametrize(("group", "name", "value"), WRITTEN)
def test_what_a_setting_may_be_can_be_written(
    group: str, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[config.RunConfig] = []
    monkeypatch.setattr("ganvas.commands.plan_run", lambda found, to, given: asked.append(found) or 0)
    assert cli.run(["train", "photos", "--dry-run", f"--{name.replace('_', '-')}", str(value)]) == 0
    assert getattr(getattr(asked[0], group), name) == value


def test_the_settings_that_can_be_written_are_found() -> None:
    assert {"patch-1", "seed-0", "fit-pad", "optimiser-soap"} <= {case.id for case in WRITTEN}


def test_help_and_refusals_need_no_torch() -> None:
    lines = [[*command.split(), "--help"] for command in COMMANDS] + [
        ["train", "photos", "--size", "61"],
        ["--version"],
    ]
    code = (
        "import sys\nfrom ganvas import cli\n"
        f"for line in {lines!r}: cli.run(line)\n"
        "heavy = {'torch', 'PIL', 'datasets', 'sklearn', 'fsspec', 'imagehash'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_of_train_shows_what_most_people_need_first(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "train", "--help")
    headings = ["Arguments", "Often used", "Data", "Network", "Objective", "Training"]
    places = [text.index(f"─ {heading} ─") for heading in headings]
    assert places == sorted(places)
    often = text[places[1] : places[2]]
    assert re.findall(r"--[a-z-]+", often) == ["--to", "--preset", "--dry-run", "--size", "--minutes", "--images"]
    assert "--size SIZE" in text
    # Every setting there is can be given on the command line.
    for group in (config.DataSettings, config.NetworkSettings, config.ObjectiveSettings, config.TrainingSettings):
        for name in group.model_fields:
            assert f"--{name.replace('_', '-')} " in text


def test_a_size_is_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "photos", "--size", "64", "96"]) == 2
    assert "'96' is a word too many" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["batch", "minutes", "beta2", "seed", "width"])
def test_the_rule_in_a_refusal_is_the_setting_s_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The bounds that the line names: a value on the bound is taken and one beyond it is not."""
    assert cli.run(["train", "nowhere.zip", f"--{name}", "-1"]) == 2
    line = capsys.readouterr().err
    bound = re.search(r"(more than|at least) ([\d.,]+) and (less than|at most) ([\d.,]+);", line)
    assert bound is not None, line
    for word, number, step in ((bound[1], bound[2], -1), (bound[3], bound[4], 1)):
        value = float(number.replace(",", ""))
        inside, outside = (value, value + step) if word in ("at least", "at most") else (None, value)
        for asked, taken in ((inside, True), (outside, False)):
            if asked is not None:
                cli.run(["train", "nowhere.zip", f"--{name}", f"{asked:.12g}"])
                assert ("must be" not in capsys.readouterr().err) == taken, asked


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(36, "File name too long", "x" * 9999), 2, "File name too long; check the path"),
        (MemoryError(), 2, "not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (StorageError("the disk"), 2, "the disk"),
    ],
)
def test_what_goes_wrong_below_is_one_line(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganvas import commands

    def fail() -> int:
        raise error

    monkeypatch.setattr(commands, "list_data", fail)
    assert cli.run(["data", "list"]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("ganvas: ")
    assert words in err
    assert len(err) < 400


def test_our_own_mistakes_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug keeps its traceback: it is for whoever mends it, and no bad input may reach it."""
    from ganvas import commands

    def fail() -> int:
        raise AssertionError("a bug")

    monkeypatch.setattr(commands, "list_data", fail)
    with pytest.raises(AssertionError, match="a bug"):
        cli.run(["data", "list"])


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`ganvas data list | head -1`, with the pipe closed before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    program = [sys.executable, "-m", "ganvas", "data", "list"]
    done = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=WAIT_SECONDS)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def train_line(pictures: Path, to: Path) -> list[str]:
    small = "--size 32 --width 8 --batch 8 --samples 4 --frames 2 --threads 1"
    return ["train", str(pictures), "--to", str(to), *small.split()]


def test_output_that_is_no_terminal_is_plain(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*train_line(pictures, tmp_path / "run"), "--images", "16"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    lines = out.splitlines()
    assert all(lines), "there is an empty line"
    assert lines[0].startswith("discs: 80 pictures; 76 to train on, 4 held out")
    assert "fewer than 100 pictures" in lines[1]
    assert "for 16 images; Ctrl-C saves" in lines[2]
    assert "done: 16 images" in lines[3]
    for line, name in zip(lines[4:7], ("run", "film", "gallery"), strict=True):
        assert line.split()[0] == name
        assert Path(line.split()[1]).exists()
    # The last line is a command that works.
    assert cli.run(lines[7].removeprefix("make images with: ganvas ").split()) == 0


def test_a_run_whose_budget_is_used_up_says_so(
    pictures: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    weights = (run / "checkpoints/000000000024/generator.safetensors").read_bytes()
    again = said(capsys, "train", str(pictures), "--to", str(run))
    assert "budget of 24 images was used up before; to go on, give it a larger one with --minutes or --images" in again
    assert (run / "checkpoints/000000000024/generator.safetensors").read_bytes() == weights
    more = said(capsys, "train", str(pictures), "--to", str(run), "--images", "32")
    assert "going on at 24 images" in more
    assert "used up" not in more


def test_names_of_sets_are_whole_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = set(said(capsys, "data", "list").split())
    assert set(named.NAMED) <= words
    assert not any("…" in word for word in words)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """A terminal of 100 columns whose bytes can be read."""
    screen = io.StringIO()
    fake = Console(file=screen, force_terminal=True, width=100, highlight=False, color_system=None)
    monkeypatch.setattr(console, "console", fake)
    yield screen


def test_the_progress_line_fits_100_columns_and_says_what_matters(terminal: io.StringIO) -> None:
    from ganvas.training.log import Tick

    line = console.TrainingLine()
    line.picture(Path("runs") / ("a-rather-long-name-" * 6) / "samples" / "000000272800.png")
    line._task = line._line.add_task("", total=1.0, words="", left=None)
    line.tick(
        Tick(
            seen_images=12_345_678,
            seconds=3600.0,
            images_per_second=1416.0,
            progress=0.25,
            learning_rate=0.002,
            discriminator_loss=10.08,
            generator_loss=13.42,
            penalty=0.0,
            real_logit=0.0,
            fake_logit=0.0,
        )
    )
    console.console.print(line._line.get_renderable())
    shown = [text.rstrip() for text in terminal.getvalue().splitlines()]
    assert len(shown) == 2
    assert all(len(text) <= 100 for text in shown)
    for word in ("25%", "180:00 left", "12,345,678 images", "1416/s", "D 10.08", "G 13.42"):
        assert word in shown[0]
    assert shown[1].startswith("newest images: runs/a-rather-long-name-")
    assert shown[1].endswith("…")


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """Read what a process prints until `words` are among it."""
    assert process.stdout is not None
    seen, until = "", time.monotonic() + WAIT_SECONDS
    while words not in seen or not seen.endswith("\n"):
        assert time.monotonic() < until, f"{words!r} never came: {seen}"
        if select.select([process.stdout], [], [], 1.0)[0]:
            # Not readline: it would take two lines off the pipe and give one, and select waits for what the pipe holds.
            some = os.read(process.stdout.fileno(), 1 << 16)
            assert some, f"it ended: {seen}"
            seen += some.decode()
    return seen


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_saved_and_says_how_to_go_on(
    number: int, code: int, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my run"
    line = [*train_line(pictures, folder), "--minutes", "30"]
    program = [sys.executable, "-u", "-m", "ganvas", *line]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(process, "training style")
            while not list(folder.glob("samples/*.png")):
                time.sleep(0.05)
            time.sleep(0.5)  # some steps
            process.send_signal(number)
            out, err = process.communicate(timeout=WAIT_SECONDS)
        finally:
            process.kill()
    assert (process.returncode, err) == (code, "")
    assert out.count("\n") == 1
    again = out.split("go on with: ganvas ")[1]
    assert again.rstrip() == f"train {pictures} --to '{folder}'"
    # The line it gave goes on where it stopped.
    count = int(out.split("stopped and saved at ")[1].split()[0].replace(",", ""))
    assert [path.name for path in folder.glob("checkpoints/*")] == [f"{count:012d}"]
    assert f"going on at {count:,} images" in said(
        capsys, "train", str(pictures), "--to", str(folder), "--images", str(count + 8)
    )


def test_a_second_ctrl_c_leaves_at_once(pictures: Path, tmp_path: Path) -> None:
    """In the middle of a step that takes long, and with one line."""
    size = "--size 128 --width 64 --batch 64 --samples 1 --threads 1 --precision fp32"
    slow = [sys.executable, "-u", "-m", "ganvas", "train", str(pictures), "--to", str(tmp_path / "run"), *size.split()]
    with subprocess.Popen(slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(process, "training style")
            while not list((tmp_path / "run").glob("samples/*.png")):
                time.sleep(0.05)
            time.sleep(2.0)  # from the picture to the step, also on a busy machine; the step takes ten seconds
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=WAIT_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 130
    assert err.count("\n") == 1
    assert err.startswith("ganvas: interrupted; ")
    assert not list((tmp_path / "run").glob("checkpoints/*")), (
        "it finished its step and saved: that is the first Ctrl-C"
    )


def test_what_training_notices_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    from ganvas.training.monitor import Care, Finding

    line = console.TrainingLine()
    line.finding(Finding("collapsing", "many are clones"), Care())
    line.finding(Finding("collapsing", "many are clones"), Care())
    line.finding(Finding("collapsing", "many are clones", "roll back"), Care(penalty=2.0, rate=0.5))
    line.finding(Finding("healthy", "nothing to remark"), Care())
    line.note("the score could not be taken")
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "collapsing: many are clones",
        "collapsing: many are clones; went back to before, with 2 times the penalty and 0.5 times the rate",
        "the score could not be taken",
    ], "a state is told once, an action always, health never"
