"""The manifest of a run, `_run.json`: its settings, fixed before the first trial; read, checked and written here.

This module does not know the journal, strategies or slots.
"""

from __future__ import annotations

import hashlib
import json
import sys
import uuid
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypedDict

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from evo_tune.errors import EvoTuneError, StoreError
from evo_tune.genome.genes import Gene, gene_from
from evo_tune.genome.history import results_digest
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Constraint, Objective, trial_seed
from evo_tune.genome.values import Genome, genome_key
from evo_tune.settings import RunSettings, read_settings
from evo_tune.store.journal import write_atomically
from evo_tune.text import one_line
from evo_tune.trust import safe_files

# An id, a count or a seed.
Whole: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]

# A finite number.
Finite: TypeAlias = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]

# A duration in seconds.
Spent: TypeAlias = Annotated[float, Meta(ge=0, le=1e12)]

# A fraction.
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]

# A number of objects to make; bounded because the file may come from a stranger.
Count: TypeAlias = Annotated[int, Meta(ge=0, le=10**6)]

# A number of fresh seeds: at most twice the largest `--final-seeds`.
Seeds: TypeAlias = Annotated[int, Meta(ge=1, le=2000)]

# Version of the layout on disk. A run of another version is refused; CONTRIBUTING.md says what a new version takes.
FORMAT = 1

MANIFEST = "_run.json"

# Maximum size of a manifest in bytes.
LARGEST = 1 << 24

# A name, or a path.
Reference: TypeAlias = Annotated[str, Meta(max_length=4096)]

# Maximum number of new genomes in a generation.
CROWD = 10**6


