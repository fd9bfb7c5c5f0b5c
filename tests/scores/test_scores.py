"""The contract of every entry of SCORES, and each against its naive twin."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from collapse import masks as masking
from collapse.errors import RequestError
from collapse.models import build
from collapse.options import PAPER_PRUNERS
from collapse.scores import SCORES, ScoreInputs, Scores, about, score
from collapse.scores.pruners.synflow import synflow
from collapse.scores.rescaling import rescaled
from tests import reference
from tests.snapshot import assert_same, decorate, snapshot
from tests.zoo import Case, each

# A chain of linear maps is the same in either mode.
MODES = [
    (pruner, case, mode)
    for pruner, case in each(SCORES)
    for mode in ("eval", "train")
    if (case, mode) != ("mlp", "train")
]
# One of the two smallest has all that leaves a trace in a model.
TRACES = [(p, c) for p, c in each(SCORES) if p in PAPER_PRUNERS or c == "residual"]


def _thinned(model: nn.Module) -> dict[str, Tensor]:
    """Masks with a third of each layer gone."""
    draw = torch.Generator().manual_seed(2)
    return {
        name: torch.rand(mask.shape, generator=draw) > 1 / 3
        for name, mask in masking.dense(model).items()
    }


@pytest.mark.parametrize(
    ("pruner", "case", "mode"), [m for m in MODES if m[:2] in TRACES], indirect=["case"]
)
def test_contract(pruner: str, mode: str, case: Case) -> None:
    decorate(case.model)
    masks = _thinned(case.model)
    inputs = ScoreInputs(case.batches, mode=mode, seed=3)
    before = snapshot(case.model)
    scores = score(case.model, pruner, masks, inputs)
    assert_same(before, snapshot(case.model))

    assert list(scores) == list(masks)
    for name, tensor in scores.items():
        assert tensor.shape == masks[name].shape
        assert not tensor.requires_grad
        assert bool(torch.isfinite(tensor).all())
    torch.manual_seed(99)  # the caller's stream has no say in the result
    again = score(case.model, pruner, masks, inputs)
    for name in scores:
        assert torch.equal(scores[name], again[name])


@pytest.mark.parametrize(
    ("pruner", "case"),
    [(pruner, case) for pruner, case in TRACES if about(pruner).mode is not None],
    indirect=["case"],
)
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_model_is_untouched_after_an_exception(pruner: str, where: str, case: Case) -> None:
    decorate(case.model)
    masks = masking.dense(case.model)

    class Fault(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            if where == "forward":
                raise RuntimeError("planted fault")
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("planted fault")

    # On the last module: by then BatchNorm has updated its statistics and dropout has drawn.
    last = list(case.model.children())[-1]
    last.register_forward_hook(lambda module, args, output: Fault.apply(output))
    before = snapshot(case.model)
    with pytest.raises(RequestError, match=rf"{where}( pass)? failed.* planted fault"):
        score(case.model, pruner, masks, ScoreInputs(case.batches, mode="train"))
    assert_same(before, snapshot(case.model))


@pytest.mark.parametrize(
    ("pruner", "case", "mode"),
    # The iterated ones are the functions that they iterate: once is enough to see it.
    [
        (pruner, case, mode)
        for pruner, case, mode in MODES
        if pruner in reference.SCORES and (case == "mlp" or not pruner.startswith("iterative"))
    ],
    indirect=["case"],
)
def test_agrees_with_naive_twin(pruner: str, mode: str, case: Case) -> None:
    for module in case.model.modules():  # a twin cannot know which units the engine's seed drops
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if pruner not in PAPER_PRUNERS:  # the zoo has networks in float64 for the paper's
        case = Case(case.model.double(), [(x.double(), y) for x, y in case.batches])
    masks = _thinned(case.model)
    ours = score(case.model, pruner, masks, ScoreInputs(case.batches, mode=mode))
    naive = reference.SCORES[pruner](case.model, masks, case.batches, mode)
    tolerance = 1e-12 if next(case.model.parameters()).dtype == torch.float64 else 1e-4
    for name in masks:
        scale = float(naive[name].abs().max())
        assert scale > 0
        assert float((ours[name].double() - naive[name]).abs().max()) <= tolerance * scale


def test_the_contract_covers_every_pruner() -> None:
    # Those two draw their scores: their laws are tested instead.
    assert set(SCORES) == {"random", "phew", *reference.SCORES}


def test_random_scores_are_standard_normal_and_new_in_each_iteration(mlp: nn.Module) -> None:
    masks = {"0.weight": torch.ones(200, 200, dtype=torch.bool)}
    first = SCORES["random"](mlp, masks, ScoreInputs(seed=0, iteration=1))["0.weight"]
    second = SCORES["random"](mlp, masks, ScoreInputs(seed=0, iteration=2))["0.weight"]
    assert abs(float(first.mean())) < 0.02
    assert abs(float(first.std()) - 1) < 0.02
    assert abs(float((first * second).mean())) < 0.02


def test_batch_sizes_do_not_weigh_the_loss(mlp: nn.Module) -> None:
    x, y = torch.randn(10, 6), torch.arange(10) % 3
    masks = masking.dense(mlp)
    for pruner in ("snip", "grasp"):
        whole = score(mlp, pruner, masks, ScoreInputs([(x, y)]))
        parts = score(mlp, pruner, masks, ScoreInputs([(x[:7], y[:7]), (x[7:], y[7:])]))
        for name in masks:
            torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-9)


def test_synflow_layers_sum_to_R(mlp: nn.Module) -> None:
    scores = score(mlp.double(), "synflow", masking.dense(mlp), _row())
    for tensor in scores.values():
        assert float(tensor.sum()) == pytest.approx(scores.total, rel=1e-12)


def test_scored_biases_are_in_R(mlp: nn.Module) -> None:
    with torch.no_grad():
        mlp[0].bias.fill_(0.5)
    masks = masking.dense(mlp, biases=True)
    scores = score(mlp, "synflow", masks, _row())
    assert float(scores["0.bias"].sum()) > 0


@pytest.mark.parametrize(
    ("depth", "precision"), [(20, "float32"), (56, "float64"), (110, "float64")]
)
def test_synflow_precision_follows_depth(depth: int, precision: str) -> None:
    model = build(f"resnet{depth}")
    scores = score(model, "synflow", masking.dense(model), _shape_only())
    assert scores.precision == precision


def test_imagenet_resnet50_is_finite() -> None:
    model = build("resnet50", input_shape=(3, 224, 224), classes=1000)
    inputs = ScoreInputs([(torch.zeros(1, 3, 96, 96), torch.zeros(1, dtype=torch.long))])
    scores = score(model, "synflow", masking.dense(model), inputs)
    assert scores.precision == "float64"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in scores.values())


@pytest.mark.slow
def test_resnet1202_is_rescaled_to_finite_conserved_scores() -> None:
    model = build("resnet1202")
    scores = score(model, "synflow", masking.dense(model), _shape_only())
    assert scores.precision == "float64 rescaled"
    assert scores.exponent > 1024  # beyond float64 as well
    # The stem and the head are cuts: each holds all of R.
    for name in ("conv.weight", "fc.weight"):
        assert float(scores[name].sum()) == pytest.approx(scores.total, rel=1e-9)


def test_rescaled_scores_equal_float64_bit_for_bit() -> None:
    model = build("resnet56").eval()
    masks = masking.dense(model)
    plain = score(model, "synflow", masks, _shape_only())
    exponents: list[int] = []
    formula = synflow.__wrapped__  # without its precision, which is the question here
    inputs = replace(_shape_only(), dtype=torch.float64)
    rescaled_scores = formula(model, masks, inputs, rescaled(model, masks, exponents))
    assert plain.precision == "float64"
    assert sum(exponents) > 0
    for name in masks:
        assert torch.equal(rescaled_scores[name] * 2.0 ** sum(exponents), plain[name])


def test_rescaling_copes_with_layers_that_are_never_used() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chain = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(40)))
            self.unused = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.chain(x * 1e-9)

    model = Unused()
    for parameter in model.chain.parameters():
        nn.init.constant_(parameter, 1e-9)
    scores = score(model, "synflow", masking.dense(model), ScoreInputs([(torch.zeros(1, 2), None)]))
    assert scores.precision == "float64 rescaled"
    assert float(scores["unused.weight"].abs().max()) == 0


def test_vanishing_R_is_not_taken_for_dead_weights() -> None:
    """Products below float32's range: every weight is alive, so no score may be zero."""
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(40)))
    for module in model:
        nn.init.constant_(module.weight, 1e-9)
    scores = score(model, "synflow", masking.dense(model), ScoreInputs([(torch.zeros(1, 2), None)]))
    assert scores.precision == "float64 rescaled"
    assert all(float(tensor.min()) > 0 for tensor in scores.values())


