"""Tidy tables on disk: one observation a row, and where the numbers came from in the file.

parquet, CSV or JSON by the suffix. Every file carries the table's name and schema version, the
versions of the packages, the device and the command line: parquet in its schema metadata (key
``collapse``), JSON beside the rows, CSV in one leading comment line that starts with ``#``.

pandas is imported where a frame is made: it takes almost half as long as torch, and the work of a
command begins without it.
"""

from __future__ import annotations

import io
import json
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapse.errors import RequestError, first_line, unknown
from collapse.files import TABLE_SUFFIXES, atomic, check_writable

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
# What every row begins with, where it applies.
SETTINGS = (
    *("model", "dataset", "input_shape", "pruner", "iterations", "schedule", "scope", "mode"),
    "seed",
)
# The tables that the engine itself writes; who makes others declares them.
COLUMNS: dict[str, tuple[str, ...]] = {
    "critical": (
        *SETTINGS,
        *("parameters", "layers", "maximal_compression", "critical_compression", "critical_kept"),
        *("collapse_compression", "monotone", "first_collapsed_layer", "connected_until"),
        *("collapsed_is_cut", "effective_critical_compression", "certified", "evaluations"),
        "seconds",
    ),
    "layers": (
        *SETTINGS,
        *("compression", "layer", "layer_index", "parameters", "kept", "density"),
        *("effective_kept", "score_sum", "score_mean", "score_abs_sum"),
    ),
    "conservation": (
        *SETTINGS,
        *("identity", "place", "lhs", "rhs", "residual"),
    ),
    "training": (
        *SETTINGS,
        *("compression", "level", "epoch", "split", "loss", "top1", "top5", "seconds"),
    ),
    "score_dynamics": (
        *SETTINGS,
        *("level", "epoch", "layer", "layer_index", "parameters", "score_mean", "score_sum"),
        *("slope", "r"),
    ),
    "conserved_quantity": (
        *SETTINGS,
        *("level", "epoch", "place", "unit", "value", "expected", "drift", "predicted"),
    ),
    "levels": (
        *SETTINGS,
        *("level", "compression", "kept", "collapsed_layers", "first_collapsed_layer"),
        *("critical_compression", "top1", "best_top1", "loss"),
    ),
    "trace": (
        *SETTINGS,
        *("iteration", "kept_total", "density_total", "pruned_mass", "cut", "prune_to_cut_ratio"),
        *("exponent", "precision", "layer", "layer_index", "parameters", "kept"),
    ),
}
# What numbers lie between, in whatever table; empty cells are allowed.
_RATIO, _COUNT, _PERCENT = (1.0, float("inf")), (0.0, float("inf")), (0.0, 100.0)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("compression", "maximal_compression", "critical_compression"), _RATIO),
    **dict.fromkeys(("collapse_compression", "effective_critical_compression"), _RATIO),
    **dict.fromkeys(("seed", "layer_index", "parameters", "kept", "effective_kept"), _COUNT),
    **dict.fromkeys(("iterations", "epochs", "epoch", "level", "levels"), _COUNT),
    **dict.fromkeys(("train_images", "elements", "score_abs_sum", "peak_bytes"), _COUNT),
    **dict.fromkeys(("max_prune_to_cut_ratio", "loss", "seconds"), (float("-inf"), float("inf"))),
    **dict.fromkeys(("top1", "top5", "best_top1"), _PERCENT),
    "density": (0.0, 1.0),
}
_WORDS = ("model", "dataset", "pruner")
_PACKAGES = ("layer-collapse", "torch", "torchvision", "numpy", "pandas", "pyarrow")


def declare(table: str, *columns: str) -> str:
    """Add a table of one's own to ``COLUMNS``, where it is made: ``TABLE = declare("cuts", ...)``.

    Returns:
        Its name.

    Raises:
        ValueError: there is a table of this name with other columns.
    """
    if COLUMNS.setdefault(table, columns) != columns:
        raise ValueError(
            f"table '{table}': expected the columns {', '.join(COLUMNS[table])}, as it was "
            f"declared before; got {', '.join(columns)}"
        )
    return table


def provenance(table: str, device: str) -> dict[str, Any]:
    """Where a table's numbers came from, as JSON-serialisable values."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            versions[package] = "not installed"
    return {
        "table": table,
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([_program(), *sys.argv[1:]]),
        "device": device,
        "versions": versions,
    }


def _program() -> str:
    """What was typed before the options: ``python -m MODULE``, or a script's name."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return Path(sys.argv[0]).name
    return f"python -m {spec.name.removesuffix('.__main__')}"


