"""Score only what is left: SynFlow's numbers from a network without its dead channels.

On the way to a high compression most channels lose all their weights long before the end. A weight
whose survivors lie in few of its output and input channels is kept as that *block* alone, and each
convolution or linear map of the forward is computed on it: it reads the block's input channels and
writes its output channels into zeros. Everything left out is a product with zero, so the scores are
the whole network's (in another order of summation). A weight that is ever used in another way
stays whole (``scores.fast.capture``).

Feature maps are computed once a class of positions (``scores.fast.positions``), and
most linear maps as matrix products (``scores.fast.matmul``), whose backward pass writes
``θ ⊙ ∂R/∂θ`` into one buffer that lives from iteration to iteration: no gradient is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from collapse.errors import RequestError
from collapse.masks import (
    drop_lowest,
    in_memory_order,
    kept_by_layer,
    like,
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
from collapse.scores.fast.positions import PositionClasses
from collapse.scores.precision import limits
from collapse.scores.pruners.synflow import synflow

# Networks below this number of parameters are scored as they are: catching calls would cost more.
SMALL = 1 << 20
# A weight is cut down once its block is below this share of what is kept of it.
SHRINK_BELOW = 0.9
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
        self._products: dict[tuple[torch.dtype, str], Tensor] = {}  # where scores are written
        self._narrow = True  # R may be in float32's range
        self._cuttable: set[str] = set()
        self._kept_when_cut: int | None = None

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
            self._shrink()
            self.scores, self.ranked = self.score(iteration), self.masks
            keep = goal if isinstance(goal, int) else goal(self.scores, self.masks)
            mass = self._select(keep)
            self._narrow = not _beyond_float32(self.scores, mass)
            yield Step.by(self.scores, iteration, self._kept, size, mass)

    def score(self, iteration: int) -> Scores:
        scores = super().score(iteration)
        if self.masks is self.start.masks and self.start.first is not None:
            self._products.clear()  # these may be looked up again: write no more into them
        return scores

    def compute(self, inputs: ScoreInputs) -> Scores:
        if not self._narrow:
            inputs = replace(inputs, dtype=torch.float64)
        with untouched(self.start.model, "eval", scoring_seed(inputs)), torch.enable_grad():
            try:
                return widening(self._synflow)(self.start.model, self.masks, inputs)
            except RequestError:
                if self._places is _whole_maps:
                    raise
                self._places = _whole_maps  # perhaps a call that no mode sees met a stand-in
                return widening(self._synflow)(self.start.model, self.masks, inputs)

    def pruned(self, steps: list[Step]) -> Pruned:
        whole = partial(expand, blocks=self.blocks)
        masks = {name: mask.contiguous() for name, mask in whole(self.masks).items()}
        return Pruned(masks, steps, self.scores.of(whole(self.scores)), whole(self.ranked))

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
        ones = inputs.ones(masks).entering(places.enter)
        with LinearMaps(leaves), places:
            output = places.expanded(call(network, tensors, ones, inputs.output))
        R = output_sum(output)
        for leaf in leaves.values():  # only what is differentiated from here on is for the scores
            leaf.collecting = True
        self._cuttable = {name for name, leaf in leaves.items() if leaf.caught and not leaf.other}
        gradients = derivatives(R, [leaf.weight for leaf in leaves.values()])
        pairs = zip(leaves.items(), gradients, strict=True)
        scores = {name: leaf.scores(gradient) for (name, leaf), gradient in pairs}
        return Scores(scores, total=float(R.detach()))

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
            found = drop_lowest(self.scores, self.masks, alive, alive - keep)
        if found is None:
            self.masks, mass = select_with_mass(self.scores, keep, self.masks, scope, self._sizes)
            self._kept = kept_by_layer(self.masks)
            for state in self._states.values():
                for name, mask in self.masks.items():
                    state[name].mul_(mask)
            return mass
        removed, mass = found
        self.masks = {n: like(mask, self.scores[n]).clone() for n, mask in self.masks.items()}
        self._remove(removed)
        return mass

    def _remove(self, places: Mapping[str, Tensor]) -> None:
        """Clear masks and weights at places in the order of memory."""
        for name, gone in places.items():
            in_memory_order(self.masks[name]).numpy()[gone.numpy()] = False
            for state in self._states.values():
                state[name].view(-1).numpy()[gone.numpy()] = 0
            self._kept[name] -= len(gone)

    def _shrink(self) -> None:
        """Cut down the weights whose survivors have become few enough channels."""
        kept = sum(self._kept.values())
        if not self._cuttable or kept > self._shrink_below * (self._kept_when_cut or float("inf")):
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


def _beyond_float32(scores: Scores, mass: float) -> bool:
    """Whether the next ``R`` is known to be outside float32's range, so that it is not tried.

    Without weights of this mass ``R`` is at least ``R − mass``, and at most ``R``.
    """
    R, unit = scores.total or 0.0, 2.0 ** min(scores.exponent, 1000)
    low, high = limits(torch.float32)
    return (R - mass) * unit > 1.01 * high or 0 < R * unit < 0.99 * low  # R is rounded, too
