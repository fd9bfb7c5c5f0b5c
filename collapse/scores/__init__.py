"""Scores: one file a pruner, and the registry of them.

A score function takes ``(model, masks, inputs)`` and returns one number for each prunable scalar,
as a tensor by parameter name in the parameter's shape; the highest are kept. It never changes the
model.
"""

from collapse.scores.fast.double_backward import CheapTwice
from collapse.scores.gradients import derivatives, loss_gradient
from collapse.scores.grasp import GRASP_TEMPERATURE
from collapse.scores.inputs import Batch, Loss, ScoreInputs, Scores, scoring_seed
from collapse.scores.registry import (
    DATA_FREE,
    PAPER_ITERATIONS,
    SCORES,
    load_pruner,
    mode_of,
    score,
)
from collapse.scores.synflow import in_range, positive

__all__ = [
    "DATA_FREE",
    "GRASP_TEMPERATURE",
    "PAPER_ITERATIONS",
    "SCORES",
    "Batch",
    "CheapTwice",
    "Loss",
    "ScoreInputs",
    "Scores",
    "derivatives",
    "in_range",
    "load_pruner",
    "loss_gradient",
    "mode_of",
    "positive",
    "score",
    "scoring_seed",
]
