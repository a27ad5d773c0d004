"""When the closing race would end: its trainings in the slots that there are, each as long as its own genome takes.

The race (`report.racing`) may end at each of its looks. Which one it will be is not known beforehand, so each is told.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from itertools import pairwise

from evo_tune.report.racing import looks

__all__ = ["race_ends", "race_trainings"]


def race_trainings(seeds: int, finalists: int) -> tuple[int, int]:
    """Return the fewest and the most trainings of a race.

    Args:
        seeds: What `--calibrate` says, 1 or more.
        finalists: How many, 1 or more.
    """
    alive, choosing = finalists, 0
    while alive > 1:
        choosing += math.ceil(seeds / 3) * alive
        alive = math.ceil(alive / 2)
    stops = looks(seeds)
    return choosing + 2 * stops[0], choosing + 2 * stops[-1]


def race_ends(seeds: int, finalists: Sequence[float], default: float | None, slots: int) -> list[float]:
    """Return after how many seconds a race would end, at each of its looks.

    Slots take what is wanted in its order; the default's seeds of the first look fill those that would wait while the
    finalist is chosen, and at each later look all wait for the last one.

    Args:
        seeds: What `--calibrate` says, 1 or more.
        finalists: Seconds of a training of each, the best first: it is taken to be chosen.
        default: Of the default; None where it is no opponent, and there is one look.
        slots: That train, 1 or more.
    """
    free, ready = [0.0] * slots, 0.0
    stops = looks(seeds)
    filling = [] if default is None else [default] * stops[0]

    def begin(seconds: float, earliest: float) -> float:
        end = max(heapq.heappop(free), earliest) + seconds
        heapq.heappush(free, end)
        return end

    alive = list(finalists)
    while len(alive) > 1:
        done = max([begin(each, ready) for _ in range(math.ceil(seeds / 3)) for each in alive])
        while filling and free[0] < done:
            begin(filling.pop(), 0.0)
        ready, alive = done, alive[: math.ceil(len(alive) / 2)]
    for each in filling:  # whoever is chosen, it is needed: it waits for nothing
        begin(each, 0.0)
    ends = []
    for number, (before, look) in enumerate(pairwise([0, *stops])):
        for _ in range(look - before):
            if number and default is not None:
                begin(default, ready)
            begin(alive[0], ready)
        ready = max(free)
        ends.append(ready)
    return ends[:1] if default is None else ends
