"""Steps in unit coordinates: cells of genes that have so many values, and the bounds of the unit interval.

This module knows no genes.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["cell", "centre", "exponent", "reflect", "step_cell"]


def reflect(u: float) -> float:
    """Fold a coordinate that left [0, 1] back into it, so that mutation does not pile up on the bounds."""
    u = math.fmod(abs(u), 2.0)
    return 2.0 - u if u > 1.0 else u


def exponent(value: float) -> int:
    """Return the power of ten of a number's first digit."""
    return math.floor(math.log10(value))


def cell(u: float, size: int) -> int:
    """Return the cell of `size` in which a coordinate lies, from 0."""
    return min(max(int(u * size), 0), size - 1)


def centre(index: int, size: int) -> float:
    """Return the coordinate in the middle of a cell."""
    return (index + 0.5) / size


def step_cell(u: float, size: int, rng: np.random.Generator, scale: float) -> float:
    """Move to another cell of an ordered gene: a Gaussian step of at least one cell."""
    if size == 1:
        return u
    here = cell(u, size)
    step = max(1, round(abs(rng.normal(0.0, scale)) * size))
    sign = 1 if rng.random() < 0.5 else -1
    there = here + sign * step
    if not 0 <= there < size:
        there = here - sign * step
    there = min(max(there, 0), size - 1)
    if there == here:
        there = here + 1 if here == 0 else here - 1
    return centre(there, size)
