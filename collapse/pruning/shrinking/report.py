"""What shrinking saves: parameters, operations, bytes, milliseconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from collapse.models import untouched


def compare(model: nn.Module, small: nn.Module, example: Tensor, *, runs: int = 5) -> pd.DataFrame:
    """Both networks side by side, in eval mode on the example.

    Args:
        runs: the time is the shortest of so many.

    Returns:
        Rows ``before``, ``after`` and ``share``; columns ``parameters``, ``flops`` (a batch of the
        example, counted by torch: a multiplication and an addition are two), ``bytes`` (of
        parameters and buffers) and ``milliseconds`` (the same batch).
    """
    rows = {"before": _measured(model, example, runs), "after": _measured(small, example, runs)}
    table = pd.DataFrame(rows).T
    table.loc["share"] = table.loc["after"] / table.loc["before"]
    return table


def _measured(network: nn.Module, example: Tensor, runs: int) -> dict[str, float]:
    tensors = [*network.parameters(), *network.buffers()]
    with untouched(network, "eval"), torch.no_grad():
        with FlopCounterMode(display=False) as counter, _counted_attention():
            network(example)
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            network(example)
            if example.device.type == "cuda":
                torch.cuda.synchronize(example.device)
            seconds.append(time.perf_counter() - start)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "flops": counter.get_total_flops(),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "milliseconds": 1000 * min(seconds),
    }


@contextmanager
def _counted_attention() -> Iterator[None]:
    """Attention step by step: of its fused form torch's counter counts nothing."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
