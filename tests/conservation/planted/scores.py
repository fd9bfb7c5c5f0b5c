"""Faults in a pruner's scores, on networks that are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse.models import untouched
from collapse.scores import SCORES
from tests.conservation.planted import Case, caught, excusable
from tests.conservation.planted.networks import image_batch, normed, vectors
from tests.zoo import _randomise

Change = Callable[[Tensor], Tensor]
LAYER = r"score( weights)? at c2.weight"


def _changed(pruner: str, change: Change, mode: str = "eval") -> Case:
    """One layer's scores are changed."""

    def wrong(right: Any, model: nn.Module, masks: Any, inputs: Any) -> Any:
        scores = right(model, masks, inputs)
        scores["c2.weight"] = change(scores["c2.weight"].clone())
        return scores

    return replace(normed(), pruner=pruner, mode=mode, wrong=wrong)


def _asked(pruner: str, ask: Callable[[Any], Any], mode: str = "eval") -> Case:
    """The right function is given other inputs than the audit's."""
    return replace(
        normed(mode=mode),
        pruner=pruner,
        wrong=lambda right, model, masks, inputs: right(model, masks, ask(inputs)),
    )


def _scaled(part: Any, by: float) -> Change:
    def change(scores: Tensor) -> Tensor:
        scores[part] *= by
        return scores

    return change


def _swapped(scores: Tensor) -> Tensor:
    """The largest and the smallest score of one unit."""
    unit = scores[1].reshape(-1)
    high, low = int(unit.argmax()), int(unit.argmin())
    unit[[high, low]] = unit[[low, high]]
    return scores


def _permuted_in_units(scores: Tensor) -> Tensor:
    return scores.flatten(1).flip(1).reshape(scores.shape)


def _permuted(scores: Tensor) -> Tensor:
    return scores.reshape(-1).flip(0).reshape(scores.shape)


def _largest_zeroed(scores: Tensor) -> Tensor:
    scores.reshape(-1)[int(scores.abs().argmax())] = 0
    return scores


CHANGES: dict[str, Change] = {
    "one layer scaled by 1.001": lambda s: s * 1.001,
    "one unit scaled by 1.001": _scaled(2, 1.001),
    "one weight scaled by 1.1": _scaled((2, 1, 1, 1), 1.1),
    "the largest score of a layer left out": _largest_zeroed,
    "two scores of one unit exchanged": _swapped,
    "each unit's scores in reverse": _permuted_in_units,
    "a layer's scores in reverse": _permuted,
    "input channels exchanged": lambda s: s.flip(1),
    "kernels transposed": lambda s: s.transpose(2, 3).contiguous(),
    "a sign lost in one unit": _scaled(0, -1.0),
    "a layer normalised to sum one": lambda s: s / s.sum(),
}


def _of(pruner: str, what: str, change: Change) -> None:
    def plant() -> Case:
        return _changed(pruner, change)

    plant.__doc__ = f"{pruner}, {what}."
    caught(LAYER)(plant)


for _pruner in ("synflow", "snip", "grasp"):
    for _what, _change in CHANGES.items():
        _of(_pruner, _what, _change)

EVERYWHERE = r"score( weights)? at (c1|c2|head).weight"


@caught(EVERYWHERE)
def _() -> Case:
    """SNIP on another batch."""
    return _asked("snip", lambda inputs: replace(inputs, batches=[image_batch()]))


@caught(EVERYWHERE)
def _() -> Case:
    """SNIP on half of the batch."""
    half = lambda b: (b[0][:2], b[1][:2])  # noqa: E731
    return _asked("snip", lambda inputs: replace(inputs, batches=[half(inputs.batches[0])]))


@caught(EVERYWHERE)
def _() -> Case:
    """SNIP with a sum in place of the mean over samples."""
    return _asked(
        "snip", lambda i: replace(i, loss=lambda y, t: F.cross_entropy(y, t, reduction="sum"))
    )


@caught(EVERYWHERE)
def _() -> Case:
    """SNIP with smoothed labels."""
    loss = lambda y, t: F.cross_entropy(y, t, label_smoothing=0.1)  # noqa: E731
    return _asked("snip", lambda inputs: replace(inputs, loss=loss))


def _in_mode(pruner: str, ran: str, asked: str) -> Case:
    def wrong(right: Any, model: nn.Module, masks: Any, inputs: Any) -> Any:
        with untouched(model, ran):
            return right(model, masks, inputs)

    return replace(normed(mode=asked), pruner=pruner, wrong=wrong)


@caught(EVERYWHERE)
def _() -> Case:
    """SNIP in train mode where eval mode was asked for."""
    return _in_mode("snip", "train", "eval")


@caught(EVERYWHERE)
def _() -> Case:
    """SNIP in eval mode where train mode was asked for."""
    return _in_mode("snip", "eval", "train")


@caught(EVERYWHERE)
def _() -> Case:
    """GraSP in train mode where eval mode was asked for."""
    return _in_mode("grasp", "train", "eval")


