"""Write a run as a study into an Optuna journal, which optuna-dashboard and `optuna.load_study` open.

A trial has the number of its candidate. The learning curve of the first objective becomes intermediate values, and all
other data user attributes. Trials that are no full training are PRUNED, so the best trial of the study is one that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.errors import UsageError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.integrations.rows import Row, Rows, Sink, silence_loggers
from evo_tune.store.heartbeat import Curve
from evo_tune.store.run import Run
from evo_tune.text import one_line

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial


class OptunaJournal(Sink):
    """Journal with the study of a run; the file may contain other studies."""

    def update(self, run: Run, pending_curves: Mapping[int, Curve] | None = None) -> None:
        """Write the parts of a run that the study lacks; see `Sink`."""
        rows = Rows(run, pending_curves)
        with silence_loggers():
            storage = _open_storage(self.path, self.flag)
            study = self._study(storage, rows)
            trials = storage.get_all_trials(study, deepcopy=False)
            for id in range(len(rows)):
                if id >= len(trials):
                    storage.create_new_trial(study, _trial(rows, rows.row(id)))
                elif not trials[id].state.is_finished() and (id in run.outcomes or id in rows.pending_curves):
                    trial = storage.get_trial_id_from_study_id_trial_number(study, id)
                    fields = _fields(rows, rows.row(id))
                    for step, value in fields["intermediate_values"].items():
                        if step not in trials[id].intermediate_values:
                            storage.set_trial_intermediate_value(trial, step, value)
                    if id in run.outcomes:
                        for name, value in fields["user_attrs"].items():
                            storage.set_trial_user_attr(trial, name, value)
                        for name, value in fields["system_attrs"].items():
                            storage.set_trial_system_attr(trial, name, value)
                        storage.set_trial_state_values(trial, fields["state"], fields["values"])

    def _study(self, storage: JournalStorage, rows: Rows) -> int:
        """Return the id of the run's study, which is made if it does not exist."""
        from optuna.study import Study, StudyDirection

        facts = rows.facts
        studies = {study.study_name: study for study in storage.get_all_studies()}
        if rows.name in studies:
            if studies[rows.name].user_attrs.get("identity") != facts["identity"]:
                raise UsageError(f"{self.flag}: {self.path} has another study {rows.name!r}; choose another file")
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
    params = {}
    for name, value in row.genome.items():  # as text, if the choices of its distribution are texts
        choices = getattr(kinds[name], "choices", (value,))
        is_choice = any(value == choice and type(value) is type(choice) for choice in choices)
        params[name] = value if is_choice else one_line(repr(value))
    return FrozenTrial(number=row.id, trial_id=-1, value=None, params=params, distributions=kinds, **fields)


def _fields(rows: Rows, row: Row) -> dict[str, Any]:
    """Return the fields of an Optuna trial except its parameters."""
    from optuna.trial import TrialState

    states = {"open": TrialState.RUNNING, "whole": TrialState.COMPLETE, "failed": TrialState.FAIL}
    metric, values = rows.objectives[0], row.values
    reported = {step: point[metric] for step, point in row.curve if metric in point}
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


def _open_storage(path: Path, flag: str) -> JournalStorage:
    """Open a journal as Optuna's storage; the file is made if it does not exist.

    Raises:
        UsageError: The file is something else.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    lock = JournalFileSymlinkLock(str(path))
    backend = JournalFileBackend(str(path), lock)
    lock.acquire()  # else the last line may be one that another run is writing
    try:
        whole_lines = sum(1 for _ in backend.read_logs(0))
        with open(path, "rb") as lines:
            if sum(1 for _ in lines) != whole_lines:  # Optuna ignores a broken last line
                raise ValueError("its last line is not from a journal")
        return JournalStorage(backend)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        cause = one_line(str(error), 100)
        raise UsageError(f"{flag}: {path} is no journal of Optuna's ({cause}); choose another file") from None
    finally:
        lock.release()
