"""`evo-tune evaluators`: which evaluators are known by name."""

from __future__ import annotations

import click

from evo_tune.cli import _shared as shared

PLACE = 80


@click.command("evaluators")
@shared.format_option("table", "json", "csv")
def command(form: str) -> None:
    """List the evaluators known by name, and their origin."""
    from evo_tune.plugins.find import list_evaluators

    rows = [
        {"evaluator": name, "found": origin, "what": summary, "file": str(path)}
        for name, origin, path, summary in list_evaluators()
    ]
    if form == "table":  # a path of any length would squeeze the rest
        rows = [{key: value for key, value in row.items() if key != "file"} for row in rows]
    shared.print_rows(rows, form)
