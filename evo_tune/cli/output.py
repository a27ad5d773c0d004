"""The progress of a run: as a table, as lines, or as JSON events, whose types are here.

The progress is polled: the loop does not know of it, and a slow terminal or a slow reader does not hold the run up.
docs/json.md is generated from the docstrings of the types, see `cli/formats.py`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from msgspec import Struct, convert, field

from evo_tune.cli import formats, shared
from evo_tune.forecast import RunForecast, forecast_line
from evo_tune.genome.values import Genome
from evo_tune.report import summary as report
from evo_tune.report.data import RunSummary, TrialSummary
from evo_tune.report.final_comparison import MAX_SEEDS_FACTOR
from evo_tune.store.heartbeat import SlotWork
from evo_tune.store.run import Run
from evo_tune.text import escape_unprintable, show_decimals

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evo_tune.forecast.timing import Pace
    from evo_tune.loop.search import Search

# Number of results in the live table.
SHOWN_RESULTS = 6

# Least time between two forecasts in seconds.
FORECAST_EVERY = 2.0

# Seconds by which the end of a run must leave the interval of its last forecast before another one is printed.
FORECAST_CHANGE = 5.0

# Most causes of failures to print while a run goes on.
MAX_CAUSES = 5

# Statuses of failures that are no verbs, as verbs.
ENDINGS = {"out_of_memory": "ran out of memory", "timeout": "timed out"}

STOPPING = "stopping after the pending trials; press Ctrl-C again to stop at once"

# Least time between two lines without a better best, in seconds.
LINE_EVERY = 10.0


class RunStatus(Struct, forbid_unknown_fields=True, kw_only=True):
    """The present state of a run.

    Args:
        run: Name of the run.
        state: Whether it is running, has ended or was killed, in words.
        running: Whether the run gave a recent sign of life.
        proposed: Number of proposed trials.
        results: Number of trials with a result.
        failed: Number of results that failed.
        pruned: Number of trainings that were stopped early.
        saved_by_pruning: Cost that they did not spend. Unit: full trainings.
        best: Best trial so far.
        waiting: Number of genomes that were proposed from outside (`evo-tune propose`) and that the run has not taken.
        seconds_since_last_event: Time since the last write to the journal. Unit: s.
        forecast: Forecast of the whole run; null if it is not running, or too little is known.
        slots: Work of each slot; empty if the run is not running.
    """

    run: str
    state: str
    running: bool
    proposed: int
    results: int
    failed: int
    pruned: int
    saved_by_pruning: float
    best: TrialSummary | None
    waiting: int
    seconds_since_last_event: float
    forecast: RunForecast | None
    slots: tuple[SlotWork, ...]


def _now() -> float:
    return round(time.time(), 3)


class _Event(Struct, tag_field="event", forbid_unknown_fields=True, kw_only=True):
    time: float = field(default_factory=_now)


class Begin(_Event, tag="begin", kw_only=True):
    """The first line: the run exists, and its slots are being opened.

    Args:
        run: Name of the run.
        folder: Folder of the run.
        evaluator: Evaluator as the run names it.
        strategy: Strategy, by name or file.
        objectives: METRIC:min or METRIC:max.
        seed: Seed of the run.
        proposed: Number of trials of earlier sessions; they are not repeated.
        results: Number of those trials that have a result.
    """

    run: str
    folder: str
    evaluator: str
    strategy: str
    objectives: list[str]
    seed: int
    proposed: int
    results: int


class Proposed(_Event, tag="proposed", kw_only=True):
    """A trial was proposed.

    Args:
        id: Number of the trial in the run, from 0.
        generation: Number of its generation, from 0.
        operator: Operator that made the genome.
        parents: Trials from which the genome was made.
        genome: Values of the genes, by name.
        budget: Share of a full training at which it stops. Unit: full trainings.
        resumes: Trial whose training it continues.
        extra_seed: Number of the extra seed; 0: the first seed of the genome.
    """

    id: int
    generation: int
    operator: str
    parents: tuple[int, ...]
    genome: Genome
    budget: float
    resumes: int | None
    extra_seed: int


class Widened(_Event, tag="widened", kw_only=True):
    """A gene has a wider range for all later trials.

    Args:
        gene: Name of the gene.
        range: Its new range.
        reason: Why the run widened it.
    """

    gene: str
    range: str
    reason: str


class Result(formats.TrainingResult, tag_field="event", tag="result", kw_only=True):
    """The result of a trial is on disk.

    Args:
        time: Time at which the line was printed. Unit: seconds since 1970.
        id: Number of the trial.
    """

    time: float = field(default_factory=_now)
    id: int


class NewBest(_Event, tag="best", kw_only=True):
    """Another trial is the best; the event follows its result.

    Args:
        id: Number of the trial.
        metric: Metric of the first objective.
        value: Its value, the mean if the genome was trained with several seeds. Unit: the metric's.
    """

    id: int
    metric: str
    value: float


class Fresh(formats.TrainingResult, tag_field="event", tag="fresh", kw_only=True):
    """A training of the final comparison has ended.

    Args:
        time: Time at which the line was printed. Unit: seconds since 1970.
        id: Trial whose genome was trained.
        seed: Seed of the training.
    """

    time: float = field(default_factory=_now)
    id: int
    seed: int


class Stopping(_Event, tag="stopping", kw_only=True):
    """No further training will start, after Ctrl-C, SIGTERM, SIGHUP or an error that is reported at the end."""


class End(RunSummary, tag_field="event", tag="end", kw_only=True):
    """The last line: the state of the run. If it is missing, standard error has the reason.

    Args:
        time: Time at which the line was printed. Unit: seconds since 1970.
        exit_code: Exit code of the command.
    """

    time: float = field(default_factory=_now)
    exit_code: int


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

        with Live(console=console, auto_refresh=False, transient=True) as live:

            def update_table(search: Search) -> None:
                shared.echo(*news.lines(search))  # above the table, because Live redirects the output
                live.update(progress_table(Progress(search, forecast)), refresh=True)

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
        self.count = f"{self.results}/{self.planned}" if self.planned else str(self.results)
        self.best = search.best
        self.best_text = "no full training has a value yet"
        if self.best is not None:
            metric = run.objectives[0].metric
            self.best_text = f"best {metric} {show_decimals(self.best.outcome.metrics[metric])} (trial {self.best.id})"
        self.live_forecast = live_forecast or _LiveForecast()
        # Until the end: by the forecast, or by the hours that remain; NaN if neither is known.
        self.seconds_left = math.nan
        if (forecast := self.live_forecast.update(search)) is not None:
            self.seconds_left = max(0.0, self.live_forecast.end_time(forecast.seconds.expected) - time.monotonic())
        elif search.session.hours is not None:
            self.seconds_left = search.session.hours * 3600 - search.seconds


def last_results(run: Run) -> str:
    """Return the last results in words, the newest first."""
    texts = []
    for id in list(run.recorded)[: -SHOWN_RESULTS - 1 : -1]:
        losses, status = run.trial(id).losses, run.outcomes[id].status
        texts.append(f"{id}: {shared.show_value(run.objectives[0].value(losses[0])) if losses else status}")
    return "   ".join(texts)


def progress_table(progress: Progress) -> RenderableType:
    """Return the live table of a terminal."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    search = progress.search
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(escape_unprintable(search.name), style="bold"),
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
        slots.add_row(*map(escape_unprintable, (slot.name, slot.device, work, duration)))
    lines = [
        forecast_line(progress.live_forecast.forecast),
        progress.best_text,
        "" if progress.best is None else f"  {shared.show_genome(progress.best.genome)}",
        search.status,
        progress.live_forecast.more_trials,
        f"last results   {last_results(search.saved)}" if progress.results else "",
    ]
    stopping = [STOPPING] if _is_interrupted(search) else []
    return Group(head, *(escape_unprintable(line) for line in lines if line), slots, *stopping)


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
                yield f"trial {id} {ENDINGS.get(outcome.status, outcome.status)}: {outcome.error}"


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
            if search.saved.patches:
                finalists = "the best, or one with fewer patches that may be as good,"
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
            shared.echo(forecast_line(forecast))


