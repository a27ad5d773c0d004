"""What a run shows while it goes on: a live table in a terminal, plain lines elsewhere.

It polls: the loop knows nothing of it, and a slow terminal cannot hold a run up.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from evo_tune.cli import _shared as shared
from evo_tune.report.racing import CAP
from evo_tune.report.summary import further_of, in_words
from evo_tune.report.words import fixed, sparkline
from evo_tune.text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evo_tune.forecast.ahead import Ahead
    from evo_tune.forecast.timing import Pace
    from evo_tune.loop.search import Search

LAST = 6
"""Results that the live table tells."""

FORECAST_EVERY = 2.0
"""Seconds between two forecasts at least."""

LINE_EVERY = 10.0
"""Seconds between two plain lines at least, unless the best improves."""


@contextlib.contextmanager
def watcher(silent: bool, price: float | None = None) -> Iterator[Callable[[Search], None]]:
    """Return a callback for `Search.run` that shows how it goes.

    Args:
        silent: Show nothing.
        price: Of an hour, for the cost; None tells none.
    """
    foreseen = _Foreseen(price)
    console = shared.console()
    if silent:
        yield lambda search: None
    elif not console.is_terminal:
        yield patient(_Lines(foreseen).watch)
    else:
        from rich.live import Live

        seen = _Seen()
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield patient(lambda search: live.update(_table(Progress(search, foreseen), seen), refresh=True))


def patient(watch: Callable[[Search], None]) -> Callable[[Search], None]:
    """Return a callback that falls silent once it fails: a closed pipe or a bad terminal must not end a run."""
    broken = False

    def look(search: Search) -> None:
        nonlocal broken
        if broken:
            return
        try:
            watch(search)
        except Exception as error:
            broken = True
            with contextlib.suppress(Exception):
                shared.echo(f"Warning: cannot show how the run goes ({error}); it goes on", err=True)

    return look


class Progress:
    """One look at a run in progress."""

    def __init__(self, search: Search, foreseen: _Foreseen | None = None) -> None:
        foreseen = foreseen or _Foreseen(None)
        run = search.saved
        self.search = search
        self.done = len(run.outcomes)
        births = search.session.births(run.manifest.population)
        # Further trials of a genome are counted once they are born: how many will be due, nobody knows.
        more = sum(not candidate.fresh for candidate in list(run.candidates))
        self.total = max(int(births) + more, len(run.candidates)) if math.isfinite(births) else None
        statuses = [outcome.status for outcome in list(run.outcomes.values())]
        self.failed = sum(status not in ("ok", "pruned") for status in statuses)
        self.pruned = statuses.count("pruned")
        self.best = search.best
        self.ahead = foreseen.ahead(search)
        self.forecast, self.further = foreseen.line(self.ahead), foreseen.further
        self.metric = run.objectives[0].metric

    @property
    def best_text(self) -> str:
        """The best value and its trial."""
        if self.best is None:
            return "no value of a full training yet"
        return f"best {self.metric} {fixed(self.best.outcome.metrics[self.metric])} (trial {self.best.id})"

    @property
    def left(self) -> float:
        """Seconds left, as forecast; else those that the hours leave; NaN if neither tells."""
        if self.ahead is not None:
            return self.ahead.seconds.expected
        hours = self.search.session.hours
        return math.nan if hours is None else hours * 3600 - self.search.seconds

    @property
    def count(self) -> str:
        """Evaluations done, of how many."""
        return f"{self.done}/{self.total}" if self.total else str(self.done)


class _Foreseen:
    """The forecast of a run, made anew every few seconds: it looks at all results."""

    def __init__(self, price: float | None) -> None:
        self._price = price
        self._next = 0.0
        self._ahead: Ahead | None = None
        self._further = ""
        self._pace: Pace | None = None

    def ahead(self, search: Search) -> Ahead | None:
        """Return what is ahead; None as long as nothing is known."""
        from evo_tune.loop.opening import forecast

        if time.monotonic() >= self._next or search.pace is not self._pace:
            began, self._pace = time.monotonic(), search.pace
            slots = len(search.drivers.slots)
            self._ahead = forecast(search.saved.manifest, search.session, slots, search.pace, search.saved)
            found = further_of(search.saved)
            self._further = "" if found is None else in_words(found)
            # Of a long run it takes a while: the main thread must not hold the drivers up.
            self._next = time.monotonic() + max(FORECAST_EVERY, 50 * (time.monotonic() - began))
        return self._ahead

    @property
    def further(self) -> str:
        """What going on promises, in words; '' where that is not known."""
        return self._further

    def line(self, ahead: Ahead | None) -> str:
        """Return it in words."""
        from evo_tune.forecast.ahead import as_line

        return "forecast: after three trainings" if ahead is None else as_line(ahead.priced(self._price))


class _Seen:
    """What the live table shows beside one look: the best as it fell, the last results, and curves in flight."""

    def __init__(self) -> None:
        self._best: list[float] = []
        self._last: list[str] = []
        self._curves: dict[str, str] = {}
        self._next = 0.0

    def results(self, search: Search) -> tuple[str, str]:
        """Return the best so far as a row of bars, and the last results in words, the newest first."""
        run = search.saved
        objective = run.objectives[0]
        for id in list(run.recorded[len(self._last) :]):
            trial = run.trial(id)
            loss = trial.losses[0] if trial.losses else math.inf
            counts = trial.rankable and trial.feasible and not trial.candidate.replicate
            before = self._best[-1] if self._best else math.inf
            self._best.append(min(before, loss) if counts else before)
            value = shared.show_value(objective.value(loss)) if trial.losses else trial.outcome.status
            self._last.append(f"{id}: {value}")
        bars = sparkline([objective.value(loss) for loss in self._best])
        return bars, "   ".join(self._last[: -LAST - 1 : -1])

    def curve(self, search: Search, what: str) -> str:
        """Return the curve so far of what a slot is at, as a row of bars and its last value; '' if it tells none."""
        from evo_tune.store.inflight import in_flight

        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 1.0
            metric = search.saved.objectives[0].metric
            self._curves = {}
            for id, curve in in_flight(search.saved.folder).items():
                name = metric if curve and metric in curve[-1][1] else next(iter(curve[-1][1]), "") if curve else ""
                values = [value for _, point in curve if (value := point.get(name)) is not None]
                if values:
                    told = f"{curve[-1][0]:.0%} {sparkline(values, 16)} {name} {shared.show_value(values[-1])}"
                    self._curves[f"trial {id}"] = told
        return self._curves.get(what, "")


def _table(progress: Progress, seen: _Seen) -> RenderableType:
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
        f"{shared.show_seconds(search.seconds)} gone",
        f"about {shared.show_seconds(progress.left)} left",
    )
    slots = Table.grid(padding=(0, 2))
    for slot in list(search.drivers.slots):
        working = dict(search.drivers.working).get(slot.name)
        what = working.what if working and working.what else "waits"
        since = shared.show_seconds(time.monotonic() - working.since) if working and working.what else ""
        curve = seen.curve(search, what)
        slots.add_row(printable(slot.name), printable(slot.device), printable(what), since, printable(curve))
    bars, last = seen.results(search)
    lines: list[RenderableType] = [
        head,
        printable(progress.forecast),
        printable(f"{progress.best_text}   {bars}".rstrip()),
    ]
    if progress.best is not None:
        lines.append(printable(f"  {shared.show_genome(progress.best.genome)}"))
    if search.status:
        lines.append(printable(search.status))
    if progress.further:
        lines.append(printable(progress.further))
    if last:
        lines.append(printable(f"last results   {last}"))
    lines.append(slots)
    if search.stopping:
        lines.append("stopping: what is in flight is finished; Ctrl-C again stops at once")
    return Group(*lines)


class _Lines:
    """Prints a line when the best improves, and now and then."""

    def __init__(self, foreseen: _Foreseen) -> None:
        self._foreseen = foreseen
        self._told: float | None = None
        self._best: int | None = None
        self._done = -1
        self._printed = time.monotonic()
        self._calibrating = False
        self._status = ""

    def watch(self, search: Search) -> None:
        """Print a line if there is something to say."""
        if not self._calibrating and any("calibration" in w.what for w in list(search.drivers.working.values())):
            self._calibrating = True
            count = search.session.calibrate_best
            who = "the best" if count == 1 else f"the best of {count} finalists"
            most = CAP * search.session.calibrate
            shared.echo(f"calibration: {who} against the default, on up to {most} fresh seeds each")
        ahead = self._foreseen.ahead(search)
        if ahead is not None and self._is_news(ahead):
            self._told = time.monotonic() + ahead.seconds.expected
            shared.echo(self._foreseen.line(ahead))
        if len(search.saved.outcomes) == self._done:
            return
        progress = Progress(search, self._foreseen)
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
            f"{shared.show_seconds(search.seconds)} gone{left}"
        )

    def _is_news(self, ahead: Ahead) -> bool:
        """Whether a forecast is the first one, or the end has moved out of the bounds of the last one told."""
        end = time.monotonic() + ahead.seconds.expected
        return self._told is None or abs(end - self._told) > max(5.0, 0.25 * ahead.seconds.expected)
