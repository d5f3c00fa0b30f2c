"""What the pages say about the code, compared with the code: links, lines, options, derived numbers.

Links to code name the line where a function begins. After code has moved, `python tests/test_docs.py` writes them anew.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ganvas import cli, config

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
]
THIS = Path(__file__).relative_to(ROOT)
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
COMMANDS = ("train", "generate", "evaluate", "status", "gallery", "data check", "data list", "data get", "model show")
FLAGS = (
    "phase dataset epoch batch_size print_freq z_dim sample_num test_num checkpoint_dir result_dir log_dir sample_dir"
)


def links(page: Path) -> Iterator[tuple[str, str]]:
    for match in LINK.finditer(page.read_text("utf-8")):
        if not re.match(r"[a-z]+://|mailto:", match["target"]):
            yield match["text"], match["target"]


def anchors(page: Path) -> set[str]:
    """The names that a page's headings can be linked by, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def starts(path: Path) -> dict[str, int]:
    """The line at which each function and class of a module begins; methods as Class.method."""
    found: dict[str, int] = {}

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found[prefix + node.name] = node.lineno
                if isinstance(node, ast.ClassDef):
                    walk(node.body, f"{node.name}.")

    walk(ast.parse(path.read_text("utf-8")).body, "")
    return found


@cache
def options(command: str) -> frozenset[str]:
    """The options that a command takes, `--help` among them."""
    app = cli.app
    for word in command.split():
        app = app[word]
    names = {name for argument in app.assemble_argument_collection() for name in argument.names}
    positional = {"--source", "--run", "--name"} if "--to" in names or command == "model show" else set()
    return frozenset(name for name in names - positional if name.startswith("--")) | {"--help"}


ALL_OPTIONS = frozenset().union(*(options(command) for command in COMMANDS)) | {"--version"}


def command_lines(page: Path) -> Iterator[str]:
    """Every `ganvas ...` in a page: lines of shell blocks, and code between backticks."""
    text = page.read_text("utf-8")
    for block in re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        yield from (line.strip() for line in block.splitlines() if line.strip().startswith("ganvas "))
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`(ganvas [^`]+)`", prose)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for text, target in links(page):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name}: [{text}]({target}): there is no such file"
        assert found.is_relative_to(ROOT), f"{page.name}: {target} leads out of the repository"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), (
                f"{page.name}: {target}: no such heading; there are {sorted(anchors(found))}"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_code_name_the_line_where_it_begins(page: Path) -> None:
    for text, target in links(page):
        path, _, anchor = target.partition("#")
        if not path.endswith(".py") or not anchor:
            continue
        known, name = starts((page.parent / path).resolve()), text.strip("`")
        assert name in known, f"{page.name}: {path} has no function or class '{name}'"
        assert anchor == f"L{known[name]}", f"{page.name}: [{text}]({target}) begins at #L{known[name]}: python {THIS}"


def test_theory_leads_to_the_code() -> None:
    named = {text for text, target in links(ROOT / "docs" / "theory.md") if "#L" in target}
    assert {"`play`", "`play_on`", "`value`", "`Minimax.critic_loss`", "`Minimax.generator_loss`"} <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for line in command_lines(page):
        words = shlex.split(line, comments=True)[1:]
        command = next((known for known in COMMANDS if words[: len(known.split())] == known.split()), None)
        if command is None:
            plain = [word for word in words if not word.startswith("-")]
            assert plain in ([], ["data"], ["model"]), f"{page.name}: `{line}`: there is no such command"
            continue
        for word in words:
            option = word.split("=", 1)[0]
            assert not option.startswith("--") or option in options(command), f"{page.name}: `{line}`: no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_prose_exist(page: Path) -> None:
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`]+)`", prose):
        if code.startswith("--"):
            for option in re.findall(r"(?<!\S)--[a-z][\w-]*", code):
                assert option in ALL_OPTIONS, f"{page.name}: `{code}`: no command has {option}"


def test_every_option_is_documented() -> None:
    text = "\n".join(page.read_text("utf-8") for page in (ROOT / "docs").glob("*.md") if page.name != "bad-input.md")
    mentioned = set(re.findall(r"--[a-z][\w-]*", text))
    missing = {option for option in ALL_OPTIONS if not option.startswith("--no-")} - mentioned - {"--version"}
    assert not missing, f"docs/ say nothing of {sorted(missing)}"


def rows(page: str, *heads: str) -> list[list[str]]:
    """The rows of the table in docs/`page` whose columns are called `heads`."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    start = text.index("| " + " | ".join(heads) + " |\n")
    table = text[start:].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table]


def test_derived_widths_are_as_written() -> None:
    from ganvas.networks import patch_for, width_for

    found = rows("model.md", "size", "pictures", "device", "width", "patch")
    assert len(found) >= 4
    for size, pictures, device, *written in found:
        shape = config.parse_size(size)
        now = width_for(shape, int(pictures), device), patch_for(shape, device)
        assert now == tuple(map(int, written)), f"docs/model.md: {size}, {pictures} pictures, {device}: it is {now}"


def test_derived_penalties_are_as_written() -> None:
    from ganvas.training.plan import default_gamma, default_interval

    found = rows("model.md", "penalty", "size", "device", "gamma", "penalty-every")
    assert len(found) >= 4
    for penalty, size, device, gamma, every in found:
        height, width = config.parse_size(size)
        now = default_gamma(penalty, height * width, growing=device == "cpu")
        assert (f"{now:g}" if now is not None else "-", default_interval(penalty)) == (gamma, int(every)), penalty


def test_families_and_objectives_are_as_written() -> None:
    from ganvas.networks import FAMILIES
    from ganvas.objectives import ADVERSARIAL, PENALTIES

    text = (ROOT / "docs" / "model.md").read_text("utf-8")
    for name in (*FAMILIES, *ADVERSARIAL, *PENALTIES):
        assert re.search(rf"^\| `{re.escape(name)}`", text, re.MULTILINE), f"docs/model.md has no row for {name}"


def test_metrics_fields_are_as_written() -> None:
    from dataclasses import fields

    from ganvas.training.log import Tick

    written = {name for cells in rows("train.md", "field", "meaning") for name in re.findall(r"\w+", cells[0])}
    assert written == {field.name for field in fields(Tick)}


def test_what_may_change_is_as_written() -> None:
    from ganvas.training.run import CHANGEABLE

    text = (ROOT / "docs" / "train.md").read_text("utf-8")
    said = re.search(r"\*\*What may change\*\* on the way: (.+?)\. Anything else", text, re.DOTALL)
    assert said is not None
    written = {option.replace("-", "_") for option in re.findall(r"--([a-z-]+)", said[1])}
    assert written | set(config.BUDGETS) == set().union(*CHANGEABLE.values())


def test_every_flag_of_the_tutorial_has_an_equivalent() -> None:
    assert [cells[0].split("`")[0].split()[0] for cells in rows("train.md", "its flag", "in ganvas")] == FLAGS.split(
        " "
    )


def test_blocks_close() -> None:
    for page in PAGES:
        assert page.read_text("utf-8").count("```") % 2 == 0, page.name


def write_lines() -> None:
    """Write into every page's links to code the lines where their functions begin now."""
    for page in PAGES:

        def mended(match: re.Match[str], page: Path = page) -> str:
            path, _, anchor = match["target"].partition("#")
            if not path.endswith(".py") or not anchor:
                return match[0]
            line = starts((page.parent / path).resolve()).get(match["text"].strip("`"), 0)
            return f"[{match['text']}]({path}#L{line})"

        page.write_text(LINK.sub(mended, page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    write_lines()
