"""Verification: propose every candidate of a saved run again from its history alone.

If all agree, the run had no hidden state (law 1).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from dataclasses import replace

from msgspec import Struct

from evo_tune.errors import EvoTuneError
from evo_tune.genome.genes import Gene
from evo_tune.genome.history import RunHistory
from evo_tune.genome.notation import format_gene
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Proposal
from evo_tune.loop.code import hash_of
from evo_tune.loop.plan import versions_of
from evo_tune.loop.proposing import candidate_of, propose, propose_submission
from evo_tune.plugins.strategy import Strategy
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.rules.widening import Widening
from evo_tune.store.manifest import Manifest
from evo_tune.store.run import Run, history_of, widen_once
from evo_tune.store.run import Widening as RecordedWidening
from evo_tune.text import one_line


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


class Verification(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The result of replaying the proposals of a run.

    Args:
        run: Name of the run.
        proposals: Number of proposals that were replayed.
        disagreements: Proposals that differ; the exit code is 1 if there are any.
        ranges: Ranges that were widened otherwise than the results ask for; the exit code is 1 if there are any.
        notes: Changes since the run began, a sentence each.
    """

    run: str
    proposals: int
    disagreements: list[Disagreement]
    ranges: list[RangeDisagreement]
    notes: list[str]


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


def note_of_changed_strategy(manifest: Manifest, strategy: Strategy) -> str:
    """Return a note if a strategy's file changed since the run began; '' if it did not.

    Args:
        manifest: Manifest of the run.
        strategy: Present strategy of the run.
    """
    if hash_of(strategy) == manifest.strategy_hash:
        return ""
    place = inspect.getfile(type(strategy))
    return f"the strategy's file {place} (or a module that it imports) has changed since the run began"


def notes_of_changed_versions(manifest: Manifest) -> list[str]:
    """Return a note for each package that shapes results and has another version than when the run began."""
    then = manifest.versions
    now = versions_of(name for name in then if name != "python")
    return [f"{name} was {then[name]}, and is {now[name]}" for name in then if now[name] != then[name]]
