"""Score only what is left: the same numbers from a network without its dead channels.

On the way to a high compression most channels lose all their weights long before the end. A weight
whose survivors lie in few of its output and input channels is kept as that *block* alone, and each
convolution or linear map of the forward is computed on it: it reads the block's input channels and
writes its output channels into zeros. Everything left out is a product with zero, so the scores are
the whole network's (in another order of summation). No knowledge of the network's structure is
needed: calls are caught one by one, and a weight that is ever used in another way stays whole.

Most maps are computed as matrix products (see ``products``), whose backward pass writes
``θ ⊙ ∂R/∂θ`` into one buffer that lives from iteration to iteration: no gradient is allocated.
All of it is for networks on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from collapse.models import Masks
from collapse.scores.fast import matmul

# A weight is cut down once its block is below this share of what is kept of it.
SHRINK_BELOW = 0.9


# Networks below this number of parameters are scored as they are: catching calls would cost more.
SMALL = 1 << 20


# Entries of a score that are written and multiplied at a time, so that they stay in the cache.
_CHUNK = 1 << 19


_LINEAR = ("input", "weight", "bias")


_CONVOLUTION = (*_LINEAR, "stride", "padding", "dilation", "groups")


_MAPS: dict[Callable[..., Any], tuple[str, ...]] = {
    F.linear: _LINEAR,
    F.conv1d: _CONVOLUTION,
    F.conv2d: _CONVOLUTION,
    F.conv3d: _CONVOLUTION,
}


@dataclass(frozen=True)
class Block:
    """Some output and input channels of a weight ``[out, in, …]``, in ascending order.

    Ascending, so that the order of two entries, which decides ties, is the same in the block.
    """

    shape: torch.Size
    rows: Tensor
    columns: Tensor

    def gather(self, whole: Tensor) -> Tensor:
        """The block of a tensor."""
        return whole.index_select(0, self.rows).index_select(1, self.columns)

    def scatter(self, part: Tensor) -> Tensor:
        """The tensor that has this block and is zero elsewhere; differentiable."""
        return part.new_zeros(self.shape).index_put((self.rows[:, None], self.columns), part)

    def within(self, rows: Tensor, columns: Tensor) -> Block:
        """A block of this block, by its places here."""
        return Block(self.shape, self.rows[rows], self.columns[columns])

    @classmethod
    def whole(cls, shape: torch.Size) -> Block:
        """All channels."""
        return cls(shape, torch.arange(shape[0]), torch.arange(shape[1]))


def expand(tensors: Mapping[str, Tensor], blocks: Mapping[str, Block]) -> dict[str, Tensor]:
    """Whole tensors from those of which only a block is kept; the others as they are."""
    return {n: blocks[n].scatter(t) if n in blocks else t for n, t in tensors.items()}


class Workspace:
    """What SynFlow keeps from one iteration of a pruning to the next.

    Attributes:
        blocks: of the weights that have been cut down. Masks and scores of these are the block's.
    """

    def __init__(self) -> None:
        self.blocks: dict[str, Block] = {}
        self._states: dict[torch.dtype, dict[str, Tensor]] = {}
        self._buffers: dict[tuple[torch.dtype, str], Tensor] = {}
        self._current: Masks | None = None
        self._cuttable: set[str] = set()
        self._checked: int | None = None

    def state(
        self, dtype: torch.dtype, masks: Masks, start: Callable[[Masks], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """``start(masks)``, from the last iteration if there was one, with the masks applied."""
        if masks is not self._current:
            self._apply(masks)
        if dtype not in self._states:
            state = start(expand(masks, self.blocks))
            for name, block in self.blocks.items():
                state[name] = block.gather(state[name])
            for name in masks:  # on a CPU, places are counted in this layout
                if state[name].device.type == "cpu":
                    state[name] = state[name].contiguous()
            self._states[dtype] = state
        return self._states[dtype]

    def remove(self, masks: Masks, gone: Mapping[str, Tensor] | None) -> None:
        """Go on with these masks; the same object is then known to have been applied.

        Args:
            gone: the places that they have lost since; None if that is not known.
        """
        self._current = masks
        if gone is None:
            self._apply(masks)
            return
        for state in self._states.values():
            for name, places in gone.items():
                state[name].view(-1).numpy()[places.numpy()] = 0

    def _apply(self, masks: Masks) -> None:
        for state in self._states.values():
            for name, mask in masks.items():
                state[name].mul_(mask)

    def shrink(self, masks: Masks, kept: int) -> Masks:
        """Cut down what has become small enough; returns the masks of what is left.

        Args:
            kept: survivors in all. No block falls much before their number does.
        """
        if not self._cuttable:
            return masks
        if self._checked is not None and kept > SHRINK_BELOW * self._checked:
            return masks
        self._checked = kept
        cuts = {name: cut for name in self._cuttable if (cut := _cut(masks[name])) is not None}
        if not cuts:
            return masks
        smaller = dict(masks)
        for name, cut in cuts.items():
            smaller[name] = cut.gather(masks[name])
            whole = self.blocks.get(name) or Block.whole(cut.shape)
            self.blocks = {**self.blocks, name: whole.within(cut.rows, cut.columns)}
            for dtype, state in self._states.items():
                state[name] = cut.gather(state[name])
                self._buffers.pop((dtype, name), None)
        self._current = smaller
        return smaller

    def _buffer(self, name: str, like: Tensor) -> Tensor:
        """Where the scores of a weight are written, in each iteration anew."""
        key = (like.dtype, name)
        if key not in self._buffers:
            self._buffers[key] = torch.empty_like(like)
        return self._buffers[key]

    def leaves(self, tensors: Mapping[str, Tensor]) -> dict[str, Leaf]:
        """What one scoring differentiates by, from the state of the weights to score."""
        return {
            name: Leaf(values, self.blocks.get(name), partial(self._buffer, name, values))
            for name, values in tensors.items()
        }

    @contextmanager
    def catching(self, leaves: Mapping[str, Leaf]) -> Iterator[None]:
        """Compute linear maps by the leaves on their blocks: in large networks, on the CPU.

        Afterwards it is known which weights nothing else has used, so that they can be cut down.
        """
        size = sum(leaf.shape.numel() for leaf in leaves.values())
        if size < SMALL or any(leaf.weight.device.type != "cpu" for leaf in leaves.values()):
            yield
            return
        with LinearMaps(leaves):
            yield
        for leaf in leaves.values():  # only what is differentiated from here on is for the scores
            leaf.collecting = True
        self._cuttable = {name for name, leaf in leaves.items() if leaf.caught and not leaf.other}


def _cut(mask: Tensor) -> Block | None:
    """The smallest block with all survivors; None if it is hardly smaller than the whole."""
    flags = mask.flatten(1).numpy()
    found = (
        np.flatnonzero(flags.any(axis=1)),
        np.flatnonzero(flags.any(axis=0).reshape(mask.shape[1], -1).any(axis=1)),
    )
    # A map without channels is none: leave one, which is zero.
    places = [torch.from_numpy(f if len(f) else np.zeros(1, dtype=f.dtype)) for f in found]
    share = math.prod(len(p) / size for p, size in zip(places, mask.shape, strict=False))
    if share == 1 or share > SHRINK_BELOW:
        return None
    return Block(mask.shape, *places)


class Leaf:
    """A tensor to score, in one scoring.

    Attributes:
        weight: its values, or its block's; requires gradients.
        block: None if it is whole.
        stand_in: what the model finds in its place: of its shape, NaN if it should escape us.
        products: ``θ ⊙ ∂R/∂θ`` of the matrix products so far, None before the first.
        collecting: whether products are for the scores by now.
        caught: whether a linear map of ours has used it.
        other: whether anything else has.
    """

    def __init__(self, values: Tensor, block: Block | None, buffer: Callable[[], Tensor]) -> None:
        self.weight = values.detach().requires_grad_()
        self.block = block
        self.stand_in = self.weight
        if block is not None:
            self.stand_in = values.new_full((), float("nan")).expand(block.shape)
        self.products: Tensor | None = None
        self._buffer = buffer
        self.collecting = False
        self.caught = False
        self.other = False

    @property
    def shape(self) -> torch.Size:
        """Of the whole."""
        return self.stand_in.shape

    def whole(self) -> Tensor:
        """The weight in full; differentiable."""
        return self.weight if self.block is None else self.block.scatter(self.weight)

    def add(self, gradient: Tensor, x: Tensor) -> None:
        """Add the scores of a product ``x θᵀ``, from the gradient of its result."""
        if not self.collecting:  # a forward that differentiates something itself
            return
        theta = self.weight.detach().flatten(1)
        first = self.products is None
        if self.products is None:
            self.products = self._buffer()
        into = self.products.view_as(theta)
        step = max(1, _CHUNK // theta.shape[1])
        for start in range(0, theta.shape[0], step):
            rows = slice(start, start + step)
            if first:
                torch.mm(gradient[:, rows].t(), x, out=into[rows]).mul_(theta[rows])
            else:
                into[rows].addcmul_(gradient[:, rows].t() @ x, theta[rows])

    def scores(self, gradient: Tensor | None) -> Tensor:
        """``θ ⊙ ∂R/∂θ`` from the gradient that reached the weight itself and all products.

        In the layout of the weight: places that selection counts are places there.
        """
        theta = self.weight.detach()
        if gradient is not None and theta.is_contiguous():
            gradient = gradient.contiguous()  # a channels_last input makes it channels_last
        if self.products is None:
            # Not in place: both terms of a sum of weights are given one gradient.
            return torch.zeros_like(theta) if gradient is None else gradient * theta
        return self.products if gradient is None else self.products.addcmul_(gradient, theta)


class LinearMaps(TorchFunctionMode):
    """Inside it, linear maps by one of the leaves' stand-ins are computed on their blocks."""

    def __init__(self, leaves: Mapping[str, Leaf]) -> None:
        super().__init__()
        self._by_id = {id(leaf.stand_in): leaf for leaf in leaves.values()}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _MAPS:
            given = {**dict(zip(_MAPS[func], args, strict=False)), **kwargs}
            leaf = self._by_id.get(id(given.get("weight")))
            others = _tensors([given.get("input"), given.get("bias")])
            alone = not any(id(x) in self._by_id for x in others)
            if leaf is not None and alone and _is_plain(leaf.weight, given):
                leaf.caught = True
                return self._map(func, leaf, given)
        elif getattr(func, "__name__", "") == "__get__":
            attribute = func(*args, **kwargs)
            if not isinstance(attribute, Tensor):  # the shape or the like, not a view
                return attribute
        given_leaves = (self._by_id.get(id(x)) for x in _tensors((args, kwargs)))
        used = [leaf for leaf in given_leaves if leaf is not None]
        for leaf in used:
            leaf.other = True
        if any(leaf.block is not None for leaf in used):
            args, kwargs = self._whole(args), self._whole(kwargs)
        return func(*args, **kwargs)

    def _whole(self, x: Any) -> Any:
        """Arguments with the whole weight in place of each stand-in."""
        if isinstance(x, Tensor):
            return self._by_id[id(x)].whole() if id(x) in self._by_id else x
        if isinstance(x, Mapping):
            return {key: self._whole(value) for key, value in x.items()}
        return type(x)(self._whole(part) for part in x) if type(x) in (list, tuple) else x

    def _map(self, func: Callable[..., Any], leaf: Leaf, given: Mapping[str, Any]) -> Tensor:
        """One map on its block: gather input channels, compute, scatter output channels."""
        x: Tensor = given["input"]
        bias: Tensor | None = given.get("bias")
        options = {k: v for k, v in given.items() if k not in _LINEAR}
        channels = x.ndim - leaf.weight.ndim + 1
        if leaf.block is not None and len(leaf.block.columns) < x.shape[channels]:
            x = x.index_select(channels, leaf.block.columns)
        if func is F.linear:
            y: Tensor | None = matmul.linear(x, leaf.weight, leaf.add)
        else:
            y = matmul.convolution(x, leaf.weight, options, leaf.add)
        if y is None:
            y = func(x, leaf.weight, None, **options)
        if leaf.block is not None and len(leaf.block.rows) < leaf.block.shape[0]:
            shape = (*y.shape[:channels], leaf.block.shape[0], *y.shape[channels + 1 :])
            y = y.new_zeros(shape).index_copy(channels, leaf.block.rows, y)
        if bias is None:
            return y
        return y + bias.view(-1, *[1] * (leaf.weight.ndim - 2))


def _is_plain(weight: Tensor, given: Mapping[str, Any]) -> bool:
    """Whether a map does nothing but what we know how to do on a block."""
    x = given["input"]
    return bool(
        torch.is_grad_enabled()
        and not torch.is_autocast_enabled(x.device.type)
        and x.dtype == weight.dtype
        and given.get("groups", 1) == 1
        and weight.ndim > 1
        and weight.numel() * x.numel() > 0
    )


def _tensors(x: Any) -> Iterator[Tensor]:
    """All tensors in nested arguments."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, list | tuple):
        for part in x:
            yield from _tensors(part)
    elif isinstance(x, Mapping):
        yield from _tensors(list(x.values()))
