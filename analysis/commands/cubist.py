"""``python -m analysis cubist``: pruners at the size of the sparsest networks that are known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from collapse import cli, plots
from collapse.errors import RequestError
from collapse.options import File, check_once, check_pruners, check_seed


@dataclass(frozen=True)
class Config:
    """Prune the small network of the Cubist Spiral to 30 to 45 weights: how many are dead?

    Attributes:
        pruners: random, magnitude, snip, grasp, synflow, …, or package.module:function; without it
            every pruner of the toolkit's.
        seeds: of initialisation and random scores.
        width: of the three hidden layers.
        out: write the table (.parquet, .csv, .json).
        plot: draw the share of dead weights (.pdf, .svg, .png).
    """

    pruners: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    width: int = 16
    out: File = None
    plot: File = None


def main(config: Config) -> int:
    """Run the request; the exit code is 1 if a pruner failed."""
    check_pruners(*config.pruners)
    check_once("--seeds", config.seeds)
    for seed in config.seeds:
        check_seed(seed, "--seeds")
    if config.width < 4 or not config.seeds:
        raise RequestError(
            f"expected a --width of 4 or more and at least one of --seeds, got {config.width} and "
            f"{len(config.seeds)}"
        )
    outputs = cli.Outputs(cubist=config.out, plot=config.plot)

    from analysis.leaderboard import figure, registered
    from analysis.leaderboard.cubist import TABLE, optima

    table = optima(config.pruners or registered(), seeds=config.seeds, width=config.width)
    outputs.write(TABLE, table)
    outputs.hand("plot", lambda path: plots.save(figure.dead(table), path))
    seeds = f"{len(config.seeds)} seed{'s' * (len(config.seeds) > 1)}"
    failed = list(cli.rows_of(table[table["problem"].notna()].drop_duplicates("pruner")))
    numbers = ["dead_share", "cut", "empty_layers"]
    means = table[["pruner", "kept"]].join(table[numbers].astype(float))
    means = means.groupby(["pruner", "kept"], sort=False).mean().reset_index()
    cli.print_table(
        f"{table['model'].iloc[0]}: means over {seeds}",
        cli.rows_of(means),
        {
            "pruner": "{pruner}",
            "kept": "{kept:d}",
            "dead": "{dead_share:.0%}",
            "cut": "{cut:.0%}",
            "empty layers": "{empty_layers:.2g}",
        },
        [f"{row['pruner']}: {row['problem']}" for row in failed],
    )
    return 1 if failed else 0


run = partial(cli.run, Config, main, prog="python -m analysis cubist")
