"""Diagonals that stand for the Hessian's, and the second-order Taylor term that they go into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from collapse.models import Masks, samples, taken
from collapse.scores.gradients import loss_gradient
from collapse.scores.inputs import Batch, ScoreInputs, Scores, dtype_name
from collapse.seeding import generator


def fisher_diagonal(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> dict[str, Tensor]:
    """``(1/n) Σ_i (∂ℓ_i/∂θ)²``, the empirical Fisher matrix's diagonal; one pass a sample."""
    each = list(_one_by_one(inputs))
    if not each:
        loss_gradient(model, masks, inputs)  # which says that there are none
    totals: dict[str, Tensor] = {}
    for batch in each:
        _, gradient = loss_gradient(model, masks, replace(inputs, batches=[batch]))
        for name, part in gradient.items():
            square = part.square_().div_(len(each))
            totals[name] = totals[name].add_(square) if name in totals else square
    return totals


def _one_by_one(inputs: ScoreInputs) -> Iterator[Batch]:
    for x, y in inputs.batches:
        for i in range(samples(x)):
            yield taken(x, slice(i, i + 1)), taken(y, slice(i, i + 1))


def hutchinson_diagonal(
    model: nn.Module, masks: Masks, inputs: ScoreInputs, temperature: float, probes: int
) -> dict[str, Tensor]:
    """The mean of ``z ⊙ H z`` over draws of ``z = ±1``: unbiased for the Hessian's diagonal.

    ``z_i z_j H_ij`` is zero on average for ``i ≠ j``, and ``H_ii`` always for ``i = j``.

    Args:
        temperature: divides the logits.
        probes: draws.
    """
    draw = generator(inputs.seed, "hutchinson probes", inputs.iteration)
    totals: dict[str, Tensor] = {}
    for _ in range(probes):
        signs = {
            name: (torch.randint(0, 2, mask.shape, generator=draw) * 2 - 1).to(mask.device) * mask
            for name, mask in masks.items()
        }
        _, product = loss_gradient(model, masks, inputs, temperature, along=signs)
        for name, part in product.items():
            part.mul_(signs[name]).div_(probes)
            totals[name] = totals[name].add_(part) if name in totals else part
    return totals


def taylor(
    theta: Mapping[str, Tensor], gradient: Mapping[str, Tensor], diagonal: Mapping[str, Tensor]
) -> Scores:
    """``|θ ⊙ g + ½ θ² ⊙ D|``: how much the loss changes, to second order, without a weight.

    LeCun, Denker & Solla 1990 have the second term; the sign of the first is Gollini et al.'s. (A
    weight that goes away moves by ``−θ``, so the expansion has ``−θ ⊙ g``.)
    """
    scores = {}
    for name, leaf in theta.items():
        weight = leaf.detach()
        scores[name] = (weight * gradient[name] + weight.square() * diagonal[name] / 2).abs_()
    return Scores(scores, precision=dtype_name(next(iter(scores.values())).dtype))
