"""Identities against numbers that were written out, or computed without the recorder."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from collapse.conservation import ledger
from collapse.flow import record
from collapse.models import build, stand_ins
from tests.conservation.traces import traced
from tests.zoo import _randomise


def test_flow_by_hand() -> None:
    """Two inputs, two hidden units, one output: R = y, so S = θ ∂y/∂θ, written out."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [-3.0, 1.0]]))
        model[0].bias.copy_(torch.tensor([0.5, 1.0]))
        model[2].weight.copy_(torch.tensor([[2.0, 5.0]]))
        model[2].bias.fill_(0.25)
    # z = (1 + 4 + 0.5, -3 + 2 + 1) = (5.5, 0); the second unit is off. y = 11.25.
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    trace = record(model, stand_ins(model), x, torch.sum)
    first, relu, last = trace.operations
    assert trace.R == 11.25
    assert first.use(1, "weight").by_output.units.tolist() == [10.0, 0.0]  # 2 · (1·1 + 2·2)
    assert first.use(1, "weight").by_input.units.tolist() == [2.0, 8.0]
    assert first.use(2, "bias").by_output.units.tolist() == [1.0, 0.0]
    assert relu.out.units.tolist() == [11.0, 0.0]
    assert last.use(1, "weight").by_output.units.tolist() == [11.0]
    assert trace.output.total == 11.25
    table = ledger(trace).set_index("identity")
    assert table.loc["cut", "lhs"].tolist() == [11.25, 11.25]  # 10 + 1 + 0.25 and 11 + 0.25
    assert table.loc["all layers", ["lhs", "rhs"]].tolist() == [21.0, 21.0]  # 2·11.25 − 1.25 − 0.25


def test_bias_free_chain_is_liangs_sum() -> None:
    """Σ_l Σ S(W^l) = L ⟨∂R/∂y, y⟩ (Liang et al. 2019)."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(5))).double()
    trace = traced(model, torch.randn(6, 4), torch.arange(6) % 4)
    row = ledger(trace).set_index("identity").loc["all layers"]
    assert row["rhs"] == pytest.approx(5 * trace.output.total, rel=1e-12)
    assert row["lhs"] == pytest.approx(row["rhs"], rel=1e-10)


def test_saliency_before_train_mode_batchnorm_by_autograd_alone() -> None:
    """Σ S(W) + S(b) = Σ ε/(v + ε) S(γ), without the recorder (DESIGN 4.8)."""
    torch.manual_seed(0)
    model = _randomise(build("vgg11_bn")).double().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x, y = torch.randn(8, 3, 32, 32, dtype=torch.float64), torch.arange(8)
    F.cross_entropy(model(x), y).backward()
    convolution, norm = model.features[0], model.features[1]
    with torch.no_grad():
        v = convolution(x).var((0, 2, 3), unbiased=False)
        incoming = (convolution.weight * convolution.weight.grad).sum((1, 2, 3))
        incoming += convolution.bias * convolution.bias.grad
        outgoing = norm.weight * norm.weight.grad
    share = norm.eps / (v + norm.eps)
    torch.testing.assert_close(incoming, share * outgoing, rtol=1e-8, atol=1e-14)
    assert float(share.max()) < 0.01  # almost nothing gets through
