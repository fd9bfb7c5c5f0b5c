"""ProsPr, first order."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from collapse.models import Masks
from collapse.scores.gradients import loss_gradient, times
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.scores.registry import pruner

STEPS, LEARNING_RATE, MOMENTUM = 3, 0.5, 0.9


@pruner(mode="train", stateless=True, passes=12)
def prospr(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """ProsPr, ``|θ₀ ⊙ ∂L/∂θ|`` at ``θ_M``, ``M`` steps of training later (Alizadeh et al. 2022).

    The first-order form: a mask on ``θ₀`` moves ``θ_M`` as it moves ``θ₀``. Three steps of SGD on
    all parameters (learning rate 0.5, momentum 0.9, as in the authors' instructions); each step
    and the score take the next batch, in a circle, in train mode. With one batch all take it.

    Example:
        >>> net = nn.Linear(2, 2, bias=False)
        >>> batch = (torch.eye(2), torch.tensor([0, 1]))
        >>> masks = {"weight": torch.ones(2, 2).bool()}
        >>> score(net, "prospr", masks, ScoreInputs([batch]))["weight"].min() >= 0
        tensor(True)
    """
    every = {**_whole(model), **masks}
    start, gradient = loss_gradient(model, every, _at_step(inputs, 0))
    theta = {name: leaf.detach() for name, leaf in start.items()}
    speed = {name: torch.zeros_like(weight) for name, weight in theta.items()}
    for step in range(1, STEPS + 1):
        speed = {name: MOMENTUM * v + gradient[name] for name, v in speed.items()}
        theta = {name: weight - LEARNING_RATE * speed[name] for name, weight in theta.items()}
        _, gradient = loss_gradient(model, every, _at_step(inputs, step), at=theta)
    saliency = times({name: start[name] for name in masks}, gradient)
    return saliency.of({name: tensor.abs_() for name, tensor in saliency.items()})


def _whole(model: nn.Module) -> Masks:
    """All parameters that are trained, each kept whole."""
    return {
        name: torch.ones_like(weight, dtype=torch.bool)
        for name, weight in model.named_parameters()
        if weight.is_floating_point()
    }


def _at_step(inputs: ScoreInputs, step: int) -> ScoreInputs:
    """The one batch of a step."""
    turn = step % max(1, len(inputs.batches))
    return replace(inputs, batches=inputs.batches[turn : turn + 1])
