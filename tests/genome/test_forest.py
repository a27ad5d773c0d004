"""The forest: it remembers what it saw, predicts as well as scikit-learn's, and treats values without order as such."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.ensemble import ExtraTreesRegressor

from evo_tune.genome.forest import Forest


def grown(points: np.ndarray, scores: np.ndarray, sizes: list[int], trees: int = 50, seed: int = 0) -> Forest:
    samples = np.tile(np.arange(len(points)), (trees, 1))
    return Forest.fit(points, scores, np.array(sizes), samples, np.random.default_rng(seed))


def predictions(forest: Forest, points: np.ndarray) -> np.ndarray:
    return np.asarray(forest.mean[forest.leaves(points)])


def surface(points: np.ndarray) -> np.ndarray:
    return np.asarray(np.sin(5 * points[:, 0]) + 2 * (points[:, 1] > 0.4) * points[:, 2])


@pytest.mark.parametrize("count", [1, 2, 30, 150])
def test_every_tree_remembers_what_it_saw(count: int) -> None:
    rng = np.random.default_rng(0)
    points = np.hstack([rng.random((count, 3)), rng.integers(4, size=(count, 1))])
    scores = rng.normal(size=count)
    seen = predictions(grown(points, scores, [0, 0, 0, 4]), points)
    assert seen.shape == (50, count)
    assert np.allclose(seen, scores)


def test_it_predicts_as_well_as_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    here, there = rng.random((80, 4)), rng.random((500, 4))
    ours = predictions(grown(here, surface(here), [0] * 4, trees=100), there).mean(axis=0)
    peer = ExtraTreesRegressor(100, max_features=0.5, random_state=0).fit(here, surface(here)).predict(there)
    errors = [float(((guess - surface(there)) ** 2).mean()) for guess in (ours, peer, surface(there).mean())]
    assert errors[0] < 1.15 * errors[1]
    assert errors[0] < 0.5 * errors[2]


def test_trees_disagree_where_nothing_was_seen() -> None:
    rng = np.random.default_rng(2)
    points = rng.random((40, 2)) * 0.5
    forest = grown(points, surface(np.hstack([points, points])), [0, 0])
    near, far = (predictions(forest, where + rng.random((100, 2)) * 0.5).std(axis=0).mean() for where in (0.0, 0.5))
    assert far > near > 0.0


def test_values_without_order_need_one_split_wherever_they_stand() -> None:
    rng = np.random.default_rng(3)
    points = rng.integers(6, size=(200, 1)).astype(float)
    scores = np.isin(points[:, 0], [0, 3]).astype(float)  # never next to one another in the order given
    ordered, free = (grown(points, scores, sizes, trees=200) for sizes in ([0], [6]))
    roots = [len(np.unique(forest.threshold[:200].round(9))) for forest in (ordered, free)]
    assert min(roots) > 100  # drawn anew for each tree
    assert free.category_order[:, 0].std(axis=0).min() > 1.0
    assert np.allclose(predictions(free, points), scores)


def test_points_that_are_the_same_share_a_leaf() -> None:
    points = np.array([[0.5, 0.5]] * 4 + [[0.1, 0.9]])
    scores = np.array([1.0, 2.0, 3.0, 6.0, 0.0])
    assert np.allclose(predictions(grown(points, scores, [0, 0]), points)[:, :4], 3.0)


def test_each_tree_may_see_other_points() -> None:
    points = np.linspace(0, 1, 10)[:, None]
    samples = np.array([[0, 1], [8, 9]])
    forest = Forest.fit(points, np.arange(10.0), np.array([0]), samples, np.random.default_rng(0))
    assert predictions(forest, points)[:, [0, 9]].tolist() == [[0.0, 1.0], [8.0, 9.0]]


def test_the_generator_decides() -> None:
    points = np.random.default_rng(4).random((30, 3))
    here = np.random.default_rng(5).random((50, 3))
    first, again, other = (predictions(grown(points, surface(points), [0] * 3, seed=seed), here) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