# The name of a patch, and a SHA-256.
PatchName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=101)]
Hash: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class PatchRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A patch of a run; its text is in the run's folder `_code`.

    Args:
        name: Name of its file, without suffix.
        gene: Name of the gene that switches it on.
        title: Line for people.
        hash: SHA-256 of its text, the name of the copy.
        requires: Names of patches without which it is off.
        excludes: Names of patches with which it is off.
    """

    name: PatchName
    gene: PatchName
    title: str
    hash: Hash
    requires: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()


class PatchedProject(Struct, frozen=True, forbid_unknown_fields=True):
    """The project of a run with patches.

    Args:
        project: SHA-256 of the listing of its files, the name of the copy in the run's folder `_code`.
        patches: Patches with which the run began, in the order of their names.
        allow: Whether patches that others propose may join the run (`--allow-patches`).
    """

    project: Hash
    patches: Annotated[list[PatchRecord], Meta(max_length=200)]
    allow: bool = False


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of a run that are fixed before its first trial.

    Args:
        evaluator: Reference: 'bundled:NAME', 'entry:NAME' or a path as the user typed it.
        evaluator_hash: SHA-256 over the evaluator's file and its local modules.
        fingerprint: Identity of the data, from the evaluator; '' if it gives none.
        options: Every option of the evaluator, defaults included.
        space: Description of every gene.
        objectives: METRIC:min or METRIC:max, in order of importance.
        subject_to: Constraints: METRIC<=NUMBER or METRIC>=NUMBER.
        strategy: Name or path of the strategy.
        strategy_options: Every option of the strategy, population included.
        strategy_hash: SHA-256 over the file of a strategy that is not evo-tune's own, and its local modules; else ''.
        settings: Settings of the run.
        threads: CPU threads of one training, decided from `settings.threads` and the machine.
        given_genes: Names of the genes that the user gave in place of the evaluator's own.
        given_objectives: Whether the user gave the objectives in place of the evaluator's own.
        warm_start: Genomes that are trained right after the default.
        learned: Results of earlier runs, copied here so that replay and resume need nothing else.
        limits: Lowest and highest value to which the run may widen a gene by itself, by name.
        units: Unit by metric name, for the Parquet files; '' for no unit.
        tests: Names of metrics on the test set, by their names in the search (see `Evaluator.tests`).
        versions: Versions of Python and of the packages that shape results.
        created: UTC time, ISO 8601.
        identity: Random text that is unique to this run.
        patched: Project and patches of a run with patches; missing in others.
        dropped: Settings that this version no longer has, with values that had an effect; missing if there are none.
        format_version: Version of the layout on disk.
    """

    evaluator: Reference
    evaluator_hash: str
    fingerprint: str
    options: dict[str, Any]
    space: dict[str, dict[str, Any]]
    objectives: list[str]
    strategy: Reference
    strategy_options: dict[str, Any]
    settings: RunSettings
    threads: Count
    subject_to: list[str] = field(default_factory=list)
    strategy_hash: str = ""
    given_genes: list[str] = field(default_factory=list)
    given_objectives: bool = False
    warm_start: list[Genome] = field(default_factory=list)
    learned: Annotated[list[Learned], Meta(max_length=RUNS)] = field(default_factory=list)
    limits: dict[str, tuple[int | Finite, int | Finite]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    tests: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    identity: str = ""
    patched: PatchedProject | UnsetType = UNSET
    dropped: dict[str, Any] | UnsetType = UNSET
    format_version: int = FORMAT

    @property
    def population(self) -> int:
        """Number of new genomes in a generation."""
        return int(self.strategy_options["population"])

    def seed_of(self, genome: Genome, extra_seed: int) -> int:
        """Return the seed of a genome's training; `extra_seed` is 0 for its first one."""
        return trial_seed(self.settings.seed, extra_seed, genome_key(genome) if self.settings.own_seeds else None)

    def objective_list(self) -> tuple[Objective, ...]:
        """Return the objectives."""
        return tuple(Objective.parse(text) for text in self.objectives)

    def constraints(self) -> tuple[Constraint, ...]:
        """Return the constraints."""
        return tuple(Constraint.parse(text) for text in self.subject_to)

    def genes(self) -> dict[str, Gene]:
        """Return the genes."""
        return {name: gene_from(gene) for name, gene in self.space.items()}


# Maximum nesting depth of lists and objects.
DEEPEST = 50

# Maximum number of digits of an integer; a longer one is no finite float.
DIGITS = 300


def read_json(data: bytes) -> Any:
    """Return the value of JSON text from an untrusted file.

    Raises:
        ValueError: The text is not JSON, is nested too deeply, or contains an integer that is too long.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_int=_whole)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        nested = [[*inner.values()] if isinstance(inner, dict) else inner for inner in level]
        level = [value for inner in nested if isinstance(inner, list) for value in inner]
        if not level:
            return value
    raise ValueError(f"it is nested more than {DEEPEST} deep")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a whole number in it has {len(digits)} digits")
    return int(digits)


def manifest_hash(folder: Path, manifest: Manifest) -> str:
    """Return the SHA-256 of the manifest in a folder, without its identity, which a copy of the run has anew.

    Args:
        folder: Folder of the run.
        manifest: The manifest, for a folder where it is not written yet.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        data = safe_files.read(folder, MANIFEST, limit=LARGEST)
    except OSError:
        data = _manifest_data(manifest)
    return hashlib.sha256(json.dumps({**read_json(data), "identity": ""}, sort_keys=True).encode()).hexdigest()


def copy_manifest(folder: Path, target: Path) -> None:
    """Write a run's manifest into the folder of a copy, with an identity of its own and no other change.

    Raises:
        OSError: The copy cannot be written.
    """
    fields = {**read_json(safe_files.read(folder, MANIFEST, limit=LARGEST)), "identity": uuid.uuid4().hex}
    safe_files.replace(target, MANIFEST, json.dumps(fields, indent=2).encode() + b"\n", f"{MANIFEST}.part")


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a run's folder.

    Raises:
        StoreError: The manifest is missing, damaged, or of another format.
    """
    path = folder / MANIFEST
    try:
        fields = read_json(safe_files.read(folder, MANIFEST, limit=LARGEST))
        written = fields.get("format_version")
        if written == FORMAT and type(written) is int:
            return _manifest(fields)
    except FileNotFoundError:
        raise StoreError(f"{folder} is no saved run: it has no {MANIFEST}; `evo-tune list` shows the runs") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, EvoTuneError) as error:
        cause = one_line(f"{type(error).__name__}: {error}")
        raise StoreError(f"{path} is damaged ({cause}); restore it from a copy") from None
    cause = "an unreleased format" if written is None else f"format {one_line(repr(written), 60)}"
    remedy = "begin a new run, or use the version of evo-tune that wrote it"
    raise StoreError(f"{path} is of {cause}, and this version of evo-tune reads format {FORMAT} only: {remedy}")


def _manifest(fields: dict[str, Any]) -> Manifest:
    """Return the manifest of these fields, if its types and values are valid.

    Raises:
        ValueError, TypeError, AttributeError: A field is missing, or is not valid. msgspec's errors are ValueErrors.
        EvoTuneError: A setting, a gene, an objective or a constraint is not valid.
    """
    settings, dropped = read_settings(RunSettings, fields.get("settings", {}))
    # An earlier writer of this run may have moved settings to `dropped` already.
    fields = {**fields, "settings": settings.to_json()} | ({"dropped": dropped} if dropped else {})
    manifest = msgspec.convert(fields, Manifest)
    if type(manifest.strategy_options.get("population")) is not int or not 1 <= manifest.population <= CROWD:
        raise ValueError(f"population is {manifest.strategy_options.get('population')!r}")
    if not manifest.objective_list() or not manifest.genes():
        raise ValueError("no objective, or no gene")
    manifest.constraints()  # raises an error if one is not valid
    patched = manifest.patched
    if patched is not UNSET and {patch.gene for patch in patched.patches} - manifest.space.keys():
        raise ValueError("a patch has no gene")
    if manifest.limits.keys() - manifest.space.keys():
        raise ValueError("a limit is not of a gene")
    for earlier_run in manifest.learned:
        name, genomes, losses = one_line(earlier_run["name"]), earlier_run["genomes"], earlier_run["losses"]
        if not 0 < len(genomes) == len(losses) <= MOST_LEARNED:
            raise ValueError(f"learned from {name}: {len(genomes)} genomes")
        if results_digest(genomes, losses) != earlier_run["sha256"]:
            raise ValueError(f"learned from {name}: the hash is not that of what is there")
    return manifest


def _manifest_data(manifest: Manifest) -> bytes:
    return json.dumps(msgspec.to_builtins(manifest), indent=2).encode() + b"\n"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest atomically; a folder with a manifest is a run.

    Raises:
        StoreError: The manifest cannot be written, or could not be read back.
    """
    path, data = folder / MANIFEST, _manifest_data(manifest)
    try:
        if len(data) > LARGEST:
            raise ValueError(f"it has {len(data)} bytes, expected at most {LARGEST}: warm-start fewer genomes")
        _manifest(read_json(data))
    except (ValueError, EvoTuneError) as error:
        raise StoreError(f"{path} cannot be saved ({one_line(str(error))}): change what it is about") from None
    write_atomically(path, data)


def space_of(manifest: Manifest, repair_from: SearchSpace | None = None) -> SearchSpace:
    """Return the search space that a run began with, with the repair of the evaluator's own space."""
    return SearchSpace(None if repair_from is None else repair_from.repair, None, **manifest.genes())


# Maximum number of trials copied from an earlier run: half are the best, half are spread evenly over the rest.
MOST_LEARNED = 1_000

# Maximum number of earlier runs.
RUNS = 100


class Learned(TypedDict):
    """An earlier run in a manifest.

    Args:
        name: Name of the run.
        sha256: SHA-256 of genomes and losses, from `genome.history.digest`.
        genomes: Genomes of its full trainings, best first.
        losses: Loss of each genome, to be minimised.
    """

    name: str
    sha256: str
    genomes: list[Genome]
    losses: list[Finite]
