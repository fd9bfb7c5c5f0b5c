"""The choices a user makes, as typed frozen dataclasses: one set for the API and the CLI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from collapse.errors import RequestError

Mode = Literal["train", "eval"]
Scope = Literal["global", "layer"]
ScheduleName = Literal["linear", "exponential", "certified"]
Augmentation = Literal["crop-flip", "none"]
LearningRateSchedule = Literal["step", "cosine"]
Precision = Literal["auto", "float32", "bfloat16"]
Rewind = Literal["weights", "learning-rate"]
Control = Literal["shuffled", "reinitialised", "inverted"]


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
        seed: of initialisation, samples, random scores, and (in training) the order of images,
            augmentation and dropout.
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
        dataset: digits (embedded), gaussian, sparse-gaussian, mnist, cifar10, cifar100,
            tinyimagenet, imagenet, or a folder's name under the data root; framed-NAME for its
            images at half their size in a frame of zeros.
        data_root: where the data lies ($COLLAPSE_DATA or ./data without it).
        input_shape: C H W, where the dataset does not say.
        classes: outputs of the network, where the dataset does not say.
        init: kaiming, kaiming_fan_out, kaiming_uniform, xavier, xavier_uniform or orthogonal;
            without it the network's own.
        weights: pretrained, or a .safetensors file.
        output: which part of the output is meant when the forward returns several: a name or an
            index.
        samples_per_class: examples a class that snip and grasp are scored on.
        samples: score on so many examples in all instead, spread over the classes.
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
    samples: Annotated[int | None, _shown("N")] = None
    batch_size: Annotated[int | None, _shown("N")] = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


@dataclass(frozen=True)
class Training:
    """How to train; whatever is left out is the paper's for this model and dataset.

    Attributes:
        epochs: passes over the training images.
        train_batch_size: images a step; the last step of an epoch takes what is left.
        lr: learning rate at the start.
        lr_schedule: step (by lr-drop-rate after each of lr-drops) or cosine (to zero), by epoch.
        lr_drops: the epochs at which it drops; scaled with the number of epochs if left out.
        lr_drop_rate: the factor of a drop.
        momentum: Nesterov's.
        weight_decay: added to the gradient as λθ, on all parameters.
        augmentation: crop-flip pads 4 black pixels, crops at random and mirrors half the images.
        label_smoothing: of the training loss; no source of the paper's uses any.
        precision: of activations and products; auto is bfloat16 where the device has it in
            hardware. Weights, their updates and BatchNorm's statistics stay in the network's own.
        train_samples: train on so many images only, equally many of each class.
        test_samples: test on so many images only, equally many of each class.
    """

    epochs: Annotated[int | None, _shown("N")] = None
    train_batch_size: Annotated[int | None, _shown("N")] = None
    lr: Annotated[float | None, _shown("X")] = None
    lr_schedule: Annotated[LearningRateSchedule | None, _shown("step|cosine")] = None
    lr_drops: Annotated[tuple[int, ...] | None, _shown("EPOCH ...")] = None
    lr_drop_rate: Annotated[float | None, _shown("X")] = None
    momentum: Annotated[float | None, _shown("X")] = None
    weight_decay: Annotated[float | None, _shown("X")] = None
    augmentation: Annotated[Augmentation | None, _shown("crop-flip|none")] = None
    label_smoothing: float = 0.0
    precision: Precision = "auto"
    train_samples: Annotated[int | None, _shown("N")] = None
    test_samples: Annotated[int | None, _shown("N")] = None


@dataclass(frozen=True)
class Rewinding:
    """Iterative magnitude pruning: train, prune, rewind, once a level.

    Attributes:
        levels: rounds of train, prune, rewind; each multiplies the compression by the same
            factor. The ticket is trained once more at the end.
        rewind: weights goes back to the weights of rewind-epoch (Frankle & Carbin 2019);
            learning-rate keeps the trained weights and goes back in the schedule only (Renda et
            al. 2020).
        rewind_epoch: epochs of the first round after which the rewind point is taken.
    """

    levels: int = 1
    rewind: Rewind = "weights"
    rewind_epoch: int = 0


@dataclass(frozen=True)
class Execution:
    """How to compute, which changes no more than rounding: no part of a run's name.

    Attributes:
        runs: the folder of run folders.
        exact: deterministic algorithms only, so that a killed and resumed run ends bit-identical
            to an undisturbed one on the same machine.
        compile: torch.compile the network (with CUDA graphs on a GPU).
        save_every: epochs between two saved states.
        quiet: no progress bar.
    """

    runs: Annotated[Path, _shown("DIR")] = Path("runs")
    exact: bool = False
    compile: bool = False
    save_every: int = 1
    quiet: bool = False

    def check(self) -> None:
        """Raise RequestError where a value is out of its range."""
        if self.save_every < 1:
            raise RequestError(f"--save-every: expected at least 1, got {self.save_every}")
