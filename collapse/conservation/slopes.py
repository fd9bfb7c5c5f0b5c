"""Saliency by unit and by layer, and mean score against inverse layer size."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from collapse import masks as masking
from collapse.conservation.auditing import flow_of
from collapse.errors import RequestError
from collapse.flow import hidden_units
from collapse.models import Selector, plain, untouched
from collapse.options import Mode
from collapse.plots import line_of_logs
from collapse.scores import Batch, ScoreInputs, Scores, loss_gradient, warmed


def neuron_sums(
    model: nn.Module,
    batch: Batch,
    values: Mapping[str, Mapping[str, Tensor]],
    *,
    mode: Mode | None = None,
    output: Selector = None,
) -> pd.DataFrame:
    """What flows into each hidden unit and what flows out of it, for any numbers a parameter.

    The comparison of figure 3: incoming against outgoing scores (Theorem 1 where they are equal).
    Hidden units between weights with unit-wise operations in between, also through BatchNorm.

    Args:
        batch: one is enough to record the network's connections.
        values: by name of the quantity, then by parameter; incoming biases count where named.

    Returns:
        ``quantity, place, unit, score_in, score_out``, a row a quantity and unit.

    Raises:
        RequestError: anything that recording raises.
    """
    model = plain(model)
    inputs = ScoreInputs([batch], mode or "eval", output=output)
    trace = flow_of(model, masking.dense(model), inputs, "", Scores({}))
    rows = []
    for group in hidden_units(trace, through_batchnorm=True):
        for quantity, tensors in values.items():
            into, out_of = group.inflow(tensors), group.outflow(tensors)
            rows.append(
                pd.DataFrame(
                    {
                        "quantity": quantity,
                        "place": group.place,
                        "unit": range(group.units),
                        "score_in": into.cpu().numpy(),
                        "score_out": out_of.cpu().numpy(),
                    }
                )
            )
    columns = ["quantity", "place", "unit", "score_in", "score_out"]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)


def signed_saliency(
    model: nn.Module, batches: Sequence[Batch], mode: Mode, output: Selector = None
) -> dict[str, Tensor]:
    """``θ ⊙ ∂L/∂θ`` of weights and biases: SNIP before its absolute value, which is conserved.

    Returns:
        By parameter name, in the parameters' shapes.

    Raises:
        RequestError: what scoring by snip raises.
    """
    model = plain(model)
    every = masking.dense(model, biases=True)
    inputs = ScoreInputs(batches, mode, output=output)
    warm = warmed(model, every, inputs) if mode == "warm" else contextlib.nullcontext()
    with untouched(model, mode), warm, torch.enable_grad():
        leaves, gradients = loss_gradient(model, every, inputs)
    return {name: gradients[name] * leaf.detach() for name, leaf in leaves.items()}


def layer_statistics(scores: Mapping[str, Tensor]) -> tuple[float, float]:
    """Slope and correlation of log |mean score| against log inverse layer size (figures 3, 4).

    Scores that are conserved have slope and correlation 1: equal sums, so means like 1 / size.

    Raises:
        RequestError: fewer than two layers of different size, or a layer whose mean is zero.
    """
    sums = {name: total for name, (total, _) in masking.sums(scores).items()}
    return inverse_size_fit({name: s.numel() for name, s in scores.items()}, sums)


def inverse_size_fit(sizes: Mapping[str, int], sums: Mapping[str, float]) -> tuple[float, float]:
    """``layer_statistics`` from layer sizes and sums, e.g. ``Audit.saliency``.

    Raises:
        RequestError: as ``layer_statistics``.
    """
    totals = [abs(sums[name]) for name in sizes]
    if len(set(sizes.values())) < 2 or min(totals) == 0:
        raise RequestError(
            "a slope needs two layers of different size, each with a mean that is not zero"
        )
    inverse = 1 / np.array(list(sizes.values()), float)
    slope, r = line_of_logs(inverse, totals * inverse)
    return slope, r
