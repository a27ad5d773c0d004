"""A saved run: its journal, read back, and open for writing in one process at a time.

The journal is append-only and the only source of truth (law 7); all other files are derived from it. Everything here is
plain data: opening a run's folder cannot execute code. This module does not know strategies, slots, torch or Parquet.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from evo_tune.errors import EvoTuneError, StoreError, UsageError, explain_error
from evo_tune.genome.genes import Gene
from evo_tune.genome.history import Lesson, RunHistory, results_digest
from evo_tune.genome.space import SearchSpace, inactive_genes, resolve_conditions
from evo_tune.genome.switches import SWITCH
from evo_tune.genome.trial import SUBMITTED, Candidate, Objective, Outcome, Trial, TrialCode, with_genes
from evo_tune.genome.values import Genome, genome_key, is_same
from evo_tune.genome.view import average_trials
from evo_tune.genome.widening import WIDENINGS, widen_genes, widen_to_limits
from evo_tune.settings import SessionSettings
from evo_tune.store import events
from evo_tune.store.binding import HeadMemory
from evo_tune.store.journal import JOURNAL, Journal, Removed, invalid_line_message
from evo_tune.store.manifest import (
    MOST_LEARNED,
    Learned,
    Manifest,
    PatchRecord,
    manifest_hash,
    read_manifest,
    write_manifest,
)
from evo_tune.store.run_folders import (
    TRIALS,
    complete_run_folder,
    missing_journal_message,
    open_locked_journal,
    run_reference,
)
from evo_tune.text import one_line
from evo_tune.trust import safe_files

__all__ = ["TRIALS", "Run", "Widening"]


@dataclass(frozen=True)
class Widening:
    """Ranges of genes that were widened.

    Args:
        proposed: Number of candidates before it.
        reported_count: Number of results that the strategy had seen.
        changed: The widened genes by name.
        genes: All genes after it.
        reason: Reason in words; '' if the user widened them on resume.
        submitted: Whether the next candidate was submitted with a value outside of the ranges before.
        patch: Name of the patch that joined the run, whose genes are new; '' if ranges were widened.
    """

    proposed: int
    reported_count: int
    changed: Mapping[str, Gene]
    genes: Mapping[str, Gene]
    reason: str
    submitted: bool = False
    patch: str = ""


@dataclass(frozen=True)
class FreshResult:
    """A result of the final comparison.

    Args:
        trial: The trial whose genome was trained again, with the seed and the result of that training.
        evaluator_hash: SHA-256 of the evaluator's code.
        fingerprint: Identity of the data.
    """

    trial: Trial
    evaluator_hash: str
    fingerprint: str


# Settings of a session on which the planned final comparison depends.
PLANNED_BY = ("hours", "final_seeds", "finalists")


class Run:
    """A saved run, read back from its journal; open for writing in one process at a time.

    Args:
        folder: Folder of the run.
        manifest: Manifest of the run.
        journal: Journal of the run.
        past_events: Events of the journal so far.
    """

    def __init__(self, folder: Path, manifest: Manifest, journal: Journal, past_events: Iterable[events.Event]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.objectives = manifest.objective_list()
        self.constraints = manifest.constraints()
        # Present genes by name.
        self.genes = manifest.genes()
        self.widened: list[Widening] = []
        # Patches in the order of their names; those that joined later are in `added_patches` too.
        self.patches = [] if manifest.patched is msgspec.UNSET else list(manifest.patched.patches)
        self.added_patches: list[PatchRecord] = []
        self.journal = journal
        self.candidates: list[Candidate] = []
        self.outcomes: dict[int, Outcome] = {}
        # Ids of the recorded results, in the order of recording.
        self.recorded: list[int] = []
        self.reported: list[int] = []
        # By candidate: number of results that the strategy had seen when it was proposed.
        self.reported_before_counts: list[int] = []
        # By candidate that was submitted from outside: its submission.
        self.submissions: dict[int, events.Submitted] = {}
        # Names of their files.
        self.submitted_files: set[str] = set()
        self.sessions: list[SessionSettings] = []
        # Settings of the last session that this version does not have, with their values.
        self.dropped_settings: dict[str, Any] = {}
        self.evaluator_hash = manifest.evaluator_hash
        self.fingerprint = manifest.fingerprint
        self.strategy_hash = manifest.strategy_hash
        # The final comparison that was planned by the clock; None after a later result, or under other limits.
        self.planned: events.ComparisonPlanned | None = None
        # Name and last result of the baseline of the present evaluator and data; None if it was not trained.
        self.baseline: tuple[str, Outcome] | None = None
        # Results of the final comparison, of earlier evaluators and data too.
        self.fresh: list[FreshResult] = []
        # Reason why the last session ended; None while it runs, or if it was killed.
        self.ended: str | None = None
        # Time spent in all sessions, in seconds; a killed session counts up to its last event.
        self.seconds = 0.0
        # By candidate with a result: `seconds` at that time.
        self.finished: dict[int, float] = {}
        # By candidate: time of its proposal, in seconds since 1970.
        self.proposed_at: dict[int, float] = {}
        # By candidate with a result: time of the result, in seconds since 1970.
        self.recorded_at: dict[int, float] = {}
        # `seconds` when each session began.
        self.resumed: list[float] = []
        # Number of results before the last change of evaluator, data or strategy.
        self.unchanged_from = 0
        # Hash of the manifest at the beginning of each session.
        self.manifest_hashes: set[str] = set()
        self._head_memory = HeadMemory(journal, manifest.identity)
        self._metrics: set[str] = set()
        self._early: set[str] = set()
        self._reported_orders: dict[int, int] = {}
        self._trials: dict[int, Trial] = {}
        self._has_extra_seeds = False
        self.rescued: Removed | None = None  # error of a removed journal, which says where the results are saved
        self._unsaved: list[bytes] = []  # lines that the removed journal lacks
        # Whether the user widened ranges since the last session.
        self._by_hand = False
        self._leader: tuple[float, tuple[float, ...], int] | None = None
        # Time of the journal's last event, in seconds since 1970.
        self.last_event = 0.0
        self._spent = 0.0
        self._began: float | None = None
        for number, event in enumerate(past_events, 1):
            try:
                self._apply(event)
            except (ValueError, EvoTuneError) as error:
                raise StoreError(invalid_line_message(journal.path, number, error)) from error

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def session(self) -> SessionSettings:
        """Settings of the last session; the defaults if the journal has none, as a damaged one may."""
        return self.sessions[-1] if self.sessions else SessionSettings()

    @property
    def elapsed(self) -> float:
        """Time spent in all sessions until now, in seconds; equal to `seconds` after the end of the session."""
        if self._began is None or not self.journal.is_claimed:
            return self.seconds
        return self.seconds + max(0.0, time.monotonic() - self._began - self._spent)

    @classmethod
    def create(
        cls,
        store: Path,
        name: str,
        manifest: Manifest,
        session: SessionSettings,
        write_files: Callable[[Path], None] = lambda folder: None,
    ) -> "Run":
        """Create a run, locked for writing, with its folder, first session and manifest.

        Its folder gets its name when it is complete. `write_files` writes more files into the folder before, given its
        path.

        Raises:
            UsageError: The name is taken or not valid.
            StoreError: The store cannot be written.
        """
        folder = store / name
        refusal = explain_error(StoreError, f"cannot make {folder}", "choose another --store")
        with refusal, contextlib.ExitStack() as on_error:
            with complete_run_folder(store, name) as part:
                journal = Journal(part / JOURNAL)
                on_error.callback(journal.close)
                journal.claim(make=True)
                run = cls(part, manifest, journal, [])
                run._begin_session(session)
                write_files(part)
                write_manifest(part, manifest)
            on_error.pop_all()
        run.folder, journal.path = folder, folder / JOURNAL
        run._head_memory.update(at_once=True)
        return run

    @classmethod
    def open(cls, folder: Path, write: bool = False) -> "Run":
        """Read a saved run.

        Args:
            folder: Folder of the run.
            write: Whether to lock the run, to continue it.

        Raises:
            StoreError: The run is missing or damaged, or another process is writing it.
        """
        manifest = read_manifest(folder)
        journal = open_locked_journal(folder) if write else Journal(folder / JOURNAL)
        try:
            run = cls(folder, manifest, journal, journal.read(events.read))
            if not journal.count:
                raise StoreError(missing_journal_message(folder))
            if write:  # files in the trials' folders will be removed
                refusal = explain_error(StoreError, f"cannot write {folder / TRIALS}", "put a folder in its place")
                with refusal, contextlib.suppress(FileNotFoundError), safe_files.folder(folder, TRIALS):
                    pass
        except BaseException:
            journal.close()
            raise
        return run

    def close(self) -> None:
        """Close the journal, which releases its lock; idempotent."""
        self.journal.close()

    # Events are written first, then applied by the same code that reads them back.

    def begin(self, session: SessionSettings) -> None:
        """Begin a session, durably. This and the next methods raise StoreError if the event cannot be written."""
        self._begin_session(session)
        self._head_memory.update(at_once=True)

    def _begin_session(self, session: SessionSettings) -> None:
        self._began = time.monotonic()
        manifest = manifest_hash(self.folder, self.manifest)
        self._write(events.SessionBegun(session=session.to_json(), manifest=manifest, time=_now()), sync=True)

    def change(self, evaluator_hash: str, fingerprint: str, strategy_hash: str) -> None:
        """Record a change of the evaluator, its data or the strategy's file, durably."""
        event = events.Changed(
            evaluator_hash=evaluator_hash, fingerprint=fingerprint, strategy_hash=strategy_hash, time=_now()
        )
        self._write(event, sync=True)

    def widen(self, genes: Mapping[str, Gene], reason: str = "") -> None:
        """Record wider ranges of genes for all later candidates, durably.

        Args:
            genes: Genes with their wider ranges, by name.
            reason: Reason in words; '' if the user widens them before a session.
        """
        self._write(events.Widened(genes=events.ranges_of(genes), reason=reason, time=_now()), sync=True)

    def add_patch(self, patch: PatchRecord, genes: Mapping[str, Gene], source: str, file: str) -> None:
        """Record a patch that joins the run, durably; its text is in the run's folder already.

        Args:
            patch: The patch.
            genes: Its genes by name.
            source: Who proposed it.
            file: Name of its file in the inbox.
        """
        event = events.PatchAdded(patch=patch, genes=events.ranges_of(genes), source=source, file=file, time=_now())
        self._write(event, sync=True)

    def record_candidate(self, candidate: Candidate, submission: events.Submitted | None = None) -> Candidate:
        """Write a new candidate and return it as read from the journal.

        It is not synced, because a candidate that is lost in a power cut is proposed again identically. A submitted one
        is, because its file is removed then.
        """
        record = events.CandidateRecord.of(candidate)
        event = events.Proposed(candidate=record, submission=submission or msgspec.UNSET, time=_now())
        self._write(event, sync=submission is not None)
        return self.candidates[-1]

    def record(self, id: int, outcome: Outcome, tell: bool) -> None:
        """Write a result, durably (law 3).

        Args:
            id: Id of the candidate.
            outcome: Outcome of the candidate.
            tell: Whether the strategy sees it at once.
        """
        now = _now()
        reported = [events.Reported(id=id, time=now)] if tell else []
        self._write(events.Recorded(id=id, outcome=events.Result.of(outcome), time=now), *reported, sync=True)
        self._head_memory.update(at_once=False)

    def tell(self, ids: Sequence[int]) -> None:
        """Write that the strategy sees recorded results, in this order."""
        now = _now()
        self._write(*(events.Reported(id=id, time=now) for id in ids))

    def plan_comparison(
        self, finalists: Sequence[int], default: int | None, looks: Sequence[int], patches: bool = False
    ) -> None:
        """Record the final comparison that fits into the hours, durably; see `ComparisonPlanned`."""
        leaves_out = True if patches else msgspec.UNSET
        event = events.ComparisonPlanned(
            finalists=tuple(finalists), default=default, looks=tuple(looks), patches=leaves_out, time=_now()
        )
        self._write(event, sync=True)

    def record_baseline(self, name: str, outcome: Outcome) -> None:
        """Write the result of the evaluator's baseline, durably."""
        self._write(events.BaselineTrained(name=name, outcome=events.Result.of(outcome), time=_now()), sync=True)

    def record_fresh(self, *results: FreshResult) -> None:
        """Write results of the final comparison, durably."""
        new_events = []
        for result in results:
            candidate = result.trial.candidate
            is_whole = is_same(candidate.genome, self.candidates[candidate.id].genome)
            event = events.FreshTrained(
                id=candidate.id,
                seed=candidate.seed,
                outcome=events.Result.of(result.trial.outcome),
                evaluator_hash=result.evaluator_hash,
                fingerprint=result.fingerprint,
                genome=msgspec.UNSET if is_whole else candidate.genome,
                time=_now(),
            )
            new_events.append(event)
        self._write(*new_events, sync=True)

    def end(self, reason: str) -> None:
        """End the session, durably."""
        self._write(events.Ended(reason=reason, time=_now()), sync=True)
        self._head_memory.update(at_once=True)

    def _write(self, *new_events: events.Event, sync: bool = False) -> None:
        """Append events to the journal, then apply them as read back.

        Raises:
            StoreError: The events could not be written or read back; nothing is applied.
        """
        if not self.journal.is_claimed:
            raise StoreError(f"{self.folder} is not open for writing (any more): resume it")
        for event in new_events:
            event.spent = 0.0 if self._began is None else round(time.monotonic() - self._began, 3)
        try:
            checked_events = [events.check_event(event) for event in new_events]
        except ValueError as error:
            message = f"{self.journal.path}: {type(new_events[0]).__name__} cannot be saved ({one_line(str(error))})"
            raise StoreError(f"{message}: mend the evaluator or the strategy that it came from") from None
        lines = [line for line, _ in checked_events]
        try:
            self.journal.append(lines, sync)
        except Removed as error:
            self._unsaved += lines  # also those of other slots, which end later
            self.rescued = Removed(f"{error}: {self._rescue(self._unsaved)}")
            raise self.rescued from None
        for _, event in checked_events:
            self._apply(event)

    def _rescue(self, lines: Sequence[bytes]) -> str:
        """Save this run, whose journal was removed, as a new run; return the outcome in words.

        Args:
            lines: Events that are not in the journal yet.
        """
        stem = f"{self.name[:85]}-rescued"
        names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
        free = (path for path in map(self.folder.with_name, names) if not os.path.lexists(path))
        folder = next(free, self.folder.with_name(stem))
        try:
            folder.mkdir(parents=True)
            self.journal.rescue(folder / JOURNAL, lines)
            write_manifest(folder, msgspec.structs.replace(self.manifest, identity=uuid.uuid4().hex))
        except (OSError, StoreError) as error:
            cause = one_line(str(error))
            return f"results since its last copy are lost, because {folder} cannot be made ({cause}); restore the copy"
        remedy = f"`evo-tune resume {run_reference(folder)} --trust`"
        return f"all results are saved in {folder}, without checkpoints; {remedy}"

    def _apply(self, event: events.Event) -> None:
        """Follow an event, and add the time that was spent since the last one.

        Raises:
            ValueError, EvoTuneError: The event cannot follow the earlier ones.
        """
        if self._by_hand and isinstance(event, events.Proposed | events.Recorded):
            raise ValueError("ranges were widened without a reason, and not before a session")
        if isinstance(event, events.SessionBegun):
            self._spent = 0.0
        self.seconds += max(0.0, event.spent - self._spent)
        self._spent, self.last_event = event.spent, event.time
        if isinstance(event, events.Proposed):
            if isinstance(event.submission, events.Submitted):
                self._apply_submission(event.candidate.id, event.submission)
            candidate = event.candidate.candidate()
            code = self.code_of(candidate.genome)
            self._apply_proposed(candidate if code is None else replace(candidate, code=code))
            self.proposed_at[event.candidate.id] = event.time
        elif isinstance(event, events.Recorded):
            self._apply_recorded(event.id, event.outcome.outcome())
            self.finished[event.id] = self.seconds
            self.recorded_at[event.id] = event.time
        elif isinstance(event, events.Reported):
            if [event.id] != self.sequence(start=len(self.reported))[:1]:
                raise ValueError(f"result of candidate {event.id} is reported out of order, or not recorded")
            self.reported.append(event.id)
        elif isinstance(event, events.SessionBegun):
            session, self.dropped_settings = event.settings()
            if self.sessions and any(getattr(session, name) != getattr(self.session, name) for name in PLANNED_BY):
                self.planned = None
            self._by_hand, self.ended = False, None
            self.manifest_hashes |= set() if event.manifest is msgspec.UNSET else {event.manifest}
            self.sessions.append(session)
            self.resumed.append(self.seconds)
        elif isinstance(event, events.Changed):
            self.evaluator_hash, self.fingerprint = event.evaluator_hash, event.fingerprint
            self.strategy_hash = event.strategy_hash
            self.baseline, self.unchanged_from = None, len(self.recorded)
        elif isinstance(event, events.Widened):
            self._apply_widened(event.genes, event.reason)
        elif isinstance(event, events.PatchAdded):
            self._apply_patch(event)
        elif isinstance(event, events.ComparisonPlanned):
            ids = [*event.finalists, *([] if event.default is None else [event.default])]
            if len({id for id in ids if id in self.outcomes and self.trial(id).rankable}) != len(ids):
                raise ValueError("the final comparison needs trials that were trained in full, each once")
            self.planned = event
        elif isinstance(event, events.BaselineTrained):
            self.baseline = event.name, event.outcome.outcome()
        elif isinstance(event, events.FreshTrained):
            genome = None if event.genome is msgspec.UNSET else event.genome
            trial = self.fresh_trial(event.id, event.seed, genome, event.outcome.outcome())
            self.fresh.append(FreshResult(trial, event.evaluator_hash, event.fingerprint))
        else:
            self.ended = event.reason

    def _apply_submission(self, id: int, submission: events.Submitted) -> None:
        if submission.file in self.submitted_files:
            raise ValueError(f"the submission {one_line(submission.file)} is proposed twice")
        if submission.widened:
            self._apply_widened(submission.widened, SUBMITTED + submission.source, submitted=True)
        self.submissions[id] = submission
        self.submitted_files.add(submission.file)

    def _apply_widened(self, ranges: Mapping[str, events.Range], reason: str, submitted: bool = False) -> None:
        genes = {name: event_gene.gene() for name, event_gene in ranges.items()}
        if not genes or len(self.widened) >= WIDENINGS:
            raise ValueError(f"no gene is widened, or it is the time after the {WIDENINGS}th")
        self.genes = widen_genes(self.genes, genes)
        self.widened.append(Widening(len(self.candidates), len(self.reported), genes, self.genes, reason, submitted))
        self._by_hand |= not reason
        genomes = [*self.manifest.warm_start, *(candidate.genome for candidate in self.candidates)]
        self._early = set(map(genome_key, genomes))

    def _apply_patch(self, event: events.PatchAdded) -> None:
        patch, genes = event.patch, {name: gene.gene() for name, gene in event.genes.items()}
        if self.manifest.patched is msgspec.UNSET or len(self.widened) >= WIDENINGS:
            raise ValueError(f"patch {one_line(patch.name)} joins a run without patches, or the {WIDENINGS + 1}th time")
        if patch.name in self.patch_hashes or genes.keys() & self.genes.keys() or event.file in self.submitted_files:
            raise ValueError(f"patch {one_line(patch.name)} or its genes are in the run already")
        if genes.get(patch.gene) != SWITCH:
            raise ValueError(f"patch {one_line(patch.name)} is not off by default")
        self.genes = {**self.genes, **genes}
        resolve_conditions(self.genes, {})
        reason = f"patch {patch.name} joined, {SUBMITTED}{event.source}"
        widening = Widening(len(self.candidates), len(self.reported), genes, self.genes, reason, patch=patch.name)
        self.widened.append(widening)
        self.patches = sorted([*self.patches, patch], key=lambda record: record.name)
        self.added_patches.append(patch)
        self.submitted_files.add(event.file)
        defaults: Genome = {name: gene.middle() for name, gene in genes.items()}
        self.candidates = [with_genes(candidate, defaults) for candidate in self.candidates]
        self.fresh = [
            replace(result, trial=replace(result.trial, candidate=with_genes(result.trial.candidate, defaults)))
            for result in self.fresh
        ]
        self._trials.clear()
        self.planned = None
        self._early |= {genome_key(candidate.genome) for candidate in self.candidates}

    @property
    def patch_hashes(self) -> dict[str, str]:
        """SHA-256 of the text of each patch by name, in the order in which they are applied."""
        return {patch.name: patch.hash for patch in self.patches}

    def code_of(self, genome: Mapping[str, Any]) -> TrialCode | None:
        """Return project and patches of a trial with a genome; None in a run without patches."""
        if self.manifest.patched is msgspec.UNSET:
            return None
        on = tuple((patch.name, patch.hash) for patch in self.patches if genome.get(patch.gene) is True)
        return TrialCode(self.manifest.patched.project, on)

    def genes_when_proposed(self, id: int) -> dict[str, Gene]:
        """Return the genes at the time when a candidate was proposed."""
        genes = [widening.genes for widening in self.widened if widening.proposed <= id]
        return dict(genes[-1]) if genes else self.manifest.genes()

    def active_genes(self, candidate: Candidate) -> dict[str, Any]:
        """Return the genes of a candidate's genome whose conditions are met."""
        genes = self.genes_when_proposed(candidate.id)
        inactive = inactive_genes(candidate.genome, genes, resolve_conditions(genes, {}))
        return {name: value for name, value in candidate.genome.items() if name not in inactive}

    @property
    def widest_genes(self) -> dict[str, Gene]:
        """The genes with the widest ranges that the run may give them by itself, by name."""
        return {name: widen_to_limits(gene, self.manifest.limits.get(name)) for name, gene in self.genes.items()}

    def _apply_proposed(self, candidate: Candidate) -> None:
        if candidate.id != len(self.candidates):
            raise ValueError(f"candidate {candidate.id} is out of order")
        if candidate.genome.keys() != self.genes.keys():
            raise ValueError(f"candidate {candidate.id} has other genes than the run")
        checked_genome = {name: gene.check(candidate.genome[name]) for name, gene in self.genes.items()}
        if not is_same(candidate.genome, checked_genome) and genome_key(candidate.genome) not in self._early:
            raise ValueError(f"candidate {candidate.id} has {candidate.genome}, expected {checked_genome}")
        if candidate.resumes is not None and candidate.resumes >= candidate.id:
            raise ValueError(f"candidate {candidate.id} resumes {candidate.resumes}, which was not proposed before it")
        self._has_extra_seeds |= candidate.extra_seed > 0
        self.candidates.append(candidate)
        self.reported_before_counts.append(len(self.reported))

    def _apply_recorded(self, id: int, outcome: Outcome) -> None:
        if id in self.outcomes or id >= len(self.candidates):
            raise ValueError(f"result of candidate {id} is recorded twice, or without its candidate")
        trial = Trial.of(self.candidates[id], outcome, -1, self.objectives, self.constraints)
        if outcome.status == "ok" and trial.losses is None:
            raise ValueError(f"result of candidate {id} is ok, and an objective is missing or not finite")
        self.outcomes[id] = outcome
        self.planned = None
        self.recorded.append(id)
        for id_in_order in self.sequence(start=len(self._reported_orders)):
            self._reported_orders[id_in_order] = len(self._reported_orders)
        self._metrics.update(outcome.metrics)
        if trial.rankable and trial.losses is not None and not trial.candidate.extra_seed:
            mine = trial.violation, trial.losses, id
            self._leader = mine if self._leader is None else min(self._leader, mine)

    def fresh_trial(self, id: int, seed: int, genome: Genome | None, outcome: Outcome) -> Trial:
        """Return a result of the final comparison as a trial.

        Args:
            id: Id of the trial with its genome.
            seed: Its seed.
            genome: Its genome if it differs from the trial's.
            outcome: Its outcome.

        Raises:
            ValueError, EvoTuneError: There is no such trial, or genome and outcome are not of this run.
        """
        if id not in self.outcomes:
            raise ValueError(f"the final comparison has trial {id}, which has no result")
        candidate = replace(self.candidates[id], seed=seed)
        if genome is not None and not is_same(genome, candidate.genome):
            if genome.keys() != candidate.genome.keys():
                raise ValueError(f"the final comparison has other genes than trial {id}")
            candidate = replace(candidate, genome={name: self.genes[name].check(genome[name]) for name in genome})
        trial = Trial.of(candidate, outcome, -1, self.objectives, self.constraints)  # -1: the strategy does not see it
        if outcome.status == "ok" and trial.losses is None:
            raise ValueError("an objective of the final comparison is missing or not finite")
        return trial

    # Values derived from the events.

    def sequence(self, start: int = 0) -> list[int]:
        """Return the ids of recorded results in the strategy's order, from `start` on."""
        if self.manifest.settings.order == "arrival":
            return self.recorded[start:]
        end = start
        while end in self.outcomes:  # in proposal order, the order of ids
            end += 1
        return list(range(start, end))

    def trial(self, id: int) -> Trial:
        """Return a recorded result as a trial; reported_order is -1 if it is not known yet."""
        order, trial = self._reported_orders.get(id, -1), self._trials.get(id)
        if trial is None or trial.reported_order != order:
            trial = Trial.of(self.candidates[id], self.outcomes[id], order, self.objectives, self.constraints)
            self._trials[id] = trial
        return trial

    def trials(self) -> list[Trial]:
        """Return every recorded result as a trial, by id."""
        return [self.trial(id) for id in sorted(self.outcomes)]

    def ranked(self) -> list[Trial]:
        """Return the genomes with a successful full training, best first; feasible ones come first.

        Each genome is represented by its first full trial. With several seeds, the metrics are the means over seeds.
        """
        seeds: dict[str, list[Trial]] = {}
        for trial in self.trials():
            if trial.rankable:
                seeds.setdefault(trial.key, []).append(trial)
        trials_of_genomes = [average_trials(trials, self.objectives, self.constraints) for trials in seeds.values()]
        return sorted(trials_of_genomes, key=lambda trial: (trial.violation, trial.losses, trial.id))

    @property
    def sound_default(self) -> Candidate | None:
        """Candidate of the default genome, if it succeeded."""
        first = self.outcomes.get(0)
        return self.candidates[0] if first is not None and first.status == "ok" else None

    @property
    def leader(self) -> Trial | None:
        """First of `ranked`, if any: the leader of the search, which the final comparison may not recommend."""
        if self._has_extra_seeds:  # a mean can move either way
            return next(iter(self.ranked()), None)
        return None if self._leader is None else self.trial(self._leader[2])

    @property
    def metric_names(self) -> list[str]:
        """Every metric declared or seen so far: objectives first, then as declared, then by name."""
        first = dict.fromkeys([objective.metric for objective in self.objectives] + list(self.manifest.units))
        return list(first) + sorted(self._metrics.difference(first))


