"""The figures, by their artists: what is drawn where, labelled how; and what cannot be drawn."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from analysis import experiments, published
from collapse.errors import RequestError
from collapse.options import PAPER_PRUNERS
from collapse.plots import style
from figures import accuracy, cuts, densities, dynamics, grid, layer_scores, levels, neurons
from figures.commands import FIGURES, find
from figures.plotting import panels
from tests.drawn_tables import (
    TABLES,
    accuracy_table,
    cuts_table,
    dynamics_table,
    layers_table,
    neurons_table,
)


def _labelled(ax: Axes) -> dict[str, np.ndarray]:
    """Lines with a label, as their points."""
    lines = {str(line.get_label()): line for line in ax.get_lines()}
    return {
        label: np.array(line.get_xydata())
        for label, line in lines.items()
        if not label.startswith("_")
    }


def test_accuracy_draws_mean_range_critical_and_maximum() -> None:
    ax = accuracy.plot(accuracy_table())
    lines = _labelled(ax)
    np.testing.assert_array_equal(lines["SynFlow"], [[1, 91], [10, 81], [1000, 11]])
    np.testing.assert_array_equal(lines["maximal"][:, 0], [1000, 1000])
    assert ax.get_xscale() == "log"
    assert ax.get_ylabel() == "top-1 accuracy (%)"
    assert ax.get_title(loc="left") == "net, digits"
    bands = [np.array(band.get_paths()[0].vertices) for band in ax.collections]
    assert [(b[:, 1].min(), b[:, 1].max()) for b in bands] == [(10, 92), (10, 92)]
    marks = {
        to_hex(line.get_color()): float(np.array(line.get_xdata())[0])
        for line in ax.get_lines()
        if line.get_marker() == "|" and str(line.get_label()).startswith("_")
    }
    assert marks == {style.COLOURS["magnitude"]: 20.0, style.COLOURS["synflow"]: 1000.0}


def test_accuracy_marks_no_critical_compression_that_is_not_one() -> None:
    """After training, or by iterations, each run's last ranking has its own."""
    table = accuracy_table()
    table["critical_compression"] = table["compression"] * 2
    ax = accuracy.plot(table)
    assert "critical compression" not in _labelled(ax)
    assert not [line for line in ax.get_lines() if line.get_marker() == "|"]


def test_published_accuracies_are_crosses_on_the_same_axes() -> None:
    theirs = published.load("accuracy")
    ours = accuracy_table(model="vgg16_bn", dataset="cifar100")
    ours["best_top1"] /= 10  # all published ones are above
    ax = accuracy.plot(ours, published=theirs)
    crosses = [line for line in ax.get_lines() if line.get_marker() == "x"]
    drawn = sum(len(line.get_xdata()) for line in crosses)
    assert drawn == theirs.groupby(["pruner", "compression"]).ngroups == 65
    assert max(max(line.get_ydata()) for line in crosses) < ax.get_ylim()[1]
    # Also pruners of which there is no line of ours have their colour explained.
    colours = {line.get_label(): line.get_color() for line in crosses}
    assert colours == {
        f"{style.name(name)}, published": style.colour(name) for name in PAPER_PRUNERS
    }


def test_critical_compressions_beyond_the_axis_are_said() -> None:
    table = accuracy_table()
    table.loc[table["pruner"] == "synflow", "critical_compression"] = 50_000.0
    labels = _labelled(accuracy.plot(table))
    assert "critical compression\n(beyond the axis: SynFlow)" in labels


def test_chance_is_the_accuracy_of_networks_that_are_cut() -> None:
    table = accuracy_table()
    assert "chance (cut)" not in _labelled(accuracy.plot(table))
    cut = (table["pruner"] == "magnitude") & (table["compression"] == 1000)
    table.loc[cut, "best_top1"] = 14.0
    ax = accuracy.plot(table.assign(evidence=np.where(cut, "cut", "trained")))
    np.testing.assert_array_equal(_labelled(ax)["chance (cut)"][:, 1], [14, 14])


