"""Options and output that several commands share."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from evo_tune.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])

STORE = "populations"
"""As `store.places.STORE`, which is not imported here: `evo-tune --help` is to answer at once."""

run_argument = click.argument("run", required=False)

store_option = click.option(
    "--store", default=STORE, show_default=True, metavar="DIR", help="Folder in which runs are saved."
)


class CountOrAuto(click.IntRange):
    """A number from 1, or 'auto'."""

    name = "number or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "auto" else super().convert(value, param, ctx)


per_device_option = click.option(
    "--per-device",
    type=CountOrAuto(min=1),
    metavar="K|auto",
    help="Slots on one GPU; auto: as many as its memory has room for.  [default: 1]",
)

trust_option = click.option(
    "--trust", is_flag=True, help="Run the files of code that RUN names, although they lie outside this folder."
)


def check_own(folder: Path, evaluator: str | None, trust: bool) -> None:
    """Before code that a saved run names is run: it must be the user's own, or the user must say so.

    A path is the user's own if it lies below the working directory and not in a saved run; a run may come from a
    stranger, and bring code along or name some other file of this machine.

    Args:
        folder: The run's.
        evaluator: Given by the user in place of the run's.
        trust: Whether the user has said so.

    Raises:
        UsageError: There is such a file, and nobody to ask, or the answer is no.
    """
    from evo_tune.store.run import Run

    manifest = Run.open(folder).manifest
    named = [("strategy", manifest.strategy, ""), ("evaluator", manifest.evaluator, ", or --evaluator PATH")]
    for kind, reference, flag in named[: 1 if evaluator is not None else 2]:
        path = Path(reference)
        if trust or (path.suffix != ".py" and os.sep not in reference) or not path.is_file() or _is_own(path.resolve()):
            continue
        text = f"the run names the {kind} {path}, which is not below this folder or lies in a saved run"
        if sys.stdin.isatty() and click.confirm(f"{text}. Run its code?", err=True):
            continue
        raise UsageError(f"{text}: running it runs its code; if it is yours, say --trust{flag}")


def _is_own(path: Path) -> bool:
    here = Path.cwd().resolve()
    between = [parent for parent in path.parents if here in parent.parents]
    return here in path.parents and not any((parent / "_run.json").exists() for parent in between)


def format_option(*formats: str) -> Callable[[Command], Command]:
    """Return the option `--format` with these choices, the first being the default."""
    return click.option(
        "--format", "form", type=click.Choice(formats), default=formats[0], show_default=True, help="How to print."
    )


def option_option(function: Command) -> Command:
    """Add `-o NAME=VALUE`."""
    return click.option(
        "-o", "--option", "options", multiple=True, metavar="NAME=VALUE", help="Option of the evaluator; repeatable."
    )(function)


def print_json(data: object) -> None:
    """Print data as JSON; numbers that are not finite become null."""
    click.echo(json.dumps(plain(data), indent=2))


def plain(data: object) -> object:
    """Return data with every number that JSON lacks replaced by None."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    return data


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    form: str,
    title: str = "",
    empty: str = "nothing to show",
    spare: Sequence[str] = (),
) -> None:
    """Print rows as a table, as JSON or as CSV.

    Args:
        rows: The same keys in each.
        form: 'table', 'json' or 'csv'.
        title: Printed above a table.
        empty: Printed instead of a table without rows.
        spare: Columns that a table may leave out where it is narrow, the first first.
    """
    if form == "json":
        print_json(list(rows))
    elif form == "csv":
        text = io.StringIO()
        if rows:
            writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        click.echo(text.getvalue(), nl=False)
    elif not rows:
        click.echo(empty)
    else:
        print_table(rows, title, spare)


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "", spare: Sequence[str] = ()) -> None:
    """Print rows as a table that fits the terminal, or as wide as it is into a file.

    Args:
        rows: The same keys in each.
        title: Printed above.
        spare: Columns that may be left out of a narrow terminal, the first first.
    """
    from rich import box
    from rich.table import Table

    out = console()
    rows = _fitting(rows, spare, out.width)
    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        numeric = all(isinstance(row[name], int | float) or row[name] is None for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(show_value(value) for value in row.values()))
    out.print(table)


def _fitting(rows: Sequence[Mapping[str, Any]], spare: Sequence[str], width: int) -> Sequence[Mapping[str, Any]]:
    """Leave out spare columns, the first first, until the rows fit; columns squeezed to letters tell nothing."""
    for left_out in (None, *spare):
        rows = [{name: value for name, value in row.items() if name != left_out} for row in rows]
        widths = [max(len(name), *(len(show_value(row[name])) for row in rows)) for name in rows[0]]
        if sum(widths) + 3 * len(widths) <= width:
            break
    return rows


def console() -> Any:
    """Return a rich console that prints text as it is; a file or a pipe gets lines that are not cut."""
    from rich.console import Console

    out = Console(highlight=False, markup=False, emoji=False)
    return out if out.is_terminal else Console(highlight=False, markup=False, emoji=False, width=200)


def show_value(value: object) -> str:
    """Return a value as people read it: numbers with five significant digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)


def show_genome(genome: Mapping[str, Any]) -> str:
    """Return a genome in one line."""
    return " ".join(f"{name}={show_value(value)}" for name, value in genome.items())


def show_seconds(seconds: float) -> str:
    """Return a duration: 8 s, 2 min 05 s, 3 h 10 min."""
    if not math.isfinite(seconds):
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
