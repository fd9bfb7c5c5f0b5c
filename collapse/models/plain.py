"""A network without what other tools put around it or into it."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize, prune

from collapse.errors import RequestError, first_line


def plain(model: nn.Module) -> nn.Module:
    """The network whose weights are plain parameters: the model itself, or else a copy.

    ``torch.compile``, ``DataParallel`` and its distributed form are taken off. Masks of
    ``torch.nn.utils.prune`` become zeros, and parametrisations (torchao's masks, weight norm)
    become the weights that they compute, in a copy.

    Raises:
        RequestError: the model would have to be copied and cannot be.
    """
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            break
        model = inner
    if not any(_masked(m) or parametrize.is_parametrized(m) for m in model.modules()):
        return model
    model = _copied(model)
    for module in model.modules():
        for name in _masked(module):
            prune.remove(module, name)  # type: ignore[no-untyped-call]  # torch's own
        for name in list(getattr(module, "parametrizations", ())):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return model


def _masked(module: nn.Module) -> list[str]:
    names = [name.removesuffix("_orig") for name in module._parameters if name.endswith("_orig")]
    return [name for name in names if f"{name}_mask" in module._buffers]


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy; torch's own refuses the weight that torch's own pruning has computed."""
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(model, computed)
    except Exception as error:  # a user's module may hold anything
        raise RequestError(
            f"the model's masks cannot be made zeros in a copy of it: {first_line(error)}"
        ) from error
