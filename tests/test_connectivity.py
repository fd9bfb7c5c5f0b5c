"""Dead weights, against a walk over the units of the network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import collapse
from collapse import masks as masking
from collapse.connectivity import connected, is_cut_layer, living
from collapse.critical import critical_compression
from collapse.errors import RequestError
from collapse.models import build
from collapse.options import Pruning
from tests import reference
from tests.zoo import Case, _Residual


def _random_masks(model: nn.Module, density: float, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(mask.shape, generator=draw) < density
        for name, mask in masking.dense(model).items()
    }


CHAINS = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.Linear(7, 3)),
        (6,),
    ),
    "convolutions": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
            *(nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.GELU()),
            *(nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(16, 3)),
        ),
        (2, 8, 8),
    ),
}


@pytest.mark.parametrize("density", [1.0, 0.5, 0.2, 0.1])
@pytest.mark.parametrize("chain", CHAINS)
def test_agrees_with_a_walk_over_units(chain: str, density: float) -> None:
    build_chain, shape = CHAINS[chain]
    model = build_chain()
    for seed in range(5):
        masks = _random_masks(model, density, seed)
        ours = living(model, masks, torch.zeros(1, *shape))
        expected = reference.living_chain(model, masks, shape)
        for name in masks:
            assert torch.equal(ours[name], expected[name])


def test_living_is_a_subset_and_stable(case: Case) -> None:
    masks = _random_masks(case.model, 0.4, 0)
    alive = living(case.model, masks, case.batches[0][0])
    assert all(bool((alive[n] <= masks[n]).all()) for n in masks)
    # Removing the dead kills nothing else.
    again = living(case.model, alive, case.batches[0][0])
    assert all(torch.equal(again[n], alive[n]) for n in masks)


def test_skip_and_concatenation_keep_the_rest_alive() -> None:
    model = _Residual()
    masks = masking.dense(model)
    masks["branch.0.weight"][:] = False
    alive = living(model, masks, torch.zeros(1, 2, 5, 5))
    assert masking.kept_by_layer(alive) == masking.kept_by_layer(masks)
    masks["head.weight"][:, :4] = False  # only the side's two channels reach the output
    alive = living(model, masks, torch.zeros(1, 2, 5, 5))
    assert masking.collapsed(alive) == ["branch.0.weight"]
    masks["head.weight"][:] = False
    assert masking.kept(living(model, masks, torch.zeros(1, 2, 5, 5))) == 0


def test_kernel_entries_that_only_see_padding_are_dead() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Flatten(), nn.Linear(1, 1))
    alive = living(model, masking.dense(model), torch.zeros(1, 1, 1, 1))
    assert alive["0.weight"].flatten().tolist() == [False] * 4 + [True] + [False] * 4


@pytest.mark.parametrize(
    "name",
    ["torchvision:efficientnet_b0", "torchvision:mobilenet_v3_small"],
)
def test_gates_and_attention_do_not_look_dead(name: str) -> None:
    size = 224 if "vit" in name else 64
    model = build(name, input_shape=(3, size, size))
    alive = living(model, masking.dense(model), torch.zeros(1, 3, size, size))
    for layer, mask in alive.items():
        if mask.ndim == 2 or mask.shape[-1] == 1:  # larger kernels may see only padding
            assert bool(mask.all()), layer


def test_deep_networks_neither_overflow_nor_vanish() -> None:
    deep = nn.Sequential(*(nn.Linear(30, 30, bias=False) for _ in range(400)))
    assert masking.density(living(deep, masking.dense(deep), torch.zeros(1, 30))) == 1
    resnet = build("resnet110")
    alive = living(resnet, masking.dense(resnet), torch.zeros(1, 3, 32, 32))
    assert masking.density(alive) == 1


# --- Every kind of maximum, and what does not come from the input --------------------------------


class _Between(nn.Module):
    """Two layers with a function in between; of three feature maps the first is pruned away."""

    def __init__(self, between) -> None:
        super().__init__()
        self.first, self.between = nn.Conv2d(2, 3, 3, padding=1), between
        self.second, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.between(self.first(x)))
        return self.head(x.flatten(2).sum(2))


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x.amax((2, 3), keepdim=True),
        lambda x: x.amax((2, 3))[..., None, None],
        lambda x: x.max(-1).values[..., None],
        lambda x: x.max(dim=-1, keepdim=True)[0],
        lambda x: x.min(-1, keepdim=True).values,
        lambda x: torch.max(x, 0.5 * x),
        lambda x: x.maximum(x.flip(3)),
        lambda x: torch.minimum(x, x.flip(3)),
        lambda x: x.topk(2, dim=3).values,
        lambda x: torch.topk(x, 3).values,
        lambda x: x.sort(-1).values,
        lambda x: x.sort(2, descending=True)[0],
        lambda x: x.kthvalue(2, dim=-1, keepdim=True).values,
        lambda x: x.median(-1, keepdim=True).values,
        lambda x: x.clamp(0, 0.2),
        lambda x: x.clamp(max=0.1),
        lambda x: torch.where(x > 1, x, 0.1 * x),
        lambda x: torch.where(x > 1, 0.0, x),
        lambda x: x * (x > 1),
        lambda x: x.masked_fill(x < 1, 0.0),
        lambda x: x.sqrt().exp().square(),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(3, stride=2, padding=1, dilation=2, ceil_mode=True),
        nn.AdaptiveMaxPool2d(1),
    ],
)
def test_every_kind_of_maximum_lets_all_that_compete_through(between) -> None:
    model = _Between(between)
    masks = masking.dense(model)
    masks["second.weight"][:, 0] = False
    alive = living(model, masks, torch.zeros(1, 2, 8, 8))
    expected = {name: mask.clone() for name, mask in masks.items()}
    expected["first.weight"][0] = False
    assert all(torch.equal(alive[name], mask) for name, mask in expected.items())
    with torch.no_grad():  # the replacement has the shape of what it replaces
        x = torch.rand(1, 3, 8, 8)
        assert between(x).ndim == 4


class _Constants(nn.Module):
    """Everything that is added and does not come from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.b_in = nn.Parameter(torch.ones(4))
        self.token, self.position = (
            nn.Parameter(torch.ones(1, 1, 4)),
            nn.Parameter(torch.ones(6, 4)),
        )
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.register_buffer("grid", torch.linspace(0, 1, 6)[None, :, None])
        self.on_grid, self.head = nn.Linear(1, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x) + self.b_in], dim=1)
        x = x + self.position + self.on_grid(self.grid) + 1.0
        x = x + self.attention(x, x, x)[0]
        return self.head(torch.stack([x, torch.ones_like(x)]).mean((0, 2)))


