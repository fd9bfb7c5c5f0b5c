"""The choices a user makes, as typed frozen dataclasses: one set for the API and the CLI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Mode = Literal["train", "eval"]
Scope = Literal["global", "layer"]
ScheduleName = Literal["linear", "exponential", "certified"]


def _shown(metavar: str) -> object:
    """How an optional value shows in ``--help``."""
    return tyro.conf.arg(metavar=metavar)


@dataclass(frozen=True)
class Pruning:
    """How to prune, up to the compression.

    Attributes:
        pruner: random, magnitude, snip, grasp, synflow, or package.module:function.
        iterations: how often scores are computed; the paper's without it (synflow 100, the
            others 1). The certified schedule takes as many as it needs.
        schedule: how density falls over the iterations.
        scope: rank all parameters together (global), or divide the number to keep over the
            layers in proportion to their sizes (layer).
        mode: in which snip and grasp are scored; train without it, as in their papers.
        seed: of initialisation, samples and random scores.
    """

    pruner: str = "synflow"
    iterations: Annotated[int | None, _shown("N")] = None
    schedule: ScheduleName = "exponential"
    scope: Scope = "global"
    mode: Annotated[Mode | None, _shown("train|eval")] = None
    seed: int = 0


@dataclass(frozen=True)
class Setup:
    """The network, the data and the device: what every command starts from.

    Attributes:
        model: vgg16_bn, resnet18, …, torchvision:NAME, timm:NAME or package.module:factory.
        dataset: digits (embedded), gaussian, mnist, cifar10, cifar100, tinyimagenet, imagenet, or
            a folder's name under the data root.
        data_root: where the data lies ($COLLAPSE_DATA or ./data without it).
        input_shape: C H W, where the dataset does not say.
        classes: outputs of the network, where the dataset does not say.
        init: kaiming, kaiming_fan_out, kaiming_uniform, xavier, xavier_uniform or orthogonal;
            without it the network's own.
        weights: pretrained, or a .safetensors file.
        output: which part of the output is meant when the forward returns several: a name or an
            index.
        samples_per_class: examples a class that snip and grasp are scored on.
        batch_size: of the scoring batches (256 at 32×32 without it, fewer on larger images).
        device: where to compute; auto takes a GPU if there is one.
    """

    model: str
    dataset: str = "digits"
    data_root: Annotated[Path | None, _shown("DIR")] = None
    input_shape: Annotated[tuple[int, ...] | None, _shown("C H W")] = None
    classes: Annotated[int | None, _shown("N")] = None
    init: Annotated[str | None, _shown("NAME")] = None
    weights: Annotated[str | None, _shown("pretrained|FILE")] = None
    output: Annotated[str | None, _shown("NAME")] = None
    samples_per_class: int = 10
    batch_size: Annotated[int | None, _shown("N")] = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
