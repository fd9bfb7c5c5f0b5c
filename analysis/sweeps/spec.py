"""A sweep's specification: every option is one value or a list of values; their grid is run.

    model = "vgg11_bn"
    pruner = ["random", "magnitude", "synflow"]
    compression = [1, 10, 100]
    seed = [0, 1, 2]
    epochs = 10
    levels = 0      # 0, as without it: prune at initialisation; from 1 on rounds of IMP

The options are those of ``python -m collapse.train`` and ``collapse.imp``.
"""

from __future__ import annotations

import itertools
import tomllib
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, make_dataclass, replace
from pathlib import Path
from typing import Any

from collapse import cli
from collapse.errors import RequestError, first_line, unknown
from collapse.options import Pruning, Rewinding, Setup, Training, check_once
from collapse.runs import Experiment

_SECTIONS: dict[str, type] = {
    "setup": Setup,
    "pruning": Pruning,
    "training": Training,
    "rewinding": Rewinding,
}


# No part of what a run is: the same spec serves on another machine.
_ELSEWHERE = {"device", "data_root"}


def _options() -> dict[str, tuple[str | None, Any]]:
    """Each option's section (None for the experiment itself) and type."""
    found: dict[str, tuple[str | None, Any]] = {"compression": (None, float)}
    for section, kind in _SECTIONS.items():
        hints = typing.get_type_hints(kind, include_extras=True)
        found |= {field.name: (section, hints[field.name]) for field in fields(kind)}
    return {name: found[name] for name in found if name not in _ELSEWHERE}


def read(path: Path, **elsewhere: Any) -> list[Experiment]:
    """The experiments of a specification, in the order of its grid (the last option fastest).

    Args:
        elsewhere: ``device`` and ``data_root``, which are no part of the specification.

    Raises:
        RequestError: the file cannot be read, is no TOML, names an option that does not exist or
            gives it a value of another type.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"spec '{path}' cannot be read: {first_line(error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"spec '{path}' is no TOML: {first_line(error)}") from error
    options = _options()
    grid: list[list[tuple[str, Any]]] = []
    for key, value in content.items():
        name = key.replace("-", "_")
        if name in _ELSEWHERE:
            raise RequestError(
                f"spec '{path}': {key} is no part of a run; give --{name.replace('_', '-')} on "
                "the command line"
            )
        if any(name == known for (known, _), *_ in grid):
            raise RequestError(f"spec '{path}': {key} is given twice")
        if name not in options:
            raise RequestError(f"spec '{path}': {unknown('option', key, options)}")
        values = _values(value, options[name][1])
        if not values:
            raise RequestError(f"spec '{path}': {key} is empty: expected at least one value")
        typed = tuple(_typed(path, name, options[name][1], one) for one in values)
        with _named(path):
            check_once(key, typed)
        grid.append([(name, one) for one in typed])
    if "model" not in content:
        raise RequestError(f"spec '{path}' names no model: expected model = \"NAME\"")
    with _named(path):
        return [_experiment(dict(point), elsewhere) for point in itertools.product(*grid)]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What is wrong in the block is the specification's."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"spec '{path}': {error}") from None


def _values(value: Any, kind: Any) -> list[Any]:
    """The values of an option: a list is several, unless the option itself takes a list."""
    if not isinstance(value, list):
        return [value]
    takes_list = "tuple" in str(kind)
    return [value] if takes_list and not any(isinstance(part, list) for part in value) else value


def _typed(path: Path, name: str, kind: Any, value: Any) -> Any:
    """The value as the command line would read it, with its messages."""
    option: Any = make_dataclass("Option", [(name, kind)], frozen=True)
    words = [str(part) for part in value] if isinstance(value, list) else [str(value)]
    with _named(path):
        return getattr(cli.parse(option, [f"--{name.replace('_', '-')}", *words], "spec"), name)


def _experiment(point: dict[str, Any], elsewhere: dict[str, Any]) -> Experiment:
    # As the commands: magnitude for rounds of IMP, synflow at initialisation.
    pruning = Pruning(pruner="magnitude") if point.get("levels", 0) > 0 else Pruning()
    setup = Setup(model=point["model"], **elsewhere)
    experiment = Experiment(setup, pruning, rewinding=Rewinding(levels=0))
    options = _options()
    for name, value in point.items():
        section = options[name][0]
        if section is None:
            experiment = replace(experiment, **{name: value})
        else:
            part = replace(getattr(experiment, section), **{name: value})
            experiment = replace(experiment, **{section: part})
    experiment.setup.check()
    experiment.pruning.check()
    return experiment
