"""Proposals: check a strategy's answer, and make it a candidate at the right time.

A strategy and an evaluator are the user's code. Their answers are checked before they are recorded, so the journal
never needs repair. Other modules decide limits and slots.
"""

import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from msgspec import structs

from evo_tune.errors import EvoTuneError, SpaceError, UsageError
from evo_tune.genome.genes import Gene
from evo_tune.genome.history import RunHistory
from evo_tune.genome.trial import DEFAULT, STATUSES, SUBMITTED, WARM_START, Candidate, Outcome, Proposal, check_metrics
from evo_tune.genome.values import is_same
from evo_tune.genome.widening import WIDENINGS
from evo_tune.loop.code import is_patch_allowed, patch_set_of, remember_patch
from evo_tune.loop.generations import TrialFiles, strategy_error
from evo_tune.loop.plan import record_of
from evo_tune.plugins.patches import parse_patch, read_patch_file
from evo_tune.plugins.patches.combining import PatchSet
from evo_tune.plugins.patches.project import save_code
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.store.events import PatchSubmission, Submission, Submitted, ranges_of
from evo_tune.store.inbox import INBOX, PATCH, complete_genome, list_files, read_file, remove_file, submit_patch
from evo_tune.store.run import Run, widen
from evo_tune.text import one_line


def propose(strategy: StrategyWithRules, history: RunHistory, run: Run, id: int) -> Proposal | None:
    """Return proposal `id` of a run: the default genome, a warm start, or the answer of the strategy.

    Args:
        strategy: Strategy of the run.
        history: History that the strategy sees.
        run: Run with the seed and the warm starts.
        id: Id of the next candidate (int ≥ 0).

    Raises:
        RunError: The strategy raised an error, or its answer is not a valid proposal for this space.
    """
    warm, budget, number = run.manifest.warm_start, run.manifest.settings.rungs[0], history.fresh_count
    if number == 0:
        return Proposal(history.space.default(), DEFAULT, budget=budget)
    if number <= len(warm):
        return strategy.next_promotion_or_seed(history) or Proposal(dict(warm[number - 1]), WARM_START, budget=budget)
    rng = np.random.default_rng([run.manifest.settings.seed, 0, id])
    try:
        switches = [patch.gene for patch in run.patches if patch.gene in history.space.genes]
        proposal = strategy.propose(history, rng, switches)
        return None if proposal is None else _check_proposal(proposal, history)
    except Exception as error:
        raise strategy_error(run.manifest.strategy, "propose", error) from error


def propose_submission(submission: Submission, history: RunHistory, run: Run) -> tuple[dict[str, Gene], Proposal]:
    """Return the genes that must be wider for a submitted genome, by name, and the proposal of it.

    Raises:
        SpaceError: The genome is not allowed in this run, or was proposed already.
    """
    wider, genome = complete_genome(run, history.space, submission.genome)
    budget = run.manifest.settings.rungs[0]
    if history.seen(genome, budget):
        raise SpaceError("this genome was proposed already")
    return wider, Proposal(genome, SUBMITTED + submission.source, budget=budget)


def submit_patch_file(run: Run, path: Path, source: str) -> str:
    """Submit a patch to a run, which may be in progress, and its best genome with it; return the patch's name.

    Args:
        run: The run, as it is now.
        path: File of the patch.
        source: Who proposes it; the patch of a 'person' is trusted from now on.

    Raises:
        PluginError: The file is no patch, or the run cannot use it; the message names the hunk that does not apply.
        UsageError: The run has no patches, or does not allow those of this source.
        StoreError: The run's folder cannot be written.
    """
    patch, patches = read_patch_file(path), patch_set_of(run)
    if patches is None:
        raise UsageError(f"run {run.name} has no patches: start one with --patches FOLDER or --allow-patches")
    patches.add(patch)
    if source == PERSON:
        remember_patch(run, patch.hash)
    elif not is_patch_allowed(run, patch.hash):
        raise UsageError(f"patch {patch.name} is of {source}: run {run.name} was not started with --allow-patches")
    best = run.leader.genome if run.leader is not None else {}
    submit_patch(run, patch.name, patch.text, source, {**best, patch.gene: True})
    return patch.name


def candidate_of(proposal: Proposal, history: RunHistory, run: Run) -> Candidate:
    """Return a proposal as the next candidate of a run, with its id, generation and seed."""
    return Candidate(
        id=history.proposed_count,
        generation=history.fresh_count // run.manifest.population,
        seed=run.manifest.seed_of(proposal.genome, proposal.extra_seed),
        reported_before=len(history.trials),
        **{name: getattr(proposal, name) for name in Proposal.__dataclass_fields__},
        code=run.code_of(proposal.genome),
    )


