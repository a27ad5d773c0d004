"""How the genomes of a run stand by what is to be expected of them with other seeds, where seeds are known to matter.

The best of many noisy results is partly luck. In a run that weighs further seeds against new genomes
(`Manifest.by_worth`) the first are therefore those of which a model of all results expects the least loss
(`genome.models.seeds`), and not those that were seen to have it. Where the leader is to have so many seeds
(`Manifest.replicates`), one that has had them stands before those that had fewer and look better so far: a run that the
clock ends has no time left to prove them.
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

__all__ = ["expected", "ranked"]

MEMO: WeakKeyDictionary[Run, tuple[int, dict[int, float]]] = WeakKeyDictionary()
"""Of each run, how many results it had, and what follows from these."""


def ranked(run: Run) -> list[Trial]:
    """Return a run's trials as `Run.ranked` does; the first few as they stand by what is known of seeds (see above)."""
    found = run.ranked()
    if not run.manifest.by_worth:
        return _proven_first(run, found) if run.manifest.replicates > 1 else found
    place = {id: number for number, id in enumerate(_expected(run, found))}
    return sorted(found, key=lambda trial: place.get(trial.id, len(place)))  # stable


def _proven_first(run: Run, found: list[Trial]) -> list[Trial]:
    """Return ranked trials, the best one that has had all its seeds before those that look better after fewer.

    They stay as they are where that one breaks a constraint by more, or where no further seed has changed a loss.
    """
    losses: dict[str, list[float | None]] = {}
    for trial in run.trials():
        if trial.candidate.whole:
            losses.setdefault(trial.key, []).append(trial.losses[0] if trial.losses else None)
    again = [known for known in losses.values() if len(known) > 1]
    proven = [place for place, trial in enumerate(found) if len(losses[trial.key]) >= run.manifest.replicates]
    if not proven or all(len(set(known)) == 1 for known in again):
        return found
    first = found[proven[0]]
    if first.violation > found[0].violation:
        return found
    return [first, *(trial for trial in found if trial is not first)]


def expected(run: Run, trial: Trial) -> float | None:
    """Return the first objective's value that is expected of a ranked trial's genome with other seeds.

    Returns:
        None where nothing is expected: in other runs, and of trials that are not among the best.
    """
    loss = _expected(run, run.ranked()).get(trial.id)
    return None if loss is None else run.objectives[0].value(loss)


def _expected(run: Run, ranked: Sequence[Trial]) -> dict[int, float]:
    """Return the loss that is expected of the best few of a run's ranked trials, by id; the least first."""
    if not run.manifest.by_worth:
        return {}
    count, losses = MEMO.get(run, (-1, {}))
    if count != len(run.outcomes):
        losses = _losses(run, [trial for trial in ranked if trial.feasible])
        MEMO[run] = len(run.outcomes), losses
    return losses


def _losses(run: Run, found: Sequence[Trial]) -> dict[int, float]:
    """Return the loss that is expected of the best few of some trials, by id."""
    seeds: dict[str, dict[int, float]] = {}
    for trial in run.trials():
        if trial.rankable and trial.feasible and trial.losses is not None:
            seeds.setdefault(genome_key(trial.genome), {})[trial.candidate.replicate] = trial.losses[0]
    space = SearchSpace(None, None, **run.genes)
    sizes = sizes_of(space)

    def points(places: Sequence[int]) -> np.ndarray:
        return features_of(np.stack([space.encode(found[place].genome) for place in places]), sizes)

    known = [seeds[genome_key(trial.genome)] for trial in found]
    shared = not run.manifest.own_seeds
    return {found[place].id: loss for place, loss in by_expectation(known, points, sizes > 0, shared).items()}
