"""The trainings of the final comparison: finalists and default on fresh seeds, with no trial ids, not in the history.

The best of many noisy results is partly luck, so only seeds outside the search show its real gain over the default. The
results on disk decide which trainings are needed (`report.final_comparison`). So a killed comparison continues exactly,
and the trainings do not depend on the number of slots.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

from evo_tune.dispatch.slot import Slot
from evo_tune.genome.trial import Candidate, Outcome, Trial
from evo_tune.loop.deadline import Deadline
from evo_tune.loop.driving import NO_MORE_JOBS, Job, JobOrEnd
from evo_tune.loop.generations import remove_checkpoint
from evo_tune.report.final_comparison import FinalComparison, FreshTraining
from evo_tune.report.recommendation import comparison_results, current_comparison, fresh_seed, genome_without
from evo_tune.store.run import FreshResult, Run
from evo_tune.store.table import unrecorded_comparison, write_comparison


def comparison_jobs(run: Run, comparison: FinalComparison) -> dict[FreshTraining, Job]:
    """Return the next trainings as jobs, which may run at the same time.

    Args:
        run: Run with all trials completed.
        comparison: The final comparison of the run.
    """
    jobs = {}
    for training in comparison.state(comparison_results(run, comparison)).next_trainings:
        seed = fresh_seed(run.manifest.settings.seed, training.seed_number, training.purpose)
        uses_test_set = training.purpose == "report"
        candidate = replace(run.candidates[training.id], seed=seed, resumes=None, stop_if=(), test=uses_test_set)
        title = f"final comparison, trial {training.id}"
        if training.without:
            genome = genome_without(run, training.id, training.without)
            candidate = replace(candidate, genome=genome, code=run.code_of(genome))
            title += f" without {training.without}"
        jobs[training] = Job(candidate, title, _folder_name(training))
    return jobs


def _folder_name(training: FreshTraining) -> str:
    """Return the name of the folder of a training."""
    without = f"-without-{training.without}" if training.without else ""
    return f"comparison-{training.id:06d}-{training.purpose}-{training.seed_number}{without}"


def record_result(run: Run, candidate: Candidate, outcome: Outcome) -> None:
    """Record one result of the run's final comparison, durably, and write its file."""
    # -1: not reported to the strategy.
    trial = Trial.of(candidate, outcome, -1, run.objectives, run.constraints)
    result = FreshResult(trial, run.evaluator_hash, run.fingerprint)
    run.record_fresh(*unrecorded_comparison(run), result)
    write_comparison(run)


class ComparisonJobs:
    """Source of the final comparison's jobs, which also collects their results.

    Args:
        run: Run that is open for writing. The first fetched job fixes its final comparison.
        changed: Lock of the run; notified after each result, and when the run stops.
        stopping: Returns whether no new job may start.
        deadline: Limit in hours: the comparison is smaller if it would not end in time; None for none.
    """

    def __init__(
        self, run: Run, run_lock: threading.Condition, is_stopping: Callable[[], bool], deadline: Deadline | None
    ) -> None:
        self._run = run
        self._run_lock = run_lock
        self._is_stopping = is_stopping
        self._deadline = deadline
        self._comparison: FinalComparison | None = None
        # Beginning of each running training, in seconds of `time.monotonic`.
        self._running: dict[FreshTraining, float] = {}
        # Seconds of the trainings of this session, by trial id.
        self._durations_by_trial: dict[int, list[float]] = {}

    def fetch(self, slot: Slot) -> JobOrEnd:
        """Return the next job, for any slot; None while the next jobs depend on running ones."""
        del slot
        with self._run_lock:
            if self._is_stopping():
                return NO_MORE_JOBS
            self._comparison = self._comparison or current_comparison(self._run)
            if self._jobs():
                self._shrink(self._comparison)
            jobs = self._jobs()  # of the comparison that may be smaller now
            if not jobs:
                return None if self._running else NO_MORE_JOBS
            training, job = next(iter(jobs.items()))
            self._running[training] = time.monotonic()
            return job

    def _jobs(self) -> dict[FreshTraining, Job]:
        """Return the next jobs that are not running."""
        assert self._comparison is not None
        jobs = comparison_jobs(self._run, self._comparison)
        return {training: job for training, job in jobs.items() if training not in self._running}

    def record_outcome(self, job: Job, outcome: Outcome) -> None:
        """Record the outcome of a job."""
        with self._run_lock:
            record_result(self._run, job.candidate, outcome)
            remove_checkpoint(self._run, str(job.folder))
            training = next((training for training in self._running if _folder_name(training) == job.folder), None)
            if training is not None:  # `end_if_late` may have cleared it
                del self._running[training]
                self._durations_by_trial.setdefault(training.id, []).append(outcome.seconds)
            self._run_lock.notify_all()

    def time_is_over(self) -> bool:
        """Return whether the time of the comparison is over, its running trainings included."""
        return self._deadline is not None and self._deadline.remaining <= 0.0

    def end_if_late(self) -> None:
        """Reduce a comparison whose time is over to the trainings that have ended."""
        with self._run_lock:
            if self._comparison is not None and self._deadline is not None and self.time_is_over():
                self._running.clear()  # so that they count as never started
                self._shrink(self._comparison)

    def _shrink(self, comparison: FinalComparison) -> None:
        """Make the comparison smaller, and record that, if its next decision would not be in time."""
        if self._deadline is None or not comparison.finalists:
            return
        now, results = time.monotonic(), comparison_results(self._run, comparison)
        running = {training: now - began for training, began in self._running.items()}
        reduced = self._deadline.largest_in_time(comparison, results, running, self._predicted_seconds)
        if reduced != comparison:
            self._deadline.record(reduced)
            self._comparison = current_comparison(self._run)

    def _predicted_seconds(self, id: int) -> float:
        """Return the predicted seconds of a training: the mean of this genome's, if it was trained here."""
        assert self._deadline is not None
        durations = self._durations_by_trial.get(id)
        return fmean(durations) if durations else self._deadline.clock.repeat_seconds(id)
