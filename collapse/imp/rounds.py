"""Iterative magnitude pruning: train, prune, rewind, level by level, with the score dynamics.

Frankle & Carbin 2019; rewinding to an early epoch after Frankle et al. 2020, learning-rate
rewinding after Renda et al. 2020. Any registered score can stand in magnitude's place. Pruning at
initialisation and training once is the same loop with no rounds (``levels`` 0).

The whole state at an epoch's boundary is one value, ``State``: given back to ``imp`` it continues
as if it had never stopped, because every random choice is derived from seed, level and epoch.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from torch import Tensor, nn

from collapse import connectivity, tables
from collapse import masks as masking
from collapse.data import Dataset
from collapse.errors import RequestError, unknown
from collapse.flow import HiddenUnits
from collapse.imp.dynamics import Dynamics, conserved_table, conserving_units
from collapse.models import Masks, Selector, check_in_place
from collapse.options import Pruning, Rewinding, Training
from collapse.problem import Problem
from collapse.pruning import Pruned, prune, target
from collapse.scores import Batch, about
from collapse.train import Trainer, recipes

# The tables of a run. training and score_dynamics are of the contract; the others add columns.
TABLES: tuple[str, ...] = ("training", "score_dynamics", "layers", "levels", "conserved_quantity")
_ROWS = tuple(name for name in TABLES if name != "conserved_quantity")


@dataclass
class State:
    """Where a run stands at the end of an epoch.

    Attributes:
        level: rounds of train, prune, rewind that are behind it.
        epoch: epochs of this level that are done.
        masks: boolean, by parameter name.
        tensors: parameters, buffers and momentum (``Trainer.snapshot``).
        rewind: the same at the rewind point, once that is reached.
        rows: of each table so far; ``conserved`` as from ``Dynamics.observe``.
        units: the places of the units whose quantity that is, and how many at each.
        weight_decay: by which it is expected to decay.
    """

    level: int
    epoch: int
    masks: Masks
    tensors: dict[str, Tensor] = field(default_factory=dict)
    rewind: dict[str, Tensor] | None = None
    rows: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _ROWS})
    conserved: list[list[float]] = field(default_factory=list)
    units: list[tuple[str, int]] = field(default_factory=list)
    weight_decay: float = 0.0

    @property
    def trained(self) -> int:
        """How many epochs are done, of all levels."""
        return sum(row["split"] == "train" for row in self.rows["training"])


@dataclass(frozen=True)
class Tickets:
    """What ``imp`` returns; the model holds the final weights.

    Attributes:
        masks: after the last level.
        tables: data frames by name (``TABLES``):
            ``training`` (a row an epoch and split), ``score_dynamics`` (epoch and layer: mean
            squared weight, mean |θ ⊙ g|, slope and correlation with inverse layer size),
            ``conserved_quantity`` (epoch and unit), ``layers`` (level and layer: densities),
            ``levels`` (level: compression, the layer that its ranking empties first and at which
            compression, accuracy).
    """

    masks: Masks
    tables: dict[str, pd.DataFrame]


def imp(
    model: nn.Module,
    train: Dataset,
    test: Dataset,
    compression: float,
    *,
    pruning: Pruning | None = None,
    training: Training | recipes.Settings | None = None,
    rewinding: Rewinding | None = None,
    batches: Sequence[Batch] = (),
    masks: Masks | None = None,
    output: Selector = None,
    compiled: bool = False,
    shrink: bool = True,
    say: Callable[[str], None] | None = None,
    state: State | None = None,
    on_boundary: Callable[[State], None] | None = None,
) -> Tickets:
    """Train, prune and rewind ``levels`` times, then train the ticket; the model in place.

    After level ``l`` of ``n`` exactly ``ceil(N / compression^(l/n))`` weights are kept; from masks
    at compression ``c`` on, the level's is ``c (compression / c)^(l/n)``. After rewinding,
    survivors equal the rewind point bit for bit, momentum and buffers included.

    Args:
        compression: of the ticket, total / kept.
        pruning: magnitude without it; its seed is that of training too.
        training: what it leaves out is the dataset's default (``recipes``).
        rewinding: levels (0: prune before training, no rounds), and where to go back to.
        batches: for the scores of data-driven pruners.
        masks: start from these, pruned stays pruned; everything prunable without them.
        output: selects a tensor from a forward that returns several.
        compiled, shrink, say: see ``Trainer``.
        state: go on from here; the model must be as it was built.
        on_boundary: called after every epoch and every pruning; to keep the state, save it there.

    Raises:
        RequestError: settings out of range, or anything that pruning and training raise.
        DivergedError: the loss is not finite.

    Example:
        >>> from collapse.data import load
        >>> data = load("gaussian", input_shape=(1, 4, 4), classes=2)
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> short, twice = Training(epochs=1, train_samples=20), Rewinding(levels=2)
        >>> tickets = imp(network, data, data, 4, training=short, rewinding=twice)
        >>> [round(compression, 2) for compression in tickets.tables["levels"]["compression"]]
        [1.0, 2.0, 4.0]
    """
    rewinding = rewinding or Rewinding()
    check_in_place(model)
    run = _Run(
        model=model,
        pruning=pruning or Pruning(pruner="magnitude"),
        settings=training
        if isinstance(training, recipes.Settings)
        else recipes.resolve(training or Training(), "", train.name, rounds=True),
        rewinding=rewinding,
        compression=compression,
        batches=batches,
        output=output,
        on_boundary=on_boundary or (lambda state: None),
    )
    device = next((parameter.device for parameter in model.parameters()), None)
    problem = Problem(
        model, [(train.inputs(slice(0, 1)).to(device=device), train.labels[:1])], output
    )
    model = run.model = problem.model
    start = problem.dense() if masks is None else masks
    if masks is not None:
        masking.check_fit(model, start)
    survivors = masking.kept(start)
    check(masking.sizes(start), compression, rewinding, run.settings, survivors)
    run.before = masking.total(start) / survivors
    for name in run.pruning.pruners:
        if about(name).data != "none":
            _ = Problem(model, batches).example  # there is one
    run.trainer = Trainer(
        model,
        train,
        test,
        run.settings,
        seed=run.pruning.seed,
        output=output,
        compiled=compiled,
        shrink=shrink,
        say=say,
    )
    run.groups = conserving_units(run.trainer)
    if state is None:
        state = State(level=0, epoch=0, masks=start)
        if rewinding.levels == 0:
            run.prune(state, compression)
    else:
        run.trainer.restore(state.tensors)
        state.masks = {n: m.to(run.trainer.device) for n, m in state.masks.items()}
    state.units = [(group.place, group.units) for group in run.groups]
    state.weight_decay = run.settings.weight_decay
    while True:
        run.train_level(state)
        if state.level == rewinding.levels:
            break
        run.next_level(state)
    return Tickets(state.masks, frames(state))


def check(
    sizes: dict[str, int],
    compression: float,
    rewinding: Rewinding,
    settings: recipes.Settings,
    survivors: int | None = None,
) -> None:
    """Fail before the work on what cannot be done: levels, rewind point, compression.

    Args:
        survivors: of masks to start from; all without them.

    Raises:
        RequestError: see above.
    """
    check_rounds(compression, rewinding, settings)
    total = sum(sizes.values())
    target(total, len(sizes), total if survivors is None else survivors, compression)


def check_rounds(compression: float, rewinding: Rewinding, settings: recipes.Settings) -> None:
    """The part of ``check`` that needs no network.

    Raises:
        RequestError: as ``check``.
    """
    masking.keep_count(1, compression)
    if rewinding.rewind not in ("weights", "learning-rate"):
        raise unknown("rewind", rewinding.rewind, ("weights", "learning-rate"))
    whole = isinstance(rewinding.levels, numbers.Integral)
    if not whole or rewinding.levels < 0:
        kind = "" if whole else ", a whole number"
        raise RequestError(f"--levels: expected 0 or more{kind}, got {rewinding.levels}")
    if rewinding.levels and not 0 <= rewinding.rewind_epoch <= settings.epochs:
        raise RequestError(
            f"--rewind-epoch: expected 0 to {settings.epochs} (--epochs), got "
            f"{rewinding.rewind_epoch}"
        )


@dataclass
class _Run:
    """One run's parts, and the three things that are done with them: train, prune, rewind."""

    model: nn.Module
    pruning: Pruning
    settings: recipes.Settings
    rewinding: Rewinding
    compression: float
    batches: Sequence[Batch]
    output: Selector
    on_boundary: Callable[[State], None]
    before: float = 1.0  # the compression of the masks that it starts from
    trainer: Trainer = field(init=False)
    groups: list[HiddenUnits] = field(init=False)

    def compression_at(self, level: int) -> float:
        """The goal of a level: the same factor each time."""
        levels, before = self.rewinding.levels, self.before
        if levels == level:
            return self.compression
        factor: float = (self.compression / before) ** (level / levels)
        return before * factor

    def train_level(self, state: State) -> None:
        self.trainer.hold(state.masks)
        time = state.conserved[-1][2] if _begun(state) else 0.0
        watch = Dynamics(self.trainer, state.masks, self.groups, state.level, time)
        if not _begun(state):
            rows, numbers = self.trainer.test(state.level, state.epoch, watch)
            self._note(state, watch, rows, numbers)
        self._take_rewind_point(state)
        for epoch in range(state.epoch, self.settings.epochs):
            rows, numbers = self.trainer.epoch(state.level, epoch, watch)
            state.epoch = epoch + 1
            self._note(state, watch, rows, numbers)
            self._take_rewind_point(state)
            self._boundary(state)
        self._close_level(state)

    def next_level(self, state: State) -> None:
        """Prune and rewind."""
        state.level += 1
        self.prune(state, self.compression_at(state.level))
        state.epoch = self.rewinding.rewind_epoch
        if self.rewinding.rewind == "weights":
            assert state.rewind is not None
            self.trainer.restore(state.rewind)
        else:  # the trained weights stay, momentum starts anew
            self.trainer.forget_momentum()
        self.trainer.hold(state.masks)
        self._boundary(state)

    def prune(self, state: State, compression: float) -> None:
        problem = Problem(self.model, self.batches, self.output)
        result = prune(problem, options=self.pruning, compression=compression, masks=state.masks)
        state.masks = result.masks
        example = next(self.trainer.feed.in_order(1))[0].to(self.trainer.dtype)
        alive = connectivity.living(self.model, result.masks, example, output=self.output)
        kept = masking.kept_by_layer(result.masks)
        state.rows["layers"] += [
            {"level": state.level, **row}
            for row in tables.layer_rows(
                masking.sizes(result.masks),
                kept,
                masking.kept_by_layer(alive),
                masking.sums(result.scores),
            )
        ]
        # Where each layer is ranked by itself no one ranking says which would be the first.
        ranked = self.pruning.ranks == "global"
        layer, critical = _first_to_collapse(result) if ranked else (None, None)
        state.rows["levels"].append(
            {
                "level": state.level,
                "compression": compression,
                "kept": sum(kept.values()),
                "collapsed_layers": len(masking.collapsed(result.masks)),
                "first_collapsed_layer": layer,
                "critical_compression": critical,
            }
        )

    def _note(
        self, state: State, watch: Dynamics, rows: list[dict[str, Any]], numbers: list[float]
    ) -> None:
        compression = self.compression_at(state.level)
        state.rows["training"] += [{"compression": compression, **row} for row in rows]
        layers, observation = watch.observe(numbers, state.epoch)
        state.rows["score_dynamics"] += layers
        state.conserved.append(observation)

    def _take_rewind_point(self, state: State) -> None:
        here = state.level == 0 and state.epoch == self.rewinding.rewind_epoch
        if here and self.rewinding.levels > 0 and state.rewind is None:
            state.rewind = self.trainer.snapshot()

    def _boundary(self, state: State) -> None:
        state.tensors = self.trainer.snapshot()
        self.on_boundary(state)

    def _close_level(self, state: State) -> None:
        """Accuracies into the level's row; the first level has none from pruning."""
        levels = state.rows["levels"]
        if not levels or levels[-1]["level"] != state.level:
            start = {
                "compression": self.before,
                "kept": masking.kept(state.masks),
                "collapsed_layers": len(masking.collapsed(state.masks)),
            }
            levels.append({"level": state.level, **start})
        tests = [
            row
            for row in state.rows["training"]
            if row["level"] == state.level and row["split"] == "test"
        ]
        levels[-1] |= {
            "top1": tests[-1]["top1"],
            "best_top1": max(row["top1"] for row in tests),
            "loss": tests[-1]["loss"],
        }


def frames(state: State) -> dict[str, pd.DataFrame]:
    """The tables of a state, also of an unfinished run."""
    found = {name: pd.DataFrame(rows) for name, rows in state.rows.items()}
    found["levels"] = found["levels"].reindex(columns=list(LEVEL_COLUMNS))
    found["conserved_quantity"] = conserved_table(state.units, state.conserved, state.weight_decay)
    return found


LEVEL_COLUMNS = (
    *("level", "compression", "kept", "collapsed_layers", "first_collapsed_layer"),
    *("critical_compression", "top1", "best_top1", "loss"),
)


def _begun(state: State) -> bool:
    """Whether the level has been observed at its start."""
    return bool(state.conserved) and state.conserved[-1][0] == state.level


def _first_to_collapse(result: Pruned) -> tuple[str | None, float | None]:
    """The layer that the last ranking empties first, and the compression just before it does."""
    if not result.scores:
        return None, None
    try:
        layer, rank = masking.first_to_collapse(result.scores, result.ranked)
    except RequestError:  # one had collapsed before
        return None, None
    return layer, masking.total(result.masks) / rank
