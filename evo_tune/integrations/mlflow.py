"""A run in MLflow's database: one parent run, and a child for each trial.

The database is SQLite's, one file: MLflow refuses its older folders of files unless a variable is set. What a name
may hold there is MLflow's choice, so other characters of genes and metrics become underscores.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.integrations.needed import needing
from evo_tune.integrations.rows import Row, Rows
from evo_tune.report.summary import best_so_far
from evo_tune.store.inflight import Curve
from evo_tune.store.run import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MLflowDatabase"]

METRICS, PARAMS = 900, 90
"""How many are written at once: MLflow takes 1000 and 100."""


class MLflowDatabase:
    """A new database for one run.

    Args:
        path: The file, which is made.
        what: As the user wrote it, for errors.

    Raises:
        UsageError: The extra `mlflow` is not installed.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        with needing(what, "mlflow"), _quiet():
            import alembic  # noqa: F401  (MLflow's database needs both)
            import mlflow  # noqa: F401
            import sqlalchemy  # noqa: F401

    def update(self, run: Run, flying: Mapping[int, Curve] | None = None) -> None:
        """Write a run into the database, which is made.

        Args:
            run: It.
            flying: Curves so far of what has no result yet.

        Raises:
            OSError: It cannot be written.
        """
        from mlflow import MlflowClient

        rows, path = Rows(run, flying), self.path.resolve()
        path.touch(exist_ok=False)  # for an error of the system's own words
        artifacts = path.with_name(f"{path.name}-artifacts").as_uri()
        with _quiet():
            client = MlflowClient(tracking_uri=f"sqlite:///{path}")
            made = client.create_experiment(_name(rows.name), artifact_location=artifacts)
            _write(client, made, rows)


def _write(client: MlflowClient, experiment: str, rows: Rows) -> None:
    genes, metrics = _names(rows.genes.values()), _names(rows.metrics.values())
    every = [rows.row(id) for id in range(len(rows))]
    began = min((row.began for row in every), default=0.0)
    parent = client.create_run(experiment, _ms(began), run_name=rows.name).info.run_id
    _log(
        client, parent, dict(zip(_names(rows.facts).values(), rows.facts.values(), strict=True)), _course(rows, metrics)
    )
    for row in every:
        tags = {"mlflow.parentRunId": parent, "state": row.state}
        tags |= {name: str(value) for name, value in row.facts.items()}
        child = client.create_run(experiment, _ms(row.began), tags, f"trial {row.id}").info.run_id
        _log(client, child, {genes[name]: value for name, value in row.genome.items()}, _points(row, metrics))
        if row.ended is not None:
            state = {"failed": "FAILED", "pruned": "KILLED"}.get(row.state, "FINISHED")
            client.set_terminated(child, state, _ms(row.ended))
    if rows.run.ended is not None:
        client.set_terminated(parent, "FINISHED", _ms(max((row.ended or 0.0 for row in every), default=began)))


def _course(rows: Rows, names: dict[str, str]) -> Iterator[tuple[str, float, int, int]]:
    """Yield the best so far by evaluations: so the parent's line shows the best, and its page how that came."""
    for count, value, id in best_so_far(rows.run):
        if math.isfinite(value):
            yield names[rows.objectives[0]], value, _ms(rows.row(id).ended or 0.0), count


def _points(row: Row, names: dict[str, str]) -> Iterator[tuple[str, float, int, int]]:
    """Yield (metric, value, time in milliseconds since 1970, step) of a trial's curve and of its end."""
    end = row.began if row.ended is None else row.ended
    for step, point in [*row.curve, (row.last, row.metrics)]:
        at = row.began + step / row.last * (end - row.began)
        yield from ((names[name], value, _ms(at), step) for name, value in point.items())


def _log(client: MlflowClient, run: str, params: dict[str, Any], points: Iterable[tuple[str, float, int, int]]) -> None:
    from mlflow.entities import Metric, Param

    metrics = [Metric(*point) for point in points]
    given = [Param(name, str(value)) for name, value in params.items()]
    while metrics or given:
        client.log_batch(run, metrics=metrics[:METRICS], params=given[:PARAMS])
        metrics, given = metrics[METRICS:], given[PARAMS:]


def _names(names: Iterable[str]) -> dict[str, str]:
    """Return each name as MLflow takes it, no two of them the same."""
    made: dict[str, str] = {}
    for name in names:
        short, number = _name(name), 2
        free = short
        while free in made.values():
            free, number = f"{short} {number}", number + 1
        made[name] = free
    return made


def _name(name: str) -> str:
    """Return a name with nothing but letters, digits, '_', '-', spaces, and dots within it."""
    return re.sub(r"[^\w\-. ]|^[. ]+|[. ]+$|\.(?=\.)", "_", name) or "_"


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what MLflow and Alembic say of a database that they make to themselves."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "mlflow.store.db.utils", "alembic")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
