"""Layers by ways of our own give torch's derivatives, first and second."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from collapse import masks as masking
from collapse.models import build
from collapse.scores import ScoreInputs, fast, score
from collapse.scores.fast import double_backward, matmul
from collapse.scores.fast.double_backward import CheapTwice
from collapse.scores.fast.matmul import InFloat64
from tests.zoo import Case


def _normal(*shape: int, **options) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, **options)


CONVOLUTIONS = {
    "plain": (F.conv2d, (2, 3, 6, 5), (4, 3, 3, 3), {"padding": 1}),
    "positional": (F.conv2d, (2, 3, 6, 5), (4, 3, 3, 3), (2, (1, 0), 1)),
    "uneven": (F.conv2d, (2, 3, 9, 8), (4, 3, 3, 2), {"stride": (2, 1), "dilation": (1, 2)}),
    "grouped": (F.conv2d, (2, 4, 5, 5), (6, 2, 3, 3), {"groups": 2, "padding": (1,)}),
    "depthwise": (F.conv2d, (2, 4, 5, 5), (4, 1, 3, 3), {"groups": 4}),
    "1-d": (F.conv1d, (2, 3, 8), (4, 3, 3), {"stride": 2, "padding": 1}),
    "3-d": (F.conv3d, (2, 2, 4, 4, 4), (3, 2, 2, 2, 2), {"padding": (1, 0, 1)}),
    "same": (F.conv2d, (2, 3, 6, 5), (4, 3, 3, 3), {"padding": "same"}),
    "no batch": (F.conv2d, (3, 6, 5), (4, 3, 3, 3), {}),
}


def _gradients(work, *leaves: Tensor) -> list[Tensor | None]:
    """First derivatives of a curved value, and second ones along random vectors."""
    torch.manual_seed(1)
    out = work()
    first = torch.autograd.grad((out.sin() * 3).sum(), leaves, create_graph=True)
    value = sum((g * torch.randn_like(g)).sum() for g in first)
    return [*first, *torch.autograd.grad(value, leaves, allow_unused=True)]


def _compare(work, *leaves: Tensor) -> None:
    expected = _gradients(work, *leaves)
    with CheapTwice():
        ours = _gradients(work, *leaves)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("parts", ["xwb", "xw", "x", "w"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions(kind: str, parts: str) -> None:
    function, x_shape, w_shape, options = CONVOLUTIONS[kind]
    x, w, b = _normal(*x_shape), _normal(*w_shape), _normal(w_shape[0])
    leaves = [t.requires_grad_() for name, t in zip("xwb", (x, w, b), strict=True) if name in parts]
    if isinstance(options, dict):
        _compare(lambda: function(x, w, bias=b, **options), *leaves)
        _compare(lambda: function(input=x, weight=w, **options), *[t for t in leaves if t is not b])
    else:
        _compare(lambda: function(x, w, b, *options), *leaves)


def _along(work, *leaves: Tensor) -> tuple[Tensor, ...]:
    """Second derivatives of a curved value along random vectors, of first ones that none reads."""
    torch.manual_seed(1)
    value = work().sin().sum()
    with fast.unread(leaves):
        first = torch.autograd.grad(value, leaves, create_graph=True)
    return torch.autograd.grad(first, leaves, [torch.randn_like(leaf) for leaf in leaves])


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_products_without_the_gradient(kind: str) -> None:
    function, x_shape, w_shape, options = CONVOLUTIONS[kind]
    x, w = _normal(*x_shape).requires_grad_(), _normal(*w_shape).requires_grad_()
    scale = _normal(w_shape[0], *[1] * (len(w_shape) - 1)).requires_grad_()
    words = options if isinstance(options, dict) else {"stride": 2, "padding": (1, 0)}
    works: dict[str, tuple[Callable[[], Tensor], tuple[Tensor, ...]]] = {
        "a leaf": (lambda: function(x, w, **words), (x, w)),
        "used twice": (lambda: function(x, w, **words) * function(x.cos(), w, **words), (x, w)),
        "made of others": (lambda: function(x, scale * w / w.norm(), **words), (x, w, scale)),
        "both": (lambda: function(x, w, **words) * function(x, w * scale, **words), (x, w, scale)),
    }
    for name, (work, leaves) in works.items():
        expected = _along(work, *leaves)
        with CheapTwice():
            ours = _along(work, *leaves)
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: n + m)


def test_whoever_reads_such_a_gradient_is_found_out() -> None:
    x, w = _normal(2, 3, 6, 5), _normal(4, 3, 3, 3).requires_grad_()
    with CheapTwice():
        value = F.conv2d(x, w).square().sum()
    with fast.unread([w]):
        (gradient,) = torch.autograd.grad(value, w, retain_graph=True)
    assert gradient.isnan().all()
    (gradient,) = torch.autograd.grad(value, w)
    assert gradient.isfinite().all()


class _OneStepAhead(nn.Module):
    """Its output is after a step of gradient descent on its own weight, as in meta-learning."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        value = self.conv(x).square().mean()
        (gradient,) = torch.autograd.grad(value, self.conv.weight, create_graph=True)
        ahead = F.conv2d(x, self.conv.weight - 0.1 * gradient).relu()
        return self.head(ahead.mean((2, 3)))


