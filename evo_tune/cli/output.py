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

from msgspec import Struct, structs

from evo_tune.cli import formats, shared
from evo_tune.cli.training.for_scale import recipe_lines
from evo_tune.forecast import RunForecast, forecast_line
from evo_tune.genome.trial import Trial
from evo_tune.report import summary as report
from evo_tune.report.charts.next_steps import range_end_lines
from evo_tune.report.charts.scale import read_recipe
from evo_tune.report.data import RunSummary, run_summary
from evo_tune.report.final_comparison import CAP_FACTOR
from evo_tune.report.summary import (
    DONE_REASON,
    RunResult,
    baseline_verdict,
    describe_more_trials,
    describe_widening,
    predict_next_generation,
    range_lines,
    show_fresh_values,
    show_range,
    verdict,
)
from evo_tune.store.comparison import COMPARISON, read_comparison
from evo_tune.store.heartbeat import in_flight
from evo_tune.store.places import as_typed
from evo_tune.store.run import Run
from evo_tune.text import counted, printable, show_decimals, sparkline

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evo_tune.forecast.timing import Pace
    from evo_tune.loop.plan import RunPlan
    from evo_tune.loop.search import Search
    from evo_tune.settings import SessionSettings

SHOWN_RESULTS = 6
"""Number of results in the live table."""

FORECAST_EVERY = 2.0
"""Least time between two forecasts in seconds."""

FORECAST_CHANGE = 5.0
"""Seconds by which the end of a run must leave the interval of its last forecast before another one is printed."""

MAX_CAUSES = 5
"""Most causes of failures to print while a run goes on."""

ENDINGS = {
    "failed": "failed",
    "diverged": "diverged",
    "out_of_memory": "ran out of memory",
    "crashed": "crashed",
    "timeout": "timed out",
}
"""Statuses of failures as verbs."""

STOPPING = "stopping after the pending trials; press Ctrl-C again to stop at once"

LINE_EVERY = 10.0
"""Least time between two lines without a better best, in seconds."""


@contextlib.contextmanager
def show_progress(silent: bool, run: Run, price: float | None = None) -> Iterator[Callable[[Search], None]]:
    """Yield a callback for `Search.run` that shows the progress: a table in a terminal, otherwise lines.

    Args:
        silent: Whether to show nothing.
        run: The run before this session.
        price: Price of an hour, for the cost; None for no cost.
    """
    forecast, news = _Forecast(price), _News(run)
    console = shared.console()
    if silent:
        yield lambda search: None
    elif not console.is_terminal:
        yield ignore_after_error(_Lines(forecast, news).look)
    else:
        from rich.live import Live

        recent = Recent()
        with Live(console=console, auto_refresh=False, transient=True) as live:

            def look(search: Search) -> None:
                for line in news.since(search):
                    shared.echo(line)  # above the table, because Live redirects the output
                live.update(progress_table(Progress(search, forecast), recent), refresh=True)

            yield ignore_after_error(look)


def ignore_after_error(look: Callable[[Search], None]) -> Callable[[Search], None]:
    """Return a callback that does nothing after its first error: a closed pipe or a bad terminal must not end a run."""
    broken = False

    def guarded(search: Search) -> None:
        nonlocal broken
        if broken:
            return
        try:
            look(search)
        except Exception as error:
            broken = True
            with contextlib.suppress(Exception):
                shared.echo(f"Warning: cannot show the progress ({error}); the run continues", err=True)

    return guarded


class _Forecast:
    """The forecast of a run. It reads all results, so it is updated only every few seconds."""

    def __init__(self, price: float | None = None) -> None:
        self.ahead: RunForecast | None = None
        self.further = ""
        self._price = price
        self._made = self._next = 0.0
        self._pace: Pace | None = None

    def update(self, search: Search) -> RunForecast | None:
        """Return the forecast; None while nothing can be predicted."""
        from evo_tune.loop.slots import forecast_session

        if time.monotonic() >= self._next or search.pace is not self._pace:
            began, self._pace = time.monotonic(), search.pace
            slots = len(search.drivers.slots)
            found = forecast_session(search.saved.manifest, search.session, slots, search.pace, search.saved)
            self.ahead, self._made = found and found.with_cost(self._price), began
            further = predict_next_generation(search.saved)
            self.further = "" if further is None else describe_more_trials(further)
            # The forecast of a long run takes a while, and the main thread must not hold the drivers up.
            self._next = time.monotonic() + max(FORECAST_EVERY, 50 * (time.monotonic() - began))
        return self.ahead

    def moment(self, seconds: float) -> float:
        """Return the monotonic time that is so many seconds after the last update: between updates time passes."""
        return self._made + seconds

    def line(self) -> str:
        """Return the forecast in one line."""
        return "forecast: available after three trainings" if self.ahead is None else forecast_line(self.ahead)


