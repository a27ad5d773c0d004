"""How many steps of a training fit in a time: by the median of some that are timed. Knows nothing of models."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evo_tune.training.trainer import Trainer

__all__ = ["SAFE", "TIMED", "steps_in"]

SAFE = 1e-6
"""Learning rate with which nothing diverges, for trainings that are thrown away."""

WARM, TIMED = 3, 13
"""Steps that are not timed, and after how many the timing ends."""


def steps_in(seconds: float, trial: Trainer) -> int:
    """Return how many steps fit in so many seconds, 1 or more, by the median of ten after three.

    Args:
        seconds: Above 0.
        trial: At step 0, of `TIMED` steps at least; it is of no use after.
    """
    trial.run(WARM)
    times = []
    for step in range(WARM, TIMED):
        before = time.perf_counter()
        trial.run(step + 1)
        times.append(time.perf_counter() - before)
    return max(1, int(float(seconds) / statistics.median(times)))
