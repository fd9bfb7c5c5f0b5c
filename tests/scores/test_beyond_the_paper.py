"""What the papers of the other pruners claim of them, and what docs/pruners.md says."""

from __future__ import annotations

import doctest
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import masks as masking
from collapse.connectivity import connected, paths
from collapse.conservation import audit
from collapse.critical import critical_compression
from collapse.errors import RequestError
from collapse.models import build
from collapse.options import PAPER_PRUNERS, Pruning
from collapse.pruning import Step, prune
from collapse.scores import SCORES, ScoreInputs, about, pruner, score
from collapse.scores.curvature import hutchinson_diagonal
from collapse.scores.pruners import phew, prospr
from collapse.scores.walks import Steps, visited
from tests import reference
from tests.zoo import ZOO, Case, each

BEYOND = [name for name in SCORES if name not in PAPER_PRUNERS]


@pytest.mark.parametrize("pruner", BEYOND)
def test_the_example_runs(pruner: str) -> None:
    names = {"nn": nn, "torch": torch, "score": score, "ScoreInputs": ScoreInputs}
    [test] = doctest.DocTestFinder(recurse=False).find(SCORES[pruner], pruner, globs=names)
    assert len(test.examples) >= 1
    assert doctest.DocTestRunner().run(test).failed == 0


def _all_masks(model: nn.Module, batches, options: Pruning, keep: int) -> list[dict[str, Tensor]]:
    """The masks after each iteration, from prunings that end there."""
    found = []
    for last in range(1, options.iterations + 1):

        def stop(step: Step, last: int = last) -> bool:
            return step.iteration == last

        found.append(prune(model, batches, options, keep=keep, on_step=stop).masks)
    return found


@pytest.mark.parametrize(("pruner", "regrows"), [("force", True), ("iterative_snip", False)])
def test_only_force_regrows(pruner: str, regrows: bool, mlp: nn.Module) -> None:
    batches = [(torch.randn(9, 6), torch.arange(9) % 3)]
    found = _all_masks(mlp, batches, Pruning(pruner, iterations=4), keep=15)
    back = [
        sum(int((after[n] & ~before[n]).sum()) for n in before)
        for before, after in itertools.pairwise(found)
    ]
    assert about(pruner).regrows == regrows
    assert (sum(back) > 0) == regrows
    assert masking.kept(found[-1]) == 15


def test_what_masks_were_given_never_regrows(mlp: nn.Module) -> None:
    batches = [(torch.randn(9, 6), torch.arange(9) % 3)]
    start = prune(mlp, batches, Pruning("random"), keep=60).masks
    masks = prune(mlp, batches, Pruning("force", iterations=4), keep=20, masks=start).masks
    assert not any(bool((masks[name] & ~start[name]).any()) for name in masks)


def test_an_empty_layer_may_fill_again_under_regrowth() -> None:
    """The verdict is that of the last masks: a search that stopped at the first loss would err."""

    def late(model: nn.Module, masks: dict[str, Tensor], inputs: ScoreInputs):
        """Empties the second layer in the first iteration, and brings it back in the second."""
        order = {"0.weight": 2.0, "1.weight": 1.0 if inputs.iteration == 1 else 3.0}
        return {name: torch.full(mask.shape, order[name]) for name, mask in masks.items()}

    pruner(iterations=2, data="none", mode=None, regrows=True)(late)
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 1, bias=False))
    found = critical_compression(model, [(torch.zeros(1, 4), None)], Pruning("late"), scan=2)
    by_hand = [
        keep
        for keep in range(2, 40)
        if not masking.collapsed(
            prune(model, [(torch.zeros(1, 4), None)], Pruning("late"), keep=keep).masks
        )
    ]
    assert found.critical_kept == min(by_hand) == 9  # all of the second layer, and one
    assert found.first_collapsed_layer == "0.weight"  # the last scores' lowest, not the first's
    assert found.evidence == "search"


