"""Every option that `--help` prints is accepted; a request that contradicts itself is not."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from analysis import experiments
from analysis.commands import (
    agreement,
    collect,
    experiment,
    questions,
    report,
    reproduce,
    status,
    sweep,
)
from collapse import cli
from collapse.commands import conservation, critical, imp, pruning, train
from collapse.options import Execution
from figures.commands import Drawing, Everything
from tests.conftest import Run

MODEL = ["--model", "fc"]
COMPRESSION = [*MODEL, "--compression", "2"]
# What each configuration cannot do without.
REQUIRED: dict[type, list[str]] = {
    critical.Config: MODEL,
    conservation.Config: MODEL,
    pruning.Config: COMPRESSION,
    imp.Config: COMPRESSION,
    train.Config: MODEL,
    report.Config: MODEL,
    **{config: ["grid.toml"] for config in (status.Config, collect.Config, sweep.Config)},
    **{config: [] for config in (agreement.Config, questions.Config, reproduce.Config, Everything)},
    Drawing: ["table.csv", "--out", "x.pdf"],
    experiment.Output: [],
    Execution: [],
}


def _options(config: type, capsys: pytest.CaptureFixture[str], default: object = None) -> list[str]:
    with pytest.raises(SystemExit):
        cli.parse(config, ["--help"], "command", default)
    printed = capsys.readouterr().out
    return [
        name
        for line in re.findall(r"^. (--?[a-z].*)", printed, re.MULTILINE)
        for name in re.findall(r"--[a-z][a-z0-9-]*", line.partition("  ")[0])
        if name != "--help"
    ]


@pytest.mark.parametrize("config", REQUIRED, ids=lambda config: config.__module__ + config.__name__)
def test_every_option_of_the_help_is_accepted(
    config: type, capsys: pytest.CaptureFixture[str]
) -> None:
    options = _options(config, capsys)
    assert len(options) >= len(fields(config)) - 4  # groups of options, and a positional
    assert set(options) <= {*cli.options(config)}  # what is not there is refused as unknown
    flags = [option for option in options if f"--no-{option.removeprefix('--')}" in options]
    cli.parse(config, [*REQUIRED[config], *flags], "command")
    cli.parse(config, [*REQUIRED[config], *(f"--no-{flag[2:]}" for flag in flags)], "command")


@pytest.mark.parametrize(
    "name", [*experiments.EXPERIMENTS, *experiments.QUESTIONS, *experiments.FURTHER]
)
def test_so_is_every_flag_of_an_experiment(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = experiments.find(name)
    options = _options(module.Config, capsys, module.PRESETS["smoke"])
    flags = [option for option in options if option.startswith("--no-")]
    cli.parse(module.Config, flags, "command", module.PRESETS["smoke"])


def test_a_no_is_no() -> None:
    request = cli.parse(critical.Config, [*MODEL, "--no-effective", "--quiet"], "command")
    assert (request.effective, request.quiet) == (False, True)
    assert not cli.parse(train.Config, [*MODEL, "--no-compile"], "command").execution.compile


def test_none_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    for config in REQUIRED:
        with pytest.raises(SystemExit):
            cli.parse(config, ["--help"], "command")
        assert "(default: None)" not in capsys.readouterr().out


SMALL = "--model fc --dataset gaussian --input-shape 3 8 8 --classes 4 --quiet"
CONTRADICTIONS = [
    (critical, "--schedule certified --iterations 5", "--iterations 5: the certified schedule"),
    (pruning, "--compression 2 --schedule certified --iterations 5", "--iterations 5: the certif"),
    (pruning, "--compression 2 --iterations 0", "--iterations: expected at least 1, got 0"),
    (pruning, "--compression 2 --pruner magnitude --mode train", "--mode train: expected a pruner"),
    (pruning, "--compression 2 --mode train", "got synflow"),
    (critical, "--pruners magnitude random --mode eval", "got magnitude, random"),
    (conservation, "--pruner synflow --mode train", "--mode train: expected a pruner"),
    (pruning, "--compression 2 --seed -1", "--seed: expected a number from 0 to 2^63 - 1, got -1"),
    (critical, f"--seeds 0 {10**26}", "--seeds: expected a number from 0 to 2^63 - 1, got 1000"),
    (conservation, "--seed -1", "--seed: expected a number from 0"),
    (critical, "--pruners magnitude magnitude", "--pruners: expected different values, got 'magn"),
    (critical, "--seeds 1 1", "--seeds: expected different values, got '1' twice"),
    (train, "--control shuffled", "--control shuffled: expected a --compression above 1, got 1"),
    (train, "--compression 9 --pruner magnitude --mode train", "--mode train: expected a pruner"),
    (imp, "--compression 9 --seed -2", "--seed: expected a number from 0"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "words", "message"), CONTRADICTIONS)
def test_what_would_be_ignored_is_refused(
    command, words: str, message: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(command, f"{SMALL} {words}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_mode_that_some_pruner_takes_is_fine(run: Run) -> None:
    code, _, _ = run(critical, f"{SMALL} --pruners snip synflow --mode eval --iterations 2")
    assert code == 0
    code, _, _ = run(conservation, f"{SMALL} --pruner magnitude --mode train")
    assert code in (0, 1)  # the network's own flow in train mode
