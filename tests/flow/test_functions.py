"""Functions with a gradient of their own: a right one is no alarm, and a hook that only looks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from collapse.conservation import audit, outside
from collapse.errors import RequestError
from tests.conservation.planted.networks import Around, custom, vectors
from tests.conservation.traces import assert_balanced, traced
from tests.zoo import _randomise

RIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "view": custom(lambda x: x.view_as(x), lambda g, x: g),
    "copy": custom(lambda x: x.clone(), lambda g, x: g),
    "relu": custom(lambda x: x.relu(), lambda g, x: g * (x > 0)),
    "square": custom(lambda x: x.square(), lambda g, x: 2 * g * x),
    "swish": custom(
        lambda x: x * x.sigmoid(), lambda g, x: g * x.sigmoid() * (1 + x * (1 - x.sigmoid()))
    ),
    "transposed": lambda x: custom(lambda x: x.t().clone(), lambda g, x: g.t())(x).t(),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("pruner", ["synflow", "snip", "grasp"])
def test_a_right_function_is_no_alarm_and_cuts_nothing(pruner: str, name: str) -> None:
    torch.manual_seed(0)
    case = vectors(RIGHT[name])
    found = audit(case.model, case.batch, pruner=pruner, mode="eval")
    assert float(found.ledger["residual"].max()) < 1e-8  # a derivative by differences
    assert len(found.coverage.crossed) == 3
    rows = found.ledger
    assert rows.loc[rows["identity"] == "gradient", "place"].tolist() == ["middle:Custom"]
    assert ("middle", "Custom") in set(
        zip(found.outside["place"], found.outside["operation"], strict=True)
    )


def test_a_batchnorm_behind_a_function() -> None:
    """Its input once had no known source, and the ledger raised IndexError."""
    torch.manual_seed(0)
    norm = nn.Sequential(_Called(RIGHT["relu"]), nn.BatchNorm1d(8))
    assert_balanced(
        traced(_randomise(Around(norm)), torch.randn(5, 6), torch.arange(5) % 3), torch.float32
    )


class _Called(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_setup_context_two_functions_in_a_row_and_two_results() -> None:
    class Two(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor, factor: float) -> tuple[Tensor, Tensor]:
            return x * factor, x.relu()

        @staticmethod
        def setup_context(ctx, inputs, output) -> None:
            ctx.save_for_backward(inputs[0])
            ctx.factor = inputs[1]

        @staticmethod
        def backward(ctx, a: Tensor, b: Tensor):
            (x,) = ctx.saved_tensors
            return a * ctx.factor + b * (x > 0), None

    def middle(x: Tensor) -> Tensor:
        a, b = Two.apply(RIGHT["copy"](x), 3.0)
        return a - 2 * b

    torch.manual_seed(0)
    trace = traced(_randomise(Around(middle)), torch.randn(5, 6), torch.arange(5) % 3)
    assert_balanced(trace, torch.float32)
    functions = [operation.function for operation in trace.operations]
    assert functions[1:3] == ["Custom", "Two"]
    assert len(trace.operations[2].results) == 2


HOOKS = ("register_full_backward_hook", "register_full_backward_pre_hook", "register_forward_hook")


@pytest.mark.parametrize("kind", HOOKS)
def test_a_hook_that_only_looks_is_no_alarm(kind: str) -> None:
    torch.manual_seed(0)
    case = vectors(nn.ReLU())
    seen: list[object] = []
    getattr(case.model.middle, kind)(lambda *arguments: seen.append(arguments[0]))
    found = audit(case.model, case.batch, pruner="snip", mode="eval")
    assert seen
    assert float(found.ledger["residual"].max()) < 1e-8
    assert len(found.coverage.crossed) == 3


def test_a_tensor_hook_that_only_looks_is_no_alarm() -> None:
    torch.manual_seed(0)
    seen: list[Tensor] = []

    def middle(x: Tensor) -> Tensor:
        x.register_hook(lambda g: seen.append(g))
        x.retain_grad()
        return x.relu()

    case = vectors(middle)
    found = audit(case.model, case.batch, pruner="snip", mode="eval")
    assert float(found.ledger["residual"].max()) < 1e-12
    assert seen


def test_a_parameter_that_is_not_registered_is_a_source() -> None:
    """Its gradient is left as it was."""
    hidden = nn.Parameter(torch.randn(8, dtype=torch.float64))
    hidden.grad = torch.ones(8, dtype=torch.float64)
    torch.manual_seed(0)
    model = _randomise(Around(lambda x: x.relu() + hidden)).double()
    trace = traced(model, torch.randn(5, 6), torch.arange(5) % 3)
    assert_balanced(trace)
    assert outside(trace)["operation"].tolist() == ["add"]
    assert torch.equal(hidden.grad, torch.ones(8, dtype=torch.float64))


def test_attention_is_recorded_operation_by_operation() -> None:
    """Its projections are layers of their own: in_proj_weight has its cut and its neurons."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = (
                nn.MultiheadAttention(8, 2, batch_first=True),
                nn.Linear(8, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x)[0].mean(1))

    torch.manual_seed(0)
    trace = traced(_randomise(Attention()), torch.randn(3, 5, 8), torch.arange(3))
    table = assert_balanced(trace)
    cuts = set(table.loc[table["identity"] == "cut", "place"])
    assert cuts == {"attention.in_proj_weight", "attention.out_proj.weight", "head.weight"}
    neurons = table.loc[table["identity"] == "neuron", "place"]
    assert neurons.str.startswith("attention.in_proj_weight").sum() == 24


