"""A smaller network trained in the model's place: the same numbers, names and state."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from collapse import imp as rounds
from collapse import masks as masking
from collapse.data import Dataset, load
from collapse.errors import RequestError
from collapse.imp import Dynamics, conserving_units
from collapse.models import build, prunable
from collapse.options import Pruning, Rewinding
from collapse.problem import Problem
from collapse.pruning import prune
from collapse.pruning.shrinking.parts import Picked
from collapse.train import Trainer, train
from tests.pruning.test_shrinking import CASES, _drawn_masks
from tests.train.test_train import SETTINGS, _drawn


def _network(name: str) -> tuple[nn.Module, Dataset]:
    if name in CASES:
        case = CASES[name]()
        inputs, labels = (torch.cat(parts) for parts in zip(*case.batches, strict=True))
        return case.model.double(), Dataset("zoo", inputs.float(), labels, 3, (0.0,), (1.0,))
    return build(name, classes=3).double(), _drawn(9, (3, 32, 32))


def _trained(model: nn.Module, dataset: Dataset, masks: dict[str, Tensor], shrink: bool, **other):
    """Rows, the score dynamics and conserved quantities, and the state after three epochs."""
    settings = replace(SETTINGS, lr=0.02, train_batch_size=5, **other)
    trainer = Trainer(copy.deepcopy(model), dataset, dataset, settings, shrink=shrink)
    groups = conserving_units(trainer)
    trainer.hold(masks)
    watch = Dynamics(trainer, masks, groups, 0)
    rows, numbers = [], []
    for epoch in range(3):
        found, measured = trainer.epoch(0, epoch, watch)
        rows += found
        numbers.append(measured)
        watch.observe(measured, epoch + 1)
    return trainer, rows, numbers


@pytest.mark.parametrize("other", [{}, {"momentum": 0.0}, {"weight_decay": 0.0}])
@pytest.mark.parametrize("name", ["mlp", "parts", "blocks", "tokens"])
def test_it_trains_as_the_masked_network(name: str, other: dict[str, float]) -> None:
    model, dataset = _network(name)
    masks = _drawn_masks(model, 1)
    _compare(model, dataset, masks, **other)


@pytest.mark.parametrize("name", ["minivgg", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_synflows_networks_train_as_the_masked_ones(name: str) -> None:
    model, dataset = _network(name)
    problem = Problem(model, [(dataset.inputs().double()[:1], dataset.labels[:1])])
    masks = prune(problem, options=Pruning(pruner="synflow", iterations=9), compression=100).masks
    trainer = _compare(model, dataset, masks, augmentation="crop-flip")
    left = sum(parameter.numel() for parameter in trainer.network.parameters())
    assert left < 0.3 * sum(parameter.numel() for parameter in model.parameters())


class _Detached(nn.Module):
    """The first layers have no gradient: SGD leaves them, and their momentum, alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.beside = nn.Linear(8, 12), nn.Linear(8, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head((self.first(x).relu().detach() + self.beside(x)).relu())


def test_what_has_no_gradient_does_not_decay() -> None:
    torch.manual_seed(0)
    model = _Detached().double()
    nn.init.zeros_(model.first.bias)
    masks = masking.dense(model)
    masks["first.weight"][::2] = masks["beside.weight"][::3] = False
    masks["head.weight"][:, ::4] = False
    trainer = _compare(model, _drawn(9, (2, 2, 2)), masks)
    assert torch.equal(trainer.model.first.weight, model.first.weight * masks["first.weight"])


def _compare(model: nn.Module, dataset: Dataset, masks: dict[str, Tensor], **other) -> Trainer:
    masked, expected, numbers = _trained(model, dataset, masks, shrink=False, **other)
    trainer, rows, measured = _trained(model, dataset, masks, shrink=True, **other)
    assert masked.smaller is None
    assert trainer.smaller is not None
    for row, twin in zip(rows, expected, strict=True):
        assert row["loss"] == pytest.approx(twin["loss"], rel=1e-10)
        assert (row["top1"], row["top5"]) == (twin["top1"], twin["top5"])
    torch.testing.assert_close(
        torch.tensor(measured), torch.tensor(numbers), rtol=1e-8, atol=1e-10, equal_nan=True
    )
    state, twin = trainer.snapshot(), masked.snapshot()
    assert list(state) == list(twin)
    for key in state:
        read = torch.ones((), dtype=torch.bool)
        if "running_" in key:  # of channels that are read, or that see zeros
            path = key.rpartition(".")[0]
            zero = trainer.smaller.shrunk.zero.get(path)
            read = torch.zeros(state[key].shape, dtype=torch.bool) if zero is None else zero.clone()
            if key in dict(trainer.network.named_buffers()):
                ones = torch.ones_like(dict(trainer.network.named_buffers())[key])
                trainer.smaller.shrunk.scatter(key, ones.bool(), read)
        torch.testing.assert_close(
            state[key] * read, twin[key] * read, rtol=1e-9, atol=1e-11, msg=lambda m, k=key: k + m
        )
    for name, mask in masks.items():
        assert not dict(trainer.model.named_parameters())[name][~mask].any()
    return trainer


@pytest.mark.parametrize(
    ("name", "compression"), [("blocks", 20), pytest.param("minivgg", 400, marks=pytest.mark.slow)]
)
def test_levels_shrink_again_and_rewind(name: str, compression: float) -> None:
    """IMP in float64, smaller or masked: the same tables, and each level's network is smaller."""
    tables, sizes = [], []
    for shrink in (False, True):
        model, dataset = _network(name)

        tickets = rounds.imp(
            model,
            dataset,
            dataset,
            compression,
            training=replace(SETTINGS, epochs=2, lr=0.01, train_batch_size=5),
            pruning=Pruning(pruner="synflow", iterations=5),
            batches=[(dataset.inputs().double()[:1], dataset.labels[:1])],
            rewinding=Rewinding(levels=2, rewind_epoch=1),
            shrink=shrink,
        )
        tables.append(tickets.tables)
        sizes.append({name: mask.sum() for name, mask in tickets.masks.items()})
    assert sizes[0] == sizes[1]
    for name in ("training", "score_dynamics", "layers", "levels", "conserved_quantity"):
        one, two = (t[name].drop(columns="seconds", errors="ignore") for t in tables)
        torch.testing.assert_close(
            torch.tensor(one.select_dtypes("number").to_numpy(dtype=float)),
            torch.tensor(two.select_dtypes("number").to_numpy(dtype=float)),
            rtol=1e-7,
            atol=1e-9,
            equal_nan=True,
        )


def test_resumed_in_the_middle_it_goes_on_bit_by_bit() -> None:
    model, dataset = _network("minivgg")
    model.float()
    masks = _drawn_masks(model, 3)
    whole, _, _ = _trained(model, dataset, masks, shrink=True)
    settings = whole.settings
    first = Trainer(copy.deepcopy(model), dataset, dataset, settings)
    first.hold(masks)
    first.epoch(0, 0)
    again = Trainer(copy.deepcopy(model), dataset, dataset, settings)
    again.restore(first.snapshot())
    again.hold(masks)
    assert again.smaller is not None
    for epoch in (1, 2):
        again.epoch(0, epoch)
    expected, found = whole.snapshot(), again.snapshot()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


class _Undecided(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


def test_a_network_that_cannot_be_shrunk_is_trained_masked_and_said() -> None:
    said: list[str] = []
    torch.manual_seed(0)
    model, dataset = _Undecided(nn.Flatten(), nn.Linear(128, 3)), _drawn()
    masks = _drawn_masks(model, 0)
    trainer = Trainer(model, dataset, dataset, SETTINGS, say=said.append)
    trainer.hold(masks)
    assert trainer.smaller is None
    assert len(said) == 1
    assert "trained with masks" in said[0]
    assert "cannot be traced" in said[0]
    trainer.epoch(0, 0)


def test_what_leaves_nothing_smaller_is_trained_masked() -> None:
    model, dataset = _network("mlp")
    trainer = Trainer(model, dataset, dataset, SETTINGS)
    masks = masking.dense(model)
    masks["0.weight"][0, 0] = False
    trainer.hold(masks)
    assert trainer.smaller is None
    assert trainer.network is model
    empty = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in prunable(model).items()}
    trainer.hold(empty)  # a constant: its last bias is left
    trainer.epoch(0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_units_picked_by_a_product_are_the_same_bits(dtype: torch.dtype) -> None:
    picked = Picked(-3, torch.tensor([4, -1, 0, 7, -1]))
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(6, 9, 5, 4, generator=draw).to(dtype)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    found = []
    for picked.by_product in (False, True):
        y = picked(x)
        weights = torch.randn(y.shape, generator=draw.manual_seed(1)).to(dtype)
        (gradient,) = torch.autograd.grad(y, x, weights.to(memory_format=torch.channels_last))
        found.append((y, gradient))
    for expected, got in zip(*found, strict=True):
        assert torch.equal(expected, got)
        assert got.dtype == dtype
        # All that follows has this format, too: in another one it would take several times as long.
        assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(picked(x.contiguous()), picked(x))
    assert torch.equal(picked(x.double()), picked(x).double())


def test_a_residual_networks_branches_are_picked_by_products() -> None:
    dataset = _drawn(9, (3, 32, 32))
    model = build("resnet20", classes=3)
    problem = Problem(model, [(dataset.inputs()[:1], dataset.labels[:1])])
    trainer = Trainer(model, dataset, dataset, SETTINGS)
    trainer.hold(prune(problem, compression=100).masks)
    picked = [module for module in trainer.network.modules() if isinstance(module, Picked)]
    assert picked
    assert all(module.by_product for module in picked)


class _Sometimes(nn.Linear):
    """Its gradient comes late, and not in every step: a layer that is drawn, or routed to."""

    step = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).step += self.training
        return super().forward(x) if self.training and self.step % 3 == 2 else x


def test_a_gradient_that_is_not_always_there_is_trained_as_by_plain_sgd() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), _Sometimes(8, 8), nn.Linear(8, 3))
    dataset = _drawn(24, (2, 2, 2))
    found = []
    for plain in (False, True):
        _Sometimes.step = 0
        settings = replace(SETTINGS, train_batch_size=4)
        trainer = Trainer(copy.deepcopy(model), dataset, dataset, settings, shrink=False)
        if plain:
            group = trainer.optimizer.param_groups[0]
            trainer.optimizer = torch.optim.SGD(group["params"], **{
                key: group[key] for key in ("lr", "momentum", "weight_decay", "nesterov")
            })  # fmt: skip
        trainer.epoch(0, 0)
        found.append(trainer.model.state_dict())
    for name, tensor in found[1].items():
        torch.testing.assert_close(found[0][name], tensor)


def test_without_parameters_there_is_nothing_to_train() -> None:
    data = load("gaussian", input_shape=(4,), classes=2)
    with pytest.raises(RequestError, match="no parameters: expected some to train"):
        train(nn.ReLU(), data, data)
