"""Audit a network and a pruner: the ledger of the flow, and whether the scores are that flow.

What the command ``python -m collapse.conservation`` and ``collapse.testing.assert_conserved`` do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import masks as masking
from collapse.conservation.identities import Row, cut_layers, frame_of, ledger, outside
from collapse.errors import RequestError
from collapse.flow import Trace, layout_of, linear_closures, record, unit_sums, wide
from collapse.models import (
    Masks,
    Selector,
    check_finite,
    compute_dtype,
    kept_parameters,
    stand_ins,
    untouched,
)
from collapse.options import Mode
from collapse.scores import (
    GRASP_TEMPERATURE,
    Batch,
    Loss,
    ScoreInputs,
    Scores,
    loss_gradient,
    mode_of,
    positive,
    score,
    scoring_seed,
)

SCORE_IDENTITIES = ("score", "score layers", "score neurons", "grasp defect")


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        ledger: ``identity, place, lhs, rhs, residual``, one row a unit, layer or cut.
        outside: operations outside the theory, with the flow that each creates.
        scores: the pruner's.
        R: the scalar whose flow it is.
        unit: what the ledger's flows are given in multiples of: the absolute flow at the output
            where that is below 1, because residuals divide by ``max(1, absolute flow)``.
        saliency: each layer's signed ``Σ S``, in these units; of ``R``, whatever the pruner.
        absolute: for SNIP, the same neuron-wise comparison of ``|S|``, which is *not* conserved.
    """

    ledger: pd.DataFrame
    outside: pd.DataFrame
    scores: Scores
    R: float
    unit: float
    saliency: dict[str, float]
    absolute: pd.DataFrame | None = None

    def table(self) -> pd.DataFrame:
        """The ledger, and what is listed beside it but is no identity and never gated.

        ``outside the theory``: flow out against flow in of such operations; ``absolute …``: SNIP's
        ``|S|`` compared as if it were conserved.
        """
        parts = [self.ledger]
        if len(self.outside):
            listed = self.outside
            scale = np.maximum(1.0, listed["absolute"])
            parts.append(pd.DataFrame({
                "identity": "outside the theory",
                "place": listed["place"] + ":" + listed["operation"],
                "lhs": listed["flow_in"],
                "rhs": listed["flow_out"],
                "residual": listed["created"].abs() / scale,
            }))  # fmt: skip
        if self.absolute is not None and len(self.absolute):
            parts.append(self.absolute.assign(identity="absolute " + self.absolute["identity"]))
        return pd.concat(parts, ignore_index=True)

    @property
    def scores_checked(self) -> bool:
        """Whether any identity could hold the pruner's own scores to anything."""
        return bool(self.ledger["identity"].isin(SCORE_IDENTITIES).any())


def audit(
    model: nn.Module,
    batch: Batch,
    *,
    pruner: str = "synflow",
    mode: Mode | None = None,
    masks: Masks | None = None,
    loss: Loss = F.cross_entropy,
    output: Selector = None,
    seed: int = 0,
) -> Audit:
    """Check every conservation law on a network, and a pruner's scores against it.

    - ``synflow``: the flow of its own ``R``; each unit's scores must sum to its saliency.
    - ``snip``: the flow of the loss; each layer's scores must sum to its absolute saliency.
    - ``grasp``: the flow of the loss, and the defect ``‖g_in‖² − ‖g_out‖²`` of its scores.
    - any other: the flow of the loss, and whether the scores themselves are conserved, neuron by
      neuron and from cut to cut (magnitude's and random ones are not, and fail).

    Args:
        batch: inputs and targets. Computed in the model's precision: pass a model in float64 for
            residuals at its rounding.
        masks: keep these weights only.

    Raises:
        RequestError: anything that scoring and recording raise, or an ``R`` beyond float64.
    """
    masks = masking.dense(model) if masks is None else masks
    check_finite(model)
    inputs = ScoreInputs([batch], mode_of(pruner, mode) or mode or "eval", loss, output, seed)
    scores = score(model, pruner, masks, inputs)
    trace = _flow(model, masks, inputs, pruner, scores).in_units_of_its_output()
    rows: list[Row] = list(_modes(trace, inputs.mode))
    absolute = None
    if pruner == "synflow":
        rows += _scores_are_saliency(trace, scores)
    elif pruner == "snip":
        rows += _scores_are_absolute_saliency(trace, scores)
        absolute = frame_of(_conserved(trace, scores))
    elif pruner == "grasp":
        rows += _grasp_defect(model, masks, inputs, trace)
    else:
        rows += _conserved(trace, scores)
    table = pd.concat([ledger(trace), frame_of(rows)], ignore_index=True)
    saliency = {
        name: sum(float(units.sum()) for units, _, _ in uses)
        for name, uses in _measured(trace).items()
        if name in masks
    }
    return Audit(table, outside(trace), scores, trace.R, trace.unit, saliency, absolute)


