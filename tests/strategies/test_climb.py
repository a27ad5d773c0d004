"""Climbs of saea: they end at the top, also of a narrow ridge, and where scipy's end."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import ortho_group

from evo_tune.genome.genes import Choice, Float
from evo_tune.genome.space import SearchSpace
from evo_tune.strategies._candidates import KEPT_PER_ROUND, Draft, climb_drafts, drafts_near
from evo_tune.strategies._deap import Individual
from tests.strategies.simulate import birth_rng


def test_a_climb_ends_at_the_top_and_leaves_genes_that_hardly_matter_alone() -> None:
    space = SearchSpace(x=Float(0, 1), y=Float(0, 1), z=Float(0, 1))
    target, weight = np.array([0.613, 0.287, 1.0]), np.array([1.0, 1.0, 1e-4])
    drafts = [Draft(row, "random", (3,)) for row in birth_rng(1, 0).random((20, 3))]

    def merits(units: np.ndarray) -> np.ndarray:
        return np.asarray(-(weight * (units - target) ** 2).sum(axis=1))

    ends = climb_drafts(drafts, merits, lambda units: (merits(units), -2.0 * weight * (units - target)), space)
    assert len(ends) == KEPT_PER_ROUND
    begun_at = {round(float(one.units[2]), 9) for one in drafts}
    for one in ends:
        assert np.abs(np.asarray(one.units) - target)[:2].max() < 0.05
        assert one.parents == (3,)
    assert sum(round(float(one.units[2]), 9) in begun_at for one in ends) >= KEPT_PER_ROUND // 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("outside", [0.0, 0.4])
def test_a_climb_along_a_narrow_ridge_ends_where_scipy_ends(seed: int, outside: float) -> None:
    """The ridge is a thousand times as steep across as along, follows no gene, and its top may be out of bounds."""
    space = SearchSpace(**{name: Float(0, 1) for name in "abcde"})
    rng = birth_rng(seed, 0)
    turned = ortho_group.rvs(5, random_state=seed)
    shape = turned @ np.diag([1000.0, 100.0, 10.0, 1.0, 1.0]) @ turned.T
    top = rng.uniform(0.3, 0.7, 5) + outside * (np.arange(5) == 2)

    def slopes(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        away = units - top
        return -np.einsum("pi,ij,pj->p", away, shape, away), -2.0 * away @ shape

    drafts = [Draft(row, "random") for row in rng.random((20, 5))]
    ends = np.stack([one.units for one in climb_drafts(drafts, lambda units: slopes(units)[0], slopes, space)])
    lowest = minimize(
        lambda u: -slopes(u[None])[0][0], np.full(5, 0.5), jac=lambda u: -slopes(u[None])[1][0], bounds=[(0, 1)] * 5
    )
    assert slopes(ends)[0].max() >= -lowest.fun - 0.01
    assert np.median(slopes(ends)[0]) >= -lowest.fun - 0.1


def test_a_gene_without_order_stays_as_it_is() -> None:
    space = SearchSpace(x=Float(0, 1), kind=Choice(("a", "b", "c")))
    drafts = [Draft(row, "random") for row in birth_rng(0, 0).random((8, 2))]

    def slopes(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return -((units[:, 0] - 0.3) ** 2), np.stack([-2.0 * (units[:, 0] - 0.3), np.zeros(len(units))], axis=1)

    ends = np.stack([one.units for one in climb_drafts(drafts, lambda units: slopes(units)[0], slopes, space)])
    assert ends[:, 0] == pytest.approx(0.3, abs=1e-3)
    assert sorted(ends[:, 1]) == sorted(float(one.units[1]) for one in drafts)


def test_starts_are_near_each_leader_at_all_distances() -> None:
    leaders = [Individual(7, (0.0,), [0.5] * 6), Individual(3, (1.0,), [0.2] * 6)]
    starts = list(drafts_near(leaders, birth_rng(0, 0)))
    for leader in leaders:
        mine = [one for one in starts if one.parents == (leader.id,)]
        distances = [float(np.abs(np.asarray(one.units) - leader.units).max()) for one in mine]
        assert len(mine) == len(starts) / 2
        assert min(distances) < 1e-3
        assert max(distances) > 0.05
