"""Score only what is left: SynFlow's numbers from a network without its dead channels.

On the way to a high compression most channels lose all their weights long before the end. A weight
whose survivors lie in few of its output and input channels is kept as that *block* alone, and each
convolution or linear map of the forward is computed on it: it reads the block's input channels and
writes its output channels into zeros. Everything left out is a product with zero, so the scores are
the whole network's (in another order of summation). A weight that is ever used in another way
stays whole (``scores.fast.capture``).

Feature maps are computed once a class of positions (``scores.fast.positions``), and
most linear maps as matrix products (``scores.fast.matmul``), whose scores stay factors
(``scores.fast.factors``): selection makes them part by part, and they are written down nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from collapse.errors import RequestError
from collapse.masks import (
    drop_lowest,
    kept_by_layer,
    select_with_mass,
    sizes,
)
from collapse.models import Masks, call, output_sum, untouched
from collapse.pruning.result import Pruned, Step
from collapse.pruning.steps import Goal, Plain, Start
from collapse.scores import (
    SCORES,
    ScoreInputs,
    Scores,
    derivatives,
    positive,
    scoring_seed,
    widening,
)
from collapse.scores.fast.blocks import Block, expand, smallest
from collapse.scores.fast.capture import Leaf, LinearMaps
from collapse.scores.fast.factors import Factors
from collapse.scores.fast.positions import PositionClasses
from collapse.scores.fast.tape import Tape
from collapse.scores.inputs import dtype_name
from collapse.scores.precision import in_range, limits, precisions
from collapse.scores.pruners.synflow import synflow

# Networks below this number of parameters are scored as they are: catching calls would cost more.
SMALL = 1 << 20
# A weight is cut down once its block is below this share of what is kept of it.
SHRINK_BELOW = 0.9
# Up to so many stored weights a forward is computed from a tape of its operations.
TAPED = 1 << 19
# Weights are cut down, which takes a new tape, once so much is kept of what was before.
CUT_TAPED_BELOW = 0.25
# No classes of positions.
_whole_maps = partial(PositionClasses, 0.0)


class LiveBlocks(Plain):
    """SynFlow on the CPU, on the blocks of the weights that still have survivors.

    Masks and scores are the blocks' until ``pruned`` writes them into whole tensors.
    """

    def __init__(
        self,
        start: Start,
        *,
        shrink_below: float = SHRINK_BELOW,
        places: Callable[[], PositionClasses] = PositionClasses,
    ) -> None:
        super().__init__(start)
        self.blocks: dict[str, Block] = {}
        self._shrink_below, self._places = shrink_below, places
        self._sizes, self._kept = sizes(start.masks), kept_by_layer(start.masks)
        self._states: dict[torch.dtype, dict[str, Tensor]] = {}  # |θ| of the survivors, and buffers
        self._largest: dict[tuple[torch.dtype, str], float] = {}  # weight of each layer, at first
        self._products: dict[tuple[torch.dtype, str], Tensor] = {}  # where scores are written
        self._removed: Mapping[str, Tensor] = {}  # by the last step, and still in the weights
        self._narrow = True  # R may be in float32's range
        self._cuttable: set[str] = set()
        self._kept_when_cut: int | None = None
        self._taped: tuple[Tape, dict[str, Leaf], torch.dtype] | None = None
        self._follows: bool | None = None  # a tape what the forward does; None before it was tried

    @staticmethod
    def can(start: Start) -> bool:
        """Whether it computes this pruning."""
        on_cpu = all(mask.device.type == "cpu" for mask in start.masks.values())
        return SCORES[start.options.pruner] is synflow and on_cpu

    @staticmethod
    def pays(start: Start) -> bool:
        """Whether it is the faster way."""
        return LiveBlocks.can(start) and sum(sizes(start.masks).values()) >= SMALL

    def steps(self, goals: Iterable[tuple[int, Goal]]) -> Iterator[Step]:
        size = sum(self._sizes.values())
        for iteration, goal in goals:
            self._clear()
            self._shrink()
            self.scores, self.ranked = self.score(iteration), self.masks
            keep = goal if isinstance(goal, int) else goal(self._whole(), self.masks)
            mass = self._select(keep)
            self._narrow = not _beyond_float32(self.scores, mass)
            yield Step.by(self.scores, iteration, self._kept, size, mass)

    def score(self, iteration: int) -> Scores:
        scores = super().score(iteration)
        if self.masks is self.start.masks:  # these may be looked up again: write no more into them
            self._products.clear()
        return scores

    def compute(self, inputs: ScoreInputs) -> Scores:
        if not self._narrow:
            inputs = replace(inputs, dtype=torch.float64)
        taped = self._played(inputs) if self._taped is not None else None
        if taped is not None and self._follows:
            return taped
        with untouched(self.start.model, "eval", scoring_seed(inputs)), torch.enable_grad():
            try:
                scores = widening(self._synflow)(self.start.model, self.masks, inputs)
            except RequestError:
                if self._places is _whole_maps:
                    raise
                self._places = _whole_maps  # perhaps a call that no mode sees met a stand-in
                scores = widening(self._synflow)(self.start.model, self.masks, inputs)
        if taped is not None:
            self._follows = _same(taped, scores)
            self._taped = self._taped if self._follows else None
        at_first = self.masks is self.start.masks  # to be looked up again
        return scores.whole() if at_first and isinstance(scores, _InParts) else scores

    def _played(self, inputs: ScoreInputs) -> Scores | None:
        """The scores by the tape; None where the definition would compute in another precision."""
        assert self._taped is not None
        tape, leaves, dtype = self._taped
        device = next(iter(self.masks.values())).device
        if dtype != precisions(self.start.model, device, inputs.dtype)[0][0]:
            self._taped = None
            return None
        for leaf in leaves.values():
            leaf.again()
        with torch.enable_grad():
            scores = self._scores(tape.again(), leaves, dtype)
        scores.precision = dtype_name(dtype)
        return scores if in_range(scores, dtype) else None

    def _tapes(self, dtype: torch.dtype) -> bool:
        """Whether a forward is worth to be written down: calls are what it takes the time for."""
        new = self._taped is None or self._taped[2] != dtype
        return new and self._follows is not False and self._stored() <= TAPED

    def _stored(self) -> int:
        return sum(mask.numel() for mask in self.masks.values())

    def ranking(self) -> tuple[Scores, Masks]:
        return self._whole(), self._before()

    def pruned(self, steps: list[Step]) -> Pruned:
        scores, ranked = self.ranking()
        whole = partial(expand, blocks=self.blocks)
        masks = {name: mask.contiguous() for name, mask in whole(self.masks).items()}
        return Pruned(masks, steps, scores.of(whole(scores)), whole(ranked))

    def _whole(self) -> Scores:
        """The last scores, all of them."""
        if isinstance(self.scores, _InParts):
            self.scores = self.scores.whole()
        return self.scores

    def _before(self) -> Masks:
        """What the last step ranked."""
        ranked = dict(self.ranked)
        for name, gone in self._removed.items():
            ranked[name] = ranked[name].flatten().index_fill(0, gone, True).view_as(ranked[name])
        return ranked

    def _synflow(
        self, model: nn.Module, masks: Masks, inputs: ScoreInputs, network: nn.Module
    ) -> Scores:
        """``scores.synflow``, with every linear map on its block."""
        assert inputs.dtype is not None
        state = self._state(inputs.dtype)
        changeable = {name for name, _ in model.named_buffers()}  # by the forward
        tensors = {n: t.clone() if n in changeable else t for n, t in state.items()}
        leaves = {
            name: Leaf(state[name], self.blocks.get(name), partial(self._buffer, name, state[name]))
            for name in masks
        }
        tensors.update({name: leaf.stand_in for name, leaf in leaves.items()})
        places = self._places()
        tape = (
            Tape([leaf.weight for leaf in leaves.values()]) if self._tapes(inputs.dtype) else None
        )
        with tape or nullcontext():
            ones = inputs.ones(masks).entering(places.enter)
            with LinearMaps(leaves), places:
                output = places.expanded(call(network, tensors, ones, inputs.output))
            R = output_sum(output)
        for leaf in leaves.values():  # only what is differentiated from here on is for the scores
            leaf.collecting = True
        self._cuttable = {name for name, leaf in leaves.items() if leaf.uses and not leaf.other}
        scores = self._scores(R, leaves, inputs.dtype)
        if tape is not None:
            tape.end(R)
            self._taped = (tape, leaves, inputs.dtype) if tape.sound else None
            self._follows = self._follows if tape.sound else False
        return scores

    def _scores(self, R: Tensor, leaves: Mapping[str, Leaf], dtype: torch.dtype) -> Scores:
        gradients = derivatives(R, [leaf.weight for leaf in leaves.values()])
        pairs = zip(leaves.items(), gradients, strict=True)
        parts = {name: leaf.scores(gradient) for (name, leaf), gradient in pairs}
        for name, part in parts.items():
            if isinstance(part, Factors) and not part.finite(self._most(dtype, name)):
                parts[name] = part.whole()
        return _InParts(parts, float(R.detach()))

    def _most(self, dtype: torch.dtype, name: str) -> float:
        """A bound of a layer's weights: the largest when it was first asked for."""
        if (dtype, name) not in self._largest:
            self._largest[dtype, name] = float(self._states[dtype][name].max())
        return self._largest[dtype, name]

    def _state(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """SynFlow's tensors, from the last iteration if there was one: only zeros are new."""
        if dtype not in self._states:
            state = positive(self.start.model, expand(self.masks, self.blocks), dtype)
            for name, block in self.blocks.items():
                state[name] = block.gather(state[name])
            for name in self.masks:  # places are counted in this layout
                state[name] = state[name].contiguous()
            self._states[dtype] = state
        return self._states[dtype]

    def _buffer(self, name: str, values: Tensor) -> Tensor:
        """Where the scores of a weight are written, in each iteration anew."""
        key = (values.dtype, name)
        if key not in self._products:
            self._products[key] = torch.empty_like(values)
        return self._products[key]

    def _select(self, keep: int) -> float:
        """Go on with the ``keep`` highest; returns the mass of the others."""
        alive = sum(self._kept.values())
        found = None
        # Beyond a fifth, a partition of all survivors is as fast as a look at the lowest.
        scope = self.start.scope(keep)
        if scope == "global" and 0 < alive - keep <= alive // 5:
            found = drop_lowest(_parts_of(self.scores), self.masks, alive, alive - keep)
        if found is None:
            scores = self._whole()
            self.masks, mass = select_with_mass(scores, keep, self.masks, scope, self._sizes)
            self._kept = kept_by_layer(self.masks)
            for state in self._states.values():
                for name, mask in self.masks.items():
                    state[name].mul_(mask)
            return mass
        self._removed, mass = found
        if self.masks is self.start.masks:  # which are not ours to write into
            self.masks = {name: mask.contiguous().clone() for name, mask in self.masks.items()}
        for name, gone in self._removed.items():
            self.masks[name].view(-1).numpy()[gone.numpy()] = False
            self._kept[name] -= len(gone)
        self.ranked = self.masks
        return mass

    def _clear(self) -> None:
        """Make the weights zero that the last step removed: its scores need them no more."""
        for name, gone in self._removed.items():
            for state in self._states.values():
                state[name].view(-1).numpy()[gone.numpy()] = 0
        self._removed = {}

    def _shrink(self) -> None:
        """Cut down the weights whose survivors have become few enough channels."""
        kept = sum(self._kept.values())
        below = self._shrink_below if self._taped is None else CUT_TAPED_BELOW
        if not self._cuttable or kept > below * (self._kept_when_cut or float("inf")):
            return  # no block falls much before the number of survivors does
        self._kept_when_cut = kept
        for name in self._cuttable:
            cut = smallest(self.masks[name], self._shrink_below)
            if cut is None:
                continue
            self.masks = {**self.masks, name: cut.gather(self.masks[name])}
            whole = self.blocks.get(name) or Block.whole(cut.shape)
            self.blocks = {**self.blocks, name: whole.within(cut.rows, cut.columns)}
            for dtype, state in self._states.items():
                state[name] = cut.gather(state[name])
                self._products.pop((dtype, name), None)
            self._taped = None  # of the blocks before


def _same(one: Scores, other: Scores) -> bool:
    """Whether two scorings have the same result, to the bit."""
    if (one.total, one.precision) != (other.total, other.precision):
        return False
    pairs = zip(_parts_of(one).values(), _parts_of(other).values(), strict=True)
    return all(torch.equal(_tensor(part), _tensor(twin)) for part, twin in pairs)


def _tensor(part: Tensor | Factors) -> Tensor:
    return part if isinstance(part, Tensor) else part.whole()


class _InParts(Scores):
    """Finite scores, of which some are factors until all are asked for."""

    def __init__(self, parts: Mapping[str, Tensor | Factors], total: float) -> None:
        super().__init__({n: s for n, s in parts.items() if isinstance(s, Tensor)}, total=total)
        self.parts = parts

    def whole(self) -> Scores:
        """Tensors alone, in order."""
        return self.of(
            {n: s if isinstance(s, Tensor) else s.whole() for n, s in self.parts.items()}
        )


def _parts_of(scores: Scores) -> Mapping[str, Tensor | Factors]:
    return scores.parts if isinstance(scores, _InParts) else scores


def _beyond_float32(scores: Scores, mass: float) -> bool:
    """Whether the next ``R`` is known to be outside float32's range, so that it is not tried.

    Without weights of this mass ``R`` is at least ``R − mass``, and at most ``R``.
    """
    R, unit = scores.total or 0.0, 2.0 ** min(scores.exponent, 1000)
    low, high = limits(torch.float32)
    return (R - mass) * unit > 1.01 * high or 0 < R * unit < 0.99 * low  # R is rounded, too
