"""Assertions for a user's own test suite."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import conservation
from collapse.conservation import Audit, audit, likely_cause
from collapse.errors import RequestError
from collapse.models import Masks, Selector
from collapse.options import Mode
from collapse.scores import Loss


def assert_conserved(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor | None = None,
    *,
    pruner: str = "synflow",
    tolerance: float = 1e-5,
    mode: Mode | None = None,
    masks: Masks | None = None,
    loss: Loss = F.cross_entropy,
    output: Selector = None,
) -> Audit:
    """Assert that a network conserves saliency and that a pruner's scores are that saliency.

    Args:
        inputs: ``[batch, …]``; for synflow only the shape counts.
        targets: classes ``[batch]``, for pruners that use a loss; zeros without it.
        pruner: a name in ``SCORES`` (yours too, once it is registered).
        tolerance: largest allowed ``|lhs − rhs| / max(1, absolute flow)``.

    Returns:
        The audit, for a closer look: ``str(audit.coverage)`` says which cuts, units and scores
        were checked.

    Raises:
        AssertionError: names the layer or unit, both sides, the likely cause, and the coverage.
        RequestError: the check cannot be made (see ``audit``), or a tolerance that is not
            positive.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> found = assert_conserved(network, torch.ones(2, 4), pruner="synflow")
        >>> assert_conserved(network, torch.ones(2, 4), pruner="magnitude")
        Traceback (most recent call last):
        AssertionError: ...
    """
    if not tolerance > 0:
        raise RequestError(f"tolerance: expected more than 0, got {tolerance:g}")
    if targets is None:
        targets = torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)
    found = audit(
        model, (inputs, targets), pruner=pruner, mode=mode, masks=masks, loss=loss, output=output
    )
    worst = conservation.worst(found.ledger)
    beyond = worst[~(worst["residual"] <= tolerance)]
    if len(beyond):
        lines = [
            f"{row['identity']} at {row['place']}: {row['lhs']:.9g} against {row['rhs']:.9g} "
            f"(residual {row['residual']:.2e} > {tolerance:g}); likely cause: "
            f"{likely_cause(row['identity'])}"
            for row in beyond.to_dict("records")
        ]
        raise AssertionError(
            f"{pruner} is not conserved on this network:\n"
            + "\n".join([*lines, f"covered: {found.coverage}"])
        )
    return found
