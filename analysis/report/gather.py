"""All answers about one network: what ``python -m analysis report`` puts on a page.

Each part is the table that a command or an experiment makes; nothing is computed here in a second
way. A part that cannot be computed says why, and the others stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import linregress

from analysis.experiments import densities, layer_scores
from analysis.experiments.shared import PRUNERS, Scored, measured
from analysis.resumable import Resources, complete
from collapse import cli, conservation
from collapse import masks as masking
from collapse.conservation import audit, likely_cause
from collapse.critical import frame_of, measure
from collapse.doctor import doctor
from collapse.errors import RequestError
from collapse.models import call, stand_ins, taken, untouched
from collapse.options import Pruning, Setup
from collapse.plots import layer_means
from collapse.problem import Problem

# So many compressions on the slider.
STOPS = 12


@dataclass(frozen=True)
class Part:
    """A table, or why there is none."""

    table: pd.DataFrame | None
    problem: str = ""


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        parts: critical, densities, scores (tables of the contract) and conservation (the worst
            residual of each identity of the synflow and of the snip ledger, and what lies outside
            the theory), doctor (a row a layer of the network as it is).
        notes: of single rows that could not be computed.
        left_out: what is not counted, and layers that the forward never reaches.
        said: by the doctor, on the network as it is.
        outputs: of the network, for the doctor's command.
    """

    setup: Setup
    seed: int
    input_shape: tuple[int, ...]
    layers: dict[str, int]
    parts: dict[str, Part]
    notes: list[str] = field(default_factory=list)
    left_out: tuple[str, ...] = ()
    said: list[str] = field(default_factory=list)
    outputs: int | None = None

    @property
    def parameters(self) -> int:
        """``N``."""
        return sum(self.layers.values())

    @property
    def maximal(self) -> float:
        """``N / L``."""
        return self.parameters / len(self.layers)


def gather(
    setup: Setup,
    *,
    pruners: tuple[str, ...] = PRUNERS,
    seed: int = 0,
    resources: Resources | None = None,
) -> Report:
    """Everything about a network; points that are done are not done again.

    Raises:
        RequestError: the network cannot be built, or has nothing to prune.
    """
    resources = resources or Resources()
    scored = Scored(setup, pruners, mode="train", seed=seed)
    prepared = scored.prepared()
    sizes = masking.sizes(prepared.dense())
    notes: list[str] = []
    said: list[str] = []
    parts = {
        "doctor": _part(lambda: _doctor(scored, said)),
        "critical": _part(lambda: _critical(scored, resources, notes)),
        "densities": _part(lambda: _densities(scored, sizes, resources)),
        "scores": _part(
            lambda: layer_scores.run(layer_scores.Config(setup, pruners, "train", seed), resources)
        ),
        "conservation": _part(lambda: _conservation(scored, notes)),
    }
    outputs = _outputs(prepared)
    return Report(
        setup, seed, prepared.input_shape, sizes, parts, notes, prepared.notes, said, outputs
    )


def _part(compute: Callable[[], pd.DataFrame]) -> Part:
    try:
        return Part(compute())
    except RequestError as error:
        return Part(None, str(error))


def _doctor(scored: Scored, said: list[str]) -> pd.DataFrame:
    """The network as it is: what is pruned, dead or not finite before anybody prunes it."""
    problem = scored.prepared()
    found = doctor(problem.model, problem.example, output=problem.output)
    said += [f"{finding.severity}: {finding.text}" for finding in found.findings] or ["healthy"]
    return found.frame(scored.setup.model)


def _outputs(problem: Problem) -> int | None:
    try:
        with untouched(problem.model, "eval"), torch.no_grad():
            inputs = taken(problem.example, slice(0, 1))
            tensors = stand_ins(problem.model)
            return int(call(problem.model, tensors, inputs, problem.output).shape[-1])
    except RequestError:  # every part says why
        return None


def _critical(scored: Scored, resources: Resources, notes: list[str]) -> pd.DataFrame:
    """One row a pruner that takes this network, and SynFlow's certified one."""
    plans = [Pruning(pruner=p, mode="train", seed=scored.seed) for p in scored.pruners]
    if "synflow" in scored.pruners:
        plans.append(Pruning(schedule="certified", seed=scored.seed))
    frames = []
    for plan in plans:
        name = f"{plan.pruner}{', certified' * (plan.schedule == 'certified')}"
        about, row = f"critical compression of {name}", partial(_critical_row, scored, plan)
        try:
            point = measured("critical", scored.setup, plan, about, row, {}, effective=True)
            frames.append(complete([point], "critical", resources))
        except RequestError as error:
            notes.append(f"{name}: {error}")
    if not frames:
        raise RequestError(f"no pruner takes this network: {notes[0]}")
    return pd.concat([frame.astype(object) for frame in frames]).infer_objects()


