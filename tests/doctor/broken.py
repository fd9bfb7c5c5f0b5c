"""Networks that are broken on purpose, each with all that is to be found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import collapse
from tests.zoo import _Residual, _Shared


@dataclass
class Broken:
    """A network and what an examination of it must say.

    Attributes:
        verdicts: of every layer that is not healthy.
        kinds: of all findings.
        connected: whether a path is left.
        words: parts of the text.
    """

    model: nn.Module
    example: Tensor
    verdicts: dict[str, str]
    kinds: set[str]
    connected: bool = True
    words: tuple[str, ...] = ()
    output: str | None = None
    counts: dict[tuple[str, str], int] = field(default_factory=dict)


BROKEN: dict[str, Callable[[], Broken]] = {}


def broken(make: Callable[[], Broken]) -> Callable[[], Broken]:
    BROKEN[make.__name__] = make
    return make


def _zero(tensor: Tensor, *where) -> None:
    with torch.no_grad():
        tensor[where or (...,)] = 0


def _mlp() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(6, 8), nn.ReLU()), *(nn.Linear(8, 7), nn.ReLU()), nn.Linear(7, 3)
    )


def _cnn(size: int = 8) -> tuple[nn.Sequential, Tensor]:
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    )
    return model, torch.zeros(1, 2, size, size)


_X = torch.zeros(1, 6)
_CUT = {"no path", "empty"}


def _mlp_without(*layers: int) -> Broken:
    model = _mlp()
    for layer in layers:
        _zero(model[layer].weight)
    verdicts = {f"{n}.weight": "empty" if n in layers else "cut off" for n in (0, 2, 4)}
    kinds = _CUT | ({"dead weights"} if len(layers) < 3 else set())
    named = ", ".join(str(n) for n in layers)
    return Broken(
        model,
        _X,
        verdicts,
        kinds,
        False,
        (
            f"it is cut by {named} (a cut layer" * (len(layers) == 1)
            or f"it is cut by {named} (cut layers)",
        ),
    )


@broken
def empty_first_layer() -> Broken:
    return _mlp_without(0)


@broken
def empty_cut_layer() -> Broken:
    return _mlp_without(2)


@broken
def empty_head() -> Broken:
    return _mlp_without(4)


@broken
def two_empty_cut_layers() -> Broken:
    return _mlp_without(0, 4)


@broken
def everything_empty() -> Broken:
    return _mlp_without(0, 2, 4)


@broken
def half_dead_layers_that_do_not_meet() -> Broken:
    model = _mlp()
    _zero(model[0].weight, slice(0, 4))
    _zero(model[2].weight, slice(None), slice(4, 8))
    verdicts = {f"{n}.weight": "cut off" for n in (0, 2, 4)}
    words = ("though no layer is empty", "2 keeps no weight of any unit", "what 0 keeps")
    return Broken(model, _X, verdicts, {"no path", "dead weights"}, False, words)


@broken
def one_of_two_halves_left() -> Broken:
    """The same, with one unit that meets: alive, and most of it dead."""
    broken = half_dead_layers_that_do_not_meet()
    with torch.no_grad():
        broken.model[2].weight[0, 4] = 1
        broken.model[0].bias.fill_(0.5)
    counts = {("0.weight", "no_output"): 18, ("2.weight", "no_input"): 28}
    counts |= {("0.weight", "leading_nowhere"): 3, ("2.weight", "constant_in"): 4}
    counts |= {("4.weight", "no_input"): 18, ("2.weight", "unreached_out"): 6}
    kinds = {"dead weights", "constants"}
    return Broken(broken.model, _X, {}, kinds, counts=counts, words=("constants (a bias",))


@broken
def empty_branch_of_an_identity_shortcut() -> Broken:
    model = _Residual()
    _zero(model.branch[0].weight)
    words = ("a branch; a shortcut past it keeps the network alive",)
    x = torch.zeros(1, 2, 5, 5)
    return Broken(model, x, {"branch.0.weight": "empty"}, {"empty"}, words=words)


@broken
def empty_concatenated_branch() -> Broken:
    model = _Residual()
    _zero(model.side.weight)
    x = torch.zeros(1, 2, 5, 5)
    kinds = {"empty", "dead weights", "constants"}
    counts = {("head.weight", "no_input"): 6, ("head.weight", "unreached_in"): 2}
    return Broken(model, x, {"side.weight": "empty"}, kinds, counts=counts)


class _Block(nn.Module):
    """A residual block with a projection in its shortcut, between a stem and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 1)
        self.one, self.two = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (self.norm(self.two(self.one(x).relu())) + self.down(x)).relu()
        return self.head(x.mean((2, 3)))


