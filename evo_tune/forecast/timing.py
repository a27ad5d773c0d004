"""Time ten steps of a few genomes in the slots of the run, to predict the duration of a training.

A timing is no trial: strategies do not see it, and its files are removed. The evaluator times its own steps
(`context.timing`) in a worker, because the parent process never loads torch (law 8).
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, geometric_mean, median, stdev

import numpy as np

from evo_tune.dispatch import NoMachine, Slot, SlotClosed, SlotUnfit
from evo_tune.errors import EvoTuneError
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.genome.values import Genome, genome_key
from evo_tune.report.summary import training_share
from evo_tune.store.run import Run

TIMING = "timing"
"""Entry in SUPPORTS of an evaluator that can time its steps."""

STEPS = 10
"""Number of timed steps of a genome."""

CORNERS = (1, 2)
"""Indices of the corners in `genomes_to_time`."""

RANDOM = 6
"""Number of random genomes to time for a forecast, in addition to the default, the middle and two corners."""

MAX_TIMING_SECONDS = 20.0
"""Seconds after which no new timing begins; the start of the workers is not included."""

QUICK = 1.0
"""Duration of a training, in seconds, up to which only the default is timed, because results will come soon."""

TICK = 0.2
"""Seconds between two calls of `watch`."""


@dataclass(frozen=True)
class Pace:
    """Time, memory and disk of full trainings in a space.

    Args:
        seconds: Seconds of a full training, evaluations included, of the default, the middle and the random genomes.
        corners: Seconds of a full training at the corners of the space. They show the range and are not averaged.
        judging: Mean part of these seconds that does not grow with the length of the training.
        worker: Largest resident memory of a worker in bytes; 0 if unknown.
        memory: Largest memory on a GPU in bytes; 0 on a CPU.
        checkpoint: Mean bytes that a partial training leaves for its promotion; 0 if unknown.
        artifact_bytes: Mean bytes that a full training leaves.
        start: Seconds that a worker takes to start and to train its first step; 0 if unknown.
    """

    seconds: tuple[float, ...]
    corners: tuple[float, ...] = ()
    judging: float = 0.0
    worker: int = 0
    memory: float = 0.0
    checkpoint: float = 0.0
    artifact_bytes: float = 0.0
    start: float = 0.0

    @property
    def mean_seconds(self) -> float:
        """Expected seconds of a full training in a search: the geometric mean over the space.

        Durations differ by factors, so the few slowest genomes would dominate an arithmetic mean. A search rarely
        trains these, and mostly genomes near the best ones.
        """
        return geometric_mean(self.seconds)

    @property
    def spread(self) -> float:
        """Standard deviation of the logarithms of the genomes' seconds."""
        return stdev(map(math.log, self.seconds)) if len(self.seconds) > 1 else 0.0

    def with_more_steps(self, factor: float) -> Pace:
        """Return the pace of trainings with `factor` times as many steps."""
        share = max(0.0, 1.0 - self.judging / self.mean_seconds)
        scale = 1.0 + (factor - 1.0) * share
        return replace(
            self,
            seconds=tuple(seconds * scale for seconds in self.seconds),
            corners=tuple(seconds * scale for seconds in self.corners),
        )


