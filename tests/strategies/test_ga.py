"""The genetic algorithm: it converges, its generations keep their barrier, and a long run does not slow it."""

from __future__ import annotations

import functools
import time
from dataclasses import replace

import numpy as np
import pytest

from evo_tune.errors import RecipeError
from evo_tune.genome.history import History, RunHistory
from evo_tune.genome.trial import Candidate, Outcome, Trial
from evo_tune.plugins.find import make_strategy
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies.ga import GA
from evo_tune.strategies.nsga2 import NSGA2
from evo_tune.strategies.random import Random
from tests.strategies.bowl import BOWL, best_of, bowl
from tests.strategies.cases import OBJECTIVES, SPACES, failing, losses
from tests.strategies.simulate import Refused, Simulation, birth_rng


@pytest.mark.parametrize(("generational", "slots", "share"), [(False, 1, 0.2), (False, 4, 0.3), (True, 4, 0.4)])
def test_it_beats_random_search_clearly(generational: bool, slots: int, share: float) -> None:
    bred = [best_of(GA(generational=generational), seed, slots) for seed in range(8)]
    drawn = [best_of(Random(), seed, slots) for seed in range(8)]
    assert np.median(bred) < share * np.median(drawn)
    assert sum(b < d for b, d in zip(bred, drawn, strict=True)) >= 6


def test_a_generation_is_bred_from_the_one_before_it() -> None:
    ga = GA(population=6, generational=True, elites=2, immigrants=0.0)
    run = Simulation(ga, SPACES["mixed"], OBJECTIVES[:1], failing(0.3, SPACES["mixed"]), births=36, slots=6).run()
    trials = {trial.id: trial for trial in run.history.trials}
    pool: list[Trial] = []
    for generation in range(1, 6):
        born = [c for c in run.candidates if c.generation == generation]
        before = [t for t in trials.values() if t.candidate.generation == generation - 1 and t.ok]
        pool = sorted([*pool[:2], *before], key=lambda t: (t.losses or (), t.id))[:6]
        assert [c.reported_before for c in born] == sorted(c.reported_before for c in born)
        assert all(c.reported_before >= 6 * generation for c in born)
        assert all(set(c.parents) <= {t.id for t in pool} for c in born)
        assert any(c.parents for c in born)
    assert any(isinstance(event, Refused) for event in run.events)


def test_survivors_of_a_generational_run_are_those_of_the_last_complete_generation() -> None:
    ga = GA(population=4, generational=True, elites=0)
    run = Simulation(ga, SPACES["mixed"], OBJECTIVES[:1], losses(SPACES["mixed"]), births=8).run()
    last = sorted((t for t in run.history.trials if t.id >= 4), key=lambda t: t.losses or ())
    assert list(ga.survivors(run.history)) == [t.id for t in last]


def test_steady_survivors_are_the_best_completed_trials() -> None:
    ga = GA(population=5)
    run = Simulation(ga, SPACES["mixed"], OBJECTIVES[:1], failing(0.3, SPACES["mixed"]), births=40, slots=3).run()
    assert list(ga.survivors(run.history)) == [trial.id for trial in run.history.ranked()[:5]]


def test_it_breeds_after_half_a_population_of_results() -> None:
    run = Simulation(GA(population=10, immigrants=0.0), BOWL, OBJECTIVES[:1], bowl, births=20).run()
    operators = [candidate.operator for candidate in run.candidates]
    assert operators[0] == "default"
    assert operators[1:5] == ["spread"] * 4
    assert set(operators[5:]) <= {"mutation", "crossover+mutation"}
    assert {len(c.parents) for c in run.candidates if c.operator == "crossover+mutation"} == {2}
    assert {len(c.parents) for c in run.candidates if c.operator == "mutation"} <= {1}


def test_options_change_the_operators_of_proposals() -> None:
    def operators(**options: float) -> set[str]:
        ga = GA(population=4, **options)  # type: ignore[arg-type]
        run = Simulation(ga, BOWL, OBJECTIVES[:1], bowl, births=40).run()
        return {candidate.operator for candidate in run.candidates[4:]}

    assert operators(immigrants=1.0) == {"random"}
    assert operators(immigrants=0.0, crossover=0.0) == {"mutation"}
    assert "crossover+mutation" in operators(crossover=1.0)


def test_more_elites_than_survivors_are_refused() -> None:
    with pytest.raises(RecipeError, match="elites=13 is not allowed: expected 0 to 12"):
        GA(elites=13)


def test_options_are_given_as_text() -> None:
    assert make_strategy("ga", {"generational": "yes", "population": "20", "scale": ".1"}) == GA(
        population=20, generational=True, scale=0.1
    )


@functools.cache
def long_history(trials: int) -> History:
    """Return a history of random trials, as cheaply as it can be made; some births more in it change nothing here."""
    rng = np.random.default_rng(0)
    space = SPACES["mixed"]
    history = RunHistory(space, OBJECTIVES)
    for id in range(trials):
        history.add_candidate(Candidate(id, id // 12, 0, id, space.snap(rng.random(len(space.genes))), "random"))
        history.tell(id, Outcome("ok", {"loss": rng.normal(), "cost": rng.normal()}))
    return history


def grow(history: History, strategy: Strategy, births: int) -> float:
    """Return the least time of some births in seconds: the noise of a busy machine only ever adds."""
    times = []
    for _ in range(births):
        id = history.proposed_count
        start = time.perf_counter()
        proposal = strategy.propose(history, birth_rng(0, id))
        times.append(time.perf_counter() - start)
        assert proposal is not None
        history.add_candidate(Candidate(id, id // 12, 0, id, proposal.genome, proposal.operator))
        history.tell(id, Outcome("ok", {"loss": id * 1e-3, "cost": -id * 1e-3}))
    return min(times)


@pytest.mark.slow
@pytest.mark.xdist_group("long history")
@pytest.mark.parametrize("make", [GA, NSGA2, Random])
@pytest.mark.parametrize("generational", [False, True])
def test_a_proposal_costs_the_same_in_a_long_run(make: type[Strategy], generational: bool) -> None:
    if generational and make is Random:
        pytest.skip("random search has no generations")
    strategy = replace(make(), generational=True) if generational else make()
    early, late = (grow(long_history(count), strategy, 30) for count in (100, 10_000))
    assert late < 10 * early  # a cost that grows with the run would make it a hundred times
