"""How the genomes of a run stand by what is to be expected of them with other seeds, where seeds are known to matter.

The best of many noisy results is partly luck. In a run that weighs further seeds against new genomes
(`Manifest.by_worth`) the first are therefore those of which a model of all results expects the least loss
(`genome.models.seeds`), and not those that were seen to have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np

from evo_tune.genome.models.features import features_of, sizes_of
from evo_tune.genome.models.seeds import by_expectation
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Trial
from evo_tune.genome.values import genome_key
from evo_tune.store.run import Run

__all__ = ["ranked"]

ORDERS: WeakKeyDictionary[Run, tuple[int, list[int]]] = WeakKeyDictionary()
"""A memo: of each run, how many results it had, and the trials in the order that follows from these."""


def ranked(run: Run) -> list[Trial]:
    """Return a run's trials as `Run.ranked` does, in a run by worth the best few by what is expected of them."""
    found = run.ranked()
    if not run.manifest.by_worth:
        return found
    count, order = ORDERS.get(run, (-1, []))
    if count != len(run.outcomes):
        order = _order(run, [trial for trial in found if trial.feasible])
        ORDERS[run] = len(run.outcomes), order
    place = {id: number for number, id in enumerate(order)}
    return sorted(found, key=lambda trial: place.get(trial.id, len(place)))  # stable


def _order(run: Run, found: list[Trial]) -> list[int]:
    """Return the ids of the best few of the trials, those of which less loss is expected first."""
    seeds: dict[str, dict[int, float]] = {}
    for trial in run.trials():
        if trial.rankable and trial.feasible and trial.losses is not None:
            seeds.setdefault(genome_key(trial.genome), {})[trial.candidate.replicate] = trial.losses[0]
    space = SearchSpace(None, None, **run.genes)
    sizes = sizes_of(space)

    def points(places: Sequence[int]) -> np.ndarray:
        return features_of(np.stack([space.encode(found[place].genome) for place in places]), sizes)

    known = [seeds[genome_key(trial.genome)] for trial in found]
    return [found[place].id for place in by_expectation(known, points, sizes > 0)]
