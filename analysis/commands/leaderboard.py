"""``python -m analysis leaderboard``: every pruner at initialisation, on one sortable page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from collapse import cli, plots
from collapse.errors import RequestError
from collapse.files import atomic, check_writable
from collapse.options import DataRoot, Execution, File, Quiet, Runs, check_pruners, shown


@dataclass(frozen=True, kw_only=True)
class Config(Runs, Quiet):
    """Compare every registered pruner, and yours, on five kinds of networks.

    What is done is kept under --runs: the same command goes on after an interruption, and a pruner
    more costs its own rows only. A pruner that fails says so in its row.

    Attributes:
        pruners: only these; without it every pruner of the toolkit's.
        add: more beside them: package.module:function.
        preset: laptop (networks an eighth as wide, minutes on two cores), full (whole ones on
            CIFAR-10, hours), or smoke (seconds, to try it).
        data_root: where the data lies, for full.
        jobs: processes that cells and trainings are shared out to.
        out: the page (.html).
        table: write the table (.parquet, .csv, .json).
        plot: draw critical compressions as shares of the maximum (.pdf, .svg, .png).
    """

    pruners: tuple[str, ...] = ()
    add: Annotated[tuple[str, ...], shown("MODULE:FUNCTION ...", "none")] = ()
    preset: Literal["laptop", "full", "smoke"] = "laptop"
    data_root: DataRoot = None
    jobs: Annotated[int | None, shown("N", "2, or 1 on a GPU")] = None
    out: Annotated[Path, shown("FILE")] = Path("leaderboard.html")
    table: File = None
    plot: File = None


def main(config: Config) -> int:
    """Run the request; the exit code is 1 if a row could not be computed."""
    check_pruners(*config.pruners)
    check_pruners(*config.add, option="--add")
    check_writable(config.out, (".html",))
    outputs = cli.Outputs(leaderboard=config.table, plot=config.plot)

    from dataclasses import replace

    from analysis.leaderboard import PRESETS, TABLE, board, figure, page, registered
    from analysis.resumable import Resources
    from collapse import tables
    from collapse.problem import choose_device
    from collapse.processes import jobs_of

    preset = PRESETS[config.preset]
    preset = replace(
        preset,
        networks={n: replace(s, data_root=config.data_root) for n, s in preset.networks.items()},
        trained=replace(preset.trained, data_root=config.data_root),
    )
    pruners = (*(config.pruners or registered()), *config.add)
    if len(set(pruners)) < len(pruners):
        raise RequestError("--add: expected pruners that are not on the board already")
    seconds = 0 if config.preset == "smoke" else math.inf
    jobs = jobs_of(config.jobs, choose_device("auto"), seconds)
    frame = board(preset, pruners, Resources(Execution(config.runs, quiet=config.quiet)), jobs)
    outputs.write(TABLE, frame)
    with atomic(config.out) as temporary:
        temporary.write_text(page(frame, tables.provenance(TABLE, "cpu")), encoding="utf-8")
    outputs.hand("plot", lambda path: plots.save(figure.shares(frame), path))
    failed = frame[frame["problem"].notna()]
    for row in cli.rows_of(failed):
        print(f"{row['network']} {row['weights']} {row['pruner']}: {row['problem']}")
    print(f"{len(frame)} rows, {len(failed)} with a problem: {config.out}")
    return 1 if len(failed) else 0


run = partial(cli.run, Config, main, prog="python -m analysis leaderboard")
