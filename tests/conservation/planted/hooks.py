"""Faults by hooks: gradients that something changes on their way."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.conservation.planted import Case, caught, excusable, listed
from tests.conservation.planted.networks import Around, vectors


def _hooked(hook) -> Case:
    def middle(x: Tensor) -> Tensor:
        x = x.relu()
        x.register_hook(hook)
        return x

    return vectors(middle)


@caught(r"fan-out at middle:relu")
def _() -> Case:
    """a tensor hook that scales a gradient."""
    return _hooked(lambda g: 1.1 * g)


@caught(r"fan-out at middle:relu")
def _() -> Case:
    """a tensor hook that clips a gradient."""
    return _hooked(lambda g: g.clamp(-1e-3, 1e-3))


@caught(r"fan-out at middle:relu")
def _() -> Case:
    """a tensor hook that loses one unit's gradient."""
    return _hooked(lambda g: g * (torch.arange(8) != 2))


@caught(r"fan-out at middle:relu")
def _() -> Case:
    """a tensor hook that exchanges samples."""
    return _hooked(lambda g: g.flip(0))


@caught(r"(output units at c1.weight|fan-out at c1.weight)")
def _() -> Case:
    """a hook on a node of autograd's graph that scales what it hands on."""

    def middle(x: Tensor) -> Tensor:
        x.grad_fn.register_hook(lambda into, out: tuple(None if g is None else 2 * g for g in into))
        return x.relu()

    return vectors(middle)


@caught(r"(output units|fan-out) at c1.weight")
def _() -> Case:
    """a hook on a node that scales what it is given."""

    def middle(x: Tensor) -> Tensor:
        x.grad_fn.register_prehook(lambda out: tuple(2 * g for g in out))
        return x.relu()

    return vectors(middle)


def _with_module_hook(register: str) -> Case:
    case = vectors(nn.ReLU())

    def hook(module: nn.Module, *gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(1.1 * g for g in gradients[0])

    getattr(case.model.middle, register)(hook)
    return case


@caught(r"gradient at (middle|network):BackwardHookFunction")
def _() -> Case:
    """a full backward hook that scales the gradient of a module's input."""
    return _with_module_hook("register_full_backward_hook")


@caught(r"gradient at (middle|network):BackwardHookFunction|fan-out at middle")
def _() -> Case:
    """a full backward pre-hook that scales the gradient of a module's output."""
    return _with_module_hook("register_full_backward_pre_hook")


@caught(r"(homogeneous|fan-out) at middle:relu")
def _() -> Case:
    """a backward hook of the old kind that scales what a module hands on."""
    return _with_module_hook("register_backward_hook")


@excusable(
    "the hook lives on the user's parameter, and scores are computed on stand-ins: neither the "
    "pruner nor the audit ever sees it"
)
def _() -> Case:
    """a hook on a parameter of the user's that doubles its gradient."""
    case = vectors(nn.ReLU())
    case.model.c2.weight.register_hook(lambda g: 2 * g)
    return case


@caught(r"score at c2.weight|score weights at c2.weight")
def _() -> Case:
    """a hook that the forward puts on a weight, and that doubles its gradient."""

    class Hooking(Around):
        def forward(self, x: Tensor) -> Tensor:
            if self.c2.weight.requires_grad:
                self.c2.weight.register_hook(lambda g: 2 * g)
            return super().forward(x)

    case = vectors(nn.ReLU())
    twin = Hooking(nn.ReLU()).double()
    twin.load_state_dict(case.model.state_dict())
    return Case(twin, case.batch)


@listed(r"add in network|add in middle")
def _() -> Case:
    """a forward hook that adds a constant."""
    case = vectors(nn.ReLU())
    case.model.middle.register_forward_hook(lambda module, x, y: y + 0.5)
    return case


@listed(r"detach \(detached\) in middle|detach \(detached\) in network")
def _() -> Case:
    """a forward pre-hook that takes half of the input without its gradient."""
    case = vectors(nn.ReLU())
    case.model.middle.register_forward_pre_hook(
        lambda module, x: (0.5 * x[0] + 0.5 * x[0].detach(),)
    )
    return case
