"""When a run widens the range of a gene by itself: the best trials are at an end of it.

The decision is a pure function of the history (law 1). It does not know journals or evaluators: how far a range may go
was settled when the run began.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Gene
from evo_tune.genome.history import RunHistory
from evo_tune.genome.trial import Candidate
from evo_tune.genome.values import Value
from evo_tune.genome.widening import ENDS, WIDENINGS, End, Range, end_value, widen_end

ENOUGH = 10
"""Minimum number of full trainings with a loss; a population, if that is more."""

FEWEST, MOST = 5, 10
"""Number of leaders: a tenth of the full trainings, within these bounds."""

NEAR = 0.05
"""Share of a range, in unit coordinates, that counts as its end; of an ordered choice at least the last value."""

AGREE = 3
"""Minimum number of leaders at the end."""

CHANCE = 0.05
"""Largest probability that as many leaders would be at the end if the gene did not matter."""


@dataclass(frozen=True)
class Widening:
    """A range that is to be widened.

    Args:
        name: Name of the gene.
        gene: The gene with its wider range.
        reason: Number of the leaders at the end, in words.
    """

    name: str
    gene: Gene
    reason: str


def leader_count(count: int) -> int:
    """Return the number of leaders among `count` full trainings."""
    return min(MOST, max(FEWEST, count // 10))


def find_widening(history: RunHistory, leaders: Sequence[Candidate], limits: Mapping[str, Range]) -> Widening | None:
    """Return the first range that is to be widened; None if there is none.

    A range is widened at an end if the best leader is there, with more of the others than chance explains, and if some
    genomes elsewhere were trained too. A range that was widened at this end before is widened again only if these
    leaders are in the added part.

    Args:
        history: History of the run.
        leaders: First candidates of the best genomes, best first.
        limits: Lowest and highest value of the genes that may be widened, by name.
    """
    if not leaders or len(history.spaces) > WIDENINGS:
        return None
    units = np.stack([history.proposed_units[one.id] for one in leaders])
    genes = history.space.genes
    margins = np.array([max(NEAR, 0.51 / gene.size) for gene in genes.values()])
    names = list(genes)
    for place in np.flatnonzero((units[0] <= margins) | (units[0] >= 1.0 - margins)).tolist():
        name, margin = names[place], float(margins[place])
        gene = genes[name]
        needed = leaders_needed(len(leaders), max(NEAR, 1.0 / gene.size))
        for end, there in zip(ENDS, (units[:, place] <= margin, units[:, place] >= 1.0 - margin), strict=True):
            if name not in limits or not there[0] or there.sum() < needed:
                continue
            wide = widen_end(gene, end, limits[name])
            values = [one.genome[name] for one, is_there in zip(leaders, there.tolist(), strict=True) if is_there]
            if wide is not None and _are_new(values, history, name, end) and _are_chosen(history, place, end, margin):
                return Widening(name, wide, f"{len(values)} of the best {len(leaders)} trials are at its {end} end")
    return None


def leaders_needed(leaders: int, share: float) -> int:
    """Return the number of leaders at an end that chance does not explain.

    It is the smallest number of at least AGREE that independent draws reach with a probability of at most CHANCE. It
    may exceed the number of leaders.

    Args:
        leaders: Number of leaders.
        share: Share of the range that counts as its end.
    """
    at_least = 1.0
    for count in range(leaders + 1):
        if count >= AGREE and at_least <= CHANCE:
            return count
        at_least -= math.comb(leaders, count) * share**count * (1.0 - share) ** (leaders - count)
    return leaders + 1


def _are_new(values: Sequence[Value], history: RunHistory, name: str, end: End) -> bool:
    """Return whether enough values are outside the range before the last widening at this end, or there was none."""
    now = end_value(history.space.genes[name], end)
    before = [space.genes[name] for space in history.spaces if end_value(space.genes[name], end) != now]
    return not before or sum(not _has(before[-1], value) for value in values) >= AGREE


def _are_chosen(history: RunHistory, place: int, end: End, margin: float) -> bool:
    """Return whether enough other values were trained in full, so that those at the end are not merely the default."""
    units = (float(history.proposed_units[trial.id][place]) for trial in history.ranking)
    others = (unit for unit in units if (unit > margin if end == "low" else unit < 1.0 - margin))
    return len(list(islice(others, AGREE))) == AGREE


def _has(gene: Gene, value: Value) -> bool:
    try:
        gene.check(value)
    except SpaceError:
        return False
    return True
