"""``python -m collapse.pruning``: prune one network to one compression and save its masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from collapse import cli
from collapse.errors import RequestError
from collapse.options import File, Pruning, Scoring, Setup, shown

if TYPE_CHECKING:
    import pandas as pd

    from collapse.pruning import Step


@dataclass(frozen=True)
class Config(Scoring):
    """Prune a network to one compression: masks, per-layer densities, trace.

    Attributes:
        compression: total / kept to reach, from 1 to parameters / layers.
        effective_density: instead of it, the share of all parameters to be kept and alive (on an
            input→output path); the nominal compression is searched.
        fail_on: what makes the exit code 1: an empty layer (layer), or only a network of which no
            input→output path is left (cut).
        masks: start from these masks (.safetensors) instead of the whole network.
        out: write the masks (.safetensors).
        layers: write the per-layer table (.parquet, .csv, .json).
        trace: write what each iteration removed (.parquet, .csv, .json).
    """

    setup: Setup
    pruning: Pruning
    compression: Annotated[float | None, shown("X", "none, if --effective-density is given")] = None
    effective_density: Annotated[float | None, shown("X", "none")] = None
    fail_on: Literal["layer", "cut"] = "layer"
    masks: File = None
    out: File = None
    layers: File = None
    trace: File = None


def main(config: Config) -> int:
    """Run the request; the exit code is 1 where the network collapsed, so that CI notices."""
    config.setup.check()
    config.pruning.check()
    if (config.compression is None) == (config.effective_density is None):
        raise RequestError("expected either --compression or --effective-density")
    outputs = cli.Outputs(masks=config.out, layers=config.layers, trace=config.trace)

    from collapse import connectivity, masks, tables
    from collapse.problem import check_loss, check_mode, prepare, settings_row
    from collapse.pruning import iterations_of, prune, prune_to_effective
    from collapse.scores import load_pruner, needs_labels

    options = config.pruning
    for pruner in options.pruners:
        load_pruner(pruner)
    check_mode(options.mode, *options.pruners)
    check_loss(config.loss, *options.pruners)
    labelled = any(map(needs_labels, options.pruners))
    prepared = prepare(config.setup, options.seed, labelled=labelled, loss=config.loss)
    start = prepared.start()
    if config.masks is not None:
        start = masks.load_masks(config.masks, prepared.model, start)
    with cli.progress(iterations_of(options), config.quiet) as update:

        def report(step: Step) -> bool:
            update(f"{options.pruner}: {step.kept:,} kept", step.iteration)
            return False

        if config.effective_density is None:
            result = prune(
                prepared,
                options=options,
                compression=config.compression,
                masks=start,
                on_step=report,
            )
        else:
            result = prune_to_effective(
                prepared,
                options=options,
                density=config.effective_density,
                masks=start,
                watch=lambda keep: update(f"{options.pruner}: keeping {keep:,}", 0),
            ).pruned
    example = prepared.example
    output = config.setup.output
    alive, connected = connectivity.paths(prepared.model, result.masks, example, output=output)
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

    import pandas as pd

    frame = pd.DataFrame([{**settings, **row} for row in rows])
    trace = result.trace().assign(**settings).reindex(columns=list(tables.COLUMNS["trace"]))
    about = {name: str(value) for name, value in settings.items()}

    def save(path: Path) -> None:
        identity = masks.weights_identity(prepared.model)
        masks.save_masks(result.masks, path, **about, initial_weights=identity)

    outputs.hand("masks", save)
    outputs.write("layers", frame, prepared.device)
    outputs.write("trace", trace, prepared.device)
    empty = masks.collapsed(result.masks)
    is_cut = partial(connectivity.is_cut_layer, prepared.model, example=example, output=output)
    words = [f"{name} ({'cut layer' if is_cut(name) else 'branch'})" for name in empty]
    notes = [f"collapsed: {', '.join(words)}"] if empty else []
    if not connected:
        notes.append("cut: no path of kept weights leads from the input to the output")
    elif empty:
        notes.append("the network is still connected")
    zero = prepared.all_zero(*empty)
    _print(frame, [*notes, *([zero] if zero else []), *prepared.notes])
    return 1 if not connected or (empty and config.fail_on == "layer") else 0


def _print(frame: pd.DataFrame, notes: list[str]) -> None:
    total, kept = int(frame["parameters"].sum()), int(frame["kept"].sum())
    alive = int(frame["effective_kept"].sum())
    cli.print_table(
        f"{total:,} parameters, {kept:,} kept: compression "
        f"{cli.number(total / kept)}, effective "
        f"{cli.number(total / alive if alive else float('inf'))}",
        cli.rows_of(frame),
        {
            "layer": "{layer}",
            "parameters": "{parameters:,}",
            "kept": "{kept:,}",
            "density": "{density:n}",
            "alive": "{effective_kept:,}",
        },
        notes,
    )


run = partial(cli.run, Config, main, prog="python -m collapse.pruning")
