"""Which units a network's ReLUs let through, recorded in one forward and imposed on another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from collapse.errors import RequestError

_GATES = frozenset(
    getattr(where, name)
    for where in (torch, Tensor, F)
    for name in ("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_")
    if hasattr(where, name)
)


class Gates(TorchFunctionMode):
    """Inside it a forward's ReLUs are recorded; inside ``imposed()`` they are those of before.

    Attributes:
        open: one boolean tensor a call, in order: where the input was positive.
    """

    def __init__(self) -> None:
        super().__init__()
        self.open: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _GATES:
            self.open.append(args[0].detach() > 0)
        return func(*args, **(kwargs or {}))

    def imposed(self) -> TorchFunctionMode:
        """Each ReLU multiplies by what was recorded, in the order of the calls."""
        return _Imposed(iter(self.open))


class _Imposed(TorchFunctionMode):
    def __init__(self, gates: Iterator[Tensor]) -> None:
        super().__init__()
        self.gates = gates

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in _GATES:
            return func(*args, **(kwargs or {}))
        gate = next(self.gates, None)
        if gate is None or gate.shape != args[0].shape:
            raise RequestError(
                "px: expected a forward that calls the same ReLUs whatever its input, got another "
                f"of shape {tuple(args[0].shape)}"
            )
        return args[0] * gate
