"""A report as one page of HTML: what a browser is given, and what it is forbidden.

Everything that comes from a run is text here, and is escaped on its way into the page; figures travel as data, which no
browser executes. The page's policy forbids every script but the two that are named by their hashes (or, for the
library beside the runs, by a number drawn from the page itself), every request, every form and every frame. This
module knows how a page is made, and nothing of what a run is about.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from evo_tune.report.drawing import as_json
from evo_tune.report.part import Command, Drawn, Part
from evo_tune.report.words import show_value
from evo_tune.text import printable

__all__ = ["Library", "Section", "asset", "figures_of", "page", "policy", "section_html"]

MOST_ROWS = 200


@dataclass(frozen=True)
class Library:
    """The chart library's script, as a page has it.

    Args:
        text: The script itself, for a page that stands alone; '' where it lies beside the page.
        path: Where it lies, as the page names it; '' where it is in the page.
    """

    text: str = ""
    path: str = ""


@dataclass(frozen=True)
class Section:
    """A part and the name by which the page links to it."""

    name: str
    part: Part


@cache
def asset(name: str) -> str:
    """Return one of the page's own files."""
    return (files("evo_tune.report.pages") / "assets" / name).read_text(encoding="utf-8")


def text(value: object) -> str:
    """Return any text as HTML that shows it: escaped, and without characters that turn or hide others."""
    return html.escape(printable(str(value)), quote=True)


