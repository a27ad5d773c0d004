"""`--format jsonl`: the events of a session as they happen, one JSON object a line on standard output.

The stream polls the run, as the live table does, so a reader that is slow or gone does not hold the run up. All other
output goes to standard error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field, structs

from evo_tune.cli import _shared as shared
from evo_tune.cli.formats import TrainingResult
from evo_tune.genome.trial import Trial
from evo_tune.genome.values import Genome
from evo_tune.report.data import Metrics, RunSummary
from evo_tune.store.calibration import CALIBRATION, read_calibration

if TYPE_CHECKING:
    from evo_tune.loop.search import Search

__all__ = ["EVENTS", "Stream"]


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
        births: Number of trials of earlier sessions; they are not repeated.
        results: Number of those trials that have a result.
    """

    run: str
    folder: str
    evaluator: str
    strategy: str
    objectives: list[str]
    seed: int
    births: int
    results: int


class Born(_Event, tag="born", kw_only=True):
    """A trial was proposed.

    Args:
        id: Number of the trial in the run, from 0.
        generation: Number of its generation, from 0.
        operator: Operator that made the genome.
        parents: Trials from which the genome was made.
        genome: Values of the genes, by name.
        budget: Share of a full training at which it stops. Unit: full trainings.
        resumes: Trial whose training it continues.
        replicate: Number of its seed; the first seed of a genome is 0.
    """

    id: int
    generation: int
    operator: str
    parents: tuple[int, ...]
    genome: Genome
    budget: float
    resumes: int | None
    replicate: int


class Result(TrainingResult, tag_field="event", tag="result", kw_only=True):
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
    """No further training will start, after Ctrl-C, SIGTERM or an error that is reported at the end."""


class End(RunSummary, tag_field="event", tag="end", kw_only=True):
    """The last line: the state of the run. If it is missing, standard error has the reason.

    Args:
        time: Time at which the line was printed. Unit: seconds since 1970.
        exit_code: Exit code of the command.
    """

    time: float = field(default_factory=_now)
    exit_code: int


EVENTS = Begin | Born | Result | NewBest | Fresh | Stopping | End
"""Types of the lines."""


class Stream:
    """The events of one session.

    Args:
        search: Run before the session starts; its earlier events are not repeated.
    """

    def __init__(self, search: Search) -> None:
        self._births = len(search.saved.candidates)
        self._results = len(search.saved.outcomes)
        self._compared = {_fresh_key(trial) for trial in read_calibration(search.saved)}
        self._written = _written(search)
        self._best = None if search.saved.leader is None else search.saved.leader.id
        self._begun = self._stopping = False

    def look(self, search: Search) -> None:
        """Print the events since the last look."""
        for event in self._since(search):
            shared.print_json(event, line=True)

    def end(self, summary: RunSummary, code: int) -> None:
        """Print the last line."""
        shared.print_json(End(**structs.asdict(summary), exit_code=code), line=True)

    def _since(self, search: Search) -> Iterator[Struct]:
        run = search.saved
        if not self._begun:
            self._begun = True
            yield Begin(
                run=run.name,
                folder=str(run.folder),
                evaluator=run.manifest.evaluator,
                strategy=run.manifest.strategy,
                objectives=run.manifest.objectives,
                seed=run.manifest.seed,
                births=self._births,
                results=self._results,
            )
        recorded, births = list(run.recorded), list(run.candidates)
        for candidate in births[self._births :]:
            yield from self._recorded(search, recorded[: run.told_at_birth[candidate.id]])  # results it was proposed by
            self._births += 1
            yield Born(
                id=candidate.id,
                generation=candidate.generation,
                operator=candidate.operator,
                parents=candidate.parents,
                genome=candidate.genome,
                budget=candidate.budget,
                resumes=candidate.resumes,
                replicate=candidate.replicate,
            )
        yield from self._recorded(search, recorded)
        leader = run.leader
        if leader is not None and leader.id != self._best:
            self._best = leader.id
            metric = run.objectives[0].metric
            yield NewBest(id=leader.id, metric=metric, value=leader.outcome.metrics[metric])
        yield from self._fresh(search)
        if search.stopping and not self._stopping:
            self._stopping = True
            yield Stopping()

    def _recorded(self, search: Search, ids: list[int]) -> Iterator[Result]:
        for id in ids[self._results :]:
            self._results += 1
            outcome = search.saved.outcomes[id]
            known: dict[str, Any] = {name: getattr(outcome, name) for name in TrainingResult.__struct_fields__}
            yield Result(id=id, **known)

    def _fresh(self, search: Search) -> Iterator[Fresh]:
        written = _written(search)
        if written == self._written:
            return
        self._written = written
        for trial in read_calibration(search.saved):
            if (key := _fresh_key(trial)) not in self._compared:
                self._compared.add(key)
                outcome = trial.outcome
                yield Fresh(
                    id=trial.id,
                    seed=trial.candidate.seed,
                    status=outcome.status,
                    metrics=dict(outcome.metrics),
                    seconds=outcome.seconds,
                    error=outcome.error,
                )


def _fresh_key(trial: Trial) -> tuple[int, int]:
    return trial.id, trial.candidate.seed


def _written(search: Search) -> int:
    """Return the time of the last write to the file of the final comparison; 0 if there is none."""
    try:
        return (search.saved.folder / CALIBRATION).stat().st_mtime_ns
    except OSError:
        return 0
