"""Pruned weights stay zero, and survivors are those of masks in the forward, bit by bit."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils import clip_grad_norm_, parametrizations
from torch.optim.optimizer import _global_optimizer_post_hooks
from torch.optim.swa_utils import AveragedModel

import collapse
from collapse import masks as masking
from collapse.errors import RequestError
from collapse.masks import keep_pruned
from collapse.models import own_parameters, prunable
from tests.snapshot import assert_same, snapshot


class _Net(nn.Module):
    """A convolution, BatchNorm, packed attention and a weight that two modules share."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv1d(2, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x))).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.second(F.relu(self.first(x))).mean(1))


Masks = dict[str, Tensor]


def _pruned() -> tuple[nn.Module, Masks]:
    """A network with random masks, its pruned weights not yet at zero."""
    torch.manual_seed(0)
    model = _Net()
    draw = torch.Generator().manual_seed(1)
    masks = {n: torch.rand(p.shape, generator=draw) < 0.4 for n, p in prunable(model).items()}
    return model, masks


def _own(model: nn.Module, masks: Masks) -> list[tuple[nn.Parameter, Tensor]]:
    return [
        (module.get_parameter(name), mask) for module, name, mask in own_parameters(model, masks)
    ]


def _zero(model: nn.Module, masks: Masks) -> bool:
    return all(not weight.detach()[~mask].any() for weight, mask in _own(model, masks))


def _batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(2)
    for _ in range(steps):
        size = int(torch.randint(2, 6, (), generator=draw))
        scale = 10 ** float(torch.randn((), generator=draw))
        x = scale * torch.randn(size, 2, 5, generator=draw)
        yield x, torch.randint(3, (size,), generator=draw)