def test_grid_has_a_panel_for_each_network() -> None:
    both = pd.concat([accuracy_table(), accuracy_table(model="other")])
    figure = panels(grid, both)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "(a) net, digits", "(b) other, digits",
    ]  # fmt: skip
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["Magnitude", "SynFlow", "critical compression", "maximal"]


_COLLAPSING = {"magnitude": {1.0: (100, 10_000), 4.0: (25, 2500), 16.0: (0, 631), 64.0: (0, 157)}}


def _hatched(ax: Axes) -> dict[tuple[float, float], str]:
    """Lower corners of the hatched cells, with their hatches."""
    return {p.get_xy(): p.get_hatch() for p in ax.patches if p.get_hatch() and p.get_height()}


def test_densities_are_a_heat_map_with_empty_layers_hatched() -> None:
    ax = densities.plot(layers_table(_COLLAPSING))
    (mesh,) = ax.collections
    shown = np.ma.filled(mesh.get_array().reshape(2, 4).astype(float), np.nan)
    by_hand = np.log10([[1, 0.25, np.nan, np.nan], [1, 0.25, 0.0631, 0.0157]])
    np.testing.assert_allclose(shown, by_hand)
    assert mesh.get_clim() == (-6, 0)
    assert _hatched(ax) == {(2, 0): "////", (3, 0): "////"}
    labels = ax.get_legend_handles_labels()[1]
    assert labels[0] == "density 1"
    assert "layer empty" in labels
    assert ax.get_title(loc="left") == "Magnitude"


def test_empty_cut_layers_and_branches_are_hatched_apart() -> None:
    for is_cut, label in ((True, "cut layer empty"), (False, "branch empty")):
        ax = densities.plot(layers_table(_COLLAPSING).assign(is_cut=is_cut))
        assert label in ax.get_legend_handles_labels()[1]
    assert set(_hatched(ax).values()) == {"...."}


def test_layers_that_are_empty_in_the_published_run_have_a_dot() -> None:
    table = layers_table(_COLLAPSING)
    theirs = table.assign(density=table["density"].where(table["layer_index"] == 1, 0.0))
    ax = densities.plot(table, published=theirs[theirs["compression"] == 16])
    (dots,) = [line for line in ax.get_lines() if len(line.get_xdata())]
    np.testing.assert_array_equal(dots.get_xydata(), [[2.5, 0.5], [2.5, 1.5]])


def test_titles_say_where_collapse_first_occurs() -> None:
    points = {1.0: (100, 10_000), 4.0: (25, 2500), 16.0: (6, 631)}
    message = densities.message(layers_table({**_COLLAPSING, "synflow": points}))
    assert message == (
        "Where collapse first occurs: Magnitude empties layer 1 at 16; SynFlow none up to 16"
    )


def test_densities_have_a_panel_a_pruner() -> None:
    points = {1.0: (100, 10_000), 4.0: (25, 2500)}
    figure = panels(densities, layers_table({"snip": points, "grasp": points}))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["(a) SNIP", "(b) GraSP"]
    assert [ax.get_ylabel() for ax in figure.axes] == ["layer", ""]


def test_neurons_are_dots_beside_the_line_of_equality() -> None:
    table = neurons_table()
    ax = neurons.plot(table[table["quantity"] == "snip"])
    dots = sorted(map(tuple, ax.collections[0].get_offsets().tolist()))
    assert dots[:3] == [(2, 2), (2, 2), (3, 3)]  # in both places; a unit at zero is left out
    assert "in = out" in [str(line.get_label()) for line in ax.get_lines()]
    assert len(panels(neurons, table).axes) == 2


def test_layer_scores_are_drawn_by_size_where_random_and_by_sum_elsewhere() -> None:
    """Random's mean is zero but for chance; a signed saliency's sum is what is conserved."""
    for pruner, by_hand in (("random", [0.5, 0.01]), ("grasp", [0.03, 0.0003])):
        ax = layer_scores.plot(layers_table({pruner: {1.0: (100, 10_000)}}))
        points = np.array(ax.get_lines()[0].get_xydata())
        np.testing.assert_allclose(points, [[0.01, by_hand[0]], [0.0001, by_hand[1]]])
        slope = _labelled(ax)["slope 1"]
        np.testing.assert_allclose(slope[1] / slope[0], [100, 100])


