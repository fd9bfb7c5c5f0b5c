"""``python -m tests.conservation.faults``: audit every planted fault, and count."""

from __future__ import annotations

import sys

from tests.conservation.planted import (
    FAULTS,
    detached,
    formulas,
    functions,
    holds,
    hooks,
    outcome,
    scores,
)

CATALOGUE = (functions, hooks, detached, scores, formulas)


def main() -> int:
    """A line a fault; the exit code says whether each was found as it has to be."""
    missed = 0
    for fault in FAULTS:
        seen = outcome(fault)
        right = holds(fault, seen)
        missed += not right
        verdict = fault.verdict if right else f"MISSED, {seen.verdict}"
        print(f"{verdict:10} {fault.name}: {fault.reason or seen.said}"[:180])
    counts = {v: sum(f.verdict == v for f in FAULTS) for v in ("caught", "listed", "excusable")}
    print(
        f"{len(FAULTS) - missed} of {len(FAULTS)} faults found as they have to be: "
        f"{counts['caught']} with a failure that names the place, {counts['listed']} listed with "
        f"their place, {counts['excusable']} excusable"
    )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
