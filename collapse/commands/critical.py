"""``python -m collapse.critical``: critical compression of several pruners on one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from collapse import cli, tables
from collapse.critical import frame_of, measure
from collapse.errors import RequestError
from collapse.files import PLOT_SUFFIXES, check_distinct, check_writable
from collapse.options import Mode, Pruning, ScheduleName, Scope, Setup
from collapse.problem import prepare
from collapse.scores import SCORES, load_pruner, needs_labels


@dataclass(frozen=True)
class Config:
    """How far can each pruner go before a layer collapses?

    Without further options: all five pruners in the paper's settings, and SynFlow with the
    certified schedule as a sixth row.

    Attributes:
        pruners: random, magnitude, snip, grasp, synflow, or package.module:function.
        iterations: of every pruner; the paper's without it (synflow 100, the others 1).
        schedule: linear, exponential or certified (synflow); without it the paper's exponential,
            and a further row for SynFlow with the certified one.
        scope: rank all parameters together (global), or each layer by itself.
        mode: in which snip and grasp are scored; train without it, as in their papers.
        scan: further compressions tested for a collapse of an iterative pruner.
        tolerance: end an iterative pruner's search where the boundary is known to within this
            share of the compression; 0 finds the exact number.
        seeds: of initialisation, samples and random scores; one set of rows each.
        effective: also find the effective critical compression (dead weights not counted).
        out: write the table (.parquet, .csv, .json).
        layers: write the per-layer densities around the collapse (.parquet, .csv, .json).
        plot: draw compression bars with the maximum as a dashed line (.pdf, .svg, .png).
        quiet: no progress bar.
    """

    setup: Setup
    pruners: tuple[str, ...] = ("random", "magnitude", "snip", "grasp", "synflow")
    iterations: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    schedule: Annotated[
        ScheduleName | None, tyro.conf.arg(metavar="linear|exponential|certified")
    ] = None
    scope: Scope = "global"
    mode: Annotated[Mode | None, tyro.conf.arg(metavar="train|eval")] = None
    scan: int = 8
    tolerance: float = 0.0
    seeds: tuple[int, ...] = (0,)
    effective: bool = True
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    layers: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    quiet: bool = False


def main(config: Config) -> None:
    """Run the request: table to stdout, files where asked for."""
    plans = _plans(config)
    check_distinct(config.out, config.layers, config.plot)
    tables.check_path(config.out)
    tables.check_path(config.layers)
    check_writable(config.plot, PLOT_SUFFIXES)
    rows: list[dict[str, Any]] = []
    layer_rows: list[dict[str, Any]] = []
    notes: list[str] = []
    device = ""
    with cli.progress(len(plans) * len(config.seeds), config.quiet) as update:
        for seed in dict.fromkeys(config.seeds):
            labelled = any(needs_labels(plan.pruner) for plan in plans)
            prepared = prepare(config.setup, seed, labelled=labelled)
            device = str(prepared.device)
            notes += [prepared.uncounted] if prepared.uncounted and not notes else []
            for plan in plans:

                def watch(text: str, plan: Pruning = plan) -> None:
                    update(f"{plan.pruner}: {text}", len(rows))  # rows only grows

                try:
                    row, more = measure(
                        config.setup,
                        prepared,
                        replace(plan, seed=seed),
                        scan=config.scan,
                        tolerance=config.tolerance,
                        effective=config.effective,
                        watch=watch,
                    )
                except RequestError as error:
                    if plan is not _EXTRA or not rows:
                        raise
                    notes.append(f"no row for the certified schedule: {error}")
                    continue
                rows.append(row)
                layer_rows.extend(more)
    frame = frame_of(rows)
    if config.out is not None:
        tables.write(frame, config.out, "critical", device)
    if config.layers is not None:
        tables.write(pd.DataFrame(layer_rows), config.layers, "layers", device)
    if config.plot is not None:
        from collapse.plots import critical_bars, save

        save(critical_bars(frame), config.plot)
    _print(frame, notes)


# The row that nobody asked for: if the network does not take it, the others still stand.
_EXTRA = Pruning(pruner="synflow", schedule="certified")


def _plans(config: Config) -> list[Pruning]:
    """One row each: pruner and schedule."""
    if not config.pruners:
        raise RequestError(f"--pruners: expected at least one of {', '.join(SCORES)}, got none")
    if not config.seeds:
        raise RequestError("--seeds: expected at least one, got none")
    if config.iterations is not None and config.iterations < 1:
        raise RequestError(f"--iterations: expected at least 1, got {config.iterations}")
    for pruner in config.pruners:
        load_pruner(pruner)
    plans = [
        Pruning(
            pruner=pruner,
            iterations=config.iterations,
            schedule=config.schedule or "exponential",
            scope=config.scope,
            mode=config.mode,
        )
        for pruner in dict.fromkeys(config.pruners)
    ]
    if config.schedule is None and "synflow" in config.pruners and config.scope == "global":
        plans.append(_EXTRA)
    if config.schedule == "certified":
        # The other scores are not conserved: their rows keep the paper's schedule.
        if "synflow" not in config.pruners:
            raise RequestError(
                "--schedule certified needs positive, conserved scores: expected synflow among "
                f"--pruners, got {', '.join(config.pruners)}"
            )
        plans = [
            plan if plan.pruner == "synflow" else replace(plan, schedule="exponential")
            for plan in plans
        ]
    return plans


def _print(frame: pd.DataFrame, notes: Sequence[str]) -> None:
    """The rows a reader wants first; everything is in ``--out``."""
    first = frame.iloc[0]
    seeds = frame["seed"].nunique()
    table = Table(
        title=f"{first['model']} on {first['dataset']} {first['input_shape']}: "
        f"{first['parameters']:,} parameters in {first['layers']} layers, "
        f"maximal compression {first['maximal_compression']:,.6g}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name, justify in _HEADINGS:
        if name != "seed" or seeds > 1:
            table.add_column(name, justify=justify, overflow="fold")
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        cells = _cells(row)
        table.add_row(*(cells[name] for name, _ in _HEADINGS if name != "seed" or seeds > 1))
    console = Console(width=cli.table_width())
    console.print(table)
    for note in [*_notes(frame), *notes]:
        console.print(note, highlight=False)


_HEADINGS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("pruner", "left"),
    ("seed", "right"),
    ("iterations", "left"),
    ("mode", "left"),
    ("critical", "right"),
    ("of maximum", "right"),
    ("kept", "right"),
    ("collapse", "right"),
    ("first to collapse", "left"),
    ("effective", "right"),
    ("evidence", "left"),
)


def _cells(row: dict[Any, Any]) -> dict[str, str]:
    collapse = row["collapse_compression"]
    effective = row["effective_critical_compression"]
    mark = " *" if row["monotone"] is False else ""
    once = row["iterations"] == 1 and row["schedule"] != "certified"
    schedule = "" if once else row["schedule"]
    return {
        "pruner": row["pruner"],
        "seed": str(row["seed"]),
        "iterations": f"{row['iterations']} {schedule}".strip(),
        "mode": row["mode"] or "",
        "critical": f"{row['critical_compression']:,.6g}",
        "of maximum": f"{row['critical_compression'] / row['maximal_compression']:.3%}",
        "kept": f"{row['critical_kept']:,}",
        "collapse": "none seen" if collapse is None else f"{collapse:,.6g}{mark}",
        "first to collapse": (row["first_collapsed_layer"] or "").removesuffix(".weight"),
        "effective": "none" if effective is None else f"{effective:,.6g}",
        "evidence": row["evidence"],
    }


def _notes(frame: pd.DataFrame) -> list[str]:
    notes = []
    if (~frame["monotone"].fillna(True)).any():
        notes.append(
            "* a layer also collapsed at this lower compression: for an iterative pruner collapse "
            "is not monotone in compression"
        )
    tested = frame[~frame["certified"]]
    if len(tested):
        low, high = tested["bracket_low"].min(), tested["bracket_high"].max()
        notes.append(
            "search: tested, not proved; the critical compression lies between "
            f"{low:,.6g} and {high:,.6g}"
        )
    return notes


def run() -> None:
    """Entry point."""
    cli.run(Config, main, "python -m collapse.critical")
