"""Answers: from an experiment's table to numbers with their intervals, one file a question.

Each module has the name of its ``TABLE`` and ``answer(table) -> rows`` (``answers.collect``), which
are what ``answers.csv``, docs/questions.md and the figures show. Nothing here imports torch.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from collapse.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd


def find(name: str) -> ModuleType:
    """The answer to an experiment's question."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def finished(table: pd.DataFrame) -> pd.Series[bool]:
    """Which rows are finished; all of a table that does not say (a published one).

    Raises:
        RequestError: anything but true and false.
    """
    if "finished" not in table:
        import pandas as pd

        return pd.Series(True, index=table.index)
    words = table["finished"].astype(str).str.lower()
    wrong = words[~words.isin(["true", "false"])]
    if len(wrong):
        got = table["finished"][wrong.index[0]]
        raise RequestError(f"the column 'finished': expected true or false, got '{got}'")
    return words == "true"
