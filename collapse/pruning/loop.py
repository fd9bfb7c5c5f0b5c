"""``prune()``: score → select → mask, iterated, with a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F
from torch import nn

from collapse import masks as masking
from collapse import schedules
from collapse.errors import RequestError, unknown
from collapse.models import Masks, Selector, check_finite
from collapse.options import Pruning
from collapse.pruning import on_device
from collapse.scores import (
    PAPER_ITERATIONS,
    SCORES,
    Batch,
    Loss,
    ScoreInputs,
    Scores,
    mode_of,
    score,
)
from collapse.scores.fast.live_blocks import Block, Workspace, expand
from collapse.scores.synflow import synflow

if TYPE_CHECKING:
    import pandas as pd

# Past this compression SynFlow's scores are in float64, from the first iteration on. So little is
# left at the end that single weights decide whether a layer survives, and which ones are left hangs
# on every rounding before: one near tie that falls otherwise while the network is dense is
# thousands of weights later. VGG-16 kept all its layers at the maximal compression in float64, and
# lost some where the first iterations, down to density 0.3, were in float32: a later switch saves
# no verdict. Up to it, layers are far from empty, and float32 takes half the time.
WIDE_ABOVE = 1000


# Devices that compute while the host goes on, so that asking them for a number costs time.
QUEUEING = ("cuda",)


# Scores by iteration and ``ScoreInputs.wide``.
Known = dict[tuple[int, bool], Scores]


@dataclass(frozen=True)
class Step:
    """One iteration of pruning.

    Attributes:
        iteration: from 1. Iterations that remove nothing are not scored and leave no step.
        kept: parameters left after it.
        density: kept / total.
        pruned_mass: sum of the scores that it removed.
        cut: ``R``, the mass of every cut before it; None for scores without one. Both are in
            units of ``2**exponent``.
        exponent: see ``Scores``.
        kept_by_layer: parameters left, layer by layer.
        precision: in which the scores were computed.
    """

    iteration: int
    kept: int
    density: float
    pruned_mass: float
    cut: float | None
    exponent: int
    kept_by_layer: dict[str, int]
    precision: str


@dataclass(frozen=True)
class Pruned:
    """What ``prune`` returns.

    Attributes:
        masks: boolean, by parameter name.
        steps: how it got there.
        scores: of the last step; empty if there was nothing to prune.
        ranked: the survivors that the last step's scores ranked.
    """

    masks: Masks
    steps: list[Step]
    scores: Scores
    ranked: Masks

    def trace(self) -> pd.DataFrame:
        """One row an iteration and layer."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "iteration": step.iteration,
                    "kept_total": step.kept,
                    "density_total": step.density,
                    "pruned_mass": step.pruned_mass,
                    "cut": step.cut,
                    "prune_to_cut_ratio": step.pruned_mass / step.cut if step.cut else None,
                    "exponent": step.exponent,
                    "precision": step.precision,
                    "layer": layer,
                    "layer_index": index,
                    "parameters": self.masks[layer].numel(),
                    "kept": count,
                }
                for step in self.steps
                for index, (layer, count) in enumerate(step.kept_by_layer.items(), start=1)
            ]
        )


class PathsExhaustedError(RequestError):
    """Each parameter left is on every input→output path, so none can be certified to go.

    Attributes:
        pruned: what was reached.
    """

    def __init__(self, pruned: Pruned, keep: int) -> None:
        super().__init__(
            f"the certified schedule ends at {masking.kept(pruned.masks)} parameters, each on "
            f"every input→output path: cannot keep {keep}"
        )
        self.pruned = pruned