_IMAGE = torch.zeros(1, 2, 8, 8)


@broken
def empty_branch_beside_a_projection() -> Broken:
    model = _Block()
    _zero(model.one.weight)
    _zero(model.two.weight)
    words = ("a shortcut past them keeps the network alive through down",)
    verdicts = {"one.weight": "empty", "two.weight": "empty"}
    return Broken(model, _IMAGE, verdicts, {"empty"}, words=words)


@broken
def empty_projection() -> Broken:
    model = _Block()
    _zero(model.down.weight)
    words = ("down is empty (0 of 24 weights), a branch", "alive through one, two")
    return Broken(model, _IMAGE, {"down.weight": "empty"}, {"empty"}, words=words)


@broken
def both_branches_empty() -> Broken:
    model = _Block()
    _zero(model.two.weight)
    _zero(model.down.weight)
    gone = dict.fromkeys(("two.weight", "down.weight"), "empty")
    left = dict.fromkeys(("stem.weight", "one.weight", "head.weight"), "cut off")
    words = ("the empty branches cut it together: down, two",)
    return Broken(model, _IMAGE, gone | left, _CUT | {"dead weights"}, False, words)


@broken
def dead_branch_of_two_half_dead_layers() -> Broken:
    model = _Block()
    _zero(model.one.weight, slice(0, 3))
    _zero(model.two.weight, slice(None), slice(3, 6))
    verdicts = {"one.weight": "dead", "two.weight": "dead"}
    words = ("one (108 kept; no living output), two (162 kept; no living input)",)
    kinds = {"dead", "dead weights", "constants"}
    return Broken(model, _IMAGE, verdicts, kinds, words=words)


@broken
def branch_behind_a_norm_of_zeros() -> Broken:
    model = _Block()
    _zero(model.norm.weight)
    verdicts = {"one.weight": "silent", "two.weight": "silent"}
    words = ("normalisations with weights of zero: norm, in all channels; nothing passes one, two",)
    return Broken(model, _IMAGE, verdicts, {"silent"}, words=words)


@broken
def chain_cut_by_a_norm_of_zeros() -> Broken:
    model, x = _cnn()
    _zero(model[4].weight)
    verdicts = {f"{n}.weight": "silent" for n in (0, 3, 8)}
    words = ("these normalisations are zero: 4",)
    return Broken(model, x, verdicts, {"no path"}, words=words)


@broken
def norm_with_some_zeros() -> Broken:
    model, x = _cnn()
    _zero(model[1].weight, slice(0, 2))
    return Broken(model, x, {}, {"silent"}, words=("weights of zero: 1",))


@broken
def layer_norm_of_zeros() -> Broken:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    _zero(model[1].weight)
    verdicts = {"0.weight": "silent", "3.weight": "silent"}
    return Broken(model, _X, verdicts, {"no path"})


@broken
def kernels_that_only_see_padding() -> Broken:
    model, x = _cnn(size=1)
    _zero(model[3].weight, ..., 1, 1)
    verdicts = {f"{n}.weight": "cut off" for n in (0, 3, 8)}
    words = ("3 keeps only kernel entries that see padding",)
    counts = {("3.weight", "padding_only"): 4 * 6 * 8, ("0.weight", "padding_only"): 2 * 4 * 8}
    kinds = {"no path", "dead weights", "padding"}
    return Broken(model, x, verdicts, kinds, False, words, counts=counts)


@broken
def branch_that_only_sees_padding() -> Broken:
    model = _Block()
    _zero(model.two.weight, ..., 1, 1)
    verdicts = {"one.weight": "dead", "two.weight": "dead"}
    kinds = {"dead", "dead weights", "padding"}
    words = ("two (288 kept; they see only padding)",)
    return Broken(model, torch.zeros(1, 2, 3, 3), verdicts, kinds, words=words)


