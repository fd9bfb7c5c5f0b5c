"""The table of ``python -m collapse.critical`` in words: its cells, and what stands below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from collapse import cli

if TYPE_CHECKING:
    import pandas as pd


def print_table(frame: pd.DataFrame, notes: Sequence[str] = ()) -> None:
    """The columns a reader wants first, and what is to be said of them.

    Args:
        frame: the ``critical`` table of one network.
        notes: further lines below it.
    """
    rows = [row | _words(row) for row in cli.rows_of(frame)]
    first = rows[0]
    if any(row["collapsed_is_cut"] is False for row in rows):  # a branch says little by itself
        rows.sort(key=lambda row: (-(row["connected_until"] or 0), -row["critical_compression"]))
    cli.print_table(
        f"{first['model']} on {first['dataset']} {first['input_shape']}: "
        f"{first['parameters']:,} parameters in {first['layers']} layers, "
        f"maximal compression {cli.number(first['maximal_compression'])}",
        rows,
        {
            "pruner": "{pruner}",
            **({"seed": "{seed:d}"} if frame["seed"].nunique() > 1 else {}),
            "iterations": "{steps}",
            "mode": "{mode}",
            "critical": "{critical:>}",
            "of maximum": "{share:>}",
            "kept": "{kept:>}",
            "connected until": "{connected:>}",
            "collapse": "{collapse:>}",
            "first to collapse": "{first}",
            "effective": "{effective:>}",
            "evidence": "{evidence}",
        },
        [*_notes(frame), *notes],
        spare=("collapse", "effective", "of maximum", "kept", "mode"),
    )


def _words(row: dict[str, Any]) -> dict[str, Any]:
    """What the table says in words of its own."""
    collapse = row["collapse_compression"]
    effective = row["effective_critical_compression"]
    connected = row["connected_until"]
    branch = " (branch)" if row["collapsed_is_cut"] is False else ""
    share = row["critical_compression"] / row["maximal_compression"]
    return {
        "steps": _steps(row),
        "critical": ("" if _exact(row) else "≈ ") + _number(row, row["critical_compression"]),
        "share": f"{cli.number(100 * share)}%",
        "kept": f"{row['critical_kept']:,}" if _exact(row) else _number(row, row["critical_kept"]),
        "collapse": "none seen"
        if collapse is None
        else f"{_number(row, collapse)}{' *' if row['monotone'] is False else ''}",
        "first": _layer(row) + branch,
        "connected": "not looked for" if connected is None else _number(row, connected),
        "effective": "none" if effective is None else _number(row, effective),
    }


def _steps(row: dict[str, Any]) -> str:
    """How many iterations on which schedule, where rounding has no say in how many."""
    if row["schedule"] != "certified":
        return f"{row['iterations']} {'' if row['iterations'] == 1 else row['schedule']}".strip()
    few = row["iterations"] == 1 or row["precision"].startswith("float64")
    return f"{row['iterations']} certified" if few else "certified"


def _exact(row: dict[str, Any]) -> bool:
    """Whether rounding has no say: another number of threads or processor gives the same digits."""
    whole = row["critical_kept"] == row["layers"]  # nothing collapses, up to the maximum
    return row["mode"] is None or whole or row["precision"].startswith("float64")


def _number(row: dict[str, Any], value: float) -> str:
    """To the digits that are sure: of sums over samples in float32, a processor decides the third.

    GraSP on VGG-16 read 733 on one and 732 on another.
    """
    if _exact(row):
        return cli.number(value)
    from collapse.scores import about

    digits = 2 if about(row["pruner"]).data == "labels" else 3
    return cli.number(float(f"{value:.{digits}g}"))


def _layer(row: dict[str, Any]) -> str:
    return (row["first_collapsed_layer"] or "").removesuffix(".weight")


def _branches(row: dict[str, Any]) -> str:
    """What a collapse in a branch means, with both numbers."""
    until, maximal = row["connected_until"], row["maximal_compression"]
    pruner = f"{row['pruner']}{' (certified)' if row['schedule'] == 'certified' else ''}"
    collapse = _number(row, row["collapse_compression"])
    if until is not None and until < row["collapse_compression"]:
        return (
            f"{pruner} cuts the network beyond {_number(row, until)}, before a layer is empty (the "
            f"branch '{_layer(row)}' at {collapse})"
        )
    start = f"{pruner} drops the branch '{_layer(row)}' at {collapse}"
    if until is None:
        return start
    whole = ", the maximum" * (until >= maximal)
    return f"{start} and stays connected to {_number(row, until)}{whole}"


def _notes(frame: pd.DataFrame) -> list[str]:
    rows = cli.rows_of(frame)
    notes = [_branches(row) for row in rows if row["collapsed_is_cut"] is False]
    if rough := ", ".join(dict.fromkeys(row["pruner"] for row in rows if not _exact(row))):
        notes.append(
            f"≈ {rough}: scored in float32, where the order of a sum (threads, processor) decides "
            "further digits"
        )
    if (~frame["monotone"].fillna(True)).any():
        notes.append(
            "* a layer also collapsed at this lower compression: for an iterative pruner collapse "
            "is not monotone in compression"
        )
    if tested := [row for row in rows if row["evidence"] == "search"]:
        high = max(row["bracket_high"] for row in tested)
        found = (
            _number(tested[0], tested[0]["bracket_low"])
            if len(tested) == 1
            else "each row's critical"
        )
        notes.append(
            f"search: tested, not proved: {found} is the largest compression that was seen to "
            f"leave no layer empty; beyond it nothing is ruled out up to {cli.number(high)}"
        )
    return notes