def prune(
    model: nn.Module,
    batches: Sequence[Batch] = (),
    options: Pruning | None = None,
    *,
    compression: float | None = None,
    keep: int | None = None,
    masks: Masks | None = None,
    loss: Loss = F.cross_entropy,
    output: Selector = None,
    on_step: Callable[[Step], bool] | None = None,
    known: Known | None = None,
) -> Pruned:
    """Prune a network; the model itself is never changed (see ``masks.apply``).

    Args:
        batches: pairs of inputs and targets for the scores; SynFlow takes the shape only.
        options: pruner, iterations, schedule, scope, mode, seed.
        compression: total / kept to reach; either this or ``keep``.
        keep: the number of parameters to keep.
        masks: start from these, pruned stays pruned; everything prunable without them.
        loss: of snip and grasp.
        output: selects a tensor from a forward that returns several.
        on_step: called after each iteration; True ends the pruning there.
        known: the first scores, which do not depend on how many are to be kept: looked up here,
            or added. Give one to all prunings that differ in that number only.

    Raises:
        RequestError: a target below 1 or above the number of survivors, unknown names, a schedule
            that the scores do not support, or anything that scoring raises.
        PathsExhaustedError: the certified schedule cannot get there.
    """
    options = options or Pruning()
    batches = list(batches)
    if options.pruner not in SCORES:
        raise unknown("pruner", options.pruner, SCORES)
    if masks is None:
        masks = masking.dense(model)
    else:
        masking.check_fit(model, masks)
    kept_by_layer = masking.kept_by_layer(masks)
    total, survivors = masking.total(masks), sum(kept_by_layer.values())
    keep = target(total, len(masks), survivors, compression, keep)
    # The schedule runs from the survivors' density to the target's.
    counts = _counts(options, survivors, keep)

    # The certified schedule proves each step, and a target must only shorten its last one.
    wide = counts is not None and total > WIDE_ABOVE * keep

    inputs = ScoreInputs(
        batches=batches,
        mode=mode_of(options.pruner, options.mode) or "eval",
        loss=loss,
        output=output,
        seed=options.seed,
        wide=wide,
    )
    if counts is not None and _queues(options, inputs):
        queued = _queued(model, masks, inputs, counts, on_step)
        if queued is not None:
            return queued

    steps: list[Step] = []
    scores, ranked = Scores({}), masks
    iteration = 0
    sizes = masking.sizes(masks)
    workspace = Workspace()
    ranked_blocks = workspace.blocks
    while survivors > keep:
        iteration += 1
        if counts is not None and counts[iteration - 1] == survivors:
            continue  # nothing to remove, so nothing to score
        if SCORES[options.pruner] is synflow:
            masks = workspace.shrink(masks, survivors)
        else:  # it may build on synflow, and then expects whole tensors that stay as they are
            workspace = Workspace()
        inputs = replace(inputs, iteration=iteration, workspace=workspace)
        if not steps and iteration > 1:  # `score` looks at the weights in the first iteration
            check_finite(model)
        scores = _score_once(model, options.pruner, masks, inputs, None if steps else known)
        goal = _certified_count(scores, masks, keep) if counts is None else counts[iteration - 1]
        if goal == survivors:
            reached = expand(masks, workspace.blocks)
            ranked = expand(ranked, ranked_blocks)
            whole = _whole(scores, workspace.blocks)
            raise PathsExhaustedError(Pruned(reached, steps, whole, ranked), keep)
        if iteration == 1 and not _any_score(scores):
            raise RequestError(
                f"every {options.pruner} score is zero, so there is nothing to rank: expected an "
                "output that depends on the weights (is the last layer zero, or the forward under "
                "no_grad, or the data of one class?)"
            )
        ranked, ranked_blocks = masks, workspace.blocks
        masks, mass, gone = masking.select_weighing(
            scores, goal, masks, options.scope, sizes, survivors
        )
        if gone is None:
            kept_by_layer = masking.kept_by_layer(masks)
        else:
            kept_by_layer = {n: kept - len(gone[n]) for n, kept in kept_by_layer.items()}
        workspace.remove(masks, gone)
        survivors = goal
        step = Step(
            iteration=iteration,
            kept=goal,
            density=goal / total,
            pruned_mass=mass,
            cut=scores.total,
            exponent=scores.exponent,
            kept_by_layer=kept_by_layer,
            precision=scores.precision,
        )
        steps.append(step)
        if on_step is not None and on_step(step):
            break
    masks = {n: mask.contiguous() for n, mask in expand(masks, workspace.blocks).items()}
    whole = _whole(scores, ranked_blocks)
    return Pruned(masks, steps, whole, expand(ranked, ranked_blocks))


