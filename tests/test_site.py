"""The documentation site holds together, as far as that shows without building it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.site import ROOT, anchors, resolve, sentences

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
PAGES = sorted((ROOT / "docs").rglob("*.md"))
ELSEWHERE = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}


def _listed(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _listed(entry)


def test_navigation_has_each_page_once() -> None:
    pages = {str(path.relative_to(ROOT / "docs")) for path in PAGES} | set(ELSEWHERE)
    listed = list(_listed(CONFIG["nav"]))
    assert sorted(listed) == sorted(pages)
    assert all((ROOT / path).is_file() for path in ELSEWHERE.values())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT / "docs")))
def test_links_and_their_headings_exist(path: Path) -> None:
    for target, fragment in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", path.read_text()):
        if ":" in target:
            continue
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), target
        assert not fragment or fragment in anchors(file), f"{target}#{fragment}"


def test_reference_names_exist() -> None:
    found = [
        resolve(name)
        for path in PAGES
        for name in re.findall(r"^::: (\S+)", path.read_text(), re.MULTILINE)
    ]
    assert len(found) > 40


def test_nothing_is_fetched_by_a_reader() -> None:
    assert CONFIG["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css", "extra"} & set(CONFIG)
    assert CONFIG["plugins"][0] == "search"


def test_tools_of_the_site_are_a_group_of_their_own() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    names = {re.split("[><=[]", line)[0] for line in groups["docs"]}
    assert names == {"mkdocs-material", "mkdocstrings", "latex2mathml", "ruff"}
    assert names & {re.split("[><=[]", line)[0] for line in groups["dev"]} == {"ruff"}
    command = "uv run --isolated --only-group docs mkdocs build --strict"
    for path in ("mkdocs.yml", "CONTRIBUTING.md", ".github/workflows/ci.yml"):
        assert command in (ROOT / path).read_text()


@pytest.mark.parametrize("path", ["README.md", "docs/tutorial.md"])
def test_sentences_are_short(path: str) -> None:
    """At most 35 words, for whom English is a second language."""
    found = sentences(ROOT / path)
    assert len(found) > 20
    assert not [sentence for sentence in found if len(sentence.split()) > 35]