def _row() -> ScoreInputs:
    return ScoreInputs([(torch.zeros(1, 6), None)])


def _shape_only() -> ScoreInputs:
    return ScoreInputs([(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))])


# --- Wrong requests ---------------------------------------------------------------------------


def test_unknown_pruner_names_the_nearest(mlp: nn.Module) -> None:
    with pytest.raises(RequestError, match="unknown pruner 'synflw'; nearest: synflow"):
        score(mlp, "synflw", masking.dense(mlp), ScoreInputs())


def test_non_finite_weights_are_named(mlp: nn.Module) -> None:
    with torch.no_grad():
        mlp[2].weight[0, 0] = float("nan")
    with pytest.raises(RequestError, match=r"'2\.weight' holds NaN or infinite values"):
        score(mlp, "magnitude", masking.dense(mlp), ScoreInputs())


def test_non_finite_scores_name_the_layer(mlp: nn.Module) -> None:
    x = torch.full((2, 6), 1e30)
    with torch.no_grad():
        mlp[0].weight.mul_(1e30)
    inputs = ScoreInputs([(x, torch.tensor([0, 1]))])
    words = r"snip score of layer '0\.weight' is not finite: the loss is nan; .* from linear in '0'"
    with pytest.raises(RequestError, match=words):
        score(mlp, "snip", masking.dense(mlp), inputs)


