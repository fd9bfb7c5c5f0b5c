"""The experiments behind the figures: schemas, numbers by hand, and what interruption leaves."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import experiments
from analysis.commands.experiment import check_names
from analysis.experiments import accuracy, cuts, densities, dynamics, grid, layer_scores, levels
from analysis.experiments import neurons as neuron_sums
from analysis.resumable import Resources
from collapse import masks as masking
from collapse import tables
from collapse.errors import RequestError
from collapse.models import build
from collapse.options import Execution, Setup
from collapse.scores import ScoreInputs, score

FC = Setup("fc", init="xavier")
TRAINING = replace(accuracy.QUICK, epochs=1)


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return Resources(Execution(runs=tmp_path / "runs", quiet=True))


def _weights(seed: int = 0) -> dict[str, torch.Tensor]:
    model = build("fc", input_shape=(3, 32, 32), classes=10, init="xavier", seed=seed)
    return {n: p.detach() for n, p in model.named_parameters() if p.ndim > 1}


def _synflow() -> tuple[dict[str, torch.Tensor], float]:
    model = build("fc", input_shape=(3, 32, 32), classes=10, init="xavier", seed=0)
    inputs = ScoreInputs([(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))])
    scores = score(model, "synflow", masking.dense(model), inputs)
    assert scores.total is not None
    return dict(scores), scores.total


def test_experiments_are_found_by_their_first_line_in_order() -> None:
    assert list(experiments.EXPERIMENTS)[:8] == [
        *("accuracy", "densities", "neurons", "layer-scores", "levels", "dynamics", "grid", "cuts"),
    ]
    assert list(experiments.QUESTIONS)[:9] == [
        *("iterations", "mode", "cost", "tickets", "low-compression", "trained", "dead-inputs"),
        *("sanity", "effective"),
    ]
    assert list(experiments.FURTHER)[:2] == ["proxy", "features"]
    for kind, found in (
        ("figure", experiments.EXPERIMENTS),
        ("question", experiments.QUESTIONS),
        ("experiment", experiments.FURTHER),
    ):
        assert all(f"({kind} " in about for about in found.values())


@pytest.mark.parametrize(
    "name", [*experiments.EXPERIMENTS, *experiments.QUESTIONS, *experiments.FURTHER]
)
def test_presets_and_schema(name: str) -> None:
    """Every experiment has the three presets, a table with its columns and says what it is."""
    module = experiments.find(name)
    assert set(module.PRESETS) == {"smoke", "laptop", "paper"}
    assert all(isinstance(preset, module.Config) for preset in module.PRESETS.values())
    assert module.TABLE in tables.COLUMNS
    assert module.Config.__doc__
    for preset in module.PRESETS.values():  # as the command looks at it, before any work
        check_names(preset)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": (0, -1)}, "--seeds: expected a number from 0"),
        ({"seeds": (0, 0)}, "--seeds: expected different values, got '0' twice"),
        ({"compressions": (10.0, 10.0)}, "--compressions: expected different values, got '10.0'"),
        ({"pruners": ("snip", "snip")}, "--pruners: expected different values, got 'snip' twice"),
        ({"models": ("fc", "fc")}, "--models: expected different values, got 'fc' twice"),
    ],
)
def test_values_that_no_grid_has(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_names(replace(grid.PRESETS["smoke"], **changed))


def test_densities_are_those_of_the_largest_weights(resources: Resources) -> None:
    config = densities.Config(FC, pruners=("magnitude",), compressions=(1.0, 4.0, 50.0))
    table = densities.run(config, resources)
    assert list(table.columns)[: len(tables.COLUMNS["layers"])] == list(tables.COLUMNS["layers"])
    weights = _weights()
    together = torch.cat([w.abs().flatten() for w in weights.values()])
    for compression, rows in table.groupby("compression"):
        keep = math.ceil(len(together) / float(str(compression)))
        threshold = together.sort(descending=True).values[keep - 1]
        by_hand = [int((w.abs() >= threshold).sum()) for w in weights.values()]
        assert rows["kept"].tolist() == by_hand
        np.testing.assert_allclose(rows["density"], rows["kept"] / rows["parameters"])


def test_one_ranking_gives_the_masks_of_separate_prunings(resources: Resources) -> None:
    """A one-shot pruner is scored once for all compressions; each alone gives the same."""
    config = densities.Config(FC, pruners=("snip",), compressions=(2.0, 30.0))
    together = densities.run(config, resources)
    for compression in config.compressions or ():
        alone = densities.run(replace(config, compressions=(compression,)), resources)
        rows = together[together["compression"] == compression]
        assert rows["kept"].tolist() == alone["kept"].tolist()
        assert rows["score_sum"].tolist() == alone["score_sum"].tolist()


def test_cut_ratio_of_one_iteration_is_the_pruned_share_of_mass(resources: Resources) -> None:
    config = cuts.Config(FC, compressions=(10.0,), iterations=(1, 4), schedules=("exponential",))
    table = cuts.run(config, resources)
    scores, cut = _synflow()
    together = torch.cat([s.double().flatten() for s in scores.values()]).sort().values
    keep = math.ceil(len(together) / 10)
    by_hand = float(together[: len(together) - keep].sum()) / cut
    once = table[table["iterations"] == 1].iloc[0]
    assert once["max_prune_to_cut_ratio"] == pytest.approx(by_hand, rel=1e-5)
    assert once["kept"] == keep
    assert once["steps"] == 1
    four = table[table["iterations"] == 4].iloc[0]
    assert four["max_prune_to_cut_ratio"] < once["max_prune_to_cut_ratio"]


def test_certified_schedule_stays_below_the_cut(resources: Resources) -> None:
    table = cuts.run(cuts.Config(FC, compressions=(100.0,), iterations=(1, 5)), resources)
    proved = table[table["schedule"] == "certified"]
    assert len(proved) == 1
    assert proved["max_prune_to_cut_ratio"].iloc[0] < 1
    assert proved["collapsed_layers"].iloc[0] == 0
    assert len(table) == 5


def test_neurons_are_sums_of_rows_and_columns(resources: Resources) -> None:
    table = neuron_sums.run(neuron_sums.Config(FC), resources)
    scores, _ = _synflow()
    ours = table[(table["quantity"] == "synflow") & (table["place"] == "1.weight")]
    into, out_of = scores["1.weight"].sum(1), scores["3.weight"].sum(0)
    np.testing.assert_allclose(ours["score_in"].to_numpy(float), into.numpy(), rtol=1e-5)
    np.testing.assert_allclose(ours["score_out"].to_numpy(float), out_of.numpy(), rtol=1e-5)
    np.testing.assert_allclose(into.numpy(), out_of.numpy(), rtol=1e-4)
    signed = table[table["quantity"] == "snip signed"]
    scale = signed["score_in"].abs().max()
    assert (signed["score_in"] - signed["score_out"]).abs().max() < 1e-4 * scale
    absolute = table[table["quantity"] == "snip"]
    assert (absolute["score_in"] >= 0).all()
    assert (absolute["score_in"] - absolute["score_out"]).abs().max() > 0.1 * scale
    assert len(table) == 6 * 500  # five hidden layers of 100 units


def test_layer_scores_are_means_over_weights(resources: Resources) -> None:
    table = layer_scores.run(layer_scores.Config(FC, pruners=("magnitude", "synflow")), resources)
    magnitude = table[table["pruner"] == "magnitude"]
    by_hand = [float(w.double().abs().mean()) for w in _weights().values()]
    np.testing.assert_allclose(magnitude["score_mean"].to_numpy(float), by_hand, rtol=1e-6)
    assert (magnitude["elements"] - magnitude["parameters"]).tolist() == [100] * 5 + [10]
    sums = table.loc[table["pruner"] == "synflow", "score_sum"].astype(float)
    assert sums.max() / sums.min() - 1 < 1e-4


def test_accuracy_is_the_best_test_of_each_run_with_its_critical_compression(
    resources: Resources,
) -> None:
    config = accuracy.Config(
        FC, TRAINING, pruners=("magnitude",), compressions=(1.0, 5.0), seeds=(0,)
    )
    table = accuracy.run(config, resources)
    assert list(table.columns)[: len(tables.COLUMNS["accuracy"])] == list(
        tables.COLUMNS["accuracy"]
    )
    for point, row in zip(accuracy.points(config), table.to_dict("records"), strict=True):
        training = point.experiment.run(resources.execution.runs).table("training")
        tests = training[training["split"] == "test"]
        assert row["best_top1"] == tests["top1"].max()
        assert row["top1"] == tests["top1"].iloc[-1]
        assert (row["epochs"], row["train_images"], row["levels"]) == (1, 400, 0)
    # By hand: the layer whose largest weight is smallest is the first to be empty.
    weights = _weights()
    together = torch.cat([w.abs().flatten() for w in weights.values()])
    last = min(float(w.abs().max()) for w in weights.values())
    rank = int((together >= last).sum())
    assert set(table["critical_compression"]) == {len(together) / rank}
    assert set(table["maximal_compression"]) == {len(together) / 6}


def test_a_cut_network_is_a_row_without_a_training(resources: Resources) -> None:
    """A perceptron of 348,200 weights at 30,000: magnitude leaves no path."""
    config = accuracy.Config(
        FC, TRAINING, pruners=("magnitude",), compressions=(5.0, 30_000.0), seeds=(0,)
    )
    table = accuracy.run(config, resources)
    assert table["evidence"].tolist() == ["trained", "cut"]
    _, cut = accuracy.points(config)
    assert not cut.experiment.run(resources.execution.runs).folder.exists()
    labels = cut.experiment.datasets()[1].labels
    chance = 100 * float(labels.bincount().max()) / len(labels)
    assert table["best_top1"].iloc[1] == chance
    trained = accuracy.run(replace(config, train_cut=True), resources)  # to show that it is so
    assert trained["evidence"].tolist() == ["trained", "trained"]
    assert trained["best_top1"].iloc[1] <= chance + 1e-9
    assert trained["parameters"].tolist() == table["parameters"].tolist()
    pd.testing.assert_frame_equal(accuracy.run(config, resources), table)  # known from now on


def test_levels_keep_exactly_what_was_asked_for(resources: Resources) -> None:
    config = levels.Config(FC, TRAINING, levels=(1, 2), compressions=(30.0,))
    table = levels.run(config, resources)
    assert table["levels"].tolist() == [1, 2]
    assert set(table["kept"]) == {math.ceil(348_200 / 30)}
    for point, row in zip(levels.points(config), table.to_dict("records"), strict=True):
        rounds = point.experiment.run(resources.execution.runs).table("levels")
        assert row["best_top1"] == rounds["best_top1"].iloc[-1]
        assert len(rounds) == row["levels"] + 1


def test_dynamics_start_at_the_initial_weights(resources: Resources) -> None:
    table = dynamics.run(dynamics.Config(FC, TRAINING, seeds=(0, 1)), resources)
    for seed, rows in table[table["epoch"] == 0].groupby("seed"):
        by_hand = [float(w.double().square().mean()) for w in _weights(int(str(seed))).values()]
        np.testing.assert_allclose(rows["score_mean"].to_numpy(float), by_hand, rtol=1e-6)
    assert sorted(table["epoch"].unique()) == [0, 1]


def test_grid_is_accuracy_panel_by_panel(resources: Resources) -> None:
    config = replace(
        grid.PRESETS["smoke"], models=("fc",), pruners=("magnitude",), seeds=(0,), critical=True
    )
    table = grid.run(config, resources)
    (panel,) = grid.panels(config)
    pd.testing.assert_frame_equal(table, accuracy.run(panel, resources))


def test_grid_of_the_paper_has_its_twelve_panels() -> None:
    panels = grid.panels(grid.PRESETS["paper"])
    assert len({(panel.setup.dataset, panel.setup.model) for panel in panels}) == 12
    assert {len(panel.compressions or ()) for panel in panels} == {13}


def test_grid_knows_no_critical_compression_unless_asked(resources: Resources) -> None:
    """A run's last ranking is not the dense network's: SynFlow's is the maximum here."""
    config = replace(
        grid.PRESETS["smoke"],
        models=("tests.zoo:narrow",),
        pruners=("synflow",),
        seeds=(0,),
        compressions=(1.0, 10.0),
        critical=False,
    )
    assert grid.run(config, resources)["critical_compression"].isna().all()
    known = grid.run(replace(config, critical=True), resources)
    assert set(known["critical_compression"]) == {(3072 * 4 + 4 * 10) / 2}


def test_repeated_compressions_are_one(resources: Resources) -> None:
    config = cuts.Config(FC, compressions=(10.0, 10.0), iterations=(1,), schedules=("linear",))
    assert len(cuts.run(config, resources)) == 1
    two = densities.Config(FC, pruners=("magnitude",), compressions=(4.0, 2.0, 4.0))
    other = replace(two, compressions=(2.0, 4.0))
    keys = [point.key for config in (two, other) for point in densities.points(config)]
    assert keys[0] == keys[1]


def test_a_table_by_name_says_which_presets_there_are() -> None:
    with pytest.raises(RequestError, match="unknown preset 'lapto'; nearest: laptop"):
        experiments.table("accuracy", "lapto")
