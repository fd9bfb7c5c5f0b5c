"""Batches in parts that stay in the processor's cache, where that changes nothing.

Passes over a whole batch of images read and write activations that no cache holds; a double
backward, which is what GraSP takes, does so dozens of times. Parts take less time and memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from collapse.errors import RequestError
from collapse.models import call, stand_ins, streams_at
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
    if all(len(y) <= at_once or x.device.type != "cpu" for x, y in whole):
        return whole
    if inputs.mode == "train" or inputs.loss is not F.cross_entropy:
        return whole
    if any(int(y.min()) < 0 for _, y in whole if y.numel()):  # samples that no mean counts
        return whole
    largest = max((x for x, _ in whole), key=len)
    if not _independent(model, largest, inputs, dtype):
        return whole
    return [
        (x[start : start + at_once], y[start : start + at_once])
        for x, y in whole
        for start in range(0, len(y), at_once)
    ]


@torch.no_grad()
def _independent(
    model: nn.Module, x: torch.Tensor, inputs: ScoreInputs, dtype: torch.dtype
) -> bool:
    """Whether a few samples have the same outputs in company as each beside itself, bit by bit.

    Five samples, an odd number, so that no split or roll maps the batch to itself; and a batch of
    two, to catch what depends on the batch size. False where the samples are alike, which cannot
    tell, and where the model does not take such batches.
    """
    few = x[:_FEW].to(dtype) if x.is_floating_point() else x[:_FEW]
    if not all(bool((few[i] != few[i - 1]).any()) for i in range(len(few))):
        return False
    tensors = stand_ins(model, dtype=dtype)

    def run(batch: torch.Tensor) -> torch.Tensor:
        with streams_at(model, 0):  # a forward that draws random numbers draws the same ones
            return call(model, tensors, batch, inputs.output)

    try:
        together, pair = run(few), run(few[:2])
        beside = [run(few[[i] * len(few)]) for i in range(len(few))]
    except RequestError:
        return False
    if together.shape[:1] != few.shape[:1] or pair.shape[:1] != (2,):
        return False
    same = all(torch.equal(out[i], together[i]) for i, out in enumerate(beside))
    return same and torch.allclose(pair, together[:2], rtol=1e-3)
