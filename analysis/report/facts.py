"""What the page's sentences may speak of: plain numbers, read off a report's tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import linregress

from analysis.report.gather import Report
from collapse import cli
from collapse.plots import layer_means, style


@dataclass(frozen=True)
class Lost:
    """The first layer to collapse.

    Attributes:
        cut: whether every path crosses it; it lies in a branch otherwise, None where unknown.
        share: of all parameters.
        larger, smaller: how many layers are.
        lower: how many layers have a lower mean score in the dense network; None if unknown.
    """

    layer: str
    cut: bool | None
    parameters: int
    share: float
    larger: int
    smaller: int
    lower: int | None = None


@dataclass(frozen=True)
class Found:
    """What was found for one pruner with one seed: a row of the critical table."""

    critical: float
    collapse: float | None
    connected: float | None
    lost: Lost | None
    evidence: str
    iterations: int


@dataclass(frozen=True)
class Scores:
    """A pruner's mean scores in the dense network.

    Attributes:
        slope, r: of log mean score against log inverse layer size: both 1 where conserved; None
            where there is no such fit.
        factor: the highest mean over the lowest.
    """

    slope: float | None
    r: float | None
    factor: float | None


@dataclass(frozen=True)
class Outcome:
    """One pruner, over all seeds."""

    pruner: str
    certified: bool
    found: tuple[Found, ...]
    scores: Scores = Scores(None, None, None)

    @property
    def name(self) -> str:
        """As in papers."""
        return style.name(self.pruner) + ", certified" * self.certified

    @property
    def critical(self) -> float:
        """With the least fortunate seed."""
        return min(one.critical for one in self.found)

    @property
    def connected(self) -> float | None:
        """With the least fortunate seed; None if one of them has no path at all."""
        until = [one.connected for one in self.found]
        return None if None in until else min(c for c in until if c is not None)


@dataclass(frozen=True)
class Moment:
    """What a pruner has left at one compression.

    Attributes:
        empty: layers without a weight, with how many of the seeds.
        pathless: with how many seeds no kept weight is on a path.
    """

    name: str
    empty: dict[str, int]
    pathless: int


@dataclass(frozen=True)
class Facts:
    """All of them.

    Attributes:
        cuts: of each layer whether it is a cut layer; empty where that is unknown.
        missing: pruners that could not be computed, with why.
        broken: what the doctor says is wrong with the network before anybody prunes it.
        unfollowed: why no forward could be followed; empty if one could.
        moments: by compression, one a pruner.
    """

    parameters: int
    layers: int
    maximal: float
    seeds: int
    outcomes: tuple[Outcome, ...]
    cuts: dict[str, bool | None]
    missing: tuple[tuple[str, str], ...] = ()
    broken: tuple[str, ...] = ()
    unfollowed: str = ""
    moments: tuple[tuple[float, tuple[Moment, ...]], ...] = ()


def short(layer: str) -> str:
    """A layer's name without the word that all of them end in."""
    return layer.removesuffix(".weight")


def facts_of(report: Report) -> Facts:
    """The facts of a report, whatever parts of it could be computed."""
    doctor, critical = report.parts["doctor"].table, report.parts["critical"].table
    cuts = {} if doctor is None else {row["layer"]: row["is_cut"] for row in cli.rows_of(doctor)}
    missing = [(name, why) for name, why in report.notes if _is_pruner(name, report)]
    if critical is None:
        missing = [(p, report.parts["critical"].problem) for p in report.pruners]
    return Facts(
        report.parameters,
        len(report.layers),
        report.maximal,
        len(report.seeds),
        () if critical is None else tuple(_outcomes(report, critical)),
        {short(layer): cut for layer, cut in cuts.items()},
        tuple((_named(name), why) for name, why in missing),
        tuple(one.text for one in report.said if one.severity in ("broken", "collapsed")),
        report.parts["wiring"].problem,
        tuple(_moments(report.parts["densities"].table)),
    )


def _named(pruner: str) -> str:
    name, comma, schedule = pruner.partition(",")
    return style.name(name) + comma + schedule


def _is_pruner(name: str, report: Report) -> bool:
    return name.partition(",")[0] in report.pruners


def _outcomes(report: Report, critical: pd.DataFrame) -> list[Outcome]:
    scores = report.parts["scores"].table
    found = []
    for (pruner, schedule), rows in critical.groupby(["pruner", "schedule"], sort=False):
        own = None if scores is None else scores[scores["pruner"] == pruner]
        means = None
        if own is not None and len(own):
            means = dict(zip(own["layer"], layer_means(own), strict=True))
        found.append(
            Outcome(
                str(pruner),
                schedule == "certified",
                tuple(_found(row, report.layers, means) for row in cli.rows_of(rows)),
                _scores(own),
            )
        )
    return found


def _found(row: dict[str, Any], sizes: dict[str, int], means: dict[str, float] | None) -> Found:
    layer, lost = row["first_collapsed_layer"], None
    if isinstance(layer, str):
        size, others = sizes[layer], sizes.values()
        lost = Lost(
            short(layer),
            row["collapsed_is_cut"],
            size,
            size / sum(others),
            sum(other > size for other in others),
            sum(other < size for other in others),
            None if means is None else sum(mean < means[layer] for mean in means.values()),
        )
    return Found(
        float(row["critical_compression"]),
        row["collapse_compression"],
        row["connected_until"],
        lost,
        str(row["evidence"]),
        int(row["iterations"]),
    )


def _scores(rows: pd.DataFrame | None) -> Scores:
    means = np.zeros(0) if rows is None or rows.empty else layer_means(rows)
    if rows is None or not len(means) or not (means > 0).all():
        return Scores(None, None, None)
    factor = float(means.max() / means.min())
    if len(set(rows["parameters"])) < 2 or len(means) < 3:  # two points are on every line
        return Scores(None, None, factor)
    fit = linregress(-np.log(rows["parameters"].to_numpy(float)), np.log(means))
    return Scores(float(fit.slope), float(fit.rvalue), factor)


def _moments(table: pd.DataFrame | None) -> Sequence[tuple[float, tuple[Moment, ...]]]:
    if table is None:
        return []
    found = []
    for _, at in table.groupby("compression"):
        moments = []
        for pruner, rows in at.groupby("pruner", sort=False):
            empty = rows[rows["kept"] == 0].groupby("layer", sort=False).size()
            living = rows.groupby("seed")["effective_kept"].sum()
            moments.append(
                Moment(
                    style.name(str(pruner)),
                    {short(str(layer)): int(count) for layer, count in empty.items()},
                    int((living == 0).sum()),
                )
            )
        found.append((float(at["compression"].iloc[0]), tuple(moments)))
    return found
