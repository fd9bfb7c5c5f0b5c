"""The choices a user makes, as typed frozen dataclasses: one set for the API and the CLI.

Nothing here imports torch, and neither do the names that a user may type: ``--help`` and a typo
need only this file.
"""

from __future__ import annotations

import numbers
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from collapse.errors import RequestError, unknown

# warm: in eval mode, with BatchNorm statistics taken from the scoring batches first.
Mode = Literal["train", "eval", "warm"]
Scope = Literal["global", "layer"]
ScheduleName = Literal["linear", "exponential", "certified"]
Augmentation = Literal["crop-flip", "none"]
LearningRateSchedule = Literal["step", "cosine"]
Precision = Literal["auto", "float32", "bfloat16"]
Rewind = Literal["weights", "learning-rate"]
Control = Literal["shuffled", "reinitialised", "inverted"]
Device = Literal["auto", "cpu", "cuda", "mps"]
CONTROLS: tuple[Control, ...] = get_args(Control)
PER_CLASS = 10  # samples a class that the paper scores on
TOLERANCE = 1e-4  # of a search: more digits than a table shows cost prunings, and nobody sees them

# The paper's networks (``models.ARCHITECTURES`` builds them) and the datasets that have a name.
NETWORKS = (
    *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wideresnet18"),
    *("resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet1202"),
    *("fc", "conv", "minivgg"),
)
DATASETS = (
    *("digits", "gaussian", "sparse-gaussian", "mnist", "cifar10", "cifar100"),
    *("tinyimagenet", "imagenet", "tokens"),
)
# How weights are drawn anew (``models.paper.INITS`` draws).
INITS = ("kaiming", "kaiming_fan_out", "kaiming_uniform", "xavier", "xavier_uniform", "orthogonal")
TOKENS = "tokens"  # random ones, for scoring a network of token ids
PAPER_PRUNERS = ("random", "magnitude", "snip", "grasp", "synflow")
# How many weights each layer keeps (``pruning.allocations``), or as many as a pruner leaves it.
ALLOCATIONS = ("uniform", "uniform+", "er", "erk", "igq", "smart-ratio")
LIKE = "like:"
FRAMED = "framed-"  # before a dataset's name: its images in a frame of zeros


def pruner_names() -> tuple[str, ...]:
    """The toolkit's own pruners: each is a file of its name."""
    folder = Path(__file__).parent / "scores" / "pruners"
    found = sorted(path.stem for path in folder.glob("[!_]*.py"))
    return (*PAPER_PRUNERS, *(name for name in found if name not in PAPER_PRUNERS))


def unknown_model(name: str) -> RequestError:
    """The error for a model that is none of ``NETWORKS``."""
    near = unknown("model", name, NETWORKS)
    return RequestError(
        f"{near} (or torchvision:NAME, timm:NAME, transformers:CONFIG, package.module:factory)"
    )


def unknown_dataset(name: str, root: Path) -> RequestError:
    """The error for a dataset that is none of ``DATASETS`` and no folder under ``root``."""
    folders = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    near = unknown("dataset", name, [*DATASETS, *folders])
    return RequestError(f"{near} (or package.module:function)")


def data_folder(root: Path | None) -> Path:
    """Where data lies: ``root``, else ``$COLLAPSE_DATA``, else ``./data``."""
    return root or Path(os.environ.get("COLLAPSE_DATA", "data"))


def check_pruners(*pruners: str, option: str = "--pruners") -> None:
    """Whether these can be pruners on a command line.

    Raises:
        RequestError: an unknown name (the nearest are given), or one that is given twice.
    """
    for pruner in pruners:
        if ":" not in pruner and pruner not in pruner_names():
            near = unknown("pruner", pruner, pruner_names())
            raise RequestError(f"{near} (or package.module:function)")
    check_once(option, pruners)


def check_allocation(allocation: str) -> None:
    """Raise RequestError for what is neither in ``ALLOCATIONS`` nor ``like:PRUNER``."""
    if allocation.startswith(LIKE):
        check_pruners(allocation.removeprefix(LIKE))
    elif allocation not in ALLOCATIONS:
        raise RequestError(f"{unknown('allocation', allocation, ALLOCATIONS)} (or like:PRUNER)")


def check_once(option: str, values: tuple[object, ...]) -> None:
    """Raise RequestError where a value is given twice: there would be one set of rows for both."""
    for value in values:
        if values.count(value) > 1:
            raise RequestError(f"{option}: expected different values, got '{value}' twice")


def check_seed(seed: int, option: str = "--seed") -> None:
    """Raise RequestError for a seed that is negative or that a table's column cannot hold."""
    if not 0 <= seed < 2**63:
        raise RequestError(f"{option}: expected a number from 0 to 2^63 - 1, got {seed}")


def shown(metavar: str, default: str = "None", also: str | None = None) -> object:
    """How an optional value shows in ``--help``; ``default`` says what None stands for.

    Args:
        also: another command's word for the same.
    """
    return tyro.conf.arg(
        metavar=metavar,
        aliases=None if also is None else (also,),
        help_behavior_hint=lambda label: f"(default: {default if label == 'None' else label})",
    )


