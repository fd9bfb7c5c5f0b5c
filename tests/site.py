"""What tests of the documentation look up without building it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def resolve(name: str) -> Any:
    """The object of a dotted name, of the longest module in it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def prose(path: Path) -> str:
    """A document without programs, tables, comments and headings."""
    text = re.sub(r"^( *)```.*?^ *```", "\n\n", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return re.sub(r"^(\||#).*$", "\n", text, flags=re.MULTILINE)


def sentences(path: Path) -> list[str]:
    """Its sentences; an item of a list ends one, and of a link only the words are read."""
    text = re.sub(r"\]\([^)]*\)", "]", prose(path))
    parts = re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.) |(?<=[.!?])[*_)\"]*\s+", text, flags=re.MULTILINE)
    return [" ".join(part.split()) for part in parts if part and part.strip()]


def anchors(path: Path) -> set[str]:
    """The fragments that its headings can be linked by."""
    text = re.sub(r"^( *)```.*?^ *```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}
