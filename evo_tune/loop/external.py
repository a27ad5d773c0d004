"""Proposals for a search that another tool runs: its trials become a history, and a strategy answers.

The tool keeps the trials, and nothing is kept here between two proposals. A trial that the tool stopped early is worse
than every complete one. What it had reached does not count: no figure shows that it helps (benchmarks/LOG.md).
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evo_tune.errors import UsageError
from evo_tune.genome.genes import Gene
from evo_tune.genome.history import RunHistory
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Constraint, Maximize, Minimize, Outcome, Proposal, Status
from evo_tune.options.declare import check_integer
from evo_tune.plugins.find import make_strategy
from evo_tune.plugins.strategy import Strategy
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.settings import RunSettings
from evo_tune.text import is_encodable


@dataclass(frozen=True)
class ExternalTrial:
    """A trial of another tool.

    Args:
        number: Number of the trial in its tool (int ≥ 0).
        proposal: Its genome, with the numbers of its parents.
        status: Status of the outcome; None if it is pending.
        values: Values of the objectives; empty unless the status is ok.
        excesses: Amount by which it exceeds each constraint, by name; negative or 0 if the constraint is met.
    """

    number: int
    proposal: Proposal
    status: Status | None
    values: Sequence[float] = ()
    excesses: Mapping[str, float] = field(default_factory=dict)


def make_external_strategy(name: str, options: Mapping[str, Any] | None, seed: int | None) -> tuple[Strategy, int]:
    """Return the strategy of a name or path, with checked options, for a search that another tool runs, and its seed.

    Args:
        name: Name or path of the strategy.
        options: Its options by name.
        seed: Seed (int ≥ 0); None: a random one.

    Raises:
        PluginError: There is none of that name, it is broken, or a package that it needs is not installed.
        OptionError: An option is unknown or wrong.
        UsageError: The strategy decides on budgets itself, or the seed is none.
    """
    if seed is not None:
        check_integer("seed", seed, 0)
    strategy = make_strategy(name, dict(options or {}))
    if strategy.own_trials:
        raise UsageError(f"strategy {name} decides on budgets itself, which only evo-tune run does: take another one")
    return strategy, secrets.randbits(31) if seed is None else seed


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
    history, ids = RunHistory(space, objectives, constraints), dict[int, int]()
    for trial in trials:
        id = ids[trial.number] = history.proposed_count
        parents = tuple(ids[number] for number in trial.proposal.parents if number in ids)
        known = replace(trial.proposal, parents=parents)
        generation = history.fresh_count // strategy.population
        history.add_candidate(Candidate(id, generation, 0, len(history.trials), **vars(known)))
        if trial.status is not None:
            names = [objective.metric for objective in objectives]
            values = {**dict(zip(names, trial.values, strict=False)), **trial.excesses}
            history.tell(id, Outcome(trial.status, values if trial.status == "ok" else {}))
    settings = RunSettings(prune=any(trial.status == "pruned" for trial in trials))
    ruled = StrategyWithRules(inner=strategy, settings=settings, constraints=constraints)
    proposal = ruled.propose_genome(history, rng)
    numbers = {id: number for number, id in ids.items()}
    return proposal and replace(proposal, parents=tuple(numbers[id] for id in proposal.parents))
