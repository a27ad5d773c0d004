"""A report as one page of HTML: of one run in full, or of several side by side; written to a file.

Everything that comes from a run is text and is escaped on its way into the page. Figures are embedded as data, which
no browser executes. The page's policy forbids every script but two, named by their hashes (the plotly script beside
the runs: by a number derived from the page), and every request, form and frame.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution, version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, get_args

from evo_tune.errors import StoreError
from evo_tune.report import charts
from evo_tune.report.charts import SERIES, CaptionedFigure, Command, Part, Table, as_json, history
from evo_tune.report.run_data import RunData
from evo_tune.report.summary import show_fresh_values, total_cost
from evo_tune.store.journal import write_atomically
from evo_tune.store.places import REPORT
from evo_tune.store.run import Run
from evo_tune.text import printable, show_genome, show_seconds, show_value
from evo_tune.trust import inside

MOST_ROWS = 200
"""Most rows of a table that the page's script does not show in parts."""

FIRST_ROWS = 20
"""Rows of a long table that the page shows at a time, the first ones without its script."""

SHORT = 36
"""Longest text of a table cell that has no line break, in characters."""

# The page.


@dataclass(frozen=True)
class Library:
    """The plotly script, in one of two ways.

    Args:
        text: The script itself, for a page that contains it; '' where it is a file of its own.
        path: Path of that file as the page names it; '' where the page contains the script.
    """

    text: str = ""
    path: str = ""


@cache
def asset(name: str) -> str:
    """Return one of the page's own files."""
    return (files("evo_tune.report") / "assets" / name).read_text(encoding="utf-8")


def text(value: object) -> str:
    """Return any text as HTML that shows it: escaped, without characters that reverse or hide others."""
    return html.escape(printable(str(value)), quote=True)


def prose(value: str) -> str:
    """Return sentences as HTML: `text` with what is between backticks as code."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", text(value))


def page(title: str, about: Mapping[str, str], parts: Mapping[str, Part], library: Library, **data: Any) -> str:
    """Return the page.

    Args:
        title: Title.
        about: Facts below the title, by name.
        parts: Parts in order, by the names of their links in the page.
        library: The plotly script.
        data: Further data for the page's own script.
    """
    figures = {id: spec for name, part in parts.items() for id, spec in figures_of(name, part).items()}
    # JSON that cannot close the element that holds it.
    tables = {id: spec for name, part in parts.items() for id, spec in tables_of(name, part).items()}
    held = as_json({"figures": figures, "tables": tables, **data})
    held = held.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    body = {
        "title": text(title),
        "about": _facts(about, text),
        "links": "".join(f'<li><a href="#{name}">{text(_short(name, part))}</a></li>' for name, part in parts.items()),
        "sections": "\n".join(section_html(name, part) for name, part in parts.items()),
        "figures": held,
    }
    own = asset("page.js")
    if library.text:
        script, allowed = f"<script>{library.text}</script>", [_hash(library.text), _hash(own)]
    else:  # a number that nothing in the page can know beforehand allows the script beside the runs
        nonce = hashlib.sha256("".join(body.values()).encode()).hexdigest()[:32]
        script = f'<script src="{text(library.path)}" nonce="{nonce}"></script>'
        allowed = [f"'nonce-{nonce}'", _hash(own)]
    rules = policy(allowed, "'self'" if data.get("follow") else "'none'")
    made = Template(asset("page.html"))
    return made.substitute(body, style=asset("page.css"), script=own, library=script, policy=rules)


def policy(scripts: Sequence[str], connect: str = "'none'") -> str:
    """Return a Content-Security-Policy.

    Styles in the page are allowed: plotly sets them on what it draws. They can neither run nor load anything.

    Args:
        scripts: Sources of scripts that may run.
        connect: Servers that the page may ask.
    """
    return (
        f"default-src 'none'; script-src {' '.join(scripts)}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'; frame-src 'none'"
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _short(name: str, part: Part) -> str:
    return "Verdict" if name == "verdict" else part.title


def figures_of(name: str, part: Part) -> dict[str, Any]:
    """Return a part's figures by the ids of their places in the page."""
    return {f"{name}-{number}": drawn.figure for number, drawn in enumerate(part.figures)}


def tables_of(name: str, part: Part) -> dict[str, Any]:
    """Return a part's long table, if it has one, by the id of its place in the page, as the page's script reads it."""
    if part.table is None:
        return {}
    found = part.table
    columns = {"names": list(found.columns), "columns": list(found.columns.values()), "rows": FIRST_ROWS}
    return {f"{name}-table": {**columns, "choice": found.choice, "links": found.links, "marked": [*found.marked]}}


