"""The output of `run` and `resume`: progress as a table, as lines or as JSON events, and the summary at the end.

The progress is polled: the loop does not know of it, and a slow terminal or a slow reader does not hold the run up.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, convert, structs

from evo_tune.cli import run_formats, shared
from evo_tune.forecast import RunForecast, forecast_line
from evo_tune.report import summary as report
from evo_tune.report.charts.next_steps import range_end_lines
from evo_tune.report.charts.scale import read_recipe
from evo_tune.report.data import run_summary
from evo_tune.report.final_comparison import MAX_SEEDS_FACTOR
from evo_tune.store.heartbeat import running_curves
from evo_tune.store.places import run_arguments
from evo_tune.store.run import Run
from evo_tune.store.table import COMPARISON, read_comparison
from evo_tune.text import count_of, printable, show_decimals, sparkline

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evo_tune.forecast.timing import Pace
    from evo_tune.loop.plan import RunPlan
    from evo_tune.loop.search import Search
    from evo_tune.settings import SessionSettings

# Number of results in the live table.
SHOWN_RESULTS = 6

# Least time between two forecasts in seconds.
FORECAST_EVERY = 2.0

# Seconds by which the end of a run must leave the interval of its last forecast before another one is printed.
FORECAST_CHANGE = 5.0

# Most causes of failures to print while a run goes on.
MAX_CAUSES = 5

# Statuses of failures as verbs.
ENDINGS = {
    "failed": "failed",
    "diverged": "diverged",
    "out_of_memory": "ran out of memory",
    "crashed": "crashed",
    "timeout": "timed out",
}

STOPPING = "stopping after the pending trials; press Ctrl-C again to stop at once"

# Least time between two lines without a better best, in seconds.
LINE_EVERY = 10.0


@contextlib.contextmanager
def show_progress(silent: bool, run: Run, price: float | None = None) -> Iterator[Callable[[Search], None]]:
    """Yield a callback for `Search.run` that shows the progress: a table in a terminal, otherwise lines.

    Args:
        silent: Whether to show nothing.
        run: The run before this session.
        price: Price of an hour, for the cost; None for no cost.
    """
    forecast, news = _LiveForecast(price), _News(run)
    console = shared.console()
    if silent:
        yield lambda search: None
    elif not console.is_terminal:
        yield ignore_after_error(_ProgressLines(forecast, news).print_new)
    else:
        from rich.live import Live

        recent = Recent()
        with Live(console=console, auto_refresh=False, transient=True) as live:

            def update_table(search: Search) -> None:
                shared.echo(*news.lines(search))  # above the table, because Live redirects the output
                live.update(progress_table(Progress(search, forecast), recent), refresh=True)

            yield ignore_after_error(update_table)


def ignore_after_error(show: Callable[[Search], None]) -> Callable[[Search], None]:
    """Return a callback that does nothing after its first error: a closed pipe or a bad terminal must not end a run."""
    broken = False

    def show_unless_broken(search: Search) -> None:
        nonlocal broken
        if broken:
            return
        try:
            show(search)
        except Exception as error:
            broken = True
            with contextlib.suppress(Exception):
                shared.echo(f"Warning: cannot show the progress ({error}); the run continues", err=True)

    return show_unless_broken


class _LiveForecast:
    """The forecast of a run. It reads all results, so it is updated only every few seconds.

    Args:
        price: Price of an hour; None for no cost.
    """

    def __init__(self, price: float | None = None) -> None:
        self.forecast: RunForecast | None = None
        self.more_trials = ""
        self._price = price
        self._update_time = self._next_update = 0.0
        self._pace: Pace | None = None

    def update(self, search: Search) -> RunForecast | None:
        """Return the forecast; None while nothing can be predicted."""
        from evo_tune.loop.slots import forecast_session

        if time.monotonic() >= self._next_update or search.pace is not self._pace:
            self._update_time, self._pace = time.monotonic(), search.pace
            slots = len(search.drivers.slots)
            new_forecast = forecast_session(search.saved.manifest, search.session, slots, search.pace, search.saved)
            self.forecast = new_forecast and new_forecast.with_cost(self._price)
            more_trials = report.predict_next_generation(search.saved)
            self.more_trials = "" if more_trials is None else report.describe_more_trials(more_trials)
            # The forecast of a long run takes a while, and the main thread must not hold the drivers up.
            duration = time.monotonic() - self._update_time
            self._next_update = time.monotonic() + max(FORECAST_EVERY, 50 * duration)
        return self.forecast

    def end_time(self, seconds: float) -> float:
        """Return the monotonic time that is so many seconds after the last update: between updates time passes."""
        return self._update_time + seconds

    def line(self) -> str:
        """Return the forecast in one line."""
        return "forecast: available after three trainings" if self.forecast is None else forecast_line(self.forecast)


class Progress:
    """The state of a run at one moment.

    Args:
        search: The run.
        live_forecast: Forecast to update; None for a new one.
    """

    def __init__(self, search: Search, live_forecast: _LiveForecast | None = None) -> None:
        run = search.saved
        self.search = search
        self.results = len(run.outcomes)
        self.planned = report.trial_limit(run, search.session)
        statuses = [outcome.status for outcome in list(run.outcomes.values())]
        self.pruned = statuses.count("pruned")
        self.failed = len(statuses) - self.pruned - statuses.count("ok")
        self.best = search.best
        self.live_forecast = live_forecast or _LiveForecast()
        self.live_forecast.update(search)

    @property
    def best_text(self) -> str:
        """The best value and its trial."""
        if self.best is None:
            return "no full training has a value yet"
        metric = self.search.saved.objectives[0].metric
        return f"best {metric} {show_decimals(self.best.outcome.metrics[metric])} (trial {self.best.id})"

    @property
    def seconds_left(self) -> float:
        """Seconds until the end: by the forecast, or by the hours that remain; NaN if neither is known."""
        if (forecast := self.live_forecast.forecast) is not None:
            return max(0.0, self.live_forecast.end_time(forecast.seconds.expected) - time.monotonic())
        hours = self.search.session.hours
        return math.nan if hours is None else hours * 3600 - self.search.seconds

    @property
    def count(self) -> str:
        """Number of evaluations, and their total if it is known."""
        return f"{self.results}/{self.planned}" if self.planned else str(self.results)


class Recent:
    """The results and the learning curves that the live table shows beside the progress."""

    def __init__(self) -> None:
        self._best: list[float] = []
        self._results: list[str] = []
        self._curves: dict[str, str] = {}
        self._next_read = 0.0

    def best(self, search: Search) -> str:
        """Return a text with one bar per result, as high as the best value so far; `results` adds new results to it."""
        return sparkline([search.saved.objectives[0].value(loss) for loss in self._best])

    def results(self, search: Search) -> str:
        """Return the last results in words, the newest first."""
        run = search.saved
        objective = run.objectives[0]
        for id in list(run.recorded[len(self._results) :]):
            trial = run.trial(id)
            loss = trial.losses[0] if trial.losses else math.inf
            counts = trial.rankable and trial.feasible and not trial.candidate.extra_seed
            before = self._best[-1] if self._best else math.inf
            self._best.append(min(before, loss) if counts else before)
            value = shared.show_value(objective.value(loss)) if trial.losses else trial.outcome.status
            self._results.append(f"{id}: {value}")
        return "   ".join(self._results[: -SHOWN_RESULTS - 1 : -1])

    def curve(self, search: Search, work: str) -> str:
        """Return the learning curve so far of a pending trial as a row of bars and its last value.

        Args:
            search: The run.
            work: Work of a slot: 'trial 5'. The text is empty if it has no curve.
        """
        if time.monotonic() >= self._next_read:
            self._next_read = time.monotonic() + 1.0
            metric, self._curves = search.saved.objectives[0].metric, {}
            for id, curve in running_curves(search.saved.folder).items():
                share, last_metrics = curve[-1] if curve else (0.0, {})
                name = metric if metric in last_metrics else next(iter(last_metrics), "")
                values = [value for _, metrics in curve or () if (value := metrics.get(name)) is not None]
                if values:
                    bars = sparkline(values, 16)
                    self._curves[f"trial {id}"] = f"{share:.0%} {bars} {name} {shared.show_value(values[-1])}"
        return self._curves.get(work, "")


def progress_table(progress: Progress, recent: Recent) -> RenderableType:
    """Return the live table of a terminal."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    search = progress.search
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(printable(search.name), style="bold"),
        ProgressBar(total=progress.planned or 1, completed=progress.results if progress.planned else 0, width=30),
        f"{progress.count} evaluations",
        f"{progress.failed} failed" + (f", {progress.pruned} pruned" if progress.pruned else ""),
        f"{shared.show_seconds(search.seconds)} elapsed",
        f"about {shared.show_seconds(progress.seconds_left)} left",
    )
    slots = Table.grid(padding=(0, 2))
    for slot in list(search.drivers.slots):
        working = dict(search.drivers.working).get(slot.name)
        work, duration = "idle", ""
        if working and working.description:
            work, duration = working.description, shared.show_seconds(time.monotonic() - working.since)
        curve = recent.curve(search, work)
        slots.add_row(printable(slot.name), printable(slot.device), printable(work), duration, printable(curve))
    last_results = recent.results(search)
    lines = [
        progress.live_forecast.line(),
        f"{progress.best_text}   {recent.best(search)}".rstrip(),
        "" if progress.best is None else f"  {shared.show_genome(progress.best.genome)}",
        search.status,
        progress.live_forecast.more_trials,
        last_results and f"last results   {last_results}",
    ]
    stopping = [STOPPING] if _is_interrupted(search) else []
    return Group(head, *(printable(line) for line in lines if line), slots, *stopping)


