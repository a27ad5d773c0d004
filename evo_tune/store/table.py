"""Trials as Arrow tables, and the Parquet files of a run.

All files of a run have one explicit schema, made from its genes and metrics. It is never guessed from values: a column
that is null throughout the first file would break the reading of the others. The files are derived from the journal
and can be rebuilt. pyarrow is imported when a table is made.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from evo_tune.errors import EvoTuneError, StoreError, explain_error
from evo_tune.genome.genes import Choice, Float, Gene
from evo_tune.genome.trial import Outcome, Trial
from evo_tune.genome.values import Genome
from evo_tune.store.events import Result
from evo_tune.store.journal import write_atomically
from evo_tune.store.manifest import Whole, read_json
from evo_tune.store.run import FreshResult, Run
from evo_tune.text import one_line
from evo_tune.trust import safe_files

if TYPE_CHECKING:
    import pyarrow as pa

GENE_PREFIX = "gene."
METRIC_PREFIX = "metric."


def trial_schema(genes: Mapping[str, Gene], metrics: Sequence[str], units: Mapping[str, str]) -> pa.Schema:
    """Return the Parquet schema of a run.

    Args:
        genes: Genes by name; columns `gene.NAME`.
        metrics: Names of the metrics, in order; columns `metric.NAME`.
        units: Unit by metric name, for the metadata of the fields.
    """
    import pyarrow as pa

    int_type, text_type = pa.int64(), pa.string()

    def gene_field(name: str, kind: type | None) -> pa.Field:
        arrow_type = {bool: pa.bool_(), int: int_type, float: pa.float64()}.get(kind or str, text_type)
        return pa.field(GENE_PREFIX + name, arrow_type, metadata=None if kind else {"encoding": "JSON"})

    def number_field(name: str, unit: str) -> pa.Field:
        return pa.field(name, pa.float64(), metadata={"unit": str(unit).encode("utf-8", "replace")} if unit else None)

    return pa.schema(
        [
            pa.field("id", int_type),
            pa.field("generation", int_type),
            pa.field("status", text_type),
            *(gene_field(name, _value_type(gene)) for name, gene in genes.items()),
            *(number_field(METRIC_PREFIX + name, units.get(name, "")) for name in metrics),
            pa.field("parents", pa.list_(int_type)),
            pa.field("operator", text_type),
            pa.field("seed", int_type),
            pa.field("extra_seed", int_type),
            number_field("budget", "fraction of the full training"),
            pa.field("resumes", int_type),
            pa.field("reported_before", int_type),
            pa.field("reported_order", int_type),
            number_field("seconds", "s"),
            pa.field("device", text_type),
            pa.field("error", text_type),
            pa.field("survivor", pa.bool_()),
        ]
    )


def _value_type(gene: Gene) -> type | None:
    """Return the common type of a gene's values; None if they have none, so that they are stored as JSON text."""
    if not isinstance(gene, Choice):
        return float if isinstance(gene, Float) else int
    value_types = {type(value) for value in gene.values}
    if value_types == {int, float}:
        return float
    return value_types.pop() if len(value_types) == 1 else None


def from_trials(trials: Sequence[Trial], survivors: Iterable[int], schema: pa.Schema) -> pa.Table:
    """Return trials as rows.

    Args:
        trials: Trials in the order of the rows.
        survivors: Ids to mark in the column `survivor`.
        schema: Result of `trial_schema`, with the genes, the metrics and their types.
    """
    import pyarrow as pa

    survivor_ids = set(survivors)
    json_columns = [name for name in schema.names if (schema.field(name).metadata or {}).get(b"encoding") == b"JSON"]
    rows = []
    for trial in trials:
        candidate, outcome = trial.candidate, trial.outcome
        # The table takes only the fields that the schema names.
        row = {**vars(candidate), **vars(outcome), "survivor": trial.id in survivor_ids}
        row |= {GENE_PREFIX + name: value for name, value in candidate.genome.items()}
        row |= {METRIC_PREFIX + name: value for name, value in outcome.metrics.items()}
        row |= {name: json.dumps(row[name]) for name in json_columns}
        # A message may not be valid UTF-8, for example with an undecodable file name.
        row["error"] = outcome.error and outcome.error.encode("utf-8", "backslashreplace").decode()
        row["reported_order"] = None if trial.reported_order < 0 else trial.reported_order
        rows.append(row)
    return pa.table([pa.array([row.get(field.name) for row in rows], type=field.type) for field in schema], schema)


