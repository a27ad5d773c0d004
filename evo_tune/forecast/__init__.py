"""Forecast the time, trainings, memory and disk of a run, each with bounds.

The first forecast uses timed steps; later ones use the run's own results. Everything here is a pure function of a
manifest, a session, and measurements. A limit in trials gives the number of trainings directly. A limit in hours is
divided by the time of one training. Rungs, extra seeds and the final comparison count with their average cost, which
the cost of the run's genomes so far corrects.
"""

import heapq
import math
import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from statistics import fmean, median, stdev
from types import MappingProxyType

from msgspec import UNSET, Struct, structs
from rich.filesize import decimal

from evo_tune.forecast.clock import MIN_RESULTS, Clock
from evo_tune.forecast.timing import Pace
from evo_tune.report import final_comparison
from evo_tune.report.final_comparison import FinalComparison, FreshTraining, Results
from evo_tune.report.recommendation import comparison_results, current_comparison
from evo_tune.report.summary import candidate_costs
from evo_tune.rules.fidelity import mean_genome_cost
from evo_tune.settings import SessionSettings
from evo_tune.store.manifest import Manifest
from evo_tune.store.run import Run
from evo_tune.store.table import read_comparison
from evo_tune.text import show_seconds, with_plural

# Expected change of the mean time as the search concentrates, in standard deviations of the genomes' times.
DRIFT = 0.5

# Smallest such change, as a share of the time: for spaces in which genomes hardly differ.
MIN_DRIFT = 0.05

# Extra seeds per genome with `--seeds-per-trial auto` (measured by the noisy form of benchmarks/search.py).
EXTRA_SEEDS_PER_GENOME = 0.08

# Half width of an 80 % interval of a normal distribution, in standard deviations.
Z_80_PERCENT = 1.2816

# Seconds for the last generation's file, the report, and the end of the workers.
CLOSING_SECONDS = 2.0

# Bytes of one result in the journal, the generation file and the log.
RESULT_BYTES = 2000

# Bytes of a report.
REPORT_BYTES = 300_000


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

    def with_cost(self, price: float | None) -> "RunForecast":
        """Return the forecast with its cost.

        Args:
            price: Price of an hour of the machine, in any currency; None for no cost.
        """
        if price is None:
            return self
        low, expected, high = (price * (seconds / 3600) for seconds in structs.astuple(self.seconds))
        return structs.replace(self, cost=Bounds(low=low, expected=expected, high=high))


