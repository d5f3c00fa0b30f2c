"""What ganvas answers to bad input: a table of commands, and the page that shows it.

`python tests/bad_inputs.py > docs/bad-input.md` runs every command in a small workshop and writes the page;
tests/test_bad_inputs.py holds what is promised of each answer.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from bad_workshop import (
    BAD_FILES,
    PNG,
    RUN,
    SMALL,
    Bad,
    ask,
    damage,
    disk_full,
    encrypt,
    halve,
    link,
    no_cuda,
    no_network,
    pack,
    pictures,
    pipe,
    put,
    row,
    saved,
    spoil,
    workshop,
)
from ganvas.files import lock

NEW = "ganvas train photos/ --to runs/new"
USE = "ganvas generate runs/photos"
GIVE = "give a folder or zip of pictures"
HELP = "see ganvas train --help"
AGAIN = "begin another run with --to"
LONG = "x" * 5000

FILES = [
    Bad(f"only picture: {name}", "ganvas train one/", word, GIVE, partial(put, f"one/{name}", data))
    for name, (data, word) in BAD_FILES.items()
]
FOLDERS = [
    Bad("no such folder", "ganvas train photoz", "photoz", "did you mean 'photos'?"),
    Bad("no such path", "ganvas train no/where", "no/where", GIVE),
    Bad("no source", "ganvas train", "SOURCE", HELP),
    Bad("empty name", "ganvas train ''", "''", "give a folder, a zip"),
    Bad("empty folder", "ganvas train empty/", "empty", GIVE, lambda: Path("empty").mkdir()),
    Bad("text file", "ganvas train notes.txt", "it is text", "folder or zip", partial(put, "notes.txt", "hello")),
    Bad("one picture", "ganvas train photos/00.png", "photos/00.png", "give the folder it is in"),
    Bad("all files bad", "ganvas train bad/", f"none of its {len(BAD_FILES)} files", GIVE,
        lambda: [put(f"bad/{name}", data) for name, (data, _) in BAD_FILES.items()]),
    Bad("only a pipe", "ganvas train pipes/", "a.png: it is a pipe", GIVE, partial(pipe, "pipes/a.png")),
    Bad("a pipe", "ganvas train a.png", "a.png", GIVE, partial(pipe, "a.png")),
    Bad("a device", "ganvas train /dev/null", "/dev/null", GIVE),
    Bad("link that leaves", "ganvas train links/", "a.png: it is a link that leaves the folder", GIVE,
        partial(link, "links/a.png", "/etc/passwd")),
    Bad("link to itself", "ganvas train loop/", "loop", GIVE, partial(link, "loop", "loop")),
    Bad("name too long", f"ganvas train {LONG}", "xxx", "check the path"),
    Bad("no such user", "ganvas train '~nobody-here/photos'", "~nobody-here/photos", "write the folder's whole path"),
    Bad("no classes", f"{NEW} --classes", "photos/", "one sub-folder a class"),
    Bad("check: no such folder", "ganvas data check photoz", "photoz", "did you mean 'photos'?"),
    Bad("check: report onto a file", "ganvas data check photos --to photos/00.png", "photos/00.png", "name another"),
]  # fmt: skip
ZIPS = [
    Bad("not a zip", "ganvas train a.zip", "a.zip", "give a folder or a whole zip", partial(put, "a.zip", "hello")),
    Bad("truncated", "ganvas train a.zip", "a.zip", "whole zip", partial(pack, {"a.png": PNG}, edit=halve)),
    Bad("parent folder", "ganvas train a.zip", "../a.png", "repack", partial(pack, {"../a.png": PNG})),
    Bad("absolute name", "ganvas train a.zip", "/a.png", "repack", partial(pack, {"/a.png": PNG})),
    Bad("link inside", "ganvas train a.zip", "l.png", "repack", partial(pack, {"a.png": PNG}, linked=True)),
    Bad("bomb", "ganvas train a.zip", "grows more than 100 times", "repack",
        partial(pack, {"a.png": bytes(20_000_000)})),
    Bad("encrypted", "ganvas train a.zip", "is encrypted", "repack", partial(pack, {"a.png": PNG}, edit=encrypt)),
    Bad("empty", "ganvas train a.zip", "a:", GIVE, partial(pack, {})),
    Bad("no picture", "ganvas train a.zip", "a.txt", GIVE, partial(pack, {"a.txt": b"hello"})),
    Bad("damaged member", "ganvas train a.zip", "damaged in the archive", GIVE,
        partial(pack, {"a.png": PNG}, edit=damage)),
]  # fmt: skip
ADDRESSES = [
    Bad("unknown protocol", "ganvas train s4://bucket/x", "'s4'", "did you mean 's3'?"),
    Bad("foreign protocol", "ganvas train gopher://x/y", "'gopher'", "give a folder, a zip or a named set"),
    Bad("driver missing", "ganvas train s3://bucket/x", "s3://bucket/x", "pip install s3fs",
        runs_here=lambda: find_spec("s3fs") is None),
    Bad("nothing there", "ganvas train memory://nothing", "memory://nothing", "check its spelling"),
    Bad("chained", "ganvas train zip://a.png::file:///a.zip", "chained", "give the address of the zip"),
    Bad("unknown set", "ganvas train avatrs", "avatrs", "did you mean 'avatars'?"),
    Bad("unknown style", "ganvas train avatars:loreli", "loreli", "did you mean 'lorelei'?"),
    Bad("no network", "ganvas train mnist", "mnist", "check the network", around=no_network,
        runs_here=lambda: find_spec("datasets") is not None),
    Bad("no hub name", "ganvas train hub:photos!", "photos!", "write hub:owner/name"),
]  # fmt: skip
# (what is wrong, options, value, rule or step)
_FLAGS = [
    ("misspelt", "--sise 64", "--sise", "did you mean '--size'?"),
    ("not there", "--colour", "--colour is no option", HELP),
    ("value left out", "--images", "--images needs a value", HELP),
    ("twice", "--minutes 1 --minutes 2", "--minutes", "give it once"),
    ("a word too many", "64", "'64'", HELP),
    ("value for a switch", "--flip=maybe", "maybe", "takes no value"),
    ("not a multiple of 8", "--size 61", "61", "try 64"),
    ("too small", "--size 0", "size = 0", "16 to 1024"),
    ("too large", "--size 5000", "size = 5000", "16 to 1024"),
    ("not a size", "--size abc", "abc", "write 64"),
    ("negative size", "--size -64", "-64", "write 64"),
    ("too large for the network", "--size 512", "size 512x512", "32 to 256"),
    ("too large a patch", "--patch 3", "patch = 3", "at most 2"),
    ("no images a step", "--batch 0", "batch = 0", "at least 2"),
    ("not whole", "--batch 3.5", "batch = 3.5", "whole number"),
    ("not a number", "--images many", "images = 'many'", "whole number"),
    ("negative budget", "--minutes -1", "minutes = -1", "more than 0"),
    ("budget nan", "--minutes nan", "minutes = nan", "finite number"),
    ("budget inf", "--minutes inf", "minutes = inf", "finite number"),
    ("budget in words", "--minutes ten", "minutes = 'ten'", "must be a number"),
    ("unknown preset", "--preset dcgna", "dcgna", "did you mean 'dcgan'?"),
    ("unknown network", "--network stlye", "stlye", "did you mean 'style'?"),
    ("unknown objective", "--objective hing", "hing", "did you mean 'hinge'?"),
    ("unknown penalty", "--penalty r3", "r3", "did you mean"),
    ("unknown precision", "--precision fp16", "fp16", "'bf16' or 'fp32'"),
    ("unknown device", "--device tpu", "tpu", "'cpu', 'cuda' or 'mps'"),
    ("dcgan is square", "--network dcgan --size 64x96", "64x96", "try --network style"),
    ("shares do not divide", "--batch 8 --shares 3", "shares 3", "leave --shares out"),
    ("batch does not grow to it", "--batch 32 --first-batch 12", "first-batch 12", "give half of that"),
    ("dcgan shares nothing", "--network dcgan --batch 8 --shares 2", "shares 2", "leave --shares out"),
    ("negative penalty", "--gamma -1", "gamma = -1", "at least 0"),
    ("no pictures", "--count 0", "count = 0", "at least 1"),
    ("not a colour", "--background blue", "blue", "#ffffff"),
    ("rate too high", "--learning-rate 2", "learning-rate = 2", "at most 1"),
    ("unknown optimiser", "--optimiser adamw", "adamw", "'soap' or 'adam'"),
    ("clip is for soap", "--optimiser adam --clip 1", "clip = 1", "leave it out"),
    ("positions are for soap", "--optimiser adam --turn-positions", "turn-positions", "leave it out"),
    ("soap is for style", "--network dcgan --optimiser soap", "optimiser = soap", "use adam"),
    ("soap keeps no mean", "--optimiser soap --beta1 0.5", "beta1 = 0.5", "leave it at 0, or use adam"),
    ("unknown fit", "--fit squeeze", "squeeze", "'crop', 'pad' or 'stretch'"),
    ("seed too large", "--seed 4294967296", "4294967296", "less than 4,294,967,296"),
]  # fmt: skip
FLAGS = [Bad(what, f"{NEW} {words}", value, step) for what, words, value, step in _FLAGS] + [
    Bad(
        "dcgan has no classes",
        "ganvas train animals --to runs/new --network dcgan --classes",
        "dcgan",
        "leave --classes out",
    ),
    Bad("no such device", f"{NEW} --device cuda", "cuda", "leave --device out", runs_here=no_cuda),
    Bad("bf16 on no device", f"{NEW} --device cuda --precision bf16", "cuda", "leave --device out", runs_here=no_cuda),
    Bad("unknown command", "ganvas trian photos", "trian", 'Did you mean "train"?'),
    Bad("option before command", "ganvas --size 64 train photos", "--size", "see ganvas --help"),
]
TRAIN = "ganvas train photos/ --images 128"
WEIGHTS = "generator.safetensors"
DAMAGED = "train into a new run folder"
RUNS = [
    Bad(f"{what}, {verb}", command, f"{WEIGHTS}: {says}", DAMAGED, partial(spoil, WEIGHTS, how))
    for verb, command in (("generate", f"{USE} --count 2"), ("train", TRAIN))
    for what, how, says in (
        ("flipped bit", "flip", "its SHA-256 differs"),
        ("truncated", "cut", "has N bytes"),
        ("files swapped", "swap", "has N bytes"),
        ("a pickle, renamed", "pickle", "has N bytes"),
        ("file missing", "remove", "is missing"),
    )
] + [
    Bad("manifest damaged", f"{USE} --count 2", "manifest.json", DAMAGED, lambda: put(saved("manifest.json"), "{")),
    Bad("state damaged", TRAIN, "state.json", DAMAGED, lambda: put(saved("state.json"), "{}")),
    Bad("config damaged", TRAIN, "config.json", "restore it", partial(put, RUN / "config.json", "{")),
    Bad("config of another kind", TRAIN, "config.json", "restore it", partial(put, RUN / "config.json", "[]")),
    Bad("config with a bad value", TRAIN, "batch = 0", "restore it",
        partial(put, RUN / "config.json", '{"version": 1, "source": "x", "training": {"batch": 0}}')),
    Bad("foreign folder", "ganvas train photos/ --to animals", "animals", "name another with --to"),
    Bad("run folder is a file", "ganvas train photos/ --to photos/00.png", "photos/00.png", "name another with --to"),
    Bad("below a file", "ganvas train photos/ --to photos/00.png/x", "photos/00.png", "check the folder"),
    Bad("other pictures", "ganvas train other/ --to runs/photos --images 128", "other", AGAIN,
        partial(pictures, "other")),
    Bad("other width", f"{TRAIN} --width 16", "width = 16", AGAIN),
    Bad("other batch", f"{TRAIN} --batch 16", "batch = 16", AGAIN),
    Bad("other size", f"{TRAIN} --size 64", "size = 64x64", AGAIN),
    Bad("other network", f"{TRAIN} --network dcgan", "network = dcgan", AGAIN),
    Bad("other preset", f"{TRAIN} --preset dcgan", "preset = dcgan", AGAIN),
    Bad("second writer", TRAIN, "in use by process", "wait for it or stop it", around=partial(lock, RUN)),
    Bad("disk full, going on", TRAIN, "checkpoints/000000000128", "free some space",
        around=partial(disk_full, 20_000),
        leaves=r"runs/photos/(samples/0+128.png|config.json|manifest.json|metrics.jsonl)"),
    Bad("disk full, new run", f"{NEW} {SMALL}", "runs/new/checkpoints", "free some space",
        around=partial(disk_full, 20_000), leaves=r"runs/new(/(?!checkpoints/).*)?"),
]  # fmt: skip
GENERATE = [
    Bad("no such run", "ganvas generate runs/phtos", "runs/phtos", "did you mean 'photos'?"),
    Bad("run is a file", "ganvas generate photos/00.png", "photos/00.png", "give the folder"),
    Bad("empty folder", "ganvas generate empty", "empty", "give the folder", lambda: Path("empty").mkdir()),
    Bad("no run named", "ganvas generate", "RUN", "see ganvas generate --help"),
    Bad("unknown class", "ganvas generate runs/animals --class dgo", "dgo", "did you mean 'dog'?"),
    Bad("class without classes", f"{USE} --class cat", "cat", "leave --class out"),
    Bad("truncation too large", f"{USE} --truncation 2", "truncation 2", "0 to 1"),
    Bad("truncation nan", f"{USE} --truncation nan", "truncation nan", "0 to 1"),
    Bad("truncation no number", f"{USE} --truncation x", "truncation = x", "must be a number"),
    Bad("seeds no numbers", f"{USE} --seeds x", "seeds 'x'", "write 0-63"),
    Bad("seeds backwards", f"{USE} --seeds 5-1", "5-1", "write 1-5"),
    Bad("seeds empty", f"{USE} --seeds ''", "seeds ''", "write 0-63"),
    Bad("seed too large", f"{USE} --seeds 99999999999999999999", "99999999999999999999", "write one up to"),
    Bad("seeds and count", f"{USE} --seeds 0-3 --count 3", "seeds and count", "give one of the two"),
    Bad("count 0", f"{USE} --count 0", "count 0", "write --count 64"),
    Bad("count beyond the seeds", f"{USE} --count 99999999999999999999", "99999999999999999999", "write one up to"),
    Bad("unknown format", f"{USE} --format jpg", "jpg", "did you mean 'jpeg'?"),
    Bad("grid too large", f"{USE} --count 5000 --grid", "5,000", "leave --grid out"),
    Bad("target is a file", f"{USE} --count 2 --to photos/00.png", "photos/00.png", "name another with --to"),
    Bad("target is a file, of a grid", f"{USE} --grid --to photos/00.png", "photos/00.png", "name another with --to"),
    Bad("one picture for many", f"{USE} --count 2 --to new.png", "new.png", "add --grid"),
    Bad("two formats", f"{USE} --grid --to new.png --format webp", "format webp", "leave one of the two out"),
    Bad("disk full", f"{USE} --count 4 --to out", "out/seed", "free some space",
        around=partial(disk_full, 1000), leaves="out"),
]  # fmt: skip
MEASURE = "ganvas evaluate runs/photos"
EVALUATE = [
    Bad("nothing named", "ganvas evaluate", "what to evaluate", "give a run folder"),
    Bad("no such run", "ganvas evaluate runs/phtos", "runs/phtos", "did you mean 'photos'?"),
    Bad("images without pictures", "ganvas evaluate photos", "photos", "--data photos/"),
    Bad("no such pictures", f"{MEASURE} --data photoz", "photoz", "did you mean 'photos'?"),
    Bad("unknown features", f"{MEASURE} --features lite9", "lite9", "did you mean 'lite0'?"),
    Bad("side of features", f"{MEASURE} --features lite0@97", "lite0@97", "32"),
    Bad("own features not there", f"{MEASURE} --features nowhere:f", "nowhere", "module"),
    Bad("one image", f"{MEASURE} --features pixels --count 1", "count 1", "2 images at least"),
    Bad("truncation 2", f"{MEASURE} --features pixels --truncation 2", "truncation 2", "0 to 1"),
    Bad("a split of its own", f"{MEASURE} --split test", '"test"', "see ganvas evaluate --help"),
    Bad("size of a run", f"{MEASURE} --size 64", "runs/photos", "leave --size"),
    Bad("bad size", "ganvas evaluate photos --data photos --size 7", "size = 7", "16 to 1024"),
    Bad("truncation of images", "ganvas evaluate photos --data photos --truncation 0.5", "photos", "leave it out"),
    Bad("score while training", f"{NEW} --metric lite9", "lite9", "did you mean 'lite0'?"),
    Bad("status: no such run", "ganvas status runs/phtos", "runs/phtos", "did you mean 'photos'?"),
    Bad("status: a file", "ganvas status photos/00.png", "photos/00.png", "run folder"),
]
OTHERS = [
    Bad("get: unknown set", "ganvas data get avatrs --to x", "avatrs", "did you mean 'avatars'?"),
    Bad("get: no target", "ganvas data get avatars", "--to is missing", "see ganvas data get --help"),
    Bad("get: target not empty", "ganvas data get avatars --to photos", "photos", "choose another with --to"),
    Bad("get: count -1", "ganvas data get avatars --count -1 --to x", "count -1", "1 to 100,000,000"),
    Bad("get: disk full", "ganvas data get avatars --count 3 --to x", "x:", "free some space",
        around=partial(disk_full, 300)),
    Bad("show: unknown network", "ganvas model show --network styel", "styel", "did you mean 'style'?"),
    Bad("show: bad size", "ganvas model show --size 7", "size = 7", "16 to 1024"),
    Bad("show: bad width", "ganvas model show --width -8", "width = -8", "at least 8"),
    Bad("show: bad channels", "ganvas model show --channels 2", '"2"', "see ganvas model show --help"),
    Bad("show: negative classes", "ganvas model show --classes -1", "classes = -1", "must be 0"),
    Bad("show: no such run", "ganvas model show runs/phtos", "runs/phtos", "did you mean 'photos'?"),
    Bad("gallery: no such run", "ganvas gallery runs/phtos", "runs/phtos", "did you mean 'photos'?"),
    Bad("gallery: onto a folder", "ganvas gallery runs/photos --to photos", "photos", "check the folder"),
    Bad("gallery: disk full", "ganvas gallery runs/photos", "gallery.html", "free some space",
        around=partial(disk_full, 1000)),
]  # fmt: skip
GROUPS = {
    "Picture files": FILES,
    "Folders": FOLDERS,
    "Zip archives": ZIPS,
    "Addresses and named sets": ADDRESSES,
    "Options": FLAGS,
    "Run folders": RUNS,
    "Generating": GENERATE,
    "Measuring and watching": EVALUATE,
    "Other commands": OTHERS,
}
CASES = [case for cases in GROUPS.values() for case in cases]

HEAD = f"""# What ganvas answers to bad input

Every answer is one line on stderr: the value, the rule, the next step; the exit code is 2, nothing that was there is
changed, and nothing is left half made. This page is the output of `python tests/bad_inputs.py`, which runs the
{len(CASES)} commands below in a small workshop; `tests/test_bad_inputs.py` holds each to that promise. A folder in
which only *some* files are bad is no error: they are set aside with their reasons (see [data.md](data.md)).
"""


def main() -> None:
    """Print the page."""
    print(HEAD)
    with tempfile.TemporaryDirectory() as place:
        shop = workshop(Path(place, "shop"))
        for title, cases in GROUPS.items():
            print(f"## {title}\n\n| what is wrong | command | exit | answer |\n|---|---|---|---|")
            for case in cases:
                copy = Path(place, "copy")
                shutil.copytree(shop, copy)
                with contextlib.chdir(copy):
                    case.make()
                code, _, said = ask(case, copy) if case.runs_here() else (2, "", "(cannot be shown on this machine)")
                print(row(case, code, said))
                shutil.rmtree(copy)
            print()


if __name__ == "__main__":
    main()
