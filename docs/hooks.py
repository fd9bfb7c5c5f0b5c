"""What the site adds to the pages: links that leave them, formulas, examples of docstrings."""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
# Pages that lie elsewhere in the checkout.
PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def at_home(text: str, page: str) -> str:
    """Links as the site has them; what is in the checkout alone is named by its path there."""
    folder = posixpath.dirname(PAGES.get(page, f"docs/{page}"))
    moved = {path: name for name, path in PAGES.items()}

    def link(found: re.Match[str]) -> str:
        image, words, target, anchor = found.groups(default="")
        if not target or ":" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        inside = moved.get(path) or path.removeprefix("docs/")
        if inside != path:
            start = posixpath.dirname(page) or "."
            return f"{image}[{words}]({posixpath.relpath(inside, start)}{anchor})"
        return words if words == path else f"{words} (`{path}`)"

    return LINK.sub(link, text)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie elsewhere."""
    from mkdocs.structure.files import File

    for name, path in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return at_home(markdown, page.file.src_uri)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw without a script."""

    def formula(found: re.Match[str]) -> str:
        source = html.unescape(found[1])
        display = "block" if source.startswith("\\[") else "inline"
        return convert(source[2:-2].strip(), display=display)

    return re.sub(
        r'<(?:span|div) class="arithmatex">(.*?)</(?:span|div)>', formula, content, flags=re.S
    )


class Examples(griffe.Extension):
    """``Example:`` is a section with a program, whether it holds one or several."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
