"""SNIP (Lee, Ajanthan & Torr 2019)."""

from __future__ import annotations

from torch import nn

from collapse.models import Masks, compute_dtype
from collapse.scores.gradients import loss_gradient
from collapse.scores.inputs import ScoreInputs, Scores, dtype_name


def snip(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """SNIP, ``|θ ⊙ ∂L/∂θ|`` (Lee, Ajanthan & Torr 2019, equation 6).

    ``L`` is the mean loss over all samples of all batches.
    """
    leaves, gradients = loss_gradient(model, masks, inputs)
    return Scores(
        {name: gradients[name].mul_(leaf.detach()).abs_() for name, leaf in leaves.items()},
        precision=dtype_name(compute_dtype(model)),
    )
