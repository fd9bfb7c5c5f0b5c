"""Magnitude pruning."""

from __future__ import annotations

from torch import nn

from collapse.models import Masks, compute_dtype, kept_parameters, stand_ins
from collapse.scores.inputs import ScoreInputs, Scores, dtype_name


def magnitude(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """Magnitude pruning, ``|θ|`` (Janowsky 1989; Han et al. 2015)."""
    kept = kept_parameters(masks)
    tensors = stand_ins(model, dtype=compute_dtype(model), parameter=kept)
    return Scores(
        {name: tensors[name].abs() for name in masks}, precision=dtype_name(compute_dtype(model))
    )
