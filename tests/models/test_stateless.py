"""Running a model on other tensors leaves it as it was, whatever its modules are called."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import collapse
from collapse import masks as masking
from collapse.connectivity import connected, living
from collapse.conservation import audit
from collapse.models import call, stand_ins
from collapse.options import Pruning
from collapse.pruning import prune
from collapse.scores import SCORES, ScoreInputs, score
from tests.snapshot import assert_same, snapshot


class Twice(nn.Module):
    """One module under two names, one weight in two modules, and a norm that is shared."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)])
        self.layers[2].weight = self.layers[1].weight
        norm = nn.BatchNorm1d(4)
        first, second, third = self.layers
        self.body = nn.Sequential(first, norm, nn.ReLU(), second, norm, nn.ReLU(), third)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


BATCHES = [(torch.linspace(-1, 2, 24).view(6, 4).sin(), torch.arange(6) % 4)]


def _places(model: nn.Module) -> dict[str, int]:
    """Which object is where: a model that has got its values back may have got them as others."""
    every = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: id(tensor) for name, tensor in every}


@pytest.mark.parametrize("pruner", [name for name in SCORES if ":" not in name])
def test_a_module_under_two_names_is_as_it_was(pruner: str) -> None:
    model = Twice()
    before, places = snapshot(model), _places(model)
    score(model, pruner, masking.dense(model), ScoreInputs(BATCHES))
    assert_same(before, snapshot(model))
    assert _places(model) == places


def test_whatever_looks_at_it_leaves_it_alone() -> None:
    model = Twice()
    before, places = snapshot(model), _places(model)
    masks = prune(model, BATCHES, Pruning(), compression=4).masks
    assert connected(model, masks, BATCHES[0][0])
    audit(model, BATCHES[0])
    collapse.doctor(model, BATCHES[0][0])
    collapse.shrink(model, masks, BATCHES[0][0])
    assert_same(before, snapshot(model))
    assert _places(model) == places


def test_every_place_has_what_stands_in() -> None:
    model = Twice().eval()
    doubled = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (*doubled.parameters(), *doubled.buffers()):
            tensor.mul_(2)
    state = {name: 2 * tensor for name, tensor in stand_ins(model).items()}
    x = BATCHES[0][0]
    assert torch.equal(call(model, state, x), doubled(x))


class Merging(nn.Linear):
    """As loralib's: it changes its weight when it is told to evaluate, and does not go back."""

    def train(self, mode: bool = True) -> nn.Module:
        if not mode:
            self.weight.data.add_(1)
        return super().train(mode)


class Frozen(nn.BatchNorm1d):
    """A norm that stays in eval mode."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


def test_a_train_of_its_own_is_not_called_to_evaluate_and_is_to_train() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Merging(4, 4), Frozen(4), nn.ReLU(), nn.Linear(4, 4))
    before = snapshot(model)
    masks = masking.dense(model)
    score(model, "synflow", masks, ScoreInputs(BATCHES))
    assert connected(model, masks, BATCHES[0][0])
    train, evaluated = (
        score(model, "snip", masks, ScoreInputs(BATCHES, m)) for m in ("train", "eval")
    )
    assert_same(before, snapshot(model))
    for name, tensor in train.items():  # the norm is frozen, and so alike in both
        assert torch.equal(tensor, evaluated[name])


def test_a_forward_that_writes_its_parameters_writes_ours() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4, max_norm=0.1), nn.Flatten(), nn.Linear(8, 3))
    batches = [(torch.tensor([[1, 2], [3, 4]]), torch.tensor([0, 1]))]
    before = snapshot(model)
    for pruner in ("magnitude", "synflow", "snip"):
        prune(model, batches, Pruning(pruner), compression=2)
    assert_same(before, snapshot(model))


def test_another_default_precision_and_whole_numbers_as_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[0].steps = nn.Parameter(torch.tensor([3]), requires_grad=False)
    assert audit(model, BATCHES[0]).R > 0
    torch.set_default_dtype(torch.float64)
    try:
        assert connected(model, masking.dense(model), BATCHES[0][0].float())
    finally:
        torch.set_default_dtype(torch.float32)


class Caching(nn.Linear):
    """It keeps what it made of its weight when it last evaluated."""

    made: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        if self.made is None:
            self.made = 2 * self.weight
        return nn.functional.linear(x, self.made, self.bias)


def test_what_a_module_keeps_of_a_forward_is_not_ours() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Caching(4, 4), nn.ReLU(), nn.Linear(4, 4))
    masks, x = masking.dense(model), BATCHES[0][0]
    whole = living(model, masks, x)
    masks["0.weight"][:, 1:] = False
    assert masking.kept(living(model, masks, x)) == 4 + 16 < masking.kept(whole)
    assert model[0].made is None
