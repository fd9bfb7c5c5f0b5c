"""Nothing is invented of networks that nobody pruned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import collapse
from collapse.connectivity import is_cut_layer
from collapse.doctor import cut_layers
from collapse.masks import dense
from collapse.models import build
from tests.snapshot import assert_same, decorate, snapshot
from tests.zoo import ZOO, Case

# What is true of a whole network as well: kernels on maps that are smaller than they are, an
# auxiliary head, residual branches that start at zero.
FACTS = {"padding", "dead weights", "not reached", "silent"}
FAST = ("fc", "conv", "minivgg", "resnet20")
SLOW = (
    *("vgg11", "vgg11_bn", "resnet18", "resnet110", "torchvision:squeezenet1_1"),
    *("torchvision:shufflenet_v2_x0_5", "torchvision:mnasnet0_5", "torchvision:mobilenet_v2"),
    *(
        "torchvision:mobilenet_v3_small",
        "torchvision:regnet_y_400mf",
        "torchvision:efficientnet_b0",
    ),
    *("torchvision:densenet121", "torchvision:googlenet", "torchvision:convnext_tiny"),
    *("torchvision:vit_b_16", "torchvision:swin_t", "timm:resnet10t", "timm:nf_resnet26"),
    *("timm:lcnet_050", "timm:repvgg_a0", "timm:resnetv2_50x1_bit", "timm:deit_tiny_patch16_224"),
    *("timm:mixer_s32_224", "timm:levit_128s", "timm:xcit_nano_12_p8_224"),
    *("timm:swinv2_cr_tiny_ns_224",),
)
TRANSFORMERS = ("bert", "roberta", "distilbert", "gpt2", "llama", "qwen2")
AT_224 = ("vit_", "swin", "deit", "mixer", "levit", "xcit")


def _check(model: nn.Module, example: Tensor, output: str | None = None) -> None:
    found = collapse.doctor(model, example, output=output)
    assert found.healthy, str(found)
    assert found.connected
    assert found.kept >= found.parameters * (1 - 1e-6)  # a draw may be zero
    assert {finding.kind for finding in found.findings} <= FACTS, str(found)
    assert {finding.severity for finding in found.findings} <= {"note"}
    assert found.named("empty", "dead", "cut off", "not finite") == []


def _whole(name: str) -> None:
    size = 224 if any(part in name for part in AT_224) else 64 if ":" in name else 32
    # torchvision's ViT and timm's mixer start with a head of zeros, which is empty indeed.
    init = "xavier" if "vit_b" in name or "mixer" in name else None
    _check(build(name, input_shape=(3, size, size), init=init), torch.zeros(1, 3, size, size))


@pytest.mark.parametrize("name", FAST)
def test_a_whole_network_is_healthy(name: str) -> None:
    _whole(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_large_network_is_healthy(name: str) -> None:
    _whole(name)


def test_every_kind_of_network_is_healthy_and_stays_as_it_was(case: Case) -> None:
    decorate(case.model)
    before = snapshot(case.model)
    _check(case.model, case.batches[0][0])
    assert_same(before, snapshot(case.model))


def _transformer(name: str) -> tuple[nn.Module, str]:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    small |= {"num_hidden_layers": 2, "vocab_size": 50, "num_key_value_heads": 1}
    sizes = {"n_embd": 16, "n_head": 2, "n_layer": 2, "vocab_size": 50, "n_positions": 32}
    config, kind, options, output = {
        "bert": ("BertConfig", "BertForSequenceClassification", small, "logits"),
        "roberta": ("RobertaConfig", "RobertaModel", small, "last_hidden_state"),
        "distilbert": (
            *("DistilBertConfig", "DistilBertForSequenceClassification"),
            {"dim": 16, "hidden_dim": 32, "n_heads": 2, "n_layers": 2, "vocab_size": 50},
            "logits",
        ),
        "gpt2": ("GPT2Config", "GPT2LMHeadModel", sizes, "logits"),
        "llama": ("LlamaConfig", "LlamaForCausalLM", small, "logits"),
        "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", small, "logits"),
    }[name]
    torch.manual_seed(0)
    return getattr(transformers, kind)(getattr(transformers, config)(**options)), output


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_is_healthy(name: str) -> None:
    model, output = _transformer(name)
    _check(model, torch.arange(3, 11)[None], output)


def test_a_padding_row_of_zeros_is_no_pruning() -> None:
    model = nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 3))
    found = collapse.doctor(model, torch.tensor([[1, 2, 0]]))
    assert found.findings == []


def test_a_slope_of_zero_is_no_pruning() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(init=0.0), nn.Linear(4, 3))
    assert collapse.doctor(model, (4,)).findings == []


def test_there_are_enough_of_them() -> None:
    assert len((*FAST, *SLOW, *ZOO, *TRANSFORMERS)) >= 30


def test_cut_layers_are_those_that_single_tests_find(case: Case) -> None:
    example = case.batches[0][0]
    expected = {n for n in dense(case.model) if is_cut_layer(case.model, n, example)}
    assert cut_layers(case.model, example) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "timm:nf_resnet26"])
def test_cut_layers_with_a_layer_gone(name: str) -> None:
    model, example = build(name), torch.zeros(1, 3, 32, 32)
    gone = next(layer for layer in dense(model) if "downsample" in layer)
    masks = dense(model)
    masks[gone].zero_()
    expected = {
        layer
        for layer in masks
        if layer != gone
        and not collapse.connected(model, {**masks, layer: torch.zeros_like(masks[layer])}, example)
    }
    assert cut_layers(model, example, without=[gone]) == expected


@pytest.mark.slow
def test_a_network_that_torch_pruning_made_smaller_is_healthy() -> None:
    pruning = pytest.importorskip("torch_pruning")
    model, example = build("resnet20"), torch.zeros(1, 3, 32, 32)
    whole = collapse.doctor(model, example).parameters
    importance = pruning.importance.MagnitudeImportance()
    pruning.pruner.MagnitudePruner(
        model, example, importance, pruning_ratio=0.5, ignored_layers=[model.fc]
    ).step()
    _check(model, example)
    assert collapse.doctor(model, example).parameters < whole / 3