class Progress:
    """The state of a run at one moment."""

    def __init__(self, search: Search, forecast: _Forecast | None = None) -> None:
        run = search.saved
        self.search = search
        self.done = len(run.outcomes)
        self.total = report.trial_limit(run, search.session)
        statuses = [outcome.status for outcome in list(run.outcomes.values())]
        self.pruned = statuses.count("pruned")
        self.failed = len(statuses) - self.pruned - statuses.count("ok")
        self.best = search.best
        self.metric = run.objectives[0].metric
        self.forecast = forecast or _Forecast()
        self.ahead = self.forecast.update(search)

    @property
    def best_text(self) -> str:
        """The best value and its trial."""
        if self.best is None:
            return "no full training has a value yet"
        return f"best {self.metric} {show_decimals(self.best.outcome.metrics[self.metric])} (trial {self.best.id})"

    @property
    def left(self) -> float:
        """Seconds until the end: by the forecast, or by the hours that remain; NaN if neither is known."""
        if self.ahead is not None:
            return max(0.0, self.forecast.moment(self.ahead.seconds.expected) - time.monotonic())
        hours = self.search.session.hours
        return math.nan if hours is None else hours * 3600 - self.search.seconds

    @property
    def count(self) -> str:
        """Number of evaluations, and their total if it is known."""
        return f"{self.done}/{self.total}" if self.total else str(self.done)


