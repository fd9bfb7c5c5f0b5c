"""Examine a network as it is: measurements only, the words are in ``findings`` and ``advice``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from collapse import masks as masking
from collapse.doctor.cuts import cut_layers, dense_kernels
from collapse.doctor.facts import Distance, Layer, Verdict
from collapse.doctor.result import Diagnosis
from collapse.doctor.units import Uses, causes, constant_inputs, inputs_of, walk
from collapse.errors import RequestError
from collapse.masks.counts import count
from collapse.models import (
    Inputs,
    Masks,
    Selector,
    all_finite,
    first_tensor,
    plain,
    prunable,
    reach,
)
from collapse.scores import ScoreInputs, Scores, about, score

# A share of a layer's kept weights that are of one magnitude, from which on they are called ties.
_TIED = 0.1
# Layers with fewer weights have ties by chance, and a sample of so many finds the commonest.
_FEW, _SAMPLE = 10, 1024


def doctor(
    model: nn.Module,
    example: Inputs | Sequence[int],
    *,
    masks: Mapping[str, Tensor] | None = None,
    output: Selector = None,
    pruner: str = "synflow",
    target: float | None = None,
    baseline: Mapping[str, Tensor] | None = None,
    network: str = "--model MODEL",
) -> Diagnosis:
    """Which layers of a network vanished, why, and what would have prevented it.

    Any network as it is, pruned by any tool: zeros in its weights are masks, as are those of
    ``torch.nn.utils.prune`` and of parametrisations. No data is needed, and the model is not
    changed.

    Args:
        example: a batch of inputs, a tensor ``[n, …]``, a tuple or a dict, of floats only the shape
            is used; or the shape of one input, without the batch.
        masks: masks beside the zeros (``masks.load_masks``).
        output: which part of the output is meant when the forward returns several.
        pruner: whose distance to critical is looked for: magnitude, synflow or random (or any that
            needs no labels).
        target: the compression that was asked for; the counts are checked against it.
        baseline: masks of an earlier state, to compare with (``masks.read_masks``).
        network: how the network is called on a command line, for the advice.

    Returns:
        ``.findings`` and ``.advice`` in words, ``.frame()`` with a row a layer, ``.healthy``,
        ``.as_dict()``.

    Raises:
        RequestError: no layer to examine, a forward that fails, masks or a baseline of another
            network, a target below 1, or a pruner that needs data.

    Example:
        >>> network = collapse.build("conv", input_shape=(3, 8, 8))
        >>> collapse.doctor(network, (3, 8, 8)).healthy
        True
    """
    if about(pruner).data == "labels":
        raise RequestError(
            f"pruner '{pruner}' needs data and the doctor has none: expected magnitude, synflow, "
            'random, or one of your own that says @collapse.pruner(data="none") or data="shape"'
        )
    model = plain(model)
    example = inputs_of(example, next(iter(prunable(model).values())).device)
    kept = masking.from_zeros(model)
    if masks is not None:
        masking.check_fit(model, masks)
        also = {name: mask for name, mask in masks.items() if name not in kept}
        if also:  # scales, biases, … pruned beside the layers
            part = {name: mask for name, mask in masks.items() if name in kept} or None
            with masking.applied(model, also):
                found = doctor(
                    model,
                    example,
                    masks=part,
                    output=output,
                    pruner=pruner,
                    target=target,
                    baseline=baseline,
                    network=network,
                )
            return replace(found, also=tuple(also))
        kept |= {
            name: kept[name] & masks[name].to(kept[name].device) for name in kept if name in masks
        }
    if target is not None:
        masking.keep_count(masking.total(kept), target)  # below 1 is said now
    if baseline is not None:
        masking.check_fit(model, baseline, "the baseline's masks")
        whole = {name: torch.ones_like(mask) for name, mask in kept.items()}
        baseline = {n: baseline.get(n, mask).to(mask.device) for n, mask in whole.items()}
    nonfinite = _nonfinite(model)
    kernels, connected_dense = dense_kernels(model, example, output=output)
    tables = dict(_tables(model, example, kept))
    alive, connected, uses = walk(model, kept | tables, example, output=output)
    norms = _zero_norms(model)
    lit, silenced = alive, False
    if norms and connected:
        lit, lives, _ = walk(model, kept | tables | norms, example, output=output)
        silenced = not lives
    cuts = cut_layers(model, example, output=output)
    reached = {name for name, kernel in kernels.items() if bool(kernel.any())}
    others = [name for name in kept if name not in reached]
    stopped = reach(model, others, example, output).without_gradient if others else []
    scores, unscored = _scores(model, kept, example, output, connected, bool(nonfinite))
    fed: dict[str, int] = {}
    unreached = (not bool(use.reached_in.all()) for parts in uses.values() for use in parts)
    if connected and any(unreached):
        fed = constant_inputs(model, kept, example, uses, output=output)
    weights, sums = prunable(model), masking.sums(scores or {})

    def layer(name: str, mask: Tensor) -> Layer:
        living, bright = count(alive[name]), count(lit[name])
        dead = causes(mask, alive[name], kernels[name], uses.get(name, []))
        bad, left = nonfinite.get(name, 0), count(mask)
        verdict: Verdict = "healthy"
        if bad:
            verdict = "not finite"
        elif not mask.numel():
            verdict = "empty"
        elif name not in reached:
            verdict = "not reached" if connected_dense else "cut off"
        elif not left:
            verdict = "empty"
        elif not living:
            verdict = "dead" if connected else "cut off"
        elif not bright:
            verdict = "silent"
        before = None if baseline is None else count(mask & ~baseline[name])
        return Layer(
            layer=name,
            shape=tuple(mask.shape),
            parameters=mask.numel(),
            kept=left,
            living=living,
            is_cut=name in cuts if name in reached else None,
            verdict=verdict,
            **_units(uses, name, fed),
            padding_only=dead.padding,
            no_input=dead.no_input,
            no_output=dead.no_output,
            score_sum=sums[name][0] if scores else None,
            tied=_tied(weights[name].detach(), mask),
            nonfinite=bad,
            returned=before,
        )

    layers = [layer(name, mask) for name, mask in kept.items()]
    gone = {each.layer for each in layers if each.verdict in ("empty", "dead")}
    bearing: frozenset[str] = frozenset()
    if gone and connected:
        bearing = cut_layers(model, example, output=output, without=gone) - cuts
    return Diagnosis(
        layers=layers,
        connected=connected,
        connected_dense=connected_dense,
        input_shape=tuple(first_tensor(example).shape[1:]),
        nonfinite=nonfinite,
        silent_norms={name: not bool(mask.any()) for name, mask in norms.items()},
        silenced=silenced,
        empty_tables=[name for name, mask in tables.items() if not bool(mask.any())],
        without_gradient=stopped,
        bearing=[name for name in kept if name in bearing],
        frontier=None if connected or gone else _frontier(uses),
        distance=_distance(
            model, kept, alive, example, output, pruner, scores, bool(nonfinite) or not connected
        ),
        unscored=unscored,
        unmasked=[] if masks is None else [name for name in kept if name not in masks],
        target=target,
        baseline=None if baseline is None else masking.kept_by_layer(baseline),
        network=network,
    )


def _nonfinite(model: nn.Module) -> dict[str, int]:
    found = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not all_finite(tensor.detach()):
            found[name] = int((~torch.isfinite(tensor.detach())).count_nonzero())
    return found


def _tables(model: nn.Module, example: Inputs, layers: Masks) -> Sequence[tuple[str, Tensor]]:
    """Embeddings with columns of zeros, which stop what the input looks up there.

    Rows do not count: which are looked up is the data's, and a padding row is zero on purpose.
    """
    if first_tensor(example).is_floating_point():
        return []
    names = {id(p): name for name, p in model.named_parameters()}
    found = []
    for module in model.modules():
        name = names.get(id(getattr(module, "weight", None)))
        if isinstance(module, nn.Embedding) and name is not None and name not in layers:
            columns = (module.weight.detach() != 0).any(0)
            if not bool(columns.all()):
                found.append((name, columns.expand(module.weight.shape)))
    return found


def _zero_norms(model: nn.Module) -> Masks:
    """The weights of normalisations (vectors called weight, but for slopes) that have zeros."""
    slopes = {id(m.weight) for m in model.modules() if isinstance(m, nn.PReLU)}
    return {
        name: p.detach() != 0
        for name, p in model.named_parameters()
        if p.ndim == 1
        and name.rpartition(".")[2] == "weight"
        and id(p) not in slopes
        and not bool((p != 0).all())
    }


def _scores(
    model: nn.Module,
    kept: Masks,
    example: Inputs,
    output: Selector,
    connected: bool,
    nonfinite: bool,
) -> tuple[Scores | None, str]:
    """SynFlow's, or why there are none."""
    if not connected:
        return Scores({name: torch.zeros(1) for name in kept}), ""
    if nonfinite:
        return None, "weights that are not finite have no score"
    try:
        return score(model, "synflow", kept, _inputs(example, output)), ""
    except RequestError as error:
        return None, str(error)


