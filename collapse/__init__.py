"""Layer-collapse analysis: how far can a network be pruned before a layer collapses, and why?

Data flows one way: model + data → scores → masks → diagnostics → training, IMP → tables.
Scores and masks are plain ``dict[str, Tensor]`` keyed by parameter name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collapse.connectivity import living
    from collapse.critical import Critical, critical_compression
    from collapse.data import Dataset, load
    from collapse.errors import RequestError
    from collapse.imp import Tickets
    from collapse.masks import apply, density, keep_count, load_masks, save_masks, select
    from collapse.models import build, prunable
    from collapse.options import Execution, Pruning, Rewinding, Setup, Training
    from collapse.pruning import Pruned, prune
    from collapse.runs import Experiment, perform
    from collapse.scores import SCORES, ScoreInputs, Scores, score

__version__ = "0.1.0"

# Loaded on first use: `python -m collapse.critical` must not find itself imported already.
_HOME = {
    "living": "connectivity",
    "Critical": "critical",
    "critical_compression": "critical",
    "Dataset": "data",
    "load": "data",
    "RequestError": "errors",
    "Experiment": "runs",
    "perform": "runs",
    "Tickets": "imp",
    "apply": "masks",
    "density": "masks",
    "keep_count": "masks",
    "load_masks": "masks",
    "save_masks": "masks",
    "select": "masks",
    "build": "models",
    "prunable": "models",
    "Execution": "options",
    "Pruning": "options",
    "Rewinding": "options",
    "Setup": "options",
    "Training": "options",
    "Pruned": "pruning",
    "prune": "pruning",
    "SCORES": "scores",
    "ScoreInputs": "scores",
    "Scores": "scores",
    "score": "scores",
}

__all__ = [
    "SCORES",
    "Critical",
    "Dataset",
    "Execution",
    "Experiment",
    "Pruned",
    "Pruning",
    "RequestError",
    "Rewinding",
    "ScoreInputs",
    "Scores",
    "Setup",
    "Tickets",
    "Training",
    "apply",
    "build",
    "critical_compression",
    "density",
    "keep_count",
    "living",
    "load",
    "load_masks",
    "perform",
    "prunable",
    "prune",
    "save_masks",
    "score",
    "select",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'collapse' has no attribute '{name}'")
    return getattr(importlib.import_module(f"collapse.{_HOME[name]}"), name)
