"""The figures of the questions, by their artists: means, intervals, and too few seeds for one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from scipy import stats

from analysis import published
from collapse.plots import style
from figures import (
    accuracy,
    cost,
    dead_inputs,
    densities,
    effective,
    grid,
    iterations,
    low_compression,
    mode,
    sanity,
    tickets,
    trained,
)
from figures.plotting import panels
from tests.drawn_tables import (
    TABLES,
    accuracy_table,
    costs_table,
    dead_inputs_table,
    iterations_table,
    layers_table,
    outcomes_table,
    tickets_table,
    trained_table,
)

# Seeds 0, 1, 2 around their mean: Student's interval of a standard deviation of 1.
HALF = float(stats.t.ppf(0.975, 2)) / 3**0.5


def _dots(ax: Axes) -> dict[str, list[float]]:
    """Heights of the dots that no line joins, by colour."""
    return {
        str(line.get_color()): [float(y) for y in line.get_ydata()]
        for line in ax.get_lines()
        if line.get_linestyle() == "None" and len(line.get_xdata())
    }


def _bars(ax: Axes) -> list[tuple[float, float]]:
    """Upright lines: the intervals."""
    lines = [c for c in ax.collections if isinstance(c, LineCollection)]
    segments = [np.array(segment) for line in lines for segment in line.get_segments()]
    assert all(p[0, 0] == p[1, 0] for p in segments)
    return [(p[0, 1], p[1, 1]) for p in segments]


def test_low_compression_is_drawn_against_the_dense_network_of_the_same_seed() -> None:
    ax = low_compression.plot(outcomes_table())
    dots = _dots(ax)
    assert dots[style.COLOURS["magnitude"]] == pytest.approx([1 / 10 - 1, 1 / 10 - 10])
    # The same difference in each seed: an interval of no width.
    np.testing.assert_allclose(sorted(_bars(ax)), [(-9.9, -9.9)] * 2 + [(-0.9, -0.9)] * 2)
    assert "3 seeds" in ax.get_title(loc="left")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["10", "100"]


def test_accuracies_have_students_interval_over_seeds() -> None:
    ax = tickets.plot(tickets_table())
    assert _dots(ax)[style.COLOURS["snip"]] == [41.0]
    assert _dots(ax)[style.OTHER] == [61.0]  # IMP
    np.testing.assert_allclose(_bars(ax), [(41 - HALF, 41 + HALF), (61 - HALF, 61 + HALF)])


def test_too_few_seeds_are_said_and_no_interval_is_drawn() -> None:
    table = tickets_table()
    two = table[(table["seed"] < 2) & (table["other_seed"] < 2)]
    for view in tickets.VIEWS[:3]:
        ax = view(two)
        assert not _bars(ax)
        assert "2 seeds: too few for an interval" in ax.get_title(loc="left")
    one = outcomes_table().query("seed == 0")
    for view in effective.VIEWS:
        ax = view(one)
        assert not _bars(ax)
        assert "1 seed: too few for an interval" in ax.get_title(loc="left")


def test_controls_are_paired_with_their_mask_and_hold_together() -> None:
    rows = TABLES["sanity"].query("compression == 10")
    ax = sanity.plot(rows)
    assert sorted(h for heights in _dots(ax).values() for h in heights) == [-20, -20, -2, -2]
    labels = list(ax.get_legend_handles_labels()[1])
    assert labels == ["shuffled", "inverted"]
    # Of unequal differences: the level of two intervals that hold at once.
    rows = rows.astype({"best_top1": float})
    rows.loc[rows["control"] == "shuffled", "best_top1"] += rows["seed"]
    bars = _bars(sanity.plot(rows))
    half = float(stats.t.ppf(1 - 0.025 / 2, 2)) / 3**0.5
    assert any(np.allclose(bar, (-1 - half, -1 + half)) for bar in bars)
    assert len(panels(sanity, TABLES["sanity"].query("compression > 1")).axes) == 2


def test_effective_share_marks_where_all_is_dead() -> None:
    table = outcomes_table()
    table.loc[table["compression"] == 100, "effective_kept"] = 0
    ax = effective.plot(table)
    lines = {str(line.get_label()): line for line in ax.get_lines()}
    np.testing.assert_allclose(lines["Magnitude"].get_ydata()[0], 2.0)
    np.testing.assert_allclose(lines["SynFlow"].get_ydata()[0], 1.0)
    (text,) = ax.texts
    assert text.get_position()[0] == 100.0
    assert text.get_text() == "all dead:\nMagnitude\nSynFlow"
    message = effective.message(table)
    assert message == "All that is kept is dead in some run: Magnitude from 100, SynFlow from 100"
    both = effective.accuracies(table)
    solid = [line for line in both.get_lines() if line.get_label() == "Magnitude"]
    np.testing.assert_allclose(solid[0].get_xdata()[0], 20.0)


def test_modes_and_weights_are_compared_at_equal_seed() -> None:
    critical, accuracy, density = panels(mode, TABLES["mode"]).axes[:3]
    assert critical.get_yscale() == "log"
    assert {round(h) for heights in _dots(critical).values() for h in heights} == {200}
    # Train and warmed up, each minus eval.
    assert {h for heights in _dots(accuracy).values() for h in heights} == {-5.0, -1.0}
    assert "×100" in density.get_title(loc="left")
    critical, accuracy = panels(trained, trained_table()).axes[:2]
    assert {h for heights in _dots(accuracy).values() for h in heights} == {3.0}


def test_iterations_are_geometric_means_with_collapses_below_them() -> None:
    ax = iterations.plot(iterations_table())
    lines = {str(line.get_label()): np.array(line.get_xydata()) for line in ax.get_lines()}
    np.testing.assert_allclose(lines["SynFlow"], [[1, 10], [100, 1000]])
    assert float(lines["maximal"][0, 1]) == 500
    below = [line for line in ax.get_lines() if line.get_marker() == "v" and len(line.get_xdata())]
    assert [line.get_color() for line in below] == [style.COLOURS["synflow"]]
    density = iterations.densities(iterations_table())
    assert density.get_title(loc="left") == "×10: dotted 1, solid 100 iterations"


def test_costs_are_shares_of_an_epoch() -> None:
    seconds, operations, memory = panels(cost, costs_table()).axes[:3]
    assert _dots(seconds) == {style.COLOURS[p]: [0.25] for p in ("magnitude", "snip")}
    assert _dots(operations) == {style.COLOURS["snip"]: [0.25]}  # magnitude needs none
    assert _dots(memory)[style.COLOURS["snip"]] == [1.0]
    assert seconds.get_title(loc="left") == "(a) time"


def test_dead_inputs_are_drawn_beside_their_share() -> None:
    kept, accuracy = panels(dead_inputs, dead_inputs_table()).axes[:2]
    assert _dots(kept) == {style.COLOURS["snip"]: [0.0], style.COLOURS["synflow"]: [75.0]}
    dotted = [line for line in kept.get_lines() if line.get_linestyle() == ":"]
    assert list(dotted[0].get_ydata()) == [75.0, 75.0]
    assert _dots(accuracy)[style.COLOURS["snip"]] == [51.0]


def test_stability_shows_every_pair() -> None:
    ax = tickets.stability(tickets_table())
    (dots,) = ax.collections
    assert np.asarray(dots.get_offsets()).tolist() == [[0, 0.25]] * 3
    assert ax.get_title(loc="left") == "the same between pairs of 3 seeds, ×10"


def test_missing_tickets_are_counted() -> None:
    table = tickets_table()
    table.loc[table["other"] == "imp", "finished"] = False
    figure = panels(tickets, pd.concat([table, tickets_table().query("other == 'imp'").head(1)]))
    assert "of 6 points" in figure.axes[0].get_title(loc="right")


def test_messages_claim_nothing_that_was_not_run() -> None:
    one = outcomes_table().query("seed == 0")
    assert "4 differences from the dense network, of too few seeds" in low_compression.message(one)
    three = accuracy_table(evidence="trained")
    cut = accuracy_table(model="other", evidence="cut", best_top1=10.0)
    assert grid.message(pd.concat([three, cut])).endswith("of 1 panels")
    assert "are cut: their accuracy is chance" in grid.message(cut)
    none = accuracy_table(best_top1=0.0)
    assert accuracy.message(none).endswith("0 %")
    assert "SynFlow on other, digits" in accuracy.message(pd.concat([three, cut]))
    layers = layers_table({"synflow": {1.0: (100, 10_000), 4.0: (50, 100)}, "snip": {1.0: (1, 1)}})
    late = layers.assign(compression=2.0**20, pruner="random", finished=False)
    said = densities.message(pd.concat([layers, late]))
    assert "SynFlow none up to 4; SNIP none up to 1" in said


def test_published_numbers_are_drawn_over_their_own_network_alone() -> None:
    table = accuracy_table(model="vgg16_bn", dataset="cifar100")
    both = pd.concat([table, accuracy_table(model="vgg16_bn", dataset="cifar10")])
    drawn = panels(accuracy, both, published=published.load("accuracy").drop(columns="dataset"))
    crosses = [
        sum(str(line.get_label()).endswith("published") for line in ax.get_lines())
        for ax in drawn.axes[:2]
    ]
    assert crosses[0] > 0
    assert crosses[1] == 0
