"""Why layers collapse: mean layer score against inverse layer size (figure 4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from analysis.experiments.shared import VGG19, Scored, measured, needs_labels
from analysis.resumable import Measured, runner
from collapse import masks as masking
from collapse import tables
from collapse.options import Pruning, Setup

if TYPE_CHECKING:
    import pandas as pd

TABLE = "layers"


@dataclass(frozen=True)
class Config(Scored):
    """Each layer's mean score in the dense network; conserved scores lie on a line of slope 1."""


PRESETS = {
    "smoke": Config(Setup("conv", samples_per_class=1)),
    "laptop": Config(Setup("vgg11")),
    "paper": Config(VGG19),
}


def points(config: Config) -> list[Measured]:
    """One a pruner."""
    needs_labels(config.pruners)
    found = []
    for pruner in dict.fromkeys(config.pruners):
        options, row = config.once(pruner), {"compression": 1.0}
        measure = partial(_measure, config, options)
        found.append(measured(TABLE, config.setup, options, pruner, measure, row, scored="dense"))
    return found


run = runner(points, TABLE)


def _measure(config: Config, options: Pruning) -> pd.DataFrame:
    import pandas as pd

    from collapse.models import prunable
    from collapse.scores import ScoreInputs, mode_of, score

    prepared = config.prepared()
    model, dense = prepared.model, prepared.dense()
    mode = mode_of(options.pruner, config.mode) or "eval"
    inputs = ScoreInputs(prepared.batches, mode, output=config.setup.output, seed=config.seed)
    scores = score(model, options.pruner, dense, inputs)
    sizes = masking.sizes(dense)
    biases = {name: p.numel() for name, p in prunable(model, biases=True).items()}
    rows = tables.layer_rows(sizes, sizes, None, masking.sums(scores))
    elements = [
        sizes[layer] + biases.get(layer.removesuffix("weight") + "bias", 0) for layer in sizes
    ]
    return pd.DataFrame(rows).assign(elements=elements)
