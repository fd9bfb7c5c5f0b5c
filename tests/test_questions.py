"""The reviewers' questions: tables against brute force, answers by hand, what is missing."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from analysis import answers, experiments, statistics
from analysis.experiments import (
    cost,
    dead_inputs,
    effective,
    iterations,
    low_compression,
    mode,
    outcomes,
    sanity,
    tickets,
    trained,
)
from analysis.points import Work
from collapse import masks as masking
from collapse import tables
from collapse.critical import critical_compression
from collapse.data import load
from collapse.errors import RequestError
from collapse.models import build
from collapse.options import Execution, Pruning, Setup
from collapse.pruning import prune
from collapse.scores import ScoreInputs, score
from tests.drawn_tables import TABLES, outcomes_table, table_of, tickets_table, trained_table

HASTY = replace(outcomes.HASTY, epochs=1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(Execution(runs=tmp_path_factory.mktemp("runs"), quiet=True))


@pytest.mark.parametrize("name", experiments.QUESTIONS)
def test_presets_schema_and_answers(name: str) -> None:
    """As the paper's experiments; and each answers its own table, in rows of the contract."""
    module = experiments.find(name)
    assert set(module.PRESETS) == {"smoke", "laptop", "paper"}
    assert all(isinstance(preset, module.Config) for preset in module.PRESETS.values())
    assert module.TABLE in tables.COLUMNS
    found = module.answer(TABLES[name])
    assert ["question", *found.columns] == list(tables.COLUMNS["answers"])
    assert len(found)
    assert found["estimate"].notna().all()


# --- Statistics ---------------------------------------------------------------------------------


def test_intervals_cover_as_often_as_they_say() -> None:
    """A thousand samples of five: 95 % of the intervals hold the mean, up to four deviations."""
    draw = np.random.default_rng(0)
    intervals = [statistics.mean(draw.normal(3, 2, 5)) for _ in range(1000)]
    share = np.mean([one.low <= 3 <= one.high for one in intervals])
    assert abs(share - 0.95) < 4 * (0.95 * 0.05 / 1000) ** 0.5
    by_hand = stats.t.interval(0.95, 3, loc=2.5, scale=np.std([1, 2, 3, 4], ddof=1) / 2)
    found = statistics.mean([1, 2, 3, 4])
    assert (found.low, found.high) == pytest.approx(by_hand)


def test_several_intervals_hold_at_once() -> None:
    """Five comparisons of nothing with nothing: all five hold in at least 95 % of the families."""
    draw = np.random.default_rng(1)
    level = statistics.together(5)
    families = [
        all(abs(one.mean) <= one.high - one.mean for one in family)
        for family in ([statistics.mean(x, level) for x in draw.normal(0, 1, (5, 6))]
                       for _ in range(300))
    ]  # fmt: skip
    assert np.mean(families) > 0.95 - 4 * (0.95 * 0.05 / 300) ** 0.5


def test_too_few_seeds_have_no_interval_but_the_word_for_it() -> None:
    for values, words in (
        ([], "not measured"),
        ([4.0], "4 (1 seed: too few for an interval)"),
        ([1.0, 3.0], "2 (2 seeds: too few for an interval)"),
    ):
        found = statistics.mean(values)
        assert not found.known
        assert found.words == words
    assert statistics.mean([2.0, 2.0, 2.0]).words == "2 [2, 2]"
    two = low_compression.answer(outcomes_table().query("seed < 2"))
    assert set(two["seeds"]) == {2}
    assert two["low"].isna().all()
    assert two["high"].isna().all()


def test_chance_overlap_is_that_of_random_masks() -> None:
    draw = torch.Generator().manual_seed(0)
    sizes, kept, other = (50, 200), (20, 10), (5, 100)
    shared = []
    for _ in range(3000):
        shared.append(0)
        for n, a, b in zip(sizes, kept, other, strict=True):
            ours = set(torch.randperm(n, generator=draw)[:a].tolist())
            shared[-1] += len(ours & set(torch.randperm(n, generator=draw)[:b].tolist()))
    mean, deviation = statistics.chance_overlap(kept, other, sizes)
    assert mean == 20 * 5 / 50 + 10 * 100 / 200
    assert np.mean(shared) == pytest.approx(mean, abs=4 * deviation / 3000**0.5)
    assert np.std(shared) == pytest.approx(deviation, rel=0.06)


