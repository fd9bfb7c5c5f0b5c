"""Cut-down networks: equal to the whole one in every mask, wherever a weight is used."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from collapse import masks as masking
from collapse.models import build
from collapse.options import Pruning
from collapse.problem import Problem
from collapse.pruning import Plain, Pruned, Start, begin, fastest, prune
from collapse.pruning.engines import Engine
from collapse.pruning.live_blocks import LiveBlocks
from collapse.scores import fast
from collapse.scores.fast.blocks import Block, expand
from collapse.scores.fast.capture import Leaf
from tests import reference
from tests.zoo import Case, _batches, _randomise

# Small networks too, and cut down whatever can be.
always = partial(LiveBlocks, shrink_below=1.0)


class _Signs(torch.autograd.Function):
    """A function of the user's own, which no call catches."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.t() @ x


class _Strange(nn.Module):
    """Weights used in every way that is not a layer's own, and layers used in unusual ways."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding="same", padding_mode="reflect", bias=False)
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.single = nn.Conv2d(6, 5, (1, 3), stride=(1, 2), dilation=(1, 2), padding=(0, 2))
        self.tied = nn.Linear(5, 8, bias=False)
        self.joined = nn.Linear(8, 8)
        self.own = nn.Linear(8, 6)
        self.gated = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.conv(x).relu()).relu()
        x = F.max_pool2d(x, 2)
        x = self.twice(x).relu()  # at another resolution
        x = torch.stack([self.single(image) for image in x])  # without a batch
        x = self.tied(x.mean((2, 3)))
        x = self.tied(x @ self.tied.weight)  # its transpose too
        x = F.linear(x, torch.cat([self.joined.weight[:4], self.joined.weight[4:]], dim=0))
        x = _Signs.apply(x, self.own.weight)
        x = x * self.gated.weight.diagonal() + self.gated(x)
        assert self.head.weight.shape == (3, 6)
        return F.linear(weight=self.head.weight, bias=self.head.bias, input=x)


class _Fickle(nn.Module):
    """Uses its second layer in another way once little flows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 9)
        self.second = nn.Linear(9, 9)
        self.head = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        usual = float(x.detach().sum()) > 8
        x = self.second(x) if usual else torch.mm(x, self.second.weight.t())
        return self.head(x.relu())


def _strange() -> Case:
    return Case(_randomise(_Strange()), _batches((2, 8, 8)))


def _by_twin(case: Case, keep: int, iterations: int) -> dict[str, Tensor]:
    masks = masking.dense(case.model)
    total = masking.total(masks)
    for i in range(1, iterations + 1):
        scores = reference.synflow(case.model, masks, case.batches, "eval")
        goal = keep if i == iterations else math.ceil(total * (keep / total) ** (i / iterations))
        masks = reference.select(scores, goal, masks)
    return masks


def _pruned(case: Case, keep: int, engine: str | Engine = always) -> Pruned:
    return prune(case.model, case.batches, Pruning(iterations=8), keep=keep, engine=engine)


@pytest.mark.parametrize("keep", [8, 30, 120])
def test_weights_used_in_other_ways_stay_whole(keep: int) -> None:
    case = _strange()
    case.model.double()
    engines: list[LiveBlocks] = []

    def watched(start: Start) -> LiveBlocks:
        engines.append(always(start))
        return engines[-1]

    ours = _pruned(case, keep, watched)
    expected = _by_twin(case, keep, 8)
    assert all(torch.equal(ours.masks[name], mask) for name, mask in expected.items())
    cut = set(engines[-1].blocks)
    assert cut <= {"conv.weight", "twice.weight", "single.weight", "head.weight"}
    if keep < 100:
        assert "twice.weight" in cut


def test_a_weight_that_is_used_otherwise_later_is_still_right() -> None:
    torch.manual_seed(0)
    case = Case(_randomise(_Fickle()).double(), _batches((6,), dtype=torch.float64))
    ours = _pruned(case, 12)
    expected = _by_twin(case, 12, 8)
    assert all(torch.equal(ours.masks[name], mask) for name, mask in expected.items())


class _ChannelsLast(nn.Module):
    """Turns its input round itself, so that the gradients of its weights are turned too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


class _Sum(nn.Module):
    """Two weights that are added: they are given one and the same gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.delta, self.head = nn.Linear(6, 9), nn.Linear(6, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(x, self.base.weight + self.delta.weight).relu())


class _Inner(nn.Module):
    """Differentiates a part of itself on the way."""

    def __init__(self, create_graph: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 9), nn.Linear(9, 9), nn.Linear(9, 3)
        self.create_graph = create_graph

    def forward(self, x: Tensor) -> Tensor:
        z = x.detach().requires_grad_()
        value = self.second(self.first(z)).pow(2).sum()
        (inner,) = torch.autograd.grad(value, z, create_graph=self.create_graph)
        return self.head(self.second(self.first(x)).relu()) + inner[:, :3]


class _AsInput(nn.Module):
    """A layer's weight is what another map is applied to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 9), nn.Linear(9, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        squared = F.linear(self.second.weight, self.second.weight)
        x = F.linear(self.second(self.first(x)), squared, self.second.weight[0])
        return self.head(F.linear(x, self.second.weight, self.first.weight[:, 0]))


class _Viewed(nn.Module):
    """Looks at a map as one row, as tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(6, 4, 3, stride=2), nn.Linear(16, 3)
        self.stem = nn.Conv2d(2, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x).relu())
        return self.head(x.view(len(x), -1))


