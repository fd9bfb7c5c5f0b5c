"""How all figures look: sizes, text that fits, legends, colours that can be told apart."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from collapse.errors import RequestError
from collapse.options import PAPER_PRUNERS
from collapse.plots import style
from figures import accuracy, cuts
from figures.by_name import find
from figures.plotting import panels
from tests.drawn_tables import (
    TABLES,
    accuracy_table,
    cuts_table,
    features_table,
    layers_table,
    neurons_table,
)


def test_sizes_are_those_of_a_column_a_page_and_a_slide() -> None:
    for size, (width, points) in style.SIZES.items():
        figure = panels(cuts, cuts_table(), size=size)
        assert figure.get_figwidth() == width
        assert figure.axes[0].xaxis.label.get_fontsize() == points
    with pytest.raises(RequestError, match="unknown size 'poster'; one of: column, page, slide"):
        panels(cuts, cuts_table(), size="poster")  # type: ignore[arg-type]  # the mistake


def _texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """Everything written in a figure, with where it is."""
    found = [*figure.texts, *([figure._suptitle] if figure._suptitle else [])]
    inside = [legend for ax in figure.axes if (legend := ax.get_legend())]
    for legend in (*figure.legends, *inside):
        found += [*legend.get_texts(), legend.get_title()]
    for ax in figure.axes:
        found += [ax.title, ax._left_title, ax._right_title, ax.xaxis.label, ax.yaxis.label]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    seen = [text for text in dict.fromkeys(found) if text.get_text() and text.get_visible()]
    return [(text.get_text(), text.get_window_extent()) for text in seen]


@pytest.mark.parametrize("size", style.SIZES)
@pytest.mark.parametrize("name", ["densities", "layer-scores", "iterations", "sanity", "cuts"])
def test_no_text_is_clipped_or_lies_on_another(name: str, size: style.Size) -> None:
    _check_texts(panels(find(name), TABLES[name], size=size), size)


@pytest.mark.parametrize("size", style.SIZES)
def test_texts_of_four_panels_fit(size: style.Size) -> None:
    table = features_table((1, 2), ("in", "out"))
    _check_texts(panels(find("features"), table, size=size), size)


@pytest.mark.parametrize("size", style.SIZES)
def test_long_numbers_within_two_powers_of_ten_fit(size: style.Size) -> None:
    """SynFlow's scores of VGG-11: its labels lay on each other in a column."""
    table = neurons_table()
    units = 2.6e9 * 28.0 ** (table["unit"] / table["unit"].max())
    copies = [
        table[table["pruner"] == "snip"].assign(
            pruner=pruner, quantity=pruner, score_in=units, score_out=units
        )
        for pruner in PAPER_PRUNERS
    ]
    _check_texts(panels(find("neurons"), pd.concat(copies), size=size), size)


def _check_texts(figure: Figure, size: style.Size) -> None:
    figure.draw_without_rendering()
    texts = _texts(figure)
    whole = figure.bbox.padded(1)
    assert [text for text, at in texts if not whole.containsx(at.x0) or at.x1 > whole.x1] == []
    assert [text for text, at in texts if at.y0 < whole.y0 or at.y1 > whole.y1] == []
    pairs = itertools.combinations(texts, 2)
    assert [(a, b) for (a, at), (b, bt) in pairs if at.shrunk(0.98, 0.9).overlaps(bt)] == []
    assert figure.get_figheight() <= style.HEIGHTS[size]


@pytest.mark.parametrize("size", style.SIZES)
def test_the_place_of_no_panel_holds_the_legend(size: style.Size) -> None:
    """Five panels leave a place of six; one leaves none."""
    table = layers_table({name: {1.0: (100, 10_000), 4.0: (25, 2500)} for name in style.COLOURS})
    figure = panels(find("densities"), table, size=size)
    _check_texts(figure, size)
    assert figure.legends == [] or size == "column"  # in a column it is too narrow
    assert len(panels(find("densities"), TABLES["densities"]).legends) == 1


