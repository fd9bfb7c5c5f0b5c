"""How do masks at initialisation compare with IMP's tickets? (question 4)"""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

from analysis.questions import answers, finished
from analysis.questions.statistics import Estimate
from collapse import tables

if TYPE_CHECKING:
    import pandas as pd

# One ticket beside another: the same seed's of another pruner, or another seed's.
TABLE = tables.declare(
    "tickets",
    *tables.SETTINGS,
    *("compression", "levels", "best_top1", "run", "other", "other_seed", "other_best_top1"),
    *("density_distance", "overlap", "chance_overlap", "chance_deviation", "most_overlap"),
    *("beyond_chance", "finished"),
)
IMP = "imp"


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """The finished rows with each ticket's name, ``imp`` or its pruner, as its pruner."""
    done = table[finished(table)].assign(mode=None)
    return done.assign(pruner=done["pruner"].where(done["levels"] == 0, IMP), levels=0)


def across_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that compare two seeds of one kind of ticket."""
    done = labelled(table)
    return done[done["other"] == done["pruner"]]


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each ticket against IMP's, overlap and layer distance with it, stability."""
    import pandas as pd

    done, across = labelled(table), across_seeds(table)
    # Every ticket stands in the table on one side or the other.
    other = done.assign(
        pruner=done["other"], seed=done["other_seed"], best_top1=done["other_best_top1"]
    )
    each = pd.concat([done, other]).dropna(subset=["best_top1"])
    each = each.drop_duplicates(["pruner", "seed", "compression"])
    beside = done[(done["other"] == IMP) & (done["pruner"] != IMP)]
    overlap, distance = "overlap beyond chance", "share of kept weights in other layers"
    return answers.collect(
        answers.accuracy(each),
        answers.accuracy_differences(each, "pruner", IMP),
        answers.means(beside, "beyond_chance", f"{overlap}, with IMP's ticket"),
        answers.means(beside, "density_distance", f"{distance}, than in IMP's ticket"),
        _pairs(across, "beyond_chance", f"{overlap}, between two seeds"),
        _pairs(across, "density_distance", f"{distance}, between two seeds"),
    )


def _pairs(across: pd.DataFrame, column: str, quantity: str) -> answers.Rows:
    """The mean over pairs of seeds; without an interval, because pairs share seeds."""
    found: answers.Rows = []
    for rows in answers.groups(across):
        values = rows[column].astype(float).dropna()
        if len(values):
            seeds = len({*rows["seed"], *rows["other_seed"]})
            estimate = Estimate(float(values.mean()), nan, nan, nan, seeds)
            found.append(answers.row(rows, quantity, estimate))
    return found
