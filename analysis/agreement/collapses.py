"""Where collapse first occurs: the paper's claim, as layers and a compression a pruner."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

# Between two compressions of figure 2.
GRID_STEP = 4.0


class First(NamedTuple):
    """Which layers are empty first, and from which compression on.

    Attributes:
        layers: indices from the input, 1 up; none if no layer is ever empty.
        compression: the least at which they are; the greatest looked at if none is.
    """

    layers: tuple[int, ...]
    compression: float

    def __str__(self) -> str:
        """``layers 17-19 at 1,024``."""
        if not self.layers:
            return f"none up to {self.compression:,.0f}"
        ends, many = (self.layers[0], self.layers[-1]), len(self.layers) > 1
        whole = many and ends[1] - ends[0] + 1 == len(self.layers)
        listed = f"{ends[0]}-{ends[1]}" if whole else ", ".join(map(str, self.layers))
        return f"layer{'s' * many} {listed} at {self.compression:,.0f}"


def first_empty(table: pd.DataFrame) -> dict[str, First]:
    """Each pruner's first empty layers, in a table of densities.

    Compressions beyond the maximal one, a parameter a layer, are not looked at: no mask of so few
    weights has one in each layer.

    Args:
        table: ``pruner, compression, layer_index, parameters, density``, a row a layer.

    Example:
        >>> rows = [("snip", c, i, 100, d) for c, i, d in [(4, 1, 0.5), (4, 2, 0.0), (1, 2, 1.0)]]
        >>> columns = ["pruner", "compression", "layer_index", "parameters", "density"]
        >>> str(first_empty(pd.DataFrame(rows, columns=columns))["snip"])
        'layer 2 at 4'
    """
    sizes = table.drop_duplicates("layer_index")["parameters"].astype(float)
    possible = table[table["compression"] <= sizes.sum() / len(sizes)]
    found = {}
    for pruner, rows in possible.groupby("pruner", sort=False):
        empty = rows[rows["density"] == 0]
        at = float(empty["compression"].min() if len(empty) else rows["compression"].max())
        layers = empty.loc[empty["compression"] == at, "layer_index"]
        found[str(pruner)] = First(tuple(sorted({int(layer) for layer in layers})), at)
    return found


def looked(ours: First, theirs: First) -> bool:
    """Whether ours was looked for as far as a collapse like theirs may be away."""
    if ours.layers:
        return True
    step = GRID_STEP if theirs.layers else 1 / GRID_STEP
    return ours.compression >= theirs.compression * step * (1 - 1e-9)


def alike(ours: First, theirs: First) -> bool:
    """The same layers, at compressions at most one step of the grid apart."""
    if ours.layers != theirs.layers:
        return False
    if not ours.layers:
        return looked(ours, theirs)
    apart = max(ours.compression, theirs.compression) / min(ours.compression, theirs.compression)
    return apart <= GRID_STEP * (1 + 1e-9)
