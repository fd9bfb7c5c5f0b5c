"""What `agreement` says beside its table."""

from __future__ import annotations

import pandas as pd

from analysis.shown import authors_code


def test_the_authors_code_differs_by_what_it_keeps() -> None:
    columns = ["pruner", "compression", "layer_index", "kept"]
    ours = pd.DataFrame(
        [("snip", 4.0, 0, 10), ("snip", 4.0, 1, 7), ("snip", 4.0, 2, 1), ("grasp", 4.0, 0, 5)],
        columns=columns,
    )
    theirs = ours.assign(kept=[10, 2, 0, 5])
    (line,) = authors_code(ours, theirs.iloc[:3])
    assert "snip keeps as many weights in 1 of 3 layers and compressions" in line
    assert "at most 5 more or fewer in the others, 1 are empty on one side only" in line
    assert "grasp" not in line
    assert authors_code(ours, None) == []
