"""A forward that fails: the operation, the place and the cause, and never a wrong cause."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapse import masks as masking
from collapse.errors import RequestError
from collapse.models import call, stand_ins
from collapse.scores import ScoreInputs, score


class _Model(nn.Module):
    def __init__(self, run: Any) -> None:
        super().__init__()
        self.body = nn.ModuleDict(
            {
                "head": nn.Linear(4, 3),
                "norm": nn.BatchNorm1d(4),
                "words": nn.Embedding(5, 4),
                "conv": nn.Conv2d(3, 4, 3),
            }
        )
        self.run = run

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.run(self.body, x)


def _own(body: nn.ModuleDict, x: Tensor) -> Tensor:
    raise KeyError("no such thing")


SHAPE = r" \(another shape: --input-shape C H W, with --dataset gaussian but for the doctor\)$"
WANTED = r"\(_Model.forward takes x; given"
FLOATS, IDS = torch.zeros(2, 7), torch.tensor([[1, 9]])
# What is run, on what, and what the message says in this order.
CASES: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "linear": (
        lambda body, x: body.head(x),
        FLOATS,
        (r"of shape \(2, 7\) in 'body.head' \(Linear: F.linear\): ", "mat1 and mat2", SHAPE),
    ),
    "convolution": (
        lambda body, x: body.conv(x),
        torch.zeros(2, 1, 8, 8),
        (r"in 'body.conv' \(Conv2d: ", r"conv2d\): ", SHAPE),
    ),
    "small": (lambda body, x: body.conv(x), torch.zeros(2, 3, 2, 2), (SHAPE,)),
    "type": (
        lambda body, x: body.head(x),
        torch.zeros(2, 4).long(),
        (r"F.linear\): ", r"\(inputs are int64, weights float32\)$"),
    ),
    "ids": (
        lambda body, x: body.words(x),
        torch.zeros(2, 4),
        (r"Embedding: torch.embedding\): ", "ids of tokens are integers"),
    ),
    "range": (
        lambda body, x: body.words(x),
        IDS,
        (r"IndexError: index out of range in self \(ids 1 to 9 of a table of 5\)$",),
    ),
    "own": (
        _own,
        FLOATS,
        (r"in _Model \(test_failures.py line \d+\): KeyError: 'no such thing'$",),
    ),
    "attribute": (
        lambda body, x: x.nowhere,
        FLOATS,
        (r"x.nowhere, test_failures.py line \d+\): AttributeError: ", "no attribute 'nowhere'$"),
    ),
    "sum": (
        lambda body, x: x + torch.zeros(3),
        FLOATS,
        (r"\(x \+ torch.zeros\(3\), test_failures.py line \d+\): The size of tensor a ", r"[^)]$"),
    ),
    "keyword": (
        _own,
        {"x": FLOATS, "mask": FLOATS},
        (f"unexpected keyword argument 'mask' {WANTED} x, mask; inputs may be a tuple or a dict",),
    ),
    "positions": (
        _own,
        (FLOATS, FLOATS),
        (r"on shapes \(2, 7\), \(2, 7\): TypeError: ", f"but 3 were given {WANTED} 2 by position"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_failed_where_and_why(name: str) -> None:
    run, inputs, words = CASES[name]
    model = _Model(run)
    with pytest.raises(RequestError, match=".*".join(words)) as error:
        call(model, stand_ins(model), inputs)
    assert "\n" not in str(error.value)
    assert ("another shape" in str(error.value)) == (SHAPE in words)


def test_a_device_mismatch_says_where_each_is() -> None:
    model = _Model(lambda body, x: body.head(x))
    with pytest.raises(RequestError, match=r"\(inputs are on meta, weights on cpu\)$"):
        call(model, stand_ins(model), torch.zeros(2, 4, device="meta"))


def test_a_pruner_of_ones_own_says_so_too() -> None:
    model = _Model(lambda body, x: body.head(x))
    inputs = ScoreInputs([(FLOATS, torch.zeros(2).long())])
    with pytest.raises(RequestError, match="'body.head'"):
        score(model, "snip", {"body.head.weight": masking.dense(model)["body.head.weight"]}, inputs)


def test_a_method_whose_self_has_another_name() -> None:
    class Inner(nn.Module):
        def forward(s, x: Tensor) -> Tensor:  # noqa: N805  # the name is what is tested
            raise ValueError("expected an even height")

    with pytest.raises(
        RequestError, match=r"in '1' \(Inner: test_failures.py line \d+\): ValueError"
    ):
        model = nn.Sequential(nn.Identity(), Inner())
        call(model, stand_ins(model), torch.zeros(2, 4))
