"""Every identity of DESIGN section 4 on every kind of network, and a checker that can fail."""

from __future__ import annotations

import copy

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import masks as masking
from collapse.conservation import audit, layer_statistics, ledger, outside, worst
from collapse.errors import RequestError
from collapse.flow import Trace, hidden_units, record
from collapse.models import build, stand_ins, untouched
from collapse.scores import SCORES, ScoreInputs, score
from collapse.testing import assert_conserved
from tests.scores.test_scores import _assert_same, _decorate, _snapshot
from tests.zoo import ZOO, Case, _randomise

LIMIT = {torch.float64: 1e-10, torch.float32: 1e-5}


class UShaped(nn.Module):
    """Down, up, a concatenation across, a layer scale, in-place operations on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(2, 4, 3, padding=1)
        self.deep = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.join = nn.Conv2d(10, 3, 3, padding=1)
        self.scale = nn.Parameter(torch.randn(3, 1, 1))
        self.last = nn.ConvTranspose2d(3, 3, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.down(x)
        shallow.relu_()
        deep = self.up(F.relu(self.deep(shallow), inplace=True))
        y = self.join(torch.cat([shallow, deep], 1)) * self.scale
        y = self.last(y)
        y += 0.5 * y
        return y.mean((2, 3))


class DataDependent(nn.Module):
    """A forward that torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x).relu()
        for _ in range(int(x.sum() > 0) + 1):
            x = x + self.one(x).relu()
        return self.two(x)


# name → (input height, what lies outside the theory)
NETWORKS: dict[str, tuple[int, set[str]]] = {
    "vgg16": (32, set()),
    "vgg16_bn": (32, set()),
    "resnet18": (32, set()),
    "resnet50": (32, set()),
    "torchvision:densenet121": (64, set()),
    "torchvision:mobilenet_v2": (64, {"hardtanh"}),
    "torchvision:googlenet": (64, set()),
    "torchvision:efficientnet_b0": (64, {"silu", "sigmoid", "mul"}),
    "torchvision:vit_b_16": (224, {"gelu", "layer_norm", "multi_head_attention_forward"}),
}


def _network(name: str, height: int) -> nn.Module:
    model = _randomise(build(name, input_shape=(3, height, height)))
    head = list(model.parameters())[-2]
    nn.init.normal_(head, 0, 0.1)  # ViT's is zero, and zero flow balances trivially
    return model


def _trace(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    mode: str,
    dtype: torch.dtype,
    masks: dict[str, Tensor] | None = None,
) -> Trace:
    masks = masks or {}
    tensors = stand_ins(
        model, dtype=dtype, parameter=lambda n, v: v * masks[n] if n in masks else v
    )
    with untouched(model, mode):
        trace = record(model, tensors, x.to(dtype), lambda out: F.cross_entropy(out, y))
    return trace.in_units_of_its_output()


def _half(model: nn.Module) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    return {n: torch.rand(m.shape, generator=draw) < 0.5 for n, m in masking.dense(model).items()}


def _assert_balanced(trace: Trace, dtype: torch.dtype) -> pd.DataFrame:
    table = ledger(trace)
    assert float(trace.output.scale) == pytest.approx(1, abs=1e-6) or trace.output.scale > 1
    assert len(table)
    peak = worst(table)
    assert float(peak["residual"].max()) <= LIMIT[dtype], peak.to_string()
    # Not trivially so: flow runs through nearly every layer that the ledger has a row for.
    sides = table[table["identity"] == "cut"]
    assert (sides["rhs"] != 0).all()
    return table