def _score_once(
    model: nn.Module, pruner: str, masks: Masks, inputs: ScoreInputs, known: Known | None
) -> Scores:
    """Scores, which are looked up or added where there is something to look them up in."""
    if known is None:
        return score(model, pruner, masks, inputs)
    key = (inputs.iteration, inputs.wide)
    if key not in known:
        known[key] = score(model, pruner, masks, inputs).clone()
    return known[key]


def _queues(options: Pruning, inputs: ScoreInputs) -> bool:
    """Whether the iterations can be queued on a device that works while the host goes on."""
    if SCORES[options.pruner] is not synflow or options.scope != "global" or not inputs.batches:
        return False
    image = inputs.batches[0][0]
    return image.device.type in QUEUEING and image.is_floating_point()


def _queued(
    model: nn.Module,
    masks: Masks,
    inputs: ScoreInputs,
    counts: Sequence[int],
    on_step: Callable[[Step], bool] | None,
) -> Pruned | None:
    """All iterations at once; None where their scores need more range, or nothing is to go."""
    total, alive = masking.total(masks), masking.kept(masks)
    before = (alive, *counts)
    goals = {i: goal for i, goal in enumerate(counts, start=1) if goal < before[i - 1]}
    queue = on_device.queue(model, masks, inputs, alive, list(goals.values())) if goals else None
    if queue is None:
        return None
    steps: list[Step] = []
    for n, (iteration, goal) in enumerate(goals.items()):
        step = Step(
            iteration=iteration,
            kept=goal,
            density=goal / total,
            pruned_mass=queue.masses[n],
            cut=queue.cuts[n],
            exponent=0,
            kept_by_layer=queue.kept[n],
            precision=queue.precision,
        )
        steps.append(step)
        if on_step is not None and on_step(step):
            break
    ranked = queue.masks(len(steps) - 1)
    last = replace(inputs, iteration=len(goals))
    return Pruned(queue.masks(len(steps)), steps, score(model, "synflow", ranked, last), ranked)


def _whole(scores: Scores, blocks: Mapping[str, Block]) -> Scores:
    """Scores in the parameters' shapes, with zeros where there was nothing to score."""
    whole = Scores(
        expand(scores, blocks),
        precision=scores.precision,
        total=scores.total,
        exponent=scores.exponent,
    )
    whole.finite = scores.finite
    return whole


def _any_score(scores: Scores) -> bool:
    return any(bool(tensor.any()) for tensor in scores.values())


def iterations_of(options: Pruning) -> int:
    """The number of iterations, with the paper's for None."""
    if options.iterations is not None:
        return options.iterations
    return PAPER_ITERATIONS.get(options.pruner, 1)


def target(
    total: int,
    layers: int,
    survivors: int,
    compression: float | None = None,
    keep: int | None = None,
) -> int:
    """The number to keep, from a compression or itself.

    Raises:
        RequestError: below 1, above the number of survivors, or beyond the maximal compression.
    """
    if (compression is None) == (keep is None):
        raise RequestError("expected either a compression or a number to keep")
    if keep is None:
        assert compression is not None
        keep = masking.keep_count(total, compression)
        if compression > total / layers * (1 + 1e-9):  # as printed below
            raise RequestError(
                f"compression {compression:g} is above the maximum: {total} parameters in "
                f"{layers} layers allow at most {total / layers:.10g}"
            )
    if survivors == 0:
        raise RequestError("the masks to start from keep nothing: expected at least one survivor")
    if not 1 <= keep <= survivors:
        raise RequestError(
            f"expected to keep between 1 and {survivors} parameters, got {keep}"
            + (f" (compression {compression:g})" if compression is not None else "")
        )
    return keep


def _counts(options: Pruning, survivors: int, keep: int) -> list[int] | None:
    if options.schedule == "certified":
        if options.scope != "global":
            raise RequestError("the certified schedule ranks globally: expected --scope global")
        return None
    return schedules.keep_counts(options.schedule, survivors, keep, iterations_of(options))


def _certified_count(scores: Scores, masks: Masks, keep: int) -> int:
    if scores.total is None:
        raise RequestError(
            "the certified schedule needs positive, conserved scores: expected --pruner synflow"
        )
    ascending = np.sort(masking.gather(scores, masks).cpu().numpy())  # ten times torch's speed
    return max(keep, schedules.certified(ascending, scores.total))
