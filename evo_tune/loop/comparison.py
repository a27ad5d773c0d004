"""The trainings of the final comparison: finalists and default on fresh seeds, outside ids and history (law 10).

The best of many noisy results is partly luck, so only seeds outside the search show its real gain over the default. The
results on disk decide which trainings are needed (`report.final_comparison`). So a killed comparison continues exactly,
and the trainings do not depend on the number of slots.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from evo_tune.dispatch import Slot
from evo_tune.genome.trial import Candidate, Outcome, Trial
from evo_tune.loop.driving import OVER, Fetched, Job
from evo_tune.report.final_comparison import FinalComparison, FreshTraining
from evo_tune.report.recommendation import comparison_of, fresh_seed, results_of
from evo_tune.store.comparison import read_comparison, write_comparison
from evo_tune.store.events import settled
from evo_tune.store.run import Run


def comparison_jobs(run: Run, comparison: FinalComparison) -> dict[FreshTraining, Job]:
    """Return the next trainings as jobs, which may run at the same time.

    Args:
        run: Run with all trials completed.
        comparison: The final comparison of the run.
    """
    return {one: _job(run, one) for one in comparison.state(results_of(run, comparison)).wanted}


def _job(run: Run, one: FreshTraining) -> Job:
    seed = fresh_seed(run.manifest.settings.seed, one.number, one.purpose)
    tested = one.purpose == "report"
    candidate = replace(run.candidates[one.id], seed=seed, resumes=None, stop_if=(), test=tested)
    return Job(candidate, f"final comparison, trial {one.id}", f"comparison-{one.id:06d}-{one.purpose}-{one.number}")


def collect(run: Run, candidate: Candidate, outcome: Outcome) -> None:
    """Add one result to the run's final comparison file, durably."""
    trial = Trial.of(candidate, settled(outcome), -1, run.objectives, run.constraints)
    write_comparison(run, [*read_comparison(run), trial])


class ComparisonJobs:
    """Source of the final comparison's jobs, which also collects their results.

    Args:
        run: Run that is open for writing. The first fetched job fixes its final comparison.
        changed: Lock of the run; notified after each result, and when the run stops.
        stopping: Returns whether no new job may start.
    """

    def __init__(self, run: Run, changed: threading.Condition, stopping: Callable[[], bool]) -> None:
        self._run = run
        self._changed = changed
        self._stopping = stopping
        self._comparison: FinalComparison | None = None
        self._out: set[str] = set()
        """Folders of the running jobs."""

    def fetch(self, slot: Slot) -> Fetched:
        """Return the next job, for any slot; None while the next jobs depend on running ones."""
        del slot
        with self._changed:
            if self._stopping():
                return OVER
            self._comparison = self._comparison or comparison_of(self._run)
            jobs = [job for job in comparison_jobs(self._run, self._comparison).values() if job.folder not in self._out]
            if not jobs:
                return None if self._out else OVER
            self._out.add(str(jobs[0].folder))
            return jobs[0]

    def take(self, job: Job, outcome: Outcome) -> None:
        """Record the outcome of a job."""
        with self._changed:
            collect(self._run, job.candidate, outcome)
            self._out.discard(str(job.folder))
            self._changed.notify_all()
