"""The report page: in a real browser, with the numbers of the commands' tables."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.commands import report as command
from analysis.experiments import densities
from analysis.report import Report, commands, reasons, render
from analysis.report.gather import gather
from analysis.resumable import Resources
from collapse import tables
from collapse.options import Execution, Setup

TWO_BRANCHES = """
import torch, torch.nn as nn
class TwoBranches(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 16, 5, padding=2)
        self.narrow = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 3, padding=1))
        self.head = nn.Linear(16 * 16, 10)
    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.wide(x) + self.narrow(x))
        return self.head(nn.functional.adaptive_max_pool2d(x, 4).flatten(1))
class Nan(TwoBranches):
    def forward(self, x):
        return super().forward(x) * float("nan")
"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: expected one of {', '.join(names)} on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


def _opened(browser: Any, path: Path, width: int = 1100) -> tuple[Any, list[str]]:
    """The page in a tab without a network, and what its console complains about."""
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.context.set_offline(True)
    complaints: list[str] = []
    tab.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(path.as_uri())
    tab.wait_for_selector("#critical .plot-container")
    return tab, complaints


def _check_page(browser: Any, path: Path, report: Report) -> None:
    """Every number that a reader can see is the tables'."""
    tab, complaints = _opened(browser, path)
    critical, layers = report.parts["critical"].table, report.parts["densities"].table
    assert critical is not None
    assert layers is not None
    bars = tab.evaluate("document.getElementById('critical').data[0].y")
    assert bars == critical["critical_compression"].tolist()
    cells = tab.locator("#critical-table tr").all_inner_texts()[1:]
    for text, row in zip(cells, critical.to_dict("records"), strict=True):
        assert f"{row['critical_compression']:,.6g}" in text
        assert f"{row['connected_until']:,.6g}" in text
        assert ("(branch)" in text) == (row["collapsed_is_cut"] is False)
        assert str(row["evidence"]) in text
    stops = sorted(layers["compression"].unique())
    assert tab.locator("#densities .slider-label").count() >= 2
    for stop in (stops[0], stops[len(stops) // 2], stops[-1]):
        _move_slider(tab, stops.index(stop), len(stops))
        shown = tab.evaluate("document.getElementById('densities').data.map(t => t.customdata)")
        for pruner, points in zip(layers["pruner"].unique(), shown, strict=True):
            rows = layers[(layers["pruner"] == pruner) & (layers["compression"] == stop)]
            assert points == rows.sort_values("layer_index")[["kept", "parameters"]].values.tolist()
        slider = tab.locator("#densities .slider-container").text_content()
        assert f"compression {stop:,.6g}" in slider
    worst = report.parts["conservation"].table
    assert worst is not None
    rows = tab.locator("#conservation-table tr").all_inner_texts()[1:]
    identities = worst[worst["identity"] != "outside the theory"]
    for text, row in zip(rows, identities.to_dict("records"), strict=True):
        assert f"{row['residual']:.1e}" in text
    assert complaints == []
    tab.close()


def _move_slider(tab: Any, index: int, count: int) -> None:
    """With the mouse, as a reader does."""
    tab.locator("#densities .slider-rail-touch-rect").scroll_into_view_if_needed()
    rail = tab.locator("#densities .slider-rail-touch-rect").bounding_box()
    first, last = (
        tab.locator("#densities .slider-label-group").nth(i).bounding_box() for i in (0, -1)
    )
    left, right = first["x"] + first["width"] / 2, last["x"] + last["width"] / 2
    labels = tab.locator("#densities .slider-label-group").count()
    if labels < count:  # plotly leaves labels out where they would overlap: ends are the rail's
        left, right = rail["x"] + 8, rail["x"] + rail["width"] - 8
    tab.mouse.click(left + (right - left) * index / (count - 1), rail["y"] + rail["height"] / 2)
    tab.wait_for_timeout(150)


@pytest.fixture(scope="module")
def two_branches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    folder = tmp_path_factory.mktemp("user")
    (folder / "branches.py").write_text(TWO_BRANCHES)
    sys.path.insert(0, str(folder))
    yield Setup("branches:TwoBranches", samples_per_class=2)
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def made(two_branches: Setup, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """One report for all tests that only look at it."""
    return _made(two_branches, tmp_path_factory.mktemp("report"))


def _made(setup: Setup, tmp_path: Path, **options: Any) -> tuple[Report, Path]:
    report = gather(setup, resources=Resources(Execution(tmp_path / "runs", quiet=True)), **options)
    path = tmp_path / "report.html"
    path.write_text(render(report, "cpu"), encoding="utf-8")
    return report, path


def test_the_page_shows_the_tables_numbers(browser: Any, made: tuple[Report, Path]) -> None:
    report, path = made
    assert path.stat().st_size < 6e6
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", path.read_text())
    _check_page(browser, path, report)


def test_what_is_left_out_is_on_the_page(made: tuple[Report, Path]) -> None:
    words = "not counted: 512 parameters of 1 tensor (largest: own 512)"
    assert words not in made[1].read_text()
    assert words in render(replace(made[0], left_out=(words,)), "cpu")


def test_the_page_fits_a_phone_and_paper(browser: Any, made: tuple[Report, Path]) -> None:
    _, path = made
    tab, complaints = _opened(browser, path, width=390)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    widest = tab.evaluate(
        "Math.max(...[...document.querySelectorAll('.js-plotly-plot')].map(p => p.clientWidth))"
    )
    assert widest <= 390
    assert len(tab.pdf()) > 10_000
    assert complaints == []
    tab.close()


def test_the_parts_are_the_commands_tables(
    made: tuple[Report, Path], tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    from analysis.commands import experiment
    from collapse.commands import critical

    report, _ = made
    typed = commands(report)
    out = tmp_path / "critical.parquet"
    words = f"{typed['critical']} --out {out} --quiet".removeprefix("python -m collapse.critical ")
    assert "--samples-per-class 2" in words  # what is not at its default is said
    assert run(critical, words)[0] == 0
    theirs, _ = tables.read(out, "critical")
    ours = report.parts["critical"].table
    assert ours is not None
    for column in ("critical_compression", "critical_kept", "first_collapsed_layer", "evidence"):
        assert ours[column].fillna("").tolist() == theirs[column].fillna("").tolist()
    out = tmp_path / "densities.parquet"
    words = typed["densities"].removeprefix("python -m analysis densities ").split()
    with pytest.raises(SystemExit) as stop:
        experiment.run(
            "densities",
            [*words, "--out", str(out), "--runs", str(tmp_path / "other"), "--quiet"],
        )  # fmt: skip
    assert stop.value.code == 0
    kept, _ = tables.read(out, "layers")
    mine = report.parts["densities"].table
    assert mine is not None
    for column in ("kept", "effective_kept"):
        assert mine[column].tolist() == kept[column].tolist()


def test_the_doctors_part_is_the_doctors(
    made: tuple[Report, Path], tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    from collapse.commands import doctor

    report, page = made
    out = tmp_path / "doctor.parquet"
    words = commands(report)["doctor"].removeprefix("python -m collapse.doctor ")
    assert run(doctor, f"{words} --out {out} --quiet")[0] == 0
    theirs, _ = tables.read(out, "doctor")
    ours = report.parts["doctor"].table
    assert ours is not None
    for column in ("layer", "kept", "living", "is_cut", "verdict"):
        assert ours[column].tolist() == theirs[column].tolist()
    assert report.said == ["healthy"]
    assert '<ul id="doctor-findings"><li class="place">healthy</li></ul>' in page.read_text()


def test_living_weights_are_counted_as_the_engine_counts_them(
    two_branches: Setup, tmp_path: Path
) -> None:
    from collapse.connectivity import living
    from collapse.masks import kept_by_layer
    from collapse.options import Pruning
    from collapse.problem import prepare
    from collapse.pruning import prune

    config = densities.Config(
        two_branches, pruners=("magnitude",), compressions=(20.0,), living=True
    )
    table = densities.run(config, Resources(Execution(tmp_path, quiet=True)))
    prepared = prepare(two_branches, 0, labelled=False)
    masks = prune(prepared.model, (), Pruning(pruner="magnitude"), compression=20.0).masks
    alive = kept_by_layer(living(prepared.model, masks, prepared.batches[0][0]))
    assert table["effective_kept"].tolist() == list(alive.values())
    assert (table["effective_kept"] <= table["kept"]).all()


def test_reasons_name_the_layer_and_its_share(made: tuple[Report, Path]) -> None:
    report, _ = made
    found = {one["pruner"]: one for one in reasons(report)}
    critical = report.parts["critical"].table
    assert critical is not None
    first = critical.set_index("pruner")["first_collapsed_layer"]
    assert found["magnitude"]["layer"] == first["magnitude"]
    assert found["magnitude"]["parameters"] == report.layers[first["magnitude"]]
    assert "goes first" in found["magnitude"]["text"]
    asked = critical[critical["schedule"] != "certified"]
    cut = asked.set_index("pruner")["collapsed_is_cut"]
    assert not all(cut)
    for pruner, one in found.items():
        assert ("in a branch: the network stays connected to" in one["text"]) == (not cut[pruner])


def test_what_cannot_be_computed_is_said_and_the_rest_stands(
    two_branches: Setup, tmp_path: Path, browser: Any
) -> None:
    report, path = _made(replace(two_branches, model="branches:Nan"), tmp_path)
    problem = report.parts["conservation"].problem
    assert problem
    tab, complaints = _opened(browser, path)
    assert problem.split(":")[0] in tab.inner_text("#conservation-problem")
    assert "snip" in tab.inner_text("body")  # its row could not be computed either
    critical = report.parts["critical"].table
    assert critical is not None
    assert set(critical["pruner"]) == {"random", "magnitude"}
    assert complaints == []
    tab.close()


def test_the_command(
    two_branches: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            command.run([*words, "--quiet", "--runs", str(tmp_path / "runs")])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    out = tmp_path / "page.html"
    small = ("--model", two_branches.model, "--pruners", "magnitude", "--samples-per-class", "1")
    code, text, err = call(*small, "--out", str(out))
    assert (code, err) == (0, "")
    assert text.startswith(f"{out} (")
    assert out.read_text().startswith("<!doctype html>")
    code, _, err = call(*small, "--out", str(tmp_path / "page.htm"))
    assert (code, "expected a suffix of .html" in err) == (2, True)
    code, _, err = call("--model", "vgg61", "--out", str(tmp_path / "none.html"))
    assert (code, "nearest: vgg" in err) == (2, True)
    assert not (tmp_path / "none.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vgg16", "resnet18", "torchvision:mobilenet_v2"])
def test_reports_of_known_networks(browser: Any, tmp_path: Path, model: str) -> None:
    report, path = _made(Setup(model), tmp_path)
    assert path.stat().st_size < 6e6
    assert isinstance(report.parts["critical"].table, pd.DataFrame)
    _check_page(browser, path, report)
