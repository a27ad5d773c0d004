"""Verification of a saved run: its proposals, its files, and the results of some of its trials.

Every candidate is proposed again from the history alone. If all agree, the run had no hidden state (law 1). Files that
follow from the journal are compared with it, and random trials are trained again.
"""

import contextlib
import inspect
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from msgspec import Struct

from evo_tune import dispatch
from evo_tune.dispatch.slot import Task
from evo_tune.errors import EvoTuneError
from evo_tune.genome.genes import Gene
from evo_tune.genome.history import RunHistory
from evo_tune.genome.notation import format_gene
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Proposal
from evo_tune.loop.code import hash_of
from evo_tune.loop.generations import TrialFiles
from evo_tune.loop.plan import versions_of
from evo_tune.loop.proposing import candidate_of, propose, propose_submission
from evo_tune.loop.slots import plan_slots
from evo_tune.plugins.command import COMMAND
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.patches import CODE_FOLDER
from evo_tune.report.page import JOURNAL_FACT
from evo_tune.report.page import LARGEST as LARGEST_REPORT
from evo_tune.report.summary import caveats
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.rules.widening import Widening
from evo_tune.settings import SessionSettings
from evo_tune.store.binding import CHANGED, changed_files, remembered_count
from evo_tune.store.manifest import MANIFEST, manifest_hash, space_of
from evo_tune.store.run import TRIALS, Run, history_of, widen_once
from evo_tune.store.run import Widening as RecordedWidening
from evo_tune.store.run_folders import REPORT
from evo_tune.text import one_line
from evo_tune.trust import safe_files


