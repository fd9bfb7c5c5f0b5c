"""``python -m collapse.critical``: critical compression of several pruners on one network."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from collapse import cli, plots
from collapse.errors import RequestError
from collapse.options import (
    PAPER_PRUNERS,
    PAPERS,
    TOLERANCE,
    Count,
    File,
    Mode,
    Pruning,
    ScheduleName,
    Scope,
    Scoring,
    Setup,
    check_allocation,
    check_iterations,
    check_once,
    check_pruners,
    check_seed,
    shown,
)
from collapse.processes import Update, jobs_of, shared_out

if TYPE_CHECKING:
    from collapse.critical import Answer, Critical, Family, Opened, Task, Trial
    from collapse.problem import Problem


@dataclass(frozen=True)
class Config(Scoring):
    """How far can each pruner go before a layer collapses?

    Without further options: all five pruners in the paper's settings, and SynFlow with the
    certified schedule as a sixth row.

    Attributes:
        pruners: random, magnitude, snip, grasp, synflow, any other of docs/pruners.md, or
            package.module:function.
        iterations: of every pruner; its paper's without it (synflow 100, snip 1).
        schedule: linear, exponential or certified (synflow).
        scope: rank all parameters together (global), or each layer by itself.
        allocation: of every pruner, how many weights each layer keeps: uniform, uniform+, er, erk,
            igq, smart-ratio, or like:PRUNER.
        mode: in which scores that follow data are computed; their papers' without it (snip and
            grasp train). warm is eval with BatchNorm statistics of the scoring batches.
        scan: further compressions tested for a collapse of an iterative pruner.
        tolerance: end an iterative pruner's search where the boundary is known to within this
            share of the compression; it is exact below 10,000 kept parameters, and with 0.
        seeds: of initialisation, samples and random scores; one set of rows each.
        effective: also find the effective critical compression (dead weights not counted).
        jobs: processes that rows, and the prunings of a search, are shared out to; each of them
            holds the network.
        out: write the table (.parquet, .csv, .json).
        layers: write the per-layer densities around the collapse (.parquet, .csv, .json).
        plot: draw compression bars with the maximum as a dashed line (.pdf, .svg, .png).
    """

    setup: Setup
    pruners: tuple[str, ...] = PAPER_PRUNERS
    iterations: Count = None
    schedule: Annotated[
        ScheduleName | None,
        shown("linear|exponential|certified", "exponential, and a certified row for synflow"),
    ] = None
    scope: Scope = "global"
    allocation: Annotated[str | None, shown("NAME", "none, as --scope says")] = None
    mode: Annotated[Mode | None, shown("train|eval|warm", PAPERS)] = None
    scan: int = 8
    tolerance: float = TOLERANCE
    seeds: tuple[int, ...] = (0,)
    effective: bool = True
    jobs: Annotated[int | None, shown("N", "2 where it pays, 1 on a GPU")] = None
    out: File = None
    layers: File = None
    plot: File = None


def main(config: Config) -> None:
    """Run the request: table to stdout, files where asked for."""
    config.setup.check()
    plans = _plans(config)
    outputs = cli.Outputs(critical=config.out, layers=config.layers, plot=config.plot)

    from collapse.critical import check_search, error_of, frame_of, print_table
    from collapse.problem import check_loss, check_mode

    check_search(config.scan, config.tolerance)
    pruners = _load(config)
    check_mode(config.mode, *pruners)
    check_loss(config.loss, *pruners)
    plans = [replace(plan, seed=seed) for seed in config.seeds for plan in plans]
    answers = _answers(config, plans)
    failed = {plan: error for plan in plans if (error := error_of(plan, answers)) is not None}
    found = [_row(config, plan, answers) for plan in plans if plan not in failed]
    if not found:
        raise RequestError(failed[plans[0]])
    notes = list(dict.fromkeys(note for row in found for note in row[2]))
    if config.schedule is None:  # nobody asked for the certified row
        extra = [plan for plan in failed if plan.schedule == _EXTRA.schedule]
        notes += [f"no row for the certified schedule: {failed.pop(plan)}" for plan in extra]

    import pandas as pd

    device = str(_problem(config, config.seeds[0]).device)
    frame = frame_of([row for row, _, _ in found])
    outputs.write("critical", frame, device)
    outputs.write("layers", pd.DataFrame([row for _, rows, _ in found for row in rows]), device)
    outputs.hand("plot", lambda path: plots.save(plots.critical_bars(frame), path))
    print_table(frame, notes)
    if failed:
        without = ", ".join(dict.fromkeys(plan.pruner for plan in failed))
        errors = "; ".join(dict.fromkeys(failed.values()))
        raise RequestError(f"no row for {without}: {errors}")


def _answers(config: Config, plans: Sequence[Pruning]) -> dict[Task, Answer]:
    """What every row's tasks found, shared out to processes, the longest row first."""
    from collapse.critical import Rows, expected, is_searched, one_pass

    _problem.cache_clear()
    _family.cache_clear()
    problem = _problem(config, config.seeds[0])
    costs = {plan: expected(problem, plan, config.scan) for plan in plans}
    a_pass = one_pass(problem)
    seconds = {plan: cost * a_pass for plan, cost in costs.items()}
    jobs = jobs_of(config.jobs, str(problem.device), sum(seconds.values()))
    if not any(map(is_searched, plans)):
        jobs = min(jobs, len(plans))
    if not config.quiet:
        _announce(seconds, jobs)
    order = sorted(plans, key=lambda plan: -costs[plan]) if jobs > 1 else plans
    agenda = Rows({plan: costs[plan] for plan in order}, config.scan)
    with cli.progress(1, config.quiet) as update:
        return shared_out(partial(_done, config), agenda, jobs, update)


