"""The reviewers' questions: tables against brute force, answers by hand, what is missing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from analysis import experiments, questions
from analysis.experiments import (
    cost,
    dead_inputs,
    iterations,
    sanity,
    study,
    tickets,
    trained,
)
from analysis.questions import outcomes
from analysis.resumable import Resources
from collapse import masks as masking
from collapse import tables
from collapse.critical import critical_compression
from collapse.data import load
from collapse.errors import RequestError
from collapse.models import build
from collapse.options import Execution, Pruning
from collapse.pruning import prune
from collapse.scores import ScoreInputs, score
from tests.drawn_tables import TABLES, outcomes_table, tickets_table, trained_table

HASTY = replace(study.HASTY, epochs=1)
NARROW = replace(study.TINY, model="tests.zoo:narrow")


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    return Resources(Execution(runs=tmp_path_factory.mktemp("runs"), quiet=True))


@pytest.mark.parametrize("name", [*experiments.QUESTIONS, *experiments.FURTHER])
def test_answers_are_rows_of_the_contract(name: str) -> None:
    """Each answers its own experiment's table, in rows of the contract."""
    module = questions.find(name)
    assert module.TABLE == experiments.find(name).TABLE
    found = module.answer(TABLES[name])
    contract = [column for column in tables.COLUMNS["answers"] if column != "question"]
    assert list(found.columns[: len(contract)]) == contract
    assert len(found)
    assert found["estimate"].notna().all()


# --- Answers by hand ----------------------------------------------------------------------------


def _answer(name: str, table: pd.DataFrame) -> pd.DataFrame:
    found: pd.DataFrame = questions.find(name).answer(table)
    return found


def _one(found: pd.DataFrame, **columns: str) -> pd.Series:
    for column, value in columns.items():
        found = found[found[column].str.contains(value, regex=False)]
    assert len(found) == 1
    return found.iloc[0]


def test_differences_are_paired_by_seed() -> None:
    table = TABLES["sanity"].copy()
    table.loc[table["control"] == "shuffled", "best_top1"] += table["seed"]  # −2, −1, 0
    found = _answer("sanity", table[table["compression"] == 10])
    row = _one(found, quantity="difference", of="magnitude, shuffled")
    assert (row["estimate"], row["seeds"], row["unit"]) == (-1.0, 3, "points")
    half = float(stats.t.ppf(1 - 0.025 / 2, 2)) / 3**0.5
    assert row["low"] == pytest.approx(-1 - half)
    assert row["level"] == 0.975  # of two controls at once
    assert row["against"] == "as it is"


def test_answers_of_each_question() -> None:
    low = _answer("low-compression", outcomes_table())
    dense = _one(low, quantity="difference", of="synflow", against="dense", where="compression 100")
    assert dense["estimate"] == pytest.approx(-9.9)
    against = _one(low, of="magnitude", against="synflow", where="compression 100")
    assert against["estimate"] == 0
    share = _answer("effective", outcomes_table())
    assert _one(share, quantity="effective", of="magnitude", where="100")["estimate"] == 2.0
    both = _answer("mode", TABLES["mode"])
    assert _one(both, quantity="accuracy", of="synflow, train", where="100")["estimate"] == -5
    critical = _one(both, quantity="difference in log10", of="magnitude, train")
    assert (critical["estimate"], critical["against"]) == (0.0, "eval")
    weights = _answer("trained", trained_table())
    row = _one(weights, quantity="difference in top-1", of="magnitude, trained", where="100")
    assert row["estimate"] == 3
    moved = _one(weights, quantity="other layers", of="magnitude", where="100")
    assert moved["estimate"] == 0
    imp = _answer("tickets", tickets_table())
    assert _one(imp, quantity="top-1", of="snip", against="imp")["estimate"] == -20
    between = _one(imp, quantity="other layers, between two seeds", of="snip")
    assert (between["estimate"], between["seeds"]) == (0.25, 3)
    assert math.isnan(between["low"])  # pairs share seeds
    often = _answer("iterations", TABLES["iterations"])
    row = _one(often, quantity="log10", of="synflow", where="iterations 100")
    assert row["estimate"] == pytest.approx(3)
    seconds = _one(_answer("cost", TABLES["cost"]), quantity="time", of="snip")
    assert (seconds["estimate"], seconds["seeds"]) == (0.25, 1)
    dead = _one(_answer("dead-inputs", TABLES["dead-inputs"]), quantity="dead inputs", of="synflow")
    assert dead["estimate"] == 75