def _is_interrupted(search: Search) -> bool:
    """Return whether Ctrl-C came; a run that stops on an error stops its trials by itself."""
    return search.stopping and search.drivers.error is None


class _News:
    """Ranges that were widened since the last call, and the first failure of each cause.

    Args:
        run: Run whose earlier events are no news.
    """

    def __init__(self, run: Run) -> None:
        self._widened = len(run.widened)
        self._results = len(run.recorded)
        self._causes = {outcome.cause for outcome in run.outcomes.values()}

    def lines(self, search: Search) -> Iterator[str]:
        """Yield a line for each."""
        for widening in list(search.saved.widened)[self._widened :]:
            self._widened += 1
            yield report.describe_widening(widening)
        for id in list(search.saved.recorded)[self._results :]:
            self._results += 1
            outcome = search.saved.outcomes[id]
            if outcome.status in ("ok", "pruned") or outcome.cause in self._causes or search.drivers.error:
                continue
            self._causes.add(outcome.cause)
            if len(self._causes) <= MAX_CAUSES:
                yield f"trial {id} {ENDINGS[outcome.status]}: {outcome.error}"


class _ProgressLines:
    """Lines of progress: one when the best improves, and one now and then."""

    def __init__(self, live_forecast: _LiveForecast, news: _News) -> None:
        self._live_forecast = live_forecast
        self._news = news
        self._forecast_ends: tuple[float, float] | None = None  # monotonic times of the last printed forecast
        self._best: int | None = None
        self._results = -1
        self._print_time = time.monotonic()
        self._is_comparing = self._is_stopping = False
        self._status = ""

    def print_new(self, search: Search) -> None:
        """Print what is new since the last call."""
        working = list(search.drivers.working.values())
        if not self._is_comparing and any("final comparison" in slot.description for slot in working):
            self._is_comparing = True
            count = search.session.finalists
            finalists = "the best" if count == 1 else f"the best of {count} finalists"
            most = MAX_SEEDS_FACTOR * search.session.final_seeds
            shared.echo(f"final comparison: {finalists} against the default, on up to {most} fresh seeds each")
        self._print_forecast(search)
        shared.echo(*self._news.lines(search))
        if _is_interrupted(search) and not self._is_stopping:
            self._is_stopping = True
            shared.echo(STOPPING)
        if len(search.saved.outcomes) == self._results:
            return
        progress = Progress(search, self._live_forecast)
        if search.status != self._status:
            self._status = search.status
            shared.echo(self._status)
        best = None if progress.best is None else progress.best.id
        is_recent = time.monotonic() - self._print_time < LINE_EVERY
        if best == self._best and is_recent and progress.results != progress.planned:
            return
        self._best, self._results, self._print_time = best, progress.results, time.monotonic()
        seconds_left = progress.seconds_left
        remaining = f", about {shared.show_seconds(seconds_left)} left" if seconds_left > 0 else ""
        shared.echo(
            f"[{progress.count}] {progress.best_text}, {progress.failed} failed, "
            f"{shared.show_seconds(search.seconds)} elapsed{remaining}"
        )

    def _print_forecast(self, search: Search) -> None:
        """Print the forecast if it is the first one, or its end is outside the interval of the last printed one."""
        forecast = self._live_forecast.update(search)
        if forecast is None or not forecast.seconds.high:  # 0 s: nothing is left to do
            return
        low, end, high = (
            self._live_forecast.end_time(seconds)
            for seconds in (forecast.seconds.low, forecast.seconds.expected, forecast.seconds.high)
        )
        old_low, old_high = self._forecast_ends or (math.inf, -math.inf)
        if not old_low - FORECAST_CHANGE < end < old_high + FORECAST_CHANGE:
            self._forecast_ends = low, high
            shared.echo(self._live_forecast.line())


