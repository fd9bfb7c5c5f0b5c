"""Feature maps by classes of positions: the same numbers as whole maps, from fewer operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.machine import Operations
from collapse import masks as masking
from collapse.options import Pruning
from collapse.problem import Problem
from collapse.pruning import begin, prune
from collapse.pruning.live_blocks import LiveBlocks
from collapse.scores.fast import positions
from collapse.scores.fast.classes import seen
from collapse.scores.fast.positions import Kept, PositionClasses


class _Shift(torch.autograd.Function):
    """A function of the user's own, which no rule knows."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.roll(1, 2)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient.roll(-1, 2)


class _Square(torch.autograd.Function):
    """One that looks at its input again on the way back, where no mode sees it."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


def _add_in_place(x: Tensor) -> Tensor:
    y = F.conv2d(x, torch.full((4, 4, 3, 3), 0.1, dtype=x.dtype), padding=1)
    y += x
    return F.relu(y, inplace=True)


def _write_through_a_view(x: Tensor) -> Tensor:
    y = x * 2
    y[:, :, 3].mul_(5)
    return y + x


def _scaled_by_a_stranger(x: Tensor) -> Tensor:
    gate = x.mean((2, 3), keepdim=True).sigmoid()
    return x * gate + gate * 0.5


def _three_by_three(x: Tensor, **options) -> Tensor:
    weight = torch.linspace(-1, 2, 4 * (4 // options.get("groups", 1)) * 9, dtype=x.dtype)
    return F.conv2d(x, weight.view(4, -1, 3, 3), torch.arange(4.0, dtype=x.dtype), **options)


UNDERSTOOD: dict[str, Callable[[Tensor], Tensor]] = {
    "padding": partial(_three_by_three, padding=1),
    "stride": partial(_three_by_three, stride=2, padding=(1, 0)),
    "dilation": partial(_three_by_three, dilation=(2, 1), padding=2),
    "groups": partial(_three_by_three, groups=2),
    "pool": lambda x: F.max_pool2d(x, 2),
    "pool, padded": lambda x: F.max_pool2d(x - 30, 3, 2, 1),
    "pool, ceil": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "pool, ceil, padded": lambda x: F.max_pool2d(x, 2, 3, 1, ceil_mode=True),
    "pool, dilated": lambda x: nn.MaxPool2d(2, 1, dilation=3)(x),
    "average": lambda x: F.avg_pool2d(x, 2),
    "whole mean": lambda x: F.adaptive_avg_pool2d(x, 1).exp(),
    "mean": lambda x: x.mean((-1, -2)).exp(),
    "in place": _add_in_place,
    "product": lambda x: x * _three_by_three(x, padding=1) / 2 - x,
    "cat": lambda x: torch.cat([x, _three_by_three(x, padding=1), x.tanh()], 1),
    "gate": _scaled_by_a_stranger,
    "largest": lambda x: x / x.detach().abs().max(),
    "dropout": lambda x: F.dropout(x, 0.5, training=False).sigmoid(),
    "norm": lambda x: F.batch_norm(
        x, torch.arange(4.0, dtype=x.dtype), torch.ones(4, dtype=x.dtype)
    ),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "own function": lambda x: _Shift.apply(x) * x,
    "view": _write_through_a_view,
    "flatten": lambda x: x.flatten(1).cumsum(1),
    "average, padded": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "average, ceil": lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "same": lambda x: _three_by_three(x, padding="same"),
    "term by place": lambda x: x * torch.arange(9.0, dtype=x.dtype),
    "mean of channels": lambda x: x.mean(1, keepdim=True),
    "rows side by side": lambda x: torch.cat([x, x], 2),
    "both": lambda x: torch.cat([x[:, :2], x], 1),
}


def _run(operation: Callable[[Tensor], Tensor], places: PositionClasses | None) -> list[Tensor]:
    """Output and gradients of a small network around an operation."""
    draw = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_()
        for shape in ((4, 2, 3, 3), (4, 4, 1, 1))
    ]
    x = torch.ones(1, 2, 11, 9, dtype=torch.float64)
    if places is None:
        y = operation(F.conv2d(F.conv2d(x, weights[0], padding=1).relu(), weights[1]))
    else:
        x = places.enter(x)
        with places:
            y = operation(F.conv2d(F.conv2d(x, weights[0], padding=1).relu(), weights[1]))
            y = places.expanded(y)
    return [y, *torch.autograd.grad((y * y).sum(), weights)]


@pytest.mark.parametrize("name", [*UNDERSTOOD, *OTHERS])
def test_operations_are_those_of_the_whole_map(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = (UNDERSTOOD | OTHERS)[name]
    expansions = 0
    expanded = Kept.expanded

    def counted(kept: Kept) -> Tensor:
        nonlocal expansions
        expansions += kept.whole is None
        return expanded(kept)

    whole = _run(operation, None)
    monkeypatch.setattr(Kept, "expanded", counted)
    for ours, expected in zip(_run(operation, PositionClasses(1.0, least=0)), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    if name in UNDERSTOOD:
        assert expansions == (whole[0].ndim == 4 and whole[0].shape[2] > 1)  # the output alone
    else:
        assert expansions > 0


def test_classes_of_a_padded_kernel_are_the_border_and_the_interior() -> None:
    classes, index = seen((0,) * 6, 6, kernel=3, stride=1, padding=1, dilation=1)
    assert classes == (0, 1, 1, 1, 1, 2)
    assert index == (-1, 0, 0, 0, 0, 0, 0, 0, -1)


def test_only_what_is_constant_over_positions_enters() -> None:
    places = PositionClasses(least=9)
    gradient = torch.ones(1, 1, 3, 3)
    gradient[..., 0] = 2
    for x in (gradient, torch.ones(1, 4), torch.ones(1, 2, 3, 3).long(), torch.ones(1, 0, 3, 3)):
        assert places.enter(x) is x
    small = torch.ones(1, 1, 2, 4)
    assert places.enter(small) is small
    assert places.kept(places.enter(torch.ones(1, 2, 3, 3))) is not None


def _network(width: int = 4) -> nn.Module:
    torch.manual_seed(0)

    def layer(channels: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(True)]

    return nn.Sequential(
        *(*layer(3), *layer(width), nn.MaxPool2d(2), *layer(width), nn.MaxPool2d(2)),
        *(*layer(width), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 3)),
    ).double()


@pytest.mark.parametrize("below", [positions.BELOW, 1.0])
def test_masks_are_those_of_the_definition(below: float) -> None:
    batches = [(torch.zeros(1, 3, 26, 19, dtype=torch.float64), torch.zeros(1))]
    by_classes = partial(
        LiveBlocks, shrink_below=1.0, places=partial(PositionClasses, below, least=0)
    )
    for keep in (6, 40):
        ours, plain = (
            prune(_network(), batches, Pruning(iterations=12), keep=keep, engine=engine)
            for engine in (by_classes, "plain")
        )
        assert all(torch.equal(ours.masks[name], mask) for name, mask in plain.masks.items())
        assert ours.scores.total == pytest.approx(plain.scores.total, rel=1e-12)


def test_large_maps_take_an_eighth_of_the_operations() -> None:
    problem = Problem(_network(), [(torch.zeros(1, 3, 60, 60).double(), torch.zeros(1))])
    counts = []
    for below in (0.0, positions.BELOW):
        start = begin(problem, Pruning(), masking.dense(problem.model))
        with Operations() as operations:
            LiveBlocks(start, places=partial(PositionClasses, below, least=0)).score(1)
        counts.append(operations.count)
    assert counts[1] < counts[0] / 8


def test_a_function_that_no_mode_sees_is_given_the_whole_map() -> None:
    class Own(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(_Square.apply(self[0](x).relu())[:, :3])

    model = Own(nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(3 * 9 * 9, 2)).double()
    batches = [(torch.zeros(1, 3, 13, 13, dtype=torch.float64), torch.zeros(1))]
    ours, plain = (
        prune(model, batches, Pruning(iterations=5), keep=30, engine=engine)
        for engine in (partial(LiveBlocks, places=partial(PositionClasses, least=0)), "plain")
    )
    assert all(torch.equal(ours.masks[name], mask) for name, mask in plain.masks.items())
