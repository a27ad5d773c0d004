"""Forecast the time, trainings, memory and disk of a run, each with bounds.

The first forecast uses timed steps; later ones use the run's own results. Everything here is a pure function of a
manifest, a session, and measurements. A limit in trials gives the number of trainings directly. A limit in hours is
divided by the time of one training. Rungs, extra seeds and the final comparison count with their average cost, which
the cost of the run's genomes so far corrects.
"""

from __future__ import annotations

import heapq
import math
import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, stdev
from types import MappingProxyType

from msgspec import Struct, structs

from evo_tune.forecast.timing import Pace
from evo_tune.genome.trial import Outcome
from evo_tune.report.final_comparison import FinalComparison, FreshTraining, Results, default_looks
from evo_tune.report.recommendation import comparison_of, comparison_results
from evo_tune.report.summary import candidate_costs
from evo_tune.settings import SessionSettings
from evo_tune.store.comparison import read_comparison
from evo_tune.store.manifest import Manifest
from evo_tune.store.run import Run
from evo_tune.text import show_seconds

MIN_RESULTS = 3
"""Number of results that allow a forecast without timings. Timings count as much as this many results."""

IMPORTS = 60.0
"""Seconds below which a training may have spent most of its time on imports, if it was the first of its worker."""

DRIFT = 0.5
"""Expected change of the mean time as the search concentrates, in standard deviations of the genomes' times."""

LEAST_DRIFT = 0.05
"""Smallest such change, as a share of the time: for spaces in which genomes hardly differ."""

EXTRA_SEEDS = 0.08
"""Extra seeds per genome with `--seeds-per-trial auto` (measured by the noisy form of benchmarks/search.py)."""

BOUNDS = 1.2816
"""Half width of an 80 % interval of a normal distribution, in standard deviations."""

CLOSING_SECONDS = 2.0
"""Seconds for the last generation's file, the report, and the end of the workers."""

ROW = 2000
"""Bytes of one result in the journal, the generation file and the log."""

PAGE = 300_000
"""Bytes of a report."""


