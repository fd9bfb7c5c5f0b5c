"""IMP's ticket beside those of pruning at initialisation (question 4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.experiments.shared import given
from analysis.experiments.study import HASTY, PAPER, TINY, Study, outcome
from analysis.questions.statistics import chance_overlap
from analysis.questions.tickets import IMP, TABLE
from analysis.resumable import Resources, Trained, complete
from collapse import masks as masking
from collapse import tables
from collapse.errors import RequestError
from collapse.options import Rewinding, Training

if TYPE_CHECKING:
    import pandas as pd

    from collapse.models import Masks


@dataclass(frozen=True)
class Config(Study):
    """Accuracy, densities and overlap of tickets of equal density.

    Every ticket is compared with IMP's of the same seed, which starts from the same weights, and
    with its own pruner's of the other seeds, which start from others.

    Attributes:
        levels: of IMP.
        rewind_epoch: of IMP.
        tickets: masks of your own (.safetensors) for this network, compared with IMP's.
    """

    levels: int = 2
    rewind_epoch: int = 0
    tickets: tuple[Path, ...] = ()


PRESETS = {
    "smoke": Config(TINY, HASTY, ("magnitude", "synflow"), (10.0,), seeds=(0, 1, 2), levels=1),
    "laptop": Config(),
    "paper": Config(PAPER, Training(), levels=3),
}


def points(config: Config) -> list[Trained]:
    """One of each seed, compression and pruner, and IMP's."""
    if config.levels < 1:
        raise RequestError(f"--levels: expected at least 1, got {config.levels}")
    found = [outcome(config.experiment(*one)) for one in config.each()]
    rounds = Rewinding(levels=config.levels, rewind_epoch=config.rewind_epoch)
    for seed, compression, _ in replace(config, pruners=("magnitude",)).each():
        found.append(outcome(config.experiment(seed, compression, "magnitude", rewinding=rounds)))
    return found


def run(config: Config, resources: Resources | None = None) -> pd.DataFrame:
    """The ``tickets`` table: a row a ticket and other ticket.

    ``overlap`` is the share of kept weights that both keep, ``chance_overlap`` what it would be if
    each layer kept as many anywhere (``chance_deviation`` around it), ``most_overlap`` what the
    layers' numbers allow; ``beyond_chance`` is 0 at the first and 1 at the last.

    Raises:
        RequestError: a mask file that is missing, of another network or of another density.
    """
    import pandas as pd

    resources = resources or Resources()
    every = points(config)
    own = _own(config, every[0])
    finished = complete(every, "outcomes", resources).drop_duplicates("run").set_index("run")
    rows: list[dict[str, Any]] = []
    for compression in given(config.compressions):
        tickets = [_ticket(p, resources, finished) for p in every if _of(p) == compression]
        rows += _compared(tickets, own.get(compression, []))
    return pd.DataFrame(rows).reindex(columns=list(tables.COLUMNS[TABLE])).infer_objects()


@dataclass(frozen=True)
class _Ticket:
    """A ticket's name (its pruner, or ``imp``), its columns, and its masks once it is there."""

    label: str
    row: dict[str, Any]
    masks: Masks | None

    @property
    def seed(self) -> int:
        return int(self.row["seed"])


def _of(point: Trained) -> float:
    return point.experiment.compression


def _ticket(point: Trained, resources: Resources, finished: pd.DataFrame) -> _Ticket:
    folder = point.experiment.run(resources.execution.runs).folder
    row = {name: point.row[name] for name in (*tables.SETTINGS, "compression", "levels")}
    label = IMP if row["levels"] else row["pruner"]
    if folder.name not in finished.index:
        return _Ticket(label, row, None)
    row |= {"run": folder.name, "best_top1": finished.loc[folder.name, "best_top1"]}
    return _Ticket(label, row, masking.load_masks(folder / "masks.safetensors"))


def _own(config: Config, point: Trained) -> dict[float, list[tuple[str, Masks]]]:
    """Your own masks by their compression.

    Raises:
        RequestError: see ``run``.
    """
    from collapse.models import build

    setup, train = config.setup, point.experiment.datasets()[0]
    classes = setup.classes or train.classes
    model = build(setup.model, input_shape=train.input_shape, classes=classes)
    dense = masking.dense(model, include=setup.include, exclude=setup.exclude)
    total = masking.total(dense)
    counts = {masking.keep_count(total, c): c for c in given(config.compressions)}
    found: dict[float, list[tuple[str, Masks]]] = {}
    stems: set[str] = set()
    for path in dict.fromkeys(config.tickets):
        masks = masking.load_masks(path, model, dense)
        kept = masking.kept(masks)
        if kept not in counts:
            expected = " or ".join(f"{n:,} (compression {c:g})" for n, c in counts.items())
            raise RequestError(f"ticket '{path}' keeps {kept:,} weights: expected {expected}")
        if path.stem in (IMP, *config.pruners) or path.stem in stems:
            raise RequestError(
                f"ticket '{path}': '{path.stem}' is another ticket's name: expected a file of "
                "another name"
            )
        stems.add(path.stem)
        found.setdefault(counts[kept], []).append((path.stem, masks))
    return found


def _compared(tickets: list[_Ticket], own: list[tuple[str, Masks]]) -> list[dict[str, Any]]:
    """Each with IMP's of its seed, and with its own kind's of later seeds."""
    rows = []
    for ticket in tickets:
        for other in tickets:
            same_seed = other.label == IMP != ticket.label and other.seed == ticket.seed
            same_kind = other.label == ticket.label and other.seed > ticket.seed
            if same_seed or same_kind:
                rows.append(_pair(ticket, other))
        if ticket.label == IMP:
            row = {**ticket.row, "levels": 0, "run": None, "best_top1": None}
            rows += [_pair(_Ticket(n, {**row, "pruner": n}, masks), ticket) for n, masks in own]
    return rows


def _pair(ticket: _Ticket, other: _Ticket) -> dict[str, Any]:
    row = {**ticket.row, "other": other.label, "other_seed": other.seed}
    if ticket.masks is None or other.masks is None:
        return {**row, "finished": False}
    row["other_best_top1"] = other.row["best_top1"]
    return {**row, **compare(ticket.masks, other.masks), "finished": True}


def compare(ours: Masks, theirs: Masks) -> dict[str, float | None]:
    """Two masks of one network: the columns of the table (see ``run``)."""
    sizes = masking.sizes(ours)
    kept, other = (list(masking.kept_by_layer(masks).values()) for masks in (ours, theirs))
    whole = max(sum(kept), sum(other))
    shared = sum(int((mask & theirs[name]).sum()) for name, mask in ours.items())
    chance, deviation = chance_overlap(kept, other, sizes.values())
    most = sum(map(min, kept, other))
    shares = [abs(a / sum(kept) - b / sum(other)) for a, b in zip(kept, other, strict=True)]
    return {
        "density_distance": sum(shares) / 2,
        "overlap": shared / whole,
        "chance_overlap": chance / whole,
        "chance_deviation": deviation / whole,
        "most_overlap": most / whole,
        # Where chance leaves nothing open there is nothing to be beyond.
        "beyond_chance": (shared - chance) / (most - chance) if most - chance > 1e-9 else None,
    }
