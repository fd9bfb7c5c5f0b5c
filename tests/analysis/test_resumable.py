"""Points of experiments: never done twice, whole after any interruption, wrong requests refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import experiments
from analysis.experiments import accuracy, cuts, densities, dynamics, grid, layer_scores, levels
from analysis.experiments import neurons as neuron_sums
from analysis.resumable import Measured, Resources, complete
from collapse import pruning, tables
from collapse.critical.table import measure
from collapse.errors import RequestError
from collapse.options import Execution, Setup
from collapse.runs import Experiment
from tests.analysis.test_experiments import FC, TRAINING


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return Resources(Execution(runs=tmp_path / "runs", quiet=True))


def test_a_point_is_never_measured_twice(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cuts.Config(FC, compressions=(10.0,), iterations=(1,), schedules=("linear",))
    first = cuts.run(config, resources)
    monkeypatch.setattr(pruning, "prune", _forbidden)
    pd.testing.assert_frame_equal(cuts.run(config, resources), first)
    with pytest.raises(AssertionError, match="again"):
        cuts.run(replace(config, seed=1), resources)


def _forbidden(*_: object, **__: object) -> None:
    raise AssertionError("measured again")


def test_what_was_done_before_an_interruption_is_kept(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cuts.Config(FC, compressions=(10.0, 20.0), iterations=(1,), schedules=("linear",))
    real = pruning.prune
    calls: list[float] = []

    def interrupted(*args: object, compression: float, **kwargs: object) -> object:
        calls.append(compression)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, compression=compression, **kwargs)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(pruning, "prune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cuts.run(config, resources)
    so_far = cuts.run(config, replace(resources, so_far=True))
    assert so_far["finished"].tolist() == [True, False]
    assert so_far["compression"].tolist() == [10.0, 20.0]
    assert pd.isna(so_far["max_prune_to_cut_ratio"].iloc[1])
    done = cuts.run(config, resources)
    assert done["finished"].all()
    assert calls == [10.0, 20.0, 20.0]


def test_a_point_that_cannot_be_read_is_done_again(resources: Resources) -> None:
    config = cuts.Config(FC, compressions=(10.0,), iterations=(1,), schedules=("linear",))
    first = cuts.run(config, resources)
    (file,) = (resources.execution.runs / "points").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    pd.testing.assert_frame_equal(cuts.run(config, resources), first)


def test_a_failed_training_is_a_point_that_is_not_finished(resources: Resources) -> None:
    said: list[str] = []
    config = accuracy.Config(
        FC,
        replace(TRAINING, lr=1e6),
        pruners=("random",),
        compressions=(1.0, 2.0),
        seeds=(0,),
    )
    table = accuracy.run(config, replace(resources, say=said.append))
    assert not table["finished"].any()
    assert len(said) == 2
    assert all("the loss is nan at step" in line for line in said)


def test_different_requests_are_different_points(resources: Resources) -> None:
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
    paths = {point._path(resources) for config in changes for point in layer_scores.points(config)}
    assert len(paths) == len(changes)
    # A seed's data and device do not name a point; other places of the same data neither.
    same = layer_scores.points(replace(base, setup=replace(FC, device="cpu")))
    assert same[0]._path(resources) in paths


def test_samples_bound_what_is_scored_on() -> None:
    from collapse.data import load

    digits = load("digits")
    for samples in (1, 7, 25):
        batches = digits.score_batches(samples=samples)
        assert sum(len(y) for _, y in batches) == samples
    assert len(set(digits.score_batches(samples=10)[0][1].tolist())) == 10
    with pytest.raises(RequestError, match="samples: expected at least 1, got 0"):
        digits.score_batches(samples=0)


def test_the_experiments_critical_compression_is_the_commands(resources: Resources) -> None:
    from collapse.problem import prepare

    config = accuracy.Config(FC, pruners=("magnitude",), seeds=(1,))
    table = complete(accuracy.critical_points(config), "critical", resources)
    prepared = prepare(FC, 1, labelled=False)
    options = Experiment(FC).pruning
    row = measure(FC, prepared, replace(options, pruner="magnitude", seed=1), effective=False)
    assert table["critical_compression"].iloc[0] == row["critical_compression"]


def test_a_damaged_finished_run_is_done_again(
    resources: Resources, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dynamics.Config(FC, TRAINING)
    first = dynamics.run(config, resources)
    (folder,) = (
        path for path in resources.execution.runs.iterdir() if (path / "done.json").exists()
    )
    (folder / "score_dynamics.parquet").write_bytes(b"PAR1")
    so_far = dynamics.run(config, replace(resources, so_far=True))
    assert so_far["finished"].tolist() == [False]
    pd.testing.assert_frame_equal(dynamics.run(config, resources), first)
    assert "is corrupt" in capsys.readouterr().err


def test_a_flipped_bit_in_a_point_is_noticed(resources: Resources) -> None:
    config = cuts.Config(FC, compressions=(10.0,), iterations=(1,), schedules=("linear",))
    first = cuts.run(config, resources)
    (file,) = (resources.execution.runs / "points").iterdir()
    whole = file.read_bytes()
    for place in range(4, len(whole), len(whole) // 60):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        pd.testing.assert_frame_equal(cuts.run(config, resources), first)


# --- Wrong requests -----------------------------------------------------------------------------


def test_wrong_requests(resources: Resources) -> None:
    with pytest.raises(RequestError, match="--levels: expected numbers of at least 1"):
        levels.run(levels.Config(FC, levels=(0,)), resources)
    with pytest.raises(RequestError, match="unknown pruner 'synflw'; nearest: synflow"):
        densities.run(densities.Config(FC, pruners=("synflw",)), resources)
    with pytest.raises(RequestError, match="--pruners: expected at least one of random"):
        densities.run(densities.Config(FC, pruners=()), resources)
    with pytest.raises(RequestError, match="expected a step above 0"):
        densities.run(densities.Config(FC, log2_step=0), resources)
    with pytest.raises(RequestError, match="above the maximum"):
        densities.run(densities.Config(FC, compressions=(1e9,), pruners=("synflow",)), resources)
    with pytest.raises(RequestError, match="--compressions: expected at least one, got none"):
        densities.run(densities.Config(FC, compressions=()), resources)
    with pytest.raises(RequestError, match="from 1 up, got 0.5"):
        levels.run(levels.Config(FC, TRAINING, compressions=(0.5,)), resources)
    for step in (1e-9, float("inf"), float("nan")):
        with pytest.raises(RequestError, match="expected a step above 0"):
            densities.run(densities.Config(FC, log2_step=step), resources)
    with pytest.raises(RequestError, match="--model fc: expected --models fc"):
        grid.run(grid.Config(Setup("fc", dataset="")), resources)
    with pytest.raises(RequestError, match="--dataset digits: expected --datasets digits"):
        grid.run(grid.Config(Setup("")), resources)
    with pytest.raises(RequestError, match="--models: expected at least one, got none"):
        grid.run(grid.Config(models=()), resources)
    with pytest.raises(RequestError, match="cannot write"):
        cuts.run(cuts.Config(FC), Resources(Execution(runs=Path("/proc/runs"), quiet=True)))
    with pytest.raises(RequestError, match="nothing to do"):
        dynamics.run(dynamics.Config(FC, seeds=()), resources)
    with pytest.raises(RequestError, match="unknown experiment 'density'; nearest: densities"):
        experiments.find("density")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_samples": 15}, "--train-samples: expected a positive multiple of the 10 classes"),
        ({"train_samples": 100_000}, "expected at least 10000"),
        ({"test_samples": 3}, "--test-samples: expected a positive multiple"),
        ({"lr": -1.0}, "--lr: expected a learning rate above 0"),
    ],
)
def test_wrong_training_is_refused_before_the_first_point(
    resources: Resources, changes: dict[str, object], message: str
) -> None:
    """One line for all points, not one each; nothing is written."""
    config = levels.Config(FC, replace(TRAINING, **changes), compressions=(2.0, 3.0))
    with pytest.raises(RequestError, match=message):
        levels.run(config, resources)
    assert not list(resources.execution.runs.glob("*/*.json"))


def test_wrong_networks_and_targets_are_refused_before_the_first_point(
    resources: Resources,
) -> None:
    small = replace(grid.PRESETS["smoke"], pruners=("random",), seeds=(0,))
    with pytest.raises(RequestError, match="unknown model 'fcc'"):
        grid.run(replace(small, models=("fc", "fcc")), resources)
    with pytest.raises(RequestError, match="above the maximum: 348200 parameters in 6 layers"):
        grid.run(replace(small, models=("fc",), compressions=(1.0, 1e6)), resources)
    config = dynamics.Config(FC, TRAINING)
    with pytest.raises(RequestError, match="--save-every: expected at least 1, got 0"):
        dynamics.run(config, Resources(replace(resources.execution, save_every=0)))


def test_networks_without_hidden_units_have_no_neurons(
    resources: Resources, module_named: Callable[[str, str], None]
) -> None:
    module_named(
        "single",
        "import torch.nn as nn\nNet = lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))",
    )
    with pytest.raises(RequestError, match="no hidden unit lies between two weights"):
        neuron_sums.run(neuron_sums.Config(Setup("single:Net"), pruners=("synflow",)), resources)


def test_the_command(
    resources: Resources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_points_that_are_unlike_share_a_table(resources: Resources) -> None:
    """Columns come in the contract's order, whatever the points' rows hold."""
    row = {"model": "m", "compression": 1.0}
    points = [
        Measured("cuts", {"n": n}, row, "p", lambda n=n: _cut_rows(n))
        for n in (1, 2)
    ]  # fmt: skip
    table = complete(points, "cuts", resources)
    assert list(table.columns) == [*tables.COLUMNS["cuts"], "extra"]
    assert table["extra"].isna().tolist() == [True, False]


def _cut_rows(n: int) -> pd.DataFrame:
    frame = pd.DataFrame([dict.fromkeys(tables.COLUMNS["cuts"][:-1], n)])
    return frame if n == 1 else frame.assign(extra=5)
