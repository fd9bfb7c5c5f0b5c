"""The registry of pruners, and scoring by one of them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from collapse.errors import RequestError, first_line, unknown
from collapse.masks import check_fit
from collapse.models import (
    Masks,
    check_finite,
    import_user,
    line_of,
    plain,
    untouched,
)
from collapse.options import Mode
from collapse.scores import not_finite
from collapse.scores.inputs import ScoreInputs, Scores, check_scores, scoring_seed
from collapse.scores.warm_up import warmed

ScoreFunction = Callable[[nn.Module, Masks, ScoreInputs], Mapping[str, Tensor]]
Function = TypeVar("Function", bound=ScoreFunction)
Data = Literal["none", "shape", "labels"]

# Filled by ``pruner``; a plain function may be put in by hand and has the defaults of ``About``.
SCORES: dict[str, ScoreFunction] = {}


@dataclass(frozen=True)
class About:
    """What is to be known of a pruner besides its formula.

    Attributes:
        iterations: how often it scores on the way to the target, unless asked otherwise.
        mode: in which it scores the model, unless asked otherwise; None if it never runs it.
        data: what it takes from the batches: nothing, the inputs' shape, or all of them.
        stateless: it runs the model on other tensors (``models.call``), in the precision that it
            is asked for, and never touches the model's own, so it needs no copy of it.
        passes: how many forward passes a scoring takes the time of, about.
        regrows: every iteration ranks all that pruning started from, so that what an earlier one
            pruned can come back; its masks do not nest.
        certifies: pruning scores of sum M leaves at least ``Scores.total − M`` of the total, as
            Theorem 3 of Tanaka et al. 2020 has it: a sum over paths that pruning only takes paths
            from. The certified schedule takes no other pruner.
    """

    iterations: int = 1
    mode: Mode | None = "eval"
    data: Data = "labels"
    stateless: bool = False
    passes: int = 3
    regrows: bool = False
    certifies: bool = False


_ABOUT: dict[ScoreFunction, About] = {}


def pruner(
    *,
    iterations: int = 1,
    mode: Mode | None = "eval",
    data: Data = "labels",
    stateless: bool = False,
    passes: int = 3,
    regrows: bool = False,
    certifies: bool = False,
) -> Callable[[Function], Function]:
    """Register a score function under its own name; all of a new pruner is one such function.

    The function takes ``(model, masks, inputs)`` and returns a tensor for each name in ``masks``,
    in the parameter's shape; the highest scores are kept. Unless it is ``stateless``, the model
    that it is given is a copy with the pruned weights at zero, and may be run or changed at will.

    Args: see ``About``.

    Raises:
        RequestError: the name is taken.

    Example:
        >>> @pruner(data="none", mode=None)
        ... def inverse_magnitude(model, masks, inputs):
        ...     weights = dict(model.named_parameters())
        ...     return {name: -weights[name].detach().abs() for name in masks}
        >>> "inverse_magnitude" in SCORES
        True
    """

    def register(function: Function) -> Function:
        name = function.__name__
        if name in SCORES and _origin(SCORES[name]) != _origin(function):
            raise RequestError(f"pruner '{name}' is registered already: expected another name")
        _ABOUT[function] = About(iterations, mode, data, stateless, passes, regrows, certifies)
        SCORES[name] = function
        return function

    return register


@contextlib.contextmanager
def registered(name: str, function: ScoreFunction, known: About) -> Iterator[str]:
    """A pruner inside the block, with what is known of it."""
    SCORES[name], _ABOUT[function] = function, known
    try:
        yield name
    finally:
        del SCORES[name], _ABOUT[function]


def _origin(function: ScoreFunction) -> tuple[str, str]:
    """Where a function is defined: a module that is loaded again may register it again."""
    return function.__module__, getattr(function, "__qualname__", "")


def about(name: str) -> About:
    """What is known of a registered pruner.

    Raises:
        RequestError: unknown pruner.
    """
    if not isinstance(name, str):
        raise RequestError(
            f"pruner: expected a name, got {name!r}; give a function of your own one with "
            "@collapse.scores.pruner"
        )
    if name not in SCORES:
        raise unknown("pruner", name, SCORES)
    return _ABOUT.get(SCORES[name], About())


def load_pruner(name: str) -> str:
    """A pruner's name in ``SCORES``; ``package.module:function`` is registered under itself.

    Raises:
        RequestError: unknown name, or an import that fails.
    """
    if ":" in name and name not in SCORES:
        function = import_user(name, "pruner")
        if not callable(function):
            raise RequestError(f"pruner '{name}': expected a function (model, masks, inputs)")
        SCORES[name] = function
    if name not in SCORES:
        near = str(unknown("pruner", name, SCORES))
        raise RequestError(f"{near} (or package.module:function)")
    return name


def needs_labels(name: str) -> bool:
    """Whether a pruner looks at the samples; to others one input's shape is enough."""
    return about(name).data == "labels"


