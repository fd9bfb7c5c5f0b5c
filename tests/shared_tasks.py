"""Tasks for processes to share: without torch, so that a new process begins at once."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collapse.errors import RequestError

Watch = Callable[[str, float], None]


def noted(folder: Path, task: float, watch: Watch) -> tuple[float, int]:
    """Takes ``task`` seconds, and says who did it with how many threads."""
    torch = sys.modules.get("torch")
    threads = os.environ["OMP_NUM_THREADS"] if torch is None else torch.get_num_threads()
    watch(f"task {task}", 0.5)
    (folder / f"{task}-{os.getpid()}-{threads}").touch()
    time.sleep(task)
    watch(f"task {task}", 1.0)
    return task, os.getpid()


def killed_elsewhere(mine: int, task: float, watch: Watch) -> float:
    if os.getpid() != mine:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(task)
    return task


def raising_elsewhere(mine: int, task: float, watch: Watch) -> float:
    if os.getpid() != mine:
        raise RequestError(f"task {task}: expected one that can be done")
    for step in range(300):
        time.sleep(0.1)
        watch(f"task {task}", step / 300)
    return task


def lingering(mine: int, task: float, watch: Watch) -> float:
    """Its process is slow to leave, as torch's is, which tidies up at the end."""
    if os.getpid() != mine:
        atexit.register(time.sleep, 30)
    time.sleep(task)
    return task


def unpicklable(task: float, watch: Watch) -> Callable[[], float]:
    time.sleep(0.3)
    return lambda: task


def chained(folder: Path, failing: str, task: str, watch: Watch) -> int:
    """Who did it; what is needed first waits until the other process is at its guess."""
    (folder / task).touch()
    if task == failing:
        raise RequestError(f"{task} fails")
    while (task == "needed 0" and len(list(folder.iterdir())) < 2) or "600 seconds" in task:
        time.sleep(0.02)
        watch(task, 0.5)
    return os.getpid()


def doubled(model: Any, masks: dict[str, Any], inputs: Any) -> dict[str, Any]:
    """A user's pruner: no process knows it before it is asked for."""
    weights = dict(model.named_parameters())
    return {name: 2 * weights[name].detach().abs() for name in masks}


def quiet(text: str, share: float) -> None:
    pass
