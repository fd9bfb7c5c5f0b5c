"""Networks by name, which of their tensors are prunable, and how to run them on other tensors."""

from collapse.models.by_name import ARCHITECTURES, build
from collapse.models.kinds import is_bias
from collapse.models.layers import check_finite, prunable
from collapse.models.left_out import (
    all_zero,
    uncounted,
    uncounted_words,
    unreached,
    unreached_words,
    zero_words,
)
from collapse.models.paper import initialise
from collapse.models.plain_network import (
    check_in_place,
    computed,
    is_quantised,
    plain,
    with_own_masks,
)
from collapse.models.put_back import hold, own_parameters
from collapse.models.stateless import (
    ContiguousGradients,
    Masks,
    Selector,
    all_finite,
    call,
    compute_dtype,
    forward_errors,
    kept_parameters,
    opened,
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
    "all_zero",
    "build",
    "call",
    "call_user",
    "check_finite",
    "check_in_place",
    "compute_dtype",
    "computed",
    "forward_errors",
    "hold",
    "import_user",
    "initialise",
    "is_bias",
    "is_quantised",
    "kept_parameters",
    "opened",
    "own_parameters",
    "parameters_of",
    "plain",
    "prunable",
    "select_output",
    "stand_ins",
    "streams_at",
    "tensors_in",
    "uncounted",
    "uncounted_words",
    "unreached",
    "unreached_words",
    "untouched",
    "with_contiguous_gradient",
    "with_own_masks",
    "zero_words",
]
