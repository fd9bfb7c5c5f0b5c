"""Where ``R`` or its gradient leaves the range of floating point, in words."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from collapse.errors import RequestError
from collapse.models import all_finite, running
from collapse.scores.first_operation import FirstOperation, has_infinity, has_nan
from collapse.scores.inputs import Scores


def where_beyond(model: nn.Module, run: Callable[[], Scores], range_of: str) -> str:
    """The first operation of ``run`` that overflows, or the layer where only the gradient does."""
    with running(model) as place, FirstOperation(place, overflow=_overflows) as first:
        try:
            scores = run()
        except RequestError:
            scores = Scores({})
    if first.found:
        return f"R leaves the range of {range_of} first in {first.found['overflow']}"
    bad = [name for name, tensor in scores.items() if not all_finite(tensor)]
    return (
        f"R's gradient leaves the range of {range_of} at '{bad[-1]}'" if bad else "R is not finite"
    )


def _overflows(x: Tensor) -> bool:
    return x.requires_grad and (has_nan(x) or has_infinity(x))
