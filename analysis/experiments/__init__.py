"""The paper's figures, its reviewers' questions and what followed as experiments, one module each.

A module's first line says what it does and ends in its figure, question or number, ``(figure 5a)``,
``(question 3)`` or ``(experiment 1)``: by that it is found. It has a frozen dataclass ``Config``,
``PRESETS`` of it (``laptop``: minutes on two cores with embedded data; ``paper``: the paper's own
settings; ``smoke``: seconds, for tests), the name of its ``TABLE``, ``points(config)`` and
``run(config, resources=None) -> DataFrame``.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from collapse.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

_FIRST_LINE = re.compile(r'"""(.+ \((figure|question|experiment) (\d+)(\w?)\))')


def _of(kind: str) -> dict[str, str]:
    """What each experiment of a kind does, by its name and in order."""
    found = []
    for path in Path(__file__).parent.glob("*.py"):
        with path.open(encoding="utf-8") as file:
            line = _FIRST_LINE.match(file.readline())
        if line is not None and line[2] == kind:
            found.append((int(line[3]), line[4], path.stem.replace("_", "-"), line[1]))
    return {name: about for _, _, name, about in sorted(found)}


EXPERIMENTS = _of("figure")
QUESTIONS = _of("question")
FURTHER = _of("experiment")
ALL = {**EXPERIMENTS, **QUESTIONS, **FURTHER}


def find(name: str) -> ModuleType:
    """An experiment's module.

    Raises:
        RequestError: there is none of this name.
    """
    if name not in ALL:
        raise unknown("experiment", name, ALL)
    return importlib.import_module(f"analysis.experiments.{name.replace('-', '_')}")


def table(name: str, preset: str = "laptop", runs: Path = Path("runs")) -> pd.DataFrame:
    """The table of an experiment, as ``python -m analysis NAME --preset PRESET`` makes it.

    Args:
        name: of a figure, a question or a further experiment: accuracy, densities, …
        preset: laptop (minutes), paper (the paper's settings) or smoke (seconds).
        runs: the folder in which what is done is kept; it is not done again.

    Raises:
        RequestError: there is no such experiment or preset.
    """
    from analysis.resumable import Resources
    from collapse.options import Execution

    experiment = find(name)
    if preset not in experiment.PRESETS:
        raise unknown("preset", preset, experiment.PRESETS)
    resources = Resources(Execution(runs=runs, quiet=True))
    made: pd.DataFrame = experiment.run(experiment.PRESETS[preset], resources)
    return made