PAPERS = "the paper's"
File = Annotated[Path | None, shown("FILE", "none")]
Folder = Annotated[Path, shown("DIR")]
DataRoot = Annotated[Path | None, shown("DIR", "$COLLAPSE_DATA or ./data")]
Count = Annotated[int | None, shown("N", PAPERS)]


@dataclass(frozen=True)
class Pruning:
    """How to prune, up to the compression.

    Attributes:
        pruner: random, magnitude, snip, grasp, synflow, any other of docs/pruners.md, or
            package.module:function.
        iterations: how often scores are computed; its paper's without it (synflow 100, snip 1).
            The certified schedule takes as many as it needs.
        schedule: how density falls over the iterations.
        scope: rank all parameters together (global), or divide the number to keep over the
            layers in proportion to their sizes (layer).
        allocation: how many weights each layer keeps, within which the score ranks: uniform,
            uniform+, er, erk, igq, smart-ratio, or like:PRUNER for as many as that pruner leaves.
        mode: in which scores that follow data are computed; their papers' without it (snip and
            grasp train). warm is eval with BatchNorm statistics of the scoring batches.
        seed: of initialisation, samples, random scores, and (in training) the order of images,
            augmentation and dropout.

    Example:
        >>> Pruning(pruner="snip", mode="eval").schedule
        'exponential'
    """

    pruner: str = "synflow"
    iterations: Count = None
    schedule: ScheduleName = "exponential"
    scope: Scope = "global"
    mode: Annotated[Mode | None, shown("train|eval|warm", PAPERS)] = None
    seed: int = 0
    allocation: Annotated[str | None, shown("NAME", "none, as --scope says")] = None

    def check(self) -> None:
        """Whether a command line may ask for this.

        Raises:
            RequestError: an unknown pruner or allocation, a seed out of range, or iterations
                beside the certified schedule.
        """
        check_pruners(self.pruner)
        if self.allocation is not None:
            check_allocation(self.allocation)
        check_seed(self.seed)
        check_iterations(self.iterations, self.schedule)

    @property
    def ranks(self) -> Scope:
        """What is ranked together: an allocation ranks each layer by itself, whatever the scope."""
        return "layer" if self.allocation is not None else self.scope

    @property
    def copied(self) -> str | None:
        """The pruner whose densities the allocation copies, if it does."""
        name = self.allocation or ""
        return name.removeprefix(LIKE) if name.startswith(LIKE) else None

    @property
    def pruners(self) -> tuple[str, ...]:
        """Who scores: the pruner, and the one whose densities are copied."""
        return (self.pruner, *filter(None, [self.copied]))


def check_iterations(iterations: int | None, schedule: str | None) -> None:
    """Raise RequestError for iterations below 1, or beside the certified schedule."""
    if iterations is not None and (not isinstance(iterations, numbers.Integral) or iterations < 1):
        kind = "" if isinstance(iterations, numbers.Integral) else ", a whole number"
        raise RequestError(f"--iterations: expected at least 1{kind}, got {iterations}")
    if iterations is not None and schedule == "certified":
        raise RequestError(
            f"--iterations {iterations}: the certified schedule takes as many as it needs; "
            "expected one of the two options"
        )


@dataclass(frozen=True, kw_only=True)
class Quiet:
    """Shared by every command that works for long.

    Attributes:
        quiet: no progress bar.
    """

    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Scoring(Quiet):
    """Shared by every command that scores and does not train.

    Attributes:
        loss: package.module:function of (output, targets) in place of cross-entropy, for scores
            that follow a loss; it is given exactly what --output selects.
    """

    loss: Annotated[str | None, shown("MODULE:FUNCTION", "cross-entropy")] = None


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the data is.

    Attributes:
        data_root: where the data lies.
    """

    data_root: DataRoot = None


@dataclass(frozen=True, kw_only=True)
class Machine(Data):
    """What differs from machine to machine and is no part of a result.

    Attributes:
        device: where to compute; auto takes a GPU if there is one.
    """

    device: Device = "auto"


@dataclass(frozen=True)
class Runs:
    """Where results of runs are kept.

    Attributes:
        runs: the folder of run folders; what is done there is not done again.
    """

    runs: Folder = Path("runs")

    def __post_init__(self) -> None:
        """Raise RequestError where a file stands in the folder's way."""
        there = next((path for path in (self.runs, *self.runs.parents) if path.exists()), None)
        if there is not None and not there.is_dir():
            raise RequestError(f"--runs '{self.runs}': expected a folder, but '{there}' is a file")


