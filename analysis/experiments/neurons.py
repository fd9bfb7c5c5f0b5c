"""Neuron-wise conservation: score into against score out of each hidden unit (figure 3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from analysis.experiments.shared import VGG19, Scored, measured, needs_labels
from analysis.resumable import Measured, runner
from collapse import conservation, tables
from collapse import masks as masking
from collapse.errors import RequestError
from collapse.options import Pruning, Setup

if TYPE_CHECKING:
    import pandas as pd

TABLE = tables.declare(
    "neurons",
    *tables.SETTINGS,
    *("quantity", "place", "unit", "score_in", "score_out", "finished"),
)
SIGNED = "snip signed"


@dataclass(frozen=True)
class Config(Scored):
    """What each hidden unit receives and passes on, in each pruner's scores.

    Units are compared that lie between weights with nothing but activations, BatchNorm, pooling and
    flattening in between. SNIP comes twice: its scores, and the signed saliency before their
    absolute value.
    """


PRESETS = {
    "smoke": Config(Setup("conv", samples_per_class=1)),
    "laptop": Config(Setup("vgg11")),
    "paper": Config(VGG19),
}


def points(config: Config) -> list[Measured]:
    """One a quantity."""
    needs_labels(config.pruners)
    quantities = [*dict.fromkeys(config.pruners)]
    if "snip" in quantities:
        quantities.insert(quantities.index("snip"), SIGNED)
    found = []
    for quantity in quantities:
        options = config.once("snip" if quantity == SIGNED else quantity)
        measure, row = partial(_measure, config, options, quantity), {"quantity": quantity}
        found.append(measured(TABLE, config.setup, options, quantity, measure, row, **row))
    return found


run = runner(points, TABLE)


def _measure(config: Config, options: Pruning, quantity: str) -> pd.DataFrame:
    from collapse.models import taken
    from collapse.scores import ScoreInputs, mode_of, score

    prepared = config.prepared()
    model, batches, output = prepared.model, prepared.batches, config.setup.output
    if quantity == SIGNED:
        values = conservation.signed_saliency(model, batches, config.mode, output)
    else:
        mode = mode_of(options.pruner, config.mode) or "eval"
        inputs = ScoreInputs(batches, mode, output=output, seed=config.seed)
        values = dict(score(model, options.pruner, masking.dense(model), inputs))
    one = taken(batches[0], slice(0, 1))  # the connections are the same for every sample
    sums = conservation.neuron_sums(model, one, {quantity: values}, output=output)
    if sums.empty:
        raise RequestError(
            f"{config.setup.model}: no hidden unit lies between two weights with nothing but "
            "activations, BatchNorm, pooling and flattening in between, so there is none to compare"
        )
    return sums
