"""How every figure of the toolkit looks: one colour and marker a pruner, sizes, type.

Nothing here touches the user's settings: ``styled`` sets matplotlib's for its block only, and
figures are made without pyplot, so they need no display and stay out of its list of figures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

from collapse.errors import RequestError, first_line, unknown
from collapse.files import atomic

Size = Literal["column", "page", "slide"]


Plot = TypeVar("Plot", bound=Callable[..., Axes])


# A pruner's alone. Told apart also with deuteranopia and protanopia (a test holds pairs of colours
# apart by 15 units of CIELAB); the markers tell the pruners apart without any colour.
COLOURS = {
    "random": "#000000",
    "magnitude": "#c8330f",
    "snip": "#f0b000",
    "grasp": "#3f9e86",
    "synflow": "#1f4e9e",
}


MARKERS = {"random": "p", "magnitude": "s", "snip": "^", "grasp": "D", "synflow": "o"}


NAMES = {"random": "Random", "magnitude": "Magnitude", "snip": "SNIP", "grasp": "GraSP",
         "synflow": "SynFlow", "snip signed": "signed SNIP", "imp": "IMP",
         "iterative_snip": "iterative SNIP", "force": "FORCE",
         "iterative_grasp": "iterative GraSP", "gradient_norm": "g²", "prospr": "ProsPr",
         "fd": "FD", "fts": "FTS", "hts": "HTS", "synflow_l2": "SynFlow-L2",
         "synflow_l2_halved": "SynFlow-L2, halved", "px": "PX", "ntk_sap": "NTK-SAP",
         "lamp": "LAMP", "phew": "PHEW"}  # fmt: skip


OTHER = "#d96be8"


# Of what is no pruner (modes, controls, weights): greys, with a marker each.
VARIANTS = (("#4d4d4d", "o"), ("#8c8c8c", "s"), ("#c2c2c2", "^"))


# What runs from early to late or from the input to the output.
SEQUENCE = "viridis"


# Width and greatest height in inches and type in points: of a conference paper's column and page,
# and of a slide (16:9).
SIZES: dict[str, tuple[float, float]] = {"column": (3.35, 8), "page": (6.9, 8), "slide": (10.0, 12)}
DPI = 144  # on a screen, in notebooks; files are finer
HEIGHTS = {"column": 9.0, "page": 9.0, "slide": 5.625}


@contextmanager
def styled(size: Size = "column") -> Iterator[None]:
    """Matplotlib's settings as the figures want them, for this block only.

    Raises:
        RequestError: an unknown size.
    """
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    _, points = SIZES[size]
    slide = size == "slide"
    settings: Any = {
        "font.size": points,
        "axes.titlesize": points,
        "axes.labelsize": points,
        "xtick.labelsize": points - 1,
        "ytick.labelsize": points - 1,
        "legend.fontsize": points - 1,
        "legend.frameon": False,
        "figure.titlesize": points,
        "hatch.linewidth": 0.6,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 1.0 if slide else 0.6,
        "lines.linewidth": 2.0 if slide else 1.1,
        "lines.markersize": 7 if slide else 3.6,
        "xtick.major.width": 1.0 if slide else 0.6,
        "ytick.major.width": 1.0 if slide else 0.6,
        "xtick.minor.width": 0.7 if slide else 0.4,
        "ytick.minor.width": 0.7 if slide else 0.4,
        # Text stays text: searchable in a PDF, editable in an SVG, and equal files for equal input.
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
        "svg.hashsalt": "layer-collapse",
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(size: Size = "column", rows: int = 1, columns: int = 1) -> Figure:
    """An empty figure of a size's width, high enough for so many rows of panels and a legend."""
    width, points = SIZES[size]
    height = min(width / columns * 0.78, width * 0.6) * rows + 4 * points / 72
    return Figure(figsize=(width, min(height, HEIGHTS[size])), layout="constrained", dpi=DPI)