class EventStream:
    """The events of one session, one JSON object a line on standard output; all other output is on standard error.

    Args:
        search: Run before the session starts; its earlier events are not repeated.
    """

    def __init__(self, search: Search) -> None:
        self._proposed = len(search.saved.candidates)
        self._results = len(search.saved.outcomes)
        self._compared = {(trial.id, trial.candidate.seed) for trial in read_comparison(search.saved)}
        self._comparison_time = _comparison_time(search.saved)
        self._best = None if search.saved.leader is None else search.saved.leader.id
        self._widened = len(search.saved.widened)
        self._has_begun = self._is_stopping = False

    def print_new(self, search: Search) -> None:
        """Print the events since the last call."""
        for event in self._new_events(search):
            shared.print_json(event, line=True)

    def _new_events(self, search: Search) -> Iterator[Struct]:
        run = search.saved
        if not self._has_begun:
            self._has_begun = True
            yield run_formats.Begin(
                run=run.name,
                folder=str(run.folder),
                evaluator=run.manifest.evaluator,
                strategy=run.manifest.strategy,
                objectives=run.manifest.objectives,
                seed=run.manifest.settings.seed,
                proposed=self._proposed,
                results=self._results,
            )
        recorded, candidates = list(run.recorded), list(run.candidates)
        for candidate in candidates[self._proposed :]:
            # First the results and the ranges that were known when it was proposed.
            yield from self._result_events(run, recorded[: run.reported_before_counts[candidate.id]])
            while self._widened < len(run.widened) and run.widened[self._widened].proposed <= candidate.id:
                widening = run.widened[self._widened]
                self._widened += 1
                for name, gene in widening.changed.items():
                    yield run_formats.Widened(gene=name, range=report.show_range(gene), reason=widening.reason)
            self._proposed += 1
            yield convert(candidate, run_formats.Proposed, from_attributes=True)
        yield from self._result_events(run, recorded)
        leader = run.leader
        if leader is not None and leader.id != self._best:
            self._best = leader.id
            metric = run.objectives[0].metric
            yield run_formats.NewBest(id=leader.id, metric=metric, value=leader.outcome.metrics[metric])
        yield from self._comparison_events(run)
        if search.stopping and not self._is_stopping:
            self._is_stopping = True
            yield run_formats.Stopping()

    def _result_events(self, run: Run, ids: list[int]) -> Iterator[run_formats.Result]:
        for id in ids[self._results :]:
            self._results += 1
            yield run_formats.Result(id=id, **vars(run.outcomes[id]))

    def _comparison_events(self, run: Run) -> Iterator[run_formats.Fresh]:
        comparison_time = _comparison_time(run)
        if comparison_time == self._comparison_time:
            return
        self._comparison_time = comparison_time
        for trial in read_comparison(run):
            key = trial.id, trial.candidate.seed
            if key in self._compared:
                continue
            self._compared.add(key)
            values = {name: getattr(trial.outcome, name) for name in ("status", "metrics", "seconds", "error")}
            yield run_formats.Fresh(id=trial.id, seed=trial.candidate.seed, **values)


