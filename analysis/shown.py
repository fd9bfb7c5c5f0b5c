"""Our results beside the published ones, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis import published
from analysis.agreement import (
    FEWEST_KEPT,
    GRID_STEP,
    KINDS,
    LOG10_DENSITY,
    OF_LOG_SOFTMAX,
    Comparison,
    alike,
    first_empty,
    looked,
)
from collapse import cli


def show(
    found: Mapping[str, Comparison], ours: Mapping[str, pd.DataFrame | None] | None = None
) -> None:
    """Print the verdict, the comparisons, what they do not cover, and how ours were made."""
    ours = ours or {}
    cli.print_table(
        headline(found, ours.get("densities")),
        [{"figure": name, **_row(name, found.get(name))} for name in published.NETWORKS],
        {
            "figure": "{figure}",
            "verdict": "{verdict}",
            "published": "{published:,d}",
            "run": "{run:,d}",
            "within": "{within:,d}",
            "bounded, outside": "{failed:d}",
            "largest deviation": "{deviation:>}",
            "where": "{where}",
            "within means": "{means}",
        },
        [
            *(line for name, each in found.items() for line in _lines(name, each, ours.get(name))),
            *second_seed(ours.get("densities"), ours.get("densities-second-seed")),
            *authors_code(ours.get("densities"), ours.get("densities-authors-code")),
            *log_softmax(ours.get("resnet34")),
            "bounded: where neither chance nor data plays a part, so that a point outside is exit "
            "code 1",
            "not compared: figure 3 (neurons) has no published numbers; figure 1's own are a panel "
            "of figure 6, up to compression 1,000",
        ],
    )


def _lines(name: str, each: Comparison, ours: pd.DataFrame | None) -> list[str]:
    return [
        *_kinds(name, each), *_by_pruner(name, each), *_outside(name, each), *_not_run(name, each),
        *(f"{name}: {line}" for line in _made(ours)),
    ]  # fmt: skip


def headline(found: Mapping[str, Comparison], densities: pd.DataFrame | None) -> str:
    """The paper's claim first, then how much of the published numbers was run and how it agrees."""
    ran = {name: each for name, each in found.items() if len(each.run)}
    without = [name for name in published.NETWORKS if name not in ran]
    run = sum(len(each.run) for each in ran.values())
    within = sum(int(each.run["within"].sum()) for each in ran.values())
    # Figure 1 is a panel of figure 6.
    every = sum(len(_published(n, found)) for n in published.NETWORKS if n != "accuracy")
    share = f"{within:,} of the {run:,} published points that were run agree, of {every:,} in all"
    left = f"; not run: {', '.join(without)}" if without else ""
    return f"{first_collapses(densities)}\n{share}{left}"


def _published(name: str, found: Mapping[str, Comparison]) -> pd.DataFrame:
    return found[name].points if name in found else published.load(name)


def first_collapses(densities: pd.DataFrame | None) -> str:
    """Which layers collapse first and at which compression, ours beside figure 2's."""
    claim = "where collapse first occurs (figure 2)"
    if densities is None or densities.empty:
        return f"not run: {claim}"
    ours, theirs = first_empty(densities), first_empty(published.load("densities"))
    agree = [pruner for pruner in theirs if pruner in ours and alike(ours[pruner], theirs[pruner])]
    each = "; ".join(
        f"{pruner} {ours[pruner]} (published: {first})" if pruner in ours else f"{pruner} not run"
        for pruner, first in theirs.items()
    )
    verdict = "reproduced" if len(agree) == len(theirs) else "partly"
    if not agree:
        verdict = "NOT reproduced" if disagreeing(densities) else "not run that far"
    return (
        f"{verdict}: {claim}: the same layer, at a compression at most one step of the grid "
        f"(x{GRID_STEP:g}) away, for {len(agree)} of {len(theirs)} pruners: {each}"
    )


def disagreeing(densities: pd.DataFrame | None) -> list[str]:
    """The pruners that were run and collapse elsewhere than in figure 2."""
    if densities is None or densities.empty:
        return []
    theirs = first_empty(published.load("densities"))
    ours = first_empty(densities)
    run = {name: ours[name] for name in theirs if name in ours and looked(ours[name], theirs[name])}
    return [name for name, first in run.items() if not alike(first, theirs[name])]