@broken
def dead_channels_fed_by_a_bias() -> Broken:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten())
    _zero(model[0].weight, slice(0, 2))
    nn.init.constant_(model[0].bias, 0.5)
    counts = {("2.weight", "constant_in"): 2, ("2.weight", "no_input"): 2 * 3 * 9}
    counts |= {("0.weight", "unreached_out"): 2}
    return Broken(model, _IMAGE, {}, {"dead weights", "constants"}, counts=counts)


@broken
def dead_channels_fed_by_nothing() -> Broken:
    broken = dead_channels_fed_by_a_bias()
    nn.init.zeros_(broken.model[0].bias)
    counts = {("2.weight", "constant_in"): 0, ("2.weight", "no_input"): 2 * 3 * 9}
    return Broken(broken.model, _IMAGE, {}, {"dead weights"}, counts=counts)


@broken
def dead_channels_fed_by_a_norm() -> Broken:
    model, x = _cnn()
    _zero(model[0].weight, slice(0, 2))
    nn.init.constant_(model[1].bias, 0.5)
    counts = {("3.weight", "constant_in"): 2, ("3.weight", "unreached_in"): 2}
    return Broken(model, x, {}, {"dead weights", "constants"}, counts=counts)


@broken
def grouped_convolution_with_a_dead_group() -> Broken:
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, bias=False), nn.Conv2d(4, 6, 3, groups=2, bias=False)),
        *(nn.Flatten(), nn.Linear(96, 3)),
    )
    _zero(model[1].weight, slice(0, 3))
    counts = {("1.weight", "unreached_out"): 3, ("0.weight", "leading_nowhere"): 2}
    counts |= {("0.weight", "no_output"): 2 * 2 * 9, ("3.weight", "no_input"): 3 * 48}
    return Broken(model, _IMAGE, {}, {"dead weights"}, counts=counts)


@broken
def depthwise_convolution_emptied() -> Broken:
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 3, 1), nn.Flatten())
    )
    _zero(model[1].weight)
    verdicts = {"0.weight": "cut off", "1.weight": "empty", "2.weight": "cut off"}
    return Broken(model, _IMAGE, verdicts, _CUT | {"dead weights"}, False)


@broken
def transposed_convolution_half_dead() -> Broken:
    model = nn.Sequential(
        *(nn.Conv1d(2, 4, 3, bias=False), nn.ConvTranspose1d(4, 6, 2, groups=2, bias=False)),
        nn.Flatten(),
    )
    _zero(model[0].weight, 0)
    _zero(model[1].weight, slice(2, 4))  # the second group
    counts = {("1.weight", "no_input"): 6, ("0.weight", "no_output"): 2 * 6}
    counts |= {("1.weight", "unreached_out"): 3, ("1.weight", "unreached_in"): 1}
    return Broken(model, torch.zeros(1, 2, 9), {}, {"dead weights"}, counts=counts)


@broken
def volume_convolution_emptied() -> Broken:
    model = nn.Sequential(nn.Conv3d(1, 3, 2), nn.Conv3d(3, 2, 2), nn.Flatten())
    _zero(model[0].weight)
    verdicts = {"0.weight": "empty", "1.weight": "cut off"}
    return Broken(model, torch.zeros(1, 1, 4, 4, 4), verdicts, _CUT | {"dead weights"}, False)


@broken
def ties() -> Broken:
    model = _mlp()
    with torch.no_grad():
        model[2].weight.copy_(model[2].weight.sign() * 0.25)
    words = ("ties: many kept weights of one magnitude in 2 (56 of 56)",)
    return Broken(model, _X, {}, {"ties"}, words=words, counts={("2.weight", "tied"): 56})


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
    _zero(model.words.weight)
    verdicts = {"first.weight": "cut off", "head.weight": "cut off"}
    words = ("the embedding words is empty",)
    return Broken(model, _IDS, verdicts, {"no path", "dead weights"}, False, words)


@broken
def half_pruned_embedding() -> Broken:
    model = _Words()
    _zero(model.words.weight, slice(None), slice(0, 2))
    counts = {("first.weight", "no_input"): 8, ("first.weight", "constant_in"): 0}
    return Broken(model, _IDS, {}, {"dead weights"}, counts=counts)


@broken
def tied_embedding_emptied() -> Broken:
    model = _Words(tied=True)
    _zero(model.words.weight)
    verdicts = {"words.weight": "empty", "first.weight": "cut off"}
    return Broken(model, _IDS, verdicts, _CUT | {"dead weights"}, False)


