"""GraSP (Wang, Zhang & Grosse 2020)."""

from __future__ import annotations

from torch import nn

from collapse.models import Masks, compute_dtype
from collapse.scores.gradients import loss_gradient
from collapse.scores.inputs import ScoreInputs, Scores, dtype_name

GRASP_TEMPERATURE = 200.0


def grasp(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """GraSP, ``θ ⊙ H g`` with ``g = ∂L/∂θ`` (Wang, Zhang & Grosse 2020, equation 8).

    The highest are kept: the paper's own score is ``−θ ⊙ H g`` and prunes the highest. Logits are
    divided by its temperature of 200. Both passes, the gradient's and the Hessian-vector
    product's, see the same batches.
    """
    _, gradient = loss_gradient(model, masks, inputs, GRASP_TEMPERATURE)
    leaves, products = loss_gradient(model, masks, inputs, GRASP_TEMPERATURE, along=gradient)
    return Scores(
        {name: products[name].mul_(leaf.detach()) for name, leaf in leaves.items()},
        precision=dtype_name(compute_dtype(model)),
    )
