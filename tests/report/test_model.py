"""The model behind slices and importances: its analysis of variance is exact, and it finds what was put in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evo_tune.genome.forest import Forest
from evo_tune.report.run_data import BOOTSTRAPS, MAX_FIT_TRIALS, ImportanceModel, anova

GRID = (np.arange(12) + 0.5) / 12


def fitted(count: int = 200, seed: int = 0) -> ImportanceModel:
    """Return a model of a loss in which the first gene does most, the second something, the last nothing."""
    rng = np.random.default_rng(seed)
    units = np.column_stack([rng.random((count, 2)), (rng.integers(3, size=count) + 0.5) / 3, rng.random(count)])
    losses = 4 * (units[:, 0] - 0.5) ** 2 + 0.5 * units[:, 1] + 0.3 * (units[:, 2] < 0.3)
    losses += 0.01 * rng.normal(size=count)
    grids = [GRID, GRID, (np.arange(3) + 0.5) / 3, GRID]
    return ImportanceModel(units, losses, np.array([0, 0, 3, 0]), grids, np.random.default_rng(1))


def test_the_analysis_of_variance_is_that_of_the_whole_grid() -> None:
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.random((40, 2)), rng.integers(4, size=40)])
    scores = np.sin(6 * points[:, 0]) * points[:, 1] + (points[:, 2] == 2)
    sizes, grids = np.array([0, 0, 4]), [GRID, GRID[:7], np.arange(4.0)]
    forest = Forest.fit(points, scores, sizes, np.tile(np.arange(40), (3, 1)), rng)
    every = np.array(list(itertools.product(*grids)))
    found = forest.mean[forest.leaves(every)].reshape(3, *map(len, grids))
    total = found.reshape(3, -1).var(axis=1)
    for gene, others in enumerate([(2, 3), (1, 3), (1, 2)]):
        alone = found.mean(axis=others).var(axis=1)
        assert anova(forest, grids)[:, gene] == pytest.approx(alone / total, rel=1e-9)


def test_what_was_put_in_is_found() -> None:
    model = fitted()
    assert model.anova_shares.shape == (BOOTSTRAPS, 4)
    shares = model.anova_shares.mean(axis=0)
    assert list(np.argsort(-shares)) == [0, 1, 2, 3]
    assert shares[0] > 0.4
    assert shares[3] < 0.05
    assert (model.anova_shares >= 0).all()
    assert (model.anova_shares.sum(axis=1) <= 1 + 1e-9).all()


def test_a_prediction_lies_within_its_bounds_and_among_the_losses() -> None:
    model = fitted()
    mean, low, high = model.predict_along(np.full(4, 0.5), 0)
    assert (low <= high).all()
    assert model.losses[0] <= low.min()
    assert high.max() <= model.losses[-1]
    assert abs(int(np.argmin(mean)) - 6) <= 2  # the middle of the first gene is its best
    assert mean[0] > mean[6] + 0.3


def test_the_same_trials_give_the_same_model() -> None:
    one, other = fitted(), fitted()
    assert np.array_equal(one.anova_shares, other.anova_shares)


def test_a_long_run_is_learned_from_a_part_with_its_best() -> None:
    model = fitted(3000)
    assert MAX_FIT_TRIALS - 40 < len(model.losses) <= MAX_FIT_TRIALS
    assert model.losses[0] < 0.1


def test_a_gene_of_one_value_explains_nothing() -> None:
    rng = np.random.default_rng(0)
    units = np.column_stack([rng.random(60), np.full(60, 0.5)])
    model = ImportanceModel(units, units[:, 0], np.zeros(2, dtype=int), [GRID, np.array([0.5])], rng)
    assert model.anova_shares[:, 1].max() == 0.0