def section_html(name: str, part: Part) -> str:
    """Return a part as HTML; the page's script draws its figures."""
    pieces = [f'<section id="{name}"><h2>{text(part.title)}</h2>', f'<p class="reads">{prose(part.explanation)}</p>']
    if part.facts:
        pieces.append(f'<dl class="facts">{_facts(part.facts, _fact)}</dl>')
    if part.figures:
        several = " several" if any(drawn.narrow for drawn in part.figures) else ""
        drawn = "".join(_figure(one, f"{name}-{number}", part) for number, one in enumerate(part.figures))
        pieces.append(f'<div class="charts{several}">{drawn}</div>')
    if part.commands:
        pieces.append(f'<ol class="steps">{"".join(map(_command, part.commands))}</ol>')
    if part.note:
        pieces.append(f'<p class="note">{prose(part.note)}</p>')
    if part.rows:
        pieces.append(_table(part, name))
    if part.table is not None:
        pieces.append(_long_table(part.table, f"{name}-table"))
    return "".join(pieces) + "</section>"


def _facts(facts: Mapping[str, str], shown: Any) -> str:
    return "".join(f"<div><dt>{text(name)}</dt><dd>{shown(value)}</dd></div>" for name, value in facts.items())


def _fact(value: str) -> str:
    """Return a fact, its error or its remark in brackets in small type."""
    large, *rest = re.split(r" (?=[±(])", value, maxsplit=1)
    return text(large) + "".join(f" <small>{text(one)}</small>" for one in rest)


def _figure(drawn: CaptionedFigure, id: str, part: Part) -> str:
    wide = "" if drawn.narrow else ' class="wide"'
    caption = f"<figcaption>{text(drawn.caption)}</figcaption>" if drawn.caption else ""
    label = text(f"Chart: {drawn.caption or part.title}. {part.explanation}")
    axes = f' data-axes="{len(drawn.axes)}"' if drawn.axes else ""
    height = int(drawn.figure["layout"]["height"])
    least = f";min-width:{56 * len(drawn.axes)}px" if drawn.axes else ""  # axes that touch cannot be read
    place = (
        f'<div class="chart" id="{id}" role="img" aria-label="{label}" style="height:{height}px{least}"{axes}></div>'
    )
    place = f'<div class="across" tabindex="0">{place}</div>' if drawn.axes else place
    return f"<figure{wide}>{caption}{place}{_filters(drawn, id) if drawn.axes else ''}</figure>"


def _filters(drawn: CaptionedFigure, id: str) -> str:
    """Return two sliders for each axis, for keyboards and touch screens; a mouse can drag along the axis."""
    rows = []
    for axis, name in enumerate(drawn.axes):
        ends = "".join(
            f'<input type="range" min="0" max="100" value="{value}" data-chart="{id}" data-axis="{axis}" '
            f'aria-label="{text(name)}, {word} end">'
            for value, word in ((0, "lower"), (100, "upper"))
        )
        rows.append(f"<label><span>{text(name)}</span>{ends}</label>")
    return (
        f'<p class="note" id="{id}-said" aria-live="polite"></p><details class="tools" id="{id}-tools">'
        f'<summary>Filter by sliders</summary><fieldset class="filters">{"".join(rows)}'
        f'<button type="button" id="{id}-free">Show all again</button></fieldset></details>'
    )


def _command(command: Command) -> str:
    typed = f"<pre><code>{text(command.command)}</code></pre>" if command.command else ""
    return f"<li><p>{prose(command.why)}</p>{typed}</li>"


def _table(part: Part, name: str) -> str:
    table = _rows_html({column: [row.get(column) for row in part.rows] for column in part.rows[0]}, MOST_ROWS)
    more = f'<p class="note">The first {MOST_ROWS} of {len(part.rows)}.</p>' if len(part.rows) > MOST_ROWS else ""
    opened = " open" if part.rows_open else ""
    return f'<details id="{name}-rows"{opened}><summary>{text(part.rows_title)}</summary>{table}{more}</details>'


def _long_table(table: Table, id: str) -> str:
    """Return a long table's first rows; the page's script shows the tools, and the other rows."""
    found = table.columns[table.choice]
    kinds = "".join(f"<option>{text(one)}</option>" for one in sorted(set(found)))
    tools = (
        '<p class="bar" data-part="tools" hidden>'
        f'<label>Filter <input type="search" id="{id}-words" data-part="words" autocomplete="off"></label>'
        f'<label>{text(table.choice)} <select id="{id}-choice" data-part="choice"><option value="">any</option>{kinds}'
        "</select></label></p>"
    )
    pager = (
        f'<p class="bar"><button type="button" data-part="back" hidden>Previous</button>'
        f'<button type="button" data-part="on" hidden>Next</button>'
        f'<span data-part="said" aria-live="polite">The first {FIRST_ROWS} of {len(found)} rows.</span></p>'
    )
    return f'<div class="long" id="{id}">{tools}{_rows_html(table.columns, FIRST_ROWS)}{pager}</div>'


