"""The loop in small: births and told results by the laws of the design, on a clock of its own.

It trains nothing and saves nothing. What it notes (`Event`s, in the order in which a strategy could
see them) is what a journal holds, so a history can be rebuilt from any beginning of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evo_tune.genome.history import History, RunHistory
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import DEFAULT, WARM_START, Candidate, Constraint, Objective, Outcome, Proposal, trial_seed
from evo_tune.plugins.strategy import Strategy
from evo_tune.rules.ruled import StrategyWithRules


@dataclass(frozen=True)
class Born:
    """A birth."""

    candidate: Candidate


@dataclass(frozen=True)
class Told:
    """A result that the strategy has been told."""

    id: int
    outcome: Outcome


@dataclass(frozen=True)
class Refused:
    """The strategy wanted to be told more before the birth of this id."""

    id: int


@dataclass(frozen=True)
class Widened:
    """The ranges of genes became wider."""

    space: SearchSpace


Event = Born | Told | Refused | Widened


def birth_rng(seed: int, id: int) -> np.random.Generator:
    """Return the generator of a birth (law 1)."""
    return np.random.default_rng([seed, 0, id])


def rebuild(
    space: SearchSpace, objectives: Sequence[Objective], events: Iterable[Event], constraints: Sequence[Constraint] = ()
) -> History:
    """Return a fresh history from recorded events, as a resumed run does."""
    history = RunHistory(space, objectives, constraints)
    for event in events:
        if isinstance(event, Born):
            history.add_candidate(event.candidate)
        elif isinstance(event, Told):
            history.tell(event.id, event.outcome)
        elif isinstance(event, Widened):
            history.widen(event.space)
    return history


@dataclass
class Simulation:
    """One run.

    Args:
        strategy: Under test.
        space: The search space.
        objectives: What is optimised.
        evaluate: The outcome of a candidate.
        births: A limit, which the strategy never sees.
        seed: The run's.
        slots: Trainings at a time.
        order: 'arrival' or 'proposal'.
        lag: How many results a birth may run ahead of, in proposal order.
        speed: Seed of the durations of trainings.
        warm: Genomes born right after the default.
        wider: Space with wider ranges, by the number of births after which it takes effect.
    """

    strategy: Strategy
    space: SearchSpace
    objectives: Sequence[Objective]
    evaluate: Callable[[Candidate], Outcome]
    births: int = 40
    seed: int = 0
    slots: int = 1
    order: str = "arrival"
    lag: int = 8
    speed: int = 0
    warm: Sequence[dict] = ()
    wider: Mapping[int, SearchSpace] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rules = self.strategy if isinstance(self.strategy, StrategyWithRules) else None
        self.history = RunHistory(self.space, self.objectives, self.rules.constraints if self.rules else ())
        self.recorded: dict[int, Outcome] = {}

    @property
    def candidates(self) -> list[Candidate]:
        """Everything born, by id."""
        return [event.candidate for event in self.events if isinstance(event, Born)]

    def run(self) -> Simulation:
        """Run to the limit, or until the strategy has nothing more to propose.

        Raises:
            AssertionError: Nothing runs any more, and yet the strategy waits: a deadlock.
        """
        clock = np.random.default_rng(self.speed)
        running: list[tuple[float, int, Candidate]] = []
        now = 0.0
        while True:
            while len(running) < self.slots and (candidate := self.ask()) is not None:
                heapq.heappush(running, (now + clock.exponential(), candidate.id, candidate))
            if not running:
                break
            now, _, candidate = heapq.heappop(running)
            self.recorded[candidate.id] = self.evaluate(candidate)
            if self.order == "arrival":
                self._tell(candidate.id)
        assert self.history.fresh_count >= self.births or not self.history.pending, "deadlock"
        return self

    def ask(self) -> Candidate | None:
        """Return the next birth, or None: results must come first, or it is over."""
        full = self.history.fresh_count >= self.births
        if full and not (self.rules and self.rules.settings.genomes_have_several_trials):
            return None
        id = self.history.proposed_count
        if id in self.wider and self.history.space is not self.wider[id]:
            self.history.widen(self.wider[id])
            self.events.append(Widened(self.wider[id]))
        if self.order == "proposal" and not self._tell_up_to(id - self.lag):
            return None
        while (proposal := self._due() if full else self._propose(id)) is None:
            if not full:
                self.events.append(Refused(id))
            if self.order == "arrival" or not self._tell_up_to(len(self.history.trials) + 1):
                return None
        candidate = Candidate(
            id=id,
            generation=self.history.fresh_count // self.strategy.population,
            seed=trial_seed(self.seed, proposal.extra_seed),
            reported_before=len(self.history.trials),
            **vars(proposal),
        )
        self.history.add_candidate(candidate)
        self.events.append(Born(candidate))
        return candidate

    def _due(self) -> Proposal | None:
        return (
            self.strategy.next_promotion_or_seed(self.history) if isinstance(self.strategy, StrategyWithRules) else None
        )

    def _propose(self, id: int) -> Proposal | None:
        number = self.history.fresh_count
        budget = self.rules.settings.rungs[0] if self.rules else 1.0
        if number == 0:
            return Proposal(self.space.default(), DEFAULT, budget=budget)
        if number <= len(self.warm):
            return self._due() or Proposal(self.warm[number - 1], WARM_START, budget=budget)
        return self.strategy.propose(self.history, birth_rng(self.seed, id))

    def _tell(self, id: int) -> None:
        self.history.tell(id, self.recorded[id])
        self.events.append(Told(id, self.recorded[id]))

    def _tell_up_to(self, count: int) -> bool:
        wanted = range(len(self.history.trials), count)
        if not all(id in self.recorded for id in wanted):
            return False
        for id in wanted:
            self._tell(id)
        return True