def entitle(figure: Figure, message: str) -> None:
    """A message above a figure, in lines that fit its width."""
    lines = wrapped(message, figure, 0.98, fontweight="bold")
    figure.suptitle(lines, x=0.01, ha="left", fontweight="bold")


def make_room(figure: Figure, size: Size) -> None:
    """As much higher as what stands above and below the panels takes, up to a size's height."""
    title: Text | None = figure._suptitle  # type: ignore[attr-defined]  # it has no public name
    around = [*figure.legends, *([title] if title else [])]
    taken = sum(artist.get_window_extent().height for artist in around) / figure.dpi
    figure.set_figheight(min(figure.get_figheight() + taken, HEIGHTS[size]))


def on_own_figure(size: Size = "column") -> Callable[[Plot], Plot]:
    """For functions ``plot(table, *, ax=None) -> Axes``: without axes, a new figure in our style.

    With axes the user's own settings hold, and a legend is the user's to add.
    """

    def decorate(plot: Plot) -> Plot:
        @wraps(plot)
        def plotted(*tables: Any, ax: Axes | None = None, **options: Any) -> Axes:
            if ax is not None:
                return plot(*tables, ax=ax, **options)
            with styled(size):
                ax = plot(*tables, ax=new_figure(size).subplots(), **options)
                add_legend([ax])
                return ax

        return cast(Plot, plotted)

    return decorate


def add_legend(axes: Sequence[Axes], note: str = "", empty: Axes | None = None) -> None:
    """One legend for all panels of a figure: inside the only one if it is short, else below.

    Below, it has as many columns as the figure is wide enough for, and is read row by row.

    Args:
        note: a sentence above it, what bars are and how many seeds; then it stands below.
        empty: a panel's place with nothing in it: the legend stands there, if it fits.
    """
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if 0 < len(found) < 6 and len(axes) == 1 and not note:
        axes[0].legend()
        return
    if not found and not note:
        return
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    if empty is not None and _legend_inside(empty, found, note):
        return
    title = wrapped(note, figure, 0.96) or None
    for columns in range(max(1, min(len(found), 6)), 0, -1):
        labels = _row_by_row(list(found), columns)
        legend = figure.legend(
            [found[label] for label in labels], labels, ncols=columns,
            loc="outside lower center", title=title, columnspacing=1.2,
        )  # fmt: skip
        if columns == 1 or legend.get_window_extent().width <= 0.98 * figure.bbox.width:
            return
        legend.remove()


def _legend_inside(empty: Axes, found: dict[str, Any], note: str) -> bool:
    """Whether legend and note fit into the place of a panel; then they stand there."""
    figure = empty.get_figure(root=True)
    assert figure is not None
    empty.set_axis_off()
    figure.draw_without_rendering()  # places the panels
    room = empty.get_window_extent()
    legend = empty.legend(
        list(found.values()), list(found), loc="center left", borderaxespad=0, alignment="left",
        title=wrapped(note, figure, room.width / figure.bbox.width) or None,
    )  # fmt: skip
    legend.set_in_layout(False)
    taken = legend.get_window_extent()
    # Labels of the axis beside and beneath leave a margin, which an empty place has to spare.
    fits = taken.width <= 1.05 * room.width and taken.height <= 1.2 * room.height
    if not fits:
        legend.remove()
    return fits


def _row_by_row(labels: list[str], columns: int) -> list[str]:
    """In the order in which a legend, which fills column by column, shows them row by row."""
    return [label for column in range(columns) for label in labels[column::columns]]


# No line ends inside "3 levels 49 %" or "0.946 → 0.995".
_TOGETHER = r" (?=[%→]|\d+ %)|(?<=→) |(?<=\d) (?=levels?\b)"