@pytest.mark.parametrize("model", [_Sum(), _Inner(False), _Inner(True), _AsInput(), _Viewed()])
def test_strange_forwards_score_as_the_naive_twin(model: nn.Module) -> None:
    case = Case(_randomise(model).double(), _batches((2, 8, 8) if "V" in repr(model) else (6,)))
    batches = [(x.double(), y) for x, y in case.batches]
    keep = masking.total(masking.dense(case.model)) // 3
    ours = prune(case.model, batches, Pruning(iterations=4), keep=keep, engine=always)
    expected = reference.synflow(case.model, ours.ranked, batches, "eval")
    for name in ours.ranked:
        torch.testing.assert_close(ours.scores[name], expected[name], rtol=1e-9, atol=1e-12)


class _Nothing(nn.Module):
    """A layer that is applied to no tokens at all."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) + self.tokens(x[:, None][:, :0]).sum(1)


def test_maps_of_nothing() -> None:
    options = Pruning(iterations=3)
    masks = prune(_Nothing(), _batches((6,)), options, keep=5, engine=always).masks
    assert masking.kept_by_layer(masks) == {"tokens.weight": 0, "head.weight": 5}


@pytest.mark.parametrize("engine", ["plain", "live-blocks"])
def test_places_are_counted_in_one_layout(engine: str) -> None:
    torch.manual_seed(0)
    case = Case(_randomise(_ChannelsLast()).double(), _batches((3, 16, 16), dtype=torch.float64))
    keep = masking.total(masking.dense(case.model)) // 2
    ours = _pruned(case, keep, engine)
    expected = _by_twin(case, keep, 8)
    assert all(torch.equal(ours.masks[name], mask) for name, mask in expected.items())


def test_a_stand_in_that_escapes_is_not_taken_for_a_weight() -> None:
    """It has the weight's shape and takes no memory, and every number in it is NaN."""
    block = Block(torch.Size((4, 5)), torch.tensor([1]), torch.tensor([0, 3]))
    leaf = Leaf(torch.ones(1, 2), block, lambda: torch.zeros(1, 2))
    assert leaf.stand_in.shape == (4, 5)
    assert leaf.stand_in.untyped_storage().nbytes() == 4
    assert bool(leaf.stand_in.isnan().all())


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3, 3)])
def test_blocks_keep_the_order_of_places(shape: tuple[int, ...]) -> None:
    whole = torch.arange(math.prod(shape)).view(shape)
    block = Block(torch.Size(shape), torch.tensor([0, 2, 3]), torch.tensor([1, 3]))
    part = block.gather(whole)
    assert bool((part.flatten().diff() > 0).all())
    assert torch.equal(block.gather(block.scatter(part)), part)
    inner = block.within(torch.tensor([1, 2]), torch.tensor([0]))
    assert torch.equal(inner.gather(whole), part[1:, :1])
    assert int((expand({"a": part}, {"a": block})["a"] != 0).sum()) == int((part != 0).sum())


def test_only_large_networks_are_worth_it(mlp: nn.Module) -> None:
    for model, pays in ((mlp, False), (build("vgg11"), True)):
        start = begin(Problem(model), Pruning(), masking.dense(model))
        assert LiveBlocks.can(start)
        assert LiveBlocks.pays(start) == pays
        assert isinstance(fastest(start), LiveBlocks) == pays
        with fast.off():
            assert type(fastest(start)) is Plain


def test_later_iterations_cost_less() -> None:
    """Operations of one scoring at compression 100, of those of the first: a ratio, no time."""
    model = build("vgg16_bn", init="kaiming")
    batch = [(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))]
    spent: list[int] = []
    counter = FlopCounterMode(display=False)

    def note(_: object) -> None:
        spent.append(counter.get_total_flops())

    with counter:
        prune(model, batch, Pruning(iterations=10), compression=100, on_step=note)
    first, last = spent[0], spent[-1] - spent[-2]
    assert first > 1.8e9  # three times one image forward
    assert last < 0.4 * first  # what is left is the maps of 32×32 and 16×16


def test_uneven_convolutions_as_products() -> None:
    torch.manual_seed(0)
    options = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}
    model = nn.Sequential(nn.Conv2d(2, 4, (3, 2), **options), nn.Flatten(), nn.LazyLinear(3))
    batches = [(torch.zeros(1, 2, 8, 6), None)]
    model(batches[0][0])
    masks = masking.dense(model.double())
    batches = [(x.double(), y) for x, y in batches]
    ours = prune(model, batches, Pruning(iterations=1), compression=2, engine=always)
    expected = reference.synflow(model, masks, batches, "eval")
    for name in masks:
        torch.testing.assert_close(ours.scores[name], expected[name])


@pytest.mark.parametrize(("scale", "tried"), [(1e7, 1), (1e-5, 1), (1.0, 5)])
def test_a_precision_that_cannot_hold_r_is_tried_once(
    scale: float, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(7)))
    with torch.no_grad():
        for layer in model:
            layer.weight.mul_(scale)
    dtypes = []
    formula = LiveBlocks._synflow

    def watched(self, model, masks, inputs, network):
        dtypes.append(inputs.dtype)
        return formula(self, model, masks, inputs, network)

    monkeypatch.setattr(LiveBlocks, "_synflow", watched)
    batches = [(torch.zeros(1, 6), torch.zeros(1))]
    plain, ours = (
        prune(model, batches, Pruning(iterations=5), keep=190, engine=engine)
        for engine in ("plain", "live-blocks")
    )
    assert dtypes.count(torch.float32) == tried
    assert [step.precision for step in ours.steps] == [step.precision for step in plain.steps]
    assert all(torch.equal(ours.masks[name], mask) for name, mask in plain.masks.items())