def forecast_run(
    manifest: Manifest, session: SessionSettings, slots: int, clock: Clock | None = None
) -> RunForecast | None:
    """Forecast a run.

    Args:
        manifest: Settings of the run.
        session: Limits and final comparison; the default limit if none is set.
        slots: Number of trainings at once.
        clock: Durations, with the run so far; None before it begins, if no steps were timed.

    Returns:
        The forecast; None without timings while fewer than `MIN_RESULTS` results, or none with a usable time, exist.
    """
    session, clock = session.with_default_limit(), clock or Clock()
    pace, run = clock.pace, clock.run
    outcomes = [] if run is None else list(run.outcomes.items())
    if (pace is None and len(outcomes) < MIN_RESULTS) or not slots:
        return None
    costs = {} if run is None else candidate_costs(run)
    finished_cost = sum(costs[id] for id, _ in outcomes)
    pending_cost = sum(costs.values()) - finished_cost
    finished_genomes = 0 if run is None else sum(run.candidates[id].fresh for id, _ in outcomes)
    has_pending = len(costs) > len(outcomes)

    # The number of trainings: what the limits in trials and in full trainings ask for, if the hours suffice.
    training_seconds, max_genomes = clock.mean_seconds, session.max_genomes(manifest.population)
    cost = genome_cost(manifest, max(1, int(max_genomes) if math.isfinite(max_genomes) else 100))
    # The more genomes the run has trained, the more their own cost counts.
    cost = (cost * manifest.population + finished_cost) / (manifest.population + finished_genomes)
    more_genomes = max_genomes > finished_genomes or has_pending
    records = [] if manifest.patched is UNSET else manifest.patched.patches
    patches = len(records if run is None else run.patches)
    shortest, longest = comparison_seconds(session, training_seconds, slots, patches)
    if run is not None:
        shortest, longest = _remaining_comparison(run, (shortest, longest), training_seconds / slots, more_genomes)
    elapsed = 0.0 if run is None else run.elapsed
    remaining_seconds = math.inf if session.hours is None else max(0.0, session.hours * 3600 - elapsed)
    start = 0.0 if pace is None else pace.start  # until the workers train: they start, and import the evaluator
    if run is not None and run.resumed:
        start = max(0.0, start - (run.elapsed - run.resumed[-1]))
    gap = _seconds_between_trainings(run) * len(outcomes) / finished_cost if run is not None and finished_cost else 0.0
    search_seconds = max(0.0, remaining_seconds - start - (shortest + longest) / 2)
    affordable = search_seconds * slots / (training_seconds + gap) if training_seconds > 0 else math.inf
    # Pending trainings are half done on average.
    by_genomes = max(0.0, (max_genomes - finished_genomes) * cost - pending_cost / 2)
    required = by_genomes
    if session.budget is not None:
        required = min(required, max(0.0, session.budget - finished_cost - pending_cost / 2))
    if run is not None and run.planned is not None:  # only the final comparison remains
        required = 0.0
    trainings = min(required, affordable)
    if not math.isfinite(trainings):
        return None
    genomes = finished_genomes + round(trainings / cost)
    genomes = max(int(max_genomes if trainings == by_genomes else min(genomes, max_genomes)), finished_genomes)

    # The time until the end. At the end of the search, slots wait for the last trainings.
    tail = (1.0 - 1.0 / slots) * training_seconds / 2 if trainings else 0.0
    search = trainings * (training_seconds + gap) / slots + tail
    error = _relative_error(pace, [outcome.seconds for _, outcome in outcomes], trainings)
    if required > affordable:  # the clock ends the run
        half = (longest - shortest) / 2
        low, expected = remaining_seconds - half - tail, remaining_seconds
        high = remaining_seconds + half + CLOSING_SECONDS
    elif not trainings and not longest and not has_pending:  # no worker starts
        low = expected = high = 0.0
    else:
        low = start / 2 + max(0.0, search * math.exp(-Z_80_PERCENT * error) - tail) + shortest
        expected = start + search + (shortest + longest) / 2 + CLOSING_SECONDS
        high = 1.5 * start + search * math.exp(Z_80_PERCENT * error) + tail + longest + 2 * CLOSING_SECONDS
    return RunForecast(
        genomes=genomes,
        full_trainings=trainings,
        seconds_of_each=training_seconds,
        final_comparison=comparison_trainings(session, patches),
        slots=slots,
        seconds=Bounds(low=max(0.0, low), expected=max(0.0, expected), high=max(0.0, high)),
        memory_of_each=None if pace is None else pace.memory or pace.worker or None,
        on_gpu=pace is not None and pace.memory > 0,
        disk=_disk_bytes(manifest, genomes, pace, run),
    )


def _remaining_comparison(
    run: Run, whole: tuple[float, float], saved: float, more_genomes: bool
) -> tuple[float, float]:
    """Return the shortest and the longest time that the final comparison still takes.

    Args:
        run: The run so far.
        whole: Both times of a comparison that has not begun.
        saved: Seconds that each finished training saves.
        more_genomes: Whether the run proposes or trains more genomes, so that the finalists may change.
    """
    if not more_genomes:
        comparison = current_comparison(run)
        if comparison.state(comparison_results(run, comparison)).over:
            return 0.0, 0.0
    done = saved * len(read_comparison(run))
    return max(0.0, whole[0] - done), max(0.0, whole[1] - done)


