"""Should pruning ignore the data where some inputs are always zero? (question 7)"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from analysis.experiments.shared import trained
from analysis.experiments.study import Study
from analysis.questions.dead_inputs import TABLE
from analysis.resumable import Trained, runner
from collapse import masks as masking
from collapse.errors import RequestError
from collapse.options import Pruning, Setup, Training

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from collapse.data import Dataset
    from collapse.models import Masks
    from collapse.runs import Experiment, Run
    from collapse.scores import ScoreInputs, Scores

INFORMED = f"{__name__}:informed_synflow"
_PERCEPTRON = Setup("fc", dataset="", init="kaiming")
_SHORT = Training(
    epochs=10,
    lr=0.02,
    lr_schedule="cosine",
    train_batch_size=32,
    augmentation="none",
    train_samples=600,
    test_samples=200,
)


def informed_synflow(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """SynFlow that is told which inputs are always zero in its batches: those weights go first."""
    from collapse.models import first_tensor
    from collapse.scores import score

    alive = _alive(*(first_tensor(x) for x, _ in inputs.batches))
    first = next(iter(masks))
    seen = {**masks, first: masks[first] & alive.flatten()}
    return score(model, "synflow", seen, inputs)


def _alive(*parts: Tensor) -> Tensor:
    """Which inputs are ever other than zero, in the shape of one."""
    found = parts[0].ne(0).any(0)
    for part in parts[1:]:
        found = found | part.ne(0).any(0)
    return found


@dataclass(frozen=True)
class Config(Study):
    """What each pruner keeps of the weights on dead inputs, and the accuracy.

    The network's first layer must be linear on the inputs. Beside the pruners comes SynFlow told
    which inputs are dead, to see what knowing it is worth.

    Attributes:
        datasets: each of them, in place of --dataset.
    """

    setup: Setup = _PERCEPTRON
    training: Training = _SHORT
    pruners: tuple[str, ...] = ("random", "magnitude", "snip", "grasp", "synflow", INFORMED)
    datasets: tuple[str, ...] = ("framed-digits", "sparse-gaussian", "framed-cifar10")


PRESETS = {
    "smoke": Config(
        training=Training(epochs=1, train_samples=100, test_samples=50, train_batch_size=20),
        pruners=("snip", "synflow", INFORMED),
        compressions=(10.0,),
        seeds=(0, 1, 2),
        datasets=("framed-digits",),
    ),
    "laptop": Config(),
    "paper": Config(training=Training(), datasets=("framed-mnist", "framed-cifar10")),
}


def points(config: Config) -> list[Trained]:
    """One of each dataset, seed, compression and pruner.

    Raises:
        RequestError: no dataset, or a network whose first layer is not linear on the inputs.
    """
    from collapse.scores import about

    if config.setup.dataset:
        raise RequestError(f"--dataset {config.setup.dataset}: expected --datasets, one or more")
    if not config.datasets:
        raise RequestError("--datasets: expected at least one, got none")
    found = []
    for dataset in dict.fromkeys(config.datasets):
        part = replace(config, setup=replace(config.setup, dataset=dataset))
        for seed, compression, pruner in part.each():
            iterations = about("synflow").iterations if pruner == INFORMED else None
            options = Pruning(pruner=pruner, iterations=iterations, mode=config.mode, seed=seed)
            found.append(_point(part.experiment(seed, compression, pruner, pruning=options)))
    return found


run = runner(points, TABLE)


def _point(experiment: Experiment) -> Trained:
    train, _ = experiment.datasets()
    layer, (units, inputs) = _first_layer(experiment.setup, train)
    dead = ~_alive(train.inputs()).flatten()
    more = {"parameters": units * inputs, "dead_parameters": units * int(dead.sum())}
    return trained(TABLE, experiment, partial(_rows, layer, dead), layer=layer, **more)


def _first_layer(setup: Setup, train: Dataset) -> tuple[str, tuple[int, int]]:
    from collapse.models import build

    classes = setup.classes or train.classes
    model = build(setup.model, input_shape=train.input_shape, classes=classes, init=setup.init)
    name, mask = next(iter(masking.dense(model).items()))
    size = train.images[0].numel()
    if mask.ndim != 2 or mask.shape[1] != size:
        raise RequestError(
            f"dead inputs need a first layer that is linear on all {size} inputs: expected "
            f"'{name}' of '{setup.model}' of shape (units, {size}), got {tuple(mask.shape)}"
        )
    return name, (mask.shape[0], mask.shape[1])


def _rows(layer: str, dead: Tensor, run: Run) -> pd.DataFrame:
    import pandas as pd

    ticket = run.table("levels").iloc[-1]
    mask = masking.load_masks(run.folder / "masks.safetensors")[layer]
    return pd.DataFrame([{
        "kept": int(mask.sum()),
        "dead_kept": int(mask[:, dead].sum()),
        "kept_total": int(ticket["kept"]),
        "best_top1": ticket["best_top1"],
    }])  # fmt: skip
