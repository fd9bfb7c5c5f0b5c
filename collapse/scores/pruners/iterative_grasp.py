"""Iterative GraSP."""

from __future__ import annotations

from torch import nn

from collapse.models import Masks
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.scores.pruners.grasp import grasp
from collapse.scores.registry import pruner


@pruner(iterations=60, mode="train", stateless=True, passes=11)
def iterative_grasp(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """GraSP of what is left, ``θ ⊙ H g`` at ``θ ⊙ c``, in the steps of iterative SNIP.

    De Jorge et al. 2021 iterate GraSP as a baseline; what their code calls GRASP-It is another
    score, ``gradient_norm``.

    Example:
        >>> from collapse.scores import about
        >>> about("grasp").iterations, about("iterative_grasp").iterations
        (1, 60)
    """
    return grasp(model, masks, inputs)
