"""What followed the paper's figures and questions: R as a proxy, units that masks choose."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from analysis.experiments import features, proxy
from analysis.questions import features as feature_answers
from analysis.questions import proxy as proxy_answers
from analysis.resumable import Resources
from collapse.errors import RequestError
from collapse.models import build
from collapse.options import Execution
from tests.drawn_tables import features_table, proxy_table


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return Resources(Execution(runs=tmp_path, quiet=True))


def test_unevenness_is_zero_by_chance_and_positive_where_units_differ() -> None:
    draw = torch.Generator().manual_seed(0)
    even = torch.rand(2000, 500, generator=draw) < 0.1
    assert abs(features.excess(even.sum(1), 500)) < 2e-3
    # Half of the units keep 20 %, half nothing: a coefficient of variation of 1.
    halved = even.clone()
    halved[::2] = False
    halved[1::2] |= torch.rand(1000, 500, generator=draw) < 0.1 / 0.9
    assert features.excess(halved.sum(1), 500) == pytest.approx(1.0, abs=0.02)
    exact = torch.full((10,), 5)  # less uneven than chance
    assert features.excess(exact, 50) == pytest.approx(-(1 - 0.1) / 5)
    assert math.isnan(features.excess(torch.zeros(4), 10))


def test_snip_chooses_units_and_magnitude_does_not(resources: Resources) -> None:
    config = replace(features.PRESETS["smoke"], pruners=("magnitude", "snip"), widths=(128,))
    table = features.run(replace(config, seeds=(0,)), resources).set_index(
        ["pruner", "layer_index", "side"]
    )
    assert len(table) == 2 * 2 * 2
    assert table.loc[("snip", 1, "out"), "excess"] > 0.5
    assert abs(table.loc[("magnitude", 1, "out"), "excess"]) < 0.05
    assert table.loc[("snip", 1, "in"), "kept"] == table.loc[("snip", 1, "out"), "kept"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"widths": ()}, "--widths: expected at least one"),
        ({"seeds": ()}, "--seeds: expected at least one"),
        ({"widths": (1,)}, "--widths: expected 2 units or more, got 1"),
        ({"pruners": ("snap",)}, "snap"),
    ],
)
def test_wrong_requests_of_features(change: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        features.points(replace(features.Config(), **change))


def test_R_is_the_sum_of_the_outputs_at_ones(resources: Resources) -> None:
    name = "torchvision:squeezenet1_1"
    row = proxy.run(proxy.Config(models=(name,)), resources).iloc[0]
    model = build(name, input_shape=(3, 224, 224), classes=1000, seed=0).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.abs_()
            if parameter_name.endswith("bias"):
                parameter.zero_()
        R = model(torch.ones(1, 3, 224, 224)).double().sum()
    assert row["log10_R"] == pytest.approx(math.log10(R), abs=1e-4)
    assert row["published_top1"] == 58.178
    assert row["parameters"] == 1_235_496
    assert row["log10_score_sum"] > row["log10_R"]  # each of 26 layers holds R, or what passes it


def test_a_number_beyond_floats_has_a_logarithm() -> None:
    assert proxy._log10(1.0, 5000) == pytest.approx(5000 * math.log10(2))
    assert math.isnan(proxy._log10(0.0, 0))
    assert math.isnan(proxy._log10(-1.0, 3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"models": ("torchvision:resnet51",)},
            "unknown torchvision classifier .*'torchvision:resnet51'; nearest: torchvision:resnet",
        ),
        (
            {"models": ("torchvision:vit_h_14",)},
            "unknown torchvision classifier",
        ),  # of another recipe alone
        ({"seeds": ()}, "--seeds: expected at least one"),
        ({"setup": replace(proxy._SETUP, model="fc")}, "--model fc: expected --models"),
    ],
)
def test_wrong_requests_of_the_proxy(change: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        proxy.points(replace(proxy.Config(), **change))


def test_the_correlation_is_spearmans_over_networks_and_drops_nothing_silently() -> None:
    table = proxy_table()
    found = proxy_answers.answer(table).set_index(["of", "group"])
    each = table.groupby("model").mean(numeric_only=True)
    for group, part in (
        (proxy_answers.ALL, each),
        (proxy_answers.CHAINS, each[each["layer_norms"] == 0]),
    ):
        by_hand = stats.spearmanr(part["log10_R"], part["published_top1"]).statistic
        row = found.loc[("log10 R", group)]
        assert row["estimate"] == pytest.approx(by_hand)
        assert row["low"] < row["estimate"] < row["high"]
        assert row["where"] == f"{group}: {len(part)} networks"
    without = table.assign(log10_R=table["log10_R"].where(table["model"] != table["model"].iloc[0]))
    found = proxy_answers.answer(without).set_index(["of", "group"])
    assert found.loc[("log10 R", proxy_answers.ALL), "where"] == (
        "all: 11 networks, 1 more without a positive R"
    )


def test_three_networks_have_no_interval() -> None:
    few = proxy_answers.rank_correlation(pd.Series([1.0, 2.0, 3.0]), pd.Series([1.0, 3.0, 2.0]))
    assert few.estimate == pytest.approx(0.5)
    assert np.isnan(few.low)


def test_the_answer_keeps_layers_sides_and_widths_apart() -> None:
    table = features_table((1, 2), ("in", "out"))
    found = feature_answers.answer(table)
    assert len(found) == table.groupby(["pruner", "layer_index", "side", "width"]).ngroups
    one = found.query("pruner == 'snip' and layer_index == 1 and side == 'out' and width == 64")
    rows = table.query("pruner == 'snip' and layer_index == 1 and side == 'out' and width == 64")
    assert one["estimate"].item() == pytest.approx(rows["excess"].mean())
    assert one["seeds"].item() == 3
