"""Cut-down networks: equal to the whole one in every mask, wherever a weight is used."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from collapse import masks as masking
from collapse import pruning
from collapse.models import build
from collapse.options import Pruning
from collapse.pruning import Pruned, prune
from collapse.scores import ScoreInputs, score
from collapse.scores.fast import live_blocks
from collapse.scores.fast.live_blocks import Block, Workspace, expand
from tests import reference
from tests.zoo import Case, _batches, _randomise


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks too, and cut down whatever can be."""
    monkeypatch.setattr(live_blocks, "SMALL", 0)
    monkeypatch.setattr(live_blocks, "SHRINK_BELOW", 1.0)


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


def _pruned(case: Case, keep: int, scope: str = "global") -> Pruned:
    return prune(case.model, case.batches, Pruning(iterations=8, scope=scope), keep=keep)


def _assert_equal(ours: Pruned, whole: Pruned) -> None:
    assert list(ours.masks) == list(whole.masks)
    assert [s.kept_by_layer for s in ours.steps] == [s.kept_by_layer for s in whole.steps]
    for name, mask in whole.masks.items():
        assert torch.equal(ours.masks[name], mask)
        assert torch.equal(ours.ranked[name], whole.ranked[name])
        assert torch.equal(ours.scores[name] == 0, whole.scores[name] == 0)  # dead is exactly so
        torch.testing.assert_close(ours.scores[name], whole.scores[name], rtol=1e-11, atol=0)
    for one, other in zip(ours.steps, whole.steps, strict=True):
        assert one.pruned_mass == pytest.approx(other.pruned_mass, rel=1e-11)
        assert one.cut == pytest.approx(other.cut, rel=1e-11)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_equals_the_whole_network_and_the_naive_twin(
    scope: str, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.model.double()
    keep = masking.total(masking.dense(case.model)) // 9
    whole = _pruned(case, keep, scope)
    monkeypatch.setattr(live_blocks, "SMALL", 0)
    monkeypatch.setattr(live_blocks, "SHRINK_BELOW", 1.0)
    ours = _pruned(case, keep, scope)
    _assert_equal(ours, whole)
    if scope == "global":
        expected = _by_twin(case, keep, 8)
        assert all(torch.equal(ours.masks[name], mask) for name, mask in expected.items())


@pytest.mark.parametrize("keep", [8, 30, 120])
def test_weights_used_in_other_ways_stay_whole(keep: int, always: None) -> None:
    case = _strange()
    case.model.double()
    workspaces = []
    shrink = Workspace.shrink

    def watched(self: Workspace, masks: dict[str, Tensor], kept: int) -> dict[str, Tensor]:
        workspaces.append(self)
        return shrink(self, masks, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "shrink", watched)
        ours = _pruned(case, keep)
    expected = _by_twin(case, keep, 8)
    assert all(torch.equal(ours.masks[name], mask) for name, mask in expected.items())
    cut = set(workspaces[-1].blocks)
    assert cut <= {"conv.weight", "twice.weight", "single.weight", "head.weight"}
    if keep < 100:
        assert "twice.weight" in cut


def test_a_weight_that_is_used_otherwise_later_is_still_right(always: None) -> None:
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


@pytest.mark.parametrize("pruner", ["synflow", "snip", "grasp"])
@pytest.mark.parametrize("model", [_Sum(), _Inner(False), _Inner(True), _AsInput(), _Viewed()])
def test_strange_forwards_score_as_the_naive_twin(
    model: nn.Module, pruner: str, always: None
) -> None:
    case = Case(_randomise(model).double(), _batches((2, 8, 8) if "V" in repr(model) else (6,)))
    batches = [(x.double(), y) for x, y in case.batches]
    masks = masking.dense(case.model)
    for keep in (None, masking.total(masks) // 3):
        if keep is not None:
            options = Pruning(pruner=pruner, iterations=4, mode="eval")
            masks = prune(case.model, batches, options, keep=keep).masks
        ours = score(case.model, pruner, masks, ScoreInputs(batches, mode="eval"))
        expected = reference.SCORES[pruner](case.model, masks, batches, "eval")
        for name in masks:
            torch.testing.assert_close(ours[name], expected[name], rtol=1e-9, atol=1e-12)


class _Nothing(nn.Module):
    """A layer that is applied to no tokens at all."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) + self.tokens(x[:, None][:, :0]).sum(1)


def test_maps_of_nothing(always: None) -> None:
    masks = prune(_Nothing(), _batches((6,)), Pruning(iterations=3), keep=5).masks
    assert masking.kept_by_layer(masks) == {"tokens.weight": 0, "head.weight": 5}


@pytest.mark.parametrize("small", [0, 1 << 20])
def test_places_are_counted_in_one_layout(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_blocks, "SMALL", small)
    torch.manual_seed(0)
    case = Case(_randomise(_ChannelsLast()).double(), _batches((3, 16, 16), dtype=torch.float64))
    keep = masking.total(masking.dense(case.model)) // 2
    ours = _pruned(case, keep)
    expected = _by_twin(case, keep, 8)
    assert all(torch.equal(ours.masks[name], mask) for name, mask in expected.items())


def test_a_stand_in_that_escapes_is_not_taken_for_a_weight() -> None:
    """It has the weight's shape and takes no memory, and every number in it is NaN."""
    block = Block(torch.Size((4, 5)), torch.tensor([1]), torch.tensor([0, 3]))
    leaf = live_blocks.Leaf(torch.ones(1, 2), block, lambda: torch.zeros(1, 2))
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


def test_only_large_networks_are_caught(mlp: nn.Module) -> None:
    workspace = Workspace()
    inputs = ScoreInputs([(torch.zeros(1, 6), None)], workspace=workspace)
    masks = masking.dense(mlp)
    score(mlp, "synflow", masks, inputs)
    masks = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    assert workspace.shrink(masks, 0) is masks


def test_later_iterations_cost_less() -> None:
    """Operations of one scoring at compression 100, of those of the first: a ratio, no time."""
    model = build("vgg16_bn", init="kaiming")
    batch = [(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))]
    spent: list[int] = []
    counter = FlopCounterMode(display=False)

    def note(_: object) -> None:
        spent.append(counter.get_total_flops())

    with counter:
        prune(model, batch, Pruning(iterations=20), compression=100, on_step=note)
    first, last = spent[0], spent[-1] - spent[-2]
    assert first > 1.8e9  # three times one image forward
    assert last < 0.4 * first  # what is left is the maps of 32×32 and 16×16


# --- Far compressions in float64 ----------------------------------------------------------------


def _near_tie() -> Case:
    """Two weights whose scores are one number in float32, and not in float64."""
    model = nn.Sequential(nn.Linear(2000, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].weight[0, 5], model[0].weight[0, 9] = 2 - 3 * 2**-23, 2 - 2 * 2**-23
        model[1].weight.fill_(1.5)
    return Case(model, _batches((2000,)))


@pytest.mark.parametrize("small", [0, 1 << 20])
def test_far_compressions_are_in_float64(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_blocks, "SMALL", small)
    case = _near_tie()
    far = _pruned(case, 2)  # of 2001
    assert {step.precision for step in far.steps} == {"float64"}
    assert far.masks["0.weight"].nonzero().tolist() == [[0, 9]]
    assert {step.precision for step in _pruned(case, 3).steps} == {"float32"}
    monkeypatch.setattr(pruning, "WIDE_ABOVE", math.inf)
    narrow = _pruned(case, 2)
    assert {step.precision for step in narrow.steps} == {"float32"}
    assert narrow.masks["0.weight"].nonzero().tolist() == [[0, 5]]  # the first of a tie


def test_far_masks_are_those_of_the_model_in_float64(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the weights themselves, not from products that float32 has rounded."""
    monkeypatch.setattr(pruning, "WIDE_ABOVE", 1)
    keep = masking.total(masking.dense(case.model)) // 9
    far = _pruned(case, keep)
    double = prune(
        case.model.double(),
        [(x.double(), y) for x, y in case.batches],
        Pruning(iterations=8),
        keep=keep,
    )
    assert [step.precision for step in far.steps] == [step.precision for step in double.steps]
    for name, mask in double.masks.items():
        assert torch.equal(far.masks[name], mask)
        assert torch.equal(far.scores[name], double.scores[name])


def test_vgg16_reaches_the_maximum_as_in_float64() -> None:
    """A layer of it collapses where the first iterations are in float32."""
    model = build("vgg16")
    batch = [(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))]
    result = prune(model, batch, keep=14)
    assert {step.precision for step in result.steps} == {"float64"}
    assert set(masking.kept_by_layer(result.masks).values()) == {1}


def test_the_certified_schedule_goes_on_as_it_is() -> None:
    """A target only shortens its last step, so the precision cannot depend on it."""
    case = _near_tie()
    result = prune(case.model, case.batches, Pruning(schedule="certified"), keep=2)
    assert {step.precision for step in result.steps} == {"float32"}
