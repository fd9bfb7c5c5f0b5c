"""Training a smaller network in a masked model's place.

The model keeps every parameter, buffer and momentum under its own name: the smaller network is cut
out of it when a level begins, and written back into it at the end of each epoch. What was cut away
is brought along as masked training would: a parameter whose gradient is zero only decays, and the
statistics of a BatchNorm that sees zeros go to zero, both by a linear recurrence. Running
statistics of a channel that no kept weight reads stay as they were: nothing depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from collapse.models import Masks, Selector
from collapse.pruning.shrinking import Shrunk, own_names, shrunk

# A network that keeps more of its parameters than this is trained with masks.
WORTHWHILE = 0.9


@dataclass
class Smaller:
    """A smaller network that is trained in a model's place.

    Attributes:
        parameters: what is trained, by the model's names.
        momentum: of the whole model when it was last written back, by its names.
    """

    shrunk: Shrunk
    parameters: dict[str, nn.Parameter]
    momentum: dict[str, Tensor]

    @property
    def network(self) -> fx.GraphModule:
        """What is trained."""
        return self.shrunk.network

    @classmethod
    def of(
        cls,
        model: nn.Module,
        masks: Mapping[str, Tensor],
        example: Tensor,
        momentum: dict[str, Tensor],
        output: Selector,
    ) -> Smaller | None:
        """None if it would hardly be smaller.

        Raises:
            RequestError: the model cannot be shrunk.
        """
        found = shrunk(model, masks, example, moving=momentum, output=output)
        whole = sum(parameter.numel() for parameter in model.parameters())
        left = sum(parameter.numel() for parameter in found.network.parameters())
        if not 0 < left <= WORTHWHILE * whole:
            return None
        own = own_names(model)
        parameters = {own[n]: p for n, p in found.network.named_parameters() if p.requires_grad}
        return cls(found, parameters, momentum)

    def masks(self, masks: Mapping[str, Tensor]) -> Masks:
        """The masks of the smaller network's weights."""
        names = [name for name in masks if name in self.parameters]
        return {name: self.shrunk.gather(name, masks[name]) for name in names}

    def units_of(self, name: str) -> tuple[Tensor | None, Tensor | None]:
        """The output and input units of a parameter that are left (None: all)."""
        rows = (*self.shrunk.places.get(name, ()), None)[0]
        return self.shrunk.units.get(name, (rows, None))

    def whole(self, name: str, part: Tensor, model: Mapping[str, Tensor]) -> Tensor:
        """A tensor like the model's, with ``part`` at its places and zeros elsewhere."""
        into = part.new_zeros(model[name].shape)
        self.shrunk.scatter(name, part, into)
        return into

    @torch.no_grad()
    def read(self, model: nn.Module) -> None:
        """Take the values of the model."""
        parts, whole = _tensors(self.network), _tensors(model)
        for name in parts.keys() & whole.keys():
            parts[name].copy_(self.shrunk.gather(name, whole[name]))

    @torch.no_grad()
    def write_back(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        """Bring the model and its momentum from before some steps to after them."""
        momentum = self.momentum
        decayed = _decay(optimizer.param_groups[0], steps)
        states = {n: optimizer.state.get(p, {}) for n, p in self.parameters.items()}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad or name not in self.shrunk.reached:
                continue
            part = self.parameters.get(name)
            if part is not None and part.grad is None:  # behind a detach: SGD leaves it alone
                continue
            if part is None or name in self.shrunk.places:
                buffer = momentum.get(name)
                moved = torch.zeros_like(parameter) if buffer is None else buffer
                value = parameter.clone()
                parameter.mul_(decayed[0, 0]).add_(moved, alpha=decayed[0, 1])
                if optimizer.param_groups[0]["momentum"]:
                    momentum[name] = moved.mul_(decayed[1, 1]).add_(value, alpha=decayed[1, 0])
            if part is not None:
                self.shrunk.scatter(name, part, parameter)
                if (buffer := states[name].get("momentum_buffer")) is not None:
                    whole = momentum.setdefault(name, torch.zeros_like(parameter))
                    self.shrunk.scatter(name, buffer, whole)
        self._write_buffers(model, steps)

    def _write_buffers(self, model: nn.Module, steps: int) -> None:
        parts, whole = dict(self.network.named_buffers()), dict(model.named_buffers())
        for path, zero in self.shrunk.zero.items():
            norm = model.get_submodule(path)
            count = whole.get(f"{path}.num_batches_tracked")
            if count is not None:
                count += steps  # ours comes back below if it is there
                for name in ("running_mean", "running_var"):
                    statistic = whole[f"{path}.{name}"]
                    statistic[zero.to(statistic.device)] *= _share(norm, count, steps)
        for name, part in parts.items():
            if name in whole:
                self.shrunk.scatter(name, part, whole[name])


def _share(norm: nn.Module, count: Tensor, steps: int) -> float:
    """How much of a running statistic is left after some batches of zeros."""
    if norm.momentum is not None:
        return float((1 - norm.momentum) ** steps)  # type: ignore[operator]  # a number
    return 1 - steps / int(count)  # an average over all batches, these included


def _decay(group: Mapping[str, float], steps: int) -> np.ndarray:
    """What some steps of SGD make of (θ, momentum) where the gradient is zero: ``[2, 2]``.

    With ``g = λ θ``, ``v' = μ v + g`` and Nesterov's ``u = g + μ v'``: ``θ' = θ − η u``.
    """
    rate, decay, moment = group["lr"], group["weight_decay"], group["momentum"]
    velocity = np.array([decay, moment])
    step = np.array([decay, 0.0]) + moment * velocity
    one = np.array([[1.0, 0.0] - rate * step, velocity])
    return np.linalg.matrix_power(one, steps)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    parameters = dict(network.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(network.named_buffers(remove_duplicate=False))}
