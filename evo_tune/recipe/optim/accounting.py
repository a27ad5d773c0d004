"""Counting steps. One *step* is one optimizer update; every schedule counts steps and nothing else.

Plain arithmetic: no torch, no data.
"""

from __future__ import annotations

import math

from evo_tune.options.bounds import check_integer, check_number

__all__ = ["optimizer_steps", "stop_step"]


def optimizer_steps(micro_batches: int, accumulation: int) -> int:
    """Return the number of steps in which `micro_batches` are used up.

    The last, partial window of micro-batches is a step as well: dropping it loses data, and carrying it
    over mixes two epochs in one gradient.

    Args:
        micro_batches: How many there are (or windows, or samples: any unit), 0 or more.
        accumulation: How many of them make one step, 1 or more.

    Raises:
        RecipeError: Either is not a whole number in its range.
    """
    check_integer("micro_batches", micro_batches, 0)
    check_integer("accumulation", accumulation, 1)
    return -(-micro_batches // accumulation)


def stop_step(steps: int, budget: float) -> int:
    """Return the step at which a training with a fraction of the full budget stops: ⌈budget · steps⌉.

    Args:
        steps: Steps of the full training, over which the schedules are laid, 1 or more.
        budget: Fraction of it, 0 < budget ≤ 1.

    Raises:
        RecipeError: Either is out of its range.
    """
    check_integer("steps", steps, 1)
    check_number("budget", budget, "(0, 1]")
    # 1/3 of 9 steps is 3, whatever the last bit of 1/3 says.
    return max(1, math.ceil(budget * steps - 1e-9 * steps))