def _now() -> float:
    return round(time.time(), 3)


# The history of a run as its strategy sees it, with the earlier runs that are copied into its manifest.


def copy_results(run: Run, objective: Objective) -> Learned:
    """Return the results of an earlier run for the manifest of a new run.

    Args:
        run: Earlier run.
        objective: Objective of the new run; the earlier run must have measured its metric.

    Raises:
        UsageError: The earlier run has fewer than two full trainings with this metric.
    """
    trials = [trial for trial in run.ranked() if objective.metric in trial.outcome.metrics]
    if len(trials) < 2:
        few = f"it has {len(trials)} trainings in full with the metric {objective.metric!r}: expected 2 or more"
        raise UsageError(f"--learn-from {run.name}: {few}; leave it out, or learn from another run")
    trials.sort(key=lambda trial: objective.loss(trial.outcome.metrics))
    if len(trials) > MOST_LEARNED:
        half, step = MOST_LEARNED // 2, (len(trials) - MOST_LEARNED // 2) / (MOST_LEARNED // 2)
        trials = [*trials[:half], *(trials[half + int(step * place)] for place in range(half))]
    genomes, losses = [trial.genome for trial in trials], [objective.loss(trial.outcome.metrics) for trial in trials]
    return Learned(name=run.name, sha256=results_digest(genomes, losses), genomes=genomes, losses=losses)


