"""The Parquet files of a run: one for each generation.

Generation files are derived from the journal and can be rebuilt. pyarrow is imported when a table is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evo_tune.errors import StoreError
from evo_tune.genome.trial import Trial
from evo_tune.store import table
from evo_tune.store.run import Run

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "generation_is_whole",
    "generation_path",
    "schema_of",
    "set_aside_generations",
    "table_of",
    "write_generation",
]


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
