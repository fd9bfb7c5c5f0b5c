"""Values that go on without their gradient, and tensors changed behind autograd's back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.conservation.planted import Case, caught, listed
from tests.conservation.planted.networks import Around, Normed, image_batch, images, vectors
from tests.zoo import _randomise

DETACHED = r"detach \(detached\) in middle"
BEHIND = r"gradient at middle:\w+ without gradient"


@listed(DETACHED)
def _() -> Case:
    """a residual branch whose gradient is cut."""
    return vectors(lambda x: x + x.relu().detach())


@listed(DETACHED)
def _() -> Case:
    """a shortcut whose gradient is cut."""
    return vectors(lambda x: x.detach() + x.relu())


@listed(DETACHED)
def _() -> Case:
    """half of a branch whose gradient is cut."""
    return vectors(lambda x: x + 0.5 * x.relu() + 0.5 * x.relu().detach())


@listed(DETACHED)
def _() -> Case:
    """a straight-through rounding written with detach."""
    return vectors(lambda x: x + (x.round() - x).detach())


@listed(DETACHED)
def _() -> Case:
    """a product with a detached copy of itself."""
    return vectors(lambda x: x * x.detach())


@listed(DETACHED)
def _() -> Case:
    """a quotient by a detached deviation."""
    return vectors(lambda x: x / x.detach().std())


@listed(r"mean \(detached\) in middle")
def _() -> Case:
    """a mean taken under no_grad and subtracted."""

    def middle(x: Tensor) -> Tensor:
        with torch.no_grad():
            mean = x.mean()
        return x - mean

    return vectors(middle)


@listed(DETACHED)
def _() -> Case:
    """an activation that passes through NumPy."""
    return vectors(lambda x: x + torch.from_numpy(x.detach().numpy() * 2))


@listed(r"__get__ \(detached\) in middle")
def _() -> Case:
    """a copy by .data added to its tensor."""
    return vectors(lambda x: x + x.data)


@listed(DETACHED)
def _() -> Case:
    """everything cut off: no flow reaches the first layer."""
    return vectors(lambda x: x.detach())


@listed(r"__get__ \(detached\) in network")
def _() -> Case:
    """a forward hook that hands the result on by .data."""
    case = vectors(nn.ReLU())
    case.model.middle.register_forward_hook(lambda module, x, y: y.data)
    return case


def _changed(change) -> Case:
    def middle(x: Tensor) -> Tensor:
        change(x)
        return x.relu()

    return vectors(middle)


@caught(BEHIND)
def _() -> Case:
    """an activation multiplied in place by way of .data."""
    return _changed(lambda x: x.data.mul_(3))


@caught(BEHIND)
def _() -> Case:
    """a part of an activation multiplied in place by way of .data."""
    return _changed(lambda x: x.data[:, :2].mul_(3))


@listed(r"zero without gradient in middle")
def _() -> Case:
    """an activation zeroed in part by way of detach, in front of a ReLU (whose slope is 0 at 0)."""
    return _changed(lambda x: x.detach()[:, 1:3].zero_())


@caught(BEHIND)
def _() -> Case:
    """an activation multiplied in place under no_grad."""

    def change(x: Tensor) -> None:
        with torch.no_grad():
            x.mul_(3)

    return _changed(change)


@caught(BEHIND)
def _() -> Case:
    """entries of an activation set under no_grad."""

    def change(x: Tensor) -> None:
        with torch.no_grad():
            x[:, 0] = 1.0

    return _changed(change)


@caught(BEHIND)
def _() -> Case:
    """an activation set to another's values under no_grad."""

    def change(x: Tensor) -> None:
        with torch.no_grad():
            x.copy_(x.flip(1))

    return _changed(change)


class Twice(Around):
    """``c2`` used twice, with something in between."""

    def __init__(self, between) -> None:
        super().__init__(nn.ReLU())
        self.c2, self.between = nn.Linear(8, 8), between
        self.c3 = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c2(self.c1(x).relu()).relu()
        self.between(self)
        return self.c3(self.c2(x).relu())


@caught(r"(output units|input units|neuron|fan-out|cut|score) at c2.weight|backward pass failed")
def _() -> Case:
    """a weight doubled between its two uses."""
    batch = (torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % 3)
    return Case(_randomise(Twice(lambda m: m.c2.weight.data.mul_(2))).double(), batch)


