"""Our own results of the paper's experiments, kept beside the code as small tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analysis import experiments
from collapse import tables

FOLDER = Path(__file__).parent
# Results of `analysis densities` that are no figure of their own.
LAYERS = dict.fromkeys(("resnet34", "densities-second-seed", "densities-authors-code"), "layers")


def load(name: str, folder: Path = FOLDER) -> pd.DataFrame | None:
    """The kept table of an experiment, or None.

    Raises:
        RequestError: a file that is no such table.
    """
    for suffix in (".csv", ".parquet", ".json"):
        path = folder / f"{name}{suffix}"
        if path.exists():
            return tables.read(path, LAYERS.get(name) or experiments.find(name).TABLE)[0]
    return None


def append(name: str, rows: pd.DataFrame, folder: Path, device: str) -> pd.DataFrame:
    """Add finished rows to the kept table; a run that is there already is replaced.

    Raises:
        RequestError: the folder cannot be written.
    """
    before = load(name, folder)
    rows = rows[rows["finished"].astype(bool)]
    if before is not None and len(before):
        # A run's name covers its schedule and data; runs that prune nothing are shared.
        key = [*tables.SETTINGS, *(name for name in ("run", "compression") if name in rows)]
        old = before[~_keys(before, key).isin(set(_keys(rows, key)))]
        rows = pd.concat([old.astype(object), rows.astype(object)], ignore_index=True)
    rows = rows.infer_objects()
    tables.write(rows, folder / f"{name}.csv", experiments.find(name).TABLE, device)
    return rows


def _keys(table: pd.DataFrame, columns: list[str]) -> pd.Series:
    """The columns as one word a row, the same for a table in memory and one read again."""
    words = pd.Series("", index=table.index)
    for column in columns:
        words = words + "|" + table[column].map(_word)
    return words


def _word(value: Any) -> str:
    if pd.isna(value):
        return ""
    return value if isinstance(value, str) else f"{float(value):.12g}"
