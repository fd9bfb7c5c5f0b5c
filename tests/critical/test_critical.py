"""Critical compression: closed form = bisection, theorems, tables and the plot."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from collapse import masks as masking
from collapse.commands import critical as command
from collapse.critical import critical_compression, trials
from collapse.critical.course import bisected
from collapse.critical.family import Family
from collapse.critical.result import Point
from collapse.errors import RequestError
from collapse.models import build
from collapse.options import PAPER_PRUNERS, Pruning
from collapse.plots import critical_bars, save
from collapse.pruning import fastest, prune
from collapse.scores import SCORES, about, registry
from tests import reference
from tests.masks.test_masks import scored
from tests.zoo import SMALLEST, Case, each


def _smallest_by_trial(scores, masks) -> int:
    """Try every number to keep, from few to many, until no layer is empty."""
    for keep in itertools.count():
        chosen = reference.select(scores, keep, masks)
        if all(bool(mask.any()) for mask in chosen.values()):
            return keep
    raise AssertionError


@given(scored())
def test_closed_form_equals_trying_every_number(problem) -> None:
    scores, masks, _ = problem
    if any(not bool(mask.any()) for mask in masks.values()):
        with pytest.raises(RequestError, match="has already collapsed"):
            masking.first_to_collapse(scores, masks)
        return
    layer, rank = masking.first_to_collapse(scores, masks)
    assert rank == _smallest_by_trial(scores, masks)
    if rank > 1:
        below = reference.select(scores, rank - 1, masks)
        assert not bool(below[layer].any())


@given(st.integers(1, 10**9), st.data())
def test_bisection_finds_the_boundary_in_few_steps(high: int, data: st.DataObject) -> None:
    low = data.draw(st.integers(1, high))
    boundary = data.draw(st.integers(low, high))
    asked = []
    found = bisected(lambda k: asked.append(k) or k >= boundary, low, high)
    assert found == boundary
    assert len(asked) <= 64


@pytest.mark.parametrize(
    ("pruner", "case", "scope"),
    [
        *((*each, "global") for each in each([*PAPER_PRUNERS, "lamp"])),
        # Selection layer by layer sees scores alone.
        *((pruner, name, "layer") for pruner in (*PAPER_PRUNERS, "lamp") for name in SMALLEST),
    ],
    indirect=["case"],
)
def test_bisection_over_prunings_equals_the_closed_form(
    pruner: str, case: Case, scope: str
) -> None:
    options = Pruning(pruner=pruner, iterations=1, scope=scope, mode="eval")
    result = critical_compression(case.model, case.batches, options)

    def survives(keep: int) -> bool:
        return not masking.collapsed(prune(case.model, case.batches, options, keep=keep).masks)

    assert result.critical_kept == bisected(survives, result.layers, result.parameters)
    assert result.collapse_kept == result.critical_kept - 1
    assert result.first_collapsed_layer in masking.collapsed(
        prune(case.model, case.batches, options, keep=result.collapse_kept).masks
    )
    assert result.proved
    assert not result.certified
    assert result.monotone
    assert 1 <= result.critical_compression <= result.maximal_compression
    assert result.collapse_compression > result.critical_compression


@pytest.mark.parametrize("pruner", PAPER_PRUNERS)
def test_effective_critical_compression(pruner: str, mlp: nn.Module) -> None:
    batches = [(torch.randn(9, 6), torch.arange(9) % 3)]
    options = Pruning(pruner=pruner, iterations=1, mode="eval")
    result = critical_compression(mlp, batches, options)
    scores = prune(mlp, batches, options, keep=result.parameters - 1).scores
    best = None
    for keep in range(result.parameters, 0, -1):  # the naive way: every number, a walk each
        masks = masking.select(scores, keep)
        alive = reference.living_chain(mlp, masks, (6,))
        counts = masking.kept_by_layer(alive)
        if min(counts.values()) == 0:
            break
        best = sum(counts.values())
    assert result.effective_kept == best
    assert result.effective_critical_compression == result.parameters / best


def test_certified_schedule_is_exactly_maximal_on_a_chain() -> None:
    model = build("fc", input_shape=(3, 8, 8))
    batches = [(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long))]
    result = critical_compression(model, batches, Pruning(schedule="certified"))
    assert result.critical_compression == result.maximal_compression
    assert result.collapse_kept is None
    assert result.monotone is None
    assert result.effective_critical_compression == result.maximal_compression
    assert result.certified
    assert set(result.points[0].alive.values()) == {1}


class _Branch(nn.Module):
    """A convolution with BatchNorm beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(3, 2)
        self.branch = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.branch(x)).mean((2, 3)))


