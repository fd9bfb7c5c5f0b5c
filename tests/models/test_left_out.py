"""What is pruned by name, what is not counted, what the forward never reaches, what is zero."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from collapse import Problem, Pruning, critical_compression, living, load_masks, prune, save_masks
from collapse import masks as masking
from collapse.errors import RequestError
from collapse.imp import imp
from collapse.models import initialise, prunable, reach, uncounted, uncounted_words
from collapse.options import Training

X, Y = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
BATCHES = [(X, Y)]
SNIP = Pruning(pruner="snip", mode="eval")


class Auxiliary(nn.Module):
    """A head that no forward uses, one for another output, and a body without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.body = nn.Linear(5, 5), nn.Linear(5, 8)
        self.head, self.box, self.aux = nn.Linear(8, 3), nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            x = self.frozen(x)
        x = self.body(x).relu()
        return {"logits": self.head(x), "box": self.box(x)}


def auxiliary() -> Problem:
    torch.manual_seed(0)
    return Problem(Auxiliary(), BATCHES, "logits")


class Own(nn.Module):
    """A product with a parameter of the user's own, beside everything that has a name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.norm = nn.Embedding(9, 5), nn.BatchNorm1d(4)
        self.own = nn.Parameter(torch.randn(5, 4))
        self.gate = nn.Parameter(torch.tensor(1.0))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.table((x.abs() * 2).long().clamp(max=8)).sum(1)
        return self.head(self.norm(x @ self.own).relu() * self.gate)


# --- By name ----------------------------------------------------------------------------------


def test_patterns_add_any_parameter_and_leave_layers_out() -> None:
    model = Own()
    assert list(prunable(model)) == ["head.weight"]
    assert list(prunable(model, include=["own"])) == ["own", "head.weight"]
    every = prunable(model, include=["*"])
    assert list(every) == [name for name, _ in model.named_parameters()]
    assert list(prunable(model, include=["own", "table*"], exclude=["head"])) == [
        *("own", "table.weight"),
    ]
    attention = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8))
    kept = prunable(attention, exclude=["*.in_proj_weight"])
    assert not any("proj_weight" in name for name in kept)
    assert len(prunable(attention, exclude=["0.self_attn.k_proj_weight"])) == 5


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"include": ["heads*"]}, r"--include 'heads\*' matches no parameter: .*nearest: head"),
        ({"exclude": ["own"]}, "--exclude 'own' matches no layer: .*nearest: head.weight"),
        ({"exclude": ["*"]}, r"no prunable layer: .*none that is not excluded \(--include"),
        ({"include": "own"}, "include: expected a list of patterns, got the text 'own'"),
    ],
)
def test_a_pattern_that_matches_nothing_is_one_line(
    patterns: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(RequestError, match=message) as error:
        prunable(Own(), **patterns)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pruner", ["magnitude", "snip", "grasp", "synflow", "random"])
def test_what_is_included_is_pruned_and_what_is_excluded_is_not(pruner: str) -> None:
    problem = Problem(Own(), BATCHES, include=["own", "gate", "table*", "norm*"], exclude=["head"])
    assert list(problem.dense()) == [
        *("own", "gate", "table.weight", "norm.weight", "norm.bias"),
    ]
    found = prune(problem, options=Pruning(pruner=pruner, mode=None), keep=30)
    assert list(found.masks) == list(problem.dense())
    assert masking.kept(found.masks) == 30
    alive = living(problem.model, found.masks, X)
    assert all(not bool((alive[n] & ~found.masks[n]).any()) for n in alive)


def test_included_scores_are_those_of_plain_autograd() -> None:
    problem = Problem(Own().double().eval(), [(X.double(), Y)], include=["own", "gate", "table*"])
    scores = prune(problem, options=SNIP, keep=30).scores
    model = problem.given
    nn.functional.cross_entropy(model(X.double()), Y).backward()
    for name, parameter in model.named_parameters():
        if name in scores:
            torch.testing.assert_close(scores[name], (parameter * parameter.grad).abs().detach())


def test_masks_of_a_part_load_for_that_part(tmp_path) -> None:
    problem = Problem(Own(), BATCHES, include=["own"], exclude=["head"])
    save_masks(prune(problem, options=SNIP, keep=5).masks, tmp_path / "masks.safetensors")
    loaded = load_masks(tmp_path / "masks.safetensors", problem.given, problem.dense())
    assert masking.kept(loaded) == 5
    with pytest.raises(RequestError, match="no mask of 'head.weight' .*--exclude"):
        load_masks(tmp_path / "masks.safetensors", problem.given)


# --- Not counted ------------------------------------------------------------------------------


def test_what_is_not_counted_is_said_the_largest_first() -> None:
    model = Own()
    assert uncounted(model, prunable(model)) == {"table.weight": 45, "own": 20}
    problem = Problem(model, BATCHES)
    assert problem.uncounted == (
        "not counted: 65 parameters of 2 tensors (largest: table.weight 45 (embedding), own 20); "
        "counted: 37.5 % of all weights in matrices, embeddings apart"
    )
    assert problem.notes == (problem.uncounted,)
    assert prune(problem, options=SNIP, keep=5).notes == problem.notes
    assert critical_compression(problem, options=SNIP).notes == problem.notes
    mlp = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    assert uncounted_words(mlp, prunable(mlp)) == ""
    tied = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    tied[1].weight = tied[0].weight
    assert list(prunable(tied)) == ["0.weight"]  # it multiplies activations too
    assert uncounted_words(tied, prunable(tied)) == ""


# --- Never reached ----------------------------------------------------------------------------


def test_layers_that_the_output_does_not_depend_on_are_left_out_and_named() -> None:
    problem = auxiliary()
    assert problem.unreached == {"box.weight": 32, "aux.weight": 24}
    assert list(problem.dense()) == ["frozen.weight", "body.weight", "head.weight"]
    assert problem.notes == (
        "never reached: the output does not depend on box.weight 32, aux.weight 24, so they are "
        "left out (another output: --output NAME)",
        "no gradient: the forward takes what frozen.weight computes without its gradient "
        "(.detach() or no_grad), so every score by gradient is zero there and no path counts as "
        "leading on",
    )
    found = prune(problem, options=SNIP, keep=20)
    assert "aux.weight" not in found.masks
    critical = critical_compression(problem, options=Pruning(pruner="magnitude"))
    assert set(critical.sizes) == {"frozen.weight", "body.weight", "head.weight"}
    assert list(Problem(Auxiliary(), BATCHES, "box").unreached) == ["head.weight", "aux.weight"]
    # Without an input nobody knows, and where the forward fails it is not this that says so.
    assert not Problem(Auxiliary()).unreached
    assert not Problem(Auxiliary(), [(torch.zeros(2, 7), Y[:2])], "logits").unreached


class _Routed(nn.Module):
    """Each sample goes to one of three experts, by the sign of its first number or none."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(5, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        out = x.new_zeros(len(x), 3)
        for place, expert in enumerate(self.experts):
            mine = x[:, 0].sign() + 1 == place
            if mine.any():
                out[mine] = expert(x[mine])
        return out


