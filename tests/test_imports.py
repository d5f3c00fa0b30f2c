"""The house's rules, read off the syntax trees: who may know whom, and what nobody may do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ganvas

ROOT = Path(ganvas.__file__).parent
# Doors that look the same for all: the package's own page, and the settings of the process.
FREE = {"ganvas", "errors", "config", "runtime", "files"}
# Group -> what it may import, beside itself and FREE. A name stands for a module or a whole folder.
MAY: dict[str, set[str]] = {
    "errors": set(),
    "config": {"errors"},
    "files": {"errors"},
    "runtime": {"errors"},
    "latents": set(),
    "images": set(),
    "data": set(),
    "draw": set(),
    "objectives": set(),
    "networks": set(),
    "named": {"data", "draw"},
    "tensorfile": set(),
    "checkpoint": {"tensorfile"},
    "generator": {"checkpoint", "tensorfile", "networks", "latents", "images"},
    "generation": {"generator", "images", "latents"},
    "page": set(),
    "gallery": {"generator", "images", "latents", "checkpoint", "data", "page"},
    "evaluate": {"generator", "images", "latents", "data", "named", "checkpoint", "tensorfile", "page"},
    "status": set(),
    "api": {"data", "evaluate", "training"},
    "training": {
        "checkpoint", "tensorfile", "data", "named", "networks", "objectives", "latents", "images", "generator",
    },
}  # fmt: skip
TOP = {"cli", "commands", "console", "__main__"}


def modules() -> dict[str, ast.Module]:
    """Every module's path below src/ganvas, without suffix, and its tree."""
    return {
        path.relative_to(ROOT).with_suffix("").as_posix(): ast.parse(path.read_text("utf-8"))
        for path in sorted(ROOT.rglob("*.py"))
    }


MODULES = modules()


def group_of(module: str) -> str:
    """`training/loop` is of training, `cli` of cli, the package's page of ganvas."""
    first = module.split("/")[0]
    return "ganvas" if first == "__init__" else first


def imports(tree: ast.Module) -> list[tuple[str, int]]:
    """Every absolute name that a module imports, at whatever depth, with its line: `ganvas.data.cache`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute, so that this test can read them"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (ROOT.parent / inner.replace(".", "/")).with_suffix(".py").exists()
                is_module |= (ROOT.parent / inner.replace(".", "/")).is_dir()
                found.append((inner if is_module else str(node.module), node.lineno))
    return found


def groups_used(module: str) -> set[str]:
    """The groups that a module imports from, other than its own."""
    names = [name.split(".") for name, _ in imports(MODULES[module])]
    return {(*name, "ganvas")[1] for name in names if name[0] == "ganvas"} - {group_of(module)}


def test_every_module_has_its_place_in_the_table() -> None:
    assert len(MODULES) > 40
    assert {group_of(module) for module in MODULES} == set(MAY) | TOP | {"ganvas"}


@pytest.mark.parametrize("module", [module for module in MODULES if group_of(module) in MAY])
def test_knowledge_flows_one_way(module: str) -> None:
    group = group_of(module)
    free = FREE if group not in FREE else set()
    beyond = groups_used(module) - MAY[group] - free
    assert not beyond, f"{module} may not know {', '.join(sorted(beyond))}"


def test_only_the_top_knows_the_command_line() -> None:
    for module in MODULES:
        if group_of(module) not in TOP:
            assert not groups_used(module) & TOP, module


def test_the_table_has_no_circle() -> None:
    done: list[str] = []
    while left := [group for group in MAY if group not in done]:
        ready = [group for group in left if MAY[group] <= set(done) | FREE]
        assert ready, f"in a circle: {left}"
        done += ready


def test_siblings_do_not_know_each_other() -> None:
    """Said once more in words: pictures, drawings, networks, objectives and latents are strangers."""
    strangers = {"data", "draw", "networks", "objectives", "latents"}
    for module in MODULES:
        if group_of(module) in strangers:
            assert not groups_used(module) & (strangers - {group_of(module)}), module


def calls(tree: ast.Module) -> set[str]:
    """Dotted names of everything that is called."""
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torchvision", "imp"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "torch.save", "torch.hub.load", "os.system", "os.popen",
                   "torch.jit.load", "torch.compile"}  # fmt: skip
PINNED = "evaluate/weights"  # the one module that may call torch.load, on files whose digest is in our source


@pytest.mark.parametrize("module", MODULES)
def test_nothing_reads_code_from_data(module: str) -> None:
    tree = MODULES[module]
    names = {name.split(".")[0] for name, _ in imports(tree)}
    assert not names & FORBIDDEN_MODULES
    assert not calls(tree) & FORBIDDEN_CALLS
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                assert not (keyword.arg in ("allow_pickle", "shell", "trust_remote_code") and is_true)


def doors_to_pickle(tree: ast.Module) -> tuple[int, int]:
    """How often a module names torch's load, and in how many of those it calls it with a literal weights_only=True."""
    named = sum(isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load" for node in ast.walk(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.serialization"):
            named += sum(alias.name in ("load", "serialization") for alias in node.names)
    safe = [
        any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    return named, sum(safe)


@pytest.mark.parametrize("module", MODULES)
def test_only_pinned_weights_may_be_pickles(module: str) -> None:
    assert doors_to_pickle(MODULES[module]) == ((1, 1) if module == PINNED else (0, 0))


def imports_at_start(tree: ast.Module) -> set[str]:
    """First names of what a module imports when it is itself imported: not inside functions, not for types only."""
    found: set[str] = set()

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).split(".")[0])
            elif isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING":
                visit(node.body + node.orelse)
            elif isinstance(node, ast.Try):
                visit(node.body + node.orelse + node.finalbody + [s for h in node.handlers for s in h.body])

    visit(tree.body)
    return found


NO_TORCH = {"ganvas", "errors", "config", "files", "runtime", "latents", "images", "data", "draw", "named", "cli",
            "status"}  # fmt: skip


@pytest.mark.parametrize("module", [module for module in MODULES if group_of(module) in NO_TORCH])
def test_half_of_the_house_needs_no_torch(module: str) -> None:
    assert "torch" not in imports_at_start(MODULES[module])


def test_the_rules_would_notice() -> None:
    """The readers above, on a module that breaks what they watch over."""
    tree = ast.parse(
        "import torchvision.ops\nif x:\n    import torch\ndef f():\n    from ganvas import cli\n    eval('1')"
    )
    assert ("torchvision.ops", 1) in imports(tree) and ("ganvas.cli", 5) in imports(tree)
    assert imports_at_start(tree) == {"torchvision", "torch"}
    assert calls(tree) == {"eval"}
    for text, doors in {
        "torch.load(file, weights_only=True)": (1, 1),
        "torch.load(file)": (1, 0),
        "torch.load(file, weights_only=careful)": (1, 0),
        "read = torch.load": (1, 0),
        "from torch import load": (1, 0),
        "torch.load(a, weights_only=True)\ntorch.load(b, weights_only=False)": (2, 1),
    }.items():
        assert doors_to_pickle(ast.parse(text)) == doors, text