def test_untraceable_model_out_of_range_says_what_was_missing() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(50, 50, bias=False) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            if bool((x > 0).all()):  # torch.fx cannot trace a branch on data
                for layer in self.layers:
                    x = layer(x)
            return x

    model = Branching().double()
    for layer in model.layers:
        nn.init.constant_(layer.weight, 1e100)
    inputs = ScoreInputs([(torch.zeros(1, 50), torch.tensor([0]))])
    with pytest.raises(RequestError, match=r"not finite.*torch\.fx can trace") as raised:
        score(model, "synflow", masking.dense(model), inputs)
    words = str(raised.value)
    assert "R leaves the range of float64 first in linear in 'layers.3'" in words
    assert "in Branching (bool, test_scores.py line" in words
    assert "--init" in words


def test_data_driven_score_without_data(mlp: nn.Module) -> None:
    with pytest.raises(RequestError, match="expected at least one sample, got none"):
        score(mlp, "snip", masking.dense(mlp), ScoreInputs())
    with pytest.raises(RequestError, match="at least one batch"):
        score(mlp, "synflow", masking.dense(mlp), ScoreInputs())


def test_labels_beyond_the_output(mlp: nn.Module) -> None:
    for wrong, message in ((7, r"from 0 to 7: .*got \(2, 3\)"), (-1, "from -1 to 0: .* from 0 up")):
        inputs = ScoreInputs([(torch.randn(2, 6), torch.tensor([0, wrong]))])
        with pytest.raises(RequestError, match=message):
            score(mlp, "snip", masking.dense(mlp), inputs)
    fewer = ScoreInputs([(torch.randn(5, 6), torch.tensor([0, 1, 2]))])
    with pytest.raises(RequestError, match="a label for each of 5 samples, got 3"):
        score(mlp, "snip", masking.dense(mlp), fewer)


class _Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.first, x, use_reentrant=False).relu())


@pytest.mark.parametrize("pruner", ["synflow", "snip", "grasp"])
def test_checkpointing_is_refused(pruner: str) -> None:
    model = _Checkpointed()
    inputs = ScoreInputs([(torch.randn(2, 6), torch.tensor([0, 1]))])
    with pytest.raises(RequestError, match="a Linear runs again in the backward pass: expected"):
        score(model, pruner, masking.dense(model), inputs)


class _Bounded(nn.Module):
    """Writes into a parameter of its own, and insists on float32."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.scale = nn.Linear(6, 3), nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        self.scale.data.clamp_(0, 1)
        return self.head(x.float()) * self.scale


@pytest.mark.parametrize("pruner", ["synflow", "snip", "grasp"])
def test_parameters_that_a_forward_writes_into_are_left_alone(pruner: str) -> None:
    model = _Bounded()
    dtype = (
        torch.float64 if pruner == "synflow" else None
    )  # others are asked for what the model takes
    inputs = ScoreInputs([(torch.randn(2, 6), torch.tensor([0, 1]))], dtype=dtype)
    scores = score(model, pruner, masking.dense(model), inputs)
    assert model.scale.item() == 3.0
    assert scores.precision == "float32"  # the forward takes no other


class _Several(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> object:
        y = self.head(x)
        return {"tuple": (y, x), "dict": {"logits": y, "aux": x}, "none": None}[self.kind]


@pytest.mark.parametrize(("kind", "output"), [("tuple", "0"), ("tuple", 0), ("dict", "logits")])
def test_output_selector(kind: str, output: str | int) -> None:
    model = _Several(kind)
    batches = [(torch.randn(4, 4), torch.arange(4) % 3)]
    masks = masking.dense(model)
    with pytest.raises(RequestError, match=f"got {kind} with parts .*--output NAME"):
        score(model, "snip", masks, ScoreInputs(batches))
    with pytest.raises(RequestError, match="output 'foo' of the model is no tensor"):
        score(model, "snip", masks, ScoreInputs(batches, output="foo"))
    chosen = score(model, "snip", masks, ScoreInputs(batches, output=output))
    plain = score(
        nn.Sequential(model.head), "snip", {"0.weight": masks["head.weight"]}, ScoreInputs(batches)
    )
    assert torch.equal(chosen["head.weight"], plain["0.weight"])


def test_a_users_function_may_return_a_plain_dict(
    mlp: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        SCORES,
        "ones",
        lambda model, masks, inputs: {name: torch.ones(mask.shape) for name, mask in masks.items()},
    )
    scores = score(mlp, "ones", masking.dense(mlp), ScoreInputs())
    assert isinstance(scores, Scores)
    assert scores.total is None


def test_negative_scales_of_batchnorm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.uniform_(model[1].weight, -1, 1)
    masks, batches = masking.dense(model), [(torch.zeros(1, 6), None)]
    ours = score(model, "synflow", masks, ScoreInputs(batches))
    expected = reference.synflow(model, masks, batches, "eval")
    for name in masks:
        torch.testing.assert_close(ours[name].double(), expected[name], rtol=1e-5, atol=1e-8)
