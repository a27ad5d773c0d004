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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from evo_tune.errors import EvoTuneError, StoreError
from evo_tune.genome.genes import Choice, Float, Gene
from evo_tune.genome.trial import Outcome, Trial
from evo_tune.genome.values import Genome
from evo_tune.store.events import Result
from evo_tune.store.journal import write_atomically
from evo_tune.store.manifest import Whole, read_json
from evo_tune.store.run import Run
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
        return pa.field(name, pa.float64(), metadata={"unit": str(unit)} if unit else None)

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


def open_parquet(run: Run, name: str, limit: int = MAX_FILE_BYTES, dictionary_columns: Sequence[str] = ()) -> Any:
    """Open and return a Parquet file in a run's folder.

    Args:
        run: Saved run.
        name: Name of the file.
        limit: Maximum size in bytes.
        dictionary_columns: Columns that are read as dictionaries.

    Raises:
        OSError: The file cannot be read or is too large.
        ValueError: The file is not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = safe_files.read(run.folder, name, limit=limit)
    # An item of a container takes more memory than in the file, so fewer are allowed.
    limits = {"thrift_string_size_limit": MAX_FILE_BYTES, "thrift_container_size_limit": MAX_FILE_BYTES // 10}
    return pq.ParquetFile(pa.BufferReader(data), read_dictionary=list(dictionary_columns), **limits)


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


# The run's final comparison: its results are not in the history. The id of a row is that of the trial whose genome is
# trained again. Each row names the evaluator and the data of its training. Rows of another evaluator or other data are
# kept, but not read.

COMPARISON = "_comparison.parquet"

# Maximum size of the file in bytes, because it is read as a whole.
MAX_COMPARISON_BYTES = 1 << 24

MAX_COMPARISON_ROWS = 100_000

# Maximum length of an error, a device name or a value, in bytes.
MAX_TEXT_BYTES = 10_000

# Columns with the evaluator and the data of a row's training.
EVALUATOR_COLUMN, DATA_COLUMN = "evaluator_hash", "fingerprint"


def read_comparison(run: Run) -> list[Trial]:
    """Return the results of the final comparison as trials; a damaged file counts as empty."""
    trials, _ = _read_comparison(run)
    return trials


def write_comparison(run: Run, trials: Sequence[Trial]) -> None:
    """Write all results of the run's present evaluator and data, replacing the earlier ones.

    Raises:
        StoreError: The file cannot be written.
    """
    import pyarrow as pa

    _, old_rows = _read_comparison(run)
    metric_names = run.metric_names
    extra_metrics = sorted({name for trial in trials for name in trial.outcome.metrics}.difference(metric_names))
    units = run.manifest.units
    # A metric on the test set has the unit of the same metric in the search.
    units = {**units, **{test_metric: units.get(name, "") for name, test_metric in run.manifest.tests.items()}}
    rows = from_trials(trials, (), trial_schema(run.genes, [*metric_names, *extra_metrics], units))
    for name, value in ((EVALUATOR_COLUMN, run.evaluator_hash), (DATA_COLUMN, run.fingerprint)):
        rows = rows.append_column(name, pa.array([value] * len(trials), pa.string()))
    if old_rows is not None:
        foreign_mask = [not _is_of_present_evaluator(row, run) for row in old_rows.to_pylist()]
        if any(foreign_mask):
            rows = pa.concat_tables([old_rows.filter(pa.array(foreign_mask)), rows], promote_options="default")
    write(run.folder / COMPARISON, rows)


def _read_comparison(run: Run) -> tuple[list[Trial], pa.Table | None]:
    """Return the results of the present evaluator and data, and the whole table; None if no table can be read."""
    if not safe_files.exists(run.folder, COMPARISON):  # checked often while a run continues
        return [], None
    trials: list[Trial] = []
    try:
        rows = _read_comparison_rows(run)
        for row in rows.to_pylist():
            if not _is_of_present_evaluator(row, run):
                continue
            # Checked, because they are used below: a damaged file may hold other types. -1: not reported.
            id, seed = msgspec.convert((row["id"], row["seed"]), tuple[Whole, Whole])
            candidate = replace(run.candidates[id], genome=to_genome(row, run.genes_when_proposed(id)), seed=seed)
            trial = Trial.of(candidate, to_outcome(row), -1, run.objectives, run.constraints)
            if trial.outcome.status == "ok" and trial.losses is None:
                raise ValueError("an objective is missing or not finite")
            trials.append(trial)
        return trials, rows
    except (OSError, ValueError, TypeError, AttributeError, LookupError, EvoTuneError):  # msgspec's are ValueErrors
        warnings.warn(f"{run.folder / COMPARISON} is damaged: the final comparison is done again", stacklevel=3)
        return [], None


def _read_comparison_rows(run: Run) -> pa.Table:
    """Return the file's rows, with the needed columns only.

    A few kilobytes of a stranger's Parquet can expand to any size, because repeated values cost nothing on disk. So the
    rows are counted first, only codecs with a low compression ratio are allowed, and distinct texts are checked once.

    Raises:
        OSError: The file cannot be read or is too large.
        ValueError: The file is not Parquet, or not as evo-tune writes it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    with open_parquet(run, COMPARISON, MAX_COMPARISON_BYTES) as plain_file:  # without dictionaries, to see its types
        metadata, file_schema = plain_file.metadata, plain_file.schema_arrow
        metrics = [name.removeprefix(METRIC_PREFIX) for name in file_schema.names if name.startswith(METRIC_PREFIX)]
        needed = {"id", "seed", "status", "seconds", "device", "error"}  # and genes and metrics, whose prefix has a dot
        present_schema = trial_schema(run.genes, metrics, {})
        types = {field.name: field.type for field in present_schema if field.name in needed or "." in field.name}
        types |= {EVALUATOR_COLUMN: pa.string(), DATA_COLUMN: pa.string()}
        if any(file_schema.field(name).type != arrow_type for name, arrow_type in types.items()):
            raise ValueError("its columns have other types")
        if metadata.num_rows > MAX_COMPARISON_ROWS:
            raise ValueError(f"it has {metadata.num_rows} rows")
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        codecs = {group.column(i).compression for group in groups for i in range(group.num_columns)}
        if not codecs <= {"SNAPPY", "UNCOMPRESSED"}:
            raise ValueError("its compression is not that of evo-tune")
    text_columns = [name for name, arrow_type in types.items() if arrow_type == pa.string()]
    needed_schema = pa.schema(types)
    parts = [needed_schema.empty_table()]
    with open_parquet(run, COMPARISON, MAX_COMPARISON_BYTES, text_columns) as file:
        for batch in file.iter_batches(batch_size=1000, columns=list(types), use_threads=False):
            for name in text_columns:
                longest = pc.max(pc.binary_length(batch.column(name).dictionary)).as_py()
                if (longest or 0) > MAX_TEXT_BYTES:
                    raise ValueError(f"a text in its column {name} has {longest} bytes")
            parts.append(pa.Table.from_batches([batch]).select(list(types)).cast(needed_schema))
    return pa.concat_tables(parts)


def _is_of_present_evaluator(row: Mapping[str, Any], run: Run) -> bool:
    """Return whether a result is from the run's present evaluator and data.

    Raises:
        ValueError: The row does not name them.
    """
    origin = row[EVALUATOR_COLUMN], row[DATA_COLUMN]
    if None in origin:
        raise ValueError("a row does not say under which evaluator or data it was made")
    return origin == (run.evaluator_hash, run.fingerprint)
