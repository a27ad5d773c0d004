"""The one loop: ask for a candidate, evaluate it in a slot, record and tell the result.

`Search` joins a strategy, a saved run and slots, and knows the inside of none of them. ask and tell
stand under one lock; joblib drives one driver per slot. What a strategy is told, and when, is decided
here (law 3) and nowhere else.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import Parallel, delayed

from evo_tune.dispatch import AUTO, CPU, Cluster, Forecast, Plan, Slot, SlotClosed, Task, open_slots, plan
from evo_tune.errors import EvoTuneError, RunError, StoreError, UsageError
from evo_tune.genome.history import History
from evo_tune.genome.space import Gene
from evo_tune.genome.trial import (
    STATUSES,
    Candidate,
    Objective,
    Outcome,
    Proposal,
    Trial,
    conclude,
    one_line,
    trial_seed,
)
from evo_tune.loop.begin import check_unchanged, make_manifest, new_name
from evo_tune.loop.calibration import calibration_work, collect
from evo_tune.loop.generations import Generations, broken_strategy
from evo_tune.loop.interrupts import Interrupts
from evo_tune.loop.strategy import ruled
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_again, find_evaluator
from evo_tune.plugins.strategy import Strategy
from evo_tune.report.summary import spent
from evo_tune.rules.inheritance import heritable
from evo_tune.rules.ruled import Ruled
from evo_tune.store.copying import copy_run
from evo_tune.store.files import table_of
from evo_tune.store.heartbeat import Busy, Heartbeat
from evo_tune.store.manifest import space_of
from evo_tune.store.places import STORE, as_typed, find_run
from evo_tune.store.run import TRIALS, Run
from evo_tune.store.session import LIMITS, Session

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Search", "Working"]

GENERATIONS = 5
"""Generations of a run that was given no limit at all."""

LOGS = ("log.txt", "error.txt")
"""Files of a trial's folder that are evo-tune's own."""

SLACK = 1e-9
"""Sums of thirds are not exact."""
SICK = 3
"""Crashes in a row after which a device is set aside, if others do well meanwhile."""

TICK = 0.2
"""Seconds between two looks of the main thread at signals and at the live table."""


@dataclass(frozen=True)
class Working:
    """What a slot is doing.

    Args:
        what: 'trial 17', 'calibration of trial 17', or '' while it waits.
        since: When it began, in seconds of `time.monotonic`.
    """

    what: str
    since: float


class Search:
    """A run being made: by `run()`, or by hand with `ask()` and `tell()` over the same journal.

    Args:
        evaluator: Name, path or reference of an evaluator's file.
        options: Its options.
        strategy: Name or path of a strategy; by default `saea`.
        strategy_options: Its options.
        population: Trials that survive, and births in a generation.
        objectives: Instead of the evaluator's own: Minimize(METRIC), or as text METRIC:min, METRIC:max.
        genes: Genes instead of those of the evaluator's space, or to switch on an optional one (None: as it is).
        seed: Seed of the run: same seed and same outcomes, same run.
        order: 'arrival' (no slot waits) or 'birth' (the same run for any number of slots).
        lag: In birth order, how many results a birth may run ahead of.
        warm_start: Genomes to be born right after the default, trained anew.
        fill_defaults: Give genes that a warm-start genome lacks their defaults.
        threads: CPU threads of one training (default 1 on CPUs).
        fidelity: Budgets of a genome's trials, increasing to 1: '1/9,1/3,1' (see `fidelity`).
        prune: Stop a training whose curve is hopeless.
        replicates: Seeds that the leading genome must have been trained with before the run ends.
        inherit: Share of a full training that a genome gets which begins with a relative's weights: '1/3' (see
            `inheritance`). Such results guide the strategy and are never the best.
        subject_to: Constraints: METRIC<=NUMBER, METRIC>=NUMBER.
        store: Folder of the saved runs.
        name: Name of this one; by default made from evaluator and time.
        session: Further fields of `Session`: trials, generations, budget, hours, slots, devices, per_device,
            timeout, retries, calibrate, calibrate_best, backend, address, max_slots. Without any limit, `run` stops
            after 5 generations.

    Raises:
        UsageError: Something given is wrong; nothing is made then.
        StoreError: The run cannot be saved.
    """

    def __init__(
        self,
        evaluator: str = "language_model",
        *,
        options: Mapping[str, Any] | None = None,
        strategy: str | None = None,
        strategy_options: Mapping[str, Any] | None = None,
        population: int | None = None,
        objectives: Sequence[str | Objective] = (),
        genes: Mapping[str, Gene | None] | None = None,
        seed: int = 0,
        order: str = "arrival",
        lag: int = 8,
        warm_start: Iterable[Mapping[str, Any]] = (),
        fill_defaults: bool = False,
        threads: int | None = None,
        fidelity: str = "1",
        prune: bool = False,
        replicates: int = 1,
        inherit: str | float = 0,
        subject_to: Iterable[str] = (),
        store: str | Path = STORE,
        name: str | None = None,
        **session: Any,
    ) -> None:
        plugin = find_evaluator(evaluator)
        settings = Session(**session)
        size = {} if population is None else {"population": population}
        manifest = make_manifest(
            plugin,
            options=options or {},
            strategy=strategy,
            strategy_options={**(strategy_options or {}), **size},
            objectives=objectives,
            genes=genes or {},
            seed=seed,
            order=order,
            lag=lag,
            warm_start=warm_start,
            fill_defaults=fill_defaults,
            threads=_plan(settings, threads, _ranks(plugin.bind(options or {}))).threads,
            fidelity=fidelity,
            prune=prune,
            replicates=replicates,
            inherit=inherit,
            subject_to=subject_to,
        )
        run = Run.create(Path(store), name or new_name(plugin.name, Path(store)), manifest, settings)
        try:
            self._begin(run, plugin, settings)
        except BaseException:
            run.close()
            raise

    @classmethod
    def resume(
        cls,
        name: str | None = None,
        *,
        store: str | Path = STORE,
        copy_as: str | None = None,
        accept_changes: bool = False,
        evaluator: str | None = None,
        **changes: Any,
    ) -> Search:
        """Go on with a saved run.

        Args:
            name: Its name or path; the latest one if left out.
            store: Folder of the saved runs.
            copy_as: Copy it to this name first, and go on with the copy.
            accept_changes: Go on although the evaluator's file or data have changed.
            evaluator: Where the evaluator's file is now, if it has moved.
            changes: Fields of `Session` that differ from the last session's.

        Raises:
            UsageError: The copy's name is taken, or a change is not allowed.
            StoreError: There is no such run, or it cannot be gone on with.
        """
        folder = find_run(Path(store), name)
        if copy_as is not None:
            folder = copy_run(folder, Path(store), copy_as)
        run = Run.open(folder, write=True)
        try:
            plugin = find_again(run.manifest.evaluator, evaluator)
            check_unchanged(run, plugin, accept_changes)
            last = run.sessions[-1] if run.sessions else Session()
            self = cls.__new__(cls)
            if set(LIMITS) & changes.keys():  # new limits replace the old ones
                last = last.unlimited()
            self._begin(run, plugin, last.but(**changes))
            run.begin(self.session)
        except BaseException:
            run.close()
            if copy_as is not None:  # made a moment ago, and of no use
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return self

    def _begin(self, run: Run, plugin: Evaluator, session: Session) -> None:
        manifest = run.manifest
        self.saved = run
        self.evaluator = plugin
        self.session = session
        self.space = space_of(manifest, plugin.space(manifest.options))
        self.strategy: Ruled = ruled(manifest, plugin)
        self.slots: list[Slot] = []
        self.working: dict[str, Working] = {}
        self.error: EvoTuneError | None = None
        self.finished: str | None = None
        """Why no more candidates will come; None while they may."""
        self.stopping = False
        self._status = ((-1, -1), "")
        self._crashes: dict[str, int] = {}
        """By device: crashes since it last did well."""
        self._removed: set[int] = set()
        """Trials whose weights are removed."""
        self._calibrations: deque[tuple[Candidate, str]] | None = None
        self._changed = threading.Condition(threading.RLock())
        self._heart = Heartbeat(run.folder)
        self._started = time.monotonic()
        self._seconds_before = run.seconds
        self._read_back()

    def _read_back(self) -> None:
        """Rebuild everything that is derived from the journal (law 2: resume is reading)."""
        run = self.saved
        self.history = History(self.space, run.objectives, run.constraints)
        self._generations = Generations(run, self.strategy, History(self.space, run.objectives, run.constraints))
        for candidate in run.candidates:
            self.history.born(candidate)
        for id in run.told:
            self.history.tell(id, run.outcomes[id])
        if self._arrival:  # told with the record; a torn tail can have parted them
            self._tell(run.sequence(start=len(run.told)))
        self._generations.read_back()
        self._take_up()

    def _take_up(self) -> None:
        """Have every candidate without a result handed out (again), before any new one is born."""
        self._unfinished = deque(c for c in self.saved.candidates if c.id not in self.saved.outcomes)

    @property
    def _arrival(self) -> bool:
        return self.saved.manifest.order == "arrival"

    # What can be read at any time.

    @property
    def name(self) -> str:
        """The run's name."""
        return self.saved.name

    @property
    def trials(self) -> list[Trial]:
        """Every recorded trial, by id."""
        with self._changed:
            return self.saved.trials()

    @property
    def best(self) -> Trial | None:
        """The best trial so far, by the first objective."""
        with self._changed:
            return self.saved.leader

    @property
    def status(self) -> str:
        """Where the strategy says that the search stands, in a line; '' if it has nothing to say."""
        with self._changed:  # a live table asks again and again
            at = (self.history.born_count, len(self.history.trials))
            if self._status[0] != at:
                self._status = (at, self.strategy.status(self.history))
            return self._status[1]

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, over all its sessions."""
        if self.saved.closed:
            return self.saved.seconds
        return self._seconds_before + time.monotonic() - self._started

    def frame(self) -> pd.DataFrame:
        """Return every recorded trial as a row, with the columns of the run's Parquet files."""
        with self._changed:
            rows: pd.DataFrame = table_of(self.saved, self.saved.trials()).to_pandas()
        return rows

    # Asking.

    def ask(self) -> Candidate | None:
        """Return the next candidate, or None: results must be told first, or (see `finished`) it is over.

        Raises:
            RunError: The strategy has raised, or its proposal is none.
            StoreError: The birth cannot be written.
        """
        with self._changed:
            if self.stopping or self.finished:
                return None
            while self._unfinished:
                candidate = self._unfinished.popleft()
                if candidate.id not in self.saved.outcomes:
                    return candidate
            self.finished = self._limit_reached()
            return None if self.finished else self._birth()

    def _limit_reached(self) -> str | None:
        if self.session.budget is not None and spent(self.saved) >= self.session.budget - SLACK:
            return f"the training of {self.session.budget:g} full ones is spent"
        if self._all_born and not self.strategy.rules.continues:
            return self._born_text()
        if self.session.hours is not None and self.seconds >= self.session.hours * 3600:
            return f"{self.session.hours:g} hours are over"
        return None

    @property
    def _all_born(self) -> bool:
        """Whether no new genome is to be born; further trials of those that were may be due."""
        return self.history.fresh_count >= self.session.births(self.saved.manifest.population)

    def _born_text(self) -> str:
        births = self.session.births(self.saved.manifest.population)
        more = self.history.fresh_count - births
        return f"all {births:.0f} births are made" + (f", and {more:.0f} more before" if more else "")

    def _birth(self) -> Candidate | None:
        id = self.history.born_count
        proposal = None
        if self._arrival or self._tell_up_to(id - self.saved.manifest.lag):
            proposal = self._propose(id)
            # Never skipping: the first number of told results that answers is the answer.
            while proposal is None and not self._arrival and self._tell_up_to(len(self.saved.told) + 1):
                proposal = self._propose(id)
        if proposal is None:
            if not self.history.out:
                self.finished = self._born_text() if self._all_born else "the strategy has nothing more to propose"
            return None
        # Not synced by itself: a birth that a power cut loses is proposed again, the same.
        candidate = self.saved.bear(self._candidate(id, proposal))
        self.history.born(candidate)
        self._generations.born(candidate)
        return candidate

    def _propose(self, id: int) -> Proposal | None:
        if self._all_born:
            return self.strategy.due(self.history)
        return propose(self.strategy, self.history, self.saved, id)

    def _candidate(self, id: int, proposal: Proposal) -> Candidate:
        return Candidate(
            id=id,
            generation=self.history.fresh_count // self.saved.manifest.population,
            seed=trial_seed(self.saved.manifest.seed, proposal.replicate),
            told_before=len(self.history.trials),
            **{name: getattr(proposal, name) for name in Proposal.__dataclass_fields__},
        )

    # Telling.

    def tell(self, candidate: Candidate, outcome: Outcome | Mapping[str, float]) -> None:
        """Record a result, safe on disk before anything hears of it, and tell it in its turn.

        Args:
            candidate: What was asked for.
            outcome: Its Outcome, or the metrics of a successful evaluation.

        Raises:
            UsageError: The candidate is not out, or the outcome's status is none.
            StoreError: It cannot be written.
        """
        run = self.saved
        if not isinstance(outcome, Outcome):
            outcome = Outcome("ok", outcome)  # type: ignore[arg-type]  # judged right here
        if outcome.status == "ok":
            outcome = _judged(outcome, run)
        elif outcome.status not in STATUSES:
            raise UsageError(f"status {outcome.status!r} is unknown: expected one of {', '.join(STATUSES)}")
        with self._changed:
            if candidate.id in run.outcomes or candidate not in run.candidates[candidate.id : candidate.id + 1]:
                raise UsageError(f"candidate {candidate.id} is not out: tell each result once, as ask() gave it")
            run.record(candidate.id, outcome, tell=self._arrival)
            if self._arrival:
                self.history.tell(candidate.id, run.outcomes[candidate.id])
            if candidate.resumes is not None and outcome.status == "ok":
                self._remove_checkpoint(candidate.resumes)
            self._remove_weights()
            self._generations.recorded()
            self._changed.notify_all()

    def _remove_weights(self) -> None:
        """Remove the weights that no trial to come, and none that is out, can inherit."""
        run = self.saved
        if not run.manifest.inherit:
            return
        wanted = {trial.id for trial in heritable(self.history, run.manifest.population)}
        wanted |= {one.inherits for one in run.candidates if one.id not in run.outcomes and one.inherits is not None}
        told = {one.id for one in self.history.trials if one.candidate.whole and not one.candidate.replicate}
        for id in told - wanted - self._removed:
            self._remove_checkpoint(id)
            self._removed.add(id)

    def _remove_checkpoint(self, id: int) -> None:
        """Remove what a trial saved, and no other will go on from or inherit; its log stays."""
        with contextlib.suppress(OSError):
            for path in (self.saved.folder / TRIALS / f"{id:06d}").iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name not in LOGS:
                    path.unlink()

    def _tell(self, ids: Sequence[int]) -> None:
        if ids:
            self.saved.tell(ids)
            for id in ids:
                self.history.tell(id, self.saved.outcomes[id])

    def _tell_up_to(self, count: int) -> bool:
        """In birth order: tell the first `count` results if all are recorded, and say whether they are told."""
        wanted = range(len(self.saved.told), count)
        ready = all(id in self.saved.outcomes for id in wanted)
        if ready:
            self._tell(list(wanted))
        return ready

    # Running.

    def run(self, watch: Callable[[Search], None] = lambda search: None) -> Search:
        """Evaluate until a limit is reached, in slots of this machine, and save.

        Ctrl-C once: nothing new is begun, and what is in flight is finished. Twice, or SIGTERM: at
        once. Either way the run is saved and can be resumed.

        Args:
            watch: Called about five times a second, for a live table.

        Raises:
            StoreError: A result could not be written.
            RunError: The strategy or a driver failed.
        """
        if not self.session.limited:
            self.session = self.session.but(generations=GENERATIONS)
        with Interrupts(self.stop, self.kill):
            try:
                self._take_up()  # what was asked for by hand as well
                self.slots = self._opened()
                self._in_background(self._drive, watch)
                self._in_background(self._calibrate, watch)
            finally:
                self.close()
        if self.error is not None:
            raise self.error
        return self

    def _opened(self) -> list[Slot]:
        """Return the slots, opened; where that fails, a run that was made a moment ago is taken away again."""
        try:
            return self._open_slots()
        except BaseException:
            if len(self.saved.sessions) == 1 and not self.saved.candidates:
                self.close()
                shutil.rmtree(self.saved.folder, ignore_errors=True)
            raise

    def _open_slots(self) -> list[Slot]:
        settings, manifest = self.session, self.saved.manifest
        cluster, ranks = None, _ranks(manifest.options)
        if settings.backend != "joblib":
            many = settings.max_slots or settings.slots
            where = (settings.backend, settings.address, many, settings.devices)
            cluster = Cluster(*where, int(settings.per_device), ranks)
        planned, forecast = _plan(settings, manifest.threads, ranks), None
        if settings.per_device == AUTO and planned.slots[0] != CPU and ranks == 1:
            forecast = self._forecast(planned)
            planned = planned if forecast else _plan(settings.but(per_device=1), manifest.threads, ranks)
        slots = open_slots(self._task(), planned, settings.timeout, settings.retries, cluster, forecast)
        if not self._arrival and len(slots) > manifest.lag + 1:
            text = f"in birth order with --lag {manifest.lag}, at most {manifest.lag + 1} slots are ever at work"
            warnings.warn(f"{text}: {len(slots)} slots will wait for each other", stacklevel=3)
        return slots

    def _forecast(self, planned: Plan) -> Forecast | None:
        """Return what a genome takes of a GPU, by all that was measured so far; None where memory cannot be shared."""
        options, lacking = self.saved.manifest.options, ""
        forecast = Forecast(lambda genome: self.evaluator.estimate(genome, options))
        if not planned.memory:
            lacking = "nvidia-smi does not tell what memory each GPU has"
        elif forecast.needed(self.space.default()) is None:
            lacking = f"{self.evaluator.name} predicts no gpu_memory (docs/evaluators.md)"
        if lacking:
            only = "so each GPU has one training at a time; --per-device K gives it K"
            warnings.warn(f"--per-device {AUTO}: {lacking}, {only}", stacklevel=5)
            return None
        for trial in self.saved.trials():
            if "cuda" in (trial.outcome.device or ""):
                forecast.learn(trial.genome, trial.outcome.metrics)
        return forecast

    def _task(self) -> Task:
        run = self.saved
        manifest, folder = run.manifest, run.folder / TRIALS
        inherit = manifest.inherit > 0.0
        return Task.of(self.evaluator, manifest.options, run.objectives, folder, manifest.threads, inherit)

    def _in_background(self, drive: Callable[[Slot], None], watch: Callable[[Search], None]) -> None:
        """Let one driver per slot run to its end; this thread looks after signals and the live table."""
        drivers = Parallel(n_jobs=len(self.slots), backend="threading", batch_size=1)
        thread = threading.Thread(target=lambda: drivers(delayed(drive)(slot) for slot in self.slots), daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(TICK)
                self._heart.beat(self._busy)
                watch(self)
        except BaseException:
            self.kill()
            thread.join()
            raise

    def _busy(self) -> list[Busy]:
        rows = []
        for slot in self.slots:
            working = self.working.get(slot.name, Working("", self._started))
            what = f"{working.what} (waits for room)" if slot.waits else working.what
            rows.append(Busy(slot.name, slot.device, what, time.monotonic() - working.since, slot.memory))
        return rows

    def _drive(self, slot: Slot) -> None:
        with self._guard(slot):
            while (candidate := self._next(slot)) is not None:
                self.working[slot.name] = Working(f"trial {candidate.id}", time.monotonic())
                outcome = slot.run(candidate)
                self.tell(candidate, outcome)
                self._check_hope()
                if self._sick(slot, outcome):
                    break

    def _check_hope(self) -> None:
        """Give up when a whole generation of results has come and none is ok: something is broken.

        Raises:
            RunError: That is so; it names the last error.
        """
        with self._changed:
            outcomes = self.saved.outcomes
            if len(outcomes) < self.saved.manifest.population or any(o.status == "ok" for o in outcomes.values()):
                return
            last = outcomes[self.saved.recorded[-1]]
            raise RunError(
                f"all {len(outcomes)} evaluations so far ended without a value, the last with {last.status}: "
                f"{last.error}; mend that and start a new run, or `evo-tune resume {as_typed(self.saved.folder)} "
                "--accept-changes`"
            )

    def _sick(self, slot: Slot, outcome: Outcome) -> bool:
        """Say whether a slot is to be set aside: its device crashes what it is given, while others do well."""
        with self._changed:
            if outcome.status != "crashed":
                self._crashes[slot.device] = 0
                return False
            self._crashes[slot.device] = crashes = self._crashes.get(slot.device, 0) + 1
            if crashes < SICK or not any(n == 0 for device, n in self._crashes.items() if device != slot.device):
                return False
        warnings.warn(
            f"{slot.name} is set aside: {slot.device} crashed {crashes} trainings in a row, the last with "
            f"'{outcome.error}', while other devices did well; the run goes on without it",
            stacklevel=2,
        )
        return True

    def _next(self, slot: Slot) -> Candidate | None:
        """Return the next candidate, waiting for results where the strategy needs them first."""
        with self._changed:
            # A slot that no machine is there for does not ask: its candidate would be born on less than is known.
            while (candidate := self.ask() if slot.available else None) is None and not (
                self.finished or self.stopping
            ):
                self.working[slot.name] = Working("", time.monotonic())
                self._changed.wait(timeout=1.0)
            if candidate is None:
                self._changed.notify_all()
            return candidate

    def _calibrate(self, slot: Slot) -> None:
        with self._guard(slot):
            fit = self._crashes.get(slot.device, 0) < SICK
            while fit and not self.stopping and (work := self._calibration_work(slot)) is not None:
                candidate, folder = work
                outcome = slot.run(candidate, folder)
                with self._changed:
                    collect(self.saved, candidate, outcome)

    def _calibration_work(self, slot: Slot) -> tuple[Candidate, str] | None:
        with self._changed:
            if self._calibrations is None:
                self._calibrations = deque(calibration_work(self.saved, self.session.calibrate))
            if not self._calibrations:
                return None
            candidate, folder = self._calibrations.popleft()
            self.working[slot.name] = Working(f"calibration of trial {candidate.id}", time.monotonic())
            return candidate, folder

    @contextlib.contextmanager
    def _guard(self, slot: Slot) -> Iterator[None]:
        """Around a driver: what it cannot mend stops the run instead of vanishing in a thread."""
        try:
            yield
        except SlotClosed:  # killed from the main thread: its candidate is run again on resume
            pass
        except BaseException as error:
            self._fail(error)
        finally:
            self.working.pop(slot.name, None)

    def _fail(self, error: BaseException) -> None:
        """Stop because a driver cannot go on (disk full, a broken strategy); the first error is the one told."""
        with self._changed:
            if self.error is None and isinstance(error, EvoTuneError):
                self.error = error
            elif self.error is None:
                self.error = RunError(f"the run stopped on {type(error).__name__}: {error}")
                self.error.__cause__ = error
            self.stop()

    def stop(self) -> None:
        """Begin nothing new; what is in flight is finished and recorded."""
        with self._changed:
            self.stopping = True
            self._changed.notify_all()

    def kill(self) -> None:
        """Stop at once: what is in flight is lost, and run again on resume."""
        self.stop()
        for slot in self.slots:
            slot.kill()

    def close(self) -> None:
        """Write the generations that are still open, and let go of slots and lock; idempotent."""
        if self.slots:
            with ThreadPoolExecutor(len(self.slots)) as threads:  # a worker takes most of a second to leave
                list(threads.map(lambda slot: slot.close(), self.slots))
        self.slots = []
        self.working = {}
        self._heart.stop()
        with self._changed:
            if self.saved.closed:
                return
            try:
                if self.error is None:
                    self._generations.stop()
                    reason = "interrupted" if self.stopping else (self.finished or "closed")
                    self.saved.end(reason)
                else:
                    with contextlib.suppress(StoreError):  # it may be the disk that ended the run
                        self.saved.end(str(self.error))
            finally:
                self.saved.close()

    def __enter__(self) -> Search:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _ranks(options: Mapping[str, Any]) -> int:
    """Return how many processes one training has, by the evaluator's option of that name."""
    ranks = options.get("ranks", 1)
    return ranks if isinstance(ranks, int) and ranks > 1 else 1


def _plan(settings: Session, threads: int | None, ranks: int) -> Plan:
    """Return the slots of this machine; where a cluster runs already, only the threads of each matter.

    Raises:
        OptionError: See `dispatch.plan`.
    """
    if settings.address is not None:
        return plan(None, "cpu", 1, threads)
    return plan(settings.slots, settings.devices, settings.per_device, threads, ranks)


def propose(strategy: Strategy, history: History, run: Run, id: int) -> Proposal | None:
    """Return birth `id` of a run: the default, a warm start, or what the strategy proposes.

    Args:
        strategy: The run's strategy.
        history: All that it may see.
        run: Gives the seed and the warm starts.
        id: The next candidate's id.

    Raises:
        RunError: The strategy has raised, or what it returned is no proposal for this space.
    """
    warm, budget, number = run.manifest.warm_start, run.manifest.fidelity[0], history.fresh_count
    if number == 0:
        return Proposal(history.space.default(), "default", budget=budget)
    if number <= len(warm):
        due = strategy.due(history) if isinstance(strategy, Ruled) else None
        return due or Proposal(dict(warm[number - 1]), "warm-start", budget=budget)
    try:
        proposal = strategy.propose(history, np.random.default_rng([run.manifest.seed, 0, id]))
        return None if proposal is None else _valid(proposal, history, run.manifest.inherit > 0.0)
    except Exception as error:
        raise broken_strategy(run.manifest.strategy, "propose", error) from error


def _judged(outcome: Outcome, run: Run) -> Outcome:
    """Return an outcome that says ok, or what is wrong with its metrics: those of constraints are needed as well."""
    status, metrics, error = conclude(outcome.metrics, run.objectives)
    lacking = [one.metric for one in run.constraints if status == "ok" and one.metric not in metrics]
    if lacking:
        what = f"evaluate returned no {lacking[0]!r}, which --subject-to needs (it returned {', '.join(metrics)})"
        status, metrics, error = "failed", {}, one_line(what)
    return replace(outcome, status=status, metrics=metrics, error=error)


def _valid(proposal: object, history: History, inherit: bool) -> Proposal:
    """Return the proposal if it can be born: what the journal holds must never need mending.

    Args:
        proposal: It.
        history: What it was proposed for.
        inherit: Whether the run's trials leave their weights.

    Raises:
        TypeError: It is no Proposal.
        ValueError: Its genome is not one of the space, or goes on from a candidate that was never born.
        SpaceError: A value is outside its gene.
    """
    if not isinstance(proposal, Proposal):
        raise TypeError(f"returned a {type(proposal).__name__}, expected a Proposal or None")
    genes = history.space.genes
    if proposal.genome != {name: gene.check(proposal.genome.get(name)) for name, gene in genes.items()}:
        raise ValueError(f"proposed {proposal.genome}, which is not snapped: see SearchSpace.snap")
    if not 0.0 < proposal.budget <= 1.0:
        raise ValueError(f"proposed budget={proposal.budget}, expected more than 0 and at most 1")
    if proposal.resumes is not None and not 0 <= proposal.resumes < history.born_count:
        raise ValueError(f"proposed resumes={proposal.resumes}, which was never born")
    if proposal.inherits is not None and not inherit:
        raise ValueError(f"proposed inherits={proposal.inherits}, and only --inherit has weights kept")
    return proposal
