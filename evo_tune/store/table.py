"""Trials as Arrow tables, and the Parquet files of a run.

All files of a run have one explicit schema, made from its genes and metrics. It is never guessed from values: a column
that is null throughout the first file would break the reading of the others. The files are derived from the journal
and can be rebuilt. pyarrow is imported when a table is made.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.errors import StoreError
from evo_tune.genome.genes import Choice, Float, Gene
from evo_tune.genome.trial import Outcome, Trial
from evo_tune.genome.values import Genome
from evo_tune.store.events import outcome_from
from evo_tune.store.journal import write_atomically
from evo_tune.store.run import Run
from evo_tune.store.schema import read_json
from evo_tune.text import one_line
from evo_tune.trust import inside

if TYPE_CHECKING:
    import pyarrow as pa

GENE = "gene."
METRIC = "metric."


def schema(genes: Mapping[str, Gene], metrics: Sequence[str], units: Mapping[str, str]) -> pa.Schema:
    """Return the Parquet schema of a run.

    Args:
        genes: Genes by name; columns `gene.NAME`.
        metrics: Names of the metrics, in order; columns `metric.NAME`.
        units: Unit by metric name, for the metadata of the fields.
    """
    import pyarrow as pa

    whole, text = pa.int64(), pa.string()

    def number(name: str, unit: str) -> pa.Field:
        return pa.field(name, pa.float64(), metadata={"unit": str(unit)} if unit else None)

    return pa.schema(
        [
            pa.field("id", whole),
            pa.field("generation", whole),
            pa.field("status", text),
            *(pa.field(GENE + name, _arrow_type(gene), metadata=_gene_metadata(gene)) for name, gene in genes.items()),
            *(number(METRIC + name, units.get(name, "")) for name in metrics),
            pa.field("parents", pa.list_(whole)),
            pa.field("operator", text),
            pa.field("seed", whole),
            pa.field("extra_seed", whole),
            number("budget", "fraction of the full training"),
            pa.field("resumes", whole),
            pa.field("reported_before", whole),
            pa.field("reported_order", whole),
            number("seconds", "s"),
            pa.field("device", text),
            pa.field("error", text),
            pa.field("survivor", pa.bool_()),
        ]
    )


def _gene_metadata(gene: Gene) -> dict[str, str] | None:
    return {"encoding": "JSON"} if _is_mixed(gene) else None


def _is_mixed(gene: Gene) -> bool:
    """Return whether a gene's values have no common Arrow type, so that they are stored as JSON text."""
    if not isinstance(gene, Choice):
        return False
    kinds = {type(value) for value in gene.values}
    return len(kinds) > 1 and kinds != {int, float}


def _arrow_type(gene: Gene) -> pa.DataType:
    import pyarrow as pa

    if _is_mixed(gene):
        return pa.string()
    if isinstance(gene, Choice):
        kinds = {type(value) for value in gene.values}
        plain = {bool: pa.bool_(), int: pa.int64(), str: pa.string()}
        return plain.get(kinds.pop(), pa.float64()) if len(kinds) == 1 else pa.float64()
    return pa.float64() if isinstance(gene, Float) else pa.int64()


def from_trials(trials: Sequence[Trial], survivors: Iterable[int], columns: pa.Schema) -> pa.Table:
    """Return trials as rows.

    Args:
        trials: Trials in the order of the rows.
        survivors: Ids to mark in the column `survivor`.
        columns: Result of `schema`, with the genes, the metrics and their types.
    """
    import pyarrow as pa

    survivor_ids = set(survivors)
    as_json = [name for name in columns.names if (columns.field(name).metadata or {}).get(b"encoding") == b"JSON"]
    rows = [_row(trial, trial.id in survivor_ids, as_json) for trial in trials]
    arrays = [pa.array([row.get(field.name) for row in rows], type=field.type) for field in columns]
    return pa.table(arrays, schema=columns)


def _row(trial: Trial, survivor: bool, as_json: Sequence[str]) -> dict[str, Any]:
    candidate, outcome = trial.candidate, trial.outcome
    row = {**vars(candidate), **vars(outcome), "survivor": survivor}
    row |= {GENE + name: value for name, value in candidate.genome.items()}
    row |= {METRIC + name: value for name, value in outcome.metrics.items()}
    row |= {name: json.dumps(row[name]) for name in as_json}
    # A message may not be valid UTF-8, for example with an undecodable file name.
    row["error"] = outcome.error and outcome.error.encode("utf-8", "backslashreplace").decode()
    row["reported_order"] = None if trial.reported_order < 0 else trial.reported_order
    return row


