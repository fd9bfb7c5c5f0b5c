"""BatchNorm statistics from data, before a score: a warm-up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from collapse.models import (
    Inputs,
    Masks,
    Selector,
    call,
    cast,
    compute_dtype,
    kept_parameters,
    stand_ins,
    untouched,
)
from collapse.scores.inputs import ScoreInputs


def statistics(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    inputs: Sequence[Inputs],
    output: Selector = None,
) -> dict[str, Tensor]:
    """The buffers of normalisations after one forward of each batch in train mode.

    Running means and variances are then the means of the batches' own: nothing is left of the
    values before, and no momentum weighs the last batch most. Weights stay as they are.

    Args:
        tensors: the model's state, as from ``stand_ins``; not changed.
        inputs: batches, in the precision of ``tensors``.

    Returns:
        By name, what to put in place of those in ``tensors``. Empty for a model without.
    """
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _NormBase) and module.track_running_stats
    }
    names = [f"{name}.{key}" for name, m in norms.items() for key, _ in m.named_buffers()]
    found = {name: tensors[name].clone() for name in names if name in tensors}
    momenta = [(module, module.momentum) for module in norms.values()]
    for name in norms:
        counter = f"{name}.num_batches_tracked"
        if counter in found:
            found[counter].zero_()
    try:
        for module, _ in momenta:
            module.momentum = None  # torch's name for the plain mean over batches
        with untouched(model, "train"), torch.no_grad():
            for x in inputs:
                call(model, {**tensors, **found}, x, output)
    finally:
        for module, momentum in momenta:
            module.momentum = momentum
    return found


@contextlib.contextmanager
def warmed(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Iterator[None]:
    """Inside the block a model's BatchNorm statistics are those of the batches.

    They are taken with pruned weights at zero: of the network that is scored.
    """
    dtype = inputs.dtype or compute_dtype(model)
    tensors = stand_ins(model, dtype=dtype, parameter=kept_parameters(masks))
    batches = [cast(x, dtype) for x, _ in inputs.batches]
    found = statistics(model, tensors, batches, inputs.output)
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in found}
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    try:
        for name, buffer in buffers.items():
            buffer.copy_(found[name])
        yield
    finally:
        for name, buffer in buffers.items():
            buffer.copy_(before[name])
