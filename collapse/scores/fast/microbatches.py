"""Batches in parts that stay in the processor's cache, where that changes nothing.

Passes over a whole batch of images read and write activations that no cache holds; a double
backward, which is what GraSP takes, does so dozens of times. Parts take less time and memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse.errors import RequestError
from collapse.models import (
    Inputs,
    call,
    cast,
    first_tensor,
    samples,
    stand_ins,
    streams_at,
    taken,
    tensors_in,
)
from collapse.scores.inputs import Batch, ScoreInputs

# Samples at a time. At 32×32 the activations of a layer are then a few megabytes.
AT_ONCE = 64
# Samples that are looked at to know whether samples meet.
_FEW = 5


def microbatches(
    model: nn.Module, inputs: ScoreInputs, dtype: torch.dtype, at_once: int = AT_ONCE
) -> list[Batch]:
    """The batches of ``inputs``, in parts of at most ``at_once`` samples where they may be parted.

    They may not where samples meet: in train mode (BatchNorm's statistics are the batch's), in a
    loss of the user's own, or in the model's forward. They need not on an accelerator.

    Args:
        dtype: in which the model is run.
    """
    whole = list(inputs.batches)
    if all(samples(x) <= at_once or first_tensor(x).device.type != "cpu" for x, _ in whole):
        return whole
    if inputs.mode == "train" or inputs.loss is not F.cross_entropy or inputs.output == "all":
        return whole
    if not all(isinstance(y, Tensor) and (not y.numel() or int(y.min()) >= 0) for _, y in whole):
        return whole  # samples that no mean counts
    largest = max((x for x, _ in whole), key=samples)
    if not _independent(model, largest, inputs, dtype):
        return whole
    return [
        (taken(x, slice(start, start + at_once)), y[start : start + at_once])
        for x, y in whole
        for start in range(0, len(y), at_once)
    ]


@torch.no_grad()
def _independent(model: nn.Module, x: Inputs, inputs: ScoreInputs, dtype: torch.dtype) -> bool:
    """Whether a few samples have the same outputs in company as each beside itself, bit by bit.

    Five samples, an odd number, so that no split or roll maps the batch to itself; and a batch of
    two, to catch what depends on the batch size. False where the samples are alike, which cannot
    tell, and where the model does not take such batches.
    """
    few = cast(taken(x, slice(0, _FEW)), dtype)
    count = samples(few)
    alone = [list(tensors_in(taken(few, [i]))) for i in range(count)]
    if any(all(map(torch.equal, alone[i], alone[i - 1])) for i in range(count)):
        return False
    tensors = stand_ins(model, dtype=dtype)

    def run(batch: Inputs) -> Tensor:
        with streams_at(model, 0):  # a forward that draws random numbers draws the same ones
            output: Tensor = call(model, tensors, batch, inputs.output)
            return output

    try:
        together, pair = run(few), run(taken(few, slice(0, 2)))
        beside = [run(taken(few, [i] * count)) for i in range(count)]
    except RequestError:
        return False
    if together.shape[:1] != (count,) or pair.shape[:1] != (2,):
        return False
    same = all(torch.equal(out[i], together[i]) for i, out in enumerate(beside))
    return same and torch.allclose(pair, together[:2], rtol=1e-3)
