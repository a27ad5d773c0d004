"""How long a training takes, by ten timed steps of a few genomes in the slots that will train.

Nothing of it is a trial: no strategy hears of it, and what the timings wrote is removed. The evaluator does the timing
(`context.timing`), in a worker: the parent never loads torch (law 8).
"""

from __future__ import annotations

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

from evo_tune.dispatch import NoMachine, Slot, SlotClosed, SlotUnfit
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.genome.values import Genome, genome_key

__all__ = ["STEPS", "TIMING", "Pace", "pace_of", "points", "time_trainings"]

TIMING = "timing"
"""What an evaluator that can be timed says in SUPPORTS."""

STEPS = 10
"""Steps of each genome that are timed."""

CORNERS = (1, 2)
"""Places of the corners among `points`."""

RANDOM = 6
"""Genomes that are timed beside the default, the middle and two corners of the space."""

LONGEST = 20.0
"""Seconds that timings may take, about, beside the start of the workers."""

QUICK = 1.0
"""Seconds of a training that is too short for more to be timed than the default: a few of them will soon tell."""

TICK = 0.2
"""Seconds between two calls of `watch`."""


@dataclass(frozen=True)
class Pace:
    """What full trainings of a space take.

    Args:
        seconds: Of each genome that was timed, whole and judged: the default's, the middle's, and those at random.
        corners: The same of the space's corners, which say how far it reaches, and nothing of the average.
        judging: Mean of the part of them that does not grow with a training's length.
        worker: Resident memory of a slot's worker, bytes, the largest that was seen; 0 where it is not known.
        memory: Of a GPU, bytes, the largest; 0 on a CPU.
        checkpoint: Bytes that a part of a training leaves to go on from, mean; 0 where it is not told.
        kept: Bytes that a whole training leaves, mean.
    """

    seconds: tuple[float, ...]
    corners: tuple[float, ...] = ()
    judging: float = 0.0
    worker: int = 0
    memory: float = 0.0
    checkpoint: float = 0.0
    kept: float = 0.0

    @property
    def usual(self) -> float:
        """Seconds of a full training that a search comes to train: the geometric mean over the space.

        Genomes differ by factors, and the few that take longest would be most of a plain mean; a search trains one of
        these now and then, and mostly what lies around the genomes that do well.
        """
        return geometric_mean(self.seconds)

    @property
    def spread(self) -> float:
        """How far genomes differ: the standard deviation of the seconds' logarithms."""
        return stdev(map(math.log, self.seconds)) if len(self.seconds) > 1 else 0.0

    def longer(self, factor: float) -> Pace:
        """Return the pace of trainings with so many times the steps."""
        share = max(0.0, 1.0 - self.judging / self.usual)
        scale = 1.0 + (factor - 1.0) * share
        return Pace(
            tuple(seconds * scale for seconds in self.seconds),
            tuple(seconds * scale for seconds in self.corners),
            *(self.judging, self.worker, self.memory, self.checkpoint, self.kept),
        )


def points(space: SearchSpace) -> list[Genome]:
    """Return the genomes to be timed: two corners of the space after the default, its middle, and a few at random."""
    rng, count = np.random.default_rng(0), len(space.genes)
    units = [np.full(count, at) for at in (1.0, 0.0, 0.5)] + [rng.random(count) for _ in range(RANDOM)]
    found = [space.default(), *(space.snap(at) for at in units)]
    return list({genome_key(genome): genome for genome in found}.values())


def time_trainings(
    slots: Sequence[Slot],
    space: SearchSpace,
    folder: Path,
    watch: Callable[[], None] = lambda: None,
    stopping: Callable[[], bool] = lambda: False,
    longest: float = LONGEST,
) -> Pace | None:
    """Time a few steps of a few genomes, all slots at work at once, as they will be.

    Args:
        slots: They are left as they were, their workers started.
        space: Whose genomes.
        folder: Of the trials' folders; what the timings leave there is removed.
        watch: Called about five times a second.
        stopping: Says whether no further genome is to be timed.
        longest: Seconds after which the timing of no further genome is begun, the first one excepted.

    Returns:
        What trainings take; None if no timing came to an end.
    """
    jobs, lock = deque(enumerate(points(space))), threading.Lock()
    done: dict[int, Outcome] = {}
    memory = [0]

    def measure(slot: Slot, number: int, genome: Genome, steps: int) -> Outcome:
        candidate = Candidate(0, 0, 0, 0, genome, TIMING, timing=steps)
        outcome = slot.run(candidate, f"{TIMING}-{slot.name.replace(' ', '-')}-{number}")
        memory[0] = max(memory[0], slot.memory or 0)
        return outcome

    def drive(slot: Slot) -> None:
        try:
            if not slot.available or stopping():
                return
            measure(slot, 0, space.default(), 1)  # a worker's first steps are slower than all others
            began = time.monotonic()
            while not stopping():
                with lock:
                    if not jobs or (jobs[0][0] and time.monotonic() - began > longest):
                        return
                    number, genome = jobs.popleft()
                outcome = done[number] = measure(slot, number, genome, STEPS)
                if number == 0 and outcome.metrics.get("seconds", math.inf) < QUICK:
                    with lock:
                        jobs.clear()
        except (SlotClosed, SlotUnfit, NoMachine):  # the run itself will say so
            return

    with ThreadPoolExecutor(max(1, len(slots))) as threads:
        at_work = [threads.submit(drive, slot) for slot in slots]
        while not all(one.done() for one in at_work):
            time.sleep(TICK / 4)
            watch()
        for one in at_work:
            one.result()
    for left in folder.glob(f"{TIMING}-*"):
        shutil.rmtree(left, ignore_errors=True)
    ok = {number: outcome.metrics for number, outcome in sorted(done.items()) if outcome.status == "ok"}
    return pace_of(ok, memory[0])


def pace_of(measured: Mapping[int, Mapping[str, float]], worker: int = 0) -> Pace | None:
    """Return the pace that timings tell; None without any.

    Args:
        measured: What each told (see `docs/evaluators.md`), by its place among `points`.
        worker: See `Pace`.
    """
    sound = {at: row for at, row in measured.items() if math.isfinite(row["seconds"]) and row["seconds"] > 0}
    if not sound:
        return None
    rows = list(sound.values())
    typical = tuple(row["seconds"] for at, row in sound.items() if at not in CORNERS)
    corners = tuple(row["seconds"] for at, row in sound.items() if at in CORNERS)
    mean = {name: fmean(row.get(name, 0.0) for row in rows) for name in ("judging", "checkpoint", "kept")}
    largest = max(row.get("memory", 0.0) for row in rows)
    return Pace(typical or corners, corners, worker=worker, memory=largest, **mean)
