"""``collapse NAME`` and ``python -m collapse NAME``: every command of the toolkit."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from collapse import cli
from collapse.commands import CHECKOUT, conservation, critical, doctor, imp, masks, pruning, train
from collapse.errors import RequestError, unknown

COMMANDS = {
    "critical": critical,
    "prune": pruning,
    "doctor": doctor,
    "masks": masks,
    "conservation": conservation,
    "train": train,
    "imp": imp,
}


def main() -> None:
    """Entry point of the console script."""
    cli.guarded(lambda: dispatch(sys.argv[1:]))


def dispatch(arguments: list[str]) -> None:
    """Hand over to the command that is named first, which exits.

    Raises:
        RequestError: there is no such command, or it needs a checkout.
    """
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print("usage: collapse NAME [OPTIONS]   (NAME --help explains the options)\n")
        cli.print_commands({name: each.Config.__doc__ for name, each in COMMANDS.items()})
        print("\nfrom a checkout of the repository, also as python -m analysis NAME:\n")
        cli.print_commands(CHECKOUT)
        sys.exit(0 if arguments else 2)
    if name == "--version":
        cli.print_version()
    if name not in COMMANDS and name not in CHECKOUT:
        raise unknown("command", name, [*COMMANDS, *CHECKOUT])
    command = COMMANDS[name] if name in COMMANDS else _from_checkout(name)
    command.run(rest, prog=f"collapse {name}")


def _from_checkout(name: str) -> ModuleType:
    root = Path(__file__).parents[1]
    if not (root / "analysis" / "commands" / f"{name}.py").is_file():
        raise RequestError(
            f"'collapse {name}' needs a checkout of the repository: expected the folder analysis "
            "beside the package, which an installed wheel does not hold"
        )
    sys.path.insert(0, str(root))
    return importlib.import_module(f"analysis.commands.{name}")


if __name__ == "__main__":
    main()
