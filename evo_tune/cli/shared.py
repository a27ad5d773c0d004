"""Arguments, options, shell completion and output that several commands share.

A store may be a stranger's: only names are completed that a shell takes for a plain word, and a terminal obeys nothing
that is printed. Tests compare the completed names with those that the commands find.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from evo_tune.errors import EvoTuneError, OptionError, StoreError
from evo_tune.text import escape_unprintable, to_csv_cell, with_plural
from evo_tune.text import show_genome as show_genome
from evo_tune.text import show_seconds as show_seconds
from evo_tune.text import show_value as show_value

if TYPE_CHECKING:
    from msgspec import Struct

    from evo_tune.genome.genes import Gene
    from evo_tune.genome.trial import Candidate, Trial
    from evo_tune.plugins.evaluator import BoundEvaluator
    from evo_tune.store.run import Run

# The value of `store.run_folders.STORE`, which takes too long to import for `evo-tune --help`.
STORE = "populations"

# Most characters of the options of a command that is printed.
MOST_OPTIONS = 1 << 17

# Names that a run may have and that no shell expands.
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

# The value of `store.manifest.MANIFEST`, which takes a quarter of a second to import.
MANIFEST = "_run.json"


# ---------------------------------------------------------------------------------------------------------
# Shell completion. It runs at every press of the key, so nothing heavy is imported, and names are those of files.


def complete_runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the name of a run in the given store, or in the default one; the shell completes a file if none fits."""
    store = Path(ctx.params.get("store") or STORE)
    names = sorted(path.parent.name for path in store.glob(f"[!.]*/{MANIFEST}"))
    fitting = [name for name in names if WORD.fullmatch(name) and name.startswith(incomplete)]
    return [CompletionItem(name) for name in fitting] or [CompletionItem(incomplete, type="file")]


# ---------------------------------------------------------------------------------------------------------
# Arguments and options


run_argument = click.argument("run", required=False, shell_complete=complete_runs)

store_option = click.option(
    "--store", default=STORE, show_default=True, metavar="DIR", type=click.Path(file_okay=False), help="Folder of runs."
)

evaluator_option = click.option("--evaluator", metavar="PATH", help="New path of the evaluator, if it has moved.")


# Types of flags.
COUNT, NOT_NEGATIVE, POSITIVE = click.IntRange(min=1), click.IntRange(min=0), click.FloatRange(min=0, min_open=True)


class CountOrAuto(click.IntRange):
    """A number from 1, or 'auto'."""

    name = "number or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "auto" else super().convert(value, param, ctx)


per_device_option = click.option(
    "--per-device",
    type=CountOrAuto(min=1),
    metavar="K|auto",
    help="Slots on each GPU; auto: as many as fit into its memory.  [default: 1]",
)

trust_option = click.option(
    "--trust", is_flag=True, help="Trust RUN, which others may have written: run its code and read the paths it names."
)


price_option = click.option("--price-per-hour", type=click.FloatRange(min=0), help="Price of an hour.")


class PairsOption(click.Option):
    """A repeatable flag of names and values; --config gives those that the command line does not name."""

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, click.core.ParameterSource]:
        value, source = super().consume_value(ctx, opts)
        if source is click.core.ParameterSource.COMMANDLINE and ctx.default_map:
            named = {text.partition("=")[0] for text in value}
            kept = (text for text in ctx.lookup_default(str(self.name)) or () if text.partition("=")[0] not in named)
            value = [*kept, *value]
        return value, source


pairs_option = functools.partial(click.option, cls=PairsOption, multiple=True)

evaluator_options_option = pairs_option(
    "-o", "--option", "options", metavar="NAME=VALUE", help="Option of the evaluator; repeatable."
)


@dataclass(frozen=True)
class OutputFlags:
    """What a session prints, and what it writes beside the run.

    Args:
        output_format: 'table', 'json', 'jsonl', or 'none' for nothing on standard output.
        quiet: Whether to print nothing but errors.
        no_report: Whether to write no report.
        tracks: Other tools to write for, as TOOL:PATH.
        price_per_hour: Price of an hour; None for no price.
    """

    output_format: str = "table"
    quiet: bool = False
    no_report: bool = False
    tracks: tuple[str, ...] = ()
    price_per_hour: float | None = None


