"""Run folders: names, resumption to the byte, kills, corruption, locks, a full disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from collapse import tables
from collapse.commands import imp as command
from collapse.errors import RequestError
from collapse.imp import State
from collapse.models import build
from collapse.options import Execution, Pruning, Rewinding, Setup, Training
from collapse.runs import Experiment, Run, RunBusyError, TimeLimitError, perform
from tests.conftest import Run as RunCommand
from tests.runs.killing import ARGUMENTS, RESULTS, results, start

SMALL = Experiment(
    Setup(model="fc", init="xavier", device="cpu"),
    training=Training(epochs=3, train_samples=200, test_samples=100, lr=0.05),
    rewinding=Rewinding(levels=2, rewind_epoch=1),
    compression=20,
)


def _journal(run: Run) -> list[str]:
    lines = (run.folder / "journal.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


class _StopError(Exception):
    pass


def _interrupt_after(experiment: Experiment, runs: Path, boundaries: int) -> Run:
    """Run up to an epoch's boundary."""
    seen = []

    def stop(state) -> None:
        seen.append(state.epoch)
        if len(seen) == boundaries:
            raise _StopError

    with pytest.raises(_StopError):
        perform(experiment, Execution(runs=runs), on_boundary=stop)
    return experiment.run(runs)


# --- Names ------------------------------------------------------------------------------------


def test_what_changes_the_name_and_what_does_not(tmp_path: Path) -> None:
    name = SMALL.run(tmp_path).name
    weights = tmp_path / "w.safetensors"
    untrained = replace(SMALL, training=Training(epochs=0), rewinding=Rewinding(levels=0))
    perform(untrained, Execution(runs=tmp_path))
    (trained,) = tmp_path.glob("*/weights.safetensors")
    weights.write_bytes(trained.read_bytes())
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(weights.read_bytes())

    def named(**changes) -> str:
        return replace(SMALL, **changes).run(tmp_path).name

    def setup(**changes) -> str:
        return named(setup=replace(SMALL.setup, **changes))

    same = {
        "device": setup(device="auto"),
        "folder": SMALL.run(tmp_path / "elsewhere").name,
        "samples of data-driven scores": setup(samples_per_class=3),
        "a default given": named(training=replace(SMALL.training, momentum=0.9)),
        "whole numbers": named(compression=20.0),
        "the paper's one iteration": named(pruning=Pruning(pruner="magnitude", iterations=1)),
    }
    assert set(same.values()) == {name}, same
    different = [
        setup(model="conv"),
        setup(init="kaiming"),
        setup(weights=str(weights)),
        named(training=replace(SMALL.training, lr=0.04)),
        named(training=replace(SMALL.training, train_samples=100)),
        named(pruning=Pruning(pruner="random")),
        named(pruning=Pruning(pruner="magnitude", seed=1)),
        named(pruning=Pruning(pruner="snip")),
        named(pruning=Pruning(pruner="snip", mode="eval")),
        named(pruning=Pruning(pruner="magnitude", scope="layer")),
        named(rewinding=replace(SMALL.rewinding, levels=3)),
        named(rewinding=replace(SMALL.rewinding, rewind="learning-rate")),
        named(compression=21),
    ]
    assert len({name, *different}) == len(different) + 1
    assert setup(weights=str(weights)) == setup(weights=str(moved))  # content, not place


def test_nothing_pruned_is_one_run_whatever_would_have_pruned(tmp_path: Path) -> None:
    dense = replace(SMALL, compression=1, rewinding=Rewinding(levels=0))
    names = {
        replace(dense, pruning=Pruning(pruner=pruner)).run(tmp_path).name
        for pruner in ("random", "snip", "synflow")
    }
    assert len(names) == 1


def test_the_schema_version_is_in_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = SMALL.run(tmp_path).name
    monkeypatch.setattr("collapse.runs.folder.SCHEMA_VERSION", tables.SCHEMA_VERSION + 1)
    assert SMALL.run(tmp_path).name != name


