"""The conformance test passes right implementations and names what is wrong with the others."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from collapse import masks as masking
from collapse.errors import RequestError
from collapse.options import Pruning
from collapse.pruning import prune
from collapse.scores import ScoreInputs, score
from collapse.testing import assert_matches
from tests import reference


def _twin(name: str):
    def mine(model: nn.Module, masks, inputs: ScoreInputs):
        return reference.SCORES[name](model, masks, inputs.batches, inputs.mode)

    return mine


@pytest.mark.parametrize("pruner", ["magnitude", "snip", "grasp", "synflow"])
def test_the_naive_twins_match(pruner: str) -> None:
    assert_matches(_twin(pruner), pruner)


def _prunes(pruner: str = "synflow"):
    def mine(model: nn.Module, batches, keep: int, masks):
        return prune(model, batches, Pruning(pruner, 2), keep=keep, masks=masks).masks

    return mine


@pytest.mark.parametrize("pruner", ["magnitude", "snip", "synflow"])
def test_a_right_pruning_matches(pruner: str) -> None:
    assert_matches(_prunes(pruner), pruner, prunes=True, iterations=2)


def _absolute_statistics(model: nn.Module, masks, inputs: ScoreInputs):
    """As in much published code: the absolute value of everything in the state dict."""
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, tensor in twin.state_dict().items():
            tensor.abs_()
            if name in masks:
                tensor.mul_(masks[name])
            if name.endswith("bias"):
                tensor.zero_()
    x = inputs.batches[0][0]
    twin(torch.ones(1, *x.shape[1:], dtype=x.dtype)).sum().backward()
    parameters = dict(twin.named_parameters())
    return {name: (parameters[name] * parameters[name].grad).detach() for name in masks}


def _falls_back(model: nn.Module, masks, inputs: ScoreInputs):
    try:
        raise RuntimeError
    except RuntimeError:
        return {name: p.detach().abs() for name, p in model.named_parameters() if name in masks}


def _changes(model: nn.Module, masks, inputs: ScoreInputs):
    with torch.no_grad():
        model[0].bias.abs_()
    return score(model, "synflow", masks, inputs)


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        (_absolute_statistics, "on running statistics: .* absolute value taken of parameters only"),
        (_falls_back, "on a chain: .* these are magnitudes, a silent fallback"),
        (_twin("snip"), "not synflow on a chain: .*another score"),
        (_changes, "a chain: it changed '0.bias' of the model"),
        (lambda *_: {}, r"a chain: expected a tensor of shape \(8, 6\) for '0.weight', got None"),
        (lambda *_: 1 / 0, "a chain: it raised ZeroDivisionError"),
    ],
)
def test_wrong_scores_are_named(mine, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        assert_matches(mine, "synflow")


def _over_ties(model: nn.Module, batches, keep: int, masks):
    """Everything above the threshold: all weights that tie with it go."""
    first = prune(model, batches, Pruning("synflow", 2), keep=keep, masks=masks)
    scores, ranked = first.scores, first.ranked
    left = torch.cat([scores[name][mask] for name, mask in ranked.items()])
    threshold = left.sort().values[len(left) - keep - 1]
    return {name: (scores[name] > threshold) & mask for name, mask in ranked.items()}


def _regrows(model: nn.Module, batches, keep: int, masks):
    dense = masking.dense(model)
    return prune(model, batches, Pruning("synflow", 2), keep=keep, masks=dense).masks


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        (_over_ties, r"padding only: \d+ weights are kept where \d+ were .*all weights at the thr"),
        (_regrows, "on pruned weights: .* that were pruned are back; likely: regrowth"),
        (_prunes("magnitude"), "on a chain: .*the largest weights, a silent fallback"),
    ],
)
def test_wrong_prunings_are_named(mine, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        assert_matches(mine, "synflow", prunes=True, iterations=2)


def test_wrong_requests() -> None:
    with pytest.raises(RequestError, match="unknown pruner 'snipp'; nearest: snip"):
        assert_matches(_twin("snip"), "snipp")
    with pytest.raises(RequestError, match="random scores match no others"):
        assert_matches(_twin("snip"), "random")
    with pytest.raises(RequestError, match="a tolerance above 0 and an overlap up to 1, got 0, 1"):
        assert_matches(_twin("snip"), "snip", tolerance=0, overlap=1)