@pytest.mark.parametrize("name", ["mlp", "convolutions", "residual", "shared"])
def test_lamp_empties_no_layer_while_there_is_a_weight_for_each(name: str) -> None:
    model, batches = ZOO[name]()
    dense = masking.dense(model)
    scores = score(model, "lamp", dense, ScoreInputs())
    assert all(int((s == 1).sum()) == 1 and float(s.max()) == 1 for s in scores.values())
    for keep in (len(dense), len(dense) + 1, masking.total(dense) // 3):
        assert not masking.collapsed(prune(model, batches, Pruning("lamp"), keep=keep).masks)
    found = critical_compression(model, batches, Pruning("lamp"))
    assert found.critical_compression == found.maximal_compression


def test_lamp_of_a_layer_that_is_all_zero(mlp: nn.Module) -> None:
    nn.init.zeros_(mlp[2].weight)
    scores = score(mlp, "lamp", masking.dense(mlp), ScoreInputs())
    assert not bool(scores["2.weight"].any())


def _network(name: str) -> Case:
    if name == "resnet20":  # a walk takes one of two branches
        return Case(build("resnet20"), [(torch.zeros(1, 3, 16, 16), torch.zeros(1).long())])
    return ZOO[name]()


@pytest.mark.parametrize("name", ["mlp", "convolutions", "residual", "one_dimensional", "resnet20"])
def test_phew_is_connected_by_construction(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phew, "ROUNDS", 6)
    model, batches = _network(name)
    dense = masking.dense(model)
    for keep in (len(dense), masking.total(dense) // 3):
        masks = prune(model, batches, Pruning("phew", seed=keep), keep=keep).masks
        assert connected(model, masks, batches[0][0])


def test_phews_first_walk_is_a_path_of_living_weights() -> None:
    model, batches = _network("resnet20")
    model.eval()  # as it is scored: in train mode BatchNorm takes a mean off what is not connected
    draw, arrived = torch.Generator().manual_seed(0), 0
    for steps in (
        Steps.back(model, masking.dense(model)),
        Steps.forth(model, masking.dense(model)),
    ):
        for _ in range(6):
            walk = visited(model, steps, 1, ScoreInputs(batches), draw)
            if masking.kept(walk):  # not in the zeros of a shortcut; it takes one of two branches
                assert set(masking.kept_by_layer(walk).values()) == {0, 1}
                assert masking.kept(paths(model, walk, batches[0][0])[0]) == masking.kept(walk)
                arrived += 1
    assert arrived >= 2


def test_a_round_has_as_many_walks_as_it_says(mlp: nn.Module) -> None:
    """And the next round begins where it ends: 3 outputs, 1 walk and then 2."""
    inputs, draw = ScoreInputs([(torch.zeros(1, 6), None)]), torch.Generator().manual_seed(0)
    back, forth = Steps.back(mlp, masking.dense(mlp)), Steps.forth(mlp, masking.dense(mlp))
    ends = [visited(mlp, back, walks, inputs, draw)["4.weight"].any(1) for walks in (1, 2, 4)]
    assert [end.tolist() for end in ends] == [[True, False, False], [False, True, True], [True] * 3]
    begins = [visited(mlp, forth, walks, inputs, draw)["0.weight"].any(0) for walks in (1, 2)]
    assert [begin.tolist() for begin in begins] == [
        [True, *[False] * 5],
        [False, True, True, *[False] * 3],
    ]


def test_phew_walks_in_proportion_to_the_weights() -> None:
    """The first walk leads from the first output unit to the input, ``P(i → j) ∝ |θ_ij|``."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    theta = [model[0].weight.detach().abs(), model[2].weight.detach().abs()]
    last = theta[1][0] / theta[1][0].sum()
    expected = last[:, None] * theta[0] / theta[0].sum(1, keepdim=True)  # of [hidden, input]
    counts, draws = torch.zeros(3, 3), 300
    steps, inputs = (
        Steps.back(model, masking.dense(model)),
        ScoreInputs([(torch.zeros(1, 3), None)]),
    )
    draw = torch.Generator().manual_seed(0)
    for _ in range(draws):
        steps.begun = 0
        walk = visited(model, steps, 1, inputs, draw)
        counts += walk["0.weight"]
        assert masking.kept_by_layer(walk) == {"0.weight": 1, "2.weight": 1}
    deviation = (draws * expected * (1 - expected)).sqrt()
    assert bool(((counts - draws * expected).abs() <= 5 * deviation + 1e-6).all())


CONSERVED = {"synflow_l2": True, "px": True, "synflow_l2_halved": False}


@pytest.mark.parametrize(("pruner", "conserved"), CONSERVED.items())
def test_conservation_of_squared_weights(pruner: str, conserved: bool) -> None:
    """Every unit: what comes in is what goes out; every layer of a chain holds all of ``R``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))
    inputs = ScoreInputs([(torch.randn(5, 6).double(), torch.arange(5) % 3)])
    scores = score(model.double(), pruner, masking.dense(model), inputs)
    sums = torch.stack([s.sum() for s in scores.values()])
    assert torch.allclose(sums, sums[0].expand(3), rtol=1e-12) == conserved
    before, after = scores["0.weight"].sum(1), scores["2.weight"].sum(0)
    assert torch.allclose(before, after, rtol=1e-12) == conserved
    if conserved:
        assert float(sums[0]) == pytest.approx(scores.total, rel=1e-12)


