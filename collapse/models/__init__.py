"""Networks by name, which of their tensors are prunable, and how to run them on other tensors."""

from collapse.models.batches import (
    Inputs,
    Ones,
    cast,
    check_batches,
    entering,
    first_tensor,
    mapped,
    moved,
    samples,
    taken,
    tensors_in,
)
from collapse.models.by_name import ARCHITECTURES, build
from collapse.models.failures import forward_errors
from collapse.models.layers import check_finite, prunable
from collapse.models.outputs import (
    Selector,
    floats_of,
    output_sum,
    select_output,
    with_floats,
)
from collapse.models.paper import initialise
from collapse.models.stateless import (
    ContiguousGradients,
    Masks,
    all_finite,
    call,
    compute_dtype,
    kept_parameters,
    returns_several,
    stand_ins,
    streams_at,
    untouched,
    with_contiguous_gradient,
)
from collapse.models.user import call_user, import_user, parameters_of

__all__ = [
    "ARCHITECTURES",
    "ContiguousGradients",
    "Inputs",
    "Masks",
    "Ones",
    "Selector",
    "all_finite",
    "build",
    "call",
    "call_user",
    "cast",
    "check_batches",
    "check_finite",
    "compute_dtype",
    "entering",
    "first_tensor",
    "floats_of",
    "forward_errors",
    "import_user",
    "initialise",
    "kept_parameters",
    "mapped",
    "moved",
    "output_sum",
    "parameters_of",
    "prunable",
    "returns_several",
    "samples",
    "select_output",
    "stand_ins",
    "streams_at",
    "taken",
    "tensors_in",
    "untouched",
    "with_contiguous_gradient",
    "with_floats",
]
