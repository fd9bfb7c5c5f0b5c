"""What a run is called: everything that its results depend on."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from collapse import data
from collapse import masks as masking
from collapse.data import Dataset, Split
from collapse.errors import RequestError, first_line
from collapse.imp import check, check_rounds
from collapse.options import PER_CLASS, Control, Pruning, Rewinding, Setup, Training
from collapse.problem import check_setup, prepare, settings_row
from collapse.pruning import controls, iterations_of
from collapse.runs.folder import Run
from collapse.runs.source import source_hash
from collapse.scores import load_pruner, mode_of, needs_labels
from collapse.train import recipes


@dataclass(frozen=True)
class Experiment:
    """Everything that the results of a run depend on.

    Attributes:
        compression: of the ticket, total / kept; 1 keeps everything.
        control: train a control in the ticket's place (``controls``).
    """

    setup: Setup
    pruning: Pruning = field(default_factory=lambda: Pruning(pruner="magnitude"))
    training: Training = field(default_factory=Training)
    rewinding: Rewinding = field(default_factory=Rewinding)
    compression: float = 1.0
    control: Control | None = None

    def __post_init__(self) -> None:
        """Scoring is as the paper's, also on large images: it is little beside the training."""
        if self.setup.samples is self.setup.samples_per_class is None:
            object.__setattr__(self, "setup", replace(self.setup, samples_per_class=PER_CLASS))

    def datasets(self) -> tuple[Dataset, Dataset]:
        """The training and the test split."""
        return self._split("train")[0], self._split("test")[0]

    def _split(self, split: Split) -> tuple[Dataset, str]:
        setup = self.setup
        # Only drawn inputs and a user's depend on the seed: the others are loaded once for all.
        seeded = setup.dataset in data.DRAWN or ":" in setup.dataset
        seed = self.pruning.seed if seeded else 0
        shape, classes = setup.input_shape, setup.classes
        return _load(setup.dataset, split, setup.data_root, shape, classes, seed)

    def settings(self) -> recipes.Settings:
        """Training with the recipe's values where the user gave none."""
        rounds = self.rewinding.levels > 0
        return recipes.resolve(self.training, self.setup.model, self.setup.dataset, rounds=rounds)

    def epochs(self) -> int:
        """How many epochs it trains in all, over its levels."""
        epochs, levels = self.settings().epochs, self.rewinding.levels
        return epochs + levels * (epochs - self.rewinding.rewind_epoch)

    def config(self) -> dict[str, Any]:
        """What names the run: equal for all ways to ask for the same numbers.

        Device, folders and verbosity are no part of it; the data themselves are, by their hash,
        and so is the content of a weights file.

        Raises:
            RequestError: settings out of range, or data or weights that are not there.
        """
        setup, pruning = self.setup, self.pruning
        for pruner in pruning.pruners:
            load_pruner(pruner)
        (train, train_hash), (_, test_hash) = self._split("train"), self._split("test")
        check_setup(setup, train)
        settings = self.settings()
        check_rounds(self.compression, self.rewinding, settings)
        if self.control is not None:
            controls.check(self.control, setup, self.rewinding.levels)
        config: dict[str, Any] = {
            **_network_of(setup, train),
            "data": [train_hash, test_hash],
            "training": asdict(settings),
            "compression": float(self.compression),
            "seed": pruning.seed,
        }
        if self.control is not None:
            config["control"] = self.control
        if self.rewinding.levels > 0:
            config["rewinding"] = asdict(self.rewinding)
        # Pruning nothing is the same whatever would have pruned.
        if self.compression != 1:
            config["pruning"] = _pruning_of(setup, pruning)
        return config

    def scoring_config(self) -> dict[str, Any]:
        """What masks and scores at initialisation depend on: ``config`` before any training.

        Raises:
            RequestError: data or weights that are not there, an unknown pruner.
        """
        for pruner in self.pruning.pruners:
            load_pruner(pruner)
        train, train_hash = self._split("train")
        check_setup(self.setup, train)
        return {
            **_network_of(self.setup, train),
            "data": train_hash,
            "pruning": _pruning_of(self.setup, self.pruning),
            "seed": self.pruning.seed,
        }

    def check(self) -> None:
        """Raise RequestError where the request is wrong, before anything is done or written."""
        self.config()
        settings = self.settings()
        self._check_parts(settings)
        check(_sizes(replace(self.setup, device="cpu")), self.compression, self.rewinding, settings)

    def _check_parts(self, settings: recipes.Settings) -> None:
        train, test = self.datasets()
        train.part(settings.train_samples, "--train-samples")
        test.part(settings.test_samples, "--test-samples")

    def run(self, runs: Path) -> Run:
        """Its folder under ``runs``, whether it is there or not."""
        return Run(runs, self.config())

    def row(self) -> dict[str, Any]:
        """The columns that each table begins with."""
        shape = self.datasets()[0].input_shape
        return settings_row(self.setup, shape, self.pruning, iterations_of(self.pruning))


@lru_cache(maxsize=32)
def _sizes(setup: Setup) -> dict[str, int]:
    """Parameters of each layer."""
    return masking.sizes(prepare(setup, 0, labelled=False).dense())


@lru_cache(maxsize=8)
def _load(
    name: str,
    split: Split,
    root: Path | None,
    input_shape: tuple[int, ...] | None,
    classes: int | None,
    seed: int,
) -> tuple[Dataset, str]:
    """A dataset and its fingerprint, kept for the next run of a sweep."""
    dataset = data.load(name, split, root=root, input_shape=input_shape, classes=classes, seed=seed)
    return dataset, dataset.fingerprint


def _network_of(setup: Setup, train: Dataset) -> dict[str, Any]:
    return {
        "model": setup.model,
        "input_shape": list(train.input_shape),
        "classes": setup.classes or train.classes,
        "init": setup.init,
        "weights": _weights_of(setup.weights),
        "output": setup.output,
        "dataset": setup.dataset,
        **_code_of(setup.model, "model"),
        **_patterns_of(setup),
    }


def _patterns_of(setup: Setup) -> dict[str, list[str]]:
    """Which layers are pruned, where that is not the default."""
    patterns = {"include": setup.include, "exclude": setup.exclude}
    return {option: sorted(set(given)) for option, given in patterns.items() if given}


def _code_of(name: str, kind: str) -> dict[str, str]:
    """The user's own code is named by its content: an edited network is another one."""
    code = source_hash(name, kind)
    return {} if code is None else {f"{kind}_code": code}


def _pruning_of(setup: Setup, pruning: Pruning) -> dict[str, Any]:
    found: dict[str, Any] = {
        "pruner": pruning.pruner,
        "iterations": iterations_of(pruning),
        "schedule": pruning.schedule,
        "scope": pruning.ranks,
        "mode": mode_of(pruning.pruner, pruning.mode),
        **_code_of(pruning.pruner, "pruner"),
    }
    if pruning.allocation is not None:
        found["allocation"] = pruning.allocation
    if pruning.copied is not None:
        found |= _code_of(pruning.copied, "copied")
    if any(map(needs_labels, pruning.pruners)):
        number = "samples" if setup.samples is not None else "samples_per_class"
        found[number] = getattr(setup, number)
        found["batch_size"] = setup.batch_size
    return found


def _weights_of(weights: str | None) -> str | None:
    """``pretrained`` or the content of a file."""
    if weights is None or weights == "pretrained":
        return weights
    try:
        with open(weights, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RequestError(f"--weights '{weights}' cannot be read: {first_line(error)}") from error
