"""The training of `evo-tune export`: how long it will take, with how many CPU threads, and its progress in lines.

It knows the run and the evaluator, and nothing of the model that is written.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.cli import shared
from evo_tune.dispatch import Plan, Task, cpu_count, open_slots
from evo_tune.dispatch.devices import CPU
from evo_tune.errors import EvoTuneError
from evo_tune.forecast.timing import TIMING, Timing, time_genomes
from evo_tune.genome.trial import Candidate, Objective
from evo_tune.loop.deadline import own_seconds
from evo_tune.plugins.context import Context
from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
from evo_tune.report.recommendation import fresh_values, reported_objective
from evo_tune.report.summary import run_result, verdict
from evo_tune.store.run import Run

if TYPE_CHECKING:
    from evo_tune.training.prediction.card import Origin

SHORTEST_TO_COMPARE = 60.0
"""Shortest training in seconds for which numbers of threads are compared: the comparison takes some seconds itself."""

SILENCE = 30.0
"""Seconds after which a line is printed if the training has reported nothing."""

PROGRESS_EVERY = 5.0
"""Least seconds between two lines of progress: an evaluator may report after each step."""

WORK = ("seconds", "flops", "tokens", "samples", "steps")
"""Metrics of `estimate` by which trainings of one genome are compared, the best one first."""


@dataclass(frozen=True)
class Pace:
    """How a training is run.

    Args:
        threads: Number of CPU threads.
        seconds: Predicted duration; NaN if unknown.
        reason: Why so many threads, in words.
    """

    threads: int
    seconds: float
    reason: str


def choose_pace(run: Run, bound: BoundEvaluator, candidate: Candidate, planned: Plan, threads: int | None) -> Pace:
    """Choose the threads of a training: those of the run's trials, or all cores if that is measured to be faster.

    Args:
        run: Run with the trial.
        bound: Evaluator with the options of the training.
        candidate: Trial to train again.
        planned: Plan of the slots, with the device of the training.
        threads: Number of threads that the user gives; None for the choice.
    """
    usual, all_cores = run.manifest.threads, cpu_count()
    seconds = _predict_seconds(run, bound, candidate)
    if threads is not None:
        return Pace(threads, seconds, "as in the trial") if threads == usual else Pace(threads, math.nan, "as given")
    trial = Pace(usual, seconds, "as in the trial")
    if (
        planned.slots[0] != CPU
        or all_cores <= usual
        or not seconds >= SHORTEST_TO_COMPARE
        or TIMING not in bound.plugin.supports
    ):
        return trial
    measured = {count: _measure_seconds(bound, candidate, planned, count) for count in (usual, all_cores)}
    count = min(measured, key=lambda one: measured[one])
    if not math.isfinite(measured[count]):
        return trial
    shown = ", ".join(f"{thread_text(one)}: {shared.show_seconds(time)}" for one, time in measured.items())
    return Pace(count, measured[count], f"measured by a few steps; {shown}")


@dataclass(frozen=True)
class Training:
    """The training of a model that is kept.

    Args:
        run: The run.
        bound: Evaluator with the options of the training.
        candidate: The trial whose genome is trained.
        planned: Device of the training.
        pace: How it is trained.
        seed: Seed of the training.
        command: The command, for the model card.
    """

    run: Run
    bound: BoundEvaluator
    candidate: Candidate
    planned: Plan
    pace: Pace
    seed: int
    command: str

    def run_in(self) -> str:
        """Return the device and the predicted duration in words."""
        pace = self.pace
        time = "its duration is unknown" if math.isnan(pace.seconds) else f"about {shared.show_seconds(pace.seconds)}"
        return f"on {self.planned.slots[0].name} with {thread_text(pace.threads)}, {pace.reason}; {time}"

    def write(self, target: Path, scratch: Path, err: bool) -> dict[str, Any]:
        """Train, and write the model with its card; print the progress. Return the metrics.

        Args:
            target: Folder of the model.
            scratch: Folder of the training.
            err: Whether to print on standard error.
        """
        candidate, slot = self.candidate, self.planned.slots[0]
        genome = shared.show_genome(candidate.genome)
        shared.echo(f"training trial {candidate.id} of {self.run.name}: {genome}", err=err)
        shared.echo(self.run_in(), err=err)
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.visible  # before torch is imported
        from evo_tune.training.prediction.card import write_card

        fields = {"device": slot.inside, "threads": self.pace.threads, "seed": self.seed, "folder": scratch}
        context = ProgressContext(self.pace.seconds, self.run.objectives[0], err, **fields)
        with context.lines():
            metrics = self.bound.export(candidate.genome, context, target)
            origin = card_origin(self.run, self.bound.plugin, candidate, self.command)
            write_card(target, origin, metrics, candidate.genome)
        return metrics


def thread_text(count: int) -> str:
    """Return a number of threads in words."""
    return "1 thread" if count == 1 else f"{count} threads"


def _predict_seconds(run: Run, bound: BoundEvaluator, candidate: Candidate) -> float:
    """Return the seconds of a training, from those of the trial and the work of both; NaN if unknown."""
    trial_seconds = own_seconds(run, candidate.id)
    with contextlib.suppress(EvoTuneError):
        trial_work = bound.plugin.bind(run.manifest.options).estimate(candidate.genome)
        work = bound.estimate(candidate.genome)
        for name in WORK:
            if trial_seconds and trial_work.get(name, 0.0) > 0.0 and name in work:
                return trial_seconds * work[name] / trial_work[name]
    return math.nan


def _measure_seconds(bound: BoundEvaluator, candidate: Candidate, planned: Plan, threads: int) -> float:
    """Return the seconds of a training with so many threads, by a few timed steps; infinite if they failed."""
    with tempfile.TemporaryDirectory() as folder:
        task = Task.of(bound, (), Path(folder) / "trials", threads)
        slots = open_slots(task, Plan(planned.slots[:1], threads))
        try:
            rows, _ = time_genomes(slots, [candidate.genome], Timing(folder=Path(folder) / "trials"))
        finally:
            for slot in slots:
                slot.close()
    return rows[0]["seconds"] if 0 in rows else math.inf


def card_origin(run: Run, plugin: Evaluator, candidate: Candidate, command: str) -> Origin:
    """Return what the model card says of a model's run: its final comparison, its baseline and its verdict.

    Args:
        run: The run.
        plugin: Its evaluator.
        candidate: The trial that was trained.
        command: The command that trained it.
    """
    from evo_tune.training.prediction.card import Origin, Result

    metric, results = reported_objective(run).metric, []
    same = candidate.genome == run.candidates[candidate.id].genome
    description = "this genome" if same else f"trial {candidate.id}, the recipe at its size in the search"
    for row in fresh_values(run):
        whose = description if row.id == candidate.id else "the default genome" if row.id == 0 else f"trial {row.id}"
        if row.values:
            error = None if math.isnan(row.error) else row.error
            results.append(Result(metric, row.mean, error, f"{whose}, {len(row.values)} fresh seeds"))
    if run.baseline is not None and metric in run.baseline[1].metrics:
        results.append(Result(metric, run.baseline[1].metrics[metric], None, f"{run.baseline[0]}, the baseline"))
    return Origin(
        run=run.name,
        trial=candidate.id,
        evaluator=plugin.name,
        summary=plugin.summary,
        command=command,
        results=results,
        verdict=verdict(run_result(run)),
    )


class ProgressContext(Context):
    """Context of a training that prints its progress.

    Args:
        expected: Predicted seconds of the training; NaN if unknown.
        objective: Objective whose metric is printed.
        err: Whether to print on standard error.
        fields: Arguments of `Context`.
    """

    def __init__(self, expected: float, objective: Objective, err: bool, **fields: Any) -> None:
        super().__init__(objectives=[objective], **fields)
        self._predicted, self._metric, self._err = expected, objective.metric, err
        self._expected = expected  # from the beginning, with the time that libraries take to load
        self._first: tuple[float, float] | None = None  # the first report: its share, and its seconds
        self._began = self._said = time.monotonic()
        self._due = self._began  # time of the next line of progress

    def report_all(self, fraction: float, metrics: Mapping[str, float], decayed: bool | None = None) -> None:
        super().report_all(fraction, metrics, decayed)
        elapsed = time.monotonic() - self._began
        self._expected = elapsed + self._left(fraction, elapsed)
        if self._began + elapsed < self._due:
            return
        self._due = self._began + elapsed + PROGRESS_EVERY
        value = f"  {self._metric} {shared.show_value(metrics[self._metric])}" if self._metric in metrics else ""
        self._say(f"{fraction:>5.0%}{value}", elapsed)

    def _left(self, fraction: float, elapsed: float) -> float:
        """Return the seconds that are left: by the prediction, then by the pace since the first report."""
        if self._first is None:
            self._first = fraction, elapsed
            known = not math.isnan(self._predicted)
            return (1.0 - fraction) * (self._predicted if known else elapsed / fraction)
        share, began = self._first
        return (1.0 - fraction) * (elapsed - began) / max(fraction - share, 1e-9)

    @contextlib.contextmanager
    def lines(self) -> Iterator[None]:
        """Print a line now and then while the training reports nothing."""
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(SILENCE / 10):
                if time.monotonic() - self._said >= SILENCE:
                    self._say("  ...", time.monotonic() - self._began)

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        finally:
            ended.set()
            teller.join()

    def _say(self, text: str, elapsed: float) -> None:
        self._said = time.monotonic()
        remaining = self._expected - elapsed
        remaining_text = f", about {shared.show_seconds(remaining)} left" if remaining > 0.5 else ""
        shared.echo(f"{text}  {shared.show_seconds(elapsed)}{remaining_text}", err=self._err)