def genomes_to_time(space: SearchSpace, random: int = RANDOM, corners: bool = True) -> list[Genome]:
    """Return the genomes to time: the default, two corners of the space, its middle, and a few random ones.

    Args:
        space: The search space.
        random: Number of random genomes.
        corners: Whether to include the corners.
    """
    rng, count = np.random.default_rng(0), len(space.genes)
    fixed = (1.0, 0.0, 0.5) if corners else (0.5,)
    units = [np.full(count, at) for at in fixed] + [rng.random(count) for _ in range(random)]
    found = [space.default(), *(space.snap(at) for at in units)]
    return list({genome_key(genome): genome for genome in found}.values())


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How genomes are timed.

    Args:
        folder: Folder of the trials' folders; the files of the timings are removed from it.
        watch: Function called about five times a second.
        stopping: Function that returns whether to stop.
        longest: Seconds after which no timing begins, except that of the first genome.
        quick: Whether to time only the first genome if its training takes less than `QUICK`.
    """

    folder: Path
    watch: Callable[[], None] = lambda: None
    stopping: Callable[[], bool] = lambda: False
    longest: float = MAX_TIMING_SECONDS
    quick: bool = True


def time_trainings(slots: Sequence[Slot], space: SearchSpace, timing: Timing) -> Pace | None:
    """Time a few steps of a few genomes; return the pace, or None if no timing succeeded.

    Args:
        slots: Open slots; they stay open, with their workers started.
        space: Search space of the genomes.
        timing: How to time them.
    """
    return pace_of(*time_genomes(slots, genomes_to_time(space), timing))


def time_genomes(
    slots: Sequence[Slot], genomes: Sequence[Genome], timing: Timing
) -> tuple[dict[int, Mapping[str, float]], int]:
    """Time a few steps of genomes, with all slots at work as in a run.

    Args:
        slots: Open slots; they stay open, with their workers started.
        genomes: Genomes to time, the most important one first.
        timing: How to time them.

    Returns:
        The metrics of each timing that succeeded and the seconds of the slowest start ("start"), by the index of its
        genome, and the largest memory of a worker in bytes.
    """
    jobs, lock = deque(enumerate(genomes)), threading.Lock()
    done: dict[int, Outcome] = {}
    memory, starts = [0], [0.0]

    def measure(slot: Slot, number: int, genome: Genome, steps: int) -> Outcome:
        candidate = Candidate(0, 0, 0, 0, genome, TIMING, timing=steps)
        outcome = slot.run(candidate, f"{TIMING}-{slot.name.replace(' ', '-')}-{number}")
        memory[0] = max(memory[0], slot.memory or 0)
        return outcome

    def drive(slot: Slot) -> None:
        try:
            if not slot.available or timing.stopping():
                return
            opened = time.monotonic()
            measure(slot, 0, genomes[0], 1)  # warm-up, because the first steps of a worker are slow
            began = time.monotonic()
            starts.append(began - opened)
            while not timing.stopping():
                with lock:
                    if not jobs or (jobs[0][0] and time.monotonic() - began > timing.longest):
                        return
                    number, genome = jobs.popleft()
                outcome = done[number] = measure(slot, number, genome, STEPS)
                if timing.quick and number == 0 and outcome.metrics.get("seconds", math.inf) < QUICK:
                    with lock:
                        jobs.clear()
        except (SlotClosed, SlotUnfit, NoMachine):  # the run reports this error itself
            return

    with ThreadPoolExecutor(max(1, len(slots))) as threads:
        at_work = [threads.submit(drive, slot) for slot in slots]
        while not all(one.done() for one in at_work):
            time.sleep(TICK / 4)
            timing.watch()
        for one in at_work:
            one.result()
    for left in timing.folder.glob(f"{TIMING}-*"):
        shutil.rmtree(left, ignore_errors=True)
    sound: dict[int, Mapping[str, float]] = {
        number: {**outcome.metrics, "start": max(starts)}
        for number, outcome in sorted(done.items())
        if outcome.status == "ok"
    }
    return sound, memory[0]


def pace_of(
    measured: Mapping[int, Mapping[str, float]], worker: int = 0, corners: Sequence[int] = CORNERS
) -> Pace | None:
    """Return the pace from timings; None without a valid timing.

    Args:
        measured: Metrics of each timing (see `docs/evaluators.md`), by its index in `genomes_to_time`.
        worker: Resident memory of a worker in bytes.
        corners: Indices of the corners of the space.
    """
    sound = {at: row for at, row in measured.items() if math.isfinite(row["seconds"]) and row["seconds"] > 0}
    if not sound:
        return None
    rows = list(sound.values())
    typical = tuple(row["seconds"] for at, row in sound.items() if at not in corners)
    extremes = tuple(row["seconds"] for at, row in sound.items() if at in corners)
    judging, checkpoint, artifacts, start = (
        fmean(row.get(name, 0.0) for row in rows) for name in ("judging", "checkpoint", "kept", "start")
    )
    largest = max(row.get("memory", 0.0) for row in rows)
    return Pace(
        typical or extremes,
        extremes,
        judging=judging,
        worker=worker,
        memory=largest,
        checkpoint=checkpoint,
        artifact_bytes=artifacts,
        start=start,
    )


# Predicted durations of single trainings

ESTIMATED_SECONDS = "seconds"
"""Metric in which `estimate` predicts the seconds of a full training."""

LATEST = 24
"""Number of latest trainings that are used."""

LIKE = 5
"""Number of the most similar of these that predict the duration of a genome, if the evaluator predicts none."""

NEAR = 2.0
"""Largest ratio of the shares of two trainings of which one predicts the other, if there are such trainings.

