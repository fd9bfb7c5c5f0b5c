"""Which tensors of a network are prunable."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.utils import parametrize

from collapse.errors import RequestError
from collapse.models.paper import LAYERS, NORMS


def prunable(
    model: nn.Module, *, biases: bool = False, batchnorm: bool = False
) -> dict[str, nn.Parameter]:
    """The prunable tensors of a model, keyed by parameter name, in parameter order.

    A layer is the ``weight`` of a Linear or ConvNd module (any dimension, groups, transposed).
    A weight shared by several modules is counted once, under its first name; a frozen one
    (``requires_grad=False``) is as prunable as any other.

    Args:
        biases: also the ``bias`` of each of these modules.
        batchnorm: also weight and bias of each normalisation module.

    Raises:
        RequestError: there is no such tensor, or a module computes its weight from others
            (``torch.nn.utils.prune``, parametrizations) or has no weight yet (lazy modules).
    """
    wanted: set[int] = set()
    for path, module in model.named_modules():
        if isinstance(module, LAYERS):
            _check_plain_weight(path, module)
            tensors = [module.weight, *([module.bias] if biases else [])]
        elif batchnorm and isinstance(module, NORMS):
            tensors = [module.weight, module.bias]
        else:
            continue
        wanted.update(id(tensor) for tensor in tensors if tensor is not None)
    found = {name: p for name, p in model.named_parameters() if id(p) in wanted}
    if not found:
        raise RequestError(
            f"{type(model).__name__} has no prunable layer: "
            "expected at least one Linear or ConvNd module, found none"
        )
    return found


def _check_plain_weight(path: str, module: nn.Module) -> None:
    """A layer whose weight is not a plain parameter would be left out in silence otherwise."""
    if "weight_orig" in module._parameters:
        raise RequestError(
            f"'{path}' carries a mask of torch.nn.utils.prune: expected a plain weight; "
            f"call torch.nn.utils.prune.remove(module, 'weight') first"
        )
    if parametrize.is_parametrized(module, "weight"):
        raise RequestError(
            f"'{path}.weight' is parametrized: expected a plain weight; "
            f"call torch.nn.utils.parametrize.remove_parametrizations first"
        )
    if isinstance(module.weight, nn.UninitializedParameter):
        raise RequestError(
            f"'{path}' is a lazy module without weights: expected an initialised one; "
            f"run the model once on an input first"
        )


def check_finite(model: nn.Module) -> None:
    """Raise RequestError that names the first tensor with NaN or infinite values, if any."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and tensor.numel():
            # aminmax lets NaN through and allocates nothing, unlike isfinite().all().
            low, high = torch.aminmax(tensor.detach())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise RequestError(
                    f"'{name}' holds NaN or infinite values: expected finite weights"
                )
