"""From a question's table to its answers: a number with its interval and seeds a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.questions.statistics import Estimate, mean, together
from collapse import tables

# What tells one run from another.
RUN = (*tables.SETTINGS, "weights", "control", "compression", "levels", "epochs", "train_images")


_FEW = ("model", "dataset", "pruner", "mode", "weights", "control", "levels", "compression")


def runs(table: pd.DataFrame) -> pd.DataFrame:
    """An ``outcomes`` table's finished runs, a row each, with their compressions.

    Adds ``effective_compression`` (infinite where nothing is alive), ``effective_share`` (that in
    units of the nominal compression; missing where infinite) and ``collapsed_layers``.
    """
    done = table[table["finished"].astype(str).str.lower() == "true"]
    groups = done.groupby([*RUN, "run"], dropna=False, sort=False)
    found = groups.agg(
        parameters=("parameters", "sum"),
        kept_total=("kept", "sum"),
        alive=("effective_kept", "sum"),
        fewest=("kept", "min"),
        collapsed_layers=("kept", lambda kept: int((kept == 0).sum())),
        critical_compression=("critical_compression", "first"),
        top1=("top1", "first"),
        best_top1=("best_top1", "first"),
    ).reset_index()
    total, alive = found["parameters"].astype(float), found["alive"].astype(float)
    found["effective_compression"] = np.where(alive > 0, total / alive.where(alive > 0), np.inf)
    share = found["kept_total"].astype(float) / alive.where(alive > 0)
    return found.assign(effective_share=share)


def where(rows: pd.DataFrame, columns: Sequence[str] = _FEW) -> str:
    """What the rows of a group have in common, in words."""
    said = {
        "weights": "{} weights",
        "mode": "{} mode",
        "levels": "{:g} levels",
        "compression": "compression {:,.6g}",
    }
    words = []
    for column in columns:
        value = rows[column].iloc[0] if column in rows else None
        unsaid = value is None or pd.isna(value) or value in (0, "random")  # as is usual
        if not unsaid and column != "pruner":
            words.append(said.get(column, "{}").format(value))
    return ", ".join(words)


def row(
    quantity: str, of: str, place: str, estimate: Estimate, unit: str = "", against: str = ""
) -> dict[str, Any]:
    """One answer."""
    return {
        "quantity": quantity,
        "of": of.rpartition(":")[2],
        "against": against,
        "where": place,
        "estimate": estimate.mean,
        "low": estimate.low,
        "high": estimate.high,
        "level": estimate.level,
        "seeds": estimate.seeds,
        "unit": unit,
    }


def means(
    table: pd.DataFrame, column: str, quantity: str, unit: str = "", log10: bool = False
) -> list[dict[str, Any]]:
    """The mean over seeds of a column, group by group; of its logarithm if so."""
    found = []
    values = table[column].astype(float)
    table = table.assign(**{column: np.log10(values) if log10 else values})
    for _, rows in groups(table):
        estimate = mean(rows[column])
        if estimate.seeds:
            found.append(row(quantity, str(rows["pruner"].iloc[0]), where(rows), estimate, unit))
    return found


def paired(table: pd.DataFrame, column: str, by: str, reference: object) -> pd.DataFrame:
    """Each row's ``column`` minus that of the row that differs in ``by`` alone, same seed.

    Adds ``difference``, and ``comparisons``: how many share a reference. The reference's own rows
    are left out.

    Args:
        reference: the value of ``by`` that the others are compared with; None for missing ones.
    """
    others = [c for c in _FEW if c in table and c != by]
    is_reference = [_same(value, reference) for value in table[by]]
    keys = [*others, "seed"]
    base = table.loc[is_reference, [*keys, column]].rename(columns={column: "_reference"})
    rest = table[[not same for same in is_reference]]
    found = rest.merge(base.astype({"_reference": float}), on=keys, how="inner")
    found["difference"] = found[column].astype(float) - found["_reference"]
    among = found.groupby(others, dropna=False, sort=False)[by]
    return found.assign(comparisons=among.transform("nunique")).drop(columns="_reference")


def differences(
    table: pd.DataFrame, column: str, quantity: str, by: str, reference: object, unit: str = ""
) -> list[dict[str, Any]]:
    """The mean over seeds of ``paired``, with intervals that hold together."""
    found: list[dict[str, Any]] = []
    for _, rows in groups(paired(table, column, by, reference)):
        estimate = mean(rows["difference"], together(int(rows["comparisons"].iloc[0])))
        if estimate.seeds:
            pruner, value = str(rows["pruner"].iloc[0]), str(rows[by].iloc[0])
            of = pruner if by == "pruner" else f"{pruner}, {value}"
            place = where(rows, [c for c in _FEW if c != by])
            found.append(row(quantity, of, place, estimate, unit, str(reference or "as it is")))
    return found


def _same(value: object, other: object) -> bool:
    missing = [v is None or v != v for v in (value, other)]
    return all(missing) or (not any(missing) and value == other)


def groups(table: pd.DataFrame) -> Iterable[tuple[Any, pd.DataFrame]]:
    """Rows that differ by seed alone."""
    return table.groupby([c for c in _FEW if c in table], dropna=False, sort=False)


def collect(*parts: list[dict[str, Any]]) -> pd.DataFrame:
    """Answers together, without the question's name."""
    columns = [column for column in tables.COLUMNS["answers"] if column != "question"]
    return pd.DataFrame([one for part in parts for one in part], columns=columns)


