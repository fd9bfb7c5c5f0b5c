"""Dead weights: kept weights on no input→output path of kept weights.

The network runs once forward and backward on an input of ones with its masks as weights and every
operation replaced by one that only says *connected or not*: biases are out, normalisations and
activations pass, a maximum becomes a mean. A weight is alive when the gradient that reaches it is
not zero. This needs no tracing, so it works on any model whose forward runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from collapse.models import Masks, Selector, call, stand_ins, untouched


class _Connected(torch.autograd.Function):
    """Replace each value by a fixed random one in [¼, ¾] where it is not zero, in both directions.

    Nothing over- or underflows then at any depth, which a count of paths would; and operations
    that subtract (attention, a normalisation that we do not know) do not cancel by symmetry,
    which ones would.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _noise_where(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _noise_where(gradients[0])


def _noise_where(x: Tensor) -> Tensor:
    return torch.rand_like(x).mul_(0.5).add_(0.25).mul_(x != 0)


def _connected(x: Tensor) -> Tensor:
    result: Tensor = _Connected.apply(x)
    return result


def _first(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _gate(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Functions that are not zero at zero: open, and dependent on their input."""
    return 1 + x


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    return _connected((1 + query @ key.transpose(-1, -2)) @ value)


def _mean_pool(pool: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A maximum lets the gradient through at one position only; a mean through all that can."""

    def replacement(
        x: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        *_: Any,
        **__: Any,
    ) -> Tensor:
        return pool(x, kernel_size, stride or None, padding, ceil_mode)

    return replacement


def _adaptive_mean_pool(pool: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, output_size, *_, **__: pool(x, output_size)


def _linear_maps() -> list[Callable[..., Any]]:
    convolutions = ("conv1d", "conv2d", "conv3d")
    transposed = tuple(f"conv_transpose{d}d" for d in (1, 2, 3))
    return [F.linear, F.bilinear, *(getattr(F, name) for name in (*convolutions, *transposed))]


_PASS = (
    *("relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("hardswish", "hardtanh", "softplus", "softsign", "tanhshrink", "tanh", "logsigmoid"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "threshold"),
    *("feature_alpha_dropout", "batch_norm", "layer_norm", "group_norm", "instance_norm"),
    *("rms_norm", "local_response_norm", "normalize"),
)
_GATES = ("sigmoid", "hardsigmoid", "softmax", "log_softmax")


def _replacements() -> dict[Any, Callable[..., Tensor]]:
    table: dict[Any, Callable[..., Tensor]] = {}
    for namespace in (F, torch, Tensor):
        for names, replacement in ((_PASS, _first), (_GATES, _gate)):
            for name in (n for base in names for n in (base, f"{base}_")):
                if hasattr(namespace, name):
                    table[getattr(namespace, name)] = replacement
    for d in (1, 2, 3):
        mean = _mean_pool(getattr(F, f"avg_pool{d}d"))
        adaptive = _adaptive_mean_pool(getattr(F, f"adaptive_avg_pool{d}d"))
        for name in (f"max_pool{d}d", f"_max_pool{d}d", f"max_pool{d}d_with_indices"):
            for namespace in (F, torch):
                if hasattr(namespace, name):
                    table[getattr(namespace, name)] = mean
        table[getattr(F, f"adaptive_max_pool{d}d")] = adaptive
    table[F.scaled_dot_product_attention] = _attention
    table[torch.maximum] = torch.add
    return table


class _ConnectionMode(TorchFunctionMode):
    """Runs each operation as its replacement, and every linear map through ``_Connected``."""

    replacements = _replacements()
    linear_maps = frozenset(_linear_maps())

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in self.replacements:
            return self.replacements[func](*args, **options)
        result = func(*args, **options)
        return _connected(result) if func in self.linear_maps else result


def living(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    example: Tensor,
    *,
    output: Selector = None,
) -> Masks:
    """The kept weights that lie on an input→output path of kept weights; the others are dead.

    Args:
        masks: boolean, by parameter name.
        example: an input batch ``[n, …]``; only its shape is used. A path is a path at this
            input size: kernel entries that only ever see padding are dead.
        output: selects a tensor from a forward that returns several.

    Returns:
        Masks that are a subset of ``masks``. Effective density is their density.
    """

    def parameter(name: str, value: Tensor) -> Tensor:
        if name in masks:
            return masks[name].to(torch.float32)
        bias = name.rpartition(".")[2] == "bias"
        return torch.zeros_like(value) if bias else torch.ones_like(value)

    with untouched(model, "eval"), torch.enable_grad():
        tensors = stand_ins(model, dtype=torch.float32, parameter=parameter)
        leaves = [tensors[name].requires_grad_() for name in masks]
        ones = torch.ones((1, *example.shape[1:]), device=example.device)
        with _ConnectionMode():
            reached = call(model, tensors, ones, output)
        if not reached.requires_grad:
            return {name: torch.zeros_like(mask) for name, mask in masks.items()}
        gradients = torch.autograd.grad(reached.sum(), leaves, allow_unused=True)
    return {
        name: torch.zeros_like(mask) if gradient is None else mask & (gradient != 0)
        for (name, mask), gradient in zip(masks.items(), gradients, strict=True)
    }
