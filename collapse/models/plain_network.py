"""Networks as people have them, made plain: ordinary modules whose weights are parameters.

The same function with the user's own tensors wherever they are parameters already, so that what is
written into the plain network's is written into the user's. What is made plain:

- ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel`` wrap a network: it is taken
  out, so that names are its own.
- ``nn.MultiheadAttention`` packs three maps in ``in_proj_weight``: they become ``q_proj_weight``,
  ``k_proj_weight`` and ``v_proj_weight``, torch's own form of it, each a view of its rows.
- A weight that is computed (parametrizations, weight norm, spectral norm, ``torch.nn.utils.prune``)
  becomes a parameter that holds its value in eval mode.
- Observers and fake quantisation (``prepare_qat``) become the identity.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils import prune as torch_prune

from collapse.errors import RequestError, first_line
from collapse.models.kinds import PROJECTIONS, is_a

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_OBSERVERS = (
    *(("torch", "FakeQuantizeBase"), ("torch", "ObserverBase")),
    *(("torchao", "FakeQuantizeBase"), ("torchao", "ObserverBase")),
)
# Hooks that compute a weight before each forward, and what takes them off.
_NORMS = {"WeightNorm": remove_weight_norm, "SpectralNorm": remove_spectral_norm}


def plain(model: nn.Module) -> nn.Module:
    """An ordinary network of the same function; the model itself if it is one.

    Raises:
        RequestError: it is scripted, or has to be copied and cannot be.

    Example:
        >>> attention = nn.MultiheadAttention(4, 2)
        >>> [name for name, _ in plain(attention).named_parameters() if "proj_weight" in name]
        ['q_proj_weight', 'k_proj_weight', 'v_proj_weight']
    """
    return with_own_masks(model)[0]


def with_own_masks(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """``plain``, and the masks that ``torch.nn.utils.prune`` has put on it, by plain name."""
    if not isinstance(model, nn.Module):
        raise RequestError(f"expected a torch.nn.Module, got {type(model).__name__}")
    model = _unwrapped(model)
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise RequestError(
                f"'{path or type(model).__name__}' is scripted or traced (torch.jit) and cannot be "
                "looked into: expected the eager network that it was made from"
            )
    if not any(map(_is_special, model.modules())):
        return model, {}
    twin, masks = _copy(model), {}
    for path, module in list(twin.named_modules()):
        prefix = f"{path}." if path else ""
        for name in computed(module):
            mask = getattr(module, f"{name}_mask", None)
            if mask is not None and f"{name}_orig" in module._parameters:
                masks[prefix + name] = mask.detach().bool()
            _fix(module, name)
        if is_packed(module):
            _unpack(module)
            if (mask := masks.pop(f"{prefix}in_proj_weight", None)) is not None:
                masks |= zip((prefix + p for p in PROJECTIONS), mask.chunk(3), strict=True)
    return twin, masks


def is_quantised(model: nn.Module) -> bool:
    """Whether a network has observers or fake quantisation, which the plain one leaves out."""
    return any(is_a(module, *_OBSERVERS) for module in model.modules())


def check_in_place(model: nn.Module) -> None:
    """Raise RequestError where training the plain network would not train the user's own."""
    for path, module in model.named_modules():
        for name in computed(module):
            raise RequestError(
                f"'{name}' of '{path}' is computed from other tensors (a parametrization, weight "
                "norm or torch.nn.utils.prune), and training would not reach them: expected a "
                "plain weight; call remove_parametrizations, remove_weight_norm or prune.remove"
            )
    if is_quantised(model):
        raise RequestError(
            "the network has observers or fake quantisation, which training here would leave out: "
            "expected it as it was before prepare_qat"
        )


def is_packed(module: nn.Module) -> bool:
    """Whether it is an attention whose three maps are one parameter, used as torch does."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and module.__dict__.get("_qkv_same_embed_dim", False)
        and type(module).forward is nn.MultiheadAttention.forward
        and "forward" not in module.__dict__
    )


def computed(module: nn.Module) -> list[str]:
    """The names of a module's tensors that are computed from others."""
    if not module._forward_pre_hooks and "parametrizations" not in module._modules:
        return []  # nearly all: this is asked of every module in each scoring
    names = list(_parametrizations(module))
    hooks: list[Any] = list(module._forward_pre_hooks.values())
    for hook in hooks:
        if isinstance(hook, torch_prune.BasePruningMethod):
            names.append(hook._tensor_name)
        elif _is_norm(hook):
            names.append(hook.name)
    return list(dict.fromkeys(names))


