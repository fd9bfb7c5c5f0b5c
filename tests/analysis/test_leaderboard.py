"""The leaderboard: one row each, failures in their rows, resumed, and a page that is whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from analysis.commands import leaderboard as command
from analysis.leaderboard import PRESETS, TABLE, board, networks, page, registered
from analysis.leaderboard.figure import shares
from analysis.resumable import Measured, Resources
from collapse import cli, tables
from collapse.critical import critical_compression
from collapse.errors import RequestError
from collapse.options import Execution, Pruning
from collapse.problem import prepare
from collapse.scores import SCORES


@pytest.fixture(scope="module")
def pruners() -> Iterator[tuple[str, ...]]:
    """A right one, one that raises, and one that returns nonsense."""

    def broken(model, masks, inputs):
        raise ValueError("not today")

    def nonsense(model, masks, inputs):
        return {name: torch.full(mask.shape, math.nan) for name, mask in masks.items()}

    SCORES.update(broken=broken, nonsense=nonsense)
    yield "broken", "magnitude", "nonsense"
    del SCORES["broken"], SCORES["nonsense"]


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    runs = tmp_path_factory.mktemp("leaderboard") / "runs"
    return Resources(Execution(runs=runs, quiet=True))


@pytest.fixture(scope="module")
def table(pruners: tuple[str, ...], resources: Resources) -> pd.DataFrame:
    return board(PRESETS["smoke"], pruners, resources)


def test_a_row_for_each_network_and_pruner(table: pd.DataFrame, pruners) -> None:
    assert list(table.columns)[: len(tables.COLUMNS[TABLE])] == list(tables.COLUMNS[TABLE])
    assert table["pruner"].tolist() == [*pruners] * 2
    assert table["weights"].tolist() == ["random"] * 3 + ["trained"] * 3
    right = table[table["pruner"] == "magnitude"]
    assert right["problem"].isna().all()
    assert right["finished"].all()
    setup = PRESETS["smoke"].trained
    found = critical_compression(prepare(setup, 0, labelled=False), options=Pruning("magnitude"))
    assert right["critical_compression"].iloc[0] == found.critical_compression
    assert right["first_collapsed_layer"].iloc[0] == found.first_collapsed_layer
    assert right["critical_compression"].nunique() == 2  # the trained weights are others
    assert (right["residual"] > 0.1).all()
    assert 0 <= right["top1_10"].iloc[0] <= 100


def test_a_failure_is_in_its_rows_and_the_rest_goes_on(table: pd.DataFrame) -> None:
    broken = table[table["pruner"] == "broken"]
    assert broken["problem"].str.contains("failed: ValueError: not today").all()
    nonsense = table[table["pruner"] == "nonsense"]
    assert nonsense["problem"].str.contains("is not finite").all()
    failed = pd.concat([broken, nonsense])
    assert failed["critical_compression"].isna().all()
    assert not failed["finished"].any()


def test_a_board_of_failures_alone_says_each(pruners, tmp_path: Path) -> None:
    resources = Resources(Execution(runs=tmp_path / "runs", quiet=True))
    found = board(PRESETS["smoke"], ("broken",), resources)
    assert found["problem"].str.contains("not today").all()
    assert found["top1_10"].isna().all()


def test_what_is_done_is_not_done_again(
    table: pd.DataFrame, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Measured, "compute", again)
    resumed = board(PRESETS["smoke"], ("magnitude",), resources)
    before = cli.rows_of(table[table["pruner"] == "magnitude"])
    assert cli.rows_of(resumed) == before


@pytest.mark.slow  # the fast suite has rows of critical, shared out in the same way
def test_cells_are_the_same_from_several_processes(tmp_path: Path) -> None:
    found = []
    for jobs in (1, 2):
        own = Resources(Execution(runs=tmp_path / str(jobs), quiet=True))
        found.append(board(PRESETS["smoke"], ("tests.shared_tasks:doubled", "snip"), own, jobs))
    one, several = (frame.drop(columns=["seconds", "peak_bytes"]) for frame in found)
    pd.testing.assert_frame_equal(one, several)


def test_the_page_holds_every_row_and_loads_nothing(table: pd.DataFrame) -> None:
    named = table.assign(pruner=table["pruner"].replace("broken", "<script>"))
    text = page(named, tables.provenance(TABLE, "cpu"))
    assert text.count("<tr") == len(table) + 1
    assert "not today" in text
    assert "&lt;script&gt;" in text
    assert "http" not in text
    assert text.count("<script>") == 1


def test_the_page_fits_a_screen(browser: Any, tmp_path: Path) -> None:
    """The stored board, whose names are the longest; at 1280 nothing scrolls sideways."""
    path = Path(__file__).parents[2] / "analysis" / "results" / "leaderboard.csv"
    out = tmp_path / "board.html"
    out.write_text(page(*tables.read(path, TABLE)), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    tab.goto(out.as_uri())
    wide = tab.evaluate("[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth)")
    assert wide == tab.evaluate("[...document.querySelectorAll('.scroll')].map(e => e.clientWidth)")


def test_the_figure_says_who_failed(table: pd.DataFrame) -> None:
    ax = shares(table)
    assert [text.get_text() for text in ax.texts].count("failed") == 4
    with pytest.raises(RequestError, match="no numbers to draw"):
        shares(table[table["problem"].notna()])


def test_the_figure_counts_those_that_tie() -> None:
    critical = {"lamp": 100.0, "phew": 100.0, "snip": 10.0}
    numbers = {"network": "net", "weights": "random", "maximal_compression": 100.0}
    rows = [{"pruner": p, "critical_compression": c, **numbers} for p, c in critical.items()]
    assert shares(pd.DataFrame(rows)).get_title(loc="left").splitlines()[0] == (
        "Goes furthest on so many of 1 networks: LAMP 1, PHEW 1"
    )


def test_every_registered_pruner_is_on_the_board() -> None:
    assert set(SCORES) == set(registered())
    with pytest.raises(RequestError, match="--add: expected pruners that are not on the board"):
        command.main(command.Config(preset="smoke", add=("synflow",), quiet=True))
    with pytest.raises(RequestError, match="unknown pruner 'synflo'; nearest: synflow"):
        command.main(command.Config(pruners=("synflo",)))


@pytest.mark.parametrize("kind", ["vgg16_bn", "resnet18", "resnet50", "mobilenetv2", "vit"])
def test_networks_are_narrow_ones_of_their_kind(kind: str) -> None:
    model = getattr(networks, kind)(10, (3, 32, 32))
    layers = {"vgg16_bn": 14, "resnet18": 21, "resnet50": 54, "mobilenetv2": 53}
    weights = [p for p in model.parameters() if p.ndim > 1]
    assert kind not in layers or len(weights) == layers[kind]
    assert sum(p.numel() for p in weights) < 600_000
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_command_writes_page_and_table(
    tmp_path: Path, pruners, resources: Resources, table: pd.DataFrame, capsys
) -> None:
    out, csv = tmp_path / "board.html", tmp_path / "board.csv"
    config = command.Config(
        pruners=("magnitude",), preset="smoke", runs=resources.execution.runs, out=out, table=csv,
        quiet=True,
    )  # fmt: skip
    assert command.main(replace(config)) == 0
    assert "2 rows, 0 with a problem" in capsys.readouterr().out
    assert len(tables.read(csv, TABLE)[0]) == 2
    assert "magnitude" in out.read_text()