def test_certified_schedule_on_residual_branches_equals_trial() -> None:
    """There a branch may fall, and the one run must say at exactly which number."""
    torch.manual_seed(0)
    model, batches = _Branch(), [(torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.long))]
    options = Pruning(schedule="certified")
    result = critical_compression(model, batches, options)
    assert (result.evidence, result.proved, result.certified) == ("one run", True, False)
    outcomes = {
        keep: bool(masking.collapsed(prune(model, batches, options, keep=keep).masks))
        for keep in range(result.layers, result.parameters)
    }
    assert result.critical_kept == min(k for k, collapsed in outcomes.items() if not collapsed)
    assert (result.collapse_kept or 0) == max((k for k, c in outcomes.items() if c), default=0)


def test_search_tests_the_maximum_first_and_reports_what_it_saw() -> None:
    model = build("fc", input_shape=(3, 8, 8))
    batches = [(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long))]
    options = Pruning(iterations=100)
    result = critical_compression(model, batches, options, scan=4)
    assert result.critical_compression == result.maximal_compression
    assert result.evidence == "maximum reached"
    assert result.evaluations == 5
    for point in result.points:
        masks = prune(model, batches, options, keep=point.total).masks
        assert (point.collapsed is not None) == bool(masking.collapsed(masks))
        assert masking.kept(masks) == point.total


def test_the_scan_ends_where_nothing_can_change_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The maximum is reached: of the collapses below it only the lowest compression counts."""
    model = build("fc", input_shape=(3, 8, 8))
    batches = [(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long))]
    least = len(masking.dense(model))
    until_cut, tested = trials._until_cut, []

    def falling(family: object, keep: int) -> object:
        result, layer = until_cut(family, keep)
        tested.append(keep)
        return result, next(iter(result.masks)) if least < keep <= 2 * least else layer

    monkeypatch.setattr(trials, "_until_cut", falling)
    found = critical_compression(model, batches, Pruning(iterations=20), scan=4)
    assert (found.critical_kept, found.collapse_kept) == (least, 2 * least)
    assert found.effective_kept == found.connected_kept == least
    assert tested == [least, 4 * least, round(least * 2**1.5), 2 * least]  # not the next one


def test_search_brackets_what_it_cannot_prove() -> None:
    model = build("conv", input_shape=(3, 8, 8))
    draw = torch.Generator().manual_seed(0)
    batches = [(torch.randn(20, 3, 8, 8, generator=draw), torch.arange(20) % 10)]
    options = Pruning(pruner="snip", iterations=3, mode="eval")
    result = critical_compression(model, batches, options, scan=3)
    assert result.evidence == "search"
    assert not result.proved
    assert result.bracket == (result.critical_compression, result.maximal_compression)
    seen = {point.total: point.collapsed is None for point in result.points}
    assert result.critical_kept == min(k for k, survived in seen.items() if survived)
    assert result.collapse_kept == max(k for k, survived in seen.items() if not survived)
    assert result.monotone == (result.collapse_kept < result.critical_kept)
    # Bisection ended at a boundary: the next smaller number was tested and collapsed.
    assert any(seen.get(k) and seen.get(k - 1) is False for k in seen)


@pytest.mark.parametrize("tolerance", [0.01, 0.3])
def test_a_tolerance_saves_prunings_and_is_kept(tolerance: float) -> None:
    mlp = build("fc", input_shape=(3, 8, 8), seed=0)
    batches = [(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long))]
    options = Pruning(pruner="magnitude", iterations=3)
    exact = critical_compression(mlp, batches, options, scan=0)
    near = critical_compression(mlp, batches, options, scan=0, tolerance=tolerance)
    assert near.collapse_kept is not None
    assert near.collapse_kept < exact.critical_kept <= near.critical_kept
    gap = near.critical_kept - near.collapse_kept
    assert gap <= max(1, tolerance * near.collapse_kept)
    if tolerance == 0.3:
        assert near.evaluations < exact.evaluations
    with pytest.raises(RequestError, match=r"tolerance: expected a share of 0 or more, got -0\.1"):
        critical_compression(mlp, batches, options, tolerance=-0.1)


def test_iterative_magnitude_equals_one_shot(mlp: nn.Module) -> None:
    """Its scores never change, so the search must find the closed form's answer."""
    batches = [(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long))]
    once = critical_compression(mlp, batches, Pruning(pruner="magnitude"))
    often = critical_compression(mlp, batches, Pruning(pruner="magnitude", iterations=7))
    assert often.critical_kept == once.critical_kept
    assert often.first_collapsed_layer == once.first_collapsed_layer
    assert often.monotone


def test_wrong_requests(mlp: nn.Module) -> None:
    with pytest.raises(RequestError, match="scan: expected 0 or more, got -1"):
        critical_compression(mlp, [(torch.zeros(1, 6), None)], scan=-1)
    with pytest.raises(RequestError, match="at least one batch"):
        critical_compression(mlp)


# --- Table and plot ---------------------------------------------------------------------------


