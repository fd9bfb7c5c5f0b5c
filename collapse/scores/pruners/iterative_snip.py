"""Iterative SNIP."""

from __future__ import annotations

from torch import nn

from collapse.models import Masks
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.scores.pruners.snip import snip
from collapse.scores.registry import pruner


@pruner(iterations=60, mode="train", stateless=True)
def iterative_snip(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """SNIP of what is left, ``|θ ⊙ ∂L/∂θ|`` at ``θ ⊙ c``, again and again (de Jorge et al. 2021).

    Pruned weights never come back: that is FORCE. 60 steps of the exponential schedule are those
    of the authors' instructions (naver/force), which draw other samples for each step; here all
    steps see the same.

    Example:
        >>> from collapse.scores import about
        >>> about("iterative_snip").iterations, about("iterative_snip").regrows
        (60, False)
    """
    return snip(model, masks, inputs)
