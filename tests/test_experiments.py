"""The experiments behind the figures: schemas, numbers by hand, and what interruption leaves."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import experiments
from analysis.experiments import accuracy, cuts, densities, dynamics, grid, layer_scores, levels
from analysis.experiments import neurons as neuron_sums
from analysis.points import Measured, Work, complete
from collapse import masks as masking
from collapse import tables
from collapse.commands.critical import measure
from collapse.errors import RequestError
from collapse.experiments import Experiment
from collapse.models import build
from collapse.options import Execution, Setup
from collapse.scores import ScoreInputs, score

FC = Setup("fc", init="xavier")
TRAINING = replace(accuracy.QUICK, epochs=1)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(Execution(runs=tmp_path / "runs", quiet=True))


def _weights(seed: int = 0) -> dict[str, torch.Tensor]:
    model = build("fc", input_shape=(3, 32, 32), classes=10, init="xavier", seed=seed)
    return {n: p.detach() for n, p in model.named_parameters() if p.ndim > 1}


def _synflow() -> tuple[dict[str, torch.Tensor], float]:
    model = build("fc", input_shape=(3, 32, 32), classes=10, init="xavier", seed=0)
    inputs = ScoreInputs([(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))])
    scores = score(model, "synflow", masking.dense(model), inputs)
    assert scores.total is not None
    return dict(scores), scores.total


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_presets_and_schema(name: str) -> None:
    """Every experiment has the three presets, a table of the contract and says what it is."""
    module = experiments.find(name)
    assert set(module.PRESETS) == {"smoke", "laptop", "paper"}
    assert all(isinstance(preset, module.Config) for preset in module.PRESETS.values())
    assert module.TABLE in tables.COLUMNS
    assert module.Config.__doc__


def test_densities_are_those_of_the_largest_weights(work: Work) -> None:
    config = densities.Config(FC, pruners=("magnitude",), compressions=(1.0, 4.0, 50.0))
    table = densities.run(config, work)
    assert list(table.columns)[: len(tables.COLUMNS["layers"])] == list(tables.COLUMNS["layers"])
    weights = _weights()
    together = torch.cat([w.abs().flatten() for w in weights.values()])
    for compression, rows in table.groupby("compression"):
        keep = math.ceil(len(together) / float(str(compression)))
        threshold = together.sort(descending=True).values[keep - 1]
        by_hand = [int((w.abs() >= threshold).sum()) for w in weights.values()]
        assert rows["kept"].tolist() == by_hand
        np.testing.assert_allclose(rows["density"], rows["kept"] / rows["parameters"])


def test_one_ranking_gives_the_masks_of_separate_prunings(work: Work) -> None:
    """A one-shot pruner is scored once for all compressions; each alone gives the same."""
    config = densities.Config(FC, pruners=("snip",), compressions=(2.0, 30.0))
    together = densities.run(config, work)
    for compression in config.compressions or ():
        alone = densities.run(replace(config, compressions=(compression,)), work)
        rows = together[together["compression"] == compression]
        assert rows["kept"].tolist() == alone["kept"].tolist()
        assert rows["score_sum"].tolist() == alone["score_sum"].tolist()


def test_cut_ratio_of_one_iteration_is_the_pruned_share_of_mass(work: Work) -> None:
    config = cuts.Config(FC, compressions=(10.0,), iterations=(1, 4), schedules=("exponential",))
    table = cuts.run(config, work)
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


def test_certified_schedule_stays_below_the_cut(work: Work) -> None:
    table = cuts.run(cuts.Config(FC, compressions=(100.0,), iterations=(1, 5)), work)
    proved = table[table["schedule"] == "certified"]
    assert len(proved) == 1
    assert proved["max_prune_to_cut_ratio"].iloc[0] < 1
    assert proved["collapsed_layers"].iloc[0] == 0
    assert len(table) == 5


def test_neurons_are_sums_of_rows_and_columns(work: Work) -> None:
    table = neuron_sums.run(neuron_sums.Config(FC), work)
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


def test_layer_scores_are_means_over_weights(work: Work) -> None:
    table = layer_scores.run(layer_scores.Config(FC, pruners=("magnitude", "synflow")), work)
    magnitude = table[table["pruner"] == "magnitude"]
    by_hand = [float(w.double().abs().mean()) for w in _weights().values()]
    np.testing.assert_allclose(magnitude["score_mean"].to_numpy(float), by_hand, rtol=1e-6)
    assert (magnitude["elements"] - magnitude["parameters"]).tolist() == [100] * 5 + [10]
    sums = table.loc[table["pruner"] == "synflow", "score_sum"].astype(float)
    assert sums.max() / sums.min() - 1 < 1e-4


def test_accuracy_is_the_best_test_of_each_run_with_its_critical_compression(work: Work) -> None:
    config = accuracy.Config(
        FC, TRAINING, pruners=("magnitude",), compressions=(1.0, 5.0), seeds=(0,)
    )
    table = accuracy.run(config, work)
    assert list(table.columns)[: len(tables.COLUMNS["accuracy"])] == list(
        tables.COLUMNS["accuracy"]
    )
    for point, row in zip(accuracy.points(config), table.to_dict("records"), strict=True):
        training = point.experiment.run(work.execution.runs).table("training")
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


def test_levels_keep_exactly_what_was_asked_for(work: Work) -> None:
    config = levels.Config(FC, TRAINING, levels=(1, 2), compressions=(30.0,))
    table = levels.run(config, work)
    assert table["levels"].tolist() == [1, 2]
    assert set(table["kept"]) == {math.ceil(348_200 / 30)}
    for point, row in zip(levels.points(config), table.to_dict("records"), strict=True):
        rounds = point.experiment.run(work.execution.runs).table("levels")
        assert row["best_top1"] == rounds["best_top1"].iloc[-1]
        assert len(rounds) == row["levels"] + 1


def test_dynamics_start_at_the_initial_weights(work: Work) -> None:
    table = dynamics.run(dynamics.Config(FC, TRAINING, seeds=(0, 1)), work)
    for seed, rows in table[table["epoch"] == 0].groupby("seed"):
        by_hand = [float(w.double().square().mean()) for w in _weights(int(str(seed))).values()]
        np.testing.assert_allclose(rows["score_mean"].to_numpy(float), by_hand, rtol=1e-6)
    assert sorted(table["epoch"].unique()) == [0, 1]


def test_grid_is_accuracy_panel_by_panel(work: Work) -> None:
    config = replace(
        grid.PRESETS["smoke"], models=("fc",), pruners=("magnitude",), seeds=(0,), critical=True
    )
    table = grid.run(config, work)
    (panel,) = grid.panels(config)
    pd.testing.assert_frame_equal(table, accuracy.run(panel, work))


def test_grid_of_the_paper_has_its_twelve_panels() -> None:
    panels = grid.panels(grid.PRESETS["paper"])
    assert len({(panel.setup.dataset, panel.setup.model) for panel in panels}) == 12
    assert {len(panel.compressions or ()) for panel in panels} == {13}


# --- Interruption -------------------------------------------------------------------------------


def test_a_point_is_never_measured_twice(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    config = cuts.Config(FC, compressions=(10.0,), iterations=(1,), schedules=("linear",))
    first = cuts.run(config, work)
    monkeypatch.setattr(cuts, "prune", _forbidden)
    pd.testing.assert_frame_equal(cuts.run(config, work), first)
    with pytest.raises(AssertionError, match="again"):
        cuts.run(replace(config, seed=1), work)


def _forbidden(*_: object, **__: object) -> None:
    raise AssertionError("measured again")


def test_what_was_done_before_an_interruption_is_kept(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cuts.Config(FC, compressions=(10.0, 20.0), iterations=(1,), schedules=("linear",))
    real = cuts.prune
    calls: list[float] = []

    def interrupted(*args: object, compression: float, **kwargs: object) -> object:
        calls.append(compression)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, compression=compression, **kwargs)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(cuts, "prune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cuts.run(config, work)
    so_far = cuts.run(config, replace(work, so_far=True))
    assert so_far["finished"].tolist() == [True, False]
    assert so_far["compression"].tolist() == [10.0, 20.0]
    assert pd.isna(so_far["max_prune_to_cut_ratio"].iloc[1])
    done = cuts.run(config, work)
    assert done["finished"].all()
    assert calls == [10.0, 20.0, 20.0]


def test_a_point_that_cannot_be_read_is_done_again(work: Work) -> None:
    config = cuts.Config(FC, compressions=(10.0,), iterations=(1,), schedules=("linear",))
    first = cuts.run(config, work)
    (file,) = (work.execution.runs / "points").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    pd.testing.assert_frame_equal(cuts.run(config, work), first)


def test_a_failed_training_is_a_point_that_is_not_finished(work: Work) -> None:
    said: list[str] = []
    config = accuracy.Config(
        FC,
        replace(TRAINING, lr=1e6),
        pruners=("random",),
        compressions=(1.0, 2.0),
        seeds=(0,),
    )
    table = accuracy.run(config, replace(work, say=said.append))
    assert not table["finished"].any()
    assert "nan" in said[0] or "finite" in said[0]


def test_different_requests_are_different_points(work: Work) -> None:
    """Everything that a table's rows depend on is in a point's name."""
    base = layer_scores.Config(FC, pruners=("snip",))
    changes = [
        base,
        replace(base, mode="train"),
        replace(base, seed=1),
        replace(base, setup=replace(FC, init="kaiming")),
        replace(base, setup=replace(FC, samples=5)),
        replace(base, setup=replace(FC, samples_per_class=2)),
        replace(base, setup=replace(FC, model="conv")),
    ]
    paths = {point._path(work) for config in changes for point in layer_scores.points(config)}
    assert len(paths) == len(changes)
    # A seed's data and device do not name a point; other places of the same data neither.
    same = layer_scores.points(replace(base, setup=replace(FC, device="cpu")))
    assert same[0]._path(work) in paths


def test_samples_bound_what_is_scored_on() -> None:
    from collapse.data import load

    digits = load("digits")
    for samples in (1, 7, 25):
        batches = digits.score_batches(samples=samples)
        assert sum(len(y) for _, y in batches) == samples
    assert len(set(digits.score_batches(samples=10)[0][1].tolist())) == 10
    with pytest.raises(RequestError, match="samples: expected at least 1, got 0"):
        digits.score_batches(samples=0)


def test_the_experiments_critical_compression_is_the_commands(work: Work) -> None:
    from collapse.preparation import prepare

    config = accuracy.Config(FC, pruners=("synflow",), seeds=(1,))
    table = complete(accuracy.critical_points(config), "critical", work)
    prepared = prepare(FC, 1, labelled=False)
    options = Experiment(FC).pruning
    row, _ = measure(FC, prepared, replace(options, pruner="synflow", seed=1), effective=False)
    assert table["critical_compression"].iloc[0] == row["critical_compression"]


# --- Wrong requests -----------------------------------------------------------------------------


def test_wrong_requests(work: Work) -> None:
    with pytest.raises(RequestError, match="--levels: expected numbers of at least 1"):
        levels.run(levels.Config(FC, levels=(0,)), work)
    with pytest.raises(RequestError, match="unknown pruner 'synflw'; nearest: synflow"):
        densities.run(densities.Config(FC, pruners=("synflw",)), work)
    with pytest.raises(RequestError, match="--pruners: expected at least one of random"):
        densities.run(densities.Config(FC, pruners=()), work)
    with pytest.raises(RequestError, match="expected a step above 0"):
        densities.run(densities.Config(FC, log2_step=0), work)
    with pytest.raises(RequestError, match="above the maximum"):
        densities.run(densities.Config(FC, compressions=(1e9,), pruners=("synflow",)), work)
    with pytest.raises(RequestError, match="--model fc: expected --models fc"):
        grid.run(grid.Config(Setup("fc", dataset="")), work)
    with pytest.raises(RequestError, match="--dataset digits: expected --datasets digits"):
        grid.run(grid.Config(Setup("")), work)
    with pytest.raises(RequestError, match="--models: expected at least one, got none"):
        grid.run(grid.Config(models=()), work)
    with pytest.raises(RequestError, match="cannot write"):
        cuts.run(cuts.Config(FC), Work(Execution(runs=Path("/proc/runs"), quiet=True)))
    with pytest.raises(RequestError, match="nothing to do"):
        dynamics.run(dynamics.Config(FC, seeds=()), work)
    with pytest.raises(RequestError, match="unknown experiment 'density'; nearest: densities"):
        experiments.find("density")


def test_the_command(work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from analysis.commands.experiment import run

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            run("cuts", [*words, "--runs", str(tmp_path / "runs"), "--quiet"])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    small = ("--preset", "smoke", "--model", "fc", "--iterations", "1", "--schedules", "linear")
    out = tmp_path / "cuts.parquet"
    assert call(*small, "--so-far")[0] == 0
    code, _, err = call(*small, "--out", str(out))
    assert (code, err) == (0, "")
    frame, metadata = tables.read(out, "cuts")
    assert frame["compression"].tolist() == [10.0, 1000.0]
    assert metadata["device"] == "cpu"
    code, text, _ = call(*small)
    assert code == 0
    assert text.startswith("model,dataset")
    code, _, err = call("--preset", "papr")
    assert (code, err) == (2, "error: unknown preset 'papr'; nearest: paper\n")
    with pytest.raises(SystemExit):
        run("cuts", ["--preset"])
    error = "error: --preset: expected one of laptop, paper, smoke, got nothing\n"
    assert capsys.readouterr().err == error
    code, _, err = call(*small, "--out", "table.xlsx")
    assert code == 2
    assert "expected a suffix" in err
    code, _, err = call("--prset", "paper")
    assert code == 2
    assert "--preset" in err


def test_points_that_are_unlike_share_a_table(work: Work) -> None:
    """Columns come in the contract's order, whatever the points' rows hold."""
    row = {"model": "m", "compression": 1.0}
    points = [
        Measured("cuts", {"n": n}, row, "p", lambda n=n: _cut_rows(n))
        for n in (1, 2)
    ]  # fmt: skip
    table = complete(points, "cuts", work)
    assert list(table.columns) == [*tables.COLUMNS["cuts"], "extra"]
    assert table["extra"].isna().tolist() == [True, False]


def _cut_rows(n: int) -> pd.DataFrame:
    frame = pd.DataFrame([dict.fromkeys(tables.COLUMNS["cuts"][:-1], n)])
    return frame if n == 1 else frame.assign(extra=5)
