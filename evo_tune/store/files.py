"""The Parquet files of a run: a generation each, and one of the calibration.

Generation files are derived from the journal and can be rebuilt. pyarrow is imported when a table is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from evo_tune import inside
from evo_tune.errors import EvoTuneError, StoreError
from evo_tune.genome.trial import Trial
from evo_tune.store import table
from evo_tune.store.run import Run
from evo_tune.store.schema import Whole
from evo_tune.text import one_line

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

LARGEST = 1 << 26
"""Bytes of a Parquet file that is read at most: a generation of two hundred thousand births."""

LARGEST_CALIBRATION = 1 << 24
"""Bytes of the calibration's at most: it is read as a whole."""

MOST_ROWS = 100_000
"""Of a calibration."""

LONGEST_TEXT = 10_000
"""Bytes of an error, a device or a value in a calibration."""


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
    try:
        with _opened(run, generation_path(run, generation).name) as file:
            whole: bool = file.schema_arrow.equals(schema_of(run)) and file.metadata.num_rows == rows
            return whole
    except (OSError, ValueError):  # missing, cut in half, or no Parquet at all
        return False


def _opened(run: Run, name: str, limit: int = LARGEST, texts: Sequence[str] = ()) -> Any:
    """Return a Parquet file of a run's folder, opened.

    Args:
        run: The run.
        name: The file.
        limit: Bytes that it may have.
        texts: Columns that are read as dictionaries.

    Raises:
        OSError: It cannot be read, or is larger than any of ours.
        ValueError: It is no Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = inside.read(run.folder, name, limit=limit)
    limits = {"thrift_string_size_limit": LARGEST, "thrift_container_size_limit": LARGEST // 10}
    return pq.ParquetFile(pa.BufferReader(data), read_dictionary=list(texts), **limits)


def set_aside_generations(run: Run, known: Iterable[int]) -> None:
    """Rename the files of generations that the journal knows nothing of, so that no reader mixes them in.

    They are left where a journal was cut short by hand, or is gone: then they may be all that is left.

    Raises:
        StoreError: The disk refuses.
    """
    ours = {generation_path(run, generation).name for generation in known}
    for path in sorted(run.folder.glob("generation-*.parquet")):
        if path.name not in ours:
            aside = path.with_name(f"_{path.name}.aside")
            said = one_line(f"the journal knows nothing of {path}: renamed to {aside.name}")
            warnings.warn(said, stacklevel=2)
            try:
                path.replace(aside)
            except OSError as error:
                raise StoreError(f"cannot rename {path}: {error.strerror}") from error


# Calibration: results outside ids and history (law 10).


def read_calibration(run: Run) -> list[Trial]:
    """Return the calibration's results as trials; a damaged file counts as none."""
    path = run.folder / CALIBRATION
    if not inside.exists(run.folder, CALIBRATION):
        return []
    try:
        return [_calibration_trial(run, row) for row in _calibration_rows(run)]
    except (OSError, ValueError, TypeError, AttributeError, LookupError, msgspec.ValidationError, EvoTuneError):
        warnings.warn(f"{path} is damaged: the calibration is done again", stacklevel=2)
        return []


def _calibration_rows(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the calibration's rows, with the columns that are read and no others.

    A few kilobytes of Parquet can stand for any number of rows, and for any length of each: a column that says a
    million times the same costs nothing on disk. So rows are counted before, the codec must be one that cannot make
    much of little, and a text is looked at once for all rows that have it.

    Raises:
        OSError: It cannot be read, or is larger than any of ours.
        ValueError: It is no Parquet, or not such as we write.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {"id": pa.int64(), "seed": pa.int64(), "status": pa.string(), "seconds": pa.float64()}
    columns |= {"device": pa.string(), "error": pa.string()}
    with _opened(run, CALIBRATION, LARGEST_CALIBRATION) as plain:
        meta, found = plain.metadata, plain.schema_arrow
        given = table.schema(run.genes, [n.removeprefix(table.METRIC) for n in found.names if _is_metric(n)], {})
        columns |= {field.name: field.type for field in given if "." in field.name}
        if any(found.field(name).type != kind for name, kind in columns.items()):
            raise ValueError("its columns have other types")
        if meta.num_rows > MOST_ROWS:
            raise ValueError(f"it has {meta.num_rows} rows")
        parts = [meta.row_group(part) for part in range(meta.num_row_groups)]
        codecs = {part.column(i).compression for part in parts for i in range(part.num_columns)}
        if not codecs <= {"SNAPPY", "UNCOMPRESSED"}:
            raise ValueError("its codec is not ours")
    texts = [name for name, kind in columns.items() if kind == pa.string()]
    with _opened(run, CALIBRATION, LARGEST_CALIBRATION, texts) as file:
        for batch in file.iter_batches(batch_size=1000, columns=list(columns), use_threads=False):
            for name in texts:
                longest = pc.max(pc.binary_length(batch.column(name).dictionary)).as_py()
                if (longest or 0) > LONGEST_TEXT:
                    raise ValueError(f"a text in its column {name} has {longest} bytes")
            yield from batch.to_pylist()


def _is_metric(name: str) -> bool:
    return name.startswith(table.METRIC)


def _calibration_trial(run: Run, row: Mapping[str, Any]) -> Trial:
    genome, outcome = table.to_genome(row, run.genes), table.to_outcome(row)
    id, seed = msgspec.convert((row["id"], row["seed"]), tuple[Whole, Whole])
    trial = Trial.of(
        replace(run.candidates[id], genome=genome, seed=seed), outcome, -1, run.objectives, run.constraints
    )
    if outcome.status == "ok" and trial.losses is None:
        raise ValueError("an objective is missing or not finite")
    return trial


def write_calibration(run: Run, trials: Sequence[Trial]) -> None:
    """Write all calibration results, replacing the file.

    Raises:
        StoreError: The disk refuses.
    """
    known = run.metric_names
    others = sorted({name for trial in trials for name in trial.outcome.metrics}.difference(known))
    columns = table.schema(run.genes, [*known, *others], run.manifest.units)
    table.write(run.folder / CALIBRATION, table.from_trials(trials, (), columns))
