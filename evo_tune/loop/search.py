"""The one loop: ask for a candidate, evaluate it in a slot, record the result and report it to the strategy.

`Search` connects a strategy, a saved run and slots without knowing how they work inside. `ask` and `tell` share one
lock; joblib runs one driver per slot. Only this module decides which results a strategy sees, and when (law 3).
"""

from __future__ import annotations

import contextlib
import datetime
import re
import shutil
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.dispatch.slot import Slot
from evo_tune.errors import RunError, StoreError, UsageError
from evo_tune.forecast.clock import Clock
from evo_tune.genome.genes import Gene
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Objective, Outcome, Proposal, Trial, with_genes
from evo_tune.loop.checks import check_unchanged
from evo_tune.loop.code import (
    load_code,
    load_named_evaluator,
    patched_code,
    remember,
    remember_copy,
    remember_session,
    session_settings_to_trust,
    strategy_with_rules,
)
from evo_tune.loop.comparison import ComparisonJobs
from evo_tune.loop.deadline import Deadline, check_any_success, limit_reason, next_session, proposal_limit_reason
from evo_tune.loop.driving import NO_MORE_JOBS, Drivers, Job, JobOrEnd, handle_interrupts
from evo_tune.loop.generations import TrialFiles, clean_checkpoints_after, remove_partial_checkpoints
from evo_tune.loop.genes import widen_by_hand
from evo_tune.loop.plan import Request, RunPlan, plan_run
from evo_tune.loop.progress import progress_line, report_trials, run_in_words
from evo_tune.loop.proposing import ProposalQueue, as_outcome
from evo_tune.loop.slots import open_run_slots, time_few_steps
from evo_tune.plugins.command import is_command, with_template_text
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.report.recommendation import recommend_trial
from evo_tune.report.summary import NOTHING_LEFT
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.settings import SessionSettings, parse_settings
from evo_tune.store.inbox import submit
from evo_tune.store.manifest import space_of
from evo_tune.store.run import Run, history_of, replay
from evo_tune.store.run_folders import DEFAULT_STORE, copy_run, find_run
from evo_tune.store.table import table_of
from evo_tune.trust.decide import Ask, Consent

if TYPE_CHECKING:
    import pandas as pd


