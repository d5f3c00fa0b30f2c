"""Every kind of picture, what `ganvas data check` and `ganvas train` make of it, and what it costs.

`python tests/pictures_table.py > docs/pictures.md` measures and writes the page; tests/test_pictures.py holds what is
promised. Each file lies among four plain pictures, so that one bad file must not spoil the others.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "data"))

from corpus import LARGE, bad, colours, encode, good, odd

from faults import NOBODY, Ended, in_child
from ganvas import cli
from ganvas.data.source import open_source

PLAIN = 4  # pictures that each file lies among
MAX_BYTES = 600e6
TRAIN = "--size 32 --width 8 --z-dim 16 --batch 4 --images 4 --samples 4 --frames 1 --threads 1 --precision fp32"
PNG = encode(colours(), "PNG")


# Reads, decodes and fits one picture, as a worker process does it; prints its peak in kB, and the seconds of that work.
WORKER = """
import sys, time
from pathlib import Path
from ganvas.data.source import open_source
from ganvas.data.workers import Recipe, prepare_one
source = open_source(sys.argv[1])
before = time.monotonic()
prepare_one(source, sys.argv[2], Recipe((64, 64)))
seconds = time.monotonic() - before
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0], seconds)
"""


@dataclass(frozen=True)
class Input:
    """Something to look at: what is made in a folder, and how it must be answered.

    `answer` is "accepted", "warned", "set aside", or "refused" (exit 2, the whole source), or "said" (used, and `words`
    are said of the set). `words` must be in what is told.
    """

    name: str
    answer: str
    words: str
    make: Callable[[Path], object]
    source: str = "photos"
    alone: bool = False  # without the plain pictures
    runs_here: Callable[[], bool] = lambda: True
    as_nobody: bool = False


def put(name: str, data: bytes, folder: Path) -> None:
    (folder / "photos" / name).write_bytes(data)


def draw(count: int, folder: Path, *, same: bool = False) -> None:
    """Plain pictures of 32 x 32, all different or all the same."""
    (folder / "photos").mkdir(exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(0 if same else index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        (folder / "photos" / f"plain-{index:03d}.png").write_bytes(encode(pixels, "PNG"))


def link(target: str, folder: Path) -> None:
    (folder / "photos" / "link.png").symlink_to(target)


def bind(folder: Path) -> None:
    """A socket, made where its path is short enough."""
    here = Path.cwd()
    try:
        os.chdir(folder / "photos")
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket.png")
    finally:
        os.chdir(here)


def device(number: int, folder: Path) -> None:
    os.mknod(folder / "photos" / "device.png", stat.S_IFCHR | 0o666, os.makedev(1, number))


def may_make_devices() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.mknod(Path(folder) / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except OSError:
            return False
    return True


def locked(folder: Path) -> None:
    (folder / "photos" / "locked.png").write_bytes(PNG)
    (folder / "photos" / "locked.png").chmod(0)


def locked_folder(folder: Path) -> None:
    (folder / "photos" / "locked").mkdir(mode=0)


def pack(name: str, folder: Path, *, data: bytes = PNG, linked: bool = False, flag: int = 0) -> None:
    """Write photos.zip with one good picture and one member called `name`; set a flag in its headers."""
    with zipfile.ZipFile(folder / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", PNG)
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = ((stat.S_IFLNK if linked else stat.S_IFREG) | 0o644) << 16
        archive.writestr(info, data)
    if flag:
        packed = bytearray((folder / "photos.zip").read_bytes())
        at = packed.rindex(b"PK\1\2")
        struct.pack_into("<H", packed, at + 8, struct.unpack_from("<H", packed, at + 8)[0] | flag)
        (folder / "photos.zip").write_bytes(packed)


def mixed(folder: Path) -> None:
    draw(PLAIN, folder)
    put("wide.png", encode(colours(16, 64), "PNG"), folder)
    put("tall.png", encode(colours(64, 16), "PNG"), folder)


FILES = [
    *(Input(name, "accepted", "", partial(put, name, data)) for name, data in good().items()),
    *(Input(name, "warned", "", partial(put, name, data)) for name, data in odd().items()),
    *(Input(name, "set aside", word, partial(put, name, data)) for name, (data, word) in bad().items()),
]
ENTRIES = [
    Input("a link out of the folder", "set aside", "leaves the folder", partial(link, "/etc/hostname")),
    Input("a link to a folder outside", "set aside", "leaves the folder", partial(link, "/etc")),
    Input("a link to nothing", "set aside", "link to nothing", partial(link, "gone.png")),
    Input("a link to the folder itself", "set aside", "link to a folder", partial(link, ".")),
    Input("a link inside the folder", "accepted", "", partial(link, "plain-000.png")),
    Input("a pipe", "set aside", "pipe", lambda folder: os.mkfifo(folder / "photos" / "pipe.png")),
    Input("a socket", "set aside", "socket", bind),
    Input("a device that never ends", "set aside", "device", partial(device, 5), runs_here=may_make_devices),
    Input("a device that is always full", "set aside", "device", partial(device, 7), runs_here=may_make_devices),
    Input("a file that may not be read", "set aside", "Permission denied", locked, as_nobody=True),
    Input("a folder that may not be listed", "set aside", "cannot be listed", locked_folder, as_nobody=True),
    Input("a text by its suffix", "set aside", "suffix", partial(put, "notes.txt", b"hello")),
    Input("a name with control characters", "accepted", "", partial(put, "a\nb\x1b[31m.png", PNG)),
    Input("a name that is no UTF-8", "accepted", "",
          lambda folder: put(os.fsdecode(b"\xff\xfe.png"), PNG, folder)),
]  # fmt: skip
SOURCES = [
    Input("no picture at all", "refused", "no picture", lambda folder: (folder / "photos").mkdir(), alone=True),
    Input("only what is no picture", "refused", "its only file is no picture",
          lambda folder: [(folder / "photos").mkdir(), put("a.png", b"text", folder)], alone=True),
    Input("zip: ../", "refused", "parent folder", partial(pack, "../a.png"), "photos.zip", alone=True),
    Input("zip: ..\\", "refused", "parent folder", partial(pack, "..\\a.png"), "photos.zip", alone=True),
    Input("zip: an absolute name", "refused", "absolute", partial(pack, "/a.png"), "photos.zip", alone=True),
    Input("zip: a drive's name", "refused", "absolute", partial(pack, "C:\\a.png"), "photos.zip", alone=True),
    Input("zip: a link", "refused", "link", partial(pack, "l.png", data=b"/etc/passwd", linked=True), "photos.zip",
          alone=True),
    Input("zip: grows more than 100 times", "refused", "100 times", partial(pack, "b.png", data=bytes(20_000_000)),
          "photos.zip", alone=True),
    Input("zip: encrypted", "refused", "encrypted", partial(pack, "a.png", flag=1), "photos.zip", alone=True),
    Input("zip: good pictures", "said", "only 2", partial(pack, "b.png", data=encode(colours(40, 40), "PNG")),
          "photos.zip", alone=True),
]  # fmt: skip
SETS = [
    Input("1 picture", "said", "1 picture", partial(draw, 1), alone=True),
    Input("fewer than 100", "said", "only 30 pictures", partial(draw, 30), alone=True),
    Input("all alike", "said", "alike", partial(draw, 30, same=True), alone=True),
    Input("more than 5 % copies", "said", "repeat another one exactly", lambda folder: [
        draw(110, folder), *(put(f"copy{index}.png", PNG, folder) for index in range(8))], alone=True),
    Input("1x1", "said", "1x1", lambda folder: [
        draw(PLAIN, folder), put("dot.png", encode(colours()[:1, :1], "PNG"), folder)], alone=True),
    Input("mixed proportions", "said", "proportions differ", mixed, alone=True),
]  # fmt: skip
GROUPS = {"Files": FILES, "Entries of a folder": ENTRIES, "Sources": SOURCES, "Sets": SETS}


def large() -> list[Input]:
    """Files as large as the cap allows; the number is that of megapixels. Made as they are asked for."""
    return [
        Input(name, kind, word, lambda folder, n=name, m=maker: in_child(lambda: put(n, m(), folder)))
        for name, (maker, kind, word) in LARGE.items()
    ]


@dataclass(frozen=True)
class Answer:
    """What came of an input: whether each command answered as promised, and what went wrong where not; the cost."""

    problems: tuple[str, ...]
    peak_bytes: float = 0.0  # of a process that reads, decodes and fits this one file; 0 where it was not measured
    seconds: float = 0.0


@contextlib.contextmanager
def made(one: Input) -> Iterator[Path]:
    """A folder in which the input is made, that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        if not one.alone:
            draw(PLAIN, folder)
        one.make(folder)
        yield folder
        for path in folder.rglob("locked*"):
            path.chmod(0o755)


