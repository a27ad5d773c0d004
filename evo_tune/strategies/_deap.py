"""Operators of evolution in unit coordinates: the only module that imports DEAP.

Trials are passed in as `Individual`s, and children are returned as lists of unit coordinates. DEAP draws from the
global generators of Python and numpy. Here it must draw from the generator of a proposal, which stays a pure function
of the history, and a user's own DEAP program must not notice. So this module uses private copies of DEAP's modules with
a generator of their own, which `deap_generator` seeds. DEAP sees finite losses only; failed trials are never passed in.
This module does not know proposals, duplicates or generations.
"""

from __future__ import annotations

import importlib.util
import math
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from deap import base

from evo_tune.genome.history import History
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Trial
from evo_tune.strategies import fold_seed

# Crowding degree of simulated binary crossover: a child stays near one parent's value (Deb & Agrawal use 2 to 20).
ETA = 10.0

# Factor of all losses; exact, because it is a power of two. Without it, the difference of two of the largest floats
# would overflow to infinity. A crowding distance of infinity by infinity is not a number.
SHRINK = 2.0**-10


def _private_copy(name: str) -> Any:
    """Return a copy of a module of `deap.tools` that draws from GENERATOR and NUMPY_GENERATOR.

    DEAP takes no generator as an argument. To replace the one in DEAP's modules would change what others draw.
    """
    spec = importlib.util.find_spec(f"deap.tools.{name}")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module).update(random=GENERATOR, numpy=SimpleNamespace(**{**vars(np), "random": NUMPY_GENERATOR}))
    return module


GENERATOR, NUMPY_GENERATOR = random.Random(), np.random.RandomState()
deap_crossover, deap_emo, deap_selection = map(_private_copy, ("crossover", "emo", "selection"))

# Held while the copies draw, because runs in several threads share their generators.
LOCK = threading.RLock()


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
    """Seed the generator of the copies of DEAP from `rng`, and keep other threads from using it inside the block."""
    with LOCK:
        GENERATOR.seed(int(rng.integers(2**63)))
        yield


def tournament(pool: Sequence[Individual], size: int) -> Individual:
    """Return the best of `size` individuals drawn with replacement; call it inside `deap_generator`."""
    return cast(Individual, deap_selection.selTournament(pool, 1, size)[0])


def tournament_by_crowding(pool: Sequence[Individual]) -> tuple[Individual, Individual]:
    """Return two parents by dominance, then crowding distance; call it inside `deap_generator`.

    Args:
        pool: One or more individuals from `select_by_crowding`.
    """
    # selTournamentDCD returns multiples of four, and needs at least as many individuals to choose from.
    first, second = deap_emo.selTournamentDCD(list(pool) * (4 if len(pool) < 4 else 1), 4)[:2]
    return first, second


def select_by_crowding(pool: Sequence[Individual], size: int) -> list[Individual]:
    """Return the `size` individuals that NSGA-II keeps (Deb et al., 2002), with their crowding distances.

    The result contains copies, because a crowding distance belongs to the selection that computed it.
    """
    copies = [Individual(individual.id, individual.losses, individual.units) for individual in pool]
    return list(deap_emo.selNSGA2(copies, size)) if copies else []


def best_by_crowding(history: History, size: int) -> dict[int, Individual]:
    """Return the `size` individuals that NSGA-II keeps of all completed trials, by their index in `ranking`.

    The result equals that of `select_by_crowding`, with its order and crowding distances. DEAP sees only the trials of
    the first fronts, because it takes quadratic time in their number.
    """
    import moocore  # takes a quarter of a second, needed for several objectives only

    if not len(history.ranking):
        return {}
    fronts = moocore.pareto_rank(history.ranked_losses())
    rows = np.flatnonzero(fronts <= np.sort(fronts)[:size][-1]).tolist()
    pool = [Individual.of(history.ranking[row], history) for row in rows]
    row_by_id = {individual.id: row for individual, row in zip(pool, rows, strict=True)}
    return {row_by_id[individual.id]: individual for individual in deap_emo.selNSGA2(pool, size)}


def select_by_reference(pool: Sequence[Individual], size: int) -> list[Individual]:
    """Return the `size` individuals that NSGA-III keeps (Deb & Jain, 2014).

    At most `size` reference points are spread evenly over the unit simplex. The ids seed the generator that breaks
    ties, so the same pool always gives the same individuals.
    """
    if len(pool) <= size:
        return list(pool)
    objectives, divisions = len(pool[0].losses), 1  # of an axis: as many as `size` points allow
    while objectives > 1 and math.comb(objectives + divisions, divisions + 1) <= size:
        divisions += 1
    with LOCK, np.errstate(all="ignore"):  # losses may overflow; the niche is then arbitrary
        NUMPY_GENERATOR.seed(fold_seed(individual.id for individual in pool))
        points = deap_emo.uniform_reference_points(objectives, divisions)
        return list(deap_emo.selNSGA3(list(pool), size, points, nd="standard"))


def crossover(first: Sequence[float], second: Sequence[float], space: SearchSpace) -> list[float]:
    """Return a child of two parents, all of shape (genes,); call it inside `deap_generator`.

    Genes with an order use simulated binary crossover (Deb & Agrawal, 1995), which gives a value near that of one
    parent. A gene without order is taken from either parent.
    """
    child, mate = np.array(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    ordered, unordered = ~space.unordered, space.unordered
    for genes in (ordered, unordered):
        child_values, mate_values = child[genes].tolist(), mate[genes].tolist()
        if genes is ordered:
            deap_crossover.cxSimulatedBinaryBounded(child_values, mate_values, ETA, 0.0, 1.0)
        else:
            deap_crossover.cxUniform(child_values, mate_values, 0.5)
        child[genes] = child_values
    return list(child.tolist())


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
    mutates = active & (rng.random(len(units)) < expected / active.sum())
    if not mutates.any():
        mutates[rng.choice(np.flatnonzero(active))] = True
    genes = space.genes.values()
    return [gene.mutate(u, rng, scale) if moves else u for gene, u, moves in zip(genes, units, mutates, strict=True)]
