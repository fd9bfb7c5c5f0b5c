"""Whether R at initialisation ranks networks by the accuracy that they reach. (experiment 1)"""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

from analysis.questions import answers, finished
from analysis.questions.statistics import LEVEL, Estimate
from collapse import tables

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

TABLE = tables.declare(
    "proxy",
    *tables.SETTINGS,
    *("parameters", "layers", "layer_norms", "log10_R", "log10_score_sum"),
    *("published_top1", "finished"),
)
# What is ranked by, and what to call it.
MEASURES = {
    "log10_R": "log10 R",
    "log10_score_sum": "log10 of the sum of SynFlow's scores",
    "log10_parameters": "log10 parameters",
}
ALL, CHAINS = "all", "without LayerNorm"


def networks(table: pd.DataFrame) -> pd.DataFrame:
    """One row a network: means over seeds."""
    import numpy as np

    done = table[finished(table)].copy()
    numbers = ["parameters", "layer_norms", "log10_R", "log10_score_sum", "published_top1"]
    done[numbers] = done[numbers].astype(float)
    found = done.groupby("model", sort=False)[numbers].mean().reset_index()
    return found.assign(log10_parameters=np.log10(found["parameters"]))


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation with the published accuracies, over networks.

    Of all, and of those without LayerNorm: it brings every activation back to one scale, so that R
    says nothing of what lies before it. The interval is a bootstrap over networks (BCa, 9,999
    draws), not over seeds.
    """
    import numpy as np

    every = networks(table)
    groups = {ALL: every, CHAINS: every[every["layer_norms"] == 0]}
    rows = []
    for group, part in groups.items():
        for column, words in MEASURES.items():
            each = part[np.isfinite(part[column])]
            left = len(part) - len(each)
            rows.append({
                "quantity": "rank correlation with top-1 accuracy",
                "of": words,
                "group": group,
                "where": f"{group}: {len(each)} networks"
                + f", {left} more without a positive R" * bool(left),
                **rank_correlation(each[column], each["published_top1"])._asdict(),
            })  # fmt: skip
    return answers.collect(rows)


def rank_correlation(x: pd.Series, y: pd.Series) -> Estimate:
    """Spearman's, with its bootstrap interval; ``seeds`` counts the pairs."""
    from scipy import stats

    pairs = (x.to_numpy(float), y.to_numpy(float))
    if len(x) < 4:  # too few to draw from
        middle = float(_spearman(*pairs)) if len(x) > 1 else nan
        return Estimate(middle, nan, nan, LEVEL, len(x))
    drawn = stats.bootstrap(pairs, _spearman, paired=True, confidence_level=LEVEL, rng=0)
    interval = drawn.confidence_interval
    return Estimate(
        float(_spearman(*pairs)), float(interval.low), float(interval.high), LEVEL, len(x)
    )


def _spearman(
    x: NDArray[np.float64], y: NDArray[np.float64], axis: int = -1
) -> NDArray[np.float64]:
    """Of many samples at once, which scipy's own is not made for."""
    import numpy as np
    from scipy import stats

    a, b = (stats.rankdata(each, axis=axis) for each in (x, y))
    a, b = (each - each.mean(axis, keepdims=True) for each in (a, b))
    size = np.sqrt((a * a).sum(axis) * (b * b).sum(axis))
    # A sample that holds one network only has no order.
    found: NDArray[np.float64] = (a * b).sum(axis) / np.where(size > 0, size, np.inf)
    return found
