"""Every weight that multiplies activations is scored, on networks that nobody here wrote."""

from __future__ import annotations

import operator
import re

import pytest
import torch
from torch import Tensor, nn

from collapse import Problem, Pruning, critical_compression, masks, prunable, prune
from collapse.conservation import audit
from collapse.masks import apply
from tests import reference
from tests.foreign import FOREIGN, foreign
from tests.snapshot import assert_same, snapshot

PACKED = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


def in_parts(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """A packed attention's scores as those of its three maps."""
    found: dict[str, Tensor] = {}
    for name, tensor in scores.items():
        if name.endswith("in_proj_weight"):
            path = name.removesuffix("in_proj_weight")
            found |= zip((path + part for part in PACKED), tensor.chunk(3), strict=True)
        else:
            found[name] = tensor
    return found


def own_names(model: nn.Module) -> dict[str, Tensor]:
    """Masks that keep all, by the names of the user's own parameters."""
    own = dict(model.named_parameters())
    names = [n if n in own else re.sub("[qkv]_proj", "in_proj", n) for n in prunable(model)]
    return {name: torch.ones_like(own[name], dtype=torch.bool) for name in names}


@pytest.mark.parametrize("name", FOREIGN)
def test_all_matrices_but_embeddings_are_counted(name: str) -> None:
    model, batches = foreign(name)
    problem = Problem(model, batches)
    counted = masks.total(problem.dense())
    tables = (nn.Embedding,)
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, tables)}
    matrices = [p for p in model.parameters() if p.ndim > 1 and id(p) not in embedded]
    assert counted / sum(p.numel() for p in matrices) > 0.99  # positions and class tokens are not
    assert not problem.unreached


@pytest.mark.parametrize("pruner", ["snip", "synflow"])
@pytest.mark.parametrize("name", FOREIGN)
def test_masks_equal_those_of_plain_autograd(name: str, pruner: str) -> None:
    model, batches = foreign(name)
    before = snapshot(model)
    total = sum(p.numel() for p in prunable(model).values())
    options = Pruning(pruner=pruner, iterations=1, mode="eval" if pruner == "snip" else None)
    ours = prune(model, batches, options, keep=total // 5)
    assert_same(before, snapshot(model))
    for layer in model.modules():  # these keep the tensors that they last ran on
        if isinstance(layer, nn.RNNBase):
            assert all(map(operator.is_, layer._flat_weights, layer.parameters()))
    twin = getattr(reference, pruner)(model, own_names(model), batches, "eval")
    expected = in_parts(twin)
    assert list(expected) == list(ours.masks)
    for layer, scores in expected.items():
        torch.testing.assert_close(ours.scores[layer], scores, rtol=1e-7, atol=1e-12)
    for layer, mask in reference.select(expected, total // 5).items():
        assert torch.equal(ours.masks[layer], mask)
    apply(model, ours.masks)
    kept = {n: p != 0 for n, p in model.named_parameters()}
    for layer, mask in in_parts({n: kept[n] for n in own_names(model)}).items():
        assert torch.equal(mask, ours.masks[layer])


@pytest.mark.parametrize("name", FOREIGN)
def test_the_ledger_balances_and_covers_what_it_can_follow(name: str) -> None:
    model, batches = foreign(name)
    found = audit(model, batches[0], pruner="snip")
    assert float(found.ledger["residual"].max()) < 1e-10
    recurrent = {n for n in prunable(model) if n.startswith("layer.")}
    if recurrent:  # one operation with all its matrices: outside the theory, and listed
        assert set(found.outside["operation"]) & {"lstm", "gru"}
        assert found.coverage.crossed == set(found.coverage.layers) - recurrent
        assert "no cut through layer.weight_ih_l0" in str(found.coverage)
    elif name != "bilinear":  # a product of activations
        assert found.coverage.crossed == set(found.coverage.layers)
    assert found.coverage.scored == set(found.coverage.layers)


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_the_closed_form_is_right_on_them(name: str) -> None:
    model, batches = foreign(name)
    options = Pruning(pruner="snip", mode="eval")
    found = critical_compression(model, batches, options)
    at = [prune(model, batches, options, keep=found.critical_kept - i).masks for i in (0, 1)]
    assert not masks.collapsed(at[0])
    assert masks.collapsed(at[1]) == [found.first_collapsed_layer]