class Bounds(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A prediction with an interval of 80 %.

    Args:
        low: Lower end.
        expected: Prediction.
        high: Upper end.
    """

    low: float
    expected: float
    high: float


class ComparisonTrainings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Number of trainings of the final comparison; both fields are 0 without one.

    Args:
        fewest: Number of trainings if the comparison is decided as early as possible.
        most: Number of trainings if it uses all its seeds.
    """

    fewest: int
    most: int


class RunForecast(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The forecast of a run.

    Args:
        genomes: Number of genomes of the whole run.
        full_trainings: Cost of the trainings that are still to be done. Unit: full trainings.
        seconds_of_each: Mean duration of a full training. Unit: s.
        final_comparison: Trainings of the final comparison.
        slots: Number of trainings at the same time.
        seconds: Time until the end. Unit: s.
        memory_of_each: Memory of a worker, or of its share of a GPU; null if unknown. Unit: B.
        on_gpu: Whether `memory_of_each` is memory of a GPU.
        disk: Size of the run folder at the end. Unit: B.
        cost: Cost until the end, from the price of an hour; null without a price. Unit: the price's.
    """

    genomes: int
    full_trainings: float
    seconds_of_each: float
    final_comparison: ComparisonTrainings
    slots: int
    seconds: Bounds
    memory_of_each: float | None
    on_gpu: bool
    disk: float
    cost: Bounds | None = None

    def with_cost(self, price: float | None) -> RunForecast:
        """Return the forecast with its cost.

        Args:
            price: Price of an hour of the machine, in any currency; None for no cost.
        """
        if price is None:
            return self
        hours = (self.seconds.low / 3600, self.seconds.expected / 3600, self.seconds.high / 3600)
        low, expected, high = (price * one for one in hours)
        return structs.replace(self, cost=Bounds(low=low, expected=expected, high=high))


def forecast_run(
    manifest: Manifest,
    session: SessionSettings,
    slots: int,
    promoted: float,
    pace: Pace | None = None,
    run: Run | None = None,
) -> RunForecast | None:
    """Forecast a run.

    Args:
        manifest: Settings of the run.
        session: Limits and final comparison; at least one limit.
        slots: Number of trainings at once.
        promoted: Expected cost of a genome and its promotions, in full trainings.
        pace: Timed steps, if there are any.
        run: The run so far; None before it begins.

    Returns:
        The forecast; None without timings while fewer than `MIN_RESULTS` results, or none with a usable time, exist.
    """
    done = [] if run is None else list(run.outcomes.items())
    if (pace is None and len(done) < MIN_RESULTS) or not slots:
        return None
    later = [] if run is None else _later(run)
    if pace is None and not later and fmean(outcome.seconds for _, outcome in done) < IMPORTS:
        return None
    seconds = [outcome.seconds for _, outcome in later or done]
    fresh = 0 if run is None else sum(run.candidates[id].fresh for id, _ in done)
    by_id = {} if run is None else candidate_costs(run)
    used = sum(by_id[id] for id, _ in done)
    pending = sum(by_id.values()) - used
    # A search concentrates on good genomes, so later results predict the rest better.
    late = later or done
    late = late[len(late) // 2 :] if len(late) >= 2 * manifest.population else late
    each = _each(pace, [outcome.seconds for _, outcome in late], sum(by_id[id] for id, _ in late))
    births = session.max_genomes(manifest.population)
    cost = genome_cost(manifest, max(1, int(births) if math.isfinite(births) else 100), promoted)
    # The more genomes the run has trained, the more their own cost counts.
    cost = (cost * manifest.population + used) / (manifest.population + fresh)
    least, most = _comparison_left(run, session, each, slots, births > fresh or len(by_id) > len(done))
    until = math.inf
    if session.hours is not None:
        until = max(0.0, session.hours * 3600 - (0.0 if run is None else run.elapsed))
    room = max(0.0, until - (least + most) / 2) * slots / each if each > 0 else math.inf
    by_births = max(0.0, (births - fresh) * cost - pending / 2)  # pending trainings are half done on average
    wanted = by_births
    if session.budget is not None:
        wanted = min(wanted, max(0.0, session.budget - used - pending / 2))
    if run is not None and run.planned is not None:  # only the final comparison is left
        wanted = 0.0
    trainings = min(wanted, room)
    if not math.isfinite(trainings):
        return None
    tail = (1.0 - 1.0 / slots) * each / 2 if trainings else 0.0
    between = 0.0 if run is None else _between(run) * len(done) / used if used else 0.0
    search = trainings * (each + between) / slots + tail
    opening = _opening(run, pace)
    expected = opening + search + (least + most) / 2 + CLOSING_SECONDS
    error = _error(pace, seconds, trainings)
    low = opening / 2 + max(0.0, search * math.exp(-BOUNDS * error) - tail) + least
    high = 1.5 * opening + search * math.exp(BOUNDS * error) + tail + most + 2 * CLOSING_SECONDS
    if wanted > room:  # the clock ends the run
        low, expected, high = until - (most - least) / 2 - tail, until, until + (most - least) / 2 + CLOSING_SECONDS
    elif not trainings and not most and len(by_id) == len(done):  # no worker starts
        low = expected = high = 0.0
    genomes = fresh + round(trainings / cost)
    made = int(births) if trainings == by_births else min(genomes, births)
    return RunForecast(
        genomes=max(int(made), fresh),
        full_trainings=trainings,
        seconds_of_each=each,
        final_comparison=comparison_trainings(session),
        slots=slots,
        seconds=Bounds(low=max(0.0, low), expected=max(0.0, expected), high=max(0.0, high)),
        memory_of_each=None if pace is None else pace.memory or pace.worker or None,
        on_gpu=pace is not None and pace.memory > 0,
        disk=_disk(manifest, int(made), pace, run),
    )


def _later(run: Run) -> list[tuple[int, Outcome]]:
    """Return the results of trainings that were not the first of their worker, which may import torch in `evaluate`.

    The workers of a session get their first trainings before its first result.
    """
    born, came, finished = dict(run.born_at), dict(run.came_at), dict(run.finished)  # the slots' threads write more
    sessions = {id: bisect_left(run.resumed, seconds) for id, seconds in finished.items()}
    first: dict[int, float] = {}
    for id, session in sessions.items():
        first[session] = min(came[id], first.get(session, math.inf))
    return [(id, run.outcomes[id]) for id, session in sessions.items() if born[id] > first[session]]


def _each(pace: Pace | None, seconds: Sequence[float], trainings: float) -> float:
    """Return the mean seconds of a full training; timings count as much as `MIN_RESULTS` trainings.

    Args:
        pace: Timed steps, if there are any.
        seconds: Seconds of each result.
        trainings: Cost of all these results, in full trainings.
    """
    known = MIN_RESULTS if pace is not None else 0
    prior = pace.mean_seconds if pace is not None else 0.0
    return (known * prior + sum(seconds)) / (known + trainings) if known + trainings > 0 else 0.0


def _comparison_left(
    run: Run | None, session: SessionSettings, each: float, slots: int, more: bool
) -> tuple[float, float]:
    """Return the shortest and the longest time that the final comparison still takes.

    Args:
        run: The run so far; None before it begins.
        session: Number of seeds and finalists.
        each: Seconds of a full training.
        slots: Number of trainings at once.
        more: Whether the run proposes or trains more genomes, so that the finalists may change.
    """
    if run is not None and not more:
        comparison = comparison_of(run)
        if not comparison.state(comparison_results(run, comparison)).next_trainings:
            return 0.0, 0.0
    least, most = comparison_seconds(session, each, slots)
    done = [] if run is None else read_comparison(run)
    kept = done
    if run is not None and more:  # a new finalist needs fresh trainings; those of the default stay
        kept = [trial for trial in done if trial.genome == run.candidates[0].genome]
    return max(0.0, least - len(done) * each / slots), max(0.0, most - len(kept) * each / slots)


def _opening(run: Run | None, pace: Pace | None) -> float:
    """Return the seconds until the workers of a session train: they start, and import the evaluator.

    It is measured by timings, or else by the first result of an earlier session.
    """
    known = 0.0 if pace is None else pace.start
    if run is None or not run.resumed:
        return known
    now, starts, finished = run.resumed[-1], [], list(run.finished.items())
    for began, end in pairwise([*run.resumed, math.inf]):
        first = next((one for one in finished if began < one[1] <= end), None)
        if first is not None and began == now:
            return 0.0
        if first is not None:
            starts.append(first[1] - began - run.outcomes[first[0]].seconds)
    if not known and starts:
        known = max(0.0, min(starts))
    return max(0.0, known - (run.elapsed - now))


def _between(run: Run) -> float:
    """Return the seconds of a slot between two trainings, median: a proposal, and the way to the worker and back."""
    born, came = dict(run.born_at), dict(run.came_at)  # copies, because the slots' threads write more
    events = sorted([*born.values(), *came.values()])
    births = [time for id, time in born.items() if run.told_at_birth[id]]
    waits = [time - events[bisect_left(events, time) - 1] for time in births]
    ways = [time - born[id] - run.outcomes[id].seconds for id, time in came.items()]
    return sum(max(0.0, median(found)) for found in (waits, ways) if found)


def genome_cost(manifest: Manifest, genomes: int, promoted: float) -> float:
    """Return the expected cost of a genome with its promotions and extra seeds, in full trainings.

    Args:
        manifest: Settings of the run, with its rules.
        genomes: Number of genomes in the run (int ≥ 1).
        promoted: Cost of a genome with its promotions (see `rules.fidelity.expected_cost`).
    """
    if manifest.settings.extra_seeds_by_gain:
        return promoted + EXTRA_SEEDS
    # The leader changes as often as a series of n random numbers has a new record: H(n) times.
    return promoted + (manifest.settings.most_seeds - 1) * (math.log(genomes) + 0.577) / genomes


def _error(pace: Pace | None, seconds: Sequence[float], trainings: float) -> float:
    """Return the standard error of the remaining time, as a share of it."""
    count, spread = len(seconds), 0.3
    if count > 1 and fmean(seconds) > 0:
        spread = stdev(seconds) / fmean(seconds)
    elif pace is not None:
        spread = pace.spread
    known = count + (len(pace.seconds) if pace is not None else 0)
    drift = max(LEAST_DRIFT, DRIFT * spread) * math.sqrt(max(1.0, trainings) / (max(1.0, trainings) + count))
    return math.sqrt(spread**2 / max(1, known) + spread**2 / max(1.0, trainings) + drift**2)


def _disk(manifest: Manifest, genomes: int, pace: Pace | None, run: Run | None) -> float:
    if run is not None and len(run.outcomes) >= MIN_RESULTS:
        fresh = sum(candidate.fresh for candidate in run.candidates)
        return _size(run.folder) * max(1.0, genomes / max(1, fresh)) + PAGE
    found = float(genomes * ROW + PAGE)
    if pace is not None:
        # Checkpoints are kept for promotions that may not come.
        waiting = genomes * (1.0 - 1.0 / len(manifest.settings.rungs))
        found += pace.checkpoint * waiting + pace.artifact_bytes * genomes
    return found


def _size(folder: Path) -> int:
    """Return the bytes of all files below a folder. Links are not followed, and a file that vanishes counts 0."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(at, name)).st_size
            except OSError:
                continue
    return total


# ---------------------------------------------------------------------------------------------------------
# The final comparison


def comparison_trainings(session: SessionSettings) -> ComparisonTrainings:
    """Return the number of trainings of a session's final comparison."""
    seeds, alive = session.final_seeds, session.finalists
    if not seeds:
        return ComparisonTrainings(fewest=0, most=0)
    choosing, stops = 0, default_looks(seeds)
    while alive > 1:
        choosing += math.ceil(seeds / 3) * alive
        alive = math.ceil(alive / 2)
    return ComparisonTrainings(fewest=choosing + 2 * stops[0], most=choosing + 2 * stops[-1])


def comparison_seconds(session: SessionSettings, each: float, slots: int) -> tuple[float, float]:
    """Return the shortest and the longest time of the final comparison, if all its trainings take equally long.

    Args:
        session: Number of seeds and finalists.
        each: Seconds of a full training.
        slots: Number of trainings at once.
    """
    if not session.final_seeds:
        return 0.0, 0.0
    comparison = FinalComparison(tuple(range(1, session.finalists + 1)), 0, session.final_seeds)
    ends = comparison_end_times(comparison, lambda id: each, slots)
    return ends[0], ends[-1]


def comparison_end_times(
    comparison: FinalComparison,
    seconds: Callable[[int], float],
    slots: int,
    results: Results = MappingProxyType({}),
    busy: Sequence[float] = (),
) -> list[float]:
    """Return the seconds after which a final comparison may end: one value for each look that it still lacks.

    It simulates the order of `FinalComparison.state`. While the finalist is chosen, the default's seeds for the first
    look fill slots that would be idle. At each later look all slots wait for the last training.

    Args:
        comparison: Comparison with at least one seed and one finalist. Open choices fall on the first finalist.
        seconds: Returns the seconds of a training of the genome of a trial.
        slots: Number of trainings at once (int ≥ 1).
        results: Results so far; a running training counts as one.
        busy: Seconds until each running training ends.
    """
    free, ready = sorted([*busy, *[0.0] * (slots - len(busy))]), max(busy, default=0.0)
    known, stops, default = dict(results), comparison.looks, comparison.default
    filling = deque(comparison.missing_report_trainings(stops[0], [default], known))

    def begin(one: FreshTraining, earliest: float) -> float:
        known[one] = 0.0
        end = max(heapq.heappop(free), earliest) + seconds(one.id)
        heapq.heappush(free, end)
        return end

    chosen, lacking = comparison.choose(known)
    while lacking:
        ready = max(begin(one, ready) for one in lacking)
        while filling and free[0] < ready:
            begin(filling.popleft(), 0.0)
        chosen, lacking = comparison.choose(known)
    if chosen is None:  # every finalist failed
        return [max(free)]
    ends = []
    for look in stops[:1] if default is None else stops:
        if lacking := comparison.missing_report_trainings(look, [default, chosen], known):
            # The default's first seeds are needed for any chosen finalist, so these can start at once.
            for one in sorted(lacking, key=lambda one: one.id != default):
                begin(one, 0.0 if one in filling else ready)
            ready = max(free)
            ends.append(ready)
    return ends


# ---------------------------------------------------------------------------------------------------------
# The forecast as text and as data


def forecast_line(ahead: RunForecast) -> str:
    """Return a forecast in one line."""
    rows = forecast_rows(ahead)
    comparison = f", {rows['final comparison']} of the final comparison" if ahead.final_comparison.most else ""
    parts = [f"forecast: {_time(ahead)}", f"{ahead.genomes} genome{'s' * (ahead.genomes != 1)}{comparison}"]
    return "; ".join(parts + [rows[name] for name in ("memory", "disk", "cost") if name in rows])


def forecast_rows(ahead: RunForecast) -> dict[str, str]:
    """Return a forecast as named rows of text; see `forecast_line`."""
    each, race = show_seconds(ahead.seconds_of_each), ahead.final_comparison
    rows = {
        "genomes": f"{ahead.genomes}, the cost of {ahead.full_trainings:.0f} full trainings of {each}",
        "final comparison": _trainings(race) if race.most else "none",
        "time": f"{_time(ahead)}, with {ahead.slots} at the same time",
    }
    if ahead.memory_of_each:
        kind = "GPU memory" if ahead.on_gpu else "memory"
        rows["memory"] = f"{ahead.slots} x {_show_bytes(ahead.memory_of_each)} of {kind}"
    rows["disk"] = f"{_show_bytes(ahead.disk)} on disk"
    if (cost := ahead.cost) is not None:
        rows["cost"] = f"{cost.expected:.2f} at the given price ({cost.low:.2f} to {cost.high:.2f})"
    return rows


def _trainings(race: ComparisonTrainings) -> str:
    return f"{race.most} trainings" if race.fewest == race.most else f"{race.fewest} to {race.most} trainings"


def _time(ahead: RunForecast) -> str:
    low, high = show_seconds(ahead.seconds.low), show_seconds(ahead.seconds.high)
    return f"about {show_seconds(ahead.seconds.expected)} ({low} to {high})"


def _show_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