def _comparison_time(run: Run) -> int:
    """Return the time of the last write to the file of the final comparison; 0 if there is none."""
    try:
        return (run.folder / COMPARISON).stat().st_mtime_ns
    except OSError:
        return 0


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
        end = structs.asdict(run_summary(run, search.status, report_file))
        shared.print_json(run_formats.End(**end, exit_code=exit_code), line=True)
    elif output.output_format == "json":
        shared.print_json(run_summary(run, search.status, report_file))
    elif output.output_format == "table" and not output.quiet:
        has_no_time = not run.outcomes and search.deadline is not None and not search.stopping
        needed = search.deadline.needed_hours(run.manifest.population) if has_no_time and search.deadline else None
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
    result = report.run_result(run)
    shared.echo("")
    rows: list[dict[str, Any]] = []
    best, default = ("best", result.best, result.fresh_best), ("default", result.default, result.fresh_default)
    for name, trial, fresh_values in (best, default):
        if trial is not None:
            row: dict[str, Any] = {"": name, "trial": trial.id}
            if result.fresh_best or result.fresh_default:
                row[f"{result.reported_metric} over fresh seeds"] = report.show_fresh_values(fresh_values)
            rows.append({**row, f"{result.metric}, {result.seeds_text}": trial.outcome.metrics[result.metric]})
    if rows:
        shared.print_rows(rows, "table")
    report_lines = [] if report_file is None else [f"report: {report_file}"]
    shared.echo(*_summary_lines(run, result, status, needed), *report_lines)


