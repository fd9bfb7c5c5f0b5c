"""Sweeps: specifications, shards, failures, kills, Ray clusters that lose a node; their tables."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from analysis import __main__ as analysis
from analysis.commands.collect import collected
from analysis.sweeps import spec, sweeping
from analysis.sweeps.overview import overview
from collapse import tables
from collapse.errors import RequestError
from collapse.options import Execution
from tests.conftest import Run
from tests.runs.killing import GRID

# The command as `run` takes one.
COMMAND = SimpleNamespace(run=lambda: analysis.main(sys.argv[1:]))


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path


# --- Specifications ---------------------------------------------------------------------------


def test_the_grid_is_a_product_with_the_last_option_fastest(grid: Path) -> None:
    found = [
        (e.pruning.pruner, e.compression, e.pruning.seed, e.training.epochs, e.rewinding.levels)
        for e in spec.read(grid)
    ]
    assert found == [
        (pruner, compression, seed, 2, 0)
        for pruner in ("random", "magnitude")
        for compression in (1.0, 10.0)
        for seed in (0, 1)
    ]


def test_options_that_take_a_list(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('model = "fc"\nlr_drops = [3, 5]\ninput-shape = [[3, 8, 8], [3, 4, 4]]\n')
    found = [(e.training.lr_drops, e.setup.input_shape) for e in spec.read(path)]
    assert found == [((3, 5), (3, 8, 8)), ((3, 5), (3, 4, 4))]


def test_pruners_are_the_commands_unless_named(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('model = "fc"\n')
    assert spec.read(path)[0].pruning.pruner == "synflow"
    path.write_text('model = "fc"\nlevels = 2\n')
    assert spec.read(path)[0].pruning.pruner == "magnitude"


WRONG_SPECS = {
    'model = "fc"\ncompresion = 3': "unknown option 'compresion'; nearest: compression",
    "seed = 1": 'names no model: expected model = "NAME"',
    'model = "fc"\ncompression = "ten"': "could not convert string to float: 'ten'",
    'model = "fc"\nscope = "locally"': "invalid choice",
    'model = "fc"\nseed = []': "seed is empty: expected at least one value",
    'model = "fc"\nseed = [0, 0]': "seed: expected different values, got '0' twice",
    'model = "fc"\nseed = -1': "--seed: expected a number from 0 to 2^63 - 1, got -1",
    'model = "fc"\niterations = 0': "--iterations: expected at least 1, got 0",
    'model = "fc"\ninit = "kaimin"': "unknown init 'kaimin'; nearest: kaiming",
    'model = "fc"\nsamples_per_class = 0': "--samples-per-class: expected at least 1, got 0",
    'model = "fc"\nbatch-size = 0': "--batch-size: expected at least 1, got 0",
    'model = "vgg61"': "unknown model 'vgg61'",
    'model = "fc"\ndevice = "cpu"': "device is no part of a run; give --device on the command line",
    "model = ": "is no TOML",
}


@pytest.mark.parametrize("text", WRONG_SPECS)
def test_wrong_specifications(text: str, run: Run, grid: Path) -> None:
    grid.write_text(text)
    for command in ("sweep", "status", "collect"):
        code, out, err = run(COMMAND, f"{command} {grid}")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: spec '{grid}'")
        assert WRONG_SPECS[text] in err


MISTAKES = {
    "sweep none.toml": "spec 'none.toml' cannot be read",
    "swep grid.toml": "unknown experiment 'swep'; nearest: sweep",
    "sweep grid.toml --shard 3/2": "--shard: expected i/n with i from 1 to n, got '3/2'",
    "sweep grid.toml --shard half": "--shard: expected i/n",
    "sweep grid.toml --retries -1": "--retries: expected 0 or more, got -1",
    "sweep grid.toml --time-limit 0": "--time-limit: expected seconds above 0, got 0.0",
    "sweep grid.toml --cpus-per-run 0": "expected --cpus-per-run above 0",
    "sweep grid.toml --save-every 0": "--save-every: expected at least 1, got 0",
    "sweep grid.toml --runs grid.toml": "--runs 'grid.toml': expected a folder, but 'grid.toml' is",
    "status grid.toml --runs grid.toml/x": "expected a folder, but 'grid.toml' is a file",
    "collect grid.toml --out t.txt": "'t.txt': expected a suffix of",
    "collect grid.toml --table critical": "critical",
    "status grid.toml --run x": "unknown option '--run'; nearest: --runs",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: str, run: Run, grid: Path) -> None:
    code, out, err = run(COMMAND, arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert MISTAKES[arguments] in err
    assert [path.name for path in grid.parent.iterdir()] == ["grid.toml"]


# --- Running ----------------------------------------------------------------------------------


def test_a_sweep_runs_every_point_once_and_prints_how_far_it_is(run: Run, grid: Path) -> None:
    code, out, err = run(COMMAND, f"sweep {grid}")
    assert code == 0
    assert "6 runs: 6 done" in out  # nothing pruned is one run whatever would have pruned
    lines = err.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("[1/6] done in ")
    assert "s left)" in lines[0]
    events = Path("runs").glob("*/journal.jsonl")
    assert sum(path.read_text().count("started") for path in events) == 6
    code, again, _ = run(COMMAND, f"sweep {grid} --quiet")
    assert (code, again) == (0, out)
    events = Path("runs").glob("*/journal.jsonl")
    assert sum(path.read_text().count("started") for path in events) == 6


def test_status_and_collect_at_any_moment(run: Run, grid: Path, tmp_path: Path) -> None:
    assert "6 runs: 6 waiting" in run(COMMAND, f"status {grid}")[1]
    out = tmp_path / "t.parquet"
    assert "0 rows of 0 runs" in run(COMMAND, f"collect {grid} --out {out}")[1]
    assert len(tables.read(out, "training")[0]) == 0
    assert run(COMMAND, f"sweep {grid} --quiet --shard 1/3")[0] == 0
    _, printed, _ = run(COMMAND, f"status {grid} --out {tmp_path / 's.csv'}")
    assert "2 done" in printed
    assert "4 waiting" in printed
    status = tables.read(tmp_path / "s.csv", "status")[0]
    assert status["state"].to_list() == ["done", "waiting", "waiting"] * 2

    # A point that is half-way gives the rows that it has.
    experiments = spec.read(grid)

    def stop(experiment, state) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweeping.here(experiments[1:2], Execution(), lambda outcome: None, on_boundary=stop)
    assert overview(experiments, Path("runs"))["state"].to_list()[1] == "paused"
    frame, _ = collected(experiments, Path("runs"), "training")
    assert frame.groupby("run")["finished"].first().sum() == 2
    rows = frame[~frame["finished"].astype(bool)]
    assert rows["epoch"].to_list() == [0, 1, 1] * 2  # of both pruners' points
    assert set(rows["seed"]) == {1}

    assert run(COMMAND, f"sweep {grid} --quiet")[0] == 0
    code, printed, _ = run(COMMAND, f"collect {grid} --table layers --out {tmp_path / 'l.json'}")
    assert (code, printed.split(":")[0]) == (0, "48 rows of 6 runs, 6 of them finished")
    layers = tables.read(tmp_path / "l.json", "layers")[0]
    assert len(layers) == 8 * 6  # each point has its rows, also those that share a run
    assert set(layers["pruner"]) == {"random", "magnitude"}
    csv = run(COMMAND, f"collect {grid} --table levels")[1].splitlines()
    assert csv[0].startswith("model,dataset,input_shape,pruner")
    assert len(csv) == 1 + 8

    # Another run's table: whole, and wrong here.
    one, other = (experiment.run(Path("runs")) for experiment in experiments[1:3])
    (one.folder / "training.parquet").write_bytes((other.folder / "training.parquet").read_bytes())
    _, printed, _ = run(COMMAND, f"status {grid}")
    assert "6 runs: 5 done, 1 corrupt" in printed
    assert "training.parquet does not have its checksum" in " ".join(printed.split())
    code, printed, err = run(COMMAND, f"collect {grid} --out {out}")
    assert (code, printed.split(":")[0]) == (1, "30 rows of 5 runs, 5 of them finished")
    assert err.startswith(f"run {one.name} is corrupt (training.parquet does not have its checks")
    assert one.name not in set(tables.read(out, "training")[0]["run"])


def test_one_failed_run_takes_nothing_down(run: Run, grid: Path) -> None:
    grid.write_text(GRID.replace("[1, 10]", "[10, 1e6]"))
    code, out, err = run(COMMAND, f"sweep {grid}")
    assert code == 1
    assert "8 runs: " in out
    assert "4 done" in out
    assert "4 failed" in out
    assert err.count("compression 1e+06 is above the maximum") == 4


def test_an_unexpected_error_is_retried_from_the_last_epoch(
    run: Run, grid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collapse.train import Trainer

    epoch, tried = Trainer.epoch, []

    def flaky(self, level, number, watch=None):
        tried.append(number)
        if number == 1 and tried.count(1) < 3:
            raise OSError("the driver hiccuped")
        return epoch(self, level, number, watch)

    monkeypatch.setattr(Trainer, "epoch", flaky)
    experiment = spec.read(grid)[0]
    assert sweeping.work(experiment, Execution(), retries=1).message == (
        "OSError: the driver hiccuped"
    )
    assert sweeping.work(experiment, Execution(), retries=1).state == "done"
    assert tried == [0, 1, 1, 1]


def test_shards_cover_the_sweep_without_overlap(grid: Path) -> None:
    from analysis.commands.sweep import _shard

    runs = list(sweeping.distinct(spec.read(grid), Path("runs")).values())
    parts = [_shard(runs, f"{i}/4") for i in range(1, 5)]
    assert sorted(len(part) for part in parts) == [1, 1, 2, 2]
    assert {id(e) for part in parts for e in part} == {id(e) for e in runs}


def test_two_sweeps_at_once_share_the_work(grid: Path) -> None:
    """Each run is done once, by whoever comes first; nobody writes what another writes."""
    experiments = list(sweeping.distinct(spec.read(grid), Path("runs")).values())
    outcomes: list[sweeping.Outcome] = []
    with experiments[0].run(Path("runs")).claimed():  # somebody else has the first
        done = sweeping.work(experiments[0], Execution())
        assert done.state == "busy"
        helper = threading.Thread(
            target=sweeping.here, args=(experiments, Execution(), outcomes.append)
        )
        helper.start()
        while len(outcomes) < len(experiments) - 1:
            time.sleep(0.01)
        assert all(outcome.experiment is not experiments[0] for outcome in outcomes)
    helper.join()
    assert outcomes[-1].experiment is experiments[0]
    assert {outcome.state for outcome in outcomes} == {"done"}


# --- Ray --------------------------------------------------------------------------------------

EIGHT = """
model = "fc"
pruner = ["random", "magnitude"]
compression = [5, 10]
seed = [0, 1]
epochs = 5
test_samples = 100
"""


def _workers() -> set[int]:
    """The processes that have worked on any run so far."""
    lines = [line for p in Path("runs").glob("*/journal.jsonl") for line in p.open()]
    return {json.loads(line)["process"] for line in lines}


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_returns_every_result(grid: Path) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    grid.write_text(EIGHT)
    experiments = spec.read(grid, device="cpu")
    assert len(experiments) == 8
    outcomes: list[sweeping.Outcome] = []
    killed: list[int] = []
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()

        def report(outcome: sweeping.Outcome) -> None:
            outcomes.append(outcome)
            if len(_workers()) == 2 and not killed:  # one a node, in the middle of their work
                killed.append(len(outcomes))
                cluster.remove_node(second, allow_graceful=False)

        sweeping.on_ray(experiments, Execution(), report, address=cluster.address)
        assert killed[0] < 7
        deadline = time.monotonic() + 60
        while sum(node["Alive"] for node in ray.nodes()) != 1:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        with pytest.raises(RequestError, match="no node has 64 CPUs and 0 GPUs for a run: the lar"):
            sweeping.on_ray(experiments, Execution(), report, address=None, cpus=64)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert [outcome.state for outcome in outcomes] == ["done"] * 8
    assert set(overview(experiments, Path("runs"))["state"]) == {"done"}
    frame, _ = collected(experiments, Path("runs"), "training")
    assert len(frame) == 8 * 11
    assert frame["run"].nunique() == 8
    for path in Path("runs").glob("*/journal.jsonl"):
        assert path.read_text().count('"finished"') == 1


def test_no_cluster_at_the_address(run: Run, grid: Path) -> None:
    pytest.importorskip("ray")
    code, out, err = run(COMMAND, f"sweep {grid} --ray 127.0.0.1:1 --quiet")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no Ray cluster at '127.0.0.1:1'" in err


def test_more_shards_than_runs(run: Run, grid: Path) -> None:
    code, out, _ = run(COMMAND, f"sweep {grid} --shard 9/9")
    assert code == 0
    assert "0 runs: nothing to do" in out


def test_an_option_in_two_spellings(run: Run, grid: Path) -> None:
    grid.write_text(GRID + "label_smoothing = 0.1\nlabel-smoothing = 0.2\n")
    code, _, err = run(COMMAND, f"status {grid}")
    assert (code, err) == (2, f"error: spec '{grid}': label-smoothing is given twice\n")
