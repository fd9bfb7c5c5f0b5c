"""The paper's own published numbers, for overlays and agreement; ``README.md`` has the source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from collapse.errors import RequestError

# What each table was measured on; accuracies and trained weights depend on the dataset as well.
_VGG19: dict[str, tuple[str, ...]] = {"model": ("vgg19",), "input_shape": ("3x224x224",)}
# Where the networks and scores of a second study are.
SECOND_STUDY = "analysis.published.hoang2023"
NETWORKS: dict[str, dict[str, tuple[str, ...]]] = {
    "densities": _VGG19,
    "layer-scores": _VGG19,
    "cuts": _VGG19,
    "levels": {"model": ("vgg11_bn",), "dataset": ("cifar10",)},
    "dynamics": {"model": ("vgg19",), "dataset": ("cifar10",)},
    "accuracy": {"model": ("vgg16_bn",), "dataset": ("cifar100",)},
    "grid": {
        "model": ("vgg11_bn", "vgg16_bn", "resnet18", "wideresnet18"),
        "dataset": ("cifar10", "cifar100", "tinyimagenet"),
    },
    "resnet34": {"model": (f"{SECOND_STUDY}:resnet34",), "dataset": ("cifar10",)},
}


def load(name: str) -> pd.DataFrame:
    """The published table of a figure, in the columns of our own.

    Args:
        name: an experiment's; ``accuracy`` is a panel of ``grid``, and ``resnet34`` of a second
            study (``hoang2023``).

    Raises:
        RequestError: nothing is published for it.
    """
    check_published(name)
    source = "grid" if name == "accuracy" else name.replace("-", "_")
    table = pd.read_csv(Path(__file__).parent / f"{source}.csv")
    if name == "accuracy":
        table = table[(table["model"] == "vgg16_bn") & (table["dataset"] == "cifar100")]
    return table.reset_index(drop=True)


def check_published(name: str) -> None:
    """Raise RequestError where nothing is published for an experiment."""
    if name not in NETWORKS:
        raise RequestError(
            f"nothing is published for '{name}': expected one of {', '.join(NETWORKS)}"
        )


def scaled(
    theirs: pd.Series[float], ours: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Sizes of published scores at our scale, and the factor: scores are only ranked.

    Example:
        >>> sizes, factor = scaled(pd.Series([1.0, -4.0]), np.array([10.0, 40.0]))
        >>> sizes.round(9).tolist(), round(factor, 9)
        ([10.0, 40.0], 10.0)
    """
    sizes = np.abs(theirs.to_numpy(float))
    factor = float(np.exp(np.log(ours[ours > 0]).mean() - np.log(sizes).mean()))
    return sizes * factor, factor


def check_comparable(name: str, table: pd.DataFrame) -> None:
    """Raise unless some of our rows are of the network that the published ones are of.

    Raises:
        RequestError: they are of others, or nothing is published.
    """
    check_published(name)
    wanted = NETWORKS[name]
    alike = pd.Series(True, index=table.index)
    for column, values in wanted.items():
        alike &= table[column].isin(values)
    if not alike.any():
        of = ", ".join(" or ".join(values) for values in wanted.values())
        ours = ", ".join(str(table[column].iloc[0]) for column in wanted)
        raise RequestError(f"the published {name} are of {of}: expected such rows, got {ours}")
