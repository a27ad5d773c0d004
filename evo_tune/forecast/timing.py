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
from statistics import fmean, geometric_mean, stdev

import numpy as np

from evo_tune.dispatch import NoMachine, Slot, SlotClosed, SlotUnfit
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.genome.values import Genome, genome_key

TIMING = "timing"
"""Entry in SUPPORTS of an evaluator that can time its steps."""

STEPS = 10
"""Number of timed steps of a genome."""

CORNERS = (1, 2)
"""Indices of the corners in `points`."""

RANDOM = 6
"""Number of random genomes to time for a forecast, in addition to the default, the middle and two corners."""

LONGEST = 20.0
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
        kept: Mean bytes that a full training leaves.
        start: Seconds that a worker takes to start and to train its first step; 0 if unknown.
    """

    seconds: tuple[float, ...]
    corners: tuple[float, ...] = ()
    judging: float = 0.0
    worker: int = 0
    memory: float = 0.0
    checkpoint: float = 0.0
    kept: float = 0.0
    start: float = 0.0

    @property
    def usual(self) -> float:
        """Expected seconds of a full training in a search: the geometric mean over the space.

        Durations differ by factors, so the few slowest genomes would dominate an arithmetic mean. A search rarely
        trains these, and mostly genomes near the best ones.
        """
        return geometric_mean(self.seconds)

    @property
    def spread(self) -> float:
        """Standard deviation of the logarithms of the genomes' seconds."""
        return stdev(map(math.log, self.seconds)) if len(self.seconds) > 1 else 0.0

    def longer(self, factor: float) -> Pace:
        """Return the pace of trainings with `factor` times as many steps."""
        share = max(0.0, 1.0 - self.judging / self.usual)
        scale = 1.0 + (factor - 1.0) * share
        return replace(
            self,
            seconds=tuple(seconds * scale for seconds in self.seconds),
            corners=tuple(seconds * scale for seconds in self.corners),
        )


def points(space: SearchSpace, random: int = RANDOM, corners: bool = True) -> list[Genome]:
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
    longest: float = LONGEST
    quick: bool = True


def time_trainings(slots: Sequence[Slot], space: SearchSpace, timing: Timing) -> Pace | None:
    """Time a few steps of a few genomes; return the pace, or None if no timing succeeded.

    Args:
        slots: Open slots; they stay open, with their workers started.
        space: Search space of the genomes.
        timing: How to time them.
    """
    return pace_of(*time_genomes(slots, points(space), timing))


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
        measured: Metrics of each timing (see `docs/evaluators.md`), by its index in `points`.
        worker: Resident memory of a worker in bytes.
        corners: Indices of the corners of the space.
    """
    sound = {at: row for at, row in measured.items() if math.isfinite(row["seconds"]) and row["seconds"] > 0}
    if not sound:
        return None
    rows = list(sound.values())
    typical = tuple(row["seconds"] for at, row in sound.items() if at not in corners)
    extremes = tuple(row["seconds"] for at, row in sound.items() if at in corners)
    mean = {name: fmean(row.get(name, 0.0) for row in rows) for name in ("judging", "checkpoint", "kept", "start")}
    largest = max(row.get("memory", 0.0) for row in rows)
    return Pace(typical or extremes, extremes, worker=worker, memory=largest, **mean)
