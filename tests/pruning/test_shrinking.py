"""A smaller network is the same function: outputs, gradients, dropout's stream, statistics."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import collapse
from collapse import masks as masking
from collapse.errors import RequestError
from collapse.models import build, plain, prunable, streams_at
from collapse.options import Pruning
from collapse.problem import Problem
from collapse.pruning import prune
from collapse.pruning.shrinking import compare, shrunk
from tests.zoo import ZOO, Case, _batches, _randomise


class _Parts(nn.Module):
    """Grouped and depthwise maps, gates, layer scale, concatenation, dropout, shared ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.deep = nn.Conv2d(8, 16, 3, padding=1, groups=8, bias=False)
        self.narrow = nn.Conv2d(16, 8, 1, bias=False)
        self.squeeze, self.excite = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.joined = nn.Conv2d(16, 5, 1, bias=False)
        self.drop, self.wide = nn.Dropout(0.4), nn.Dropout2d(0.3)
        self.head = nn.Linear(20, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        y = self.act(self.narrow(self.deep(x)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        y = x + self.scale * (y * gate)
        y += self.grouped(x)
        y = self.act(self.joined(self.wide(torch.cat([self.act(y), x], dim=1))))
        return self.head(self.drop(F.max_pool2d(y, 3).view(y.size(0), -1)))


class _Tokens(nn.Module):
    """Attention as torch has it, LayerNorm, GELU, a class token, features last."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.embed = nn.Linear(4, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16, bias=False), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], dim=1)
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.norms[1](x))
        return self.head(x[:, 0])


class _Block(nn.Module):
    """ResNet's block, whose first branch may die."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
            *(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)),
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        out += x
        return F.relu(out, inplace=True)


def parts() -> Case:
    torch.manual_seed(0)
    return Case(_Parts(), _batches((2, 6, 6)))


def tokens() -> Case:
    torch.manual_seed(0)
    return Case(_randomise(_Tokens()), _batches((5, 4)))


def blocks() -> Case:
    """As it is at initialisation: shifts and means are zero."""
    torch.manual_seed(0)
    stem = (nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
    body = (_Block(), _Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    model = nn.Sequential(*stem, *body)
    nn.init.zeros_(model[0].bias)
    return Case(model, _batches((2, 5, 5)))


CASES = {**ZOO, "parts": parts, "tokens": tokens, "blocks": blocks}


def _drawn_masks(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Weights go at random, and whole channels too; sometimes a layer."""
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for name, weight in prunable(model).items():
        density = float(torch.rand((), generator=draw)) ** 2
        mask = torch.rand(weight.shape, generator=draw) < density + 0.05
        mask &= (torch.rand(len(weight), generator=draw) < 0.6).view(-1, *[1] * (weight.ndim - 1))
        found[name] = mask & bool(torch.rand((), generator=draw) < 0.9)
    return found


def _double(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    x, y = case.batches[0]
    return case.model.double(), x.double(), y


def _distance(a: Tensor | None, b: Tensor | None) -> float:
    return 0.0 if a is None or b is None else float((a - b).abs().max())


@dataclass
class _Agreed:
    """The smaller network, and how far its gradients are from the whole one's, absolutely."""

    network: nn.Module
    apart: float  # the largest difference, of survivors' gradients and from zero of what is gone
    blur: float  # the same of the whole network from itself, its input changed by 1e-15
    largest: float  # gradient


def _agree(
    model: nn.Module, masks: dict[str, Tensor], x: Tensor, y: Tensor, *, fold: bool = False
) -> _Agreed:
    """Both networks, in both modes: outputs, gradients of survivors, what training changes."""
    before = copy.deepcopy(model.state_dict())
    found = shrunk(model, masks, x, fold=fold)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    small, whole = found.network, plain(copy.deepcopy(model))
    masking.apply(whole, masks)
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(x), whole.eval()(x), atol=1e-10, rtol=1e-10)
    nudged = copy.deepcopy(whole)
    for network, given in ((small, x), (whole, x), (nudged, x * (1 + 1e-15))):
        network.train()
        for parameter in network.parameters():
            parameter.requires_grad = True
        with streams_at(network, 3):
            loss = F.cross_entropy(network(given), y)
        if next(network.parameters(), None) is not None:  # nothing is left of some
            loss.backward()
    gradients = {n: p.grad for n, p in whole.named_parameters(remove_duplicate=False)}
    twins = dict(nudged.named_parameters(remove_duplicate=False))
    blur = max(_distance(twins[n].grad, g) for n, g in gradients.items())
    largest = max(_distance(g, torch.zeros(())) for g in gradients.values())
    apart = 0.0
    alive = collapse.living(model, masks, x)
    covered = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    for name, parameter in small.named_parameters():
        assert parameter.grad is not None
        if fold and name not in gradients:  # a bias made of constants
            continue
        kept = found.gather(name, masks[name]) if name in masks else torch.ones(())
        expected = found.gather(name, gradients[name]) * kept
        apart = max(apart, _distance(parameter.grad * kept, expected))
        if name in masks:
            found.scatter(name, torch.ones_like(parameter, dtype=torch.bool), covered[name])
    assert all(bool((covered[name] | ~alive[name]).all()) for name in masks)
    for name, gradient in gradients.items():  # what is gone has no gradient; what is folded may
        if fold:
            break
        left = dict(small.named_parameters(remove_duplicate=False))
        gone = torch.ones_like(gradient) if gradient is not None else None
        if gone is None:
            continue
        if name in left:
            found.scatter(name, torch.zeros_like(left[name]), gone)
        gone = gone * masks.get(name, torch.ones(()))
        apart = max(apart, float((gradient * gone).abs().max()))
    return _Agreed(small, apart, blur, largest)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(2))
def test_a_smaller_network_is_the_same_function(name: str, seed: int) -> None:
    model, x, y = _double(CASES[name]())
    assert _agree(model, _drawn_masks(model, seed), x, y, fold=bool(seed)).apart <= 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_hundred_random_networks(name: str) -> None:
    for seed in range(2, 20):
        model, x, y = _double(CASES[name]())
        agreed = _agree(model, _drawn_masks(model, seed), x, y, fold=seed % 2 == 0)
        assert agreed.apart <= 1e-10, seed


def _pruned(model: nn.Module, x: Tensor, options: Pruning, compression: float) -> dict[str, Tensor]:
    twin = copy.deepcopy(model)
    for module in twin.modules():  # ReLU6 would stop SynFlow's gradients
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, nn.ReLU())
    problem = Problem(twin, [(x, torch.arange(len(x)))])
    return prune(problem, options=options, compression=compression).masks


NETWORKS = {
    "vgg16_bn": (3, 32, 32),
    "resnet18": (3, 32, 32),
    "resnet50": (3, 32, 32),
    "torchvision:densenet121": (3, 64, 64),
    "torchvision:mobilenet_v2": (3, 64, 64),
    "torchvision:vit_b_32": (3, 224, 224),
}

# Many BatchNorms over few positions: a change of the input by 1e-15 moves the gradients of masked
# DenseNet by a millionth of their size, ResNet-50's (up to 1,700) by 1e-9. Elsewhere 1e-10 holds.
SENSITIVE = ("resnet50", "torchvision:densenet121")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("compression", [10, 100, 1000])
def test_known_networks(name: str, compression: float) -> None:
    shape = NETWORKS[name]
    model = build(name, classes=10, input_shape=shape).double()
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, *shape, generator=draw, dtype=torch.float64)
    if "vit" in name:  # torchvision's head is zero
        nn.init.normal_(model.heads.head.weight)
    options = Pruning(pruner="synflow", iterations=20)
    if "vit" in name:  # attention is not homogeneous; globally ranked, the first layer is emptied
        options = Pruning(pruner="magnitude", scope="layer")
    masks = _pruned(model, x, options, compression)
    assert collapse.connected(model, masks, x[:1])
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0 if "vit" in name else 0.1
    agreed = _agree(model, masks, x, torch.arange(4), fold=True)
    assert agreed.apart <= (10 * agreed.blur if name in SENSITIVE else 1e-10)
    table = compare(model, agreed.network, x[:1])
    print(
        f"\n{name} at {compression}: gradients up to {agreed.largest:.1e}, {agreed.apart:.1e} "
        f"apart, {agreed.blur:.1e} by a change of the input by 1e-15"
    )
    print(table.to_string(), flush=True)
    assert table.loc["share", "parameters"] <= 1


def test_it_is_smaller_and_leaves_out_what_a_reader_would() -> None:
    """By hand: of four hidden units one is fed and read, one is not fed, one not read, one both."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in prunable(model).items()}
    masks["0.weight"][[0, 2], [1, 1]] = True
    masks["2.weight"][[0, 1], [0, 1]] = True
    found = shrunk(model, masks, torch.zeros(1, 3))
    assert {n: tuple(p.shape) for n, p in found.network.named_parameters()} == {
        "0.weight": (1, 1),
        "2.weight": (2, 1),
        "2.bias": (2,),
    }
    assert [p.tolist() for p in found.places["0.weight"]] == [[0], [1]]


def test_a_constant_that_trains_is_never_forgotten() -> None:
    """A bias that is zero now but gets a gradient, and a shift behind a dead convolution."""
    model = nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 1))
    nn.init.zeros_(model[0].bias)
    masks = {"0.weight": torch.eye(2).bool(), "2.weight": torch.ones(1, 2).bool()}
    masks["0.weight"][1, 1] = False
    assert shrunk(model, masks, torch.zeros(1, 2)).network.get_submodule("0").out_features == 2
    folded = collapse.shrink(model, masks, torch.zeros(1, 2))
    assert folded.get_submodule("0").out_features == 1
    model[1] = nn.ReLU()  # at zero no gradient passes: this one stays zero
    assert shrunk(model, masks, torch.zeros(1, 2)).network.get_submodule("0").out_features == 1


def test_constants_are_folded_into_the_biases_that_read_them() -> None:
    """By hand: a dead unit of bias 2 behind a ReLU, read by a weight of 3: the bias gains 6."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    model[0].weight.data[:] = 1
    model[0].bias.data[:] = torch.tensor([1.0, 2.0])
    model[2].weight.data[:] = 3
    masks = {"0.weight": torch.tensor([[True], [False]]), "2.weight": torch.ones(1, 2).bool()}
    small = collapse.shrink(model, masks, torch.zeros(1, 1).double())
    assert small.get_submodule("2").bias.tolist() == [6.0]
    assert small.get_submodule("2").weight.tolist() == [[3.0]]
    assert small(torch.ones(1, 1).double()).tolist() == [[12.0]]


def test_attention_is_counted_alike_before_and_after() -> None:
    """Torch's fused attention in eval mode, of the packed form alone, is not in its counter."""
    case = tokens()
    x = case.batches[0][0]
    table = compare(case.model, collapse.shrink(case.model, masking.dense(case.model), x), x)
    assert table.loc["share", ["parameters", "flops", "bytes"]].tolist() == [1, 1, 1]


def _small() -> tuple[nn.Module, Tensor]:
    model, x, _ = _double(blocks())
    return collapse.shrink(model.float(), _drawn_masks(model, 0), x.float()).eval(), x.float()


def test_it_is_pickled_copied_and_saved() -> None:
    small, x = _small()
    expected = small(x)
    stream = io.BytesIO()
    torch.save(small, stream)
    stream.seek(0)
    for again in (
        pickle.loads(pickle.dumps(small)),
        copy.deepcopy(small),
        torch.load(stream, weights_only=False),
    ):
        assert torch.equal(again(x), expected)


def test_it_is_exported(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    small, x = _small()
    expected = small(x)
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    again = copy.deepcopy(small)
    for parameter in again.parameters():
        parameter.data.zero_()
    again.load_state_dict(load_file(tmp_path / "small.safetensors"))
    assert torch.equal(again(x), expected)
    program = torch.export.export(small, (x,))
    torch.testing.assert_close(program.module()(x), expected)


@pytest.mark.slow
def test_onnx_runs_it(tmp_path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    small, x = _small()
    torch.onnx.export(small, (x,), tmp_path / "small.onnx", dynamo=True)
    session = runtime.InferenceSession(str(tmp_path / "small.onnx"))
    (given,) = session.get_inputs()
    (result,) = session.run(None, {given.name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), small(x).detach(), atol=1e-5, rtol=1e-4)


class _Undecided(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


class _TwoFaced(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if self.training else 1)


class _Overwrites(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return F.relu(y, inplace=True) + y


@pytest.mark.parametrize(
    ("model", "masks", "shape", "message"),
    [
        (nn.Linear(2, 3), {"weights": torch.ones(3, 2).bool()}, (2,), "of another network"),
        (nn.Linear(2, 3), {"weight": torch.ones(2, 2).bool()}, (2,), r"expected shape \(3, 2\)"),
        (nn.Linear(2, 3), {"weight": torch.ones(3, 2).bool()}, (5,), "cannot be shrunk: .* failed"),
        (_Undecided(2, 3), {"weight": torch.ones(3, 2).bool()}, (2,), "cannot be traced"),
        (_TwoFaced(2, 3), {"weight": torch.ones(3, 2).bool()}, (2,), "else in train mode"),
        (_Overwrites(2, 3), {"weight": torch.ones(3, 2).bool()}, (2,), "'relu' changes in place"),
    ],
)
def test_what_cannot_be_shrunk_is_one_line(model, masks, shape, message: str) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RequestError, match=message) as error:
        collapse.shrink(model, masks, torch.zeros(1, *shape))
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