def wrapped(text: str, figure: Figure, share: float = 1.0, **font: Any) -> str:
    """A sentence in as few lines as fit a share of a figure's width, of much the same length."""
    words = re.sub(_TOGETHER, "\u00a0", text).split(" ")
    width = share * figure.bbox.width
    wide, space = {}, _width("n n", figure, font) - 2 * _width("n", figure, font)
    for word in words:
        wide[word] = _width(word, figure, font)
    best = _lines(words, wide, space, width)
    for step in range(1, 20):  # narrower, as long as that makes no further line
        even = _lines(words, wide, space, width * (1 - step / 20))
        if len(even) > len(best):
            break
        best = even
    return "\n".join(best).replace("\u00a0", " ")


def _width(text: str, figure: Figure, font: dict[str, Any]) -> float:
    written = figure.text(0, 0, text, **font)
    width = float(written.get_window_extent().width)
    written.remove()
    return width


def _lines(words: list[str], wide: dict[str, float], space: float, width: float) -> list[str]:
    """Words put into lines one after the other."""
    lines: list[list[str]] = []
    left = 0.0
    for word in words:
        if not lines or wide[word] + space > left:
            lines.append([])
            left = width + space
        lines[-1].append(word)
        left -= wide[word] + space
    return [" ".join(line) for line in lines]


def colour(pruner: str) -> str:
    """A pruner's colour; a user's own pruners share one."""
    return COLOURS.get(pruner.partition(" ")[0], OTHER)


def marker(pruner: str) -> str:
    """A pruner's marker."""
    return MARKERS.get(pruner.partition(" ")[0], "P")


def name(pruner: str) -> str:
    """A pruner's name as it is written in papers; of your own, the function's."""
    return NAMES.get(pruner, pruner.rpartition(":")[2].replace("_", " "))


def number(value: float) -> str:
    """Three digits, with a power of ten where counting zeros would be work."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return rf"${mantissa}\times10^{{{int(exponent)}}}$"


def readable_logarithms(ax: Axes) -> None:
    """Labels of logarithmic axes: powers of ten, or a few plain numbers within one decade."""
    for axis, limits, scale in (
        (ax.xaxis, ax.get_xlim(), ax.get_xscale()),
        (ax.yaxis, ax.get_ylim(), ax.get_yscale()),
    ):
        if scale != "log" or not 0 < min(limits) < max(limits) < math.inf:
            continue  # an axis without a point has no such limits
        low, high = (math.log10(end) for end in sorted(limits))
        if math.floor(high) - math.ceil(low) < 1:  # fewer than two powers of ten in sight
            short = low > -4 and high < 5
            few = (1, 2, 3, 5) if short else (1, 3)
            axis.set_major_locator(LogLocator(subs=few if high - low > 0.3 else "all"))
            if axis is ax.xaxis and not short and high - low > 0.3:  # two long labels fit a column
                inside = [t for t in axis.get_majorticklocs() if low <= math.log10(t) <= high]
                axis.set_major_locator(FixedLocator([inside[0], inside[-1]]))
            axis.set_major_formatter(FuncFormatter(_tick))
        else:  # as many powers as there is room for, which is little side by side
            step = max(1, math.ceil((high - low) / 5)) if axis is ax.xaxis else 1
            axis.set_major_locator(LogLocator(10.0**step, numticks="auto"))  # type: ignore[arg-type]  # it is documented
        axis.set_minor_formatter(NullFormatter())


def _tick(value: float, _: object) -> str:
    if 1e-4 < value < 1e5:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return rf"${mantissa}{{\times}}10^{{{int(exponent)}}}$"  # braces: narrow


def save(drawn: Axes | Figure, path: Path, size: Size = "column") -> None:
    """Save a figure whole or not at all, in the format of the suffix.

    Raises:
        RequestError: unknown suffix, or the file cannot be written.
    """
    figure = drawn.get_figure(root=True) if isinstance(drawn, Axes) else drawn
    assert figure is not None
    # Dates would make every file a new one.
    dates = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    try:
        with atomic(path) as temporary, styled(size):
            figure.savefig(temporary, dpi=200, metadata=dates.get(path.suffix))
    except ValueError as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"plot '{path}': {first_line(error)}") from error
