"""Which units a network's ReLUs let through, recorded in one forward and imposed on another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from collapse.errors import RequestError
from collapse.models import functions, is_zero

_GATES = frozenset(functions("relu", "relu6", "leaky_relu"))
# ReLUs where their lower end, by this name or the first number, is zero.
_CLAMPS = dict.fromkeys(functions("clamp", "clip", "clamp_min"), "min") | dict.fromkeys(
    functions("hardtanh"), "min_val"
)
_THRESHOLDS = frozenset(functions("threshold"))
_MAXIMA = frozenset(functions("maximum", "fmax"))


def _is_gate(func: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    """Whether a call is a ReLU, however it is written."""
    if func in _GATES:
        return True
    if func in _CLAMPS:
        return is_zero(options.get(_CLAMPS[func], args[1] if len(args) > 1 else None))
    if func in _THRESHOLDS:
        at = (*args[1:], *options.values())
        return len(at) >= 2 and all(map(is_zero, at[:2]))
    return func in _MAXIMA and len(args) == 2 and is_zero(args[1])


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
        if _is_gate(func, args, kwargs or {}):
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
        if not _is_gate(func, args, kwargs or {}):
            return func(*args, **(kwargs or {}))
        gate = next(self.gates, None)
        if gate is None or gate.shape != args[0].shape:
            raise RequestError(
                "px: expected a forward that calls the same ReLUs whatever its input, got another "
                f"of shape {tuple(args[0].shape)}"
            )
        return args[0] * gate