def as_outcome(outcome: Outcome | Mapping[str, float], run: Run) -> Outcome:
    """Return a reported result as an outcome: ok, or the error in its metrics.

    Args:
        outcome: An outcome, or the metrics of a successful evaluation.
        run: Run whose objectives and constraints need metrics.

    Raises:
        UsageError: The outcome's status is unknown.
    """
    if not isinstance(outcome, Outcome):
        outcome = Outcome("ok", outcome)  # type: ignore[arg-type]  # judged right here
    if outcome.status not in STATUSES:
        raise UsageError(f"status {outcome.status!r} is unknown: expected one of {', '.join(STATUSES)}")
    if outcome.status != "ok":
        return outcome
    status, metrics, error = check_metrics(outcome.metrics, run.objectives)
    missing = [constraint.metric for constraint in run.constraints if constraint.metric not in metrics]
    if status == "ok" and missing:
        message = f"evaluate returned no {missing[0]!r}, which --subject-to needs (it returned {', '.join(metrics)})"
        status, metrics, error = "failed", {}, one_line(message)
    return replace(outcome, status=status, metrics=metrics, error=error)


def _check_proposal(proposal: object, history: RunHistory) -> Proposal:
    """Return the proposal if it is valid, because the journal must never need repair.

    Args:
        proposal: Answer of the strategy.
        history: History that the strategy was given.

    Raises:
        TypeError: The answer is not a Proposal.
        ValueError: The genome is not in the space, or it resumes a candidate that does not exist.
        SpaceError: A value is outside the range of its gene.
    """
    if not isinstance(proposal, Proposal):
        raise TypeError(f"returned a {type(proposal).__name__}, expected a Proposal or None")
    genes = history.space.genes
    checked_genome = {name: gene.check(proposal.genome.get(name)) for name, gene in genes.items()}
    keeps_earlier_steps = not proposal.fresh and history.predates_widening(proposal.genome)
    if not keeps_earlier_steps and not is_same(proposal.genome, checked_genome):
        raise ValueError(f"proposed {proposal.genome}, which is not snapped: see SearchSpace.snap")
    if not 0.0 < proposal.budget <= 1.0:
        raise ValueError(f"proposed budget={proposal.budget}, expected more than 0 and at most 1")
    if proposal.resumes is not None and not 0 <= proposal.resumes < history.proposed_count:
        raise ValueError(f"proposed resumes={proposal.resumes}, which was never proposed")
    return proposal


# Source of what a user proposes on the command line.
PERSON = "person"

# Most refused submissions that are reported each by a line, at a time.
MOST_WARNINGS = 5


