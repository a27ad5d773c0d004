"""Write a run as a study into an Optuna journal, which optuna-dashboard and `optuna.load_study` open.

A trial has the number of its candidate. The learning curve of the first objective becomes intermediate values, and all
other data user attributes. Trials that are no full training are PRUNED, so the best trial of the study is one that is.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.errors import UsageError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.values import Value
from evo_tune.integrations import quiet, require_extra
from evo_tune.integrations.rows import Row, Rows
from evo_tune.store.heartbeat import Curve
from evo_tune.store.run import Run
from evo_tune.text import one_line

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial


class OptunaJournal:
    """Journal with the study of a run.

    Args:
        path: File, which may contain other studies.
        what: Flag that the user wrote, for errors.

    Raises:
        UsageError: The extra `optuna` is not installed, or the path is not a file.
    """

    def __init__(self, path: Path, flag: str) -> None:
        self.path = path
        self._what = flag
        with require_extra(flag, "optuna"):
            import optuna.storages  # noqa: F401
        if os.path.lexists(path) and not path.is_file():
            raise UsageError(f"{flag}: {path} is no file; choose another")

    def update(self, run: Run, flying: Mapping[int, Curve] | None = None) -> None:
        """Write the parts of a run that the study lacks, at once and under the journal's lock.

        Args:
            run: The run.
            flying: Learning curves of pending trials by id (see `in_flight`).

        Raises:
            UsageError: The file is no journal, or has the study of another run of this name.
            OSError: The file cannot be written.
        """
        rows = Rows(run, flying)
        with quiet("optuna"), _batch(self.path, self._what) as storage:
            study = self._study(storage, rows)
            trials = storage.get_all_trials(study, deepcopy=False)
            for id in range(len(rows)):
                if id >= len(trials):
                    storage.create_new_trial(study, _trial(rows, rows.row(id)))
                elif not trials[id].state.is_finished() and (id in run.outcomes or id in rows.flying):
                    trial = storage.get_trial_id_from_study_id_trial_number(study, id)
                    _update(storage, trial, trials[id], _fields(rows, rows.row(id)), id in run.outcomes)

    def _study(self, storage: JournalStorage, rows: Rows) -> int:
        """Return the id of the run's study, which is made if it does not exist."""
        from optuna.study import Study, StudyDirection

        facts = rows.facts
        studies = {study.study_name: study for study in storage.get_all_studies()}
        if rows.name in studies:
            if studies[rows.name].user_attrs.get("identity") != facts["identity"]:
                raise UsageError(f"{self._what}: {self.path} has another study {rows.name!r}; choose another file")
        else:
            storage.create_new_study([StudyDirection[name] for name in rows.directions], rows.name)
            new_study = Study(rows.name, storage)
            new_study.set_metric_names(rows.objectives)
            for name, value in facts.items():
                new_study.set_user_attr(name, value)
        return storage.get_study_id_from_name(rows.name)


def _trial(rows: Rows, row: Row) -> FrozenTrial:
    from optuna.trial import FrozenTrial, TrialState

    fields = _fields(rows, row)
    if row.state == "open" and rows.run.ended is not None:  # trained when the run is resumed
        fields |= {"state": TrialState.WAITING, "datetime_start": None}
    kinds = {rows.genes[name]: _distribution(gene) for name, gene in rows.run.widest_genes.items()}
    params = {name: _param(kinds[name], value) for name, value in row.genome.items()}
    return FrozenTrial(number=row.id, trial_id=-1, value=None, params=params, distributions=kinds, **fields)


def _fields(rows: Rows, row: Row) -> dict[str, Any]:
    """Return the fields of an Optuna trial except its parameters."""
    from optuna.trial import TrialState

    states = {"open": TrialState.RUNNING, "whole": TrialState.COMPLETE, "failed": TrialState.FAIL}
    reported, values = rows.first_objective_curve(row), row.values
    if row.state == "pruned" and reported and len(rows.objectives) == 1:  # as Study.tell does
        values = (reported[max(reported)],)
    return {
        "state": states.get(row.state, TrialState.PRUNED),
        "values": None if values is None else list(values),
        "intermediate_values": reported,
        "user_attrs": {**row.facts, **{f"metric {name}": value for name, value in row.metrics.items()}},
        "system_attrs": {"constraints": [row.facts["violation"]]} if "violation" in row.facts else {},
        "datetime_start": datetime.fromtimestamp(row.began),
        "datetime_complete": None if row.ended is None else datetime.fromtimestamp(row.ended),
    }


def _update(storage: JournalStorage, id: int, trial: FrozenTrial, fields: dict[str, Any], finished: bool) -> None:
    """Add the missing points of a running trial's learning curve, and its end if it has finished."""
    for step, value in fields["intermediate_values"].items():
        if step not in trial.intermediate_values:
            storage.set_trial_intermediate_value(id, step, value)
    if finished:
        for name, value in fields["user_attrs"].items():
            storage.set_trial_user_attr(id, name, value)
        for name, value in fields["system_attrs"].items():
            storage.set_trial_system_attr(id, name, value)
        storage.set_trial_state_values(id, fields["state"], fields["values"])


def _distribution(gene: Gene) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(gene, Float):
        return FloatDistribution(gene.low, gene.high, log=gene.log)
    if isinstance(gene, Int):
        return IntDistribution(gene.low, gene.high, log=gene.log, step=gene.step)
    assert isinstance(gene, Choice)
    values = [one_line(value) if isinstance(value, str) else value for value in gene.values]
    if len(set(values)) < len(values):  # 1, 1.0 and True are equal for Optuna
        values = [one_line(repr(value)) for value in gene.values]
    return CategoricalDistribution(values)


def _param(kind: BaseDistribution, value: Value) -> Value:
    """Return a value as its distribution has it: as text, if its choices are texts."""
    choices = getattr(kind, "choices", None)
    as_it_is = choices is None or any(value == choice and type(value) is type(choice) for choice in choices)
    return value if as_it_is else one_line(repr(value))


@contextlib.contextmanager
def _batch(path: Path, flag: str) -> Iterator[JournalStorage]:
    """Open a journal as Optuna's storage under its lock; all writes reach the file at the end, or none.

    Separate writes would each wait for the disk, and a reader could see a trial without its curve.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileSymlinkLock

    class Held(JournalFileSymlinkLock):
        """A lock that this process holds already."""

        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            pass

    class Batch(BaseJournalBackend):
        def __init__(self) -> None:
            self.file = JournalFileBackend(str(path), Held(str(path)))
            self.before = sum(1 for _ in self.file.read_logs(0))
            with open(path, "rb") as lines:
                if sum(1 for _ in lines) != self.before:  # Optuna ignores a broken last line
                    raise ValueError("its last line is not from a journal")
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
                f"{flag}: {path} is no journal of Optuna's ({one_line(str(error), 100)}); choose another file"
            ) from None
        yield storage
        if batch.more:
            batch.file.append_logs(batch.more)
    finally:
        lock.release()
