"""Who goes on is who is expected to end best, as far as a strategy has learned it, with audits and a guard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from evo_tune.genome.history import History, Lesson, RunHistory
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome, Proposal
from evo_tune.genome.values import genome_key
from evo_tune.plugins.find import make_strategy
from evo_tune.plugins.strategy import GenomeResults, Prospects, Strategy
from evo_tune.rules.fidelity import audit_numbers
from evo_tune.rules.promotions import MAX_MODEL_GENOMES, partial_results
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.settings import RunSettings
from evo_tune.strategies.saea import SAEA
from tests.rules import reference
from tests.rules.test_memos import births, outcome
from tests.rules.test_ruled import FIDELITY, LOSS, RUNGS, SPACE, honest, misleading, trained
from tests.strategies.cases import OBJECTIVES
from tests.strategies.simulate import Born, Simulation, Told, birth_rng, rebuild

FIRST, MIDDLE, WHOLE = RUNGS


@dataclass(frozen=True)
class Oracle:
    """Prospects that are given."""

    seen: GenomeResults
    likeness: float
    hope: Callable[[np.ndarray], np.ndarray]

    def trust(self, share: float) -> float:
        return self.likeness

    def worth(self, rows: np.ndarray) -> np.ndarray:
        ASKED.append(len(rows))
        return self.hope(rows)


ASKED: list[int] = []


@dataclass(frozen=True)
class Knowing(Strategy):
    """Knows how far early results can be trusted, and expects the genomes to end in a given order."""

    likeness: float = 1.0
    hope: Callable[[np.ndarray], np.ndarray] = lambda rows: -rows.astype(float)

    scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check nothing: a function is no option."""

    def learn(self, seen: GenomeResults, space: SearchSpace) -> Prospects | None:
        return Oracle(seen, self.likeness, self.hope)

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        raise AssertionError("what was learned is not asked for")

    def propose_learned(self, history: History, prospects: Any, rng: np.random.Generator) -> Proposal | None:
        assert isinstance(prospects, Oracle)
        return Proposal(history.space.sample(rng), "random")


def ruled(inner: Strategy, rules: RunSettings | None = None) -> StrategyWithRules:
    return StrategyWithRules(inner=inner, settings=rules or RunSettings(fidelity=FIDELITY))


def at_the_first_rung(count: int) -> History:
    """Return a run whose genomes have their first results, the later the better, and whose audits are done."""
    history, rng = RunHistory(SPACE, LOSS), np.random.default_rng(0)
    genomes = [SPACE.sample(rng) for _ in range(count)]
    for id, genome in enumerate(genomes):
        history.add_candidate(Candidate(id, 0, 0, id, genome, "random", budget=FIRST))
        history.tell(id, Outcome("ok", {"loss": float(count - id)}))
    for number in audit_numbers(count):
        last = number
        for budget in (MIDDLE, WHOLE):
            id = history.proposed_count
            one = Candidate(id, 0, 0, id, genomes[number], "promotion", budget=budget, resumes=last)
            history.add_candidate(one)
            history.tell(id, Outcome("ok", {"loss": float(count - number)}))
            last = id
    return history


def going_on(history: History, strategy: StrategyWithRules) -> list[int]:
    """Return the births that go on beyond the first rung, in their order, as they would with many slots."""
    number = {genome_key(one.genome): at for at, one in enumerate(history.fresh_proposals)}
    found = []
    while (due := strategy.next_promotion_or_seed(history)) is not None:
        assert due.budget == MIDDLE
        assert number[genome_key(due.genome)] not in found
        found.append(number[genome_key(due.genome)])
        history.add_candidate(Candidate(history.proposed_count, 0, 0, len(history.trials), **vars(due)))
    return found


def test_who_is_expected_to_end_best_goes_on_whoever_is_best_early() -> None:
    assert going_on(at_the_first_rung(24), ruled(Knowing())) == [
        3,
        4,
        5,
        6,
        7,
        *range(9, 16),
    ]  # worst early, without audits
    best_last = Knowing(hope=lambda rows: rows.astype(float))
    assert going_on(at_the_first_rung(24), ruled(best_last))[:3] == [23, 22, 21]


def test_the_less_early_results_are_trusted_the_more_go_on() -> None:
    counts = []
    for trust in (1.0, 0.7, 0.2):
        strategy = ruled(Knowing(likeness=trust, hope=lambda rows: rows.astype(float)))
        counts.append(len(going_on(at_the_first_rung(36), strategy)))
    assert counts[0] < counts[1] < counts[2]
    assert counts[2] > 17


def test_before_there_is_a_model_ranks_at_the_rungs_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Knowing, "learn", lambda *args: None)
    without_model = going_on(at_the_first_rung(6), ruled(make_strategy("random", {})))
    assert without_model
    assert going_on(at_the_first_rung(6), ruled(Knowing())) == without_model


def test_it_looks_as_far_down_as_the_leader_came_from() -> None:
    history = at_the_first_rung(24)
    assert history.best is not None
    assert history.best.genome == history.fresh_proposals[8].genome  # the sixteenth of the 24 at the first rung
    later = ruled(Knowing(hope=lambda rows: rows.astype(float)))
    assert sorted(going_on(history, later)) == list(range(9, 24))