def _flow(
    model: nn.Module, masks: Masks, inputs: ScoreInputs, pruner: str, scores: Scores
) -> Trace:
    x, y = inputs.batches[0]
    if pruner == "synflow":
        if "rescaled" in scores.precision:
            raise RequestError(
                "R is beyond float64 on this network: expected one whose flow can be written down"
            )
        dtype = getattr(torch, scores.precision)
        tensors = positive(model, masks, dtype)
        ones = torch.ones((1, *x.shape[1:]), dtype=dtype, device=x.device)
        with untouched(model, "eval"):
            return record(model, tensors, ones, torch.sum, inputs.output)
    dtype = compute_dtype(model)
    tensors = stand_ins(model, dtype=dtype, parameter=kept_parameters(masks))
    x = x.to(dtype) if x.is_floating_point() else x
    with untouched(model, inputs.mode, scoring_seed(inputs)):
        return record(model, tensors, x, lambda output: inputs.loss(output, y), inputs.output)


def _modes(trace: Trace, mode: Mode) -> list[Row]:
    """Every BatchNorm ran in the mode that was asked for: across a train-mode one S is lost."""
    one = torch.ones(1, dtype=torch.float64)
    return [
        Row(
            "batchnorm mode",
            f"{operation.place}:batch_norm",
            one * operation.constants["training"],
            one * (mode == "train"),
            one,
        )
        for operation in trace.operations
        if operation.function == "batch_norm"
    ]


def _measured(trace: Trace) -> dict[str, list[tuple[Tensor, Tensor, dict[str, Any]]]]:
    """Each weight's saliency on every use: (by output unit, absolute, layout of the weight)."""
    found: dict[str, list[tuple[Tensor, Tensor, dict[str, Any]]]] = {}
    for operation in trace.operations:
        layout = layout_of(operation)
        for use in operation.uses:
            if use.parameter is not None and use.units is not None and use.absolute is not None:
                found.setdefault(use.parameter, []).append((use.units, use.absolute, layout))
    return found


def _scores_are_saliency(trace: Trace, scores: Scores) -> list[Row]:
    measured = _measured(trace)
    rows = []
    for name, tensor in scores.items():
        uses = measured.get(name, [])
        layout = uses[0][2] if uses else {}
        units = (unit_sums(tensor, **layout)[0] if tensor.ndim > 1 else wide(tensor)).cpu()
        units = units / trace.unit
        saliency = sum((use[0] for use in uses), torch.zeros_like(units))
        scale = torch.maximum(saliency.abs(), units.abs())
        rows.append(Row("score", name, units, saliency, scale, by_unit=True))
    return rows


def _scores_are_absolute_saliency(trace: Trace, scores: Scores) -> list[Row]:
    rows, sums = [], masking.sums(scores)
    for name, uses in _measured(trace).items():
        if name in scores and len(uses) == 1:  # |a + b| is not |a| + |b|
            total = torch.tensor(sums[name][0], dtype=torch.float64) / trace.unit
            absolute = uses[0][1].sum()
            rows.append(Row("score", name, total, absolute, torch.maximum(total, absolute)))
    return rows


