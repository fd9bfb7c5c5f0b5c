"""A pruner's scores held to the flow, to an independent derivation, or to each other.

Each check returns its rows and the layers whose scores it held to something.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from collapse import masks as masking
from collapse.conservation.cuts import cut_layers
from collapse.conservation.rows import Row
from collapse.devices import to_float64
from collapse.errors import RequestError
from collapse.flow import Trace, hidden_units, layout_of, unit_sums, weight_of
from collapse.models import (
    Masks,
    call,
    cast,
    compute_dtype,
    kept_parameters,
    stand_ins,
    untouched,
)
from collapse.scores import (
    GRASP_TEMPERATURE,
    ScoreInputs,
    Scores,
    loss_gradient,
    score,
    scoring_seed,
)

Checked = tuple[list[Row], set[str]]


def saliency_of(trace: Trace) -> dict[str, Tensor]:
    """``θ ⊙ ∂R/∂θ`` of each parameter, entry by entry, over all its uses; in the trace's units."""
    found: dict[str, Tensor] = {}
    for operation in trace.operations:
        for use in operation.uses:
            if use.parameter is not None and use.saliency is not None:
                known = found.get(use.parameter)
                found[use.parameter] = use.saliency if known is None else known + use.saliency
    return found


def against_saliency(trace: Trace, scores: Scores, *, absolute: bool) -> Checked:
    """SynFlow's scores are ``S``, SNIP's are ``|S|``: unit by unit in sum, and weight by weight."""
    saliency = saliency_of(trace)
    layouts = {}
    for operation in trace.operations:
        weight = weight_of(operation)
        if weight is not None and weight.parameter is not None:
            layouts[weight.parameter] = layout_of(operation)
    wanted = {name: saliency.get(name, torch.zeros_like(tensor)) for name, tensor in scores.items()}
    wanted = {name: s.abs() for name, s in wanted.items()} if absolute else wanted
    got = {name: to_float64(tensor) / trace.unit for name, tensor in scores.items()}
    rows, largest = [], _largest(wanted)
    for name in scores:
        lhs, rhs = (
            unit_sums(s, **layouts.get(name, {}))[0] if s.ndim > 1 else s
            for s in (got[name], to_float64(wanted[name]))
        )
        scale = torch.maximum(lhs.abs(), rhs.abs()).clamp_min(_rounding(wanted[name], largest))
        rows.append(Row("score", name, lhs, rhs, scale, by_unit=True))
    return [*rows, *weight_by_weight(got, wanted)], set(scores)


def weight_by_weight(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[Row]:
    """The worst weight of each layer. Sums cannot tell scores from the same ones in another order.

    In units of the absolute sum of the weight's own output unit, or of the mean unit if that is
    more. A layer in which everything cancels (the keys of an attention to equal positions) is
    rounding alone, so the unit is no less than a small share of the largest layer's.
    """
    largest = _largest(expected)
    return [_worst_weight(name, got[name], expected[name], largest) for name in expected]


def _worst_weight(name: str, got: Tensor, expected: Tensor, largest: float) -> Row:
    floor = _rounding(expected, largest)
    got, expected = to_float64(got).detach().cpu(), to_float64(expected).detach().cpu()
    sums = expected.abs().reshape(len(expected) if expected.ndim else 1, -1).sum(1)
    sums = sums.maximum(sums.mean()).clamp_min(floor / len(sums))
    lhs, rhs = (t.reshape(len(sums), -1) / sums[:, None] for t in (got, expected))
    worst = int((lhs - rhs).abs().argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(worst), got.shape)]
    where = f"{name}[{','.join(map(str, place))}]"
    one = torch.ones((), dtype=torch.float64)
    return Row("score weights", where, lhs.reshape(-1)[worst], rhs.reshape(-1)[worst], one)


def _largest(saliency: Mapping[str, Tensor]) -> float:
    """The largest absolute sum of a layer; 1 where all are zero."""
    return max((float(to_float64(s.abs()).sum()) for s in saliency.values()), default=0.0) or 1.0


def _rounding(saliency: Tensor, largest: float) -> float:
    """Where a layer's flow lies so far below the largest, it may be rounding alone."""
    return largest * (1e-3 if saliency.dtype == torch.float64 else 1e-2)