def test_runs_without_a_living_weight_have_an_infinite_effective_compression() -> None:
    table = outcomes_table()
    table["effective_kept"] = 0
    found = outcomes.runs(table)
    assert np.isinf(found["effective_compression"]).all()
    assert found["effective_share"].isna().all()
    assert set(found.loc[found["compression"] == 100, "collapsed_layers"]) == {1}


# --- Tables against brute force -----------------------------------------------------------------


def test_outcomes_are_what_the_run_did(resources: Resources) -> None:
    config = sanity.Config(
        study.TINY, HASTY, ("magnitude",), (10.0,), seeds=(0,), controls=("shuffled",)
    )
    table = sanity.run(config, resources)
    assert list(table.columns) == list(tables.COLUMNS["outcomes"])
    model = build("fc", init="xavier", seed=0)
    masks = prune(model, options=Pruning("magnitude"), compression=10.0).masks
    for point, (_, rows) in zip(
        sanity.points(config), table.groupby("control", dropna=False, sort=False), strict=True
    ):
        assert rows["kept"].tolist() == list(masking.kept_by_layer(masks).values())
        run = point.experiment.run(resources.execution.runs)
        assert set(rows["run"]) == {run.name}
        assert set(rows["best_top1"]) == {run.table("levels")["best_top1"].iloc[-1]}
    plain = table[table["control"].isna()]
    critical = critical_compression(
        model, [(torch.zeros(1, 3, 32, 32), torch.zeros(1).long())], Pruning("magnitude")
    )
    assert set(plain["critical_compression"]) == {critical.critical_compression}
    assert table[table["control"] == "shuffled"]["critical_compression"].isna().all()


def test_trained_weights_are_those_of_the_dense_run(resources: Resources) -> None:
    config = trained.Config(NARROW, HASTY, ("magnitude", "synflow"), (10.0,), seeds=(0,))
    table = trained.run(config, resources)
    alone = table[(table["epochs"] == 0) & (table["pruner"] == "magnitude")]
    (dense,) = config.dense()
    weights = dense.experiment.run(resources.execution.runs).folder / "weights.safetensors"
    batches = [(torch.zeros(1, 3, 32, 32), torch.zeros(1).long())]
    for kind, path in (("random", None), ("trained", str(weights))):
        model = build(NARROW.model, init="xavier", seed=0, weights=path)
        masks = prune(model, options=Pruning("magnitude"), compression=10.0).masks
        rows = alone[alone["weights"] == kind]
        assert rows["kept"].tolist() == list(masking.kept_by_layer(masks).values())
        found = critical_compression(model, batches, Pruning("magnitude"), effective=False)
        assert set(rows["critical_compression"]) == {found.critical_compression}
    # SynFlow's ranking changes from iteration to iteration: a run's last one is no critical one.
    runs = table[(table["epochs"] > 0) & (table["pruner"] == "synflow")]
    assert runs["critical_compression"].isna().all()
    assert sorted(runs["levels"].unique()) == [0, 1]


def test_points_that_follow_a_training_wait_for_it(resources: Resources, tmp_path: Path) -> None:
    hasty = replace(HASTY, epochs=2)
    config = trained.Config(study.TINY, hasty, ("magnitude",), (10.0,), seeds=(0,))
    fresh = Resources(Execution(tmp_path, quiet=True), so_far=True)
    assert not trained.run(config, fresh)["finished"].any()
    assert not list(tmp_path.iterdir())
    *_, point = trained.points(config)
    point.check()
    again = replace(fresh, so_far=False)
    assert not point.busy(again)
    heard: list[tuple[str, float]] = []
    frame = point.compute(again, lambda text, share: heard.append((text, share)))  # trains first
    shares = [share for text, share in heard if "epoch" in text]
    assert shares == [0.5, 1.0]  # so that the time left is known
    assert frame is not None
    assert set(frame["weights"]) == {"trained"}
    stored = point.stored(again)
    assert stored is not None
    pd.testing.assert_frame_equal(stored, frame, check_dtype=False)


