"""Rows of answers: a quantity of a group of runs, with its interval over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from analysis.questions import finished
from analysis.questions.statistics import Estimate, mean, together
from collapse import tables

if TYPE_CHECKING:
    import pandas as pd

TABLE = tables.declare(
    "answers",
    *("question", "quantity", "of", "against", "where", "estimate", "low", "high"),
    *("level", "seeds", "unit"),
)
# What tells groups of runs from one another.
GROUP = ("model", "dataset", "pruner", "mode", "weights", "control", "levels", "compression")
_SAID = {
    "weights": "{} weights",
    "mode": "{} mode",
    "levels": "{:g} levels",
    "compression": "compression {:,.6g}",
}
Rows = list[dict[str, Any]]


def groups(table: pd.DataFrame, more: Sequence[str] = ()) -> Iterator[pd.DataFrame]:
    """Rows that differ by seed alone."""
    by = [column for column in (*GROUP, *more) if column in table]
    for _, rows in table.groupby(by, dropna=False, sort=False):
        yield rows


def row(
    rows: pd.DataFrame,
    quantity: str,
    estimate: Estimate,
    unit: str = "",
    against: str = "",
    by: str = "pruner",
    group: Sequence[str] = GROUP,
) -> dict[str, Any]:
    """One answer: the columns of the ``answers`` table, and for figures what the group shares.

    Args:
        by: what it is of, beside the pruner.
        group: columns in which the rows are alike.
    """
    import pandas as pd

    shared = {column: rows[column].iloc[0] for column in group if column in rows}
    of = str(shared.get("pruner", ""))
    if by != "pruner":
        of += f", {shared[by]}"
    words = []
    for column, value in shared.items():
        # What is as usual goes without saying.
        said = value is not None and not pd.isna(value) and value not in (0, "random")
        if said and column in GROUP and column not in ("pruner", by):
            words.append(_SAID.get(column, "{}").format(value))
    return {
        "quantity": quantity,
        "of": of.rpartition(":")[2],
        "against": against,
        "where": ", ".join(words),
        **estimate._asdict(),
        "unit": unit,
        **shared,
    }


def collect(*parts: Rows) -> pd.DataFrame:
    """Answers together, without the question's name."""
    import pandas as pd

    columns = [column for column in tables.COLUMNS[TABLE] if column != "question"]
    found = pd.DataFrame([one for part in parts for one in part])
    if "pruner" in found:
        # Of one's own pruners in two files the functions may have one name.
        short = found["pruner"].astype(str).str.rpartition(":")[2]
        clash = found.groupby(short)["pruner"].transform("nunique") > 1
        rest = [of[len(name) :] for of, name in zip(found["of"], short, strict=True)]
        found["of"] = found["of"].where(~clash, found["pruner"].astype(str) + rest)
    return found.reindex(columns=[*columns, *found.columns.difference(columns, sort=False)])


def means(
    table: pd.DataFrame,
    column: str,
    quantity: str,
    unit: str = "",
    *,
    more: Sequence[str] = (),
    estimate: Callable[[Iterable[float]], Estimate] = mean,
) -> Rows:
    """The mean over seeds of a column, group by group.

    Args:
        more: columns by which groups differ as well.
        estimate: of the values of a group.
    """
    found = []
    for rows in groups(table, more):
        each = estimate(rows[column].astype(float))
        if each.seeds:
            found.append(row(rows, quantity, each, unit, group=(*GROUP, *more)))
    return found


def paired(table: pd.DataFrame, column: str, by: str, reference: object) -> pd.DataFrame:
    """Each row's ``column`` minus that of the row that differs in ``by`` alone, same seed.

    Adds ``difference``, and ``comparisons``: how many share a reference. The reference's own rows
    are left out.

    Args:
        reference: the value of ``by`` that the others are compared with; None for missing ones.
    """
    others = [c for c in GROUP if c in table and c != by]
    import pandas as pd

    # As a column: of a table without rows an empty list would choose columns.
    same = [_same(value, reference) for value in table[by]]
    is_reference = pd.Series(same, index=table.index, dtype=bool)
    keys = [*others, "seed"]
    base = table.loc[is_reference, [*keys, column]].rename(columns={column: "_reference"})
    rest = table[~is_reference]
    found = rest.merge(base.astype({"_reference": float}), on=keys, how="inner")
    found["difference"] = found[column].astype(float) - found["_reference"]
    among = found.groupby(others, dropna=False, sort=False)[by]
    return found.assign(comparisons=among.transform("nunique")).drop(columns="_reference")


def _same(value: object, other: object) -> bool:
    missing = [v is None or v != v for v in (value, other)]
    return all(missing) or (not any(missing) and value == other)


def from_dense(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """As ``paired``, with the same network and seed with nothing pruned."""
    network = ["model", "dataset"]
    keys = [*network, "seed"]
    dense = table.loc[table["compression"] == 1, [*keys, column]].drop_duplicates(keys)
    dense = dense.rename(columns={column: "_dense"}).astype({"_dense": float})
    rest = table[table["compression"] > 1].merge(dense, on=keys, how="inner")
    rest["difference"] = rest[column].astype(float) - rest["_dense"]
    found = rest.dropna(subset=["difference"]).drop(columns="_dense")
    among = found.groupby(network, sort=False)["pruner"]
    return found.assign(comparisons=among.transform("nunique"))


def differences(
    table: pd.DataFrame, column: str, quantity: str, by: str, reference: object, unit: str = ""
) -> Rows:
    """The mean over seeds of ``paired``, with intervals that hold together.

    Args:
        reference: as for ``paired``; "dense" for ``from_dense``.
    """
    if reference == "dense":
        pairs = from_dense(table, column)
    else:
        pairs = paired(table, column, by, reference)
    found: Rows = []
    for rows in groups(pairs):
        estimate = mean(rows["difference"], together(int(rows["comparisons"].iloc[0])))
        if estimate.seeds:
            against, of = str(reference or "as it is"), f"difference in {quantity}"
            found.append(row(rows, of, estimate, unit, against, by))
    return found


def accuracy(table: pd.DataFrame) -> Rows:
    """The mean over seeds of the best accuracy over epochs."""
    return means(table, "best_top1", "top-1 accuracy", "%")


def accuracy_differences(table: pd.DataFrame, by: str, reference: object) -> Rows:
    """``differences`` of it."""
    return differences(table, "best_top1", "top-1 accuracy", by, reference, "points")


def distances(table: pd.DataFrame, by: str, values: Sequence[str]) -> Rows:
    """``layer_distance`` between two variants of a pruning, over seeds."""
    found: Rows = []
    others = ["model", "dataset", "pruner", "compression"]
    for _, rows in table[finished(table)].groupby(others, dropna=False, sort=False):
        pairs = []
        for _, one in rows.groupby("seed"):
            ours, theirs = (one[one[by] == value] for value in values)
            if len(ours) and len(theirs):
                pairs.append(layer_distance(ours, theirs))
        if pairs:
            quantity, against = "share of kept weights in other layers", " and ".join(values)
            found.append(row(rows, quantity, mean(pairs), against=against, group=others))
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


def log10(values: pd.Series[float]) -> pd.Series[float]:
    """Logarithms, missing where there is none."""
    import numpy as np

    numbers = values.astype(float)
    return numbers.where(numbers > 0).map(np.log10)
