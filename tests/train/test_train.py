"""The training loop against a naive one with masks in the forward; metrics, schedules, mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import masks as masking
from collapse.data import Dataset, Feed, load
from collapse.devices import deterministic
from collapse.errors import RequestError
from collapse.imp import Dynamics, conserving_units
from collapse.models import build, streams_at
from collapse.options import Training
from collapse.seeding import derive
from collapse.train import DivergedError, Trainer, train
from collapse.train.recipes import RECIPES, Settings, learning_rate, resolve
from tests.zoo import Case

SETTINGS = Settings(
    epochs=3,
    train_batch_size=16,
    lr=0.05,
    lr_schedule="step",
    lr_drops=(2,),
    lr_drop_rate=0.1,
    momentum=0.9,
    weight_decay=0.01,
    augmentation="none",
    precision="float32",
)


def _drawn(count: int = 50, shape: tuple[int, ...] = (2, 8, 8), classes: int = 3) -> Dataset:
    draw = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, *shape), generator=draw, dtype=torch.uint8)
    mean, std = (0.5,) * shape[0], (0.3,) * shape[0]
    return Dataset("drawn", images, torch.arange(count) % classes, classes, mean, std)


def _convolutions() -> nn.Sequential:
    """BatchNorm, dropout, and weights that channels_last strides."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        nn.Linear(32, 3),
    )


def _half(model: nn.Module) -> dict[str, Tensor]:
    """Masks that prune about half of each layer at random."""
    draw = torch.Generator().manual_seed(1)
    shapes = {name: mask.shape for name, mask in masking.dense(model).items()}
    return {name: torch.rand(shape, generator=draw) < 0.5 for name, shape in shapes.items()}


class _MaskedForward(nn.Module):
    """The authors' way: masks as factors in the forward, hidden weights left as they are."""

    def __init__(self, model: nn.Module, masks: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self.masks = model, masks

    def forward(self, x: Tensor) -> Tensor:
        masked = {
            name: p * self.masks[name] if name in self.masks else p
            for name, p in self.model.named_parameters()
        }
        return torch.func.functional_call(self.model, masked, (x,))


def _naive(model: nn.Module, masks: dict[str, Tensor], dataset: Dataset, epochs: int) -> None:
    """A plain loop with torch's own optimizer over ``_MaskedForward``."""
    model.to(memory_format=torch.channels_last)
    masked = _MaskedForward(model, masks)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2], gamma=0.1)
    for epoch in range(epochs):
        model.train()
        with streams_at(model, derive(0, "forward", 0, epoch)):
            for x, y in Feed(dataset, torch.device("cpu")).shuffled(16, 0, 0, epoch):
                optimizer.zero_grad()
                F.cross_entropy(masked(x), y).backward()
                optimizer.step()
        schedule.step()


@pytest.mark.parametrize("masked", [False, True])
def test_survivors_get_the_bits_of_masks_in_the_forward(masked: bool) -> None:
    dataset = _drawn()
    ours, twin = _convolutions(), _convolutions()
    masks = _half(ours) if masked else masking.dense(ours)
    trainer = Trainer(ours, dataset, dataset, SETTINGS)
    trainer.hold(masks)
    for epoch in range(3):
        trainer.epoch(0, epoch)
        for name, weight in ours.named_parameters():  # in every epoch, not only at the end
            if name in masks:
                assert not weight[~masks[name]].any()
    _naive(twin, masks, dataset, 3)
    others = dict(twin.named_parameters())
    for name, weight in ours.named_parameters():
        kept = masks.get(name, torch.ones_like(weight, dtype=torch.bool))
        assert torch.equal(weight[kept], others[name][kept])
        assert not torch.equal(weight, dict(_convolutions().named_parameters())[name])
    for name, buffer in ours.named_buffers():
        assert torch.equal(buffer, dict(twin.named_buffers())[name])


def test_momentum_from_before_pruning_moves_no_pruned_weight() -> None:
    model, dataset = _convolutions(), _drawn()
    trainer = Trainer(model, dataset, dataset, SETTINGS)
    trainer.epoch(0, 0)
    masks = _half(model)
    trainer.hold(masks)
    trainer.epoch(0, 1)
    for name, mask in masks.items():
        assert not dict(model.named_parameters())[name][~mask].any()