class EventStream:
    """The events of one session, one JSON object a line on standard output; all other output is on standard error.

    Args:
        search: Run before the session starts; its earlier events are not repeated.
    """

    def __init__(self, search: Search) -> None:
        self._proposed = len(search.saved.candidates)
        self._results = len(search.saved.outcomes)
        self._fresh_count = len(search.saved.fresh)
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
            yield Begin(
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
                    yield Widened(gene=name, range=report.show_range(gene), reason=widening.reason)
            self._proposed += 1
            yield convert(candidate, Proposed, from_attributes=True)
        yield from self._result_events(run, recorded)
        leader = run.leader
        if leader is not None and leader.id != self._best:
            self._best = leader.id
            metric = run.objectives[0].metric
            yield NewBest(id=leader.id, metric=metric, value=leader.outcome.metrics[metric])
        yield from self._comparison_events(run)
        if search.stopping and not self._is_stopping:
            self._is_stopping = True
            yield Stopping()

    def _result_events(self, run: Run, ids: list[int]) -> Iterator[Result]:
        for id in ids[self._results :]:
            self._results += 1
            yield Result(id=id, **vars(run.outcomes[id]))

    def _comparison_events(self, run: Run) -> Iterator[Fresh]:
        for result in run.fresh[self._fresh_count :]:
            self._fresh_count += 1
            trial = result.trial
            if trial.key == run.trial(trial.id).key:  # else it is without a patch
                yield Fresh(id=trial.id, seed=trial.candidate.seed, **vars(trial.outcome))
