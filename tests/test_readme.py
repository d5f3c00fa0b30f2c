"""The README's commands, run as they stand there, on small stand-ins.

Every `ganvas ...` line and every Python block is taken from README.md (and the Python page of the docs) and run in one
folder, in the order in which a reader meets them. Only what SMALLER lists is changed, to make it quick. A line that is
new in the README fails until LEAVES says what it leaves behind.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganvas import cli, named
from ganvas.images import DIGITAL_SOURCE_TYPE, read_provenance

ROOT = Path(__file__).parents[1]
PICTURES = 80

# What is changed to make a line quick: (what the README says, what is run instead). The last word of a line that
# trains is its budget; --size 32 makes a picture cost a quarter.
SMALLER = (
    ("ganvas train photos/ --minutes 10", "ganvas train photos/ --images 96 --size 32 --frames 4"),
    ("ganvas train avatars --minutes 10", "ganvas train avatars --images 64 --size 32 --frames 2"),
    ("--preset dcgan --to runs/tutorial", "--preset dcgan --to runs/tutorial --images 128 --size 32 --frames 2"),
    ("--dry-run", "--dry-run --to runs/planned --size 32 --batch 4"),
    ("--count 10000", "--count 40"),
    ("--count 5000", "--count 60"),
)
SMALLER_PYTHON = (("minutes=10", "images=128"),)


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language in a Markdown page of the repository."""
    text = (ROOT / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def lines(page: str, program: str) -> list[str]:
    """The lines of a page's shell blocks that start `program`, without their comments, words one blank apart."""
    found = (shlex.split(line, comments=True) for block in blocks(page, "sh") for line in block.splitlines())
    return [shlex.join(words) for words in found if words[:1] == [program]]


def smaller(text: str, table: tuple[tuple[str, str], ...]) -> str:
    for large, small in table:
        text = text.replace(large, small)
    return text


def is_run(folder: str) -> None:
    for name in ("config.json", "manifest.json", "metrics.jsonl", "film.webp", "gallery.html"):
        assert Path(folder, name).is_file(), f"{folder}/{name}"
    assert list(Path(folder, "checkpoints").glob("0*/networks.safetensors"))
    assert len(list(Path(folder, "samples").glob("0*.png"))) >= 2


def pictures_checked(said: str) -> None:
    assert f"seen {PICTURES} = {PICTURES} accepted" in said
    assert "What to expect" in said
    assert Path("runs/.check/photos/sheet.png").is_file()
    assert Path("runs/.check/photos/report.json").is_file()


def trained(said: str) -> None:
    is_run("runs/photos")
    again = run_line("ganvas train photos/ --images 128")  # "the same line goes on"; a new budget, to see it go
    assert "going on at 96 images" in again
    assert "done: 128 images" in again


def grid_made(said: str) -> None:
    made = read_provenance("runs/photos/generated/grid-0-63.png")
    assert made is not None
    with Image.open("runs/photos/generated/grid-0-63.png") as grid:
        assert min(grid.size) >= 8 * 32


def files_made(said: str) -> None:
    files = sorted(Path("out").glob("*.webp"))
    assert [file.name for file in files] == [f"seed{seed:06d}.webp" for seed in range(40)]
    made = read_provenance(files[7])  # "every file says that a model made it, which one, and from which seed"
    assert made is not None
    assert made.seed == 7
    assert made.weights
    assert DIGITAL_SOURCE_TYPE.encode() in files[7].read_bytes()


def sets_listed(said: str) -> None:
    # "portraits drawn by rule, digits, and the field's usual sets"
    assert {"avatars", "digits", "mnist", "cifar10", "celeba", "lsun", "ffhq", "afhq"} <= set(said.split())


def set_written(said: str) -> None:
    assert len(list(Path("avatars").glob("*.png"))) == 60
    assert "CC0" in Path("avatars/LICENCE.txt").read_text("utf-8")
    assert len(Path("avatars/attributes.csv").read_text("utf-8").splitlines()) == 61


def planned(said: str) -> None:
    for word in ("pictures", "network", "GFLOP an image", "budget", "expected"):
        assert word in said
    assert not Path("runs/planned").exists()  # a plan trains nothing


def measured(said: str) -> None:
    assert "real pictures" in said and "lite0@" in said
    assert Path("runs/photos/report.html").is_file() and Path("runs/photos/report.json").is_file()


LEAVES: dict[str, Callable[[str], None]] = {
    "ganvas data check photos/": pictures_checked,
    "ganvas train photos/ --minutes 10": trained,
    "ganvas generate runs/photos --seeds 0-63 --grid": grid_made,
    "ganvas generate runs/photos --count 10000 --to out/ --format webp": files_made,
    "ganvas evaluate runs/photos": measured,
    "ganvas data list": sets_listed,
    "ganvas data get avatars --count 5000 --to avatars/": set_written,
    "ganvas train avatars --minutes 10": lambda said: is_run("runs/avatars"),
    "ganvas train photos/ --dry-run": planned,
    "ganvas train photos/ --preset dcgan --to runs/tutorial": lambda said: is_run("runs/tutorial"),
}


_capture: pytest.CaptureFixture[str]


def run_line(line: str) -> str:
    """Run one `ganvas ...` line; return what it said, blanks made single; it must exit 0 and say nothing on stderr."""
    _capture.readouterr()
    code = cli.run(shlex.split(line)[1:])
    said = _capture.readouterr()
    assert (code, said.err) == (0, ""), f"{line}: exit {code}: {said.err}"
    return " ".join(said.out.split())


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with photos/ in it, as the reader has one: portraits drawn by rule stand in for photographs."""
    folder = tmp_path_factory.mktemp("workshop")
    written = named.export_set(named.resolve("avatars", count=PICTURES, side=48), folder / "drawn")
    assert written == PICTURES
    (folder / "photos").mkdir()
    for picture in (folder / "drawn").glob("*.png"):
        picture.rename(folder / "photos" / picture.name)
    shutil.rmtree(folder / "drawn")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.mark.slow
def test_every_command_of_the_readme_does_what_it_says(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    global _capture
    _capture = capsys
    said = lines("README.md", "ganvas")
    assert sorted(said) == sorted(LEAVES), "a line of the README has no check here, or the other way round"
    assert all(any(large in line for line in said) for large, _ in SMALLER), "a substitution fits no line any more"
    for line in said:
        LEAVES[line](run_line(smaller(line, SMALLER)))
    check_python("README.md")
    check_python("docs/python.md")


def check_python(page: str) -> None:
    """Run a page's Python blocks, one after the other in one namespace, where the commands have left a run."""
    found = blocks(page, "python")
    assert found, f"{page} has no Python block"
    space: dict[str, object] = {}
    for block in found:
        exec(compile(smaller(block, SMALLER_PYTHON), page, "exec", dont_inherit=True), space)  # noqa: S102 (our own page)
    images, generator = space["images"], space["generator"]
    assert isinstance(images, np.ndarray)
    assert (images.dtype, images.shape) == (np.uint8, (64, 32, 32, 3))
    assert np.array_equal(generator.sample(seeds=[41])[0], images[41])  # type: ignore[attr-defined]


# What the Makefile's targets must run for the README and CONTRIBUTING to be true.
TARGETS = {
    "demo": ("ganvas train avatars --minutes 8", "ganvas gallery runs/avatars --open"),  # "eight minutes", "a gallery"
    "test": ("python -m pytest",),
    "setup": (),
    "check": ("ruff check", "ruff format --check", "mypy"),
}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_run_what_the_pages_say(page: str) -> None:
    targets = [line.split()[1] for line in lines(page, "make")]
    assert targets
    for target in targets:
        asked = ["make", "-n", "-B", target]
        printed = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert printed.returncode == 0, printed.stderr
        for command in TARGETS[target]:
            assert command in printed.stdout, f"make {target}"


def test_constraints_pin_the_torch_that_was_tested() -> None:
    assert "pip install -c constraints.txt ." in (ROOT / "README.md").read_text("utf-8")
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
