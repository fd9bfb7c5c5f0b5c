"""A report as one self-contained page: works offline, on a phone and on paper."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from analysis.report import charts, graph, verdict
from analysis.report.facts import Facts, facts_of, short
from analysis.report.gather import Report
from analysis.report.glossary import GLOSSARY
from analysis.report.numbers import apart, counted, down, listed, near, percent, up
from analysis.report.reproducing import commands
from collapse import cli, tables
from collapse.plots import style

# Residuals of the laws are rounding up to here, as `collapse.conservation --tolerance` has it.
TOLERANCE = 1e-5

_PLACES = {"True": "cut layer", "False": "branch"}

# A pruner's marker, by matplotlib's name of it in the figures.
_SHAPES = {"p": "pentagon", "s": "square", "^": "up", "D": "diamond", "o": "circle"}


def render(report: Report, device: str) -> str:
    """The page's HTML."""
    folder = FileSystemLoader(Path(__file__).parent / "template")
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"marked": marked, "short": short}
    facts = facts_of(report)
    says = verdict.verdict(facts)
    found = charts.densities(report)
    axis, rows = charts.bars(facts)
    missing = [name for name, _ in report.notes if name.partition(",")[0] in report.pruners]
    context = {
        "report": report, "facts": facts, "says": says, "bars": rows, "bar_axis": axis,
        "other_notes": [note for note in report.notes if note[0] not in missing],
        "problems": {name: part.problem for name, part in report.parts.items()},
        "critical": _records(report.parts["critical"].table),
        "reasons": [
            (one, verdict.reason(one, facts)) for one in facts.outcomes if not one.certified
        ],
        "said": report.said, "commands": commands(report), "glossary": GLOSSARY,
        "made": tables.provenance("report", device),
        "name": style.name, "down": down, "up": up, "near": near, "percent": percent,
        "polygon": charts.polygon, "pruners": list(report.pruners),
        **_looks(report), **_laws(report), **_charts(report, facts),
        **_layers(report, facts, found),
        **(_nothing() if found is None else _moving(report, facts, found)),
    }  # fmt: skip
    return environment.get_template("page.html.j2").render(context)


def marked(text: str) -> Markup:
    """With what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _records(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    return [] if table is None else cli.rows_of(table)


def _looks(report: Report) -> dict[str, Any]:
    """Each pruner's shape, and its colour on white and on black paper."""
    pruners = list(report.pruners)
    shapes = {p: _SHAPES.get(style.marker(p), "plus") for p in pruners}
    colours = {p: (style.colour(p), _on_dark(style.colour(p))) for p in pruners}
    classes = {p: i for i, p in enumerate(pruners)}
    return {"shapes": shapes, "colours": colours, "classes": classes}