def test_a_function_behind_an_in_place_operation_is_refused_by_name() -> None:
    """Autograd has taken its input before anyone can say what is in that memory now."""

    def middle(x: Tensor) -> Tensor:
        x = 1.5 * x
        x.mul_(2)
        return RIGHT["copy"](x)

    with pytest.raises(RequestError, match="cannot follow Custom in 'middle': its input was over"):
        traced(Around(middle).double(), torch.randn(5, 6), torch.arange(5) % 3)


def test_what_bypasses_torch_functions_is_found_and_balances() -> None:
    """Two uses and a parameter, seen only in autograd's graph."""
    scale = nn.Parameter(torch.randn(8, dtype=torch.float64))

    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, x: Tensor) -> Tensor:
            y = x.relu()
            with torch._C.DisableTorchFunction():
                return (x * self.scale).exp() + y

    torch.manual_seed(0)
    case = vectors(Foreign())
    found = audit(case.model, case.batch, pruner="snip", mode="eval")
    assert float(found.ledger["residual"].max()) < 1e-12
    assert len(found.coverage.crossed) == 3
    assert found.outside["operation"].tolist() == ["Add"]
    assert found.outside["place"].tolist() == ["middle"]
    assert abs(float(found.outside["created"].iloc[0])) > 1e-3


class _Builtin(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        return torch.batch_norm(
            x, self.weight, self.bias, mean, var, self.training, 0.1, eps=self.eps,
            cudnn_enabled=False,
        )  # fmt: skip


BUILTINS: dict[str, Callable[[Tensor], Tensor]] = {
    "pow": lambda x: x**2,  # torch wraps a builtin, which has no signature
    "ipow": lambda x: (x * 1).__ipow__(2),
    "rpow": lambda x: 2.0**x,
    "batch_norm": _Builtin(8),
}


@pytest.mark.parametrize("name", BUILTINS)
def test_a_builtin_is_recorded(name: str) -> None:
    torch.manual_seed(0)
    model = _randomise(Around(BUILTINS[name])).double()
    for mode in ("eval", "train"):
        trace = traced(model, torch.randn(5, 6), torch.arange(5) % 3, mode)
        assert_balanced(trace)
        listed = outside(trace)["operation"].tolist()
        assert listed == ([] if name == "batch_norm" else ["__rpow__" if name == "rpow" else "pow"])