def test_a_layer_that_only_other_samples_reach_is_counted() -> None:
    x = torch.ones(9, 5)
    x[4:, 0] = torch.tensor([-1.0, 1, -1, 1, -1])
    batches = [(x, torch.arange(9) % 3)]
    problem = Problem(_Routed(), batches)
    assert problem.unreached == {"experts.1.weight": 15}
    assert list(problem.dense()) == ["experts.0.weight", "experts.2.weight"]
    found = prune(problem, options=SNIP, keep=12)
    assert sum(int(mask.sum()) for mask in found.masks.values()) == 12
    assert list(Problem(_Routed(), [(x[:1], torch.zeros(1).long())]).dense()) == [
        "experts.2.weight"
    ]


def test_one_without_a_gradient_is_reached_all_the_same() -> None:
    model = Auxiliary()
    found = reach(model, ["frozen.weight", "body.weight", "aux.weight"], X[:1], "logits")
    assert found == (["aux.weight"], ["frozen.weight"])
    assert reach(model, ["body.weight"], X[:1], "logits") == ([], [])
    with torch.no_grad():  # NaN in, NaN out: aux is told from frozen all the same
        model.head.bias[0] = float("nan")
    assert reach(model, ["frozen.weight", "aux.weight"], X[:1], "logits") == found


def test_training_leaves_them_out_as_well() -> None:
    from collapse import load

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.aux = (
                nn.Linear(3072, 8), nn.Linear(8, 10), nn.Linear(8, 10),
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x.flatten(1)).relu())

    settings = Training(epochs=1, train_batch_size=32, train_samples=40, test_samples=20)
    tickets = imp(Net(), load("digits"), load("digits", "test"), 2, training=settings)
    assert list(tickets.masks) == ["body.weight", "head.weight"]


def test_training_refuses_weights_that_it_would_not_reach() -> None:
    from collapse import load

    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    nn.utils.parametrizations.weight_norm(model[1])
    with pytest.raises(RequestError, match="'weight' of '1' is computed from other tensors"):
        imp(model, load("digits"), load("digits", "test"), 2)


# --- All zero ---------------------------------------------------------------------------------


def test_a_layer_of_zeros_is_named_where_it_decides() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.zeros_(model[2].weight)
    found = critical_compression(model, BATCHES, Pruning(pruner="magnitude"))
    assert found.first_collapsed_layer == "2.weight"
    assert "'2.weight' is all zero in the given weights: to look at the arch" in found.notes[0]
    for pruner in ("snip", "synflow"):
        with pytest.raises(RequestError, match="score is zero.*'2.weight' is all zero.*--init"):
            prune(model, BATCHES, Pruning(pruner=pruner), keep=10)
    initialise(model, "kaiming")
    assert not critical_compression(model, BATCHES, Pruning(pruner="magnitude")).notes


def test_initialising_draws_every_kind_of_weight() -> None:
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    model = nn.Sequential(
        *(nn.LSTM(4, 6), nn.MultiheadAttention(400, 2), nn.Bilinear(3, 4, 5), conv1d(800, 50)),
    )
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    initialise(model, "kaiming")
    assert all(bool(p.any()) for p in prunable(model).values())
    assert not any(bool(p.any()) for n, p in model.named_parameters() if "bias" in n)
    # He: variance 2 / fan-in, of each packed map and of a weight that is laid out [in, out].
    for weight, fan_in in ((model[1].in_proj_weight, 400), (model[3].weight, 50)):
        assert float(weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
