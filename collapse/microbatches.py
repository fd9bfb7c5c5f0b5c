"""Batches in parts that stay in the processor's cache, where that changes nothing.

Passes over a whole batch of images read and write activations that no cache holds; a double
backward, which is what GraSP takes, does so dozens of times. Parts take less time and memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from collapse.functional import call, stand_ins, streams_at
from collapse.score_types import Batch, ScoreInputs

# Samples at a time. At 32×32 the activations of a layer are then a few megabytes.
AT_ONCE = 64


def microbatches(model: nn.Module, inputs: ScoreInputs, dtype: torch.dtype) -> list[Batch]:
    """The batches of ``inputs``, in parts of at most ``AT_ONCE`` samples where they may be parted.

    They may not where samples meet: in train mode (BatchNorm's statistics are the batch's), in a
    loss of the user's own, or in the model's forward. They need not on an accelerator.

    Args:
        dtype: in which the model is run.
    """
    whole = list(inputs.batches)
    if all(len(y) <= AT_ONCE or x.device.type != "cpu" for x, y in whole):
        return whole
    if inputs.mode == "train" or inputs.loss is not F.cross_entropy:
        return whole
    largest = max((x for x, _ in whole), key=len)
    if not _independent(model, largest, inputs, dtype):
        return whole
    return [
        (x[start : start + AT_ONCE], y[start : start + AT_ONCE])
        for x, y in whole
        for start in range(0, len(y), AT_ONCE)
    ]


@torch.no_grad()
def _independent(
    model: nn.Module, x: torch.Tensor, inputs: ScoreInputs, dtype: torch.dtype
) -> bool:
    """Whether the output of the first sample is the same, bit by bit, in other company."""
    others = (x != x[:1]).flatten(1).any(1).nonzero()
    if not len(others):
        return False
    outputs = []
    for pair in (x[[0, int(others[0])]], x[[0, 0]]):
        with streams_at(model, 0):  # a forward that draws draws the same
            pair = pair.to(dtype) if pair.is_floating_point() else pair
            outputs.append(call(model, stand_ins(model, dtype=dtype), pair, inputs.output))
    one, other = outputs
    return one.ndim > 0 and one.shape == other.shape and torch.equal(one[0], other[0])