def _summary_lines(
    run: Run, result: report.RunResult, status: str, needed: tuple[float, float] | None
) -> Iterator[str]:
    name = run_arguments(run.folder)
    if result.best is not None:
        yield f"best genome: {shared.show_genome(result.best.genome)}"
    if result.predicted_value is not None and result.fresh_best is None:
        yield f"predicted {result.metric} with other seeds: {result.predicted_value:.6g}"
    if result.baseline is not None:
        yield report.baseline_verdict(result.baseline)
    if len(run.objectives) > 1:
        yield f"Pareto front: {count_of(len(report.pareto_front(run)), 'trial')} (`evo-tune best {name}`)"
    if len(run.manifest.settings.rungs) > 1:
        counts = f"{report.genome_count(run)} genomes, {report.full_training_count(run)} of them trained in full"
        yield f"{counts}: the cost of {report.total_cost(run):.1f} full trainings"
    constraints = ", ".join(run.manifest.subject_to)
    if result.best is not None and not result.best.feasible:
        yield f"no full training satisfies {constraints}: the best is the one that violates them least"
    elif result.default is not None and not result.default.feasible:
        yield f"the default genome does not satisfy {constraints}, so the comparison with it is not fair"
    yield report.verdict(result)
    if genome_count := report.genomes_of_one_value(run):
        remedy = "check that the training uses the values of the genes"
        yield f"all {genome_count} genomes have the same {result.metric}: {remedy}"
    has_ended = run.ended not in (None, "interrupted")
    if result.best is None and not result.partial:
        yield from _failure_lines(run, has_ended, needed)
        return
    pending = len(run.candidates) - len(run.outcomes)
    if pending and has_ended:
        trainings = "1 training was" if pending == 1 else f"{pending} trainings were"
        yield f"{trainings} ended by the limit of {run.session.hours:g} hours; a longer run continues"
    yield from report.range_lines(run)
    yield from range_end_lines(run)
    if run.ended is not None and run.ended.startswith(report.DONE_REASON):
        yield f"stopped, since {run.ended}"
    elif (more_trials := report.predict_next_generation(run)) is not None:
        yield f"more trials: {report.describe_more_trials(more_trials)}"
    if (recipe := read_recipe(run)) is not None:
        from evo_tune.cli.training.scaling import recipe_lines

        yield from recipe_lines(run, recipe)
    if status:
        yield status
    pruned = f", {result.pruned} pruned" if result.pruned else ""
    seconds = shared.show_seconds(result.seconds)
    yield f"{count_of(result.results, 'evaluation')}, {result.failures} of them failed{pruned}, in {seconds}"
    if reasons := report.caveats(run):
        yield f"not repeatable to the bit: {'; '.join(reasons)}; `evo-tune verify` still replays its proposals"
    yield f"saved in {run.folder}"
    resume = f"evo-tune resume {name}" + (f" {report.flag_to_continue(run)}" if has_ended else "")
    yield f"next: evo-tune show {name}   |   {resume}   |   evo-tune best {name} --format json"