def test_the_two_forms_of_synflow_l2_rank_differently(mlp: nn.Module) -> None:
    batches = [(torch.zeros(1, 6), None)]
    one, other = (
        prune(mlp, batches, Pruning(name, iterations=1), keep=30).masks
        for name in ("synflow_l2", "synflow_l2_halved")
    )
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_hutchinsons_mean_over_all_signs_is_the_diagonal() -> None:
    """Of one weight the estimate is exact; of two, over many draws, as near as they allow."""
    torch.manual_seed(0)
    model = nn.Linear(2, 2, bias=False).double()
    masks = masking.dense(model)
    inputs = ScoreInputs([(torch.randn(6, 2).double(), torch.arange(6) % 2)])
    loss, start, split = reference._as_function(model, masks, inputs.batches, "eval", 1.0)
    exact = split(torch.autograd.functional.hessian(loss, start).diagonal())["weight"]
    rough = hutchinson_diagonal(model, masks, inputs, 1.0, 200)["weight"]
    torch.testing.assert_close(rough, exact, rtol=0.3, atol=0.03)
    single = {"weight": torch.tensor([[True, False], [False, False]])}
    loss, start, split = reference._as_function(model, single, inputs.batches, "eval", 1.0)
    entry = torch.autograd.functional.hessian(loss, start)[0, 0]
    one = hutchinson_diagonal(model, single, inputs, 1.0, 1)["weight"]
    assert float(one[0, 0]) == pytest.approx(float(entry), rel=1e-12)


