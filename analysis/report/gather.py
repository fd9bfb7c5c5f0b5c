"""All answers about one network: what ``python -m analysis report`` puts on a page.

Each part is the table that a command or an experiment makes; nothing is computed here in a second
way. A part that cannot be computed says why, and the others stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from analysis.experiments import densities, layer_scores
from analysis.experiments.shared import PRUNERS, Scored, measured
from analysis.report.wiring import Node, wiring
from analysis.resumable import Resources, complete
from collapse import conservation
from collapse import masks as masking
from collapse.conservation import audit
from collapse.critical import frame_of, measure
from collapse.doctor import doctor
from collapse.doctor.findings import Finding
from collapse.errors import RequestError
from collapse.models import call, stand_ins, taken, untouched
from collapse.options import Pruning, Setup
from collapse.problem import Problem

# So many round compressions to look at, besides those that the pruners themselves single out.
STOPS = 8


@dataclass(frozen=True)
class Part:
    """A table, or why there is none."""

    table: pd.DataFrame | None
    problem: str = ""


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        parts: critical, densities (each over all seeds), scores (tables of the contract) and
            conservation (the worst residual of each identity of the synflow and of the snip
            ledger, and what lies outside the theory), doctor (a row a layer of the network as it
            is), wiring (its table is the list of layers in order of execution).
        nodes: of the graph of layers; none where there is no wiring.
        notes: of single rows that could not be computed: whose, and why.
        left_out: what is not counted, and layers that the forward never reaches.
        said: by the doctor, on the network as it is.
        outputs: of the network, for the doctor's command.
    """

    setup: Setup
    seeds: tuple[int, ...]
    pruners: tuple[str, ...]
    input_shape: tuple[int, ...]
    layers: dict[str, int]
    parts: dict[str, Part]
    nodes: list[Node] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    left_out: tuple[str, ...] = ()
    said: list[Finding] = field(default_factory=list)
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
    seeds: tuple[int, ...] = (0,),
    resources: Resources | None = None,
) -> Report:
    """Everything about a network; points that are done are not done again.

    Args:
        seeds: of initialisation, samples and random scores. Critical compressions and densities
            are measured with each; the rest is the first one's.

    Raises:
        RequestError: the network cannot be built, or has nothing to prune.
    """
    resources = resources or Resources()
    scored = [Scored(setup, pruners, mode="train", seed=seed) for seed in seeds]
    first = scored[0]
    prepared = first.prepared()
    sizes = masking.sizes(prepared.dense())
    report = Report(
        setup, seeds, pruners, prepared.input_shape, sizes, {}, left_out=prepared.notes,
        outputs=_outputs(prepared),
    )  # fmt: skip
    nodes, notes, said = report.nodes, report.notes, report.said
    parts = {
        "doctor": _part(lambda: _doctor(first, said)),
        "wiring": _part(lambda: _wiring(prepared, nodes)),
        "conservation": _part(lambda: _conservation(first, notes)),
        "critical": _part(lambda: _critical(scored, resources, notes)),
    }
    stops = tuple(compressions(report.maximal, parts["critical"].table))

    def score(one: Scored, pruner: str) -> pd.DataFrame:
        config = layer_scores.Config(one.setup, (pruner,), "train", one.seed)
        return layer_scores.run(config, resources)

    def density(one: Scored, pruner: str) -> pd.DataFrame:
        config = densities.Config(
            one.setup, (pruner,), "train", one.seed, compressions=stops, living=True
        )
        return densities.run(config, resources)

    parts["scores"] = _part(lambda: _each(score, scored[:1], "mean scores", notes))
    parts["densities"] = _part(lambda: _each(density, scored, "densities", notes))
    return replace(report, parts=parts)


def _part(compute: Callable[[], pd.DataFrame]) -> Part:
    try:
        return Part(compute())
    except RequestError as error:
        return Part(None, str(error))


def _doctor(scored: Scored, said: list[Finding]) -> pd.DataFrame:
    """The network as it is: what is pruned, dead or not finite before anybody prunes it."""
    problem = scored.prepared()
    found = doctor(problem.model, problem.example, output=problem.output)
    said += found.findings
    return found.frame(scored.setup.model)


