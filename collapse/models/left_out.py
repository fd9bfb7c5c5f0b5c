"""What of a network is not pruned, what its forward never reaches, and what is zero: in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from collapse.models.batches import cast, tensors_in
from collapse.models.kinds import EMBEDDINGS
from collapse.models.plain_network import plain
from collapse.models.stateless import call, compute_dtype, stand_ins, untouched


def uncounted(
    model: nn.Module, layers: Collection[str], aside: Collection[str] = ()
) -> dict[str, int]:
    """The sizes of the matrices that are not among the layers, by name, the largest first.

    Args:
        aside: names that are spoken of elsewhere.
    """
    parameters = plain(model).named_parameters()
    known = {*layers, *aside}
    found = {n: p.numel() for n, p in parameters if p.ndim > 1 and n not in known}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def uncounted_words(model: nn.Module, layers: Collection[str], aside: Collection[str] = ()) -> str:
    """What is not counted, so that nobody takes N for all there is; empty if that is nothing."""
    model = plain(model)
    others = uncounted(model, layers, aside)
    if not others:
        return ""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, EMBEDDINGS)}
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    embedded = [name for name, p in model.named_parameters() if id(p) in tables]
    largest = [f"{n} {size:,}{' (embedding)' * (n in embedded)}" for n, size in others.items()]
    counted = sum(sizes[name] for name in layers)
    apart = sum(size for name, size in others.items() if name not in embedded)
    share = 100 * counted / (counted + apart)
    return (
        f"not counted: {sum(others.values()):,} parameters of {len(others)} "
        f"{'tensor' if len(others) == 1 else 'tensors'} (largest: {', '.join(largest[:3])}); "
        f"counted: {share:.4g} % of all weights in matrices, embeddings apart"
    )


def all_zero(model: nn.Module, layers: Iterable[str]) -> list[str]:
    """Those of the layers that hold nothing but zeros."""
    parameters = dict(plain(model).named_parameters())
    return [name for name in layers if not bool(parameters[name].detach().any())]


def zero_words(names: Sequence[str]) -> str:
    """What explains a verdict that such a layer decides; empty if there is none."""
    if not names:
        return ""
    return (
        f"{_few([repr(name) for name in names])} {'is' if len(names) == 1 else 'are'} all "
        "zero in the given weights: to look at the architecture, draw them anew with --init "
        "kaiming (in Python models.initialise)"
    )


class Reach(NamedTuple):
    """Layers that a model's output depends on less than others do.

    Attributes:
        unreached: the output does not depend on them: no forward uses them, or it does for another
            output than the one that is looked at.
        without_gradient: it depends on them, but what they compute is taken without its gradient
            (``.detach()``, ``torch.no_grad()``).
    """

    unreached: list[str]
    without_gradient: list[str]


def reach(model: nn.Module, layers: Iterable[str], inputs: Any, output: Any = None) -> Reach:
    """Which of the layers the output does not depend on, and which it has no gradient for.

    The two are told apart by a forward in which a layer is NaN.

    Args:
        inputs: a batch; one sample is enough.
    """
    layers, dtype = list(layers), compute_dtype(model)
    inputs = cast(inputs, dtype)
    with untouched(model, "eval"), torch.enable_grad():
        tensors = stand_ins(model, dtype=dtype)
        leaves = {name: tensors[name].clone().requires_grad_() for name in layers}
        result = call(model, {**tensors, **leaves}, inputs, output)
        reached = {id(leaf) for part in tensors_in(result) for leaf in _behind(part)}
        suspects = [name for name, leaf in leaves.items() if id(leaf) not in reached]

    def matters(names: Sequence[str]) -> bool:
        with untouched(model, "eval"), torch.no_grad():
            state = stand_ins(model, dtype=dtype)
            state |= {name: torch.full_like(state[name], float("nan")) for name in names}
            other = call(model, state, inputs, output)
        pairs = zip(tensors_in(result), tensors_in(other), strict=True)
        return not all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)

    if not suspects or not matters(suspects):
        return Reach(suspects, [])
    mattering = [name for name in suspects if matters([name])]
    return Reach([name for name in suspects if name not in mattering], mattering)


def unreached_words(sizes: Mapping[str, int]) -> str:
    """What such layers are, with their sizes; empty if there is none."""
    if not sizes:
        return ""
    largest = sorted(sizes.items(), key=lambda item: -item[1])
    return (
        f"never reached: the output does not depend on "
        f"{_few([f'{name} {size:,}' for name, size in largest])}, so "
        f"{'it is' if len(sizes) == 1 else 'they are'} left out (another output: --output NAME)"
    )


def without_gradient_words(names: Sequence[str]) -> str:
    """What such layers are, and what follows for them; empty if there is none."""
    if not names:
        return ""
    return (
        f"no gradient: the forward takes what {_few(names)} "
        f"{'computes' if len(names) == 1 else 'compute'} without its gradient (.detach() or "
        "no_grad), so every score by gradient is zero there and no path counts as leading on"
    )


def _few(words: Sequence[str]) -> str:
    """The first three, and how many more."""
    more = f" and {len(words) - 3:,} more" if len(words) > 3 else ""
    return ", ".join(words[:3]) + more


def _behind(x: Tensor) -> list[Tensor]:
    """The leaves of autograd's graph that a tensor depends on."""
    todo = [x.grad_fn] if x.grad_fn is not None else []
    seen, found = set(todo), []
    while todo:
        node = todo.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found.append(leaf)
        behind = {n for n, _ in node.next_functions if n is not None} - seen
        seen |= behind
        todo += behind
    return found
