"""``python -m collapse.conservation``: conservation laws on any network, as numbers and a gate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from collapse import cli, conservation, tables
from collapse import masks as masking
from collapse.conservation import Audit, audit, inverse_size_fit, likely_cause
from collapse.errors import RequestError
from collapse.files import PLOT_SUFFIXES, check_distinct, check_writable
from collapse.models import Masks
from collapse.options import Mode, Pruning, Setup
from collapse.problem import Prepared, prepare, settings_row
from collapse.pruning import prune
from collapse.scores import load_pruner, mode_of


@dataclass(frozen=True)
class Config:
    """Are a network's saliencies conserved, neuron by neuron, layer by layer, cut by cut?

    Exit code 0 if every residual is within the tolerance, 1 if one is not.

    Attributes:
        pruner: random, magnitude, snip, grasp, synflow, or package.module:function for your own;
            its scores are checked as well.
        tolerance: largest allowed |lhs - rhs| / max(1, absolute flow).
        mode: of the model (snip, grasp: train without it; synflow is always eval).
        dtype: float64 shows residuals at its rounding.
        compression: check the network pruned this far by the same pruner.
        masks: check the network under these masks (.safetensors).
        seed: of initialisation and samples.
        out: write the ledger (.parquet, .csv, .json).
        layers: write per-layer saliency sums (.parquet, .csv, .json).
        plot: draw mean score against inverse layer size (.pdf, .svg, .png).
        quiet: no progress bar.
    """

    setup: Setup
    pruner: str = "synflow"
    tolerance: Annotated[float, tyro.conf.arg(metavar="X")] = 1e-5
    mode: Annotated[Mode | None, tyro.conf.arg(metavar="train|eval")] = None
    dtype: Literal["float32", "float64"] = "float32"
    compression: Annotated[float | None, tyro.conf.arg(metavar="X")] = None
    masks: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    seed: int = 0
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    layers: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    quiet: bool = False


def main(config: Config) -> int:
    """Run the request; the exit code says whether every residual is within the tolerance."""
    if not config.tolerance > 0:
        raise RequestError(f"--tolerance: expected more than 0, got {config.tolerance:g}")
    check_distinct(config.out, config.layers, config.plot)
    tables.check_path(config.out)
    tables.check_path(config.layers)
    check_writable(config.plot, PLOT_SUFFIXES)
    pruner = load_pruner(config.pruner)
    prepared = prepare(config.setup, config.seed, labelled=pruner != "synflow")
    model, (inputs, targets) = prepared.model, prepared.batches[0]
    if config.dtype == "float64":
        model, inputs = model.double(), inputs.double()
    masks = _masks(config, prepared, pruner)
    with cli.progress(1, config.quiet) as update:
        update(f"{config.pruner}: one forward and one backward", 0)
        found = audit(
            model,
            (inputs, targets),
            pruner=pruner,
            mode=config.mode,
            masks=masks,
            output=config.setup.output,
            seed=config.seed,
        )
    options = Pruning(pruner=config.pruner, seed=config.seed)
    settings = settings_row(config.setup, prepared.input_shape, options, iterations=1)
    settings |= {"schedule": None, "mode": mode_of(pruner, config.mode) or config.mode or "eval"}
    table = found.table().assign(**settings)[list(tables.COLUMNS["conservation"])]
    kept = masking.kept_by_layer(masks)
    layers = pd.DataFrame([
        {**settings, **row}
        for row in tables.layer_rows(
            masking.sizes(masks), kept, None, masking.sums(found.scores)
        )
    ])  # fmt: skip
    if config.out is not None:
        tables.write(table, config.out, "conservation", str(prepared.device))
    if config.layers is not None:
        tables.write(layers, config.layers, "layers", str(prepared.device))
    if config.plot is not None:
        from collapse.plots import save, score_against_inverse_size

        save(score_against_inverse_size(layers), config.plot)
    _print(config, found)
    worst = conservation.worst(found.ledger)
    return 0 if bool((worst["residual"] <= config.tolerance).all()) else 1


def _masks(config: Config, prepared: Prepared, pruner: str) -> Masks:
    if config.masks is not None and config.compression is not None:
        raise RequestError("expected --masks or --compression, got both")
    if config.masks is not None:
        return masking.load_masks(config.masks, prepared.model)
    if config.compression is None:
        return masking.dense(prepared.model)
    batches = [(x.to(next(prepared.model.parameters()).dtype), y) for x, y in prepared.batches]
    options = Pruning(pruner=pruner, mode=config.mode, seed=config.seed)
    return prune(
        prepared.model,
        batches,
        options,
        compression=config.compression,
        output=config.setup.output,
    ).masks


def _print(config: Config, found: Audit) -> None:
    console = Console(width=cli.table_width())
    table = Table(
        title=f"{config.setup.model}, {config.pruner}: R = {found.R:.6g}, flows in units of "
        f"{found.unit:.3g}, tolerance {config.tolerance:g}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("identity", "places", "worst residual", "where", "lhs", "rhs", ""):
        table.add_column(name, justify="left" if name in ("identity", "where", "") else "right")
    for row in conservation.worst(found.ledger).to_dict("records"):
        within = row["residual"] <= config.tolerance
        table.add_row(
            row["identity"], f"{row['places']:,}", f"{row['residual']:.2e}", row["place"],
            f"{row['lhs']:.6g}", f"{row['rhs']:.6g}", "" if within else "BEYOND TOLERANCE",
        )  # fmt: skip
    console.print(table)
    console.print(f"covered: {found.coverage}", highlight=False)
    for row in conservation.worst(found.ledger).to_dict("records"):
        if not row["residual"] <= config.tolerance:
            console.print(
                f"{row['identity']} fails at {row['place']}: {row['lhs']:.6g} against "
                f"{row['rhs']:.6g}; likely cause: {likely_cause(row['identity'])}",
                highlight=False,
            )
    if len(found.outside):
        rows = found.outside.to_dict("records")
        largest = max(rows, key=lambda row: abs(row["created"]))
        console.print(
            f"outside the theory: {len(found.outside)} operations "
            f"({', '.join(sorted(set(found.outside['operation'])))}); the largest makes "
            f"{largest['created']:.6g} of flow ({largest['operation']} in {largest['place']})",
            highlight=False,
        )
    if found.absolute is not None and len(found.absolute):
        row = max(found.absolute.to_dict("records"), key=lambda row: row["residual"])
        console.print(
            f"SNIP's |S| is not conserved, as expected: worst at {row['place']}, "
            f"{row['lhs']:.4g} against {row['rhs']:.4g} (in units of the median layer sum)",
            highlight=False,
        )
    if not found.scores_checked:
        console.print(
            f"{config.pruner}: no unit here has both sides known and no layer is a cut, so its "
            "scores were held to nothing; only the network's flow was checked",
            highlight=False,
        )
    sizes = masking.sizes(found.scores)
    scores = {name: total for name, (total, _) in masking.sums(found.scores).items()}
    for what, sums in (("score", scores), ("signed saliency", found.saliency)):
        try:
            slope, r = inverse_size_fit(sizes, sums)
        except (RequestError, KeyError):
            continue  # one layer, or a layer without a score: there is no line to draw
        console.print(
            f"log mean {what} against log inverse layer size: slope {slope:.6f}, r {r:.6f}",
            highlight=False,
        )


def run() -> None:
    """Entry point."""
    cli.run(Config, main, "python -m collapse.conservation")
