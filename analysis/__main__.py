"""``python -m analysis NAME``: every experiment, and the commands beside them."""

from __future__ import annotations

import importlib
import sys

from analysis.commands import experiment
from analysis.experiments import ALL
from collapse import cli
from collapse.commands import CHECKOUT
from collapse.errors import unknown

NAMES = {**ALL, **CHECKOUT}


def main(arguments: list[str]) -> None:
    """Hand over to the command that is named first."""
    cli.guarded(lambda: _dispatch(arguments))


def _dispatch(arguments: list[str]) -> None:
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print("usage: python -m analysis NAME [OPTIONS]   (NAME --help explains the options)\n")
        cli.print_commands(NAMES)
        sys.exit(0 if arguments else 2)
    if name == "--version":
        cli.print_version()
    if name not in NAMES:
        raise unknown("experiment", name, NAMES)
    if name in CHECKOUT:
        importlib.import_module(f"analysis.commands.{name}").run(rest)
    experiment.run(name, rest)


if __name__ == "__main__":
    main(sys.argv[1:])
