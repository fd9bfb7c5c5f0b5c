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
from collapse.models.failures import forward_errors, line_of, place_of
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
from collapse.models.outputs import (
    Selector,
    floats_of,
    output_sum,
    select_output,
    with_floats,
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
from collapse.models.running import running
from collapse.models.stateless import (
    ContiguousGradients,
    Masks,
    all_finite,
    call,
    compute_dtype,
    kept_parameters,
    opened,
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
    "all_zero",
    "build",
    "call",
    "call_user",
    "cast",
    "check_batches",
    "check_finite",
    "check_in_place",
    "compute_dtype",
    "computed",
    "entering",
    "first_tensor",
    "floats_of",
    "forward_errors",
    "hold",
    "import_user",
    "initialise",
    "is_bias",
    "is_quantised",
    "kept_parameters",
    "line_of",
    "mapped",
    "moved",
    "opened",
    "output_sum",
    "own_parameters",
    "parameters_of",
    "place_of",
    "plain",
    "prunable",
    "returns_several",
    "running",
    "samples",
    "select_output",
    "stand_ins",
    "streams_at",
    "taken",
    "tensors_in",
    "uncounted",
    "uncounted_words",
    "unreached",
    "unreached_words",
    "untouched",
    "with_contiguous_gradient",
    "with_floats",
    "with_own_masks",
    "zero_words",
]
