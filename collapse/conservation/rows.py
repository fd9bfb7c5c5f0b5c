"""Rows of the ledger: two sides of an identity, and how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

COLUMNS = ["identity", "place", "lhs", "rhs", "residual"]


@dataclass(frozen=True)
class Row:
    """Two sides of an identity at one place, or at every unit of it."""

    identity: str
    place: str
    lhs: Tensor
    rhs: Tensor
    scale: Tensor
    by_unit: bool = False


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a table ``identity, place, lhs, rhs, residual``; units in brackets."""
    parts = []
    for row in rows:
        lhs, rhs, scale = (
            np.atleast_1d(x.detach().cpu().double().numpy()) for x in (row.lhs, row.rhs, row.scale)
        )
        place = [f"{row.place}[{unit}]" for unit in range(len(lhs))] if row.by_unit else [row.place]
        residual = np.abs(lhs - rhs) / np.maximum(1.0, scale)
        columns = (row.identity, place, lhs, rhs, residual)
        parts.append(pd.DataFrame(dict(zip(COLUMNS, columns, strict=True))))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def worst(frame: pd.DataFrame) -> pd.DataFrame:
    """The row with the largest residual of each identity, and how many places were checked."""
    if frame.empty:
        return frame.assign(places=[])
    order = frame["residual"].fillna(np.inf)
    index = order.groupby(frame["identity"], sort=False).idxmax()
    counts = frame.groupby("identity", sort=False).size()
    return frame.loc[index].assign(places=counts.to_numpy())