class Disagreement(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A proposal that the strategy would not make again.

    Args:
        id: Number of the trial.
        recorded: Proposal in the journal.
        replayed: Proposal that the strategy makes now; null if it makes none. If it equals the recorded one, the
            seed, the generation or the number of results seen differs from the rules of the run.
    """

    id: int
    recorded: Proposal
    replayed: Proposal | None


class RangeDisagreement(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A range that the run would not widen again, or would widen otherwise.

    Args:
        before: Number of the next trial.
        recorded: Widened gene with the reason, as in the journal; null if it is missing there.
        replayed: Widened gene with the reason that follow from the results; null if none follows.
    """

    before: int
    recorded: str | None
    replayed: str | None


class FileDifference(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of a run that does not agree with the journal, or not with what this machine remembers of it.

    Args:
        file: Name of the file.
        difference: Difference in words.
    """

    file: str
    difference: str


class RetrainedValue(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A metric of a trial that was trained again.

    Args:
        id: Number of the trial.
        metric: Name of the metric.
        recorded: Value in the journal.
        retrained: Value of the new training; null if it failed.
    """

    id: int
    metric: str
    recorded: float
    retrained: float | None


class Verification(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was verified of a run. The exit code is 1 if anything does not agree.

    Args:
        run: Name of the run.
        proposals: Number of proposals that were replayed; 0 if that needs a file that is missing.
        disagreements: Proposals that differ.
        ranges: Ranges that were widened otherwise than the results ask for.
        notes: Changes since the run began, and what was not checked, a sentence each.
        records: Number of records in the journal.
        head: SHA-256 of all records, which the report shows too.
        bound_from: First record with the hash of all before it: 1 in a run that this version began; null if version 1.0
            wrote all records, whose results are not bound.
        broken_at: First record whose hash is not that of the records before it; null if all agree.
        results: 'unchanged' since this machine last wrote the run, 'changed', or 'not known here'.
        remembered: Number of records that 'unchanged' is about. Later ones are of a killed session or another machine.
        files: Files that do not agree; null while a session runs, or after it was killed, until `resume` writes them.
        retrained: Values of the trials that were trained again (`--retrain`).
        undetected: What no comparison can find, in words.
    """

    run: str
    proposals: int
    disagreements: list[Disagreement]
    ranges: list[RangeDisagreement]
    notes: list[str]
    records: int
    head: str
    bound_from: int | None
    broken_at: int | None
    results: str
    remembered: int
    files: list[FileDifference] | None
    retrained: list[RetrainedValue]
    undetected: str

    @property
    def agrees(self) -> bool:
        """Whether all that was compared agrees."""
        is_other = any(value.retrained != value.recorded for value in self.retrained)
        is_changed = self.broken_at is not None or self.results == "changed"
        return not (self.disagreements or self.ranges or self.files or is_changed or is_other)


# What no comparison can find.
UNDETECTED = "a run that somebody forged as a whole, with proposals and hashes that agree (--retrain N trains N trials)"


def verify_run(
    run: Run, evaluator: BoundEvaluator, strategy: StrategyWithRules, retrain: int, session: SessionSettings
) -> Verification:
    """Verify a saved run.

    Args:
        run: Saved run.
        evaluator: Evaluator of the run, with its options.
        strategy: Strategy of the run.
        retrain: Number of random trials to train again (int ≥ 0).
        session: Settings for these trainings.

    Raises:
        RunError: The strategy raised an error.
        OptionError: There is no slot for the trainings.
    """
    space, journal = space_of(run.manifest, evaluator.space), run.journal
    differences, files = verify(run, space, strategy), None
    if run.ended is not None:
        trial_files = TrialFiles(run, strategy, history_of(run, space))
        files = [FileDifference(file=file, difference=text) for file, text in trial_files.differences().items()]
    if others := list(_other_differences(run)):
        files = [*(files or []), *others]
    remembered = remembered_count(journal, run.manifest.identity)
    retrained = retrain_trials(run, evaluator, retrain, session) if retrain else []
    is_other = any(value.retrained != value.recorded for value in retrained)
    missing = evaluator.plugin.unsupported.get("training", "")
    if not_replayed := bool(differences) and evaluator.plugin.origin != COMMAND and missing != "":
        differences = []  # a repair or an estimate of the missing file may be the reason
    notes = [missing] if missing else []
    if hash_of(strategy.inner) != run.manifest.strategy_hash:
        place = inspect.getfile(type(strategy.inner))
        notes.insert(0, f"the strategy's file {place} (or a module that it imports) has changed since the run began")
    if len(retrained) < retrain:
        notes.append(f"fewer than {retrain} trials can be trained again: failed ones, and parts of longer ones, cannot")
    if is_other:
        notes += [f"a repeated training may differ: {reason}" for reason in caveats(run)]
        if evaluator.plugin.hash != run.evaluator_hash:
            notes.append("the evaluator has changed since the trials were trained")
    if differences or is_other:
        then = run.manifest.versions
        now = versions_of(name for name in then if name != "python")
        notes += [f"{name} was {then[name]}, and is {now[name]}" for name in then if now[name] != then[name]]
    return Verification(
        run=run.name,
        proposals=0 if not_replayed else len(run.candidates),
        disagreements=[row for row in differences if isinstance(row, Disagreement)],
        ranges=[row for row in differences if isinstance(row, RangeDisagreement)],
        notes=notes,
        records=journal.count,
        head=journal.head,
        bound_from=journal.first_linked,
        broken_at=journal.first_broken,
        results="not known here" if remembered is None else "changed" if remembered == CHANGED else "unchanged",
        remembered=max(0, remembered or 0),
        files=files,
        retrained=retrained,
        undetected=UNDETECTED,
    )


def _other_differences(run: Run) -> Iterator[FileDifference]:
    """Yield the differences of the files that are not tables: the manifest, and those that this machine remembers."""
    if run.manifest_hashes - {manifest_hash(run.folder, run.manifest)}:
        yield FileDifference(file=MANIFEST, difference="it is not the one with which the sessions began")
    changed = set(changed_files(run.folder, run.manifest.identity))
    for name in sorted(changed):
        yield FileDifference(file=name, difference="it is not as this machine wrote it")
    with contextlib.suppress(OSError):
        page = safe_files.read(run.folder, REPORT, limit=LARGEST_REPORT).decode("utf-8", "replace")
        shown = JOURNAL_FACT.search(page)
        if REPORT not in changed and shown and run.journal.head_at(int(shown[1])) != shown[2]:
            yield FileDifference(file=REPORT, difference="it was made from other results")


def retrain_trials(run: Run, evaluator: BoundEvaluator, count: int, session: SessionSettings) -> list[RetrainedValue]:
    """Train random trials again in one slot of this machine, and return all metrics that the run is about.

    A trial that continued another one is left out: it cannot be trained alone. So are failures, and trials of an
    earlier evaluator.

    Args:
        run: Saved run.
        evaluator: Evaluator of the run, with its options.
        count: Number of trials (int ≥ 1); all that can be trained if there are fewer.
        session: Settings of the session: devices and time limit.

    Raises:
        OptionError: There is no slot for the trainings.
    """
    whole = [id for id in run.recorded[run.unchanged_from :] if run.candidates[id].resumes is None]
    trials = [run.trial(id) for id in whole if run.outcomes[id].status == "ok"]
    places = np.random.default_rng().permutation(len(trials))[:count]  # unseeded, so that no forger can know them
    metrics = dict.fromkeys([goal.metric for goal in run.objectives] + [bound.metric for bound in run.constraints])
    planned = plan_slots(session, run.manifest.threads, run.manifest.options)
    values = []
    with tempfile.TemporaryDirectory() as folder:
        if run.patches:
            shutil.copytree(run.folder / CODE_FOLDER, Path(folder, CODE_FOLDER), symlinks=True)
        trials_folder = Path(folder, TRIALS)
        task = Task.of(evaluator, run.objectives, trials_folder, run.manifest.threads, fingerprint=run.fingerprint)
        slot = dispatch.open_slots(task, planned, session.timeout, session.retries)[0]
        try:
            for trial in (trials[place] for place in sorted(places)):
                new_metrics = slot.run(trial.candidate).metrics
                for metric in metrics:
                    recorded, retrained = trial.outcome.metrics[metric], new_metrics.get(metric)
                    values.append(RetrainedValue(id=trial.id, metric=metric, recorded=recorded, retrained=retrained))
        finally:
            slot.kill()
            slot.close()
    return values


def verify(run: Run, space: SearchSpace, strategy: StrategyWithRules) -> list[Disagreement | RangeDisagreement]:
    """Propose every candidate and every automatic widening of a run again and return those that differ.

    Args:
        run: Saved run, finished or not.
        space: Space of the run, with its repair.
        strategy: Strategy of the run.

    Raises:
        RunError: The strategy raised an error, so nothing can be verified.
    """
    replay = _Replay(run, history_of(run, space), strategy)
    for candidate, reported_count in zip(run.candidates, run.reported_before_counts, strict=True):
        replay.replay_widenings(candidate.id)
        replay.report_up_to(reported_count)
        replay.add_candidate(candidate)
    replay.replay_widenings(len(run.candidates))
    return replay.differences


class _Replay:
    """The events of a run, proposed again one after the other.

    Args:
        run: Saved run.
        history: Empty history of the run.
        strategy: Strategy of the run.
    """

    def __init__(self, run: Run, history: RunHistory, strategy: StrategyWithRules) -> None:
        self._run = run
        self._history = history
        self._strategy = strategy
        self._order = run.sequence()
        self.differences: list[Disagreement | RangeDisagreement] = []

    def report_up_to(self, count: int) -> None:
        """Report results to the history, up to a total number."""
        for id in self._order[len(self._history.trials) : count]:
            self._history.tell(id, self._run.outcomes[id])

    def replay_widenings(self, id: int) -> None:
        """Compare the widenings before a candidate with those that follow from the results, and apply the recorded."""
        for widening in self._run.widened[len(self._history.spaces) - 1 :]:
            if widening.proposed > id:
                return
            self.report_up_to(widening.reported_count)
            if widening.reason and not widening.patch:
                genes, reason = self._replay_ranges(widening, id)
                recorded, replayed = (
                    _describe_widening(*x) for x in ((widening.changed, widening.reason), (genes, reason))
                )
                if genes != widening.changed or replayed != recorded:
                    difference = RangeDisagreement(before=id, recorded=recorded, replayed=replayed if genes else None)
                    self.differences.append(difference)
            widen_once(self._history, self._run, widening)

    def _replay_ranges(self, widening: RecordedWidening, id: int) -> tuple[Mapping[str, Gene], str]:
        """Return the genes that are wider before a candidate by the rules of the run, and the reason; none if none."""
        if widening.submitted:
            with contextlib.suppress(EvoTuneError):
                return propose_submission(self._run.submissions[id], self._history, self._run)[0], widening.reason
            return {}, ""
        due = self._due(propose(self._strategy, self._history, self._run, id))
        return ({}, "") if due is None else ({due.name: due.gene}, due.reason)

    def add_candidate(self, candidate: Candidate) -> None:
        """Compare a recorded candidate with the one that follows from the history, and add it."""
        # Without the genes of patches that joined later.
        candidate = replace(candidate, genome={name: candidate.genome[name] for name in self._history.space.genes})
        history, run, due, replayed = self._history, self._run, None, None
        submission = run.submissions.get(candidate.id)
        if submission is None:
            replayed = propose(self._strategy, history, run, candidate.id)
            due = self._due(replayed)
        else:
            with contextlib.suppress(EvoTuneError):
                _, replayed = propose_submission(submission, history, run)
        if due is not None:
            missing = _describe_widening({due.name: due.gene}, due.reason)
            self.differences.append(RangeDisagreement(before=candidate.id, recorded=None, replayed=missing))
        recorded = Proposal(**{name: getattr(candidate, name) for name in Proposal.__dataclass_fields__})
        if replayed != recorded or candidate != candidate_of(recorded, history, run):
            self.differences.append(Disagreement(id=candidate.id, recorded=recorded, replayed=replayed))
        history.add_candidate(candidate)

    def _due(self, proposal: Proposal | None) -> Widening | None:
        """Return the range that is widened before a proposal is made a candidate."""
        return self._strategy.next_widening(self._history) if proposal is not None and proposal.fresh else None


def _describe_widening(genes: Mapping[str, Gene], reason: str) -> str:
    return f"{', '.join(f'{name}={format_gene(gene)}' for name, gene in genes.items())}: {one_line(reason)}"
