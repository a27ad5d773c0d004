"""Operators of evolution in unit coordinates: the only module that imports DEAP.

Trials are passed in as `Individual`s, and children are returned as lists of unit coordinates. DEAP draws from the
global generators of Python and numpy, which other threads may use as well. So its modules get their own generators,
which `deap_generator` seeds from the caller's, and a proposal stays a pure function of the history. DEAP sees finite
losses only; failed trials are never passed in. This module does not know proposals, duplicates or generations.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from deap import base, tools
from deap.tools import crossover as deap_crossover
from deap.tools import emo as deap_emo
from deap.tools import selection as deap_selection

from evo_tune.genome.history import History
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Trial
from evo_tune.strategies._proposals import fold_seed

ETA = 10.0
"""Crowding degree of simulated binary crossover: a child stays near one parent's value (Deb & Agrawal use 2 to 20)."""

SHRINK = 2.0**-10
"""Factor of all losses; exact, because it is a power of two. Without it, the difference of two of the largest floats
would overflow to infinity. A crowding distance of infinity by infinity is not a number."""


class _Numpy:
    """Replacement of numpy in DEAP, with its own generator as `numpy.random`."""

    def __init__(self, random: np.random.RandomState) -> None:
        self.random = random

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


OWN, OWN_NUMPY = random.Random(), np.random.RandomState()
"""Generators of DEAP. They replace the modules `random` and `numpy.random` in it and have the same methods."""

# DEAP takes no generator as an argument. Seeding the global ones instead would change what other threads draw.
for _module in (deap_crossover, deap_emo, deap_selection):
    _module.random = OWN
deap_emo.numpy = _Numpy(OWN_NUMPY)

LOCK = threading.RLock()
"""Held while DEAP draws, because runs in several threads share these generators."""


class Losses(base.Fitness):  # type: ignore[misc]  # DEAP has no types
    """DEAP's fitness for any number of losses. Weights belong to the object, so no class is registered."""

    def __init__(self, losses: Sequence[float]) -> None:
        self.weights = (-1.0,) * len(losses)
        self.crowding_dist = 0.0
        self.wvalues = tuple(-SHRINK * loss for loss in losses)  # DEAP's constructor would check the weights each time


class Individual:
    """A trial as DEAP selects it; only a selection changes it.

    Args:
        id: Id of the trial.
        losses: Losses, all finite.
        units: Unit coordinates. Shape (genes,).
    """

    def __init__(self, id: int, losses: tuple[float, ...], units: Sequence[float]) -> None:
        self.id = id
        self.losses = losses
        self.units = units
        self.fitness = Losses(losses)

    @classmethod
    def of(cls, trial: Trial, history: History) -> Individual:
        """Return a rankable trial as an individual."""
        assert trial.losses is not None
        return cls(trial.id, trial.losses, history.proposed_units[trial.id].tolist())


@contextmanager
def deap_generator(rng: np.random.Generator) -> Iterator[None]:
    """Seed DEAP's generator from `rng`, and keep other threads from drawing from it inside the block."""
    with LOCK:
        OWN.seed(int(rng.integers(2**63)))
        yield


def tournament(pool: Sequence[Individual], size: int) -> Individual:
    """Return the best of `size` individuals drawn with replacement; call it inside `deap_generator`."""
    winner: Individual = tools.selTournament(pool, 1, size)[0]
    return winner


def tournament_by_crowding(pool: Sequence[Individual]) -> tuple[Individual, Individual]:
    """Return two parents by dominance, then crowding distance; call it inside `deap_generator`.

    Args:
        pool: One or more individuals from `select_by_crowding`.
    """
    # selTournamentDCD returns multiples of four, and needs at least as many individuals to choose from.
    first, second = tools.selTournamentDCD(list(pool) * (4 if len(pool) < 4 else 1), 4)[:2]
    return first, second


def select_by_crowding(pool: Sequence[Individual], size: int) -> list[Individual]:
    """Return the `size` individuals that NSGA-II keeps (Deb et al., 2002), with their crowding distances.

    The result contains copies, because a crowding distance belongs to the selection that computed it.
    """
    copies = [Individual(one.id, one.losses, one.units) for one in pool]
    kept: list[Individual] = tools.selNSGA2(copies, size) if copies else []
    return kept


