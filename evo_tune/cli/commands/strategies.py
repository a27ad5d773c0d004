"""`evo-tune strategies`: list the strategies that can be used by name, with their options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command

if TYPE_CHECKING:
    from evo_tune.cli.formats import StrategySummary

HELP_ORDER = 90


@cli_command("strategies")
@shared.format_option("table", "json", "csv")
def command(output_format: str) -> None:
    """List the strategies and their options."""
    from evo_tune.cli.formats import DeclaredOption, StrategySummary
    from evo_tune.options.binding import options_of
    from evo_tune.plugins.find import list_strategies, working_strategies

    working = working_strategies()
    found = []
    for name, summary in list_strategies():
        strategy = working.get(name)  # None: it cannot be loaded, and the summary has the error
        options = {} if strategy is None else options_of(strategy)
        found.append(
            StrategySummary(
                strategy=name,
                objectives="-" if strategy is None else "several" if strategy.several_objectives else "one",
                summary=summary,
                options=[DeclaredOption.of(option) for option in options.values()],
            )
        )
    if output_format == "json":
        shared.print_json(found)
    else:
        shared.print_rows([_row(one) for one in found], output_format)


def _row(one: StrategySummary) -> dict[str, str]:
    options = [known.option if known.required else f"{known.option}={known.default}" for known in one.options]
    return {
        "strategy": one.strategy,
        "objectives": one.objectives,
        "summary": one.summary,
        "options": ", ".join(options),
    }