def _step(model: nn.Module, optimizer: optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


class _InForward(nn.Module):
    """The definition: weights are multiplied by their masks in each forward."""

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        super().__init__()
        self.model = model
        by_id = {id(weight): mask for weight, mask in _own(model, masks)}
        named = model.named_parameters(remove_duplicate=False)
        self.masks = {name: by_id[id(p)] for name, p in named if id(p) in by_id}

    def forward(self, x: Tensor) -> Tensor:
        masked = {n: self.model.get_parameter(n) * mask for n, mask in self.masks.items()}
        return torch.func.functional_call(self.model, masked, (x,), tie_weights=False)


FORMS = {"each": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
SETTINGS = {
    "SGD": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "SGD dampened": (
        optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
    ),
    "Adam": (optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "AdamW": (optim.AdamW, {"lr": 0.01, "weight_decay": 0.5, "amsgrad": True}),
    "RMSprop": (optim.RMSprop, {"lr": 0.01, "momentum": 0.9, "centered": True}),
    "Adagrad": (optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.1}),
    "NAdam": (optim.NAdam, {"lr": 0.01, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    "RAdam": (optim.RAdam, {"lr": 0.01, "weight_decay": 0.1}),
    "Adadelta": (optim.Adadelta, {"lr": 1.0, "weight_decay": 0.1}),
    # Not elementwise: factored moments, orthogonal updates of two-dimensional weights.
    "Adafactor": (optim.Adafactor, {"lr": 0.01}),
    "Muon": (optim.Muon, {"lr": 0.01, "weight_decay": 0.1}),
}
FUSED = ("SGD", "SGD dampened", "Adam", "AdamW", "Adagrad")
COUPLED = ("Adafactor", "Muon")
CASES = [
    (name, form)
    for name in SETTINGS
    for form in FORMS
    if (form != "fused" or name in FUSED) and not (name in COUPLED and form != "each")
]


def _optimizer(model: nn.Module, name: str, form: str) -> optim.Optimizer:
    kind, options = SETTINGS[name]
    parameters = [p for p in model.parameters() if p.ndim == 2 or name != "Muon"]
    return kind(parameters, **options, **({} if name == "Muon" else FORMS[form]))


def _compare(name: str, form: str, steps: int) -> None:
    model, masks = _pruned()
    if name == "Muon":  # it takes matrices alone
        del masks["stem.weight"]
    masking.apply(model, masks)
    definition = _InForward(copy.deepcopy(model), masks)
    networks = (model, definition)
    optimizers = [_optimizer(network, name, form) for network in networks]
    keep_pruned(model, masks, optimizers[0])
    draw = torch.Generator().manual_seed(3)
    for x, y in _batches(steps):
        clip, again = (bool(torch.rand((), generator=draw) < 0.3) for _ in range(2))
        for network, optimizer in zip(networks, optimizers, strict=True):
            F.cross_entropy(network(x), y).backward()
            if clip:  # couples all weights through the norm of their gradients
                clip_grad_norm_(network.parameters(), 0.5)
            if again:  # gradients are accumulated over several batches
                continue
            optimizer.step()
            optimizer.zero_grad()
        assert _zero(model, masks)
        for (weight, mask), (masked, _) in zip(
            _own(model, masks), _own(definition.model, masks), strict=True
        ):
            assert torch.equal(weight[mask], masked[mask])
            assert bool(weight.isfinite().all())
    for weight, masked in zip(model.parameters(), definition.model.parameters(), strict=True):
        assert torch.equal(weight * (weight != 0), masked * (weight != 0))  # biases and norms too


@pytest.mark.parametrize(("name", "form"), CASES)
def test_survivors_are_those_of_masks_in_the_forward(name: str, form: str) -> None:
    _compare(name, form, steps=12)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_thousand_random_steps(name: str, form: str) -> None:
    _compare(name, form, steps=1000)


def test_apply_alone_lets_them_come_back() -> None:
    model, masks = _pruned()
    masking.apply(model, masks)
    (batch,) = _batches(1)
    _step(model, optim.SGD(model.parameters(), lr=0.1), *batch)
    assert not _zero(model, masks)


def test_momentum_of_before_and_zero_divided_by_zero_are_never_seen() -> None:
    model, masks = _pruned()
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    for batch in _batches(3):
        _step(model, optimizer, *batch)
    keep_pruned(model, masks, optimizer)
    assert _zero(model, masks)
    for batch in _batches(3):
        _step(model, optimizer, *batch)
        assert _zero(model, masks)
    line = nn.Linear(2, 1)
    optimizer = optim.Adam(line.parameters(), eps=0)
    keep_pruned(line, {"weight": torch.tensor([[True, False]])}, optimizer)
    line(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert line.weight[0, 1] == 0  # it would be NaN
    assert line.weight[0, 0].isfinite()


def test_lbfgs_keeps_them_inside_its_step() -> None:
    model, masks = _pruned()
    optimizer = optim.LBFGS(model.parameters(), max_iter=5)
    keep_pruned(model, masks, optimizer)

    def closure(x: Tensor, y: Tensor) -> Tensor:
        assert _zero(model, masks)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for batch in _batches(4):
        optimizer.step(partial(closure, *batch))
        assert _zero(model, masks)


def test_averages_and_dense_checkpoints_are_pruned_before_the_next_forward() -> None:
    model, masks = _pruned()
    average = AveragedModel(model)  # of the dense network
    keep_pruned(model, masks)
    for write in (
        lambda: model.load_state_dict(average.module.state_dict()),
        lambda: [p.data.copy_(q) for p, q in zip(model.parameters(), average.parameters())],  # noqa: B905
    ):
        write()
        assert not _zero(model, masks)
        with torch.inference_mode():
            model(torch.zeros(1, 2, 5))
        assert _zero(model, masks)
    for batch in _batches(3):
        _step(model, optim.SGD(model.parameters(), lr=0.1), *batch)
        average.update_parameters(model)
    assert _zero(AveragedModel(model), masks)


def test_scaled_gradients_with_an_overflow() -> None:
    model, masks = _pruned()
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    keep_pruned(model, masks, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=2)
    scales = []
    for x, y in _batches(12):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        assert _zero(model, masks)
    assert any(after < before for before, after in pairwise(scales))  # a step was skipped
    assert optimizer.state  # and one was not


def test_two_forwards_before_a_backward() -> None:
    model, masks = _pruned()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    keep_pruned(model, masks, optimizer)
    (batch,) = _batches(1)
    (model(batch[0]).sum() - model(2 * batch[0]).square().sum()).backward()
    optimizer.step()
    assert _zero(model, masks)


def _saved(model: nn.Module) -> nn.Module:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), _saved],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_and_pickles_take_it_along(copied) -> None:
    model, masks = _pruned()
    names = set(model.state_dict())
    keep_pruned(model, masks)
    assert set(model.state_dict()) == names
    gc.collect()  # of other tests
    hooks = len(_global_optimizer_post_hooks)
    twin = copied(model)
    for network in (twin, model):
        optimizer = optim.AdamW(network.parameters(), lr=0.1)
        for batch in _batches(3):
            _step(network, optimizer, *batch)
            assert all(not w.grad[~mask].any() for w, mask in _own(network, masks))
            assert _zero(network, masks)
    keep_pruned(twin, masks).remove()  # the new handle takes the place of the one that came along
    _step(twin, optim.SGD(twin.parameters(), lr=0.1), *batch)
    assert not _zero(twin, masks)
    twin = copied(model)
    del twin, network, optimizer
    gc.collect()
    assert len(_global_optimizer_post_hooks) == hooks  # no hook keeps a copy alive


def test_another_precision_later() -> None:
    model, masks = _pruned()
    keep_pruned(model, masks)
    model.double()
    optimizer = optim.Adam(model.parameters())
    for x, y in _batches(2):
        _step(model, optimizer, x.double(), y)
        assert _zero(model, masks)


def test_it_ends_with_the_block_and_is_replaced_by_the_next() -> None:
    model, masks = _pruned()
    before = len(_global_optimizer_post_hooks), len(model._forward_pre_hooks)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    batch, other = _batches(2)
    with keep_pruned(model, masks, optimizer) as kept:
        _step(model, optimizer, *batch)
        assert _zero(model, masks)
        more = {name: ~mask for name, mask in masks.items()}
        with keep_pruned(model, more, optimizer):
            _step(model, optimizer, *batch)
            assert _zero(model, more)
        kept.remove()  # twice is once
    _step(model, optimizer, *other)
    assert not _zero(model, masks)
    assert not _zero(model, more)
    assert (len(_global_optimizer_post_hooks), len(model._forward_pre_hooks)) == before
    assert all(not p._post_accumulate_grad_hooks for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled(backend: str) -> None:
    model, masks = _pruned()
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    keep_pruned(model, masks, optimizer)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    (x, y) = next(_batches(1))
    for step in (optimizer.step, torch.compile(optimizer.step, backend=backend)):
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(compiled(x), y).backward()
            step()
            assert _zero(model, masks)
    torch.compiler.reset()


def test_bad_requests_are_one_line_and_change_nothing() -> None:
    model, masks = _pruned()
    other, _ = _pruned()
    half = optim.SGD([model.head.weight], lr=0.1)
    computed, (name, mask) = _pruned()[0], ("head.weight", masks["head.weight"])
    parametrizations.weight_norm(computed.head)
    for network, given, optimizer, message in (
        (model, {"body.weight": mask}, None, "another network: the model has no 'body.weight'"),
        (model, {name: mask.T}, None, "another network: 'head.weight' expected shape"),
        (model, {name: mask.float()}, None, "'head.weight' expected a boolean tensor"),
        (model, {}, None, "masks are empty"),
        (model, masks, optim.SGD(other.parameters(), lr=0.1), "SGD holds other parameters: expec"),
        (model, masks, half, "expected 'stem.weight' among its 1"),
        (computed, {name: mask}, None, "'weight' of a .*Linear is computed"),
    ):
        before = snapshot(network)
        with pytest.raises(RequestError, match=message) as error:
            collapse.keep_pruned(network, given, optimizer)
        assert "\n" not in str(error.value)
        assert_same(before, snapshot(network))
        assert not network._forward_pre_hooks


def test_a_frozen_weight_needs_no_optimizer() -> None:
    model, masks = _pruned()
    model.stem.requires_grad_(False)
    optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    keep_pruned(model, masks, optimizer)
    for batch in _batches(2):
        _step(model, optimizer, *batch)
    assert _zero(model, masks)


def test_sparse_gradients() -> None:
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 2))
    masks = {"0.weight": torch.rand(5, 4) < 0.5}
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    keep_pruned(model, masks, optimizer)
    model(torch.arange(5)).sum().backward()
    optimizer.step()
    assert not model[0].weight[~masks["0.weight"]].any()
