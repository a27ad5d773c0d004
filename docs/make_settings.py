"""Generate the tables of docs/settings.md from the declarations in `evo_tune.settings`: see generated.py."""

from __future__ import annotations

from collections.abc import Iterator

from evo_tune.options.declare import Options, dataclass_options
from evo_tune.settings import RunSettings, SessionSettings

KINDS = {
    RunSettings: ("Of a run", "They stay the same in all sessions of a run and are saved in its `_run.json`."),
    SessionSettings: (
        "Of a session",
        "They may differ from one `run` or `resume` to the next and are saved in the journal. Limits are totals over "
        "all sessions; new limits replace all earlier ones.",
    ),
}


def rows(kind: type[Options]) -> Iterator[str]:
    """Yield the lines of the table of a group of settings."""
    yield "| flag | values | default | unit | |"
    yield "| --- | --- | --- | --- | --- |"
    for one in dataclass_options(kind).values():
        default = "" if one.default in (None, "") else str(one.default).lower()
        values = one.kind if not one.bounds else f"{one.kind}, in {one.bounds}"
        yield f"| `--{one.name.replace('_', '-')}` | {values} | {default} | {one.unit} | {one.help} |"


def generated() -> str:
    """Return the tables."""
    parts = []
    for kind, (title, text) in KINDS.items():
        parts.append("\n".join([f"## {title}", "", text, "", *rows(kind), ""]))
    return "\n".join(parts)
