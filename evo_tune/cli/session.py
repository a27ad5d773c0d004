"""The session that `run`, `resume` and `auto` start: its plan, the loop, its result, and the model of `auto`."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec import Struct

from evo_tune.cli import shared
from evo_tune.cli.output import End, EventStream, ProgressLines, ignore_after_error
from evo_tune.cli.training.final_training import read_wish, time_for_model, train_final_model
from evo_tune.forecast import RunForecast, forecast_line, forecast_run
from evo_tune.forecast.clock import Clock
from evo_tune.forecast.timing import TIMING
from evo_tune.genome.values import Value
from evo_tune.loop.plan import Request, plan_run
from evo_tune.loop.search import Search
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.report import summary as report
from evo_tune.report.charts.next_steps import range_end_lines
from evo_tune.report.charts.scale import read_recipe, recipe_lines, scale_command
from evo_tune.report.data import fill, run_summary
from evo_tune.report.summary import resume_command
from evo_tune.settings import SessionSettings, parse_settings
from evo_tune.store.manifest import Manifest
from evo_tune.store.run import Run
from evo_tune.store.run_folders import run_reference
from evo_tune.text import with_plural


def run_search(search: Search, output: shared.OutputFlags, began: float, continue_hint: str | None = None) -> int:
    """Run a search, show its progress, write its report, print its result, and train the model that `auto` asks for.

    Args:
        search: Search to run.
        output: What to print and to write.
        began: Beginning of the command, in seconds of `time.monotonic`: `--hours` includes the time since then.
        continue_hint: How to continue after an interrupt, in words; None: `evo-tune resume`.

    Returns:
        Exit code: 1 if no trial has a value, 130 after an interrupt.
    """
    run, err = search.saved, output.output_format != "table"  # only a table has standard output for itself
    old_results = len(run.outcomes) + len(run.fresh)
    if not output.quiet:
        if not run.candidates:  # a resumed run has printed them
            extra_seeds = _has_extra_seeds(run.manifest, search.session)
            shared.print_remarks(search.evaluator, search.space.default(), extra_seeds)
        shared.echo(*search.choices, err=err)

    # Two times count towards `--hours` beside that of the search: what this command took before the search's clock
    # began (planning), and the final training after it.
    session_seconds = search.seconds - run.resumed[-1]
    planning = max(0.0, time.monotonic() - began - session_seconds)
    began_in_one_session = time.monotonic() - search.seconds - planning
    silent = output.quiet or err
    events = EventStream(search) if output.output_format == "jsonl" else None
    with ExitStack() as contexts:
        if output.tracks:
            from evo_tune.integrations.tracking import tracking

            contexts.enter_context(tracking(run.folder, output.tracks))
        show = (lambda search: None) if silent else ProgressLines(run, output.price_per_hour).print_new
        watch = ignore_after_error(show if events is None else events.print_new)
        forecast = not silent and TIMING in search.evaluator.plugin.supports
        try:
            search.run(watch, forecast=forecast, planning=planning, after=time_for_model(search), progress=False)
        finally:
            if events is not None:  # those since the last call
                watch(search)

    if run.manifest.settings.for_scale:
        from evo_tune.cli.training.scaling import write_recipe_at_target

        write_recipe_at_target(run, search.evaluator)
    makes_model = read_wish(run) is not None and not search.stopping
    report = None if makes_model else _write_report(run, output)  # a model is more urgent
    exit_code = 130 if search.stopping else 0 if search.best is not None else 1
    print_result(search, output, report, exit_code)

    model = train_final_model(search, lambda: time.monotonic() - began_in_one_session, err)
    if model is not None:
        exit_code = 0
    if makes_model:
        report = _write_report(run, output)
    if output.quiet:
        return exit_code
    if makes_model and report is not None:
        shared.echo(f"report: {report}", err=err)
    if model is not None:
        shared.echo(f"the model is in {model}", err=err)
    if search.stopping:
        continue_hint = continue_hint or f"evo-tune resume {run_reference(run.folder)}"
        shared.echo(f"Interrupted. Continue with: {continue_hint}", err=True)
    elif len(run.outcomes) + len(run.fresh) == old_results > 0:
        more = f"limits are totals over all sessions: `{resume_command(run)}` trains more"
        shared.echo(f"Nothing was left to do: {run.ended}; {more}", err=True)
    return exit_code


def _write_report(run: Run, output: shared.OutputFlags) -> Path | None:
    """Write the report of a run unless the user wants none; return its file. An error never ends the run."""
    if output.no_report:
        return None
    from evo_tune.report.page import write_beside

    try:
        return write_beside(run)
    except Exception as error:
        remedy = f"the run is saved, and `evo-tune report {run_reference(run.folder)}` tries again"
        shared.echo(f"Warning: no report was written ({type(error).__name__}: {error}); {remedy}", err=True)
        return None


class PlannedRun(Struct, forbid_unknown_fields=True, kw_only=True):
    """A run that was not started (`--dry-run`).

    Args:
        evaluator: Name of the evaluator.
        slots: Number of trainings at the same time.
        device: Device of the slots.
        options: Options of the evaluator, by name. Unit: the option's.
        data: What the evaluator read, a line each; empty if it describes nothing.
        fingerprint: Identity of the data; '' if the evaluator declares none.
        seconds_timed: Durations of full trainings, from timed steps; null if steps cannot be timed. Unit: s.
        forecast: Forecast of the run; null if nothing can be predicted before trainings have ended.
    """

    evaluator: str
    slots: int
    device: str
    options: dict[str, Value | None]
    data: list[str]
    fingerprint: str
    seconds_timed: tuple[float, ...] | None
    forecast: RunForecast | None


def _has_extra_seeds(manifest: Manifest, session: SessionSettings) -> bool:
    """Return whether a genome may be trained with several seeds."""
    return manifest.settings.most_seeds > 1 or session.final_seeds > 0


def print_result(search: Search, output: shared.OutputFlags, report_file: Path | None, exit_code: int) -> None:
    """Print the result of a session in the format that the user chose.

    Args:
        search: The run, at its end.
        output: What to print.
        report_file: File of the report; None without one.
        exit_code: Exit code of the command.
    """
    run = search.saved
    if output.output_format == "jsonl":  # the last line of the events
        shared.print_json(fill(End, run_summary(run, search.status, report_file), exit_code=exit_code), line=True)
    elif output.output_format == "json":
        shared.print_json(run_summary(run, search.status, report_file))
    elif output.output_format == "table" and not output.quiet:
        deadline = None if run.outcomes or search.stopping else search.deadline
        needed = None if deadline is None else deadline.needed_hours(run.manifest.population)
        print_summary(run, search.status, report_file, needed)


def print_summary(
    run: Run, status: str = "", report_file: Path | None = None, needed: tuple[float, float] | None = None
) -> None:
    """Print the best and the default, the cost of the run, its folder and the next commands.

    Args:
        run: The saved run.
        status: Progress message of its strategy.
        report_file: File of its report; None without one.
        needed: For a run without results: seconds of a training, and hours that are enough (see `Deadline.needed`).
    """
    result = report.RunResult(run)
    shared.echo("")
    rows: list[dict[str, Any]] = []
    for name, trial, fresh_values, seeds in result.compared:
        row: dict[str, Any] = {"": name, "trial": trial.id}
        if result.fresh_best or result.fresh_default:
            row[f"{result.reported_metric} over fresh seeds"] = report.show_fresh_values(fresh_values)
        value = shared.show_value(trial.outcome.metrics[result.metric])
        rows.append({**row, f"{result.metric} in the search": f"{value} (n={seeds})"})
    if rows:
        shared.print_rows(rows, "table")
    report_lines = [] if report_file is None else [f"report: {report_file}"]
    shared.echo(*_summary_lines(run, result, status, needed), *report_lines)


def _summary_lines(
    run: Run, result: report.RunResult, status: str, needed: tuple[float, float] | None
) -> Iterator[str]:
    name = run_reference(run.folder)
    if result.best is not None:
        yield f"best genome: {shared.show_genome(run.active_genes(result.best.candidate))}"
    if result.predicted_value is not None and result.fresh_best is None:
        yield f"predicted {result.metric} with other seeds: {result.predicted_value:.6g}"
    if result.baseline is not None:
        yield report.baseline_verdict(result.baseline)
    if len(run.objectives) > 1:
        yield f"Pareto front: {with_plural(len(report.pareto_front(run)), 'trial')} (`evo-tune best {name}`)"
    if len(run.manifest.settings.rungs) > 1:
        full = sum(candidate.budget == 1.0 for candidate in run.candidates)
        counts = f"{report.genome_count(run)} genomes, {full} of them trained in full"
        yield f"{counts}: the cost of {report.total_cost(run):.1f} full trainings"
    constraints = ", ".join(run.manifest.subject_to)
    if result.best is not None and not result.best.feasible:
        yield f"no full training satisfies {constraints}: the best is the one that violates them least"
    elif result.default is not None and not result.default.feasible:
        yield f"the default genome does not satisfy {constraints}, so the comparison with it is not fair"
    yield report.verdict(result)
    yield from report.patch_verdicts(result.comparison)
    trials = run.ranked()  # one of each genome
    if len(trials) >= 3 and len({trial.losses for trial in trials}) == 1:
        remedy = "check that the training uses the values of the genes"
        yield f"all {len(trials)} genomes have the same {result.metric}: {remedy}"
    has_ended = run.ended not in (None, "interrupted")
    if result.best is None and not result.partial:
        yield from _failure_lines(run, has_ended, needed)
        return
    pending = len(run.candidates) - len(run.outcomes)
    if pending and has_ended:
        ended = f"ended by the limit of {run.session.hours:g} hours; a longer run continues"
        yield f"{with_plural(pending, 'training')} {ended}"
    yield from report.unusual_time_lines(run)
    yield from report.range_lines(run)
    yield from range_end_lines(run)
    if run.ended is not None and run.ended.startswith((report.DONE_REASON, report.NOTHING_LEFT)):
        yield f"stopped, since {run.ended}"
    elif (more_trials := report.predict_next_generation(run)) is not None:
        yield f"more trials: {report.describe_more_trials(more_trials)}"
    if (recipe := read_recipe(run)) is not None:
        yield from recipe_lines(run, recipe)
        yield f"transfer it: {scale_command(run, recipe)}"
    if status:
        yield status
    pruned = f", {result.pruned} pruned" if result.pruned else ""
    seconds = shared.show_seconds(run.seconds)
    yield f"{with_plural(result.results, 'evaluation')}, {result.failures} of them failed{pruned}, in {seconds}"
    yield from filter(None, [report.pruning_line(run)])
    if reasons := report.caveats(run):
        yield f"not repeatable to the bit: {'; '.join(reasons)}; `evo-tune verify` still replays its proposals"
    yield f"saved in {run.folder}"
    resume = report.resume_command(run)
    steps = [f"evo-tune show {name}", resume, f"evo-tune best {name} --format json"]
    if run.ended == report.NOTHING_LEFT:
        steps.remove(resume)
    yield f"next: {'   |   '.join(steps)}"


def _failure_lines(run: Run, has_ended: bool, needed: tuple[float, float] | None) -> Iterator[str]:
    """Yield the causes for which no trial of a run has a value, and the next command; `needed`: see `print_summary`."""
    yield from report.failure_lines(run)
    hours = run.session.hours
    if needed is not None:
        remedy = f"{needed[1]:g} hours are enough for {run.manifest.population} and the final comparison"
        seconds = shared.show_seconds(needed[0])
        yield f"the start and a training of about {seconds} take too long for {hours:g} hours; {remedy}"
    yield f"saved in {run.folder}"
    if not run.outcomes:
        longer = f" --hours {needed[1] if needed else 2 * hours:g}" if hours is not None and has_ended else ""
        yield f"next: evo-tune resume {run_reference(run.folder)}{longer}"
        return
    failures = f"`evo-tune show {run_reference(run.folder)}` lists the failures"
    yield f"next: correct the cause, then start a new run; {failures}"


def print_plan(
    plugin: Evaluator, request: Request, settings: Mapping[str, Any], store: Path, output: shared.OutputFlags
) -> None:
    """Plan a run that is not started, and print its forecast.

    Args:
        plugin: The evaluator.
        request: Wishes of the user.
        settings: Settings of the run and of its first session, by name.
        store: Folder of the saved runs.
        output: How to print it, and the price of an hour.
    """
    run_settings, session = parse_settings(settings)
    plan = plan_run(plugin, request, run_settings, session, store, forecast=True)
    run_forecast = forecast_run(plan.manifest, session, plan.slots, Clock(pace=plan.pace))
    if output.output_format != "table":
        shared.print_json(
            fill(
                PlannedRun,
                plan,
                evaluator=plugin.name,
                options=plan.manifest.options,
                data=plan.evaluator.describe(),
                fingerprint=plan.evaluator.fingerprint(),
                seconds_timed=None if plan.pace is None else plan.pace.seconds,
                forecast=run_forecast and run_forecast.with_cost(output.price_per_hour),
            )
        )
        return
    extra_seeds = _has_extra_seeds(plan.manifest, session)
    shared.print_remarks(plan.evaluator, plan.space.default(), extra_seeds, most_lines=None)
    shared.echo(f"plan: {plugin.name} on {plan.slots} x {plan.device}; no run is started, and nothing is written")
    shared.echo(*plan.choices)
    if plan.pace is None:
        remedy = ""
        if plugin.origin == "file":
            remedy = f"add 'timing' to SUPPORTS of {plugin.path} (docs/evaluators.md), or start the run; "
        shared.echo(f"the duration of its trainings is unknown: {remedy}a forecast follows after three trainings")
    else:
        times = (*plan.pace.seconds, *plan.pace.corners)
        shared.echo(f"a full training of the default genome, from timed steps: {times[0]:.3g} s")
        if len(times) > 1:
            bounds, mean = f"{min(times):.3g} to {max(times):.3g} s", f"{plan.pace.mean_seconds:.3g} s"
            shared.echo(f"of {len(times)} genomes: {bounds}; expected in a search: about {mean}")
    if run_forecast is not None:
        shared.echo(forecast_line(run_forecast.with_cost(output.price_per_hour)))
