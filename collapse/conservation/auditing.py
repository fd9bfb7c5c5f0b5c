"""Audit a network and a pruner: the ledger of the flow, and whether the scores are that flow.

What the command ``python -m collapse.conservation`` and ``collapse.testing.assert_conserved`` do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import masks as masking
from collapse.conservation.cuts import carrying, crossed_layers
from collapse.conservation.identities import ledger, outside
from collapse.conservation.rows import Row, frame_of
from collapse.conservation.score_checks import (
    Checked,
    against_each_other,
    against_grasp,
    against_saliency,
    saliency_of,
)
from collapse.errors import RequestError, first_line
from collapse.flow import Trace, record
from collapse.models import (
    BackwardError,
    Masks,
    Selector,
    cast,
    check_finite,
    compute_dtype,
    kept_parameters,
    output_sum,
    stand_ins,
    untouched,
)
from collapse.options import Mode
from collapse.problem import Problem
from collapse.scores import (
    Batch,
    Loss,
    ScoreInputs,
    Scores,
    mode_of,
    positive,
    score,
    scoring_seed,
    warmed,
)


@dataclass(frozen=True)
class Coverage:
    """How much of what is scored an audit has looked at.

    Attributes:
        layers: every scored layer.
        crossed: those through which a cut was checked.
        units, units_checked: output units of the scored layers, and those held to Theorem 1.
        scored: layers whose scores were held to something.
        still: layers that no flow reaches: R does not depend on them, or not by a gradient.
    """

    layers: tuple[str, ...]
    crossed: frozenset[str]
    units: int
    units_checked: int
    scored: frozenset[str]
    still: tuple[str, ...]

    def __str__(self) -> str:
        count = len(self.layers)
        text = (
            f"cuts {len(self.crossed):,} of {count:,}, units {self.units_checked:,} of "
            f"{self.units:,}, scores {len(self.scored):,} of {count:,}"
        )
        uncrossed = [n for n in self.layers if n not in self.crossed and n not in self.still]
        unscored = [name for name in self.layers if name not in self.scored]
        for what, names in (
            ("no cut through", uncrossed),
            ("no flow reaches", self.still),
            ("scores held to nothing", unscored),
        ):
            if names:
                more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
                text += f"; {what} {', '.join(names[:3])}{more}"
        return text


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
        coverage: which layers, units and scores the ledger has a row for.
        absolute: for SNIP, the same neuron-wise comparison of ``|S|``, which is *not* conserved.
    """

    ledger: pd.DataFrame
    outside: pd.DataFrame
    scores: Scores
    R: float
    unit: float
    saliency: dict[str, float]
    coverage: Coverage
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
        return bool(self.coverage.scored)


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
        batch: inputs in any form (``ScoreInputs.batches``) and targets. Computed in the model's
            precision: pass a model in float64 for residuals at its rounding.
        masks: keep these weights only.

    Raises:
        RequestError: anything that scoring and recording raise, or an ``R`` beyond float64.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).double()
        >>> found = audit(network, (torch.ones(2, 4).double(), torch.tensor([0, 1])), pruner="snip")
        >>> bool(found.ledger["residual"].max() < 1e-12)
        True
        >>> str(found.coverage)
        'cuts 2 of 2, units 10 of 10, scores 2 of 2'
    """
    model = Problem(model, [batch]).model  # says what is no model or no batch
    masks = masking.dense(model) if masks is None else masks
    check_finite(model)
    inputs = ScoreInputs([batch], mode_of(pruner, mode) or mode or "eval", loss, output, seed)
    if inputs.mode == "warm":  # once, for the scores and for the flow
        with warmed(model, masks, inputs):
            return audit(
                *(model, batch), pruner=pruner, mode="eval", masks=masks, loss=loss, output=output,
                seed=seed,
            )  # fmt: skip
    scores = _scores(model, pruner, masks, inputs)
    trace = flow_of(model, masks, inputs, pruner, scores).in_units_of_its_output()
    absolute = None
    if pruner in ("synflow", "snip"):
        checked = against_saliency(trace, scores, absolute=pruner == "snip")
    elif pruner == "grasp":
        checked = against_grasp(model, masks, inputs, trace, scores)
    else:
        checked = against_each_other(trace, scores)
    if pruner == "snip":
        absolute = frame_of(against_each_other(trace, scores)[0])
    parts = [ledger(trace), frame_of([*_modes(trace, inputs.mode), *checked[0]])]
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    saliency = {name: float(s.double().sum()) for name, s in saliency_of(trace).items()}
    return Audit(
        table,
        outside(trace),
        scores,
        trace.R,
        trace.unit,
        {name: total for name, total in saliency.items() if name in masks},
        _coverage(trace, masks, table, checked, saliency),
        absolute,
    )


def _scores(model: nn.Module, pruner: str, masks: Masks, inputs: ScoreInputs) -> Scores:
    try:
        return score(model, pruner, masks, inputs)
    except BackwardError:
        flow_of(model, masks, inputs, pruner, Scores({}))  # which says where
        raise
    except (RequestError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a user's forward or backward may raise anything
        flow_of(model, masks, inputs, pruner, Scores({}))  # which says where
        raise RequestError(f"{pruner} cannot score this network: {first_line(error)}") from error


def _coverage(
    trace: Trace, masks: Masks, table: pd.DataFrame, checked: Checked, moving: Iterable[str]
) -> Coverage:
    layers = tuple(masks)
    reached = set(moving)
    neurons = table.loc[table["identity"] == "neuron", "place"]
    checked_units = neurons.str.replace(r"\[\d+\]$", "", regex=True).value_counts()
    by_layer = {name: int(checked_units.get(name, 0)) for name in layers}
    return Coverage(
        layers,
        frozenset(crossed_layers(trace)) & frozenset(layers),
        sum(by_layer[name] or (*masks[name].shape, 1)[0] for name in layers),
        sum(by_layer.values()),
        frozenset(checked[1] & set(layers)),
        tuple(name for name in layers if name not in reached),
    )


def flow_of(
    model: nn.Module, masks: Masks, inputs: ScoreInputs, pruner: str, scores: Scores
) -> Trace:
    """The recorded flow that a pruner's scores are about: SynFlow's own R, else the loss."""
    x, y = inputs.batches[0]
    seed = scoring_seed(inputs)
    if pruner == "synflow":
        if "rescaled" in scores.precision:
            raise RequestError(
                f"synflow's R is near 2**{scores.exponent} on this network: its scores can be "
                "rescaled, its flow cannot be written down in float64; expected smaller weights "
                "(--init), a smaller input, or another pruner"
            )
        dtype = getattr(torch, scores.precision)
        ones = replace(inputs, dtype=dtype).ones(masks)
        tensors = positive(model, masks, dtype)
        with untouched(model, "eval"):
            return record(model, tensors, ones, output_sum, inputs.output, seed=seed, whole=True)
    dtype = compute_dtype(model)
    tensors = stand_ins(model, dtype=dtype, parameter=kept_parameters(masks))

    def loss(outputs: Any) -> Tensor:
        return inputs.loss_of(outputs, y)

    with untouched(model, inputs.mode, seed):
        return record(model, tensors, cast(x, dtype), loss, inputs.output, seed=seed, whole=True)


def _modes(trace: Trace, mode: Mode) -> list[Row]:
    """Every BatchNorm of activations ran in the mode that was asked for.

    One that only standardises a weight does not count: it is part of what that weight is.
    """
    one = torch.ones(1, dtype=torch.float64)
    return [
        Row(
            "batchnorm mode",
            f"{operation.place}:batch_norm",
            one * operation.norm["training"],
            one * (mode == "train"),
            one,
        )
        for operation in carrying(trace)
        if operation.function == "batch_norm"
    ]


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
    "score weights": "the pruner's score of this weight is another: permuted, or of another R",
    "fan-out": "a hook or an autograd function changed the gradient of this tensor",
    "gradient": "the backward of this function is not the derivative of its forward",
    "score layers": "the pruner's scores of this layer do not sum to the same as the other cuts'",
    "score neurons": "the pruner's scores into these units do not sum to those out of them",
    "grasp defect": "the pruner's scores are not θ ⊙ H g on the batch and mode of g",
    "cut": "flow was lost or made somewhere below this layer",
    "homogeneous": "an operation that should be homogeneous is not (a constant was added?)",
}  # fmt: skip
