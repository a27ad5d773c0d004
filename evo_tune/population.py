"""A saved run: manifest, journal and Parquet generations in one folder.

The journal is append-only and the only truth (law 7); generation files are derived from it and can be
rebuilt. Everything here is plain data: nothing in a run's folder can execute code when it is opened.
This module knows nothing of strategies, slots or torch; pyarrow is imported when a table is made.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from evo_tune import table
from evo_tune.errors import StoreError, UsageError
from evo_tune.journal import Journal, sync_folder, write_atomically
from evo_tune.space import Gene, Genome, SearchSpace, gene_from
from evo_tune.trial import Candidate, Objective, Outcome, Trial

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORMAT", "Manifest", "Run", "Session", "copy_run", "find_run", "list_runs", "space_of"]

FORMAT = 1
"""Version of the layout on disk; a run of another one is refused, not guessed at."""

MANIFEST = "_run.json"
JOURNAL = "_journal.jsonl"
CALIBRATION = "_calibration.parquet"
TRIALS = "_trials"
LOCK = "_lock"


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
        units: Metric name to unit, for the Parquet files.
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

    def genes(self) -> dict[str, Gene]:
        """Return the genes."""
        return {name: gene_from(gene) for name, gene in self.space.items()}


@dataclass(frozen=True)
class Session:
    """How one `run` or `resume` goes about it; limits are totals over all sessions (law 2).

    Args:
        trials: Most births that count (no promotions, no replicates).
        generations: The same in generations.
        hours: Most hours of work.
        slots: Number of slots; None: what the machine offers.
        devices: As typed; None: what the machine offers.
        per_device: Slots on one GPU.
        timeout: Seconds after which an evaluation is given up; None: never.
        retries: Further tries of an evaluation whose process died.
        calibrate: Fresh seeds with which best and default are trained at the end.
    """

    trials: int | None = None
    generations: int | None = None
    hours: float | None = None
    slots: int | None = None
    devices: str | None = None
    per_device: int = 1
    timeout: float | None = None
    retries: int = 0
    calibrate: int = 0

    def births(self, population: int) -> float:
        """Return the most births that count, from trials and generations together."""
        by_generation = math.inf if self.generations is None else self.generations * population
        return min(by_generation, math.inf if self.trials is None else self.trials)


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
        self.journal = journal
        self.candidates: list[Candidate] = []
        self.outcomes: dict[int, Outcome] = {}
        self.recorded: list[int] = []
        """Ids of the recorded results, in the order in which they came."""
        self.told: list[int] = []
        self.sessions: list[Session] = []
        self.evaluator_hash = manifest.evaluator_hash
        self.fingerprint = manifest.fingerprint
        self.ended: str | None = None
        """Why the last session ended; None while it goes on, or if it was killed."""
        self.seconds = 0.0
        """Wall time of all sessions; a killed one counts to its last event."""
        self._lock: filelock.BaseFileLock | None = None
        self._metrics: set[str] = set()
        self._last_time = 0.0
        for number, event in enumerate(events, 1):
            try:
                self._apply(event)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise StoreError(f"{journal.path}: line {number} is not understood ({error!r})") from error

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @classmethod
    def create(cls, store: Path, name: str, manifest: Manifest) -> Run:
        """Make a new run's folder and manifest, locked for writing.

        Raises:
            UsageError: The name is taken or is no plain name.
            StoreError: The store cannot be written.
        """
        folder = _free_folder(store, name)
        try:
            store.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            sync_folder(store)
        except OSError as error:
            raise StoreError(f"cannot make {folder}: {error.strerror}; choose another --store") from None
        run = cls(folder, manifest, Journal(folder / JOURNAL), [])
        try:
            run._lock = _lock(folder)
            write_atomically(folder / MANIFEST, json.dumps(asdict(manifest), indent=2).encode() + b"\n")
        except BaseException:
            run.close()
            shutil.rmtree(folder, ignore_errors=True)
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
            run = cls(folder, manifest, journal, journal.read())
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

    def _apply(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "born":
            candidate = Candidate.from_json(event["candidate"])
            if candidate.id != len(self.candidates):
                raise ValueError(f"candidate {candidate.id} is born out of order")
            self.candidates.append(candidate)
        elif kind == "recorded":
            if event["id"] in self.outcomes or not 0 <= event["id"] < len(self.candidates):
                raise ValueError(f"result of candidate {event['id']} is recorded twice, or without a birth")
            outcome = Outcome.from_json(event["outcome"])
            self.outcomes[event["id"]] = outcome
            self.recorded.append(event["id"])
            self._metrics.update(outcome.metrics)
        elif kind == "told":
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

    def _count_time(self, kind: str, now: float) -> None:
        if kind != "session" and self._last_time:
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

    def trial(self, id: int, told_order: int) -> Trial:
        """Return a recorded result as a trial; told_order is -1 where it cannot be known yet."""
        return Trial.of(self.candidates[id], self.outcomes[id], told_order, self.objectives)

    def trials(self) -> list[Trial]:
        """Return every recorded result as a trial, by id."""
        order = {id: position for position, id in enumerate(self.sequence())}
        return [self.trial(id, order.get(id, -1)) for id in sorted(self.outcomes)]

    def ranked(self) -> list[Trial]:
        """Return the trials that are ok and fully trained, best first."""
        return sorted((t for t in self.trials() if t.rankable), key=lambda t: (t.losses, t.id))

    @property
    def metric_names(self) -> list[str]:
        """Every metric seen so far: objectives first, then by name."""
        first = [objective.metric for objective in self.objectives]
        return first + sorted(self._metrics - set(first))

    # Parquet.

    def table(self, trials: Sequence[Trial], survivors: Iterable[int] = ()) -> pa.Table:
        """Return trials as an Arrow table, in the one schema of all of the run's files so far."""
        return table.from_trials(trials, survivors, self.schema())

    def schema(self) -> pa.Schema:
        """Return the one schema of all of the run's Parquet files so far."""
        return table.schema(self.manifest.genes(), self.metric_names, self.manifest.units)

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

    # Calibration: results outside ids and history (law 10).

    def calibration(self) -> list[Trial]:
        """Return the calibration's results as trials; a damaged file counts as none."""
        import pyarrow.parquet as pq

        path = self.folder / CALIBRATION
        if not path.exists():
            return []
        try:
            rows = pq.read_table(path, partitioning=None).to_pylist()
        except (OSError, ValueError):
            warnings.warn(f"{path} is damaged: the calibration is done again", stacklevel=2)
            return []
        return [self._calibration_trial(row) for row in rows]

    def _calibration_trial(self, row: Mapping[str, Any]) -> Trial:
        genome, outcome = table.to_genome(row, self.manifest.genes()), table.to_outcome(row)
        candidate = replace(self.candidates[row["id"]], genome=genome, seed=row["seed"])
        return Trial.of(candidate, outcome, -1, self.objectives)

    def write_calibration(self, trials: Sequence[Trial]) -> None:
        """Write all calibration results, replacing the file.

        Raises:
            StoreError: The disk refuses.
        """
        for trial in trials:
            self._metrics.update(trial.outcome.metrics)
        table.write(self.folder / CALIBRATION, self.table(trials))


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(**fields)
    except FileNotFoundError:
        raise StoreError(f"{folder} is no saved run: it has no {MANIFEST}; `evo-tune list` shows the runs") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {error}; restore it from a copy") from None
    if manifest.format != FORMAT:
        raise StoreError(f"{path} has format {manifest.format}: this version of evo-tune reads format {FORMAT}")
    return manifest


