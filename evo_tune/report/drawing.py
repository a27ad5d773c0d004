"""How charts are drawn: as plotly reads them, in one type, one palette and one layout. Knows no runs.

A figure is plain data here, which a page takes as it is: plotly itself is loaded for notebooks only (`as_plotly`).

Text inside a figure is the browser's own, and plotly reads some HTML in it; `safe` makes any text mean itself. Colours
of text, grid and background are the page's, which has two of each (light and dark); those here are for notebooks.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.report.words import show_value
from evo_tune.text import one_line

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "BEST",
    "DEFAULT",
    "FAINT",
    "MOST_MARKS",
    "OTHERS",
    "PRUNED",
    "SERIES",
    "Spec",
    "as_json",
    "as_plotly",
    "figure",
    "gene_axis",
    "log_axis",
    "points",
    "safe",
    "steps",
    "thinned",
]

Spec: TypeAlias = dict[str, Any]
"""A figure: its `data`, which are traces, and its `layout`, as plotly's script has them."""

OTHERS = "#56B4E9"
BEST = "#D55E00"
DEFAULT = "#8a8f98"
PRUNED = "#CC79A7"
FAINT = "rgba(128,138,150,0.45)"
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Colours that people with any of the usual kinds of colour blindness tell apart (Okabe & Ito, Color universal design,
2008), and that can be seen on white and on near-black."""

MOST_MARKS = 1000
"""Marks of a kind in one chart: more are drawn slowly and tell no more."""

LONGEST = 60
"""Characters of a label."""

SIZE = 12
"""Of all text in a figure, in pixels."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"


def safe(text: object, longest: int = LONGEST) -> str:
    """Return any text as a figure may show it: short, in one line, and without meaning for HTML."""
    return html.escape(one_line(str(text), longest), quote=True)


def thinned(count: int, most: int, keep: Iterable[int] = ()) -> np.ndarray:
    """Return which of so many things to draw, evenly spread, in order; `keep` are among them."""
    if count <= most:
        return np.arange(count)
    spread = np.linspace(0, count - 1, most).round().astype(int)
    return np.unique(np.concatenate([spread, np.array([*keep], dtype=int)]))


def figure(
    traces: Sequence[Mapping[str, Any]],
    x: Mapping[str, Any] | str = "",
    y: Mapping[str, Any] | str = "",
    height: int = 300,
    **layout: Any,
) -> Spec:
    """Return a figure in the report's style.

    Args:
        traces: Of plotly, as mappings.
        x: The axis: its title, already `safe`, or more of it.
        y: Likewise.
        height: In pixels; the width is the page's.
        layout: More of plotly's layout.
    """
    font = {"family": FONT, "size": SIZE}
    made = {
        "template": {},
        "autosize": True,
        "height": height,
        "margin": {"l": 64, "r": 16, "t": 16, "b": 52},
        "font": {**font, "color": "#5b6470"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "hoverlabel": {"font": font, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": font},
        "showlegend": sum(bool(trace.get("name")) and trace.get("showlegend", True) for trace in traces) > 1,
        "xaxis": _axis(x),
        "yaxis": _axis(y),
        **layout,
    }
    if made["showlegend"]:
        made["margin"] = {**made["margin"], "t": 40}
    return {"data": [dict(trace) for trace in traces], "layout": made}


def as_plotly(spec: Spec) -> Figure:
    """Return a figure as plotly's own, to be changed, shown or saved; plotly checks each of its properties."""
    import plotly.graph_objects as go

    return go.Figure(spec)


def as_json(specs: Mapping[str, Any]) -> str:
    """Return figures, or what holds them, as JSON for plotly's script; arrays are in base64, as it reads them fastest.

    A number that is none stays one in an array, and is null in a list: a gap, in both.
    """
    how: dict[str, Any] = {"ensure_ascii": True, "separators": (",", ":"), "allow_nan": False}
    try:
        return json.dumps(specs, default=_plain, **how)
    except ValueError:
        return json.dumps(_without_nan(specs), default=_plain, **how)


def _plain(value: Any) -> Any:
    """Return what JSON has no word for: a scalar as Python's, an array of numbers by its type and its bytes."""
    if not isinstance(value, np.ndarray):
        return _without_nan(value.item())
    if value.dtype.kind not in "iuf" or value.ndim != 1:
        return _without_nan(value.tolist())
    small = value.dtype.kind != "f" and (not len(value) or (value.min() >= -(2**31) and value.max() < 2**31))
    kind = "i4" if small else "f8"  # its script knows no longer ones
    return {"dtype": kind, "bdata": base64.b64encode(value.astype(f"<{kind}").tobytes()).decode()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _axis(given: Mapping[str, Any] | str) -> dict[str, Any]:
    more: dict[str, Any] = {"title": {"text": given}} if isinstance(given, str) else dict(given)
    if isinstance(more.get("title"), Mapping):
        more["title"] = {"font": {"size": SIZE}, "standoff": 8, **more["title"]}
    usual = {"gridcolor": "rgba(128,138,150,0.25)", "zeroline": False, "nticks": 6, "tickfont": {"size": SIZE}}
    return {**usual, "exponentformat": "SI", **more}


def log_axis(low: float, high: float) -> dict[str, Any]:
    """Return a logarithmic axis whose ticks are plain numbers: powers of ten, and more where it is short."""
    decades = math.log10(high) - math.log10(low)
    steps = (1.0, 2.0, 5.0) if decades < 1.5 else (1.0, 3.0) if decades < 2.5 else (1.0,)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    every = max(1, math.ceil(decades / 6))
    ticks = [step * 10.0**power for power in powers if power % every == 0 for step in steps]
    kept = [tick for tick in ticks if 0.95 * low <= tick <= 1.05 * high]
    return {"type": "log", "tickmode": "array", "tickvals": kept, "ticktext": [_short(tick) for tick in kept]}


def _short(value: float) -> str:
    """Return a number as an axis shows it: 0.003, 300, 30k, 2M, 1e-6, 1e15."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= value < 1000 * size and value < 1e12:
            return f"{value / size:g}{sign}"
    return (
        f"{value:.6g}"
        if 1e-4 < value < 1e3
        else f"{value:.0e}".replace("e+", "e").replace("e-0", "e-").replace("e0", "e")
    )


def gene_axis(name: str, gene: Gene) -> dict[str, Any]:
    """Return the axis of a gene's values: on its own scale, or one place for each value of a choice."""
    if isinstance(gene, Choice):
        places = thinned(len(gene.values), 8)
        texts = [safe(show_value(gene.values[place]), 14) for place in places]
        bounds = [-0.6, len(gene.values) - 0.4]
        ticks = {"tickmode": "array", "tickvals": places.tolist(), "ticktext": texts}
        return {"title": {"text": safe(name)}, "type": "linear", "range": bounds, **ticks}
    title: dict[str, Any] = {"title": {"text": safe(name)}}
    if isinstance(gene, Float | Int) and gene.log:
        return {**title, **log_axis(gene.low, gene.high)}
    return {**title, "type": "linear"}


def points(x: Any, y: Any, name: str, color: str, **more: Any) -> dict[str, Any]:
    """Return a trace of points; `name` is already `safe`."""
    marker = {"color": color, "size": 6, "line": {"width": 0}, **more.pop("marker", {})}
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "name": name, "marker": marker, **more}


def steps(x: Any, y: Any, name: str, color: str, **more: Any) -> dict[str, Any]:
    """Return a trace of a line that stays until it changes; `name` is already `safe`."""
    line = {"color": color, "width": 2.5, "shape": "hv", **more.pop("line", {})}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "line": line, **more}