def to_genome(row: Mapping[str, Any], genes: Mapping[str, Gene]) -> Genome:
    """Return the genome of a row that `from_trials` made."""
    values = {name: row[GENE + name] for name in genes}
    return {
        name: gene.check(read_json(values[name].encode()) if _is_mixed(gene) else values[name])
        for name, gene in genes.items()
    }


def to_outcome(row: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a row that `from_trials` made; curves are in the journal only."""
    metrics = {
        name.removeprefix(METRIC): value for name, value in row.items() if name.startswith(METRIC) and value is not None
    }
    return outcome_from(row["status"], metrics, row["seconds"], row["device"], row["error"])


def write(path: Path, rows: pa.Table) -> None:
    """Write a table as Parquet, atomically.

    Raises:
        StoreError: The file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    write_atomically(path, sink.getvalue().to_pybytes())


LARGEST = 1 << 26
"""Maximum size of a Parquet file to read, in bytes: about 200,000 trials."""


def table_of(run: Run, trials: Sequence[Trial], survivors: Iterable[int] = ()) -> pa.Table:
    """Return trials as an Arrow table, with the common schema of the run's files so far."""
    return from_trials(trials, survivors, schema_of(run))


def schema_of(run: Run) -> pa.Schema:
    """Return the common schema of the run's files so far."""
    return schema(run.genes, run.metric_names, run.manifest.units)


ROWS = 1024
"""Number of genomes in a file, rounded up to whole generations: more would make each closed generation cost more."""


def file_of(run: Run, generation: int) -> int:
    """Return the number of the file that contains a generation.

    It depends on the population alone. So a trial is in the same file from its first row on, and a reader that finds
    several files never reads a trial twice.
    """
    return generation // math.ceil(ROWS / run.manifest.population)


def file_path(run: Run, number: int) -> Path:
    """Return the path of a file of trials."""
    return run.folder / f"trials-{number:04d}.parquet"


def write_file(run: Run, number: int, trials: Sequence[Trial], survivors: Iterable[int]) -> None:
    """Write all trials of a file, which replaces the file atomically.

    Raises:
        StoreError: The file cannot be written.
    """
    write(file_path(run, number), table_of(run, trials, survivors))


def file_is_whole(run: Run, number: int, rows: int) -> bool:
    """Return whether a file of trials exists, is readable, and has the run's schema and `rows` rows."""
    try:
        with open_parquet(run, file_path(run, number).name) as file:
            whole: bool = file.schema_arrow.equals(schema_of(run)) and file.metadata.num_rows == rows
            return whole
    except (OSError, ValueError):  # missing, truncated, or not Parquet
        return False


def open_parquet(run: Run, name: str, limit: int = LARGEST, texts: Sequence[str] = ()) -> Any:
    """Open and return a Parquet file in a run's folder.

    Args:
        run: Saved run.
        name: Name of the file.
        limit: Maximum size in bytes.
        texts: Columns that are read as dictionaries.

    Raises:
        OSError: The file cannot be read or is too large.
        ValueError: The file is not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = inside.read(run.folder, name, limit=limit)
    limits = {"thrift_string_size_limit": LARGEST, "thrift_container_size_limit": LARGEST // 10}
    return pq.ParquetFile(pa.BufferReader(data), read_dictionary=list(texts), **limits)


def set_aside_files(run: Run, numbers: Iterable[int]) -> None:
    """Rename the files of trials that are not in the journal, so that no reader uses them.

    Such files exist if a journal was cut or lost. They are kept, because they may be the only copy of the results.

    Args:
        run: Run that is open for writing.
        numbers: Numbers of the files of the trials in the journal.

    Raises:
        StoreError: A file cannot be renamed.
    """
    known_names = {file_path(run, number).name for number in numbers}
    for path in sorted(run.folder.glob("trials-*.parquet")):
        if path.name not in known_names:
            aside = path.with_name(f"_{path.name}.aside")
            message = one_line(f"the journal knows nothing of {path}: renamed to {aside.name}")
            warnings.warn(message, stacklevel=2)
            try:
                path.replace(aside)
            except OSError as error:
                raise StoreError(f"cannot rename {path}: {error.strerror}") from error
