"""Masks as other tools keep them, and checkpoints that are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from collapse import masks as masking
from collapse.errors import RequestError
from collapse.files.state_dicts import read_state
from collapse.models import plain
from tests.snapshot import assert_same, snapshot
from tests.zoo import Case


def _half(model: nn.Module) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {n: torch.rand(m.shape, generator=draw) < 0.5 for n, m in masking.dense(model).items()}


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    same = first.keys() == second.keys()
    return same and all(torch.equal(first[name], second[name]) for name in first)


def test_zeros_are_masks_and_masks_are_zeros(case: Case) -> None:
    masks = _half(case.model)
    before = snapshot(case.model)
    state = masking.with_zeros(case.model, masks)
    assert_same(before, snapshot(case.model))
    other = copy.deepcopy(case.model)
    other.load_state_dict(state)
    assert _equal(masking.from_zeros(other), masks)


def test_masks_of_torch_prune_round_trip(case: Case) -> None:
    masks = _half(case.model)
    dtype = next(case.model.parameters()).dtype
    masking.to_torch_prune(case.model, masks)
    assert _equal(masking.from_torch_prune(case.model), masks)
    state = case.model.state_dict()
    plainly = masking.plain_state(state)
    assert all(plainly[name].dtype == dtype for name in masks)
    assert all(torch.equal(plainly[name] != 0, masks[name]) for name in masks)


def test_a_state_dict_for_torch_prune_loads_there(mlp: nn.Module) -> None:
    masks = _half(mlp)
    state = masking.as_torch_prune(mlp.state_dict(), masks)
    other = copy.deepcopy(mlp)
    masking.to_torch_prune(other, masking.dense(other))
    other.load_state_dict(state)
    assert _equal(masking.from_torch_prune(other), masks)


class _Masked(nn.Module):
    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


def _as_parametrised(model: nn.Module, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchao's sparsifier."""
    model = copy.deepcopy(model)
    for name, mask in masks.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        parametrize.register_parametrization(module, "weight", _Masked(mask))
    return model.state_dict()


def _with(model: nn.Module, masks: dict[str, Tensor], name: Callable[[str], str], **kind):
    beside = {name(layer.removesuffix(".weight")): mask.to(**kind) for layer, mask in masks.items()}
    return {**model.state_dict(), **beside}


STYLES: dict[str, Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]] = {
    "zeros": masking.with_zeros,
    "torch prune": lambda model, masks: masking.as_torch_prune(model.state_dict(), masks),
    "torchao": _as_parametrised,
    "NNCF": lambda model, masks: _with(
        model, masks, "__nncf_hooks.post_hooks.{}:weight__0.0.binary_mask".format, dtype=torch.bool
    ),
    "NNCF, learnt": lambda model, masks: {
        **model.state_dict(),
        **{
            f"__nncf_hooks.post_hooks.{n.replace('.', ':')}__0.0.mask": (m.float() - 0.5) * 9
            for n, m in masks.items()
        },
    },
    "NNCF, older": lambda model, masks: _with(
        model, masks, "{}.pre_ops.0.op._binary_mask".format, dtype=torch.float32
    ),
    "mask": lambda model, masks: _with(model, masks, "{}.mask".format, dtype=torch.uint8),
    "weight_mask": lambda model, masks: _with(model, masks, "{}.weight_mask".format),
    "weight.mask": lambda model, masks: _with(model, masks, "{}.weight.mask".format),
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_checkpoints_of_other_tools(
    style: str, suffix: str, mlp: nn.Module, tmp_path: Path
) -> None:
    masks, path = _half(mlp), tmp_path / f"checkpoint{suffix}"
    state = {name: value.contiguous() for name, value in STYLES[style](mlp, masks).items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    assert _equal(masking.read_masks(path, mlp), masks)
    assert _equal(masking.read_masks(path), masks)
    other = copy.deepcopy(mlp)
    masking.load_checkpoint(other, path)
    assert _equal(masking.from_zeros(other), masks)
    assert torch.equal(other[0].bias, mlp[0].bias)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model_state_dict": {"module": state}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
    ],
)
def test_wrappers_and_prefixes_of_training_scripts(wrap, mlp: nn.Module, tmp_path: Path) -> None:
    masks = _half(mlp)
    torch.save(wrap(masking.with_zeros(mlp, masks)), tmp_path / "last.ckpt")
    assert _equal(masking.read_masks(tmp_path / "last.ckpt", mlp), masks)


def test_half_precision_is_read_where_no_number_is_lost(mlp: nn.Module, tmp_path: Path) -> None:
    path, masks = tmp_path / "half.pt", _half(mlp)
    state = masking.with_zeros(mlp, masks)
    torch.save({name: value.bfloat16() for name, value in state.items()}, path)
    assert _equal(masking.read_masks(path, mlp), masks)
    state["0.weight"] = torch.full((8, 6), 1e-300, dtype=torch.float64)
    torch.save(state, path)
    with pytest.raises(RequestError, match="not all of its numbers exist in the model's torch.fl"):
        masking.read_masks(path, mlp)