@dataclass(frozen=True)
class Setup:
    """The network, the data and the device: what every command starts from.

    Attributes:
        model: vgg16_bn, resnet18, …, torchvision:NAME, timm:NAME, transformers:CLASS or
            transformers:FOLDER (randomly initialised, with settings as in CLASS?n_layer=2), or
            package.module:factory (called with classes= and input_shape= if it takes them).
        dataset: digits (embedded), gaussian, sparse-gaussian, mnist, cifar10, cifar100,
            tinyimagenet, imagenet, a folder's name under the data root, or
            package.module:function that returns a collapse.Dataset (called with split=, seed=,
            classes= and input_shape= if it takes them), or batches to score on; framed-NAME for
            its images at half their size in a frame of zeros; tokens for random token ids.
        data_root: where the data lies.
        input_shape: C H W, where the dataset does not say; of tokens, how many (16 without it).
        classes: outputs of the network, where the dataset does not say.
        init: kaiming, kaiming_fan_out, kaiming_uniform, xavier, xavier_uniform or orthogonal.
        weights: pretrained, or a .safetensors file.
        output: which part of the output is meant when the forward returns several: a name, an
            index, or all.
        samples_per_class: examples a class that snip and grasp are scored on; without it the
            paper's 10, but at most 100 samples in all on inputs larger than 64×64.
        samples: score on so many examples in all instead, spread over the classes.
        batch_size: of the scoring batches.
        device: where to compute; auto takes a GPU if there is one.
        include: prune these parameters as well: patterns of their names, 'blocks.*.scale'.
        exclude: leave these layers out: patterns of their names, 'head*'.
    """

    model: str
    dataset: str = "digits"
    data_root: DataRoot = None
    input_shape: Annotated[tuple[int, ...] | None, shown("C H W", "the dataset's")] = None
    classes: Annotated[int | None, shown("N", "the dataset's")] = None
    init: Annotated[str | None, shown("NAME", "the network's own")] = None
    weights: Annotated[str | None, shown("pretrained|FILE", "none, as initialised")] = None
    output: Annotated[str | None, shown("NAME", "the only one")] = None
    samples_per_class: Annotated[int | None, shown("N", "10; 100 samples in all above 64×64")] = (
        None
    )
    samples: Annotated[int | None, shown("N", "samples-per-class")] = None
    batch_size: Annotated[int | None, shown("N", "256 at 32×32, fewer on larger images")] = None
    device: Device = "auto"
    include: Annotated[tuple[str, ...], shown("PATTERN ...", "none")] = ()
    exclude: Annotated[tuple[str, ...], shown("PATTERN ...", "none")] = ()

    def check(self) -> None:
        """Whether model, dataset and numbers can be meant, before torch is imported.

        Raises:
            RequestError: an unknown name (the nearest are given), or a number below 1.
        """
        if self.init is not None and self.init not in INITS:
            raise unknown("init", self.init, INITS)
        for name in ("classes", "samples_per_class", "samples", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = f"--{name.replace('_', '-')}"
                raise RequestError(f"{option}: expected at least 1, got {value}")
        if ":" not in self.model and self.model not in NETWORKS:
            raise unknown_model(self.model)
        name, root = self.dataset.removeprefix(FRAMED), data_folder(self.data_root)
        if ":" in name or name in DATASETS or (root / name).is_dir():
            return
        # The root itself may be the dataset's folder, whatever it is called.
        if not any(any(root.glob(part)) for part in ("*.parquet", "data/*.parquet", "train")):
            raise unknown_dataset(name, root)


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

    epochs: Count = None
    train_batch_size: Count = None
    lr: Annotated[float | None, shown("X", PAPERS)] = None
    lr_schedule: Annotated[LearningRateSchedule | None, shown("step|cosine", PAPERS)] = None
    lr_drops: Annotated[tuple[int, ...] | None, shown("EPOCH ...", PAPERS)] = None
    lr_drop_rate: Annotated[float | None, shown("X", PAPERS)] = None
    momentum: Annotated[float | None, shown("X", PAPERS)] = None
    weight_decay: Annotated[float | None, shown("X", PAPERS)] = None
    augmentation: Annotated[Augmentation | None, shown("crop-flip|none", PAPERS)] = None
    label_smoothing: float = 0.0
    precision: Precision = "auto"
    train_samples: Annotated[int | None, shown("N", "all")] = None
    test_samples: Annotated[int | None, shown("N", "all")] = None


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
class Execution(Runs, Quiet):
    """How to compute, which changes no more than rounding: no part of a run's name.

    Attributes:
        exact: deterministic algorithms only, so that a killed and resumed run ends bit-identical
            to an undisturbed one on the same machine.
        compile: torch.compile the network (with CUDA graphs on a GPU); of a smaller network on a
            CPU its BatchNorms and poolings, which takes half a minute once.
        shrink: train a physically smaller network where masks leave channels that do nothing.
        save_every: epochs between two saved states.
    """

    exact: bool = False
    compile: bool = False
    shrink: bool = True
    save_every: int = 1

    def check(self) -> None:
        """Raise RequestError where a value is out of its range."""
        if self.save_every < 1:
            raise RequestError(f"--save-every: expected at least 1, got {self.save_every}")