def _inputs(example: Inputs, output: Selector) -> ScoreInputs:
    return ScoreInputs([(example, None)], output=output)


def _distance(
    model: nn.Module,
    kept: Masks,
    alive: Masks,
    example: Inputs,
    output: Selector,
    pruner: str,
    scores: Scores | None,
    hopeless: bool,
) -> Distance | None:
    """Of the layers that live: those that do not are collapsed already."""
    living = [name for name, mask in kept.items() if bool(alive[name].any())]
    if not living or hopeless:
        return None
    if pruner != "synflow":
        try:
            scores = score(model, pruner, kept, _inputs(example, output))
        except RequestError:
            return None
    if scores is None:
        return None
    layer, keep = masking.first_to_collapse(
        {name: scores[name] for name in living}, {name: kept[name] for name in living}
    )
    return Distance(pruner, layer, keep)


def _units(uses: Uses, name: str, fed: Mapping[str, int]) -> dict[str, Any]:
    parts = uses.get(name)
    if not parts:
        return {}

    def missing(side: str) -> int:
        return int((~torch.stack([getattr(use, side) for use in parts]).any(0)).count_nonzero())

    return {
        "units_in": len(parts[0].reached_in),
        "unreached_in": missing("reached_in"),
        "constant_in": fed.get(name, 0),
        "units_out": len(parts[0].reached_out),
        "unreached_out": missing("reached_out"),
        "leading_nowhere": missing("leads_on"),
    }


def _tied(weight: Tensor, mask: Tensor) -> int:
    """How many kept weights are of the commonest magnitude, if it is a share worth a word."""
    values = weight[mask].abs()
    if len(values) < _FEW:
        return 0
    sample = values[:: max(1, len(values) // _SAMPLE)]
    distinct, often = torch.unique(sample, return_counts=True)
    tied = int((values == distinct[often.argmax()]).count_nonzero())
    return tied if tied > _TIED * len(values) else 0


def _frontier(uses: Uses) -> tuple[str, str] | None:
    """The first layer that is reached and passes nothing on, and the last before it that does."""
    before = None
    for name, parts in uses.items():
        if any(bool(use.reached_out.any()) for use in parts):
            before = name
        elif before is not None:
            return name, before
    return None
