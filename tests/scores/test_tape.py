"""A tape gives what the forward gives, and is refused where that may change with the numbers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse.models import build
from collapse.options import Pruning
from collapse.pruning import Start, Step, prune
from collapse.pruning.live_blocks import LiveBlocks
from collapse.scores.fast.factors import Factors
from collapse.scores.fast.tape import Tape

BATCH = [(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))]


def _taped(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tape:
    with Tape([x]) as tape:
        result = forward(x)
    tape.end(result)
    return tape


def _in_place(x: Tensor) -> Tensor:
    y = (x * 2).view(-1)
    y.relu_()
    return y.split(2)[1].sum() + torch.cat([y, torch.ones(3)]).max()


def _hooked(x: Tensor) -> Tensor:
    y = x * x
    y.register_hook(lambda g: 3 * g)
    return F.linear(y, torch.ones(2, 4)).sum()


@pytest.mark.parametrize("forward", [_in_place, _hooked])
def test_the_same_of_other_numbers(forward: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([1.0, -2.0, 3.0, 4.0], requires_grad=True)
    tape = _taped(forward, x)
    assert tape.sound
    with torch.no_grad():
        x.mul_(-0.5)
    again, anew = tape.again(), forward(x)
    assert torch.equal(again, anew)
    assert torch.equal(*(torch.autograd.grad(y, x)[0] for y in (again, anew)))


_COUNTER = torch.zeros(1)
REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "a number decides": lambda x: x * 2 if x.sum() > 0 else x,
    "a number is read": lambda x: x * float(x.detach().max()),
    "an array is made": lambda x: x * torch.from_numpy(x.detach().numpy().copy()),
    "a form that numbers decide": lambda x: x[torch.nonzero(x)[:, 0]].sum(),
    "random numbers of torch": lambda x: F.dropout(x, 0.5),
    "random numbers of Python": lambda x: x * random.random(),
    "a tensor of others is changed": lambda x: (_COUNTER.add_(1), x * _COUNTER)[1],
    "a given one is changed": lambda x: x.detach().mul_(1) * x,
    "a derivative on the way": lambda x: torch.autograd.grad((x * x).sum(), x)[0] * x,
    "the result comes from elsewhere": lambda _: torch.ones(()),
}


@pytest.mark.parametrize("forward", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(forward: Callable[[Tensor], Tensor]) -> None:
    assert not _taped(forward, torch.tensor([1.0, 2.0], requires_grad=True)).sound


class _Counting(nn.Module):
    """Another function in each call, which no tensor shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head, self.calls = nn.Linear(6, 9), nn.Linear(9, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.first(x)) * self.calls


def test_a_tape_that_is_not_what_the_forward_does_is_left() -> None:
    engines: list[LiveBlocks] = []

    def watched(start: Start) -> LiveBlocks:
        engines.append(LiveBlocks(start))
        return engines[0]

    def follows(_: Step) -> None:
        seen.append(engines[0]._follows)

    seen: list[bool | None] = []
    model, twin = _Counting(), _Counting()
    batches, options = [(torch.zeros(1, 6), None)], Pruning(iterations=5)
    prune(model, batches, options, keep=9, engine=watched, on_step=follows)
    prune(twin, batches, options, keep=9, engine="plain")
    assert seen[-1] is False
    assert True not in seen
    assert model.calls == twin.calls


def test_a_nearly_empty_network_runs_no_modules() -> None:
    """What an iteration costs is calls there: counted, not timed."""
    model = build("vgg11")
    calls = [0]
    counts: list[int] = []
    for module in model.modules():
        module.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))

    def note(_: Step) -> None:
        counts.append(calls[0])

    prune(model, BATCH, Pruning(iterations=30), keep=40, on_step=note)
    ran = [after > before for before, after in itertools.pairwise(counts)]
    assert all(ran[:5])  # millions of weights are stored
    assert sum(ran[-10:]) <= 4  # a tape, and a new one whenever a quarter is left


def test_factors_are_the_scores_that_they_stand_for() -> None:
    draw = torch.Generator().manual_seed(0)
    theta = torch.rand(70, 50, 9, 9, generator=draw, dtype=torch.float64)
    gradient, x = (
        torch.rand(5, n, generator=draw, dtype=torch.float64) for n in (len(theta), 50 * 81)
    )
    factors = Factors(theta, gradient, x)
    expected = theta * (gradient.t() @ x).view_as(theta)
    torch.testing.assert_close(factors.whole(), expected, rtol=1e-14, atol=0)
    parts = [(start, part.copy()) for start, part in factors.parts()]
    assert len(parts) > 1
    assert parts[1][0] == len(parts[0][1])
    flat = torch.cat([torch.from_numpy(part) for _, part in parts])
    assert torch.equal(flat, factors.whole().flatten())
    places = torch.tensor([0, 4050, 99_999]).numpy()
    torch.testing.assert_close(torch.from_numpy(factors.at(places)), flat[places])
    largest = float(theta.max())
    assert factors.finite(largest)
    gradient[3, 7] = float("nan")
    assert not factors.finite(largest)
    gradient[3, 7] = 1e300
    assert not factors.finite(1e300)
