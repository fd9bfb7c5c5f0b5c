"""How far our results agree with the published ones, figure by figure, point by point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import published
from collapse import tables

tables.declare("agreement", "figure", "ours", "published", "deviation", "within")
# Layers of fewer weights move by chance: one weight is a large step of their density.
FEWEST_KEPT = 500
LOG10_DENSITY = 0.1
LOG10_SCORE = 0.1
CUT_RATIO = 0.05
# From how many iterations on the ratio is a property of the schedule, not of one ranking.
FEWEST_ITERATIONS = 10


@dataclass(frozen=True)
class Comparison:
    """One figure's points, ours beside the published ones.

    Attributes:
        points: keys, ``ours``, ``published``, ``low``, ``high`` (what counts as agreement),
            ``deviation``, ``within``; a row a published point, without ours where it was not run.
        criterion: what ``within`` means, in words.
        deviation: what is given as the deviation, in words.
        bounded: whether a point outside is a failed check: where chance and data play no part.
    """

    points: pd.DataFrame
    criterion: str
    deviation: str
    bounded: pd.Series

    @property
    def run(self) -> pd.DataFrame:
        """The points that were run."""
        return self.points[self.points["ours"].notna()]

    @property
    def missing(self) -> pd.DataFrame:
        """Those that were not."""
        return self.points[self.points["ours"].isna()]

    @property
    def failed(self) -> int:
        """Bounded points outside."""
        ran = self.points["ours"].notna() & self.bounded
        return int((ran & ~self.points["within"]).sum())


def compare(name: str, ours: pd.DataFrame) -> Comparison:
    """Compare a table with the published one of its figure.

    Args:
        name: an experiment's.
        ours: its table; unfinished rows are not compared, nor those of other networks.

    Raises:
        RequestError: nothing is published for it.
    """
    theirs = published.load(name)
    ours = ours[ours["finished"].astype(bool)]
    for column, values in published.NETWORKS[name].items():
        ours = ours[ours[column].isin(values)]
    ours = _one_schedule(ours)
    return COMPARISONS[name](ours, theirs)


def _one_schedule(ours: pd.DataFrame) -> pd.DataFrame:
    """The rows of the longest schedule on the most images: others are other experiments."""
    if ours.empty:
        return ours
    for column in ("train_images", "epochs"):
        if column in ours:
            ours = ours[ours[column] == ours[column].max()]
    if "run" in ours and "epoch" in ours:
        last = ours.groupby("run")["epoch"].transform("max")
        ours = ours[last == last.max()]
    return ours


def _densities(ours: pd.DataFrame, theirs: pd.DataFrame) -> Comparison:
    """Where a layer keeps 500 weights or more in the published run."""
    theirs = theirs[theirs["density"] * theirs["parameters"] >= FEWEST_KEPT]
    points = _beside(ours, theirs, ["pruner", "compression", "layer_index"], "density", np.log10)
    points = _within(points, LOG10_DENSITY)
    bounded = points["pruner"].isin(["random", "magnitude", "synflow"])
    return Comparison(
        points,
        f"log10 density within {LOG10_DENSITY} where a layer keeps {FEWEST_KEPT} or more",
        "log10 density",
        bounded,
    )


def _layer_scores(ours: pd.DataFrame, theirs: pd.DataFrame) -> Comparison:
    """Scores are only ranked, so each pruner's are compared up to one factor."""
    sums = ours["score_abs_sum"].where(ours["pruner"] == "random", ours["score_sum"].abs())
    # The published means count biases, whose scores are zero at initialisation but for random.
    size = ours["parameters"].where(ours["pruner"] == "random", ours.get("elements"))
    ours = ours.assign(score_mean=sums / size)
    points = _beside(ours, theirs, ["pruner", "layer_index"], "score_mean", np.log10)
    middle = points.groupby("pruner")["deviation"].transform("median")
    points = _within(points.assign(deviation=points["deviation"] - middle), LOG10_SCORE)
    return Comparison(
        points,
        f"log10 mean score within {LOG10_SCORE}, up to one factor a pruner",
        "log10 mean score",
        points["pruner"].isin(["random", "magnitude", "synflow"]),
    )