class _Hooked(_OneStepAhead):
    """A hook that clips reads the gradient, and one that is never active still does."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        if weight.requires_grad:
            weight.register_hook(lambda g: g.clamp(-1, 1) / (g.norm() + 1))
        return self.head(F.conv2d(x, weight).tanh().mean((2, 3)))


class _Detached(torch.autograd.Function):
    """Its backward pass differentiates a graph of its own, by leaves of its own."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight).square()

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[None, Tensor]:
        x, weight = ctx.saved_tensors
        with torch.enable_grad():
            own = weight.detach().requires_grad_()
            value = (F.conv2d(x, own).square() * g.detach()).sum()
            (gradient,) = torch.autograd.grad(value, own)
        return None, gradient * (1 + 0 * g.sum())


class _OfItsOwn(_OneStepAhead):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(_Detached.apply(x, self.conv.weight).mean((2, 3)))


class _Mapped(_OneStepAhead):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.vmap(lambda image: F.conv2d(image[None], self.conv.weight)[0])(x)
        return self.head(y.relu().mean((2, 3)))


class _NumpySizes(_OneStepAhead):
    def forward(self, x: Tensor) -> Tensor:
        sizes = {"stride": np.int64(1), "padding": torch.tensor(1)}
        return self.head(F.conv2d(x, self.conv.weight, **sizes).relu().mean((2, 3)))


@pytest.mark.parametrize("kind", [_OneStepAhead, _Hooked, _OfItsOwn, _Mapped, _NumpySizes])
def test_forwards_that_read_gradients_or_are_written_otherwise(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().double()
    inputs = ScoreInputs([(_normal(6, 3, 12, 12), torch.arange(6) % 3)], mode="eval")
    masks = masking.dense(model)
    ours = score(model, "grasp", masks, inputs)
    with fast.off():
        expected = score(model, "grasp", masks, inputs)
    for name in masks:
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 2), (4, 3, 2, 2, 2)])
def test_batch_norms(shape: tuple[int, ...], affine: bool, training: bool) -> None:
    x = _normal(*shape).requires_grad_()
    w, b = (_normal(3).requires_grad_() for _ in range(2)) if affine else (None, None)
    mean, variance = _normal(3), _normal(3).abs()
    leaves = [t for t in (x, w, b) if t is not None]
    for eps in (1e-5, 0.1):
        _compare(lambda e=eps: F.batch_norm(x, mean, variance, w, b, training, 0.0, e), *leaves)
        _compare(
            lambda e=eps: F.batch_norm(
                x, mean, variance, weight=w, bias=b, training=training, momentum=0.0, eps=e
            ),
            *leaves,
        )