def test_the_data_are_in_the_name(tmp_path: Path) -> None:
    """A part of CIFAR-10 under the same name is another dataset."""
    from PIL import Image

    def folder(shade: int) -> Path:
        root = tmp_path / str(shade)
        for split in ("train", "test"):
            for label in ("a", "b"):
                where = root / "mine" / split / label
                where.mkdir(parents=True)
                Image.new("RGB", (8, 8), (shade, 0, 0)).save(where / "x.png")
        return root

    names = {
        Experiment(Setup(model="fc", dataset="mine", data_root=folder(shade))).run(tmp_path).name
        for shade in (1, 2)
    }
    assert len(names) == 2


# --- Resumption -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return perform(SMALL, Execution(runs=tmp_path_factory.mktemp("undisturbed")))


@pytest.fixture(scope="module")
def paused(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _interrupt_after(SMALL, tmp_path_factory.mktemp("paused"), 4)


@pytest.mark.parametrize("boundary", range(1, 9))
def test_resumed_at_any_boundary_it_ends_in_the_same_bytes(
    boundary: int, tmp_path: Path, undisturbed: Run
) -> None:
    """3 epochs, pruned, 2 from the rewind point, pruned, 2: nine boundaries."""
    run = _interrupt_after(SMALL, tmp_path, boundary)
    assert run.status()["state"] in ("failed", "paused")
    perform(SMALL, Execution(runs=tmp_path))
    assert results(tmp_path) == results(undisturbed.root)
    assert _journal(run)[-2:] == ["resumed", "finished"]


@pytest.mark.parametrize(
    "experiment",
    [
        replace(SMALL, rewinding=Rewinding(levels=2, rewind="learning-rate", rewind_epoch=2)),
        replace(SMALL, pruning=Pruning(pruner="snip", seed=3)),
        replace(SMALL, rewinding=Rewinding(levels=0), pruning=Pruning(pruner="synflow")),
    ],
)
def test_every_kind_of_run_resumes(experiment: Experiment, tmp_path: Path) -> None:
    whole = perform(experiment, Execution(runs=tmp_path / "whole"))
    _interrupt_after(experiment, tmp_path / "parts", 2)
    perform(experiment, Execution(runs=tmp_path / "parts"))
    assert results(whole.root) == results(tmp_path / "parts")


def test_with_dropout_and_batchnorm(tmp_path: Path, module_named) -> None:
    module_named(
        "dropping",
        "import torch.nn as nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(),\n"
        "        nn.Dropout(0.3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))\n",
    )
    experiment = replace(SMALL, setup=Setup(model="dropping:make", device="cpu"), compression=4)
    whole = perform(experiment, Execution(runs=tmp_path / "whole"))
    torch.rand(7)  # another state of the global stream
    for boundary in (2, 5):
        runs = tmp_path / str(boundary)
        _interrupt_after(experiment, runs, boundary)
        perform(experiment, Execution(runs=runs))
        assert results(whole.root) == results(runs)


def test_a_finished_run_is_never_run_again(
    tmp_path: Path, undisturbed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed.root, tmp_path, dirs_exist_ok=True)
    run = SMALL.run(tmp_path)
    assert not (run.folder / "state.safetensors").exists()
    monkeypatch.setattr("collapse.runs.execution.imp", None)  # would raise if called
    perform(SMALL, Execution(runs=tmp_path))
    assert _journal(run) == ["started", "finished"]


def test_saving_less_often_loses_no_more_than_that(tmp_path: Path, undisturbed: Run) -> None:
    seen = []

    def stop(state) -> None:
        seen.append(state.epoch)
        if len(seen) == 2:
            raise _StopError

    execution = Execution(runs=tmp_path, save_every=2)
    with pytest.raises(_StopError):
        perform(SMALL, execution, on_boundary=stop)
    assert SMALL.run(tmp_path).status()["epoch"] == 2
    perform(SMALL, execution)
    assert results(tmp_path) == results(undisturbed.root)
    with pytest.raises(RequestError, match="--save-every: expected at least 1, got 0"):
        perform(SMALL, Execution(runs=tmp_path, save_every=0))


def test_weights_and_masks_are_what_other_commands_read(undisturbed: Run) -> None:
    weights = load_file(undisturbed.folder / "weights.safetensors")
    model = build(
        "fc", classes=10, init="kaiming", weights=str(undisturbed.folder / "weights.safetensors")
    )
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    masks = load_file(undisturbed.folder / "masks.safetensors")
    assert sum(int(mask.sum()) for mask in masks.values()) == -(-348_200 // 20)
    assert all(not weights[name][~mask].any() for name, mask in masks.items())


def test_status_and_tables_of_an_unfinished_run(tmp_path: Path) -> None:
    run = SMALL.run(tmp_path)
    assert run.status()["state"] == "waiting"
    with pytest.raises(RequestError, match="has no table 'training' yet"):
        run.table("training")
    _interrupt_after(SMALL, tmp_path, 2)
    assert len(run.table("training")) == 5  # the test of epoch 0, and two epochs
    assert (run.status()["level"], run.status()["epoch"]) == (0, 2)
    perform(SMALL, Execution(runs=tmp_path))
    table = run.table("training")
    assert run.status()["state"] == "done"
    assert (table["seconds"] > 0).all()
    assert not table.duplicated(["level", "epoch", "split"]).any()
    assert "seconds" not in pd.read_parquet(run.folder / "training.parquet")


# --- What may go wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("weights.safetensors", "done"),
        ("training.parquet", "done"),
        ("done.json", "done"),
        ("state.safetensors", "paused"),
        ("rewind.safetensors", "paused"),
        ("config.json", "paused"),
    ],
)
@pytest.mark.parametrize("damage", ["flipped", pytest.param("cut", marks=pytest.mark.slow), "gone"])
def test_a_corrupt_run_is_moved_aside_and_done_again(
    name: str, of: str, damage: str, tmp_path: Path, undisturbed: Run, paused: Run, capsys
) -> None:
    before = undisturbed if of == "done" else paused
    shutil.copytree(before.root, tmp_path, dirs_exist_ok=True)
    run = SMALL.run(tmp_path)
    path = run.folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(content) if damage == "flipped" else bytes(content[:-20]))
    perform(SMALL, Execution(runs=tmp_path))
    assert results(tmp_path)[run.name] == results(undisturbed.root)[run.name]
    said = capsys.readouterr().err
    if damage == "gone" and name in ("done.json", "state.safetensors"):
        assert said == ""  # as if it had been killed earlier: nothing to be seen
    else:
        # A flipped bit in the list of checksums looks like one in what it lists.
        place = "" if (name, damage) == ("done.json", "flipped") else name
        assert said.startswith(f"run {run.name} is corrupt ({place}")
        assert said.count("\n") == 1
        assert (tmp_path / f"{run.name}.corrupt-1" / "journal.jsonl").exists()