def second_seed(ours: pd.DataFrame | None, other: pd.DataFrame | None) -> list[str]:
    """The noise floor: how far another seed of ours lies from the first, by the same rule."""
    if ours is None or other is None:
        return []
    keys = ["pruner", "compression", "layer_index"]
    pairs = ours.merge(other, on=keys, suffixes=("", "_other"))
    large = pairs[pairs["kept"].clip(lower=pairs["kept_other"]) >= FEWEST_KEPT]
    apart = (large["density_other"] / large["density"]).apply(np.log10).abs()
    lines = []
    for pruner, rows in large.groupby("pruner", sort=False):
        far = apart[rows.index]
        lines.append(f"{pruner} {int((far <= LOG10_DENSITY).sum())} of {len(far)}, {far.max():.2f}")
    firsts = "; ".join(f"{pruner} {first}" for pruner, first in first_empty(other).items())
    return [
        f"densities: collapse first occurs with our second seed: {firsts}",
        "densities: noise floor: our second seed lies within the same bound of our first for (most "
        f"apart, log10): {'; '.join(lines)}",
    ]


def authors_code(ours: pd.DataFrame | None, theirs: pd.DataFrame | None) -> list[str]:
    """What is left of a deviation once the authors' code has the same weights and images."""
    if ours is None or theirs is None:
        return []
    keys = ["pruner", "compression", "layer_index"]
    pairs = ours.merge(theirs, on=keys, suffixes=("", "_theirs"))
    apart = (pairs["kept"] - pairs["kept_theirs"]).abs().astype(int)
    lines = []
    for pruner, rows in pairs.groupby("pruner", sort=False):
        far = apart[rows.index]
        only = int(((rows["kept"] == 0) != (rows["kept_theirs"] == 0)).sum())
        lines.append(
            f"{pruner} keeps as many weights in {int((far == 0).sum())} of {len(far)} layers and "
            f"compressions, at most {far.max():,d} more or fewer in the others, {only} are empty "
            "on one side only"
        )
    return [f"densities: the authors' code with our weights and images: {'; '.join(lines)}"]


def log_softmax(ours: pd.DataFrame | None) -> list[str]:
    """What the log-softmax at the end of a second study's networks explains.

    Both scores at the same compressions, against the mean of the published seeds.
    """
    if ours is None:
        return []
    theirs = published.load("resnet34")
    keys = ["compression", "layer_index"]
    lines = []
    for own, plain in OF_LOG_SOFTMAX.items():
        columns = {
            "there": theirs[theirs["pruner"] == plain],
            plain: ours[ours["pruner"] == plain],
            own: ours[ours["pruner"] == own],
        }
        means = {name: rows.groupby(keys)["density"].mean() for name, rows in columns.items()}
        both = pd.concat(means, axis=1).dropna()
        both = both[(both > 0).all(axis=1)]
        if both.empty:
            continue
        head = both.index.get_level_values("layer_index") == theirs["layer_index"].max()
        apart = {name: (both[name] / both["there"]).apply(np.log10).abs() for name in (plain, own)}
        at = ", ".join(f"{c:g}" for c in sorted(set(both.index.get_level_values("compression"))))
        lines.append(
            f"resnet34: {plain} by logits and by log-probabilities, as there, at compression {at}: "
            f"the head {apart[plain][head].max():.3f} and {apart[own][head].max():.3f} from the "
            f"published in log10 density, other layers at most {apart[plain][~head].max():.3f} and "
            f"{apart[own][~head].max():.3f}"
        )
    return lines


def _kinds(name: str, each: Comparison) -> list[str]:
    """What all the published points are: those at which layers collapse count like any other."""
    if "kind" not in each.points or each.run.empty:
        return []
    parts = []
    for kind in (*KINDS, "not run"):
        rows = each.points[each.points["kind"] == kind]
        within = "" if kind == "not run" else f" ({int(rows['within'].sum())} within)"
        parts.append(f"{len(rows)} {kind}{within}")
    return [f"{name}: {len(each.points):,} published = {' + '.join(parts)}"]


