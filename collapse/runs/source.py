"""A hash of the code that the user names, so that an edited network is another run."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

import collapse
from collapse.models import import_user

# Code of the toolkit and of installed packages has a version; only the user's own is looked at,
# which may be in a package that is called as one of ours.
_OURS = [Path(collapse.__file__).parents[1] / name for name in ("collapse", "analysis")]


def source_hash(name: str, kind: str) -> str | None:
    """A hash of the module in ``package.module:name`` and of every module of the user's behind it.

    Args:
        name: of a model, pruner or dataset.
        kind: which of them, for messages.

    Returns:
        None where no code of the user's is named.

    Raises:
        RequestError: the module cannot be imported.
    """
    module, _, attribute = name.partition(":")
    if not attribute or module.partition(".")[0] in ("torchvision", "timm", "transformers"):
        return None
    import_user(name, kind)
    path = _file(module)
    if path is not None and _within(path, _OURS):
        return None
    sources = _sources(module)
    digest = hashlib.sha256()
    for found in sorted(sources):
        digest.update(f"{found}\n{sources[found]}\n".encode())
    return digest.hexdigest()


def _sources(start: str) -> dict[str, str]:
    """The text of the user's modules that a module imports, itself included, by module name."""
    found: dict[str, str] = {}
    todo = [start]
    while todo:
        module = todo.pop()
        path = _own_file(module)
        if module in found or path is None:
            continue
        found[module] = path.read_text()
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        todo += _imported(found[module], package)
        todo += [package] if package else []
    return found


def _imported(source: str, package: str) -> Iterator[str]:
    """Every module that a source may import; names that are no module have no file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, package) if node.level else base
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _own_file(module: str) -> Path | None:
    """The file of a module of the user's; None for installed, built-in or missing ones."""
    installed = [sysconfig.get_path("purelib"), *site.getsitepackages(), site.getusersitepackages()]
    path = _file(module)
    return None if path is None or _within(path, [*_OURS, *installed]) else path


def _within(path: Path, folders: Iterable[Path | str]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _file(module: str) -> Path | None:
    """The file of a module; None for built-in, compiled or missing ones."""
    if module.partition(".")[0] in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):  # no module, or a part of no package
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)
