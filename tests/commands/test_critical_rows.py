"""Rows of ``collapse critical``: in several processes, announced, and what they are scored on."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from collapse import tables
from collapse.commands import critical
from collapse.critical import Answer, Opened, Point, Rows, Task, Trial
from collapse.critical.course import Course
from collapse.options import Pruning
from collapse.scores import SCORES
from tests.conftest import Run

SMALL = "--model fc --dataset gaussian --input-shape 3 8 8 --classes 4 --quiet"


def test_rows_are_the_same_from_several_processes(run: Run, tmp_path: Path) -> None:
    """Here and elsewhere: of the network of each seed, in the order that was asked for."""
    found = []
    for jobs in (1, 2):
        out, layers = tmp_path / f"{jobs}.parquet", tmp_path / f"{jobs}-layers.parquet"
        pruners = "snip tests.shared_tasks:doubled"
        words = f"{SMALL} --pruners {pruners} --iterations 3 --scan 0 --seeds 0 1 --jobs {jobs}"
        code, printed, err = run(critical, f"{words} --out {out} --layers {layers}")
        assert (code, err) == (0, "")
        rows = tables.read(out, "critical")[0].drop(columns="seconds")
        found.append((printed, rows, tables.read(layers, "layers")[0]))
    (one, rows, layers), (several, others, their_layers) = found
    assert one == several
    pd.testing.assert_frame_equal(rows, others)
    pd.testing.assert_frame_equal(layers, their_layers)


def test_a_search_is_as_far_as_its_prunings() -> None:
    """What is shown while it runs: guesses that were not needed do not count twice."""
    one, search = Pruning("magnitude"), Pruning("synflow")
    rows = Rows({search: 30.0, one: 10.0}, scan=4)
    assert rows.needed({}) == [Task(search), Task(one)]
    assert rows.guesses({}, 5) == []
    assert rows.share({}) == 0
    assert rows.share({Task(search): 0.5, Task(one): 1.0}) == pytest.approx((30 * 0.1 + 10) / 40)
    point = Point({"a": 1}, None, {}, "float64", None, None)
    opened = Opened(Course(1000, 1, scan=4, tolerance=0.0, paths=False), {1: Trial(point, 100)})
    answers = {Task(search): Answer(opened, 1.0)}
    assert rows.needed(answers) == [Task(search, 4), Task(one)]
    assert rows.guesses(answers, 3) == [Task(search, 3), Task(search, 2)]
    done = {Task(search): 1.0, Task(search, 4): 1.0, Task(search, 3): 0.5}
    assert rows.share(done) == pytest.approx(30 * 2.5 / 5 / 40)
    assert rows.share({Task(search, keep): 1.0 for keep in range(50)}) == 30 / 40
    answers[Task(search, 4)] = Answer(Trial(point, 100), 1.0)
    assert rows.needed(answers) == [Task(search, 3), Task(one)]


def test_densities_of_a_users_pruner(run: Run) -> None:
    allocation = "--allocation like:tests.shared_tasks:doubled"
    words = f"{SMALL} --pruners random magnitude --no-effective {allocation}"
    SCORES.pop("tests.shared_tasks:doubled", None)
    code, out, err = run(critical, words)
    assert (code, err) == (0, "")
    assert "random" in out


def test_no_processes(run: Run) -> None:
    code, _, err = run(critical, f"{SMALL} --jobs 0")
    assert (code, err) == (2, "error: --jobs: expected at least 1, got 0\n")


def test_a_long_wait_is_announced(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [Pruning("snip"), Pruning("synflow"), Pruning("synflow", schedule="certified")]
    critical._announce(dict(zip(tasks, (10.0, 200.0, 30.0), strict=True)), 2)
    assert capsys.readouterr().err.startswith(
        "about 2 min ahead (synflow 3 min, synflow certified 30 s, snip 10 s), more where"
    )
    critical._announce(dict.fromkeys(tasks, 20.0), 2)
    assert capsys.readouterr().err == ""
    for seconds, said in ((1e-9, ""), (1.0, "ahead (magnitude ")):  # of one pass
        monkeypatch.setattr("collapse.critical.one_pass", lambda _, seconds=seconds: seconds)
        arguments = f"{SMALL} --no-effective --jobs 1 --pruners magnitude".replace("--quiet", "")
        _, _, err = run(critical, arguments)
        assert said in err
        assert bool(err) is bool(said)


def test_few_samples_of_large_inputs_are_said(run: Run) -> None:
    words = "--model fc --dataset gaussian --input-shape 1 65 64 --classes 20 --quiet"
    said = "scores that follow data are of 100 samples, because inputs are larger than 64×64"
    for asked, expected in (("snip", True), ("magnitude", False)):
        _, out, _ = run(critical, f"{words} --no-effective --pruners {asked}")
        assert (said in out) is expected
    _, out, _ = run(critical, f"{words} --no-effective --pruners snip --samples-per-class 10")
    assert "scores that follow data" not in out  # of 200 then, as was asked for


def test_an_extra_row_that_does_not_apply_is_a_note(run: Run, module_named) -> None:
    """Nobody asked for the certified schedule; a network whose R is zero keeps the other rows."""
    module_named(
        "attention",
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.body = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)\n"
        "        self.head = nn.Linear(8, 4)\n"
        "    def forward(self, x): return self.head(self.body(x).mean(1))\n",
    )
    code, out, _ = run(
        critical, "--model attention:Net --dataset gaussian --input-shape 5 8 --classes 4 --quiet "
        "--pruners magnitude grasp synflow --iterations 1"
    )  # fmt: skip
    assert code == 0
    assert "grasp" in out  # fused attention has no second derivative; the plain one has
    assert "not counted" not in out  # the three maps of the attention are layers
    assert "self_attn.k_proj_weight" in out or "self_attn.q_proj_weight" in out


FAILING = """
import torch
from collapse.scores import pruner

def spoiled(model, masks, bad):
    weights = dict(model.named_parameters())
    return {n: weights[n].detach().abs() * (torch.nan if bad else 1) for n in masks}

@pruner(data="shape")
def at_once(model, masks, inputs):
    return spoiled(model, masks, True)

@pruner(iterations=4, data="shape")
def later(model, masks, inputs):  # the first pruning, to the maximum, is cut before
    return spoiled(model, masks, inputs.iteration == 4)
"""


@pytest.mark.parametrize(("name", "jobs"), [("at_once", 1), ("later", 1), ("later", 2)])
def test_a_row_that_fails_leaves_the_others(
    name: str, jobs: int, run: Run, module_named, tmp_path: Path
) -> None:
    module_named("failing", FAILING)
    table = tmp_path / "rows.csv"
    words = f"{SMALL} --iterations 4 --jobs {jobs}"
    code, out, err = run(critical, f"{words} --pruners failing:{name} magnitude --out {table}")
    assert code == 2
    assert re.fullmatch(rf"error: no row for failing:{name}: .* is not finite.*\n", err), err
    assert "magnitude" in out
    assert name not in out
    assert list(tables.read(table, "critical")[0]["pruner"]) == ["magnitude"]
    code, out, err = run(critical, f"{words} --pruners failing:{name}")  # nothing is left to show
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no row" not in err
