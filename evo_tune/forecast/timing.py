"""Time ten steps of a few genomes in the slots of the run, to predict the duration of a training.

A timing is no trial: strategies do not see it, and its files are removed. The evaluator times its own steps
(`context.timing`) in a worker, because the parent process never loads torch (law 8).
"""

import itertools
import math
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, geometric_mean, stdev

import numpy as np

from evo_tune.dispatch.slot import NoMachine, Slot, SlotClosed, SlotUnfit
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.genome.values import Genome, genome_key

# Entry in SUPPORTS of an evaluator that can time its steps.
TIMING = "timing"

# Number of timed steps of a genome.
STEPS = 10

# Indices of the corners in `genomes_to_time`.
CORNERS = (1, 2)

# Number of random genomes to time for a forecast, in addition to the default, the middle and two corners.
RANDOM = 6

# Most seconds of the timings; the start of the workers is not included.
MAX_TIMING_SECONDS = 20.0

# Duration of a training, in seconds, up to which only the default is timed, because results will come soon.
QUICK = 1.0

# Seconds between two calls of `watch`.
TICK = 0.2


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
        families: Seconds of a full training of the default genome of each family of models; empty without families.
    """

    seconds: tuple[float, ...]
    corners: tuple[float, ...] = ()
    judging: float = 0.0
    worker: int = 0
    memory: float = 0.0
    checkpoint: float = 0.0
    artifact_bytes: float = 0.0
    start: float = 0.0
    families: tuple[float, ...] = ()

    @property
    def mean_seconds(self) -> float:
        """Expected seconds of a full training in a search: the geometric mean over the space, or that of the families.

        Durations differ by factors, so the few slowest genomes would dominate an arithmetic mean. A search rarely
        trains these, and mostly genomes near the best ones.
        """
        return fmean(self.families) if self.families else geometric_mean(self.seconds)

    @property
    def spread(self) -> float:
        """Standard deviation of the logarithms of the genomes' seconds."""
        return stdev(map(math.log, self.seconds)) if len(self.seconds) > 1 else 0.0


def genomes_to_time(space: SearchSpace, random: int = RANDOM, corners: bool = True) -> list[Genome]:
    """Return the genomes to time: the default, two corners of the space, its middle, and a few random ones.

    The default genomes of all families come before the middle.

    Args:
        space: The search space.
        random: Number of random genomes.
        corners: Whether to include the corners.
    """
    rng, count = np.random.default_rng(0), len(space.genes)
    fixed = (1.0, 0.0, 0.5) if corners else (0.5,)
    points = [np.full(count, unit) for unit in fixed] + [rng.random(count) for _ in range(random)]
    genomes = [space.default(), *(space.snap(point) for point in points)]
    genomes[len(fixed) : len(fixed)] = space.family_defaults()
    return list({genome_key(genome): genome for genome in genomes}.values())


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How genomes are timed.

    Args:
        folder: Folder of the trials' folders; the files of the timings are removed from it.
        watch: Function called about five times a second.
        stopping: Function that returns whether to stop.
        longest: Seconds of all timings without the start of the worker. A timing that would probably end later does not
            begin, except those of the first genomes.
        least: Number of these first genomes.
        quick: Whether to time only the first genome if its training takes less than `QUICK`.
    """

    folder: Path
    watch: Callable[[], None] = lambda: None
    stopping: Callable[[], bool] = lambda: False
    longest: float = MAX_TIMING_SECONDS
    least: int = 1
    quick: bool = True


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
    outcomes: dict[int, Outcome] = {}
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
            for count in itertools.count():  # of the timings in this slot
                elapsed = time.monotonic() - began
                mean_seconds = elapsed / max(1, count)
                with lock:
                    is_late = elapsed + mean_seconds > timing.longest
                    if timing.stopping() or not jobs or (is_late and jobs[0][0] >= timing.least):
                        return
                    number, genome = jobs.popleft()
                outcome = outcomes[number] = measure(slot, number, genome, STEPS)
                if timing.quick and number == 0 and outcome.metrics.get("seconds", math.inf) < QUICK:
                    with lock:
                        jobs.clear()
        except (SlotClosed, SlotUnfit, NoMachine):  # the run reports this error itself
            return

    with ThreadPoolExecutor(max(1, len(slots))) as threads:
        futures = [threads.submit(drive, slot) for slot in slots]
        while not all(future.done() for future in futures):
            time.sleep(TICK / 4)
            timing.watch()
        for future in futures:
            future.result()
    for folder in timing.folder.glob(f"{TIMING}-*"):
        shutil.rmtree(folder, ignore_errors=True)
    ok = sorted((number, outcome.metrics) for number, outcome in outcomes.items() if outcome.status == "ok")
    return {number: {**metrics, "start": max(starts)} for number, metrics in ok}, memory[0]


def pace_of(rows: Mapping[int, Mapping[str, float]], worker: int = 0, corners: Sequence[int] = CORNERS) -> Pace | None:
    """Return the pace from timings; None without a valid timing.

    Args:
        rows: Metrics of each timing (see `docs/evaluators.md`), by its index in `genomes_to_time`.
        worker: Resident memory of a worker in bytes.
        corners: Indices of the corners of the space.
    """
    valid = {number: row for number, row in rows.items() if math.isfinite(row["seconds"]) and row["seconds"] > 0}
    if not valid:
        return None
    typical = tuple(row["seconds"] for number, row in valid.items() if number not in corners)
    extremes = tuple(row["seconds"] for number, row in valid.items() if number in corners)
    names = {"judging": "judging", "checkpoint": "checkpoint", "artifact_bytes": "kept", "start": "start"}
    means = {field: fmean(row.get(name, 0.0) for row in valid.values()) for field, name in names.items()}
    memory = max(row.get("memory", 0.0) for row in valid.values())
    return Pace(typical or extremes, extremes, worker=worker, memory=memory, families=(), **means)
