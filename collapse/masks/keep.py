"""Pruned weights that stay zero in a training loop of the user's own."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from collapse.errors import RequestError
from collapse.masks.on_models import check_fit
from collapse.models import computed, own_parameters


def keep_pruned(
    model: nn.Module, masks: Mapping[str, Tensor], optimizer: Optimizer | None = None
) -> Kept:
    """Set every pruned weight to zero, in place, and keep it there while the model is trained.

    Three hooks, all on tensors of the user's own; no module is wrapped or replaced:

    - A pruned weight's gradient is zero as soon as it is accumulated (unless it is sparse): state
      and the norm by which gradients are clipped never see it. Survivors get the same bits as with
      masks in the forward from zero on, also where the optimiser couples weights (Muon, Adafactor);
      there give it no state of before. An infinite gradient of a pruned weight is zero too, where
      a mask in the forward makes it NaN.
    - After a step of any optimiser pruned weights are set to zero: no momentum of before, and no
      0/0 of an optimiser with ``eps=0``, is ever seen.
    - So are they before a forward: weights that an average was copied into, or a dense checkpoint.
      (A compiled forward has no such hook: there they are zero again after the next step.)

    A copy or a pickle of the model takes all three along, with its masks and for whatever
    optimiser; its state dict is an ordinary one. A pickle is read where this package is installed.
    Call it when the network is as it will be trained: after ``fully_shard`` or Accelerate's
    ``prepare``, which put other parameters in place of its own. A second call replaces the first.

    Args:
        model: the user's own: compiled, wrapped, sharded, with packed attention.
        masks: boolean, by the names of the plain network (``models.plain``); True is kept.
        optimizer: checked to hold the pruned weights; without it (it is made later, inside
            Lightning or a Trainer, or there are several) nothing is.

    Returns:
        A handle: ``remove()`` lets the weights go, and so does the end of a ``with`` block.

    Raises:
        RequestError: masks of another network, an optimiser that holds other parameters, or a
            pruned weight that is computed from other tensors. Nothing is changed.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> kept = keep_pruned(model, {"weight": torch.tensor([[True, False]])}, optimizer)
        >>> model(torch.ones(1, 2)).backward(); optimizer.step(); model.weight[0, 1].item()
        0.0
    """
    check_fit(model, masks)
    own = list(own_parameters(model, masks))
    for module, name, _ in own:
        if name in computed(module):
            raise RequestError(
                f"'{name}' of a {type(module).__name__} is computed from other tensors: expected a "
                "plain weight; call remove_parametrizations, remove_weight_norm or prune.remove"
            )
    # Each once, also what several modules share.
    weights = {module.get_parameter(name): mask for module, name, mask in own}
    if optimizer is not None:
        _check_held(model, weights, optimizer)
    for key, hook in list(model._forward_pre_hooks.items()):
        if isinstance(hook, Kept):
            hook.remove()
            model._forward_pre_hooks.pop(key, None)  # a copy's hook has no handle
    kept = Kept([(weight, _pruned(weight, mask)) for weight, mask in weights.items()])
    kept._handles.append(model.register_forward_pre_hook(kept, prepend=True))
    kept.zero()
    return kept


class Kept:
    """What ``keep_pruned`` returns."""

    def __init__(self, pruned: list[tuple[nn.Parameter, Tensor]]) -> None:
        self.__setstate__(pruned)

    def zero(self) -> None:
        """Set the pruned weights to zero now."""
        for parameter, pruned in self._pruned:
            # ``data`` has no version: a second forward before the backward may be.
            _zero(parameter.data, pruned)

    def remove(self) -> None:
        """Let the pruned weights train."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Before a forward."""
        if not torch.compiler.is_compiling():
            self.zero()

    def __getstate__(self) -> list[tuple[nn.Parameter, Tensor]]:
        return self._pruned

    # A copy's parameters have no hooks: this is where it gets its own.
    def __setstate__(self, pruned: list[tuple[nn.Parameter, Tensor]]) -> None:
        self._pruned = pruned
        self._handles: list[RemovableHandle] = []
        for weight, where in pruned:
            if weight.requires_grad:
                hook = partial(_zero_gradient, where)
                handle = weight.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]  # torch's
                self._handles.append(handle)
        after = partial(_after_step, weakref.ref(self))  # no hook keeps the model alive
        self._handles.append(register_optimizer_step_post_hook(after))
        self._finalizer = weakref.finalize(self, _remove, self._handles)


def _zero(tensor: Tensor, pruned: Tensor) -> None:
    if pruned.device != tensor.device:  # a Trainer has moved the network: once
        pruned.data = pruned.to(tensor.device)
    tensor.masked_fill_(pruned, 0)  # a product would leave NaN, and signs of zero


def _zero_gradient(pruned: Tensor, parameter: Tensor) -> None:
    if parameter.grad is not None and not parameter.grad.is_sparse:
        _zero(parameter.grad.data, pruned)


def _after_step(kept: weakref.ref[Kept], *_: object) -> None:
    if (found := kept()) is not None:
        found.zero()


def _remove(handles: Iterable[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def _pruned(weight: nn.Parameter, mask: Tensor) -> Tensor:
    """Where a weight is pruned, on its device, and sharded as it is."""
    where = ~mask.to(weight.device)
    if not hasattr(weight, "device_mesh"):
        return where
    from torch.distributed.tensor import DTensor, distribute_tensor  # slow to import

    assert isinstance(weight, DTensor)
    return distribute_tensor(where, weight.device_mesh, weight.placements)


def _check_held(model: nn.Module, weights: Iterable[nn.Parameter], optimizer: Optimizer) -> None:
    held = {id(each) for group in optimizer.param_groups for each in group["params"]}
    for weight in weights:
        if weight.requires_grad and id(weight) not in held:
            name = next(n for n, each in model.named_parameters() if each is weight)
            raise RequestError(
                f"the {type(optimizer).__name__} holds other parameters: expected '{name}' among "
                f"its {len(held)}, which is pruned (of several optimisers give none)"
            )