def best_by_crowding(history: History, size: int) -> dict[int, Individual]:
    """Return the `size` individuals that NSGA-II keeps of all completed trials, by their index in `ranking`.

    The result equals that of `select_by_crowding`, with its order and crowding distances. DEAP itself takes quadratic
    time in the number of trials.
    """
    ranking, found = history.ranking, dict[int, Individual]()
    fronts = _fronts(history.ranked_losses(), size) if len(ranking) else []
    for front in fronts:
        pool = {row: Individual.of(ranking[row], history) for row in front}
        deap_emo.assignCrowdingDist(list(pool.values()))
        if front is fronts[-1]:
            last = sorted(pool.items(), key=lambda one: one[1].fitness.crowding_dist, reverse=True)
            pool = dict(last[: size - len(found)])
        found |= pool
    return found


def _fronts(losses: np.ndarray, size: int) -> list[list[int]]:
    """Return the rows of the first fronts with at least `size` points in total, in DEAP's order.

    Within a front, points are sorted by the last point of the previous front that dominates them, then by age, with
    equal points together.

    Args:
        losses: Losses. Shape (points, objectives).
        size: Number of points.
    """
    import moocore  # takes a quarter of a second, needed for several objectives only

    numbers = moocore.pareto_rank(losses)
    found: list[list[int]] = []
    before: np.ndarray | None = None
    for number in np.unique(numbers):
        if sum(map(len, found)) >= size:
            break
        groups: dict[tuple[float, ...], list[int]] = {}
        for row in np.flatnonzero(numbers == number).tolist():
            groups.setdefault(tuple((SHRINK * losses[row]).tolist()), []).append(row)
        points, order = np.array(list(groups)), np.arange(len(groups))
        if before is not None:
            over = np.all(before[:, None] <= points, axis=2) & np.any(before[:, None] < points, axis=2)
            over = np.asarray(over)
            order = np.lexsort((order, len(before) - np.argmax(over[::-1], axis=0)))
        rows = list(groups.values())
        found.append([row for one in order.tolist() for row in rows[one]])
        before = points[order]
    return found


def select_by_reference(pool: Sequence[Individual], size: int) -> list[Individual]:
    """Return the `size` individuals that NSGA-III keeps (Deb & Jain, 2014).

    At most `size` reference points are spread evenly over the unit simplex. The ids seed the generator that breaks
    ties, so the same pool always gives the same individuals.
    """
    if len(pool) <= size:
        return list(pool)
    objectives = len(pool[0].losses)
    with LOCK, np.errstate(all="ignore"):  # losses may overflow; the niche is then arbitrary
        OWN_NUMPY.seed(fold_seed(one.id for one in pool))
        points = tools.uniform_reference_points(objectives, _divisions(objectives, size))
        kept: list[Individual] = tools.selNSGA3(list(pool), size, points, nd="standard")
    return kept


def _divisions(objectives: int, size: int) -> int:
    """Return the largest number of divisions of an axis (int ≥ 1) that needs at most `size` reference points."""
    if objectives == 1:
        return 1
    divisions = 1
    while math.comb(objectives + divisions, divisions + 1) <= size:
        divisions += 1
    return divisions


def crossover(first: Sequence[float], second: Sequence[float], space: SearchSpace) -> list[float]:
    """Return a child of two parents, all of shape (genes,); call it inside `deap_generator`.

    Genes with an order use simulated binary crossover (Deb & Agrawal, 1995), which gives a value near that of one
    parent. A gene without order is taken from either parent.
    """
    child, mate = np.array(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    for places, ordered in ((~space.unordered, True), (space.unordered, False)):
        one, other = child[places].tolist(), mate[places].tolist()
        if ordered:
            tools.cxSimulatedBinaryBounded(one, other, ETA, 0.0, 1.0)
        else:
            tools.cxUniform(one, other, 0.5)
        child[places] = one
    units: list[float] = child.tolist()
    return units


def mutate(
    units: Sequence[float], space: SearchSpace, rng: np.random.Generator, expected: float, scale: float
) -> list[float]:
    """Return coordinates with some active genes mutated, at least one.

    Args:
        units: Unit coordinates. Shape (genes,).
        space: Search space of the genes.
        rng: The only source of randomness.
        expected: Expected number of mutated genes, before the minimum of one.
        scale: Standard deviation of a step, in unit coordinates.
    """
    active = space.active(np.asarray(units)[None])[0]
    struck = active & (rng.random(len(units)) < expected / active.sum())
    if not struck.any():
        struck[rng.choice(np.flatnonzero(active))] = True
    genes = space.genes.values()
    return [gene.mutate(u, rng, scale) if hit else u for gene, u, hit in zip(genes, units, struck, strict=True)]