def warm_up() -> None:
    """Load what both commands load, once for all forks; also because nobody may not read where Python lies."""
    plain = Input("plain", "accepted", "", partial(put, "another.png", PNG))
    with made(plain) as folder, contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        assert cli.run(["data", "check", "photos"]) == 0
        assert cli.run(["train", "photos", *TRAIN.split()]) == 0


def ask(one: Input, folder: Path, verb: str) -> tuple[Ended, Path]:
    """Run `verb` on the input in a fork, in a folder of its own; return how it ended, and that folder."""
    place = folder / verb
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    source = str(folder / one.source)
    line = ["data", "check", source, "--to", "report"] if verb == "check" else ["train", source, *TRAIN.split()]

    def work() -> int:
        os.chdir(place)
        if one.as_nobody and os.geteuid() == 0:
            os.setgroups([])
            os.setuid(NOBODY)
        return cli.run(line)

    return in_child(work), place


def problems(one: Input, folder: Path) -> Iterator[str]:
    """What is wrong with the answers to an input; nothing where they are as promised."""
    used = {"accepted": PLAIN + 1, "warned": PLAIN + 1, "set aside": PLAIN}.get(one.answer)
    for verb in ("check", "train"):
        ended, place = ask(one, folder, verb)
        if "Traceback" in ended.out + ended.err:
            yield f"{verb}: a traceback: {ended.err[-300:]}"
        if one.answer == "refused":
            if ended.code != 2 or ended.err.count("\n") != 1 or one.words not in ended.err:
                yield f"{verb}: exit {ended.code}: {ended.err}"
            continue
        if (ended.code, ended.err) != (0, ""):
            yield f"{verb}: exit {ended.code}: {ended.err}"
            continue
        if verb == "check":
            yield from wrong_counts(one, json.loads((place / "report" / "report.json").read_text()))
        elif used is not None:
            (run,) = (path for path in (place / "runs").iterdir() if not path.name.startswith("."))
            counted = json.loads((run / "manifest.json").read_text())["pictures"]
            if counted["train"] + counted["held_out"] != used:
                yield f"train: {counted} instead of {used} pictures"


