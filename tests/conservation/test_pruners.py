"""The paper's pruners pass everywhere; scores without a law fail; an audit says what it covered."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from collapse import masks as masking
from collapse.commands import conservation as command
from collapse.conservation import audit, layer_statistics, signed_saliency, worst
from collapse.errors import RequestError
from collapse.flow import hidden_units, record
from collapse.models import build, stand_ins
from collapse.options import Mode
from collapse.scores import ScoreInputs, score
from collapse.testing import assert_conserved
from tests.conftest import Run
from tests.conservation.traces import traced
from tests.zoo import Case, _randomise


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("pruner", ["synflow", "snip", "grasp"])
def test_the_papers_pruners_pass_everywhere(pruner: str, mode: str, case: Case) -> None:
    model = copy.deepcopy(case.model).double()
    x, y = case.batches[0]
    found = audit(model, (x.double(), y), pruner=pruner, mode=mode)
    assert float(found.ledger["residual"].max()) <= 1e-10
    rows = set(found.ledger["identity"])
    assert "score weights" in rows
    assert found.coverage.scored == set(masking.dense(model))
    if pruner == "grasp":  # residual and shared ones have no units with both sides known
        units = hidden_units(traced(model, x, y, mode), through_batchnorm=False)
        assert ("grasp defect" in rows) == bool(units)


@pytest.mark.parametrize("pruner", ["random", "magnitude"])
def test_scores_without_a_law_fail(pruner: str) -> None:
    model, batch = build("minivgg"), (torch.randn(2, 3, 32, 32), torch.arange(2))
    found = audit(model, batch, pruner=pruner)
    failing = worst(found.ledger)
    failing = set(failing[failing["residual"] > 1e-5]["identity"])
    assert failing == {"score layers", "score neurons"}


def test_grasp_defect_is_not_zero_but_exactly_the_squares() -> None:
    torch.manual_seed(0)
    model = _randomise(build("minivgg")).double()
    batch = (torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.arange(2))
    rows = audit(model, batch, pruner="grasp").ledger
    rows = rows[rows["identity"] == "grasp defect"]
    assert len(rows) == 16 + 32 + 2 * 64 + 4 * 128
    assert float(rows["lhs"].abs().max()) > 1e-3
    assert float(rows["residual"].max()) < 1e-12


@pytest.mark.parametrize("pruner", ["synflow", "snip", "grasp"])
def test_weight_by_weight_holds_in_float32(pruner: str) -> None:
    """At the tolerance of the command, with its default precision."""
    torch.manual_seed(0)
    model, batch = _randomise(build("resnet20")), (torch.randn(4, 3, 32, 32), torch.arange(4))
    found = audit(model, batch, pruner=pruner, mode="eval")
    assert float(found.ledger["residual"].max()) <= 1e-5
    assert str(found.coverage).startswith("cuts 22 of 22, units 794 of 794, scores 22 of 22")


def test_absolute_snip_is_not_conserved() -> None:
    model, batch = build("minivgg"), (torch.randn(4, 3, 32, 32), torch.arange(4))
    found = audit(model, batch, pruner="snip", mode="eval")
    assert float(found.ledger["residual"].max()) <= 1e-5
    assert float(found.absolute["residual"].max()) > 0.01


def test_conserved_scores_have_slope_one() -> None:
    model = build("vgg16")
    inputs = ScoreInputs([(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))])
    slope, r = layer_statistics(score(model, "synflow", masking.dense(model), inputs))
    assert slope == pytest.approx(1, abs=1e-5)
    assert r == pytest.approx(1, abs=1e-9)
    with pytest.raises(RequestError, match="two layers of different size"):
        layer_statistics({"a": torch.ones(3), "b": torch.ones(3)})


def test_what_is_not_covered_is_said(mlp: nn.Module) -> None:
    """A layer that R does not depend on, and a pruner of which no law knows anything."""

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.aux, self.join = mlp, nn.Linear(3, 2), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x) + self.join(x)

    batch = (torch.randn(4, 6), torch.arange(4) % 3)
    found = audit(Beside(), batch, pruner="snip", mode="eval")
    assert found.coverage.still == ("aux.weight",)
    assert "cuts 4 of 5" in str(found.coverage)
    assert "no flow reaches aux.weight" in str(found.coverage)
    found = audit(Beside(), batch, pruner="magnitude")
    assert found.coverage.scored == {"used.0.weight", "used.2.weight", "used.4.weight"}
    assert "scores held to nothing aux.weight, join.weight" in str(found.coverage)


def test_wrong_requests(mlp: nn.Module) -> None:
    x, tensors = torch.randn(2, 6), stand_ins(mlp)
    with pytest.raises(RequestError, match=r"R must be a scalar tensor: .*got \(2, 3\)"):
        record(mlp, tensors, x, lambda y: y)
    with pytest.raises(RequestError, match="R must be a scalar tensor: .*got float"):
        record(mlp, tensors, x, lambda y: 1.0)
    with pytest.raises(RequestError, match="does not depend on the parameters: it has no gradient"):
        record(mlp, tensors, x, lambda y: torch.ones(()))
    with pytest.raises(RequestError, match="the model's output was computed without them"):
        record(nn.Identity(), {}, x, torch.sum)
    with pytest.raises(RequestError, match="output of linear in '0' holds NaN or infinite values"):
        record(mlp, tensors, x * float("inf"), torch.sum)
    with pytest.raises(RequestError, match="tolerance: expected more than 0, got 0"):
        assert_conserved(mlp, x, tolerance=0)


def test_a_network_beyond_float64_is_refused() -> None:
    deep = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(12))).double()
    with torch.no_grad():
        for layer in deep:
            layer.weight.fill_(1e30)
    with pytest.raises(RequestError, match=r"R is near 2\*\*1220 on .*--init"):
        audit(deep, (torch.zeros(1, 4), torch.zeros(1, dtype=torch.long)))


def test_the_command_prints_its_coverage(run: Run) -> None:
    code, out, _ = run(command, "--model resnet20 --dataset gaussian --input-shape 3 32 32 --quiet")
    assert code == 0
    assert "covered: cuts 22 of 22, units 794 of 794, scores 22 of 22" in out


def test_the_signed_saliency_is_snips_in_every_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    batches = [(3 + torch.randn(8, 4), torch.arange(8) % 2)]
    sums = []
    for mode in get_args(Mode):
        snip = score(model, "snip", masking.dense(model), ScoreInputs(batches, mode))
        signed = signed_saliency(model, batches, mode)
        for name, expected in snip.items():
            torch.testing.assert_close(signed[name].abs(), expected)
        sums.append(float(snip["0.weight"].sum()))
    assert len(set(sums)) == 3


@pytest.mark.parametrize("pruner", ["synflow", "synflow_l2", "px"])
def test_a_layer_that_is_passed_twice_carries_twice_as_much(pruner: str) -> None:
    torch.manual_seed(0)
    again = nn.Linear(4, 4, bias=False)
    ends = nn.Linear(6, 4, bias=False), nn.Linear(4, 3, bias=False)
    model = nn.Sequential(ends[0], nn.ReLU(), again, nn.ReLU(), again, nn.ReLU(), ends[1])
    assert_conserved(model, torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1]), pruner=pruner)
