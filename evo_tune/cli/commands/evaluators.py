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


@cli_command("evaluators", "evo-tune evaluators language_model", order=80, formats=("table", "json", "csv"))
@click.argument("name", required=False, type=click.Path())
def command(name: str | None, output_format: str) -> None:
    """List the evaluators that can be used by name.

    With NAME, print the metrics, features and options of that evaluator.
    """
    from evo_tune.cli.formats import EvaluatorSummary
    from evo_tune.plugins.find import find_evaluator, list_evaluators

    if name is not None:
        _print_evaluator(find_evaluator(name), output_format)
        return
    summaries = [
        EvaluatorSummary(evaluator=name, origin=origin, summary=summary, file=str(path))
        for name, origin, path, summary in list_evaluators()
    ]
    shared.print_rows(summaries, output_format, spare=("file",))  # a long path would squeeze the rest


def groups_of(options: Iterable[Option]) -> dict[str, list[Option]]:
    """Return the options by the title of their group, in the order of declaration; '' is the title of the rest."""
    groups: dict[str, list[Option]] = {}
    for option in options:
        groups.setdefault(option.group, []).append(option)
    return groups


def _print_evaluator(plugin: Evaluator, output_format: str) -> None:
    groups = groups_of(plugin.options.values())
    options = [option for group in groups.values() for option in group]
    if output_format == "json":
        from msgspec import convert

        from evo_tune.cli.formats import DeclaredEvaluator, DeclaredObjective, DeclaredOption

        declared = DeclaredEvaluator(
            evaluator=plugin.name,
            file=str(plugin.path),
            objectives=[convert(goal, DeclaredObjective, from_attributes=True) for goal in plugin.objectives],
            options=[DeclaredOption.of(option) for option in options],
            **{name: getattr(plugin, name) for name in ("origin", "summary", "metrics", "tests", "supports")},
        )
        shared.print_json(declared)
        return
    if output_format == "csv":
        shared.print_rows([_row(option) for option in options], output_format)
        return
    units = [f"{name} ({unit})" if unit else name for name, unit in plugin.metrics.items()]
    tests = ", ".join(f"{test} ({name})" for name, test in plugin.tests.items())
    shared.echo(
        f"{plugin.name}: {plugin.summary}",
        f"origin: {plugin.origin}, {plugin.path}",
        f"objectives: {', '.join(objective.describe() for objective in plugin.objectives)}",
        f"metrics: {', '.join(units) or 'not declared'}",
        *([f"on the test set, in the final comparison only: {tests}"] if tests else []),
        f"supports: {', '.join(plugin.supports) or 'full trainings only'}",
        *([] if groups else ["options: none"]),
    )
    for title, group in groups.items():
        shared.print_rows(option_rows(group), "table", title or "options (-o NAME=VALUE)")


def _row(option: Option) -> dict[str, str]:
    """Return an option as a row of text, with the default as `-o` takes it; an empty text is shown as ''."""
    from msgspec import structs

    from evo_tune.cli.formats import DeclaredOption

    row = structs.asdict(DeclaredOption.of(option))
    default = "must be given" if row.pop("required") else shared.option_text(option.default)
    return {**row, "default": default or "''"}


def option_rows(options: Iterable[Option]) -> list[Mapping[str, str]]:
    """Return options as rows of text, without the columns that are empty in all of them."""
    rows = [_row(option) for option in options]
    filled = {name for row in rows for name, text in row.items() if text and name != "group"}
    return [{name: text for name, text in row.items() if name in filled} for row in rows]