class Recent:
    """The results and the learning curves that the live table shows beside the progress."""

    def __init__(self) -> None:
        self._best: list[float] = []
        self._results: list[str] = []
        self._curves: dict[str, str] = {}
        self._next = 0.0

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

    def curve(self, search: Search, what: str) -> str:
        """Return the learning curve so far of a pending trial as a row of bars and its last value; '' without one."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 1.0
            metric = search.saved.objectives[0].metric
            flying = in_flight(search.saved.folder).items()
            self._curves = {f"trial {id}": text for id, curve in flying if (text := _curve_text(curve, metric))}
        return self._curves.get(what, "")


def _curve_text(curve: Any, metric: str) -> str:
    if not curve:
        return ""
    share, last = curve[-1]
    name = metric if metric in last else next(iter(last), "")
    values = [value for _, point in curve if (value := point.get(name)) is not None]
    return f"{share:.0%} {sparkline(values, 16)} {name} {shared.show_value(values[-1])}" if values else ""


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
        ProgressBar(total=progress.total or 1, completed=progress.done if progress.total else 0, width=30),
        f"{progress.count} evaluations",
        f"{progress.failed} failed" + (f", {progress.pruned} pruned" if progress.pruned else ""),
        f"{shared.show_seconds(search.seconds)} elapsed",
        f"about {shared.show_seconds(progress.left)} left",
    )
    slots = Table.grid(padding=(0, 2))
    for slot in list(search.drivers.slots):
        working = dict(search.drivers.working).get(slot.name)
        what = working.what if working and working.what else "idle"
        since = shared.show_seconds(time.monotonic() - working.since) if working and working.what else ""
        curve = recent.curve(search, what)
        slots.add_row(printable(slot.name), printable(slot.device), printable(what), since, printable(curve))
    last = recent.results(search)
    lines = [
        progress.forecast.line(),
        f"{progress.best_text}   {recent.best(search)}".rstrip(),
        "" if progress.best is None else f"  {shared.show_genome(progress.best.genome)}",
        search.status,
        progress.forecast.further,
        last and f"last results   {last}",
    ]
    shown = [printable(line) for line in lines if line]
    end = [STOPPING] if _is_interrupted(search) else []
    return Group(head, *shown, slots, *end)


def _is_interrupted(search: Search) -> bool:
    """Return whether Ctrl-C came; a run that stops on an error stops its trials by itself."""
    return search.stopping and search.drivers.error is None


class _News:
    """Ranges that were widened since the last look, and the first failure of each cause.

    Args:
        run: Run whose earlier events are no news.
    """

    def __init__(self, run: Run) -> None:
        self._widened = len(run.widened)
        self._results = len(run.recorded)
        self._causes = {outcome.cause for outcome in run.outcomes.values()}

    def since(self, search: Search) -> Iterator[str]:
        """Yield a line for each."""
        for one in list(search.saved.widened)[self._widened :]:
            self._widened += 1
            yield describe_widening(one)
        for id in list(search.saved.recorded)[self._results :]:
            self._results += 1
            outcome = search.saved.outcomes[id]
            if outcome.status in ("ok", "pruned") or outcome.cause in self._causes or search.drivers.error:
                continue
            self._causes.add(outcome.cause)
            if len(self._causes) <= MAX_CAUSES:
                yield f"trial {id} {ENDINGS[outcome.status]}: {outcome.error}"


class _Lines:
    """Lines of progress: one when the best improves, and one now and then."""

    def __init__(self, forecast: _Forecast, news: _News) -> None:
        self._forecast = forecast
        self._ends: tuple[float, float] | None = None
        self._best: int | None = None
        self._done = -1
        self._printed = time.monotonic()
        self._comparing = self._stopping = False
        self._status = ""
        self._news = news

    def look(self, search: Search) -> None:
        """Print what is new."""
        if not self._comparing and any("final comparison" in w.what for w in list(search.drivers.working.values())):
            self._comparing = True
            count = search.session.finalists
            who = "the best" if count == 1 else f"the best of {count} finalists"
            most = CAP_FACTOR * search.session.final_seeds
            shared.echo(f"final comparison: {who} against the default, on up to {most} fresh seeds each")
        ahead = self._forecast.update(search)
        if ahead is not None and self._is_news(ahead):
            self._ends = self._forecast.moment(ahead.seconds.low), self._forecast.moment(ahead.seconds.high)
            shared.echo(self._forecast.line())
        for line in self._news.since(search):
            shared.echo(line)
        if _is_interrupted(search) and not self._stopping:
            self._stopping = True
            shared.echo(STOPPING)
        if len(search.saved.outcomes) == self._done:
            return
        progress = Progress(search, self._forecast)
        if search.status != self._status:
            self._status = search.status
            shared.echo(self._status)
        best = None if progress.best is None else progress.best.id
        if best == self._best and time.monotonic() - self._printed < LINE_EVERY and progress.done != progress.total:
            return
        self._best, self._done, self._printed = best, progress.done, time.monotonic()
        left = f", about {shared.show_seconds(progress.left)} left" if progress.left > 0 else ""
        shared.echo(
            f"[{progress.count}] {progress.best_text}, {progress.failed} failed, "
            f"{shared.show_seconds(search.seconds)} elapsed{left}"
        )

    def _is_news(self, ahead: RunForecast) -> bool:
        """Return whether a forecast is the first one, or its end is outside the interval of the last printed one.

        A forecast of 0 s is not news: nothing is left to do.
        """
        if not ahead.seconds.high:
            return False
        end = self._forecast.moment(ahead.seconds.expected)
        return self._ends is None or not self._ends[0] - FORECAST_CHANGE < end < self._ends[1] + FORECAST_CHANGE


class Stream:
    """The events of one session, one JSON object a line on standard output; all other output is on standard error.

    Args:
        search: Run before the session starts; its earlier events are not repeated.
    """

    def __init__(self, search: Search) -> None:
        self._births = len(search.saved.candidates)
        self._results = len(search.saved.outcomes)
        self._compared = {_training_key(trial) for trial in read_comparison(search.saved)}
        self._written = _comparison_time(search.saved)
        self._best = None if search.saved.leader is None else search.saved.leader.id
        self._widened = len(search.saved.widened)
        self._begun = self._stopping = False

    def look(self, search: Search) -> None:
        """Print the events since the last look."""
        for event in self._since(search):
            shared.print_json(event, line=True)

    def end(self, summary: RunSummary, code: int) -> None:
        """Print the last line."""
        shared.print_json(formats.End(**structs.asdict(summary), exit_code=code), line=True)

    def _since(self, search: Search) -> Iterator[Struct]:
        run = search.saved
        if not self._begun:
            self._begun = True
            yield formats.Begin(
                run=run.name,
                folder=str(run.folder),
                evaluator=run.manifest.evaluator,
                strategy=run.manifest.strategy,
                objectives=run.manifest.objectives,
                seed=run.manifest.settings.seed,
                proposed=self._births,
                results=self._results,
            )
        recorded, births = list(run.recorded), list(run.candidates)
        for candidate in births[self._births :]:
            yield from self._recorded(run, recorded[: run.told_at_birth[candidate.id]])  # known when it was proposed
            yield from self._wider(run, candidate.id)
            self._births += 1
            yield formats.Proposed(
                id=candidate.id,
                generation=candidate.generation,
                operator=candidate.operator,
                parents=candidate.parents,
                genome=candidate.genome,
                budget=candidate.budget,
                resumes=candidate.resumes,
                extra_seed=candidate.extra_seed,
            )
        yield from self._recorded(run, recorded)
        leader = run.leader
        if leader is not None and leader.id != self._best:
            self._best = leader.id
            metric = run.objectives[0].metric
            yield formats.NewBest(id=leader.id, metric=metric, value=leader.outcome.metrics[metric])
        yield from self._fresh(run)
        if search.stopping and not self._stopping:
            self._stopping = True
            yield formats.Stopping()

    def _wider(self, run: Run, id: int) -> Iterator[formats.Widened]:
        """Yield the ranges that were widened before a candidate was proposed."""
        while self._widened < len(run.widened) and run.widened[self._widened].proposed <= id:
            one = run.widened[self._widened]
            self._widened += 1
            for name, gene in one.changed.items():
                yield formats.Widened(gene=name, range=show_range(gene), reason=one.reason)

    def _recorded(self, run: Run, ids: list[int]) -> Iterator[formats.Result]:
        for id in ids[self._results :]:
            self._results += 1
            yield formats.Result(id=id, **vars(run.outcomes[id]))

    def _fresh(self, run: Run) -> Iterator[formats.Fresh]:
        written = _comparison_time(run)
        if written == self._written:
            return
        self._written = written
        for trial in read_comparison(run):
            if (key := _training_key(trial)) not in self._compared:
                self._compared.add(key)
                outcome = trial.outcome
                yield formats.Fresh(
                    id=trial.id,
                    seed=trial.candidate.seed,
                    status=outcome.status,
                    metrics=dict(outcome.metrics),
                    seconds=outcome.seconds,
                    error=outcome.error,
                )


def _training_key(trial: Trial) -> tuple[int, int]:
    return trial.id, trial.candidate.seed


def _comparison_time(run: Run) -> int:
    """Return the time of the last write to the file of the final comparison; 0 if there is none."""
    try:
        return (run.folder / COMPARISON).stat().st_mtime_ns
    except OSError:
        return 0


def print_summary(
    run: Run,
    output_format: str,
    status: str = "",
    report_file: Path | None = None,
    needed: tuple[float, float] | None = None,
) -> None:
    """Print the best and the default, the cost of the run, its folder and the next commands.

    Args:
        run: The saved run.
        output_format: 'table' or 'json'.
        status: Progress message of its strategy.
        report_file: File of its report; None without one.
        needed: For a run without results: seconds of a training, and hours that are enough (see `Deadline.needed`).
    """
    if output_format == "json":
        shared.print_json(run_summary(run, status, report_file))
        return
    end = report.run_result(run)
    shared.echo()
    trials = {"best": end.best, "default": end.default}
    if rows := [_summary_row(name, trial, end) for name, trial in trials.items() if trial is not None]:
        shared.print_table(rows)
    for line in _summary_lines(run, end, status, needed):
        shared.echo(line)
    if report_file is not None:
        shared.echo(f"report: {report_file}")


def _summary_row(name: str, trial: Trial, end: RunResult) -> dict[str, Any]:
    row: dict[str, Any] = {"": name, "trial": trial.id}
    if end.fresh_best or end.fresh_default:
        known = end.fresh_best if name == "best" else end.fresh_default
        row[f"{end.reported_metric} over fresh seeds"] = show_fresh_values(known)
    return {**row, f"{end.metric}, {end.seeds_text}": trial.outcome.metrics[end.metric]}


def _summary_lines(run: Run, end: RunResult, status: str, needed: tuple[float, float] | None) -> Iterator[str]:
    name = as_typed(run.folder)
    if end.best is not None:
        yield f"best genome: {shared.show_genome(end.best.genome)}"
    if end.predicted_value is not None and end.fresh_best is None:
        yield f"predicted {end.metric} with other seeds: {end.predicted_value:.6g}"
    if end.baseline is not None:
        yield baseline_verdict(end.baseline)
    if len(run.objectives) > 1:
        yield f"Pareto front: {counted(len(report.pareto_front(run)), 'trial')} (`evo-tune best {name}`)"
    if len(run.manifest.settings.rungs) > 1:
        counts = f"{report.genome_count(run)} genomes, {report.full_training_count(run)} of them trained in full"
        yield f"{counts}: the cost of {report.total_cost(run):.1f} full trainings"
    limits = ", ".join(run.manifest.subject_to)
    if end.best is not None and not end.best.feasible:
        yield f"no full training satisfies {limits}: the best is the one that violates them least"
    elif end.default is not None and not end.default.feasible:
        yield f"the default genome does not satisfy {limits}, so the comparison with it is not fair"
    yield verdict(end)
    if alike := report.genomes_of_one_value(run):
        yield f"all {alike} genomes have the same {end.metric}: check that the training uses the values of the genes"
    if end.best is None and not end.partial:
        yield from _failure_lines(run, needed)
        return
    pending = len(run.candidates) - len(run.outcomes)
    if pending and run.ended not in (None, "interrupted"):
        trainings = "1 training was" if pending == 1 else f"{pending} trainings were"
        yield f"{trainings} ended by the limit of {run.session.hours:g} hours; a longer run continues"
    yield from range_lines(run)
    yield from range_end_lines(run)
    if run.ended is not None and run.ended.startswith(DONE_REASON):
        yield f"stopped, since {run.ended}"
    elif (further := predict_next_generation(run)) is not None:
        yield f"more trials: {describe_more_trials(further)}"
    if (recipe := read_recipe(run)) is not None:
        yield from recipe_lines(run, recipe)
    if status:
        yield status
    pruned = f", {end.pruned} pruned" if end.pruned else ""
    seconds = shared.show_seconds(end.seconds)
    yield f"{counted(end.results, 'evaluation')}, {end.failures} of them failed{pruned}, in {seconds}"
    if reasons := report.caveats(run):
        yield f"not repeatable to the bit: {'; '.join(reasons)}; `evo-tune verify` still replays its proposals"
    yield f"saved in {run.folder}"
    reached = run.ended not in (None, "interrupted")
    limit = f" {report.flag_to_continue(run)}" if reached else ""
    more = f"evo-tune resume {name}{limit}"
    yield f"next: evo-tune show {name}   |   {more}   |   evo-tune best {name} --format json"


def _failure_lines(run: Run, needed: tuple[float, float] | None) -> Iterator[str]:
    """Yield the causes for which no trial of a run has a value, and the next command; `needed`: see `print_summary`."""
    yield from report.failure_lines(run)
    hours = run.session.hours
    if needed is not None:
        enough = f"{needed[1]:g} hours are enough for {run.manifest.population} and the final comparison"
        yield f"a training takes about {shared.show_seconds(needed[0])}, too long for {hours:g} hours; {enough}"
    yield f"saved in {run.folder}"
    if not run.outcomes:
        reached = run.ended not in (None, "interrupted")
        longer = f" --hours {needed[1] if needed else 2 * hours:g}" if hours is not None and reached else ""
        yield f"next: evo-tune resume {as_typed(run.folder)}{longer}"
        return
    yield f"next: correct the cause, then start a new run; `evo-tune show {as_typed(run.folder)}` lists the failures"


def print_plan(plan: RunPlan, session: SessionSettings, price: float | None, output_format: str) -> None:
    """Print the forecast of a run that is not started.

    Args:
        plan: The plan of the run.
        session: Settings of its first session.
        price: Price of an hour; None for no price.
        output_format: 'table', 'json' or 'jsonl'.
    """
    from evo_tune.forecast import forecast_rows
    from evo_tune.loop.slots import forecast_session

    ahead = forecast_session(plan.manifest, session, plan.slots, plan.pace)
    plugin = plan.evaluator.plugin
    if output_format != "table":
        shared.print_json(
            formats.PlannedRun(
                evaluator=plugin.name,
                slots=plan.slots,
                device=plan.device,
                options=plan.manifest.options,
                seconds_timed=None if plan.pace is None else plan.pace.seconds,
                forecast=ahead and ahead.with_cost(price),
            )
        )
        return
    shared.print_remarks(plan.evaluator, plan.space.default(), plan.space)
    shared.echo(f"plan: {plugin.name} on {plan.slots} x {plan.device}; no run is started, and nothing is written")
    for line in plan.choices:
        shared.echo(line)
    if plan.pace is None:
        own = plugin.origin == "file"
        remedy = f"add 'timing' to SUPPORTS of {plugin.path} (docs/evaluators.md), or start the run; " if own else ""
        shared.echo(f"the duration of its trainings is unknown: {remedy}a forecast follows after three trainings")
    else:
        times = (*plan.pace.seconds, *plan.pace.corners)
        shared.echo(f"a full training of the default genome, from timed steps: {times[0]:.3g} s")
        if len(times) > 1:
            bounds, mean = f"{min(times):.3g} to {max(times):.3g} s", f"{plan.pace.mean_seconds:.3g} s"
            shared.echo(f"of {len(times)} genomes: {bounds}; expected in a search: about {mean}")
    if ahead is not None:
        for row, text in forecast_rows(ahead.with_cost(price)).items():
            shared.echo(f"  {row:<16} {text}")
