"""Random pruning."""

from __future__ import annotations

import torch
from torch import nn

from collapse.models import Masks
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.scores.registry import pruner
from collapse.seeding import generator


@pruner(mode=None, data="none", stateless=True)
def random(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """Random pruning: standard normal scores, drawn anew in each iteration."""
    draw = generator(inputs.seed, "random scores", inputs.iteration)
    return Scores({n: torch.randn(m.shape, generator=draw).to(m.device) for n, m in masks.items()})