def _rows_html(columns: Mapping[str, Sequence[Any]], most: int) -> str:
    """Return the first rows of a table."""
    kind = {name: _class(column) for name, column in columns.items()}
    head = "".join(f'<th scope="col"{kind[name]}>{text(name)}</th>' for name in columns)
    cells = [[f"<td{kind[name]}>{text(_shown(one))}</td>" for one in column[:most]] for name, column in columns.items()]
    rows = "".join(f"<tr>{''.join(row)}</tr>" for row in zip(*cells, strict=True))
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _class(column: Sequence[object]) -> str:
    """Return the class of a column's cells: numbers and short texts have no line breaks."""
    if all(one is None or isinstance(one, int | float) for one in column):
        return ' class="number"'
    return ' class="whole"' if max(len(str(one)) for one in column) <= SHORT else ""


def _shown(value: object) -> str:
    return show_value(value) if isinstance(value, float) or value is None else str(value)


# The plotly script.

OPENS, CLOSES = b": this, () => {", b"\n}));"
"""Beginning and end of the one function that holds the whole script."""

LARGEST = 1 << 25
"""Largest plotly script, in bytes."""


TRACES = ("bar", "heatmap")
"""Kinds of traces that charts use, besides scatter, which plotly always has."""


def plotly_script() -> bytes:
    """Return plotly's script, changed in two places so that a browser starts it in less than half of the time.

    It registers only the kinds of traces in `TRACES`. And one pair of brackets is added: a browser compiles a function
    in brackets at once. Without them it first skims all 4.8 MB, then compiles. A script of an unknown form is returned
    as it is.
    """
    where = distribution("plotly").locate_file("plotly/package_data/plotly.min.js")  # importing plotly takes longer
    found = Path(str(where)).read_bytes()
    if found.count(OPENS) != 1 or not found.rstrip().endswith(CLOSES):
        return found
    return _few_traces(found).rstrip().removesuffix(CLOSES).replace(OPENS, OPENS.replace(b"()", b"(()")) + b"\n})));\n"


def _few_traces(script: bytes) -> bytes:
    """Return plotly's script without the registration of traces that no chart uses."""
    listed = re.search(rb"\.register\(\[((?:[\w$]+\(\),?)+)\]\)", script)
    kept = [_call(script, kind) for kind in TRACES]
    if listed is None or not set(kept) <= set(listed[1].split(b",")):
        return script
    return script[: listed.start(1)] + b",".join(kept) + script[listed.end(1) :]


def _call(script: bytes, kind: str) -> bytes:
    """Return the call that loads a kind of trace in plotly's script, where a module of one line names another; or b''.

    `var A=W((e,t)=>{"use strict";t.exports=B()}), …, B=W((e,t)=>{"use strict"; … moduleType:"trace",name:KIND` gives
    `A()`.
    """
    begins = script.rfind(b'=>{"use strict";', 0, max(0, script.find(b'moduleType:"trace",name:"%b"' % kind.encode())))
    inner = re.search(rb"([\w$]+)=[\w$]+\(\([\w$,]*\)$", script[max(0, begins - 60) : max(0, begins)])
    if inner is None:
        return b""
    exports = rb'\b([\w$]+)=[\w$]+\(\([\w$]+,([\w$]+)\)=>\{"use strict";\2\.exports=%b\(\)\}\)' % re.escape(inner[1])
    outer = re.search(exports, script)
    return outer[1] + b"()" if outer else b""


def inline_library() -> Library:
    """Return the plotly script for a page that contains it."""
    return Library(text=plotly_script().decode("utf-8").replace("</script", "<\\/script"))


def write_shared_library(store: Path) -> Library:
    """Write the plotly script into a store unless it is there, and return its path from a run's folder.

    The file's name has plotly's version, so older reports still find theirs. A file with other contents is replaced.

    Raises:
        StoreError: The store cannot be written.
    """
    name, script = f"_plotly-{version('plotly')}.min.js", plotly_script()
    try:
        there = inside.read(store, name, limit=LARGEST)
    except OSError:
        there = b""
    if there != script:
        write_atomically(store / name, script)
    return Library(path=f"../{name}")


# Reports of runs.


def report(runs: Sequence[Run], library: Library) -> str:
    """Return the page of one run, or of several runs side by side.

    Args:
        runs: One or more runs.
        library: The plotly script.
    """
    materials = [RunData(run) for run in runs]
    if len(materials) == 1:
        one = materials[
            0
        ]  # a page beside the plotly script is in the run's folder, so it can link to other files there
        return page(one.name, run_facts(one), charts.parts(one), library, linked=bool(library.path))
    title = f"{len(materials)} runs side by side"
    return page(title, {"runs": ", ".join(one.name for one in materials)}, comparison_parts(materials), library)