def write(frame: pd.DataFrame, path: Path, table: str, device: str = "cpu") -> None:
    """Write a table whole or not at all.

    Args:
        table: a name in ``COLUMNS``; the frame must have all its columns and may have more.

    Raises:
        RequestError: a column is missing, the suffix is unknown, or the file cannot be written.
    """
    check_writable(path, TABLE_SUFFIXES)
    if table not in COLUMNS:
        raise unknown("table", table, COLUMNS)
    missing = [column for column in COLUMNS[table] if column not in frame.columns]
    if missing:
        raise RequestError(f"table '{table}' lacks the columns {', '.join(missing)}")
    metadata = json.dumps({**provenance(table, device), "rows": len(frame)})
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            arrow = pa.Table.from_pandas(frame, preserve_index=False)
            pq.write_table(
                arrow.replace_schema_metadata(
                    {**(arrow.schema.metadata or {}), b"collapse": metadata.encode()}
                ),
                temporary,
                write_page_checksum=True,
            )
        elif path.suffix == ".csv":
            temporary.write_text(f"# {metadata}\n{frame.to_csv(index=False)}")
        else:
            # pandas' own writer keeps ten decimals, which is nothing of a small number.
            exact = frame.astype(object).where(frame.notna(), None).to_dict("records")
            rows = json.loads(json.dumps(exact, default=_plain))
            temporary.write_text(json.dumps({"collapse": json.loads(metadata), "rows": rows}))


def _plain(value: Any) -> Any:
    """A NumPy scalar as Python's own."""
    return value.item()


def layer_rows(
    sizes: Mapping[str, int],
    kept: Mapping[str, int],
    alive: Mapping[str, int] | None,
    sums: Mapping[str, tuple[float, float]],
) -> list[dict[str, Any]]:
    """Rows of a ``layers`` table for one mask, without its settings.

    Args:
        sizes, kept, alive: parameters, those kept, and those on a path, by layer.
        sums: sum and sum of absolute values of each layer's scores; empty if nothing was scored.
    """
    total = sum(kept.values())
    rows = []
    for index, (layer, parameters) in enumerate(sizes.items(), start=1):
        score_sum, score_abs_sum = sums.get(layer, (None, None))
        rows.append(
            {
                "compression": sum(sizes.values()) / total if total else None,
                "layer": layer,
                "layer_index": index,
                "parameters": parameters,
                "kept": kept[layer],
                "density": kept[layer] / parameters,
                "effective_kept": None if alive is None else alive[layer],
                "score_sum": score_sum,
                "score_mean": None if score_sum is None else score_sum / parameters,
                "score_abs_sum": score_abs_sum,
            }
        )
    return rows


def read(path: Path, table: str) -> tuple[pd.DataFrame, Mapping[str, Any]]:
    """Read a table and its provenance.

    Columns are checked of tables that this process knows; a figure checks those that it draws.

    Raises:
        RequestError: missing, truncated or foreign file, another table or schema version, a
            missing column.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            arrow = pq.read_table(path, page_checksum_verification=True)
            metadata = json.loads((arrow.schema.metadata or {}).get(b"collapse", b"{}"))
            frame = arrow.to_pandas()
        elif path.suffix == ".csv":
            head, _, rows = path.read_text().partition("\n")
            metadata = json.loads(head.removeprefix("#")) if head.startswith("#") else {}
            frame = pd.read_csv(io.StringIO(rows if metadata else f"{head}\n{rows}"))
        elif path.suffix == ".json":
            content = json.loads(path.read_text())
            metadata, frame = content["collapse"], pd.DataFrame(content["rows"])
        else:
            raise RequestError(f"'{path}': expected a suffix of {', '.join(TABLE_SUFFIXES)}")
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"table '{path}' cannot be read: {first_line(error)}") from error
    if not isinstance(metadata, dict):
        raise RequestError(f"'{path}': expected a table of ours, got one without its description")
    found = metadata.get("table"), metadata.get("schema_version")
    if found != (table, SCHEMA_VERSION):
        raise RequestError(
            f"'{path}': expected table '{table}' of schema version {SCHEMA_VERSION}, "
            f"got '{found[0]}' of {found[1]}"
        )
    for column in COLUMNS.get(table, ()):
        if column not in frame.columns:
            raise RequestError(f"'{path}': table '{table}' lacks the column '{column}'")
    if len(frame) != metadata.get("rows", len(frame)):
        raise RequestError(
            f"'{path}': expected {metadata['rows']:,} rows, got {len(frame):,}: was it cut?"
        )
    _check_values(path, frame)
    return frame, metadata


def _check_values(path: Path, frame: pd.DataFrame) -> None:
    """Raise RequestError for words where numbers are meant, numbers out of range, and no words."""
    import pandas as pd

    for column in frame.columns:
        there = frame[column].dropna()
        if column in RANGES:
            (low, high), values = RANGES[column], pd.to_numeric(there, errors="coerce")
            wrong = values.isna() | (values < low) | (values > high)
            expected = f"numbers from {low:g} " + ("up" if high == float("inf") else f"to {high:g}")
            if low == float("-inf"):
                expected = "numbers"
        elif column in _WORDS:
            wrong, expected = ~there.map(lambda x: isinstance(x, str)).astype(bool), "names"
        elif column == "finished":
            there = frame[column]
            wrong = ~there.astype(str).str.lower().isin(["true", "false"])
            expected = "true or false"
        else:
            continue
        if wrong.any():
            got = there[wrong].iloc[0]
            raise RequestError(f"'{path}', column '{column}': expected {expected}, got '{got}'")
