"""A callback for training loops: one call an epoch says whether a layer has vanished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from collapse import masks as masking
from collapse import tables
from collapse.connectivity import paths
from collapse.doctor.units import inputs_of
from collapse.errors import RequestError
from collapse.models import Inputs, Masks, Selector, all_finite, plain, prunable

if TYPE_CHECKING:
    import pandas as pd

PULSES = tables.declare(
    "pulses",
    *("epoch", "kept", "living", "compression", "effective_compression", "connected", "finite"),
    *("returned", "empty", "dead"),
)


@dataclass(frozen=True)
class Pulse:
    """A network at one moment.

    Attributes:
        kept, living: weights that are not zero, and those of them on an input→output path.
        parameters: of all layers.
        connected: whether there is such a path.
        finite: whether all weights are.
        returned: weights that were zero in the first pulse and are not now.
        empty, dead: layers without a weight, and without a living one, that had one at first.
    """

    epoch: int
    parameters: int
    kept: int
    living: int
    connected: bool
    finite: bool
    returned: int
    empty: tuple[str, ...]
    dead: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """A path is there, no layer was lost, all weights are finite, and none came back."""
        lost = self.empty or self.dead or self.returned
        return self.connected and self.finite and not lost

    def __str__(self) -> str:
        words = [f"epoch {self.epoch}: {self.kept:,} of {self.parameters:,} kept"]
        words += [f"{self.living:,} living"]
        words += [] if self.connected else ["the network is cut"]
        words += [] if self.finite else ["weights that are not finite"]
        words += [f"{self.returned:,} pruned weights came back"] if self.returned else []
        for what, layers in (("empty", self.empty), ("without a living weight", self.dead)):
            words += [f"{what}: {', '.join(layers)}"] if layers else []
        return "; ".join(words)


class Watch:
    """Call it once an epoch; it costs about as much as two training steps on one image.

    Args:
        model: as it is trained, with masks of any kind; it is not changed.
        example: a batch of inputs, or the shape of one input; see ``doctor``.
        output: which part of the output is meant when the forward returns several.

    Raises:
        RequestError: as ``doctor``.

    Example:
        >>> network = collapse.build("conv", input_shape=(3, 8, 8))
        >>> watch = Watch(network, (3, 8, 8))
        >>> for epoch in range(2):  # train(network) here
        ...     pulse = watch(epoch)
        >>> pulse.healthy, len(watch.history)
        (True, 2)
    """

    def __init__(
        self, model: nn.Module, example: Inputs | Sequence[int], *, output: Selector = None
    ) -> None:
        self.model, self.output = model, output
        if (weight := next(model.parameters(), None)) is None:
            raise RequestError("the model has no parameters: expected weights to watch")
        self.example = inputs_of(example, weight.device)
        self.history: list[Pulse] = []
        self._first: Masks = {}
        self._lived: frozenset[str] = frozenset()

    def __call__(self, epoch: int) -> Pulse:
        """Look at the network as it is now."""
        model = plain(self.model)
        masks = masking.from_zeros(model)
        alive, connected = paths(model, masks, self.example, output=self.output)
        kept, living = masking.kept_by_layer(masks), masking.kept_by_layer(alive)
        if not self.history:
            self._first = masks
            self._lived = frozenset(name for name, count in living.items() if count)
        lost = [name for name in masks if name in self._lived and not living[name]]
        pulse = Pulse(
            epoch,
            masking.total(masks),
            sum(kept.values()),
            sum(living.values()),
            connected,
            all(all_finite(p.detach()) for p in prunable(model).values()),
            self._returned(masks),
            tuple(name for name in lost if not kept[name]),
            tuple(name for name in lost if kept[name]),
        )
        self.history.append(pulse)
        return pulse

    def _returned(self, masks: Mapping[str, Tensor]) -> int:
        return masking.kept(masking.difference(masks, self._first))

    def frame(self) -> pd.DataFrame:
        """A ``pulses`` table: one row a call."""
        import pandas as pd

        rows = [
            {
                **asdict(pulse),
                "compression": pulse.parameters / max(1, pulse.kept),
                "effective_compression": pulse.parameters / max(1, pulse.living),
                "empty": " ".join(pulse.empty),
                "dead": " ".join(pulse.dead),
            }
            for pulse in self.history
        ]
        return pd.DataFrame(rows)[list(tables.COLUMNS[PULSES])]