def test_metrics_equal_a_count_by_hand() -> None:
    dataset, test = _drawn(30, classes=8), _drawn(23, classes=8)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 8))
    trainer = Trainer(model, dataset, test, SETTINGS)
    (row,), _ = trainer.test(0, 0)
    logits = model(test.inputs())
    assert row["loss"] == pytest.approx(
        float(F.cross_entropy(logits, test.labels).detach()), rel=1e-6
    )
    ranks = (logits > logits.gather(1, test.labels[:, None])).sum(1)
    assert row["top1"] == pytest.approx(100 * float((ranks == 0).float().mean()))
    assert row["top5"] == pytest.approx(100 * float((ranks < 5).float().mean()))
    assert 0 < row["top1"] < row["top5"] < 100
    # One step over the whole set: the training row is of the weights before it.
    whole = Trainer(model, test, test, Settings(**{**vars(SETTINGS), "train_batch_size": 23}))
    rows, _ = whole.epoch(0, 0)
    assert [r["split"] for r in rows] == ["train", "test"]
    assert rows[0]["loss"] == pytest.approx(row["loss"], rel=1e-5)
    assert (rows[0]["top1"], rows[0]["top5"]) == (row["top1"], row["top5"])


def test_losses_are_weighted_by_batch_size() -> None:
    dataset = _drawn(17, classes=3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 3))
    settings = Settings(**{**vars(SETTINGS), "lr": 1e-30, "train_batch_size": 5})
    rows, _ = Trainer(model, dataset, dataset, settings).epoch(0, 0)
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-5)


