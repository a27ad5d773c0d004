"""The parts of a report, one file each: a file in this folder is a part.

A file defines `POSITION`, its position in the report, and `part(data)`, which returns a `Part`, or None without data
for it. A file with a chart also defines `draw(data, …)`, which returns one figure or None; `Results.plot` offers it in
a notebook. This file has what the charts share.

A figure is a dict for plotly that the page embeds as it is; plotly itself is imported for notebooks only (`as_plotly`).
Plotly interprets some HTML in labels, so every text from a run passes `escape_label`. The page's style sheet sets the
colours of text, grid and background, for light and dark themes; the colours here are for notebooks.
"""

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.values import Value
from evo_tune.report.run_data import RunData
from evo_tune.text import one_line, show_value

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# A figure: its `data` (traces) and its `layout`, in plotly's schema.
Spec: TypeAlias = dict[str, Any]


class Color:
    """Colours with a meaning."""

    BEST = "#D55E00"
    DEFAULT = "#8a8f98"
    PRUNED = "#CC79A7"
    FAINT = "rgba(112,122,134,0.85)"


# Colours that people with any common kind of colour blindness can tell apart (Okabe & Ito, Color universal design,
# 2008), visible on white and on near-black.
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")

# Most marks of one kind in a chart: more take longer to draw and hide each other.
MOST_MARKS = 300

# Longest label, in characters.
LONGEST = 60

# Longest title of an axis, in characters: as long as the axis of a narrow chart.
LONGEST_TITLE = 34

# Font size of all text in a figure, in pixels.
SIZE = 12

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure with its caption.

    Args:
        figure: The figure.
        caption: One line of any text; '' for none.
        narrow: Whether the page may place it beside other figures.
    """

    figure: Spec
    caption: str = ""
    narrow: bool = False


@dataclass(frozen=True)
class Command:
    """A recommended step.

    Args:
        why: One sentence.
        command: The command to type; '' for none.
    """

    why: str
    command: str = ""


@dataclass(frozen=True)
class Part:
    """One part of a report. Its texts may be any text: the page escapes them.

    The page's script sorts and filters the table, and shows a few rows at a time. A list filters by the values of its
    column 'status'. A column 'log' has paths from the folder of the page; a page elsewhere shows them as text.

    Args:
        title: Title.
        explanation: One or two sentences that explain how to read it.
        figures: Figures in order.
        facts: Values shown large, by name.
        commands: Recommended steps in order.
        rows: Table rows, each with the same keys.
        rows_title: Title of the table.
        rows_open: Whether the table is open at first.
        note: Note on what the part leaves out; empty if nothing.
        table: A table of any length: values by the column's name, each of shape (rows,); None where there is none.
        marked: Indices of the rows of the table that are emphasised.
    """

    title: str
    explanation: str
    figures: Sequence[CaptionedFigure] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[Command] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    rows_title: str = "The numbers"
    rows_open: bool = False
    note: str = ""
    table: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    marked: Sequence[int] = ()


def escape_label(text: object, longest: int = LONGEST) -> str:
    """Return any text as a label: one short line, with HTML escaped."""
    return html.escape(one_line(str(text), longest), quote=True)


def spread_indices(count: int, most: int, keep: Iterable[int] = ()) -> np.ndarray:
    """Return at most `most` of the indices below `count`, evenly spread and in order, and always those in `keep`."""
    if count <= most:
        return np.arange(count)
    spread = np.linspace(0, count - 1, most).round().astype(int)
    return np.unique(np.concatenate([spread, np.array([*keep], dtype=int)]))


def side_by_side(figures: Iterable[tuple[str, Spec | None]]) -> list[CaptionedFigure]:
    """Return captions and figures as figures that the page may place beside each other, without those that are None."""
    return [CaptionedFigure(figure, caption, narrow=True) for caption, figure in figures if figure is not None]


def omission_note(most: int, count: int, noun: str) -> str:
    """Return a note that says how many of a chart's marks are drawn; '' if all are."""
    return f"{most} of {count} {noun} are drawn, evenly spread." if count > most else ""


# Axes.


def axis(title: str, **options: Any) -> dict[str, Any]:
    """Return an axis; `title` is already escaped."""
    return {"title": {"text": title}, **options}


def names_axis(names: Sequence[str], longest: int) -> dict[str, Any]:
    """Return a vertical axis with a name for each of its places, from the top down."""
    labels = {"tickvals": list(range(len(names))), "ticktext": [escape_label(name, longest) for name in names]}
    return {"automargin": True, "tickmode": "array", **labels, "range": [len(names) - 0.4, -0.6]}


def log_axis(low: float, high: float) -> dict[str, Any]:
    """Return a logarithmic axis with plain numbers as ticks: powers of ten, and more where the axis is short."""
    decades = math.log10(high) - math.log10(low)
    steps = (1.0, 2.0, 5.0) if decades < 1.5 else (1.0, 3.0) if decades < 2.5 else (1.0,)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    every = max(1, math.ceil(decades / 6))
    ticks = [step * 10.0**power for power in powers if power % every == 0 for step in steps]
    ticks = [tick for tick in ticks if 0.95 * low <= tick <= 1.05 * high]
    return {"type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": [_tick_label(tick) for tick in ticks]}