def test_audits_are_trained_in_full_before_anything_else() -> None:
    run = Simulation(ruled(SAEA(population=4)), SPACE, objectives=LOSS, evaluate=trained(misleading), births=20).run()
    ended = {genome_key(trial.genome) for trial in run.history.ranked()}
    assert {genome_key(run.history.fresh_proposals[at].genome) for at in (0, 1, 2, 8)} <= ended
    for at in (1, 2, 8):
        mine = [c.id for c in run.candidates if c.genome == run.history.fresh_proposals[at].genome]
        assert mine == list(range(mine[0], mine[0] + 3))


@pytest.mark.parametrize(
    "loop", [{"slots": 3}, {"slots": 4, "order": "proposal", "lag": 3}], ids=["arrival", "proposal"]
)
def test_what_is_learned_is_a_function_of_history(loop: dict[str, Any]) -> None:
    """Whatever was asked before, and however results came in: a run read from its journal decides the same."""
    strategy = ruled(SAEA(population=4, first=4), RunSettings(fidelity=FIDELITY, prune=True, seeds_per_trial=2))
    evaluate = trained(noise=0.02, fail=0.15)
    run = Simulation(strategy, SPACE, objectives=LOSS, evaluate=evaluate, births=16, **loop).run()
    assert {c.budget for c in run.candidates} == set(RUNGS)
    for cut, event in enumerate(run.events):
        if isinstance(event, Born) and event.candidate.id:
            history = rebuild(SPACE, LOSS, run.events[:cut])
            proposal = strategy.propose(history, birth_rng(run.seed, history.proposed_count))
            assert proposal is not None
            assert vars(proposal).items() <= vars(event.candidate).items()
        elif isinstance(event, Told):
            whole, again = rebuild(SPACE, LOSS, run.events[: cut + 1]), rebuild(SPACE, LOSS, run.events[:cut])
            strategy.next_promotion_or_seed(again)  # has learned from all but the last result
            again.tell(event.id, event.outcome)
            assert strategy.next_promotion_or_seed(again) == strategy.next_promotion_or_seed(whole)


@pytest.mark.parametrize("why", ["two objectives", "earlier runs", "a strategy that does not score"])
def test_where_nothing_is_learned_places_decide_to_the_bit(why: str) -> None:
    name = "random" if why == "a strategy that does not score" else "saea"
    rules = RunSettings(fidelity=FIDELITY)
    units = np.random.default_rng(1).random((3, len(SPACE.genes)))
    lesson = Lesson("earlier", np.arange(len(SPACE.genes)), units, np.arange(3.0))
    history = RunHistory(
        SPACE, OBJECTIVES[: 2 if why == "two objectives" else 1], lessons=[lesson] if why == "earlier runs" else []
    )
    strategy, rng, seen = ruled(make_strategy(name, {}), rules), np.random.default_rng(4), set()
    for one in births(rules, rng, history, 120):
        history.add_candidate(one)
        while len(history.pending) > 3:
            late = history.pending[int(rng.integers(3))]
            history.tell(late.id, outcome(rng, late, False))
        wanted = reference.next_promotion_or_seed(rules, history)
        assert strategy.next_promotion_or_seed(history) == wanted
        seen.add(wanted is None)
    assert seen == {True, False}


def test_what_was_seen_is_what_was_known_up_to_each_rung() -> None:
    history = at_the_first_rung(6)
    lost = history.proposed_count
    history.add_candidate(Candidate(lost, 0, 0, lost, SPACE.sample(birth_rng(9, 9)), "random", budget=FIRST))
    history.tell(lost, Outcome("failed", error="no luck"))
    seen = partial_results(history, RUNGS)
    assert seen is not None
    assert seen.places[:6, 0].tolist() == [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert np.isnan(seen.places[[3, 4, 5], 1:]).all()
    assert seen.places[[2, 1, 0], 2].tolist() == [4.0, 5.0, 6.0]
    assert np.isnan(seen.places[6, :2]).all()
    assert seen.places[6, 2] == 7.0
    assert np.array_equal(seen.encode(np.array([2])), [history.proposed_units[2]])


def test_nothing_is_learned_before_one_genome_was_trained_in_full() -> None:
    history = RunHistory(SPACE, LOSS)
    for id in range(8):
        history.add_candidate(Candidate(id, 0, 0, id, SPACE.sample(birth_rng(9, id)), "random", budget=FIRST))
        history.tell(id, Outcome("ok", {"loss": 1.0}))
    assert partial_results(history, RUNGS) is None


def test_in_a_long_run_few_genomes_are_asked_for_and_each_result_once() -> None:
    history, strategy = at_the_first_rung(2000), ruled(Knowing(hope=lambda rows: -rows.astype(float)))
    ASKED.clear()
    due = strategy.next_promotion_or_seed(history)
    assert due is None or due.budget == MIDDLE
    assert ASKED
    assert max(ASKED) <= 2 * MAX_MODEL_GENOMES


def test_it_learns_once_for_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    history, strategy, calls = at_the_first_rung(12), ruled(Knowing()), []
    learn = Knowing.learn
    monkeypatch.setattr(Knowing, "learn", lambda *given: calls.append(1) or learn(*given))
    for _ in range(3):
        strategy.next_promotion_or_seed(history)
        strategy.propose(history, birth_rng(0, 0))
    assert len(calls) == 1


@pytest.mark.slow
def test_where_early_results_mislead_nearly_all_are_trained_in_full() -> None:
    shares = []
    for loss in (honest, misleading):
        strategy = ruled(SAEA(population=6))
        run = Simulation(strategy, SPACE, objectives=LOSS, evaluate=trained(loss), births=40).run()
        shares.append(len(run.history.ranked()) / 40)
    assert shares[0] < 0.9 < shares[1]
