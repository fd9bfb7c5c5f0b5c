"""Controls of pruning at initialisation: is it these weights, or how many there are in each layer?

After Frankle, Dziugaite, Roy & Carbin 2021, "Pruning neural networks at initialization: why are we
missing the mark?": a mask is shuffled within its layers, its weights are drawn anew, or the
highest scores are pruned in place of the lowest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import nn

from collapse.errors import RequestError, unknown
from collapse.models import Masks, Selector, build
from collapse.options import CONTROLS, Control, Pruning, Setup
from collapse.problem import Problem
from collapse.pruning.loop import prune
from collapse.scores import SCORES, Batch, ScoreInputs, Scores, about, load_pruner, registered
from collapse.seeding import derive, generator


def check(control: Control, setup: Setup, levels: int) -> None:
    """Raise RequestError where a control cannot be made of this request."""
    if control not in CONTROLS:
        raise unknown("control", control, CONTROLS)
    if levels:
        raise RequestError(
            f"--control {control}: expected pruning at initialisation (--levels 0), got {levels}"
        )
    if control == "reinitialised" and setup.weights is not None:
        raise RequestError(
            f"--control reinitialised draws the weights anew: expected no --weights, got "
            f"'{setup.weights}'"
        )


def masks_of(
    model: nn.Module | Problem,
    batches: Sequence[Batch],
    pruning: Pruning,
    compression: float,
    control: Control,
    output: Selector = None,
) -> Masks:
    """The control's masks; of ``reinitialised``, those of the weights before they are redrawn.

    Raises:
        RequestError: anything that pruning raises.
    """
    problem = model if isinstance(model, Problem) else Problem(model, batches, output)
    with _lowest_first(pruning) if control == "inverted" else nullcontext(pruning) as options:
        masks = prune(problem, options=options, compression=compression).masks
    return shuffled(masks, pruning.seed) if control == "shuffled" else masks


def shuffled(masks: Masks, seed: int) -> Masks:
    """Each layer keeps as many weights, anywhere."""
    draw = generator(seed, "shuffled masks")
    found: Masks = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=draw).to(mask.device)
        found[name] = mask.flatten()[order].view(mask.shape)
    return found


@contextmanager
def _lowest_first(pruning: Pruning) -> Iterator[Pruning]:
    """A pruner that keeps the lowest scores of another, inside the block."""
    score = SCORES[load_pruner(pruning.pruner)]

    def inverted(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
        scores = score(model, masks, inputs)
        return Scores({layer: -scores[layer] for layer in masks})

    with registered(f"inverted {pruning.pruner}", inverted, about(pruning.pruner)) as name:
        yield replace(pruning, pruner=name)


def reinitialise(
    model: nn.Module, setup: Setup, input_shape: tuple[int, ...], classes: int, seed: int
) -> None:
    """Draw the weights anew from the same distribution, in place."""
    other = build(
        setup.model,
        input_shape=input_shape,
        classes=classes,
        init=setup.init,
        seed=derive(seed, "reinitialised"),
    )
    model.load_state_dict(other.state_dict())
