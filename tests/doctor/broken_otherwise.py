"""Networks that are broken on purpose: ties, words, attention, numbers, other tools' masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import collapse
from tests.doctor.broken import CUT, IMAGE, Broken, X, broken, cnn, empty_cut_layer, mlp, zero
from tests.zoo import _Shared


@broken
def ties() -> Broken:
    model = mlp()
    with torch.no_grad():
        model[2].weight.copy_(model[2].weight.sign() * 0.25)
    words = ("ties: many kept weights of one magnitude in 2 (56 of 56)",)
    return Broken(model, X, {}, {"ties"}, words=words, counts={("2.weight", "tied"): 56})


class _Words(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.words, self.first = nn.Embedding(11, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 11, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.first(self.words(ids)).relu()).mean(1)


_IDS = torch.tensor([[1, 2, 1, 4]])


@broken
def pruned_embedding() -> Broken:
    model = _Words()
    zero(model.words.weight)
    verdicts = {"first.weight": "cut off", "head.weight": "cut off"}
    words = ("the embedding words is empty",)
    return Broken(model, _IDS, verdicts, {"no path", "dead weights"}, False, words)


@broken
def half_pruned_embedding() -> Broken:
    model = _Words()
    zero(model.words.weight, slice(None), slice(0, 2))
    counts = {("first.weight", "no_input"): 8, ("first.weight", "constant_in"): 0}
    return Broken(model, _IDS, {}, {"dead weights"}, counts=counts)


@broken
def tied_embedding_emptied() -> Broken:
    model = _Words(tied=True)
    zero(model.words.weight)
    verdicts = {"words.weight": "empty", "first.weight": "cut off"}
    return Broken(model, _IDS, verdicts, CUT | {"dead weights"}, False)


@broken
def shared_weight_emptied() -> Broken:
    model = _Shared()
    zero(model.first.weight)
    verdicts = {"first.weight": "empty", "head.weight": "cut off"}
    return Broken(model, torch.zeros(1, 5), verdicts, CUT | {"dead weights"}, False)


class _Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.spare = mlp(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@broken
def layer_never_reached() -> Broken:
    words = ("never reached by the input in eval mode, so not called collapsed: spare",)
    return Broken(_Unused(), X, {"spare.weight": "not reached"}, {"not reached"}, words=words)


@broken
def empty_layer_never_reached() -> Broken:
    broken = layer_never_reached()
    zero(broken.model.spare.weight)
    return broken


@broken
def weight_that_is_nan() -> Broken:
    model = mlp()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    words = ("NaN or infinite values in 2.weight (1)",)
    verdicts = {"2.weight": "not finite"}
    return Broken(model, X, verdicts, {"not finite"}, words=words)


@broken
def variance_that_is_infinite() -> Broken:
    model, x = cnn()
    model[1].running_var[2] = float("inf")
    words = ("NaN or infinite values in 1.running_var (1)",)
    return Broken(model, x, {}, {"not finite"}, words=words)


class _SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.up = nn.Conv2d(2, 8, 3), nn.Linear(8, 2), nn.Linear(2, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).mean((2, 3))
        return self.head(x * self.up(self.down(x).relu()).sigmoid())


@broken
def empty_gate() -> Broken:
    model = _SqueezeExcite()
    zero(model.down.weight)
    nn.init.ones_(model.down.bias)
    verdicts = {"down.weight": "empty", "up.weight": "dead"}
    words = ("down is empty (0 of 16 weights), a branch",)
    kinds = {"empty", "dead", "dead weights", "constants"}
    return Broken(model, IMAGE, verdicts, kinds, words=words)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 6, bias=False) for _ in range(3))
        self.out, self.head = nn.Linear(6, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        attention = nn.functional.scaled_dot_product_attention
        return self.head((x + self.out(attention(self.q(x), self.k(x), self.v(x)))).mean(1))


@broken
def attention_without_values() -> Broken:
    model = _Attention()
    zero(model.v.weight)
    dead = dict.fromkeys(("q.weight", "k.weight", "out.weight"), "dead")
    kinds = {"empty", "dead", "dead weights"}
    return Broken(model, torch.zeros(1, 5, 6), dead | {"v.weight": "empty"}, kinds)


@broken
def attention_without_queries() -> Broken:
    """Uniform attention is left: the values still pass."""
    model = _Attention()
    zero(model.q.weight)
    verdicts = {"q.weight": "empty", "k.weight": "dead"}
    kinds = {"empty", "dead", "dead weights"}
    return Broken(model, torch.zeros(1, 5, 6), verdicts, kinds)


class _Deep(nn.Module):
    """So many attention layers that values which grow in each would overflow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 64), nn.Linear(64, 3)
        self.blocks = nn.ModuleList(
            nn.MultiheadAttention(64, 2, batch_first=True) for _ in range(12)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x, x, x, need_weights=False)[0]
        return self.head(x[:, 0])


@broken
def head_of_deep_attention_emptied() -> Broken:
    model = _Deep()
    zero(model.head.weight)
    verdicts = dict.fromkeys(collapse.prunable(model), "cut off") | {"head.weight": "empty"}
    return Broken(model, torch.zeros(1, 5, 6), verdicts, CUT | {"dead weights"}, False)


@broken
def masks_of_torch_prune() -> Broken:
    model = mlp()
    prune.custom_from_mask(model[2], "weight", torch.zeros(7, 8))
    verdicts = {"0.weight": "cut off", "2.weight": "empty", "4.weight": "cut off"}
    return Broken(model, X, verdicts, CUT | {"dead weights"}, False)


class _Mask(nn.Module):
    """As torchao's sparsifier masks a weight."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


@broken
def masks_of_a_parametrisation() -> Broken:
    model = mlp()
    parametrize.register_parametrization(model[0], "weight", _Mask(torch.zeros(8, 6)))
    verdicts = {"0.weight": "empty", "2.weight": "cut off", "4.weight": "cut off"}
    return Broken(model, X, verdicts, CUT | {"dead weights"}, False)


@broken
def layer_without_units() -> Broken:
    """As a structured pruner leaves it that goes too far."""
    model = nn.Sequential(nn.Linear(6, 0), nn.ReLU(), nn.Linear(0, 3))
    verdicts = {"0.weight": "empty", "2.weight": "empty"}
    return Broken(model, X, verdicts, CUT, False, ("no units are left at all in 0, 2",))


@broken
def half_precision_emptied() -> Broken:
    broken = empty_cut_layer()
    broken.model.half()
    return broken


class _Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.other = mlp(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.body(x), "other": self.other(x)}


@broken
def output_by_name_is_cut() -> Broken:
    model = _Named()
    zero(model.body[0].weight)
    verdicts = {"body.0.weight": "empty", "body.2.weight": "cut off", "body.4.weight": "cut off"}
    verdicts["other.weight"] = "not reached"
    kinds = CUT | {"dead weights", "not reached"}
    return Broken(model, X, verdicts, kinds, False, output="logits")


@broken
def forward_that_is_detached() -> Broken:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).detach()

    verdicts = {f"body.{n}.weight": "cut off" for n in (0, 2, 4)}
    words = ("even when every weight is kept",)
    return Broken(Detached(), X, verdicts, {"no path"}, False, words)
