"""Why a score is not finite: the first operation of the forward that gives NaN or infinity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from collapse.models import all_finite, call, cast, compute_dtype, running, stand_ins, tensors_in
from collapse.scores.inputs import ScoreInputs


def cause(model: nn.Module, inputs: ScoreInputs) -> str:
    """What made a score by a loss not finite, as the end of a sentence; empty if nothing is seen.

    Args:
        model: in the mode in which it was scored.
    """
    floats = [x for batch in inputs.batches for x in tensors_in(batch) if x.is_floating_point()]
    if not all(map(all_finite, floats)):
        return ": the data hold NaN or infinite values"
    dtype = inputs.dtype or compute_dtype(model)
    state = stand_ins(model, dtype=dtype)
    for x, y in inputs.batches:
        with torch.no_grad(), running(model) as place, _First(place) as first:
            outputs = call(model, state, cast(x, dtype), inputs.output)
            loss = inputs.loss_of(outputs, y)
        if not all_finite(loss):
            return f": the loss is {loss.item():g}{first.words()}"
    return ": the loss is finite and its gradient is not (the root or the power of a zero?)"


class _First(TorchFunctionMode):
    """Notes the first operation that gives NaN, and else the first that gives +infinity.

    -infinity is what masks write before a softmax.
    """

    def __init__(self, place: Callable[[], str]) -> None:
        super().__init__()
        self.place = place
        self.found: dict[str, str] = {}

    def words(self) -> str:
        where = self.found.get("nan") or self.found.get("infinite")
        return f"; the first values that are not finite come from {where}" if where else ""

    def __torch_function__(  # torch's own signature
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            for x in tree_leaves(result):
                if not isinstance(x, Tensor) or not x.is_floating_point() or all_finite(x):
                    continue
                path = self.place()
                where = (
                    f"{getattr(func, '__name__', func)} in {repr(path) if path else 'the forward'}"
                )
                if bool(x.isnan().any()):
                    self.found.setdefault("nan", where)
                elif bool((x == torch.inf).any()):
                    self.found.setdefault("infinite", where)
        return result