def test_what_does_not_come_from_the_input_keeps_nothing_alive() -> None:
    model = _Constants()
    masks = masking.dense(model)
    example = torch.zeros(1, 5, 3)
    alive = living(model, masks, example)
    assert not bool(alive.pop("on_grid.weight").any())  # it sees a constant alone
    assert all(bool(mask.all()) for mask in alive.values())
    masks["embed.weight"][:] = False
    assert not connected(model, masks, example)
    assert masking.kept(living(model, masks, example)) == 0


class _Words(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 4), nn.Embedding(6, 4)
        self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 11, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.first(x).relu()).mean(1)


@pytest.mark.parametrize("tied", [False, True])
def test_integer_inputs_enter_where_they_are_looked_up(tied: bool) -> None:
    model, ids = _Words(tied), torch.tensor([[1, 2, 1, 4]])
    masks = masking.dense(model)
    assert connected(model, masks, ids)
    assert all(bool(mask.all()) for mask in living(model, masks, ids).values())
    masks["first.weight"][2] = False
    alive = living(model, masks, ids)
    table = "words.weight" if tied else "head.weight"
    assert not bool(alive[table][0, 2])  # of a word that is not there, only the head's use counts
    masks["first.weight"][:] = False
    assert not connected(model, masks, ids)


def test_integer_inputs_that_are_never_looked_up() -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.float())

    with pytest.raises(RequestError, match="integer inputs never reach an embedding"):
        living(Cast(), masking.dense(Cast()), torch.ones(1, 4, dtype=torch.long))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_cells_that_are_one_operation_do_not_saturate(kind: type[nn.Module]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = kind(64, 64, num_layers=2, batch_first=True), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0][:, -1])

    model = Net()
    masks = {n: torch.ones_like(p).bool() for n, p in model.named_parameters() if p.ndim > 1}
    alive = living(model, masks, torch.zeros(1, 7, 64))
    assert masking.density(alive) == 1


