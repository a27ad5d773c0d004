"""A report as one page of HTML, of one run or of several side by side; and the same charts in a notebook (`load`).

The HTML is in jinja2 templates (assets/), which escape all that comes from a run. Figures are embedded as data, which
no browser executes. The page's policy forbids every script but two, named by their hashes (the plotly script beside
the runs: by a number derived from the page), and every request, form and frame.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from importlib.metadata import distribution, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from evo_tune.errors import StoreError, UsageError, explain_error
from evo_tune.genome.trial import Trial
from evo_tune.report import charts, summary
from evo_tune.report.charts import Part, Spec, as_json, as_plotly
from evo_tune.report.run_data import RunData
from evo_tune.report.side_by_side import comparison_parts
from evo_tune.store.binding import remember_file
from evo_tune.store.journal import write_atomically
from evo_tune.store.run import Run
from evo_tune.store.run_folders import DEFAULT_STORE, REPORT, find_run, read_note, run_reference
from evo_tune.text import escape_unprintable, show_seconds, show_value, with_plural
from evo_tune.trust import safe_files

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

# Most rows of a table that the page's script does not show in parts.
MOST_ROWS = 200

# Rows of a long table that the page shows at a time, the first ones without its script.
FIRST_ROWS = 20

# What the page says of the journal that it was made from: number of records, and their hash.
JOURNAL_FACT = re.compile(r"([0-9]{1,9}) records, SHA-256 ([0-9a-f]{64})")

# Longest text of a table cell that has no line break, in characters.
SHORT = 36

# The page.


@cache
def asset(name: str) -> str:
    """Return one of the page's own files."""
    return (files("evo_tune.report") / "assets" / name).read_text(encoding="utf-8")


@cache
def templates() -> Environment:
    """Return the page's templates, which escape every value and remove characters that reverse or hide others."""
    environment = Environment(
        loader=FunctionLoader(asset),
        autoescape=True,
        # Numbers have few digits; text is escaped afterwards, HTML is not.
        finalize=lambda value: value if isinstance(value, Markup) else show_value(value),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"prose": prose, "cells": _cells}
    return environment


def prose(sentences: str) -> Markup:
    """Return sentences as HTML, with what is between backticks as code."""
    return Markup(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(escape_unprintable(str(sentences))))))


def _cells(
    table: Mapping[str, Sequence[object]] | Sequence[Mapping[str, object]], most: int
) -> list[list[tuple[Markup, object]]]:
    """Return the head and the first rows of columns or rows: each cell with the class attribute of its column.

    Numbers and short texts have no line breaks.
    """
    columns = table if isinstance(table, Mapping) else {name: [row.get(name) for row in table] for name in table[0]}
    classes = []
    for column in columns.values():
        is_number = all(value is None or isinstance(value, int | float) for value in column)
        is_short = is_number or max(len(str(value)) for value in column) <= SHORT
        classes.append(Markup(' class="number"' if is_number else ' class="whole"' if is_short else ""))
    rows = zip(*(column[:most] for column in columns.values()), strict=True)
    return [list(zip(classes, row, strict=True)) for row in (tuple(columns), *rows)]


def page(title: str, facts: Mapping[str, str], parts: Mapping[str, Part], library: str = "", **data: Any) -> str:
    """Return the page.

    Args:
        title: Title.
        facts: Facts below the title, by name.
        parts: Parts in order, by the names of their links in the page.
        library: Path of the plotly script as the page names it; '' for a page that contains the script.
        data: Further data for the page's own script.
    """
    template, script = templates().get_template("page.html"), asset("page.js")
    library_text = "" if library else plotly_script().decode("utf-8").replace("</script", "<\\/script")
    sources = [_hash(library_text), _hash(script)]
    # JSON that cannot close the element that contains it
    figures = as_json({**script_data(parts), **data}).translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"})
    sections = [section_html(name, part) for name, part in parts.items()]
    content = {"title": title, "facts": facts, "parts": parts, "sections": sections, "data": Markup(figures)}
    content |= {"library_text": Markup(library_text), "library_path": library}
    content |= {"style": Markup(asset("page.css")), "script": Markup(script)}
    nonce = ""
    if library:  # a number that nothing in the page can know beforehand allows the script beside the runs
        draft = template.render(content, nonce="", policy="")
        nonce = hashlib.sha256(draft.encode()).hexdigest()[:32]
        sources[0] = f"'nonce-{nonce}'"
    rules = Markup(policy(sources, "'self'" if data.get("follow") else "'none'"))
    return template.render(content, nonce=nonce, policy=rules)


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


