"""In-place changes are followed: the recorded network is the user's, and it balances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse.conservation import audit, ledger, outside
from collapse.errors import RequestError
from collapse.flow import record
from collapse.models import stand_ins
from tests.conservation.planted.networks import Around
from tests.conservation.traces import assert_balanced, traced
from tests.zoo import _randomise


def _constant(x: Tensor) -> Tensor:
    n = torch.ones(1, 8, dtype=x.dtype)
    n.div_(0.5)
    return x * n


def _noise(x: Tensor) -> Tensor:
    """torchvision's StochasticDepth."""
    noise = torch.empty(len(x), 1, dtype=x.dtype).bernoulli_(0.8)
    return x * noise.div_(0.8)


def _zeroed(x: Tensor) -> Tensor:
    return x + torch.empty(1, dtype=x.dtype).zero_()


def _part(x: Tensor) -> Tensor:
    x = 1.5 * x
    x[:, :2].mul_(3)
    return x


def _assigned(x: Tensor) -> Tensor:
    x = 1.5 * x
    x[:, :2] = 2 * x[:, 2:4]
    return x


def _assigned_zero(x: Tensor) -> Tensor:
    x[x < 0] = 0
    return x


def _through_a_view(x: Tensor) -> Tensor:
    """The view was taken before; the base changes, and the view shows it."""
    x = x * 1.0
    first, rows = x[:, :3], x.view(-1)
    x.mul_(2)
    first.add_(first)
    return torch.cat([first, rows.view_as(x)[:, 3:]], 1)


def _into_a_buffer(x: Tensor) -> Tensor:
    buffer = torch.zeros(5, 10, dtype=x.dtype)
    half = buffer[:, 1:9]
    half.copy_(x)
    buffer[:, 0] = x[:, 0]
    return buffer[:, :8]


def _residual_in_place(x: Tensor) -> Tensor:
    y = 0.5 * x
    y += x
    return y


def _pre_activation(x: Tensor) -> Tensor:
    """The shortcut sees what ReLU wrote."""
    x = x * 1.0
    y = F.relu(x, inplace=True)
    return x + 0.5 * y


def _transposed(x: Tensor) -> Tensor:
    t = x.t()
    t[0].mul_(2)
    t[3:5].neg_()
    return x


def _form(x: Tensor) -> Tensor:
    x.unsqueeze_(1)
    return x.squeeze_(1)


def _masked(x: Tensor) -> Tensor:
    return x.masked_fill_(x < 0.1, 0.0)


CHANGES = [
    *(_constant, _noise, _zeroed, _part, _assigned, _assigned_zero, _through_a_view),
    *(_into_a_buffer, _residual_in_place, _pre_activation, _transposed, _form, _masked),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__[1:])
def test_an_in_place_change_is_followed(change: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = _randomise(Around(change)).double()
    x, y = torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % 3
    table = assert_balanced(traced(model, x, y))
    cuts = table.loc[table["identity"] == "cut", "place"]
    assert set(cuts) == {"c1.weight", "c2.weight", "c3.weight"}
    _assert_plain_gradients(model, x, y)


def _assert_plain_gradients(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """The saliency of each weight is autograd's own, of the network run as it is."""
    torch.manual_seed(0)
    F.cross_entropy(model(x.clone()), y).backward()
    trace = record(model, stand_ins(model), x, lambda out: F.cross_entropy(out, y), whole=True)
    seen = {use.parameter: use.saliency for operation in trace.operations for use in operation.uses}
    for name, parameter in model.named_parameters():
        expected = parameter.detach() * parameter.grad
        torch.testing.assert_close(seen[name], expected, rtol=1e-9, atol=1e-15)


def test_a_constant_that_is_written_in_is_a_source() -> None:
    torch.manual_seed(0)

    def change(x: Tensor) -> Tensor:
        x = x.relu()
        x[:, :2] = 1.0
        return x

    model = _randomise(Around(change)).double()
    trace = traced(model, torch.randn(5, 6), torch.arange(5) % 3)
    assert_balanced(trace)
    listed = outside(trace)
    assert listed["operation"].tolist() == ["setitem"]
    assert float(listed["created"].abs().max()) > 1e-3


def test_memory_seen_as_another_type_is_refused() -> None:
    def change(x: Tensor) -> Tensor:
        bits = x.detach().view(torch.int64)
        x.mul_(2)
        return x + bits.sum() * 0.0

    model = Around(change).double()
    words = r"seen as torch.int64 and as torch.float64 in 'middle' \(Middle: bits.sum, .* line"
    with pytest.raises(RequestError, match=words):
        traced(model, torch.randn(5, 6), torch.arange(5) % 3)


def test_another_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the recorder lost an in-place change, its output would not be the plain one."""
    monkeypatch.setattr("collapse.flow.in_place.Memory.write", lambda *_: None)
    model = _randomise(Around(_part)).double()
    with pytest.raises(RequestError, match="recorded forward gives another output than the plain"):
        ledger(traced(model, torch.randn(5, 6), torch.arange(5) % 3))


def test_a_forward_that_is_never_the_same_is_said_with_its_place() -> None:
    draw = torch.Generator()
    model = Around(lambda x: x + torch.rand(8, generator=draw)).double()
    words = "another output each time it runs, first in 'middle': expected"
    with pytest.raises(RequestError, match=words):
        traced(model, torch.randn(5, 6), torch.arange(5) % 3)


def test_a_view_that_reaches_out_of_its_tensor_is_refused() -> None:
    def change(x: Tensor) -> Tensor:
        memory = np.zeros((10, 8))
        part, whole = torch.from_numpy(memory[:5]), torch.from_numpy(memory)
        part.copy_(x)
        return whole[:5] + part

    model = Around(change).double()
    with pytest.raises(RequestError, match=r"reaches out of .* in 'middle' \(Middle: .* line"):
        traced(model, torch.randn(5, 6), torch.arange(5) % 3)


def test_a_backward_that_fails_is_said_with_its_place() -> None:
    model = Around(lambda x: x + torch.floor_divide(x, 2)).double()
    batch = (torch.randn(5, 6).double(), torch.arange(5) % 3)
    words = "backward pass failed at floor_divide in 'middle': .* not implemented"
    with pytest.raises(RequestError, match=words):
        audit(model, batch, pruner="snip", mode="eval")
