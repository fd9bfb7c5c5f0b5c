"""``python -m analysis NAME``: one experiment of the paper's, as a tidy table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from analysis import experiments
from analysis.resumable import Resources
from collapse import cli, tables
from collapse.errors import RequestError, unknown
from collapse.options import Execution
from collapse.problem import choose_device

PRESETS = ("laptop", "paper", "smoke")


@dataclass(frozen=True)
class Output:
    """Where the table goes.

    Attributes:
        preset: what all other options are if they are not given: laptop (minutes on two cores, with
            embedded data), paper (the paper's own settings) or smoke (seconds, to try it).
        out: write the table (.parquet, .csv, .json); without it CSV goes to the output.
        so_far: only put together what earlier, interrupted calls have done.
    """

    preset: str = "laptop"
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    so_far: bool = False


def run(name: str, arguments: Sequence[str]) -> None:
    """Entry point."""
    cli.guarded(lambda: _main(name, list(arguments)))


def _main(name: str, arguments: list[str]) -> int:
    module = experiments.find(name)
    preset = _preset_of(arguments)
    if preset not in module.PRESETS:
        raise unknown("preset", preset, module.PRESETS)
    command: Any = make_dataclass(
        "Command",
        [
            ("experiment", module.Config),
            ("output", Output),
            ("execution", Execution, field(default_factory=Execution)),
        ],
        frozen=True,
    )
    command.__doc__ = module.Config.__doc__
    default = command(module.PRESETS[preset], Output(preset))
    request = cli.parse(command, arguments, f"python -m analysis {name}", default)
    out: Path | None = request.output.out
    tables.check_path(out)
    device = str(choose_device(request.experiment.setup.device))
    resources = Resources(request.execution, device=device, so_far=request.output.so_far)
    frame = module.run(request.experiment, resources)
    if out is None:
        print(frame.to_csv(index=False), end="")
    else:
        tables.write(frame, out, module.TABLE, device)
    missing = int((~frame["finished"].astype(bool)).sum())
    if out is not None:
        unfinished = f", {missing} points not finished" if missing else ""
        print(f"{len(frame):,} rows{unfinished}: {out}")
    return 1 if missing and not request.output.so_far else 0


def _preset_of(arguments: Sequence[str]) -> str:
    """The preset has to be known before the other options, whose defaults it gives."""
    for place, word in enumerate(arguments):
        if word.startswith("--preset="):
            return word.partition("=")[2]
        if word == "--preset":
            if place + 1 == len(arguments):
                raise RequestError(f"--preset: expected one of {', '.join(PRESETS)}, got nothing")
            return arguments[place + 1]
    return "laptop"
