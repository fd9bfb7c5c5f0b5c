"""float64 where rounding would decide the verdict, and where it can be afforded."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from collapse.critical import critical_compression
from collapse.data import load
from collapse.models import build
from collapse.options import Pruning
from collapse.problem import Problem
from collapse.pruning import precision as rules
from collapse.pruning import prune
from collapse.pruning.loop import begin
from collapse.pruning.steps import Plain


def _problem(samples_per_class: int = 1) -> Problem:
    return Problem(build("conv"), load("digits").score_batches(samples_per_class))


def _dtype(problem: Problem, options: Pruning, keep: int | None = None) -> torch.dtype | None:
    return rules.precision(problem, options, 100_000, keep)


def test_first_scores_are_shared_within_a_precision_only() -> None:
    problem = Problem(build("fc"), load("digits").score_batches(1))
    begun = replace(begin(problem, Pruning("synflow"), problem.start()), first={})
    for dtype in (torch.float32, torch.float64):
        inputs = replace(begun.inputs, dtype=dtype)
        engine = Plain(replace(begun, inputs=inputs))
        next(iter(engine.steps([(0, 1000)])))
        assert {score.dtype for score in engine.scores.values()} == {dtype}
    assert {dtype for _, dtype in begun.first or ()} == {torch.float32, torch.float64}


def test_scores_of_data_are_in_float64_where_it_can_be_afforded(monkeypatch) -> None:
    problem = _problem()
    one = rules.operations(problem)
    counted = sum(p.numel() for n, p in problem.model.named_parameters() if n.endswith("weight"))
    assert one >= 2 * counted  # each weight is used once or more, a product and a sum
    assert _dtype(problem, Pruning("snip")) == torch.float64
    monkeypatch.setattr(rules, "AFFORDABLE", 3 * 10 * one)
    assert _dtype(problem, Pruning("snip")) == torch.float64
    assert _dtype(problem, Pruning("grasp")) is None  # four times the passes
    assert _dtype(problem, Pruning("snip", iterations=2)) is None
    assert _dtype(_problem(2), Pruning("snip")) is None


def test_synflow_is_in_float64_for_far_compressions_alone() -> None:
    problem = _problem()
    assert _dtype(problem, Pruning("synflow"), keep=99) == torch.float64
    assert _dtype(problem, Pruning("synflow"), keep=101) is None
    assert _dtype(problem, Pruning("synflow", schedule="certified"), keep=99) is None
    assert _dtype(problem, Pruning("magnitude"), keep=101) is None


def test_a_forward_that_insists_on_float32_is_scored_in_it() -> None:
    class Insists(nn.Linear):
        def forward(self, x):
            return super().forward(x.float())

    batches = [(torch.randn(6, 5), torch.arange(6) % 3)]
    found = prune(Insists(5, 3), batches, Pruning("snip"), keep=7)
    assert found.steps[-1].precision == "float32"


@pytest.mark.parametrize("pruner", ["snip", "grasp"])
def test_pruning_and_critical_rank_alike(pruner: str) -> None:
    """One rule for both: what the closed form promises, the pruning keeps."""
    problem = _problem()
    found = critical_compression(problem, options=Pruning(pruner))
    assert found.precision == "float64"
    for keep, empty in ((found.critical_kept, 0), (found.collapse_kept, 1)):
        masks = prune(problem, options=Pruning(pruner), keep=keep).masks
        assert sum(not bool(mask.any()) for mask in masks.values()) == empty


@pytest.mark.slow
def test_the_default_table_is_the_same_at_one_and_at_two_threads() -> None:
    """Three minutes on two idle cores."""
    words = [sys.executable, "-m", "collapse.critical", "--model", "vgg16", "--quiet"]
    one, two = (
        subprocess.run(
            words,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in (1, 2)
    )
    assert one == two