def test_connected_is_a_path_and_not_a_living_layer() -> None:
    """A branch goes, the network lives; a cut layer goes, and it is cut."""
    case = _Residual()
    masks = masking.dense(case)
    example = torch.zeros(1, 2, 5, 5)
    assert connected(case, masks, example)
    masks["branch.0.weight"][:] = False
    assert connected(case, masks, example)
    masks["stem.weight"][:] = False
    assert not connected(case, masks, example)


def test_paths_that_are_subtracted_do_not_cancel() -> None:
    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.one(x) - self.two(x))

    model = Difference()
    masks = masking.dense(model)
    assert masking.density(living(model, masks, torch.zeros(1, 4))) == 1


def _standardised(h: Tensor) -> Tensor:
    centred: Tensor = h - h.mean(-1, keepdim=True)
    return centred / (h.std(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize(
    "by_hand",
    [
        _standardised,
        lambda h: h - h.mean(-1, keepdim=True),
        lambda h: h - h.roll(1, -1),
        lambda h: h / (h.norm(dim=-1, keepdim=True) + 1e-6),
        lambda h: h / h.sum(-1, keepdim=True).sqrt(),
        lambda h: h / (1 + h.abs()),
        lambda h: h / (1 + torch.exp(-h)),
        lambda h: torch.div(h, 1 + torch.exp(-h)),
        lambda h: h * torch.reciprocal(1 + torch.exp(-h)),
        lambda h: 1 / (1 + torch.exp(-h)),
        lambda h: h.div_(2).exp().floor(),
        nn.Softshrink(10),
        nn.Hardshrink(10),
    ],
)
def test_what_is_written_by_hand_cancels_nowhere(by_hand) -> None:
    """On inputs of ones and weights of one value each unit would be its layer's mean."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(by_hand(self.second(by_hand(self.first(_standardised(x))))))

    model, example = Chain(), torch.zeros(1, 6)
    dense = masking.dense(model)
    assert masking.density(living(model, dense, example)) == 1
    assert connected(model, dense, example)
    for name, mask in dense.items():
        without = {**dense, name: torch.zeros_like(mask)}
        assert not connected(model, without, example)
        assert not any(bool(part.any()) for part in living(model, without, example).values())
    found = collapse.doctor(model, example)
    assert found.healthy
    assert [layer.living for layer in found.layers] == [48, 56, 21]


class _Rounded(nn.Linear):
    """Fake quantisation: a weight below 1/32 is none, and the gradient passes straight through."""

    def forward(self, x: Tensor) -> Tensor:
        rounding = ((self.weight * 16).round() / 16 - self.weight).detach()
        return F.linear(x, self.weight + rounding, self.bias)


def test_a_forward_that_rounds_its_weights_is_no_cut_network() -> None:
    """One number for all weights of a layer of 192 inputs is rounded to none."""
    model = nn.Sequential(_Rounded(192, 32), nn.ReLU(), nn.Linear(32, 4))
    example, dense = torch.zeros(1, 192), masking.dense(model)
    assert connected(model, dense, example)
    assert masking.density(living(model, dense, example)) == 1
    for name, mask in dense.items():
        assert not connected(model, {**dense, name: torch.zeros_like(mask)}, example)
        assert is_cut_layer(model, name, example)
    found = collapse.doctor(model, example)
    assert found.healthy
    assert [layer.place for layer in found.layers] == ["cut layer", "cut layer"]
    batches = [(example, torch.zeros(1).long())]
    searched = critical_compression(model, batches, Pruning("magnitude"))
    assert searched.connected_kept is not None
    assert searched.effective_kept is not None


def test_a_float64_network_may_cast_its_input() -> None:
    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 5).double(), nn.Linear(5, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x.double()).relu())

    model, example = Casting(), torch.zeros(1, 6)
    assert masking.density(living(model, masking.dense(model), example)) == 1
    assert collapse.doctor(model, example).healthy
