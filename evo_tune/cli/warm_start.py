"""Read genomes from a saved run or a file for a warm start (law 10: they are new trials)."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from evo_tune.errors import StoreError, UsageError
from evo_tune.genome.values import read_value
from evo_tune.report.summary import pareto_front
from evo_tune.store.manifest import read_json
from evo_tune.store.places import find_run
from evo_tune.store.run import Run
from evo_tune.store.table import GENE
from evo_tune.text import of_cell, one_line
from evo_tune.trust import inside

LARGEST = 1 << 26
"""Maximum size of a file of genomes, in bytes."""


def read_genomes(source: str, store: Path) -> list[dict[str, Any]]:
    """Return the genomes of a source, not yet checked against a space.

    Args:
        source: A CSV with columns NAME or gene.NAME, a JSON file, or the name or path of a saved run. The JSON is a
            list of genomes, or the output of `evo-tune best --format json`. Of a run, the best trials are taken, one
            population of them. Of a run with several objectives, the whole front is taken.
        store: Folder of the saved runs.

    Raises:
        UsageError: It is none of these, cannot be read, or has no genome.
    """
    path = Path(source)
    if path.suffix == ".csv" and path.is_file():
        genomes = _genomes_of_csv(path)
    elif path.suffix == ".json" and path.is_file():
        genomes = _genomes_of_json(path)
    else:
        try:
            run = Run.open(find_run(store, source))
        except StoreError as error:
            raise UsageError(f"--warm-start {source}: expected a .csv or .json file, or a run; {error}") from None
        best = pareto_front(run) if len(run.objectives) > 1 else run.ranked()[: run.manifest.population]
        genomes = [trial.genome for trial in best]
    if not genomes:
        raise UsageError(f"--warm-start {source}: expected at least one genome, found none")
    return genomes


def _read_text(path: Path) -> str:
    try:
        data = inside.read(path.resolve().parent, path.resolve().name, limit=LARGEST)  # the user's own link
        return data.decode("utf-8-sig")  # Excel begins a file with a byte order mark
    except UnicodeDecodeError as error:
        raise UsageError(f"--warm-start {path}: byte {error.start} is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"--warm-start {path}: {error.strerror}; check the file") from None


def _genomes_of_csv(path: Path) -> list[dict[str, Any]]:
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    genomes = []
    try:
        header = [of_cell(name) for name in next(reader, [])]
        prefixed = any(name.startswith(GENE) for name in header)
        for cells in reader:
            if cells and len(cells) != len(header):  # an empty line has none
                raise UsageError(
                    f"--warm-start {path}, line {reader.line_num}: {len(cells)} columns: expected {len(header)}, as in "
                    "line 1"
                )
            named = [(name, cell) for name, cell in zip(header, cells, strict=False) if name]
            genes = [(name, cell) for name, cell in named if name.startswith(GENE) or not prefixed]
            if genes:
                genomes.append({name.removeprefix(GENE): read_value(of_cell(cell)) for name, cell in genes})
    except csv.Error as error:
        raise UsageError(f"--warm-start {path}, line {reader.line_num}: {error}; expected CSV") from None
    return genomes


def _genomes_of_json(path: Path) -> list[dict[str, Any]]:
    try:
        data = read_json(_read_text(path).encode())
    except ValueError as error:
        raise UsageError(f"--warm-start {path}: {error}; expected JSON") from None
    genomes = []
    for number, row in enumerate(data if isinstance(data, list) else [data], 1):
        genome = row.get("genome", row) if isinstance(row, dict) else row
        if not isinstance(genome, dict):
            raise UsageError(
                f"--warm-start {path}, row {number}: {one_line(repr(genome), 60)} is no genome: expected an object of "
                "gene names to values"
            )
        genomes.append(genome)
    return genomes
