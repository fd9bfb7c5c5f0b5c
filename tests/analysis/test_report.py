"""The report page: in a real browser, with the numbers of the commands' tables."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.commands import report as command
from analysis.experiments import densities
from analysis.report import Report, commands, facts_of, gather, render, verdict
from analysis.report.numbers import apart, down
from analysis.resumable import Resources
from collapse import tables
from collapse.options import Execution, Setup
from collapse.plots import style

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
def ill(model, masks, inputs):
    raise ValueError("not today")
"""


SMALL = ("random", "magnitude", "snip")


def _opened(browser: Any, path: Path, width: int = 1280, **options: Any) -> tuple[Any, list[str]]:
    """The page in a tab without a network, and what its console complains about."""
    tab = browser.new_page(viewport={"width": width, "height": 800}, **options)
    tab.context.set_offline(True)
    complaints: list[str] = []
    tab.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(path.as_uri())
    return tab, complaints


@pytest.fixture(scope="module")
def tab(browser: Any, made: tuple[Report, Path]) -> Iterator[Any]:
    """One tab for all tests that only look at the page."""
    found, complaints = _opened(browser, made[1])
    yield found
    assert complaints == []


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
    return _made(two_branches, tmp_path_factory.mktemp("report"), pruners=SMALL)


def _made(setup: Setup, tmp_path: Path, **options: Any) -> tuple[Report, Path]:
    resources = Resources(Execution(tmp_path / "runs", quiet=True))
    report = gather(setup, resources=resources, **options)
    path = tmp_path / "report.html"
    path.write_text(render(report, "cpu"), encoding="utf-8")
    return report, path


def test_the_first_screen_has_the_verdict_and_the_tables_numbers(
    tab: Any, made: tuple[Report, Path]
) -> None:
    report, path = made
    assert path.stat().st_size < 3e6
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", path.read_text())
    says = verdict(facts_of(report))
    assert tab.inner_text("#headline") == says.headline.replace("`", "")
    assert tab.locator("#headline").bounding_box()["y"] < 200
    last = tab.locator(".bar[data-pruner-name]").last.bounding_box()
    assert last["y"] + last["height"] < 800
    critical = report.parts["critical"].table
    assert critical is not None
    for row in critical.to_dict("records"):
        bar = tab.locator(f".bar[data-pruner-name='{style.name(row['pruner'])}']")
        assert bar.locator(".critical-number").inner_text() == down(row["critical_compression"])
        assert bar.locator(".until-number").inner_text() == down(row["connected_until"])
        place = "cut layer" if row["collapsed_is_cut"] else "branch layer"
        assert place in bar.locator(".says").inner_text()


def test_the_slider_moves_the_graph_by_keyboard(tab: Any, made: tuple[Report, Path]) -> None:
    report, _ = made
    layers = report.parts["densities"].table
    assert layers is not None
    stops = sorted(layers["compression"].unique())
    critical = report.parts["critical"].table
    assert critical is not None
    assert set(critical["critical_compression"]) <= set(stops)
    first = next(c for c in stops if (layers.loc[layers["compression"] == c, "kept"] == 0).any())
    assert int(tab.input_value("#slider")) == stops.index(first)  # where something is to be seen
    labels = apart(stops)
    tab.focus("#slider")
    tab.keyboard.press("Home")
    for stop, label in zip(stops, labels, strict=True):
        sentence = tab.inner_text("#now")
        assert sentence.startswith(f"At {label}×")
        assert tab.get_attribute("#slider", "aria-valuetext") == sentence
        at = layers[layers["compression"] == stop]
        empty = {name.removesuffix(".weight") for name in at.loc[at["kept"] == 0, "layer"]}
        marks = tab.locator(".node[data-layer]:has(use.fat) .name")
        assert set(marks.all_inner_texts()) == empty
        tab.keyboard.press("ArrowRight")


