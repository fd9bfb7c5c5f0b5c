"""GraSP."""

from __future__ import annotations

from torch import nn

from collapse.models import Masks
from collapse.scores.gradients import loss_gradient, times
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.scores.registry import pruner

TEMPERATURE = 200.0


@pruner(mode="train", stateless=True, passes=11)
def grasp(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """GraSP, ``θ ⊙ H g`` with ``g = ∂L/∂θ`` (Wang, Zhang & Grosse 2020, equation 8).

    The highest are kept: the paper's own score is ``−θ ⊙ H g`` and prunes the highest. Logits are
    divided by its temperature of 200. Both passes, the gradient's and the Hessian-vector
    product's, see the same batches.
    """
    _, gradient = loss_gradient(model, masks, inputs, TEMPERATURE)
    theta, product = loss_gradient(model, masks, inputs, TEMPERATURE, along=gradient)
    return times(theta, product)
