"""The rules of a run around its strategy: rungs, pruning, extra seeds, constraints.

`StrategyWithRules` is a strategy that asks another strategy for genomes and decides how they are trained. Like any
strategy it is a pure function of history (law 1), so resume and replay do not need to know it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from types import MappingProxyType

import numpy as np

from evo_tune.errors import EvoTuneError
from evo_tune.genome.history import History, RunHistory
from evo_tune.genome.trial import EXTRA_SEED, Candidate, Constraint, Proposal, Trial, violation
from evo_tune.genome.values import Genome, genome_key
from evo_tune.genome.view import GenomeTrials, RankedHistory, trials_by_genome
from evo_tune.genome.widening import Range
from evo_tune.plugins.strategy import Prospects, Strategy
from evo_tune.rules.extra_seeds import LeaderRanking, SeedGains
from evo_tune.rules.fidelity import Curves, audit_numbers, is_audit
from evo_tune.rules.learned import fit_prospects, next_model_promotion
from evo_tune.rules.promotions import Rungs
from evo_tune.rules.widening import ENOUGH, Widening, find_widening, leader_count
from evo_tune.settings import RunSettings

ASKED = 4
"""Maximum number of times that the strategy is asked for a genome within the constraints."""

DRAWN = 500
"""Maximum number of random genomes that are tried after that."""

CONSIDERED = 3
"""Number of trials that are looked through for each leading genome, because some genomes have several seeds."""


@dataclass(frozen=True)
class Known:
    """State of the rules, as a fold over the history."""

    rungs: Rungs
    curves: Curves
    leader: LeaderRanking
    doubt: SeedGains


@dataclass(frozen=True, kw_only=True)
class StrategyWithRules(Strategy):
    """A strategy whose genomes are trained by the rules of a run.

    Args:
        population: Population of the inner strategy.
        inner: Strategy that proposes genomes.
        settings: Settings of the run. Only those for rungs, pruning and seeds are used.
        constraints: Constraints on genomes.
        estimate: Returns the metrics of a genome that are known before training.
        limits: Lowest and highest value up to which the run may widen a gene by itself, by name.
    """

    inner: Strategy
    settings: RunSettings
    constraints: tuple[Constraint, ...] = ()
    estimate: Callable[[Genome], Mapping[str, float]] = lambda genome: {}
    limits: Mapping[str, Range] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        inner: Strategy,
        settings: RunSettings,
        constraints: Sequence[Constraint] = (),
        estimate: Callable[[Genome], Mapping[str, float]] = lambda genome: {},
        limits: Mapping[str, Range] = MappingProxyType({}),
    ) -> StrategyWithRules:
        """Return a strategy with the rules of a run around it; see the class for the arguments."""
        return cls(
            population=inner.population,
            inner=inner,
            settings=settings,
            constraints=tuple(constraints),
            estimate=estimate,
            limits=limits,
        )

    @property
    def plain(self) -> bool:
        """Whether genomes are trained as they are proposed."""
        return not (self.settings.continues or self.settings.prune or self.constraints)

    def __post_init__(self) -> None:
        """Skip the check of options, because only the population is an option here."""

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        if self.plain:
            return self.inner.propose(history, rng)
        return self.next_known(history) or self._propose_genome(history, rng)

    def survivors(self, history: History) -> Sequence[int]:
        if self.plain:
            return self.inner.survivors(history)
        view = self._view(history)
        latest = {entry.first_candidate.id: entry.latest_trial.id for entry in trials_by_genome(history).values()}
        return [latest[view.ids[id]] for id in self.inner.survivors(view)]

    def status(self, history: History) -> str:
        return self.inner.status(history if self.plain else self._view(history))

    def next_known(self, history: History) -> Proposal | None:
        """Return the promotion or extra seed that is due before any new genome; None if none is due."""
        if not self.settings.continues:
            return None
        out = [(genome_key(one.genome), one) for one in history.pending]
        promoted = {(key, one.budget) for key, one in out if not one.extra_seed}
        births = history.fresh_proposals
        audits = {genome_key(births[number].genome) for number in audit_numbers(len(births))}
        known = self._state(history)
        if self._learns(history):
            due = known.rungs.next_audit(promoted, audits)
            if due is None and (prospects := self._prospects(history)) is not None:
                due = next_model_promotion(known.rungs, prospects, promoted)
        else:
            due = known.rungs.next_known(promoted, audits)
        if due is not None:
            return self._with_bounds(due, history) if genome_key(due.genome) not in audits else due
        if self.settings.extra_seeds_by_gain:
            birth = known.doubt.best_extra_seed(history.pending, known.rungs.cost())
            return None if birth is None else _further(birth, 1 + known.doubt.repeats(birth))
        return self._extra_seed(known.leader.first(), [one for _, one in out])

    def next_widening(self, history: RunHistory) -> Widening | None:
        """Return the range to widen before a new genome is proposed; None if there is none.

        Several objectives have no single best genome, and one of them may always favour an end. So they widen nothing.
        """
        count = len(history.ranking)
        if not self.limits or len(history.objectives) > 1 or count < max(self.population, ENOUGH):
            return None
        return find_widening(history, self._leaders(history, leader_count(count)), self.limits)

    def _leaders(self, history: RunHistory, count: int) -> list[Candidate]:
        """Return the first candidates of the best fully trained genomes within the constraints, best first.

        Genomes are ordered by the losses that the rules for extra seeds predict, else by their means over seeds.
        """
        if self.settings.most_seeds == 1:
            return [trial.candidate for trial in islice(history.ranking, count) if trial.feasible]
        told = trials_by_genome(history)
        if self.settings.extra_seeds_by_gain:
            expected = list(self._state(history).doubt.expected_losses(history.pending))[:count]
            if expected:
                return [told[key].first_candidate for key in expected]
        found: dict[str, GenomeTrials] = {}
        for trial in islice(history.ranking, count * CONSIDERED):
            if trial.feasible:
                entry = told[genome_key(trial.genome)]
                found.setdefault(entry.key, entry)
        best = sorted(found.values(), key=lambda entry: (entry.losses(1.0) or (math.inf,), entry.first_candidate.id))
        return [entry.first_candidate for entry in best[:count]]

    def _extra_seed(self, leader: GenomeTrials | None, out: Sequence[Candidate]) -> Proposal | None:
        """Return the next seed of the leading genome; None if it already has the maximum number of seeds."""
        if leader is None or self.settings.most_seeds == 1:
            return None
        waiting = [one for one in out if one.extra_seed and genome_key(one.genome) == leader.key]
        seeds = 1 + len(leader.repeats) + len(waiting)
        if seeds >= self.settings.most_seeds:
            return None
        return _further(leader.first_candidate, seeds)

    def _learns(self, history: History) -> bool:
        """Return whether the strategy's model decides promotions: with one objective and no earlier runs."""
        alone = len(history.objectives) == 1 and not history.lessons
        return self.inner.scores and alone and len(self.settings.rungs) > 1

    def _prospects(self, history: History) -> Prospects | None:
        """Return the strategy's model of partial results; None if it has no such model, or none yet."""
        return fit_prospects(history, self.settings.rungs, self.inner) if self._learns(history) else None

    def _propose_genome(self, history: History, rng: np.random.Generator) -> Proposal | None:
        view = self._view(history)
        proposal = self._propose_feasible(view, self._prospects(history), rng)
        if proposal is None:
            return None
        if not proposal.fresh or proposal.budget != 1.0 or proposal.stop_if:
            raise ValueError("proposes budgets or extra seeds of its own: declare own_trials = True in its class")
        parents = tuple(view.ids[parent] for parent in proposal.parents)
        proposal = replace(proposal, parents=parents, budget=self.settings.rungs[0])
        return proposal if is_audit(history.fresh_count) else self._with_bounds(proposal, history)

    def _with_bounds(self, proposal: Proposal, history: History) -> Proposal:
        """Return a proposal with the bounds beyond which its training is pruned."""
        if not self.settings.prune:
            return proposal
        done = 0.0
        if proposal.resumes is not None:
            done = trials_by_genome(history)[genome_key(proposal.genome)].latest_trial.candidate.budget
        return replace(proposal, stop_if=self._state(history).curves.bounds(done, proposal.budget))

    def _state(self, history: History) -> Known:
        """Return the state of the rules, updated with new results only."""
        told, goal, budgets = trials_by_genome(history), history.objectives[0], self.settings.rungs

        def begin() -> Known:
            rungs, curves = Rungs(budgets, len(history.objectives)), Curves(goal.metric, goal.sign)
            doubt = SeedGains(history.space, self.settings.most_seeds, not self.settings.own_seeds)
            return Known(rungs, curves, LeaderRanking(), doubt)

        def step(known: Known, trial: Trial) -> Known:
            entry = told[genome_key(trial.genome)]
            if len(budgets) > 1:
                known.rungs.update(entry)
            if self.settings.prune:
                known.curves.update(entry)
            if self.settings.extra_seeds_by_gain:
                known.doubt.update(trial, history.proposed_units[trial.id])
            elif self.settings.most_seeds > 1:
                known.leader.update(entry)
            return known

        return history.fold((__name__, self.settings), begin, step)

    def _view(self, history: History) -> RankedHistory:
        expected = (
            self._state(history).doubt.expected_losses(history.pending) if self.settings.extra_seeds_by_gain else {}
        )
        return RankedHistory(history, self.settings.rungs, lambda genome: self._known_violation(genome) > 0.0, expected)

    def _known_violation(self, genome: Genome) -> float:
        """Return the violation of the constraints that are known before training; 0 if there is none."""
        if not self.constraints:
            return 0.0
        try:
            known = self.estimate(genome)
        except EvoTuneError:  # the training reports the same error
            return 0.0
        return violation([one for one in self.constraints if one.metric in known], known)

    def _propose_feasible(
        self, view: RankedHistory, prospects: Prospects | None, rng: np.random.Generator
    ) -> Proposal | None:
        """Return a proposal of the strategy, or a random genome, within the constraints known before training.

        The history marks genomes outside the constraints as seen, so a strategy avoids most of them. This method
        handles the rest. If all attempts fail, it returns the proposal with the smallest violation.
        """
        tries: list[Proposal] = []
        for _ in range(ASKED):
            if prospects is None:
                proposal = self.inner.propose(view, rng)
            else:
                proposal = self.inner.propose_learned(view, prospects, rng)
            if proposal is None or not self._known_violation(proposal.genome):
                return proposal
            tries.append(proposal)
        for _ in range(DRAWN):
            proposal = Proposal(view.space.sample(rng), "random")
            if not view.seen(proposal.genome):
                return proposal
        return min(tries, key=lambda one: self._known_violation(one.genome))


def _further(birth: Candidate, number: int) -> Proposal:
    """Return the proposal to train a genome with extra seed `number`."""
    return Proposal(birth.genome, EXTRA_SEED, birth.parents, extra_seed=number)