def run_facts(data: RunData) -> dict[str, str]:
    """Return the facts below a report's title."""
    manifest, run = data.run.manifest, data.run
    found = {
        "evaluator": manifest.evaluator,
        "strategy": manifest.strategy,
        "objective": ", ".join(manifest.objectives),
        "seed": str(manifest.settings.seed),
        "begun": manifest.created[:16].replace("T", " "),
        "ended": run.ended or "not yet",
        "took": show_seconds(run.seconds),
    }
    return {name: value for name, value in found.items() if value}


def write_beside(run: Run) -> Path:
    """Write the report into a run's folder and the plotly script into its store; return the report's path.

    Raises:
        StoreError: Writing failed.
    """
    made = report([run], write_shared_library(run.folder.parent))
    write_atomically(run.folder / REPORT, made.encode())
    return run.folder / REPORT


def write_report(runs: Sequence[Run], path: Path) -> Path:
    """Write a report that contains the plotly script, and return its path.

    Raises:
        StoreError: Writing failed.
    """
    made = report(runs, inline_library())
    try:
        path.write_text(made, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; choose another -o FILE") from None
    return path


# Several runs side by side.


def comparison_parts(materials: Sequence[RunData]) -> dict[str, Part]:
    """Return the parts that compare runs, by name."""
    found = {"verdict": _runs(materials)}
    # Each run has one line; colours repeat after six runs, and the legend tells them apart. Values of different tasks
    # have no common axis.
    tasks: dict[tuple[str, str], list[RunData]] = {}
    for data in materials:
        task = (data.run.manifest.evaluator, data.run.manifest.objectives[0])
        tasks.setdefault(task, []).append(data)
    drawn = []
    for (evaluator, objective), alike in tasks.items():
        of = f", {objective} of {evaluator}" if len(tasks) > 1 else ""
        figures = [(by, history.draw(alike, by)) for by in get_args(history.By)]
        drawn += [CaptionedFigure(made, f"By {history.TITLES[by]}{of}") for by, made in figures if made is not None]
    if drawn:
        found["history"] = Part(
            "Side by side",
            "The best value so far of each run. Evaluations show which strategy learns most from each trial, cost "
            "shows what a full training buys, and time shows how long you wait.",
            drawn,
            note=f"Colours repeat after {len(SERIES)} runs." if len(materials) > len(SERIES) else "",
        )
    return found


def _runs(materials: Sequence[RunData]) -> Part:
    metrics = {data.run.manifest.objectives[0] for data in materials}
    evaluators = {data.run.manifest.evaluator for data in materials}
    known = [m for m in materials if m.best is not None and m.best.losses]
    if len(metrics) > 1 or len(evaluators) > 1 or not known:
        title = "The runs"
    else:
        first = min(known, key=lambda m: (_loss(m), m.name))
        title = f"{first.name} found the best: {first.metric} {first.objective.value(_loss(first)):.5g}"
    said = "Values over fresh seeds come from a run's final comparison; those of the search are optimistic."
    if len(metrics) > 1:
        said += " The runs have different objectives, so their values cannot be compared."
    elif len(evaluators) > 1 or len({str(m.run.manifest.options) for m in materials}) > 1:
        said += " The runs differ in their evaluator or its options: compare with care."
    return Part(title, said, rows=[_row(data) for data in materials], rows_title="Run by run", rows_open=True)


def _loss(data: RunData) -> float:
    """Return the loss that compares runs: over fresh seeds if known, else that of the search."""
    row = data.result.fresh_best
    if row is not None and row.values:
        return data.objective.sign * row.mean
    assert data.best is not None
    assert data.best.losses
    return data.best.losses[0]


def _row(data: RunData) -> dict[str, Any]:
    end, run = data.result, data.run
    gain = "" if math.isnan(end.gain) else f"{end.gain:.4g}"
    error = "" if math.isnan(end.gain_error) else f" ± {end.gain_error:.2g}"
    return {
        "run": run.name,
        "strategy": run.manifest.strategy,
        "seed": run.manifest.settings.seed,
        "best": None if end.best is None else end.best.outcome.metrics[end.metric],
        "over fresh seeds": show_fresh_values(end.fresh_best),
        "gain over the default": gain + error,
        "evaluations": end.results,
        "cost, full trainings": round(total_cost(run), 1),
        "time": show_seconds(run.seconds),
        "best genome": "" if end.best is None else show_genome(end.best.genome),
    }
