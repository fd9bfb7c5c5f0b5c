"""Networks that are broken on purpose, each with all that is to be found, and nothing else.

Chains, branches, kernels and dead units here; everything else in ``broken_otherwise``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tests.zoo import _Residual


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


def zero(tensor: Tensor, *where) -> None:
    with torch.no_grad():
        tensor[where or (...,)] = 0


def mlp() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(6, 8), nn.ReLU()), *(nn.Linear(8, 7), nn.ReLU()), nn.Linear(7, 3)
    )


def cnn(size: int = 8) -> tuple[nn.Sequential, Tensor]:
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    )
    return model, torch.zeros(1, 2, size, size)


X = torch.zeros(1, 6)
CUT = {"no path", "empty"}


def _mlp_without(*layers: int) -> Broken:
    model = mlp()
    for layer in layers:
        zero(model[layer].weight)
    verdicts = {f"{n}.weight": "empty" if n in layers else "cut off" for n in (0, 2, 4)}
    kinds = CUT | ({"dead weights"} if len(layers) < 3 else set())
    named = ", ".join(str(n) for n in layers)
    return Broken(
        model,
        X,
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
    model = mlp()
    zero(model[0].weight, slice(0, 4))
    zero(model[2].weight, slice(None), slice(4, 8))
    verdicts = {f"{n}.weight": "cut off" for n in (0, 2, 4)}
    words = ("though no layer is empty", "2 keeps no weight of any unit", "what 0 keeps")
    return Broken(model, X, verdicts, {"no path", "dead weights"}, False, words)


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
    return Broken(broken.model, X, {}, kinds, counts=counts, words=("constants (a bias",))


@broken
def empty_branch_of_an_identity_shortcut() -> Broken:
    model = _Residual()
    zero(model.branch[0].weight)
    words = ("a branch; a shortcut past it keeps the network alive",)
    x = torch.zeros(1, 2, 5, 5)
    return Broken(model, x, {"branch.0.weight": "empty"}, {"empty"}, words=words)


@broken
def empty_concatenated_branch() -> Broken:
    model = _Residual()
    zero(model.side.weight)
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


IMAGE = torch.zeros(1, 2, 8, 8)


@broken
def empty_branch_beside_a_projection() -> Broken:
    model = _Block()
    zero(model.one.weight)
    zero(model.two.weight)
    words = ("a shortcut past them keeps the network alive through down",)
    verdicts = {"one.weight": "empty", "two.weight": "empty"}
    return Broken(model, IMAGE, verdicts, {"empty"}, words=words)


@broken
def empty_projection() -> Broken:
    model = _Block()
    zero(model.down.weight)
    words = ("down is empty (0 of 24 weights), a branch", "alive through one, two")
    return Broken(model, IMAGE, {"down.weight": "empty"}, {"empty"}, words=words)


@broken
def both_branches_empty() -> Broken:
    model = _Block()
    zero(model.two.weight)
    zero(model.down.weight)
    gone = dict.fromkeys(("two.weight", "down.weight"), "empty")
    left = dict.fromkeys(("stem.weight", "one.weight", "head.weight"), "cut off")
    words = ("the empty branches cut it together: down, two",)
    return Broken(model, IMAGE, gone | left, CUT | {"dead weights"}, False, words)


@broken
def dead_branch_of_two_half_dead_layers() -> Broken:
    model = _Block()
    zero(model.one.weight, slice(0, 3))
    zero(model.two.weight, slice(None), slice(3, 6))
    verdicts = {"one.weight": "dead", "two.weight": "dead"}
    words = ("one (108 kept; no living output), two (162 kept; no living input)",)
    kinds = {"dead", "dead weights", "constants"}
    return Broken(model, IMAGE, verdicts, kinds, words=words)


@broken
def branch_behind_a_norm_of_zeros() -> Broken:
    model = _Block()
    zero(model.norm.weight)
    verdicts = {"one.weight": "silent", "two.weight": "silent"}
    words = ("normalisations with weights of zero: norm, in all channels; nothing passes one, two",)
    return Broken(model, IMAGE, verdicts, {"silent"}, words=words)


@broken
def chain_cut_by_a_norm_of_zeros() -> Broken:
    model, x = cnn()
    zero(model[4].weight)
    verdicts = {f"{n}.weight": "silent" for n in (0, 3, 8)}
    words = ("these normalisations are zero: 4",)
    return Broken(model, x, verdicts, {"no path"}, words=words)


@broken
def norm_with_some_zeros() -> Broken:
    model, x = cnn()
    zero(model[1].weight, slice(0, 2))
    return Broken(model, x, {}, {"silent"}, words=("weights of zero: 1",))


@broken
def layer_norm_of_zeros() -> Broken:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    zero(model[1].weight)
    verdicts = {"0.weight": "silent", "3.weight": "silent"}
    return Broken(model, X, verdicts, {"no path"})


@broken
def kernels_that_only_see_padding() -> Broken:
    model, x = cnn(size=1)
    zero(model[3].weight, ..., 1, 1)
    verdicts = {f"{n}.weight": "cut off" for n in (0, 3, 8)}
    words = ("3 keeps only kernel entries that see padding",)
    counts = {("3.weight", "padding_only"): 4 * 6 * 8, ("0.weight", "padding_only"): 2 * 4 * 8}
    kinds = {"no path", "dead weights", "padding"}
    return Broken(model, x, verdicts, kinds, False, words, counts=counts)


@broken
def branch_that_only_sees_padding() -> Broken:
    model = _Block()
    zero(model.two.weight, ..., 1, 1)
    verdicts = {"one.weight": "dead", "two.weight": "dead"}
    kinds = {"dead", "dead weights", "padding"}
    words = ("two (288 kept; they see only padding)",)
    return Broken(model, torch.zeros(1, 2, 3, 3), verdicts, kinds, words=words)


@broken
def dead_channels_fed_by_a_bias() -> Broken:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten())
    zero(model[0].weight, slice(0, 2))
    nn.init.constant_(model[0].bias, 0.5)
    counts = {("2.weight", "constant_in"): 2, ("2.weight", "no_input"): 2 * 3 * 9}
    counts |= {("0.weight", "unreached_out"): 2}
    return Broken(model, IMAGE, {}, {"dead weights", "constants"}, counts=counts)


@broken
def dead_channels_fed_by_nothing() -> Broken:
    broken = dead_channels_fed_by_a_bias()
    nn.init.zeros_(broken.model[0].bias)
    counts = {("2.weight", "constant_in"): 0, ("2.weight", "no_input"): 2 * 3 * 9}
    return Broken(broken.model, IMAGE, {}, {"dead weights"}, counts=counts)


@broken
def dead_channels_fed_by_a_norm() -> Broken:
    model, x = cnn()
    zero(model[0].weight, slice(0, 2))
    nn.init.constant_(model[1].bias, 0.5)
    counts = {("3.weight", "constant_in"): 2, ("3.weight", "unreached_in"): 2}
    return Broken(model, x, {}, {"dead weights", "constants"}, counts=counts)


@broken
def grouped_convolution_with_a_dead_group() -> Broken:
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, bias=False), nn.Conv2d(4, 6, 3, groups=2, bias=False)),
        *(nn.Flatten(), nn.Linear(96, 3)),
    )
    zero(model[1].weight, slice(0, 3))
    counts = {("1.weight", "unreached_out"): 3, ("0.weight", "leading_nowhere"): 2}
    counts |= {("0.weight", "no_output"): 2 * 2 * 9, ("3.weight", "no_input"): 3 * 48}
    return Broken(model, IMAGE, {}, {"dead weights"}, counts=counts)


@broken
def depthwise_convolution_emptied() -> Broken:
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 3, 1), nn.Flatten())
    )
    zero(model[1].weight)
    verdicts = {"0.weight": "cut off", "1.weight": "empty", "2.weight": "cut off"}
    return Broken(model, IMAGE, verdicts, CUT | {"dead weights"}, False)


@broken
def transposed_convolution_half_dead() -> Broken:
    model = nn.Sequential(
        *(nn.Conv1d(2, 4, 3, bias=False), nn.ConvTranspose1d(4, 6, 2, groups=2, bias=False)),
        nn.Flatten(),
    )
    zero(model[0].weight, 0)
    zero(model[1].weight, slice(2, 4))  # the second group
    counts = {("1.weight", "no_input"): 6, ("0.weight", "no_output"): 2 * 6}
    counts |= {("1.weight", "unreached_out"): 3, ("1.weight", "unreached_in"): 1}
    return Broken(model, torch.zeros(1, 2, 9), {}, {"dead weights"}, counts=counts)


@broken
def volume_convolution_emptied() -> Broken:
    model = nn.Sequential(nn.Conv3d(1, 3, 2), nn.Conv3d(3, 2, 2), nn.Flatten())
    zero(model[0].weight)
    verdicts = {"0.weight": "empty", "1.weight": "cut off"}
    return Broken(model, torch.zeros(1, 1, 4, 4, 4), verdicts, CUT | {"dead weights"}, False)
