"""A saved run: manifest, journal and Parquet generations in one folder.

The journal is append-only and the only truth (law 7); generation files are derived from it and can be
rebuilt. Everything here is plain data: nothing in a run's folder can execute code when it is opened.
This module knows nothing of strategies, slots or torch; pyarrow is imported when a table is made.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import shutil
import time
import typing
import warnings
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from evo_tune.errors import EvoTuneError, OptionError, StoreError, UsageError
from evo_tune.genome.constraint import Constraint
from evo_tune.genome.genes import Gene, gene_from
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.standing import averaged
from evo_tune.genome.trial import Candidate, Objective, Outcome, Trial
from evo_tune.genome.values import Genome, genome_key
from evo_tune.store import table
from evo_tune.store.heartbeat import HEARTBEAT
from evo_tune.store.journal import Journal, sync_folder, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORMAT", "Manifest", "Run", "Session", "copy_run", "find_run", "list_runs", "space_of"]

FORMAT = 1
"""Version of the layout on disk; a run of another one is refused, not guessed at."""

MANIFEST = "_run.json"
JOURNAL = "_journal.jsonl"
TRIALS = "_trials"
LOCK = "_lock"
STORE = "populations"
"""Where runs are saved unless something else is said."""

BACKENDS = ("joblib", "dask", "ray")
"""Where slots may be: processes of this machine (joblib's own engine), or a cluster."""

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


LIMITS = ("trials", "generations", "budget", "hours")
"""Fields of a session that end it; new ones replace all of the old."""


@dataclass(frozen=True)
class Session:
    """How one `run` or `resume` goes about it; limits are totals over all sessions (law 2).

    Args:
        trials: Most births that count (see Candidate.fresh).
        generations: The same in generations.
        budget: Most training, in full trainings; promotions count what they add.
        hours: Most hours of work.
        slots: Number of slots; None: what the machine offers.
        devices: As typed; None: what the machine offers.
        per_device: Slots on one GPU; 'auto': as many as its memory has room for.
        timeout: Seconds after which an evaluation is given up; None: never.
        retries: Further tries of an evaluation whose process died.
        calibrate: How many fresh seeds the closing race is about (see `report.racing`); 0: there is none.
        calibrate_best: Finalists of that race; one of them is compared with the default.
        backend: Where the slots are: 'joblib' (processes of this machine), 'dask' or 'ray'.
        address: Of a cluster that runs already; None starts one on this machine.
        max_slots: On a cluster, slots there may be: those that no machine is there for wait for one.
    """

    trials: int | None = None
    generations: int | None = None
    hours: float | None = None
    slots: int | None = None
    devices: str | None = None
    per_device: int | str = 1
    timeout: float | None = None
    retries: int = 0
    calibrate: int = 0
    budget: float | None = None
    calibrate_best: int = 1
    backend: str = "joblib"
    address: str | None = None
    max_slots: int | None = None

    def __post_init__(self) -> None:
        least = {"trials": 1, "generations": 1, "retries": 0, "calibrate": 0, "calibrate_best": 1, "max_slots": 1}
        for name, low in least.items():
            number = getattr(self, name)
            if number is not None and (not isinstance(number, int) or number < low):
                raise OptionError(f"{_flag(name)} {number} is not allowed: expected a whole number of at least {low}")
        for name in ("hours", "budget"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise OptionError(f"--{name} {getattr(self, name)} is not allowed: expected more than 0")
        if self.backend not in BACKENDS:
            raise OptionError(f"--backend {self.backend} is unknown: expected one of {', '.join(BACKENDS)}")
        for name in ("address", "max_slots"):
            if self.backend == "joblib" and getattr(self, name) is not None:
                raise OptionError(f"{_flag(name)} is for clusters: give --backend dask or --backend ray with it")
        if self.backend != "joblib" and not isinstance(self.per_device, int):
            raise OptionError(f"--per-device {self.per_device} is for GPUs of this machine: expected a number")

    @property
    def limited(self) -> bool:
        """Whether it has any limit."""
        return any(getattr(self, name) is not None for name in LIMITS)

    def unlimited(self) -> Session:
        """Return it without its limits."""
        return replace(self, trials=None, generations=None, budget=None, hours=None)

    def births(self, population: int) -> float:
        """Return the most births that count, from trials and generations together."""
        by_generation = math.inf if self.generations is None else self.generations * population
        return min(by_generation, math.inf if self.trials is None else self.trials)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


class Run:
    """A saved run, read back from its journal; open for writing in one process at a time.

    Args:
        folder: Its folder.
        manifest: What is fixed.
        events: The journal's events so far.
    """

    def __init__(self, folder: Path, manifest: Manifest, journal: Journal, events: list[dict[str, Any]]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.objectives = manifest.parsed_objectives()
        self.constraints = manifest.constraints()
        self.genes = manifest.genes()
        self.journal = journal
        self.candidates: list[Candidate] = []
        self.outcomes: dict[int, Outcome] = {}
        self.recorded: list[int] = []
        """Ids of the recorded results, in the order in which they came."""
        self.told: list[int] = []
        self.told_at_birth: list[int] = []
        """By candidate: how many results had been told when it was born, as the journal's order has it."""
        self.sessions: list[Session] = []
        self.evaluator_hash = manifest.evaluator_hash
        self.fingerprint = manifest.fingerprint
        self.ended: str | None = None
        """Why the last session ended; None while it goes on, or if it was killed."""
        self.seconds = 0.0
        """Wall time of all sessions; a killed one counts to its last event."""
        self._lock: filelock.BaseFileLock | None = None
        self._metrics: set[str] = set()
        self._told_orders: dict[int, int] = {}
        self._replicated = False
        self._best: tuple[float, tuple[float, ...], int] | None = None
        self._last_time = 0.0
        for number, event in enumerate(events, 1):
            try:
                self._apply(event)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError, EvoTuneError) as error:
                raise StoreError(f"{journal.path}: line {number} is not understood ({error!r})") from error

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def last_event(self) -> float:
        """When the journal's last event was written, in seconds since 1970."""
        return self._last_time

    @classmethod
    def create(cls, store: Path, name: str, manifest: Manifest, session: Session) -> Run:
        """Make a new run's folder, its first session and its manifest, locked for writing.

        The manifest comes last: only with it is the folder a run, whole, or not there at all.

        Raises:
            UsageError: The name is taken or is no plain name.
            StoreError: The store cannot be written.
        """
        folder = _free_folder(store, name)
        try:
            store.mkdir(parents=True, exist_ok=True)
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {folder}: {error.strerror}; choose another --store") from None
        lock = _lock(folder)
        try:
            _free_folder(store, name)  # another process may have been faster
            (folder / JOURNAL).unlink(missing_ok=True)
            run = cls(folder, manifest, Journal(folder / JOURNAL), [])
            run._lock = lock
            run.begin(session)
            write_atomically(folder / MANIFEST, json.dumps(asdict(manifest), indent=2).encode() + b"\n")
            sync_folder(store)
        except BaseException as error:
            if not isinstance(error, UsageError):
                shutil.rmtree(folder, ignore_errors=True)
            lock.release()
            if isinstance(error, OSError):
                raise StoreError(f"cannot make {folder}: {error.strerror}; choose another --store") from None
            raise
        return run

    @classmethod
    def open(cls, folder: Path, write: bool = False) -> Run:
        """Read a saved run.

        Args:
            folder: Its folder.
            write: Also lock it, to go on with it.

        Raises:
            StoreError: There is none, it is damaged, or another process is writing it.
        """
        manifest = _read_manifest(folder)
        lock = _lock(folder) if write else None
        journal = Journal(folder / JOURNAL)
        try:
            events = journal.read()
            if not events:  # its first line was written before the manifest
                raise StoreError(f"{journal.path} is missing or empty, and the run had begun: restore it from a copy")
            run = cls(folder, manifest, journal, events)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        run._lock = lock
        return run

    @property
    def closed(self) -> bool:
        """Whether it cannot be written (any more)."""
        return self._lock is None

    def close(self) -> None:
        """Let go of the journal and the lock; idempotent."""
        self.journal.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # Events: written first, applied after, by the same code that reads them back.

    def write(self, *events: dict[str, Any], sync: bool = False) -> None:
        """Append events to the journal, then apply them.

        Raises:
            StoreError: They could not be written; nothing is applied.
        """
        if self.closed:
            raise StoreError(f"{self.folder} is not open for writing (any more): resume it")
        now = round(time.time(), 3)
        stamped = [{**event, "time": now} for event in events]
        self.journal.append(stamped, sync)
        for event in stamped:
            self._apply(event)

    def begin(self, session: Session) -> None:
        """Begin a session, durably.

        Raises:
            StoreError: It cannot be written.
        """
        self.write({"event": "session", "session": asdict(session)}, sync=True)

    def _apply(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "born":
            self._apply_born(Candidate.from_json(event["candidate"]))
        elif kind == "recorded":
            self._apply_recorded(event["id"], Outcome.from_json(event["outcome"]))
        elif kind == "told":
            if event["id"] != self._next_told():
                raise ValueError(f"result of candidate {event['id']} is told out of order")
            self.told.append(event["id"])
        elif kind == "session":
            self.sessions.append(Session(**event["session"]))
            self.ended = None
        elif kind == "ended":
            self.ended = event["reason"]
        elif kind == "changed":
            self.evaluator_hash = event["evaluator_hash"]
            self.fingerprint = event["fingerprint"]
        else:
            raise ValueError(f"event {kind!r} is unknown")
        self._count_time(kind, float(event["time"]))

    def _apply_born(self, candidate: Candidate) -> None:
        if candidate.id != len(self.candidates):
            raise ValueError(f"candidate {candidate.id} is born out of order")
        if candidate.genome.keys() != self.genes.keys():
            raise ValueError(f"candidate {candidate.id} has other genes than the run")
        for name, gene in self.genes.items():
            gene.check(candidate.genome[name])
        for name in ("resumes", "inherits", "confirms"):
            other = getattr(candidate, name)
            if other is not None and not (type(other) is int and 0 <= other < candidate.id):
                raise ValueError(f"candidate {candidate.id} {name} {other!r}, which was not born before it")
        self._replicated |= candidate.replicate > 0
        self.candidates.append(candidate)
        self.told_at_birth.append(len(self.told))

    def _apply_recorded(self, id: int, outcome: Outcome) -> None:
        if id in self.outcomes or not 0 <= id < len(self.candidates):
            raise ValueError(f"result of candidate {id} is recorded twice, or without a birth")
        trial = Trial.of(self.candidates[id], outcome, -1, self.objectives, self.constraints)
        if outcome.status == "ok" and trial.losses is None:
            raise ValueError(f"result of candidate {id} is ok, and an objective is missing or not finite")
        self.outcomes[id] = outcome
        self.recorded.append(id)
        for told in self.sequence(start=len(self._told_orders)):
            self._told_orders[told] = len(self._told_orders)
        self._metrics.update(outcome.metrics)
        if trial.rankable and trial.losses is not None and not trial.candidate.replicate:
            mine = trial.violation, trial.losses, id
            self._best = mine if self._best is None else min(self._best, mine)

    def _next_told(self) -> int:
        """Return the id of the result that strategies are told next."""
        next_told = self.sequence(start=len(self.told))
        if not next_told:
            raise ValueError("a result is told that is not recorded")
        return next_told[0]

    def _count_time(self, kind: str, now: float) -> None:
        # What a resume notes before its session begins follows a pause of any length.
        if kind in ("born", "recorded", "ended") and self._last_time:
            self.seconds += max(0.0, now - self._last_time)  # a clock set back counts nothing
        self._last_time = now

    # What is derived from the events.

    def sequence(self, start: int = 0) -> list[int]:
        """Return the ids of recorded results in the order in which strategies are told them, from `start` on."""
        if self.manifest.order == "arrival":
            return self.recorded[start:]
        end = start
        while end in self.outcomes:  # in birth order, the order of ids
            end += 1
        return list(range(start, end))

    def trial(self, id: int) -> Trial:
        """Return a recorded result as a trial; told_order is -1 where it cannot be known yet."""
        order = self._told_orders.get(id, -1)
        return Trial.of(self.candidates[id], self.outcomes[id], order, self.objectives, self.constraints)

    def trials(self) -> list[Trial]:
        """Return every recorded result as a trial, by id."""
        return [self.trial(id) for id in sorted(self.outcomes)]

    def ranked(self) -> list[Trial]:
        """Return the genomes with a full training that is ok, best first, those within the constraints before.

        Each is its first full trial; where it was trained with several seeds, the metrics are their means.
        """
        seeds: dict[str, list[Trial]] = {}
        for trial in self.trials():
            if trial.rankable:
                seeds.setdefault(genome_key(trial.genome), []).append(trial)
        found = [averaged(trials, self.objectives, self.constraints) for trials in seeds.values()]
        return sorted(found, key=lambda trial: (trial.violation, trial.losses, trial.id))

    @property
    def best(self) -> Trial | None:
        """The first of `ranked`, if any."""
        if self._replicated:  # a mean can move either way
            return next(iter(self.ranked()), None)
        return None if self._best is None else self.trial(self._best[2])

    @property
    def metric_names(self) -> list[str]:
        """Every metric declared or seen so far: objectives first, then as declared, then by name."""
        first = dict.fromkeys([objective.metric for objective in self.objectives] + list(self.manifest.units))
        return list(first) + sorted(self._metrics.difference(first))

    # Parquet.

    def table(self, trials: Sequence[Trial], survivors: Iterable[int] = ()) -> pa.Table:
        """Return trials as an Arrow table, in the one schema of all of the run's generations so far."""
        return table.from_trials(trials, survivors, self.schema())

    def schema(self) -> pa.Schema:
        """Return the one schema of all of the run's generations so far."""
        return table.schema(self.genes, self.metric_names, self.manifest.units)

    def write_generation(self, generation: int, trials: Sequence[Trial], survivors: Iterable[int]) -> None:
        """Write one generation's file, whole or not at all.

        Raises:
            StoreError: The disk refuses.
        """
        table.write(self.generation_path(generation), self.table(trials, survivors))

    def generation_path(self, generation: int) -> Path:
        """Return the path of a generation's file."""
        return self.folder / f"generation-{generation:04d}.parquet"

    def generation_is_whole(self, generation: int, rows: int) -> bool:
        """Say whether a generation's file is there, readable, of the run's schema and of that many rows."""
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.generation_path(generation)) as file:
                whole: bool = file.schema_arrow.equals(self.schema()) and file.metadata.num_rows == rows
                return whole
        except (OSError, ValueError):  # missing, cut in half, or no Parquet at all
            return False

    def set_aside_generations(self, known: Container[int]) -> None:
        """Rename the files of generations that the journal knows nothing of, so that no reader mixes them in.

        They are left where a journal was cut short by hand, or is gone: then they may be all that is left.

        Raises:
            StoreError: The disk refuses.
        """
        for path in sorted(self.folder.glob("generation-*.parquet")):
            number = path.stem.removeprefix("generation-")
            if not number.isdigit() or int(number) not in known:
                aside = path.with_name(f"_{path.name}.aside")
                warnings.warn(f"the journal knows nothing of {path}: renamed to {aside.name}", stacklevel=2)
                try:
                    path.replace(aside)
                except OSError as error:
                    raise StoreError(f"cannot rename {path}: {error.strerror}") from error


def _read_manifest(folder: Path) -> Manifest:
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


def _lock(folder: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(folder / LOCK, thread_local=False)  # any thread may close a run
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StoreError(
            f"{folder} is in use by another process: wait for it or stop it; a copy goes on beside it "
            f"(evo-tune resume {as_typed(folder)} --as NAME)"
        ) from None
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror}; choose another --store") from None
    return lock


def list_runs(store: Path) -> list[Path]:
    """Return the folders of a store's runs, the one written last at the end."""
    folders = [path.parent for path in store.glob(f"[!.]*/{MANIFEST}")]  # not the unfinished copies
    return sorted(folders, key=lambda folder: (_last_write(folder), folder.name))


def _last_write(folder: Path) -> float:
    journal = folder / JOURNAL
    return (journal if journal.exists() else folder / MANIFEST).stat().st_mtime


def find_run(store: Path, name: str | None) -> Path:
    """Return the folder of a run by name or path; the latest one if no name is given.

    Raises:
        StoreError: There is none.
    """
    runs = list_runs(store)
    if name is None:
        if not runs:
            raise StoreError(f"there is no saved run in {store}: start one with `evo-tune run`, or give --store")
        return runs[-1]
    for folder in (store / name, Path(os.path.abspath(name))):
        with contextlib.suppress(OSError):  # a name too long to be one
            if (folder / MANIFEST).is_file():
                return folder
    known = ", ".join(folder.name for folder in runs) or "none"
    raise StoreError(f"there is no run {name!r} in {store}: it holds {known}")


def as_typed(folder: Path) -> str:
    """Return what to type behind a command to name a run: 'mine', or 'mine --store DIR'."""
    store = folder.parent
    known = Path(os.path.abspath(store)) == Path(os.path.abspath(STORE))
    return shlex.quote(folder.name) + ("" if known else f" --store {shlex.quote(str(store))}")


def copy_run(folder: Path, store: Path, name: str) -> Path:
    """Copy a run, whole or not at all, so that the copy can go on by itself; return the copy's folder.

    Raises:
        UsageError: The name is taken or is no plain name.
        StoreError: The disk refuses.
    """
    target = _free_folder(store, name)
    temporary = target.with_name(f".{name}.part")

    def left_out(inside: str, names: list[str]) -> list[str]:
        if Path(inside) == folder:
            return [name for name in names if name in (LOCK, HEARTBEAT) or name.endswith(".part")]
        return [name for name in names if name.startswith(".worker-")]  # what a killed worker was printing

    try:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(folder, temporary, ignore=left_out)
        _clear(_free_folder(store, name))
        os.replace(temporary, target)  # refuses a folder that has become somebody else's meanwhile
    except (OSError, shutil.Error) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if target.exists():
            raise UsageError(f"{target} exists: choose another name for the copy") from None
        raise StoreError(f"cannot copy {folder} to {target}: {error}") from error
    return target


def _free_folder(store: Path, name: str) -> Path:
    """Return the folder of a new run.

    Raises:
        UsageError: The name is taken or is no plain name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name.endswith(".parquet"):
        raise UsageError(
            f"a run cannot be named {name!r}: expected up to 100 letters, digits, '.', '_', '-', the first no sign"
        )
    folder = store / name
    if folder.exists() and not _is_stillborn(folder):
        is_run = (folder / MANIFEST).exists()
        go_on = f", or go on with it: evo-tune resume {as_typed(folder)}" if is_run else ""
        raise UsageError(f"{folder} exists: choose another name{go_on}")
    return folder


STILLBORN = {LOCK, JOURNAL, f"{MANIFEST}.part"}
"""What a folder holds before it is a run."""


def _clear(folder: Path) -> None:
    """Remove what is left of a run that was never begun, unless somebody is beginning it at this moment."""
    if folder.exists():
        with _lock(folder):
            for name in STILLBORN:
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()  # refuses if there is anything else


def _is_stillborn(folder: Path) -> bool:
    """Whether a folder is what a death left that came before the manifest: there is nothing in it to lose."""
    try:
        return {path.name for path in folder.iterdir()} <= STILLBORN and b'"born"' not in _bytes_of(folder / JOURNAL)
    except OSError:
        return False


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def space_of(manifest: Manifest, repair_from: SearchSpace | None = None) -> SearchSpace:
    """Return a manifest's search space, with the repair of the evaluator's own space."""
    return SearchSpace(None if repair_from is None else repair_from.repair, None, **manifest.genes())
