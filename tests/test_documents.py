"""Python blocks of the documents run as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in [DOCS / "networks.md"]
    for number, text in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs_as_printed(block: str) -> None:
    if "transformers:" in block:
        pytest.importorskip("transformers")
    exec(compile(block, "block", "exec"), {"__name__": "block"})
