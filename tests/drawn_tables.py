"""Small tables made by hand, one for each figure."""

from __future__ import annotations

import pandas as pd

from collapse import tables

SETTINGS = {
    "model": "net", "dataset": "digits", "input_shape": "3x32x32", "iterations": 1,
    "schedule": "exponential", "scope": "global", "mode": None, "seed": 0, "finished": True,
}  # fmt: skip


def table_of(name: str, rows: list[dict[str, object]]) -> pd.DataFrame:
    columns = [*tables.COLUMNS[name], "finished"]
    frame = pd.DataFrame([{**dict.fromkeys(columns), **SETTINGS, **row} for row in rows])
    return frame.infer_objects()


def accuracy_table(**changes: object) -> pd.DataFrame:
    rows: list[dict[str, object]] = [
        {
            "pruner": pruner, "seed": seed, "compression": c, "best_top1": top + seed, "levels": 0,
            "critical_compression": critical, "maximal_compression": 1000.0, **changes,
        }
        for pruner, critical in (("magnitude", 20.0), ("synflow", 1000.0))
        for seed in (0, 1, 2)
        for c, top in ((1.0, 90.0), (10.0, 80.0), (1000.0, 10.0))
    ]  # fmt: skip
    return table_of("accuracy", rows)


def layers_table(kept: dict[str, dict[float, tuple[int, ...]]]) -> pd.DataFrame:
    sizes = (100, 10_000)
    return table_of(
        "layers",
        [
            {
                "pruner": pruner, "compression": c, "layer": f"l{i}", "layer_index": i + 1,
                "parameters": sizes[i], "kept": k, "density": k / sizes[i],
                "score_sum": -3.0, "score_abs_sum": 50.0 * (i + 1), "score_mean": -3.0 / sizes[i],
            }
            for pruner, points in kept.items()
            for c, counts in points.items()
            for i, k in enumerate(counts)
        ],
    )  # fmt: skip


def dynamics_table() -> pd.DataFrame:
    return table_of(
        "score_dynamics",
        [
            {
                "pruner": "magnitude", "seed": seed, "level": 0, "epoch": epoch, "layer": f"l{i}",
                "layer_index": i + 1, "parameters": 10 ** (i + 2),
                "score_mean": 10.0 ** -(i * epoch / 9), "r": epoch / 9,
            }
            for seed in (0, 1)
            for epoch in range(10)
            for i in range(3)
        ],
    )  # fmt: skip


def neurons_table() -> pd.DataFrame:
    return table_of(
        "neurons",
        [
            {
                "pruner": pruner, "quantity": pruner, "place": place, "unit": unit,
                "score_in": -(unit + 1.0), "score_out": (unit + 1.0) * (1 if unit else 0),
            }
            for pruner in ("snip", "synflow")
            for place in ("a", "b")
            for unit in range(4)
        ],
    )  # fmt: skip


def cuts_table() -> pd.DataFrame:
    return table_of(
        "cuts",
        [
            {
                "pruner": "synflow", "schedule": schedule, "iterations": n, "steps": n,
                "compression": c, "max_prune_to_cut_ratio": c / n, "kept": 5, "collapsed_layers": 0,
            }
            for schedule in ("linear", "exponential")
            for c in (10.0, 100.0)
            for n in (1, 10)
        ]
        + [
            {
                "pruner": "synflow", "schedule": "certified", "iterations": 100, "steps": 7,
                "compression": 10.0, "max_prune_to_cut_ratio": 0.99, "kept": 5,
                "collapsed_layers": 0,
            }
        ],
    )  # fmt: skip


TABLES = {
    "accuracy": accuracy_table(),
    "densities": layers_table({"snip": {1.0: (100, 10_000), 4.0: (25, 2500)}}),
    "neurons": neurons_table(),
    "layer-scores": layers_table({"snip": {1.0: (100, 10_000)}}),
    "levels": accuracy_table(levels=1).query("pruner == 'magnitude'"),
    "dynamics": dynamics_table(),
    "grid": accuracy_table(),
    "cuts": cuts_table(),
}