class _Code:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def _small(model: nn.Module) -> dict[str, Tensor]:
    return {**model.state_dict(), "0.weight": torch.ones(4, 6)}


REFUSED = {
    "another network": (lambda m: nn.Linear(2, 2).state_dict(), "has no tensor '0.weight'"),
    "another shape": (lambda m: {**m.state_dict(), "0.weight": torch.ones(9, 6)}, r"\(9, 6\)$"),
    "made smaller": (_small, "made smaller, by Torch-Pruning say"),
    "more tensors": (lambda m: {**m.state_dict(), "x": torch.ones(1)}, "model has no tensor 'x'"),
    "integers": (lambda m: {**m.state_dict(), "0.weight": torch.ones(8, 6).int()}, "torch.int32"),
    "sparse": (
        lambda m: {**m.state_dict(), "0.weight": torch.eye(8, 6).to_sparse()},
        "'0.weight' is a sparse tensor: expected a dense one with zeros; save to_dense",
    ),
    "compressed": (
        lambda m: {**m.state_dict(), "0.weight": torch.eye(8, 6).to_sparse_csr()},
        "'0.weight' is a sparse tensor",
    ),
    "code": (lambda m: {**m.state_dict(), "0.weight": _Code()}, "holds pickled code"),
    "a whole model": (lambda m: m, "holds pickled code .*save_file.model.state_dict"),
    "a number": (lambda m: 3, "expected a state dict, tensors by name; got int"),
    "nothing": (lambda m: {"epoch": 3}, "tensors by name; got keys epoch"),
}


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:Validating sparse")
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_leaves_the_model_as_it_was(
    what: str, mlp: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = REFUSED[what]
    torch.save(make(mlp), tmp_path / "bad.pt")
    before = snapshot(mlp)
    with pytest.raises(RequestError, match=words):
        masking.load_checkpoint(mlp, tmp_path / "bad.pt")
    assert_same(before, snapshot(mlp))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_and_foreign_files(suffix: str, mlp: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / f"bad{suffix}"
    with pytest.raises(RequestError, match="expected a file, there is none"):
        read_state(path)
    torch.save(mlp.state_dict(), path) if suffix == ".pt" else save_file(mlp.state_dict(), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"version https://git-lfs.github.com/spec/v1"):
        path.write_bytes(content)
        with pytest.raises(RequestError, match="cannot be read"):
            read_state(path)
    with pytest.raises(RequestError, match=r"expected a suffix of \.safetensors"):
        read_state(Path(__file__))


def test_weights_without_a_layer(tmp_path: Path) -> None:
    torch.save({"bias": torch.ones(3)}, tmp_path / "no.pt")
    with pytest.raises(RequestError, match="holds no weights: expected matrices or kernels"):
        masking.read_masks(tmp_path / "no.pt")


def test_a_checkpoint_in_half_precision_has_its_counters_in_it_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    halves = {name: value.half() for name, value in model.state_dict().items()}
    torch.save(halves, tmp_path / "half.pt")
    masking.load_checkpoint(model, tmp_path / "half.pt")
    torch.testing.assert_close(model[0].weight.half(), halves["0.weight"])
    assert model[1].num_batches_tracked.dtype == torch.long


def test_a_plain_network_is_itself_and_a_masked_one_is_copied(mlp: nn.Module) -> None:
    assert plain(mlp) is mlp
    assert plain(nn.DataParallel(mlp)) is mlp
    prune.l1_unstructured(mlp[0], "weight", 0.5)
    before = snapshot(mlp)
    twin = plain(mlp)
    assert_same(before, snapshot(mlp))
    assert torch.equal(twin[0].weight, mlp[0].weight)
    assert isinstance(twin[0].weight, nn.Parameter)

    class Locked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp

        def __deepcopy__(self, memo: object) -> None:
            raise TypeError("no copies")

    with pytest.raises(RequestError, match="copied to be made plain, and cannot be: no copies"):
        plain(Locked())


@pytest.mark.parametrize(
    "changed",
    [
        lambda line: nn.utils.prune.random_unstructured(line, "weight", 0.5),
        nn.utils.parametrizations.spectral_norm,
    ],
    ids=["torch prune", "spectral norm"],
)
def test_a_models_own_checkpoint_is_loaded_as_it_is(
    changed: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path, first, second = tmp_path / "own.pt", changed(nn.Linear(4, 3)), changed(nn.Linear(4, 3))
    torch.save(first.state_dict(), path)
    masking.load_checkpoint(second, str(path))
    assert second.state_dict().keys() == first.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)
    x = torch.randn(2, 4)
    assert torch.equal(second.eval()(x), first.eval()(x))
