"""Luck inside a fold: it follows from the trials, and is what it was when old runs were recorded."""

from __future__ import annotations

from evo_tune.strategies import fold_seed


def test_the_same_trials_have_the_same_luck_in_whatever_order() -> None:
    assert fold_seed([3, 4, 9]) == fold_seed([9, 3, 4]) == 16
    assert fold_seed([2**32 - 1, 2]) == 1
    assert len({fold_seed([id]) for id in range(100)}) == 100