def test_a_folder_of_a_newer_schema(tmp_path: Path) -> None:
    run = _interrupt_after(SMALL, tmp_path, 1)
    config = json.loads((run.folder / "config.json").read_text())
    (run.folder / "config.json").write_text(json.dumps({**config, "schema_version": 99}))
    before = (run.folder / "state.safetensors").read_bytes()
    with pytest.raises(RequestError, match="is of schema version 99: expected at most 1; update"):
        perform(SMALL, Execution(runs=tmp_path))
    assert (run.folder / "state.safetensors").read_bytes() == before


def test_two_processes_never_write_the_same_run(tmp_path: Path, run: RunCommand) -> None:
    mine = SMALL.run(tmp_path)
    with mine.claimed():
        assert mine.status()["state"] == "running"
        with pytest.raises(RunBusyError, match=rf"{mine.name} is being worked on by process \d+"):
            perform(SMALL, Execution(runs=tmp_path))
        code, _, err = run(command, f"{ARGUMENTS} --runs {tmp_path}")
        assert (code, err.count("\n")) == (2, 1)
        assert f"process {os.getpid()}" in err
        assert _journal(mine) == ["started"]
    perform(SMALL, Execution(runs=tmp_path))
    assert _journal(mine) == ["started", "started", "finished"]


