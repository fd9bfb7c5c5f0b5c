"""Figures by their names."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from analysis.experiments import ALL
from collapse.errors import unknown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Each figure draws the table of the experiment of its name.
FIGURES = ALL


def find(name: str) -> ModuleType:
    """A figure's module.

    Raises:
        RequestError: there is none of this name.
    """
    if name not in FIGURES:
        raise unknown("figure", name, [*FIGURES, "all"])
    return importlib.import_module(f"figures.{name.replace('-', '_')}")


def draw(name: str, table: pd.DataFrame) -> Figure:
    """The whole figure of a table: its panels, message, legend and what its bars are.

    Args:
        name: of a figure, a question or a further experiment: accuracy, densities, …
        table: of the experiment of this name (``analysis.experiments.table``).

    Raises:
        RequestError: there is no such figure, or the table is not its.
    """
    from figures.plotting import panels

    return panels(find(name), table)