def _tick_label(value: float) -> str:
    """Return a number as an axis shows it: 0.003, 300, 30k, 2M, 1e-6, 1e15."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= value < 1000 * size:
            return f"{value / size:g}{prefix}"
    return f"{value:.6g}" if 1e-4 < value < 1e3 else re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.0e}")


def gene_axis(name: str, gene: Gene) -> dict[str, Any]:
    """Return the axis of a gene's values: on its own scale, or one position for each value of a choice."""
    title = escape_label(name)
    room = {"automargin": True}  # else long values, or values that are slanted for want of room, cross the title
    if isinstance(gene, Choice):
        positions = spread_indices(len(gene.values), 8)
        texts = [escape_label(show_value(gene.values[index]), 14) for index in positions]
        ticks = {"tickmode": "array", "tickvals": positions.tolist(), "ticktext": texts}
        return axis(title, type="linear", range=[-0.6, len(gene.values) - 0.4], **ticks, **room)
    if isinstance(gene, Float | Int) and gene.log:
        return axis(title, **log_axis(gene.low, gene.high), **room)
    return axis(title, type="linear", **room)


def gene_positions(gene: Gene, values: Iterable[Value]) -> list[float]:
    """Return the positions of values on a gene's axis."""
    if not isinstance(gene, Choice):
        return [float(value) for value in values]
    # The type tells True from 1, and 1 from 1.0.
    positions = {(type(value), value): float(index) for index, value in enumerate(gene.values)}
    return [positions[type(value), value] for value in values]


# Traces. Their names are already escaped; in a hover text, %{customdata} is the id of a mark's trial.


def points(x: Any, y: Any, name: str, color: str, hover: str = "", **options: Any) -> dict[str, Any]:
    """Return a trace of points; without a hover text, the mouse finds none of them."""
    marker = {"color": color, "size": 6, "line": {"width": 0}, **options.pop("marker", {})}
    return {**_trace("markers", x, y, name, hover), "marker": marker, **options}


def line(x: Any, y: Any, name: str, color: str, width: float = 2, hover: str = "", **options: Any) -> dict[str, Any]:
    """Return a trace of a line; NaN or None in it is a gap."""
    shape = {"color": color, "width": width, **options.pop("line", {})}
    return {**_trace("lines", x, y, name, hover), "line": shape, **options}


def _trace(mode: str, x: Any, y: Any, name: str, hover: str) -> dict[str, Any]:
    texts = {"hovertemplate": f"{hover}<extra></extra>"} if hover else {"hoverinfo": "skip"}
    return {"type": "scatter", "mode": mode, "x": x, "y": y, "name": name, **texts}


def bars(mean: np.ndarray, low: np.ndarray, high: np.ndarray, color: str, **options: Any) -> dict[str, Any]:
    """Return the error bars of points, from their lower to their upper ends."""
    ends = {"array": np.maximum(high - mean, 0), "arrayminus": np.maximum(mean - low, 0)}
    return {"type": "data", "symmetric": False, **ends, "color": color, **options}


# Figures.


def figure(
    traces: Sequence[Mapping[str, Any]],
    x: Mapping[str, Any] | str = "",
    y: Mapping[str, Any] | str = "",
    height: int = 300,
    **layout: Any,
) -> Spec:
    """Return a figure in the report's style.

    Args:
        traces: Plotly traces.
        x: The axis, or its title, already `escape_label`.
        y: Likewise.
        height: Height in pixels; the width is the page's.
        layout: Further properties of plotly's layout.
    """
    font = {"family": FONT, "size": SIZE}
    named = [trace for trace in traces if trace.get("name") and trace.get("showlegend", True)]
    has_legend = layout.get("showlegend", len(named) > 1)
    style = {
        "template": {},
        "autosize": True,
        "height": height,
        "margin": {"l": 64, "r": 16, "t": 40 if has_legend else 16, "b": 52},
        "font": {**font, "color": "#5b6470"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "hoverlabel": {"font": font, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": font},
        "showlegend": has_legend,
        "xaxis": _style_axis(x),
        "yaxis": _style_axis(y),
    }
    return {"data": [dict(trace) for trace in traces], "layout": style | layout}


def _style_axis(properties: Mapping[str, Any] | str) -> dict[str, Any]:
    """Return an axis in the report's style, given its properties or its title."""
    options = axis(properties) if isinstance(properties, str) else dict(properties)
    if isinstance(options.get("title"), Mapping):
        title = escape_label(html.unescape(options["title"]["text"]), LONGEST_TITLE)
        options["title"] = {"font": {"size": SIZE}, "standoff": 8, **options["title"], "text": title}
    style = {"gridcolor": "rgba(128,138,150,0.25)", "zeroline": False, "nticks": 6, "tickfont": {"size": SIZE}}
    overflow = {"ticklabeloverflow": "allow"}  # else plotly measures every label once more: a tenth of its work
    return {**style, **overflow, "exponentformat": "SI", **options}


def as_plotly(spec: Spec) -> "Figure":
    """Return a figure as plotly's own object, to change, show or save; plotly checks each property."""
    import plotly.graph_objects as go

    return go.Figure(spec)


def as_json(specs: Mapping[str, Any]) -> str:
    """Return figures, or anything that holds them, as JSON for plotly's script; NaN becomes null: a gap."""
    text = json.dumps(specs, default=lambda value: value.tolist())  # NumPy's numbers and arrays
    return json.dumps(json.loads(text, parse_constant=lambda constant: None), separators=(",", ":"))


# The parts of a report


def names() -> list[str]:
    """Return the names of the parts in order."""
    modules = [module.name for module in iter_modules(__path__)]
    return sorted(modules, key=lambda name: (chart_of(name).POSITION, name))


def chart_of(name: str) -> ModuleType:
    """Return the module of a part."""
    return import_module(f"{__name__}.{name}")


def parts(data: RunData) -> dict[str, Part]:
    """Return all parts with data in order, by name."""
    all_parts = {name: chart_of(name).part(data) for name in names()}
    return {name: part for name, part in all_parts.items() if part is not None}
