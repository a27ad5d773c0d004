"""Priors: random genomes follow them, and no value is ruled out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.space import SearchSpace, log_prior, width

PRIOR = Float(1e-4, 1e-1, log=True, prior=3e-3, spread=2)


@pytest.mark.parametrize(
    ("gene", "deviation"),
    [
        (PRIOR, math.log(2) / math.log(1000)),
        (Float(0, 10, prior=4, spread=1), 0.1),
        (Int(0, 90, step=10, prior=40, spread=10), 0.1),
        (Choice(tuple(range(50)), ordered=True, prior=25, spread=5), 0.1),
    ],
)
def test_what_is_drawn_follows_the_prior(gene: Gene, deviation: float) -> None:
    space, rng = SearchSpace(g=gene, free=Float(0, 1)), np.random.default_rng(0)
    units = np.stack([space.encode(space.sample_prior(rng)) for _ in range(2000)])
    near = units[:, 0][np.abs(units[:, 0] - gene.encode(gene.prior)) < 4 * deviation]  # type: ignore[arg-type]
    assert len(near) > 1850
    assert near.std() == pytest.approx(deviation, rel=0.15)
    assert units[:, 1].std() == pytest.approx(1 / math.sqrt(12), rel=0.05)
    assert np.ptp(units[:, 0]) > 0.8  # nothing is ruled out
    two = np.array([[gene.encode(gene.prior), 0.5], [gene.encode(gene.prior) + deviation, 0.1]])  # type: ignore[arg-type]
    likely = log_prior(space.genes, two)
    assert likely[0] == 0.0
    assert likely[1] == pytest.approx(math.log(0.95 * math.exp(-0.5) + 0.05))


def test_the_prior_of_a_choice_without_order_is_the_probability_of_other_values() -> None:
    gene = Choice(("a", "b", "c"), prior="b", spread=0.4)
    space, rng = SearchSpace(g=gene), np.random.default_rng(0)
    found = [space.sample_prior(rng)["g"] for _ in range(4000)]
    share = 0.95 * 0.6 + 0.05 / 3
    assert [found.count(value) / 4000 for value in "abc"] == pytest.approx(
        [(1 - share) / 2, share, (1 - share) / 2], abs=0.03
    )
    units = np.array([[gene.encode(value)] for value in "abc"])
    other = math.log(0.95 * 0.4 / 0.6 / 2 + 0.05)
    assert log_prior(space.genes, units).tolist() == pytest.approx([other, 0.0, other])


def test_a_space_near_its_default_has_priors_of_equal_width() -> None:
    genes: dict[str, Gene] = {
        "log": Float(1e-4, 1e-1, log=True, default=3e-3),
        "linear": Float(0, 0.3, default=0.0),
        "count": Int(2, 11, default=4),
        "steps": Choice(tuple(range(20)), ordered=True, default=9),
        "choice": Choice(("a", "b"), default="b"),
        "own": PRIOR,
        "free": Float(0, 1),
    }
    space = SearchSpace(None, {"extra": Float(0, 1, default=0.5)}, **genes).near_default()
    assert space.default() == SearchSpace(**genes).default()
    assert [width(space.genes[name]) for name in ("log", "linear", "count", "steps")] == pytest.approx(
        [0.2] * 4, rel=0.01
    )
    assert space.genes["choice"] == Choice(("a", "b"), default="b", prior="b", spread=0.3)
    assert (space.genes["own"], space.genes["free"]) == (PRIOR, Float(0, 1))
    assert space.including(["extra"]).genes["extra"].prior == 0.5
