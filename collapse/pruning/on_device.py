"""SynFlow's iterations one after another on a GPU, without waiting for any of them.

The definition looks at the numbers of each iteration before it begins the next, and a GPU idles
meanwhile. Here all that an iteration decides stays on the device: the schedule says beforehand how
many weights go, a stable sort says which. The host learns of it once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from collapse.masks import kept, total
from collapse.models import Masks, call, compute_dtype, first_tensor, output_sum, untouched
from collapse.pruning.result import Pruned, Step
from collapse.pruning.steps import Goal, Plain, Start
from collapse.scores import SCORES, ScoreInputs, Scores, derivatives, positive, score, scoring_seed
from collapse.scores.inputs import dtype_name
from collapse.scores.precision import holds
from collapse.scores.pruners.synflow import synflow


class OnDevice(Plain):
    """SynFlow with all iterations in a queue; the definition where a score leaves the range."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self._removed: list[Tensor] = []  # places by iteration, in one row of all layers
        self._done: list[int] = []  # the iterations that have been handed out

    @staticmethod
    def can(start: Start) -> bool:
        """Whether it computes this pruning."""
        options, batches = start.options, start.inputs.batches
        if SCORES[options.pruner] is not synflow or options.ranks != "global" or not batches:
            return False
        return options.schedule != "certified"

    @staticmethod
    def pays(start: Start) -> bool:
        """Whether it is the faster way: where the host would wait for the device."""
        return (
            OnDevice.can(start) and first_tensor(start.inputs.batches[0][0]).device.type == "cuda"
        )

    def steps(self, goals: Iterable[tuple[int, Goal]]) -> Iterator[Step]:
        plan = [(iteration, goal) for iteration, goal in goals if isinstance(goal, int)]
        queued = self._queue([goal for _, goal in plan]) if plan else None
        if queued is None:
            yield from super().steps(plan)
            return
        size = total(self.start.masks)
        for (iteration, _), kept_by_layer, (cut, mass), removed in zip(plan, *queued, strict=True):
            self._removed.append(removed)
            self._done.append(iteration)
            precision = dtype_name(self.start.inputs.dtype or compute_dtype(self.start.model))
            scores = Scores({}, precision=precision, total=cut)
            yield Step.by(scores, iteration, kept_by_layer, size, mass)

    def ranking(self) -> tuple[Scores, Masks]:
        if not self._done:
            return super().ranking()
        ranked = self._after(len(self._done) - 1)
        inputs = replace(self.start.inputs, iteration=self._done[-1])
        return score(self.start.model, "synflow", ranked, inputs), ranked

    def pruned(self, steps: list[Step]) -> Pruned:
        if not self._done:
            return super().pruned(steps)
        return Pruned(self._after(len(self._done)), steps, *self.ranking())

    def _after(self, iterations: int) -> Masks:
        """The masks after the first iterations."""
        flat = torch.cat([mask.flatten() for mask in self.start.masks.values()])
        for places in self._removed[:iterations]:
            flat.index_fill_(0, places, False)
        return _parts(flat, self.start.masks)

    def _queue(
        self, goals: Sequence[int]
    ) -> tuple[list[dict[str, int]], list[tuple[float, float]], list[Tensor]] | None:
        """Kept by layer, (``R``, mass removed) and places removed, of each iteration.

        None where a score or ``R`` left the range of the precision, which shows at the end.
        """
        start = self.start
        with untouched(start.model, "eval", scoring_seed(start.inputs)), torch.enable_grad():
            cuts, masses, low, high, removed = launch(
                start.model, start.masks, start.inputs, kept(start.masks), goals
            )
        # Here the host waits for the device.
        found = torch.stack([x.double() for x in (cuts, masses, low, high)]).tolist()
        finite = all(math.isfinite(score) for score in (*found[2], *found[3]))
        if not (finite and all(holds(R, cuts.dtype) for R in found[0])):
            return None
        return (
            _kept_by_layer(start.masks, removed),
            list(zip(found[0], found[1], strict=True)),
            removed,
        )


def launch(
    model: nn.Module, masks: Masks, inputs: ScoreInputs, alive: int, goals: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """``R``, mass removed, lowest and highest score, and places removed, iteration by iteration.

    Nothing in here may ask the device for a number.
    """
    dtype = inputs.dtype or compute_dtype(model)
    state = positive(model, masks, dtype)
    buffers = {name for name, _ in model.named_buffers()}  # which a forward may change
    dead = torch.cat([~mask.flatten() for mask in masks.values()])
    ones = replace(inputs, dtype=dtype).ones(masks)
    rows: list[tuple[Tensor, ...]] = []
    removed: list[Tensor] = []
    for goal in goals:
        leaves = {name: state[name].detach().requires_grad_() for name in masks}
        tensors = {name: t.clone() if name in buffers else t for name, t in state.items()}
        R = output_sum(call(model, {**tensors, **leaves}, ones, inputs.output))
        gradients = derivatives(R, list(leaves.values()))
        scores = torch.cat(
            [
                (torch.zeros_like(leaf) if g is None else g * leaf.detach()).flatten()
                for leaf, g in zip(leaves.values(), gradients, strict=True)
            ]
        )
        ranking = scores.masked_fill(dead, -torch.inf).sort(descending=True, stable=True)
        mass = ranking.values[goal:alive].sum(dtype=torch.float64)
        rows.append((R.detach(), mass, *torch.aminmax(scores)))
        removed.append(ranking.indices[goal:alive].clone())  # or all indices would stay as well
        dead.index_fill_(0, removed[-1], True)
        for name, part in _parts(dead, masks).items():
            state[name].masked_fill_(part, 0)
        alive = goal
    cuts, masses, low, high = (torch.stack(column) for column in zip(*rows, strict=True))
    return cuts, masses, low, high, removed


def _parts(flat: Tensor, masks: Masks) -> Masks:
    """One row of all layers, by layer again."""
    parts: tuple[Tensor, ...] = torch.split_with_sizes(flat, [m.numel() for m in masks.values()])
    return {name: part.view(masks[name].shape) for name, part in zip(masks, parts, strict=True)}


def _kept_by_layer(masks: Masks, removed: Sequence[Tensor]) -> list[dict[str, int]]:
    """Kept after each iteration, from the places that each removed."""
    counts = torch.stack([mask.count_nonzero() for mask in masks.values()])
    ends = torch.tensor([mask.numel() for mask in masks.values()], device=counts.device).cumsum(0)
    kept = []
    for places in removed:
        layers = torch.bucketize(places, ends, right=True)
        counts = counts - layers.bincount(minlength=len(masks))
        kept.append(dict(zip(masks, counts.tolist(), strict=True)))
    return kept