def history_of(run: Run, space: SearchSpace) -> RunHistory:
    """Return the empty history of a run, with the earlier runs that it learns from.

    Args:
        run: Saved run.
        space: Space of the run. Its ranges may be wider by now: the history begins with those of the manifest.
    """
    first = space.with_genes(run.manifest.genes(), optional={})
    return RunHistory(first, run.objectives, run.constraints, _lessons(run, first))


def _lessons(run: Run, space: SearchSpace) -> list[Lesson]:
    lessons = (Lesson.of(past["name"], past["genomes"], past["losses"], space) for past in run.manifest.learned)
    return [lesson for lesson in lessons if len(lesson.losses)]


def widen(history: RunHistory, run: Run) -> None:
    """Widen the space of a history as its run did before the next candidate."""
    for widening in run.widened[len(history.spaces) - 1 :]:
        if widening.proposed > history.proposed_count:
            break
        widen_once(history, run, widening)


def widen_once(history: RunHistory, run: Run, widening: Widening) -> None:
    """Widen the space of a history as one of its run's widenings says."""
    space = history.space.with_genes(widening.genes)
    history.widen(space, _lessons(run, space))


def replay(history: RunHistory, run: Run) -> None:
    """Add every candidate, widening and seen result of a run to an empty history, in their order."""
    for candidate in run.candidates:
        widen(history, run)
        history.add_candidate(candidate)
    widen(history, run)
    for id in run.reported:
        history.tell(id, run.outcomes[id])