# --- Answers by hand ----------------------------------------------------------------------------


def _one(found: pd.DataFrame, **columns: str) -> pd.Series:
    for column, value in columns.items():
        found = found[found[column].str.contains(value, regex=False)]
    assert len(found) == 1
    return found.iloc[0]


def test_differences_are_paired_by_seed() -> None:
    table = TABLES["sanity"].copy()
    table.loc[table["control"] == "shuffled", "best_top1"] += table["seed"]  # −2, −1, 0
    found = sanity.answer(table[table["compression"] == 10])
    row = _one(found, quantity="difference", of="magnitude, shuffled")
    assert (row["estimate"], row["seeds"], row["unit"]) == (-1.0, 3, "points")
    half = float(stats.t.ppf(1 - 0.025 / 2, 2)) / 3**0.5
    assert row["low"] == pytest.approx(-1 - half)
    assert row["level"] == 0.975  # of two controls at once
    assert row["against"] == "as it is"


def test_answers_of_each_question() -> None:
    low = low_compression.answer(outcomes_table())
    dense = _one(low, quantity="difference", of="synflow", against="dense", where="compression 100")
    assert dense["estimate"] == pytest.approx(-9.9)
    against = _one(low, of="magnitude", against="synflow", where="compression 100")
    assert against["estimate"] == 0
    share = effective.answer(outcomes_table())
    assert _one(share, quantity="effective", of="magnitude", where="100")["estimate"] == 2.0
    both = mode.answer(TABLES["mode"])
    assert _one(both, quantity="accuracy", of="synflow, train", where="100")["estimate"] == -5
    critical = _one(both, quantity="difference in log10", of="magnitude, train")
    assert (critical["estimate"], critical["against"]) == (0.0, "eval")
    weights = trained.answer(trained_table())
    row = _one(weights, quantity="difference in top-1", of="magnitude, trained", where="100")
    assert row["estimate"] == 3
    moved = _one(weights, quantity="other layers", of="magnitude", where="100")
    assert moved["estimate"] == 0
    imp = tickets.answer(tickets_table())
    assert _one(imp, quantity="top-1", of="snip", against="imp")["estimate"] == -20
    between = _one(imp, quantity="other layers, between two seeds", of="snip")
    assert (between["estimate"], between["seeds"]) == (0.25, 3)
    assert math.isnan(between["low"])  # pairs share seeds
    often = iterations.answer(TABLES["iterations"])
    row = _one(often, quantity="log10", of="synflow", where="iterations 100")
    assert row["estimate"] == pytest.approx(3)
    seconds = _one(cost.answer(TABLES["cost"]), quantity="time", of="snip")
    assert (seconds["estimate"], seconds["seeds"]) == (0.25, 1)
    dead = _one(dead_inputs.answer(TABLES["dead-inputs"]), quantity="dead inputs", of="synflow")
    assert dead["estimate"] == 75


def test_runs_without_a_living_weight_have_an_infinite_effective_compression() -> None:
    table = outcomes_table()
    table["effective_kept"] = 0
    found = answers.runs(table)
    assert np.isinf(found["effective_compression"]).all()
    assert found["effective_share"].isna().all()
    assert set(found.loc[found["compression"] == 100, "collapsed_layers"]) == {1}


# --- Tables against brute force -----------------------------------------------------------------


def test_outcomes_are_what_the_run_did(work: Work) -> None:
    config = sanity.Config(
        outcomes.TINY, HASTY, ("magnitude",), (10.0,), seeds=(0,), controls=("shuffled",)
    )
    table = sanity.run(config, work)
    assert list(table.columns) == list(tables.COLUMNS["outcomes"])
    model = build("fc", init="xavier", seed=0)
    masks = prune(model, options=Pruning("magnitude"), compression=10.0).masks
    for point, (_, rows) in zip(
        sanity.points(config), table.groupby("control", dropna=False, sort=False), strict=True
    ):
        assert rows["kept"].tolist() == list(masking.kept_by_layer(masks).values())
        run = point.experiment.run(work.execution.runs)
        assert set(rows["run"]) == {run.name}
        assert set(rows["best_top1"]) == {run.table("levels")["best_top1"].iloc[-1]}
    plain = table[table["control"].isna()]
    critical = critical_compression(
        model, [(torch.zeros(1, 3, 32, 32), torch.zeros(1).long())], Pruning("magnitude")
    )
    assert set(plain["critical_compression"]) == {critical.critical_compression}
    assert table[table["control"] == "shuffled"]["critical_compression"].isna().all()