def _on_dark(colour: str) -> str:
    """A colour light enough for a dark page."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    light = (0.299 * parts[0] + 0.587 * parts[1] + 0.114 * parts[2]) / 255
    white = max(0.0, (0.55 - light) / (1 - light))
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)


def _laws(report: Report) -> dict[str, Any]:
    """The conservation table, and one line on it."""
    rows = _records(report.parts["conservation"].table)
    outside = [row for row in rows if row["identity"] == "outside the theory"]
    laws = [row for row in rows if row["identity"] != "outside the theory"]
    failing = [row for row in laws if not row["residual"] <= TOLERANCE]
    if not laws:
        line = "No conservation law applies."
    elif failing:
        worst = max(failing, key=lambda row: float(row["residual"]))
        line = (
            f"{len(failing)} of {counted(len(laws), 'conservation law')} do not hold to "
            f"{TOLERANCE:g}; the worst, {worst['identity']} ({worst['flow']}), is off by "
            f"{worst['residual']:.1e} at {worst['place']}."
        )
    else:
        residual = max(float(row["residual"]) for row in laws)
        line = f"All {counted(len(laws), 'conservation law')} hold, to {residual:.1e}."
    if outside:
        kinds = sorted({str(row["place"]).rpartition(":")[2] for row in outside})
        line += f" Outside the theory, where flow is made or lost: {listed(kinds)}."
    return {"conservation": rows, "outside": outside, "laws_line": line,
            "laws_hold": bool(laws) and not failing}  # fmt: skip


def _charts(report: Report, facts: Facts) -> dict[str, Any]:
    score, dead = report.parts["scores"].table, report.parts["densities"].table
    fits = [
        f"{one.name} {round(one.scores.slope, 2) + 0.0:.2f} (r {one.scores.r:.2f})"
        for one in facts.outcomes
        if one.scores.slope is not None and not one.certified
    ]
    slopes = ", ".join(fits) or "not known"
    return {
        "score_chart": charts.scores(score), "dead_chart": charts.dead(dead), "slopes": slopes,
        "score_says": f"Mean layer score against inverse layer size. Slopes: {slopes}.",
        "dead_says": "Share of dead weights by compression, one curve a pruner; the numbers are "
        "in the points' titles.",
    }  # fmt: skip


def _layers(report: Report, facts: Facts, found: charts.Densities | None) -> dict[str, Any]:
    """The layer table: in order of execution where that is known."""
    rows = {row["layer"]: row for row in _records(report.parts["doctor"].table)}
    layers = list(report.layers) if found is None else found.layers
    table, labels = [], apart([c for c, _ in facts.moments])
    for index, layer in enumerate(layers):
        row = rows.get(layer, {})
        place = _PLACES.get(str(row.get("is_cut")), "unknown")
        first = next(
            ((c, f"{m.name}, by {label}×")
             for label, (c, moments) in zip(labels, facts.moments, strict=True) for m in moments
             if short(layer) in m.empty), None,
        )  # fmt: skip
        table.append(
            {
                "name": short(layer), "shape": row.get("shape", "").replace("x", "×"),
                "parameters": report.layers[layer], "place": place, "index": index,
                "share": report.layers[layer] / report.parameters,
                "emptied": "none" if first is None else first[1],
                "emptied_at": float("inf") if first is None else first[0],
                "living": row.get("living", 0), "verdict": row.get("verdict", ""),
            }
        )  # fmt: skip
    places = sorted({row["place"] for row in table})
    return {"layer_rows": table, "places": places, "doctor": bool(rows)}


def _nothing() -> dict[str, Any]:
    """Without densities there is neither map nor slider."""
    return {"panels": [], "stops": [], "start": 0, "shown": 0, "data": Markup("{}")}


def _moving(report: Report, facts: Facts, found: charts.Densities) -> dict[str, Any]:
    """The heat map and the graph, and what the slider puts on them."""
    axis, panels = charts.heat_map(found, facts)
    scale = graph.track(found)
    classes = found.classes()
    stops = []
    labels = apart(found.stops)
    for s, (compression, moments) in enumerate(facts.moments):
        sentence = verdict.at_compression(compression, labels[s], moments, facts)
        left = [
            list(zip(found.values[p, s].tolist(), found.states[p, s].tolist(), strict=True))
            for p in range(len(panels))
        ]
        texts = [[_density(*one) for one in layers] for layers in left]
        places = [[graph.place(scale, *one) for one in layers] for layers in left]
        stops.append(
            {
                "label": labels[s], "sentence": marked(sentence),
                "spoken": sentence.replace("`", ""), "at": axis.at(compression),
                "places": places, "densities": texts, "classes": classes[:, s].tolist(),
            }
        )  # fmt: skip
    start = next((s for s, (_, ms) in enumerate(facts.moments) if any(m.empty for m in ms)),
                 len(stops) - 1)  # fmt: skip
    shown = next((p for p, m in enumerate(facts.moments[start][1]) if m.empty), 0)
    nodes = report.nodes
    drawn = graph.drawing(nodes, facts) if nodes else graph.listed_only(found.layers, facts)
    names = [short(layer) for layer in found.layers]
    many = len(names)
    cut = sum(facts.cuts.get(name) is True for name in names)
    height = min(max(14 * many, 120), 900)
    step = -(-many * 12 // height)
    data = {"stops": stops, "start": start, "pruner": shown, "layers": names,
            "pruners": [style.name(p) for p in found.pruners]}  # fmt: skip
    print_row = min(15.0, 330 / len(drawn.rows))
    return {
        "panels": panels, "stops": stops, "start": start, "shown": shown,
        "pruners": found.pruners, "rows": many, "here": axis.at(facts.moments[start][0]),
        "floor": percent(found.floor), "heat_high": height, "print_high": min(height, 300),
        "label_width": min(150, 20 + 6 * max(map(len, names))),
        "row_names": [(round(100 * (i + 0.5) / many, 2), name, facts.cuts.get(name))
                      for i, name in enumerate(names) if i % step == 0],
        "heat_says": [_heat_says(panel.name, facts, labels) for panel in panels],
        "heat_ticks": axis.ticks(3), "chips": _chips(facts, labels), "graph": drawn,
        "index": {layer: i for i, layer in enumerate(found.layers)},
        "cut_count": f"{cut} of them cut layers" if facts.cuts else "cut layers unknown",
        "track_ticks": [(round(graph.FIRST + (graph.LAST - graph.FIRST) * at / 100, 1), label)
                        for at, label in scale.ticks(4) if at > 10],
        "offsets": [round(100 * (p + 1) / (len(panels) + 1)) for p in range(len(panels))],
        "name_width": "min(14rem, 38%)", "print_row": round(print_row, 1),
        "graph_prints": print_row >= 6.5, "data": Markup(_json(data)),
    }  # fmt: skip


def _density(density: float, state: int) -> str:
    return "empty" if state == 2 else percent(density) + " (dead)" * (state == 1)


def _json(data: dict[str, Any]) -> str:
    """Safe inside a script element."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _chips(facts: Facts, labels: list[str]) -> list[tuple[int, str]]:
    """The stops that pruners single out, with why."""
    found = []
    asked = [one for one in facts.outcomes if not one.certified]
    seed = " (first seed)" * (facts.seeds > 1)
    for index, (compression, _) in enumerate(facts.moments):
        ends = [one.name for one in asked if one.found[0].critical == compression]
        paths = [one.name for one in asked if one.found[0].connected == compression]
        if ends or paths:
            words = [f"{listed(ends, 6)}: critical"] if ends else []
            words += [f"{listed(paths, 6)}: last path"] if paths and paths != ends else []
            found.append((index, f"{labels[index]}× {'; '.join(words)}{seed}"))
    return found


def _heat_says(name: str, facts: Facts, labels: list[str]) -> str:
    """What a reader who sees no map has to know of it."""
    words = []
    known: set[str] = set()
    for label, (_, moments) in zip(labels, facts.moments, strict=True):
        for one in moments:
            new = [layer for layer in one.empty if layer not in known] if one.name == name else []
            if new:
                words.append(f"{listed(new, 6)} empty at {label}×")
                known |= set(new)
    return f"{name}: density by layer and compression. " + ("; ".join(words) or "No layer empty")
