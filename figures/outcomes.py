"""What the figures of an ``outcomes`` table share."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from collapse.plots import style
from figures.intervals import beside, in_turn, zero_line

NUMBERS = ("seed", "compression", "layer_index", "parameters", "kept")
POINTS = ("weights", "control")


def pruned_to(answers: pd.DataFrame) -> pd.DataFrame:
    """With pruner and compression as one category."""
    names = answers["pruner"].map(style.name)
    return answers.assign(at=names + "\n×" + answers["compression"].map("{:,g}".format))


def one_difference(answers: pd.DataFrame, ax: Axes) -> None:
    """Differences of one kind, which needs no legend, by pruner and compression."""
    what = "_difference"
    beside(pruned_to(answers).assign(what=what), ax, x="at", by="what", looks=in_turn([what]))
    zero_line(ax)
