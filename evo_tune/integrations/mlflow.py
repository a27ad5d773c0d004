"""Write a run into an MLflow database: one parent run, and a child run for each trial.

The database is one SQLite file, because MLflow refuses its older folders of files unless a variable is set. Characters
of genes and metrics that MLflow does not allow become underscores.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from evo_tune.integrations import silence_loggers
from evo_tune.integrations.rows import Rows, Sink, unique_names
from evo_tune.report.charts.history import best_so_far
from evo_tune.store.heartbeat import Curve
from evo_tune.store.run import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Metrics and parameters in one request; MLflow accepts 1000 and 100.
METRICS_PER_REQUEST, PARAMS_PER_REQUEST = 900, 90

# Metric, value, time in milliseconds since 1970, and step.
Point = tuple[str, float, int, int]


class MLflowDatabase(Sink):
    """New database for one run."""

    def update(self, run: Run, pending_curves: Mapping[int, Curve] | None = None) -> None:
        """Write a run into the database, which must not exist: this is called once. See `Sink`."""
        from mlflow import MlflowClient

        rows, path = Rows(run, pending_curves), self.path.resolve()
        path.touch(exist_ok=False)  # raises the system's own error if it cannot be written
        artifacts = path.with_name(f"{self.final_name}-artifacts").as_uri()
        with silence_loggers():
            client = MlflowClient(tracking_uri=f"sqlite:///{path}")
            experiment_id = client.create_experiment(_allowed_name(rows.name), artifact_location=artifacts)
            _log_runs(client, experiment_id, rows)


def _log_runs(client: "MlflowClient", experiment_id: str, rows: Rows) -> None:
    gene_names = unique_names(rows.genes.values(), _allowed_name)
    metric_names = unique_names(rows.metrics.values(), _allowed_name)
    all_rows = [rows.row(id) for id in range(len(rows))]  # a row's id is its index
    earliest_start = min((row.began for row in all_rows), default=0.0)
    parent = client.create_run(experiment_id, _ms(earliest_start), run_name=rows.name).info.run_id
    run_params = {name: rows.facts[fact] for fact, name in unique_names(rows.facts, _allowed_name).items()}
    objective = metric_names[rows.objectives[0]]
    best_points = (
        (objective, value, _ms(all_rows[id].ended or 0.0), evaluations)
        for evaluations, value, id in best_so_far(rows.run)
        if math.isfinite(value)
    )
    _log(client, parent, run_params, best_points)
    for row in all_rows:
        tags = {"mlflow.parentRunId": parent, "state": row.state}
        tags |= {name: str(value) for name, value in row.facts.items()}
        child = client.create_run(experiment_id, _ms(row.began), tags, f"trial {row.id}").info.run_id
        duration = 0.0 if row.ended is None else row.ended - row.began
        points = (  # the time of a step is interpolated
            (metric_names[name], value, _ms(row.began + step / row.last_step * duration), step)
            for step, metrics_at_step in [*row.curve, (row.last_step, row.metrics)]
            for name, value in metrics_at_step.items()
        )
        _log(client, child, {gene_names[name]: value for name, value in row.genome.items()}, points)
        if row.ended is not None:
            status = {"failed": "FAILED", "pruned": "KILLED"}.get(row.state, "FINISHED")
            client.set_terminated(child, status, _ms(row.ended))
    if rows.run.ended is not None:  # the time of the latest result ends the parent
        latest_end = max((row.ended or 0.0 for row in all_rows), default=earliest_start)
        client.set_terminated(parent, "FINISHED", _ms(latest_end))


def _log(client: "MlflowClient", run_id: str, params: dict[str, Any], points: Iterable[Point]) -> None:
    from mlflow.entities import Metric, Param

    metrics = [Metric(*point) for point in points]
    remaining_params = [Param(name, str(value)) for name, value in params.items()]
    while metrics or remaining_params:
        client.log_batch(run_id, metrics=metrics[:METRICS_PER_REQUEST], params=remaining_params[:PARAMS_PER_REQUEST])
        metrics, remaining_params = metrics[METRICS_PER_REQUEST:], remaining_params[PARAMS_PER_REQUEST:]


def _allowed_name(name: str) -> str:
    """Return a name of letters, digits, '_', '-', spaces, and dots inside, as MLflow allows it."""
    # Replaced: other characters, dots and spaces at both ends, and each dot before another dot.
    return re.sub(r"[^\w\-. ]|^[. ]+|[. ]+$|\.(?=\.)", "_", name) or "_"


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
