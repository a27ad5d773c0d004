"""Products of matrices in pieces: they are the products, also where one of the two has nothing in it."""

from __future__ import annotations

import numpy as np
import pytest

from evo_tune.genome.models.gaussian import times


@pytest.mark.parametrize(("rows", "inner", "columns"), [(3, 4, 5), (96, 96, 300), (700, 700, 3), (0, 4, 5), (3, 4, 0)])
def test_a_product_in_blocks_equals_the_product(rows: int, inner: int, columns: int) -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(rows, inner)), rng.normal(size=(inner, columns))
    assert times(left, right).shape == (rows, columns)
    np.testing.assert_allclose(times(left, right), left @ right, rtol=1e-9, atol=1e-12)
