"""The Parquet files of a run: one for each generation.

Generation files are derived from the journal and can be rebuilt. pyarrow is imported when a table is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.errors import StoreError
from evo_tune.genome.trial import Trial
from evo_tune.store import table
from evo_tune.store.run import Run
from evo_tune.text import one_line
from evo_tune.trust import inside

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "generation_is_whole",
    "generation_path",
    "opened",
    "schema_of",
    "set_aside_generations",
    "table_of",
    "write_generation",
]

LARGEST = 1 << 26
"""Bytes of a Parquet file that is read at most: a generation of two hundred thousand births."""


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
        with opened(run, generation_path(run, generation).name) as file:
            whole: bool = file.schema_arrow.equals(schema_of(run)) and file.metadata.num_rows == rows
            return whole
    except (OSError, ValueError):  # missing, cut in half, or no Parquet at all
        return False


def opened(run: Run, name: str, limit: int = LARGEST, texts: Sequence[str] = ()) -> Any:
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
