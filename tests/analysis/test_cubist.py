"""The Cubist Spiral: its arms and network are the paper's, and dead weights are counted."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import nn

from analysis.commands import cubist as command
from analysis.leaderboard.cubist import TABLE, loss, mlp, optima, spiral
from analysis.leaderboard.figure import dead
from collapse import tables
from collapse.errors import RequestError
from collapse.scores import SCORES


def test_two_arms_that_keep_their_distance() -> None:
    x, y = spiral(400)
    assert x.shape == (400, 2)
    assert y.bincount().tolist() == [200, 200]
    torch.testing.assert_close(x.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0), torch.ones(2))
    one, other = x[y == 0], x[y == 1]
    assert torch.cdist(one, other).min() > 0.2  # the arms never meet
    step = (one[1:] - one[:-1]).norm(dim=1)
    assert step.max() < 3 * step.min()  # evenly along the arm, but for the standardisation
    # No straight line tells the arms apart: each class winds twice around the middle.
    turns = torch.atan2(one[:, 1], one[:, 0]).diff().remainder(2 * torch.pi).sum() / (2 * torch.pi)
    assert 1.5 < float(turns) < 2.5


def test_the_network_is_the_papers() -> None:
    weights = [p.numel() for n, p in mlp().named_parameters() if n.endswith("weight")]
    assert weights == [32, 256, 256, 16]
    assert torch.equal(mlp(seed=1)[0].weight, mlp(seed=1)[0].weight)
    assert not torch.equal(mlp(seed=1)[0].weight, mlp(seed=2)[0].weight)
    outputs = torch.tensor([[9.0], [-9.0]])
    assert loss(outputs, torch.tensor([1, 0])) < 0.01 < loss(outputs, torch.tensor([0, 1]))


def _first_layer_only(model: nn.Module, masks, inputs):
    """All that is kept leads nowhere."""
    return {name: torch.full(mask.shape, -1.0 - int(name[0])) for name, mask in masks.items()}


def _fails(model: nn.Module, masks, inputs):
    raise ValueError("not today")


def test_dead_weights_are_counted_and_failures_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "first", _first_layer_only)
    monkeypatch.setitem(SCORES, "fails", _fails)
    table = optima(("first", "magnitude", "fails"), kept=(30, 560), seeds=(0,))
    assert list(table.columns) == list(tables.COLUMNS[TABLE])
    few, whole = table[table["pruner"] == "first"].to_dict("records")
    assert (few["alive"], few["dead_share"], few["cut"], few["empty_layers"]) == (0, 1, True, 3)
    assert (whole["alive"], whole["dead_share"], whole["cut"]) == (560, 0, False)
    failed = table[table["pruner"] == "fails"].iloc[0]
    assert "failed: ValueError: not today" in failed["problem"]
    assert pd.isna(failed["alive"])
    ax = dead(table)
    assert ax.lines[0].get_ydata().tolist() == [100, 0]
    with pytest.raises(RequestError, match="no numbers to draw"):
        dead(table[table["problem"].notna()])


def test_wrong_requests(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RequestError, match="at least 2 samples, got 1"):
        spiral(1)
    with pytest.raises(RequestError, match="a --width of 4 or more and .* got 2 and 1"):
        command.main(command.Config(width=2, seeds=(0,)))
    assert command.main(command.Config(pruners=("magnitude",), seeds=(0,))) == 0
    assert "mlp-2-16-16-16-1: means over 1 seed" in capsys.readouterr().out


def test_a_pruner_that_fails_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    fails = f"{__name__}:_fails"
    assert command.main(command.Config(pruners=("magnitude", fails), seeds=(0,))) == 1
    assert "failed: ValueError: not today" in capsys.readouterr().out
