"""Random pruning."""

from __future__ import annotations

import torch
from torch import nn

from collapse.models import Masks
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.seeding import generator


def random(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """Random pruning: standard normal scores, drawn anew in each iteration."""
    draw = generator(inputs.seed, "random scores", inputs.iteration)
    return Scores(
        {
            name: torch.randn(mask.shape, generator=draw).to(mask.device)
            for name, mask in masks.items()
        }
    )
