"""The file of a run's calibration: results outside ids and history (law 10).

Each row says under which evaluator and which data it was made; only those of the run's present ones are read, and
those of others are kept. Files of older versions do not say it: their rows are the manifest's own. What is to be
trained, and what it means, is decided elsewhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evo_tune.errors import EvoTuneError
from evo_tune.genome.trial import Trial
from evo_tune.store import table
from evo_tune.store.run import Run

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["is_raced", "read_calibration", "write_calibration"]

CALIBRATION = "_calibration.parquet"
HASH, DATA = "evaluator_hash", "fingerprint"
"""Columns that an older version's files lack."""


def read_calibration(run: Run) -> list[Trial]:
    """Return the calibration's results as trials; a damaged file counts as none."""
    return _read(run)[0]


def is_raced(run: Run) -> bool:
    """Say whether there are results, and any of them were made by a race; older versions had none."""
    rows = _read(run)[1]
    return rows is not None and HASH in rows.column_names


def write_calibration(run: Run, trials: Sequence[Trial]) -> None:
    """Write all results under the run's present evaluator and data, replacing those that were there.

    Raises:
        StoreError: The disk refuses.
    """
    import pyarrow as pa

    before = _read(run)[1]
    known = run.metric_names
    others = sorted({name for trial in trials for name in trial.outcome.metrics}.difference(known))
    rows = table.from_trials(trials, (), table.schema(run.genes, [*known, *others], run.manifest.units))
    for name, value in ((HASH, run.evaluator_hash), (DATA, run.fingerprint)):
        rows = rows.append_column(name, pa.array([value] * len(trials), pa.string()))
    if before is not None:
        foreign = [not _is_own(row, run) for row in before.to_pylist()]
        if any(foreign):
            rows = pa.concat_tables([before.filter(pa.array(foreign)), rows], promote_options="default")
    table.write(run.folder / CALIBRATION, rows)


def _read(run: Run) -> tuple[list[Trial], pa.Table | None]:
    """Return the run's own results and the whole table; None if there is none that can be read."""
    path = run.folder / CALIBRATION
    if not path.exists():  # asked for again and again while a run goes on
        return [], None
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, partitioning=None)
        return [_trial(row, run) for row in rows.to_pylist() if _is_own(row, run)], rows
    except (OSError, ValueError, LookupError, TypeError, EvoTuneError):
        warnings.warn(f"{path} is damaged: the calibration is done again", stacklevel=3)
        return [], None


def _is_own(row: Mapping[str, Any], run: Run) -> bool:
    """Whether a result was made by the run's present evaluator, on its present data."""
    told = row.get(HASH), row.get(DATA)
    made = (run.manifest.evaluator_hash, run.manifest.fingerprint) if None in told else told
    return made == (run.evaluator_hash, run.fingerprint)


def _trial(row: Mapping[str, Any], run: Run) -> Trial:
    genome, outcome = table.to_genome(row, run.genes), table.to_outcome(row)
    candidate = replace(run.candidates[row["id"]], genome=genome, seed=row["seed"])
    return Trial.of(candidate, outcome, -1, run.objectives, run.constraints)
