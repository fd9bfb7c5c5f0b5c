"""The second headline: how far an input→output path of kept weights is left, by enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor, nn

from collapse import masks as masking
from collapse.critical import critical_compression
from collapse.options import PAPER_PRUNERS, Pruning
from collapse.pruning import PathsExhaustedError, prune

BATCHES = [(torch.linspace(-1, 1, 36).reshape(9, 4).sin(), torch.arange(9) % 3)]


class _Chain(nn.Module):
    paths = (("first", "second", "head"),)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu())


class _TwoBranches(nn.Module):
    """A wide branch of one layer beside a narrow one of two."""

    paths = (("stem", "wide", "head"), ("stem", "plain", "narrow", "head"))

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.wide, self.plain, self.narrow = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((self.wide(x) + self.narrow(self.plain(x).relu())).relu())


class _Residual(nn.Module):
    """The shortcut carries everything past the block."""

    paths = (("stem", "head"), ("stem", "block", "head"))

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.block(x)).relu())


class _Dense(nn.Module):
    """Every layer sees all before it."""

    paths = (("a", "head0"), ("a", "b", "head1"))

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head0, self.head1 = (
            *(nn.Linear(4, 4), nn.Linear(4, 4)),
            *(nn.Linear(4, 3), nn.Linear(4, 3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.head0(x) + self.head1(self.b(x).relu())


def _arrives(model: nn.Module, masks: dict[str, Tensor]) -> bool:
    """A path is a product of masks that is not zero: every path through units, counted."""
    for layers in model.paths:
        count = torch.ones(4)
        for layer in layers:
            count = masks[f"{layer}.weight"].float() @ count
        if bool((count > 0).any()):
            return True
    return False


def _is_cut(model: nn.Module, layer: str) -> bool:
    return all(layer.removesuffix(".weight") in path for path in model.paths)


def _pruned(model: nn.Module, options: Pruning, keep: int) -> dict[str, Tensor]:
    try:
        return prune(model, BATCHES, options, keep=keep).masks
    except PathsExhaustedError as end:
        return end.pruned.masks


def _masks(model: nn.Module, options: Pruning, keeps: Iterable[int]) -> Iterator[dict[str, Tensor]]:
    """Of every number to keep; where there is one scoring only, of that one."""
    if options.iterations != 1:
        yield from (_pruned(model, options, keep) for keep in keeps)
        return
    dense = masking.dense(model)
    scores = prune(model, BATCHES, options, keep=masking.total(dense) - 1).scores
    for keep in keeps:
        yield masking.select(scores, keep, scope=options.scope)


OPTIONS = [
    *(Pruning(name, iterations=1, mode="eval", scope=scope) for name, scope in itertools.product(
        PAPER_PRUNERS, ("global", "layer")
    )),
    *(Pruning("synflow", iterations=7), Pruning("snip", iterations=3, mode="eval")),
    Pruning("force", iterations=3, mode="eval"),
    Pruning("synflow", schedule="certified"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "seed"),
    [
        pytest.param(
            options,
            seed,
            id=f"{options}-{seed}",
            marks=[pytest.mark.slow] if seed > 0 else [],
        )
        for options in OPTIONS
        for seed in (0, 1, 2)
    ],
)
@pytest.mark.parametrize("kind", [_Chain, _TwoBranches, _Residual, _Dense])
def test_equals_the_enumeration_of_paths(
    kind: type[nn.Module], options: Pruning, seed: int
) -> None:
    torch.manual_seed(seed)
    model = kind()
    result = critical_compression(model, BATCHES, options, scan=3)
    iterative = options.iterations not in (None, 1)
    keeps: Iterable[int] = range(result.layers, result.parameters + 1)
    if iterative:  # a search: what was tested, down to a boundary
        boundary = {result.connected_kept, result.connected_kept - 1}
        keeps = sorted({*boundary, *(point.total for point in result.points)} & {*keeps})
    left = {
        keep: _arrives(model, masks)
        for keep, masks in zip(keeps, _masks(model, options, keeps), strict=True)
        if masking.kept(masks) == keep
    }
    assert left[result.connected_kept]
    if iterative:
        assert result.connected_kept == result.layers or not left[result.connected_kept - 1]
    else:
        assert result.connected_kept == min(keep for keep, arrives in left.items() if arrives)
    assert result.connected_until == result.parameters / result.connected_kept
    for point in result.points:
        assert point.connected == left.get(point.total, point.connected)
    if result.first_collapsed_layer is not None:
        assert result.collapsed_is_cut == _is_cut(model, result.first_collapsed_layer)
        if result.collapsed_is_cut and not iterative:  # masks nest: without a cut layer no path
            assert result.connected_kept > result.collapse_kept
    if kind is _Chain:  # a path crosses every layer, so none of them is empty where there is one
        assert result.connected_until <= result.critical_compression or iterative


def test_it_is_not_looked_for_unless_asked() -> None:
    result = critical_compression(_Residual(), BATCHES, Pruning("magnitude"), effective=False)
    assert result.connected_until is None
    assert all(point.connected is None for point in result.points)
    assert result.collapsed_is_cut is not None


def test_synflow_drops_a_branch_and_stays_connected_to_the_maximum() -> None:
    torch.manual_seed(0)
    model = _Residual()
    with torch.no_grad():
        model.block.weight.mul_(1e-3)
    result = critical_compression(model, BATCHES, Pruning("synflow", iterations=20))
    assert result.first_collapsed_layer == "block.weight"
    assert result.collapsed_is_cut is False
    assert result.critical_compression < 2
    assert result.connected_until == result.maximal_compression


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(3, 3, 2, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0])


def test_a_certified_run_outside_the_theory_that_loses_every_path_has_an_answer() -> None:
    torch.manual_seed(3)
    result = critical_compression(
        _Recurrent(), [(torch.randn(1, 3, 3), torch.zeros(1).long())], Pruning(schedule="certified")
    )
    assert result.evidence == "one run"
    assert 1 < result.critical_compression < result.connected_until < result.maximal_compression