def test_the_graph_has_the_branches(tab: Any) -> None:
    rows = tab.locator(".node .name").all_inner_texts()
    assert rows == ["input", "stem", "wide", "narrow.0", "narrow.2", "+", "head", "output"]
    assert tab.locator(".node .name.cut").all_inner_texts() == ["stem", "head"]
    columns = tab.locator(".graph circle").evaluate_all(
        "all => all.map(c => +c.getAttribute('cx'))"
    )
    assert columns[1] != columns[2] == columns[3]  # wide beside the narrow branch
    assert tab.locator(".graph .edge").count() == 8


def test_the_layer_table_sorts_and_filters(tab: Any, made: tuple[Report, Path]) -> None:
    sizes = {name.removesuffix(".weight"): size for name, size in made[0].layers.items()}
    names = tab.locator("#layer-table tbody tr:visible td:first-child")
    for order in (False, True):
        tab.locator("#layer-table th button", has_text="weights").click()
        assert names.all_inner_texts() == sorted(sizes, key=lambda n: sizes[n], reverse=order)
    assert tab.locator("th[aria-sort=descending]").inner_text() == "weights"
    tab.fill("#filter-name", "narrow")
    assert sorted(names.all_inner_texts()) == ["narrow.0", "narrow.2"]
    assert tab.inner_text("#filter-count") == "2 of 5 layers"
    tab.fill("#filter-name", "")
    tab.select_option("#filter-place", "cut layer")
    assert sorted(names.all_inner_texts()) == ["head", "stem"]
    tab.select_option("#filter-place", "")


def test_words_explain_themselves_and_pictures_have_names(tab: Any) -> None:
    assert tab.locator("[role=tooltip]:visible").count() == 0
    term = tab.locator(".term", has_text="critical compression").first
    term.focus()
    assert "no layer of the network empty" in tab.locator("[role=tooltip]:visible").inner_text()
    tab.keyboard.press("Escape")
    assert tab.locator("[role=tooltip]:visible").count() == 0
    pictures = tab.locator("svg[role=img]")
    assert pictures.count() > 6
    assert all(pictures.evaluate_all("all => all.map(one => one.getAttribute('aria-label'))"))
    ids = tab.locator("[id]").evaluate_all("all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))
    described = tab.locator("[aria-describedby]").evaluate_all(
        "all => all.map(one => one.getAttribute('aria-describedby'))"
    )
    assert set(described) <= set(ids)


def test_laws_are_one_line_that_opens(tab: Any, made: tuple[Report, Path]) -> None:
    worst = made[0].parts["conservation"].table
    assert worst is not None
    laws = worst[worst["identity"] != "outside the theory"]
    line = tab.inner_text("#laws-line")
    assert line == f"All {len(laws)} conservation laws hold, to {laws['residual'].max():.1e}."
    assert not tab.is_visible("#conservation-table")
    tab.click("#laws-line")
    assert tab.locator("#conservation-table tr:visible").count() == len(laws) + 1
    tab.click("#laws-line")


def test_a_command_is_copied(browser: Any, made: tuple[Report, Path]) -> None:
    tab, complaints = _opened(browser, made[1], permissions=["clipboard-read", "clipboard-write"])
    tab.locator("button.copy").nth(1).click()
    tab.wait_for_function("document.querySelectorAll('button.copy')[1].textContent == 'Copied'")
    copied = tab.evaluate("navigator.clipboard.readText()")
    assert copied == commands(made[0])["critical"] + " --out critical.parquet"
    assert complaints == []
    tab.close()


def test_what_is_left_out_is_on_the_page(made: tuple[Report, Path]) -> None:
    words = "not counted: 512 parameters of 1 tensor (largest: own 512)"
    assert words not in made[1].read_text()
    assert words in render(replace(made[0], left_out=(words,)), "cpu")


def test_the_page_fits_a_phone(browser: Any, made: tuple[Report, Path]) -> None:
    tab, complaints = _opened(browser, made[1], width=390, color_scheme="dark")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    inside = "all => all.every(one => one.getBoundingClientRect().right <= 390.5)"
    assert tab.locator("figure, .graph, .bar, .control").evaluate_all(inside)
    # No legend lies on a curve: each is above its picture.
    for chart in ("scores", "dead"):
        keys = tab.locator(f"div:has(> #{chart}) > .keys").bounding_box()
        assert keys["y"] + keys["height"] <= tab.locator(f"#{chart} > svg").bounding_box()["y"]
    ground = "getComputedStyle(document.body).backgroundColor"
    assert tab.evaluate(ground) == "rgb(20, 23, 28)"
    assert complaints == []
    tab.close()


def test_it_prints_on_two_white_pages(tab: Any) -> None:
    paper = tab.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) == 2
    tab.emulate_media(media="print", color_scheme="dark")
    assert not tab.is_visible("#slider")
    assert tab.is_visible("#headline")
    assert tab.is_visible("#now")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tab.emulate_media(media="screen", color_scheme="light")


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
    assert report.said == []
    assert "before anybody prunes it: healthy." in page.read_text()


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


