"""Staged tuning: the box holds the optimum, the grid is a product, and of equals the cheaper one wins."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from evo_tune.errors import RecipeError
from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome, Trial
from evo_tune.genome.values import genome_key
from evo_tune.strategies.staged import Staged, one_standard_error
from tests.strategies.bowl import BOWL, bowl
from tests.strategies.cases import OBJECTIVES
from tests.strategies.simulate import Refused, Simulation

SPACE = SearchSpace(
    lr=Float(1e-5, 1e-1, log=True), wd=Float(0.0, 1.0), depth=Int(1, 12), kind=Choice(("a", "b", "c")), idle=Float(0, 1)
)
OPTIMUM = np.array([0.6, 0.3, 0.55])


def quadratic(candidate: Candidate) -> Outcome:
    """Return a bowl whose lowest point is known; `idle` changes nothing, other seeds change a little."""
    units = SPACE.encode(candidate.genome)
    noise = 0.001 * np.random.default_rng([candidate.extra_seed, int(units[0] * 1e6)]).normal()
    loss = float(((units[:3] - OPTIMUM) ** 2).sum()) + 0.2 * (candidate.genome["kind"] != "b") + noise
    return Outcome("ok", {"loss": loss, "params": float(candidate.genome["depth"])}, seconds=1.0)


def run_of(strategy: Staged, seed: int = 0, slots: int = 1, births: int = 500) -> Simulation:
    return Simulation(strategy, SPACE, OBJECTIVES[:1], quadratic, births=births, seed=seed, slots=slots).run()


def stages(run: Simulation) -> list[list[Candidate]]:
    return [
        [c for c in run.candidates if c.operator in names]
        for names in (("default", "coarse"), ("grid",), ("finalist",))
    ]


@pytest.mark.parametrize("slots", [1, 3])
def test_the_stages_follow_each_other_and_the_run_ends(slots: int) -> None:
    run = run_of(Staged(), slots=slots)
    coarse, grid, finalists = stages(run)
    assert [c.id for c in (*coarse, *grid, *finalists)] == list(range(len(run.candidates)))
    assert len(coarse) == 30
    assert len(finalists) == 5 * 3
    assert isinstance(run.events[-1], Refused)
    assert grid[0].reported_before == 30
    assert finalists[0].reported_before == 30 + len(grid)
    assert {c.extra_seed for c in finalists} == {1, 2, 3}
    assert len({genome_key(c.genome) for c in finalists}) == 5
    assert Staged().population * 5 > run.history.fresh_count  # so a run without limits gets to the end


def test_the_grid_is_the_product_of_the_levels() -> None:
    run = run_of(Staged(genes=3, levels=3))
    coarse, grid, _ = stages(run)
    values = {name: {c.genome[name] for c in grid} for name in SPACE.names}
    varied = [name for name, found in values.items() if len(found) > 1]
    cells = math.prod(len(values[name]) for name in varied)
    seen = {genome_key(c.genome) for c in coarse}
    assert len(varied) == 3
    assert len(grid) in (cells, cells - len(seen & {genome_key(c.genome) for c in grid}), cells - 1)
    assert all(len(values[name]) <= 3 for name in varied)
    best = min(coarse, key=lambda c: quadratic(c).metrics["loss"])
    assert all(values[name] == {best.genome[name]} for name in set(SPACE.names) - set(varied))
    assert "idle" not in varied


@pytest.mark.slow
def test_the_box_holds_the_optimum_and_the_grid_comes_nearer() -> None:
    inside, better = [], []
    for seed in range(5):
        coarse, grid, _ = stages(run_of(Staged(coarse=60, genes=4, finalists=0), seed))
        units = np.stack([SPACE.encode(c.genome) for c in grid])[:, :3]
        inside.append(bool(np.all((units.min(axis=0) <= OPTIMUM) & (units.max(axis=0) >= OPTIMUM))))
        lowest = [min(quadratic(c).metrics["loss"] for c in stage) for stage in (coarse, (*coarse, *grid))]
        assert lowest[1] <= lowest[0]
        better.append(lowest[1] < lowest[0])
    assert sum(inside) >= 4
    assert sum(better) >= 4


def test_levels_are_even_on_a_genes_own_scale() -> None:
    grid = stages(run_of(Staged(finalists=0)))[1]
    rates = sorted({float(c.genome["lr"]) for c in grid})
    assert len(rates) == 3
    assert rates[1] ** 2 == pytest.approx(rates[0] * rates[2], rel=1e-3)


def test_if_most_trials_fail_the_first_stage_continues() -> None:
    run = Simulation(
        Staged(coarse=10), BOWL, OBJECTIVES[:1], lambda c: bowl(c) if c.id > 20 else Outcome("failed"), births=30
    ).run()
    operators = [candidate.operator for candidate in run.candidates]
    assert operators[1:23] == ["coarse"] * 22  # an elite of two
    assert set(operators[23:]) == {"grid"}


def trials_of(*losses: float, cost: float, seconds: float = 1.0) -> list[Trial]:
    candidate = Candidate(0, 0, 0, 0, {"cost": cost}, "finalist")
    return [
        Trial(replace(candidate, extra_seed=number), Outcome("ok", {"params": cost}, seconds=seconds), 0, (loss,))
        for number, loss in enumerate(losses)
    ]


def test_the_cheapest_within_one_standard_error_wins() -> None:
    best, near, far = trials_of(1.0, 1.2, cost=9), trials_of(1.15, 1.25, cost=2), trials_of(1.3, 1.3, cost=1)
    assert one_standard_error([best, near, far], "params") is near  # mean 1.1, standard error 0.1
    assert one_standard_error([best, trials_of(1.21, 1.21, cost=2)], "params") is best
    assert one_standard_error([best, near, far], "unknown") is best
    quick = trials_of(1.2, 1.2, cost=99, seconds=0.1)
    assert one_standard_error([best, near, quick], "seconds") is quick
    assert one_standard_error([], "params") == []


def test_in_the_end_the_winner_survives() -> None:
    strategy = Staged(cost="none")
    run = run_of(strategy)
    trials = {trial.id: trial for trial in run.history.trials}
    won = {genome_key(trials[id].genome) for id in strategy.survivors(run.history)}
    again = stages(run)[2]
    means: dict[str, float] = {}
    for key in {genome_key(c.genome) for c in again}:
        means[key] = float(np.mean([quadratic(c).metrics["loss"] for c in again if genome_key(c.genome) == key]))
    assert won == {min(means, key=lambda key: means[key])}


def test_a_grid_of_too_many_cells_is_refused() -> None:
    with pytest.raises(RecipeError, match="levels=50 is not allowed: expected a grid of at most 10000 cells"):
        Staged(levels=50)
