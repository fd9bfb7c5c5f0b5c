"""A report as one self-contained page: works offline, on a phone and on paper."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from analysis.report.gather import Report, reasons
from collapse import tables
from collapse.plots import layer_means, style

_LOG: dict[str, Any] = {"type": "log", "dtick": 1, "exponentformat": "power"}


_SYMBOLS = {"random": "x", "magnitude": "square", "snip": "triangle-up", "grasp": "diamond"}


def render(report: Report, device: str) -> str:
    """The page's HTML."""
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, autoescape=True, undefined=StrictUndefined)
    parts = report.parts
    figures = {
        "critical": _critical(parts["critical"].table),
        "densities": _densities(parts["densities"].table),
        "dead": _dead(parts["densities"].table),
        "scores": _scores(parts["scores"].table),
    }
    return environment.get_template("template.html.j2").render(
        report=report,
        plotly=get_plotlyjs(),
        figures={name: _html(name, figure) for name, figure in figures.items()},
        problems={name: part.problem for name, part in parts.items()},
        critical=_records(parts["critical"].table),
        conservation=_records(parts["conservation"].table),
        doctor=_records(parts["doctor"].table),
        reasons=reasons(report),
        said=report.said,
        commands=commands(report),
        made=tables.provenance("report", device),
        name=style.name,
        number=_number,
    )


def commands(report: Report) -> dict[str, str]:
    """What to type for each part's table."""
    setup = report.setup
    words = ["--model", setup.model, "--dataset", setup.dataset]
    for option in fields(setup):
        value = getattr(setup, option.name)
        if option.name not in ("model", "dataset", "device") and value != option.default:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{option.name.replace('_', '-')}", *map(str, values)]
    network = " ".join(shlex.quote(word) for word in words)
    seed = f" --seed {report.seed}" if report.seed else ""
    table = report.parts["densities"].table
    stops = [] if table is None else sorted(table["compression"].unique())
    listed = " ".join(f"{stop:g}" for stop in stops)
    return {
        "doctor": f"python -m collapse.doctor {_examined(report)}",
        "critical": f"python -m collapse.critical {network}"
        + (f" --seeds {report.seed}" if report.seed else ""),
        "densities": f"python -m analysis densities {network}{seed} --mode train --living"
        + (f" --compressions {listed}" if listed else ""),
        "scores": f"python -m analysis layer-scores {network}{seed} --mode train",
        "conservation": f"python -m collapse.conservation {network}{seed}",
    }


def _examined(report: Report) -> str:
    """The doctor takes the network and the shape of its input, and no data."""
    setup = report.setup
    words = ["--model", setup.model, "--input-shape", *map(str, report.input_shape)]
    if report.outputs is not None:
        words += ["--classes", str(report.outputs)]
    for option in ("init", "weights", "output"):
        value = getattr(setup, option)
        words += [] if value is None else [f"--{option}", value]
    words += ["--seed", str(report.seed)] if report.seed else []
    return " ".join(shlex.quote(word) for word in words)


def _records(table: pd.DataFrame | None) -> list[dict[Any, Any]]:
    if table is None:
        return []
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.6g}"


def _html(name: str, figure: go.Figure | None) -> str:
    if figure is None:
        return ""
    figure.update_layout(
        template="simple_white",
        margin={"l": 60, "r": 10, "t": 30, "b": 40},
        legend={"orientation": "h", "y": 1.12},
        font={"family": "system-ui, sans-serif"},
    )
    options = {"responsive": True, "displaylogo": False}
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config=options, auto_play=False
    )
    return html


def _critical(table: pd.DataFrame | None) -> go.Figure | None:
    if table is None:
        return None
    labels = table["pruner"].map(style.name) + np.where(
        table["schedule"] == "certified", " (certified)", ""
    )
    bars = go.Bar(
        x=labels.tolist(),
        y=table["critical_compression"].astype(float).tolist(),
        marker_color=[style.colour(pruner) for pruner in table["pruner"]],
        hovertemplate="%{x}: %{y:,.6g}<extra></extra>",
    )
    figure = go.Figure(bars)
    maximum = float(table["maximal_compression"].iloc[0])
    figure.add_scatter(
        x=labels.tolist(),
        y=[maximum] * len(labels),
        mode="lines",
        line={"color": "black", "dash": "dash"},
        name=f"maximal compression {maximum:,.6g}",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=labels.tolist(),
        y=table["connected_until"].astype(float).tolist(),
        mode="markers",
        marker={"symbol": "diamond-open", "size": 11, "color": "black", "line": {"width": 2}},
        name="connected until",
        hovertemplate="%{x}: connected until %{y:,.6g}<extra></extra>",
    )
    figure.data[0].showlegend = False
    figure.update_yaxes(title="compression", **_LOG)
    return figure