def test_trained_weights_are_those_of_the_dense_run(work: Work) -> None:
    config = trained.Config(outcomes.TINY, HASTY, ("magnitude", "synflow"), (10.0,), seeds=(0,))
    table = trained.run(config, work)
    alone = table[(table["epochs"] == 0) & (table["pruner"] == "magnitude")]
    (dense,) = config.dense()
    weights = dense.experiment.run(work.execution.runs).folder / "weights.safetensors"
    batches = [(torch.zeros(1, 3, 32, 32), torch.zeros(1).long())]
    for kind, path in (("random", None), ("trained", str(weights))):
        model = build("fc", init="xavier", seed=0, weights=path)
        masks = prune(model, options=Pruning("magnitude"), compression=10.0).masks
        rows = alone[alone["weights"] == kind]
        assert rows["kept"].tolist() == list(masking.kept_by_layer(masks).values())
        found = critical_compression(model, batches, Pruning("magnitude"), effective=False)
        assert set(rows["critical_compression"]) == {found.critical_compression}
    # SynFlow's ranking changes from iteration to iteration: a run's last one is no critical one.
    runs = table[(table["epochs"] > 0) & (table["pruner"] == "synflow")]
    assert runs["critical_compression"].isna().all()
    assert sorted(runs["levels"].unique()) == [0, 1]


def test_points_that_follow_a_training_wait_for_it(work: Work, tmp_path: Path) -> None:
    config = trained.Config(outcomes.TINY, HASTY, ("magnitude",), (10.0,), seeds=(0,))
    fresh = Work(Execution(tmp_path, quiet=True), so_far=True)
    assert not trained.run(config, fresh)["finished"].any()
    assert not list(tmp_path.iterdir())
    *_, point = trained.points(config)
    point.check()
    again = replace(fresh, so_far=False)
    assert not point.busy(again)
    frame = point.compute(again, lambda text: None)  # trains first
    assert frame is not None
    assert set(frame["weights"]) == {"trained"}
    stored = point.stored(again)
    assert stored is not None
    pd.testing.assert_frame_equal(stored, frame, check_dtype=False)


def test_tickets_are_compared_weight_by_weight(work: Work) -> None:
    config = replace(tickets.PRESETS["smoke"], seeds=(0, 1))
    table = tickets.run(config, work)
    assert list(table.columns) == list(tables.COLUMNS["tickets"])
    assert table["finished"].all()
    masks = {}
    for point in tickets.points(config):
        folder = point.experiment.run(work.execution.runs).folder
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


def test_tickets_of_your_own(work: Work, tmp_path: Path) -> None:
    config = replace(tickets.PRESETS["smoke"], seeds=(0,))
    model = build("fc", init="xavier", seed=5)
    masks = prune(model, options=Pruning("random", seed=5), compression=10.0).masks
    masking.save_masks(masks, tmp_path / "mine.safetensors")
    table = tickets.run(replace(config, tickets=(tmp_path / "mine.safetensors",)), work)
    (mine,) = table[table["pruner"] == "mine"].to_dict("records")
    assert abs(mine["beyond_chance"]) < 0.05
    assert mine["best_top1"] is None or math.isnan(mine["best_top1"])
    fewer = prune(model, options=Pruning("random"), compression=20.0).masks
    masking.save_masks(fewer, tmp_path / "fewer.safetensors")
    masking.save_masks(masking.dense(build("conv")), tmp_path / "conv.safetensors")
    for name, message in {
        "none": "cannot be read",
        "fewer": r"keeps 17,410 weights: expected 34,820 \(compression 10\)",
        "conv": "of another network",
    }.items():
        with pytest.raises(RequestError, match=message):
            tickets.run(replace(config, tickets=(tmp_path / f"{name}.safetensors",)), work)