def test_published_layer_scores_are_brought_to_our_scale() -> None:
    theirs = published.load("layer-scores")
    theirs = theirs[theirs["pruner"] == "magnitude"]
    ax = layer_scores.plot(layers_table({"magnitude": {1.0: (100, 10_000)}}), published=theirs)
    drawn = _labelled(ax)["published, times a factor"]
    assert len(drawn) == 19
    factor = drawn[0, 1] / abs(theirs["score_mean"].iloc[0])
    assert f"published × {style.number(factor)}" in ax.get_title(loc="left")
    ours = np.array(ax.get_lines()[0].get_ydata())
    assert np.log(drawn[:, 1]).mean() == pytest.approx(np.log(ours).mean())


def test_levels_are_curves_by_their_number() -> None:
    table = pd.concat([accuracy_table(levels=n).query("pruner == 'magnitude'") for n in (1, 3)])
    lines = _labelled(levels.plot(table))
    assert set(lines) == {"1 level", "3 levels"}
    np.testing.assert_array_equal(lines["3 levels"], [[1, 91], [10, 81], [1000, 11]])
    theirs = published.load("levels")
    ax = levels.plot(table, published=theirs)
    crosses = [len(line.get_xdata()) for line in ax.get_lines() if line.get_marker() == "x"]
    assert crosses == [50, 50, 0]


def test_dynamics_run_from_dark_to_bright_with_their_correlation() -> None:
    table = dynamics_table()
    ax = dynamics.plot(table[table["seed"] == 0])
    lines = _labelled(ax)
    assert list(lines) == ["epoch 0", "epoch 2", "epoch 4", "epoch 7", "epoch 9", "slope 1"]
    np.testing.assert_allclose(lines["epoch 9"], [[1e-2, 1], [1e-3, 0.1], [1e-4, 0.01]])
    assert [text.get_text() for text in ax.texts] == ["slope 0.00 → 1.00\nr 0.0000 → 1.0000"]
    brightness = [sum(matplotlib.colors.to_rgb(line.get_color())) for line in ax.get_lines()[:5]]
    assert brightness == sorted(brightness)
    assert len(panels(dynamics, table).axes) == 2


def test_cuts_tell_schedules_by_line_and_compressions_by_colour() -> None:
    ax = cuts.plot(cuts_table(), published=published.load("cuts"))
    curves = [line for line in ax.get_lines() if len(line.get_xdata()) == 2]
    styles = [(line.get_linestyle(), to_hex(line.get_color())) for line in curves]
    assert [kind for kind, _ in styles[:4]] == ["None"] * 4  # two points are no curve
    assert [line.get_marker() for line in curves[:4]] == ["s", "o", "s", "o"]
    assert styles[0][1] == styles[1][1] != styles[2][1]
    np.testing.assert_array_equal(curves[0].get_xydata(), [[1, 10], [10, 1]])
    stars = [line for line in ax.get_lines() if line.get_marker() == "*" and len(line.get_xdata())]
    np.testing.assert_array_equal(stars[0].get_xydata(), [[7, 0.99]])
    one = [line for line in ax.get_lines() if list(np.array(line.get_ydata())) == [1, 1]]
    assert len(one) == 1


# --- What all share -----------------------------------------------------------------------------


def test_every_experiment_has_a_figure_and_every_figure_an_experiment() -> None:
    known = {**experiments.EXPERIMENTS, **experiments.QUESTIONS, **experiments.FURTHER}
    assert list(FIGURES.items()) == list(known.items())
    assert set(TABLES) <= set(FIGURES)
    for name in FIGURES:
        assert find(name).TABLE == experiments.find(name).TABLE


@pytest.mark.parametrize("name", FIGURES)
def test_unfinished_tables_are_drawn_and_say_so_and_settings_are_left_alone(name: str) -> None:
    before, table = dict(matplotlib.rcParams), TABLES[name]
    more = table.iloc[[0]].assign(finished=False, iterations=77)
    ax = panels(find(name), pd.concat([table, more], ignore_index=True)).axes[0]
    assert "points" in ax.get_title(loc="right")
    complete = panels(find(name), table, size="slide").axes[0]
    assert complete.get_title(loc="right") == ""
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


