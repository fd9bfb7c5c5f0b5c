"""Reproduction of trained figures within a budget, and of what is known without training."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import experiments, results
from analysis.commands import reproduce
from analysis.resumable import Resources, UnlessCut
from analysis.sweeps.estimates import share_of
from collapse import tables
from collapse.data import load
from collapse.errors import RequestError
from collapse.options import Execution
from collapse.processes import Update

experiments.find("grid")  # it declares its table


def test_budgets() -> None:
    assert [reproduce.seconds_of(text) for text in ("45s", "10m", "1.5h")] == [45, 600, 5400]
    for wrong in ("10", "m", "-1m", "0s", "ten minutes", ""):
        with pytest.raises(RequestError, match="expected a time such as 45s, 10m or 2h, got"):
            reproduce.seconds_of(wrong)


def _config(tmp_path: Path, **changes: object) -> reproduce.Config:
    given: dict[str, object] = {
        "execution": Execution(runs=tmp_path / "runs", quiet=True),
        "preset": "smoke",
        "figures": ("levels", "dynamics"),
        "results": tmp_path / "results",
        **changes,
    }
    return reproduce.Config(**given)  # type: ignore[arg-type]  # as the command line gives them


def test_most_information_a_minute_comes_first(tmp_path: Path) -> None:
    """What is left of a network is cheaper to train, and an end of a curve tells most."""
    points = {"accuracy": reproduce.points_of("accuracy", _config(tmp_path, preset="laptop"))}
    queue = reproduce.in_order(points, Resources(Execution(tmp_path / "runs")))
    assert len(queue) == len(points["accuracy"]) == 5 * 5 * 3
    seeds = [point.experiment.pruning.seed for point, _ in queue]
    assert seeds == sorted(seeds)
    of = [(p.experiment.pruning.pruner, p.experiment.compression) for p, _ in queue[:25]]
    assert of[0] == ("synflow", 1000.0)
    assert set(of[1:3]) == {("snip", 1000.0), ("grasp", 1000.0)}
    synflows = [compression for pruner, compression in of if pruner == "synflow"]
    assert synflows == pytest.approx([1e3, 1e2, 10**2.5, 10, 10**1.5])
    randoms = [compression for pruner, compression in of if pruner == "random"]
    assert randoms == pytest.approx([10, 1e3, 1e2, 10**1.5, 10**2.5])  # these cost the same
    cost = {point.about: cost for point, cost in queue}
    dense, small = (f"conv digits {name} x1,000 seed 0" for name in ("random", "synflow"))
    assert cost[small] == pytest.approx(share_of("synflow", 1000) * cost[dense])
    assert 0.1 < cost[dense] < 600
    short = reproduce.points_of("accuracy", _config(tmp_path, preset="laptop", epochs=2))
    assert {point.experiment.settings().epochs for point in short} == {2}


def test_it_says_what_is_ahead_and_passes_what_another_process_is_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = Execution(runs=tmp_path / "runs")
    config = _config(tmp_path, figures=("dynamics",), execution=loud)
    (point,) = reproduce.points_of("dynamics", config)
    with point.experiment.run(tmp_path / "runs").claimed():
        reproduce.main(config)
    said = capsys.readouterr()
    assert "1 points to train, about " in said.err
    assert f"the first: {point.about} " in said.err
    assert "0 points done now, 0 of 1 in all" in said.out
    reproduce.main(config)
    assert "1 points done now, 1 of 1 in all" in capsys.readouterr().out
    reproduce.main(config)
    assert "to train" not in capsys.readouterr().err


def test_reproduce_goes_on_where_the_budget_stopped_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        now = 0.0

        @classmethod
        def monotonic(cls) -> float:
            cls.now += 1.0
            return cls.now

    monkeypatch.setattr(reproduce, "time", Clock)
    reproduce.main(_config(tmp_path, budget="7s", epochs=1))
    printed = capsys.readouterr().out
    done = int(printed.split()[0])
    assert 0 < done < 5
    assert f"{done} points done now, {done} of 5 in all" in printed
    reproduce.main(_config(tmp_path, budget="10m", epochs=1))
    printed = capsys.readouterr().out
    assert f"{5 - done} points done now, 5 of 5 in all" in printed
    assert "runs of 1 epochs on 400 images of digits" in printed
    levels = results.load("levels", tmp_path / "results")
    assert levels is not None
    assert len(levels) == 4
    assert levels["finished"].all()


def test_results_are_added_to_what_is_there(tmp_path: Path) -> None:
    columns = list(tables.COLUMNS["accuracy"])
    rows = pd.DataFrame(
        [{**dict.fromkeys(columns), "run": run, "seed": 0, "compression": 1.0, "pruner": "snip",
          "top1": top, "finished": finished}
         for run, top, finished in (("a", 1.0, True), ("b", 2.0, True), ("c", 3.0, False))]
    )  # fmt: skip
    results.append("grid", rows, tmp_path, "cpu")
    newer = rows.assign(run=["b", "c", "d"], top1=[5.0, 6.0, 7.0], finished=True)
    together = results.append("grid", newer, tmp_path, "cpu")
    kept = results.load("grid", tmp_path)
    assert kept is not None
    found = dict(zip(kept["run"], kept["top1"], strict=True))
    assert found == {"a": 1.0, "b": 5.0, "c": 6.0, "d": 7.0}
    assert len(together) == 4


def test_runs_of_another_schedule_or_model_are_added_not_replaced(tmp_path: Path) -> None:
    columns = list(tables.COLUMNS["score_dynamics"])
    rows = pd.DataFrame(
        [{**dict.fromkeys(columns), "model": "fc", "seed": 0, "epoch": epoch, "run": "a",
          "finished": True} for epoch in (0, 1)]
    )  # fmt: skip
    results.append("dynamics", rows, tmp_path, "cpu")
    results.append("dynamics", rows.assign(run="b"), tmp_path, "cpu")
    results.append("dynamics", rows.assign(model="conv"), tmp_path, "cpu")
    kept = results.append("dynamics", rows, tmp_path, "cpu")
    assert len(kept) == 6
    assert len(kept.drop_duplicates(["model", "run"])) == 3


def test_reproduces_mistakes(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="unknown figure 'acuracy'; nearest: accuracy"):
        reproduce.main(_config(tmp_path, figures=("acuracy",)))
    with pytest.raises(RequestError, match="--budget: expected a time"):
        reproduce.main(_config(tmp_path, budget="soon"))
    with pytest.raises(RequestError, match="--save-every: expected at least 1, got 0"):
        reproduce.main(replace(_config(tmp_path), execution=Execution(save_every=0)))
    with pytest.raises(RequestError, match="--figures: expected at least one"):
        reproduce.main(_config(tmp_path, figures=()))
    (tmp_path / "results").mkdir(exist_ok=True)
    (tmp_path / "results" / "levels.csv").write_text("junk")
    with pytest.raises(RequestError, match="expected table 'accuracy'"):
        reproduce.main(_config(tmp_path))
    assert not (tmp_path / "runs").exists()


def test_only_cut_networks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the highest compression down to one that is not cut; nothing is trained."""
    config = _config(
        tmp_path,
        figures=("accuracy",),
        preset="laptop",
        only_cut=True,
        pruners=("random", "magnitude"),
    )
    looked: list[tuple[str, int, float]] = []
    if_cut = UnlessCut.if_cut

    told: list[float] = []

    def noted(point: UnlessCut, resources: Resources, update: Update) -> pd.DataFrame | None:
        options = point.experiment.pruning
        looked.append((options.pruner, options.seed, point.experiment.compression))
        return if_cut(point, resources, lambda text, share: told.append(share))

    monkeypatch.setattr(UnlessCut, "if_cut", noted)
    reproduce.main(config)
    table = results.load("accuracy", tmp_path / "results")
    assert table is not None
    assert set(table["evidence"]) == {"cut"}
    labels = load("digits", "test").labels
    assert set(table["top1"]) == {100 * float(labels.bincount().max()) / len(labels)}
    assert f"{len(table)} points done now, {len(table)} of 30 in all" in capsys.readouterr().out
    for pruner, seed in itertools.product(("random", "magnitude"), range(3)):
        found = [compression for *of, compression in looked if of == [pruner, seed]]
        of_both = table[(table["pruner"] == pruner) & (table["seed"] == seed)]
        cut = sorted(of_both["compression"], reverse=True)
        # The next one is not cut, and no other is looked at.
        assert found[:-1] == pytest.approx(cut)
        assert found == sorted(found, reverse=True)
    assert len(table) > 3
    assert set(told) == {0.0}  # to look is no training
    looked.clear()
    reproduce.main(config)
    assert "0 points done now" in capsys.readouterr().out
