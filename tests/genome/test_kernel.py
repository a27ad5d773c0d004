"""Products of matrices in pieces: they are the products, also where one of the two has nothing in it."""

from __future__ import annotations

import numpy as np
import pytest

from evo_tune.genome.genes import Choice, Float
from evo_tune.genome.kernel import FeatureLayout, matern, matrix_product, square_distances_by_feature
from evo_tune.genome.space import SearchSpace


@pytest.mark.parametrize(("rows", "inner", "columns"), [(3, 4, 5), (96, 96, 300), (700, 700, 3), (0, 4, 5), (3, 4, 0)])
def test_a_product_in_blocks_equals_the_product(rows: int, inner: int, columns: int) -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(rows, inner)), rng.normal(size=(inner, columns))
    assert matrix_product(left, right).shape == (rows, columns)
    np.testing.assert_allclose(matrix_product(left, right), left @ right, rtol=1e-9, atol=1e-12)


BRANCHES = SearchSpace(
    kind=Choice(("a", "b", "c")),
    x=Float(0, 1),
    a=Float(0, 1, when={"kind": "a"}),
    deep=Choice(("u", "v"), when={"kind": ["a", "b"]}),
    deeper=Float(0, 1, when={"deep": "v"}),
)


def test_a_conditional_gene_counts_only_where_both_points_have_it() -> None:
    layout, rng = FeatureLayout.of(BRANCHES), np.random.default_rng(0)
    left, right = rng.random((50, 5)), rng.random((50, 5))
    active, other = BRANCHES.active(left), BRANCHES.active(right)
    steps = square_distances_by_feature(layout.features(left), layout.features(right), layout.kinds)
    moved = np.where(active, left, rng.random((50, 5)))  # other values where a gene is not active
    assert np.array_equal(
        square_distances_by_feature(layout.features(moved), layout.features(right), layout.kinds), steps
    )
    for gene in (2, 4):
        both, one = np.outer(active[:, gene], other[:, gene]), active[:, gene][:, None] ^ other[:, gene][None]
        assert set(np.unique(steps[gene][one])) <= {0.25}
        assert not steps[gene][~both & ~one].any()
        assert len(np.unique(steps[gene][both])) > 20


def test_the_kernel_of_a_conditional_space_is_positive_definite() -> None:
    layout = FeatureLayout.of(BRANCHES)
    points = layout.features(np.random.default_rng(1).random((60, 5)))
    steps = square_distances_by_feature(points, points, layout.kinds)
    for seed in range(5):
        relevance = np.exp(2.0 * np.random.default_rng(seed).normal(size=5))
        assert np.linalg.eigvalsh(matern(np.tensordot(relevance, steps, 1))[0]).min() > -1e-9
