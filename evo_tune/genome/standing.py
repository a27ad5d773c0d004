"""How the genomes of a run stand, where one may have several trials: rungs, extra seeds, constraints.

`entries` gathers the trials of each genome, and `places` puts the genomes in one order, in which a strategy is shown
them (`view`). All of it is derived from a History; nothing here promotes, prunes or proposes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evo_tune.genome.constraint import Constraint
from evo_tune.genome.history import History
from evo_tune.genome.importance import ranks
from evo_tune.genome.trial import Candidate, Objective, Trial
from evo_tune.genome.values import genome_key, mean_of

__all__ = ["Entry", "averaged", "entries", "placed", "placed_by_rung", "places"]


@dataclass
class Entry:
    """A genome and what was told of it.

    Args:
        key: Identity of the genome.
        birth: The candidate as which it was born first.
        results: Its trials with the run's first seed, by budget.
        repeats: Its trials with further seeds.
        curve: Points of its learning curve, over all of its results: (fraction, metrics).
    """

    key: str
    birth: Candidate
    results: dict[float, Trial] = field(default_factory=dict)
    repeats: list[Trial] = field(default_factory=list)
    curve: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    @property
    def latest(self) -> Trial:
        """The trial with the largest budget, of the first seed."""
        return self.results[max(self.results)]

    @property
    def failed(self) -> bool:
        """Whether its latest trial gave no value and was not pruned either."""
        return not self.latest.ok and self.latest.outcome.status != "pruned"

    def losses(self, budget: float) -> tuple[float, ...] | None:
        """Return its losses at a budget; the mean over seeds at a full training.

        Returns:
            None if it has none; infinities if it was pruned: it is worse than others, and no one knows by how much.
        """
        trial = self.results.get(budget)
        if trial is None or (trial.losses is None and trial.outcome.status != "pruned"):
            return None
        if trial.losses is None:
            return (math.inf,)
        if budget < 1.0 or not self.repeats:
            return trial.losses
        return tuple(map(float, mean_of([one.losses for one in (trial, *self.repeats) if one.losses])))


def averaged(trials: Sequence[Trial], objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> Trial:
    """Return the first of several trials of one genome that are ok, with the mean of each metric that all have."""
    first = trials[0]
    if len(trials) == 1:
        return first
    names = [name for name in first.outcome.metrics if all(name in trial.outcome.metrics for trial in trials)]
    metrics = {name: float(mean_of([trial.outcome.metrics[name] for trial in trials])) for name in names}
    outcome = replace(first.outcome, metrics=metrics)
    return Trial.of(first.candidate, outcome, first.told_order, objectives, constraints)


def entries(history: History) -> dict[str, Entry]:
    """Return every genome of which something was told, in the order in which it first was."""

    def step(found: dict[str, Entry], trial: Trial) -> dict[str, Entry]:
        key = genome_key(trial.genome)
        entry = found.setdefault(key, Entry(key, trial.candidate))
        if trial.candidate.replicate:
            entry.repeats.append(trial)
        else:
            entry.results[trial.candidate.budget] = trial
            entry.curve.extend(trial.outcome.curve)
        return found

    return history.fold(__name__, dict, step)


def places(told: Sequence[Entry], rungs: Sequence[float], objectives: int) -> dict[str, tuple[float, ...]]:
    """Return the place of each genome in the order of each objective, from 1; failed ones have none.

    The results of the lowest rung order all genomes. Those that reached the next rung keep the places that they
    have as a group, and its results order them within; and so on to the full training. So two genomes are always
    compared at a budget that both of them had, a result at a higher rung overrules one at a lower, and nobody
    loses a place to a genome merely because that one was trained longer. Who breaks a constraint comes behind all
    others in every objective, by how much it does (Deb, 2000).
    """
    alive = [entry for entry in told if not entry.failed]
    good = [entry for entry in alive if entry.latest.violation == 0.0]
    bad = [entry for entry in alive if entry.latest.violation > 0.0]
    behind = len(good) + ranks([entry.latest.violation for entry in bad])
    found = {entry.key: (float(place),) * objectives for entry, place in zip(bad, behind, strict=True)}
    if good:
        columns = [placed(_known(good, rungs, objective)) for objective in range(objectives)]
        found |= {entry.key: tuple(row) for entry, row in zip(good, np.stack(columns, axis=1).tolist(), strict=True)}
    return found


def _known(good: Sequence[Entry], rungs: Sequence[float], objective: int) -> list[np.ndarray]:
    """Return the losses of genomes at each rung, NaN where there is none; infinite where they were pruned."""
    found = []
    for rung in rungs:
        known = [entry.losses(rung) for entry in good]
        rows = [math.nan if row is None else row[objective] if len(row) > objective else math.inf for row in known]
        found.append(np.array(rows))
    return found


def placed(known: Sequence[np.ndarray]) -> np.ndarray:
    """Return the places of genomes in the order of one objective, shape (genomes,); see `places`.

    Args:
        known: For each rung their losses there, shape (genomes,); NaN where there is none.
    """
    return list(placed_by_rung(known))[-1]


def placed_by_rung(known: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield, for each rung, the places of genomes by what was known up to it, shape (genomes,); see `placed`."""
    found = np.ones(len(known[0]))
    for number, losses in enumerate(known):
        group = np.flatnonzero(~np.isnan(losses))
        if len(group):
            order = ranks(losses[group])
            seats = _seats(found, group) if number else np.arange(1.0, len(group) + 1)
            found[group] = np.interp(order, np.arange(1.0, len(group) + 1), seats)
        yield found.copy()


def _seats(found: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the places of a group, ascending, shape (group,); equal ones spread over the ranks that they share."""
    seats = np.sort(found[group])
    if (seats[1:] != seats[:-1]).all():
        return np.asarray(seats)
    values, counts = np.unique(seats, return_counts=True)
    shared = set(values[counts > 1].tolist())
    among = np.sort(found)
    for place in values.tolist():
        mine = seats == place if place in shared else None
        if mine is not None and (count := int(mine.sum())) > 1:
            reach = (int(np.searchsorted(among, place, "right") - np.searchsorted(among, place)) - 1) / 2
            seats[mine] = np.linspace(place - reach, place + reach, count)
            shared.update(seats[mine].tolist())  # a seat that another one has by itself may be among them
    return np.asarray(np.sort(seats))