def _by_pruner(name: str, each: Comparison) -> list[str]:
    """Which pruners agree: the data-driven ones also depend on the images."""
    ran = each.run
    if ran.empty or "pruner" not in ran:
        return []
    counts = ran.groupby("pruner", sort=False)["within"].agg(["sum", "size"])
    words = [f"{pruner} {row['sum']} of {row['size']}" for pruner, row in counts.iterrows()]
    return [f"{name}: within: {', '.join(words)}"]


def _row(name: str, each: Comparison | None) -> dict[str, int | str | None]:
    ran = each.run if each is not None else pd.DataFrame()
    count = len(published.load(name) if each is None else each.points)
    row: dict[str, int | str | None] = {"run": len(ran), "published": count, "within": None}
    if each is None or ran.empty:
        nothing = dict.fromkeys(("deviation", "where", "means", "failed"))
        return row | {"verdict": "not run", **nothing}
    # A layer that is empty on one side is no number of decades away.
    far = ran["deviation"].abs().replace(np.inf, 0).fillna(0)
    worst = ran.iloc[int(far.argmax())].to_dict()
    return row | {
        "verdict": each.verdict,
        "failed": each.failed,
        "within": int(ran["within"].sum()),
        "deviation": f"{worst['deviation']:+.4g} {each.deviation}",
        "where": _place(worst, each),
        "means": each.criterion,
    }


def _keys(each: Comparison) -> list[str]:
    columns = list(each.points.columns)
    return columns[: columns.index("ours")]


def _place(row: Mapping[Any, Any], each: Comparison) -> str:
    words = []
    for key in _keys(each):
        value = row[key]
        words.append(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(word.removeprefix("pruner ").removeprefix("schedule ") for word in words)


def _outside(name: str, each: Comparison) -> list[str]:
    """Points that fail the check, by name: a reader wants to know which."""
    ran = each.points["ours"].notna() & each.bounded & ~each.points["within"]
    rows = each.points[ran]
    lines = [
        f"{name}: OUTSIDE at {_place(row, each)}: ours {row['ours']:.5g}, published "
        f"{row['published']:.5g}"
        for row in rows.head(5).to_dict("records")
    ]
    return lines + ([f"{name}: and {len(rows) - 5} more"] if len(rows) > 5 else [])


def _not_run(name: str, each: Comparison) -> list[str]:
    """What was not run, by its first keys; the last one or two are numbers in a list."""
    if each.missing.empty:
        return []
    keys = _keys(each)
    numbers = "compression" if "compression" in keys else keys[-1]
    others = [key for key in keys if key not in (numbers, "layer_index")]
    lines = []
    for of, rows in each.missing.groupby(_words(each.missing, others)):
        listed = sorted(rows[numbers].unique())
        few = ", ".join(f"{value:.4g}" for value in listed[:6]) + (", …" if len(listed) > 6 else "")
        lines.append(f"{of}: {numbers} {few}" if of else f"{numbers} {few}")
    if len(lines) > 8:
        return [f"{name}: not run: {len(each.missing)} points, e.g. {lines[0]}"]
    return [f"{name}: not run: {line}" for line in lines]


def _words(table: pd.DataFrame, columns: list[str]) -> pd.Series:
    """The values of some columns of each row in words."""
    words = pd.Series("", index=table.index)
    for column in columns:
        words = words + f"{column} " + table[column].astype(str) + " "
    return words.str.strip()


def _made(table: pd.DataFrame | None) -> list[str]:
    """How accuracies were trained, because a shorter schedule is another experiment."""
    if table is None or table.empty or not {"dataset", "epochs", "train_images"} <= {*table}:
        return []
    keys = ["dataset", "epochs", "train_images"]
    cut = table["evidence"] == "cut" if "evidence" in table else pd.Series(False, table.index)
    trained = table[~cut].value_counts(keys).reset_index()
    lines = [
        f"{row['count']} runs of {row['epochs']:g} epochs on {row['train_images']:,.0f} images of "
        f"{row['dataset']}"
        for row in trained.to_dict("records")
    ]
    lines += [
        f"{count} networks that are cut, untrained, of {dataset}"
        for dataset, count in table[cut].value_counts("dataset").items()
    ]
    made = table[keys].drop_duplicates()
    several = len(made) > made["dataset"].nunique()
    return lines + (["only the longest schedule is compared"] if several else [])
