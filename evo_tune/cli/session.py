"""What `run` and `resume` share: the flags of settings, made from their declarations, and the loop that they start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evo_tune.cli import _shared as shared
from evo_tune.options.declare import AUTO, Option, Options, declared_in, members
from evo_tune.settings import SessionSettings

if TYPE_CHECKING:
    from pathlib import Path

    from evo_tune.cli.planning import Planned
    from evo_tune.loop.search import Search
    from evo_tune.store.run import Run

Command = TypeVar("Command", bound=Callable[..., Any])

FIRST = {"final_seeds": 3, "finalists": 2}
"""Defaults of `evo-tune run` that differ from those of `Search`: the command ends with a final comparison."""


class SettingFlag(click.Option):
    """Flag of a declared setting.

    Args:
        title: Title of its group in the help.
        args: Arguments of `click.Option`.
        kwargs: Arguments of `click.Option`.
    """

    def __init__(self, *args: Any, title: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = title


def setting_flags(kind: type[Options], defaults: Mapping[str, Any] | None = None) -> Callable[[Command], Command]:
    """Return a decorator that adds a flag for each setting of a group. A flag that is not given has the value None.

    Args:
        kind: Group of settings.
        defaults: Defaults that the help tells instead of the declared ones; None tells no defaults.
    """

    def decorate(function: Command) -> Command:
        for one in reversed(list(declared_in(kind).values())):
            default = None if defaults is None else defaults.get(one.name, one.default)
            function = _flag(one, default)(function)
        return function

    return decorate


def _flag(one: Option, default: Any) -> Callable[[Command], Command]:
    """Return the decorator that adds the flag of a setting."""
    kinds, attributes = members(one.type), dict[str, Any]()
    low, high = (float(bound) for bound in (one.bounds or "(-inf, inf)")[1:-1].split(","))
    if bool in kinds:
        attributes["is_flag"] = True
    elif one.choices:
        attributes["type"] = click.Choice([str(value) for value in one.choices])
    elif int in kinds:
        integer = shared.CountOrAuto if AUTO in one.kind else click.IntRange
        attributes["type"] = integer(min=int(low), max=None if math.isinf(high) else int(high))
    elif float in kinds:
        attributes["type"] = click.FloatRange(min=low, min_open=one.bounds.startswith("("))
    if isinstance(attributes.get("type"), shared.CountOrAuto):
        attributes["metavar"] = "N|auto"
    elif str in kinds and one.unit:
        attributes["metavar"] = one.unit
    told = "" if default is None or default is False or default == "" else f"  [default: {default}]"
    flag = f"--{one.name.replace('_', '-')}"
    return click.option(flag, cls=SettingFlag, default=None, title=one.group, help=one.help + told, **attributes)


def session_options(defaults: Mapping[str, Any] | None = None) -> Callable[[Command], Command]:
    """Return a decorator that adds the flags of `run` and `resume` that may differ from session to session.

    Args:
        defaults: See `setting_flags`.
    """

    def decorate(function: Command) -> Command:
        for option in reversed(
            [
                setting_flags(SessionSettings, defaults),
                click.option("--no-report", is_flag=True, help="Write no report (_report.html in the run's folder)."),
                click.option(
                    "--track",
                    "tracks",
                    multiple=True,
                    metavar="TOOL:PATH",
                    callback=_read_tracks,
                    help="Also write for another tool: tensorboard:DIR or optuna:FILE; repeatable.",
                ),
                shared.price_option,
                click.option("--quiet", is_flag=True, help="Print nothing but errors."),
                shared.format_option("table", "json", "jsonl"),
            ]
        ):
            function = option(function)
        return function

    return decorate


def _read_tracks(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what cannot be tracked before a run is made."""
    if given:
        from evo_tune.integrations.converting import check_track

        for text in given:
            check_track(text)
    return given


def go(
    search: Search,
    quiet: bool,
    form: str,
    no_report: bool,
    tracks: Sequence[str] = (),
    price: float | None = None,
    planned: Planned | None = None,
) -> int:
    """Run, show progress, write a report and print the result.

    Args:
        search: Search to run.
        quiet: Whether to print nothing but errors.
        form: 'table', 'json' or 'jsonl'.
        no_report: Whether to write no report.
        tracks: Values of `--track`.
        price: Price of an hour; None for no price.
        planned: Plan that was made before the run began, if any.

    Returns:
        Exit code: 1 if no trial has a value, 130 after an interrupt.
    """
    from contextlib import ExitStack

    from evo_tune.cli.for_scale import note
    from evo_tune.cli.output import Stream, patient, print_closing, watcher
    from evo_tune.forecast.timing import TIMING
    from evo_tune.report.data import run_summary
    from evo_tune.store.places import as_typed

    if not quiet:
        shared.print_remarks(search.evaluator)
    before = len(search.saved.outcomes)
    silent = quiet or form != "table"
    pace, planning = (None, 0.0) if planned is None else (planned.pace, planned.seconds)
    forecast = not silent and TIMING in search.evaluator.plugin.supports
    stream = Stream(search) if form == "jsonl" else None
    with ExitStack() as beside:
        if tracks:
            from evo_tune.integrations.converting import tracking

            beside.enter_context(tracking(search.saved.folder, tracks))
        watch = beside.enter_context(watcher(silent, price))
        look = watch if stream is None else patient(stream.look)
        try:
            search.run(look, forecast=forecast, pace=pace, planning=planning)
        finally:
            if stream is not None:
                look(search)
    run = search.saved
    note(run, search.evaluator)
    report = None if no_report else _report(run)
    code = 130 if search.stopping else 0 if search.best is not None else 1
    if stream is not None:
        stream.end(run_summary(run, search.status, report), code)
    elif form == "json" or not quiet:
        print_closing(run, form, search.status, report)
    if search.stopping:
        if not quiet:
            shared.echo(f"Interrupted. Go on with: evo-tune resume {as_typed(run.folder)}", err=True)
    elif len(run.outcomes) == before and not quiet:
        shared.echo(f"Nothing was left to do: {run.ended}; limits are totals over all sessions", err=True)
    return code


def _report(run: Run) -> Path | None:
    """Write a run's report; whatever keeps it from being written costs a warning, and never the run."""
    from evo_tune.report.page import write_beside
    from evo_tune.store.places import as_typed

    try:
        return write_beside(run)
    except Exception as error:
        again = f"the run is saved all the same, and `evo-tune report {as_typed(run.folder)}` tries again"
        shared.echo(f"Warning: no report was written ({type(error).__name__}: {error}); {again}", err=True)
        return None