def _lock(folder: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(folder / LOCK, thread_local=False)  # any thread may close a run
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StoreError(
            f"{folder} is in use by another process: wait for it or stop it; a copy goes on beside it "
            f"(evo-tune resume {folder.name} --as NAME)"
        ) from None
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror}; choose another --store") from None
    return lock


def list_runs(store: Path) -> list[Path]:
    """Return the folders of a store's runs, the one written last at the end."""
    folders = [path.parent for path in store.glob(f"*/{MANIFEST}")]
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
    for folder in (store / name, Path(name)):
        if (folder / MANIFEST).is_file():
            return folder
    known = ", ".join(folder.name for folder in runs) or "none"
    raise StoreError(f"there is no run {name!r} in {store}: it holds {known}")


def copy_run(folder: Path, store: Path, name: str) -> Path:
    """Copy a run, whole or not at all, so that the copy can go on by itself; return the copy's folder.

    Raises:
        UsageError: The name is taken or is no plain name.
        StoreError: The disk refuses.
    """
    target = _free_folder(store, name)
    temporary = target.with_name(f".{name}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(folder, temporary, ignore=shutil.ignore_patterns(LOCK))
        os.replace(temporary, target)
    except (OSError, shutil.Error) as error:
        raise StoreError(f"cannot copy {folder} to {target}: {error}") from error
    return target


def _free_folder(store: Path, name: str) -> Path:
    """Return the folder of a new run.

    Raises:
        UsageError: The name is taken or is no plain name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name.endswith(".parquet"):
        raise UsageError(f"a run cannot be named {name!r}: expected letters, digits, '.', '_', '-', the first no sign")
    if (store / name).exists():
        raise UsageError(f"{store / name} exists: choose another name, or go on with it: evo-tune resume {name}")
    return store / name


def space_of(manifest: Manifest, repair_from: SearchSpace | None = None) -> SearchSpace:
    """Return a manifest's search space, with the repair of the evaluator's own space."""
    return SearchSpace(None if repair_from is None else repair_from.repair, **manifest.genes())
