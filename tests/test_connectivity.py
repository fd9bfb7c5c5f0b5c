"""Dead weights, against a walk over the units of the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from collapse import masks as masking
from collapse.connectivity import living
from collapse.models import build
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
    ["torchvision:vit_b_16", "torchvision:efficientnet_b0", "torchvision:mobilenet_v3_small"],
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
