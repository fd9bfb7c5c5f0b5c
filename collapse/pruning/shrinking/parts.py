"""The few modules that a smaller network needs beside its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Picked(nn.Module):
    """Some units of a tensor; where the position is -1, zeros.

    Args:
        axis: the unit axis, counted from the right.
        positions: int64 ``[units]``.

    Attributes:
        by_product: multiply by ones and zeros where a CPU is six times as fast so: channels of
            4-D inputs in channels_last (torch 2.15). The same bits, if all are finite.
    """

    positions: Tensor
    into: Tensor
    by_product = False

    def __init__(self, axis: int, positions: Tensor) -> None:
        super().__init__()
        self.axis, self.units = axis, len(positions)
        self.filled = bool((positions < 0).any())
        into = (positions >= 0).nonzero()[:, 0]
        self.register_buffer("positions", positions[into], persistent=False)
        self.register_buffer("into", into, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.by_product and self.axis == -3 and _in_channels_last(x):
            ones = x.new_zeros(self.units, x.shape[1], 1, 1)
            ones[self.into, self.positions] = 1
            with torch.autocast(x.device.type, enabled=False):
                return F.conv2d(x, ones)
        x = x.index_select(self.axis, self.positions)
        if not self.filled:
            return x
        shape = list(x.shape)
        shape[self.axis] = self.units
        return x.new_zeros(shape).index_copy(self.axis, self.into, x)

    def extra_repr(self) -> str:
        return f"{self.units} units{', some of zeros' if self.filled else ''}"


def _in_channels_last(x: Tensor) -> bool:
    """On a CPU, and in a precision that it has fast convolutions of."""
    if x.ndim != 4 or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


class Zeros(nn.Module):
    """Zeros of a shape, with the batch size and device of the network's input."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        return _zeros((x.shape[0], *self.shape), x)


class Shift(nn.modules.batchnorm._BatchNorm):
    """A BatchNorm of zeros: its shift ``[1, units, 1, …]``, with all that training does to it.

    Args:
        norm: whose tensors it takes.
        dimensions: of the tensor that it shifts.
    """

    def __init__(self, norm: nn.Module, dimensions: int) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(norm.__dict__)
        self.dimensions = dimensions

    def _check_input_dim(self, input: Tensor) -> None:
        """Any will do."""

    def forward(self, x: Tensor) -> Tensor:
        """Of the network's input, for its device; the sum that follows broadcasts the result."""
        ones = (1,) * (self.dimensions - 2)
        shifted: Tensor = super().forward(_zeros((2, self.num_features, *ones), x))
        return shifted[:1]


def _zeros(shape: tuple[int, ...], x: Tensor) -> Tensor:
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    if torch.is_autocast_enabled(x.device.type):  # as a convolution's result would be
        dtype = torch.get_autocast_dtype(x.device.type)
    return torch.zeros(shape, dtype=dtype, device=x.device)


class FullDropout(nn.Module):
    """Dropout of some units, drawn for all of them: the random stream of the whole network."""

    units: Tensor

    def __init__(self, dropout: nn.Module, size: int, units: Tensor, axis: int) -> None:
        super().__init__()
        self.dropout, self.size, self.axis = dropout, size, axis
        self.register_buffer("units", units, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.dropout.p == 0:
            return x
        shape = list(x.shape)
        shape[self.axis] = self.size
        last = x.ndim == 4 and not x.is_contiguous()  # noise is drawn in the order of memory
        form = torch.channels_last if last else torch.contiguous_format
        ones = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=form).fill_(1)
        noise: Tensor = self.dropout(ones)
        return x * noise.index_select(self.axis, self.units)