def _announce(seconds: Mapping[Pruning, float], jobs: int) -> None:
    """Before a long wait: how long, and for what."""
    whole = sum(seconds.values()) / jobs
    if whole < 60:
        return
    longest = sorted(seconds, key=lambda plan: -seconds[plan])[:3]
    parts = ", ".join(
        f"{plan.pruner}{' certified' * (plan.schedule == 'certified')} "
        f"{cli.duration(seconds[plan])}"
        for plan in longest
    )
    print(
        f"about {cli.duration(whole)} ahead ({parts}), more where the collapse of an iterative "
        "pruner has to be searched for; what to leave out: docs/how-to/slow.md",
        file=sys.stderr,
    )


# The row that nobody asked for: where the network does not take it, that is a note.
_EXTRA = Pruning(pruner="synflow", schedule="certified")


def _load(config: Config) -> tuple[str, ...]:
    """Who scores, and whose densities are copied: a user's own are registered, in each process."""
    from collapse.scores import load_pruner

    names = (name for plan in _plans(config) for name in plan.pruners)
    return tuple(map(load_pruner, dict.fromkeys(names)))


@functools.lru_cache(maxsize=3)  # a network each
def _problem(config: Config, seed: int) -> Problem:
    """The network of a seed and its batches, for all rows of it that this process does."""
    from collapse.problem import prepare
    from collapse.scores import needs_labels

    labelled = any(map(needs_labels, _load(config)))
    return prepare(config.setup, seed, labelled=labelled, loss=config.loss)


@functools.lru_cache(maxsize=1)  # its prunings share the scores of the dense network
def _family(config: Config, plan: Pruning) -> Family:
    from collapse.critical import Family

    return Family(_problem(config, plan.seed), plan, config.effective)


def _done(config: Config, task: Task, watch: Update) -> Answer:
    """A row, the beginning of its search, or one of its prunings."""
    from collapse.critical import Answer, Opened, critical_compression, is_searched, trial

    plan, keep = task
    start = time.perf_counter()

    def told(text: str, share: float) -> None:
        watch(f"{plan.pruner}: {text}", share)

    told("scoring", 0.0)
    found: Critical | str | Opened | Trial
    try:
        if is_searched(plan):
            family = replace(_family(config, plan), watch=told)
            if keep is None:
                found = Opened.of(family, config.scan, config.tolerance)
            else:
                found = trial(family, keep)
        else:
            _family.cache_clear()  # the scores of a search before
            problem = _problem(config, plan.seed)
            found = critical_compression(
                problem, options=plan, effective=config.effective, watch=told
            )
    except RequestError as error:  # the other rows still stand
        found = str(error)
    return Answer(found, time.perf_counter() - start)


def _row(
    config: Config, plan: Pruning, answers: Mapping[Task, Answer]
) -> tuple[dict[str, Any], list[dict[str, Any]], tuple[str, ...]]:
    """One row of the table, its rows of the layers' table, and what there is to say of it."""
    from collapse.critical import row_of, rows_of

    family = _family(config, plan)
    found, seconds = row_of(family, answers)
    return *rows_of(config.setup, family.problem, plan, found, seconds), found.notes


def _plans(config: Config) -> list[Pruning]:
    """One row each: pruner and schedule."""
    if not config.pruners:
        raise RequestError(
            f"--pruners: expected at least one of {', '.join(PAPER_PRUNERS)}, got none"
        )
    if not config.seeds:
        raise RequestError("--seeds: expected at least one, got none")
    check_pruners(*config.pruners)
    check_once("--seeds", config.seeds)
    for seed in config.seeds:
        check_seed(seed, "--seeds")
    check_iterations(config.iterations, config.schedule)
    plans = [
        Pruning(
            pruner=pruner,
            iterations=config.iterations,
            schedule=config.schedule or "exponential",
            scope=config.scope,
            mode=config.mode,
            allocation=config.allocation,
        )
        for pruner in config.pruners
    ]
    if config.allocation is not None:
        check_allocation(config.allocation)
    if config.schedule is None and "synflow" in config.pruners and plans[0].ranks == "global":
        plans.append(_EXTRA)
    if config.schedule == "certified":
        # The other scores are not conserved: their rows keep the paper's schedule.
        if "synflow" not in config.pruners:
            raise RequestError(
                "--schedule certified needs positive, conserved scores: expected synflow among "
                f"--pruners, got {', '.join(config.pruners)}"
            )
        plans = [
            plan if plan.pruner == "synflow" else replace(plan, schedule="exponential")
            for plan in plans
        ]
    return plans


run = partial(cli.run, Config, main, prog="python -m collapse.critical")
