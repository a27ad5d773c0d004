"""Proposals for a search that another tool runs: its trials become a history, and a strategy answers.

The tool keeps the trials, and nothing is kept here between two proposals. Trials that the tool stopped early count with
what they had reached: the steps at which it stops are the rungs (see `rules.promotions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evo_tune.errors import UsageError
from evo_tune.genome.genes import Gene
from evo_tune.genome.history import RunHistory
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Constraint, Maximize, Minimize, Objective, Outcome, Proposal, Status
from evo_tune.plugins.find import make_strategy
from evo_tune.plugins.strategy import Strategy
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.settings import RunSettings
from evo_tune.text import is_encodable

# Maximum number of rungs below the full training.
MAX_RUNGS = 4


@dataclass(frozen=True)
class ExternalTrial:
    """A trial of another tool.

    Args:
        number: Number of the trial in its tool (int ≥ 0).
        proposal: Its genome, with the numbers of its parents.
        status: Status of the outcome; None if it is pending.
        values: Values of the objectives; empty unless the status is ok.
        excesses: Amount by which it exceeds each constraint, by name; negative or 0 if the constraint is met.
        curve: Value of the first objective by step (int ≥ 0), as far as it was reported.
    """

    number: int
    proposal: Proposal
    status: Status | None
    values: Sequence[float] = ()
    excesses: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[int, float] = field(default_factory=dict)


def make_external_strategy(name: str, options: Mapping[str, Any] | None) -> Strategy:
    """Return the strategy of a name or path, with checked options, for a search that another tool runs.

    Raises:
        PluginError: There is none of that name, it is broken, or a package that it needs is not installed.
        OptionError: An option is unknown or wrong.
        UsageError: The strategy decides on budgets itself.
    """
    strategy = make_strategy(name, dict(options or {}))
    if strategy.own_trials:
        raise UsageError(f"strategy {name} decides on budgets itself, which only evo-tune run does: take another one")
    return strategy


def gene_name(name: str) -> str:
    """Return the name of a tool's parameter as a gene: its `repr` where a gene cannot have the name."""
    return name if is_encodable(name) and name not in ("repair", "optional") else repr(name)


def space_of_genes(genes: Mapping[str, Gene]) -> SearchSpace:
    """Return the space of a tool's parameters, given their genes by name; see `gene_name`."""
    named: dict[str, Any] = {gene_name(name): gene for name, gene in genes.items()}
    return SearchSpace(**named)


def propose_external(
    strategy: Strategy,
    space: SearchSpace,
    directions: Sequence[str],
    trials: Sequence[ExternalTrial],
    rng: np.random.Generator,
) -> Proposal | None:
    """Return the next proposal of a strategy, with the numbers of its parents.

    Args:
        strategy: The strategy.
        space: Space with the genomes of all trials.
        directions: 'min' or 'max' for each objective.
        trials: All trials in the order of their proposal.
        rng: New generator for each proposal.

    Returns:
        A genome that is not among the trials. None if there is none, or if the strategy needs more results first.

    Raises:
        UsageError: The strategy is not suited to the space or the objectives.
    """
    objectives = [(Minimize if end == "min" else Maximize)(f"value {place}") for place, end in enumerate(directions)]
    reason = strategy.unsuited(space, objectives)
    if reason:
        raise UsageError(f"strategy {type(strategy).__name__} {reason}")
    constraints = [Constraint(name, 0.0, 1.0) for name in sorted({name for trial in trials for name in trial.excesses})]
    rungs = _Rungs(trials) if len(objectives) == 1 else _Rungs(())
    history, first_ids = RunHistory(space, objectives, constraints), dict[int, int]()
    for trial in trials:
        first_ids[trial.number] = history.proposed_count
        _add(history, trial, first_ids, rungs.results(trial, objectives), strategy.population)
    has_pruned = any(trial.status == "pruned" for trial in trials)
    settings = RunSettings(prune=has_pruned, fidelity=",".join(map(repr, rungs.shares)))
    ruled = StrategyWithRules(inner=strategy, settings=settings, constraints=constraints)
    proposal = ruled.propose_genome(history, rng)
    numbers = {id: number for number, id in first_ids.items()}
    return proposal and replace(proposal, parents=tuple(numbers[id] for id in proposal.parents))


def _add(
    history: RunHistory,
    trial: ExternalTrial,
    first_ids: Mapping[int, int],
    results: Sequence[tuple[float, Outcome | None]],
    population: int,
) -> None:
    """Add a trial: a candidate for each rung that it has reached.

    Args:
        history: History of the trials before it.
        trial: The trial.
        first_ids: Id of the first candidate of each trial by its number, this one included.
        results: Budget and outcome at each rung, None while it is pending.
        population: Number of trials in a generation.
    """
    proposal = trial.proposal
    parents = tuple(first_ids[number] for number in proposal.parents if number in first_ids)
    resumes: int | None = None
    for budget, outcome in results:
        id, generation = history.proposed_count, history.fresh_count // population
        reported_count = len(history.trials)
        history.add_candidate(
            Candidate(
                id, generation, 0, reported_count, proposal.genome, proposal.operator, parents, budget, resumes
            )
        )  # fmt: skip
        if outcome is not None:
            history.tell(id, outcome)
        resumes = id


class _Rungs:
    """The shares of a full training at which trials were stopped, and the results of a trial at these.

    Args:
        trials: All trials.
    """

    def __init__(self, trials: Sequence[ExternalTrial]) -> None:
        stops = sorted({max(trial.curve) for trial in trials if trial.status == "pruned" and trial.curve})
        if len(stops) > MAX_RUNGS:  # the lowest one, so that each stopped trial has a result, and others evenly
            stops = [stops[len(stops) * number // MAX_RUNGS] for number in range(MAX_RUNGS)]
        last = max((max(trial.curve) for trial in trials if trial.status == "ok" and trial.curve), default=0)
        steps = max([last, *(stop + 1 for stop in stops)]) + 1
        self._stops = stops
        # Budgets, increasing to 1; steps may count from 0.
        self.shares = [*((stop + 1) / steps for stop in stops), 1.0]

    def results(self, trial: ExternalTrial, objectives: Sequence[Objective]) -> list[tuple[float, Outcome | None]]:
        """Return the budget and the outcome at each rung that a trial has reached; the outcome is None if pending."""
        if trial.status is None or trial.status not in ("ok", "pruned") or not (self._stops or trial.status == "ok"):
            return [(self.shares[0], None if trial.status is None else Outcome(trial.status))]
        names = [objective.metric for objective in objectives]
        whole = {**dict(zip(names, trial.values, strict=False)), **trial.excesses}
        results: list[tuple[float, Outcome | None]] = []
        for stop, share in zip(self._stops, self.shares, strict=False):
            before = [step for step in trial.curve if step <= stop]
            if before and (trial.status == "ok" or max(trial.curve) >= stop):
                value = trial.curve[max(before)]
                results.append((share, Outcome("ok", {**whole, names[0]: value})))
            elif trial.status == "ok":  # nothing was reported on the way
                results.append((share, Outcome("ok", whole)))
        if trial.status == "ok":
            results.append((1.0, Outcome("ok", whole)))
        return results or [(self.shares[0], Outcome("pruned"))]
