"""The Parquet files of a run: a generation each, and one of the calibration.

Generation files are derived from the journal and can be rebuilt. pyarrow is imported when a table is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.errors import EvoTuneError, StoreError
from evo_tune.genome.trial import Trial
from evo_tune.store import table
from evo_tune.store.run import Run

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "generation_is_whole",
    "generation_path",
    "read_calibration",
    "schema_of",
    "set_aside_generations",
    "table_of",
    "write_calibration",
    "write_generation",
]

CALIBRATION = "_calibration.parquet"


def table_of(run: Run, trials: Sequence[Trial], survivors: Iterable[int] = ()) -> pa.Table:
    """Return trials as an Arrow table, in the one schema of all of the run's generations so far."""
    return table.from_trials(trials, survivors, schema_of(run))


def schema_of(run: Run) -> pa.Schema:
    """Return the one schema of all of the run's generations so far."""
    return table.schema(run.genes, run.metric_names, run.manifest.units)


def write_generation(run: Run, generation: int, trials: Sequence[Trial], survivors: Iterable[int]) -> None:
    """Write one generation's file, whole or not at all.

    Raises:
        StoreError: The disk refuses.
    """
    table.write(generation_path(run, generation), table_of(run, trials, survivors))


def generation_path(run: Run, generation: int) -> Path:
    """Return the path of a generation's file."""
    return run.folder / f"generation-{generation:04d}.parquet"


def generation_is_whole(run: Run, generation: int, rows: int) -> bool:
    """Say whether a generation's file is there, readable, of the run's schema and of that many rows."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(generation_path(run, generation)) as file:
            whole: bool = file.schema_arrow.equals(schema_of(run)) and file.metadata.num_rows == rows
            return whole
    except (OSError, ValueError):  # missing, cut in half, or no Parquet at all
        return False


def set_aside_generations(run: Run, known: Container[int]) -> None:
    """Rename the files of generations that the journal knows nothing of, so that no reader mixes them in.

    They are left where a journal was cut short by hand, or is gone: then they may be all that is left.

    Raises:
        StoreError: The disk refuses.
    """
    for path in sorted(run.folder.glob("generation-*.parquet")):
        number = path.stem.removeprefix("generation-")
        if not number.isdigit() or int(number) not in known:
            aside = path.with_name(f"_{path.name}.aside")
            warnings.warn(f"the journal knows nothing of {path}: renamed to {aside.name}", stacklevel=2)
            try:
                path.replace(aside)
            except OSError as error:
                raise StoreError(f"cannot rename {path}: {error.strerror}") from error


# Calibration: results outside ids and history (law 10).


def read_calibration(run: Run) -> list[Trial]:
    """Return the calibration's results as trials; a damaged file counts as none."""
    import pyarrow.parquet as pq

    path = run.folder / CALIBRATION
    if not path.exists():
        return []
    try:
        rows = pq.read_table(path, partitioning=None).to_pylist()
        return [_calibration_trial(run, row) for row in rows]
    except (OSError, ValueError, LookupError, EvoTuneError):
        warnings.warn(f"{path} is damaged: the calibration is done again", stacklevel=2)
        return []


def _calibration_trial(run: Run, row: Mapping[str, Any]) -> Trial:
    genome, outcome = table.to_genome(row, run.genes), table.to_outcome(row)
    candidate = replace(run.candidates[row["id"]], genome=genome, seed=row["seed"])
    return Trial.of(candidate, outcome, -1, run.objectives, run.constraints)


def write_calibration(run: Run, trials: Sequence[Trial]) -> None:
    """Write all calibration results, replacing the file.

    Raises:
        StoreError: The disk refuses.
    """
    known = run.metric_names
    others = sorted({name for trial in trials for name in trial.outcome.metrics}.difference(known))
    columns = table.schema(run.genes, [*known, *others], run.manifest.units)
    table.write(run.folder / CALIBRATION, table.from_trials(trials, (), columns))