def places(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The user's own modules, each with the path and a dot that its tensors have when plain."""
    model = _unwrapped(model)
    yield prefix, model
    for name, child in model._modules.items():
        if child is not None and name != "parametrizations":
            yield from places(child, f"{prefix}{name}.")


def _unwrapped(model: nn.Module) -> nn.Module:
    while True:
        if isinstance(model, _PARALLEL):
            model = model.module
        elif is_a(model, ("torch", "OptimizedModule")):
            model = model._modules["_orig_mod"]  # type: ignore[assignment]  # never None
        else:
            return model


def _is_special(module: nn.Module) -> bool:
    return bool(
        module._compiled_call_impl is not None
        or _unwrapped(module) is not module
        or computed(module)
        or is_packed(module)
        or is_a(module, *_OBSERVERS)
    )


_NONE = nn.ModuleDict()


def _parametrizations(module: nn.Module) -> nn.ModuleDict:
    found = module._modules.get("parametrizations")
    return found if isinstance(found, nn.ModuleDict) else _NONE


def _is_norm(hook: Any) -> bool:
    return type(hook).__name__ in _NORMS and type(hook).__module__.startswith("torch.nn.utils")


def _copy(model: nn.Module) -> nn.Module:
    """Other modules with the same tensors, but for those that a weight is computed from."""
    shared: dict[int, Any] = {}
    own: set[int] = set()
    for module in model.modules():
        loose = [x for x in module.__dict__.values() if isinstance(x, Tensor)]
        shared |= {id(x): x for x in loose}
        tensors = [*module._parameters.values(), *module._buffers.values()]
        shared |= {id(x): x for x in tensors if x is not None}
        own |= {id(x) for x in _behind(module)}
    memo = {key: x for key, x in shared.items() if key not in own}
    try:
        for module in reversed(list(model.modules())):  # the innermost first
            if is_a(module, *_OBSERVERS):
                memo[id(module)] = nn.Identity()
            elif (inside := _unwrapped(module)) is not module:
                memo[id(module)] = copy.deepcopy(inside, memo)
        return copy.deepcopy(model, memo)
    except Exception as error:  # a user's module may hold anything
        raise RequestError(
            f"{type(model).__name__} has to be copied to be made plain, and cannot be: "
            f"{first_line(error)}"
        ) from error


# What torch calls the tensors that a weight is computed from, behind its name.
_PARTS = ("_orig", "_mask", "_g", "_v", "_u")


def _behind(module: nn.Module) -> Iterator[Tensor]:
    """The tensors that a module's computed tensors are computed from."""
    parts = {name + part for name in computed(module) for part in _PARTS}
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if name in parts and tensor is not None:
            yield tensor
    yield from _parametrizations(module).parameters()
    yield from _parametrizations(module).buffers()


@torch.no_grad()
def _fix(module: nn.Module, name: str) -> None:
    """Make a computed tensor of a copy a parameter that holds its value."""
    if parametrize.is_parametrized(module, name):
        _fix_parametrized(module)
    hooks: list[Any] = list(module._forward_pre_hooks.values())
    for hook in hooks:
        if isinstance(hook, torch_prune.BasePruningMethod) and hook._tensor_name == name:
            torch_prune.remove(module, name)  # type: ignore[no-untyped-call]  # torch's own
        elif _is_norm(hook) and hook.name == name:
            _NORMS[type(hook).__name__](module, name)


def _fix_parametrized(module: nn.Module) -> None:
    """All of a module's; torch's own function would change the class, which the user's shares."""
    behind = _parametrizations(module)
    behind.eval()  # spectral norm goes on with its power iteration in train mode
    values = {
        name: nn.Parameter(
            computing().detach().clone(),
            requires_grad=any(p.requires_grad for p in computing.parameters()),
        )
        for name, computing in behind.items()
    }
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        module.register_parameter(name, value)


def _unpack(module: nn.Module) -> None:
    packed = module.in_proj_weight
    assert isinstance(packed, nn.Parameter)
    for name, rows in zip(PROJECTIONS, packed.detach().chunk(3), strict=True):
        setattr(module, name, nn.Parameter(rows, requires_grad=packed.requires_grad))
    module.in_proj_weight = None  # type: ignore[assignment]  # as torch does it
    module._qkv_same_embed_dim = False  # type: ignore[assignment]