def log10(values: pd.Series[float]) -> pd.Series[float]:
    """Logarithms, missing where there is none."""
    numbers = values.astype(float)
    return numbers.where(numbers > 0).map(np.log10)


def from_dense(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """``paired`` with the network of the same seed with nothing pruned."""
    dense = table[table["compression"] == 1].drop_duplicates("seed").set_index("seed")[column]
    rest = table[table["compression"] > 1]
    difference = rest[column].astype(float) - rest["seed"].map(dense).astype(float)
    found = rest.assign(difference=difference, comparisons=rest["pruner"].nunique())
    return found.dropna(subset=["difference"])


def against_dense(
    table: pd.DataFrame, column: str, quantity: str, unit: str
) -> list[dict[str, Any]]:
    """The mean over seeds of ``from_dense``."""
    found = []
    for _, rows in groups(from_dense(table, column).assign(mode=None)):
        estimate = mean(rows["difference"], together(int(rows["comparisons"].iloc[0])))
        of = str(rows["pruner"].iloc[0])
        found.append(row(quantity, of, where(rows), estimate, unit, "dense"))
    return found


def layer_distance(ours: pd.DataFrame, theirs: pd.DataFrame) -> float:
    """How differently two masks divide what they keep over the layers: total variation, 0 to 1.

    ``½ Σ |k_l / k − k'_l / k'|``: the share of the kept weights that would have to change layer.

    Args:
        ours, theirs: rows of one mask each, with ``layer`` and ``kept``.
    """
    shares = [part.set_index("layer")["kept"].astype(float) for part in (ours, theirs)]
    shares = [share / share.sum() for share in shares]
    return float((shares[0] - shares[1]).abs().sum() / 2)


def distances(table: pd.DataFrame, by: str, values: Sequence[str]) -> list[dict[str, Any]]:
    """``layer_distance`` between two variants of a pruning, over seeds."""
    done = table[table["finished"].astype(str).str.lower() == "true"]
    found: list[dict[str, Any]] = []
    others = ["model", "dataset", "pruner", "compression"]
    for _, rows in done.groupby(others, dropna=False, sort=False):
        pairs = []
        for _, one in rows.groupby("seed"):
            parts = [one[one[by] == value] for value in values]
            if all(len(part) for part in parts):
                pairs.append(layer_distance(parts[0], parts[1]))
        if pairs:
            place = where(rows, others)
            of, estimate = str(rows["pruner"].iloc[0]), mean(pairs)
            quantity = "share of kept weights in other layers"
            found.append(row(quantity, of, place, estimate, "", f"{values[0]} and {values[1]}"))
    return found


def pairs(table: pd.DataFrame, column: str, quantity: str, unit: str = "") -> list[dict[str, Any]]:
    """The mean over pairs of seeds; without an interval, because pairs share seeds."""
    found = []
    for _, rows in groups(table):
        values = rows[column].astype(float).dropna()
        if len(values):
            seeds = len({*rows["seed"], *rows["other_seed"]})
            estimate = Estimate(float(values.mean()), np.nan, np.nan, seeds, np.nan)
            found.append(row(quantity, str(rows["pruner"].iloc[0]), where(rows), estimate, unit))
    return found
