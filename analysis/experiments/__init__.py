"""The paper's figures as experiments: ``run(config) -> DataFrame``, one module each.

Each module has a frozen dataclass ``Config``, ``PRESETS`` of it (``laptop``: minutes on two cores
with embedded data; ``paper``: the paper's own settings; ``smoke``: seconds, for tests), the name of
its ``TABLE``, ``points(config)`` and ``run(config, work)``.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from collapse.errors import unknown

# In the paper's order.
EXPERIMENTS = {
    "accuracy": "accuracy against compression, critical compressions marked (figure 1)",
    "densities": "where collapse occurs: density of each layer (figure 2)",
    "neurons": "score into against score out of each hidden unit (figure 3)",
    "layer-scores": "mean layer score against inverse layer size (figure 4)",
    "levels": "IMP in 1, 2, 3 levels: accuracy against compression (figure 5a)",
    "dynamics": "mean layer score against inverse layer size while training (figure 5b)",
    "grid": "accuracy against compression, models × datasets (figure 6)",
    "cuts": "prune-to-cut ratio against iterations (figure 7)",
}

# The questions of the paper's reviewers, in the order of docs/questions.md.
QUESTIONS = {
    "iterations": "is it the score or the iteration? every score in 1 to 300 iterations",
    "mode": "SNIP and GraSP scored in train and in eval mode",
    "cost": "what each pruner costs beside an epoch of training",
    "tickets": "IMP's ticket beside those of pruning at initialisation",
    "low-compression": "differences at compressions up to 10, with intervals",
    "trained": "magnitude and SynFlow of trained and of random weights",
    "dead-inputs": "what pruners keep on inputs that are always zero",
    "sanity": "shuffled, reinitialised and inverted masks",
    "effective": "effective against nominal compression, and accuracy against each",
}


def find(name: str) -> ModuleType:
    """An experiment's module.

    Raises:
        RequestError: there is none of this name.
    """
    if name not in EXPERIMENTS and name not in QUESTIONS:
        raise unknown("experiment", name, [*EXPERIMENTS, *QUESTIONS])
    return importlib.import_module(f"analysis.experiments.{name.replace('-', '_')}")
