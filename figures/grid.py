"""Accuracy against compression for several networks and datasets (figure 6)."""

from __future__ import annotations

import pandas as pd

from analysis.questions import finished
from analysis.questions.accuracy import TABLE, answer
from collapse.plots import style
from figures import accuracy

__all__ = ["PANELS", "SAME_Y", "TABLE", "message", "plot"]

PANELS = accuracy.PANELS
SAME_Y = True
plot = accuracy.plot


def message(table: pd.DataFrame) -> str:
    """In how many panels which pruner is the last with half of the panel's highest accuracy.

    Panels of which only networks that are cut are there say nothing of it.
    """
    first: dict[str, int] = {}
    done = table[finished(table)]
    trained = done[done["evidence"] != "cut"] if "evidence" in done else done
    if trained.empty:
        return "All networks that are there are cut: their accuracy is chance"
    those = pd.MultiIndex.from_frame(trained[list(PANELS)].drop_duplicates())
    for panel, rows in answer(table).groupby(list(PANELS)):
        if panel not in those:
            continue
        good = rows[rows["estimate"] > rows["estimate"].max() / 2]
        last = good[good["compression"] == good["compression"].max()]
        best = str(last.loc[last["estimate"].idxmax(), "pruner"])
        first[best] = first.get(best, 0) + 1
    wins = [f"{style.name(n)} in {c}" for n, c in sorted(first.items(), key=lambda w: -w[1])]
    return f"Last to keep half of the accuracy: {', '.join(wins)} of {sum(first.values())} panels"
