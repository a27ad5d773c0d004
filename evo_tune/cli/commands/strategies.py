"""`evo-tune strategies`: list the strategies that can be used by name, with their options."""

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command("strategies", order=90, formats=("table", "json", "csv"))
def command(output_format: str) -> None:
    """List the strategies and their options."""
    from msgspec import structs

    from evo_tune.cli.formats import DeclaredOption, StrategySummary
    from evo_tune.options.binding import options_of
    from evo_tune.plugins.find import list_strategies

    summaries = []
    for name, summary, strategy in list_strategies():  # None: it cannot be loaded, and the summary has the error
        options = {} if strategy is None else options_of(strategy)
        summaries.append(
            StrategySummary(
                strategy=name,
                objectives="-" if strategy is None else "several" if strategy.several_objectives else "one",
                summary=summary,
                options=[DeclaredOption.of(option) for option in options.values()],
            )
        )
    rows = [structs.asdict(summary) for summary in summaries]
    for row in rows:
        texts = (option.option + ("" if option.required else f"={option.default}") for option in row["options"])
        row["options"] = ", ".join(texts)
    shared.print_rows(rows, output_format, value=summaries)
