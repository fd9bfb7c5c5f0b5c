"""Inputs of any form: how many samples, which of them, what becomes one, and what is no batch."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from collapse import masks as masking
from collapse.conservation import audit
from collapse.critical import critical_compression
from collapse.errors import RequestError
from collapse.models import Ones, cast, entering, mapped, samples, taken
from collapse.models.batches import shapes
from collapse.options import Pruning
from collapse.problem import Problem
from collapse.pruning import prune
from collapse.scores import ScoreInputs, fast, score


class _Pair(NamedTuple):
    a: Tensor
    b: Tensor


X, IDS = torch.randn(5, 3), torch.arange(5)[:, None].expand(-1, 2)
FORMS: dict[str, Any] = {
    "tensor": X,
    "tuple": (X, IDS),
    "list": [X, IDS],
    "dict": {"x": X, "ids": IDS, "scale": 2.0},
    "named": _Pair(X, IDS),
    "nested": {"x": X, "more": (IDS, [X])},
    "samples": ([X[i] for i in range(5)], [{"boxes": X[i]} for i in range(5)]),
}


@pytest.mark.parametrize("form", FORMS)
def test_samples_and_those_that_are_taken(form: str) -> None:
    inputs = FORMS[form]
    assert samples(inputs) == 5
    part = taken(inputs, slice(1, 3))
    assert type(part) is type(inputs)
    assert samples(part) == 2
    assert samples(taken(inputs, [4, 4, 0])) == 3
    first = part if isinstance(part, Tensor) else part["x"] if isinstance(part, dict) else part[0]
    assert torch.equal(first if isinstance(first, Tensor) else torch.stack(first), X[1:3])


def test_what_is_not_one_a_sample_stays() -> None:
    table = torch.randn(7, 2)
    part = taken({"x": X, "table": table, "number": 3, "nothing": None}, slice(0, 2))
    assert part["table"] is table
    assert (part["number"], part["nothing"]) == (3, None)
    assert taken(None, slice(0, 2)) is None


def test_ones_are_numbers_alone() -> None:
    inputs = {
        "x": X,
        "ids": IDS,
        "attention_mask": torch.rand(5, 3),
        "labels": torch.rand(5),
        "hidden": (X, torch.zeros(5).bool()),
    }
    ones = Ones.like(inputs, torch.float64).inputs
    assert torch.equal(ones["x"], torch.ones(1, 3, dtype=torch.float64))
    assert torch.equal(ones["hidden"][0], torch.ones(1, 3, dtype=torch.float64))
    for name in ("ids", "attention_mask", "labels"):
        assert torch.equal(ones[name], inputs[name][:1])
    assert ones["hidden"][1].dtype == torch.bool
    entered: list[Tensor] = []
    entering(inputs, lambda x: entered.append(x) or x)
    assert [x.shape for x in entered] == [(5, 3), (5, 3)]


def test_floats_are_cast_and_the_class_of_a_dict_stays() -> None:
    found = cast(OrderedDict(x=X, ids=IDS), torch.float64)
    assert isinstance(found, OrderedDict)
    assert (found["x"].dtype, found["ids"].dtype) == (torch.float64, torch.int64)
    assert isinstance(mapped(lambda x, _: x, _Pair(X, IDS)), _Pair)


def test_shapes_as_messages_have_them() -> None:
    assert shapes(X) == "shape (5, 3)"
    assert shapes({"x": X, "more": (IDS, X)}) == "shapes x (5, 3), more (5, 2), more (5, 3)"
    assert shapes((X, 1)) == "shapes (5, 3)"


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (
            (X, X[:, 0]),
            r"batch 1: expected a pair.* a tensor of shape \(5, 3\).*batches=\[\(inputs",
        ),
        (X, r"got a tensor of shape \(5, 3\)"),
        (
            [(X, IDS, X)],
            r"got 3 parts; several inputs are one tuple or dict: \(\(a, b\), targets\)",
        ),
        ([(X, None), {"x": X}], r"batch 2: expected a pair .*got a dict of x; write \(batch, targ"),
        ({"x": X}, "got a dict of x"),
        ([(X.numpy(), None)], "expected inputs that are a tensor, a tuple or a dict, got ndarray"),
        ([({}, None)], "expected inputs with a tensor among them, got a dict of nothing"),
        (["ab"], "got str"),
    ],
)
def test_another_form_is_one_line(batches: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        prune(nn.Linear(3, 2), batches, compression=2)
    if isinstance(batches, list) and len(batches) == 1:
        with pytest.raises(RequestError, match=message):
            audit(nn.Linear(3, 2), batches[0])


def test_no_model_and_no_options_are_one_line() -> None:
    with pytest.raises(RequestError, match=r"expected a torch\.nn\.Module, got NoneType"):
        prune(None, [(X, None)], compression=2)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"expected a torch\.nn\.Module, got NoneType"):
        audit(None, (X, None))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"expected collapse.Pruning\(pruner=…\), got 'snip'"):
        prune(nn.Linear(3, 2), [(X, None)], "snip", compression=2)  # type: ignore[arg-type]


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 6), nn.Linear(2, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor, other: Tensor, scale: float = 1.0) -> Tensor:
        return self.head((self.a(x) + scale * self.b(other)).relu())


@pytest.mark.parametrize("pruner", ["snip", "grasp", "synflow"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_by_position_and_by_name_is_the_same(pruner: str, mode: Any) -> None:
    """Also in parts, which samples of several inputs are taken into."""
    model = _Two().double()
    x, other, y = torch.randn(150, 3), torch.randn(150, 2), torch.arange(150) % 4

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = model

        def forward(self, both: Tensor) -> Tensor:
            return self.two(both[:, :3], both[:, 3:])

    masks = masking.dense(model)
    forms: list[Any] = [(x, other), [x, other], {"x": x, "other": other, "scale": 1.0}]
    found = [score(model, pruner, masks, ScoreInputs([(form, y)], mode)) for form in forms]
    whole = {f"two.{name}": mask for name, mask in masks.items()}
    together = ScoreInputs([(torch.cat([x, other], 1), y)], mode)
    expected = score(One(), pruner, whole, together)
    with fast.off():
        found.append(score(model, pruner, masks, ScoreInputs([(forms[2], y)], mode)))
    for scores in found:
        for name in masks:
            torch.testing.assert_close(scores[name], expected[f"two.{name}"])
    assert list(fast.parts(model, ScoreInputs([(forms[0], y)]), torch.float64))[-1][1].shape == (
        22,
    )


def test_a_ledger_of_several_inputs() -> None:
    model, inputs = _Two().double(), {"x": X, "other": torch.randn(5, 2)}
    for pruner in ("synflow", "snip", "grasp"):
        found = audit(model, (inputs, torch.arange(5) % 4), pruner=pruner)
        assert found.ledger["residual"].max() < 1e-12
    masks = masking.dense(model)
    masks["a.weight"][:] = False
    problem = Problem(model, [(inputs, None)])
    assert problem.input_shape == (3,)
    kept = prune(problem, options=Pruning(iterations=3), keep=3, masks=masks)
    assert masking.collapsed(kept.masks)[0] == "a.weight"


class _Graph(nn.Module):
    """Two layers of sums over neighbours, on the edges that come with the nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            sources, targets = edge_index
            x = layer(x + torch.zeros_like(x).index_add(0, targets, x[sources])).relu()
        return x


