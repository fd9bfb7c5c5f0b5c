"""Where collapse occurs: the density that pruning leaves in each layer (figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import tyro

from analysis.experiments.shared import VGG19, Scored, given, measured, powers
from analysis.resumable import Measured, runner
from collapse import masks as masking
from collapse import pruning, tables
from collapse.options import Count, Pruning, Scope, Setup

if TYPE_CHECKING:
    import pandas as pd

    from collapse.models import Masks

TABLE = "layers"


@dataclass(frozen=True)
class Config(Scored):
    """Density of each layer at compressions up to the maximum, one curve a layer.

    Attributes:
        compressions: to look at; without them powers of two.
        log2_step: between two of these powers.
        iterations: of every pruner, in place of its own number.
        scope: rank all parameters together (global), or each layer by itself.
        allocation: how many weights each layer keeps, within which the scores rank: uniform, erk, …
            (docs/allocations.md).
        living: also count the kept weights that are not dead (effective_kept), a forward and a
            backward each.
    """

    compressions: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="X ...")] = None
    log2_step: float = 2.0
    iterations: Count = None
    scope: Scope = "global"
    allocation: str | None = None
    living: bool = False


PRESETS = {
    "smoke": Config(Setup("conv"), pruners=("magnitude", "synflow"), log2_step=6),
    "laptop": Config(Setup("vgg11_bn"), log2_step=2),
    "paper": Config(VGG19),
}


def points(config: Config) -> list[Measured]:
    """One of each one-shot pruner, one of each compression of the others."""
    dense = config.prepared().dense()
    maximum = masking.total(dense) / len(dense)
    if config.compressions is None:
        compressions = powers(2, config.log2_step, maximum)
    else:
        compressions = given(config.compressions)
    found = []
    for pruner in dict.fromkeys(config.pruners):
        options = Pruning(
            pruner,
            config.iterations,
            scope=config.scope,
            mode=config.mode,
            seed=config.seed,
            allocation=config.allocation,
        )
        once = pruning.iterations_of(options) == 1
        for part in [compressions] if once else [(c,) for c in compressions]:
            about = f"{pruner} to {part[-1]:,.6g}"
            measure = partial(_measure, config, options, part)
            key = {"compressions": part, **({"living": True} if config.living else {})}
            row = {"compression": part[0]}
            found.append(measured(TABLE, config.setup, options, about, measure, row, **key))
    return found


run = runner(points, TABLE)


def _measure(config: Config, options: Pruning, compressions: Sequence[float]) -> pd.DataFrame:
    import pandas as pd

    from collapse import connectivity
    from collapse.scores import Scores

    prepared, output = config.prepared(), config.setup.output
    model, dense = prepared.model, prepared.dense()
    total, scores = masking.total(dense), Scores({})
    rows = []
    for compression in sorted(compressions, reverse=True):
        keep = masking.keep_count(total, compression)
        masks: Masks = dense
        once = pruning.iterations_of(options) == 1 and not options.allocation
        if keep < total and scores and once:
            masks = masking.select(scores, keep, scope=options.scope)  # one ranking for all
        elif keep < total:
            result = pruning.prune(prepared, options=options, compression=compression)
            masks, scores = result.masks, result.scores
        kept, alive = masking.kept_by_layer(masks), None
        sums = masking.sums(scores) if keep < total else {}
        if config.living:
            living = connectivity.living(model, masks, prepared.example, output=output)
            alive = masking.kept_by_layer(living)
        for layer in tables.layer_rows(masking.sizes(dense), kept, alive, sums):
            rows.append({**layer, "compression": compression})
    return pd.DataFrame(rows)
