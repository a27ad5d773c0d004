"""Read genomes from an old run or a file, to seed a new run (law 10: they are births, trained anew)."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from evo_tune.errors import StoreError, UsageError
from evo_tune.population import Run, find_run
from evo_tune.space import read_value
from evo_tune.table import GENE

__all__ = ["read_genomes"]


def read_genomes(source: str, store: Path) -> list[dict[str, Any]]:
    """Return the genomes of a source, not yet checked against a space.

    Args:
        source: A CSV (columns NAME or gene.NAME), a JSON file (a list of genomes, or what
            `evo-tune best --format json` prints), or the name or path of a saved run, whose best
            trials, one population of them, are taken.
        store: Folder of the saved runs.

    Raises:
        UsageError: It is none of these, or holds no genome.
    """
    path = Path(source)
    if path.suffix == ".csv" and path.is_file():
        genomes = _from_csv(path)
    elif path.suffix == ".json" and path.is_file():
        genomes = _from_json(path)
    else:
        try:
            run = Run.open(find_run(store, source))
        except StoreError as error:
            raise UsageError(f"--warm-start {source}: expected a .csv or .json file, or a run; {error}") from None
        genomes = [trial.genome for trial in run.ranked()[: run.manifest.population]]
    if not genomes:
        raise UsageError(f"--warm-start {source}: it holds no genome")
    return genomes


def _from_csv(path: Path) -> list[dict[str, Any]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    prefixed = any(name.startswith(GENE) for name in (rows[0] if rows else ()))
    genomes = []
    for row in rows:
        names = [name for name in row if name and (not prefixed or name.startswith(GENE))]
        genomes.append({name.removeprefix(GENE): read_value(row[name] or "") for name in names})
    return genomes


def _from_json(path: Path) -> list[dict[str, Any]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"--warm-start {path}: {error}; expected JSON") from None
    rows = data if isinstance(data, list) else [data]
    if not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"--warm-start {path}: expected a list of genomes, each an object of gene names to values")
    return [row.get("genome", row) for row in rows]