def wrong_counts(one: Input, report: dict[str, object]) -> Iterator[str]:
    """What is wrong with a report: the counts, or what is said."""
    counts = {name: report[name] for name in ("seen", "accepted", "warned", "set_aside")}
    if counts["seen"] != sum(int(str(counts[name])) for name in ("accepted", "warned", "set_aside")):
        yield f"check: {counts} do not add up"
    if one.answer == "said":
        said = json.dumps(report["set_warnings"])
    else:
        said = json.dumps([report["set_aside_reasons"], report["warning_reasons"]], ensure_ascii=False)
        expected = {"seen": PLAIN + 1, "accepted": PLAIN, "warned": 0, "set_aside": 0}
        expected[one.answer.replace(" ", "_")] += 1
        if counts != expected:
            yield f"check: {counts} instead of {expected}: {said}"
    if one.words not in said:
        yield f"check: '{one.words}' is not said: {said}"


def cost(folder: Path, name: str) -> tuple[float, float]:
    """Read, decode and fit one file as a worker does it; return (peak bytes of that process, seconds)."""
    program = [sys.executable, "-c", WORKER, str(folder), name]
    peak, seconds = subprocess.run(program, capture_output=True, check=True, text=True).stdout.split()
    return int(peak) * 1024, float(seconds)


