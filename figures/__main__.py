"""``python -m figures NAME TABLE --out FILE`` and ``python -m figures all``."""

from __future__ import annotations

import sys

from collapse import cli
from figures.commands import FIGURES, draw, make_all


def main(arguments: list[str]) -> None:
    """Hand over to the figure that is named first, or to all."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print("usage: python -m figures NAME TABLE --out FILE   (draw a table)")
        print("       python -m figures all --preset laptop      (run everything and draw it)\n")
        cli.print_commands(FIGURES)
        sys.exit(0 if arguments else 2)
    if name == "--version":
        cli.print_version()
    cli.guarded(lambda: make_all(rest) if name == "all" else draw(name, rest))


if __name__ == "__main__":
    main(sys.argv[1:])