@broken
def shared_weight_emptied() -> Broken:
    model = _Shared()
    _zero(model.first.weight)
    verdicts = {"first.weight": "empty", "head.weight": "cut off"}
    return Broken(model, torch.zeros(1, 5), verdicts, _CUT | {"dead weights"}, False)


class _Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.spare = _mlp(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@broken
def layer_never_reached() -> Broken:
    words = ("never reached by the input in eval mode, so not called collapsed: spare",)
    return Broken(_Unused(), _X, {"spare.weight": "not reached"}, {"not reached"}, words=words)


@broken
def empty_layer_never_reached() -> Broken:
    broken = layer_never_reached()
    _zero(broken.model.spare.weight)
    return broken


@broken
def weight_that_is_nan() -> Broken:
    model = _mlp()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    words = ("NaN or infinite values in 2.weight (1)",)
    verdicts = {"2.weight": "not finite"}
    return Broken(model, _X, verdicts, {"not finite"}, words=words)


@broken
def variance_that_is_infinite() -> Broken:
    model, x = _cnn()
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
    _zero(model.down.weight)
    nn.init.ones_(model.down.bias)
    verdicts = {"down.weight": "empty", "up.weight": "dead"}
    words = ("down is empty (0 of 16 weights), a branch",)
    kinds = {"empty", "dead", "dead weights", "constants"}
    return Broken(model, _IMAGE, verdicts, kinds, words=words)


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
    _zero(model.v.weight)
    dead = dict.fromkeys(("q.weight", "k.weight", "out.weight"), "dead")
    kinds = {"empty", "dead", "dead weights"}
    return Broken(model, torch.zeros(1, 5, 6), dead | {"v.weight": "empty"}, kinds)


@broken
def attention_without_queries() -> Broken:
    """Uniform attention is left: the values still pass."""
    model = _Attention()
    _zero(model.q.weight)
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
    _zero(model.head.weight)
    verdicts = dict.fromkeys(collapse.prunable(model), "cut off") | {"head.weight": "empty"}
    return Broken(model, torch.zeros(1, 5, 6), verdicts, _CUT | {"dead weights"}, False)


@broken
def masks_of_torch_prune() -> Broken:
    model = _mlp()
    prune.custom_from_mask(model[2], "weight", torch.zeros(7, 8))
    verdicts = {"0.weight": "cut off", "2.weight": "empty", "4.weight": "cut off"}
    return Broken(model, _X, verdicts, _CUT | {"dead weights"}, False)


class _Mask(nn.Module):
    """As torchao's sparsifier masks a weight."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


@broken
def masks_of_a_parametrisation() -> Broken:
    model = _mlp()
    parametrize.register_parametrization(model[0], "weight", _Mask(torch.zeros(8, 6)))
    verdicts = {"0.weight": "empty", "2.weight": "cut off", "4.weight": "cut off"}
    return Broken(model, _X, verdicts, _CUT | {"dead weights"}, False)


@broken
def layer_without_units() -> Broken:
    """As a structured pruner leaves it that goes too far."""
    model = nn.Sequential(nn.Linear(6, 0), nn.ReLU(), nn.Linear(0, 3))
    verdicts = {"0.weight": "empty", "2.weight": "empty"}
    return Broken(model, _X, verdicts, _CUT, False, ("no units are left at all in 0, 2",))


@broken
def half_precision_emptied() -> Broken:
    broken = empty_cut_layer()
    broken.model.half()
    return broken


class _Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.other = _mlp(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.body(x), "other": self.other(x)}


@broken
def output_by_name_is_cut() -> Broken:
    model = _Named()
    _zero(model.body[0].weight)
    verdicts = {"body.0.weight": "empty", "body.2.weight": "cut off", "body.4.weight": "cut off"}
    verdicts["other.weight"] = "not reached"
    kinds = _CUT | {"dead weights", "not reached"}
    return Broken(model, _X, verdicts, kinds, False, output="logits")


@broken
def forward_that_is_detached() -> Broken:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).detach()

    verdicts = {f"body.{n}.weight": "cut off" for n in (0, 2, 4)}
    words = ("even when every weight is kept",)
    return Broken(Detached(), _X, verdicts, {"no path"}, False, words)
