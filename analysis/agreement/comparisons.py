"""How far our results agree with the published ones, figure by figure, point by point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import published
from analysis.questions import finished
from collapse import tables
from collapse.errors import RequestError

tables.declare("agreement", "figure", "verdict", "ours", "published", "deviation", "within")
# Layers of fewer weights move by chance: one weight is a large step of their density.
FEWEST_KEPT = 500
LOG10_DENSITY = 0.1
# What a published density is, where we have one as well.
KINDS = (
    f"{FEWEST_KEPT} or more kept", f"fewer than {FEWEST_KEPT} kept", "empty in both",
    "empty on one side only",
)  # fmt: skip
LOG10_SCORE = 0.1
CUT_RATIO = 0.05
# From how many iterations on the ratio is a property of the schedule, not of one ranking.
FEWEST_ITERATIONS = 10


@dataclass(frozen=True)
class Comparison:
    """One figure's points, ours beside the published ones.

    Attributes:
        points: keys, ``ours``, ``published``, ``low``, ``high`` (what counts as agreement),
            ``deviation``, ``within``, ``kind``; a row a published point, without ours where it
            was not run.
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

    @property
    def verdict(self) -> str:
        """``reproduced`` (every published point was run and lies within), ``partly``, ``not run``,
        or ``NOT reproduced`` (a bounded point lies outside)."""
        if self.run.empty:
            return "not run"
        if self.failed:
            return "NOT reproduced"
        whole = self.missing.empty and bool(self.points["within"].all())
        return "reproduced" if whole else "partly"


def compare(name: str, ours: pd.DataFrame) -> Comparison:
    """Compare a table with the published one of its figure.

    Args:
        name: an experiment's.
        ours: its table; unfinished rows are not compared, nor those of other networks.

    Raises:
        RequestError: nothing is published for it, or a row does not say what it is of.
    """
    theirs = published.load(name)
    ours = ours[finished(ours)]
    for column, values in published.NETWORKS[name].items():
        ours = ours[ours[column].isin(values)]
    ours = _one_schedule(ours)
    return COMPARISONS[name](ours, theirs)


def _one_schedule(ours: pd.DataFrame) -> pd.DataFrame:
    """Of each dataset the rows of the longest schedule on the most images.

    Others are other experiments; datasets differ in both.
    """
    if ours.empty:
        return ours
    for column in ("train_images", "epochs"):
        if column in ours:
            ours = ours[ours[column] == ours.groupby("dataset")[column].transform("max")]
    if "run" in ours and "epoch" in ours:
        last = ours.groupby("run")["epoch"].transform("max")
        ours = ours[last == last.max()]
    return ours


def _densities(ours: pd.DataFrame, theirs: pd.DataFrame) -> Comparison:
    """Every published density; a failed check only where a layer keeps 500 weights or more there.

    A layer that is empty on both sides agrees, one that is empty on one side does not.
    """
    keys = ["pruner", "compression", "layer_index"]
    points = _within(_beside(ours, theirs, keys, "density", np.log10), LOG10_DENSITY)
    kept = (theirs["density"] * theirs["parameters"]).to_numpy()
    empty = pd.DataFrame({"ours": points["ours"] == 0, "theirs": points["published"] == 0})
    points = points.assign(
        within=points["within"] | empty.all(axis=1),
        deviation=points["deviation"].mask(empty.all(axis=1), 0.0),
        kind=np.select(
            [points["ours"].isna(), kept >= FEWEST_KEPT, empty.all(axis=1), empty.any(axis=1)],
            ["not run", KINDS[0], KINDS[2], KINDS[3]],
            KINDS[1],
        ),
    )
    return Comparison(
        points,
        f"log10 density within {LOG10_DENSITY}, or empty in both",
        "log10 density",
        points["pruner"].isin(["random", "magnitude", "synflow"]) & (kept >= FEWEST_KEPT),
    )


# Which of our pruners is the study's own: its networks end in a log-softmax.
OF_LOG_SOFTMAX = {
    f"{published.SECOND_STUDY}:synflow_log_softmax": "synflow",
    f"{published.SECOND_STUDY}:grasp_untempered": "grasp",
}


def _resnet34(ours: pd.DataFrame, theirs: pd.DataFrame) -> Comparison:
    """Densities of a second study, as its authors scored: within the range of its three seeds.

    One more seed lies strictly within the range of three others half of the time, so that the
    range is widened by what figure 2 is allowed.
    """
    own = ours["pruner"].map(OF_LOG_SOFTMAX)
    logits = ours["pruner"].isin(OF_LOG_SOFTMAX.values())
    ours = ours[own.notna() | ~logits].assign(pruner=own.fillna(ours["pruner"]))
    if "allocation" in ours:  # who ranks within it does not matter: densities are the allocation's
        ours = ours.assign(pruner=ours["allocation"].fillna(ours["pruner"]))
    return _of_three_seeds(ours, theirs)


def _of_three_seeds(ours: pd.DataFrame, theirs: pd.DataFrame) -> Comparison:
    """Our mean density of each layer against the range of the published seeds."""
    keys = ["pruner", "iterations", "compression", "layer_index"]
    seeds = theirs.groupby(keys, as_index=False, sort=False)["density"].agg(["mean", "min", "max"])
    seeds = seeds.rename(columns={"mean": "density", "min": "low", "max": "high"})
    mean = ours.groupby(keys)["density"].mean().reset_index()
    points = _beside(mean, seeds, keys, "density", np.log10)
    wider = 10**LOG10_DENSITY
    inside = points["ours"].between(points["low"] / wider, points["high"] * wider)
    both = (points["ours"] == 0) & (points["low"] == 0)
    points = points.assign(within=inside, deviation=points["deviation"].mask(both, 0.0))
    sizes = theirs.drop_duplicates("layer_index").set_index("layer_index")["parameters"]
    kept = points["published"] * points["layer_index"].map(sizes)
    return Comparison(
        points,
        f"density within the 3 published seeds' range, ±{LOG10_DENSITY} in log10",
        "log10 density",
        # As in figure 2: fewer weights than that are a matter of chance.
        points["pruner"].isin(["random", "erk", "synflow"]) & (kept >= FEWEST_KEPT),
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
    "resnet34": _resnet34,
}


def _beside(
    ours: pd.DataFrame,
    theirs: pd.DataFrame,
    keys: list[str],
    value: str,
    scale: Callable[[pd.Series], pd.Series] | None,
) -> pd.DataFrame:
    """Every published point with ours, if there is one, and the difference on a scale."""
    for key in keys:
        if ours[key].isna().any():
            raise RequestError(
                f"column '{key}' of our table: expected a value in every row, got an empty cell"
            )
    ours, theirs = (_aligned(part) for part in (ours, theirs))
    on = [f"{key}_" if key == "compression" else key for key in keys]
    mine = ours[[*on, value]].drop_duplicates(on).rename(columns={value: "ours"})
    points = theirs.rename(columns={value: "published"}).merge(mine, on=on, how="left")
    points["ours"] = points["ours"].astype(float)
    # A layer that is empty on one side is infinitely far.
    with np.errstate(divide="ignore", invalid="ignore"):
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