def _critical_row(scored: Scored, plan: Pruning) -> pd.DataFrame:
    return frame_of([measure(scored.setup, scored.prepared(), plan)[0]])


def _densities(scored: Scored, sizes: dict[str, int], resources: Resources) -> pd.DataFrame:
    """Every pruner at the same compressions, from 1 to the maximum."""
    maximum = sum(sizes.values()) / len(sizes)
    stops = np.geomspace(1, maximum, STOPS)
    # Readable numbers: two digits, rounded down so that the maximum is not passed.
    compressions = sorted({float(f"{stop * 0.95:.1e}") if stop > 1 else 1.0 for stop in stops})
    config = densities.Config(
        scored.setup,
        scored.pruners,
        "train",
        scored.seed,
        compressions=tuple(max(1.0, compression) for compression in compressions),
        living=True,
    )
    return densities.run(config, resources)


def _conservation(scored: Scored, notes: list[str]) -> pd.DataFrame:
    """The worst residual of each identity, and what lies outside the theory."""
    prepared = scored.prepared()
    batch = taken(prepared.batches[0], slice(0, 8))
    parts = []
    for pruner in ("synflow", "snip"):
        try:
            found = audit(
                prepared.model, batch, pruner=pruner, output=scored.setup.output, seed=scored.seed
            )
        except RequestError as error:
            notes.append(f"conservation of {pruner}: {error}")
            continue
        worst = conservation.worst(found.ledger).assign(flow=pruner)
        parts.append(worst.assign(note=worst["identity"].map(likely_cause)))
        outside = found.outside
        parts.append(
            pd.DataFrame(
                {
                    "flow": pruner,
                    "identity": "outside the theory",
                    "place": outside["place"] + ":" + outside["operation"],
                    "lhs": outside["flow_in"],
                    "rhs": outside["flow_out"],
                }
            )
        )
    if not parts:
        raise RequestError(f"no flow could be recorded: {notes[-1]}")
    return pd.concat([part.astype(object) for part in parts], ignore_index=True).infer_objects()


def reasons(report: Report) -> list[dict[str, Any]]:
    """For each pruner: which layer goes first, and what its scores say about why.

    Returns:
        ``pruner, layer, parameters, share`` (of all parameters), ``slope, r`` (of log mean score
        against log inverse layer size: both 1 where scores are conserved) and ``text``.
    """
    critical, scores = report.parts["critical"].table, report.parts["scores"].table
    if critical is None:
        return []
    found = []
    for row in cli.rows_of(critical[critical["schedule"] != "certified"]):
        pruner, layer = row["pruner"], row["first_collapsed_layer"]
        slope = r = None
        if scores is not None:
            own = scores[scores["pruner"] == pruner]
            slope, r = _fit(own)
        one = {"pruner": pruner, "layer": layer, "slope": slope, "r": r}
        if not isinstance(layer, str):
            found.append({**one, "layer": None, "text": "no layer was seen to collapse"})
            continue
        size = report.layers[layer]
        text = (
            f"{layer} goes first: {size:,} of {report.parameters:,} parameters "
            f"({size / report.parameters:.2%})"
        )
        if row["collapsed_is_cut"] is not None and not row["collapsed_is_cut"]:
            until = row["connected_until"]
            far = "without it" if until is None else f"to {until:,.6g}"
            text += f", in a branch: the network stays connected {far}"
        if slope is not None:
            text += f"; {_explained(slope)}"
        found.append({**one, "parameters": size, "share": size / report.parameters, "text": text})
    return found


def _fit(rows: pd.DataFrame) -> tuple[float | None, float | None]:
    means = layer_means(rows) if len(rows) else np.zeros(0)
    if len(set(rows["parameters"])) < 2 or not (means > 0).all():
        return None, None
    fit = linregress(-np.log(rows["parameters"].to_numpy(float)), np.log(means))
    return float(fit.slope), float(fit.rvalue)


def _explained(slope: float) -> str:
    """What a slope of log mean score against log inverse size means for the ranking."""
    words = f"slope {round(slope, 2) + 0.0:.2f} of log mean score against log inverse layer size"
    if slope > 0.5:
        return words + ": large layers have small scores, and a single ranking empties one of them"
    if slope > 0.1:
        return words + ": large layers have somewhat smaller scores"
    return words + ": size hardly counts, the scale of each layer's scores does"