A start, a checkpoint and an evaluation cost a short training relatively more."""


class Durations:
    """Predicted durations of the trainings of a run, from its results so far.

    Args:
        run: Run with its results.
        space: Present space of the run.
        estimate: Function that returns the metrics of a genome that are known before its training.
        pace: Times of a few steps, if they were measured; they predict until `LIKE` trainings have ended.
    """

    def __init__(
        self, run: Run, space: SearchSpace, estimate: Callable[[Genome], Mapping[str, float]], pace: Pace | None
    ) -> None:
        self._space, self._estimate, self._pace = space, estimate, pace
        shares = {id: training_share(run, run.candidates[id]) for id in run.recorded if run.outcomes[id].metrics}
        ids = [id for id, share in shares.items() if share > 0][-LATEST:]
        self._shares = np.array([shares[id] for id in ids])
        self._seconds = np.array([run.outcomes[id].seconds for id in ids])
        self._genomes = [run.candidates[id].genome for id in ids]
        self._units = np.array([space.encode(genome) for genome in self._genomes]).reshape(len(ids), len(space.genes))
        self._known = np.array([self._estimated(genome) for genome in self._genomes])

    def seconds_range(self, genome: Genome) -> tuple[float, float]:
        """Return the shortest and the longest seconds that a genome's full training may take; 0 if nothing is known."""
        found = self._of(genome, 1.0) or [0.0]
        return found[0], found[-1]

    def expected_seconds(self, genome: Genome, share: float = 1.0) -> float:
        """Return the expected seconds of a share of a genome's training; 0 if nothing is known."""
        found = self._of(genome, share)
        return median(found) if found else 0.0

    @property
    def longest(self) -> float:
        """Longest seconds of a full training so far; 0 if nothing is known."""
        timed = () if self._pace is None else (*self._pace.seconds, *self._pace.corners)
        return float(max([*(self._seconds / self._shares), *timed], default=0.0))

    @property
    def mean_seconds(self) -> float:
        """Mean seconds of a full training; 0 if nothing is known."""
        if not len(self._seconds):
            return self._pace.mean_seconds if self._pace is not None else 0.0
        near = self._near(1.0)
        return float(np.mean(self._seconds[near] / self._shares[near]))

    def _of(self, genome: Genome, share: float) -> list[float]:
        """Return what a share of a genome's training may take, in seconds, increasing."""
        near = self._near(share)
        predicted = self._estimated(genome)
        if not math.isnan(predicted):
            near = near[np.isfinite(self._known[near])]
            ratios = self._seconds[near] / (self._shares[near] * self._known[near]) if len(near) else np.ones(1)
            return sorted((share * predicted * ratios).tolist())
        far = np.abs(self._units[near] - self._space.encode(genome)).sum(axis=1)
        like = near[np.argsort(far, kind="stable")[:LIKE]]
        found = (share * self._seconds[like] / self._shares[like]).tolist()
        if self._pace is not None and len(found) < LIKE:
            found += [self._pace.judging + (each - self._pace.judging) * share for each in self._pace.seconds]
        return sorted(found)

    def _near(self, share: float) -> np.ndarray:
        """Return the places of the trainings of about this share; of all trainings if there are none."""
        far = np.abs(np.log(self._shares / share))
        near = np.flatnonzero(far <= math.log(NEAR) + 1e-9)
        return near if len(near) else np.arange(len(far))

    def _estimated(self, genome: Genome) -> float:
        """Return the seconds of a full training as the evaluator predicts them; NaN if it does not."""
        try:
            found = float(self._estimate(genome).get(ESTIMATED_SECONDS, math.nan))
        except EvoTuneError:  # the training reports the same error
            return math.nan
        return found if 0.0 < found < math.inf else math.nan