def _seconds_between_trainings(run: Run) -> float:
    """Return the median seconds of a slot between two trainings: a proposal, and the way to the worker and back."""
    proposed_at, recorded_at = dict(run.proposed_at), dict(run.recorded_at)  # copies: the slots' threads write more
    events = sorted([*proposed_at.values(), *recorded_at.values()])
    later_proposals = [time for id, time in proposed_at.items() if run.reported_before_counts[id]]
    proposing = [time - events[bisect_left(events, time) - 1] for time in later_proposals]
    sending = [time - proposed_at[id] - run.outcomes[id].seconds for id, time in recorded_at.items()]
    return sum(max(0.0, median(seconds)) for seconds in (proposing, sending) if seconds)


def genome_cost(manifest: Manifest, genomes: int) -> float:
    """Return the expected cost of a genome with its promotions and extra seeds, in full trainings.

    Args:
        manifest: Settings of the run, with its rules.
        genomes: Number of genomes in the run (int ≥ 1).
    """
    cost_with_promotions = mean_genome_cost(manifest.settings.rungs, genomes)
    if manifest.settings.seeds_are_automatic:
        return cost_with_promotions + EXTRA_SEEDS_PER_GENOME
    # The leader changes as often as a series of n random numbers has a new record: H(n) times.
    return cost_with_promotions + (manifest.settings.most_seeds - 1) * (math.log(genomes) + 0.577) / genomes


def _relative_error(pace: Pace | None, seconds: Sequence[float], trainings: float) -> float:
    """Return the standard error of the remaining time, as a share of it.

    Args:
        pace: Timed steps, if there are any.
        seconds: Seconds of the finished trainings.
        trainings: Number of remaining trainings.
    """
    count, spread = len(seconds), 0.3
    if count > 1 and fmean(seconds) > 0:
        spread = stdev(seconds) / fmean(seconds)
    elif pace is not None:
        spread = pace.spread
    measurements = max(1, count + (len(pace.seconds) if pace is not None else 0))
    trainings = max(1.0, trainings)
    drift = max(MIN_DRIFT, DRIFT * spread) * math.sqrt(trainings / (trainings + count))
    return math.sqrt(spread**2 / measurements + spread**2 / trainings + drift**2)


def _disk_bytes(manifest: Manifest, genomes: int, pace: Pace | None, run: Run | None) -> float:
    """Return the bytes of the run folder at the end."""
    if run is not None and len(run.outcomes) >= MIN_RESULTS:
        genomes_so_far = sum(candidate.fresh for candidate in run.candidates)
        size = 0  # of all files; links are not followed, and a file that vanishes counts 0
        for parent, _, names in os.walk(run.folder):
            for name in names:
                with suppress(OSError):
                    size += os.lstat(os.path.join(parent, name)).st_size
        return size * max(1.0, genomes / max(1, genomes_so_far)) + REPORT_BYTES
    of_each = float(RESULT_BYTES)
    if pace is not None:
        # Checkpoints stay on disk for promotions that may not come.
        of_each += pace.checkpoint * (1.0 - 1.0 / len(manifest.settings.rungs)) + pace.artifact_bytes
    return genomes * of_each + REPORT_BYTES


# ---------------------------------------------------------------------------------------------------------
# The final comparison


def comparison_trainings(session: SessionSettings, patches: int = 0) -> ComparisonTrainings:
    """Return the number of trainings of a session's final comparison.

    Args:
        session: Number of seeds and finalists.
        patches: Number of patches of the run; the best genome has none to all of them.
    """
    seeds, finalists = session.final_seeds, max(2, session.finalists) if patches else session.finalists
    choosing, looks = 0, final_comparison.default_look_seeds(seeds) if seeds else [0]
    while finalists > 1:
        choosing += math.ceil(seeds / 3) * finalists
        finalists = math.ceil(finalists / 2)
    return ComparisonTrainings(fewest=choosing + 2 * looks[0], most=choosing + (2 + patches) * looks[-1])


