"""Magnitude pruning."""

from __future__ import annotations

from torch import nn

from collapse.models import Masks, compute_dtype, kept_parameters, stand_ins
from collapse.scores.inputs import ScoreInputs, Scores, dtype_name
from collapse.scores.registry import pruner


@pruner(mode=None, data="none", stateless=True)
def magnitude(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """Magnitude pruning, ``|θ|`` (Janowsky 1989; Han et al. 2015)."""
    dtype = compute_dtype(model)
    tensors = stand_ins(model, dtype=dtype, parameter=kept_parameters(masks))
    return Scores({name: tensors[name].abs() for name in masks}, precision=dtype_name(dtype))
