"""`evo-tune strategies`: which strategies are known by name, and their options."""

from __future__ import annotations

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made

PLACE = 90


@made("strategies")
@shared.format_option("table", "json", "csv")
def command(form: str) -> None:
    """List the strategies and their options."""
    from evo_tune.options.binding import options_of
    from evo_tune.plugins.find import list_strategies, working_strategies

    rows = []
    working = working_strategies()
    for name, summary in list_strategies():
        found = working.get(name)  # None: it is broken, and its summary says how
        options = {} if found is None else options_of(found)
        rows.append(
            {
                "strategy": name,
                "objectives": "-" if found is None else "several" if found.several_objectives else "one",
                "what": summary,
                "options": [option.as_data() for option in options.values()]
                if form == "json"
                else ", ".join(
                    option.name if option.required else f"{option.name}={option.default}" for option in options.values()
                ),
            }
        )
    shared.print_rows(rows, form)
