"""Faults in the formula of a score, each written out by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.conservation.planted import Case, caught
from tests.conservation.planted.networks import normed

EVERYWHERE = r"score( weights)? at (c1|c2|head).weight"


def _by_hand(pruner: str, formula: Callable[..., dict[str, Tensor]]) -> Case:
    def wrong(right: Any, model: nn.Module, masks: Any, inputs: Any) -> Any:
        twin = copy.deepcopy(model).train(inputs.mode == "train")
        return formula(twin, list(masks), *inputs.batches[0])

    return replace(normed(), pruner=pruner, wrong=wrong)


def _gradients(model: nn.Module, names: list[str], value: Tensor) -> dict[str, Tensor]:
    weights = dict(model.named_parameters())
    found = torch.autograd.grad(value, [weights[n] for n in names])
    return dict(zip(names, found, strict=True))


def _weights(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in model.named_parameters() if n in names}


@caught(EVERYWHERE)
def _() -> Case:
    """SNIP without its absolute value."""

    def formula(model, names, x, y):
        g = _gradients(model, names, F.cross_entropy(model(x), y))
        return {n: g[n] * w for n, w in _weights(model, names).items()}

    return _by_hand("snip", formula)


@caught(EVERYWHERE)
def _() -> Case:
    """SNIP with the absolute value inside the mean over samples."""

    def formula(model, names, x, y):
        parts = [_gradients(model, names, F.cross_entropy(model(a[None]), b[None]))
                 for a, b in zip(x, y, strict=True)]  # fmt: skip
        means = {n: torch.stack([p[n].abs() for p in parts]).mean(0) for n in names}
        return {n: means[n] * w.abs() for n, w in _weights(model, names).items()}

    return _by_hand("snip", formula)


@caught(EVERYWHERE)
def _() -> Case:
    """the gradient alone, without its weight."""

    def formula(model, names, x, y):
        return {
            n: g.abs() for n, g in _gradients(model, names, F.cross_entropy(model(x), y)).items()
        }

    return _by_hand("snip", formula)


def _positive(model: nn.Module, biases: bool = False, means: bool = False) -> None:
    for name, p in model.named_parameters():
        p.data.abs_()
        if name.endswith("bias") and not biases:
            p.data.zero_()
    for name, b in model.named_buffers():
        if name.endswith("running_mean") and not means:
            b.zero_()


def _synflow(
    prepare: Callable[[nn.Module], None] = _positive,
    read: Callable[[Tensor], Tensor] = torch.sum,
    ask: Callable[[Tensor], Tensor] = lambda x: torch.ones_like(x[:1]),
    combine: Callable[[Tensor, Tensor], Tensor] = lambda w, g: w * g,
) -> Case:
    def formula(model, names, x, y):
        model.eval()
        prepare(model)
        g = _gradients(model, names, read(model(ask(x))))
        return {n: combine(w, g[n]) for n, w in _weights(model, names).items()}

    return _by_hand("synflow", formula)


def right_synflow() -> Case:
    """SynFlow by hand and without a fault, so that the ones below are what they say."""
    return _synflow()


@caught(EVERYWHERE)
def _() -> Case:
    """SynFlow with the biases in R."""
    return _synflow(lambda model: _positive(model, biases=True))


@caught(EVERYWHERE)
def _() -> Case:
    """SynFlow with the running means in R."""
    return _synflow(lambda model: _positive(model, means=True))


@caught(EVERYWHERE)
def _() -> Case:
    """SynFlow on signed weights."""

    def signed(model: nn.Module) -> None:
        kept = [p.detach().clone() for p in model.parameters()]
        _positive(model)
        for p, value in zip(model.parameters(), kept, strict=True):
            p.data.copy_(value if p.ndim > 1 else p)

    return _synflow(signed)


@caught(EVERYWHERE)
def _() -> Case:
    """SynFlow with the mean over outputs for R."""
    return _synflow(read=torch.mean)


@caught(EVERYWHERE)
def _() -> Case:
    """SynFlow with the first output alone for R."""
    return _synflow(read=lambda y: y[:, 0].sum())


@caught(EVERYWHERE)
def _() -> Case:
    """SynFlow with squared outputs for R."""
    return _synflow(read=lambda y: y.square().sum())


@caught(EVERYWHERE)
def _() -> Case:
    """SynFlow on data in place of ones."""
    return _synflow(ask=lambda x: x[:1].abs())


@caught(EVERYWHERE)
def _() -> Case:
    """SynFlow on two samples of ones."""
    return _synflow(ask=lambda x: torch.ones_like(x[:2]))


@caught(EVERYWHERE)
def _() -> Case:
    """SynFlow with squared weights in the score."""
    return _synflow(combine=lambda w, g: w.square() * g)


def _grasp(vector: Callable[[Tensor], Tensor], temperature: float) -> Case:
    def formula(model, names, x, y):
        weights = dict(model.named_parameters())
        loss = F.cross_entropy(model(x) / temperature, y)
        g = torch.autograd.grad(loss, [weights[n] for n in names], create_graph=True)
        product = sum((a * vector(a.detach())).sum() for a in g)
        h = torch.autograd.grad(product, [weights[n] for n in names])
        return {n: part * weights[n].detach() for n, part in zip(names, h, strict=True)}

    return _by_hand("grasp", formula)


@caught(EVERYWHERE)
def _() -> Case:
    """GraSP at temperature 1."""
    return _grasp(lambda g: g, 1.0)


@caught(EVERYWHERE)
def _() -> Case:
    """GraSP with a vector of ones in place of the gradient."""
    return _grasp(torch.ones_like, 200.0)


@caught(EVERYWHERE)
def _() -> Case:
    """GraSP with the gradient's signs in place of the gradient."""
    return _grasp(torch.sign, 200.0)
