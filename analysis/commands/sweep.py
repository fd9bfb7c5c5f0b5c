"""``python -m analysis sweep SPEC.toml``: run a grid, one run after the other or on Ray."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import tyro

from collapse import cli
from collapse.errors import RequestError
from collapse.options import Execution, Machine, shown

if TYPE_CHECKING:
    from analysis.sweeps import sweeping
    from collapse.imp import State
    from collapse.runs import Experiment


@dataclass(frozen=True)
class Config(Machine):
    """Run every point of a grid; what is done is not repeated, what was interrupted goes on.

    Attributes:
        spec: a TOML file; every option of collapse.train and collapse.imp, one value or a list.
        shard: i/n does every n-th run from the i-th on, for batch schedulers; i from 1.
        ray: run as Ray tasks: on this machine (--ray alone), or on a cluster (--ray ADDRESS).
        cpus_per_run: on Ray.
        gpus_per_run: on Ray; a fraction puts several runs on one GPU.
        retries: of a run whose process died or that failed unexpectedly.
        time_limit: seconds a run; it keeps its state, and goes on when the sweep is run again.
    """

    spec: tyro.conf.Positional[Path]
    execution: Execution
    shard: Annotated[str | None, shown("I/N", "all of them")] = None
    ray: Annotated[str | None, shown("[ADDRESS]", "no Ray")] = None
    cpus_per_run: float = 1
    gpus_per_run: float = 0
    retries: int = 3
    time_limit: Annotated[float | None, shown("SECONDS", "none")] = None


_HERE = "here"  # the address that --ray alone stands for


def main(config: Config) -> int:
    """Run the request; the exit code is 1 if a run failed."""
    _check(config)

    from analysis.sweeps import spec, sweeping
    from analysis.sweeps.overview import overview, show

    root = None if config.data_root is None else config.data_root.resolve()
    experiments = spec.read(config.spec, device=config.device, data_root=root)
    named = sweeping.distinct(experiments, config.execution.runs)
    runs = _shard(list(named.values()), config.shard)
    quiet = config.execution.quiet
    start, finished, failed = time.monotonic(), 0, 0
    epochs, behind = sum(run.epochs() for run in runs), 0
    with cli.progress(epochs, quiet) as update:

        def boundary(experiment: Experiment, state: State) -> None:
            done = sum(row["split"] == "train" for row in state.rows["training"])
            update(f"run {finished + 1} of {len(runs)}, level {state.level}", behind + done)

        def report(outcome: sweeping.Outcome) -> None:
            nonlocal finished, failed, behind
            finished += 1
            failed += outcome.state == "failed"
            behind += outcome.experiment.epochs()
            update(f"{finished} of {len(runs)} runs", behind)
            if not quiet and (outcome.state == "failed" or not sys.stderr.isatty()):
                elapsed = time.monotonic() - start
                sweeping.say(sweeping.line(outcome, finished, len(runs), elapsed))

        if config.ray is None:
            sweeping.here(
                runs,
                config.execution,
                report,
                on_boundary=boundary,
                retries=config.retries,
                time_limit=config.time_limit,
            )
        else:
            sweeping.on_ray(
                runs,
                config.execution,
                report,
                address=None if config.ray == _HERE else config.ray,
                cpus=config.cpus_per_run,
                gpus=config.gpus_per_run,
                retries=config.retries,
                time_limit=config.time_limit,
            )
    show(overview(runs, config.execution.runs))
    return 1 if failed else 0


def _check(config: Config) -> None:
    config.execution.check()
    if config.retries < 0:
        raise RequestError(f"--retries: expected 0 or more, got {config.retries}")
    if config.time_limit is not None and not 0 < config.time_limit < 1e9:
        raise RequestError(f"--time-limit: expected seconds above 0, got {config.time_limit}")
    if not (0 < config.cpus_per_run < 1e6 and 0 <= config.gpus_per_run < 1e6):
        raise RequestError(
            f"expected --cpus-per-run above 0 and --gpus-per-run 0 or more, got "
            f"{config.cpus_per_run} and {config.gpus_per_run}"
        )


def _shard(runs: list[Experiment], shard: str | None) -> list[Experiment]:
    if shard is None:
        return runs
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise RequestError(f"--shard: expected i/n with i from 1 to n, got '{shard}'")
    return runs[int(found[1]) - 1 :: int(found[2])]


def run(
    arguments: Sequence[str] | None = None, *, prog: str = "python -m analysis sweep"
) -> NoReturn:
    """Entry point."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--ray" in words:  # its value may be left out
        place = words.index("--ray") + 1
        if place == len(words) or words[place].startswith("--") or words[place].endswith(".toml"):
            words.insert(place, _HERE)
    cli.run(Config, main, words, prog=prog)
