"""A run as a study in Optuna's journal: what optuna-dashboard and `optuna.load_study` open.

A trial has the number of its candidate, the curve of the first objective as intermediate values, and what else there
is of it as user attributes. What was not trained in full and from scratch is PRUNED, so the study's best is one that
was.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Generator, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.errors import UsageError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.values import Value
from evo_tune.integrations.needed import needing
from evo_tune.integrations.rows import Row, Rows
from evo_tune.store.inflight import Curve
from evo_tune.store.run import Run
from evo_tune.text import one_line

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial

__all__ = ["OptunaJournal"]


class OptunaJournal:
    """The journal that a run's study is in, brought up to the run again and again.

    Args:
        path: The file; other studies may be in it.
        what: As the user wrote it, for errors.

    Raises:
        UsageError: The extra `optuna` is not installed, or the path is no file.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self._what = what
        with needing(what, "optuna"):
            import optuna.storages  # noqa: F401
        if os.path.lexists(path) and not path.is_file():
            raise UsageError(f"{what}: {path} is no file; choose another")

    def update(self, run: Run, flying: Mapping[int, Curve] | None = None) -> None:
        """Write what the study lacks of a run, in one piece and under the journal's own lock.

        Args:
            run: It.
            flying: Curves so far of what has no result yet (see `in_flight`).

        Raises:
            UsageError: The file holds something else, or another run's study of that name.
            OSError: It cannot be written.
        """
        rows = Rows(run, flying)
        with _quiet(), _batch(self.path, self._what) as storage:
            study = self._study(storage, rows)
            known = storage.get_all_trials(study, deepcopy=False)
            for id in range(len(rows)):
                if id >= len(known):
                    storage.create_new_trial(study, _trial(rows, rows.row(id)))
                elif id in run.outcomes and not known[id].state.is_finished():
                    _finish(storage, known[id]._trial_id, _fields(rows, rows.row(id)))
                elif id in rows.flying:
                    _go_on(storage, known[id], rows.told(rows.row(id)))

    def _study(self, storage: JournalStorage, rows: Rows) -> int:
        """Return the id of the run's study, made if it is not there."""
        from optuna.study import StudyDirection

        facts = rows.facts
        for study in storage.get_all_studies():
            if study.study_name == rows.name:
                if study.user_attrs.get("identity") != facts["identity"]:
                    raise UsageError(
                        f"{self._what}: {self.path} holds another study {rows.name!r} already; choose another file"
                    )
                return int(study._study_id)
        made = int(storage.create_new_study([StudyDirection[name] for name in rows.directions], rows.name))
        storage.set_study_system_attr(made, "study:metric_names", rows.objectives)  # as Study.set_metric_names does
        for name, value in facts.items():
            storage.set_study_user_attr(made, name, value)
        return made


def _trial(rows: Rows, row: Row) -> FrozenTrial:
    from optuna.trial import FrozenTrial, TrialState

    fields = _fields(rows, row)
    if row.state == "open" and rows.run.ended is not None:  # trained when the run goes on
        fields |= {"state": TrialState.WAITING, "datetime_start": None}
    kinds = {rows.genes[name]: _distribution(gene) for name, gene in rows.run.genes.items()}
    params = {name: _param(kinds[name], value) for name, value in row.genome.items()}
    return FrozenTrial(number=row.id, trial_id=-1, value=None, params=params, distributions=kinds, **fields)


def _fields(rows: Rows, row: Row) -> dict[str, Any]:
    """Return the fields of Optuna's trial, but for its parameters."""
    from optuna.trial import TrialState

    states = {"open": TrialState.RUNNING, "whole": TrialState.COMPLETE, "failed": TrialState.FAIL}
    told, values = rows.told(row), row.values
    if row.state == "pruned" and told and len(rows.objectives) == 1:  # as Study.tell has it
        values = (told[max(told)],)
    return {
        "state": states.get(row.state, TrialState.PRUNED),
        "values": None if values is None else list(values),
        "intermediate_values": told,
        "user_attrs": {**row.facts, **{f"metric {name}": value for name, value in row.metrics.items()}},
        "system_attrs": {"constraints": [row.facts["violation"]]} if "violation" in row.facts else {},
        "datetime_start": datetime.fromtimestamp(row.began),
        "datetime_complete": None if row.ended is None else datetime.fromtimestamp(row.ended),
    }


def _finish(storage: JournalStorage, trial: int, fields: dict[str, Any]) -> None:
    for step, value in fields["intermediate_values"].items():
        storage.set_trial_intermediate_value(trial, step, value)
    for name, value in fields["user_attrs"].items():
        storage.set_trial_user_attr(trial, name, value)
    for name, value in fields["system_attrs"].items():
        storage.set_trial_system_attr(trial, name, value)
    storage.set_trial_state_values(trial, fields["state"], fields["values"])


def _go_on(storage: JournalStorage, trial: FrozenTrial, told: dict[int, float]) -> None:
    """Add to a training's curve what it has reported meanwhile."""
    for step in told.keys() - trial.intermediate_values.keys():
        storage.set_trial_intermediate_value(trial._trial_id, step, told[step])


def _distribution(gene: Gene) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(gene, Float):
        return FloatDistribution(gene.low, gene.high, log=gene.log)
    if isinstance(gene, Int):
        return IntDistribution(gene.low, gene.high, log=gene.log, step=gene.step)
    assert isinstance(gene, Choice)
    values = [one_line(value) if isinstance(value, str) else value for value in gene.values]
    if len(set(values)) < len(values):  # for Optuna 1, 1.0 and True are one
        values = [one_line(repr(value)) for value in gene.values]
    return CategoricalDistribution(values)


def _param(kind: BaseDistribution, value: Value) -> Value:
    """Return a value as its distribution has it: where choices are told apart by their text only, as that."""
    choices = getattr(kind, "choices", None)
    as_it_is = choices is None or any(value == one and type(value) is type(one) for one in choices)
    return value if as_it_is else one_line(repr(value))


@contextlib.contextmanager
def _batch(path: Path, what: str) -> Iterator[JournalStorage]:
    """Optuna's storage over a journal, locked meanwhile; what is written lies in the file at the end, or none of it.

    Each operation by itself would wait for the disk, and a reader could see a trial without its curve.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileSymlinkLock

    class Held(JournalFileSymlinkLock):
        """The lock that is held already."""

        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            pass

    class Batch(BaseJournalBackend):
        def __init__(self) -> None:
            self.file = JournalFileBackend(str(path), Held(str(path)))
            self.before = sum(1 for _ in self.file.read_logs(0))
            with open(path, "rb") as lines:
                if sum(1 for _ in lines) != self.before:  # Optuna passes over a last line that it does not understand
                    raise ValueError("its last line is none of a journal")
            self.more: list[dict[str, Any]] = []

        def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
            if log_number_from < self.before:
                yield from self.file.read_logs(log_number_from)
            yield from self.more[max(0, log_number_from - self.before) :]

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            self.more += [json.loads(json.dumps(log)) for log in logs]

    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        try:
            batch = Batch()
            storage = JournalStorage(batch)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{what}: {path} is no journal of Optuna's ({one_line(str(error), 100)}); choose another file"
            ) from None
        yield storage
        if batch.more:
            batch.file.append_logs(batch.more)
    finally:
        lock.release()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's own remarks, on what is written with intent, switched off."""
    log = logging.getLogger("optuna")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
