"""The file of a run's final comparison: results outside ids and history (law 10).

Each row names the evaluator and the data of its training. Only rows of the run's present evaluator and data are read;
other rows are kept. Other modules decide which trainings are needed and interpret the results.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from evo_tune.errors import EvoTuneError
from evo_tune.genome.trial import Trial
from evo_tune.store import table
from evo_tune.store.run import Run
from evo_tune.store.schema import Whole
from evo_tune.store.table import open_parquet
from evo_tune.trust import inside

if TYPE_CHECKING:
    import pyarrow as pa

COMPARISON = "_comparison.parquet"

LARGEST = 1 << 24
"""Maximum size of the file in bytes, because it is read as a whole."""

MOST_ROWS = 100_000

LONGEST_TEXT = 10_000
"""Maximum length of an error, a device name or a value, in bytes."""

HASH, DATA = "evaluator_hash", "fingerprint"
"""Columns with the evaluator and the data of a row's training."""


def read_comparison(run: Run) -> list[Trial]:
    """Return the results of the final comparison as trials; a damaged file counts as empty."""
    return _read(run)[0]


def write_comparison(run: Run, trials: Sequence[Trial]) -> None:
    """Write all results of the run's present evaluator and data, replacing the earlier ones.

    Raises:
        StoreError: The file cannot be written.
    """
    import pyarrow as pa

    before = _read(run)[1]
    metric_names = run.metric_names
    new_names = sorted({name for trial in trials for name in trial.outcome.metrics}.difference(metric_names))
    units = run.manifest.units
    units = {**units, **{test: units.get(name, "") for name, test in run.manifest.tests.items()}}
    rows = table.from_trials(trials, (), table.schema(run.genes, [*metric_names, *new_names], units))
    for name, value in ((HASH, run.evaluator_hash), (DATA, run.fingerprint)):
        rows = rows.append_column(name, pa.array([value] * len(trials), pa.string()))
    if before is not None:
        foreign = [not _is_own(row, run) for row in before.to_pylist()]
        if any(foreign):
            rows = pa.concat_tables([before.filter(pa.array(foreign)), rows], promote_options="default")
    table.write(run.folder / COMPARISON, rows)


def _read(run: Run) -> tuple[list[Trial], pa.Table | None]:
    """Return the results of the present evaluator and data, and the whole table; None if no table can be read."""
    if not inside.exists(run.folder, COMPARISON):  # checked often while a run continues
        return [], None
    try:
        rows = _rows(run)
        return [_trial(row, run) for row in rows.to_pylist() if _is_own(row, run)], rows
    except (OSError, ValueError, TypeError, AttributeError, LookupError, EvoTuneError):  # msgspec's are ValueErrors
        warnings.warn(f"{run.folder / COMPARISON} is damaged: the final comparison is done again", stacklevel=3)
        return [], None


def _rows(run: Run) -> pa.Table:
    """Return the file's rows, with the needed columns only.

    A few kilobytes of a stranger's Parquet can expand to any size, because repeated values cost nothing on disk. So the
    rows are counted first, only codecs with a low compression ratio are allowed, and distinct texts are checked once.

    Raises:
        OSError: The file cannot be read or is too large.
        ValueError: The file is not Parquet, or not as evo-tune writes it.
    """
    import pyarrow as pa

    columns = {"id": pa.int64(), "seed": pa.int64(), "status": pa.string(), "seconds": pa.float64()}
    columns |= {"device": pa.string(), "error": pa.string()}
    with open_parquet(run, COMPARISON, LARGEST) as plain:
        meta, schema = plain.metadata, plain.schema_arrow
        metrics = [name.removeprefix(table.METRIC) for name in schema.names if name.startswith(table.METRIC)]
        columns |= {field.name: field.type for field in table.schema(run.genes, metrics, {}) if "." in field.name}
        columns |= {HASH: pa.string(), DATA: pa.string()}
        if any(schema.field(name).type != kind for name, kind in columns.items()):
            raise ValueError("its columns have other types")
        if meta.num_rows > MOST_ROWS:
            raise ValueError(f"it has {meta.num_rows} rows")
        parts = [meta.row_group(part) for part in range(meta.num_row_groups)]
        codecs = {part.column(i).compression for part in parts for i in range(part.num_columns)}
        if not codecs <= {"SNAPPY", "UNCOMPRESSED"}:
            raise ValueError("its codec is not ours")
    texts = [name for name, kind in columns.items() if kind == pa.string()]
    with open_parquet(run, COMPARISON, LARGEST, texts) as file:
        batches = file.iter_batches(batch_size=1000, columns=list(columns), use_threads=False)
        rows = [_plain(batch, texts) for batch in batches]
    return pa.Table.from_batches(rows, schema=pa.schema(list(columns.items())))


def _plain(batch: pa.RecordBatch, texts: Sequence[str]) -> pa.RecordBatch:
    """Return a batch with its dictionary columns as plain text, after a check of their lengths.

    Raises:
        ValueError: A text is longer than LONGEST_TEXT.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays = []
    for name in batch.schema.names:
        column = batch.column(name)
        if name in texts:
            longest = pc.max(pc.binary_length(column.dictionary)).as_py()
            if (longest or 0) > LONGEST_TEXT:
                raise ValueError(f"a text in its column {name} has {longest} bytes")
            column = column.cast(pa.string())
        arrays.append(column)
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _is_own(row: Mapping[str, Any], run: Run) -> bool:
    """Return whether a result is from the run's present evaluator and data."""
    origin = row[HASH], row[DATA]
    if None in origin:
        raise ValueError("a row does not say under which evaluator or data it was made")
    return origin == (run.evaluator_hash, run.fingerprint)


def _trial(row: Mapping[str, Any], run: Run) -> Trial:
    id, seed = msgspec.convert((row["id"], row["seed"]), tuple[Whole, Whole])
    genome, outcome = table.to_genome(row, run.genes_at(id)), table.to_outcome(row)
    candidate = replace(run.candidates[id], genome=genome, seed=seed)
    trial = Trial.of(candidate, outcome, -1, run.objectives, run.constraints)
    if outcome.status == "ok" and trial.losses is None:
        raise ValueError("an objective is missing or not finite")
    return trial
