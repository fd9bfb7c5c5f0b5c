"""The definition of pruning: score, select, mask, once a goal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from collapse.errors import RequestError
from collapse.masks import kept_by_layer, select_with_mass, total
from collapse.models import Masks, all_zero, zero_words
from collapse.options import Pruning, Scope
from collapse.pruning.result import Pruned, Step
from collapse.scores import ScoreInputs, Scores, about, score

# How many parameters an iteration is to keep: a number, or one that its scores decide.
Goal = int | Callable[[Scores, Masks], int]


@dataclass(frozen=True)
class Start:
    """Where a pruning begins, and by what.

    Attributes:
        masks: the survivors.
        inputs: of the scores, but for the iteration.
        first: the scores of the first iteration, which do not depend on how many are to be kept:
            looked up here, or added. Share it among prunings that differ in that number only;
            without it no scores outlive their iteration.
        shares: how many of each layer for a number to keep in all, where an allocation says so.
    """

    model: nn.Module
    options: Pruning
    masks: Masks
    inputs: ScoreInputs
    first: dict[tuple[int, torch.dtype | None], Scores] | None = None
    shares: Callable[[int], Mapping[str, int]] | None = None

    def scope(self, keep: int) -> Scope | Mapping[str, int]:
        """Within what ``keep`` are ranked: all layers together, each, or so many of each."""
        return self.options.scope if self.shares is None else self.shares(keep)


class Plain:
    """Score, select, mask. Every other engine promises the same steps and masks, sooner."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.masks = self.ranked = start.masks
        self.scores = Scores({})

    def steps(self, goals: Iterable[tuple[int, Goal]]) -> Iterator[Step]:
        """One step for each iteration that has a goal."""
        scope, size = self.start.scope, total(self.masks)
        regrows = about(self.start.options.pruner).regrows
        for iteration, goal in goals:
            self.scores = self.score(iteration)
            self.ranked = self.start.masks if regrows else self.masks
            keep = goal if isinstance(goal, int) else goal(self.scores, self.ranked)
            self.masks, mass = select_with_mass(self.scores, keep, self.ranked, scope(keep))
            yield Step.by(self.scores, iteration, kept_by_layer(self.masks), size, mass)

    def score(self, iteration: int) -> Scores:
        """The scores of the survivors; of the first iteration, those that are known already."""
        inputs = replace(self.start.inputs, iteration=iteration)
        if self.masks is not self.start.masks:
            return self.compute(inputs)
        first = self.start.first
        known, key = {} if first is None else first, (iteration, inputs.dtype)
        if key not in known:
            known[key] = _some(self.compute(inputs), self.start)
        return known[key]

    def compute(self, inputs: ScoreInputs) -> Scores:
        """The scores of the survivors, computed."""
        return score(self.start.model, self.start.options.pruner, self.masks, inputs)

    def ranking(self) -> tuple[Scores, Masks]:
        """What the last step ranked: its scores, and the survivors that they are of."""
        return self.scores, self.ranked

    def pruned(self, steps: list[Step]) -> Pruned:
        """Where the steps so far have led."""
        return Pruned(self.masks, steps, self.scores, self.ranked)


def _some(scores: Scores, start: Start) -> Scores:
    """The scores, unless there is nothing to rank."""
    if any(bool(tensor.any()) for tensor in scores.values()):
        return scores
    pruner = start.options.pruner
    if about(pruner).data == "shape":
        asked = "is the forward under no_grad, or zero on ones, as where it takes off their mean?"
    else:
        asked = "is the forward under no_grad, the loss detached, or the data of one class?"
    raise RequestError(
        f"every {pruner} score is zero, so there is nothing to rank: expected an output that "
        f"depends on the weights ({zero_words(all_zero(start.model, start.masks)) or asked})"
    )
