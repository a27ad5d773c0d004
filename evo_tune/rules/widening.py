"""When a run widens the range of a gene by itself: the best trials are at an end of it.

The decision is a pure function of the history (law 1). It does not know journals or evaluators: how far a range may go
was settled when the run began.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Gene
from evo_tune.genome.history import RunHistory
from evo_tune.genome.trial import Candidate
from evo_tune.genome.values import Value
from evo_tune.genome.widening import ENDS, WIDENINGS, End, Range, end_value, widen_end

# Minimum number of full trainings with a loss; a population, if that is more.
MIN_TRIALS = 10

# Number of leaders: a tenth of the full trainings, within these bounds.
MIN_LEADERS, MAX_LEADERS = 5, 10

# Share of a range, in unit coordinates, that counts as its end; of an ordered choice at least the last value.
END_SHARE = 0.05

# Minimum number of leaders at the end, of their values in an added part, and of other values.
MIN_AT_END = 3

# Largest probability that as many leaders would be at the end if the gene did not matter.
CHANCE = 0.05


class Widening(NamedTuple):
    """A range that is to be widened.

    Args:
        name: Name of the gene.
        gene: The gene with its wider range.
        reason: Number of the leaders at the end, in words.
    """

    name: str
    gene: Gene
    reason: str


def leader_count(trials: int) -> int:
    """Return the number of leaders among `trials` full trainings."""
    return min(MAX_LEADERS, max(MIN_LEADERS, trials // 10))


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
    units = np.stack([history.proposed_units[leader.id] for leader in leaders])
    active = history.space.active(units)
    for index, (name, gene) in enumerate(history.space.genes.items()):
        margin = max(END_SHARE, 0.51 / gene.size)
        needed = leaders_needed(len(leaders), max(END_SHARE, 1.0 / gene.size))
        for end in ENDS if name in limits else ():
            at_end = units[:, index] <= margin if end == "low" else units[:, index] >= 1.0 - margin
            at_end &= active[:, index]  # else its value is the default, which no result depends on
            if not at_end[0] or at_end.sum() < needed:
                continue
            wide = widen_end(gene, end, limits[name])
            values = [leaders[row].genome[name] for row in np.flatnonzero(at_end).tolist()]
            if wide is None or not _exceed_earlier_range(values, history, name, end):
                continue
            # Enough other values were trained in full, so that those at the end are not merely the default.
            all_units = (float(history.proposed_units[trial.id][index]) for trial in history.ranking)
            elsewhere = (unit for unit in all_units if (unit > margin if end == "low" else unit < 1.0 - margin))
            if len(list(islice(elsewhere, MIN_AT_END))) == MIN_AT_END:
                return Widening(name, wide, f"{len(values)} of the best {len(leaders)} trials are at its {end} end")
    return None


def leaders_needed(leaders: int, share: float) -> int:
    """Return the number of leaders at an end that chance does not explain.

    It is the smallest number of at least MIN_AT_END that independent draws reach with a probability of at most CHANCE.
    It may exceed the number of leaders.

    Args:
        leaders: Number of leaders.
        share: Share of the range that counts as its end.
    """
    from scipy.special import bdtrc  # takes a tenth of a second to import, and few runs need it

    counts = range(MIN_AT_END, leaders + 1)
    return next((count for count in counts if bdtrc(count - 1, leaders, share) <= CHANCE), leaders + 1)


def _exceed_earlier_range(values: Sequence[Value], history: RunHistory, name: str, end: End) -> bool:
    """Return whether enough values are outside the range before the last widening at this end, or there was none."""
    present_end = end_value(history.space.genes[name], end)
    earlier = [space.genes[name] for space in history.spaces if end_value(space.genes[name], end) != present_end]
    outside = 0
    for value in values if earlier else ():
        try:
            earlier[-1].check(value)
        except SpaceError:
            outside += 1
    return not earlier or outside >= MIN_AT_END