def _table(seeds: int = 1) -> pd.DataFrame:
    return pd.DataFrame([
        {
            "model": "net", "dataset": "digits", "pruner": pruner, "iterations": iterations,
            "schedule": schedule, "seed": seed, "maximal_compression": 1e4,
            "critical_compression": critical * 4**seed,
            "connected_until": until,
        }
        for seed in range(seeds)
        for pruner, iterations, schedule, critical, until in (
            ("random", 1, "exponential", 100.0, 60.0),
            ("synflow", 100, "exponential", 1000.0, 5000.0),
            ("synflow", 30, "certified", 1000.0, None),
        )
    ])  # fmt: skip


def test_bars_show_each_pruner_and_the_maximum() -> None:
    axes = critical_bars(_table())
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([100, 1000, 1000])
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["Random", "SynFlow\n100 it.", "SynFlow\ncertified"]
    (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert list(line.get_ydata()) == [1e4, 1e4]
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    assert [y for line in diamonds for y in line.get_ydata()] == pytest.approx([60, 5000])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["connected until"]
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "critical compression"


def test_bars_of_several_seeds_are_geometric_means_with_dots() -> None:
    axes = critical_bars(_table(seeds=2))
    assert axes.patches[0].get_height() == pytest.approx(math.sqrt(100 * 400))
    dots = [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
    assert dots[0] == [100, 400]
    assert "2 seeds" in axes.get_title(loc="left")


def test_wrong_plots(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="critical table is empty"):
        critical_bars(_table().iloc[:0])
    with pytest.raises(RequestError, match="expected one model"):
        critical_bars(pd.concat([_table(), _table().assign(model="other")]))
    with pytest.raises(RequestError, match="plot .*xyz"):
        save(critical_bars(_table()), tmp_path / "bars.xyz")
    assert list(tmp_path.iterdir()) == []


def test_command_plans_rows_of_the_paper_and_the_certified_one() -> None:
    from collapse.options import Setup

    plans = command._plans(command.Config(Setup(model="fc")))
    assert [(p.pruner, p.schedule) for p in plans] == [
        *((name, "exponential") for name in PAPER_PRUNERS),
        ("synflow", "certified"),
    ]


@pytest.mark.parametrize("schedule", ["exponential", "certified"])
@pytest.mark.parametrize("pruner", ["snip", "random", "synflow"])
def test_the_dense_network_is_scored_once_in_a_search(
    pruner: str, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if schedule == "certified" and pruner != "synflow":
        pytest.skip("only synflow is conserved")
    model = build("fc", input_shape=(3, 8, 8), seed=0)
    batches = [(torch.randn(6, 3, 8, 8), torch.arange(6) % 3)]
    options = Pruning(pruner=pruner, iterations=3, schedule=schedule)
    coarsely = {"scan": 0, "tolerance": 0.3}
    iterations: list[int] = []
    formula = SCORES[pruner]

    def counting(*given):
        iterations.append(given[-1].iteration)
        return formula(*given)

    monkeypatch.setitem(registry._ABOUT, counting, about(pruner))
    monkeypatch.setitem(SCORES, pruner, counting)
    found = critical_compression(model, batches, options, **coarsely)
    assert found.evaluations > 1 or schedule == "certified"
    # Compressions above 1000 ask for float64, and so for first scores of their own.
    assert iterations.count(1) <= (2 if schedule == "exponential" else 1)
    monkeypatch.setattr(Family, "engine", staticmethod(fastest))
    before = len(iterations)
    assert critical_compression(model, batches, options, **coarsely) == found
    assert len(iterations) - before > before


def test_points_of_the_layer_scope_are_its_masks(mlp: nn.Module) -> None:
    batches = [(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long))]
    options = Pruning(pruner="magnitude", iterations=1, scope="layer")
    for point in critical_compression(mlp, batches, options).points:
        masks = prune(mlp, batches, options, keep=point.total).masks
        assert point.kept == masking.kept_by_layer(masks)


def test_a_dead_layer_has_no_effective_total() -> None:
    assert (
        Point({"a": 2, "b": 3}, {"a": 2, "b": 0}, {}, "float32", None, None).effective_total is None
    )


@pytest.mark.parametrize(
    "options", [Pruning("magnitude"), Pruning(), Pruning(schedule="certified")]
)
def test_a_weight_a_layer_is_nothing_to_prune(options: Pruning) -> None:
    layers = (nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    batches = [(torch.ones(1, 1), torch.zeros(1, dtype=torch.long))]
    found = critical_compression(nn.Sequential(*layers), batches, options)
    assert (found.critical_kept, found.maximal_compression) == (2, 1)
    assert found.points[0].kept == {"0.weight": 1, "2.weight": 1}
    assert found.precision == "float32"


@pytest.mark.parametrize("pruner", ["magnitude", "synflow"])
def test_a_layer_that_is_empty_from_the_start_is_said(pruner: str) -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2))
    nn.utils.prune.custom_from_mask(model[2], "weight", torch.zeros(2, 1))
    batches = [(torch.ones(1, 2), torch.zeros(1, dtype=torch.long))]
    with pytest.raises(RequestError, match="layer '2.weight' has already collapsed"):
        critical_compression(model, batches, Pruning(pruner))