@pytest.mark.parametrize("by_name", [True, False])
def test_nodes_of_a_graph_stay_together(by_name: bool) -> None:
    model, edges = _Graph(), torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]])
    inputs: Any = {"x": X, "edge_index": edges} if by_name else (X, edges)
    assert taken(inputs, slice(0, 1)) is inputs
    result = critical_compression(model, [(inputs, torch.arange(5) % 4)], Pruning("synflow"))
    assert result.parameters == 3 * 8 + 8 * 4
    assert result.connected_until == result.maximal_compression
    for pruner in ("synflow", "snip", "grasp"):
        found = audit(
            model.double(), (cast(inputs, torch.float64), torch.arange(5) % 4), pruner=pruner
        )
        assert found.ledger["residual"].max() < 1e-12
    long = (torch.randn(200, 3), torch.randint(0, 200, (2, 300)))
    assert (
        len(list(fast.parts(model, ScoreInputs([(long, torch.zeros(200).long())]), X.dtype))) == 1
    )


def test_positions_beside_tokens_are_no_graph() -> None:
    assert samples(part := taken((IDS, torch.arange(2)), slice(0, 1))) == 1
    assert torch.equal(part[1], torch.arange(2))
    assert len(taken((X, torch.full((2, 9), 5)), slice(0, 1))[0]) == 1  # there is no sixth node
