"""How the genomes of a run stand by what is to be expected of them with other seeds, where seeds are known to matter.

The best of many noisy results is partly luck. In a run that weighs further seeds against new genomes
(`Manifest.by_worth`) the first are therefore those of which a model of all results expects the least loss
(`genome.models.seeds`), and not those that were seen to have it.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from evo_tune.genome.models.features import features_of, sizes_of
from evo_tune.genome.models.seeds import Belief, Trainings, fitted, selected
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Trial
from evo_tune.genome.values import genome_key
from evo_tune.store.run import Run

__all__ = ["ranked"]

FEWEST = 3
"""Genomes from which anything is expected; of fewer what was seen is all there is."""

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
    seeds: dict[str, list[tuple[int, float]]] = {}
    for trial in run.trials():
        if trial.rankable and trial.feasible and trial.losses is not None:
            seeds.setdefault(genome_key(trial.genome), []).append((trial.candidate.replicate, trial.losses[0]))
    known = [seeds[genome_key(trial.genome)] for trial in found]
    if len(found) < FEWEST:
        return [trial.id for trial in found]
    means = np.array([np.mean([loss for _, loss in mine]) for mine in known])
    kept = selected(means, np.array([len(mine) for mine in known])).tolist()
    space = SearchSpace(None, None, **run.genes)
    sizes = sizes_of(space)
    rows = [(place, *one) for place, row in enumerate(kept) for one in known[row]]
    numbers, of, losses = (np.array(column) for column in zip(*rows, strict=True))
    points = features_of(np.stack([space.encode(found[row].genome) for row in kept]), sizes)
    given = Trainings(points, numbers, of, losses, sizes > 0)
    expected = Belief(given, fitted(given)).expected
    return [found[kept[place]].id for place in np.argsort(expected, kind="stable")]