def mode_of(name: str, requested: Mode | None) -> Mode | None:
    """The mode that a pruner is scored in: None where it never runs the model.

    A request changes only what looks at the data: SynFlow's ``R`` is defined in eval mode.

    Raises:
        RequestError: unknown pruner or mode.
    """
    known = about(name)
    if requested is not None and requested not in get_args(Mode):
        raise unknown("mode", requested, get_args(Mode))
    return requested or known.mode if known.mode and known.data == "labels" else known.mode


def score(model: nn.Module, pruner: str, masks: Masks, inputs: ScoreInputs) -> Scores:
    """Score a model by a registered pruner, purely.

    Args:
        model: it is exactly as before afterwards.
        pruner: a name in ``SCORES``.
        masks: boolean, by parameter name; what is scored, and which of it is left.
        inputs: the batches, the mode and the precision to score in.

    Returns:
        Scores in the parameters' shapes; entries already pruned hold whatever the formula gives
        (zero, but for random, force and phew), and selection never looks at them.

    Raises:
        RequestError: unknown pruner or mode, masks of another network, non-finite weights or scores
            (the layer is named), a forward that fails or whose output is not a tensor.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, -3)
        >>> inputs = ScoreInputs([(torch.ones(1, 2), torch.zeros(1))], mode="eval")
        >>> score(layer, "magnitude", {"weight": torch.ones(1, 2).bool()}, inputs)["weight"]
        tensor([[3., 3.]])
    """
    known = about(pruner)
    model = plain(model)
    check_fit(model, masks)
    check_finite(model)
    mode = mode_of(pruner, inputs.mode) or "eval"
    warm = warmed(model, masks, inputs) if mode == "warm" else contextlib.nullcontext()
    with untouched(model, mode, scoring_seed(inputs)), warm, torch.enable_grad():
        if known.stateless:
            scores = SCORES[pruner](model, masks, inputs)
        else:
            scores = _by_user(pruner, model, masks, inputs)
    _check(scores, pruner, masks)
    if not isinstance(scores, Scores):
        scores = Scores({name: _plain(scores[name]) for name in masks})
    try:
        check_scores(scores, pruner)
    except RequestError as error:
        why, declared = "", SCORES[pruner] in _ABOUT  # of a plain function nothing is known
        if known.data == "labels":
            with untouched(model, mode, scoring_seed(inputs)):
                why = not_finite.cause(model, inputs, differentiated=declared)
        raise RequestError(f"{error}{why}") from None
    return scores


def _by_user(
    pruner: str, model: nn.Module, masks: Masks, inputs: ScoreInputs
) -> Mapping[str, Tensor]:
    """A user's own function gets a model and masks of its own, and may raise anything."""
    own = {name: mask.clone() for name, mask in masks.items()}
    try:
        return SCORES[pruner](_pruned_copy(model, masks), own, inputs)
    except (RequestError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # a user's pruner may raise anything
        raise RequestError(
            f"pruner '{pruner}' failed: {type(error).__name__}: {first_line(error)}{line_of(error)}"
        ) from error


def _pruned_copy(model: nn.Module, masks: Masks) -> nn.Module:
    """A copy of the model whose pruned weights are zero."""
    try:
        twin = copy.deepcopy(model)
    except Exception as error:  # a user's module may hold anything
        raise RequestError(
            "a pruner of your own is given a copy of the model, and this one cannot be copied: "
            f"{first_line(error)}"
        ) from error
    parameters = dict(twin.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].mul_(mask)
    return twin


def _plain(scores: Tensor) -> Tensor:
    """Numbers that can be ranked, of what a user's function returned."""
    scores = scores.detach()
    return scores if scores.is_floating_point() else scores.double()


def _check(scores: object, pruner: str, masks: Masks) -> None:
    if not isinstance(scores, Mapping):
        raise RequestError(
            f"pruner '{pruner}' returned {type(scores).__name__}: expected a dict of tensors by "
            "parameter name"
        )
    for name, mask in masks.items():
        found = scores.get(name)
        if not isinstance(found, Tensor) or found.shape != mask.shape:
            kind = "nothing" if found is None else f"no tensor but {type(found).__name__}"
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else kind
            raise RequestError(
                f"pruner '{pruner}', layer '{name}': expected scores of shape "
                f"{tuple(mask.shape)}, got {got}"
            )
        if found.is_complex():
            raise RequestError(
                f"pruner '{pruner}', layer '{name}': expected real scores, got {found.dtype}"
            )
