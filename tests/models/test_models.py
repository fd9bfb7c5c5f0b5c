"""Parameter counts of the paper's networks, prunable tensors, and wrong requests."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from collapse import masks as masking
from collapse import options
from collapse.errors import RequestError
from collapse.models import ARCHITECTURES, build, check_finite, initialise, prunable
from collapse.models.paper import INITS
from collapse.models.vgg_resnet import BUILDERS
from collapse.options import NETWORKS, pruner_names
from collapse.scores import SCORES

# (name, input height, classes) → prunable parameters, layers. Counted by hand from the papers'
# tables (VGG: Σ 9·in·out + head; ResNet-18: 11,159,232 without a head) or published elsewhere
# (VGG-19 and VGG-16-BN in the paper).
SIZES = {
    ("vgg16_bn", 32, 100): (14_761_664, 14),
    ("vgg16", 32, 10): (14_715_584, 14),
    ("vgg11", 32, 10): (9_217_728 + 5_120, 9),
    ("vgg16_bn", 64, 200): (14_710_464 + 2048 * 1024 + 1024 * 1024 + 1024 * 200, 16),
    ("vgg19", 224, 1000): (143_652_544, 19),
    ("resnet18", 32, 10): (11_159_232 + 5_120, 21),
    ("resnet18", 224, 1000): (11_678_912, 21),
    ("resnet50", 224, 1000): (25_502_912, 54),
    ("resnet20", 32, 10): (270_896, 22),
    ("resnet110", 32, 10): (1_722_416, 112),
    ("fc", 32, 10): (3072 * 100 + 4 * 100 * 100 + 100 * 10, 6),
    ("conv", 32, 10): (32 * 27 + 32 * 288 + 32 * 1024 * 10, 3),
    # A sixteenth of VGG-11's, but for the first layer and the head: a quarter of theirs.
    ("minivgg", 32, 10): ((9_217_728 - 1728) // 16 + 1728 // 4 + 5_120 // 4, 9),
}


@pytest.mark.parametrize(("name", "height", "classes"), SIZES)
def test_sizes(name: str, height: int, classes: int) -> None:
    with torch.device("meta"):  # only sizes are looked at
        model = ARCHITECTURES[name](name, (3, height, height), classes)
    tensors = prunable(model.to_empty(device="cpu"))
    expected = SIZES[name, height, classes]
    assert (sum(p.numel() for p in tensors.values()), len(tensors)) == expected


@pytest.mark.parametrize("height", [32, 64])
@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if "1202" not in n and "152" not in n])
def test_every_network_runs(name: str, height: int) -> None:
    with torch.device("meta"):  # shapes alone are computed
        model = ARCHITECTURES[name](name, (3, height, height), 7).eval()
        assert model(torch.zeros(2, 3, height, height)).shape == (2, 7)


def test_wide_resnet_is_twice_as_wide() -> None:
    narrow, wide = (build(name, input_shape=(3, 64, 64)) for name in ("resnet18", "wideresnet18"))
    assert wide.fc.in_features == 2 * narrow.fc.in_features
    assert wide.conv1.out_channels == narrow.conv1.out_channels  # the stem is unchanged


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18", "resnet20"])
def test_other_channels(name: str) -> None:
    model = build(name, input_shape=(1, 32, 32)).eval()
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_the_seed_decides_and_the_callers_stream_stays() -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, same, other = (build("fc", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one[1].weight, same[1].weight)
    assert not torch.equal(one[1].weight, other[1].weight)


def test_initialisations_have_their_variance() -> None:
    model = nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128))
    fan_in, fan_out = 64 * 9, 128 * 9
    for init, variance in {
        "kaiming": 2 / fan_in,
        "kaiming_fan_out": 2 / fan_out,
        "xavier": 2 / (fan_in + fan_out),
    }.items():
        model[0].bias.data.fill_(1)
        initialise(model, init)
        assert float(model[0].weight.detach().std()) == pytest.approx(math.sqrt(variance), rel=0.02)
        assert float(model[0].bias.detach().abs().max()) == 0
    with pytest.raises(RequestError, match="unknown init 'kaimng'; nearest: kaiming"):
        initialise(model, "kaimng")


@pytest.mark.parametrize(
    ("name", "height", "fan", "head"),
    [
        ("vgg11_bn", 32, 0, math.sqrt(2 / 512)),  # OpenLTH's
        ("minivgg", 32, 0, math.sqrt(2 / 128)),
        ("vgg11_bn", 64, 1, 0.01),  # torchvision's
        ("resnet18", 32, 1, 1 / math.sqrt(3 * 512)),
    ],
)
def test_the_papers_networks_start_as_the_papers(
    name: str, height: int, fan: int, head: float
) -> None:
    """The scale of a layer is what magnitude sees of it."""
    weights = [p.detach() for p in build(name, input_shape=(3, height, height)).parameters()]
    weights = [weight for weight in weights if weight.ndim > 1]
    for weight in weights:
        fans = nn.init._calculate_fan_in_and_fan_out(weight)
        expected = math.sqrt(2 / fans[fan]) if weight.ndim == 4 else head
        assert float(weight.std()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_magnitude_empties_no_layer_where_the_papers_networks_live(seed: int) -> None:
    """Their VGG-11-BN by magnitude: 81 % on CIFAR-10 at compression 178, chance at 562."""
    model = build("vgg11_bn", seed=seed)
    masks = masking.dense(model)
    scores = {name: model.get_parameter(name).detach().abs() for name in masks}
    layer, kept = masking.first_to_collapse(scores, masks)
    assert layer.startswith("features")
    assert 178 < masking.total(masks) / kept < 1000


def test_prunable_counts_shared_weights_once_and_takes_frozen_ones() -> None:
    from tests.zoo import frozen, shared

    assert list(prunable(shared().model)) == ["first.weight", "head.weight"]
    assert list(prunable(frozen().model)) == ["0.weight", "2.weight", "4.weight"]


def test_biases_and_batchnorm_only_if_asked_for() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten())
    assert list(prunable(model)) == ["0.weight"]
    assert list(prunable(model, biases=True)) == ["0.weight", "0.bias"]
    assert list(prunable(model, batchnorm=True)) == ["0.weight", "1.weight", "1.bias"]


def test_networks_without_a_weight_are_refused() -> None:
    with pytest.raises(RequestError, match="ReLU has no prunable layer: expected at least one"):
        prunable(nn.ReLU())
    with pytest.raises(RequestError, match="'0' is a lazy module"):
        prunable(nn.Sequential(nn.LazyLinear(2)))


def test_weights_without_values_or_of_complex_numbers_are_refused() -> None:
    with pytest.raises(RequestError, match="'0.weight' is on the meta device, without values"):
        prunable(nn.Sequential(nn.Linear(3, 2, device="meta")))
    with pytest.raises(RequestError, match="'0.bias' is of torch.complex64: expected real weights"):
        model = nn.Sequential(nn.Linear(3, 2))
        model[0].bias = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        prunable(model)


def test_check_finite_names_the_tensor() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    check_finite(model)
    model[1].running_var[0] = float("inf")
    with pytest.raises(RequestError, match=r"'1\.running_var' holds NaN or infinite values"):
        check_finite(model)


# --- Names ------------------------------------------------------------------------------------


def test_torchvision_and_timm_names() -> None:
    model = build("torchvision:densenet121", classes=5)
    assert model.classifier.out_features == 5
    pytest.importorskip("timm", reason="the extra 'zoo' is not installed")
    model = build("timm:resnet18", input_shape=(1, 64, 64), classes=5).eval()
    assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 5)
    model = build("timm:vit_tiny_patch16_224", input_shape=(3, 64, 64), classes=5).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg17", "unknown model 'vgg17'; nearest: vgg19, vgg16, vgg13"),
        ("torchvision:resnet19", "unknown torchvision model 'resnet19'; nearest: resnet"),
        ("timm:resnet19", "unknown timm model 'resnet19'; nearest:"),
        ("nets.py:small", r"got the path of a file; nearest: nets:small"),
        ("./my/nets.py:small", r"got the path of a file; nearest: my\.nets:small"),
        ("no_such_module:factory", "importing 'no_such_module' failed with ModuleNotFoundError"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build(name)


def test_factories(module_named) -> None:
    module_named(
        "my_models",
        "from torch import nn\n"
        "def net(): return nn.Linear(3, 2)\n"
        "def broken(): raise KeyError('missing piece')\n"
        "def needs(width): return nn.Linear(width, 2)\n"
        "def text(): return 'net'\n"
        "def sized(input_shape, classes): return nn.Linear(input_shape[-1], classes)\n"
        "def any_name(**given): return nn.Linear(given['input_shape'][-1], given['classes'])\n"
        "def hands_on(classes=1, **options): return by_width(classes=classes, **options)\n"
        "def by_width(width=3, classes=1): return nn.Linear(width, classes)\n"
        "from torch.nn import functional as F\n"
        "number = 3\n",
    )
    assert isinstance(build("my_models:net"), nn.Linear)
    with pytest.raises(RequestError, match="unknown model in 'my_models' 'nett'; nearest: net"):
        build("my_models:nett")
    with pytest.raises(RequestError, match="failed with KeyError: 'missing piece'"):
        build("my_models:broken")
    with pytest.raises(RequestError, match="classes, input_shape; calling it failed with TypeE"):
        build("my_models:needs")
    with pytest.raises(RequestError, match="'my_models:number': expected a callable, got int"):
        build("my_models:number")
    with pytest.raises(RequestError, match="'xyz'; one of: net, broken, needs, text, sized, any"):
        build("my_models:xyz")
    for factory, width in {"sized": 5, "any_name": 5, "hands_on": 3}.items():
        model = build(f"my_models:{factory}", input_shape=(5,), classes=4)
        assert (model.in_features, model.out_features) == (width, 4)
    with pytest.raises(RequestError, match=r"expected a torch\.nn\.Module, got str"):
        build("my_models:text")


def test_the_names_without_torch_are_those_that_are_built() -> None:
    assert tuple(INITS) == options.INITS
    assert set(ARCHITECTURES) == set(NETWORKS) == {*BUILDERS, "fc", "conv"}
    assert set(pruner_names()) <= set(SCORES)


@pytest.mark.parametrize(
    "name",
    [
        "fcn_resnet50",
        "lraspp_mobilenet_v3_large",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "r3d_18",
    ],
)
def test_no_backbone_is_downloaded_unasked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        pytest.fail("asked for the network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", no_network)
    assert len(prunable(build(f"torchvision:{name}", classes=3))) > 20


def test_names_that_are_not_near_are_counted_not_listed() -> None:
    pytest.importorskip("timm", reason="the extra 'zoo' is not installed")
    with pytest.raises(RequestError, match=r"'foo'; none of \d+ names is near: python -c") as error:
        build("timm:foo")
    assert len(str(error.value)) < 200


def test_input_shapes_that_do_not_fit() -> None:
    with pytest.raises(RequestError, match="'vgg16' takes images: expected an input shape C H W"):
        build("vgg16", input_shape=(10,))
    assert build("fc", input_shape=(10,))[1].in_features == 10


# --- Weights ----------------------------------------------------------------------------------


def test_weights_from_a_file(tmp_path: Path) -> None:
    source, path = build("fc", seed=1), tmp_path / "fc.safetensors"
    save_file(source.state_dict(), path)
    loaded = build("fc", seed=2, weights=str(path))
    assert all(
        torch.equal(a, b) for a, b in zip(source.parameters(), loaded.parameters(), strict=True)
    )
    with pytest.raises(RequestError, match=r"another network: .*expected shape \(5, 100\), got"):
        build("fc", classes=5, weights=str(path))
    with pytest.raises(RequestError, match="another network: no tensor"):
        build("conv", weights=str(path))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RequestError, match="cannot be read"):
        build("fc", weights=str(path))
    with pytest.raises(RequestError, match=r"expected 'pretrained' or a \.safetensors file"):
        build("fc", weights="model.pt")


def test_pretrained_weights_that_do_not_exist_or_do_not_come(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="no pretrained weights for 'vgg16' at input"):
        build("vgg16", weights="pretrained")
    with pytest.raises(RequestError, match="expected value 1000 but got 10"):
        build("torchvision:resnet18", weights="pretrained")

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(RequestError, match=r"cannot be downloaded \(no route to host\).*python -c"):
        build("resnet18", input_shape=(3, 224, 224), classes=1000, weights="pretrained")
