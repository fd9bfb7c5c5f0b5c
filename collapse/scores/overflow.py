"""Where ``R`` or its gradient leaves the range of floating point, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from collapse.errors import RequestError
from collapse.models import all_finite, running, tensors_in
from collapse.scores.inputs import Scores


class _Watch(TorchFunctionMode):
    """Notes the first operation whose result overflows; a mask's -inf is none."""

    def __init__(self, where: Callable[[], str]) -> None:
        super().__init__()
        self.where, self.found = where, ""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.found and any(map(_overflows, tensors_in(result))):
            name = getattr(func, "__name__", str(func))
            self.found = f"in {name} in '{self.where() or 'the network'}'"
        return result


def _overflows(x: Tensor) -> bool:
    return x.requires_grad and bool((x.isnan() | (x == torch.inf)).any())


def where_beyond(model: nn.Module, run: Callable[[], Scores], range_of: str) -> str:
    """The first operation of ``run`` that overflows, or the layer where only the gradient does."""
    with running(model) as where, _Watch(where) as watch:
        try:
            scores = run()
        except RequestError:
            scores = Scores({})
    if watch.found:
        return f"R leaves the range of {range_of} first {watch.found}"
    bad = [name for name, tensor in scores.items() if not all_finite(tensor)]
    return (
        f"R's gradient leaves the range of {range_of} at '{bad[-1]}'" if bad else "R is not finite"
    )
