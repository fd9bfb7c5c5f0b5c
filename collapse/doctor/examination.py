"""Examine a network as it is: measurements only, the words are in ``findings`` and ``advice``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property

import torch
from torch import Tensor, nn

from collapse import masks as masking
from collapse.doctor.cuts import cut_layers
from collapse.doctor.facts import Distance, Layer
from collapse.doctor.result import Diagnosis
from collapse.doctor.routes import Routes
from collapse.doctor.units import Use, causes, constant_inputs, inputs_of
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
    weights = prunable(model)
    example = inputs_of(example, next(iter(weights.values())).device)
    if masks is not None:
        masking.check_fit(model, masks)
    # Scales, biases, … that are pruned beside the layers.
    also = {n: mask for n, mask in (masks or {}).items() if n not in weights}
    with masking.applied(model, also) if also else nullcontext():
        kept = masking.from_zeros(model)
        given = {n: masks[n].to(kept[n].device) for n in kept if n in masks} if masks else {}
        kept |= {name: kept[name] & mask for name, mask in given.items()}
        if target is not None:
            masking.keep_count(masking.total(kept), target)  # below 1 is said now
        earlier = None if baseline is None else _whole(model, kept, baseline)
        seen = _Examination(model, kept, example, output)
        layers = [seen.layer(name, earlier) for name in kept]
        gone = {layer.layer for layer in layers if layer.verdict in ("empty", "dead")}
        routes = seen.routes
        return Diagnosis(
            layers=layers,
            connected=routes.connected,
            connected_dense=routes.connected_dense,
            input_shape=tuple(first_tensor(example).shape[1:]),
            nonfinite=seen.nonfinite,
            silent_norms={name: not bool(mask.any()) for name, mask in routes.norms.items()},
            silenced=routes.silenced,
            empty_tables=[name for name, mask in routes.tables.items() if not bool(mask.any())],
            without_gradient=seen.without_gradient(),
            bearing=seen.bearing(gone),
            frontier=None if routes.connected or gone else routes.frontier(),
            distance=seen.distance(pruner),
            unscored=seen.unscored,
            unmasked=[]
            if masks is None or (also and not given)
            else [n for n in kept if n not in given],
            target=target,
            baseline=None if earlier is None else masking.kept_by_layer(earlier),
            network=network,
            also=tuple(also),
        )


def _whole(model: nn.Module, kept: Masks, masks: Mapping[str, Tensor]) -> Masks:
    """Masks of an earlier state; a layer without one was whole.

    Raises:
        RequestError: they do not fit the model.
    """
    masking.check_fit(model, masks, "the baseline's masks")
    return {n: masks.get(n, torch.ones_like(mask)).to(mask.device) for n, mask in kept.items()}


class _Examination:
    """What is measured of a network in which these weights are left, each thing once."""

    def __init__(self, model: nn.Module, kept: Masks, example: Inputs, output: Selector) -> None:
        self.model, self.kept, self.example, self.output = model, kept, example, output
        self.weights = prunable(model)
        self.routes = Routes.of(model, kept, example, output)
        self.nonfinite = _nonfinite(model)
        self.scores, self.unscored = self._scores()
        self.sums = masking.sums(self.scores or {})

    def layer(self, name: str, earlier: Masks | None) -> Layer:
        """The facts of a layer.

        Args:
            earlier: masks of an earlier state.
        """
        mask, routes, bad = self.kept[name], self.routes, self.nonfinite.get(name, 0)
        alive, uses = routes.alive[name], routes.uses.get(name, [])
        dead = causes(mask, alive, routes.kernels[name], uses)
        return Layer(
            layer=name,
            shape=tuple(mask.shape),
            parameters=mask.numel(),
            kept=count(mask),
            living=count(alive),
            is_cut=name in routes.cuts if routes.reaches(name) else None,
            verdict=routes.verdict(name, mask, bad),
            **_units(uses, self._fed.get(name, 0)),
            padding_only=dead.padding,
            no_input=dead.no_input,
            no_output=dead.no_output,
            score_sum=self.sums[name][0] if self.scores else None,
            tied=_tied(self.weights[name].detach(), mask),
            nonfinite=bad,
            returned=None if earlier is None else count(mask & ~earlier[name]),
        )

    def without_gradient(self) -> list[str]:
        """Layers that no path crosses because no gradient passes where one would."""
        others = [name for name in self.kept if not self.routes.reaches(name)]
        if not others:
            return []
        return reach(self.model, others, self.example, self.output).without_gradient

    def bearing(self, gone: Collection[str]) -> list[str]:
        """Layers that every path crosses now that others are gone."""
        if not (gone and self.routes.connected):
            return []
        cuts = cut_layers(
            self.model, self.example, output=self.output, without=gone, size=self.routes.size
        )
        return [name for name in self.kept if name in cuts - self.routes.cuts]

    def distance(self, pruner: str) -> Distance | None:
        """Of the layers that live: those that do not are collapsed already."""
        alive, scores = self.routes.alive, self.scores
        living = [name for name in self.kept if bool(alive[name].any())]
        if not living or self.nonfinite or not self.routes.connected:
            return None
        if pruner != "synflow":
            try:
                scores = score(self.model, pruner, self.kept, self._inputs)
            except RequestError:
                return None
        if scores is None:
            return None
        layer, keep = masking.first_to_collapse(
            {name: scores[name] for name in living}, {name: self.kept[name] for name in living}
        )
        return Distance(pruner, layer, keep)

    def _scores(self) -> tuple[Scores | None, str]:
        """SynFlow's, or why there are none."""
        if not self.routes.connected:
            return Scores({name: torch.zeros(1) for name in self.kept}), ""
        if self.nonfinite:
            return None, "weights that are not finite have no score"
        try:
            scores = score(self.model, "synflow", self.kept, self._inputs)
        except RequestError as error:
            return None, str(error)
        if not any(bool(tensor.any()) for tensor in scores.values()):
            return None, "the output is zero for an input of ones, so every score is"
        return scores, ""

    @property
    def _inputs(self) -> ScoreInputs:
        return ScoreInputs([(self.example, None)], output=self.output)

    @cached_property
    def _fed(self) -> dict[str, int]:
        """How many input units of each layer carry a constant."""
        uses = self.routes.uses
        unreached = (not bool(use.reached_in.all()) for parts in uses.values() for use in parts)
        if not (self.routes.connected and any(unreached)):
            return {}
        return constant_inputs(self.model, self.kept, self.example, uses, output=self.output)


def _nonfinite(model: nn.Module) -> dict[str, int]:
    found = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not all_finite(tensor.detach()):
            found[name] = int((~torch.isfinite(tensor.detach())).count_nonzero())
    return found


def _units(parts: Sequence[Use], constant: int) -> dict[str, int]:
    """A layer's units as columns, over all its uses; none where it is no linear map.

    Args:
        constant: how many of its input units carry a constant.
    """
    if not parts:
        return {}

    def missing(side: str) -> int:
        return int((~torch.stack([getattr(use, side) for use in parts]).any(0)).count_nonzero())

    return {
        "units_in": len(parts[0].reached_in),
        "unreached_in": missing("reached_in"),
        "constant_in": constant,
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
