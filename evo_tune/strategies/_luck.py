"""Luck inside a fold: a seed that is made of the trials it decides about, since a fold is given no generator.

The generator of a birth must not be used there: a fold keeps its state over many births, and would then depend on which
of them asked first.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["fold_seed"]


def fold_seed(ids: Iterable[int]) -> int:
    """Return a seed for what a step of `History.fold` leaves to luck: the same trials, the same luck.

    `np.random.default_rng(fold_seed([trial.id]))` is a generator for each told trial.

    Args:
        ids: Ids of the trials that the step decides about.

    Returns:
        A whole number of 32 bits, which every kind of generator takes.
    """
    return sum(ids) % 2**32
