"""Networks by name, which of their tensors are prunable, and how to run them on other tensors."""

from collapse.models.by_name import build
from collapse.models.layers import check_finite, prunable
from collapse.models.paper import ARCHITECTURES, initialise
from collapse.models.stateless import (
    ContiguousGradients,
    Masks,
    Selector,
    all_finite,
    call,
    compute_dtype,
    forward_errors,
    kept_parameters,
    select_output,
    stand_ins,
    streams_at,
    untouched,
    with_contiguous_gradient,
)
from collapse.models.user import import_user

__all__ = [
    "ARCHITECTURES",
    "ContiguousGradients",
    "Masks",
    "Selector",
    "all_finite",
    "build",
    "call",
    "check_finite",
    "compute_dtype",
    "forward_errors",
    "import_user",
    "initialise",
    "kept_parameters",
    "prunable",
    "select_output",
    "stand_ins",
    "streams_at",
    "untouched",
    "with_contiguous_gradient",
]
