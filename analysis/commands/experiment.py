"""``python -m analysis NAME``: one experiment of the paper's, as a tidy table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Any, NoReturn

from analysis import experiments
from analysis.processes import PRESETS
from collapse import cli
from collapse.errors import RequestError, unknown
from collapse.options import Execution, File, check_once, check_pruners, check_seed


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
    out: File = None
    so_far: bool = False


def run(name: str, arguments: Sequence[str]) -> NoReturn:
    """Entry point."""
    cli.guarded(lambda: _main(name, list(arguments)))


def _main(name: str, arguments: list[str]) -> int:
    if "--version" in arguments:
        cli.print_version()
    preset = _preset_of(arguments)
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    module = experiments.find(name)
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
    out = request.output.out
    outputs = cli.Outputs(**{module.TABLE: out})
    check_names(request.experiment)

    from analysis.resumable import Resources
    from collapse.problem import choose_device

    device = str(choose_device(request.experiment.setup.device))
    resources = Resources(request.execution, device=device, so_far=request.output.so_far)
    frame = module.run(request.experiment, resources)
    missing = int((~frame["finished"].astype(bool)).sum())
    if out is None:
        print(frame.to_csv(index=False), end="")
    else:
        outputs.write(module.TABLE, frame, device)
        unfinished = f", {missing} points not finished" if missing else ""
        print(f"{len(frame):,} rows{unfinished}: {out}")
    return 1 if missing and not request.output.so_far else 0


def check_names(config: Any) -> None:
    """Whether networks, data and pruners can be meant, before torch is imported to look at them.

    Raises:
        RequestError: an unknown name (the nearest are given), a value that is given twice, a seed
            that is none.
    """
    setup = config.setup
    for name in ("models", "datasets", "pruners", "compressions", "seeds"):
        check_once(f"--{name}", tuple(getattr(config, name, None) or ()))
    for seed in getattr(config, "seeds", None) or ():
        check_seed(seed, "--seeds")
    if hasattr(config, "seed"):
        check_seed(config.seed)
    for model in [setup.model] if setup.model else getattr(config, "models", ()):
        for dataset in [setup.dataset] if setup.dataset else getattr(config, "datasets", ()):
            replace(setup, model=model, dataset=dataset).check()
    pruners = [config.pruner] if hasattr(config, "pruner") else getattr(config, "pruners", ())
    check_pruners(*pruners)


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