def comparison_seconds(
    session: SessionSettings, training_seconds: float, slots: int, patches: int = 0
) -> tuple[float, float]:
    """Return the shortest and the longest time of the final comparison, if all its trainings take equally long.

    Args:
        session: Number of seeds and finalists.
        training_seconds: Seconds of a full training.
        slots: Number of trainings at once.
        patches: Number of patches of the run; the best genome has none to all of them.
    """
    if not session.final_seeds:
        return 0.0, 0.0
    finalists = tuple(range(1, (max(2, session.finalists) if patches else session.finalists) + 1))
    comparison = FinalComparison(finalists, 0, session.final_seeds)
    end_times = comparison_end_times(comparison, lambda id: training_seconds, slots)
    without_patches = math.ceil(patches * comparison.look_seeds[-1] / slots) * training_seconds
    return end_times[0], end_times[-1] + without_patches


def comparison_end_times(
    comparison: FinalComparison,
    seconds: Callable[[int], float],
    slots: int,
    results: Results = MappingProxyType({}),
    busy: Sequence[float] = (),
) -> list[float]:
    """Return the seconds after which a final comparison may end: one value for each look that it still lacks.

    The last value is that of the next look at the patches, if any are to be left out.

    It simulates the order of `FinalComparison.state`. While the finalist is chosen, the default's seeds for the first
    look fill slots that would be idle. At each later look all slots wait for the last training.

    Args:
        comparison: Comparison with at least one seed and one finalist. Open choices fall on the first finalist.
        seconds: Returns the seconds of a training of the genome of a trial.
        slots: Number of trainings at once (int ≥ 1).
        results: Results so far; a running training counts as one.
        busy: Seconds until each running training ends.
    """
    free_at, ready_at = sorted([*busy, *[0.0] * (slots - len(busy))]), max(busy, default=0.0)
    simulated, looks, default = dict(results), comparison.look_seeds, comparison.default
    fillers = deque(final_comparison.missing_trainings(looks[0], [default], simulated))

    def start(training: FreshTraining, earliest: float) -> float:
        """Start a training in the slot that is free first, and return its end."""
        simulated[training] = 0.0
        end = max(heapq.heappop(free_at), earliest) + seconds(training.id)
        heapq.heappush(free_at, end)
        return end

    chosen, missing = comparison.choose(simulated)
    while missing:
        ready_at = max(start(training, ready_at) for training in missing)
        while fillers and free_at[0] < ready_at:
            start(fillers.popleft(), 0.0)
        chosen, missing = comparison.choose(simulated)
    if chosen is None:  # every finalist failed
        return [max(free_at)]
    end_times = []
    for look in looks[:1] if default is None else looks:
        if missing := final_comparison.missing_trainings(look, [default, chosen], simulated):
            # The default's first seeds are needed for any chosen finalist, so these can start at once.
            for training in sorted(missing, key=lambda training: training.id != default):
                start(training, 0.0 if training in fillers else ready_at)
            ready_at = max(free_at)
            end_times.append(ready_at)
    if genes := comparison.patches.get(chosen, ()):
        state = comparison.state(results)
        first_look = final_comparison.missing_trainings(looks[0], [chosen], simulated, ("", *genes))
        if without := state.next_trainings if state.effects else first_look:
            end_times.append(max(start(training, ready_at) for training in without))
    return end_times


# ---------------------------------------------------------------------------------------------------------
# The forecast as text and as data


def forecast_line(forecast: RunForecast | None) -> str:
    """Return a forecast in one line; None: too little is known."""
    if forecast is None:
        return "forecast: available after three trainings"
    low, expected, high = map(show_seconds, structs.astuple(forecast.seconds))
    genomes, comparison = with_plural(forecast.genomes, "genome"), forecast.final_comparison
    if comparison.most:
        fewest = f"{comparison.fewest} to " if comparison.fewest != comparison.most else ""
        genomes += f", {fewest}{comparison.most} trainings of the final comparison"
    parts = [f"forecast: about {expected} ({low} to {high})", genomes]
    if forecast.memory_of_each:
        kind = "GPU memory" if forecast.on_gpu else "memory"
        parts.append(f"{forecast.slots} x {decimal(int(forecast.memory_of_each))} of {kind}")
    parts.append(f"{decimal(int(forecast.disk))} on disk")
    if (cost := forecast.cost) is not None:
        parts.append(f"{cost.expected:.2f} at the given price ({cost.low:.2f} to {cost.high:.2f})")
    return "; ".join(parts)