def test_the_weights_have_no_say_in_ntk_sap_nor_the_data(mlp: nn.Module) -> None:
    first = score(mlp, "ntk_sap", masking.dense(mlp), ScoreInputs([(torch.zeros(1, 6), None)]))
    with torch.no_grad():
        for module in (mlp[0], mlp[2], mlp[4]):
            module.weight.normal_()
    again = score(mlp, "ntk_sap", masking.dense(mlp), ScoreInputs([(torch.ones(3, 6), None)]))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_prospr_without_steps_is_snip(mlp: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = ScoreInputs([(torch.randn(9, 6), torch.arange(9) % 3)])
    trained = score(mlp, "prospr", masking.dense(mlp), inputs)
    monkeypatch.setattr(prospr, "LEARNING_RATE", 0.0)
    found, snip = (score(mlp, name, masking.dense(mlp), inputs) for name in ("prospr", "snip"))
    for name in found:
        torch.testing.assert_close(found[name], snip[name], rtol=1e-5, atol=1e-9)
        assert not torch.allclose(trained[name], snip[name], rtol=1e-2)


# --- A warm-up of BatchNorm -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pruner", "case"), each(["snip", "grasp", "fts", "px"]), indirect=["case"]
)
def test_warm_is_eval_with_the_batches_statistics(pruner: str, case: Case) -> None:
    for module in case.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    masks = masking.dense(case.model)
    before = {name: buffer.clone() for name, buffer in case.model.named_buffers()}
    warm = score(case.model, pruner, masks, ScoreInputs(case.batches, mode="warm"))
    assert all(torch.equal(b, before[name]) for name, b in case.model.named_buffers())
    norms = [m for m in case.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for x, _ in case.batches:
            case.model.train()(x)
    expected = score(case.model, pruner, masks, ScoreInputs(case.batches, mode="eval"))
    for name in masks:
        torch.testing.assert_close(warm[name], expected[name], rtol=1e-3, atol=1e-6)
    if norms:
        for norm in norms:
            norm.reset_running_stats()
        cold = score(case.model, pruner, masks, ScoreInputs(case.batches, mode="eval"))
        assert any(not torch.allclose(warm[n], cold[n], rtol=1e-2) for n in masks)


def test_warm_statistics_are_of_the_pruned_network(mlp: nn.Module) -> None:
    """Iterated scores see the statistics of what is left."""
    model = nn.Sequential(mlp[0], nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(9, 6), torch.arange(9) % 3
    masks = {**masking.dense(model), "0.weight": torch.rand(8, 6) > 0.5}
    warm = score(model, "snip", masks, ScoreInputs([(x, y)], mode="warm"))
    with torch.no_grad():
        model[0].weight.mul_(masks["0.weight"])
        z = model[0](x)
        model[1].running_mean.copy_(z.mean(0))
        model[1].running_var.copy_(z.var(0))
    expected = score(model, "snip", masks, ScoreInputs([(x, y)], mode="eval"))
    for name in masks:
        torch.testing.assert_close(warm[name], expected[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("pruner", ["snip", "grasp"])
def test_the_ledger_of_a_warm_network_balances(pruner: str) -> None:
    model, (batch, _) = ZOO["residual"]()
    found = audit(model.double(), (batch[0].double(), batch[1]), pruner=pruner, mode="warm")
    assert float(found.ledger["residual"].max()) < 1e-12
    assert found.scores_checked


def test_warm_without_data_or_without_norms(mlp: nn.Module) -> None:
    with pytest.raises(RequestError, match="expected at least one sample, got none"):
        score(mlp, "snip", masking.dense(mlp), ScoreInputs(mode="warm"))
    inputs = [(torch.randn(9, 6), torch.arange(9) % 3)]
    warm, cold = (
        score(mlp, "snip", masking.dense(mlp), ScoreInputs(inputs, mode=mode))
        for mode in ("warm", "eval")
    )
    assert all(torch.equal(warm[name], cold[name]) for name in warm)


@pytest.mark.parametrize("pruner", [name for name in BEYOND if about(name).data == "labels"])
def test_a_score_that_needs_data_says_so(pruner: str, mlp: nn.Module) -> None:
    with pytest.raises(RequestError, match="expected at least one (sample|batch), got none"):
        score(mlp, pruner, masking.dense(mlp), ScoreInputs())


def test_the_page_has_a_row_for_each() -> None:
    page = (Path(__file__).parents[2] / "docs" / "pruners.md").read_text()
    table = page.partition("| pruner | score |")[2].partition("\n\n")[0]
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(SCORES)


RELUS = {
    "clamp": lambda x: x.clamp(0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "clamp by name": lambda x: torch.clamp(x, min=0.0),
    "hardtanh": lambda x: F.hardtanh(x, 0, 1e9),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
}


@pytest.mark.parametrize("name", RELUS)
def test_px_knows_a_relu_however_it_is_written(name: str) -> None:
    class Net(nn.Module):
        def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.relu = nn.Linear(4, 8), nn.Linear(8, 2), relu

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.relu(self.a(x)))

    batches = [(torch.randn(5, 4), torch.zeros(5, dtype=torch.long))]
    expected, got = (
        score(model, "px", masking.dense(model), ScoreInputs(batches))
        for model in (Net(torch.relu), Net(RELUS[name]))
    )
    for layer, tensor in expected.items():
        torch.testing.assert_close(got[layer], tensor)
    linear = Net(lambda x: x.clamp(min=-9e9))
    assert not torch.equal(
        score(linear, "px", masking.dense(linear), ScoreInputs(batches))["a.weight"],
        expected["a.weight"],
    )