def test_what_cannot_be_computed_is_said_and_the_verdict_stays_honest(
    two_branches: Setup, tmp_path: Path, browser: Any
) -> None:
    nan = replace(two_branches, model="branches:Nan")
    report, path = _made(nan, tmp_path, pruners=(*SMALL, "synflow"))
    problem = report.parts["conservation"].problem
    assert problem
    critical = report.parts["critical"].table
    assert critical is not None
    assert set(critical["pruner"]) == {"random", "magnitude"}
    tab, complaints = _opened(browser, path)
    assert tab.inner_text("#headline").startswith("Of 2 pruners that could be computed, ")
    warnings = " ".join(tab.locator(".warning").all_inner_texts())
    assert "No signal could be followed through this network" in warnings
    assert "Not computed, and in no comparison here: SNIP. " in warnings
    assert "Not computed, and in no comparison here: SynFlow and SynFlow, certified. " in warnings
    assert problem.split(":")[0] in tab.inner_text("#conservation-problem")
    assert tab.locator(".node .name").count() == 5  # the layers stand without their wiring
    assert complaints == []
    tab.close()


def test_several_seeds_are_bands(two_branches: Setup, tmp_path: Path) -> None:
    report, path = _made(two_branches, tmp_path, pruners=("random", "magnitude"), seeds=(0, 3))
    facts = facts_of(report)
    critical = report.parts["critical"].table
    assert critical is not None
    for one in facts.outcomes:
        own = critical[critical["pruner"] == one.pruner]
        assert sorted(own["seed"]) == [0, 3]
        assert one.critical == own["critical_compression"].min()
    page = path.read_text()
    assert page.count('class="band"') == 2
    assert "Compressions are the lowest of 2 seeds." in page
    assert "whisker: range over seeds" in page
    assert "One seed" not in page
    assert commands(report)["critical"].endswith("--seeds 0 3")


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
    ill = ("--model", two_branches.model, "--pruners", "magnitude", "branches:ill", *small[4:])
    code, text, err = call(*ill, "--out", str(tmp_path / "ill.html"))
    assert (code, err) == (1, "")
    assert "branches:ill: could not be computed: pruner 'branches:ill' failed: ValueError" in text
    code, _, err = call(*small, "--out", str(tmp_path / "page.htm"))
    assert (code, "expected a suffix of .html" in err) == (2, True)
    code, _, err = call("--model", "vgg61", "--out", str(tmp_path / "none.html"))
    assert (code, "nearest: vgg" in err) == (2, True)
    assert not (tmp_path / "none.html").exists()
    code, _, err = call(*small, "--seeds", "1", "1", "--out", str(out))
    assert (code, "--seeds" in err, "1" in err) == (2, True, True)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vgg16", "resnet18", "torchvision:mobilenet_v2"])
def test_reports_of_known_networks(browser: Any, tmp_path: Path, model: str) -> None:
    report, path = _made(Setup(model), tmp_path)
    assert path.stat().st_size < 3e6
    assert isinstance(report.parts["critical"].table, pd.DataFrame)
    tab, complaints = _opened(browser, path, width=390)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert len(re.findall(rb"/Type\s*/Page\b", tab.pdf(prefer_css_page_size=True))) == 2
    assert complaints == []
    tab.close()