class ProposalQueue:
    """Proposes the candidates of a run in the order of law 3. The caller holds the lock of the run.

    Candidates that an earlier session did not finish come first.

    Args:
        run: Run that is open for writing.
        history: History that the strategy sees.
        strategy: Strategy of the run.
        files: Files of trials, which follow each new candidate.
        patches: Patches of the run, which others may join; None if it has none.
    """

    def __init__(
        self, run: Run, history: RunHistory, strategy: StrategyWithRules, files: TrialFiles, patches: PatchSet | None
    ) -> None:
        self._run = run
        self._patches = patches
        self._history = history
        self._strategy = strategy
        self._files = files
        self._arrival = run.manifest.settings.order == "arrival"
        self._waiting: deque[Candidate] = deque()
        # Whether the last proposal was not made a candidate, because it would not fit.
        self.did_not_fit = False
        # Names of files in the inbox that were refused, so that each is reported once.
        self._refused: set[str] = set()

    def requeue_unfinished(self) -> None:
        """Return every candidate without a result again, before any new one."""
        self._waiting = deque(candidate for candidate in self._run.candidates if candidate.id not in self._run.outcomes)

    def next_waiting(self) -> Candidate | None:
        """Return the first candidate that waits for a slot; None if there is none."""
        while self._waiting:
            candidate = self._waiting.popleft()
            if candidate.id not in self._run.outcomes:  # it may have been reported by hand
                return candidate
        return None

    def put_back(self, candidate: Candidate) -> None:
        """Have a candidate wait again, before all others."""
        self._waiting.appendleft(candidate)

    def next(self, only_known_genomes: bool, fits: Callable[[Proposal], bool]) -> Candidate | None:
        """Return a new candidate; None if the strategy needs more results first, or its proposal does not fit.

        A proposal that does not fit is not recorded: it follows from the history, so a longer run makes it again.

        Args:
            only_known_genomes: Whether no new genome may be proposed, only further trials of known ones.
            fits: Returns whether there is time for a proposal.
        """
        run, history, proposal = self._run, self._history, None
        results_ready = self._arrival or self._report_up_to(history.proposed_count - run.manifest.settings.lag)
        if results_ready and not only_known_genomes:
            submitted = self._next_submitted(fits)
            if submitted is not None:
                self.did_not_fit = False
                return submitted
        while results_ready:
            propose_known = self._strategy.next_promotion_or_seed
            proposal = propose_known(history) if only_known_genomes else self._propose_and_widen(fits)
            # One result at a time: the proposal is the first one that the strategy makes.
            results_ready = proposal is None and not self._arrival and self._report_up_to(len(run.reported) + 1)
        self.did_not_fit = proposal is not None and not fits(proposal)
        return None if proposal is None or self.did_not_fit else self._record(proposal)

    def _record(self, proposal: Proposal, submission: Submitted | None = None) -> Candidate:
        run, history = self._run, self._history
        # As the journal gives it back.
        candidate = run.record_candidate(candidate_of(proposal, history, run), submission)
        widen(history, run)  # a submission may have wider ranges
        history.add_candidate(candidate)
        self._files.add_candidate(candidate)
        return candidate

    def _next_submitted(self, fits: Callable[[Proposal], bool]) -> Candidate | None:
        """Return a new candidate of the oldest submission that fits; None if there is none.

        The default genome and the warm starts come before it. Refused submissions are removed with a warning.
        """
        run, refusals, candidate = self._run, dict[str, str](), None
        if self._history.fresh_count <= len(run.manifest.warm_start):
            return None
        try:
            names = list_files(run)
        except OSError as error:
            names, refusals[INBOX] = [], str(error.strerror)
        for name in names:
            if name in self._refused:
                continue
            if name not in run.submitted_files:  # else the session was killed before it removed the file
                try:
                    submission = read_file(run, name)
                    if isinstance(submission, PatchSubmission):
                        self._add_patch(name, submission)
                        remove_file(run, name)
                        continue
                    wider, proposal = propose_submission(submission, self._history, run)
                except (EvoTuneError, OSError) as error:
                    refusals[name] = str(error)
                    if isinstance(error, OSError):  # it may be good, and readable later
                        refusals[name] = str(error.strerror)
                        continue
                else:
                    if not fits(proposal):
                        continue
                    submitted = Submitted(file=name, widened=ranges_of(wider), **structs.asdict(submission))
                    candidate = self._record(proposal, submitted)
            remove_file(run, name)
            if candidate is not None:
                break
        lines = [
            f"a proposed {'patch' if name.endswith(PATCH) else 'genome'} is refused: {name}: {why}"
            for name, why in refusals.items()
            if name not in self._refused
        ]
        self._refused.update(refusals)
        for line in lines[:MOST_WARNINGS]:
            warnings.warn(one_line(line), stacklevel=2)
        if len(lines) > MOST_WARNINGS:
            warnings.warn(f"{len(lines) - MOST_WARNINGS} more proposals are refused", stacklevel=2)
        return candidate

    def _add_patch(self, file: str, submission: PatchSubmission) -> None:
        """Let a submitted patch join the run: its text is saved, then the event is recorded.

        Raises:
            PluginError, UsageError: The patch cannot be used, or its source may not give the run one.
            OSError: The disk refuses.
        """
        run, patch = self._run, parse_patch(submission.name, submission.text)
        if self._patches is None or not is_patch_allowed(run, patch.hash):
            source = f"patch {patch.name} is of {submission.source}"
            raise UsageError(f"{source}, and this run was not started with --allow-patches")
        if len(run.widened) >= WIDENINGS:
            raise UsageError(f"the genes of this run have changed {WIDENINGS} times: begin another run")
        self._patches.add(patch)
        remember_patch(run, patch.hash)
        save_code(run.folder, [patch.text.encode()])
        run.add_patch(record_of(patch), patch.space, submission.source, file)
        widen(self._history, run)

    def _propose_and_widen(self, fits: Callable[[Proposal], bool]) -> Proposal | None:
        """Return the next proposal; before a new genome, widen the ranges whose ends the best trials have reached.

        Args:
            fits: Returns whether there is time for a proposal; without time, no range is widened.
        """
        run, history = self._run, self._history
        while True:
            proposal = propose(self._strategy, history, run, len(run.candidates))
            if proposal is None or not proposal.fresh or not fits(proposal):
                return proposal
            widening = self._strategy.next_widening(history)
            if widening is None:
                return proposal
            run.widen({widening.name: widening.gene}, widening.reason)
            widen(history, run)

    def tell(self, ids: Sequence[int]) -> None:
        """Report recorded results to the strategy, in this order."""
        if ids:
            self._run.tell(ids)
            for id in ids:
                self._history.tell(id, self._run.outcomes[id])

    def _report_up_to(self, count: int) -> bool:
        """In proposal order, report the first `count` results if all are recorded; return whether they are."""
        ids = range(len(self._run.reported), count)
        ready = all(id in self._run.outcomes for id in ids)
        if ready:
            self.tell(list(ids))
        return ready
