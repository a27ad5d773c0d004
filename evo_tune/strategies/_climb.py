"""Climbs of candidates along the gradient of the merit, for `saea` where a Gaussian process judges alone.

`climb_drafts` takes the best candidates uphill, all at once, by the quasi-Newton method BFGS. The merit has narrow
ridges, at the bound of a constraint for example, and they seldom follow one gene: a method without curvature stops at
their side. `drafts_near` yields starts around the best genomes, where the merit of a precise model has its peak.

Source: Nocedal & Wright, Numerical Optimization (Springer, 2006), chapter 6, for BFGS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from evo_tune.genome.space import SearchSpace
from evo_tune.strategies._candidates import PARENTS_PER_ROUND, Draft, MeritFunction, move_to_cell_centres
from evo_tune.strategies._deap import Individual

CLIMBS = 30
"""Steps of a climb."""

FIRST, LONGEST = 0.03, 0.5
"""Longest move of a gene in the first step and in any step, in unit coordinates. It doubles after each step that was
higher, and falls to a quarter of the step that was not."""

FLAT = 0.02
"""Share of the steepest slope of a climb below which a gene does not move. A gene that seems not to matter would move
to its bound, and be the same in all results from there on, so nothing more would be learned of it."""

NEARBY, SCALES = 24, (-4.0, -0.7)
"""Number of starts near the best genomes, and range of the power of ten of their distance in each gene."""

Slopes = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Function from unit coordinates, shape (points, genes), to merits and their gradients, of the shape of the former."""


def drafts_near(leaders: Sequence[Individual], rng: np.random.Generator) -> Iterator[Draft]:
    """Yield drafts at random distances from each leader in turn."""
    for number in range(NEARBY):
        leader = leaders[number % len(leaders)]
        steps = 10.0 ** rng.uniform(*SCALES) * rng.normal(size=len(leader.units))
        yield Draft(np.clip(leader.units + steps, 0.0, 1.0), "nearby", (leader.id,))


def climb_drafts(drafts: Sequence[Draft], merits: MeritFunction, slopes: Slopes, space: SearchSpace) -> list[Draft]:
    """Return the LIKED drafts with the highest merits after a climb along the gradient of the merit.

    Only genes with an order move. Each draft ends at the best point of its way.
    """
    units = np.stack([np.asarray(one.units, dtype=np.float64) for one in drafts])
    top = np.argsort(-merits(move_to_cell_centres(space, units)), kind="stable")[:PARENTS_PER_ROUND]
    ends = _ends(units[top], slopes)
    return [Draft(row, "climbed", drafts[place].parents) for row, place in zip(ends, top.tolist(), strict=True)]


def _ends(here: np.ndarray, slopes: Slopes) -> np.ndarray:
    """Return the ends of climbs of shape (points, genes), from points of this shape."""
    merit, uphill = slopes(here)
    steepest, curved = np.abs(uphill), np.zeros((*here.shape, here.shape[1]))
    longest = np.full(len(here), FIRST)
    for _ in range(CLIMBS):
        held = (here <= 0.0) & (uphill < 0.0) | (here >= 1.0) & (uphill > 0.0)
        held |= steepest < FLAT * steepest.max(axis=1, keepdims=True)
        there = np.clip(here + _step(np.where(held, 0.0, uphill), curved, longest), 0.0, 1.0)
        found, rising = slopes(there)
        steepest = np.maximum(steepest, np.abs(rising))
        _learn(curved, there - here, uphill - rising)
        higher = found > merit
        taken = np.abs(there - here).max(axis=1)
        longest = np.where(higher, np.minimum(2.0 * longest, LONGEST), 0.25 * np.maximum(taken, 1e-9))
        here, uphill = np.where(higher[:, None], there, here), np.where(higher[:, None], rising, uphill)
        merit = np.where(higher, found, merit)
    return here


def _step(uphill: np.ndarray, curved: np.ndarray, longest: np.ndarray) -> np.ndarray:
    """Return the next steps: the slope times the inverse curvature, where it is known, or as long as is allowed.

    Args:
        uphill: Slopes, 0 for genes that do not move. Shape (points, genes).
        curved: See `_learn`.
        longest: Longest move of a gene. Shape (points,).
    """
    known = np.asarray(curved.any(axis=(1, 2)))
    way = np.where(known[:, None], np.einsum("pij,pj->pi", curved, uphill), uphill)
    way[uphill == 0.0] = 0.0
    size = np.abs(way).max(axis=1)
    return way * np.where(known & (size <= longest), 1.0, longest / np.maximum(size, 1e-300))[:, None]


def _learn(curved: np.ndarray, step: np.ndarray, turn: np.ndarray) -> None:
    """Update inverse curvatures in place from a step, unless it shows none (Nocedal & Wright, equation 6.17).

    Args:
        curved: Inverse of the negative second derivatives, 0 where nothing is known. Shape (points, genes, genes).
        step: Difference of the points. Shape (points, genes).
        turn: Slope before the step minus slope after it. Shape (points, genes).
    """
    bent = (step * turn).sum(axis=1)
    sure = np.asarray(bent > 1e-12 * np.sqrt((step**2).sum(axis=1) * (turn**2).sum(axis=1)))
    if not sure.any():
        return
    step, turn, bent, before = step[sure], turn[sure], bent[sure][:, None, None], curved[sure]
    fresh = ~np.asarray(before.any(axis=(1, 2)))
    before[fresh] = bent[fresh] / (turn[fresh] ** 2).sum(axis=1)[:, None, None] * np.eye(step.shape[1])
    moved = np.einsum("pij,pj->pi", before, turn)
    across = step[:, :, None] * moved[:, None, :]
    along = step[:, :, None] * step[:, None, :]
    share = (turn * moved).sum(axis=1)[:, None, None] / bent
    curved[sure] = before - (across + across.transpose(0, 2, 1)) / bent + (1.0 + share) * along / bent
