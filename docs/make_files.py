"""Generate the tables of docs/files.md from the types that are written to disk: see generated.py.

A table has one row for each key: its type in words, and its entry under `Args:` in the docstring of the type.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

sys.path.insert(0, str(Path(__file__).parent))

from make_json import entries, in_words

from evo_tune.genome.genes import Float
from evo_tune.genome.trial import Candidate, Outcome, Proposal, Trial
from evo_tune.genome.values import Genome, Value
from evo_tune.settings import RunSettings
from evo_tune.store import events, manifest, table

SAME_AS = {events.CandidateRecord: Candidate, events.Result: Outcome}
"""Types on disk that have the fields of another type, and no texts of their own."""

NAMES = {
    RunSettings: "object: [settings](settings.md)",
    dict[str, dict[str, Any]]: "object of [genes](#gene)",
    list[Genome]: "list of genomes",
    list[manifest.Learned]: "list of [earlier runs](#earlier-run)",
}
"""Types that are described elsewhere."""

TITLES = {
    events.CandidateRecord: "Candidate",
    events.Result: "Outcome",
    events.Range: "Gene",
    events.Submitted: "Submission",
    manifest.Learned: "Earlier run",
    manifest.PatchedProject: "Patched",
    manifest.PatchRecord: "Patch",
}
"""Titles of the tables of types that are part of others."""

COLUMNS = {
    "gene.NAME": "Value of a gene, one column for each; JSON text for a Choice of mixed types.",
    "metric.NAME": "A metric of any trial, one column for each: objectives, then those of METRICS, then by name. Null "
    "unless ok.",
    "parents": "Ids of the trials that the genome was bred from.",
    "reported_order": "Position in the order of reported results, from 0; null before that.",
    "survivor": "Whether it was in the population when its generation closed; only for the last trial of its genome.",
}
"""Texts of columns that are no field of a type."""

ARROW = {"int64": "whole number", "double": "number", "string": "text", "bool": "true or false"}


def texts_of(kind: Any) -> dict[str, str]:
    """Return the text of each field of a type, those of its base and of the types that it refers to included."""
    kind = SAME_AS.get(kind, kind)
    own = {**entries(kind.__base__), **entries(kind)} if isinstance(kind, type) else entries(kind)
    others = entries(Proposal)
    return {name: others[name] if text.startswith("See Proposal") else text for name, text in own.items()}


def described(kind: Any) -> Iterator[tuple[str, str, str]]:
    """Yield key, type and text of each field of a type.

    Raises:
        KeyError: The docstring has no entry for a field.
    """
    texts = texts_of(kind)
    for name, hint in get_type_hints(kind).items():
        yield name, words(hint), texts[name].replace("None", "null").replace("|", "\\|")


def words(hint: Any) -> str:
    """Return the JSON type of a Python type, in words, with links to the tables of this page."""
    members = set(get_args(hint)) - {events.UnsetType}
    if hint in NAMES or get_origin(hint) is Literal:
        return NAMES.get(hint, "text")
    if members == set(get_args(Value)):
        return in_words(Value)
    text = (
        in_words(hint, [events.UnsetType]).replace("whole number or number", "number").replace("of list:", "of lists:")
    )
    for kind, title in TITLES.items():
        text = text.replace(f"[{kind.__name__}](#{kind.__name__.lower()})", f"[{title}](#{title.lower()})")
    return text


def rows(heads: str, lines: Iterator[tuple[str, ...]]) -> list[str]:
    """Return a table."""
    columns = heads.split(", ")
    return [
        f"| {' | '.join(columns)} | |",
        "| --- " * (len(columns) + 1) + "|",
        *(f"| {' | '.join(x)} |" for x in lines),
    ]


def part(kind: Any, level: int) -> list[str]:
    """Return the table of a type that is part of others, with its title."""
    lines = ((f"`{name}`", *rest) for name, *rest in described(kind))
    return ["", f"{'#' * level} {TITLES[kind]}", "", *rows("key, type", lines)]


def columns_block() -> list[str]:
    """Return the table of the Parquet columns."""
    known: Mapping[str, str] = {**entries(Trial), **texts_of(Outcome), **texts_of(Candidate), **COLUMNS}
    schema = table.trial_schema({"NAME": Float(0.0, 1.0)}, ["NAME"], {})

    def lines() -> Iterator[tuple[str, ...]]:
        for field in schema:
            kind = "list of whole numbers" if field.name == "parents" else ARROW[str(field.type)]
            kind = "as the gene" if field.name == "gene.NAME" else kind
            text = known[field.name].replace("None", "null").replace("|", "\\|")
            yield f"`{field.name}`", kind, (field.metadata or {}).get(b"unit", b"").decode(), text

    return rows("column, type, unit", lines())


def manifest_block() -> list[str]:
    """Return the table of the manifest, and of the objects in it."""
    lines = ((f"`{name}`", *rest) for name, *rest in described(manifest.Manifest))
    kinds = (manifest.Learned, manifest.PatchedProject, manifest.PatchRecord)
    return [*rows("key, type", lines), *(line for kind in kinds for line in part(kind, 3))]


def journal_block() -> list[str]:
    """Return the table of all events, and of the objects in them."""

    def lines() -> Iterator[tuple[str, ...]]:
        common = [*get_type_hints(events._Event)]
        for name, kind, text in (one for one in described(events.Reported) if one[0] in common):
            yield "all", f"`{name}`", kind, text
        for event in get_args(events.Event):
            tag = f"`{event.__struct_config__.tag}`"
            yield tag, "", "", (event.__doc__ or "").partition("\n")[0]
            for name, kind, text in (one for one in described(event) if one[0] not in common):
                yield tag, f"`{name}`", kind, text

    return [*rows("event, key, type", lines()), *(x for kind in list(TITLES)[:4] for x in part(kind, 3))]


PARTS: dict[str, Callable[[], str]] = {
    "columns": lambda: "\n".join(columns_block()),
    "manifest": lambda: "\n".join(manifest_block()),
    "journal": lambda: "\n".join(journal_block()),
}
