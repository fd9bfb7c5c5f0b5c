"""A network and a pruner: every mask that it gives for a number to keep, and what that leaves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from collapse import masks as masking
from collapse.connectivity import Size, is_cut_layer, paths, size_of
from collapse.critical.result import Point
from collapse.critical.work import towards
from collapse.errors import RequestError
from collapse.models import Masks
from collapse.options import Pruning
from collapse.problem import Problem
from collapse.processes import Update, unwatched
from collapse.pruning import Engine, Plain, Pruned, Start, Step, begin, counts, fastest, prune
from collapse.scores import Scores


@dataclass(frozen=True)
class Family:
    """A network and a pruner: everything that gives a mask for a number to keep."""

    problem: Problem
    options: Pruning
    effective: bool
    watch: Update = unwatched
    first: dict[Any, Scores] = field(default_factory=dict)
    cuts: dict[str, bool] = field(default_factory=dict)

    def engine(self, start: Start) -> Plain:
        """The fastest, with first scores that all prunings of the family share."""
        return fastest(replace(start, first=self.first))

    def prune(self, keep: int, on_step: Callable[[Step], bool], engine: Engine) -> Pruned:
        end, total = towards(keep / masking.total(self.start)), masking.total(self.start)

        def watched(step: Step) -> bool:
            share = min(1.0, towards(step.kept / total) / end) if end else 1.0
            self.watch(f"keeping {keep:,}, iteration {step.iteration}", share)
            return on_step(step)

        return prune(self.problem, options=self.options, keep=keep, on_step=watched, engine=engine)

    @functools.cached_property
    def start(self) -> Masks:
        """What there is to prune: the whole network, unless it comes with masks of its own."""
        return self.problem.start()

    @functools.cached_property
    def start_paths(self) -> tuple[dict[str, int], bool]:
        """``paths`` before pruning."""
        return self.paths(self.start)

    def score(self) -> Scores:
        """Of the network before pruning."""
        return self.engine(begin(self.problem, self.options, self.start)).score(1)

    def paths(self, masks: Masks) -> tuple[dict[str, int], bool]:
        """Living weights by layer, and whether the network is connected."""
        alive, arrives = self.living(masks)
        return masking.kept_by_layer(alive), arrives

    def living(self, masks: Masks) -> tuple[Masks, bool]:
        """Living weights, and whether the network is connected."""
        problem = self.problem
        return paths(problem.model, masks, problem.example, output=problem.output, size=self._size)

    @functools.cached_property
    def _size(self) -> Size:
        return size_of(self.problem.model, self.problem.example, self.problem.output)

    def is_cut(self, layer: str) -> bool:
        """Whether every input→output path crosses a layer."""
        if layer not in self.cuts:
            problem = self.problem
            self.cuts[layer] = is_cut_layer(
                problem.model, layer, problem.example, output=problem.output
            )
        return self.cuts[layer]

    def point(self, masks: Masks, scores: Scores, collapsed: str | None = None) -> Point:
        alive, arrives = self.paths(masks) if self.effective else (None, None)
        kept, sums = masking.kept_by_layer(masks), masking.sums(scores)
        return Point(kept, alive, sums, scores.precision, collapsed, arrives)

    def reachable(self, keep: int) -> bool:
        """Whether the options can keep so many: an allocation may hold layers full."""
        if self.options.allocation is None or self.options.copied is not None:
            return True
        shapes = {name: tuple(mask.shape) for name, mask in self.start.items()}
        try:
            counts(self.options.allocation, shapes, keep, masking.kept_by_layer(self.start))
        except RequestError:
            return False
        return True
