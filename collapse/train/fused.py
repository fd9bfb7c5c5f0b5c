"""BatchNorm with the ReLU after it, and pooling, compiled: for a smaller network on a CPU.

PyTorch's kernels take the channels of one position at a time, in vectors of up to 32 numbers. Of
three channels, as SynFlow leaves them, 29 places stay empty. Here several positions with all their
channels are one row, so that vectors are full, and a ReLU is taken while its number is at hand.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

# Numbers in a vector of the widest kind, in bfloat16; a row has twice as many at least.
_VECTOR = 32


def fuse(network: fx.GraphModule) -> None:
    """Have a network in channels_last compute its norms and poolings so while it trains.

    Its parameters, buffers and their names stay; so does what it computes, up to rounding.
    """
    calls = [node for node in network.graph.nodes if node.op == "call_module"]
    for node in calls:
        module = network.get_submodule(str(node.target))
        if type(module) is nn.BatchNorm2d and _is_plain(module):
            module.__class__ = Norm
        elif type(module) is nn.MaxPool2d and _halves(module):
            module.__class__ = Pool
        once = sum(other.target == node.target for other in calls) == 1
        if isinstance(module, Norm) and once and len(node.users) == 1:
            (after,) = node.users
            if _is_relu(network, after):
                module.rectified = True
                after.replace_all_uses_with(node)
                network.graph.erase_node(after)
    network.recompile()


def _is_plain(norm: nn.BatchNorm2d) -> bool:
    return norm.affine and norm.track_running_stats and norm.momentum is not None


def _halves(pool: nn.MaxPool2d) -> bool:
    sizes = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    pairs = [size if isinstance(size, tuple) else (size, size) for size in sizes]
    return pairs == [(2, 2), (2, 2), (0, 0), (1, 1)] and not pool.return_indices


def _is_relu(network: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(network.get_submodule(str(node.target))) is nn.ReLU
    return node.target in (F.relu, torch.relu, "relu", "relu_") and len(node.all_input_nodes) == 1


class Norm(nn.BatchNorm2d):
    """BatchNorm over ``[n, C, H, W]``, and a ReLU if ``rectified``."""

    rectified = False

    def forward(self, input: Tensor) -> Tensor:
        """Ordinary outside of training, and where there is nothing to take a variance of."""
        count = input.numel() // input.shape[1]
        found: Tensor
        if not self.training or count < 2:
            found = super().forward(input)
            return F.relu(found) if self.rectified else found
        with torch.autocast(input.device.type, enabled=False):
            found, mean, variance = _Normalised.apply(
                input, self.weight, self.bias, self.eps, self.rectified
            )
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        return found


class Pool(nn.MaxPool2d):
    """The greatest of each 2×2 positions."""

    def forward(self, input: Tensor) -> Tensor:
        """Ordinary outside of training and on odd sizes."""
        if not self.training or input.ndim != 4 or input.shape[2] % 2 or input.shape[3] % 2:
            ordinary: Tensor = super().forward(input)
            return ordinary
        found: Tensor = _Pooled.apply(input)
        return found


class _Normalised(torch.autograd.Function):
    """``max(0, a x + b)`` with ``a = γ / √(σ² + ε)``, ``b = β − μ a``; also gives μ and σ².

    Source: Ioffe & Szegedy 2015, algorithm 1, and the gradients below it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, rectified: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous(memory_format=torch.channels_last)
        rows, together = _rows(x)
        means, variances = (t.view(together, -1) for t in _compiled(_moments)(rows))
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        scale = torch.rsqrt(variance + eps)
        a = weight * scale
        parts = torch.stack([a, bias - mean * a, mean]).repeat(1, together)
        ctx.save_for_backward(x, weight, scale, parts)
        ctx.rectified = rectified
        ctx.mark_non_differentiable(mean, variance)
        found = _compiled(_scaled)(rows, parts, rectified)
        return _channels(found, *x.shape), mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, parts = ctx.saved_tensors
        rows, together = _rows(x)
        gradient, _ = _rows(gradients[0].contiguous(memory_format=torch.channels_last))
        sums = _compiled(_sums)(rows, gradient, parts, ctx.rectified)
        of_bias, of_weight = (t.view(together, -1).sum(0) for t in sums)
        of_weight *= scale
        found = None
        if ctx.needs_input_grad[0]:
            count, a = rows.shape[0] * together, weight * scale
            factors = torch.stack([a, -a * scale * of_weight / count, -a * of_bias / count])
            factors = factors.repeat(1, together)
            of_rows = _compiled(_gradient)(rows, gradient, parts, factors, ctx.rectified)
            found = _channels(of_rows, *x.shape)
        return found, of_weight, of_bias, None, None


