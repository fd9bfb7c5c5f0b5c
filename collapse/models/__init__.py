"""Networks by name, which of their tensors are prunable, and how to run them on other tensors."""

from collapse.models.by_name import ARCHITECTURES, build
from collapse.models.layers import check_finite, prunable
from collapse.models.paper import initialise
from collapse.models.plain import plain
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
    tensors_in,
    untouched,
    with_contiguous_gradient,
)
from collapse.models.user import call_user, import_user, parameters_of

__all__ = [
    "ARCHITECTURES",
    "ContiguousGradients",
    "Masks",
    "Selector",
    "all_finite",
    "build",
    "call",
    "call_user",
    "check_finite",
    "compute_dtype",
    "forward_errors",
    "import_user",
    "initialise",
    "kept_parameters",
    "parameters_of",
    "plain",
    "prunable",
    "select_output",
    "stand_ins",
    "streams_at",
    "tensors_in",
    "untouched",
    "with_contiguous_gradient",
]
