"""One direction of imports: every file of the three packages, room by room and inside each room."""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# An import points to the left. A room is a file or a folder of its package.
ORDER = {
    "collapse": "errors seeding devices options files processes schedules tables cli plots | "
    "models data | masks scores connectivity flow | problem pruning conservation train | "
    "critical imp testing doctor | runs | commands",
    "analysis": "questions published agreement shown | sweeps resumable processes | experiments | "
    "results report leaderboard | commands",
    "figures": "figures",
}
PACKAGES = tuple(ORDER)  # and a package imports only itself and those before it
# What no file of a package imports.
NEVER = {"collapse": {"tests"}, "analysis": {"tests"}, "figures": {"tests", "torch"}}
# Doors look to the right, each at its own command, and nobody imports them.
DOORS = ("__main__",)
# What only a door may import, also inside their own room.
COMMANDS = ("collapse.commands.", "analysis.commands.", "figures.commands")


def _module(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def _statements(
    text: str,
) -> tuple[list[ast.Import | ast.ImportFrom], list[ast.Import | ast.ImportFrom]]:
    """The imports of a file but those for a type checker alone, and all of them."""
    nodes = list(ast.walk(ast.parse(text)))
    unseen = {
        inner
        for node in nodes
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    every = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return [node for node in every if node not in unseen], every


def _packages(path: Path) -> set[str]:
    """What a file imports from, also for a type checker alone."""
    names: set[str] = set()
    for node in _statements(path.read_text())[1]:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif node.module:
            names.add(node.module.split(".")[0])
    return names


def _imported(path: Path, modules: set[str]) -> Iterator[str]:
    """The modules that a file imports, wherever in it; those for a type checker alone are none.

    A lazy package imports what its stub names.
    """
    stub = path.with_suffix(".pyi")
    for node in _statements(path.read_text() + (stub.read_text() if stub.exists() else ""))[0]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # Only a package's stub says ``.module``.
            package = f"{path.parent.parent.name}.{path.parent.name}." if node.level else ""
            for alias in node.names:
                module = f"{package}{node.module}"
                inner = f"{module}.{alias.name}"
                yield inner if inner in modules else module


def _place(module: str) -> tuple[int, int]:
    """Package and room as numbers: an import may not point to a higher pair."""
    package, *rest = module.split(".")
    rooms = ORDER[package].replace("|", "").split()
    if not rest or rest == ["__init__"]:
        return PACKAGES.index(package), -1
    if package == "figures":
        return PACKAGES.index(package), 0
    return PACKAGES.index(package), rooms.index(rest[0])


def complaints(root: Path) -> list[str]:
    """What breaks the rule under a folder with the three packages."""
    files = {
        _module(path, root): path for p in PACKAGES for path in sorted((root / p).rglob("*.py"))
    }
    modules = set(files)
    found, inside = [], {}
    for module, path in files.items():
        never = _packages(path) & NEVER[module.split(".")[0]]
        found += [f"{module} may never import {name}" for name in sorted(never)]
        if module == "collapse":  # the toolkit's own namespace, on top of all rooms
            continue
        names = [name for name in _imported(path, modules) if name.split(".")[0] in PACKAGES]
        door = module.rpartition(".")[2] in DOORS
        inside[module] = {n for n in names if not door and n in modules and n != module}
        for name in names:
            if name not in modules:
                found.append(f"{module} imports {name}, which is no module")
            elif name.rpartition(".")[2] in DOORS:
                found.append(f"{module} imports the door {name}")
            elif door:
                package = module.split(".")[0]
                if not (
                    name.startswith(f"{package}.commands")
                    or _place(name) < _place(f"{package}.commands")
                ):
                    found.append(f"{module} looks further than at its command: {name}")
            elif name.startswith(COMMANDS):
                found.append(f"{module} imports {name}, a command")
            elif _place(name) > _place(module):
                found.append(f"{module} imports {name}, which is to its right")
    try:
        graphlib.TopologicalSorter(inside).prepare()
    except graphlib.CycleError as error:
        found.append("circle: " + " → ".join(error.args[1]))
    return found


def test_every_import_points_to_the_left() -> None:
    assert complaints(ROOT) == []


def test_the_top_of_the_engine_is_read_at_a_glance() -> None:
    """The rooms of the rule and a few names more; ``__init__`` and ``__main__`` are no room."""
    top = (ROOT / "collapse").iterdir()
    modules = [path for path in top if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert len([path for path in modules if not path.name.startswith("__")]) <= 26


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("collapse/masks/counts.py", "from collapse.pruning import prune", "to its right"),
        ("collapse/scores/snip.py", "def late():\n    import collapse.flow", "to its right"),
        ("collapse/errors.py", "from collapse import tables", "to its right"),
        ("collapse/masks/counts.py", "from collapse.masks import select", "circle"),
        ("collapse/train/recipes.py", "from collapse.train.loop import Trainer", "circle"),
        ("collapse/runs/folder.py", "from collapse.commands.imp import run", "a command"),
        ("collapse/runs/folder.py", "import collapse.imp.__main__", "the door"),
        ("collapse/imp/rounds.py", "import analysis.resumable", "to its right"),
        ("analysis/resumable.py", "from analysis.experiments import find", "to its right"),
        ("analysis/resumable.py", "from figures import plotting", "to its right"),
        ("figures/cuts.py", "from collapse.commands import critical", "a command"),
        ("collapse/commands/train.py", "from collapse.commands.imp import main", "a command"),
        ("analysis/commands/sweep.py", "from analysis.commands import status", "a command"),
        ("collapse/critical/search.py", "from collapse.critical import frame_of", "circle"),
        ("figures/cuts.py", "def late():\n    import torch", "may never import torch"),
        ("figures/cuts.py", "if TYPE_CHECKING:\n    from torch import Tensor", "may never import"),
        ("collapse/__init__.py", "import tests.conftest", "may never import tests"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, file: str, line: str, complaint: str) -> None:
    for package in PACKAGES:
        for path in (p for p in (ROOT / package).rglob("*") if p.suffix in (".py", ".pyi")):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text())
    with (tmp_path / file).open("a") as planted:
        planted.write(f"\n\n{line}\n")
    found = complaints(tmp_path)  # an import to the right may close a circle as well
    assert any(complaint in line for line in found)
    assert len(found) <= 2
