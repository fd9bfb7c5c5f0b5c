"""``python -m analysis NAME``: every experiment and the sweeps."""

from __future__ import annotations

import importlib
import sys

from analysis.experiments import EXPERIMENTS, QUESTIONS
from collapse.errors import unknown

# Each module has a dataclass `Config`, a function `main(config)`, and what it does in one line.
# Beside these, every experiment is a name (`experiments.EXPERIMENTS` and `QUESTIONS`).
COMMANDS = {
    "questions": ("analysis.commands.questions", "the reviewers' nine questions, answered"),
    "report": ("analysis.commands.report", "one page about one network"),
    "agreement": ("analysis.commands.agreement", "our results against the published numbers"),
    "reproduce": ("analysis.commands.reproduce", "as many of the paper's points as fit a time"),
    "sweep": ("analysis.commands.sweep", "run a grid of models, datasets, pruners, … from a file"),
    "status": ("analysis.commands.status", "how far the runs of a sweep are"),
    "collect": ("analysis.commands.collect", "one table of all runs of a sweep so far"),
}


def main(arguments: list[str]) -> None:
    """Hand over to the command that is named first."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m analysis NAME [OPTIONS]   (NAME --help explains the options)\n")
        commands = ((name, about) for name, (_, about) in COMMANDS.items())
        for name, about in [*EXPERIMENTS.items(), *QUESTIONS.items(), *commands]:
            print(f"  {name:<15} {about}")
        sys.exit(0 if arguments else 2)
    name, *rest = arguments
    if name in EXPERIMENTS or name in QUESTIONS:
        importlib.import_module("analysis.commands.experiment").run(name, rest)
    if name not in COMMANDS:
        valid = [*EXPERIMENTS, *QUESTIONS, *COMMANDS]
        print(f"error: {unknown('experiment', name, valid)}", file=sys.stderr)
        sys.exit(2)
    importlib.import_module(COMMANDS[name][0]).run(rest)


if __name__ == "__main__":
    main(sys.argv[1:])