def page(title: str, about: Mapping[str, str], sections: Sequence[Section], library: Library, **data: Any) -> str:
    """Return the page.

    Args:
        title: Of the page.
        about: What it is about, name to value.
        sections: Its parts, in order.
        library: The chart library's script.
        data: More for the page's own script.
    """
    figures = {id: spec for section in sections for id, spec in figures_of(section).items()}
    held = _as_data({"figures": figures, **data})
    connect = "'self'" if data.get("follow") else "'none'"
    body = _body(title, about, sections)
    # A number that nothing in the page can know beforehand: it names the script that lies beside the page.
    nonce = hashlib.sha256(f"{body}{held}".encode()).hexdigest()[:32]
    own = asset("page.js")
    if library.text:
        script, allowed = f"<script>{library.text}</script>", [_hash(library.text), _hash(own)]
    else:
        script = f'<script src="{text(library.path)}" nonce="{nonce}"></script>'
        allowed = [f"'nonce-{nonce}'", _hash(own)]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy(allowed, connect)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            '<link rel="icon" href="data:,">',
            f"<title>{text(title)}</title>",
            f"<style>{asset('page.css')}</style>",
            "</head>",
            f"<body>{body}",
            f'<script type="application/json" id="figures">{held}</script>',
            script,
            f"<script>{own}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def policy(scripts: Sequence[str], connect: str = "'none'") -> str:
    """Return a Content-Security-Policy.

    Styles may stand in the page: plotly sets them on what it draws. They can run nothing, and fetch nothing.

    Args:
        scripts: Sources that may be executed.
        connect: Whom the page may ask.
    """
    return (
        f"default-src 'none'; script-src {' '.join(scripts)}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'; frame-src 'none'"
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _as_data(data: Mapping[str, Any]) -> str:
    """Return data as JSON that cannot end the element that holds it."""
    return as_json(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def figures_of(section: Section) -> dict[str, Any]:
    """Return a part's figures by the ids of their places in the page."""
    return {_id(section, number): drawn.figure for number, drawn in enumerate(section.part.figures)}


def _id(section: Section, number: int) -> str:
    return f"{section.name}-{number}"


def _body(title: str, about: Mapping[str, str], sections: Sequence[Section]) -> str:
    facts = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in about.items())
    links = "".join(f'<li><a href="#{section.name}">{text(_short(section))}</a></li>' for section in sections)
    parts = "\n".join(section_html(section) for section in sections)
    return f"""<a class="skip" href="#main">To the report</a>
<div class="frame">
<header><p class="kind">evo-tune report</p><h1>{text(title)}</h1><dl class="about">{facts}</dl>
<p class="note" id="state" aria-live="polite"></p>
<label class="note" id="follow" hidden><input type="checkbox" id="following" checked> Follow the run</label>
<p class="missing" id="missing" hidden>The charts are drawn by a script that lies beside the runs, and it is not there.
<code>evo-tune report RUN -o FILE</code> writes a page that stands alone. The numbers are all here.</p>
<noscript><p class="missing">The charts need a script; the numbers are all here without.</p></noscript></header>
<nav aria-label="Contents"><ol>{links}</ol></nav>
<main id="main">
{parts}
</main>
<footer>Made by evo-tune from the run's journal. Nothing in this page is fetched, and nothing is sent.</footer>
</div>
"""


def _short(section: Section) -> str:
    return "Verdict" if section.name == "verdict" else section.part.title


def section_html(section: Section) -> str:
    """Return a part as HTML; its figures are places that the page's script fills."""
    part = section.part
    pieces = [f'<section id="{section.name}"><h2>{text(part.title)}</h2>', f'<p class="reads">{text(part.reads)}</p>']
    if part.facts:
        facts = "".join(
            f"<div><dt>{text(name)}</dt><dd>{_fact(value)}</dd></div>" for name, value in part.facts.items()
        )
        pieces.append(f'<dl class="facts">{facts}</dl>')
    if part.figures:
        several = " several" if any(drawn.narrow for drawn in part.figures) else ""
        drawn = "".join(_figure(one, _id(section, number), part) for number, one in enumerate(part.figures))
        pieces.append(f'<div class="charts{several}">{drawn}</div>')
    if part.commands:
        pieces.append(f'<ol class="steps">{"".join(map(_command, part.commands))}</ol>')
    if part.note:
        pieces.append(f'<p class="note">{text(part.note)}</p>')
    if part.rows:
        pieces.append(_table(part, section.name))
    return "".join(pieces) + "</section>"


def _fact(value: str) -> str:
    """Return a fact with what follows its first number set small."""
    large, sign, rest = value.partition(" ±")
    return text(large) + (f" <small>{text(f'±{rest}')}</small>" if sign else "")


def _figure(drawn: Drawn, id: str, part: Part) -> str:
    wide = "" if drawn.narrow else ' class="wide"'
    caption = f"<figcaption>{text(drawn.caption)}</figcaption>" if drawn.caption else ""
    label = text(f"Chart: {drawn.caption or part.title}. {part.reads}")
    axes = f' data-axes="{len(drawn.axes)}"' if drawn.axes else ""
    height = int(drawn.figure["layout"]["height"])
    least = f";min-width:{56 * len(drawn.axes)}px" if drawn.axes else ""  # axes that touch cannot be read
    place = (
        f'<div class="chart" id="{id}" role="img" aria-label="{label}" style="height:{height}px{least}"{axes}></div>'
    )
    place = f'<div class="across" tabindex="0">{place}</div>' if drawn.axes else place
    return f"<figure{wide}>{caption}{place}{_filters(drawn, id) if drawn.axes else ''}</figure>"


def _filters(drawn: Drawn, id: str) -> str:
    """Return two sliders for each axis: by keyboard and by finger, what a mouse does by dragging."""
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
    typed = f"<pre><code>{text(command.typed)}</code></pre>" if command.typed else ""
    return f"<li><p>{text(command.why)}</p>{typed}</li>"


def _table(part: Part, name: str) -> str:
    columns = list(part.rows[0])
    numeric = {c: all(isinstance(row.get(c), int | float) or row.get(c) is None for row in part.rows) for c in columns}
    kind = {column: ' class="number"' if numeric[column] else "" for column in columns}
    head = "".join(f'<th scope="col"{kind[column]}>{text(column)}</th>' for column in columns)
    rows = "".join(
        "<tr>" + "".join(f"<td{kind[c]}>{text(_shown(row.get(c)))}</td>" for c in columns) + "</tr>"
        for row in part.rows[:MOST_ROWS]
    )
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    more = f'<p class="note">The first {MOST_ROWS} of {len(part.rows)}.</p>' if len(part.rows) > MOST_ROWS else ""
    opened = " open" if part.rows_open else ""
    return f'<details id="{name}-rows"{opened}><summary>{text(part.rows_title)}</summary>{table}{more}</details>'


def _shown(value: object) -> str:
    return show_value(value) if isinstance(value, float) or value is None else str(value)