def _failure_lines(run: Run, has_ended: bool, needed: tuple[float, float] | None) -> Iterator[str]:
    """Yield the causes for which no trial of a run has a value, and the next command; `needed`: see `print_summary`."""
    yield from report.failure_lines(run)
    hours = run.session.hours
    if needed is not None:
        remedy = f"{needed[1]:g} hours are enough for {run.manifest.population} and the final comparison"
        yield f"a training takes about {shared.show_seconds(needed[0])}, too long for {hours:g} hours; {remedy}"
    yield f"saved in {run.folder}"
    if not run.outcomes:
        longer = f" --hours {needed[1] if needed else 2 * hours:g}" if hours is not None and has_ended else ""
        yield f"next: evo-tune resume {run_arguments(run.folder)}{longer}"
        return
    failures = f"`evo-tune show {run_arguments(run.folder)}` lists the failures"
    yield f"next: correct the cause, then start a new run; {failures}"


def print_plan(plan: RunPlan, session: SessionSettings, output: shared.OutputFlags) -> None:
    """Print the forecast of a run that is not started.

    Args:
        plan: The plan of the run.
        session: Settings of its first session.
        output: How to print it, and the price of an hour.
    """
    from evo_tune.forecast import forecast_rows
    from evo_tune.loop.slots import forecast_session

    run_forecast = forecast_session(plan.manifest, session, plan.slots, plan.pace)
    plugin = plan.evaluator.plugin
    if output.output_format != "table":
        shared.print_json(
            run_formats.PlannedRun(
                evaluator=plugin.name,
                slots=plan.slots,
                device=plan.device,
                options=plan.manifest.options,
                seconds_timed=None if plan.pace is None else plan.pace.seconds,
                forecast=run_forecast and run_forecast.with_cost(output.price_per_hour),
            )
        )
        return
    shared.print_remarks(plan.evaluator, plan.space.default(), plan.space)
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
        rows = forecast_rows(run_forecast.with_cost(output.price_per_hour))
        shared.echo(*(f"  {row:<16} {text}" for row, text in rows.items()))
