"""Final calibration: the best and the default trained again with fresh seeds, outside ids and history (law 10).

The best of many noisy results is partly luck; only seeds that took no part in the search can say by
how much it really beats the default.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from evo_tune.dispatch import Slot
from evo_tune.genome.trial import Candidate, Outcome, Trial
from evo_tune.genome.values import genome_key
from evo_tune.loop.driving import OVER, Fetched, Job
from evo_tune.report.calibration import contenders
from evo_tune.store.events import settled
from evo_tune.store.files import read_calibration, write_calibration
from evo_tune.store.run import Run

__all__ = ["Calibration", "calibration_work", "collect"]


def calibration_seed(run_seed: int, number: int) -> int:
    """Return a seed that no trial of the run has used; the same for every genome, so they are paired."""
    return int(np.random.SeedSequence([run_seed, 2, number]).generate_state(1)[0])


def calibration_work(run: Run, seeds: int) -> list[tuple[Candidate, str]]:
    """Return what is still to be trained: candidates with fresh seeds, and the names of their folders.

    Args:
        run: A run with its trials done.
        seeds: Fresh seeds per genome. A default that nothing has beaten needs none.
    """
    chosen = contenders(run)
    if not seeds or len(chosen) < 2:
        return []
    done = {_key(trial.candidate) for trial in read_calibration(run)}
    wanted = [
        (replace(candidate, seed=calibration_seed(run.manifest.seed, number), resumes=None, stop_if=()), number)
        for number in range(1, seeds + 1)
        for candidate in chosen
    ]
    return [
        (candidate, f"calibration-{candidate.id:06d}-{number}")
        for candidate, number in wanted
        if _key(candidate) not in done
    ]


def _key(candidate: Candidate) -> tuple[str, int]:
    return genome_key(candidate.genome), candidate.seed


def collect(run: Run, candidate: Candidate, outcome: Outcome) -> None:
    """Add one result to the run's calibration file, durably."""
    write_calibration(
        run, [*read_calibration(run), Trial.of(candidate, settled(outcome), -1, run.objectives, run.constraints)]
    )


class Calibration:
    """Gives the trainings out as jobs, and collects what comes of them.

    Args:
        run: A run, open for writing; what is to be trained is settled when the first job is fetched.
        seeds: Fresh seeds per genome.
        lock: The run's.
        stopping: Says whether nothing new is to be begun.
    """

    def __init__(self, run: Run, seeds: int, lock: AbstractContextManager[Any], stopping: Callable[[], bool]) -> None:
        self._run = run
        self._seeds = seeds
        self._lock = lock
        self._stopping = stopping
        self._left: deque[tuple[Candidate, str]] | None = None

    def fetch(self, slot: Slot) -> Fetched:
        """Return the next job, which any slot can do."""
        with self._lock:
            if self._stopping():
                return OVER
            if self._left is None:
                self._left = deque(calibration_work(self._run, self._seeds))
            if not self._left:
                return OVER
            candidate, folder = self._left.popleft()
            return Job(candidate, f"calibration of trial {candidate.id}", folder)

    def take(self, job: Job, outcome: Outcome) -> None:
        """Collect what came of a job."""
        with self._lock:
            collect(self._run, job.candidate, outcome)