def test_batch_norm_without_running_statistics() -> None:
    x = _normal(4, 3).requires_grad_()
    _compare(lambda: F.batch_norm(x, None, None, training=True), x)


def test_grasp_takes_these_ways(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """And gives the same without them, on every kind of network."""
    case.model.double()
    inputs = ScoreInputs([(x.double(), y) for x, y in case.batches], mode="eval")
    masks = masking.dense(case.model)
    caught: list[str] = []
    for name in ("_convolution", "_batch_norm"):
        ours = getattr(double_backward, name)

        def watched(*args, name=name, ours=ours, **options):
            caught.append(name)
            return ours(*args, **options)

        monkeypatch.setattr(double_backward, name, watched)
    monkeypatch.setattr(matmul, "_POSITIONS", 0)  # float64 has another way for few positions
    with_ways = score(case.model, "grasp", masks, inputs)
    layers = {type(module).__name__.rstrip("123d") for module in case.model.modules()}
    assert ("_convolution" in caught) == ("Conv" in layers)
    assert ("_batch_norm" in caught) == ("BatchNorm" in layers)
    with fast.off():
        without = score(case.model, "grasp", masks, inputs)
    for name in masks:
        torch.testing.assert_close(with_ways[name], without[name], rtol=1e-9, atol=1e-14)
    keep = masking.kept(masks) // 2
    ours, torchs = (masking.select(scores, keep) for scores in (with_ways, without))
    assert all(torch.equal(ours[name], torchs[name]) for name in masks)


def test_compiled_forwards_go_their_own_way(case: Case) -> None:
    case.model.double()
    inputs = ScoreInputs([(x.double(), y) for x, y in case.batches], mode="eval")
    masks = masking.dense(case.model)
    expected = score(case.model, "grasp", masks, inputs)
    # A compiled module is taken out of its wrapper; a compiled method of a module's own stays.
    case.model.forward = torch.compile(case.model.forward, backend="eager")
    ours = score(case.model, "grasp", masks, inputs)
    for name in masks:
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-9, atol=1e-14)


def test_snip_and_grasp_cost_so_many_forward_passes() -> None:
    """Operations, no time: 3 for a gradient, 8 more for a product with the Hessian."""
    model = build("vgg16_bn", init="kaiming")
    batch = torch.randn(2, 3, 32, 32), torch.arange(2)
    masks = masking.dense(model)

    def operations(work: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()

    inputs = ScoreInputs([batch], mode="eval")
    forward = operations(lambda: model.eval()(batch[0]))
    assert forward > 2 * 6e8  # 313 million products an image
    for pruner, passes in (("snip", 3), ("grasp", 11)):
        cost = operations(lambda p=pruner: score(model, p, masks, inputs))
        assert 0.98 * passes <= cost / forward <= passes


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_in_float64(kind: str) -> None:
    function, x_shape, w_shape, options = CONVOLUTIONS[kind]
    x, w, b = (_normal(*shape) for shape in (x_shape, w_shape, w_shape[:1]))
    leaves = [tensor.requires_grad_() for tensor in (x, w, b)]

    def work() -> Tensor:
        if isinstance(options, dict):
            return function(x, w, bias=b, **options)
        return function(x, w, b, *options)

    expected = _gradients(work, *leaves)
    with InFloat64():
        ours = _gradients(work, *leaves)
    for a, c in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-10, atol=1e-12)


def test_few_positions_are_a_product_in_float64_alone() -> None:
    weight = torch.randn(4, 3, 3, 3)
    for dtype, size, product in (
        (torch.float64, 8, True), (torch.float64, 9, False), (torch.float32, 8, False),
    ):  # fmt: skip
        x = torch.randn(2, 3, size, size, dtype=dtype, requires_grad=True)
        with InFloat64():
            y = F.conv2d(x, weight.to(dtype), padding=1)
        assert ("Convolution" not in y.grad_fn.name()) == product
