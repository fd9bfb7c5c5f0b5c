"""Planted faults: a checker that cannot fail is worth nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from collapse import masks as masking
from collapse.conservation import ledger, worst
from collapse.flow import Flow, Trace
from collapse.models import build
from collapse.scores import SCORES, ScoreInputs
from collapse.testing import assert_conserved
from tests.conservation.traces import traced
from tests.zoo import _randomise

NARROW = "analysis.leaderboard.networks"


def _planted(pruner: str, fault: Callable[[str, Tensor], Tensor]) -> Callable[..., object]:
    right = SCORES[pruner]

    def wrong(model: nn.Module, masks: dict[str, Tensor], inputs: ScoreInputs) -> object:
        scores = right(model, masks, inputs)
        for name in scores:
            scores[name] = fault(name, scores[name])
        return scores

    return wrong


@pytest.mark.parametrize("pruner", ["synflow", "snip", "grasp"])
@pytest.mark.parametrize("network", ["minivgg", "resnet20"])
def test_one_layer_scaled_by_a_hundredth_is_named(
    pruner: str, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = _randomise(build(network))
    layer = list(masking.dense(model))[5]
    fault = _planted(pruner, lambda name, s: s * 1.01 if name == layer else s)
    monkeypatch.setitem(SCORES, pruner, fault)
    with pytest.raises(AssertionError, match=f"score weights at {layer}") as caught:
        assert_conserved(
            model, torch.randn(4, 3, 32, 32), torch.arange(4), pruner=pruner, mode="eval"
        )
    assert "likely cause" in str(caught.value)


@pytest.mark.parametrize("layer", [0, 3, 6])
def test_a_users_pruner_scaled_in_one_layer_is_named(
    layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pruner that we know nothing of: its own sums must agree from cut to cut."""
    model = build("minivgg")
    monkeypatch.setitem(SCORES, "mine", SCORES["synflow"])
    assert_conserved(model, torch.zeros(1, 3, 32, 32), pruner="mine")
    name = list(masking.dense(model))[layer]
    monkeypatch.setitem(
        SCORES, "mine", _planted("synflow", lambda n, s: s * 1.01 if n == name else s)
    )
    with pytest.raises(AssertionError, match=f"score layers at {name}: 1.0[01]"):
        assert_conserved(model, torch.zeros(1, 3, 32, 32), pruner="mine")


def test_an_absolute_value_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("minivgg")
    monkeypatch.setitem(SCORES, "mine", SCORES["snip"])
    with pytest.raises(AssertionError, match="score neurons at"):
        assert_conserved(model, torch.randn(4, 3, 32, 32), torch.arange(4), pruner="mine")


def _worst_place(trace: Trace, identity: str) -> str:
    table = ledger(trace)
    table = table[table["identity"] == identity]
    return str(table.loc[table["residual"].idxmax(), "place"])


@pytest.mark.parametrize("index", [0, 4, 7])
def test_a_dropped_bias_is_named(index: int) -> None:
    torch.manual_seed(0)
    model = _randomise(build("minivgg"))
    trace = traced(model, torch.randn(4, 3, 32, 32), torch.arange(4), "eval", torch.float64)
    operation = [op for op in trace.operations if op.function == "conv2d"][index]
    bias = operation.use(2, "bias")
    bias.by_output = Flow.none(len(bias.by_output.units))
    assert float(worst(ledger(trace))["residual"].max()) > 1e-5
    name = operation.use(1, "weight").parameter
    assert _worst_place(trace, "output units").startswith(name)


def test_a_changed_weight_and_a_changed_activation_are_named() -> None:
    torch.manual_seed(0)
    model = _randomise(build("minivgg"))
    for what in ("by_output", "by_input"):
        trace = traced(model, torch.randn(4, 3, 32, 32), torch.arange(4), "eval", torch.float64)
        weight = [op for op in trace.operations if op.function == "conv2d"][3].use(1, "weight")
        setattr(weight, what, getattr(weight, what).divided(1.01))
        identity = "output units" if what == "by_output" else "input units"
        assert _worst_place(trace, identity).startswith(weight.parameter)
    trace = traced(model, torch.randn(4, 3, 32, 32), torch.arange(4), "eval", torch.float64)
    relu = [op for op in trace.operations if op.function == "relu"][2]
    relu.results[0].by_output = relu.results[0].by_output.divided(1.01)
    assert _worst_place(trace, "homogeneous").startswith(relu.place)


def test_a_wrong_law_for_batchnorm_fails() -> None:
    torch.manual_seed(0)
    model = _randomise(build(f"{NARROW}:vgg16_bn"))
    trace = traced(model, torch.randn(4, 3, 32, 32), torch.arange(4), "train", torch.float64)
    operation = [op for op in trace.operations if op.function == "batch_norm"][2]
    operation.norm["variance"] = operation.norm["variance"] * 0.01
    assert _worst_place(trace, "batchnorm train").startswith(operation.place)
    assert float(worst(ledger(trace))["residual"].max()) > 1e-10