def test_a_missing_ticket_is_a_row_that_is_not_finished(tmp_path: Path) -> None:
    config = tickets.PRESETS["smoke"]
    fresh = Work(Execution(tmp_path, quiet=True))
    pruned = replace(config, pruners=("magnitude",), seeds=(0,))
    first, *_ = tickets.points(pruned)
    first.compute(fresh, lambda text: None)
    table = tickets.run(pruned, replace(fresh, so_far=True))
    assert table["finished"].tolist() == [False]
    assert table["other"].tolist() == ["imp"]


def test_kept_on_dead_inputs(work: Work) -> None:
    config = replace(dead_inputs.PRESETS["smoke"], seeds=(0,))
    table = dead_inputs.run(config, work).set_index("pruner")
    frame = torch.ones(32, 32, dtype=torch.bool)
    frame[8:24, 8:24] = False
    dead = frame.expand(3, 32, 32).flatten()
    train = load("framed-digits")
    never = ~train.inputs().ne(0).any(0).flatten()
    assert never[dead].all()
    model = build("fc", init="kaiming", seed=0)
    mask = prune(model, load("framed-digits").score_batches(1), compression=10.0).masks["1.weight"]
    assert table.loc["synflow", "dead_kept"] == int(mask[:, never].sum()) > 0
    assert set(table["dead_parameters"]) == {100 * int(never.sum())}
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


def test_costs_are_measured_in_a_fresh_process(work: Work) -> None:
    table = cost.run(replace(cost.PRESETS["smoke"], pruners=("synflow",)), work)
    (row,) = table.to_dict("records")
    weights = 348_200
    # One sample: forward, and backward to inputs and weights but for the first layer's inputs.
    once = 2 * (3 * weights - 307_200)
    assert row["flops"] <= 100 * once
    assert row["flops"] > once
    assert (row["samples"], row["parameters"], row["epoch_images"]) == (0, weights, 1438)
    assert row["epoch_flops"] == pytest.approx(1438 * once, rel=1e-6)
    assert min(row["seconds"], row["epoch_seconds"]) > 0
    again = cost.run(replace(cost.PRESETS["smoke"], pruners=("synflow",)), work)
    assert again["seconds"].iloc[0] == row["seconds"]  # done is done


def test_iterations_find_what_the_critical_command_finds(work: Work) -> None:
    config = replace(iterations.PRESETS["smoke"], pruners=("synflow",), seeds=(0,), tolerance=0.0)
    table = iterations.run(config, work)
    model = build("fc", init="xavier", seed=0)
    batches = load("digits").score_batches(10)
    for count, rows in table.groupby("iterations"):
        options = Pruning(iterations=int(str(count)))
        found = critical_compression(model, batches, options, scan=1, effective=False)
        assert set(rows["critical_compression"]) == {found.critical_compression}
        masks = prune(model, batches, options, compression=10.0).masks
        assert rows["kept"].tolist() == list(masking.kept_by_layer(masks).values())


# --- Mistakes, and the command ------------------------------------------------------------------


def test_wrong_requests() -> None:
    tiny = outcomes.TINY
    cases = [
        (lambda: effective.points(effective.Config(tiny, seeds=())), "--seeds: expected at least"),
        (lambda: effective.points(effective.Config(tiny, pruners=())), "--pruners: expected at"),
        (lambda: effective.points(effective.Config(tiny, pruners=("sinp",))), "nearest: snip"),
        (
            lambda: effective.points(effective.Config(tiny, compressions=())),
            "--compressions: expected at least one",
        ),
        (lambda: tickets.points(tickets.Config(tiny, levels=0)), "--levels: expected at least 1"),
        (lambda: iterations.points(iterations.Config(tiny, iterations=(0,))), "from 1 up"),
        (lambda: cost.points(cost.Config(Setup("fc"))), "--model fc: expected --models"),
        (lambda: cost.points(cost.Config(models=())), "--models: expected at least one"),
        (lambda: dead_inputs.points(dead_inputs.Config(datasets=())), "--datasets: expected at"),
        (
            lambda: dead_inputs.points(
                dead_inputs.Config(Setup("conv", dataset=""), datasets=("digits",))
            ),
            r"linear on all 3072 inputs: expected '0\.weight' of 'conv'",
        ),
        (
            lambda: sanity.points(
                sanity.Config(tiny, HASTY, ("magnitude",), controls=("shuffeld",))  # type: ignore[arg-type]  # the mistake
            )[1].check(),
            "unknown control 'shuffeld'; nearest: shuffled",
        ),
    ]
    for request, message in cases:
        with pytest.raises(RequestError, match=message):
            request()