def answer(one: Input, measured: bool = False) -> Answer:
    """Make the input, ask both commands, and measure its cost where asked and it is a file."""
    with made(one) as folder:
        peak = seconds = 0.0
        if measured and not one.alone and not one.as_nobody:
            names = [name for name in open_source(folder / one.source).names() if not name.startswith("plain-")]
            if len(names) == 1:
                peak, seconds = cost(folder / one.source, names[0])
        return Answer(tuple(problems(one, folder)), peak, seconds)


HEAD = """# What becomes of each kind of picture

Every row is made in code, laid among {plain} plain pictures, and given to `ganvas data check` and to `ganvas train`.
This page is the output of `python tests/pictures_table.py`, and `tests/test_pictures.py` holds it to what is promised:
no traceback, `seen = accepted + warned + set aside`, the answer of the row, and at most 600 MB a file.

{total} inputs, {right} answered as promised by both commands. The dearest took {peak} to read, decode and
fit, in a process of which {idle:.0f} MB are Python and the libraries; the slowest {slowest}. On {cores} cores of
{machine}, on which other programs ran.
"""


def shown(name: str) -> str:
    """A name that a page can hold."""
    text = name if len(name) < 60 else f"{name[:20]}…{name[-20:]} ({len(name)} characters)"
    return text.replace("|", "\\|")


def row(one: Input, found: Answer | None) -> str:
    """A row of the page."""
    if found is None:
        return f"| {shown(one.name)} | {one.answer} | cannot be made here | | |"
    right = "yes" if not found.problems else "NO"
    spent = f"{found.peak_bytes / 1e6:.0f} | {found.seconds:.2f}" if found.peak_bytes else " | "
    return f"| {shown(one.name)} | {one.answer} | {right} | {spent} |"


def main() -> None:
    """Ask and measure everything, and print the page."""
    groups = {**GROUPS, "As large as the cap allows (megapixels), or slow on purpose": large()}
    warm_up()
    found: dict[tuple[str, str], Answer | None] = {}
    for title, inputs in groups.items():
        for one in inputs:
            asked = answer(one, measured=True) if one.runs_here() else None
            found[title, one.name] = asked
            for problem in asked.problems if asked else ():
                print(f"{one.name}: {problem}", file=sys.stderr)
    done = {key: value for key, value in found.items() if value is not None}
    peak, slow = max(done, key=lambda key: done[key].peak_bytes), max(done, key=lambda key: done[key].seconds)
    facts = {
        "plain": PLAIN,
        "total": len(done),
        "right": sum(not value.problems for value in done.values()),
        "idle": min(value.peak_bytes for value in done.values() if value.peak_bytes) / 1e6,
        "peak": f"{done[peak].peak_bytes / 1e6:.0f} MB ({peak[1]})",
        "slowest": f"{done[slow].seconds:.1f} s ({slow[1]})",
        "cores": os.cpu_count(),
        "machine": os.uname().machine,
    }
    print(HEAD.format(**facts))
    for title, inputs in groups.items():
        print(f"## {title}\n\n| input | must be | is | MB | seconds |\n|---|---|---|---|---|")
        print("\n".join(row(one, found[title, one.name]) for one in inputs), end="\n\n")


if __name__ == "__main__":
    main()