def output_flags(command: Callable[..., int]) -> Callable[..., int]:
    """Add the flags of `run` and `resume` that are no settings; the command gets them as `output`."""

    @functools.wraps(command)
    def with_output_flags(**flags: Any) -> int:
        output = OutputFlags(**{field.name: flags.pop(field.name) for field in fields(OutputFlags)})
        if output.tracks:  # a path that cannot be used is refused before a run is made
            from evo_tune.integrations.tracking import check_track

            for text in output.tracks:
                check_track(text)
        return command(output=output, **flags)

    for option in (
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
        price_option,
        click.option(
            "--track",
            "tracks",
            multiple=True,
            metavar="TOOL:PATH",
            help="Also write for another tool: tensorboard:DIR, optuna:FILE or wandb:DIR; repeatable.",
        ),
        click.option("--no-report", is_flag=True, help="Write no report (_report.html in the run's folder)."),
    ):
        with_output_flags = option(with_output_flags)
    return with_output_flags


# ---------------------------------------------------------------------------------------------------------
# Runs, and what a user types


def open_run(name: str | None, store: str, remedy: str = "") -> Run:
    """Return a saved run: that with a name or a path, or the latest one of the store. See `find_run`."""
    from evo_tune.store.run import Run
    from evo_tune.store.run_folders import find_run

    return Run.open(find_run(Path(store), name, remedy))


def require_best_trial(run: Run) -> Trial:
    """Return the trial that a run recommends.

    Raises:
        StoreError: No full training of the run has a value.
    """
    from evo_tune.report.recommendation import recommend_trial
    from evo_tune.store.run_folders import run_reference

    best = recommend_trial(run)
    if best is None:
        raise StoreError(
            f"run {run.name} has no full training with a value: `evo-tune show {run_reference(run.folder)}` prints why"
        )
    return best


def ask_function() -> Callable[[str], bool] | None:
    """Return a function that asks the user a yes-or-no question; None if standard input is no terminal."""
    if not sys.stdin.isatty():
        return None
    return lambda question: click.confirm(escape_unprintable(question), err=True)


def command_in_project(run: Run, candidate: Candidate) -> str:
    """Return the command that trains a candidate in its project; '' for an evaluator, a damaged and a huge command."""
    from evo_tune.plugins.command import command_of

    manifest, outcome = run.manifest, run.outcomes.get(candidate.id)
    device = "cpu" if outcome is None else outcome.device or "cpu"
    if len(str(manifest.options)) > MOST_OPTIONS:  # perhaps a stranger's configuration file, slow to read
        return ""
    try:
        return command_of(manifest.evaluator, candidate, manifest.options, device, manifest.threads)
    except EvoTuneError:
        return ""


def training_command(run: Run, trial: Trial) -> str:
    """Return the command that trains a trial of a script's run once more; '' for other, damaged and huge commands.

    With patches, the project of the trial is written first.
    """
    typed = command_in_project(run, trial.candidate)
    if not typed or trial.candidate.code is None or not trial.candidate.code.patches:
        return typed
    folder = f"{run.name}-{trial.id}"
    export = ["evo-tune", "export", run.name, folder, "--trial", str(trial.id)]
    return f"{shlex.join(export)} && cd {shlex.quote(folder)} && {typed}"


def echo(*lines: str, err: bool = False) -> None:
    """Print lines without control characters, since parts of them may come from a run or a file."""
    for line in lines:
        click.echo(escape_unprintable(line), err=err)


def echo_piece(text: str) -> None:
    """Print a piece of a text at once; the terminal obeys nothing in it but line ends and tabs."""
    parts = re.split(r"([\n\t])", text)
    click.echo("".join(part if part in "\n\t" else escape_unprintable(part) for part in parts), nl=False)
    sys.stdout.flush()


# Fewest steps of a training that passes without a remark.
FEW_STEPS = 10


# Most lines about the data that are printed before anything is trained.
DESCRIBED = 9


def print_remarks(
    evaluator: BoundEvaluator, genome: Mapping[str, Any], extra_seeds: bool = True, most_lines: int | None = DESCRIBED
) -> None:
    """Print what an evaluator has read, and remarks about its options and trainings of few steps, on standard error.

    Args:
        evaluator: Evaluator with its options.
        genome: Genome to train, or the default one of a search.
        extra_seeds: Whether a genome may be trained with several seeds.
        most_lines: Most lines about the data; None for all.
    """
    from evo_tune.plugins.command import NO_SEED

    name, lines = evaluator.plugin.name, evaluator.describe()
    echo(*(f"{name}: {line}" for line in lines[:most_lines]), err=True)
    if more := len(lines[most_lines:] if most_lines else ()):
        whole = f"evo-tune run {name} --dry-run, with the same -o"
        echo(f"{name}: and {with_plural(more, 'more line')}: {whole}", err=True)
    remarks = [remark for remark in evaluator.remarks() if extra_seeds or remark != NO_SEED]
    with contextlib.suppress(EvoTuneError):  # the training reports it
        steps = evaluator.estimate(dict(genome)).get("steps", math.inf)
        if steps < FEW_STEPS:
            count = f"only {steps:.0f} step{'s' if steps > 1 else ''}"
            remedy = "give a larger budget, more data, or smaller batches"
            remarks.append(f"with batch={genome.get('batch', '?')}, a training has {count}: {remedy}")
    echo(*(f"{name}: {line}" for line in remarks), err=True)


