"""The rules of a run around its strategy: rungs, pruning, extra seeds, constraints.

`StrategyWithRules` is the strategy that a run asks. It asks the user's strategy for genomes, and decides how they are
trained. One proposal takes these steps:

1. `Search.ask` calls `propose` in `loop/proposing.py`, which calls `StrategyWithRules.propose` with the run's history.
2. A promotion or an extra seed of a known genome comes first, if one is due: `next_promotion_or_seed`.
3. In a run with patches, some new genomes tell which of them pay: `screening`.
4. Else the strategy proposes a new genome. It does not see the run's history, but a `RankedHistory`: each genome
   trained once and in full, with its rank as its loss. So it need not know rungs, pruning, seeds or constraints.
5. The genome is trained at the budget of the first rung, unless it is an audit, with bounds that may prune it.

Without rules, the strategy sees the run's history, and its proposal stays as it is. Like any strategy,
`StrategyWithRules` is a pure function of history (law 1), so resume and replay do not need to know it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

import numpy as np

from evo_tune.errors import EvoTuneError
from evo_tune.genome.history import History, RunHistory
from evo_tune.genome.trial import Candidate, Constraint, Proposal, Trial, violation
from evo_tune.genome.values import Genome, genome_key
from evo_tune.genome.view import GenomeTrials, RankedHistory, trials_by_genome
from evo_tune.genome.widening import Range
from evo_tune.plugins.strategy import Prospects, Strategy
from evo_tune.rules.extra_seeds import LeaderRanking, SeedGains
from evo_tune.rules.fidelity import Curves, audit_numbers, is_audit
from evo_tune.rules.promotions import Rungs, fit_prospects, next_model_promotion
from evo_tune.rules.screening import next_screening, without_failing
from evo_tune.rules.widening import MIN_TRIALS, Widening, find_widening, leader_count
from evo_tune.settings import RunSettings

# Maximum number of times that the strategy is asked for a genome within the constraints.
MAX_PROPOSALS = 4

# Maximum number of random genomes that are tried after that.
MAX_SAMPLES = 500

# Number of trials that are looked through for each leading genome, because some genomes have several seeds.
TRIALS_PER_LEADER = 3


class RuleState(NamedTuple):
    """Results as the rules need them: the state of a fold over the history."""

    rungs: Rungs
    curves: Curves
    ranking: LeaderRanking
    seed_gains: SeedGains


@dataclass(frozen=True, kw_only=True)
class StrategyWithRules(Strategy):
    """A strategy whose genomes are trained by the rules of a run.

    Args:
        population: Set to that of the inner strategy.
        inner: Strategy that proposes genomes.
        settings: Settings of the run. Only those for rungs, pruning and seeds are used.
        constraints: Constraints on genomes.
        estimate: Returns the metrics of a genome that are known before training.
        limits: Lowest and highest value up to which the run may widen a gene by itself, by name.
    """

    inner: Strategy
    settings: RunSettings
    constraints: Sequence[Constraint] = ()
    estimate: Callable[[Genome], Mapping[str, float]] = lambda genome: {}
    limits: Mapping[str, Range] = field(default_factory=dict)

    @property
    def has_rules(self) -> bool:
        """Whether any rule is on; else genomes are trained as the strategy proposes them."""
        return bool(self.settings.genomes_have_several_trials or self.settings.prune or self.constraints)

    def __post_init__(self) -> None:
        """Take the population of the inner strategy. The check of options is skipped, because there are no others."""
        object.__setattr__(self, "population", self.inner.population)

    def propose(self, history: History, rng: np.random.Generator, switches: Sequence[str] = ()) -> Proposal | None:
        """Return the next proposal; see `Strategy.propose`.

        Args:
            history: History of the run.
            rng: Source of random numbers.
            switches: Genes that switch the run's patches on, for the rule of `screening`.
        """
        promotion = self.next_promotion_or_seed(history) if self.has_rules else None
        return promotion or self.propose_genome(history, rng, switches)

    def propose_genome(
        self, history: History, rng: np.random.Generator, switches: Sequence[str] = ()
    ) -> Proposal | None:
        """Return the next new genome, even where a promotion or an extra seed is due; see `propose`."""
        budget = self.settings.rungs[0]
        screened = next_screening(history, switches, budget, rng)
        if screened is not None:
            return self._as_new(screened, history)
        if not self.has_rules:
            own = self.inner.propose(history, rng)
            return without_failing(own, history, switches, budget) if switches and own is not None else own
        shown = self._history_for_strategy(history)
        proposal = self._propose_feasible(shown, self._prospects(history), rng)
        if proposal is None:
            return None
        if not proposal.fresh or proposal.budget != 1.0 or proposal.stop_if:
            raise ValueError("proposes budgets or extra seeds of its own: declare own_trials = True in its class")
        parents = tuple(shown.ids[parent] for parent in proposal.parents)
        proposal = without_failing(replace(proposal, parents=parents), history, switches, budget)
        return self._as_new(proposal, history)

    def survivors(self, history: History) -> Sequence[int]:
        if not self.has_rules:
            return self.inner.survivors(history)
        shown, genomes = self._history_for_strategy(history), trials_by_genome(history).values()
        latest_ids = {genome.first_candidate.id: genome.latest_trial.id for genome in genomes}
        return [latest_ids[shown.ids[id]] for id in self.inner.survivors(shown)]

    def status(self, history: History) -> str:
        return self.inner.status(self._history_for_strategy(history) if self.has_rules else history)

    def next_promotion_or_seed(self, history: History) -> Proposal | None:
        """Return the promotion or extra seed that is due before any new genome; None if none is due."""
        if not self.settings.genomes_have_several_trials:
            return None
        state, genomes = self._state(history), history.fresh_proposals
        pending = {(genome_key(trial.genome), trial.budget) for trial in history.pending if not trial.extra_seed}
        audits = {genome_key(genomes[number].genome) for number in audit_numbers(len(genomes))}
        promotion = state.rungs.next_audit(pending, audits)
        if promotion is None:
            prospects = self._prospects(history)
            if prospects is None:  # a model needs some results: until then, the ranks at the rungs decide
                promotion = state.rungs.next_promotion(pending)
            else:
                promotion = next_model_promotion(state.rungs, prospects, pending)
        if promotion is not None:
            return promotion if genome_key(promotion.genome) in audits else self._with_bounds(promotion, history)
        if self.settings.seeds_are_automatic:
            return state.seed_gains.best_extra_seed(history.pending, state.rungs.mean_genome_cost())
        return state.ranking.next_seed(history.pending, self.settings.most_seeds)

    def next_widening(self, history: RunHistory) -> Widening | None:
        """Return the range to widen before a new genome is proposed; None if there is none.

        Several objectives have no single best genome, and one of them may always favour an end. So they widen nothing.
        """
        count = len(history.ranking)
        if not self.limits or len(history.objectives) > 1 or count < max(self.population, MIN_TRIALS):
            return None
        return find_widening(history, self._leaders(history, leader_count(count)), self.limits)

    def _leaders(self, history: RunHistory, count: int) -> list[Candidate]:
        """Return the first candidates of the best fully trained genomes within the constraints, best first.

        Genomes are ordered by the losses that the rules for extra seeds predict, else by their means over seeds.
        """
        if self.settings.most_seeds == 1:
            return [trial.candidate for trial in islice(history.ranking, count) if trial.feasible]
        genomes = trials_by_genome(history)
        expected = list(self._predict_losses(history))[:count]
        if expected:
            return [genomes[key].first_candidate for key in expected]
        trials = islice(history.ranking, count * TRIALS_PER_LEADER)
        keys = dict.fromkeys(genome_key(trial.genome) for trial in trials if trial.feasible)

        def sort_key(genome: GenomeTrials) -> tuple[tuple[float, ...], int]:
            return genome.losses(1.0) or (math.inf,), genome.first_candidate.id

        return [genome.first_candidate for genome in sorted((genomes[key] for key in keys), key=sort_key)[:count]]

    def _prospects(self, history: History) -> Prospects | None:
        """Return the strategy's model of partial results; None without one, with several objectives or earlier runs."""
        has_rungs, one_objective = len(self.settings.rungs) > 1, len(history.objectives) == 1
        if not (self.inner.scores and one_objective and has_rungs) or history.lessons:
            return None
        return fit_prospects(history, self.settings.rungs, self.inner)

    def _as_new(self, proposal: Proposal, history: History) -> Proposal:
        """Return the proposal of a new genome with the budget and the bounds of its first training."""
        proposal = replace(proposal, budget=self.settings.rungs[0])
        return proposal if is_audit(history.fresh_count) else self._with_bounds(proposal, history)

    def _with_bounds(self, proposal: Proposal, history: History) -> Proposal:
        """Return a proposal with the bounds beyond which its training is pruned."""
        if not self.settings.prune:
            return proposal
        start = 0.0
        if proposal.resumes is not None:
            start = trials_by_genome(history)[genome_key(proposal.genome)].latest_trial.candidate.budget
        return replace(proposal, stop_if=self._state(history).curves.bounds(start, proposal.budget))

    def _state(self, history: History) -> RuleState:
        """Return the state of the rules, updated with new results only."""
        settings, genomes, objective = self.settings, trials_by_genome(history), history.objectives[0]

        def begin() -> RuleState:
            rungs = Rungs(settings.rungs, len(history.objectives))
            seed_gains = SeedGains(history.space, settings.most_seeds, not settings.own_seeds)
            return RuleState(rungs, Curves(objective.metric, objective.sign), LeaderRanking(), seed_gains)

        def step(state: RuleState, trial: Trial) -> RuleState:
            genome = genomes[genome_key(trial.genome)]
            if len(settings.rungs) > 1:
                state.rungs.update(genome)
            if settings.prune:
                state.curves.update(genome)
            if settings.seeds_are_automatic:
                state.seed_gains.update(trial, history.proposed_units[trial.id])
            elif settings.most_seeds > 1:
                state.ranking.update(genome)
            return state

        return history.fold((__name__, settings), begin, step)

    def _predict_losses(self, history: History) -> dict[str, float]:
        """Return the losses by genome key that the rule for extra seeds predicts, lowest first; else no losses."""
        if not self.settings.seeds_are_automatic:
            return {}
        return self._state(history).seed_gains.predict_losses(history.pending)

    def _history_for_strategy(self, history: History) -> RankedHistory:
        """Return the history that the strategy sees."""
        expected = self._predict_losses(history)
        return RankedHistory(history, self.settings.rungs, lambda g: self._violation_before_training(g) > 0.0, expected)

    def _violation_before_training(self, genome: Genome) -> float:
        """Return the violation of the constraints that are known before training; 0 if there is none."""
        if not self.constraints:
            return 0.0
        try:
            metrics = self.estimate(genome)
        except EvoTuneError:  # the training reports the same error
            return 0.0
        return violation([constraint for constraint in self.constraints if constraint.metric in metrics], metrics)

    def _propose_feasible(
        self, history: RankedHistory, prospects: Prospects | None, rng: np.random.Generator
    ) -> Proposal | None:
        """Return a proposal of the strategy, or a random genome, within the constraints known before training.

        The history marks genomes outside the constraints as seen, so a strategy avoids most of them. This method
        handles the rest. If all attempts fail, it returns the proposal with the smallest violation.
        """
        proposals: list[Proposal] = []
        for _ in range(MAX_PROPOSALS):
            if prospects is None:
                proposal = self.inner.propose(history, rng)
            else:
                proposal = self.inner.propose_learned(history, prospects, rng)
            if proposal is None or not self._violation_before_training(proposal.genome):
                return proposal
            proposals.append(proposal)
        for _ in range(MAX_SAMPLES):
            proposal = Proposal(history.space.sample(rng), "random")
            if not history.seen(proposal.genome):
                return proposal
        return min(proposals, key=lambda proposal: self._violation_before_training(proposal.genome))
