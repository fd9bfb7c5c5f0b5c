"""One step of SGD changes ``‖θ_in‖² − ‖θ_out‖²`` of a hidden unit by a known amount (DESIGN 4.12).

Write ``⟨a, b⟩ = Σ_in a b − Σ_out a b`` for one unit, and ``c = ⟨θ, θ⟩``. Theorem 1 says
``⟨θ, g⟩ = 0`` for the gradient of any mini-batch, so plain SGD, ``θ' = θ − η g``, gives

    c' = c + η² ⟨g, g⟩,

exactly: the first order cancels, and what remains is GraSP's defect ``‖g_in‖² − ‖g_out‖²``. With
weight decay ``G = g + λ θ``, momentum ``v' = μ v + G`` and Nesterov's ``u = G + μ v'`` the same
cancellation leaves ``⟨θ, v'⟩ = μ ⟨θ, v⟩ + λ c`` and ``⟨θ, u⟩ = λ c + μ ⟨θ, v'⟩``, so that

    c' = c − 2 η ⟨θ, u⟩ + η² ⟨u, u⟩,    ⟨θ', v'⟩ = ⟨θ, v'⟩ − η ⟨u, v'⟩.

Only squares of what the optimizer applies are measured; the weights are looked at when it begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from collapse.devices import to_float64
from collapse.flow import HiddenUnits, Places
from collapse.train import Trainer


def balance(
    groups: Sequence[HiddenUnits], values: Mapping[str, Tensor], places: Places | None = None
) -> Tensor:
    """``Σ_in − Σ_out`` of some numbers a parameter, one for each unit, float64.

    Args:
        places: see ``HiddenUnits.inflow``.
    """
    parts = [group.inflow(values, places) - group.outflow(values, places) for group in groups]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


class StepLaw:
    """Predicts the conserved quantity of each unit from step to step, for one epoch.

    Args:
        groups: the units; those with a frozen parameter are left out of the law (NaN).
    """

    def __init__(self, trainer: Trainer, groups: Sequence[HiddenUnits]) -> None:
        self.trainer, self.groups = trainer, groups
        self.names = set().union(*(group.names for group in groups)) if groups else set()
        self.parameters = {n: trainer.parameters[n] for n in self.names & set(trainer.parameters)}
        self.frozen = self.names - set(trainer.trainable)
        # What a smaller network leaves out has no gradient: its part of the law holds by itself.
        self.places = {n: trainer.units_of(n) for n in self.parameters}
        layouts = {use.weight: use.layout for group in groups for use in group.outside}
        layouts.update({name: layout for group in groups for name, layout in group.inside})
        self.grouped = {n for n in self.places if layouts[n].get("groups", 1) > 1}
        self.places.update(dict.fromkeys(self.grouped, (None, None)))
        self.begin()

    def begin(self) -> None:
        """Forget the steps so far: the next one starts from the weights as they are."""
        self.conserved: Tensor | None = None
        self.along: Tensor | None = None  # ⟨θ, v⟩

    @torch.no_grad()
    def step(self) -> None:
        """The gradients are known, and the optimizer has not used them yet."""
        if not self.groups:
            return
        options = self.trainer.optimizer.param_groups[0]
        rate, momentum, decay = options["lr"], options["momentum"], options["weight_decay"]
        values = {n: p.detach() for n, p in self.parameters.items()}
        before = {n: self._momentum(p) for n, p in self.parameters.items()}
        if self.conserved is None or self.along is None:
            self.conserved = self._balance({n: x.square() for n, x in values.items()})
            self.along = self._balance({n: x * before[n] for n, x in values.items()})
        applied, products = {}, {}
        for name, parameter in self.parameters.items():
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            step = gradient.add(values[name], alpha=decay) if decay else gradient
            if momentum:
                after = step.add(before[name], alpha=momentum)
                step = step.add(after, alpha=momentum)
                products[name] = step * after
            applied[name] = step.square()
        along_after = momentum * self.along + decay * self.conserved
        along_step = decay * self.conserved + momentum * along_after
        self.conserved = self.conserved + rate**2 * self._balance(applied) - 2 * rate * along_step
        self.along = along_after
        if momentum:
            self.along = self.along - rate * self._balance(products)

    def predicted(self, conserved: Tensor) -> Tensor:
        """The conserved quantity after the steps so far; NaN before the first.

        Args:
            conserved: what it is.
        """
        if self.conserved is not None and self.trainer.smaller is None:
            return self.conserved
        if self.conserved is not None:
            trained = {n: p.detach().square() for n, p in self.parameters.items()}
            return self.conserved + conserved - self._balance(trained)
        count = sum(group.units for group in self.groups)
        return to_float64(torch.full((count,), float("nan"), device=self.trainer.device))

    def _momentum(self, parameter: Tensor) -> Tensor:
        buffer: Tensor | None = self.trainer.optimizer.state.get(parameter, {}).get(
            "momentum_buffer"
        )
        return torch.zeros_like(parameter) if buffer is None else buffer

    def _balance(self, values: dict[str, Tensor]) -> Tensor:
        for name in self.frozen:
            like = dict(self.trainer.model.named_parameters())[name]
            values[name] = torch.full_like(like.detach(), float("nan"))
        for name in self.grouped & set(values):
            values[name] = self.trainer.whole(name, values[name])
        return balance(self.groups, values, self.places)