@pytest.mark.parametrize("masked", [False, True], ids=["dense", "masked"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_balance_in_both_modes_and_precisions(name: str, masked: bool) -> None:
    height, strangers = NETWORKS[name]
    torch.manual_seed(0)
    model = _network(name, height)
    masks = _half(model) if masked else None
    x, y = torch.randn(3, 3, height, height), torch.arange(3)
    for mode in ("eval", "train"):
        if mode == "train" and "googlenet" in name:
            continue  # its train-mode output is a tuple; the zoo has branches in train mode
        for dtype in (torch.float64, torch.float32):
            trace = _trace(model, x, y, mode, dtype, masks)
            _assert_balanced(trace, dtype)
            assert set(outside(trace)["operation"]) == strangers


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", [*ZOO, "ushaped", "data_dependent"])
def test_small_networks_balance(name: str, mode: str) -> None:
    torch.manual_seed(0)
    if name == "ushaped":
        case = Case(_randomise(UShaped()), [(torch.randn(3, 2, 8, 8), torch.arange(3))])
    elif name == "data_dependent":
        case = Case(_randomise(DataDependent()), [(torch.randn(4, 5), torch.arange(4) % 3)])
    else:
        case = ZOO[name]()
    x, y = case.batches[0]
    for dtype in (torch.float64, torch.float32):
        table = _assert_balanced(_trace(case.model, x, y, mode, dtype), dtype)
        assert {"output units", "input units", "neuron", "cut"} <= set(table["identity"])


def test_recording_leaves_the_model_untouched(case: Case) -> None:
    _decorate(case.model)
    before = _snapshot(case.model)
    for pruner in SCORES:
        audit(case.model, case.batches[0], pruner=pruner)
    _assert_same(before, _snapshot(case.model))
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert not torch.nn.modules.module._global_forward_hooks


def test_batchnorm_without_parameters_is_outside_and_balances() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(5, affine=False)
    norm.running_mean.normal_()
    model = nn.Sequential(nn.Linear(4, 5), norm, nn.ReLU(), nn.Linear(5, 3))
    for mode in ("eval", "train"):
        trace = _trace(model, torch.randn(6, 4), torch.arange(6) % 3, mode, torch.float64)
        _assert_balanced(trace, torch.float64)
        assert outside(trace)["operation"].tolist() == ["batch_norm"]


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
    assert first.use(1, "weight").units.tolist() == [10.0, 0.0]  # 2 · (1·1 + 2·2)
    assert first.use(1, "weight").inputs.tolist() == [2.0, 8.0]
    assert first.use(2, "bias").units.tolist() == [1.0, 0.0]
    assert relu.out_units.tolist() == [11.0, 0.0]
    assert last.use(1, "weight").units.tolist() == [11.0]
    assert trace.output.total == 11.25
    table = ledger(trace).set_index("identity")
    assert table.loc["cut", "lhs"].tolist() == [11.25, 11.25]  # 10 + 1 + 0.25 and 11 + 0.25
    assert table.loc["all layers", ["lhs", "rhs"]].tolist() == [21.0, 21.0]  # 2·11.25 − 1.25 − 0.25


def test_bias_free_chain_is_liangs_sum() -> None:
    """Σ_l Σ S(W^l) = L ⟨∂R/∂y, y⟩ (Liang et al. 2019)."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(5))).double()
    trace = _trace(model, torch.randn(6, 4), torch.arange(6) % 4, "eval", torch.float64)
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


# --- Pruners ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("pruner", ["synflow", "snip", "grasp"])
def test_the_papers_pruners_pass_everywhere(pruner: str, mode: str, case: Case) -> None:
    model = copy.deepcopy(case.model).double()
    x, y = case.batches[0]
    found = audit(model, (x.double(), y), pruner=pruner, mode=mode)
    assert float(found.ledger["residual"].max()) <= 1e-10
    rows = set(found.ledger["identity"])
    if pruner == "grasp":  # residual and shared ones have no units with both sides known
        trace = _trace(model, x, y, mode, torch.float64)
        assert ("grasp defect" in rows) == bool(hidden_units(trace, through_batchnorm=False))
    else:
        assert "score" in rows


@pytest.mark.parametrize("pruner", ["random", "magnitude"])
def test_scores_without_a_law_fail(pruner: str) -> None:
    model, batch = build("vgg11"), (torch.randn(2, 3, 32, 32), torch.arange(2))
    found = audit(model, batch, pruner=pruner)
    failing = worst(found.ledger)
    failing = set(failing[failing["residual"] > 1e-5]["identity"])
    assert failing == {"score layers", "score neurons"}


def test_grasp_defect_is_not_zero_but_exactly_the_squares() -> None:
    torch.manual_seed(0)
    model = _randomise(build("vgg11")).double()
    batch = (torch.randn(8, 3, 32, 32, dtype=torch.float64), torch.arange(8))
    rows = audit(model, batch, pruner="grasp").ledger
    rows = rows[rows["identity"] == "grasp defect"]
    assert len(rows) == 64 + 128 + 2 * 256 + 4 * 512
    assert float(rows["lhs"].abs().max()) > 1e-3
    assert float(rows["residual"].max()) < 1e-12


def test_absolute_snip_is_not_conserved() -> None:
    model, batch = build("vgg11"), (torch.randn(4, 3, 32, 32), torch.arange(4))
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


# --- Wrong requests -----------------------------------------------------------------------------


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
    deep = build("resnet1202")
    with pytest.raises(RequestError, match="R is beyond float64 on this network"):
        audit(deep, (torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long)))
