"""SNIP."""

from __future__ import annotations

from torch import nn

from collapse.models import Masks
from collapse.scores.gradients import loss_gradient, times
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.scores.registry import pruner


@pruner(mode="train", stateless=True)
def snip(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """SNIP, ``|θ ⊙ ∂L/∂θ|`` (Lee, Ajanthan & Torr 2019, equation 6).

    ``L`` is the mean loss over all samples of all batches.
    """
    theta, gradient = loss_gradient(model, masks, inputs)
    saliency = times(theta, gradient)
    return saliency.of({name: tensor.abs_() for name, tensor in saliency.items()})
