"""Checks of numbers and names against their bounds.

A bool is not a number here, and NaN is outside every interval. The errors are `RecipeError`.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from evo_tune.errors import RecipeError


def check_integer(field: str, value: object, low: int, high: int | None = None) -> None:
    """Require a whole number in [low, high].

    Raises:
        RecipeError: The value is outside, or not a whole number (a bool and 2.0 are not).
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):  # type: ignore[operator]
        upper = "or more" if high is None else f"to {high}"
        raise RecipeError(field, value, f"a whole number, {low} {upper}")


def check_number(field: str, value: object, interval: str) -> None:
    """Require a finite number in an interval in mathematical notation: '[0, 1)', '(0, inf)'.

    Raises:
        RecipeError: The value is not a number, is NaN or infinite, or is outside the interval.
    """
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if number:
        above = value >= low if interval[0] == "[" else value > low  # type: ignore[operator]
        below = value <= high if interval[-1] == "]" else value < high  # type: ignore[operator]
        number = above and below
    if not number:
        raise RecipeError(field, value, f"a number in {interval}")


def check_name(field: str, value: object, names: Collection[str]) -> None:
    """Require one of several names.

    Raises:
        RecipeError: The value is not one of them.
    """
    if not isinstance(value, str) or value not in names:
        raise RecipeError(field, value, f"one of {', '.join(names)}")
