"""The collapsed networks of a published study, rebuilt: named in seconds, with the right words.

VITA-Group/ramanujan-on-pai (Hoang, Liu, Marculescu & Wang, ICLR 2023) trained 22 VGG-16-BN networks
of which 15 of 16 layers are empty, and ResNet-34 at density 0.01 without ``layer4.0.conv1/conv2``.
"""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import nn

import collapse
from collapse import masks as masking
from collapse.doctor import Diagnosis
from collapse.models import build

EXAMPLE = torch.zeros(1, 3, 32, 32)


def _initialised_as_there(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
    return model


def _timed(model: nn.Module, **options) -> tuple[Diagnosis, str, float]:
    """With the seconds of processor time, which other work on the machine does not change."""
    start = time.process_time()
    found = collapse.doctor(model, EXAMPLE, **options)
    text = str(found)
    return found, text, time.process_time() - start


@pytest.mark.slow
def test_vgg16_bn_with_15_of_16_layers_empty(capsys: pytest.CaptureFixture[str]) -> None:
    model = _initialised_as_there(build("torchvision:vgg16_bn"))
    masks = {name: torch.zeros_like(mask) for name, mask in masking.dense(model).items()}
    first = next(iter(masks))
    masks[first].view(-1)[:130] = True
    masking.apply(model, masks)
    found, text, seconds = _timed(model, target=1 / 0.05)
    assert not found.connected
    assert len(found.named("empty")) == 15
    assert [layer.layer for layer in found.named("cut off")] == [first]
    assert all(layer.is_cut for layer in found.layers)
    assert "collapsed: 15 of 16 layers are empty, cut layers: features.3, features.7" in text
    assert "the network is cut: no path of kept weights leads from the input to the output" in text
    assert "not as asked: compression 20 keeps" in text
    assert "SynFlow with the certified schedule keeps a living weight in every layer" in text
    with capsys.disabled():
        print(f"\nVGG-16-BN, {found.parameters:,} parameters: {seconds:.1f} s of one core")
    assert seconds < 10


@pytest.mark.slow
def test_resnet34_without_the_branch_of_layer4(capsys: pytest.CaptureFixture[str]) -> None:
    model = _initialised_as_there(build("torchvision:resnet34"))
    batches = [(EXAMPLE, torch.zeros(1, dtype=torch.long))]
    masks = collapse.prune(model, batches, collapse.Pruning(), compression=100).masks
    found, text, seconds = _timed(model, masks=masks, target=100)
    empty = {layer.layer: layer.is_cut for layer in found.named("empty")}
    assert empty == {"layer4.0.conv1.weight": False, "layer4.0.conv2.weight": False}
    assert found.connected
    assert (
        "2 of 37 layers are empty, in branches: layer4.0.conv1, layer4.0.conv2; a shortcut past "
        "them keeps the network alive through layer4.0.downsample.0"
    ) in text
    assert "as asked: compression 100 keeps 212,728 of 21,272,768, and 212,728 are, exactly" in text
    with capsys.disabled():
        print(f"\nResNet-34, {found.parameters:,} parameters: {seconds:.1f} s of one core")
    assert seconds < 10
