"""Assertions for a user's own test suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import conservation
from collapse import masks as masking
from collapse.conservation import Audit, audit, likely_cause
from collapse.errors import RequestError, first_line
from collapse.models import Masks, Selector
from collapse.options import Mode, Pruning
from collapse.pruning import prune
from collapse.scores import Batch, Loss, ScoreInputs, about, mode_of, score
from collapse.seeding import generator


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


# --- Other people's implementations -----------------------------------------------------------

# (model, masks, inputs) → scores, and (model, batches, keep, masks) → masks.
Scoring = Callable[[nn.Module, Masks, ScoreInputs], Mapping[str, Tensor]]
PruningFunction = Callable[[nn.Module, Sequence[Batch], int, Masks], Mapping[str, Tensor]]


def assert_matches(
    mine: Scoring | PruningFunction,
    pruner: str,
    *,
    prunes: bool = False,
    iterations: int | None = None,
    tolerance: float = 1e-6,
    overlap: float = 0.98,
) -> None:
    """Assert that somebody's implementation of a pruner is that pruner.

    It is run on small networks in float64, each of which some known fault gets wrong: random
    running statistics, weights that see padding only (zero scores, hence ties), a shortcut, and
    weights that are pruned already.

    Args:
        mine: scores of ``(model, masks, inputs)``, compared up to a positive factor; or, if it
            ``prunes``, masks (zeros and ones) of ``(model, batches, keep, masks)``, from those
            masks down to ``keep`` weights on an exponential schedule.
        pruner: a name in ``SCORES``, but for ``random``.
        iterations: of the pruning; the pruner's own without it.
        tolerance: of scores, as a share of the largest one.
        overlap: which share of the weights that are kept must be the same ones: schedules of many
            iterations may differ by a weight a step.

    Raises:
        AssertionError: names the network, the layer, both numbers and the likely fault.
        RequestError: an unknown pruner, one that is drawn at random, or a tolerance out of range.

    Example:
        >>> assert_matches(lambda model, masks, inputs: score(model, "snip", masks, inputs), "snip")
    """
    about(pruner)
    if pruner == "random":
        raise RequestError("random scores match no others: expected a pruner with a formula")
    if not (tolerance > 0 and 0 < overlap <= 1):
        raise RequestError(
            f"expected a tolerance above 0 and an overlap up to 1, got {tolerance:g}, {overlap:g}"
        )
    for case in _cases():
        inputs = ScoreInputs(case.batches, mode=mode_of(pruner, None) or "eval")
        masks = masking.dense(case.model)
        ours = score(case.model, pruner, masks, inputs)
        if case.start != "dense":  # without the highest scores, which regrowth would bring back
            top = masking.select(ours, masking.total(masks) // 5)
            masks = {name: ~mask for name, mask in top.items()}
            ours = score(case.model, pruner, masks, inputs)
        if prunes:
            _same_masks(mine, Pruning(pruner, iterations), case, masks, ours, overlap)
        else:
            theirs = _called(mine, case, (case.model, masks, inputs))
            _same_scores(theirs, pruner, case, masks, ours, tolerance)


class _Case(NamedTuple):
    """A network that a known fault gets wrong."""

    name: str
    model: nn.Module
    batches: list[Batch]
    start: str
    fault: str


class _Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y: Tensor = self.head(x + self.branch(x).relu())
        return y


def _cases() -> Iterator[_Case]:
    """The networks, anew: an implementation may change what it is given."""
    draw = generator(0, "conformance")

    def ready(model: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Module, list[Batch]]:
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.is_floating_point():
                    values = torch.randn(tensor.shape, generator=draw, dtype=torch.float64)
                    tensor.data = values
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
                    module.running_var.abs_().add_(0.5)
        x = torch.randn(9, *shape, generator=draw, dtype=torch.float64)
        return model.double(), [(x, torch.arange(9) % 3)]

    def chain() -> nn.Module:
        return nn.Sequential(
            nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)
        )

    def normalised(size: int) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.MaxPool2d(size), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)),
        )

    absolute = (
        "is the absolute value taken of parameters only, and are biases and running means out of R?"
    )
    yield _Case("a chain", *ready(chain(), (6,)), "dense", "is it another score?")
    yield _Case("running statistics", *ready(normalised(2), (2, 6, 6)), "dense", absolute)
    ties = "are all weights at the threshold pruned, and not only as many as asked for?"
    yield _Case("weights that see padding only", *ready(normalised(4), (2, 4, 4)), "dense", ties)
    yield _Case("a shortcut", *ready(_Shortcut(), (5,)), "dense", "is a branch left out?")
    pruned = "do pruned weights take part in the forward, or return?"
    yield _Case("pruned weights", *ready(chain(), (6,)), "pruned", pruned)


def _called(mine: Callable[..., object], case: _Case, arguments: tuple) -> Mapping[str, Tensor]:  # type: ignore[type-arg]
    """What an implementation returns, if it leaves the model as it was."""
    before = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    modes = [module.training for module in case.model.modules()]
    try:
        found = mine(*arguments)
    except Exception as error:
        raise AssertionError(
            f"{case.name}: it raised {type(error).__name__}: {first_line(error)}"
        ) from error
    after = case.model.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    if changed or modes != [module.training for module in case.model.modules()]:
        what = f"'{changed[0]}'" if changed else "the training flags"
        raise AssertionError(f"{case.name}: it changed {what} of the model and left it so")
    expected = masking.dense(case.model)
    for name, mask in expected.items():
        there = found.get(name) if isinstance(found, Mapping) else None
        if not isinstance(there, Tensor) or there.shape != mask.shape:
            got = tuple(there.shape) if isinstance(there, Tensor) else type(there).__name__
            raise AssertionError(
                f"{case.name}: expected a tensor of shape {tuple(mask.shape)} for '{name}', "
                f"got {got}"
            )
    assert isinstance(found, Mapping)
    return found


def _same_scores(
    theirs: Mapping[str, Tensor],
    pruner: str,
    case: _Case,
    masks: Masks,
    ours: Mapping[str, Tensor],
    tolerance: float,
) -> None:
    one = torch.cat([ours[name][mask].double() for name, mask in masks.items()])
    other = torch.cat([theirs[name][mask].detach().double() for name, mask in masks.items()])
    scale = float(other.abs().sum()) or 1.0
    one, other = one / one.abs().sum(), other / scale
    apart = (one - other).abs()
    if bool((apart <= tolerance * one.abs().max()).all()):
        return
    worst, layers = int(apart.nan_to_num(nan=torch.inf).argmax()), []
    for name, mask in masks.items():
        layers += [name] * masking.kept({name: mask})
    raise AssertionError(
        f"not {pruner} on {case.name}: at '{layers[worst]}' a share of {float(other[worst]):.6g} "
        f"of all score where {float(one[worst]):.6g} is right; likely: "
        f"{_magnitude(other, case.model, masks) or case.fault}"
    )


def _magnitude(other: Tensor, model: nn.Module, masks: Masks) -> str:
    """A word where the scores rank as |θ| does: an exception may have been swallowed."""
    parameters = dict(model.named_parameters())
    size = torch.cat([parameters[name].detach()[mask].abs() for name, mask in masks.items()])
    same = torch.equal(other.argsort(stable=True), size.argsort(stable=True))
    return "these are magnitudes, a silent fallback" if same else ""


def _same_masks(
    mine: Callable[..., object],
    options: Pruning,
    case: _Case,
    masks: Masks,
    ours: Mapping[str, Tensor],
    overlap: float,
) -> None:
    pruner = options.pruner
    zero = sum(int((ours[name][mask] == 0).sum()) for name, mask in masks.items())
    # Among ties, where there are some; else a third of what is left.
    keep = masking.kept(masks) - zero // 2 if zero else masking.kept(masks) // 3
    given = {name: mask.clone() for name, mask in masks.items()}
    found = _called(mine, case, (case.model, case.batches, keep, given))
    theirs = {name: found[name].detach() != 0 for name in masks}
    count = masking.kept(theirs)
    for name, mask in masks.items():
        back = masking.kept({name: theirs[name] & ~mask})
        if back:
            raise AssertionError(
                f"not {pruner} on {case.name}: {back:,} weights of '{name}' that were pruned are "
                "back; likely: regrowth, for the scores are of all weights and not of the survivors"
            )
    if count != keep:
        raise AssertionError(
            f"not {pruner} on {case.name}: {count:,} weights are kept where {keep:,} were asked "
            f"for; likely: {case.fault}"
        )
    right = prune(case.model, case.batches, options, keep=keep, masks=masks).masks
    same = masking.kept({name: theirs[name] & right[name] for name in right})
    # Which of the ties are kept is a convention; the others are not.
    free = min(zero, keep) if zero else 0
    if same + free < overlap * keep:
        size = prune(case.model, case.batches, Pruning("magnitude"), keep=keep, masks=masks).masks
        fallback = all(torch.equal(theirs[name], size[name]) for name in size)
        likely = "these are the largest weights, a silent fallback" if fallback else case.fault
        raise AssertionError(
            f"not {pruner} on {case.name}: {same:,} of {keep:,} weights are the right ones; "
            f"likely: {likely}"
        )
