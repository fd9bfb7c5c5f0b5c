"""What to type for each table of a report."""

from __future__ import annotations

import shlex
from dataclasses import fields

from analysis.experiments.shared import PRUNERS
from analysis.report.gather import Report


def commands(report: Report) -> dict[str, str]:
    """By part of the page; of experiments that take one seed, those of the first."""
    setup = report.setup
    words = ["--model", setup.model, "--dataset", setup.dataset]
    for option in fields(setup):
        value = getattr(setup, option.name)
        if option.name not in ("model", "dataset", "device") and value != option.default:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{option.name.replace('_', '-')}", *map(str, values)]
    network = " ".join(shlex.quote(word) for word in words)
    own = "" if report.pruners == PRUNERS else " --pruners " + shlex.join(report.pruners)
    first = report.seeds[0]
    seed = f" --seed {first}" if first else ""
    seeds = "" if report.seeds == (0,) else f" --seeds {' '.join(map(str, report.seeds))}"
    table = report.parts["densities"].table
    stops = [] if table is None else sorted(table["compression"].unique())
    listed = " ".join(repr(float(stop)) for stop in stops)
    return {
        "doctor": f"python -m collapse.doctor {_examined(report)}",
        "critical": f"python -m collapse.critical {network}{own}{seeds}",
        "densities": f"python -m analysis densities {network}{own}{seed} --mode train --living"
        + (f" --compressions {listed}" if listed else ""),
        "scores": f"python -m analysis layer-scores {network}{own}{seed} --mode train",
        "conservation": f"python -m collapse.conservation {network}{seed}",
    }


def _examined(report: Report) -> str:
    """The doctor takes the network and the shape of its input, and no data."""
    setup = report.setup
    words = ["--model", setup.model, "--input-shape", *map(str, report.input_shape)]
    if report.outputs is not None:
        words += ["--classes", str(report.outputs)]
    for option in ("init", "weights", "output"):
        value = getattr(setup, option)
        words += [] if value is None else [f"--{option}", value]
    words += ["--seed", str(report.seeds[0])] if report.seeds[0] else []
    return " ".join(shlex.quote(word) for word in words)
