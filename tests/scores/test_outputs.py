"""Several outputs, outputs with positions, and losses of one's own, against plain autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import masks as masking
from collapse.connectivity import connected
from collapse.conservation import audit
from collapse.critical import critical_compression
from collapse.errors import RequestError
from collapse.models import floats_of, select_output
from collapse.options import Pruning
from collapse.problem import Problem
from collapse.scores import ScoreInputs, load_loss, score, token_cross_entropy

X = torch.randn(6, 3, 5, 5, dtype=torch.float64)


class _Heads(nn.Module):
    """A detector's classes and boxes, in a dict or a tuple."""

    def __init__(self, kind: str = "dict") -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, padding=1)
        self.classes, self.boxes = nn.Linear(4, 5), nn.Linear(4, 4, bias=False)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        h = self.body(x).relu().mean((2, 3))
        parts = {"classes": self.classes(h), "boxes": self.boxes(h), "number": torch.arange(len(x))}
        return parts if self.kind == "dict" else tuple(parts.values())


def _loss(output: Any, targets: Any) -> Tensor:
    classes, boxes = (
        (output["classes"], output["boxes"]) if isinstance(output, dict) else output[:2]
    )
    return F.cross_entropy(classes, targets["labels"]) + F.l1_loss(boxes, targets["boxes"])


def _targets() -> dict[str, Tensor]:
    return {"labels": torch.arange(6) % 5, "boxes": torch.rand(6, 4, dtype=torch.float64)}


def _snip(model: nn.Module, loss: Tensor, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, [parameters[name] for name in masks])
    return {n: (g * parameters[n]).abs() for n, g in zip(masks, gradients, strict=True)}


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_a_loss_is_given_all_of_the_output(kind: str) -> None:
    model, targets = _Heads(kind).double(), _targets()
    masks = masking.dense(model)
    inputs = ScoreInputs([(X, targets)], loss=_loss, output="all")
    expected = _snip(model, _loss(model(X), targets), masks)
    found = score(model, "snip", masks, inputs)
    for name in masks:
        torch.testing.assert_close(found[name], expected[name])
    assert all(bool(tensor.any()) for tensor in score(model, "grasp", masks, inputs).values())


def test_R_is_the_sum_of_every_floating_output() -> None:
    model = _Heads().double()
    masks = masking.dense(model)
    every = score(model, "synflow", masks, ScoreInputs([(X, None)], output="all"))
    parts = [
        score(model, "synflow", masks, ScoreInputs([(X, None)], output=name))
        for name in ("classes", "boxes")
    ]
    assert every.total == pytest.approx(sum(part.total for part in parts))
    for name in masks:
        torch.testing.assert_close(every[name], parts[0][name] + parts[1][name])
    for pruner in ("synflow", "snip", "grasp"):
        found = audit(model, (X, _targets()), pruner=pruner, loss=_loss, output="all")
        assert found.ledger["residual"].max() < 1e-12
        assert set(found.coverage.crossed) == set(masks)
    masks["classes.weight"][:] = False
    assert connected(model, masks, X, output="all")
    assert not connected(model, masks, X, output="classes")


def test_no_head_is_left_over_by_a_loss_on_all() -> None:
    problem = Problem(_Heads(), [(X.float(), _targets())], "all", _loss)
    result = critical_compression(problem, options=Pruning("snip"))
    assert result.critical_compression > 2  # 1.02 and boxes first, where the loss is on one head
    alone = Problem(problem.model, [(X.float(), torch.arange(6) % 5)], "classes")
    assert set(critical_compression(alone, options=Pruning("snip")).sizes) == {
        name for name in result.sizes if not name.startswith("boxes")
    }


class _Segments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


@pytest.mark.parametrize("pruner", ["snip", "grasp"])
def test_a_class_for_each_pixel(pruner: str) -> None:
    model, y = _Segments().double(), torch.randint(5, (6, 5, 5))
    y[0, 0] = -100
    masks = masking.dense(model)
    found = score(model, pruner, masks, ScoreInputs([(X, y)]))
    if pruner == "snip":
        expected = _snip(model, F.cross_entropy(model(X), y), masks)
        for name in masks:
            torch.testing.assert_close(found[name], expected[name])
    assert audit(model, (X, y), pruner=pruner).ledger["residual"].max() < 1e-12


def test_real_targets_have_a_loss_of_their_own() -> None:
    model, y = nn.Linear(3, 1).double(), torch.randn(6, 1, dtype=torch.float64)
    x, masks = X[:, :, 0, 0], masking.dense(model)
    found = score(model, "snip", masks, ScoreInputs([(x, y)], loss=F.mse_loss))
    assert torch.allclose(found["weight"], _snip(model, F.mse_loss(model(x), y), masks)["weight"])
    soft = torch.full((6, 4), 0.25, dtype=torch.float64)  # probabilities are cross-entropy's own
    wide = nn.Linear(3, 4).double()
    assert score(wide, "snip", masking.dense(wide), ScoreInputs([(x, soft)]))["weight"].any()


