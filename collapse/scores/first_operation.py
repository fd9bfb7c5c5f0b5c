"""The first operation of a forward whose result has some property: where a number went wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from collapse.models import tensors_in


class FirstOperation(TorchFunctionMode):
    """Notes the first operation that has a result of each kind.

    Args:
        place: which module is running (``models.running``).
        kinds: what makes a tensor one of each kind.

    Attributes:
        found: by kind, the operation and the module; nothing where no tensor was of that kind.
    """

    def __init__(self, place: Callable[[], str], **kinds: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.place, self.kinds = place, kinds
        self.found: dict[str, str] = {}

    def __torch_function__(  # torch's own signature
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            for kind, is_one in self.kinds.items():
                if kind not in self.found and any(map(is_one, tensors_in(result))):
                    place = self.place()
                    name = getattr(func, "__name__", str(func))
                    self.found[kind] = f"{name} in {repr(place) if place else 'the forward'}"
        return result


def has_nan(x: Tensor) -> bool:
    """Whether any element is NaN."""
    return x.is_floating_point() and bool(x.isnan().any())


def has_infinity(x: Tensor) -> bool:
    """Whether any is +infinity; -infinity is what masks write before a softmax."""
    return x.is_floating_point() and bool((x == torch.inf).any())