@caught(r"backward pass failed|cannot score this network")
def _() -> Case:
    """running statistics that move between two uses of a BatchNorm in eval mode."""

    class Moving(Normed):
        def __init__(self) -> None:
            super().__init__()
            self.c2 = nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.n1(self.c1(x)).relu()
            self.n1.running_mean.add_(0.5)
            self.n1.running_var.mul_(1.5)
            return self.head(self.n1(self.c2(x)).relu().mean((2, 3)))

    return Case(_randomise(Moving()).double(), image_batch())


@caught(r"runs again in the backward pass|backward pass failed|checkpoint")
def _() -> Case:
    """gradient checkpointing that runs the module again."""
    case = vectors(nn.ReLU())
    inner = case.model.middle
    case.model.middle = nn.Module()
    case.model.middle.forward = lambda x: checkpoint(inner, x, use_reentrant=False)
    return case


@caught(r"runs again in the backward pass|backward pass failed|[Cc]heckpoint")
def _() -> Case:
    """reentrant gradient checkpointing."""
    case = vectors(nn.ReLU())
    inner = case.model.middle
    case.model.middle = nn.Module()
    case.model.middle.forward = lambda x: checkpoint(inner, x, use_reentrant=True)
    return case


class TwiceDetached(Twice):
    def forward(self, x: Tensor) -> Tensor:
        x = self.c2(self.c1(x).relu()).relu()
        return self.c3(F.linear(x, self.c2.weight.detach(), self.c2.bias).relu())


@listed(r"detach \(detached\) in network")
def _() -> Case:
    """a shared weight, one use of which is detached."""
    batch = (torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % 3)
    return Case(_randomise(TwiceDetached(None)).double(), batch)


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([self.c2.weight[:2], self.c2.weight[2:].detach()])
        x = F.conv2d(self.c1(x).relu(), weight, self.c2.bias, groups=2)
        return self.head(x.relu().mean((2, 3)))


@listed(r"detach \(detached\) in network")
def _() -> Case:
    """a grouped convolution, one group's weight detached."""
    return Case(_randomise(Grouped()).double(), image_batch())


@caught(r"(homogeneous|neuron|output units|input units) at")
def _() -> Case:
    """a forward in bfloat16 by autocast."""

    class Half(Around):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x).float()

    case = vectors(nn.ReLU())
    return Case(_randomise(Half(nn.ReLU())), (case.batch[0].float(), case.batch[1]))


@caught(r"homogeneous at middle")
def _() -> Case:
    """one activation rounded to bfloat16 on the way."""
    return vectors(lambda x: x.to(torch.bfloat16).to(torch.float64))


@caught(r"another output each time")
def _() -> Case:
    """a forward that counts its calls."""
    calls: list[int] = []

    def middle(x: Tensor) -> Tensor:
        calls.append(1)
        return x * (1 + 0.1 * len(calls))

    return vectors(middle)


@caught(r"another output each time")
def _() -> Case:
    """a forward with a random stream of its own."""
    draw = torch.Generator().manual_seed(1)
    return vectors(lambda x: x * torch.rand(8, generator=draw, dtype=torch.float64))


@caught(r"batchnorm mode at n1:batch_norm")
def _() -> Case:
    """a BatchNorm that takes batch statistics in eval mode."""

    class Always(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, None, None, self.weight, self.bias, True)

    model = Normed()
    model.n1 = Always(4)
    return Case(_randomise(model).double(), image_batch())


@caught(r"batchnorm mode at n2:batch_norm")
def _() -> Case:
    """a BatchNorm that stays in eval mode while the network trains."""

    class Never(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(x, mean, variance, self.weight, self.bias, False)

    model = Normed()
    model.n2 = Never(5)
    return Case(_randomise(model).double(), image_batch(), mode="train")


@caught(r"batchnorm mode at n2:batch_norm")
def _() -> Case:
    """the same by the builtin, whose arguments come in another order."""

    class Never(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            mean, var = self.running_mean, self.running_var
            return torch.batch_norm(x, self.weight, self.bias, mean, var, False, 0.1, 1e-5, False)

    model = Normed()
    model.n2 = Never(5)
    return Case(_randomise(model).double(), image_batch(), mode="train")


@caught(r"c1.weight. is not finite|holds NaN or infinite values")
def _() -> Case:
    """a logarithm of zero."""
    return images(lambda x: x.relu().log())


@listed(r"set_grad_enabled|relu \(detached\) in middle")
def _() -> Case:
    """a branch under inference-like no_grad whose result is concatenated."""

    def middle(x: Tensor) -> Tensor:
        with torch.no_grad():
            rest = x[:, 4:].relu()
        return torch.cat([x[:, :4], rest], 1)

    return vectors(middle)
