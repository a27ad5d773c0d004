"""`evo-tune evaluators`: list the evaluators, or print the declarations of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command

if TYPE_CHECKING:
    from evo_tune.options.declare import Option
    from evo_tune.plugins.evaluator import Evaluator

HELP_ORDER = 80


@cli_command("evaluators", "evo-tune evaluators language_model")
@click.argument("name", required=False, shell_complete=shared.complete_evaluators)
@shared.format_option("table", "json", "csv")
def command(name: str | None, output_format: str) -> None:
    """List the evaluators that can be used by name.

    With NAME, print the metrics, features and options of that evaluator.
    """
    from msgspec import structs

    from evo_tune.cli.formats import EvaluatorSummary
    from evo_tune.plugins.find import find_evaluator, list_evaluators

    if name is not None:
        _print_one(find_evaluator(name), output_format)
        return
    summaries = [
        EvaluatorSummary(evaluator=name, origin=origin, summary=summary, file=str(path))
        for name, origin, path, summary in list_evaluators()
    ]
    if output_format == "json":
        shared.print_json(summaries)
    elif output_format == "csv":
        shared.print_rows([structs.asdict(one) for one in summaries], output_format)
    else:  # without the file: a long path would squeeze the rest
        shared.print_rows(
            [{"evaluator": one.evaluator, "origin": one.origin, "summary": one.summary} for one in summaries],
            output_format,
        )


def groups_of(options: Iterable[Option]) -> dict[str, list[Option]]:
    """Return the options by the title of their group, in the order of declaration; '' is the title of the rest."""
    groups: dict[str, list[Option]] = {}
    for option in options:
        groups.setdefault(option.group, []).append(option)
    return groups


def _print_one(plugin: Evaluator, output_format: str) -> None:
    groups = groups_of(plugin.options.values())
    if output_format == "json":
        _print_json(plugin)
    elif output_format == "csv":
        rows = [{"group": title, **_row(option)} for title, held in groups.items() for option in held]
        shared.print_rows(rows, output_format)
    else:
        _print_facts(plugin)
        if not groups:
            shared.echo("options: none")
        for title, held in groups.items():
            shared.print_table(option_rows(held), title or "options (-o NAME=VALUE)")


def _print_json(plugin: Evaluator) -> None:
    from evo_tune.cli.formats import DeclaredEvaluator, DeclaredObjective, DeclaredOption

    grouped = groups_of(plugin.options.values()).values()
    shared.print_json(
        DeclaredEvaluator(
            evaluator=plugin.name,
            origin=plugin.origin,
            summary=plugin.summary,
            file=str(plugin.path),
            objectives=[DeclaredObjective(metric=one.metric, direction=one.direction) for one in plugin.objectives],
            metrics=plugin.metrics,
            tests=plugin.tests,
            supports=plugin.supports,
            options=[DeclaredOption.of(option) for held in grouped for option in held],
        )
    )


def _print_facts(plugin: Evaluator) -> None:
    units = [f"{name} ({unit})" if unit else name for name, unit in plugin.metrics.items()]
    shared.echo(f"{plugin.name}: {plugin.summary}")
    shared.echo(f"origin: {plugin.origin}, {plugin.path}")
    shared.echo(f"objectives: {', '.join(one.describe() for one in plugin.objectives)}")
    shared.echo(f"metrics: {', '.join(units) or 'not declared'}")
    if plugin.tests:
        pairs = [f"{test} ({name})" for name, test in plugin.tests.items()]
        shared.echo(f"on the test set, in the final comparison only: {', '.join(pairs)}")
    shared.echo(f"supports: {', '.join(plugin.supports) or 'full trainings only'}")


def _row(option: Option) -> dict[str, str]:
    """Return an option as a row of text."""
    return {
        "option": option.name,
        "type": option.kind,
        "default": "must be given" if option.required else _as_typed(option.default),
        "unit": option.unit,
        "bounds": option.bounds,
        "gene": option.gene or "",
        "help": option.help,
    }


def _as_typed(default: object) -> str:
    """Return a default as `-o` takes it; an empty text is shown as ''."""
    if default is None or isinstance(default, bool):
        return str(default).lower()
    return repr(default) if default == "" else str(default)


def option_rows(options: Iterable[Option]) -> list[Mapping[str, str]]:
    """Return options as rows of text, without the columns that are empty in all of them."""
    rows = [_row(option) for option in options]
    filled = {name for row in rows for name, text in row.items() if text}
    return [{name: text for name, text in row.items() if name in filled} for row in rows]
