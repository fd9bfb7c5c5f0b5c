"""``python -m analysis agreement``: our results against the paper's published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from analysis import published, results
from analysis.agreement import Comparison, compare
from collapse import cli, tables
from collapse.errors import RequestError


@dataclass(frozen=True)
class Config:
    """How many of our points lie where the published ones do, figure by figure.

    Exit code 1 if a point lies outside that chance and data cannot move: densities and mean scores
    of random, magnitude and SynFlow, and the prune-to-cut ratio from 10 iterations on.

    Attributes:
        results: the folder of our tables, each named after its experiment.
        out: write every compared point (.parquet, .csv, .json).
    """

    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = results.FOLDER
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None


def main(config: Config) -> int:
    """Run the request."""
    tables.check_path(config.out)
    if not config.results.is_dir():
        raise RequestError(
            f"--results '{config.results}': no such folder; expected one with tables such as "
            f"{', '.join(f'{name}.csv' for name in list(published.NETWORKS)[:2])}"
        )
    ours = {name: results.load(name, config.results) for name in published.NETWORKS}
    found = {name: compare(name, table) for name, table in ours.items() if table is not None}
    if config.out is not None:
        parts = [each.points.assign(figure=name) for name, each in found.items()]
        frame = pd.concat([part.astype(object) for part in parts]) if parts else pd.DataFrame()
        frame = frame.reindex(columns=[*tables.COLUMNS["agreement"], *frame.columns.unique()])
        frame = frame.loc[:, ~frame.columns.duplicated()]
        tables.write(frame.infer_objects(), config.out, "agreement")
    show(found, ours)
    return 1 if any(each.failed for each in found.values()) else 0


def show(
    found: Mapping[str, Comparison], ours: Mapping[str, pd.DataFrame | None] | None = None
) -> None:
    """Print the comparisons, what they do not cover, and how ours were made."""
    console = Console(width=cli.table_width())
    table = Table(box=box.SIMPLE_HEAD, title="against the published numbers", title_justify="left")
    for heading in ("figure", "run", "published", "within", "largest deviation", "where"):
        table.add_column(heading, justify="left" if heading in ("figure", "where") else "right")
    table.add_column("within means", overflow="fold")
    for name in published.NETWORKS:
        if name not in found:
            table.add_row(name, "0", str(len(published.load(name))), "", "", "", "not run")
            continue
        table.add_row(name, *_cells(found[name]))
    console.print(table)
    for name, each in found.items():
        for line in (*_by_pruner(name, each), *_outside(name, each), *_not_run(name, each)):
            console.print(line, highlight=False)
        for line in _made((ours or {}).get(name)):
            console.print(f"{name}: {line}", highlight=False)
    console.print(
        "not compared: figure 3 (neurons) has no published numbers; figure 1's own are a panel of "
        "figure 6, up to compression 1,000",
        highlight=False,
    )


def _by_pruner(name: str, each: Comparison) -> list[str]:
    """Which pruners agree: the data-driven ones also depend on the images."""
    ran = each.run
    if ran.empty or "pruner" not in ran:
        return []
    counts = ran.groupby("pruner", sort=False)["within"].agg(["sum", "size"])
    words = [f"{pruner} {row['sum']} of {row['size']}" for pruner, row in counts.iterrows()]
    return [f"{name}: within: {', '.join(words)}"]


def _cells(each: Comparison) -> list[str]:
    ran, count = each.run, len(each.points)
    if ran.empty:
        return ["0", str(count), "", "", "", f"not run ({each.criterion})"]
    worst = ran.iloc[int(ran["deviation"].abs().fillna(0).argmax())].to_dict()
    return [
        f"{len(ran)}",
        f"{count}",
        f"{int(ran['within'].sum())}",
        f"{worst['deviation']:+.4g} {each.deviation}",
        _place(worst, each),
        each.criterion,
    ]


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


def run(arguments: Sequence[str]) -> None:
    """Entry point."""
    cli.run(Config, main, "python -m analysis agreement", arguments)
