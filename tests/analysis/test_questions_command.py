"""`python -m analysis questions`: mistakes, resumption, and the answers that are kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis import experiments, questions
from analysis.commands import questions as command
from analysis.experiments import cost, dead_inputs, effective, iterations, sanity, study, tickets
from analysis.processes import PRESETS
from collapse import tables
from collapse.errors import RequestError
from collapse.options import Setup
from tests.drawn_tables import table_of

HASTY = replace(study.HASTY, epochs=1)
KEPT = Path(__file__).parents[2] / "analysis" / "results" / "questions"


def test_wrong_requests() -> None:
    tiny = study.TINY
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


@pytest.mark.slow
def test_the_command_answers_and_goes_on(tmp_path: Path) -> None:
    """Two questions at once that share their runs; then nothing is left to do."""
    words = [
        *(sys.executable, "-m", "analysis", "questions", "--preset", "smoke", "--jobs", "2"),
        *("--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")),
        *("--only", "low-compression", "effective"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
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
    root = Path(__file__).parents[2]
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
    for words, message in {
        ("--only", "sanety"): "unknown question 'sanety'; nearest: sanity",
        ("--preset", "desktop"): "unknown preset 'desktop'",
        ("--jobs", "0"): "--jobs: expected at least 1, got 0",
        ("--out", "/dev/null/x"): "cannot write",
        ("--runs", "/dev/null"): "--runs '/dev/null': expected a folder, but '/dev/null' is a file",
    }.items():
        with pytest.raises(SystemExit) as stop:
            command.run(["--runs", str(tmp_path), *words])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_table_that_nobody_asked_for_hinders_no_answer(tmp_path: Path, capsys) -> None:
    (tmp_path / "mode.parquet").write_text("junk")
    shutil.copy(KEPT / "effective.parquet", tmp_path)
    command._write_answers(tmp_path, ["effective"])
    printed = capsys.readouterr()
    assert "mode: left out: table" in printed.err
    assert set(tables.read(tmp_path / "answers.csv", "answers")[0]["question"]) == {"effective"}
    with pytest.raises(RequestError, match="cannot be read"):
        command._write_answers(tmp_path, ["effective", "mode"])


@pytest.mark.parametrize(
    "name", [*experiments.EXPERIMENTS, *experiments.QUESTIONS, *experiments.FURTHER]
)
def test_every_experiment_has_the_presets(name: str) -> None:
    assert set(experiments.find(name).PRESETS) == set(PRESETS)


@pytest.mark.parametrize("name", sorted(path.stem for path in KEPT.glob("*.parquet")))
def test_kept_answers_are_those_of_the_kept_tables(name: str) -> None:
    """docs/questions.md quotes them; every one is whole, and trained with five seeds or more."""
    kept, _ = tables.read(KEPT / "answers.csv", "answers")
    question = questions.find(name)
    table, about = tables.read(KEPT / f"{name}.parquet", question.TABLE)
    assert table["finished"].astype(bool).all()
    assert "--preset laptop" in about["command"]
    found = question.answer(table)
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
    assert questions.find("effective").answer(empty).empty


def test_every_kept_answer_has_its_table() -> None:
    kept, _ = tables.read(KEPT / "answers.csv", "answers")
    assert set(kept["question"]) == {path.stem for path in KEPT.glob("*.parquet")}
    assert len(set(kept["question"])) == 9
