"""The examples of the public docstrings run, and each public function has one."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import collapse
from collapse.scores import SCORES
from tests.site import resolve

ROOT = Path(__file__).parents[1]
NAMES = sorted(
    name
    for page in ROOT.glob("docs/reference/*.md")
    for name in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE)
)


def test_the_reference_has_every_public_name() -> None:
    documented = [resolve(name) for name in NAMES]
    for name in collapse.__all__:
        public = getattr(collapse, name)
        if inspect.ismodule(public):  # a room: what it holds is documented
            continue
        assert any(public is found for found in documented), f"{name} is on no reference page"


@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name: str) -> None:
    found, registered = resolve(name), dict(SCORES)
    if not callable(found):
        return
    text = inspect.getdoc(found) or ""
    assert not inspect.isfunction(found) or ">>> " in text, f"{name} has no example"
    public = {name: getattr(collapse, name) for name in collapse.__all__}
    names = {"collapse": collapse, **public, **vars(inspect.getmodule(found))}
    names |= {"torch": torch, "nn": nn}
    test = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    said: list[str] = []
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    try:
        torch.manual_seed(0)
        doctest.DocTestRunner(optionflags=options).run(test, out=said.append)
    finally:
        for new in set(SCORES) - set(registered):
            del SCORES[new]
    assert not said, "".join(said)