def test_tickets_are_compared_weight_by_weight(resources: Resources) -> None:
    config = replace(tickets.PRESETS["smoke"], seeds=(0, 1))
    table = tickets.run(config, resources)
    assert list(table.columns) == list(tables.COLUMNS["tickets"])
    assert table["finished"].all()
    masks = {}
    for point in tickets.points(config):
        folder = point.experiment.run(resources.execution.runs).folder
        label = "imp" if point.row["levels"] else point.row["pruner"]
        masks[label, point.row["seed"]] = masking.load_masks(folder / "masks.safetensors")
    for row in table.to_dict("records"):
        label = "imp" if row["levels"] else row["pruner"]
        ours, theirs = masks[label, row["seed"]], masks[row["other"], row["other_seed"]]
        kept = masking.kept(ours)
        sizes, a, b = (
            [m.numel() for m in ours.values()],
            *(list(masking.kept_by_layer(m).values()) for m in (ours, theirs)),
        )
        shared = sum(int((m & theirs[n]).sum()) for n, m in ours.items())
        chance = sum(x * y / n for x, y, n in zip(a, b, sizes, strict=True))
        assert row["overlap"] == shared / kept
        assert row["chance_overlap"] == pytest.approx(chance / kept)
        most = sum(min(x, y) for x, y in zip(a, b, strict=True))
        assert row["beyond_chance"] == pytest.approx((shared - chance) / (most - chance))
        moved = sum(abs(x - y) for x, y in zip(a, b, strict=True)) / 2 / kept
        assert row["density_distance"] == pytest.approx(moved)
    pairs = table.apply(lambda r: (r["levels"], r["pruner"], r["other"], r["seed"]), axis=1)
    assert len(set(pairs)) == len(table) == 2 * 2 + 3  # with IMP, and one pair of seeds a kind


def test_equal_and_disjoint_masks_are_at_the_ends() -> None:
    ours = {"a": torch.tensor([True, True, False, False]), "b": torch.tensor([True, False])}
    theirs = {"a": ~ours["a"], "b": ~ours["b"]}
    assert tickets.compare(ours, ours)["beyond_chance"] == 1
    apart = tickets.compare(ours, theirs)
    assert (apart["overlap"], apart["density_distance"]) == (0, 0)
    assert apart["beyond_chance"] == -1  # chance would share half
    whole = {name: torch.ones_like(mask) for name, mask in ours.items()}
    assert tickets.compare(whole, whole)["beyond_chance"] is None


def test_tickets_of_your_own(resources: Resources, tmp_path: Path) -> None:
    config = replace(tickets.PRESETS["smoke"], seeds=(0,))
    model = build("fc", init="xavier", seed=5)
    masks = prune(model, options=Pruning("random", seed=5), compression=10.0).masks
    masking.save_masks(masks, tmp_path / "mine.safetensors")
    table = tickets.run(replace(config, tickets=(tmp_path / "mine.safetensors",)), resources)
    (mine,) = table[table["pruner"] == "mine"].to_dict("records")
    assert abs(mine["beyond_chance"]) < 0.05
    assert mine["best_top1"] is None or math.isnan(mine["best_top1"])
    fewer = prune(model, options=Pruning("random"), compression=20.0).masks
    masking.save_masks(fewer, tmp_path / "fewer.safetensors")
    masking.save_masks(masking.dense(build("conv")), tmp_path / "conv.safetensors")
    masking.save_masks(masks, tmp_path / "imp.safetensors")
    for name, message in {
        "imp": "'imp' is another ticket's name",
        "none": "cannot be read",
        "fewer": r"keeps 17,410 weights: expected 34,820 \(compression 10\)",
        "conv": "of another network",
    }.items():
        with pytest.raises(RequestError, match=message):
            tickets.run(replace(config, tickets=(tmp_path / f"{name}.safetensors",)), resources)