def _look(pruner: str) -> dict[str, Any]:
    return {
        "name": style.name(pruner),
        "marker": {"color": style.colour(pruner), "symbol": _SYMBOLS.get(pruner, "circle")},
        "line": {"color": style.colour(pruner)},
    }


def _densities(table: pd.DataFrame | None) -> go.Figure | None:
    """A line a pruner over the layers, with a slider over the compressions."""
    if table is None:
        return None
    floor = float(table.loc[table["kept"] > 0, "density"].min()) / 5
    stops = sorted(table["compression"].unique())
    pruners = list(table["pruner"].unique())

    def traces(compression: float) -> list[go.Scatter]:
        found = []
        for pruner in pruners:
            rows = table[(table["pruner"] == pruner) & (table["compression"] == compression)]
            rows = rows.sort_values("layer_index")
            empty = rows["kept"] == 0
            look = _look(pruner)
            look["marker"] = {
                **look["marker"],
                "symbol": ["x-open" if gone else look["marker"]["symbol"] for gone in empty],
                "size": [12 if gone else 7 for gone in empty],
            }
            found.append(
                go.Scatter(
                    x=rows["layer"].str.removesuffix(".weight").tolist(),
                    y=rows["density"].where(~empty, floor).tolist(),
                    customdata=rows[["kept", "parameters"]].to_numpy(int).tolist(),
                    mode="lines+markers",
                    hovertemplate="%{x}: %{customdata[0]:,} of %{customdata[1]:,} kept",
                    **look,
                )
            )
        return found

    frames = [go.Frame(name=f"{stop:g}", data=traces(stop)) for stop in stops]
    figure = go.Figure(data=frames[0].data, frames=frames)
    steps = [
        {
            "label": f"{stop:,.6g}",
            "method": "animate",
            "args": [[f"{stop:g}"], {"mode": "immediate", "transition": {"duration": 0},
                                     "frame": {"duration": 0, "redraw": True}}],
        }
        for stop in stops
    ]  # fmt: skip
    figure.update_layout(
        sliders=[{"steps": steps, "currentvalue": {"prefix": "compression "}, "pad": {"t": 90}}],
        height=560,
    )
    lowest = np.log10(floor / 2)
    figure.update_yaxes(range=[lowest, 0.2], title="density", **_LOG)
    figure.update_xaxes(type="category")  # a layer may be called 0
    return figure


def _dead(table: pd.DataFrame | None) -> go.Figure | None:
    """The share of kept weights that are on no path, by compression."""
    if table is None:
        return None
    figure = go.Figure()
    sums = table.groupby(["pruner", "compression"], sort=False)[["kept", "effective_kept"]].sum()
    for pruner in table["pruner"].unique():
        own = sums.loc[pruner].sort_index()
        share = 1 - own["effective_kept"].astype(float) / own["kept"].astype(float)
        figure.add_scatter(
            x=own.index.tolist(), y=share.tolist(), mode="lines+markers", **_look(pruner)
        )
    figure.update_xaxes(title="compression", **_LOG)
    figure.update_yaxes(title="dead share of what is kept", tickformat=".0%", rangemode="tozero")
    return figure


def _scores(table: pd.DataFrame | None) -> go.Figure | None:
    """Mean layer score against inverse size; each pruner's brought to a geometric mean of 1."""
    if table is None:
        return None
    figure = go.Figure()
    for pruner, rows in table.groupby("pruner", sort=False):
        means = layer_means(rows)
        seen = means > 0
        if not seen.any():
            continue
        scaled = means[seen] / np.exp(np.log(means[seen]).mean())
        look = _look(str(pruner))
        figure.add_scatter(
            x=(1 / rows["parameters"][seen]).tolist(),
            y=scaled.tolist(),
            text=rows["layer"][seen].tolist(),
            mode="markers",
            hovertemplate="%{text}: %{y:.3g}",
            name=look["name"],
            marker={**look["marker"], "size": 8},
        )
    inverse = 1 / table["parameters"].astype(float)
    ends = np.array([inverse.min(), inverse.max()])
    middle = float(np.exp(np.log(inverse).mean()))
    figure.add_scatter(
        x=ends.tolist(), y=(ends / middle).tolist(), mode="lines", name="conserved (slope 1)",
        line={"color": "black", "dash": "dash"},
    )  # fmt: skip
    figure.update_xaxes(title="inverse layer size", **_LOG)
    figure.update_yaxes(title="mean layer score, scaled", **_LOG)
    return figure
