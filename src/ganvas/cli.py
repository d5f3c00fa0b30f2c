"""The command line: parse, call one function, print. torch is imported inside the commands that need it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    RepeatArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
)
from pydantic import BaseModel, ValidationError
from rich.console import Console

from ganvas import __version__, runtime
from ganvas.config import (
    OFTEN,
    DataSettings,
    NetworkSettings,
    ObjectiveSettings,
    TrainingSettings,
    describe,
    make_config,
    parse_size,
)
from ganvas.errors import GanvasError, SettingError, did_you_mean

app = App(
    name="ganvas",
    version=__version__,
    help="Train an image generator on your own pictures, on the computer you have.",
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # a second Ctrl-C gets its line from `run`
)
data = App(name="data", help="Look at pictures, and get sets of them.")
model = App(name="model", help="Look at networks.")
app.command(data)
app.command(model)

# One heading a group of settings; those that most people need stand first (OFTEN).
Often = Parameter(group=OFTEN)
InData = Parameter(name="*", group=Group("Data", sort_key=2))
InNetwork = Parameter(name="*", group=Group("Network", sort_key=3))
InObjective = Parameter(name="*", group=Group("Objective", sort_key=4))
InTraining = Parameter(name="*", group=Group("Training", sort_key=5))
Switch = Parameter(negative="", show_default=False)
_DATA, _NETWORK, _OBJECTIVE, _TRAINING = DataSettings(), NetworkSettings(), ObjectiveSettings(), TrainingSettings()


@app.command
def train(
    source: str,
    /,
    *,
    to: Annotated[Path | None, Often] = None,
    preset: Annotated[str, Often] = "default",
    dry_run: Annotated[bool, Often, Switch] = False,
    data: Annotated[DataSettings, InData] = _DATA,
    network: Annotated[NetworkSettings, InNetwork] = _NETWORK,
    objective: Annotated[ObjectiveSettings, InObjective] = _OBJECTIVE,
    training: Annotated[TrainingSettings, InTraining] = _TRAINING,
) -> int:
    """Train a generator on pictures; the same line again goes on where it stopped.

    Parameters
    ----------
    source
        A folder, a zip, an address of either (s3://...), or a named set (see: ganvas data list).
    to
        The run folder; by default runs/NAME.
    preset
        A row of settings: default, or dcgan for the tutorial's.
    dry_run
        Print the plan and its cost, train nothing.
    """
    given = {
        "data": given_of(data),
        "network": given_of(network),
        "objective": given_of(objective),
        "training": given_of(training),
    }
    asked = make_config(source, preset, **given)
    check_names(asked.network.network, asked.objective.objective, asked.objective.penalty)
    from ganvas.commands import plan_run, train_run

    return plan_run(asked, to, given) if dry_run else train_run(asked, to, given)


@app.command
def generate(
    run: Path,
    /,
    *,
    seeds: str | None = None,
    count: int | None = None,
    to: Path | None = None,
    format: str = "png",
    grid: Annotated[bool, Switch] = False,
    truncation: float = 1.0,
    class_: Annotated[str | None, Parameter(name="--class")] = None,
    device: Literal["cpu", "cuda", "mps"] | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> int:
    """Make images with a trained generator: one file a seed, or one grid.

    Parameters
    ----------
    run
        The run folder that ganvas train wrote.
    seeds
        Which images: 0-63, or 1,5,9-12; the same seed is the same image always.
    count
        How many images, from seed 0.
    to
        The folder to write into, by default generated/ in the run folder; or of a grid or a single image the file.
    format
        The files: png, jpeg or webp.
    grid
        All images in one picture.
    truncation
        From 0 to 1; less is safer and less varied.
    class_
        Images of this class only, for a generator trained with classes.
    device
        Where to compute.
    precision
        Of the arithmetic: bf16 is faster on some machines, and differs by a rounding.
    """
    from ganvas.commands import generate_images

    return generate_images(run, seeds, count, to, format, grid, truncation, class_, device, precision)


@app.command
def evaluate(
    *what: str,
    data: str | None = None,
    features: str = "lite0",
    count: int | None = None,
    split: Literal["heldout", "train", "all"] = "heldout",
    truncation: float = 1.0,
    size: str | None = None,
    classes: Annotated[bool, Switch] = False,
    to: Path | None = None,
    device: Literal["cpu", "cuda", "mps"] | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> int:
    """Measure runs, or folders of images: how good, how varied, and whether they copy.

    Parameters
    ----------
    what
        Run folders, or folders or zips of images; several are put side by side.
    data
        The pictures to measure against; a run knows its own.
    features
        Networks whose view is compared, with commas between: lite0, inception, dinov2, clip, pixels, or your own
        package.module:function.
    count
        Images to compare; derived: 5,000, or as many as there are training pictures.
    split
        The reference: the pictures held out from training (heldout), those trained on (train), or all.
    truncation
        Of the samples of a run, from 0 to 1.
    size
        Height x width at which folders are compared; derived from their images.
    classes
        Sub-folders of a folder of images are classes.
    to
        The folder for report.html and report.json; by default the run folder, or runs/.evaluate/NAMES for several.
    device
        Where to compute.
    precision
        Of the generator's arithmetic.
    """
    if not what:
        raise SettingError("what to evaluate is missing: give a run folder, such as runs/photos")
    try:
        sides = parse_size(size) if size is not None else None
    except ValueError as error:
        raise SettingError(f"size = {size}: {error}") from None
    from ganvas.commands import evaluate_all

    return evaluate_all(list(what), data, features, count, split, truncation, sides, classes, to, device, precision)


@app.command
def status(*runs: Path, json: Annotated[bool, Switch] = False) -> int:
    """Say how runs are: how far, how well, whether they are healthy, how to go on. A run that trains is not disturbed.

    Parameters
    ----------
    runs
        Run folders, or a folder of them; runs/ where nothing is given.
    json
        Print everything as JSON: an object for one run folder, else a list.
    """
    from ganvas.status import show

    return show(list(runs) or [Path("runs")], json)


@app.command
def gallery(run: Path, /, *, to: Path | None = None, open: Annotated[bool, Switch] = False) -> int:
    """Write one page that shows a run: its images beside real ones, and how they came about.

    Parameters
    ----------
    run
        The run folder.
    to
        The page; by default gallery.html in the run folder.
    open
        Show it in the browser.
    """
    from ganvas.commands import show_gallery

    return show_gallery(run, to, open)


@data.command(name="check")
def data_check(
    source: str, /, *, to: Annotated[Path | None, Often] = None, settings: Annotated[DataSettings, InData] = _DATA
) -> int:
    """Look through pictures: what is there, what is wrong with it, what to expect of it.

    Parameters
    ----------
    source
        A folder, a zip, an address of either, or a named set.
    to
        The folder for report.json and the contact sheet; by default runs/.check/NAME.
    """
    from ganvas.commands import check_data

    return check_data(source, DataSettings.model_validate(given_of(settings)), to)


@data.command(name="list")
def data_list() -> int:
    """List the named sets of pictures, with their licences."""
    from ganvas.commands import list_data

    return list_data()


@data.command(name="get")
def data_get(name: str, /, *, count: int | None = None, to: Path) -> int:
    """Write a named set out as picture files, with its attributes and its licence.

    Parameters
    ----------
    name
        The set (see: ganvas data list).
    count
        How many pictures.
    to
        The folder to make.
    """
    from ganvas.commands import get_data

    return get_data(name, count, to)


@model.command(name="show")
def model_show(
    run: Path | None = None,
    /,
    *,
    network: str = "style",
    size: str = "64",
    channels: Literal[1, 3] = 3,
    width: int | None = None,
    classes: int = 0,
) -> int:
    """Show the layers of a pair of networks: shapes, parameters, GFLOP an image.

    Parameters
    ----------
    run
        A run folder; without it, the networks that the other options describe.
    network
        The family: style or dcgan.
    size
        Height x width in pixels: 64, or 96x64.
    channels
        Of a picture: 1 for grey, 3 for colour.
    width
        Channels of style at half of the size.
    classes
        How many classes.
    """
    from ganvas.commands import show_model

    return show_model(run, network, size, channels, width, classes)


def given_of(settings: BaseModel) -> dict[str, Any]:
    """The settings that were written on the command line."""
    return {name: getattr(settings, name) for name in settings.model_fields_set}


def check_names(network: str, objective: str, penalty: str) -> None:
    """Refuse an unknown network, objective or penalty before torch or any picture is loaded."""
    known = {
        "network": (network, ("style", "dcgan")),
        "objective": (
            objective,
            ("non-saturating", "relativistic", "minimax", "hinge", "least-squares", "wasserstein"),
        ),
        "penalty": (penalty, ("r1", "r1+r2", "r2", "finite-difference", "wgan-gp", "none")),
    }
    for what, (value, names) in known.items():
        if value not in names:
            raise SettingError(f"{what} '{value}' is unknown{did_you_mean(value, names)}: {', '.join(names)}")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 2 refused with one line, 130 or 143 interrupted and saved."""
    code = run(sys.argv[1:] if arguments is None else arguments)
    if runtime.started_by_torchrun():
        # Everything is written and closed by now. Where another process was killed, threads that torch has left behind
        # abort about one in thirty at the interpreter's own end, and the exit code with it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; every foreseen error becomes one line on stderr."""
    try:
        answer = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return answer if isinstance(answer, int) else 0
    except (ValidationError, CycloptsError) as error:
        if runtime.rank():
            return 2  # the first process has the same words before it, and says so
        return refuse(describe(error) if isinstance(error, ValidationError) else explain(error))
    except GanvasError as error:
        return refuse(str(error), error.exit_code)
    except KeyboardInterrupt:
        return refuse("interrupted; what was saved before is whole, and the same line goes on", 130)
    except BrokenPipeError:  # the reader of our output has gone: `ganvas data list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a path no module has checked: too long a name, a loop of links, a folder that went away
        where = f"{error.filename}: " if error.filename else ""
        return refuse(f"{shorten(where)}{error.strerror or error}; check the path and its permissions")
    except MemoryError:
        return refuse("not enough memory: try a smaller --size or --batch")


def explain(error: CycloptsError) -> str:
    """One line for words that do not make a command: which word, why, and where to look."""
    command = " ".join(("ganvas", *(error.command_chain or ())))
    name = error.argument.name if error.argument else ""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        line = describe(cause)
    elif isinstance(error, UnknownOptionError):
        word = error.token.keyword or error.token.value
        known = [option for argument in error.argument_collection for option in argument.names]
        line = f"{word} is no option of {command}{did_you_mean(word, known)}"
    elif isinstance(error, MissingArgumentError):
        line = f"{name} needs a value" if name.startswith("-") and error.keyword else f"{name} is missing"
    elif isinstance(error, RepeatArgumentError):
        line = f"{error.token.keyword} is there twice; give it once"
    elif isinstance(error, UnusedCliTokensError):
        line = f"'{(error.unused_tokens or [''])[0]}' is a word too many"
    elif isinstance(error, CoercionError) and error.token and error.target_type in (bool, int, float):
        rules = {bool: "is a switch and takes no value", int: "must be a whole number", float: "must be a number"}
        line = f"{name} = {error.token.value}: {rules[error.target_type]}"
    else:
        line = " ".join(str(error).split()).rstrip(".")
        line = line[:1].lower() + line[1:]
    return f"{line}; see {command} --help"


def shorten(text: str, limit: int = 200) -> str:
    """`text`, its middle left out where it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[-limit // 2 :]}"


def refuse(line: str, code: int = 2) -> int:
    """Print one line about what went wrong; of several processes of one run, all but the first say which they are."""
    if runtime.rank():
        line = f"process {runtime.rank()}: {line}"
    Console(stderr=True, highlight=False, markup=False).print(f"ganvas: {line}", soft_wrap=True)
    return code


if __name__ == "__main__":
    main()
