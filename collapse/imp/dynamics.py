"""The score dynamics of training: how magnitude scores come to obey the conservation laws.

Tanaka et al. 2020, section 5 and figure 5b: gradient descent conserves, for each hidden unit of a
homogeneous network, the squared norm of its incoming minus that of its outgoing weights. Squared
weights therefore become a nearly conserved score by training: their layer means grow like the
inverse layer size, and the first layer to collapse moves towards maximal compression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from collapse import masks as masking
from collapse.conservation import inverse_size_fit
from collapse.devices import to_float64
from collapse.errors import RequestError
from collapse.flow import HiddenUnits, hidden_units, record
from collapse.imp.step_law import StepLaw, balance
from collapse.models import stand_ins, untouched
from collapse.train import Trainer
from collapse.train.recipes import learning_rate

# |θ ⊙ g| is measured in one step of so many: the mean over an epoch hardly changes, and the cost
# (a pass over all weights) stays far below that of the steps.
EVERY = 8


class Dynamics:
    """Measures a ``Trainer`` during one level.

    Everything is computed on the device and comes to the host with the epoch's losses.

    Args:
        trainer: what is watched.
        layers: the prunable weights' masks.
        groups: the units whose conserved quantity is followed (``conserving_units``).
        level: IMP's.
        time: gradient flow's, since the level began.
    """

    def __init__(
        self,
        trainer: Trainer,
        layers: Mapping[str, Tensor],
        groups: list[HiddenUnits],
        level: int,
        time: float = 0.0,
    ) -> None:
        self.trainer, self.groups, self.level, self.time = trainer, groups, level, time
        self.layers = {name: mask.numel() for name, mask in layers.items()}
        self.kept = masking.kept_by_layer(layers)
        self.law = StepLaw(trainer, groups)
        self._reset()

    def _reset(self) -> None:
        self.saliency = to_float64(torch.zeros(len(self.layers), device=self.trainer.device))
        self.measurements = 0
        self.law.begin()

    @torch.no_grad()
    def step(self, index: int) -> None:
        """Add ``Σ |θ ⊙ g|`` of each layer for this step's loss; foresee the conserved quantity."""
        self.law.step()
        if index % EVERY:
            return
        parameters = self.trainer.parameters
        weights: list[Tensor] = [parameters[n] for n in self.layers if n in parameters]
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in weights]
        products = torch._foreach_mul(weights, gradients)
        sums = iter(torch._foreach_norm(products, 1))
        zero = torch.zeros((), device=self.trainer.device)
        self.saliency += to_float64(torch.stack([
            next(sums) if name in parameters else zero for name in self.layers
        ]))  # fmt: skip
        self.measurements += 1

    @torch.no_grad()
    def measured(self) -> Tensor:
        """``Σ θ²`` and mean ``Σ |θ ⊙ g|`` of each layer; by unit the conserved quantity, and what
        the step law foresaw."""
        parameters = dict(self.trainer.model.named_parameters())
        names = set(self.layers).union(*(group.names for group in self.groups))
        squared = {name: to_float64(parameters[name]).square() for name in names}
        squares = torch.stack([squared[name].sum() for name in self.layers])
        saliency = self.saliency / max(1, self.measurements)
        conserved = balance(self.groups, squared).to(squares.device)
        return torch.cat([squares, saliency, conserved, self.law.predicted(conserved)])

    def observe(self, numbers: list[float], epoch: int) -> tuple[list[dict[str, Any]], list[float]]:
        """The end of an epoch, from what ``measured`` returned.

        Args:
            epoch: epochs of the level that are done.

        Returns:
            Rows of the ``score_dynamics`` table, and ``[level, epoch, time, *conserved,
            *predicted]``.
        """
        count = len(self.layers)
        squares, saliency = numbers[:count], numbers[count : 2 * count]
        trained = self.measurements > 0
        if trained:
            self.time += self._time_of(epoch - 1)
        slope, r = _fit(self.layers, squares)
        saliency_slope, saliency_r = _fit(self.layers, saliency) if trained else (None, None)
        rows = [
            {
                "level": self.level,
                "epoch": epoch,
                "layer": name,
                "layer_index": index + 1,
                "parameters": size,
                "kept": self.kept[name],
                "score_mean": squares[index] / size,
                "score_sum": squares[index],
                "saliency_mean": saliency[index] / size if trained else None,
                "slope": slope,
                "r": r,
                "saliency_slope": saliency_slope,
                "saliency_r": saliency_r,
            }
            for index, (name, size) in enumerate(self.layers.items())
        ]
        self._reset()
        return rows, [self.level, epoch, self.time, *numbers[2 * count :]]

    def _time_of(self, epoch: int) -> float:
        """Gradient flow's time that an epoch's steps take: ``Σ η / (1 − momentum)``."""
        settings = self.trainer.settings
        steps = self.trainer.feed.steps(settings.train_batch_size)
        return steps * learning_rate(settings, epoch) / (1 - settings.momentum)


