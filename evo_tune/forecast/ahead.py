"""What is ahead of a run: hours, trainings, memory and disk, with bounds; by timings at first, then by its results.

Pure functions of a manifest, a session, and what was measured. How many trainings there will be is arithmetic where a
limit counts them, and time divided by what one takes where hours do; rungs, replicates, inheritance and the closing
calibration are counted by what they take on the average, and corrected by what the run's genomes are seen to take.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from evo_tune.forecast.race import race_ends, race_trainings
from evo_tune.forecast.timing import Pace
from evo_tune.report.summary import costs
from evo_tune.store.calibration import read_calibration
from evo_tune.store.manifest import Manifest
from evo_tune.store.run import Run
from evo_tune.store.session import Session

__all__ = ["ENOUGH", "Ahead", "ahead", "calibration_seconds", "calibration_trainings", "genome_cost", "size_of"]

ENOUGH = 3
"""Results from which there is a forecast where nothing was timed; timings count for as many."""

DRIFT = 0.5
"""How far what a search comes to prefer may take another time than the space's average, in standard deviations of its
genomes' times."""

LEAST = 0.05
"""The same as a share of the time where genomes hardly differ."""

WORTH = 0.08
"""Further seeds for each genome where they are what is worth it (measured in benchmarks/search.py, noisy form)."""

BOUNDS = 1.2816
"""Standard deviations of an interval that holds four fifths of a normal distribution."""

CLOSING = 2.0
"""Seconds for the last generation's file, the report, and workers that leave."""

ROW = 2000
"""Bytes of a result in journal, generation and log."""

PAGE = 300_000
"""Bytes of a report."""


@dataclass(frozen=True)
class Ahead:
    """A forecast.

    Args:
        genomes: Births in all, those made among them.
        trainings: What is still to be trained for them, in full trainings.
        calibration: Fewest and most trainings of the closing race; both 0 without one.
        seconds: Until the end: a lower bound, the expected, and an upper bound; four fifths lie between the bounds.
        each: Seconds of a full training, mean.
        slots: How many train at once.
        memory: Bytes of one slot's worker, or of its share of a GPU; 0 where nothing is known.
        on_gpu: Whether it is a GPU's.
        disk: Bytes of the run's folder at its end.
    """

    genomes: int
    trainings: float
    calibration: tuple[int, int]
    seconds: tuple[float, float, float]
    each: float
    slots: int
    memory: float
    on_gpu: bool
    disk: float


def calibration_trainings(session: Session) -> tuple[int, int]:
    """Return the fewest and the most trainings of a session's closing race (see `report.racing`); 0 and 0: none."""
    return race_trainings(session.calibrate, session.calibrate_best) if session.calibrate else (0, 0)


def calibration_seconds(session: Session, each: float, slots: int) -> tuple[float, float]:
    """Return the least and the most time that the closing race takes where each training takes as long.

    Args:
        session: Says how many seeds and finalists.
        each: Seconds of a full training.
        slots: That train.
    """
    if not session.calibrate:
        return 0.0, 0.0
    ends = race_ends(session.calibrate, [each] * session.calibrate_best, each, slots)
    return ends[0], ends[-1]


def genome_cost(manifest: Manifest, genomes: int, promoted: float) -> float:
    """Return what a genome takes with all that its rules add, in full trainings, as far as it is known beforehand.

    Args:
        manifest: Has the rules.
        genomes: In all.
        promoted: What it takes with its promotions (see `rules.fidelity.expected_cost`).
    """
    cost = promoted
    if manifest.inherit:
        whole = min(1.0, manifest.population / genomes)
        cost = whole + (1.0 - whole) * (manifest.inherit + 0.25)  # about every fourth is trained from scratch as well
    if manifest.by_worth:
        return cost + WORTH
    # The leader changes as often as a record falls in a series of random numbers: H(n) times.
    return cost + (manifest.replicates - 1) * (math.log(genomes) + 0.577) / genomes