def test_tokens_have_their_classes_last() -> None:
    output, targets = torch.randn(2, 7, 5), torch.randint(5, (2, 7))
    expected = F.cross_entropy(output.transpose(1, 2), targets)
    torch.testing.assert_close(token_cross_entropy(output, targets), expected)


def _of(output: Any) -> nn.Module:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Any:
            return output(self.head(x))

    return Model()


@pytest.mark.parametrize(
    ("output", "targets", "options", "message"),
    [
        (lambda y: y, [0, 1, 4], {}, r"from 0 to 4: expected .*\[batch, classes\].*got \(3, 4\)$"),
        (lambda y: y, [0, -1, 2], {}, r"from -1 to 2"),
        (lambda y: y[:, None].expand(-1, 2, -1), [[0, 1]] * 3, {},
         r"\[batch, classes, 2\].*got \(3, 2, 4\); with classes last.*token_"),
        (lambda y: y, [0.0, 1.0, 2.0], {}, r"targets are float32 \(3,\): .*functional:mse"),
        (lambda y: {"a": y, "b": y}, [0, 1, 2], {"output": "all"},
         r"cross-entropy takes an output .*got dict of float32 \(3, 4\), float32 \(3, 4\) and"),
        (lambda y: y, [0, 1, 2], {"loss": lambda y, _: y}, r"scalar tensor, got float32 \(3, 4\)"),
        (lambda y: y, [0, 1, 2], {"loss": lambda _, t: t.nowhere},
         r"the loss failed with \w+: .*float32 \(3, 4\) as output and int64 \(3,\) as targets"),
        (lambda y: y, [0, 1], {}, "expected a label for each of 3 samples, got 2"),
        (lambda y: {"n": 1}, [0, 1, 2], {"output": "all"}, "expected a floating-point tensor"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pruner", ["snip", "own"])
def test_a_loss_that_does_not_fit_is_one_line(
    pruner: str, output: Any, targets: Any, options: dict[str, Any], message: str
) -> None:
    """Also where the pruner is the user's and only the ledger needs the loss."""
    model, batch = _of(output), (torch.randn(3, 3), torch.tensor(targets))
    if pruner == "own":
        if "label for each" in message:
            return
        with pytest.raises(RequestError, match=message):
            audit(model, batch, pruner="magnitude", **options)
    else:
        with pytest.raises(RequestError, match=message):
            score(model, "snip", masking.dense(model), ScoreInputs([batch], **options))


def test_the_only_part_is_meant_and_logits_of_hugging_face() -> None:
    x = torch.ones(2)
    assert select_output({"out": x}, None) is x
    assert select_output((x,), None) is x
    with pytest.raises(RequestError, match="dict with parts logits, aux; choose one"):
        select_output({"logits": x, "aux": x}, None)
    assert [len(part) for part in floats_of({"a": x, "n": x.long(), "b": (x, [x])})] == [2, 2, 2]
    with pytest.raises(RequestError, match="expected the model to return a tensor, got NoneType$"):
        select_output(None, None)
    for integers, output in ((x.long(), None), ({"a": x, "ids": x.long()}, "ids")):
        with pytest.raises(RequestError, match=r"expected floating-point .* got int64 \(2,\)"):
            select_output(integers, output)
    outputs = pytest.importorskip("transformers.modeling_outputs")
    assert select_output(outputs.CausalLMOutput(loss=x.sum(), logits=x), None) is x
    with pytest.raises(RequestError, match="parts last_hidden_state, pooler_output; choose one"):
        select_output(outputs.BaseModelOutputWithPooling(x, x), None)


def test_negative_classes_are_named_as_the_cause() -> None:
    model = nn.Linear(4, 3)
    batch = (torch.ones(3, 4), torch.tensor([0, -1, 2]))
    with pytest.raises(RequestError, match="classes from -1 to 2: expected them from 0 up"):
        score(model, "snip", masking.dense(model), ScoreInputs([batch]))


def test_losses_by_name(module_named: Any) -> None:
    module_named("my_losses", "loss = 3\ndef near(output, targets): return output.sum()\n")
    assert load_loss(None) is F.cross_entropy
    assert load_loss("torch.nn.functional:mse_loss") is F.mse_loss
    assert load_loss("my_losses:near")(X, None) == X.sum()
    for name, message in {
        "mse": "loss 'mse': expected package.module:function",
        "my_losses:neer": "unknown loss in 'my_losses' 'neer'; nearest: near",
        "my_losses:loss": "expected a function",
        "torch.nn:CrossEntropyLoss": "expected a function .output, targets., got a class",
    }.items():
        with pytest.raises(RequestError, match=message):
            load_loss(name)
