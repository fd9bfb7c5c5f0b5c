"""Pruners of one's own: registered by a decorator, scored on a model of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from collapse import masks as masking
from collapse.critical import critical_compression
from collapse.errors import RequestError
from collapse.models import build
from collapse.options import Pruning
from collapse.pruning import iterations_of, prune
from collapse.scores import SCORES, ScoreInputs, Scores, about, mode_of, needs_labels, pruner, score
from tests.snapshot import assert_same, snapshot
from tests.zoo import Case

Model = nn.Module


def by_hand(model: Model, masks: dict[str, Tensor], inputs: ScoreInputs) -> dict[str, Tensor]:
    """SNIP as a newcomer writes it: run the model, call backward, look at ``.grad``."""
    (x, y), *rest = inputs.batches
    assert not rest
    model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    weights = dict(model.named_parameters())
    return {name: (weights[name] * weights[name].grad).abs().detach() for name in masks}


def test_a_gradient_pruner_sees_pruned_weights_at_zero_in_every_iteration(mlp: Model) -> None:
    SCORES["by_hand"] = by_hand
    mlp.double()
    batches = [(torch.randn(9, 6, dtype=torch.float64), torch.arange(9) % 3)]
    before = snapshot(mlp)
    ours = prune(mlp, batches, Pruning("by_hand", iterations=5), keep=20).masks
    expected = prune(mlp, batches, Pruning("snip", iterations=5, mode="eval"), keep=20).masks
    once = prune(mlp, batches, Pruning("snip", iterations=1, mode="eval"), keep=20).masks
    assert all(torch.equal(ours[name], mask) for name, mask in expected.items())
    assert not all(torch.equal(once[name], mask) for name, mask in expected.items())
    assert_same(before, snapshot(mlp))


def _vandal(model: Model, masks: dict[str, Tensor], inputs: ScoreInputs) -> dict[str, Tensor]:
    model.train()
    model(inputs.batches[0][0])
    model.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.fill_(7)
    torch.manual_seed(5)
    return {name: torch.rand(mask.shape) for name, mask in masks.items()}


def test_a_pruner_that_writes_in_place_leaves_the_users_model_as_it_was(case: Case) -> None:
    SCORES["vandal"] = _vandal
    before = snapshot(case.model)
    prune(case.model, case.batches, Pruning("vandal", iterations=3), compression=2)
    assert_same(before, snapshot(case.model))


def test_what_cannot_be_copied_is_one_line(mlp: Model) -> None:
    SCORES["by_hand"] = by_hand
    mlp.generator = (x for x in ())
    with pytest.raises(RequestError, match="given a copy of the model, and this one cannot be"):
        score(mlp, "by_hand", masking.dense(mlp), ScoreInputs())


def test_the_decorator_says_all_there_is_to_know() -> None:
    @pruner(iterations=7, mode=None, data="none")
    def late(model: Model, masks: dict[str, Tensor], inputs: ScoreInputs) -> dict[str, Tensor]:
        return {name: torch.ones(mask.shape) for name, mask in masks.items()}

    assert about("late").iterations == iterations_of(Pruning("late")) == 7
    assert mode_of("late", "train") is None
    assert not needs_labels("late")
    assert late(nn.Module(), {}, ScoreInputs()) == {}
    result = prune(build("fc", input_shape=(1, 4, 4)), [], Pruning("late"), compression=3)
    assert len(result.steps) == 7


def test_a_plain_function_takes_one_iteration_in_eval_mode() -> None:
    SCORES["by_hand"] = by_hand
    assert (about("by_hand").iterations, mode_of("by_hand", None)) == (1, "eval")
    assert mode_of("by_hand", "train") == "train"
    assert needs_labels("by_hand")


def test_the_papers_settings() -> None:
    assert {name: iterations_of(Pruning(name)) for name in list(SCORES)[:5]} == {
        "random": 1,
        "magnitude": 1,
        "snip": 1,
        "grasp": 1,
        "synflow": 100,
    }
    assert [mode_of(name, None) for name in list(SCORES)[:5]] == [
        *(None, None, "train", "train", "eval")
    ]
    assert mode_of("synflow", "train") == "eval"
    assert mode_of("snip", "eval") == "eval"


def test_a_name_can_be_taken_once() -> None:
    before = dict(SCORES)
    with pytest.raises(RequestError, match="pruner 'snip' is registered already"):

        @pruner()
        def snip(model: Model, masks: dict[str, Tensor], inputs: ScoreInputs) -> Scores:
            return Scores({})

    assert before == SCORES


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        (None, "returned NoneType: expected a dict of tensors"),
        ({}, "layer '0.weight': expected scores of shape .8, 6., got nothing"),
        ({"0.weight": torch.ones(3)}, r"expected scores of shape \(8, 6\), got shape \(3,\)"),
        ({"0.weight": torch.ones(8, 6).numpy()}, "got no tensor but ndarray"),
        ({"0.weight": torch.ones(8, 6) * 1j}, "expected real scores, got torch.complex64"),
    ],
)
def test_nonsense_is_one_line(result: object, complaint: str, mlp: Model) -> None:
    SCORES["odd"] = lambda model, masks, inputs: result
    with pytest.raises(RequestError, match=complaint):
        score(mlp, "odd", masking.dense(mlp), ScoreInputs())


@pytest.mark.parametrize("form", ["differentiable", "bool", "integers"])
def test_scores_of_any_real_form_are_ranked(form: str, mlp: Model) -> None:
    forms = {
        "differentiable": lambda weight: weight.abs(),  # .detach() is easily forgotten
        "bool": lambda weight: weight > 0,
        "integers": lambda weight: (100 * weight).long(),
    }

    def function(model: Model, masks: dict[str, Tensor], inputs: ScoreInputs) -> dict[str, Tensor]:
        return {name: forms[form](model.get_parameter(name)) for name in masks}

    SCORES["formed"] = function
    scores = score(mlp, "formed", masking.dense(mlp), ScoreInputs())
    for name, tensor in scores.items():
        assert tensor.is_floating_point()
        assert not tensor.requires_grad
        assert torch.equal(tensor, forms[form](mlp.get_parameter(name)).to(tensor.dtype))
    batches = [(torch.zeros(3, 6), torch.arange(3))]
    assert masking.kept(prune(mlp, batches, Pruning("formed"), keep=20).masks) == 20
    assert critical_compression(mlp, batches, Pruning("formed")).critical_kept > 0


def test_a_pruner_that_writes_into_its_masks_changes_none(mlp: Model) -> None:
    def greedy(model: Model, masks: dict[str, Tensor], inputs: ScoreInputs) -> Scores:
        weights = dict(model.named_parameters())
        scores = {name: weights[name].detach().abs() for name in masks}
        for mask in masks.values():
            mask.zero_()
        return scores

    SCORES["greedy"] = greedy
    ours, theirs = (
        prune(mlp, [(torch.ones(1, 6), torch.zeros(1).long())], Pruning(name), compression=4).masks
        for name in ("greedy", "magnitude")
    )
    assert all(torch.equal(ours[name], mask) for name, mask in theirs.items())


def test_a_function_in_a_names_place_is_one_line(mlp: Model) -> None:
    with pytest.raises(
        RequestError, match=r"expected a name, got <function by_hand .*scores.pruner"
    ):
        prune(mlp, [], Pruning(by_hand), compression=2)  # type: ignore[arg-type]  # the mistake


def test_a_pruner_that_leaves_the_process_is_one_line(mlp: Model) -> None:
    def leaves(model: Model, masks: dict[str, Tensor], inputs: ScoreInputs) -> Scores:
        raise SystemExit(3)

    SCORES["leaves"] = leaves
    with pytest.raises(RequestError, match="pruner 'leaves' failed: SystemExit: 3"):
        score(mlp, "leaves", masking.dense(mlp), ScoreInputs())


def test_nan_of_a_users_function_blames_no_gradient(mlp: Model) -> None:
    SCORES["spoiled"] = lambda model, masks, inputs: {
        name: torch.full(mask.shape, torch.nan) for name, mask in masks.items()
    }
    batches = [(torch.zeros(3, 6), torch.arange(3))]
    with pytest.raises(RequestError, match="spoiled score of layer '0.weight' is not finite$"):
        score(mlp, "spoiled", masking.dense(mlp), ScoreInputs(batches))


def test_scores_that_the_data_make_infinite_name_the_data(mlp: Model) -> None:
    batches = [(torch.full((3, 6), float("nan")), torch.arange(3))]
    with pytest.raises(RequestError, match="not finite: the data hold NaN or infinite values"):
        score(mlp, "snip", masking.dense(mlp), ScoreInputs(batches))
    none = [(torch.ones(0, 6), torch.arange(0))]
    with pytest.raises(RequestError, match="expected at least one sample, got none"):
        score(mlp, "synflow", masking.dense(mlp), ScoreInputs(none))


def test_a_pruner_that_raises_is_one_line(mlp: Model) -> None:
    def broken(model: Model, masks: dict[str, Tensor], inputs: ScoreInputs) -> dict[str, Tensor]:
        raise KeyError("oops")

    SCORES["broken"] = broken
    with pytest.raises(
        RequestError, match=r"'broken' failed: KeyError: 'oops' \(test_registry.py line"
    ):
        score(mlp, "broken", masking.dense(mlp), ScoreInputs())


def test_an_unknown_mode_and_masks_of_another_network_are_said() -> None:
    model, batches = nn.Linear(2, 2), [(torch.ones(2, 2), torch.tensor([0, 1]))]
    ones = {"weight": torch.ones(2, 2).bool()}
    with pytest.raises(RequestError, match="unknown mode 'Train'; nearest: train"):
        score(model, "snip", ones, ScoreInputs(batches, "Train"))
    with pytest.raises(RequestError, match="the model has no 'nope'"):
        score(model, "magnitude", {"nope": ones["weight"]}, ScoreInputs(batches))
    with pytest.raises(RequestError, match="'weight' expected a boolean tensor"):
        score(model, "snip", {"weight": torch.ones(2, 2)}, ScoreInputs(batches))
