"""The types that print a run with `--format json` or `jsonl`.

docs/json.md is generated from the docstrings, see `cli/formats.py`.
"""

from __future__ import annotations

import time

from msgspec import Struct, field

from evo_tune.cli import formats
from evo_tune.forecast import RunForecast
from evo_tune.genome.values import Genome, Metrics, Value
from evo_tune.report.data import RunSummary, TrialSummary
from evo_tune.store.heartbeat import SlotWork


class PlannedRun(Struct, forbid_unknown_fields=True, kw_only=True):
    """A run that was not started (`--dry-run`).

    Args:
        evaluator: Name of the evaluator.
        slots: Number of trainings at the same time.
        device: Device of the slots.
        options: Options of the evaluator, by name. Unit: the option's.
        seconds_timed: Durations of full trainings, from timed steps; null if steps cannot be timed. Unit: s.
        forecast: Forecast of the run; null if nothing can be predicted before trainings have ended.
    """

    evaluator: str
    slots: int
    device: str
    options: dict[str, Value | None]
    seconds_timed: tuple[float, ...] | None
    forecast: RunForecast | None


class RunStatus(Struct, forbid_unknown_fields=True, kw_only=True):
    """The present state of a run.

    Args:
        run: Name of the run.
        state: Whether it is running, has ended or was killed, in words.
        running: Whether the run gave a recent sign of life.
        proposed: Number of proposed trials.
        results: Number of trials with a result.
        failed: Number of results that failed.
        pruned: Number of trainings that were stopped early.
        best: Best trial so far.
        seconds_since_last_event: Time since the last write to the journal. Unit: s.
        forecast: Forecast of the whole run; null if it is not running, or too little is known.
        slots: Work of each slot; empty if the run is not running.
    """

    run: str
    state: str
    running: bool
    proposed: int
    results: int
    failed: int
    pruned: int
    best: TrialSummary | None
    seconds_since_last_event: float
    forecast: RunForecast | None
    slots: tuple[SlotWork, ...]


def _now() -> float:
    return round(time.time(), 3)


class _Event(Struct, tag_field="event", forbid_unknown_fields=True, kw_only=True):
    time: float = field(default_factory=_now)


class Begin(_Event, tag="begin", kw_only=True):
    """The first line: the run exists, and its slots are being opened.

    Args:
        run: Name of the run.
        folder: Folder of the run.
        evaluator: Evaluator as the run names it.
        strategy: Strategy, by name or file.
        objectives: METRIC:min or METRIC:max.
        seed: Seed of the run.
        proposed: Number of trials of earlier sessions; they are not repeated.
        results: Number of those trials that have a result.
    """

    run: str
    folder: str
    evaluator: str
    strategy: str
    objectives: list[str]
    seed: int
    proposed: int
    results: int


class Proposed(_Event, tag="proposed", kw_only=True):
    """A trial was proposed.

    Args:
        id: Number of the trial in the run, from 0.
        generation: Number of its generation, from 0.
        operator: Operator that made the genome.
        parents: Trials from which the genome was made.
        genome: Values of the genes, by name.
        budget: Share of a full training at which it stops. Unit: full trainings.
        resumes: Trial whose training it continues.
        extra_seed: Number of the extra seed; 0: the first seed of the genome.
    """

    id: int
    generation: int
    operator: str
    parents: tuple[int, ...]
    genome: Genome
    budget: float
    resumes: int | None
    extra_seed: int


class Widened(_Event, tag="widened", kw_only=True):
    """A gene has a wider range for all later trials.

    Args:
        gene: Name of the gene.
        range: Its new range.
        reason: Why the run widened it.
    """

    gene: str
    range: str
    reason: str


class Result(formats.TrainingResult, tag_field="event", tag="result", kw_only=True):
    """The result of a trial is on disk.

    Args:
        time: Time at which the line was printed. Unit: seconds since 1970.
        id: Number of the trial.
    """

    time: float = field(default_factory=_now)
    id: int


class NewBest(_Event, tag="best", kw_only=True):
    """Another trial is the best; the event follows its result.

    Args:
        id: Number of the trial.
        metric: Metric of the first objective.
        value: Its value, the mean if the genome was trained with several seeds. Unit: the metric's.
    """

    id: int
    metric: str
    value: float


class Fresh(_Event, tag="fresh", kw_only=True):
    """A training of the final comparison has ended.

    Args:
        id: Trial whose genome was trained.
        seed: Seed of the training.
        status: ok, or the kind of failure.
        metrics: Values by name; null if not finite. Unit: the metric's.
        seconds: Duration of the training. Unit: s.
        error: Cause of the failure, in one line.
    """

    id: int
    seed: int
    status: str
    metrics: Metrics
    seconds: float
    error: str | None


class Stopping(_Event, tag="stopping", kw_only=True):
    """No further training will start, after Ctrl-C, SIGTERM, SIGHUP or an error that is reported at the end."""


class End(RunSummary, tag_field="event", tag="end", kw_only=True):
    """The last line: the state of the run. If it is missing, standard error has the reason.

    Args:
        time: Time at which the line was printed. Unit: seconds since 1970.
        exit_code: Exit code of the command.
    """

    time: float = field(default_factory=_now)
    exit_code: int