def script_data(parts: Mapping[str, Part]) -> dict[str, dict[str, Any]]:
    """Return the figures and the long tables of parts as the page's script reads them, by the ids of their places."""
    figures: dict[str, Spec] = {}
    tables: dict[str, Any] = {}
    for name, part in parts.items():
        figures |= {f"{name}-{number}": drawn.figure for number, drawn in enumerate(part.figures)}
        if part.table:
            data = {"names": list(part.table), "columns": list(part.table.values()), "marked": [*part.marked]}
            tables[f"{name}-table"] = {**data, "rows": FIRST_ROWS, "choice": "status", "links": "log"}
    return {"figures": figures, "tables": tables}


def section_html(name: str, part: Part) -> Markup:
    """Return a part as HTML, in which the page's script draws the figures."""
    template = templates().get_template("section.html")
    return Markup(template.render(name=name, part=part, most_rows=MOST_ROWS, first_rows=FIRST_ROWS))


# The plotly script.

# Beginning and end of the one function that contains the whole script.
OPENS, CLOSES = b": this, () => {", b"\n}));"

# Largest plotly script, in bytes.
LARGEST = 1 << 25


def plotly_script() -> bytes:
    """Return plotly's script, changed in two places so that a browser starts it in less than half of the time.

    It registers no kind of trace, for charts have scatter only, which plotly always has. And one pair of brackets is
    added: a browser compiles a function in brackets at once. Without them it first skims all 4.8 MB, then compiles. A
    script of an unknown form is returned as it is.
    """
    path = distribution("plotly").locate_file("plotly/package_data/plotly.min.js")  # importing plotly takes longer
    script = Path(str(path)).read_bytes()
    if script.count(OPENS) != 1 or not script.rstrip().endswith(CLOSES):
        return script
    script = re.sub(rb"(\.register\(\[)(?:[\w$]+\(\),?)+(?=\]\))", rb"\1", script, count=1)
    return script.rstrip().removesuffix(CLOSES).replace(OPENS, OPENS.replace(b"()", b"(()")) + b"\n})));\n"


def write_shared_library(store: Path) -> str:
    """Write the plotly script into a store unless it is there, and return its path from a run's folder.

    The file's name has plotly's version, so older reports still find theirs. A file with other contents is replaced.

    Raises:
        StoreError: The store cannot be written.
    """
    name, script = f"_plotly-{version('plotly')}.min.js", plotly_script()
    present = b""
    with contextlib.suppress(OSError):
        present = safe_files.read(store, name, limit=LARGEST)
    if present != script:
        write_atomically(store / name, script)
    return f"../{name}"


# Reports of runs.


def report(runs: Sequence[Run], library: str = "") -> str:
    """Return the page of one run, or of several runs side by side.

    Args:
        runs: One or more runs.
        library: See `page`.
    """
    data = [RunData(run) for run in runs]
    if len(data) == 1:
        # A page beside the plotly script is in the run's folder, so it can link to other files there.
        journal = data[0].run.journal
        facts = {**run_facts(data[0]), "journal": f"{journal.count} records, SHA-256 {journal.head}"}
        return page(data[0].name, facts, charts.parts(data[0]), library, linked=bool(library))
    title, facts = f"{len(data)} runs side by side", {"runs": ", ".join(run.name for run in runs)}
    return page(title, facts, comparison_parts(data), library)


def run_facts(data: RunData) -> dict[str, str]:
    """Return the facts below a report's title."""
    manifest, run = data.run.manifest, data.run
    facts = {
        "evaluator": manifest.evaluator,
        "strategy": manifest.strategy,
        "objective": ", ".join(manifest.objectives),
        "seed": str(manifest.settings.seed),
        "begun": manifest.created[:16].replace("T", " "),
        "ended": run.ended or "not yet",
        "took": show_seconds(run.seconds),
        "note": read_note(run.folder),
    }
    return {name: value for name, value in facts.items() if value}


