"""kill -9 at any moment: nothing lost, nothing done twice, the same bytes in the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runs.killing import ARGUMENTS, GRID, SMALLER, Killer, results


def _run_killed(tmp_path: Path, kills: int, command: str = "imp", asked: str = ARGUMENTS) -> Killer:
    killer = Killer(f"collapse.commands.{command}", seed=kills)
    killer.undisturbed([*asked.split(), "--runs", str(tmp_path / "whole")])
    expected = results(tmp_path / "whole")
    assert len(expected) == 1
    trial, resumed = 0, 0
    while killer.kills < kills:
        runs = tmp_path / f"killed-{trial}"
        killer.until_done([*asked.split(), "--runs", str(runs)], kills - killer.kills)
        assert results(runs) == expected
        (folder,) = [f for f in runs.iterdir() if f.name in expected]
        lines = (folder / "journal.jsonl").read_text().splitlines()
        events = [json.loads(line)["event"] for line in lines]
        resumed += events.count("resumed")
        assert events.count("finished") <= 1  # a kill may come before the note, never a second run
        assert not list(folder.glob(".*")), "temporaries of killed processes are removed"
        assert not list(runs.glob("*.corrupt*"))
        trial += 1
    # Most kills come before the first epoch's end or after the last: a few may all do so.
    assert resumed > kills / 10 or kills < 10
    return killer


def test_killed_at_random_moments_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    assert _run_killed(tmp_path, 2).kills == 2


@pytest.mark.slow
def test_killed_at_fifty_random_moments(tmp_path: Path) -> None:
    assert _run_killed(tmp_path, 50).kills == 50


@pytest.mark.slow
def test_a_smaller_network_killed_ends_in_the_same_bytes(tmp_path: Path) -> None:
    assert _run_killed(tmp_path, 12, "train", SMALLER).kills == 12


def _sweep_killed(tmp_path: Path, kills: int) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text(GRID)
    killer = Killer("analysis.commands.sweep", seed=kills)
    arguments = [str(grid), "--quiet", "--device", "cpu", "--exact", "--runs"]
    killer.undisturbed([*arguments, str(tmp_path / "whole")])
    expected = results(tmp_path / "whole")
    assert len(expected) == 6
    trial = 0
    while killer.kills < kills:
        runs = tmp_path / f"killed-{trial}"
        killer.until_done([*arguments, str(runs)], kills - killer.kills)
        assert results(runs) == expected
        for name in expected:
            lines = (runs / name / "journal.jsonl").read_text().splitlines()
            assert sum(json.loads(line)["event"] == "finished" for line in lines) <= 1
        trial += 1


@pytest.mark.slow
def test_a_sweep_killed_fifty_times(tmp_path: Path) -> None:
    _sweep_killed(tmp_path, 50)
