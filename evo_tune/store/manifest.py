"""What is fixed for a run before its first birth: the one file `_run.json`, read, checked and written.

Knows nothing of the journal, of strategies or of slots.
"""

from __future__ import annotations

import json
import typing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evo_tune.errors import EvoTuneError, StoreError
from evo_tune.genome.constraint import Constraint
from evo_tune.genome.space import Gene, Genome, SearchSpace, gene_from
from evo_tune.genome.trial import Objective
from evo_tune.store.journal import write_atomically

__all__ = ["FORMAT", "MANIFEST", "ORDERS", "Manifest", "read_manifest", "space_of", "write_manifest"]

FORMAT = 1
"""Version of the layout on disk; a run of another one is refused, not guessed at."""

MANIFEST = "_run.json"

ORDERS = ("arrival", "birth")
"""Orders in which strategies are told results (law 3)."""


@dataclass(frozen=True)
class Manifest:
    """What is fixed for a run from its first birth on.

    Args:
        evaluator: Reference: 'bundled:NAME', 'entry:NAME' or a path as the user typed it.
        evaluator_hash: SHA-256 over the evaluator's file and its local modules.
        fingerprint: Identity of the data, as the evaluator tells it; '' if it does not.
        options: Every option of the evaluator, defaults included.
        space: Description of every gene.
        objectives: METRIC:min or METRIC:max, in order of importance.
        strategy: Name or path.
        strategy_options: Every option of the strategy, population included.
        seed: Seed of the run.
        order: 'arrival' or 'birth' (law 3).
        lag: Results that a birth may run ahead of, in birth order.
        threads: CPU threads of one training; they change its arithmetic.
        warm_start: Genomes born right after the default.
        rungs: Budgets of a genome's trials, increasing to 1.
        prune: Whether candidates are born with bounds on their curves.
        replicates: Seeds that the leading genome must have been trained with.
        inherit: Share of a full training that a genome gets which begins with another's weights; 0: none does.
        subject_to: METRIC<=NUMBER or METRIC>=NUMBER.
        units: Declared metric name to unit, for the Parquet files; '' where there is none.
        versions: Of Python and of the packages that shape results.
        created: UTC time, ISO 8601.
        format: Version of the layout on disk.
    """

    evaluator: str
    evaluator_hash: str
    fingerprint: str
    options: dict[str, Any]
    space: dict[str, Any]
    objectives: list[str]
    strategy: str
    strategy_options: dict[str, Any]
    seed: int
    order: str
    lag: int
    threads: int
    warm_start: list[Genome] = field(default_factory=list)
    rungs: list[float] = field(default_factory=lambda: [1.0])
    prune: bool = False
    replicates: int = 1
    inherit: float = 0.0
    subject_to: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    format: int = FORMAT

    @property
    def population(self) -> int:
        """Births in a generation."""
        return int(self.strategy_options["population"])

    def parsed_objectives(self) -> tuple[Objective, ...]:
        """Return the objectives."""
        return tuple(Objective.parse(text) for text in self.objectives)

    def constraints(self) -> tuple[Constraint, ...]:
        """Return the constraints."""
        return tuple(Constraint.parse(text) for text in self.subject_to)

    def genes(self) -> dict[str, Gene]:
        """Return the genes."""
        return {name: gene_from(gene) for name, gene in self.space.items()}


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a run's folder.

    Raises:
        StoreError: There is none, it is damaged, or it is of another format.
    """
    path = folder / MANIFEST
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        written = fields["format"]
        if written == FORMAT:
            return _checked(Manifest(**fields))
    except FileNotFoundError:
        raise StoreError(f"{folder} is no saved run: it has no {MANIFEST}; `evo-tune list` shows the runs") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, EvoTuneError) as error:
        raise StoreError(f"{path} is damaged ({type(error).__name__}: {error}); restore it from a copy") from None
    raise StoreError(f"{path} has format {written!r}: this version of evo-tune reads format {FORMAT}")


def _checked(manifest: Manifest) -> Manifest:
    """Return the manifest if every field has its type, down to what the rest relies on.

    Raises:
        TypeError: A field has another type.
        EvoTuneError: A gene or an objective is not understood.
    """
    for name, kind in typing.get_type_hints(Manifest).items():
        value, plain = getattr(manifest, name), typing.get_origin(kind) or kind
        if type(value) is not plain:
            raise TypeError(f"{name} is {value!r}, expected {plain.__name__}")
    if type(manifest.strategy_options["population"]) is not int or manifest.population < 1:
        raise TypeError(f"population is {manifest.strategy_options['population']!r}")
    if not manifest.parsed_objectives() or not manifest.genes():
        raise TypeError("no objective, or no gene")
    if (
        manifest.rungs != sorted(set(manifest.rungs))
        or not manifest.rungs
        or not 0 < manifest.rungs[0] <= 1.0 == manifest.rungs[-1]
    ):
        raise TypeError(f"rungs is {manifest.rungs}")
    if not 0.0 <= manifest.inherit < 1.0:
        raise TypeError(f"inherit is {manifest.inherit}")
    manifest.constraints()  # raises
    if manifest.order not in ORDERS or min(manifest.lag, manifest.seed) < 0:
        raise TypeError(f"order is {manifest.order!r}, lag {manifest.lag}, seed {manifest.seed}")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, whole or not at all: with it a folder is a run.

    Raises:
        StoreError: The disk refuses.
    """
    write_atomically(folder / MANIFEST, json.dumps(asdict(manifest), indent=2).encode() + b"\n")


def space_of(manifest: Manifest, repair_from: SearchSpace | None = None) -> SearchSpace:
    """Return a manifest's search space, with the repair of the evaluator's own space."""
    return SearchSpace(None if repair_from is None else repair_from.repair, None, **manifest.genes())