def _dynamics(ours: pd.DataFrame, theirs: pd.DataFrame) -> Comparison:
    keys = ["epoch", "layer_index"]
    mean = ours.groupby(keys)["score_mean"].mean().reset_index()
    points = _within(_beside(mean, theirs, keys, "score_mean", np.log10), LOG10_SCORE)
    return Comparison(
        points, f"log10 mean score within {LOG10_SCORE}", "log10 mean score", _none(points)
    )


def _cuts(ours: pd.DataFrame, theirs: pd.DataFrame) -> Comparison:
    theirs = theirs[theirs["compression"] > 1]  # nothing is pruned at 1
    keys = ["schedule", "compression", "iterations"]
    points = _beside(ours, theirs, keys, "max_prune_to_cut_ratio", np.log)
    points = _within(points.assign(deviation=np.expm1(points["deviation"])), CUT_RATIO)
    return Comparison(
        points,
        f"ratio within {CUT_RATIO:.0%}",
        "relative",
        points["iterations"] >= FEWEST_ITERATIONS,
    )


def _accuracy(ours: pd.DataFrame, theirs: pd.DataFrame) -> Comparison:
    """Our mean over runs against the range of the published runs."""
    keys = ["dataset", "model", "pruner", "compression"]
    runs = theirs.groupby([*keys], as_index=False)["best_top1"].agg(["mean", "min", "max"])
    runs = runs.rename(columns={"mean": "best_top1", "min": "low", "max": "high"})
    mean = ours.groupby(keys)["best_top1"].mean().reset_index()
    points = _beside(mean, runs, keys, "best_top1", None)
    # A mean of equal numbers may be a rounding away from them.
    within = points["ours"].between(points["low"] - 1e-9, points["high"] + 1e-9)
    points = points.assign(within=within)
    return Comparison(
        points, "top-1 within the published runs' range", "percentage points", _none(points)
    )


def _levels(ours: pd.DataFrame, theirs: pd.DataFrame) -> Comparison:
    keys = ["levels", "compression"]
    mean = ours.groupby(keys)["best_top1"].mean().reset_index()
    points = _within(_beside(mean, theirs, keys, "best_top1", None), 1.0)
    return Comparison(
        points,
        "top-1 within 1 point (one published run: it has no range)",
        "percentage points",
        _none(points),
    )


COMPARISONS: Mapping[str, Callable[[pd.DataFrame, pd.DataFrame], Comparison]] = {
    "accuracy": _accuracy,
    "densities": _densities,
    "layer-scores": _layer_scores,
    "levels": _levels,
    "dynamics": _dynamics,
    "grid": _accuracy,
    "cuts": _cuts,
}


def _beside(
    ours: pd.DataFrame,
    theirs: pd.DataFrame,
    keys: list[str],
    value: str,
    scale: Callable[[pd.Series], pd.Series] | None,
) -> pd.DataFrame:
    """Every published point with ours, if there is one, and the difference on a scale."""
    ours, theirs = (_aligned(part) for part in (ours, theirs))
    on = [f"{key}_" if key == "compression" else key for key in keys]
    mine = ours[[*on, value]].drop_duplicates(on).rename(columns={value: "ours"})
    points = theirs.rename(columns={value: "published"}).merge(mine, on=on, how="left")
    points["ours"] = points["ours"].astype(float)
    with np.errstate(divide="ignore"):  # a collapsed layer of ours is infinitely far
        of = scale or (lambda series: series)
        points["deviation"] = of(points["ours"]) - of(points["published"])
    columns = [*keys, "ours", "published", "deviation"]
    return points[[*columns, *(name for name in ("low", "high") if name in points)]]


def _aligned(table: pd.DataFrame) -> pd.DataFrame:
    """Compressions as whole thousandths of a decade: 10**0.1 is not written with all digits."""
    if "compression" not in table:
        return table
    decades = np.log10(table["compression"].astype(float))
    return table.assign(compression_=(1000 * decades).round().astype(int))


def _within(points: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    return points.assign(within=points["deviation"].abs() <= tolerance)


def _none(points: pd.DataFrame) -> pd.Series:
    return pd.Series(False, index=points.index)
