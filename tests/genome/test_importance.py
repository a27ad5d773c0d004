"""How much of the spread a gene explains: by quartiles where it has an order, by its values where it has none."""

from __future__ import annotations

import numpy as np

from evo_tune.genome.values import importance


def test_a_choice_without_order_is_grouped_by_its_values() -> None:
    rng = np.random.default_rng(0)
    places = rng.integers(8, size=400)
    means = np.array([0.0, 9.0, 1.0, 8.0, 0.5, 9.5, 1.5, 8.5])  # good and bad by turns: quartiles hold both
    losses = means[places] + rng.normal(size=400)
    units = (places + 0.5) / 8
    assert importance(units, losses, unordered=True) > 0.7
    assert importance(units, losses) < 0.3


def test_what_explains_nothing_has_none() -> None:
    rng = np.random.default_rng(0)
    assert importance((rng.integers(8, size=400) + 0.5) / 8, rng.normal(size=400), unordered=True) < 0.05
