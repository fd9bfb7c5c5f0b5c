"""The paper's training settings by model and dataset, as data.

Source: Tanaka et al. 2020, appendix, and the settings that the authors published with their
results. A setting that the user gives is never overridden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase

from collapse.errors import RequestError, unknown
from collapse.options import FRAMED, Augmentation, LearningRateSchedule, Precision, Training


@dataclass(frozen=True)
class Settings:
    """``options.Training`` with nothing left out; see there for what each means."""

    epochs: int
    train_batch_size: int
    lr: float
    lr_schedule: LearningRateSchedule
    lr_drops: tuple[int, ...]
    lr_drop_rate: float
    momentum: float
    weight_decay: float
    augmentation: Augmentation
    label_smoothing: float = 0.0
    precision: Precision = "auto"
    train_samples: int | None = None
    test_samples: int | None = None


@dataclass(frozen=True)
class Recipe:
    """Settings for the models and datasets that it names.

    Attributes:
        models: patterns of model names, without ``torchvision:`` or ``timm:``.
        datasets: patterns of dataset names.
        settings: all of them.
        rounds: whether they are those of a round of IMP (figure 5) or of one training.
    """

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    settings: Settings
    rounds: bool = False


_CIFAR = ("cifar10", "cifar100")
_SGD = Settings(
    epochs=160,
    train_batch_size=128,
    lr=0.1,
    lr_schedule="step",
    lr_drops=(60, 120),
    lr_drop_rate=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    augmentation="crop-flip",
)
_TINY = replace(_SGD, epochs=100, lr=0.01, lr_drops=(30, 60, 80))
# The first that fits is taken.
RECIPES: tuple[Recipe, ...] = (
    # Figure 5b and 5a.
    Recipe(("vgg19",), _CIFAR, replace(_SGD, epochs=100, lr=0.001, lr_drops=()), rounds=True),
    Recipe(("vgg*",), _CIFAR, replace(_SGD, epochs=50, lr=0.01, lr_drops=()), rounds=True),
    # Figures 1 and 6.
    Recipe(("vgg*",), _CIFAR, _SGD),
    Recipe(
        ("resnet*", "wideresnet*"),
        _CIFAR,
        replace(_SGD, lr=0.01, lr_drop_rate=0.2, weight_decay=5e-4),
    ),
    Recipe(("*",), ("tinyimagenet",), _TINY),
    # Not the paper's: small data, so that anything learns in minutes on a laptop.
    Recipe(
        ("*",),
        ("digits", "mnist", "*gaussian"),
        replace(_SGD, epochs=10, lr=0.01, lr_drops=(), augmentation="none"),
    ),
    Recipe(("*",), ("*",), replace(_SGD, lr=0.01)),
)


def resolve(training: Training, model: str, dataset: str, *, rounds: bool = False) -> Settings:
    """Fill in what ``training`` leaves out.

    Args:
        rounds: for a round of IMP rather than for one training.

    Raises:
        RequestError: a setting out of its range.
    """
    recipe = find(model, dataset, rounds=rounds)
    given = {field.name: getattr(training, field.name) for field in fields(training)}
    chosen = replace(recipe, **{name: v for name, v in given.items() if v is not None})
    if training.lr_drops is None and recipe.epochs:
        # The paper's drops come after a fraction of training: keep the fraction.
        share = chosen.epochs / recipe.epochs
        drops = tuple(max(1, round(drop * share)) for drop in recipe.lr_drops)
        chosen = replace(chosen, lr_drops=drops)
    _check(chosen)
    # Drops that never come are none: the same training has one name.
    step = chosen.lr_schedule == "step"
    drops = tuple(sorted(d for d in chosen.lr_drops if step and d < chosen.epochs))
    return replace(chosen, lr_drops=drops)


def find(model: str, dataset: str, *, rounds: bool = False) -> Settings:
    """The recipe for a model and a dataset; framed images are not augmented."""
    if dataset.startswith(FRAMED):
        whole = find(model, dataset.removeprefix(FRAMED), rounds=rounds)
        return replace(whole, augmentation="none")
    name = model.rpartition(":")[2]
    return next(
        recipe.settings
        for recipe in RECIPES
        if any(fnmatchcase(name, pattern) for pattern in recipe.models)
        and any(fnmatchcase(dataset, pattern) for pattern in recipe.datasets)
        and (rounds or not recipe.rounds)
    )


def _check(s: Settings) -> None:
    def expect(good: bool, name: str, wanted: str) -> None:
        if not good:
            option = name.replace("_", "-")
            raise RequestError(f"--{option}: expected {wanted}, got {getattr(s, name)}")

    expect(s.epochs >= 0, "epochs", "0 or more")
    expect(s.train_batch_size >= 1, "train_batch_size", "at least 1")
    expect(0 < s.lr < math.inf, "lr", "a learning rate above 0")
    expect(0 <= s.momentum < 1, "momentum", "0 or more and below 1")
    expect(0 <= s.weight_decay < math.inf, "weight_decay", "0 or more")
    expect(0 < s.lr_drop_rate < math.inf, "lr_drop_rate", "a factor above 0")
    expect(0 <= s.label_smoothing < 1, "label_smoothing", "0 or more and below 1")
    expect(all(drop >= 0 for drop in s.lr_drops), "lr_drops", "epochs from 0 up")
    for name, valid in _CHOICES.items():  # the command line checks these itself
        if getattr(s, name) not in valid:
            raise unknown(name.replace("_", " "), getattr(s, name), valid)


_CHOICES = {
    "lr_schedule": ("step", "cosine"),
    "augmentation": ("crop-flip", "none"),
    "precision": ("auto", "float32", "bfloat16"),
}


def learning_rate(settings: Settings, epoch: int) -> float:
    """The learning rate during an epoch, counted from 0.

    ``step``: multiplied by the drop rate at each drop. ``cosine`` (Loshchilov & Hutter 2017,
    eq. 5, without restarts): ``lr (1 + cos(π epoch / epochs)) / 2``.
    """
    if settings.lr_schedule == "cosine":
        return settings.lr * (1 + math.cos(math.pi * epoch / settings.epochs)) / 2
    drops = sum(drop <= epoch for drop in settings.lr_drops)
    return float(settings.lr * settings.lr_drop_rate**drops)
