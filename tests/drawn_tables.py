"""Small tables made by hand, for each figure; of a figure without one, that of its smoke preset."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis import experiments
from analysis.resumable import Resources
from collapse import tables
from collapse.options import Execution

for _name in (*experiments.EXPERIMENTS, *experiments.QUESTIONS, *experiments.FURTHER):
    experiments.find(_name)  # it declares its table

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
                "score_mean": 10.0 ** -(i * epoch / 9), "slope": epoch / 9, "r": epoch / 9,
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


def outcomes_table(**by: object) -> pd.DataFrame:
    """Two layers of 100 and 900; accuracy 50 + seed, less 10 a compression of 10, less the rest.

    Args:
        by: values of one further column, each with what it takes from the accuracy.
    """
    ((column, costs),) = by.items() if by else (("control", {None: 0.0}),)
    assert isinstance(costs, dict)
    rows: list[dict[str, object]] = []
    for pruner in ("magnitude", "synflow"):
        for value, cost in costs.items():
            for c, kept in ((1.0, (100, 900)), (10.0, (40, 60)), (100.0, (0, 10))):
                for seed in (0, 1, 2):
                    rows += [
                        {
                            "weights": "random", "levels": 0, "epochs": 1, "train_images": 10,
                            "pruner": pruner, "seed": seed, "compression": c, "layer": f"l{i}",
                            "layer_index": i + 1, "parameters": (100, 900)[i], "kept": kept[i],
                            "density": kept[i] / (100, 900)[i],
                            "effective_kept": kept[i] // (2 if pruner == "magnitude" else 1),
                            "critical_compression": 20.0 * 10**seed, "best_top1":
                            50.0 + seed - c / 10 - cost, "run": f"{pruner}{value}{c}{seed}",
                            column: value,
                        }
                        for i in (0, 1)
                    ]  # fmt: skip
    return table_of("outcomes", rows)


def trained_table() -> pd.DataFrame:
    """Prunings alone beside trainings."""
    table = outcomes_table(weights={"random": 0.0, "trained": -3.0}).query("compression > 1")
    alone = table.query("compression == 100").assign(best_top1=None, run=None, epochs=0)
    return pd.concat([table, alone], ignore_index=True).infer_objects()


def iterations_table() -> pd.DataFrame:
    return table_of(
        "iterations",
        [
            {
                "pruner": pruner, "seed": seed, "iterations": n, "compression": 10.0,
                "maximal_compression": 500.0, "critical_compression": n * 10.0**seed,
                "collapse_compression": 2.0, "monotone": pruner == "magnitude", "layer": f"l{i}",
                "layer_index": i + 1, "parameters": 100, "kept": 10 * i, "density": 0.1 * i,
            }
            for pruner in ("magnitude", "synflow")
            for n in (1, 100)
            for seed in (0, 1, 2)
            for i in (0, 1)
        ],
    )  # fmt: skip


def costs_table() -> pd.DataFrame:
    return table_of(
        "costs",
        [
            {
                "pruner": pruner, "compression": 100.0, "parameters": 1000, "samples": 100,
                "seconds": 2.0, "flops": flops, "peak_bytes": 2.0**20, "epoch_images": 1000,
                "epoch_seconds": 8.0, "epoch_flops": 4e9,
            }
            for pruner, flops in (("magnitude", 0), ("snip", 1e9))
        ],
    )  # fmt: skip


def tickets_table() -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    for seed in (0, 1, 2):
        imp = {"other": "imp", "other_seed": seed, "other_best_top1": 60.0 + seed}
        rows.append({"pruner": "snip", "seed": seed, "beyond_chance": 0.5, **imp})
        for later in range(seed + 1, 3):
            other = {"other_seed": later, "other_best_top1": 40.0 + later, "beyond_chance": 0.0}
            rows.append({"pruner": "snip", "seed": seed, "other": "snip", **other})
    common = {"compression": 10.0, "levels": 0, "density_distance": 0.25, "overlap": 0.6}
    return table_of(
        "tickets",
        [{**common, **row, "best_top1": 40.0 + row["seed"], "run": str(row)} for row in rows],  # type: ignore[operator]  # numbers
    )


def dead_inputs_table() -> pd.DataFrame:
    return table_of(
        "dead_inputs",
        [
            {
                "pruner": pruner, "seed": seed, "compression": 10.0, "parameters": 1000,
                "dead_parameters": 750, "kept": 100, "dead_kept": dead, "best_top1": 50.0 + seed,
            }
            for pruner, dead in (("snip", 0), ("synflow", 75))
            for seed in (0, 1, 2)
        ],
    )  # fmt: skip


def features_table(layers: Sequence[int] = (1,), sides: Sequence[str] = ("out",)) -> pd.DataFrame:
    return table_of(
        "features",
        [
            {
                "pruner": pruner, "seed": seed, "compression": 10.0, "width": width, "kept": 50,
                "layer": f"{layer}.weight", "layer_index": layer, "side": side,
                "excess": excess * layer + 0.01 * seed,
            }
            for pruner, excess in (("magnitude", 0.0), ("snip", 0.5))
            for width in (64, 256)
            for layer in layers
            for side in sides
            for seed in (0, 1, 2)
        ],
    )  # fmt: skip


def proxy_table() -> pd.DataFrame:
    return table_of(
        "proxy",
        [
            {
                "model": f"torchvision:net{size}", "pruner": "synflow", "seed": seed, "layers": 9,
                "layer_norms": int(size > 8),
                "parameters": 1000 * 2**size, "log10_R": size + 5.0 * size % 7 + 0.1 * seed,
                "log10_score_sum": 1 + size * 4.0 % 9, "published_top1": 60.0 + size,
            }
            for size in range(12)
            for seed in (0, 1)
        ],
    )  # fmt: skip


class _Tables(dict[str, pd.DataFrame]):
    def __missing__(self, name: str) -> pd.DataFrame:
        module = experiments.find(name)
        with tempfile.TemporaryDirectory() as runs:
            resources = Resources(Execution(Path(runs), quiet=True))
            self[name] = module.run(module.PRESETS["smoke"], resources)
        return self[name]


TABLES = _Tables(
    {
        "accuracy": accuracy_table(),
        "densities": layers_table({"snip": {1.0: (100, 10_000), 4.0: (25, 2500)}}),
        "neurons": neurons_table(),
        "layer-scores": layers_table({"snip": {1.0: (100, 10_000)}}),
        "levels": accuracy_table(levels=1).query("pruner == 'magnitude'"),
        "dynamics": dynamics_table(),
        "grid": accuracy_table(),
        "cuts": cuts_table(),
        "iterations": iterations_table(),
        "mode": outcomes_table(mode={"train": 5.0, "eval": 0.0, "warm": 1.0}),
        "cost": costs_table(),
        "tickets": tickets_table(),
        "low-compression": outcomes_table(),
        "trained": trained_table(),
        "dead-inputs": dead_inputs_table(),
        "sanity": outcomes_table(control={None: 0.0, "shuffled": 2.0, "inverted": 20.0}),
        "effective": outcomes_table(),
        "proxy": proxy_table(),
        "features": features_table(),
    }
)
