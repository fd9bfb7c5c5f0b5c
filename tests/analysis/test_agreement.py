"""Agreement with the published numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import experiments, published, results
from analysis.agreement import (
    COMPARISONS,
    KINDS,
    OF_LOG_SOFTMAX,
    First,
    alike,
    compare,
    first_empty,
)
from analysis.commands import agreement as command
from analysis.shown import disagreeing, first_collapses, headline, log_softmax, second_seed, show
from collapse import tables
from collapse.errors import RequestError

experiments.find("cuts")  # it declares its table


def _ours(name: str) -> pd.DataFrame:
    """The published numbers as if we had measured them."""
    theirs = published.load(name)
    network = {column: values[0] for column, values in published.NETWORKS[name].items()}
    ours = theirs.assign(**{c: v for c, v in network.items() if c not in theirs}, finished=True)
    if name == "layer-scores":
        ours["parameters"] = ours["elements"]
        ours["score_sum"] = ours["score_mean"] * ours["elements"]
        ours["score_abs_sum"] = ours["score_sum"]
    if name == "resnet34":
        own = {plain: own for own, plain in OF_LOG_SOFTMAX.items()}
        ours["pruner"] = ours["pruner"].replace(own)
    return ours


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_published_numbers_agree_with_themselves(name: str) -> None:
    found = compare(name, _ours(name))
    assert len(found.missing) == 0
    assert found.points["within"].all()
    assert found.points["deviation"].abs().max() < 1e-9
    assert found.failed == 0
    # One row a published point: those that were run several times count once.
    keys = list(found.points.columns[: list(found.points.columns).index("ours")])
    assert not found.points.duplicated(subset=keys).any()
    assert found.verdict == "reproduced"


def test_sizes_of_what_is_published() -> None:
    """Counted by hand from the sources."""
    counts = {name: len(published.load(name)) for name in COMPARISONS}
    assert counts == {
        "accuracy": 195, "densities": 1235, "layer-scores": 95, "levels": 150, "dynamics": 1700,
        "grid": 2340, "cuts": 88, "resnet34": 3330,
    }  # fmt: skip
    cuts = published.load("cuts").set_index(["schedule", "compression", "iterations"])
    assert cuts.loc[("exponential", 10.0, 10), "max_prune_to_cut_ratio"] == 1.36735
    grid = published.load("grid")
    assert set(grid["seed"]) == {0, 1, 2}
    assert grid.groupby(["dataset", "model", "pruner"]).size().eq(39).all()


def test_a_point_outside_is_found_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    ours = _ours("densities")
    wrong = (ours["pruner"] == "synflow") & (ours["compression"] == 16) & (ours["layer_index"] == 3)
    assert wrong.sum() == 1
    ours.loc[wrong, "density"] *= 1.3
    found = compare("densities", ours)
    assert found.failed == 1
    worst = found.points.loc[~found.points["within"]].iloc[0]
    assert worst["deviation"] == pytest.approx(np.log10(1.3))
    show({"densities": found})
    printed = capsys.readouterr().out
    assert "OUTSIDE at synflow, compression 16, layer_index 3" in printed
    assert "+0.1139 log10 density" in printed


def test_densities_below_500_weights_and_data_driven_ones_fail_nothing() -> None:
    ours = _ours("densities")
    kept = ours["density"] * ours["parameters"]
    ours.loc[(kept < 500) | ours["pruner"].isin(["snip", "grasp"]), "density"] *= 3
    found = compare("densities", ours)
    assert found.failed == 0
    assert not found.points["within"].all()


def test_a_layer_that_collapsed_only_here_is_infinitely_far() -> None:
    ours = _ours("densities")
    ours.loc[ours["pruner"] == "magnitude", "density"] = 0.0
    found = compare("densities", ours)
    lost = found.points[found.points["pruner"] == "magnitude"]
    there = lost["published"] > 0
    assert np.isneginf(lost.loc[there, "deviation"]).all()
    assert lost.loc[~there, "within"].all()  # and those that collapse in both agree
    assert found.failed == (lost["kind"] == KINDS[0]).sum() == 118
    assert found.verdict == "NOT reproduced"


def test_every_published_density_is_counted_those_of_collapsed_layers_too() -> None:
    ours = _ours("densities")
    ours = ours[ours["compression"] < 2**24]
    kept = ours["density"] * ours["parameters"]
    ours.loc[(ours["pruner"] == "snip") & (kept > 0) & (kept < 500), "density"] = 0.0
    found = compare("densities", ours)
    counts = found.points["kind"].value_counts()
    assert len(found.points) == counts.sum() == 1235
    assert counts["not run"] == 95
    one_sided = found.points[found.points["kind"] == KINDS[3]]
    assert len(one_sided) > 30
    assert not one_sided["within"].any()
    assert found.points.loc[found.points["kind"] == KINDS[2], "within"].all()
    assert (found.failed, found.verdict) == (0, "partly")


# --- Where collapse first occurs ----------------------------------------------------------------


def _densities(empty: dict[str, tuple[int, int]]) -> pd.DataFrame:
    """Three layers of 100; a layer of each pruner is empty from a compression on."""
    return pd.DataFrame(
        {
            "pruner": pruner, "compression": c, "layer_index": layer, "parameters": 100,
            "density": 0.0 if layer == which and c >= at else 1 / c,
        }
        for pruner, (which, at) in empty.items()
        for c in (1, 4, 16, 64, 256)
        for layer in (1, 2, 3)
    )  # fmt: skip


def test_the_first_layer_to_collapse_and_its_compression() -> None:
    found = first_empty(_densities({"snip": (2, 16), "synflow": (3, 256)}))
    # 256 is beyond a parameter a layer: no mask could keep all three.
    assert found == {"snip": First((2,), 16.0), "synflow": First((), 64.0)}
    assert [str(first) for first in found.values()] == ["layer 2 at 16", "none up to 64"]
    assert str(First((17, 18, 19), 1024.0)) == "layers 17-19 at 1,024"
    assert str(First((1, 3), 4.0)) == "layers 1, 3 at 4"


def test_collapse_is_alike_in_the_same_layer_within_a_step_of_the_grid() -> None:
    here = First((2,), 16.0)
    assert alike(here, First((2,), 64.0))
    assert alike(here, First((2,), 4.0))
    assert not alike(here, First((2,), 256.0))
    assert not alike(here, First((3,), 16.0))
    assert not alike(here, First((), 16.0))


def test_the_first_line_is_the_papers_claim_and_fails_with_it() -> None:
    ours = _ours("densities")
    line = first_collapses(ours)
    assert line.startswith("reproduced: where collapse first occurs (figure 2)")
    assert "for 5 of 5 pruners" in line
    assert "magnitude layers 17-19 at 1,024 (published: layers 17-19 at 1,024)" in line
    assert disagreeing(ours) == []
    early = (ours["pruner"] == "synflow") & (ours["compression"] == 256)
    ours.loc[early & (ours["layer_index"] == 3), "density"] = 0.0
    line = first_collapses(ours)
    assert line.startswith("partly: ")
    assert "for 4 of 5 pruners" in line
    assert "synflow layer 3 at 256 (published: none up to 4,194,304)" in line
    assert disagreeing(ours) == ["synflow"]
    assert first_collapses(None).startswith("not run: ")
    assert disagreeing(None) == []


def test_what_was_not_looked_for_far_enough_is_no_disagreement() -> None:
    """Figure 2 until compression 256: SynFlow, never empty, agrees so far; SNIP is known."""
    published_ = _ours("densities")
    short = published_[published_["compression"] <= 256]
    alone = short[short["pruner"] == "synflow"]
    assert disagreeing(short) == disagreeing(alone) == []
    assert first_collapses(alone).startswith("not run that far: ")
    assert first_collapses(short).startswith("partly: ")
    emptied = alone.assign(density=alone["density"].where(alone["layer_index"] > 1, 0.0))
    assert disagreeing(emptied) == ["synflow"]
    assert first_collapses(emptied).startswith("NOT reproduced: ")
    # None up to where it ends is as published, however much further it was looked.
    whole = published_[published_["pruner"] == "synflow"]
    far = whole.assign(compression=whole["compression"] * 4**3)
    assert disagreeing(pd.concat([whole, far])) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finished": "abc"}, "column 'finished': expected true or false, got 'abc'"),
        ({"finished": None}, "column 'finished': expected true or false"),
        ({"compression": None}, "column 'compression' of our table: expected a value in every"),
        ({"schedule": None}, "column 'schedule' of our table: expected a value in every row"),
        ({"iterations": "ten"}, "column 'iterations': expected numbers from 0 up, got 'ten'"),
        ({"max_prune_to_cut_ratio": "x"}, "'max_prune_to_cut_ratio': expected numbers, got 'x'"),
    ],
)
def test_an_odd_table_is_one_line(
    change: dict[str, str | None], message: str, tmp_path: Path, capsys
) -> None:
    frame = _ours("cuts").reindex(columns=[*tables.COLUMNS["cuts"]]).assign(**change)
    tables.write(frame, tmp_path / "cuts.csv", "cuts")
    with pytest.raises(SystemExit) as stop:
        command.run(["--results", str(tmp_path)])
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert message in printed.err


def test_the_headline_counts_what_was_run_of_what_is_published() -> None:
    cuts = compare("cuts", _ours("cuts").query("schedule == 'linear'"))
    second = headline({"cuts": cuts}, None).splitlines()[1]
    assert second.startswith("33 of the 33 published points that were run agree, of 8,916 in all")
    assert "not run: densities, layer-scores, levels, dynamics, accuracy, grid, resnet34" in second


def test_the_noise_floor_is_our_second_seed_by_the_same_rule() -> None:
    ours = _ours("densities").query("pruner == 'random' and compression == 16")
    ours = ours.assign(kept=(ours["density"] * ours["parameters"]).round())
    other = ours.assign(density=ours["density"] * np.where(ours["layer_index"] == 5, 2.0, 1.0))
    firsts, line = second_seed(ours, other)
    assert firsts.endswith("our second seed: random none up to 16")
    large = (ours["kept"] >= 500).sum()
    assert f"random {large - 1} of {large}, 0.30" in line
    assert second_seed(ours, None) == []


def test_a_log_softmax_is_compared_at_the_compressions_of_both_scores() -> None:
    theirs = published.load("resnet34").query("pruner == 'synflow'")
    mean = theirs.groupby(["compression", "layer_index"], as_index=False)["density"].mean()
    (own,) = [own for own, plain in OF_LOG_SOFTMAX.items() if plain == "synflow"]
    logits = mean.assign(pruner="synflow", density=mean["density"] * 2)
    line, *rest = log_softmax(
        pd.concat([mean.query("compression == 2.5").assign(pruner=own), logits])
    )
    assert "at compression 2.5: the head 0.301 and 0.000" in line
    assert rest == []
    assert log_softmax(logits) == []
    assert log_softmax(None) == []


def test_cuts_are_held_to_five_percent_from_ten_iterations_on() -> None:
    for factor, failed in ((1.04, 0), (1.06, 60)):
        ours = _ours("cuts")
        ours["max_prune_to_cut_ratio"] *= factor
        found = compare("cuts", ours)
        assert found.points["deviation"].round(6).eq(round(factor - 1, 6)).all()
        assert found.failed == failed  # 2 schedules, 3 compressions, 10 numbers of iterations


def test_scores_are_compared_up_to_one_factor() -> None:
    ours = _ours("layer-scores")
    for column in ("score_sum", "score_abs_sum"):
        ours[column] *= np.where(ours["pruner"] == "snip", 1e-3, 1.0)
    found = compare("layer-scores", ours)
    assert found.points["within"].all()
    ours.loc[ours["layer_index"] == 2, "score_sum"] *= 2
    found = compare("layer-scores", ours)
    assert found.failed == 2  # magnitude's and synflow's; random's are averaged by size
    assert int((~found.points["within"]).sum()) == 4


def test_accuracy_counts_what_lies_within_the_published_runs() -> None:
    ours = _ours("grid")
    top = ours.groupby(["dataset", "model", "pruner", "compression"])["best_top1"].transform("max")
    found = compare("grid", ours.assign(best_top1=top + 0.01))
    assert len(found.points) == 780
    assert not found.points["within"].any()
    assert compare("grid", ours.assign(best_top1=top)).points["within"].all()


def test_rows_of_other_networks_and_unfinished_ones_are_not_compared() -> None:
    ours = _ours("cuts")
    assert len(compare("cuts", ours.assign(model="vgg11")).run) == 0
    assert len(compare("cuts", ours.assign(finished=False)).run) == 0
    half = ours.assign(finished=[i % 2 == 0 for i in range(len(ours))])
    left = ~half["finished"] & (half["compression"] > 1)
    assert len(compare("cuts", half).missing) == left.sum() > 30
    with pytest.raises(
        RequestError, match="nothing is published for 'neurons': expected one of densities"
    ):
        compare("neurons", ours)


def test_the_command_states_what_was_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _ours("cuts").query("schedule == 'linear'")
    frame = rows.reindex(columns=[*tables.COLUMNS["cuts"]]).assign(pruner="synflow", seed=0)
    tables.write(frame, tmp_path / "cuts.csv", "cuts")
    out = tmp_path / "out" / "agreement.csv"
    with pytest.raises(SystemExit) as stop:
        command.run(["--results", str(tmp_path), "--out", str(out)])
    printed = capsys.readouterr().out
    assert stop.value.code == 0
    assert printed.startswith("not run: where collapse first occurs (figure 2)")
    assert "exponential" in printed
    assert "figure 3 (neurons) has no published numbers" in printed
    table, _ = tables.read(out, "agreement")
    assert len(table) == 66
    assert table["ours"].notna().sum() == 33
    with pytest.raises(SystemExit) as stop:
        command.run(["--results", str(tmp_path / "nowhere")])
    assert stop.value.code == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_failed_agreement_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = _ours("cuts").reindex(columns=[*tables.COLUMNS["cuts"]])
    frame["max_prune_to_cut_ratio"] *= 2
    tables.write(frame, tmp_path / "cuts.csv", "cuts")
    with pytest.raises(SystemExit) as stop:
        command.run(["--results", str(tmp_path)])
    assert stop.value.code == 1
    assert capsys.readouterr().out.count("OUTSIDE at") == 5
    tables.write(frame, tmp_path / "densities.csv", "cuts")
    with pytest.raises(SystemExit) as stop:
        command.run(["--results", str(tmp_path)])
    assert stop.value.code == 2
    assert "expected table 'layers'" in capsys.readouterr().err


def test_our_results_agree(capsys: pytest.CaptureFixture[str]) -> None:
    """What is kept beside the code: figures 2, 4 and 7 at the paper's size."""
    with pytest.raises(SystemExit) as stop:
        command.run([])
    assert stop.value.code == 0
    ours = {name: results.load(name) for name in ("densities", "layer-scores", "cuts")}
    found = {name: compare(name, table) for name, table in ours.items() if table is not None}
    assert set(found) == set(ours)
    densities = found["densities"].run
    assert {"random", "magnitude", "synflow"} <= set(densities["pruner"])
    assert len(found["cuts"].run) >= 12


def test_only_the_longest_schedule_is_compared() -> None:
    ours = _ours("accuracy").assign(epochs=160, train_images=50_000)
    short = ours.assign(epochs=1, best_top1=1.0)
    found = compare("accuracy", pd.concat([short, ours, short]))
    assert found.points["within"].all()
    # Datasets have schedules and sizes of their own.
    several = _ours("grid").assign(finished=True)
    several["epochs"] = several["dataset"].map({"tinyimagenet": 100}).fillna(160)
    several["train_images"] = several["dataset"].map({"cifar10": 25_000}).fillna(50_000)
    assert compare("grid", several).missing.empty
    epochs = _ours("dynamics").assign(run="long")
    cut = epochs[epochs["epoch"] < 20].assign(run="short", score_mean=1.0)
    assert compare("dynamics", pd.concat([cut, epochs])).points["within"].all()