class Search(contextlib.AbstractContextManager["Search"]):
    """A run in progress: driven by `run()`, or by hand with `ask()` and `tell()` over the same journal.

    Args:
        evaluator: Name, path or reference of an evaluator's file, a command, or a function (docs/scripts.md).
        space: Search space of a function or a command: a SearchSpace, or a dict of genes or their texts as in `--gene`.
        options: Options of the evaluator.
        strategy: Name or path of a strategy; by default `saea`.
        strategy_options: Options of the strategy.
        population: Number of survivors, and of new genomes per generation.
        objectives: Objectives instead of the evaluator's own: Minimize(METRIC), or as text METRIC:min, METRIC:max.
        genes: Genes instead of those of the evaluator's space; None switches an optional gene on unchanged.
        subject_to: Constraints: METRIC<=NUMBER, METRIC>=NUMBER.
        warm_start: Genomes that are trained right after the default.
        fill_defaults: Whether genes that a warm-start genome lacks get their defaults.
        learn_from: Earlier runs, by name or path, that are used as a prior.
        store: Folder of the saved runs.
        name: Name of the run; by default made from evaluator and time.
        patches: Folder with patches of a command's project, each an on/off gene (docs/patches.md).
        protect: Paths of the project that no trial with patches may change.
        allow_patches: Whether patches that agents propose may join the run.
        settings: Settings of the run and of its first session (`RunSettings`, `SessionSettings`; docs/settings.md).

    Raises:
        UsageError: An argument is wrong; nothing is written.
        StoreError: The run cannot be saved.
    """

    def __init__(
        self,
        evaluator: str | Callable[..., Any] = "language_model",
        *,
        space: SearchSpace | Mapping[str, Gene | str] | None = None,
        options: Mapping[str, Any] | None = None,
        strategy: str | None = None,
        strategy_options: Mapping[str, Any] | None = None,
        population: int | None = None,
        objectives: Sequence[str | Objective] = (),
        genes: Mapping[str, Gene | None] | None = None,
        subject_to: Iterable[str] = (),
        warm_start: Iterable[Mapping[str, Any]] = (),
        fill_defaults: bool = False,
        learn_from: Iterable[str | Path] = (),
        store: str | Path = DEFAULT_STORE,
        name: str | None = None,
        patches: str | Path | None = None,
        protect: Sequence[str] = (),
        allow_patches: bool = False,
        **settings: Any,
    ) -> None:
        of_run, session = parse_settings(settings)
        if isinstance(evaluator, str) and is_command(evaluator):
            options = with_template_text(options or {})
        code = patched_code(evaluator, patches, protect, allow_patches, Path(store), genes or {}, space)
        plugin = load_named_evaluator(evaluator, genes, options, space, None if code is None else code.patches)
        request = Request(
            options=options or {},
            strategy=strategy,
            strategy_options=strategy_options or {},
            population=population,
            objectives=objectives,
            genes=genes or {},
            subject_to=subject_to,
            warm_start=warm_start,
            fill_defaults=fill_defaults,
            learn_from=learn_from,
            code=code,
        )
        plan = plan_run(plugin, request, of_run, session, Path(store))
        manifest = plan.manifest
        run_name = name or new_name(plugin.name, Path(store))
        run = Run.create(Path(store), run_name, manifest, session, *([] if code is None else [code.save]))
        with close_on_error(run):
            plugin = remember(run, plugin, session)  # a notebook's function is now a file of the run
            bound = plan.evaluator if plugin is plan.evaluator.plugin else replace(plan.evaluator, plugin=plugin)
            self._begin(run, bound, strategy_with_rules(manifest, bound, manifest.strategy), session, plan)

    @classmethod
    def resume(
        cls,
        name: str | None = None,
        *,
        store: str | Path = DEFAULT_STORE,
        copy_as: str | None = None,
        accept_changes: bool = False,
        evaluator: str | Callable[..., Any] | None = None,
        strategy: str | None = None,
        genes: Mapping[str, Gene | None] | None = None,
        trust: bool = False,
        ask: Ask | None = None,
        **changes: Any,
    ) -> Search:
        """Continue a saved run.

        Args:
            name: Name or path of the run; by default the latest one.
            store: Folder of the saved runs.
            copy_as: Name of a copy to make first; the copy is continued.
            accept_changes: Whether to continue although the evaluator's file, its data or the strategy's file changed.
            evaluator: New path of the evaluator's file, if it has moved; or the function itself.
            strategy: New path of the strategy's file, if it has moved.
            genes: Genes of the run with wider ranges, which new genomes use.
            trust: Whether to execute code and read paths that the run names, although they are not known as yours.
            ask: Function that asks the user about these instead.
            changes: Settings of the session that differ from the last session (`SessionSettings`).

        Raises:
            UsageError: The copy's name is taken, a change is not allowed, or what the run names is not trusted.
            StoreError: There is no such run, or it cannot be continued.
        """
        original = find_run(Path(store), name)
        run = Run.open(original if copy_as is None else copy_run(original, Path(store), copy_as), write=True)
        with close_on_error(run, remove=copy_as is not None):
            if copy_as is not None:
                remember_copy(run, original)
            bound, ruled = load_code(run, Consent(trust, ask, accept_changes), evaluator, strategy)
            check_unchanged(run, bound, ruled.inner, accept_changes)
            last = session_settings_to_trust(run, changes)
            session = next_session(last, changes, run.manifest.settings.most_seeds)
            widen_by_hand(run, bound, ruled, genes or {})
            remember_session(run, session)
            self = cls.__new__(cls)
            self._begin(run, bound, ruled, session)
            run.begin(session)
        return self

    def _begin(
        self,
        run: Run,
        evaluator: BoundEvaluator,
        strategy: StrategyWithRules,
        session: SessionSettings,
        plan: RunPlan | None = None,
    ) -> None:
        self.saved, self.name = run, run.name
        self.evaluator, self.strategy, self.session = evaluator, strategy, session
        self._arrival = run.manifest.settings.order == "arrival"
        self.finished: str | None = None  # why no more candidates will come
        self.stopping = False
        self._planning = 0.0 if plan is None else plan.seconds  # before the run began; `hours` includes it
        self.plan_timed_steps = self._planning > 0.0  # perhaps without a result
        self.choices = () if plan is None else plan.choices  # budget and rungs that were chosen for the run, in words
        self.deadline: Deadline | None = None  # while it runs in slots with a limit in hours
        self._no_time_at = -1  # number of results when the next training would not have ended in time
        self._changed = threading.Condition(threading.RLock())
        self.drivers = Drivers(run.folder, self.stop, lambda: self.stopping, self._changed)
        # All that follows is derived from the journal (law 2: resume is reading).
        space = space_of(run.manifest, evaluator.space)
        self.history = history_of(run, space)
        self._trial_files = TrialFiles(run, self.strategy, history_of(run, space))
        replay(self.history, run)
        # Durations, by the results and by a few timed steps, if they were measured.
        pace = None if plan is None else plan.pace
        self.clock = Clock(run, pace, lambda: self.history.space, evaluator.estimate)
        patches = evaluator.plugin.patches
        self._queue = ProposalQueue(run, self.history, self.strategy, self._trial_files, patches)
        if self._arrival:  # a torn tail may have recorded results without their report
            self._queue.tell(run.sequence(start=len(run.reported)))
        self._trial_files.repair()
        self._queue.requeue_unfinished()

    @property
    def trials(self) -> list[Trial]:
        """Every recorded trial, by id."""
        with self._changed:
            return self.saved.trials()

    @property
    def best(self) -> Trial | None:
        """The recommended trial so far; after a final comparison, the best one over its fresh seeds."""
        with self._changed:
            return recommend_trial(self.saved)

    @property
    def space(self) -> SearchSpace:
        """The search space with its present ranges."""
        return self.history.space

    @property
    def status(self) -> str:
        """Status of the strategy in one line; '' if it reports none."""
        with self._changed:
            return self.strategy.status(self.history)

    @property
    def seconds(self) -> float:
        """Time spent in all sessions of the run, in seconds."""
        return self.saved.elapsed

    def frame(self) -> pd.DataFrame:
        """Return every recorded trial as a row, with the columns of the run's Parquet files."""
        with self._changed:
            return table_of(self.saved, self.saved.trials()).to_pandas()  # type: ignore[no-any-return]

    def ask(self) -> Candidate | None:
        """Return the next candidate; None if results must be reported first or the run is over (see `finished`).

        Raises:
            RunError: The strategy raised an error, or its answer is not a proposal.
            StoreError: The candidate cannot be saved.
        """
        with self._changed:
            self.drivers.beat()
            if self.stopping or self.finished:
                return None
            waiting = self._queue.next_waiting()
            if waiting is not None:
                if self._fits(waiting):
                    return waiting
                self._queue.put_back(waiting)  # a longer run trains it
                self.finished = self._hours_are_over
                return None
            seconds = self.seconds + self._planning
            self.finished = limit_reason(self.saved, self.session, self.history, seconds, self.deadline)
            return None if self.finished else self._propose()

    def _fits(self, proposal: Candidate | Proposal) -> bool:
        """Return whether a training would end within the hours of the run."""
        return self.deadline is None or self.deadline.fits(proposal)

    @property
    def _hours_are_over(self) -> str:
        assert self.deadline is not None
        return self.deadline.reached_reason()

    def _propose(self) -> Candidate | None:
        """Return a new candidate; None if results must be reported first or the run is over (see `finished`)."""
        run, candidate = self.saved, None
        limit = proposal_limit_reason(run, self.session, self.history)
        if self._no_time_at != len(run.recorded):  # a later result may lead to a shorter training
            candidate = self._queue.next(limit is not None, self._fits)
            if self._queue.did_not_fit:
                self._no_time_at = len(run.recorded)
        if self._no_time_at == len(run.recorded):
            if len(run.candidates) == len(run.outcomes):  # no result will come
                self.finished = self._hours_are_over
        elif candidate is None and not self.history.pending:
            self.finished = limit or NOTHING_LEFT
            if not limit:
                remove_partial_checkpoints(run)
        return candidate

    def _time_is_over(self) -> bool:
        """Return whether the search must end now, its running trainings included."""
        with self._changed:
            is_over = self.deadline is not None and self.deadline.is_over()
            if is_over:
                self.finished = self.finished or self._hours_are_over
            return is_over

    def tell(self, candidate: Candidate, outcome: Outcome | Mapping[str, float]) -> None:
        """Report a result: write it to disk, then show it to the strategy in its order.

        Args:
            candidate: Candidate from `ask`.
            outcome: Outcome of the candidate, or the metrics of a successful evaluation.

        Raises:
            UsageError: The candidate is not pending, or the outcome's status is unknown.
            StoreError: The result cannot be written.
        """
        run = self.saved
        outcome = as_outcome(outcome, run)
        with self._changed:
            recorded = run.candidates[candidate.id : candidate.id + 1]
            # It may lack genes of patches that have joined the run since.
            if candidate.id in run.outcomes or not any(with_genes(candidate, own.genome) == own for own in recorded):
                raise UsageError(f"candidate {candidate.id} is not pending: report the result of each candidate once")
            run.record(candidate.id, outcome, tell=self._arrival)
            if self._arrival:
                self.history.tell(candidate.id, run.outcomes[candidate.id])
            clean_checkpoints_after(run, candidate, outcome)
            self._trial_files.update()
            self.drivers.beat()
            self._changed.notify_all()

    def enqueue(self, genome: Mapping[str, Any], source: str = "python") -> None:
        """Propose a genome that is trained next, before new ones of the strategy. Any thread may call it at any time.

        It is written to disk at once. A closed run trains it on resume, and one at its limit when the limit is larger.

        Args:
            genome: Values of genes by name; all others have their defaults. A value outside of a range widens it if the
                run may do so by itself.
            source: Who proposes it, for the record: letters, digits and '._@-'.

        Raises:
            SpaceError: A gene is unknown, a value is not allowed, or the genome was proposed already.
            UsageError: The source has another form, or too many genomes wait.
            StoreError: The run's folder cannot be written.
        """
        with self._changed:
            submit(self.saved, [genome], source)

    # Running.

    def run(
        self,
        watch: Callable[[Search], None] | None = None,
        *,
        forecast: bool = False,
        planning: float = 0.0,
        after: Callable[[float], float] = lambda training: 0.0,
        progress: bool | None = None,
        callbacks: Sequence[Callable[[Trial], object]] = (),
    ) -> Search:
        """Run trials in slots until a limit is reached.

        The first Ctrl-C lets running trials finish; the second, SIGTERM or SIGHUP stops at once. The run is saved, and
        can be resumed. Afterwards `stopping` says whether it was interrupted.

        Args:
            watch: Function that is called about five times a second, for lines of progress that also show a Ctrl-C.
                None: a line shows the progress, and another one answers the first Ctrl-C.
            forecast: Whether to time a few steps first, unless the plan of the run did.
            planning: Seconds before the session began that `hours` includes; at least those of the plan.
            after: Returns the seconds of `hours` to leave after the run (see `Deadline`).
            progress: Whether to show the line of progress; None: in a terminal and in a notebook.
            callbacks: Functions that are called with each recorded trial, in the thread that called `run`.

        Raises:
            StoreError: A result could not be written.
            RunError: The strategy or a driver failed.
        """
        report_new_trials = report_trials(self.saved, callbacks)
        with progress_line(progress if watch is None else False) as show_progress:

            def look() -> None:
                if watch is None:
                    show_progress(self.saved)
                else:
                    watch(self)
                report_new_trials()

            def stop() -> None:
                self.stop()
                if watch is None:
                    print("stopping after the running trials; press Ctrl-C again to stop at once", file=sys.stderr)

            self.session, self._planning = self.session.with_default_limit(), max(self._planning, planning)
            try:
                with handle_interrupts(stop, self.kill):
                    self._run(look, forecast, after)
            finally:
                report_new_trials()
        if self.drivers.error is not None:
            raise self.drivers.error
        return self

    def _run(self, watch: Callable[[], None], forecast: bool, after: Callable[[float], float]) -> None:
        """Run trials and the final comparison in slots, then close the run; see `run`."""
        run, drivers = self.saved, self.drivers
        try:
            self._queue.requeue_unfinished()  # including candidates that were asked for by hand
            drivers.slots = open_run_slots(run, self.session, self.evaluator, self.space)
            if forecast and self.clock.pace is None and not self.plan_timed_steps:

                def watch_timing() -> None:
                    watch()
                    if self.stopping:  # at once, since no trial is running that it could lose
                        drivers.kill()

                pace = time_few_steps(run, self.space, drivers.slots, watch_timing, lambda: self.stopping)
                self.clock.pace = pace
            if self.session.hours is not None:
                self.deadline = Deadline(
                    run=run,
                    session=self.session,
                    clock=self.clock,
                    slots=len(drivers.slots),
                    elapsed=lambda: self.seconds + self._planning,
                    after=after,
                )
            baseline = run.baseline  # a failed one is trained again on resume
            has_baseline = baseline is not None and baseline[1].status == "ok"
            wants_baseline = self.session.baseline and self.evaluator.plugin.baseline and not has_baseline
            self._wants_baseline = bool(wants_baseline)
            drivers.drive(self._next, self._take, watch, lambda: run.sound_default, self._time_is_over)
            if self.session.final_seeds and not self.stopping:
                self._compare(watch)
        finally:
            self.close()

    def _compare(self, watch: Callable[[], None]) -> None:
        """Train the final comparison: as an earlier session planned it, or as it fits into the time that is left."""
        planned = self.saved.planned is not None
        if self.deadline is not None:
            self.deadline.plan()
        deadline = None if planned else self.deadline
        jobs = ComparisonJobs(self.saved, self._changed, lambda: self.stopping, deadline)
        self.drivers.drive(jobs.fetch, jobs.record_outcome, watch, expired=jobs.time_is_over)
        jobs.end_if_late()

    def _take(self, job: Job, outcome: Outcome) -> None:
        if job.candidate.baseline:
            with self._changed:
                self.saved.record_baseline(self.evaluator.plugin.baseline, outcome)
            return
        self.tell(job.candidate, outcome)
        with self._changed:
            check_any_success(self.saved, self.session)

    def _next(self, slot: Slot) -> JobOrEnd:
        """Return the next candidate as a job, for any slot."""
        with self._changed:
            if self._wants_baseline:
                self._wants_baseline = False
                genome = self.history.space.default()  # packing asks for the memory of a genome
                return Job(Candidate(-1, 0, 0, 0, genome, "baseline", baseline=True), "baseline", "baseline")
            candidate = self.ask()
            if candidate is not None:
                return Job(candidate, f"trial {candidate.id}")
            return NO_MORE_JOBS if self.finished or self.stopping else None

    def stop(self) -> None:
        """Start no new trial; running trials finish and are recorded."""
        with self._changed:
            self.stopping = True
            self._changed.notify_all()

    def kill(self) -> None:
        """Stop at once; running trials are lost and run again on resume."""
        self.stop()
        self.drivers.kill()

    def close(self) -> None:
        """Write the generations that are not complete, and release slots and lock. A second call does nothing."""
        self.drivers.close()
        with self._changed:
            if not self.saved.journal.is_claimed:
                return
            try:
                if self.saved.rescued is not None:  # nothing more can be written
                    pass
                elif self.drivers.error is None:
                    try:
                        self._trial_files.stop()
                    except StoreError as error:
                        self.saved.end(str(error))  # saves the results in another folder if this one is gone
                        raise
                    reason = "interrupted" if self.stopping else (self.finished or "closed")
                    self.saved.end(reason)
                else:
                    with contextlib.suppress(RunError, StoreError):  # which may have ended the run
                        self._trial_files.stop()
                    with contextlib.suppress(StoreError):  # the disk may have ended the run
                        self.saved.end(str(self.drivers.error))
            finally:
                self.drivers.error = self.saved.rescued or self.drivers.error
                self.saved.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Search {run_in_words(self.saved)}>"


def new_name(evaluator: str, store: Path) -> str:
    """Return a free name for a run, from the evaluator's name (ASCII, at most 50 characters) and the time."""
    plain = unicodedata.normalize("NFKD", evaluator).encode("ascii", "ignore").decode()  # é becomes e plus an accent
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", plain)[:50].strip("-_") or "run"
    stem = f"{slug}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    return next(name for name in names if not (store / name).exists())


@contextlib.contextmanager
def close_on_error(run: Run, remove: bool = False) -> Iterator[None]:
    """Close an open run if the block raises an error.

    Args:
        run: Open run.
        remove: Whether to remove its folder as well.
    """
    try:
        yield
    except BaseException:
        run.close()
        if remove:
            shutil.rmtree(run.folder, ignore_errors=True)
        raise