def to_genome(row: Mapping[str, Any], genes: Mapping[str, Gene]) -> Genome:
    """Return the genome of a row that `from_trials` made."""
    values = {name: row[GENE_PREFIX + name] for name in genes}
    values |= {name: read_json(values[name].encode()) for name, gene in genes.items() if _value_type(gene) is None}
    return {name: gene.check(values[name]) for name, gene in genes.items()}


def to_outcome(row: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a row that `from_trials` made; curves are in the journal only."""
    # None for a number that is not finite, as in the journal, whose type `Result` is used below.
    metrics = {
        name.removeprefix(METRIC_PREFIX): value if math.isfinite(value) else None
        for name, value in row.items()
        if name.startswith(METRIC_PREFIX) and value is not None
    }
    fields = {name: row[name] for name in ("status", "seconds", "device", "error")}
    return msgspec.convert({**fields, "metrics": metrics, "curve": ()}, Result).outcome()


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


# Maximum size of a Parquet file to read, in bytes: about 200,000 trials.
MAX_FILE_BYTES = 1 << 26


def table_of(run: Run, trials: Sequence[Trial], survivors: Iterable[int] = ()) -> pa.Table:
    """Return trials as an Arrow table, with the common schema of the run's files so far."""
    return from_trials(trials, survivors, trial_schema(run.genes, run.metric_names, run.manifest.units))


# Number of genomes in a file, rounded up to whole generations: more would make each closed generation cost more.
GENOMES_PER_FILE = 1024


def file_number(run: Run, generation: int) -> int:
    """Return the number of the file that contains a generation.

    It depends on the population alone. So a trial is in the same file from its first row on, and a reader that finds
    several files never reads a trial twice.
    """
    return generation // math.ceil(GENOMES_PER_FILE / run.manifest.population)


def file_path(run: Run, number: int) -> Path:
    """Return the path of a file of trials."""
    return run.folder / f"trials-{number:04d}.parquet"


def file_is_whole(run: Run, number: int, rows: int) -> bool:
    """Return whether a file of trials exists, is readable, and has the run's schema and `rows` rows."""
    name = file_path(run, number).name
    with contextlib.suppress(OSError, ValueError), open_parquet(run, name) as file:  # missing, truncated, no Parquet
        run_schema = trial_schema(run.genes, run.metric_names, run.manifest.units)
        return bool(file.schema_arrow.equals(run_schema)) and file.metadata.num_rows == rows
    return False


def open_parquet(run: Run, name: str, dictionary_columns: Sequence[str] = ()) -> Any:
    """Open and return a Parquet file in a run's folder.

    Args:
        run: Saved run.
        name: Name of the file.
        dictionary_columns: Columns that are read as dictionaries.

    Raises:
        OSError: The file cannot be read or is too large.
        ValueError: The file is not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = safe_files.read(run.folder, name, limit=MAX_FILE_BYTES)
    # An item of a container takes more memory than in the file, so fewer are allowed.
    limits = {"thrift_string_size_limit": MAX_FILE_BYTES, "thrift_container_size_limit": MAX_FILE_BYTES // 10}
    return pq.ParquetFile(pa.BufferReader(data), read_dictionary=list(dictionary_columns), **limits)


def set_aside_files(run: Run, numbers: Iterable[int]) -> None:
    """Rename files of trials, and of a final comparison, that are not in the journal, so that no reader uses them.

    Such files exist if a journal was cut or lost. They are kept, because they may be the only copy of the results.

    Args:
        run: Run that is open for writing.
        numbers: Numbers of the files of the trials in the journal.

    Raises:
        StoreError: A file cannot be renamed.
    """
    known_names = {file_path(run, number).name for number in numbers}
    if run.fresh or run.journal.first_linked != 1:  # version 1.0 had the final comparison in no other file
        known_names.add(COMPARISON)
    for path in sorted([*run.folder.glob("trials-*.parquet"), *run.folder.glob(COMPARISON)]):
        if path.name not in known_names:
            aside = path.with_name(f"_{path.name.lstrip('_')}.aside")
            message = one_line(f"the journal knows nothing of {path}: renamed to {aside.name}")
            warnings.warn(message, stacklevel=2)
            with explain_error(StoreError, f"cannot rename {path}"):
                path.replace(aside)


# The run's final comparison: its results are not in the history. The id of a row is that of the trial whose genome is
# trained again. Each row names the evaluator and the data of its training; rows of other ones count no more. The
# results are in the journal. Version 1.0 had them in this file alone, so the files of its runs are read.

COMPARISON = "_comparison.parquet"

MAX_COMPARISON_ROWS = 100_000

# Maximum length of an error, a device name or a value, in bytes.
MAX_TEXT_BYTES = 10_000

# Maximum number of parents of a trial, on average.
MAX_PARENTS = 1000

# Columns with the evaluator and the data of a row's training.
EVALUATOR_COLUMN, DATA_COLUMN = "evaluator_hash", "fingerprint"


def read_comparison(run: Run) -> list[Trial]:
    """Return the results of the final comparison, of the run's present evaluator and data, as trials."""
    present = run.evaluator_hash, run.fingerprint
    results = run.fresh or unrecorded_comparison(run)
    return [result.trial for result in results if (result.evaluator_hash, result.fingerprint) == present]


def unrecorded_comparison(run: Run) -> list[FreshResult]:
    """Return the results in the file of a run that version 1.0 began, until its journal has them.

    A damaged file counts as empty.
    """
    is_in_journal = run.fresh or run.journal.first_linked == 1
    if is_in_journal or not safe_files.exists(run.folder, COMPARISON):  # checked often while a run continues
        return []
    results = []
    try:
        for row in _read_comparison_rows(run).to_pylist():
            # Checked, because they are used below: a damaged file may hold other types.
            id, seed, *origin = msgspec.convert(
                (row["id"], row["seed"], row[EVALUATOR_COLUMN], row[DATA_COLUMN]), tuple[Whole, Whole, str, str]
            )
            genome = to_genome(row, run.genes_when_proposed(id))
            results.append(FreshResult(run.fresh_trial(id, seed, genome, to_outcome(row)), *origin))
    except (OSError, ValueError, TypeError, AttributeError, LookupError, EvoTuneError):  # msgspec's are ValueErrors
        warnings.warn(f"{run.folder / COMPARISON} is damaged: the final comparison is done again", stacklevel=3)
        return []
    return results


def comparison_table(run: Run) -> pa.Table:
    """Return the results of the final comparison in the journal as an Arrow table."""
    import pyarrow as pa

    trials, metric_names, units = [result.trial for result in run.fresh], run.metric_names, run.manifest.units
    extra_metrics = sorted({name for trial in trials for name in trial.outcome.metrics}.difference(metric_names))
    # A metric on the test set has the unit of the same metric in the search.
    units = {**units, **{test_metric: units.get(name, "") for name, test_metric in run.manifest.tests.items()}}
    rows = from_trials(trials, (), trial_schema(run.genes, [*metric_names, *extra_metrics], units))
    for name in (EVALUATOR_COLUMN, DATA_COLUMN):
        rows = rows.append_column(name, pa.array([getattr(result, name) for result in run.fresh], pa.string()))
    return rows


def write_comparison(run: Run) -> None:
    """Write the file of the final comparison from the journal.

    Raises:
        StoreError: The file cannot be written.
    """
    write(run.folder / COMPARISON, comparison_table(run))


def repair_comparison(run: Run) -> None:
    """Write the file of the final comparison again if it is not as the journal of an opened run has it.

    Raises:
        StoreError: The file cannot be written.
    """
    difference = file_difference(run, COMPARISON, comparison_table(run)) if run.fresh else ""
    if difference:
        if run.ended is not None:  # a killed session may have written the journal only
            text = one_line(f"{run.folder / COMPARISON} does not agree with the journal ({difference}): written again")
            warnings.warn(text, stacklevel=2)
        write_comparison(run)


def _read_comparison_rows(run: Run) -> pa.Table:
    """Return the rows of a comparison's file, with the needed columns only; it raises as `_read_rows` does."""
    import pyarrow as pa

    with open_parquet(run, COMPARISON) as file:
        file_schema = file.schema_arrow
    metrics = [name.removeprefix(METRIC_PREFIX) for name in file_schema.names if name.startswith(METRIC_PREFIX)]
    needed = {"id", "seed", "status", "seconds", "device", "error"}  # and genes and metrics, whose prefix has a dot
    fields = [field for field in trial_schema(run.genes, metrics, {}) if field.name in needed or "." in field.name]
    fields += [pa.field(name, pa.string()) for name in (EVALUATOR_COLUMN, DATA_COLUMN)]
    return _read_rows(run, COMPARISON, pa.schema(fields), MAX_COMPARISON_ROWS, MAX_TEXT_BYTES)


def _read_rows(run: Run, name: str, schema: pa.Schema, most_rows: int, longest_text: int) -> pa.Table:
    """Return the rows of a Parquet file that may come from a stranger.

    A few kilobytes can expand to any size, because repeated values cost nothing on disk. So the rows are counted first,
    only codecs with a low compression ratio are allowed, and distinct texts are checked once.

    Args:
        run: Saved run.
        name: Name of the file.
        schema: Columns to read, with their types.
        most_rows: Maximum number of rows.
        longest_text: Maximum length of a text in bytes.

    Raises:
        OSError: The file cannot be read or is too large.
        ValueError: The file is not Parquet, or not as evo-tune writes it.
        KeyError: It lacks a column.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    with open_parquet(run, name) as plain_file:  # without dictionaries, to see its types
        metadata, file_schema = plain_file.metadata, plain_file.schema_arrow
        if any(file_schema.field(field.name).type != field.type for field in schema):
            raise ValueError("its columns have other types")
        if metadata.num_rows > most_rows:
            raise ValueError(f"it has {metadata.num_rows} rows")
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        if not {chunk.compression for chunk in chunks} <= {"SNAPPY", "UNCOMPRESSED"}:
            raise ValueError("its compression is not that of evo-tune")
        if any(chunk.num_values > MAX_PARENTS * most_rows for chunk in chunks):
            raise ValueError("a list in it is too long")
    text_columns = [field.name for field in schema if field.type == pa.string()]
    plain_schema = pa.schema([field.remove_metadata() for field in schema])
    parts = [plain_schema.empty_table()]
    with open_parquet(run, name, dictionary_columns=text_columns) as file:
        for batch in file.iter_batches(batch_size=1000, columns=schema.names, use_threads=False):
            for column in text_columns:
                longest = pc.max(pc.binary_length(batch.column(column).dictionary)).as_py()
                if (longest or 0) > longest_text:
                    raise ValueError(f"a text in its column {column} has {longest} bytes")
            parts.append(pa.Table.from_batches([batch]).select(schema.names).cast(plain_schema))
    return pa.concat_tables(parts)


def file_difference(run: Run, name: str, expected: pa.Table) -> str:
    """Return how a Parquet file of a run differs from rows that follow from the journal, in words; '' if it does not.

    Args:
        run: Saved run.
        name: Name of the file.
        expected: The rows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = [pc.max(pc.binary_length(column)).as_py() or 0 for column in expected if column.type == pa.string()]
    try:
        with open_parquet(run, name) as file:
            schemas = file.schema_arrow, expected.schema
        fields, expected_fields = ([(field.name, field.type, field.metadata) for field in schema] for schema in schemas)
        if fields != expected_fields:
            return "its columns, types or units are others"
        rows = _read_rows(run, name, expected.schema, len(expected), max(texts))
        if len(rows) != len(expected):
            return f"it has {len(rows)} rows in place of {len(expected)}"
        # Values as text, because NaN is not equal to itself, and 0.0 is to -0.0.
        columns = zip(rows.column_names, rows, expected, strict=True)
        names = [name for name, *pair in columns if len({str(column.to_pylist()) for column in pair}) > 1]
    except FileNotFoundError:
        return "it is missing"
    except (OSError, ValueError, pa.ArrowException) as error:
        return one_line(str(error), 200)
    return f"other values in {', '.join(names)}" if names else ""
