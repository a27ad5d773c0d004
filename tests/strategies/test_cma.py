"""CMA-ES: it learns scales and directions, rounds to whole numbers, and refuses what has no order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies.cma import CMA
from evo_tune.strategies.hill import Hill
from evo_tune.strategies.random import Random
from tests.strategies.cases import OBJECTIVES
from tests.strategies.simulate import Simulation

REALS = SearchSpace(**{f"x{i}": Float(-5.0, 5.0) for i in range(5)})
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]


def valley(candidate: Candidate) -> Outcome:
    """Return a narrow valley askew to all axes: what one step in one gene does not get along."""
    point = ROTATION @ (REALS.encode(candidate.genome) - 0.4)
    return Outcome("ok", {"loss": float((10.0 ** np.arange(0, 5) * point**2).sum())})


def lowest(
    strategy: Strategy, space: SearchSpace, evaluate: object, births: int, seed: int = 0, slots: int = 1
) -> float:
    run = Simulation(strategy, space, OBJECTIVES[:1], evaluate, births=births, seed=seed, slots=slots).run()  # type: ignore[arg-type]
    assert run.history.best is not None
    assert run.history.best.losses is not None
    return run.history.best.losses[0]


@pytest.mark.parametrize("slots", [1, 4])
def test_it_follows_a_rotated_valley(slots: int) -> None:
    def median(strategy: Strategy) -> float:
        return float(np.median([lowest(strategy, REALS, valley, 250, seed, slots) for seed in range(3)]))

    found = median(CMA(population=8))
    assert found < 0.3 * median(Hill())
    assert found < 0.1 * median(Random())


def test_it_rounds_to_whole_numbers_and_ordered_choices() -> None:
    space = SearchSpace(n=Int(1, 40), log=Int(1, 1000, log=True), size=Choice((16, 32, 64, 128), ordered=True))

    def evaluate(candidate: Candidate) -> Outcome:
        n, log, size = (candidate.genome[name] for name in ("n", "log", "size"))
        loss = abs(int(n) - 31) / 40 + abs(math.log(int(log) / 200)) + abs(math.log2(int(size) / 128))
        return Outcome("ok", {"loss": loss})

    assert np.median([lowest(CMA(population=6), space, evaluate, 100, seed) for seed in range(3)]) < 0.05


def test_it_moves_away_from_failures() -> None:
    def evaluate(candidate: Candidate) -> Outcome:
        units = REALS.encode(candidate.genome)
        if units[0] > 0.55:  # right beside the centre, where it begins
            return Outcome("out_of_memory", error="too large")
        return Outcome("ok", {"loss": -float(units[0]) + float(((units[1:] - 0.5) ** 2).sum())})

    run = Simulation(CMA(population=8), REALS, OBJECTIVES[:1], evaluate, births=150).run()
    failed = [not trial.ok for trial in run.history.trials]
    assert sum(failed[75:]) < 0.6 * 75
    assert run.history.best is not None
    assert run.history.best.losses is not None
    assert run.history.best.losses[0] < -0.53


def test_only_the_order_of_losses_matters() -> None:
    def run(power: float, scale: float) -> list[dict[str, object]]:
        def evaluate(candidate: Candidate) -> Outcome:
            return Outcome("ok", {"loss": scale * valley(candidate).metrics["loss"] ** power})

        found = Simulation(CMA(population=4), REALS, OBJECTIVES[:1], evaluate, births=30).run()
        return [dict(candidate.genome) for candidate in found.candidates]

    assert run(1.0, 1.0) == run(3.0, 1e200)


def test_after_convergence_it_restarts_with_twice_the_population() -> None:
    space = SearchSpace(x=Float(0.0, 1.0), y=Float(0.0, 1.0))

    def evaluate(candidate: Candidate) -> Outcome:
        return Outcome("ok", {"loss": float(((space.encode(candidate.genome) - 0.3) ** 2).sum())})

    run = Simulation(CMA(population=4), space, OBJECTIVES[:1], evaluate, births=400).run()
    far = [np.abs(units - 0.3).max() > 0.1 for units in run.history.proposed_units]
    assert not any(far[150:200])
    assert any(far[300:])


def test_a_choice_without_order_is_refused_unless_it_is_fixed() -> None:
    space = SearchSpace(x=Float(0, 1), kind=Choice(("a", "b")))
    assert CMA().unsuited(space, OBJECTIVES[:1]) == (
        "searches numbers and ordered choices, and kind has no order: fix it with --gene kind=VALUE"
    )
    assert CMA().unsuited(SearchSpace(x=Float(0, 1), kind=Choice(("a",))), OBJECTIVES[:1]) == ""
    assert "one --objective" in CMA().unsuited(REALS, OBJECTIVES)


@pytest.mark.parametrize("population", [4, 5])
def test_any_population_works(population: int) -> None:
    space = SearchSpace(x=Float(0, 1), n=Int(0, 1))
    run = Simulation(
        CMA(population=population), space, OBJECTIVES[:1], lambda c: Outcome("ok", {"loss": float(c.id)}), births=60
    ).run()
    assert len(run.candidates) == 60