def against_each_other(trace: Trace, scores: Mapping[str, Tensor]) -> Checked:
    """Scores alone: in = out at hidden units, and one sum for every layer that is a cut.

    In units of the median layer sum, so that the tolerance means the same for any scores. A layer
    that is passed several times has that sum so many times.
    """
    passed = Counter(name for name in cut_layers(trace) if name in scores)
    used = Counter(use.parameter for operation in trace.operations for use in operation.uses)
    cuts = [name for name, times in passed.items() if used[name] == times]
    totals = masking.sums(scores)
    sums = {
        name: torch.tensor(totals[name][0] / (passed[name] or 1), dtype=torch.float64)
        for name in cuts or scores
    }
    middle = torch.stack(list(sums.values())).median()
    unit = float(middle.abs()) or 1.0
    one = torch.ones((), dtype=torch.float64)
    rows = [Row("score layers", name, sums[name] / unit, middle / unit, one) for name in cuts]
    held = set(cuts)
    for group in hidden_units(trace, through_batchnorm=True):
        if group.weights <= set(scores):
            lhs, rhs = group.inflow(scores).cpu() / unit, group.outflow(scores).cpu() / unit
            scale = torch.maximum(lhs.abs(), rhs.abs())
            rows.append(Row("score neurons", group.place, lhs, rhs, scale, by_unit=True))
            held |= group.weights
    return rows, held


def against_grasp(
    model: nn.Module, masks: Masks, inputs: ScoreInputs, trace: Trace, scores: Scores
) -> Checked:
    """GraSP's scores are ``θ ⊙ H g`` weight by weight, with the defect of DESIGN 4.10.

    Weight by weight in float64: in float32, two programs of one formula open another ReLU here
    and there, and a second derivative differs by 1e-4 for it.
    """
    try:
        exact = copy.deepcopy(model).double()
        batches = [(cast(x, torch.float64), y) for x, y in inputs.batches]
        twice = replace(inputs, batches=batches)
        found = score(exact, "grasp", masks, twice)
        rows = weight_by_weight(found, _plain_grasp(exact, masks, twice))
    except (RequestError, TypeError):  # a forward that insists on float32, a device without float64
        rows = weight_by_weight(scores, _plain_grasp(model, masks, inputs))
    return [*rows, *_grasp_defect(model, masks, inputs, trace)], set(masks)


def _plain_grasp(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> dict[str, Tensor]:
    """``θ ⊙ H g`` as its definition says, on one batch, by torch's own double backward."""
    x, y = inputs.batches[0]
    dtype = compute_dtype(model)
    tensors = stand_ins(model, dtype=dtype, parameter=kept_parameters(masks))
    leaves = [tensors[name].requires_grad_() for name in masks]
    seed = scoring_seed(inputs)
    with untouched(model, inputs.mode, seed), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        outputs = call(model, tensors, cast(x, dtype), inputs.output)
        loss = inputs.loss_of(outputs, y, GRASP_TEMPERATURE)
        g = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
        kept = [part.detach() * mask for part, mask in zip(g, masks.values(), strict=True)]
        product = torch.stack([(a * b).sum() for a, b in zip(g, kept, strict=True)]).sum()
        if not product.requires_grad:
            return {name: torch.zeros_like(leaf) for name, leaf in zip(masks, leaves, strict=True)}
        Hg = torch.autograd.grad(product, leaves, materialize_grads=True)
    triples = zip(masks, leaves, Hg, strict=True)
    return {name: leaf.detach() * column for name, leaf, column in triples}


def _grasp_defect(
    model: nn.Module, masks: Masks, inputs: ScoreInputs, trace: Trace
) -> Iterator[Row]:
    """``S_in − S_out = ‖g_in‖² − ‖g_out‖²`` at hidden units, in units of ``‖g‖²`` (DESIGN 4.10).

    Scored with biases and normalisations, because a unit's incoming side has them.
    """
    every = {**masking.dense(model, biases=True, batchnorm=True), **masks}
    scores = score(model, "grasp", every, inputs)
    with untouched(model, inputs.mode), torch.enable_grad():
        _, gradient = loss_gradient(model, every, inputs, GRASP_TEMPERATURE)
    squares = {name: to_float64(part).square() for name, part in gradient.items()}
    unit = float(sum(s.sum() for s in squares.values())) or 1.0
    saliency = {name: -to_float64(s) for name, s in scores.items()}
    for group in hidden_units(trace, through_batchnorm=False):
        if group.names <= set(every):
            lhs = (group.inflow(saliency) - group.outflow(saliency)).cpu() / unit
            into, out_of = group.inflow(squares).cpu(), group.outflow(squares).cpu()
            rhs, scale = (into - out_of) / unit, (into + out_of) / unit
            yield Row("grasp defect", group.place, lhs, rhs, scale, by_unit=True)
