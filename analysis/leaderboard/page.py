"""The leaderboard as one HTML file that sorts: nothing is loaded from anywhere else."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from collapse import cli

Cell = tuple[str, float | str | None]  # what is shown, and what is sorted by


def _number(value: Any, digits: int = 3) -> Cell:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "", None
    value = float(value)
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"), value


def _first(row: Mapping[str, Any]) -> Cell:
    layer = row["first_collapsed_layer"]
    if not isinstance(layer, str):
        return ("" if row["problem"] else "none seen"), "~"
    kind = "cut" if row["collapsed_is_cut"] else "branch"
    return f"{layer.removesuffix('.weight')} ({kind})", layer


def _network(row: Mapping[str, Any]) -> Cell:
    words = str(row["network"])
    return (words if row["weights"] == "random" else f"{words}, {row['weights']}"), words


def _safety(row: Mapping[str, Any]) -> Cell:
    if row["safe_iterations"] is None:
        return ("", None) if row["problem"] else ("none", 1e9)
    return _number(row["safe_iterations"])


def _accuracy(name: str) -> Callable[[Mapping[str, Any]], Cell]:
    def cell(row: Mapping[str, Any]) -> Cell:
        words, value = _number(row[name])
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        return (words if low is None or not words else f"{words} [{low:.3g}, {high:.3g}]"), value

    return cell


def columns(table: pd.DataFrame) -> dict[str, tuple[str, Callable[[Mapping[str, Any]], Cell]]]:
    """Heading → what it means, and the cell of a row."""

    def plain(name: str, scale: float = 1.0) -> Callable[[Mapping[str, Any]], Cell]:
        return lambda row: _number(None if row[name] is None else row[name] * scale)

    def text(name: str) -> Callable[[Mapping[str, Any]], Cell]:
        return lambda row: (str(row[name] or ""), str(row[name] or "~"))

    accuracies = [
        name for name in table.columns
        if name.startswith("top1_") and not name.endswith(("_low", "_high"))
    ]  # fmt: skip
    return {
        "network": ("which network; at initialisation if nothing else is said", _network),
        "pruner": ("as registered, or package.module:function", text("pruner")),
        "iterations": ("how often it scored", plain("iterations")),
        "critical": ("the largest compression that leaves no layer empty",
                     plain("critical_compression")),
        "maximal": ("parameters over layers", plain("maximal_compression")),
        "connected until": ("the largest compression that leaves an input→output path",
                            plain("connected_until")),
        "effective": ("parameters over the fewest living weights with every layer alive",
                      plain("effective_critical_compression")),
        "first layer lost": ("cut: every path crosses it; branch: the network lives on", _first),
        "residual": ("how far the scores are from their conservation law", plain("residual")),
        "iterations to safety": ("fewest, of those tried, that leave every layer at a tenth of the "
                                 "maximal compression", _safety),
        "seconds": ("of the critical search", plain("seconds")),
        "memory (MB)": ("peak of the process above its start in the critical search; 0: what the "
                        "process held was enough", plain("peak_bytes", 1e-6)),
        **{
            f"top-1 at {name.removeprefix('top1_')}": (
                "test accuracy (%) after training what the pruner left, with its 95 % interval "
                "over seeds", _accuracy(name))
            for name in accuracies
        },
        **({"problem": ("why there are no numbers", text("problem"))} if
           table["problem"].notna().any() else {}),
    }  # fmt: skip


def page(table: pd.DataFrame, about: Mapping[str, Any]) -> str:
    """The page of a ``leaderboard`` table.

    Args:
        about: ``tables.provenance``.
    """
    named = columns(table)
    rows = cli.rows_of(table)
    head = "".join(
        f'<th scope="col" title="{html.escape(meaning)}"><button>{html.escape(name)}</button></th>'
        for name, (meaning, _) in named.items()
    )
    body = "\n".join(_row(row, [cell for _, cell in named.values()]) for row in rows)
    networks = "".join(
        f"<option>{html.escape(name)}</option>" for name in dict.fromkeys(table["network"])
    )
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    made = f"{about['created'][:10]}, {about['device']}: {about['command']} ({versions})"
    legend = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(meaning)}</dd>"
        for name, (meaning, _) in named.items()
    )
    return _PAGE.replace("@HEAD", head).replace("@NETWORKS", networks).replace(
        "@LEGEND", legend
    ).replace("@MADE", html.escape(made)).replace("@ROWS", body)  # fmt: skip


def _row(row: Mapping[str, Any], cells: list[Callable[[Mapping[str, Any]], Cell]]) -> str:
    found = []
    for cell in cells:
        words, key = cell(row)
        kind = "text" if isinstance(key, str) else "number"
        sort = html.escape(json.dumps(key), quote=True)
        # A long name, or an interval after its mean, may go on in a second line.
        shown = re.sub(r"([._])(?=\w)|(?<= )(?=\[)", r"\1<wbr>", html.escape(words))
        found.append(f'<td class="{kind}" data-key="{sort}">{shown}</td>')
    failed = ' class="failed"' if row["problem"] else ""
    return f'<tr{failed} data-network="{html.escape(str(row["network"]))}">{"".join(found)}</tr>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pruners at initialisation: the leaderboard</title>
<style>
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 1.5rem; }
h1 { font-size: 1.4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; }
th { position: sticky; top: 0; background: Canvas; border-bottom: 2px solid; text-align: left; }
th button { all: unset; cursor: pointer; padding: .3rem .4rem; font-weight: 600; }
th button:focus-visible { outline: 2px solid; }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
td { padding: .2rem .4rem; border-bottom: 1px solid #8884; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.failed td { color: #b22222; }
dl { columns: 2 24rem; font-size: .87rem; } dt { font-weight: 600; } dd { margin: 0 0 .4rem; }
</style></head><body>
<h1>Pruners at initialisation: the leaderboard</h1>
<p>A click on a heading sorts; a second one turns the order. <label>Network
<select id="network"><option value="">all</option>@NETWORKS</select></label></p>
<div class="scroll"><table><thead><tr>@HEAD</tr></thead><tbody>
@ROWS
</tbody></table></div>
<h2>What the columns mean</h2><dl>@LEGEND</dl>
<p><small>@MADE</small></p>
<script>
const body = document.querySelector("tbody"), heads = [...document.querySelectorAll("th")];
const key = (row, i) => JSON.parse(row.cells[i].dataset.key);
heads.forEach((head, i) => head.firstChild.addEventListener("click", () => {
  const down = head.getAttribute("aria-sort") === "ascending";
  heads.forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].map((row, place) => [key(row, i), place, row]);
  rows.sort(([a, m], [b, n]) => {
    if (a === null || b === null) return (a === null) - (b === null) || m - n;  // empty ones last
    return (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1) || m - n;
  });
  body.append(...rows.map(([, , row]) => row));
}));
document.querySelector("#network").addEventListener("change", event => {
  for (const row of body.rows)
    row.hidden = event.target.value !== "" && row.dataset.network !== event.target.value;
});
</script></body></html>
"""