def test_a_panel_with_nothing_finished_is_left_empty_and_says_so() -> None:
    points = {1.0: (100, 10_000), 4.0: (25, 2500)}
    table = layers_table({"snip": points, "grasp": points})
    table.loc[table["pruner"] == "grasp", "finished"] = False
    done, empty = panels(densities, table).axes
    assert done.collections
    assert not empty.collections
    assert empty.get_title(loc="left") == "(b) grasp"
    assert empty.get_title(loc="right") == "0 of 2 points"


@pytest.mark.parametrize("name", FIGURES)
def test_what_cannot_be_drawn_is_said_in_one_line(name: str) -> None:
    figure, table = find(name), TABLES[name]
    with pytest.raises(RequestError, match="is empty: expected at least one row"):
        panels(figure, table.iloc[:0])
    with pytest.raises(RequestError, match="lacks the column 'seed'"):
        panels(figure, table.drop(columns="seed"))
    with pytest.raises(RequestError, match="nothing to draw: 0 of"):
        panels(figure, table.assign(finished=False))
    for one in figure.plot.one:
        with pytest.raises(RequestError, match=f"one panel shows one {one}: expected one, got"):
            figure.plot(pd.concat([table, table.assign(**{one: "other"})]))
    for column in figure.plot.known:
        with pytest.raises(RequestError, match=f"unknown {column} 'other'; one of:"):
            panels(figure, table.assign(**{column: "other"}))
    with pytest.raises(RequestError, match="'finished': expected true or false, got 'no'"):
        panels(figure, table.assign(finished="no"))
    for column in ("model", "pruner", *getattr(figure, "PANELS", ()), *figure.plot.one):
        if column in table and column not in figure.plot.numbers:
            with pytest.raises(RequestError, match=f"the column '{column}' has empty cells"):
                panels(figure, table.assign(**{column: None}))


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("accuracy", "compression", "abc"),
        ("accuracy", "compression", -1.0),
        ("accuracy", "best_top1", float("nan")),
        ("accuracy", "seed", None),
        ("densities", "layer_index", float("nan")),
        ("densities", "compression", 0.0),
        ("neurons", "score_in", "x"),
        ("layer-scores", "parameters", 0),
        ("layer-scores", "score_sum", float("inf")),
        ("dynamics", "epoch", "first"),
        ("dynamics", "score_mean", None),
        ("cuts", "iterations", "ten"),
        ("cuts", "max_prune_to_cut_ratio", float("inf")),
        ("iterations", "critical_compression", "many"),
        ("cost", "seconds", None),
        ("tickets", "overlap", float("nan")),
        ("low-compression", "best_top1", "good"),
        ("dead-inputs", "kept", None),
        ("sanity", "compression", 0.5),
    ],
)
def test_numbers_that_are_none_are_named(name: str, column: str, value: object) -> None:
    table = TABLES[name].astype({column: object})
    table.loc[table.index[-1], column] = value
    with pytest.raises(RequestError, match=rf"column '{column}': expected (finite )?numbers"):
        panels(find(name), table)


@pytest.mark.filterwarnings("error")
def test_zeros_leave_logarithmic_axes_without_points() -> None:
    ones = _cuts_like(compression=1.0, max_prune_to_cut_ratio=0.0)
    assert cuts.plot(ones).get_yscale() == "log"
    zero = neurons_table().assign(score_in=0.0)
    assert len(panels(neurons, zero).axes) == 2
    unscored = layers_table({"snip": {1.0: (100, 10_000)}}).assign(score_sum=0.0)
    assert panels(layer_scores, unscored).axes
    assert panels(dynamics, dynamics_table().assign(score_mean=0.0)).axes


def _cuts_like(**changes: object) -> pd.DataFrame:
    return cuts_table().assign(**changes)


def test_densities_need_a_curve() -> None:
    with pytest.raises(RequestError, match="expected at least two compressions, got one"):
        panels(densities, layers_table({"snip": {1.0: (100, 10_000)}}))