@caught(EVERYWHERE)
def _() -> Case:
    """SynFlow in train mode."""
    return _in_mode("synflow", "train", "eval")


def _every(pruner: str, change: Change) -> Case:
    def wrong(right: Any, model: nn.Module, masks: Any, inputs: Any) -> Any:
        scores = right(model, masks, inputs)
        for name in scores:
            scores[name] = change(scores[name])
        return scores

    return replace(normed(), pruner=pruner, wrong=wrong)


@caught(EVERYWHERE)
def _() -> Case:
    """SNIP squared."""
    return _every("snip", lambda s: s.square())


def _half(case: Case) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    names = ("c1.weight", "c2.weight", "head.weight")
    weights = dict(case.model.named_parameters())
    return {n: torch.rand(weights[n].shape, generator=draw) < 0.5 for n in names}


def _dense(pruner: str) -> Case:
    case = normed(pruner=pruner)
    return replace(
        case,
        masks=_half(case),
        wrong=lambda right, _, masks, inputs: right(  # its own copy of the model is pruned
            case.model, {n: torch.ones_like(m) for n, m in masks.items()}, inputs
        ),
    )


@caught(EVERYWHERE)
def _() -> Case:
    """SynFlow of the dense network where half is pruned."""
    return _dense("synflow")


@caught(EVERYWHERE)
def _() -> Case:
    """GraSP of the dense network where half is pruned."""
    return _dense("grasp")


@caught(EVERYWHERE)
def _() -> Case:
    """GraSP on another batch."""
    return _asked("grasp", lambda inputs: replace(inputs, batches=[image_batch()]))


@caught(EVERYWHERE)
def _() -> Case:
    """GraSP with a sum in place of the mean."""
    return _asked(
        "grasp", lambda i: replace(i, loss=lambda y, t: F.cross_entropy(y, t, reduction="sum"))
    )


@caught(EVERYWHERE)
def _() -> Case:
    """GraSP with its sign turned."""
    return _every("grasp", lambda s: -s)


def _exchanged(pruner: str) -> Case:
    """Two layers of one shape take each other's scores."""

    def wrong(right: Any, model: nn.Module, masks: Any, inputs: Any) -> Any:
        scores = right(model, masks, inputs)
        scores["a.weight"], scores["b.weight"] = scores["b.weight"], scores["a.weight"]
        return scores

    model = nn.Sequential()
    for name in ("a", "b"):
        model.add_module(name, nn.Linear(6, 6))
        model.add_module(f"{name}_relu", nn.ReLU())
    model.add_module("head", nn.Linear(6, 3))
    batch = (torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % 3)
    return Case(_randomise(model).double(), batch, pruner=pruner, wrong=wrong)


@caught(r"score( weights)? at [ab].weight")
def _() -> Case:
    """SNIP, two layers of one shape exchanged."""
    return _exchanged("snip")


@caught(r"score( weights)? at [ab].weight")
def _() -> Case:
    """GraSP, two layers of one shape exchanged."""
    return _exchanged("grasp")


def _mine(change: Callable[[dict[str, Tensor]], None]) -> Case:
    """A pruner of the user's, of which nothing is known: SynFlow with a change."""

    def wrong(right: Any, model: nn.Module, masks: Any, inputs: Any) -> Any:
        scores = SCORES["synflow"](model, masks, inputs)
        change(scores)
        return scores

    return replace(vectors(nn.ReLU()), pruner="mine", wrong=wrong)


def _multiply(name: str, by: float) -> Callable[[dict[str, Tensor]], None]:
    return lambda scores: scores.__setitem__(name, scores[name] * by)


@caught(r"score layers at c2.weight")
def _() -> Case:
    """a user's pruner, one layer scaled by 1.001."""
    return _mine(_multiply("c2.weight", 1.001))


@caught(r"score neurons at c[12].weight\[3\]")
def _() -> Case:
    """a user's pruner, one unit scaled by 1.1."""
    return _mine(lambda scores: scores["c2.weight"][3].mul_(1.1))


@caught(r"score neurons at c2.weight")
def _() -> Case:
    """a user's pruner, the units of a layer in another order."""
    return _mine(lambda scores: scores.update({"c2.weight": scores["c2.weight"].flip(0)}))


@caught(r"score neurons at c1.weight")
def _() -> Case:
    """a user's pruner, the scores within each unit in another order."""
    return _mine(lambda scores: scores.update({"c2.weight": scores["c2.weight"].flip(1)}))


@excusable(
    "sums over each unit's incoming and outgoing weights are all that a law says of an unknown "
    "score, and this exchange keeps every one of them"
)
def _() -> Case:
    """a user's pruner, a cycle of four scores that keeps each row's and column's sum."""

    def change(scores: dict[str, Tensor]) -> None:
        weight = scores["c2.weight"]
        step = 0.1 * float(weight.mean())
        weight[0, 0] += step
        weight[0, 1] -= step
        weight[1, 0] -= step
        weight[1, 1] += step

    return _mine(change)
