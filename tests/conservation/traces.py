"""Recorded passes for tests of the ledger."""

from __future__ import annotations

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import masks as masking
from collapse.conservation import ledger, worst
from collapse.flow import Trace, record
from collapse.models import stand_ins, untouched

LIMIT = {torch.float64: 1e-10, torch.float32: 1e-5}


def traced(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    mode: str = "eval",
    dtype: torch.dtype = torch.float64,
    masks: dict[str, Tensor] | None = None,
) -> Trace:
    """The recorded pass of a cross-entropy."""
    masks = masks or {}
    tensors = stand_ins(
        model, dtype=dtype, parameter=lambda n, v: v * masks[n] if n in masks else v
    )
    with untouched(model, mode):
        trace = record(model, tensors, x.to(dtype), lambda out: F.cross_entropy(out, y))
    return trace.in_units_of_its_output()


def half(model: nn.Module) -> dict[str, Tensor]:
    """Masks that keep each weight with even odds."""
    draw = torch.Generator().manual_seed(3)
    return {n: torch.rand(m.shape, generator=draw) < 0.5 for n, m in masking.dense(model).items()}


def assert_balanced(trace: Trace, dtype: torch.dtype = torch.float64) -> pd.DataFrame:
    """Every residual is rounding, and flow runs through every layer that has a cut."""
    table = ledger(trace)
    assert trace.output.scale > 1 - 1e-6
    assert len(table)
    peak = worst(table)
    assert float(peak["residual"].max()) <= LIMIT[dtype], peak.to_string()
    cuts = table[table["identity"] == "cut"]
    assert (cuts["rhs"] != 0).all()
    return table
