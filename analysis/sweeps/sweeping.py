"""Do the runs of a sweep: in this process, or as Ray tasks. One failed run takes nothing down.

Several processes and machines may work on one sweep at once, on a shared folder of runs: each run
is locked by whoever works on it, and the others pass on to the next.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapse import runs, tables
from collapse.errors import RequestError, first_line
from collapse.options import Execution

if TYPE_CHECKING:
    from collapse.imp import State
    from collapse.runs import Experiment

tables.declare(
    "status",
    *tables.SETTINGS,
    *("compression", "levels", "epochs", "run", "state", "level", "epoch", "top1", "error"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        state: done, failed or busy (another process has it).
        message: why it failed.
    """

    experiment: Experiment
    state: str
    seconds: float
    message: str = ""


Report = Callable[[Outcome], None]


def distinct(experiments: Sequence[Experiment], runs: Path) -> dict[str, Experiment]:
    """The runs of a sweep by name; points that come to the same run count once.

    Raises:
        RequestError: data or weights that are not there, settings out of range.
    """
    found: dict[str, Experiment] = {}
    for experiment in experiments:
        found.setdefault(experiment.run(runs).name, experiment)
    return found


def work(
    experiment: Experiment,
    execution: Execution,
    *,
    wait: bool = False,
    retries: int = 0,
    time_limit: float | None = None,
    on_boundary: Callable[[State], None] | None = None,
) -> Outcome:
    """Do one run, whatever happens to it.

    Args:
        wait: for another process that has it.
        retries: after an error that is not the request's; each goes on from the last epoch.
        time_limit: seconds.
    """
    start = time.monotonic()

    def outcome(state: str, message: str = "") -> Outcome:
        return Outcome(experiment, state, time.monotonic() - start, message)

    while True:
        try:
            runs.perform(
                experiment, execution, on_boundary=on_boundary, wait=wait, time_limit=time_limit
            )
            return outcome("done")
        except runs.RunBusyError as error:
            return outcome("busy", str(error))
        except RequestError as error:
            run = experiment.run(execution.runs)
            if run.status()["state"] == "waiting":  # refused before it began: status shall say so
                run.fail(str(error))
            return outcome("failed", str(error))
        except Exception as error:  # whatever a model, a driver or a disk may raise
            if retries == 0:
                return outcome("failed", f"{type(error).__name__}: {first_line(error)}")
            retries -= 1


def here(
    experiments: Sequence[Experiment],
    execution: Execution,
    report: Report,
    *,
    on_boundary: Callable[[Experiment, State], None] | None = None,
    **options: Any,
) -> None:
    """One run after the other in this process; those that others have come last.

    Args:
        report: called with each outcome.
        on_boundary: called after each epoch.
        options: of ``work``.
    """
    busy: list[Experiment] = []
    for wait, part in ((False, experiments), (True, busy)):
        for experiment in part:

            def boundary(state: State, experiment: Experiment = experiment) -> None:
                if on_boundary is not None:
                    on_boundary(experiment, state)

            done = work(experiment, execution, wait=wait, on_boundary=boundary, **options)
            if done.state == "busy":
                busy.append(experiment)
            else:
                report(done)


def on_ray(
    experiments: Sequence[Experiment],
    execution: Execution,
    report: Report,
    *,
    address: str | None,
    cpus: float = 1,
    gpus: float = 0,
    retries: int = 3,
    time_limit: float | None = None,
) -> None:
    """The same as Ray tasks, on this machine or on a cluster that shares the folder of runs.

    A task whose worker or node dies is started again elsewhere, and goes on from its last epoch.

    Args:
        address: of a cluster; None starts Ray on this machine.
        cpus, gpus: for each run; gpus may be a fraction.
        retries: of tasks whose node or process died.

    Raises:
        RequestError: Ray is not installed, or there is no cluster at the address.
    """
    ray = _connect(address)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries)(work)
    execution = replace(execution, runs=execution.runs.resolve(), quiet=True)
    _check_resources(ray, cpus, gpus)

    def submit(experiment: Experiment, wait: bool) -> Any:
        return task.remote(experiment, execution, wait=wait, time_limit=time_limit)

    pending = {submit(experiment, False): experiment for experiment in experiments}
    start = time.monotonic()
    while pending:
        finished, _ = ray.wait(list(pending), num_returns=1)
        for reference in finished:
            experiment = pending.pop(reference)
            try:
                done = ray.get(reference)
            except ray.exceptions.RayError as error:
                seconds = time.monotonic() - start
                done = Outcome(experiment, "failed", seconds, f"Ray: {first_line(error)}")
            if done.state == "busy":  # a worker that is just dying, or another sweep's
                pending[submit(experiment, True)] = experiment
            else:
                report(done)


def _connect(address: str | None) -> Any:
    try:
        import ray
    except ImportError as error:
        raise RequestError(
            "--ray needs Ray: install the extra with `pip install layer-collapse[cluster]`"
        ) from error
    if ray.is_initialized():
        return ray
    _check_address(address)
    try:
        ray.init(
            address=address,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": _environment(os.environ)},
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RequestError(f"no Ray cluster at '{address}': {first_line(error)}") from error
    return ray


def _check_address(address: str | None) -> None:
    """Ray itself would try for minutes and then end the process."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise RequestError(f"no Ray cluster at '{address}': {first_line(error)}") from error


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a worker needs to find this code, the user's modules and the data."""
    paths = [str(Path.cwd()), str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]
    passed = {k: v for k, v in environment.items() if k.startswith("COLLAPSE_")}
    return passed | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _check_resources(ray: Any, cpus: float, gpus: float) -> None:
    """A task that no node can ever hold would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(n.get("CPU", 0) >= cpus and n.get("GPU", 0) >= gpus for n in nodes):
        most = max((n.get("CPU", 0), n.get("GPU", 0)) for n in nodes)
        raise RequestError(
            f"no node has {cpus:g} CPUs and {gpus:g} GPUs for a run: the largest has "
            f"{most[0]:g} and {most[1]:g} (--cpus-per-run, --gpus-per-run)"
        )


def line(outcome: Outcome, number: int, total: int, elapsed: float) -> str:
    """A finished run in one line, with an estimate of the time left."""
    experiment = outcome.experiment
    left = elapsed / number * (total - number)
    what = (
        f"{experiment.setup.model} {experiment.setup.dataset} {experiment.pruning.pruner} "
        f"x{experiment.compression:g} levels {experiment.rewinding.levels} seed "
        f"{experiment.pruning.seed}"
    )
    text = f"[{number}/{total}] {outcome.state} in {outcome.seconds:.0f} s: {what}"
    if outcome.message:
        text += f": {outcome.message}"
    return text + (f" (about {left:.0f} s left)" if number < total else "")


def say(text: str) -> None:
    """To stderr, at once."""
    print(text, file=sys.stderr, flush=True)