class _Views(nn.Module):
    """A forward that only the plain memory format can take."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4 * 6 * 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        return self.head(x.view(x.size(0), -1))


def test_a_forward_that_takes_views_trains_in_the_plain_memory_format() -> None:
    dataset, model = _drawn(), _Views()
    rows = train(model, dataset, dataset, Training(epochs=2, lr=0.01, train_batch_size=16))
    assert rows["loss"].notna().all()
    assert model.conv.weight.is_contiguous()


def test_every_kind_of_network_trains(case: Case) -> None:
    """Any dimension, shared, frozen, half and double weights: exact zeros, moving survivors."""
    inputs, labels = (torch.cat(parts) for parts in zip(*case.batches, strict=True))
    dataset = Dataset("zoo", inputs.float(), labels, 3, (0.0,), (1.0,))
    settings = Settings(**{**vars(SETTINGS), "lr": 0.01, "weight_decay": 0.1})
    before = {name: p.detach().clone() for name, p in case.model.named_parameters()}
    trainer = Trainer(case.model, dataset, dataset, settings)
    watch = Dynamics(trainer, masking.dense(case.model), conserving_units(trainer), 0)
    masks = _half(case.model)
    trainer.hold(masks)
    for epoch in range(2):
        _, numbers = trainer.epoch(0, epoch, watch)
        rows, _ = watch.observe(numbers, epoch + 1)
    for row in rows:
        weight = dict(case.model.named_parameters())[row["layer"]]
        assert not weight[~masks[row["layer"]]].any()
        moved = not torch.equal(weight, before[row["layer"]] * masks[row["layer"]])
        assert moved == weight.requires_grad
        assert row["score_sum"] == pytest.approx(float(weight.detach().double().square().sum()))


def test_training_learns_digits_and_reports_epochs() -> None:
    seen = []
    table = train(
        build("conv", classes=10),
        load("digits"),
        load("digits", "test"),
        Training(epochs=3),
        on_epoch=seen.append,
    )
    assert seen == [1, 2, 3]
    tests = table[table["split"] == "test"].set_index("epoch")["top1"]
    assert list(tests.index) == [0, 1, 2, 3]
    assert tests[0] < 20 < 85 < tests[3]  # 95 % measured


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bfloat16_is_for_float32_networks(dtype: torch.dtype) -> None:
    dataset = _drawn()
    settings = Settings(**{**vars(SETTINGS), "precision": "bfloat16"})
    model = _convolutions().to(dtype)
    trainer = Trainer(model, dataset, dataset, settings)
    assert trainer.bfloat16 == (dtype == torch.float32)
    rows, _ = trainer.epoch(0, 0)
    assert math.isfinite(rows[0]["loss"])
    assert all(p.dtype == dtype for p in model.parameters())
    assert all(b.dtype == dtype for b in model.buffers() if b.is_floating_point())


@pytest.mark.parametrize(
    "backend",
    # What is compiled is the same graph; the compiler itself takes half a minute.
    ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)],
)
def test_compiled_training_agrees_with_plain(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()  # after many networks of this process it compiles no more
    dataset, compile_ = _drawn(), torch.compile
    modes: list[str] = []

    def compile_by(network: nn.Module, mode: str) -> object:
        modes.append(mode)
        return compile_(network, backend=backend, fullgraph=True)

    monkeypatch.setattr(torch, "compile", compile_by)
    plain, compiled = _convolutions(), _convolutions()
    plain[3].p = compiled[3].p = 0.0  # the compiler draws dropout from another stream
    rows, _ = Trainer(plain, dataset, dataset, SETTINGS).epoch(0, 0)
    again, _ = Trainer(compiled, dataset, dataset, SETTINGS, compiled=True).epoch(0, 0)
    assert again[1]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-4)
    assert modes == ["default"]  # of the compiled one alone


# --- Recipes ----------------------------------------------------------------------------------


def test_the_papers_recipes() -> None:
    vgg = resolve(Training(), "vgg16_bn", "cifar100")
    assert (vgg.epochs, vgg.train_batch_size, vgg.lr, vgg.weight_decay) == (160, 128, 0.1, 1e-4)
    assert [learning_rate(vgg, e) for e in (0, 59, 60, 119, 120)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001]
    )
    resnet = resolve(Training(), "resnet18", "cifar10")
    assert learning_rate(resnet, 130) == pytest.approx(0.01 * 0.2**2)
    assert resnet.weight_decay == 5e-4
    tiny = resolve(Training(), "torchvision:resnet18", "tinyimagenet")
    assert (tiny.epochs, tiny.lr, tiny.lr_drops) == (100, 0.01, (30, 60, 80))
    rounds = resolve(Training(), "vgg11_bn", "cifar10", rounds=True)
    assert (rounds.epochs, rounds.lr, rounds.lr_drops) == (50, 0.01, ())
    assert resolve(Training(), "vgg19", "cifar10", rounds=True).lr == 0.001
    assert all(recipe.settings.label_smoothing == 0 for recipe in RECIPES)


def test_drops_keep_their_fraction_of_training_unless_given() -> None:
    assert resolve(Training(epochs=16), "vgg16", "cifar10").lr_drops == (6, 12)
    assert resolve(Training(epochs=16, lr_drops=(3,)), "vgg16", "cifar10").lr_drops == (3,)
    assert resolve(Training(epochs=16, lr_drops=()), "vgg16", "cifar10").lr_drops == ()
    # The first epoch is at the learning rate that is given, however short the schedule.
    for epochs in (1, 2, 3):
        drops = resolve(Training(epochs=epochs), "vgg16", "cifar10").lr_drops
        assert 0 not in drops
    framed, whole = (resolve(Training(), "vgg16", name) for name in ("framed-cifar10", "cifar10"))
    assert (framed.augmentation, framed.epochs, framed.lr) == ("none", whole.epochs, whole.lr)


def test_cosine_ends_near_zero() -> None:
    cosine = resolve(Training(epochs=10, lr=1.0, lr_schedule="cosine"), "fc", "digits")
    rates = [learning_rate(cosine, epoch) for epoch in range(10)]
    assert rates[0] == 1
    assert rates[5] == pytest.approx(0.5)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.03


# --- Mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Training(lr=0.0), "--lr: expected a learning rate above 0, got 0.0"),
        (Training(lr=-1.0), "--lr: expected a learning rate above 0"),
        (Training(lr=math.nan), "--lr: expected a learning rate above 0, got nan"),
        (Training(epochs=-1), "--epochs: expected 0 or more, got -1"),
        (Training(train_batch_size=0), "--train-batch-size: expected at least 1, got 0"),
        (Training(momentum=1.0), "--momentum: expected 0 or more and below 1, got 1.0"),
        (Training(weight_decay=-0.1), "--weight-decay: expected 0 or more"),
        (Training(lr_drop_rate=0.0), "--lr-drop-rate: expected a factor above 0"),
        (Training(lr_drops=(-2,)), "--lr-drops: expected epochs from 0 up"),
        (Training(label_smoothing=1.0), "--label-smoothing: expected 0 or more and below 1"),
        (Training(lr_schedule="steps"), "unknown lr schedule 'steps'.*step"),  # type: ignore[arg-type]  # meant
    ],
)
def test_settings_out_of_range(wrong: Training, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        resolve(wrong, "fc", "digits")


def test_a_head_that_is_too_small() -> None:
    with pytest.raises(RequestError, match=r"does not fit 'drawn': expected .*\(batch, 8\), got"):
        Trainer(_convolutions(), _drawn(classes=8), _drawn(classes=8), SETTINGS)


class _Overwriting(nn.Module):
    """It overwrites what its own backward pass has to read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(128, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1)).exp()
        y = self.second(h)
        h[:, 0] = 0
        return y