def write_beside(run: Run) -> Path:
    """Write the report into a run's folder and the plotly script into its store; return the report's path.

    Raises:
        StoreError: Writing failed.
    """
    path = run.folder / REPORT
    try:
        data = report([run], write_shared_library(run.folder.parent)).encode()
        write_atomically(path, data)
        remember_file(run.folder, run.manifest.identity, REPORT, data)
    except StoreError as error:
        elsewhere = f"`evo-tune report {run_reference(run.folder)} -o FILE` writes it elsewhere"
        raise StoreError(f"{error}; {elsewhere}") from None
    return path


def write_report(runs: Sequence[Run], path: Path) -> Path:
    """Write a report that contains the plotly script, and return its path.

    Raises:
        StoreError: Writing failed.
    """
    html = report(runs)
    refusal = explain_error(StoreError, f"cannot write {path}", "choose another -o FILE")
    with refusal, safe_files.complete_or_absent(path) as part:
        part.write_text(html, encoding="utf-8")
    return path


# A saved run in a notebook. It locks nothing, writes nothing, and runs no code from the run.


def load(name: str | Path | None = None, *, store: str | Path = DEFAULT_STORE) -> Results:
    """Return the results of a saved run.

    Args:
        name: Name or path of the run; by default the latest one.
        store: Folder of the saved runs.

    Raises:
        StoreError: There is no such run, or it is damaged.
    """
    return Results(Run.open(find_run(Path(store), None if name is None else str(name))))


class Results:
    """The results of a saved run at the time when it was loaded; `load` creates it.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._data = RunData(run)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self._data.name

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self._data.run.folder

    @property
    def trials(self) -> list[Trial]:
        """All recorded trials, ordered by id."""
        return list(self._data.trials)

    @property
    def best(self) -> Trial | None:
        """The recommended trial; None if no full training has a value."""
        return self._data.result.best

    def front(self) -> list[Trial]:
        """Return the Pareto front, best on the first objective first."""
        return summary.pareto_front(self._data.run)

    def frame(self) -> pd.DataFrame:
        """Return all recorded trials as rows, with the columns of the run's Parquet files."""
        from evo_tune.store.table import table_of

        frame: pd.DataFrame = table_of(self._data.run, self._data.trials).to_pandas()
        return frame

    @cached_property
    def plot(self) -> Plots:
        """The charts: `plot.history()`, `plot.slices()`, …; `dir(run.plot)` lists them."""
        return Plots(self._data)

    def report(self, path: str | Path) -> Path:
        """Write the report as one file that contains everything, and return its path.

        Raises:
            StoreError: Writing failed.
        """
        return write_report([self._data.run], Path(path))

    def __repr__(self) -> str:
        best, metric = self.best, self._data.metric
        value = "no value yet" if best is None else f"best {metric} {best.outcome.metrics[metric]:.5g}"
        trial = "" if best is None else f" (trial {best.id})"
        return f"<run {self.name}: {with_plural(len(self._data.trials), 'result')}, {value}{trial}>"


class Plots:
    """The charts of one run: each is a function that returns a plotly figure, or None without data for it.

    Args:
        data: The run.
    """

    def __init__(self, data: RunData) -> None:
        self._data = data

    def __getattr__(self, name: str) -> Callable[..., Figure | None]:
        if name.startswith("_") or name not in dir(self):
            raise AttributeError(f"there is no chart {name!r}: expected one of {', '.join(dir(self))}")
        draw: Callable[..., Spec | None] = charts.chart_of(name).draw

        def plot(*args: Any, **options: Any) -> Figure | None:
            try:
                spec = draw(self._data, *args, **options)
            except (KeyError, ValueError) as error:
                raise UsageError(f"plot.{name}: the run has no {error}") from None
            return None if spec is None else as_plotly(spec)

        plot.__name__, plot.__doc__ = name, draw.__doc__
        return plot

    def __dir__(self) -> list[str]:
        return [name for name in charts.names() if hasattr(charts.chart_of(name), "draw")]
