"""Networks that come wrapped, computed, packed or observed: the same function, plainly."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as torch_prune

from collapse import apply, critical_compression, prunable, prune, score
from collapse import masks as masking
from collapse.conservation import audit
from collapse.errors import RequestError
from collapse.models import check_finite, plain, with_own_masks
from collapse.options import Pruning
from collapse.scores import ScoreInputs
from tests.snapshot import assert_same, snapshot

X, Y = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
SNIP = Pruning(pruner="snip", mode="eval")


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))


def compiled() -> nn.Module:
    return torch.compile(mlp(), backend="eager")


def compiled_inside() -> nn.Module:
    model = mlp()
    model[2] = torch.compile(model[2], backend="eager")
    return model


def compiled_in_place() -> nn.Module:
    model = mlp()
    model.compile(backend="eager")
    return model


def data_parallel() -> nn.Module:
    return nn.DataParallel(mlp())


def weight_norm() -> nn.Module:
    model = mlp()
    parametrizations.weight_norm(model[2])
    return model


def old_weight_norm() -> nn.Module:
    model = mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(model[2])
    return model


def spectral_norm() -> nn.Module:
    model = mlp()
    parametrizations.spectral_norm(model[2])
    return model


def old_spectral_norm() -> nn.Module:
    model = mlp()
    nn.utils.spectral_norm(model[2])
    model(X)
    return model


def torch_pruned() -> nn.Module:
    model = mlp()
    torch_prune.l1_unstructured(model[2], "weight", 20)
    torch_prune.l1_unstructured(model[2], "weight", 6)
    model(X)
    return model


def quantisation_ready() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization = pytest.importorskip("torch.ao.quantization")
        model = mlp().train()
        model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
        return quantization.prepare_qat(model)


CASES: dict[str, Callable[[], nn.Module]] = {
    case.__name__: case
    for case in (
        *(compiled, compiled_inside, compiled_in_place, data_parallel, weight_norm),
        *(old_weight_norm, spectral_norm, old_spectral_norm, torch_pruned, quantisation_ready),
    )
}


# Computed by the network that they were made from: to run a compiled one takes seconds.
AS_MADE = ("compiled", "compiled_inside", "compiled_in_place", "quantisation_ready")


def weights_in_use(model: nn.Module) -> dict[str, Tensor]:
    """The weights that the model's forward multiplies by, however they come about."""
    inside = next(module for module in model.modules() if isinstance(module, nn.Sequential))
    layers = {i: getattr(inside[i], "_orig_mod", inside[i]) for i in (0, 2, 4)}
    with torch.no_grad():
        for layer in layers.values():
            nn.Module._call_impl(layer, torch.zeros(1, layer.in_features))  # its hooks run
    return {f"{i}.weight": layer.weight.detach().clone() for i, layer in layers.items()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", CASES)
def test_the_plain_network_is_the_same_function_with_plain_names(case: str) -> None:
    model = CASES[case]().eval()
    expected = mlp() if case in AS_MADE else model
    before = snapshot(model)
    twin = plain(model)
    assert plain(twin) is twin
    assert list(prunable(model)) == ["0.weight", "2.weight", "4.weight"]
    assert all(p.is_leaf and p.requires_grad for p in twin.parameters())
    assert torch.equal(twin(X), expected(X))
    found = dict(twin.named_parameters())
    for name, weight in weights_in_use(expected).items():
        assert torch.equal(found[name], weight)
    scores = score(model, "snip", masking.dense(model), ScoreInputs([(X, Y)]))
    tensors = {n: p.detach().clone().requires_grad_() for n, p in twin.named_parameters()}
    loss = nn.functional.cross_entropy(torch.func.functional_call(twin, tensors, (X,)), Y)
    loss.backward()
    for name, values in scores.items():
        expected = (tensors[name] * tensors[name].grad).abs()
        torch.testing.assert_close(values, expected.detach())
    assert_same(before, snapshot(model))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", [*CASES])
def test_masks_go_back_onto_the_users_own_model_or_one_line_says_why_not(case: str) -> None:
    model = CASES[case]().eval()
    masks = prune(model, [(X, Y)], SNIP, compression=1.5).masks
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert kept == -(-sum(mask.numel() for mask in masks.values()) * 2 // 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if "spectral" in case:  # every other weight would be scaled anew
        with pytest.raises(RequestError, match="takes no masked weight: call"):
            apply(model, masks)
        after = model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        return
    apply(model, masks)
    for name, weight in weights_in_use(model).items():
        assert torch.equal(weight != 0, masks[name])
    if "weight_norm" in case:
        assert not bool(masks["2.weight"].any(1).all())  # a unit without weights is among them


def test_masks_of_torch_prune_are_where_pruning_starts() -> None:
    model = torch_pruned()
    own = model[2].weight_mask.bool()
    assert int((~own).sum()) == 26
    assert torch.equal(with_own_masks(model)[1]["2.weight"], own)
    total = 5 * 8 + 8 * 7 + 7 * 3
    whole = prune(model, [(X, Y)], SNIP, keep=total - 26)
    assert torch.equal(whole.masks["2.weight"], own)
    pruned = prune(model, [(X, Y)], SNIP, keep=30)
    assert not bool((pruned.masks["2.weight"] & ~own).any())
    torch_prune.l1_unstructured(model[2], "weight", 26)
    for options in (SNIP, Pruning(pruner="random")):  # whose scores are of pruned weights too
        found = critical_compression(model, [(X, Y)], options)
        assert found.parameters == total
        assert max(point.total for point in found.points) <= total - 52
        for point in found.points:
            left = prune(model, [(X, Y)], options, keep=point.total).masks
            assert point.kept == masking.kept_by_layer(left)
        less = prune(model, [(X, Y)], options, keep=found.critical_kept - 1)
        assert masking.collapsed(less.masks) == [found.first_collapsed_layer]
    # A bias may carry a mask as well: it is no layer, and stays masked.
    torch_prune.l1_unstructured(model[0], "bias", 3)
    assert torch.equal(plain(model)(X), model(X))


def test_what_is_frozen_or_in_train_mode_stays_so_and_is_looked_at_as_in_eval_mode() -> None:
    frozen = nn.MultiheadAttention(4, 2).requires_grad_(False)
    assert not any(p.requires_grad for p in prunable(frozen).values())
    model = spectral_norm().train()
    before = snapshot(model)
    weight = dict(plain(model).named_parameters())["2.weight"]
    assert_same(before, snapshot(model))
    assert torch.equal(weight, model.eval()[2].weight)


def test_a_packed_attention_shares_its_memory_with_the_users() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.randn(2, 3, 4)
    twin = plain(attention)
    torch.testing.assert_close(twin(x, x, x)[0], attention(x, x, x)[0])
    assert list(prunable(attention)) == [
        *("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"),
    ]
    masks = masking.dense(attention)
    masks["k_proj_weight"][1] = False
    apply(attention, masks)
    assert not attention.in_proj_weight[5].any()
    assert int((attention.in_proj_weight == 0).sum()) == 4
    masking.to_torch_prune(attention, masks)
    assert int((~attention.in_proj_weight_mask.bool()).sum()) == 4
    # Pruned by torch as it is packed, it starts from these.
    assert torch.equal(with_own_masks(attention)[1]["k_proj_weight"], masks["k_proj_weight"])
    assert list(prunable(nn.MultiheadAttention(4, 2, kdim=3, vdim=2)))[:3] == [
        *("q_proj_weight", "k_proj_weight", "v_proj_weight"),
    ]


def test_an_attention_of_the_users_own_that_reads_the_packed_weight_stays_packed() -> None:
    class Own(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Tensor:
            return x @ self.in_proj_weight[:4].T

    assert next(iter(prunable(Own(4, 2)))) == "in_proj_weight"


def test_what_cannot_be_made_plain_is_one_line() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(mlp())
    for model in (scripted, nn.Sequential(scripted)):
        with pytest.raises(RequestError, match=r"scripted or traced \(torch.jit\).*the eager net"):
            prunable(model)
    with pytest.raises(RequestError, match="expected a torch.nn.Module, got str"):
        prunable("vgg16")

    class Locked(nn.MultiheadAttention):
        def __deepcopy__(self, memo: object) -> None:
            raise TypeError("cannot be copied")

    with pytest.raises(RequestError, match="has to be copied to be made plain, and cannot be"):
        prunable(nn.Sequential(Locked(4, 2)))


def test_a_parametrization_that_takes_no_weight_is_one_line() -> None:
    class Symmetric(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.triu() + x.triu(1).T

    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    parametrize.register_parametrization(model[0], "weight", Symmetric())
    masks = prune(model, [(torch.randn(2, 3), torch.tensor([0, 1]))], SNIP, keep=5).masks
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RequestError, match="'weight' of a Param.* computed by what takes no"):
        apply(model, masks)
    assert_same(before, dict(model.state_dict()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_infinities_of_observers_and_masks_are_no_weights() -> None:
    check_finite(plain(quantisation_ready()))
    model = mlp()
    model.register_buffer("hidden", torch.full((3, 3), float("-inf")).triu(1))
    check_finite(model)
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(RequestError, match=r"'2\.weight' holds NaN.*expected finite weights"):
        check_finite(model)


def test_the_ledger_follows_each_map_of_a_packed_attention() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 3)).double()
    for p in model.parameters():
        nn.init.normal_(p, 0, 0.5)
    found = audit(model, (torch.randn(4, 3, 8).double(), torch.arange(4) % 3), pruner="snip")
    assert float(found.ledger["residual"].max()) < 1e-12
    assert found.coverage.crossed == set(found.coverage.layers)
    assert found.coverage.units == found.coverage.units_checked
    places = set(found.ledger["place"].str.partition("[")[0])
    assert {f"0.self_attn.{name}_proj_weight" for name in "qkv"} <= places