def test_the_command_answers_and_goes_on(tmp_path: Path) -> None:
    """Two questions at once that share their runs; then nothing is left to do."""
    words = [
        *(sys.executable, "-m", "analysis", "questions", "--preset", "smoke", "--jobs", "2"),
        *("--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")),
        *("--only", "low-compression", "effective"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[1]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=root, env=environment, check=True
    )
    found, _ = tables.read(tmp_path / "out" / "answers.csv", "answers")
    assert set(found["question"]) == {"low-compression", "effective"}
    assert done.stdout.startswith(f"{len(found):,} answers")
    assert "effective: exit code 0" in done.stderr
    runs = sorted((tmp_path / "runs").glob("*/done.json"))
    # Dense and two pruners at 2, 10 and 1000, three seeds: shared runs are done once.
    assert len(runs) == 3 * (1 + 2 * 3)
    journals = [path.parent / "journal.jsonl" for path in runs]
    assert all(path.read_text().count('"finished"') == 1 for path in journals)


@pytest.mark.slow
def test_the_command_goes_on_after_a_kill(tmp_path: Path) -> None:
    """All nine, killed in the middle (the whole group, kill -9): nothing done is done again."""
    words = [sys.executable, "-m", "analysis", "questions", "--preset", "smoke", "--quiet"]
    words += ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    root = Path(__file__).parents[1]
    first = subprocess.Popen(words, cwd=root, start_new_session=True, stdout=subprocess.DEVNULL)
    while len(list((tmp_path / "runs").glob("*/done.json"))) < 10:
        assert first.poll() is None
        time.sleep(0.1)
    subprocess.run(["kill", "-9", "--", f"-{first.pid}"], check=True)
    first.wait()
    files = [
        *(tmp_path / "runs").glob("*/done.json"),
        *(tmp_path / "runs").glob("points/*.parquet"),
    ]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert subprocess.run(words, cwd=root, check=False).returncode == 0
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    found, _ = tables.read(tmp_path / "out" / "answers.csv", "answers")
    assert set(found["question"]) == set(experiments.QUESTIONS)


def test_the_commands_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from analysis.commands import questions

    for words, message in {
        ("--only", "sanety"): "unknown question 'sanety'; nearest: sanity",
        ("--preset", "desktop"): "unknown preset 'desktop'",
        ("--jobs", "0"): "--jobs: expected at least 1, got 0",
        ("--out", "/dev/null/x"): "cannot write",
    }.items():
        with pytest.raises(SystemExit) as stop:
            questions.run(["--runs", str(tmp_path), *words])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


KEPT = Path(__file__).parents[1] / "analysis" / "results" / "questions"


@pytest.mark.parametrize("name", experiments.QUESTIONS)
def test_kept_answers_are_those_of_the_kept_tables(name: str) -> None:
    """docs/questions.md quotes them; every one is whole, and trained with five seeds or more."""
    kept, _ = tables.read(KEPT / "answers.csv", "answers")
    table, about = tables.read(KEPT / f"{name}.parquet", experiments.find(name).TABLE)
    assert table["finished"].astype(bool).all()
    assert "--preset laptop" in about["command"]
    found = experiments.find(name).answer(table)
    ours = kept[kept["question"] == name]
    assert ours["of"].tolist() == found["of"].tolist()
    for column in ("estimate", "low", "high"):
        np.testing.assert_allclose(
            ours[column].to_numpy(float), found[column].to_numpy(float), rtol=1e-9
        )
    trainings = found[found["quantity"].str.contains("accuracy")]
    assert (trainings["seeds"] >= 5).all()


def test_nothing_finished_gives_no_answer() -> None:
    empty = table_of("outcomes", [{"run": "x", "finished": False}])
    assert effective.answer(empty).empty