def ahead(
    manifest: Manifest,
    session: Session,
    slots: int,
    promoted: float,
    pace: Pace | None = None,
    run: Run | None = None,
) -> Ahead | None:
    """Forecast a run.

    Args:
        manifest: What is fixed.
        session: Its limits and its calibration; one limit at least.
        slots: That train.
        promoted: What a genome takes with its promotions, in full trainings, as far as it is known beforehand.
        pace: What was timed.
        run: What has come so far; None before it has begun.

    Returns:
        None as long as nothing is known: neither timings nor `ENOUGH` results.
    """
    done = [] if run is None else list(run.outcomes.items())
    if (pace is None and len(done) < ENOUGH) or not slots:
        return None
    seconds = [outcome.seconds for _, outcome in done]
    fresh = 0 if run is None else sum(run.candidates[id].fresh for id, _ in done)
    by_id = {} if run is None else costs(run)
    used = sum(by_id[id] for id, _ in done)
    flying = sum(by_id.values()) - used
    # A search drifts to what it prefers, so the later results say more of what is to come.
    late = done[len(done) // 2 :] if len(done) >= 2 * manifest.population else done
    took, worth = sum(outcome.seconds for _, outcome in late), sum(by_id[id] for id, _ in late)
    # What timings say counts as much as ENOUGH genomes.
    known = ENOUGH if pace is not None else 0
    prior = pace.usual if pace is not None else 0.0
    each = (known * prior + took) / (known + worth) if known + worth > 0 else 0.0
    births = session.births(manifest.population)
    cost = genome_cost(manifest, max(1, int(births) if math.isfinite(births) else 100), promoted)
    # One genome's cost is corrected by what the run's had, once there are enough to tell.
    cost = (cost * manifest.population + used) / (manifest.population + fresh)
    least, most = calibration_seconds(session, each, slots)
    raced = 0 if run is None else len(read_calibration(run)) * each / slots
    race = max(0.0, least - raced), max(0.0, most - raced)
    until = math.inf
    if session.hours is not None:
        until = max(0.0, session.hours * 3600 - (0.0 if run is None else run.elapsed))
    room = max(0.0, until - sum(race) / 2) * slots / each if each > 0 else math.inf
    by_births = max(0.0, (births - fresh) * cost - flying / 2)  # what is in flight is half done, on the average
    wanted = by_births
    if session.budget is not None:
        wanted = min(wanted, max(0.0, session.budget - used - flying / 2))
    trainings = min(wanted, room)
    if not math.isfinite(trainings):
        return None
    tail = (1.0 - 1.0 / slots) * each / 2 if trainings else 0.0
    search = trainings * each / slots + tail
    expected = search + sum(race) / 2 + CLOSING
    error = _error(pace, seconds, trainings)
    low = max(0.0, search * math.exp(-BOUNDS * error) - tail) + race[0]
    high = search * math.exp(BOUNDS * error) + tail + race[1] + 2 * CLOSING
    if wanted > room:  # the clock ends it
        low, expected, high = until - (race[1] - race[0]) / 2 - tail, until, until + (race[1] - race[0]) / 2 + CLOSING
    genomes = fresh + round(trainings / cost)
    made = int(births) if trainings == by_births else min(genomes, births)
    return Ahead(
        genomes=max(int(made), fresh),
        trainings=trainings,
        calibration=calibration_trainings(session),
        seconds=(max(0.0, low), max(0.0, expected), max(0.0, high)),
        each=each,
        slots=slots,
        memory=0.0 if pace is None else pace.memory or pace.worker,
        on_gpu=pace is not None and pace.memory > 0,
        disk=_disk(manifest, int(made), pace, run),
    )


def _error(pace: Pace | None, seconds: list[float], trainings: float) -> float:
    """Return the standard error of what is ahead, as a share of it."""
    count, spread = len(seconds), 0.3
    if count > 1 and fmean(seconds) > 0:
        spread = stdev(seconds) / fmean(seconds)
    elif pace is not None:
        spread = pace.spread
    known = count + (len(pace.seconds) if pace is not None else 0)
    drift = max(LEAST, DRIFT * spread) * math.sqrt(max(1.0, trainings) / (max(1.0, trainings) + count))
    return math.sqrt(spread**2 / max(1, known) + spread**2 / max(1.0, trainings) + drift**2)


def _disk(manifest: Manifest, genomes: int, pace: Pace | None, run: Run | None) -> float:
    if run is not None and len(run.outcomes) >= ENOUGH:
        born = sum(candidate.fresh for candidate in run.candidates)
        return size_of(run.folder) * max(1.0, genomes / max(1, born)) + PAGE
    found = float(genomes * ROW + PAGE)
    if pace is not None:
        left = genomes * (1.0 - 1.0 / len(manifest.fidelity))  # those that wait for a turn that may never come
        weights = manifest.population / 4 if manifest.inherit else 0.0
        found += pace.checkpoint * (left + weights / 3) + pace.kept * genomes
    return found


def size_of(folder: Path) -> int:
    """Return the bytes of all files under a folder; links are not followed, and what vanishes meanwhile counts 0."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(at, name)).st_size
            except OSError:
                continue
    return total
