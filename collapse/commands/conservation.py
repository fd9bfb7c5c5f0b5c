"""``python -m collapse.conservation``: conservation laws on any network, as numbers and a gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from collapse import cli, plots
from collapse.errors import RequestError
from collapse.options import File, Mode, Pruning, Scoring, Setup, check_pruners, check_seed, shown

if TYPE_CHECKING:
    from collapse.conservation import Audit
    from collapse.models import Masks
    from collapse.problem import Problem


@dataclass(frozen=True)
class Config(Scoring):
    """Are a network's saliencies conserved, neuron by neuron, layer by layer, cut by cut?

    Exit code 0 if every residual is within the tolerance, 1 if one is not.

    Attributes:
        pruner: random, magnitude, snip, grasp, synflow, or package.module:function for your own;
            its scores are checked as well.
        tolerance: largest allowed |lhs - rhs| / max(1, absolute flow).
        mode: of the model.
        dtype: float64 shows residuals at its rounding.
        compression: check the network pruned this far by the same pruner.
        masks: check the network under these masks (.safetensors).
        seed: of initialisation and samples.
        out: write the ledger (.parquet, .csv, .json).
        layers: write per-layer saliency sums (.parquet, .csv, .json).
        plot: draw mean score against inverse layer size (.pdf, .svg, .png).
    """

    setup: Setup
    pruner: str = "synflow"
    tolerance: Annotated[float, tyro.conf.arg(metavar="X")] = 1e-5
    mode: Annotated[
        Mode | None, shown("train|eval|warm", "train for snip and grasp, else eval")
    ] = None
    dtype: Literal["float32", "float64"] = "float32"
    compression: Annotated[float | None, shown("X", "none, the whole network")] = None
    masks: File = None
    seed: int = 0
    out: File = None
    layers: File = None
    plot: File = None


def main(config: Config) -> int:
    """Run the request; the exit code says whether every residual is within the tolerance."""
    if not config.tolerance > 0:
        raise RequestError(f"--tolerance: expected more than 0, got {config.tolerance:g}")
    if config.masks is not None and config.compression is not None:
        raise RequestError("expected --masks or --compression, got both")
    config.setup.check()
    check_pruners(config.pruner)
    check_seed(config.seed)
    outputs = cli.Outputs(conservation=config.out, layers=config.layers, plot=config.plot)

    import pandas as pd
    import torch

    from collapse import conservation, tables
    from collapse import masks as masking
    from collapse.models import cast
    from collapse.problem import check_loss, check_mode, prepare, settings_row
    from collapse.scores import load_pruner, mode_of

    pruner = load_pruner(config.pruner)
    if mode_of(pruner, None) is not None:  # the network's own flow is in any mode
        check_mode(config.mode, pruner)
    if pruner == "synflow":  # any other's flow is the loss's
        check_loss(config.loss, pruner)
    labelled = pruner != "synflow"
    prepared = prepare(config.setup, config.seed, labelled=labelled, loss=config.loss)
    model, (inputs, targets) = prepared.model, prepared.batches[0]
    if config.dtype == "float64":
        model, inputs = model.double(), cast(inputs, torch.float64)
    masks = _masks(config, prepared)
    with cli.progress(1, config.quiet) as update:
        update(f"{config.pruner}: one forward and one backward", 0)
        found = conservation.audit(
            model,
            (inputs, targets),
            pruner=pruner,
            mode=config.mode,
            masks=masks,
            loss=prepared.loss,
            output=config.setup.output,
            seed=config.seed,
        )
    options = Pruning(pruner=config.pruner, seed=config.seed)
    settings = settings_row(config.setup, prepared.input_shape, options, iterations=1)
    settings |= {"schedule": None, "mode": mode_of(pruner, config.mode) or config.mode or "eval"}
    rows = tables.layer_rows(
        masking.sizes(masks), masking.kept_by_layer(masks), None, masking.sums(found.scores)
    )
    layers = pd.DataFrame([{**settings, **row} for row in rows])
    table = found.table().assign(**settings)[list(tables.COLUMNS["conservation"])]
    outputs.write("conservation", table, prepared.device)
    outputs.write("layers", layers, prepared.device)
    outputs.hand("plot", lambda path: plots.save(plots.score_against_inverse_size(layers), path))
    return _print(config, found, prepared.notes)


def _masks(config: Config, prepared: Problem) -> Masks:
    from collapse import masks as masking
    from collapse.models import cast
    from collapse.pruning import prune

    if config.masks is not None:
        return masking.load_masks(config.masks, prepared.model, prepared.dense())
    if config.compression is None:
        return prepared.start()
    dtype = next(prepared.model.parameters()).dtype
    problem = replace(prepared, batches=[(cast(x, dtype), y) for x, y in prepared.batches])
    options = Pruning(pruner=config.pruner, mode=config.mode, seed=config.seed)
    return prune(problem, options=options, compression=config.compression).masks


def _print(config: Config, found: Audit, notes: Sequence[str]) -> int:
    """Print the worst residual of each identity; 1 if one is beyond the tolerance, else 0."""
    from collapse.conservation import likely_cause, worst

    rows = cli.rows_of(worst(found.ledger))
    for row in rows:
        row["verdict"] = "" if row["residual"] <= config.tolerance else "BEYOND TOLERANCE"
    beyond = [row for row in rows if row["verdict"]]
    cli.print_table(
        f"{config.setup.model}, {config.pruner}: R = {found.R:.6g}, flows in units of "
        f"{found.unit:.3g}, tolerance {config.tolerance:g}",
        rows,
        {
            "identity": "{identity}",
            "places": "{places:,}",
            "worst residual": "{residual:.2e}",
            "where": "{place}",
            "lhs": "{lhs:.6g}",
            "rhs": "{rhs:.6g}",
            "": "{verdict}",
        },
        [
            f"covered: {found.coverage}",
            *(
                f"{row['identity']} fails at {row['place']}: {row['lhs']:.6g} against "
                f"{row['rhs']:.6g}; likely cause: {likely_cause(row['identity'])}"
                for row in beyond
            ),
            *_notes(config, found),
            *notes,
        ],
        spare=("lhs", "rhs"),  # of what is beyond the tolerance the note says them
    )
    return 1 if beyond else 0


def _notes(config: Config, found: Audit) -> Iterator[str]:
    """What the table does not say: operations outside the theory, and what was not checked."""
    from collapse import masks as masking
    from collapse.conservation import inverse_size_fit

    if len(found.outside):
        rows = found.outside.to_dict("records")
        largest = max(rows, key=lambda row: abs(row["created"]))
        yield (
            f"outside the theory: {len(found.outside)} operations "
            f"({', '.join(sorted(set(found.outside['operation'])))}); the largest makes "
            f"{largest['created']:.6g} of flow ({largest['operation']} in {largest['place']})"
        )
    if found.absolute is not None and len(found.absolute):
        row = max(found.absolute.to_dict("records"), key=lambda row: row["residual"])
        yield (
            f"SNIP's |S| is not conserved, as expected: worst at {row['place']}, "
            f"{row['lhs']:.4g} against {row['rhs']:.4g} (in units of the median layer sum)"
        )
    if not found.scores_checked:
        yield (
            f"{config.pruner}: no unit here has both sides known and no layer is a cut, so its "
            "scores were held to nothing; only the network's flow was checked"
        )
    sizes = masking.sizes(found.scores)
    scores = {name: total for name, (total, _) in masking.sums(found.scores).items()}
    for what, sums in (("score", scores), ("signed saliency", found.saliency)):
        try:
            slope, r = inverse_size_fit(sizes, sums)
        except (RequestError, KeyError):
            continue  # one layer, or a layer without a score: there is no line to draw
        yield f"log mean {what} against log inverse layer size: slope {slope:.6f}, r {r:.6f}"


run = partial(cli.run, Config, main, prog="python -m collapse.conservation")
