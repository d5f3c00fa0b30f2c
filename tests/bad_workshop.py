"""A small workshop of pictures and runs, what makes the bad files in it, and how a command is asked there."""

from __future__ import annotations

import contextlib
import html
import io
import os
import pickle
import re
import shlex
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "data"))

from corpus import bad, colours, encode

from ganvas import cli

RUN = Path("runs/photos")
SMALL = "--width 8 --size 32 --images 64 --batch 8 --samples 4 --frames 2"
BAD_FILES = bad()  # name -> bytes, and a word of the reason
PNG = encode(colours(), "PNG")


@dataclass(frozen=True)
class Bad:
    """One bad input: what is wrong, the command, and the value and the next step (or rule) that its line must name."""

    what: str
    command: str
    value: str
    step: str
    make: Callable[[], object] = lambda: None  # prepares the files, in the workshop
    around: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    leaves: str = r"(?!)"  # pattern of what it may leave or change; the prepared pictures' cache always may stay
    runs_here: Callable[[], bool] = lambda: True


def workshop(folder: Path) -> Path:
    """Make photos/, animals/ (two classes) and a run of each in `folder`; return it."""
    names = [f"photos/{index:02}" for index in range(40)]
    names += [f"animals/{kind}/{index}" for kind in ("cat", "dog") for index in range(4)]
    for name in names:
        random = np.random.default_rng(sum(name.encode()))
        pixels = np.full((32, 32, 3), random.integers(0, 256, 3), np.uint8)
        top, left = random.integers(0, 16, 2)
        pixels[top : top + 12, left : left + 12] = random.integers(0, 256, 3)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        for line in ("train photos/", "train animals/ --classes"):
            assert cli.run([*line.split(), *SMALL.split()]) == 0
    return folder


def ask(case: Bad, folder: Path) -> tuple[int, str, str]:
    """Run a case's command in `folder`, where `case.make` has been; return exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), case.around(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(shlex.split(case.command)[1:])
    return code, out.getvalue(), err.getvalue()


def tidy(said: str) -> str:
    """An answer on one line, with what differs from machine to machine made the same."""
    for pattern, word in (
        (r"process \d+ on [\w.-]+", "process 4242 on this-machine"),
        (r"[\d,]+ bytes( instead of [\d,]+)?", r"N bytes"),
        (r"this torch \([^)]*\)", "this torch"),
        (r"\.cache/photos-[0-9a-f]{12}", ".cache/photos-…"),
    ):
        said = re.sub(pattern, word, said)
    return " ".join(said.split())


def row(case: Bad, code: int, said: str) -> str:
    """A row of the page."""
    command = cli.shorten(case.command, 160)
    cells = (case.what, f"<code>{html.escape(command, quote=False)}</code>", str(code), tidy(said))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


# Makers of bad files. Each works in the workshop, which is the current folder.


def put(path: str | Path, data: bytes | str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data if isinstance(data, bytes) else data.encode())


def flip(path: Path) -> None:
    """Flip one bit near the end."""
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def pipe(path: str) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    os.mkfifo(path)


def link(path: str, target: str) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).symlink_to(target)


def pictures(folder: str) -> None:
    for index in range(4):
        put(f"{folder}/{index}.png", encode(colours() // (index + 1), "PNG"))


def pack(members: dict[str, bytes], *, linked: bool = False, edit: Callable[[bytearray], None] | None = None) -> None:
    """Write a.zip, then let `edit` damage it."""
    with zipfile.ZipFile("a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        if linked:
            info = zipfile.ZipInfo("l.png")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    if edit is not None:
        data = bytearray(Path("a.zip").read_bytes())
        edit(data)
        put("a.zip", bytes(data))


def encrypt(data: bytearray) -> None:
    """Set the flag that says so, in both headers."""
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1


def halve(data: bytearray) -> None:
    del data[len(data) // 2 :]


def damage(data: bytearray) -> None:
    data[len(PNG) // 2] ^= 255


def saved(name: str) -> Path:
    """A file of the run's newest checkpoint."""
    return max((RUN / "checkpoints").iterdir()) / name


def spoil(name: str, how: str) -> None:
    """Damage one file of every checkpoint."""
    path = saved(name)
    if how == "flip":
        flip(path)
    elif how == "cut":
        put(path, path.read_bytes()[:1000])
    elif how == "swap":
        shutil.copy(saved("optimisers.safetensors"), path)
    elif how == "pickle":
        put(path, pickle.dumps({"weights": [1.0, 2.0]}))
    else:
        path.unlink()


@contextlib.contextmanager
def disk_full(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: what a full disk does to a writer, without filling one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def no_network() -> Iterator[None]:
    """The hub's address is a closed port of this machine, and nothing was fetched before."""
    import datasets
    from huggingface_hub import constants

    before = constants.ENDPOINT, constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE
    with tempfile.TemporaryDirectory() as empty:
        constants.ENDPOINT, constants.HF_HUB_CACHE = "http://127.0.0.1:9", empty
        datasets.config.HF_DATASETS_CACHE = Path(empty)
        try:
            yield
        finally:
            constants.ENDPOINT, constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE = before


def no_cuda() -> bool:
    import torch

    return not torch.cuda.is_available()
