"""Our results beside the published ones, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis import published
from analysis.agreement import Comparison
from collapse import cli


def show(
    found: Mapping[str, Comparison], ours: Mapping[str, pd.DataFrame | None] | None = None
) -> None:
    """Print the comparisons, what they do not cover, and how ours were made."""
    lines = [
        line
        for name, each in found.items()
        for line in (
            *(*_by_pruner(name, each), *_outside(name, each), *_not_run(name, each)),
            *(f"{name}: {line}" for line in _made((ours or {}).get(name))),
        )
    ]
    cli.print_table(
        "against the published numbers",
        [{"figure": name, **_row(name, found.get(name))} for name in published.NETWORKS],
        {
            "figure": "{figure}",
            "run": "{run:d}",
            "published": "{published:d}",
            "within": "{within:d}",
            "largest deviation": "{deviation:>}",
            "where": "{where}",
            "within means": "{means}",
        },
        [
            *lines,
            "not compared: figure 3 (neurons) has no published numbers; figure 1's own are a panel "
            "of figure 6, up to compression 1,000",
        ],
    )


def _by_pruner(name: str, each: Comparison) -> list[str]:
    """Which pruners agree: the data-driven ones also depend on the images."""
    ran = each.run
    if ran.empty or "pruner" not in ran:
        return []
    counts = ran.groupby("pruner", sort=False)["within"].agg(["sum", "size"])
    words = [f"{pruner} {row['sum']} of {row['size']}" for pruner, row in counts.iterrows()]
    return [f"{name}: within: {', '.join(words)}"]


def _row(name: str, each: Comparison | None) -> dict[str, int | str | None]:
    ran = each.run if each is not None else pd.DataFrame()
    count = len(published.load(name) if each is None else each.points)
    row: dict[str, int | str | None] = {"run": len(ran), "published": count, "within": None}
    if each is None or ran.empty:
        why = "not run" if each is None else f"not run ({each.criterion})"
        return row | {"deviation": None, "where": None, "means": why}
    worst = ran.iloc[int(ran["deviation"].abs().fillna(0).argmax())].to_dict()
    return row | {
        "within": int(ran["within"].sum()),
        "deviation": f"{worst['deviation']:+.4g} {each.deviation}",
        "where": _place(worst, each),
        "means": each.criterion,
    }


def _keys(each: Comparison) -> list[str]:
    columns = list(each.points.columns)
    return columns[: columns.index("ours")]


def _place(row: Mapping[Any, Any], each: Comparison) -> str:
    words = []
    for key in _keys(each):
        value = row[key]
        words.append(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(word.removeprefix("pruner ").removeprefix("schedule ") for word in words)


def _outside(name: str, each: Comparison) -> list[str]:
    """Points that fail the check, by name: a reader wants to know which."""
    ran = each.points["ours"].notna() & each.bounded & ~each.points["within"]
    rows = each.points[ran]
    lines = [
        f"{name}: OUTSIDE at {_place(row, each)}: ours {row['ours']:.5g}, published "
        f"{row['published']:.5g}"
        for row in rows.head(5).to_dict("records")
    ]
    return lines + ([f"{name}: and {len(rows) - 5} more"] if len(rows) > 5 else [])


def _not_run(name: str, each: Comparison) -> list[str]:
    """What was not run, by its first keys; the last one or two are numbers in a list."""
    if each.missing.empty:
        return []
    keys = _keys(each)
    numbers = "compression" if "compression" in keys else keys[-1]
    others = [key for key in keys if key not in (numbers, "layer_index")]
    lines = []
    for of, rows in each.missing.groupby(_words(each.missing, others)):
        listed = sorted(rows[numbers].unique())
        few = ", ".join(f"{value:.4g}" for value in listed[:6]) + (", …" if len(listed) > 6 else "")
        lines.append(f"{of}: {numbers} {few}" if of else f"{numbers} {few}")
    if len(lines) > 8:
        return [f"{name}: not run: {len(each.missing)} points, e.g. {lines[0]}"]
    return [f"{name}: not run: {line}" for line in lines]


def _words(table: pd.DataFrame, columns: list[str]) -> pd.Series:
    """The values of some columns of each row in words."""
    words = pd.Series("", index=table.index)
    for column in columns:
        words = words + f"{column} " + table[column].astype(str) + " "
    return words.str.strip()


def _made(table: pd.DataFrame | None) -> list[str]:
    """How accuracies were trained, because a shorter schedule is another experiment."""
    if table is None or "epochs" not in table or table.empty:
        return []
    made = table.value_counts(["dataset", "epochs", "train_images"]).reset_index()
    lines = [
        f"{row['count']} runs of {row['epochs']:g} epochs on {row['train_images']:,.0f} images of "
        f"{row['dataset']}"
        for row in made.to_dict("records")
    ]
    several = len(made) > made["dataset"].nunique()
    return lines + (["only the longest schedule is compared"] if several else [])