def test_panels_that_are_compared_have_one_axis() -> None:
    table = TABLES["sanity"]
    other = table.assign(compression=7.0, best_top1=table["best_top1"] / 3)
    figure = panels(find("sanity"), pd.concat([table, other], ignore_index=True), size="page")
    assert len({ax.get_ylim() for ax in figure.axes if ax.get_title(loc="left")}) == 1


def test_lines_are_few_and_even() -> None:
    figure = style.new_figure("page")
    text = "Where collapse first occurs: " + ", ".join(f"Pruner {i} at 1,024" for i in range(9))
    lines = style.wrapped(text, figure).split("\n")
    assert " ".join(lines) == text
    widths = [style._width(line, figure, {}) for line in lines]
    assert max(widths) <= figure.bbox.width
    assert sum(widths) > (len(lines) - 1) * figure.bbox.width  # not one line more than needed
    assert min(widths) > 0.7 * max(widths)


def test_below_every_figure_stands_what_bars_are_and_how_many_seeds() -> None:
    (legend,) = panels(find("low-compression"), TABLES["low-compression"]).legends
    below = legend.get_title().get_text().replace("\n", " ")
    assert below.startswith("net on digits, 3 seeds. Bars: 95 % intervals that hold together")
    (legend,) = panels(accuracy, accuracy_table()).legends
    assert "bands: their range" in legend.get_title().get_text().replace("\n", " ")


def test_legends_are_read_row_by_row() -> None:
    rows = style._row_by_row(list("abcde"), 3)
    # matplotlib fills three columns of 2, 2 and 1.
    assert rows == ["a", "d", "b", "e", "c"]


def _lab(colour: str, seen: np.ndarray) -> np.ndarray:
    """CIELAB of a colour as it is seen, from linear light (sRGB, D65)."""
    given = np.array(matplotlib.colors.to_rgb(colour))
    light = np.where(given <= 0.04045, given / 12.92, ((given + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    )
    xyz = to_xyz @ np.clip(seen @ light, 0, 1) / np.array([0.9505, 1.0, 1.0888])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira & Fernandes 2009, severity 1.
VISIONS = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]]
    ),
}  # fmt: skip


def _closest(colours: list[str], vision: str) -> float:
    seen = [_lab(colour, VISIONS[vision]) for colour in colours]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_are_told_apart_with_colour_vision_deficiencies(vision: str) -> None:
    assert _closest([*style.COLOURS.values(), style.OTHER], vision) >= 15
    assert _closest([colour for colour, _ in style.VARIANTS], vision) >= 15
    # Measured on the palette before: grey and Okabe & Ito's green.
    if vision == "deuteranopia":
        assert _closest(["#7f7f7f", "#009e73"], vision) == pytest.approx(9.7, abs=0.1)


def test_a_pruners_colour_is_a_pruners_alone() -> None:
    assert not {colour for colour, _ in style.VARIANTS} & {*style.COLOURS.values(), style.OTHER}


def test_pruners_differ_in_colour_and_in_marker() -> None:
    assert len(set(style.COLOURS.values())) == len(set(style.MARKERS.values())) == 5
    assert style.colour("my.own:pruner") == style.OTHER


@pytest.mark.parametrize("suffix", ["pdf", "svg", "png"])
def test_files_are_the_same_for_the_same_table(tmp_path: Path, suffix: str) -> None:
    contents = []
    for number in (1, 2):
        path = tmp_path / f"{number}.{suffix}"
        style.save(panels(cuts, cuts_table()), path)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert len(contents[0]) > 1000


def test_panels_of_one_panel_fill_a_column() -> None:
    figure = panels(cuts, cuts_table())
    assert isinstance(figure, Figure)
    assert figure.get_figwidth() == style.SIZES["column"][0]