def _conserved(trace: Trace, scores: Mapping[str, Tensor]) -> list[Row]:
    """Scores alone: in = out at hidden units, and one sum for every layer that is a cut.

    In units of the median layer sum, so that the tolerance means the same for any scores.
    """
    cuts = [name for name in cut_layers(trace) if name in scores]
    totals = masking.sums(scores)
    sums = {name: torch.tensor(totals[name][0], dtype=torch.float64) for name in cuts or scores}
    middle = torch.stack(list(sums.values())).median()
    unit = float(middle.abs()) or 1.0
    one = torch.ones((), dtype=torch.float64)
    rows = [Row("score layers", name, sums[name] / unit, middle / unit, one) for name in cuts]
    for closure in linear_closures(trace, through_batchnorm=True):
        if closure.weights <= set(scores):
            lhs, rhs = closure.inflow(scores).cpu() / unit, closure.outflow(scores).cpu() / unit
            scale = torch.maximum(lhs.abs(), rhs.abs())
            rows.append(Row("score neurons", closure.place, lhs, rhs, scale, by_unit=True))
    return rows


def _grasp_defect(model: nn.Module, masks: Masks, inputs: ScoreInputs, trace: Trace) -> list[Row]:
    """``S_in − S_out = ‖g_in‖² − ‖g_out‖²`` at hidden units, in units of ``‖g‖²`` (DESIGN 4.10).

    Scored with biases and normalisations, because a unit's incoming side has them.
    """
    every = {**masking.dense(model, biases=True, batchnorm=True), **masks}
    scores = score(model, "grasp", every, inputs)
    with untouched(model, inputs.mode), torch.enable_grad():
        _, gradient = loss_gradient(model, every, inputs, GRASP_TEMPERATURE)
    squares = {name: wide(g).square() for name, g in gradient.items()}
    # Scores of pruned weights are zero; their gradient is not, and is no part of the network's.
    squares = {name: s * every[name].to(s.device) for name, s in squares.items()}
    unit = float(sum(s.sum() for s in squares.values())) or 1.0
    rows = []
    for closure in linear_closures(trace, through_batchnorm=False):
        saliency = {name: -wide(s) for name, s in scores.items()}
        lhs = (closure.inflow(saliency) - closure.outflow(saliency)).cpu() / unit
        into, out_of = closure.inflow(squares).cpu(), closure.outflow(squares).cpu()
        rhs, scale = (into - out_of) / unit, (into + out_of) / unit
        rows.append(Row("grasp defect", closure.place, lhs, rhs, scale, by_unit=True))
    return rows


def likely_cause(identity: str) -> str:
    """What usually lies behind a residual of this identity."""
    return _CAUSES.get(identity, "an operation does not do what its name says")


_CAUSES: dict[str, str] = {
    "output units": "a bias was left out, or the weight was changed between its uses",
    "input units": "the weight was changed between its uses, or the gradient is not this input's",
    "neuron": "saliency was lost or made between two layers: a bias, a clipped or gated activation",
    "batchnorm mode": "a BatchNorm ran in the other mode; batch statistics carry no saliency",
    "batchnorm eval": "running statistics were changed during the pass",
    "batchnorm train": "the batch statistics are not those of this input",
    "score": "the pruner's scores of this layer are not θ ⊙ ∂R/∂θ: scaled, or of another R or mode",
    "score layers": "the pruner's scores of this layer do not sum to the same as the other cuts'",
    "score neurons": "the pruner's scores into these units do not sum to those out of them",
    "grasp defect": "the pruner's scores are not θ ⊙ H g on the batch and mode of g",
    "cut": "flow was lost or made somewhere below this layer",
    "homogeneous": "an operation that should be homogeneous is not (a constant was added?)",
}  # fmt: skip
