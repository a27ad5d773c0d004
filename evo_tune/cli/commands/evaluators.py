"""`evo-tune evaluators`: which evaluators are known by name; with a name, what that one declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli import complete
from evo_tune.cli.help import command as made

if TYPE_CHECKING:
    from evo_tune.options.declare import Option
    from evo_tune.plugins.evaluator import Evaluator

PLACE = 80

RICHER = ("unit", "bounds", "gene", "help")
"""What an option may say of itself beside name, type and default; a plain keyword-only parameter says none of it."""


@made("evaluators", "evo-tune evaluators language_model")
@click.argument("name", required=False, shell_complete=complete.evaluators)
@shared.format_option("table", "json", "csv", "markdown")
def command(name: str | None, form: str) -> None:
    """List the evaluators known by name, and their origin.

    With NAME: what that evaluator measures and supports, and its options.
    """
    from msgspec import structs

    from evo_tune.cli.formats import EvaluatorSummary
    from evo_tune.plugins.find import find_evaluator, list_evaluators

    if name is not None:
        _print_one(find_evaluator(name), form)
        return
    if form == "markdown":
        raise click.UsageError("--format markdown describes one evaluator: expected a NAME")
    found = [
        EvaluatorSummary(evaluator=name, found=origin, what=summary, file=str(path))
        for name, origin, path, summary in list_evaluators()
    ]
    if form == "json":
        shared.print_json(found)
        return
    rows = [structs.asdict(one) for one in found]
    if form == "table":  # a path of any length would squeeze the rest
        rows = [{key: value for key, value in row.items() if key != "file"} for row in rows]
    shared.print_rows(rows, form)


def groups_of(options: Iterable[Option]) -> list[tuple[str, list[Option]]]:
    """Return the options in groups: (title, options), both in the order of declaration; '' is the title of the rest."""
    groups: dict[str, list[Option]] = {}
    for option in options:
        groups.setdefault(option.group, []).append(option)
    return list(groups.items())


def _print_one(plugin: Evaluator, form: str) -> None:
    groups = groups_of(plugin.options.values())
    if form == "json":
        from evo_tune.cli.formats import DeclaredEvaluator, DeclaredObjective, DeclaredOption

        options = [DeclaredOption.of(option) for _, held in groups for option in held]
        objectives = [DeclaredObjective(metric=one.metric, direction=one.direction) for one in plugin.objectives]
        shared.print_json(
            DeclaredEvaluator(
                evaluator=plugin.name,
                found=plugin.origin,
                what=plugin.summary,
                file=str(plugin.path),
                objectives=objectives,
                metrics=plugin.metrics,
                tests=plugin.tests,
                supports=plugin.supports,
                options=options,
            )
        )
    elif form == "csv":
        rows = [{"group": title, **_row(option)} for title, held in groups for option in held]
        shared.print_rows(rows, form)
    elif form == "markdown":
        for line in markdown(plugin).splitlines():
            shared.echo(line)
    else:
        _print_facts(plugin)
        if not groups:
            shared.echo("options: none")
        for title, held in groups:
            shared.print_table(_without_empty([_row(option) for option in held]), title or "options (-o NAME=VALUE)")


def _print_facts(plugin: Evaluator) -> None:
    units = [f"{name} ({unit})" if unit else name for name, unit in plugin.metrics.items()]
    shared.echo(f"{plugin.name}: {plugin.summary}")
    shared.echo(f"found: {plugin.origin}, {plugin.path}")
    shared.echo(f"objectives: {', '.join(one.describe() for one in plugin.objectives)}")
    shared.echo(f"metrics: {', '.join(units) or 'not declared'}")
    if plugin.tests:
        pairs = [f"{test} ({name})" for name, test in plugin.tests.items()]
        shared.echo(f"on the test set, in the last comparison only: {', '.join(pairs)}")
    shared.echo(f"supports: {', '.join(plugin.supports) or 'nothing beyond full trainings'}")


def markdown(plugin: Evaluator) -> str:
    """Return what an evaluator declares as a part of a page: docs/options.md is made of these."""
    lines = [f"## {plugin.name}", "", plugin.summary, ""]
    for title, held in groups_of(plugin.options.values()):
        rows = _without_empty([_row(option) for option in held])
        lines += [f"### {title or 'Options'}", "", *_markdown_table(rows), ""]
    return "\n".join(lines)


def _markdown_table(rows: list[Mapping[str, str]]) -> list[str]:
    names = list(rows[0])
    cells = [[row[name].replace("|", "\\|") for name in names] for row in rows]
    cells = [[f"`{row[0]}`", *row[1:]] for row in cells]
    return [f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *cells)]


def _row(option: Option) -> dict[str, str]:
    """Return an option as a row of text."""
    default = "must be given" if option.required else _as_typed(option.default)
    row = {"option": option.name, "type": option.kind, "default": default}
    return {**row, **{name: getattr(option, name) or "" for name in RICHER}}


def _as_typed(default: object) -> str:
    """Return a default as `-o` takes it; an empty text is shown as one."""
    if default is None or isinstance(default, bool):
        return str(default).lower()
    return repr(default) if default == "" else str(default)


def _without_empty(rows: list[dict[str, str]]) -> list[Mapping[str, str]]:
    """Return the rows without the columns in which none of them says anything."""
    said = {name for row in rows for name, text in row.items() if text}
    return [{name: text for name, text in row.items() if name in said} for row in rows]
