"""``python -m collapse.pruning``: prune one network to one compression and save its masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from collapse import cli, connectivity, masks, tables
from collapse.files import check_distinct, check_writable
from collapse.options import Pruning, Setup
from collapse.problem import prepare, settings_row
from collapse.pruning import Pruned, Step, iterations_of, prune
from collapse.scores import load_pruner, needs_labels


@dataclass(frozen=True)
class Config:
    """Prune a network to one compression: masks, per-layer densities, trace.

    Attributes:
        compression: total / kept to reach, from 1 to parameters / layers.
        masks: start from these masks (.safetensors) instead of the whole network.
        out: write the masks (.safetensors).
        layers: write the per-layer table (.parquet, .csv, .json).
        trace: write what each iteration removed (.parquet, .csv, .json).
        quiet: no progress bar.
    """

    setup: Setup
    pruning: Pruning
    compression: Annotated[float, tyro.conf.arg(metavar="X")]
    masks: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    layers: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    trace: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    quiet: bool = False


def main(config: Config) -> int:
    """Run the request; the exit code is 1 if a layer collapsed, so that CI notices."""
    check_distinct(config.out, config.layers, config.trace)
    check_writable(config.out, (".safetensors",))
    tables.check_path(config.layers)
    tables.check_path(config.trace)
    options = config.pruning
    load_pruner(options.pruner)
    prepared = prepare(config.setup, options.seed, labelled=needs_labels(options.pruner))
    start = None if config.masks is None else masks.load_masks(config.masks, prepared.model)
    with cli.progress(iterations_of(options), config.quiet) as update:
        result = prune(
            prepared,
            options=options,
            compression=config.compression,
            masks=start,
            on_step=_reporter(options, update),
        )
    example = prepared.batches[0][0]
    alive = connectivity.living(prepared.model, result.masks, example, output=config.setup.output)
    settings = settings_row(
        config.setup,
        prepared.input_shape,
        options,
        result.steps[-1].iteration if result.steps else 0,
    )
    rows = tables.layer_rows(
        masks.sizes(result.masks),
        masks.kept_by_layer(result.masks),
        masks.kept_by_layer(alive),
        masks.sums(result.scores),
    )
    frame = pd.DataFrame([{**settings, **row} for row in rows])
    if config.out is not None:
        masks.save_masks(result.masks, config.out, **{k: str(v) for k, v in settings.items()})
    if config.layers is not None:
        tables.write(frame, config.layers, "layers", str(prepared.device))
    if config.trace is not None:
        trace = result.trace().assign(**settings).reindex(columns=list(tables.COLUMNS["trace"]))
        tables.write(trace, config.trace, "trace", str(prepared.device))
    _print(frame, result)
    return 1 if masks.collapsed(result.masks) else 0


def _reporter(options: Pruning, update: Callable[[str, int], None]) -> Callable[[Step], bool]:
    def report(step: Step) -> bool:
        update(f"{options.pruner}: {step.kept:,} kept", step.iteration)
        return False

    return report


def _print(frame: pd.DataFrame, result: Pruned) -> None:
    total, kept = int(frame["parameters"].sum()), int(frame["kept"].sum())
    alive = int(frame["effective_kept"].sum())
    table = Table(
        title_justify="left",
        box=box.SIMPLE_HEAD,
        title=f"{total:,} parameters, {kept:,} kept: compression "
        f"{total / kept:,.6g}, effective {total / alive if alive else float('inf'):,.6g}",
    )
    for name in ("layer", "parameters", "kept", "density", "alive"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for row in frame.to_dict("records"):
        table.add_row(
            row["layer"],
            f"{row['parameters']:,}",
            f"{row['kept']:,}",
            f"{row['density']:.3g}",
            f"{row['effective_kept']:,}",
        )
    console = Console(width=cli.table_width())
    console.print(table)
    fallen: list[Any] = masks.collapsed(result.masks)
    if fallen:
        console.print(f"collapsed: {', '.join(fallen)}", highlight=False)


def run() -> None:
    """Entry point."""
    cli.run(Config, main, "python -m collapse.pruning")
