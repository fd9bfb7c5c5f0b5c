"""What a tap notes: sums by unit along any axis, and the scale that a residual is held against."""

from __future__ import annotations

import torch

from collapse.flow.operations import Use
from collapse.flow.taps import note_of_parameter, note_of_tensor


def test_flow_is_summed_by_the_units_of_the_axis_that_is_named() -> None:
    x, gradient = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    flow = x * gradient
    use = Use(None, None, None, 0)
    note_of_tensor(use, made=2, read=1)(x, gradient)
    torch.testing.assert_close(use.by_output.units, flow.sum((0, 1)))
    torch.testing.assert_close(use.by_input.units, flow.sum((0, 2)))


def test_the_scale_of_a_weights_flow_does_not_cancel() -> None:
    """Saliencies of both signs may sum to nothing; the residual is relative to their size."""
    use = Use(None, None, None, 0)
    weight = torch.tensor([[1.0, -1.0], [2.0, -2.0]])
    note_of_parameter(use, {}, whole=False)(weight, torch.ones(2, 2))
    assert float(use.by_output.scale) == float(use.by_input.scale) == 6.0