def _perform(runs: Path) -> None:
    perform(SMALL, Execution(runs=runs))


def test_who_waits_finds_it_done(tmp_path: Path) -> None:
    """Another process has the run and finishes it; ours does nothing then."""
    mine = SMALL.run(tmp_path)
    other = start(_perform, tmp_path)
    deadline = time.monotonic() + 120
    while not (mine.folder / "journal.jsonl").exists():
        assert other.is_alive() or other.exitcode == 0
        assert time.monotonic() < deadline
        time.sleep(0.01)
    perform(SMALL, Execution(runs=tmp_path), wait=True)
    other.join()
    assert other.exitcode == 0
    assert _journal(mine) == ["started", "finished"]


def _on_a_full_disk(runs: Path, said: Path) -> None:
    """The system refuses to write more than a mebibyte from the second epoch on."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with said.open("w") as file:
        os.dup2(file.fileno(), 2)
    save = Run.save_state

    def limited(self: Run, state: State) -> None:
        if state.epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        save(self, state)

    Run.save_state = limited  # type: ignore[method-assign]  # in this process only
    sys.argv = ["imp", *ARGUMENTS.split(), "--runs", str(runs)]
    command.run()


def test_a_full_disk_keeps_the_old_state(tmp_path: Path, undisturbed: Run) -> None:
    said = tmp_path / "stderr"
    child = start(_on_a_full_disk, tmp_path / "runs", said)
    child.join()
    assert child.exitcode == 2
    assert said.read_text().count("\n") == 1
    assert said.read_text().startswith("error: cannot write")
    mine = SMALL.run(tmp_path / "runs")
    assert (mine.status()["state"], mine.status()["epoch"]) == ("failed", 1)
    assert not list(mine.folder.glob(".*"))
    perform(SMALL, Execution(runs=tmp_path / "runs"))
    assert results(tmp_path / "runs") == results(undisturbed.root)


def test_a_loss_that_is_nan_stops_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    """The learning rate explodes in the third epoch."""
    settings = replace(SMALL.training, lr_drops=(2,), lr_drop_rate=1e30)
    experiment = replace(SMALL, training=settings)
    with pytest.raises(RequestError, match="loss is nan at step 2 of epoch 3, level 0"):
        perform(experiment, Execution(runs=tmp_path))
    run = experiment.run(tmp_path)
    assert (run.status()["state"], run.status()["epoch"]) == ("failed", 2)
    assert "loss is nan" in run.status()["error"]
    state = run._load_state()
    assert state is not None
    assert all(bool(torch.isfinite(t).all()) for t in state.tensors.values())


def test_time_limit_stops_within_an_epoch_and_goes_on(tmp_path: Path, undisturbed: Run) -> None:
    from collapse.train import Trainer

    epoch = Trainer.epoch

    def slow(self, level, number, watch=None):
        if number == 2:
            signal.pause()  # as if it hung; the alarm wakes it
        return epoch(self, level, number, watch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "epoch", slow)
        with pytest.raises(TimeLimitError, match="time limit of 2 s reached; it goes on from"):
            perform(SMALL, Execution(runs=tmp_path), time_limit=2)
    for nothing in (0.0, -1.0):
        with pytest.raises(TimeLimitError, match="no time is left: it goes on when run again"):
            perform(SMALL, Execution(runs=tmp_path), time_limit=nothing)
    assert SMALL.run(tmp_path).status()["epoch"] == 2
    perform(SMALL, Execution(runs=tmp_path), time_limit=100)
    assert results(tmp_path) == results(undisturbed.root)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_every_result_is_listed_for_comparison(undisturbed: Run) -> None:
    others = {"config.json", "done.json", "environment.json", "journal.jsonl", "timing.parquet"}
    assert {path.name for path in undisturbed.folder.iterdir()} == {*RESULTS, *others}
