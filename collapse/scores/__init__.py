"""Scores: one file a pruner, and the registry of them.

A score function takes ``(model, masks, inputs)`` and returns one number for each prunable scalar,
as a tensor by parameter name in the parameter's shape; the highest are kept. A new pruner is one
such function under the decorator ``pruner``, here (a file in ``pruners/``) or anywhere.
"""

from collapse.scores.gradients import derivatives, loss_gradient
from collapse.scores.inputs import Batch, ScoreInputs, Scores, scoring_seed
from collapse.scores.losses import Loss, load_loss, token_cross_entropy
from collapse.scores.precision import widening
from collapse.scores.pruners.grasp import TEMPERATURE as GRASP_TEMPERATURE
from collapse.scores.pruners.synflow import positive
from collapse.scores.registry import (
    SCORES,
    about,
    load_pruner,
    mode_of,
    needs_labels,
    pruner,
    registered,
    score,
)
from collapse.scores.warm_up import warmed

__all__ = [
    "GRASP_TEMPERATURE",
    "SCORES",
    "Batch",
    "Loss",
    "ScoreInputs",
    "Scores",
    "about",
    "derivatives",
    "load_loss",
    "load_pruner",
    "loss_gradient",
    "mode_of",
    "needs_labels",
    "positive",
    "pruner",
    "registered",
    "score",
    "scoring_seed",
    "token_cross_entropy",
    "warmed",
    "widening",
]
