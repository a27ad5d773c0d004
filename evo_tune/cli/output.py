"""The progress of a run: as lines, or as JSON events, whose types are here.

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
from evo_tune.forecast import RunForecast, forecast_line, forecast_run
from evo_tune.genome.values import Genome
from evo_tune.report import summary as report
from evo_tune.report.data import RunSummary, TrialSummary, fill
from evo_tune.report.final_comparison import MAX_SEEDS_FACTOR
from evo_tune.store.heartbeat import SlotWork
from evo_tune.store.run import Run
from evo_tune.text import show_decimals, with_plural

if TYPE_CHECKING:
    from evo_tune.forecast.timing import Pace
    from evo_tune.loop.search import Search

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


class ProgressLines:
    """Lines of progress: one when the best improves, and one now and then, with forecasts and other news.

    Args:
        run: The run before this session, whose earlier events are no news.
        price: Price of an hour, for the cost; None for no cost.
    """

    def __init__(self, run: Run, price: float | None = None) -> None:
        self._widened = len(run.widened)
        self._recorded = len(run.recorded)
        self._causes = {outcome.cause for outcome in run.outcomes.values()}
        self._price = price
        self._forecast: RunForecast | None = None
        self._forecast_time = self._next_forecast = 0.0
        self._pace: Pace | None = None
        self._forecast_ends: tuple[float, float] | None = None  # monotonic times of the last printed forecast
        self._best: int | None = None
        self._results = -1
        self._print_time = time.monotonic()
        self._is_comparing = self._is_stopping = False
        self._status = ""

    def print_new(self, search: Search) -> None:
        """Print what is new since the last call."""
        run = search.saved
        working = list(search.drivers.working.values())
        if not self._is_comparing and any("final comparison" in slot.description for slot in working):
            self._is_comparing = True
            finalists = with_plural(search.session.finalists, "finalist")
            most = MAX_SEEDS_FACTOR * search.session.final_seeds
            shared.echo(f"final comparison: {finalists} against the default, on up to {most} fresh seeds each")
        self._update_forecast(search)
        shared.echo(*self._news(search))
        # A run that stops on an error stops its trials by itself.
        if search.stopping and search.drivers.error is None and not self._is_stopping:
            self._is_stopping = True
            shared.echo(STOPPING)
        results = len(run.outcomes)
        if results == self._results:
            return
        best, planned = search.best, report.trial_limit(run, search.session)
        if search.status != self._status:
            self._status = search.status
            shared.echo(self._status)
        best_id = None if best is None else best.id
        is_recent = time.monotonic() - self._print_time < LINE_EVERY
        if best_id == self._best and is_recent and results != planned:
            return
        self._best, self._results, self._print_time = best_id, results, time.monotonic()
        best_text = "no full training has a value yet"
        if best is not None:
            metric = run.objectives[0].metric
            best_text = f"best {metric} {show_decimals(best.outcome.metrics[metric])} (trial {best.id})"
        failed = sum(outcome.status not in ("ok", "pruned") for outcome in list(run.outcomes.values()))
        # Until the end: by the forecast, or by the hours that remain.
        seconds_left = 0.0 if search.session.hours is None else search.session.hours * 3600 - search.seconds
        if self._forecast is not None:
            seconds_left = self._forecast_time + self._forecast.seconds.expected - time.monotonic()
        remaining = f", about {shared.show_seconds(seconds_left)} left" if seconds_left > 0 else ""
        counts = f"{results}/{planned}" if planned else str(results)
        elapsed = shared.show_seconds(search.seconds)
        shared.echo(f"[{counts}] {best_text}, {failed} failed, {elapsed} elapsed{remaining}")

    def _news(self, search: Search) -> Iterator[str]:
        """Yield a line for each new range, and for the first failure of each cause."""
        for widening in list(search.saved.widened)[self._widened :]:
            self._widened += 1
            yield report.describe_widening(widening)
        for id in list(search.saved.recorded)[self._recorded :]:
            self._recorded += 1
            outcome = search.saved.outcomes[id]
            if outcome.status in ("ok", "pruned") or outcome.cause in self._causes or search.drivers.error:
                continue
            self._causes.add(outcome.cause)
            if len(self._causes) <= MAX_CAUSES:
                yield f"trial {id} {ENDINGS.get(outcome.status, outcome.status)}: {outcome.error}"

    def _update_forecast(self, search: Search) -> None:
        """Update the forecast every few seconds, as it reads all results; print it if the end leaves its interval."""
        if time.monotonic() >= self._next_forecast or search.clock.pace is not self._pace:
            self._forecast_time, self._pace = time.monotonic(), search.clock.pace
            slots = len(search.drivers.slots)
            forecast = forecast_run(search.saved.manifest, search.session, slots, search.clock)
            self._forecast = forecast and forecast.with_cost(self._price)
            # The forecast of a long run takes a while, and the main thread must not hold the drivers up.
            duration = time.monotonic() - self._forecast_time
            self._next_forecast = time.monotonic() + max(FORECAST_EVERY, 50 * duration)
        if self._forecast is None or not self._forecast.seconds.high:  # 0 s: nothing is left to do
            return
        bounds = self._forecast.seconds
        low, end, high = (self._forecast_time + seconds for seconds in (bounds.low, bounds.expected, bounds.high))
        old_low, old_high = self._forecast_ends or (math.inf, -math.inf)
        if not old_low - FORECAST_CHANGE < end < old_high + FORECAST_CHANGE:
            self._forecast_ends = low, high
            shared.echo(forecast_line(self._forecast))


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
            yield fill(
                Begin,
                run.manifest,
                run=run.name,
                folder=str(run.folder),
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
        for result in run.fresh[self._fresh_count :]:
            self._fresh_count += 1
            trial = result.trial
            if trial.key == run.trial(trial.id).key:  # else it is without a patch
                yield Fresh(id=trial.id, seed=trial.candidate.seed, **vars(trial.outcome))
        if search.stopping and not self._is_stopping:
            self._is_stopping = True
            yield Stopping()

    def _result_events(self, run: Run, ids: list[int]) -> Iterator[Result]:
        for id in ids[self._results :]:
            self._results += 1
            yield Result(id=id, **vars(run.outcomes[id]))