def test_a_backward_pass_that_fails_is_one_line() -> None:
    trainer = Trainer(_Overwriting(), _drawn(), _drawn(), SETTINGS)
    with pytest.raises(RequestError, match=r"backward pass failed: .* inplace .* \.clone\(\) it"):
        trainer.epoch(0, 0)


def _put(x: Tensor) -> Tensor:
    """``put_`` has no deterministic algorithm, on any device."""
    return x.clone().put_(torch.tensor([0]), x[:1, 0])


class _InTheBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _put(gradient)


class _AtRandom(nn.Linear):
    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__(128, 3)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(super().forward(x.flatten(1)))


@pytest.mark.parametrize("operation", [_put, _InTheBackward.apply])
def test_an_operation_that_is_not_deterministic_is_one_line(
    operation: Callable[[Tensor], Tensor],
) -> None:
    trainer = Trainer(_AtRandom(operation), _drawn(), _drawn(), SETTINGS)
    trainer.epoch(0, 0)
    expected = r"put_ does not have a deterministic implementation.*without --exact"
    with deterministic(exact=True), pytest.raises(RequestError, match=expected):
        trainer.epoch(0, 1)


def test_divergence_names_the_step_and_keeps_the_state() -> None:
    dataset = _drawn()
    model = _convolutions()
    trainer = Trainer(model, dataset, dataset, SETTINGS)
    trainer.epoch(0, 0)
    good = trainer.snapshot()
    trainer.settings = Settings(**{**vars(SETTINGS), "lr": 1e30})
    with pytest.raises(
        DivergedError, match=r"the loss is nan at step \d of epoch 2, level 0 \(lr 1e"
    ):
        trainer.epoch(0, 1)
    after = trainer.snapshot()
    assert good.keys() == after.keys()
    assert any(name.startswith("momentum.") for name in good)
    assert all(torch.equal(good[name], after[name]) for name in good)


def test_divergence_in_the_last_step_is_seen_in_the_test() -> None:
    dataset = _drawn(16)
    trainer = Trainer(_convolutions(), dataset, dataset, Settings(**{**vars(SETTINGS), "lr": 1e38}))
    with pytest.raises(DivergedError, match="at the test of epoch 1"):
        trainer.epoch(0, 0)


def test_labels_are_smoothed_in_training_only() -> None:
    dataset = _drawn(16)
    losses = []
    for smoothing in (0.0, 0.5):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(128, 3))
        settings = replace(SETTINGS, label_smoothing=smoothing, lr=1e-30)
        rows, _ = Trainer(model, dataset, dataset, settings).epoch(0, 0)
        losses.append([row["loss"] for row in rows])
        expected = F.cross_entropy(
            model(dataset.inputs()), dataset.labels, label_smoothing=smoothing
        )
        assert rows[0]["loss"] == pytest.approx(float(expected.detach()), rel=1e-5)
    assert losses[0][1] == losses[1][1]


def test_a_drop_at_the_end_is_none() -> None:
    assert resolve(Training(epochs=10, lr_drops=(4, 10)), "fc", "digits").lr_drops == (4,)