class _Pooled(torch.autograd.Function):
    """Where several are the greatest, the gradient is the first one's, as PyTorch has it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x)  # not what it gives, which an operation in place may overwrite
        n, channels, height, width = x.shape
        found = _compiled(_greatest)(_in_memory(x, *_last(x)))
        return _channels(found, n, channels, height // 2, width // 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        given = [_in_memory(tensor, *_last(tensor)) for tensor in (x, gradient)]
        return _channels(_compiled(_to_the_first)(*given), *x.shape)


def _last(x: Tensor) -> tuple[int, int, int, int]:
    """A tensor's sizes with the channels last."""
    n, channels, height, width = x.shape
    return n, height, width, channels


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """Some positions together as a row, ``[R, k C]``, and how many they are, k."""
    channels, count, together = x.shape[1], x.numel() // x.shape[1], 1
    while together < 2 * _VECTOR and count % (2 * together) == 0:
        width = together * channels
        if width >= 2 * _VECTOR and width % _VECTOR == 0:
            break
        together *= 2
    return _in_memory(x, count // together, together * channels), together


def _in_memory(x: Tensor, *size: int) -> Tensor:
    """The numbers of a channels_last tensor in the order in which they lie, position by position.

    No view of it: the compiler would look at a view's origin at each call.
    """
    strides = [math.prod(size[place + 1 :]) for place in range(len(size))]
    return x.new_empty(0).set_(x.untyped_storage(), x.storage_offset(), size, strides)


def _channels(numbers: Tensor, n: int, channels: int, height: int, width: int) -> Tensor:
    """The inverse: ``[n, C, H, W]`` in channels_last; no view, so that it may be overwritten."""
    strides = (height * width * channels, 1, width * channels, channels)
    return numbers.new_empty(0).set_(
        numbers.untyped_storage(), numbers.storage_offset(), (n, channels, height, width), strides
    )


# --- What is compiled: rows of numbers, and vectors as long as a row ---------------------------


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Once for layers of every size."""
    return torch.compile(function, dynamic=True)


def _exact(x: Tensor) -> Tensor:
    """In float32, or in the network's own precision where that is higher."""
    return x if x.dtype == torch.float64 else x.float()


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    x = _exact(rows)
    # Around one of them: a mean far from zero would take the variance's digits.
    shifted = x - x[0]
    mean = shifted.sum(0) / x.shape[0]
    return mean + x[0], shifted.square().sum(0) / x.shape[0] - mean.square()


def _scaled(rows: Tensor, parts: Tensor, rectified: bool) -> Tensor:
    a, b, _ = parts.unbind()
    found = _exact(rows) * a + b
    return (torch.relu(found) if rectified else found).to(rows.dtype)


def _let_through(
    rows: Tensor, gradient: Tensor, parts: Tensor, rectified: bool
) -> tuple[Tensor, Tensor]:
    """The gradient before the ReLU, and ``x − μ``."""
    a, b, mean = parts.unbind()
    x, g = _exact(rows), _exact(gradient)
    return torch.where(x * a + b > 0, g, 0) if rectified else g, x - mean


def _sums(rows: Tensor, gradient: Tensor, parts: Tensor, rectified: bool) -> tuple[Tensor, Tensor]:
    g, x = _let_through(rows, gradient, parts, rectified)
    return g.sum(0), (g * x).sum(0)


def _gradient(
    rows: Tensor, gradient: Tensor, parts: Tensor, factors: Tensor, rectified: bool
) -> Tensor:
    g, x = _let_through(rows, gradient, parts, rectified)
    p, q, r = factors.unbind()
    return (g * p + x * q + r).to(rows.dtype)


def _corners(positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, height, width, channels = positions.shape
    x = positions.view(n, height // 2, 2, width // 2, 2, channels)
    return x[:, :, 0, :, 0], x[:, :, 0, :, 1], x[:, :, 1, :, 0], x[:, :, 1, :, 1]


def _greatest(positions: Tensor) -> Tensor:
    a, b, c, d = _corners(positions)
    return torch.maximum(torch.maximum(a, b), torch.maximum(c, d))


def _to_the_first(positions: Tensor, gradient: Tensor) -> Tensor:
    greatest = _greatest(positions)
    a, b, c, _ = (corner == greatest for corner in _corners(positions))
    firsts = (a, ~a & b, ~a & ~b & c, ~a & ~b & ~c)
    parts = [torch.where(first, gradient, 0.0) for first in firsts]
    pairs = [torch.stack(parts[:2], 3), torch.stack(parts[2:], 3)]
    return torch.stack(pairs, 2).view(positions.shape)
