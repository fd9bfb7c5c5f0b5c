"""The registry of pruners, and scoring by one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from collapse.errors import RequestError, first_line, unknown
from collapse.models import Masks, check_finite, import_user, untouched
from collapse.options import Mode
from collapse.scores.grasp import grasp
from collapse.scores.inputs import ScoreInputs, Scores, check_scores, scoring_seed
from collapse.scores.magnitude import magnitude
from collapse.scores.random import random
from collapse.scores.snip import snip
from collapse.scores.synflow import synflow

SCORES: dict[str, Callable[[nn.Module, Masks, ScoreInputs], Scores]] = {
    "random": random,
    "magnitude": magnitude,
    "snip": snip,
    "grasp": grasp,
    "synflow": synflow,
}


# The paper's setting of each: iterations, and the mode in which the model is scored (None: not
# run at all). A pruner that is not listed takes one iteration in eval mode.
PAPER_ITERATIONS = {"synflow": 100}


DATA_FREE = frozenset({"random", "magnitude", "synflow"})  # one input's shape is enough


PAPER_MODE: dict[str, Mode | None] = {
    "random": None,
    "magnitude": None,
    "snip": "train",
    "grasp": "train",
}


def load_pruner(name: str) -> str:
    """A pruner's name in ``SCORES``; ``package.module:function`` is registered under itself.

    Raises:
        RequestError: unknown name, or an import that fails.
    """
    if ":" in name and name not in SCORES:
        function = import_user(name, "pruner")
        if not callable(function):
            raise RequestError(f"pruner '{name}': expected a function (model, masks, inputs)")
        SCORES[name] = function
    if name not in SCORES:
        near = str(unknown("pruner", name, SCORES))
        raise RequestError(f"{near} (or package.module:function)")
    return name


def mode_of(pruner: str, requested: Mode | None) -> Mode | None:
    """The mode that a pruner is scored in: None where it never runs the model.

    SynFlow's ``R`` is defined on the eval-mode network, so a request does not change it.
    """
    default = PAPER_MODE.get(pruner, "eval")
    return default if pruner == "synflow" or default is None else requested or default


def score(model: nn.Module, pruner: str, masks: Masks, inputs: ScoreInputs) -> Scores:
    """Score a model by a registered pruner, purely.

    Args:
        pruner: a name in ``SCORES``.
        masks: boolean, by parameter name; what is scored, and which of it is left.

    Returns:
        Scores in the parameters' shapes; entries already pruned hold whatever the formula gives
        (zero for all but random), and selection never looks at them.

    Raises:
        RequestError: unknown pruner, non-finite weights or scores (the layer is named), a forward
            that fails or whose output is not a tensor.
    """
    if pruner not in SCORES:
        raise unknown("pruner", pruner, SCORES)
    if inputs.iteration == 1:  # the weights are the same in every other one
        check_finite(model)
    mode = mode_of(pruner, inputs.mode) or "eval"
    with untouched(model, mode, scoring_seed(inputs)), torch.enable_grad():
        scores = _call_pruner(pruner, model, masks, inputs)
    if not scores.finite:
        check_scores(scores, pruner)
        scores.finite = True
    return scores


def _call_pruner(pruner: str, model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """A user's own function may raise anything, and return a plain dict or nonsense."""
    try:
        scores = SCORES[pruner](model, masks, inputs)
    except (RequestError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a user's pruner may raise anything
        if SCORES[pruner].__module__.startswith("collapse.scores."):
            raise
        raise RequestError(
            f"pruner '{pruner}' failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(scores, Mapping):
        raise RequestError(
            f"pruner '{pruner}' returned {type(scores).__name__}: expected a dict of tensors by "
            "parameter name"
        )
    for name, mask in masks.items():
        shape = getattr(scores.get(name), "shape", None)
        if shape != mask.shape:
            got = "nothing" if shape is None else f"shape {tuple(shape)}"
            raise RequestError(
                f"pruner '{pruner}', layer '{name}': expected scores of shape "
                f"{tuple(mask.shape)}, got {got}"
            )
    return scores if isinstance(scores, Scores) else Scores({n: scores[n] for n in masks})