def conserved_table(
    units: Sequence[tuple[str, int]], observations: list[list[float]], weight_decay: float
) -> pd.DataFrame:
    """The conserved quantity of each unit after each epoch, and its drift.

    The expected value is that of gradient flow with weight decay λ from the level's first
    observation on: ``c(0) exp(−2 λ t)``. The drift is what differs from it: what finite learning
    rates and mini-batches do. The predicted value is that of the step law (``step_law``), from the
    epoch's start on: null before the first step.

    Args:
        units: the places of the units, and how many at each.
        observations: ``[level, epoch, time, *conserved, *predicted]`` as from ``Dynamics.observe``,
            in order.

    Returns:
        ``level, epoch, place, unit, value, expected, drift, predicted``, a row a unit and
        observation.
    """
    count = sum(number for _, number in units)
    table = np.array(observations, dtype=float).reshape(len(observations), 3 + 2 * count)
    level, epoch, time, values = table[:, 0], table[:, 1], table[:, 2], table[:, 3 : 3 + count]
    first = np.searchsorted(level, level)  # levels never fall
    expected = values[first] * np.exp(-2 * weight_decay * (time - time[first]))[:, None]
    places = [place for place, number in units for _ in range(number)]
    within = [unit for _, number in units for unit in range(number)]
    return pd.DataFrame(
        {
            "level": np.repeat(level.astype(int), count),
            "epoch": np.repeat(epoch.astype(int), count),
            "place": np.tile(np.array(places, dtype=object), len(table)),
            "unit": np.tile(np.array(within, dtype=int), len(table)),
            "value": values.ravel(),
            "expected": expected.ravel(),
            "drift": (values - expected).ravel(),
            "predicted": table[:, 3 + count :].ravel(),
        }
    )


def conserving_units(trainer: Trainer) -> list[HiddenUnits]:
    """The hidden units for which ``‖θ_in‖² − ‖θ_out‖²`` is conserved by gradient flow.

    Found from a recorded pass: units between weights with homogeneous operations in between, all
    of which are trained. Of a unit behind BatchNorm the incoming parameters are its scale and
    shift. Empty where the network cannot be recorded.
    """
    model = trainer.model
    x, y = next(trainer.feed.in_order(2))
    tensors = stand_ins(model)
    with untouched(model, "eval"):
        try:
            trace = record(
                model,
                tensors,
                x.to(trainer.dtype),
                lambda output: F.cross_entropy(output, y),
                trainer.output,
            )
        except RequestError:  # e.g. a collapsed network, whose output is constant
            return []
    groups = hidden_units(trace, through_batchnorm=False)
    return [group for group in groups if group.weights <= trainer.trainable.keys()]


def _fit(sizes: Mapping[str, int], sums: list[float]) -> tuple[float | None, float | None]:
    """Slope and correlation; None where a layer has collapsed or all are of one size."""
    try:
        return inverse_size_fit(sizes, dict(zip(sizes, sums, strict=True)))
    except RequestError:
        return None, None
