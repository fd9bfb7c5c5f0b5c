"""SynFlow's iterations one after another on a GPU, without waiting for any of them.

``pruning``'s own loop looks at the numbers of each iteration before it begins the next, and a GPU
idles meanwhile. Here all that an iteration decides stays on the device: the schedule says
beforehand how many weights go, a stable sort says which. The host learns of it once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from collapse.models import Masks, call, check_finite, compute_dtype, untouched
from collapse.scores import ScoreInputs, derivatives, in_range, positive, scoring_seed


@dataclass(frozen=True)
class Queue:
    """What a number of iterations did.

    Attributes:
        start: the masks that it began with.
        kept: by layer, after each iteration.
        cuts: ``R`` before each iteration.
        masses: sums of the scores that each iteration removed.
        precision: of the scores.
        gone: the places that each iteration removed, in one row of all layers; on the device.
    """

    start: Masks
    kept: list[dict[str, int]]
    cuts: list[float]
    masses: list[float]
    precision: str
    gone: list[Tensor]

    def masks(self, iterations: int) -> Masks:
        """After so many iterations."""
        flat = torch.cat([mask.flatten() for mask in self.start.values()])
        for places in self.gone[:iterations]:
            flat.index_fill_(0, places, False)
        return _parts(flat, self.start)


def queue(
    model: nn.Module, masks: Masks, inputs: ScoreInputs, alive: int, goals: Sequence[int]
) -> Queue | None:
    """Iterate SynFlow, ranking all layers together.

    Args:
        masks: the survivors to begin with.
        alive: how many they are.
        goals: how many to keep after each iteration, falling.

    Returns:
        None where a score or ``R`` left the range of the precision, which is found out at the end.
    """
    check_finite(model)
    with untouched(model, "eval", scoring_seed(inputs)), torch.enable_grad():
        cuts, masses, low, high, gone = _launch(model, masks, inputs, alive, goals)
    dtype = cuts.dtype
    # Here the host waits for the device.
    found = torch.stack([x.double() for x in (cuts, masses, low, high)]).tolist()
    if not all(math.isfinite(score) for score in (*found[2], *found[3])):
        return None
    if not all(in_range(R, dtype) for R in found[0]):
        return None
    return Queue(
        start=masks,
        kept=_kept_by_layer(masks, gone),
        cuts=found[0],
        masses=found[1],
        precision=str(dtype).removeprefix("torch."),
        gone=gone,
    )


def _launch(
    model: nn.Module, masks: Masks, inputs: ScoreInputs, alive: int, goals: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """``R``, mass removed, lowest and highest score, and places removed, iteration by iteration.

    Nothing in here may ask the device for a number.
    """
    dtype = torch.float64 if inputs.wide else compute_dtype(model)
    state = positive(model, masks, dtype)
    buffers = {name for name, _ in model.named_buffers()}  # which a forward may change
    dead = torch.cat([~mask.flatten() for mask in masks.values()])
    image = inputs.batches[0][0]
    ones = torch.ones((1, *image.shape[1:]), dtype=dtype, device=image.device)
    rows: list[tuple[Tensor, ...]] = []
    gone: list[Tensor] = []
    for goal in goals:
        leaves = {name: state[name].detach().requires_grad_() for name in masks}
        tensors = {name: t.clone() if name in buffers else t for name, t in state.items()}
        R = call(model, {**tensors, **leaves}, ones, inputs.output).sum()
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
        gone.append(ranking.indices[goal:alive].clone())  # or all indices would stay as well
        dead.index_fill_(0, gone[-1], True)
        for name, part in _parts(dead, masks).items():
            state[name].masked_fill_(part, 0)
        alive = goal
    cuts, masses, low, high = (torch.stack(column) for column in zip(*rows, strict=True))
    return cuts, masses, low, high, gone


def _parts(flat: Tensor, masks: Masks) -> Masks:
    """One row of all layers, by layer again."""
    parts: tuple[Tensor, ...] = torch.split_with_sizes(flat, [m.numel() for m in masks.values()])
    return {name: part.view(masks[name].shape) for name, part in zip(masks, parts, strict=True)}


def _kept_by_layer(masks: Masks, gone: Sequence[Tensor]) -> list[dict[str, int]]:
    """Kept after each iteration, from the places that each removed."""
    counts = torch.stack([mask.count_nonzero() for mask in masks.values()])
    ends = torch.tensor([mask.numel() for mask in masks.values()], device=counts.device).cumsum(0)
    kept = []
    for places in gone:
        layers = torch.bucketize(places, ends, right=True)
        counts = counts - layers.bincount(minlength=len(masks))
        kept.append(dict(zip(masks, counts.tolist(), strict=True)))
    return kept
