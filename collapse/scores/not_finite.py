"""Why a score is not finite: the first operation of the forward that gives NaN or infinity."""

from __future__ import annotations

import torch
from torch import nn

from collapse.models import all_finite, call, cast, compute_dtype, running, stand_ins, tensors_in
from collapse.scores.first_operation import FirstOperation, has_infinity, has_nan
from collapse.scores.inputs import ScoreInputs


def cause(model: nn.Module, inputs: ScoreInputs, *, differentiated: bool) -> str:
    """What made a score by a loss not finite, as the end of a sentence; empty if nothing is seen.

    Args:
        model: in the mode in which it was scored.
        differentiated: whether the score is known to take the loss's gradient.
    """
    floats = [x for batch in inputs.batches for x in tensors_in(batch) if x.is_floating_point()]
    if not all(map(all_finite, floats)):
        return ": the data hold NaN or infinite values"
    dtype = inputs.dtype or compute_dtype(model)
    state = stand_ins(model, dtype=dtype)
    for x, y in inputs.batches:
        with (
            torch.no_grad(),
            running(model) as place,
            FirstOperation(place, nan=has_nan, infinity=has_infinity) as first,
        ):
            outputs = call(model, state, cast(x, dtype), inputs.output)
            loss = inputs.loss_of(outputs, y)
        if not all_finite(loss):
            where = first.found.get("nan") or first.found.get("infinity")
            first_values = f"; the first values that are not finite come from {where}"
            return f": the loss is {loss.item():g}{first_values if where else ''}"
    if not differentiated:
        return ""
    return ": the loss is finite and its gradient is not (the root or the power of a zero?)"