def print_json(value: Struct | Sequence[Struct], line: bool = False) -> None:
    """Print a value of a declared type as JSON (see `cli/formats.py`).

    The text is ASCII, so that any string is kept and no terminal obeys it. Numbers that are not finite become null.

    Args:
        value: Filled type, or a sequence of them.
        line: Whether to print it on one line.
    """
    import json

    import msgspec

    data = json.loads(json.dumps(msgspec.to_builtins(value)), parse_constant=lambda constant: None)
    click.echo(json.dumps(data, indent=None if line else 2).replace("\x7f", "\\u007f"))


def print_json_or_text(output_format: str, value: Struct, *lines: str) -> None:
    """Print a value as JSON with the format 'json', and the lines with any other."""
    if output_format == "json":
        print_json(value)
    else:
        echo(*lines)


def interrupt_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise, as Ctrl-C does, so that no process and no folder is left behind."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)


def metric_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return a line for each metric."""
    return [f"  {name:<21} {show_value(value)}" for name, value in metrics.items()]


def print_rows(
    rows: Sequence[Mapping[str, Any]] | Sequence[Struct],
    output_format: str,
    title: str = "",
    empty: str = "nothing to show",
    spare: Sequence[str] = (),
    value: Struct | Sequence[Struct] | None = None,
) -> None:
    """Print rows as a table that fits the terminal, as CSV or as JSON. A file gets the whole width of a table.

    Args:
        rows: Values by column, the same columns in each row; or filled types with the same fields.
        output_format: 'table', 'csv' or 'json'.
        title: Title of a table.
        empty: Text to print instead of a table without rows.
        spare: Columns that a narrow table may leave out, the least important first.
        value: What is printed as JSON in place of the rows.
    """
    from msgspec import structs

    if output_format == "json":
        print_json(rows if value is None else value)  # type: ignore[arg-type]  # a command without types gives a value
        return
    rows = [row if isinstance(row, Mapping) else structs.asdict(row) for row in rows]
    if output_format == "csv":
        import csv

        text = io.StringIO()
        if rows:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow([to_csv_cell(name) for name in rows[0]])
            writer.writerows([to_csv_cell(row.get(name)) for name in rows[0]] for row in rows)
        click.echo(text.getvalue(), nl=False)
        return
    if not rows:
        echo(empty)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False, markup=False, emoji=False)
    if not out.is_terminal:  # a file or a pipe gets long lines
        out.width = 200
    all_names, rows = list(rows[0]), _fit_columns(rows, spare, out.width)
    title = escape_unprintable(title)
    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        numeric = all(isinstance(row[name], int | float) or row[name] is None for row in rows)
        table.add_column(escape_unprintable(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(show_value(value) for value in row.values()))
    out.print(table)
    if omitted := [name for name in all_names if name not in rows[0]]:
        more = f" and {len(omitted) - 6} more" if len(omitted) > 6 else ""
        echo(f"too narrow for {', '.join(omitted[:6])}{more}: --format csv has all columns")


def _fit_columns(rows: Sequence[Mapping[str, Any]], spare: Sequence[str], width: int) -> Sequence[Mapping[str, Any]]:
    """Return the rows without as many spare columns as it takes to fit; squeezed columns would be unreadable."""
    widths = {name: 3 + max(len(show_value(cell)) for cell in (name, *(row[name] for row in rows))) for name in rows[0]}
    total = sum(widths.values())
    for name in spare:
        if total <= width:
            break
        total -= widths.pop(name, 0)
    return [{name: row[name] for name in widths} for row in rows]


def option_text(value: object) -> str:
    """Return the value of an option as `-o` takes it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def read_genes(texts: Sequence[str]) -> dict[str, Gene | None]:
    """Return the genes of `--gene` by name; None for a name alone."""
    from evo_tune.genome.notation import parse_gene
    from evo_tune.options.binding import split_assignments

    bare_names = {text for text in texts if "=" not in text}
    assignments = split_assignments((text for text in texts if "=" in text), "--gene")
    for name in bare_names & assignments.keys():
        raise OptionError(f"--gene {name} is given twice: give it once")
    return {**dict.fromkeys(bare_names), **{name: parse_gene(name, text) for name, text in assignments.items()}}