def _wiring(problem: Problem, nodes: list[Node]) -> pd.DataFrame:
    nodes += wiring(problem)
    return pd.DataFrame({"layer": [node.name for node in nodes if node.kind == "layer"]})


def _outputs(problem: Problem) -> int | None:
    try:
        with untouched(problem.model, "eval"), torch.no_grad():
            inputs = taken(problem.example, slice(0, 1))
            tensors = stand_ins(problem.model)
            return int(call(problem.model, tensors, inputs, problem.output).shape[-1])
    except RequestError:  # every part says why
        return None


def _critical(
    scored: list[Scored], resources: Resources, notes: list[tuple[str, str]]
) -> pd.DataFrame:
    """One row a seed and pruner that takes this network, and SynFlow's certified one."""
    frames = []
    for one in scored:
        plans = [Pruning(pruner=p, mode="train", seed=one.seed) for p in one.pruners]
        if "synflow" in one.pruners:
            plans.append(Pruning(schedule="certified", seed=one.seed))
        for plan in plans:
            name = f"{plan.pruner}{', certified' * (plan.schedule == 'certified')}"
            about, row = f"critical compression of {name}", partial(_critical_row, one, plan)
            try:
                point = measured("critical", one.setup, plan, about, row, {}, effective=True)
                frames.append(complete([point], "critical", resources))
            except RequestError as error:
                _note(notes, name, error)
    if not frames:
        raise RequestError(f"no pruner takes this network: {notes[0][1]}")
    return pd.concat([frame.astype(object) for frame in frames]).infer_objects()


def _note(notes: list[tuple[str, str]], name: str, error: RequestError) -> None:
    """Once for all seeds."""
    if (name, str(error)) not in notes:
        notes.append((name, str(error)))


def _critical_row(scored: Scored, plan: Pruning) -> pd.DataFrame:
    return frame_of([measure(scored.setup, scored.prepared(), plan)])


def compressions(maximum: float, critical: pd.DataFrame | None) -> list[float]:
    """What to look at: round numbers from 1 to the maximum, and where each pruner's layers end.

    Args:
        critical: its table; of the first seed are taken the critical compressions, and how far
            the network stays connected where that is further.
    """
    own: set[float] = set()
    if critical is not None:
        rows = critical[critical["seed"] == critical["seed"].iloc[0]]
        rows = rows[rows["schedule"] != "certified"]
        own = set(rows["critical_compression"].astype(float))
        own |= set(rows["connected_until"].dropna().astype(float))
    # Two digits, rounded down so that the maximum is not passed.
    found = {max(1.0, float(f"{stop * 0.95:.1e}")) for stop in np.geomspace(1, maximum, STOPS)}
    round_ones = {stop for stop in found if all(abs(stop / c - 1) > 0.02 for c in own)}
    return sorted({1.0} | round_ones | own)


def _each(
    run: Callable[[Scored, str], pd.DataFrame],
    scored: list[Scored],
    about: str,
    notes: list[tuple[str, str]],
) -> pd.DataFrame:
    """The tables of all pruners that take this network, one below the other."""
    frames = []
    for one in scored:
        for pruner in one.pruners:
            try:
                frames.append(run(one, pruner))
            except RequestError as error:
                if all(name != pruner for name, _ in notes):  # or it was said of the whole pruner
                    _note(notes, f"{about} of {pruner}", error)
    if not frames:
        raise RequestError(f"no pruner takes this network: {notes[-1][1]}")
    return pd.concat([frame.astype(object) for frame in frames]).infer_objects()


def _conservation(scored: Scored, notes: list[tuple[str, str]]) -> pd.DataFrame:
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
            notes.append((f"conservation of {pruner}", str(error)))
            continue
        parts.append(conservation.worst(found.ledger).assign(flow=pruner))
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
        raise RequestError(f"no flow could be recorded: {notes[-1][1]}")
    return pd.concat([part.astype(object) for part in parts], ignore_index=True).infer_objects()
