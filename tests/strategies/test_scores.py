"""Scores in place of losses: by rank, or as far apart as the losses of the better half are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.genome.genes import Float
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.genome.values import Genome
from evo_tune.rules.ruled import Ruled, Rules
from evo_tune.strategies.saea import SAEA
from evo_tune.strategies.surrogate.scores import Spacing, normal_scores
from tests.strategies.cases import OBJECTIVES
from tests.strategies.simulate import Simulation

SQUARE = SearchSpace(x=Float(0, 1), y=Float(0, 1))


def spaced(losses: list[float], failures: int = 0) -> np.ndarray:
    """Return the scores of results in the order of their losses, failures behind them."""
    count = len(losses) + failures
    places = np.append(np.arange(1.0, len(losses) + 1), np.full(failures, len(losses) + (failures + 1) / 2))
    known = np.append(np.sort(losses), np.full(failures, np.nan))
    return Spacing.of(places, known, count)(normal_scores(places, count), known)


WHOLE = st.lists(st.integers(-1000, 1000).map(float), min_size=1, max_size=40)


@given(WHOLE, st.integers(0, 10))
def test_the_order_and_the_worse_half_stay_as_they_are(losses: list[float], failures: int) -> None:
    scores, count = spaced(losses, failures), len(losses) + failures
    plain = normal_scores(np.arange(1.0, len(losses) + 1), count)
    assert np.all(np.diff(scores) <= 1e-12)
    assert scores[0] == pytest.approx(plain[0])
    behind = np.arange(1, len(losses) + 1) > (count + 1) / 2
    behind &= np.sort(losses) > np.sort(losses)[~behind][-1]
    assert np.allclose(scores[: len(losses)][behind], plain[behind])


@given(WHOLE, st.floats(0.01, 100.0), st.floats(-100.0, 100.0))
def test_neither_scale_nor_offset_of_a_loss_matters(losses: list[float], scale: float, offset: float) -> None:
    assert np.allclose(spaced(losses), spaced([scale * loss + offset for loss in losses]), atol=1e-6)


def test_scores_of_the_better_half_are_as_far_apart_as_their_losses() -> None:
    scores = spaced([1.0, 2.0, 4.0, 7.0, 11.0, 12.0, 100.0, 1e9, 1e10], 1)
    steps = np.diff(scores[:5])
    assert np.allclose(steps / steps[0], [1.0, 2.0, 3.0, 4.0])
    assert np.all(scores[5:9] == normal_scores(np.arange(6.0, 10.0), 10))


@pytest.mark.parametrize("losses", [[-1.5e308, 0.0, 1.5e308, 1.6e308, 1.7e308], [0.0, 5e-324, 1e-323, 1.0, 2.0]])
def test_losses_at_the_ends_of_the_numbers_are_scored_as_others(losses: list[float]) -> None:
    scores = spaced(losses)
    assert np.isfinite(scores).all()
    assert np.all(np.diff(scores) <= 0.0)


def test_equal_losses_and_none_at_all_keep_their_normal_scores() -> None:
    assert np.array_equal(spaced([3.0] * 6), normal_scores(np.arange(1.0, 7.0), 6))
    unknown = np.full(4, np.nan)
    assert np.array_equal(Spacing.of(np.arange(1.0, 5.0), unknown, 4)(np.arange(4.0), unknown), np.arange(4.0))


def births(power: float, scale: float = 1.0, rules: Rules | None = None, **options: Any) -> list[Genome]:
    """Return the births of a run on a bowl whose losses are raised to a power, which changes no rank."""

    def evaluate(candidate: Candidate) -> Outcome:
        loss = float(((SQUARE.encode(candidate.genome) - 0.3) ** 2).sum())
        return Outcome("ok", {"loss": scale * loss**power})

    strategy = SAEA(**options)
    ruled = strategy if rules is None else Ruled.of(strategy, rules, lambda genome: {})
    run = Simulation(ruled, SQUARE, OBJECTIVES[:1], evaluate, births=24).run()
    return [one.genome for one in run.candidates]


def test_how_far_apart_losses_are_matters_as_often_as_it_is_to() -> None:
    assert births(1.0, smooth=0.0) == births(3.0, smooth=0.0)
    assert births(1.0, smooth=1.0) != births(3.0, smooth=1.0)
    assert births(1.0, smooth=1.0, models="forest") == births(3.0, smooth=1.0, models="forest")
    assert births(1.0) == births(1.0, scale=2.0**40)


@pytest.mark.parametrize("rules", [None, Rules(rungs=(1 / 9, 1 / 3, 1.0))], ids=["plain", "rungs"])
def test_a_smooth_birth_asks_the_process_alone(rules: Rules | None) -> None:
    alone = births(1.0, rules=rules, smooth=1.0, models="process")
    assert births(1.0, rules=rules, smooth=1.0) == alone
    assert births(1.0, rules=rules, smooth=0.0) != alone


@pytest.mark.parametrize("rules", [Rules(replicates=2), Rules(prune=True)], ids=["replicates", "prune"])
def test_it_matters_under_rules_that_train_all_genomes_alike(rules: Rules) -> None:
    assert births(1.0, rules=rules, smooth=1.0) != births(3.0, rules=rules, smooth=1.0)
    assert births(1.0, rules=rules, smooth=0.0) == births(3.0, rules=rules, smooth=0.0)


def test_it_comes_nearer_to_the_lowest_point_of_a_smooth_surface() -> None:
    space = SearchSpace(**{f"x{place}": Float(0, 1) for place in range(5)})

    def best(smooth: float, seed: int) -> float:
        def evaluate(candidate: Candidate) -> Outcome:
            return Outcome("ok", {"loss": float(((space.encode(candidate.genome) - 0.3) ** 2).sum())})

        run = Simulation(SAEA(smooth=smooth), space, OBJECTIVES[:1], evaluate, births=40, seed=seed).run()
        return float((run.history.best.losses or (1.0,))[0])  # type: ignore[union-attr]

    with_it, without = ([best(smooth, seed) for seed in range(4)] for smooth in (0.5, 0.0))
    assert np.median(with_it) < 0.5 * np.median(without)
