"""Which engine computes a pruning: chosen here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

from collapse.errors import RequestError, unknown
from collapse.pruning.live_blocks import LiveBlocks
from collapse.pruning.on_device import OnDevice
from collapse.pruning.steps import Plain, Start
from collapse.scores import fast

Engine = Callable[[Start], Plain]

FASTER: dict[str, type[OnDevice] | type[LiveBlocks]] = {
    "on-device": OnDevice,
    "live-blocks": LiveBlocks,
}
ENGINES = ("plain", *FASTER)


def fastest(start: Start) -> Plain:
    """The first engine that pays; ``Plain`` where none does, or under ``fast.off()``."""
    faster = (engine for engine in FASTER.values() if fast.is_on() and engine.pays(start))
    return next(faster, Plain)(start)


def named(name: str) -> Engine:
    """The engine of a name in ``ENGINES``.

    Raises:
        RequestError: unknown name; and, once it is given a start, one that it cannot compute.
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)

    def engine(start: Start) -> Plain:
        if name == "plain":
            return Plain(start)
        if not FASTER[name].can(start):
            raise RequestError(
                f"engine '{name}' cannot compute {start.options.pruner} here: expected synflow "
                f"(live-blocks: on a CPU; on-device: global scope, no certified schedule)"
            )
        return FASTER[name](start)

    return engine
