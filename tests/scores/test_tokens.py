"""Ids of tokens enter SynFlow as ones: the same masks as a plain autograd twin given ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapse import masks as masking
from collapse.connectivity import connected, living
from collapse.conservation import audit, worst
from collapse.critical import critical_compression
from collapse.errors import RequestError
from collapse.options import Pruning
from collapse.problem import Problem
from collapse.pruning import prune
from collapse.schedules import keep_counts
from collapse.scores import ScoreInputs, score, token_cross_entropy
from tests import hugging_face


def _twin(
    model: nn.Module, forward: Callable[[nn.Module], Tensor], iterations: int, keep: int
) -> dict[str, Tensor]:
    """SynFlow by its definition, on a copy whose parameters are |θ| and whose biases are zero."""
    twin = copy.deepcopy(model).eval()
    parameters, masks = dict(twin.named_parameters()), masking.dense(model)
    with torch.no_grad():
        for name, p in parameters.items():
            p.zero_() if "bias" in name else p.abs_()
    for goal in keep_counts("exponential", masking.total(masks), keep, iterations):
        twin.zero_grad()
        forward(twin).sum().backward()
        scores = {
            name: torch.zeros_like(p) if p.grad is None else p.grad * p.detach()
            for name in masks
            for p in [parameters[name]]
        }
        masks = masking.select(scores, goal, masks=masks)
        with torch.no_grad():
            for name, mask in masks.items():
                parameters[name].mul_(mask)
    return masks


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", hugging_face.NETWORKS)
def test_masks_are_those_of_a_twin_whose_embeddings_are_ones(name: str) -> None:
    pytest.importorskip("transformers")
    model, inputs, ones = hugging_face.NETWORKS[name]()
    model = model.double()
    # T5 has no positions: its tokens of ones are all alike, its queries' scores are rounding, and
    # past the first iteration rounding decides.
    iterations, compression = (1, 3) if name == "t5" else (4, 5)
    options = Pruning(iterations=iterations)
    found = prune(model, [(inputs, None)], options, compression=compression)
    keep = found.steps[-1].kept
    expected = _twin(model, lambda twin: twin(**ones).logits, iterations, keep)
    assert _same(found.masks, expected)
    assert _same(found.masks, prune(
        model, [(inputs, None)], options, compression=compression, engine="plain"
    ).masks)  # fmt: skip


@pytest.mark.parametrize("name", hugging_face.NETWORKS)
def test_a_dense_network_lives_and_its_flow_is_accounted_for(name: str) -> None:
    pytest.importorskip("transformers")
    model, inputs, _ = hugging_face.NETWORKS[name]()
    model = model.double()
    masks = masking.dense(model)
    assert connected(model, masks, inputs)
    assert masking.density(living(model, masks, inputs)) == 1
    empty = {layer: torch.zeros_like(mask) for layer, mask in masks.items()}
    assert not connected(model, empty, inputs)
    # T5 and Llama normalise in float32.
    tolerance = 1e-5 if name in ("t5", "llama") else 1e-12
    found = audit(model, (inputs, None), pruner="synflow")
    assert worst(found.ledger)["residual"].max() < tolerance
    assert found.coverage.scored == set(masks)


def test_labels_in_the_batch_reach_the_forward() -> None:
    pytest.importorskip("transformers")
    model, inputs, _ = hugging_face.llama()
    masks = masking.dense(model)
    own = ScoreInputs([(inputs, None)], output="loss", loss=lambda loss, _: loss)
    given = score(model, "snip", masks, own)
    targets = nn.functional.pad(inputs["labels"], (0, 1), value=-100)[:, 1:]
    plain = ScoreInputs([(inputs["input_ids"], targets)], loss=token_cross_entropy)
    ours = score(model, "snip", masks, plain)
    assert all(torch.allclose(ours[name], given[name], rtol=1e-4) for name in masks)


class _Words(nn.Module):
    """A language model on an LSTM, with positions that its own forward counts."""

    def __init__(self, positions: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 6), nn.Embedding(9, 6)
        self.cell, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 20)
        self.positions = positions
        self.given: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids.clone()[:, :]) if self.given is None else self.given
        return self.head(self.cell(x + self.places(self.positions(ids)))[0])


_POSITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "counted": lambda ids: torch.arange(ids.shape[1]),
    "expanded": lambda ids: torch.arange(ids.shape[1]).expand_as(ids),
    "of a mask": lambda ids: (ids != 0).cumsum(1) - 1,
    "like": lambda ids: torch.ones_like(ids).cumsum(1) - 1,
}


@pytest.mark.parametrize("positions", _POSITIONS)
def test_a_users_language_model(positions: str) -> None:
    model = _Words(_POSITIONS[positions]).double()
    ids = torch.randint(1, 20, (4, 9))

    def given_ones(twin: Any) -> Tensor:
        twin.given = torch.ones(1, 9, 6, dtype=torch.float64)
        return twin(ids[:1])

    found = prune(model, [(ids, None)], Pruning(iterations=3), compression=4)
    assert _same(found.masks, _twin(model, given_ones, 3, found.steps[-1].kept))


def test_critical_compression_of_a_language_model() -> None:
    model, ids = _Words(_POSITIONS["counted"]), torch.randint(1, 20, (4, 9))
    problem = Problem(model, [(ids, ids)], loss=token_cross_entropy)
    for pruner in ("snip", "grasp", "magnitude"):
        result = critical_compression(problem, options=Pruning(pruner))
        assert result.evidence == "closed form"
        assert set(result.sizes) == {"cell.weight_ih_l0", "cell.weight_hh_l0", "head.weight"}
        assert 1 < result.critical_compression <= result.maximal_compression
    synflow = critical_compression(problem, options=Pruning(iterations=5), scan=0)
    assert synflow.connected_until >= synflow.critical_compression > 1


class _Bags(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(20, 6, **options)
        self.hidden, self.head = nn.Linear(6, 6, bias=False), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.hidden(self.words(ids)).relu())


@pytest.mark.parametrize(("mode", "entered"), [("mean", 1), ("sum", 5), ("max", 1)])
def test_bags_of_words(mode: str, entered: int) -> None:
    model = _Bags(mode=mode, max_norm=1.0)
    R = score(
        model, "synflow", masking.dense(model), ScoreInputs([(torch.ones(2, 5).long(), None)])
    ).total
    plain = model.head.weight.abs() @ model.hidden.weight.abs() @ torch.full((6,), float(entered))
    assert pytest.approx(plain.sum().item(), rel=1e-6) == R


def test_a_table_that_is_scored_gives_its_rows() -> None:
    """Ones in their place would leave it without any score; a tied one is scored as the head."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.words(ids)).mean(1)

    model, ids = Model(), torch.tensor([[1, 2, 2]])
    masks = {name: torch.ones_like(p).bool() for name, p in model.named_parameters() if p.ndim > 1}
    scores = score(model, "synflow", masks, ScoreInputs([(ids, None)]))
    assert scores["words.weight"].sum(1).nonzero().flatten().tolist() == [1, 2]
    assert scores["words.weight"].sum() == pytest.approx(scores.total)
    alive = living(model, masks, ids)
    assert alive["words.weight"].any(1).nonzero().flatten().tolist() == [1, 2]
    masks["words.weight"][:] = False
    assert not connected(model, masks, ids)


def test_integers_that_are_looked_up_nowhere_are_refused() -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.float())

    model = Cast()
    with pytest.raises(RequestError, match="integer inputs never reach an embedding"):
        prune(model, [(torch.ones(1, 4).long(), None)], compression=2)
