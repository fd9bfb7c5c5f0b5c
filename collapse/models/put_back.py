"""Masks of the plain network, put back onto the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils import prune as torch_prune

from collapse.errors import RequestError
from collapse.models.kinds import PROJECTIONS
from collapse.models.plain_network import computed, is_packed, places, plain


def own_parameters(
    model: nn.Module, masks: Mapping[str, Tensor]
) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """The user's own modules, the names of their tensors that the masks are of, and the masks."""
    by_id = {id(p): masks[name] for name, p in plain(model).named_parameters() if name in masks}
    for prefix, module in places(model):
        for name in computed(module):
            if prefix + name in masks:
                yield module, name, masks[prefix + name]
        for name, parameter in list(module._parameters.items()):
            if id(parameter) in by_id:
                yield module, name, by_id[id(parameter)]
        if is_packed(module):
            names = [prefix + name for name in PROJECTIONS]
            if any(name in masks for name in names):
                rows = module.in_proj_weight.detach().chunk(3)  # type: ignore[operator]
                parts = zip(names, rows, strict=True)
                whole = [masks.get(n, torch.ones_like(r, dtype=torch.bool)) for n, r in parts]
                yield module, "in_proj_weight", torch.cat(whole)


@torch.no_grad()
def hold(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Have every computed tensor of the user's own model zero where it is pruned, or none.

    A mask of ``torch.nn.utils.prune`` takes the pruned entries along; a parametrization is given
    the masked weight (its ``right_inverse``).

    Raises:
        RequestError: the weight cannot be set; the model is as it was.
    """
    done: list[tuple[Tensor, Tensor]] = []
    try:
        for module, name, mask in own_parameters(model, masks):
            if name not in computed(module):
                continue
            done += [(t, t.clone()) for t in (*module.parameters(), *module.buffers())]
            _set(module, name, mask)
    except RequestError:
        for tensor, before in done:
            tensor.copy_(before)
        raise


def _set(module: nn.Module, name: str, mask: Tensor) -> None:
    hooks: list[Any] = list(module._forward_pre_hooks.values())
    for hook in hooks:
        if isinstance(hook, torch_prune.BasePruningMethod) and hook._tensor_name == name:
            module.get_buffer(f"{name}_mask").mul_(mask)
            setattr(module, name, hook.apply_mask(module))  # type: ignore[no-untyped-call]
            return
    wanted = _value(module, name) * mask
    try:
        _try(module, name, wanted)
        same = torch.allclose(_value(module, name), wanted, rtol=1e-4, atol=1e-6)
    except Exception:  # a parametrization of the user's without right_inverse, say
        same = False
    if not same:
        raise RequestError(
            f"'{name}' of a {type(module).__name__} is computed by what takes no masked weight: "
            "call remove_parametrizations or remove_spectral_norm first"
        )


def _value(module: nn.Module, name: str) -> Tensor:
    return dict(plain(module).named_parameters())[name]


def _try(module: nn.Module, name: str, wanted: Tensor) -> None:
    """Have a parametrization, or a norm's hook, give the wanted weight."""
    if parametrize.is_parametrized(module, name):
        behind: Any = module.parametrizations[name]  # type: ignore[index]  # a ModuleDict
        if type(behind[0]).__name__ == "_WeightNorm":
            _factor(behind.original0, behind.original1, wanted, behind[0].dim)
        else:
            setattr(module, name, wanted)
        return
    hooks: list[Any] = list(module._forward_pre_hooks.values())
    hook = next(hook for hook in hooks if getattr(hook, "name", None) == name)
    g, v = (module.get_parameter(f"{name}_{part}") for part in "gv")
    _factor(g, v, wanted, hook.dim)
    setattr(module, name, hook.compute_weight(module))


def _factor(length: Tensor, direction: Tensor, wanted: Tensor, dim: int) -> None:
    """Weight norm's two factors; of what is all zero the direction stays, there is no other."""
    length.copy_(torch.norm_except_dim(wanted, 2, dim))
    direction.copy_(torch.where(length == 0, direction, wanted))
