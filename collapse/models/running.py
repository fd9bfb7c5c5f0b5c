"""Which module of a network is running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules import module as module_hooks


def _nothing(_: Any) -> None:
    pass


@contextmanager
def running(
    model: nn.Module, leaving: Callable[[Any], None] = _nothing
) -> Iterator[Callable[[], str]]:
    """A function that tells the path of the module that is running; ``""`` for the model itself.

    Global hooks: the model gets none.

    Args:
        leaving: is handed what each module returns.
    """
    paths = {id(module): path for path, module in model.named_modules()}
    stack: list[str] = []

    def enter(module: nn.Module, _: Any) -> None:
        stack.append(paths.get(id(module), stack[-1] if stack else ""))

    def leave(_: nn.Module, __: Any, result: Any) -> None:
        leaving(result)
        stack.pop()

    before = module_hooks.register_module_forward_pre_hook(enter)
    after = module_hooks.register_module_forward_hook(leave, always_call=True)
    try:
        yield lambda: stack[-1] if stack else ""
    finally:
        before.remove()
        after.remove()