def test_a_missing_ticket_is_a_row_that_is_not_finished(tmp_path: Path) -> None:
    config = tickets.PRESETS["smoke"]
    fresh = Resources(Execution(tmp_path, quiet=True))
    pruned = replace(config, pruners=("magnitude",), seeds=(0,))
    first, *_ = tickets.points(pruned)
    first.compute(fresh, lambda text, share: None)
    table = tickets.run(pruned, replace(fresh, so_far=True))
    assert table["finished"].tolist() == [False]
    assert table["other"].tolist() == ["imp"]


def test_kept_on_dead_inputs(resources: Resources) -> None:
    smoke = dead_inputs.PRESETS["smoke"]
    config = replace(smoke, setup=replace(smoke.setup, model=NARROW.model), seeds=(0,))
    table = dead_inputs.run(config, resources).set_index("pruner")
    frame = torch.ones(32, 32, dtype=torch.bool)
    frame[8:24, 8:24] = False
    dead = frame.expand(3, 32, 32).flatten()
    train = load("framed-digits")
    never = ~train.inputs().ne(0).any(0).flatten()
    assert never[dead].all()
    model = build(NARROW.model, init="kaiming", seed=0)
    mask = prune(model, load("framed-digits").score_batches(1), compression=10.0).masks["1.weight"]
    assert table.loc["synflow", "dead_kept"] == int(mask[:, never].sum()) > 0
    assert set(table["dead_parameters"]) == {4 * int(never.sum())}
    assert table.loc["snip", "dead_kept"] == 0
    assert table.loc[dead_inputs.INFORMED, "dead_kept"] == 0


def test_informed_synflow_is_synflow_where_every_input_lives() -> None:
    model = build("fc", seed=0)
    masks = masking.dense(model)
    inputs = ScoreInputs([(torch.rand(4, 3, 32, 32) + 0.1, torch.arange(4))])
    plain = score(model, "synflow", masks, inputs)
    informed = dead_inputs.informed_synflow(model, masks, inputs)
    assert all(informed[name].equal(plain[name]) for name in masks)
    dark = ScoreInputs([(torch.zeros(4, 3, 32, 32), torch.arange(4))])
    with pytest.raises(RequestError):  # nothing is alive: no score at all
        prune(model, dark.batches, Pruning(dead_inputs.INFORMED), compression=2.0)


@pytest.mark.slow
def test_costs_are_measured_in_a_fresh_process(resources: Resources) -> None:
    table = cost.run(replace(cost.PRESETS["smoke"], pruners=("synflow",)), resources)
    (row,) = table.to_dict("records")
    weights = 348_200
    # One sample: forward, and backward to inputs and weights but for the first layer's inputs.
    once = 2 * (3 * weights - 307_200)
    assert row["flops"] <= 100 * once
    assert row["flops"] > once
    assert (row["samples"], row["parameters"], row["epoch_images"]) == (0, weights, 1438)
    assert row["epoch_flops"] == pytest.approx(1438 * once, rel=1e-6)
    assert min(row["seconds"], row["epoch_seconds"]) > 0
    again = cost.run(replace(cost.PRESETS["smoke"], pruners=("synflow",)), resources)
    assert again["seconds"].iloc[0] == row["seconds"]  # done is done


def test_iterations_find_what_the_critical_command_finds(resources: Resources) -> None:
    config = replace(iterations.PRESETS["smoke"], pruners=("synflow",), seeds=(0,), tolerance=0.0)
    table = iterations.run(config, resources)
    model = build("fc", init="xavier", seed=0)
    batches = load("digits").score_batches(10)
    for count, rows in table.groupby("iterations"):
        options = Pruning(iterations=int(str(count)))
        found = critical_compression(model, batches, options, scan=1, effective=False)
        assert set(rows["critical_compression"]) == {found.critical_compression}
        masks = prune(model, batches, options, compression=10.0).masks
        assert rows["kept"].tolist() == list(masking.kept_by_layer(masks).values())
