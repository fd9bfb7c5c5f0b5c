"""Norms and poolings of a smaller network on a CPU: PyTorch's numbers, up to rounding."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from collapse.errors import RequestError
from collapse.models import build, forward_errors
from collapse.problem import Problem
from collapse.pruning import prune
from collapse.train import Trainer, fused
from tests.train.test_train import SETTINGS, _drawn


@pytest.fixture(params=["as it is", pytest.param("inductor", marks=pytest.mark.slow)])
def compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is compiled is checked as Python; the compiler itself takes its time."""
    if request.param == "as it is":
        monkeypatch.setattr(fused, "_compiled", lambda function: function)
    torch.compiler.reset()
    return str(request.param)


def _network(channels: int) -> nn.Sequential:
    """Statistics far from the start's; a norm without a ReLU; one whose output is read twice."""
    torch.manual_seed(channels)
    network = nn.Sequential(
        *(nn.BatchNorm2d(channels, momentum=0.3), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, channels, 3), nn.BatchNorm2d(channels), nn.MaxPool2d(2, 2)),
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network.double()


def _fused(network: nn.Module) -> fx.GraphModule:
    found = fx.symbolic_trace(copy.deepcopy(network))
    fused.fuse(found)
    return found


def _step(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Everything that a step makes: the output, each gradient, each statistic."""
    x = x.clone().requires_grad_()
    y = network(x)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    (y * weights).sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return {"x": x.grad, "y": y.detach(), **gradients, **dict(network.named_buffers())}


@pytest.mark.parametrize(("channels", "samples"), [(1, 3), (3, 8), (12, 2), (48, 5), (70, 1)])
def test_a_step_is_pytorchs(channels: int, samples: int, compiler: str) -> None:
    network = _network(channels)
    other = _fused(network)
    assert [type(m) for m in other.children()].count(fused.Norm) == 2
    assert [type(m) for m in other.children()].count(fused.Pool) == 2
    assert not any(node.name.startswith("_1") for node in other.graph.nodes)  # the ReLU
    draw = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(samples, channels, 14, 14, generator=draw, dtype=torch.float64)
    expected, got = _step(network, x), _step(other, x)
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-9, atol=1e-9, msg=name)
    torch.testing.assert_close(other.eval()(x), network.eval()(x))


def test_in_bfloat16_it_rounds_once(compiler: str) -> None:
    """What is stored is the number in float32, rounded, as PyTorch's is."""
    network = _network(12).float()[:2]
    other = _fused(network)
    x = torch.randn(4, 12, 14, 14).bfloat16()
    expected, got = network(x).detach(), other(x).detach()
    assert got.dtype == torch.bfloat16
    exact = network.double()(x.double()).detach()
    for twin in (expected, exact):
        assert float((got.double() - twin.double()).abs().max()) <= 2**-8 * float(exact.max())


def test_a_far_mean_keeps_the_variances_digits(compiler: str) -> None:
    norm = nn.BatchNorm2d(3)
    x = 1e4 + torch.randn(8, 3, 8, 8)
    expected = nn.BatchNorm2d(3).double()(x.double())
    torch.testing.assert_close(_fused(nn.Sequential(norm))(x).double(), expected, rtol=0, atol=5e-3)


def test_the_first_of_several_greatest_has_the_gradient(compiler: str) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (6, 5, 8, 8), generator=draw).double()
    pool = nn.MaxPool2d(2)
    expected, got = (_step(each, x) for each in (pool, _fused(nn.Sequential(pool))))
    assert torch.equal(got["x"], expected["x"])
    assert torch.equal(got["y"], expected["y"])


def test_what_is_overwritten_in_place_is_needed_no_more(compiler: str) -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.MaxPool2d(2), nn.ReLU(inplace=True)).double()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    expected, got = _step(copy.deepcopy(network), x), _step(_fused(network), x)
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, msg=name)


class _Twice(nn.Module):
    """A norm that is called twice, one that is read twice, and others that are no plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.read, self.relu = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.ReLU()
        self.average = nn.BatchNorm2d(3, momentum=None)
        self.bare = nn.BatchNorm2d(3, affine=False)
        self.odd, self.ceil = nn.MaxPool2d(3, 2), nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.again(x)) + self.again(2 * x)
        x = self.read(x)
        x = torch.relu(x) - x
        return self.ceil(self.odd(self.bare(torch.relu(self.average(x)))))


def test_what_is_no_plain_norm_or_pooling_stays(compiler: str) -> None:
    torch.manual_seed(0)
    network = _Twice().double()
    other = _fused(network)
    fast = {name for name, m in other.named_modules() if isinstance(m, fused.Norm | fused.Pool)}
    assert fast == {"again", "read", "ceil"}
    assert not any(getattr(m, "rectified", False) for m in other.modules())
    x = torch.randn(4, 3, 13, 13, dtype=torch.float64)  # 6×6 after the first pooling
    expected, got = _step(network, x), _step(other, x)
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, msg=name)


def test_a_batch_of_one_number_a_channel_is_pytorchs_error(compiler: str) -> None:
    other = _fused(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        other(torch.ones(1, 3, 1, 1))


@pytest.mark.slow
def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    network = _fused(_network(3)).float()
    x = torch.ones(8, 3, 14, 14)
    none = torch._inductor.config.patch({"cpp.cxx": (None, str(tmp_path / "none"))})
    said = "--compile needs a C.. compiler, and torch found none"
    with none, pytest.raises(RequestError, match=said), forward_errors(network, x):
        network(x)


def test_training_agrees_with_plain(compiler: str) -> None:
    dataset, losses = _drawn(9, (3, 32, 32)), []
    for compiled in (False, True):
        model = build("minivgg", classes=3).double()
        problem = Problem(model, [(dataset.inputs().double()[:1], dataset.labels[:1])])
        masks = prune(problem, compression=30).masks
        trainer = Trainer(model, dataset, dataset, SETTINGS, compiled=compiled)
        trainer.hold(masks)
        assert trainer.smaller is not None
        kinds = {type(module) for module in trainer.network.modules()}
        assert (fused.Norm in kinds) == (fused.Pool in kinds) == compiled
        rows = [row for epoch in range(2) for row in trainer.epoch(0, epoch)[0]]
        losses.append([row["loss"] for row in rows])
    assert losses[1] == pytest.approx(losses[0], rel=1e-10)
