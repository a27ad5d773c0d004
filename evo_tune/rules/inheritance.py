"""Inheritance: which genome begins with whose trained weights, and which must then show what it is from scratch.

A genome that inherits is trained for a share of the full training and its loss says more about its weights' origin
than one from scratch would, so it guides the strategy (`standing.as_from_scratch`) and is never a best. Only what was
trained from scratch hands weights on: in a chain of heirs each would have been trained longer than the one before,
and seem the better for it. All of it is a pure function of history; nothing here proposes a new genome or trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import islice

import numpy as np

from evo_tune.errors import OptionError
from evo_tune.genome.history import History
from evo_tune.genome.operators import FROM_SCRATCH
from evo_tune.genome.standing import Entry
from evo_tune.genome.trial import Candidate, Proposal, Trial
from evo_tune.genome.values import Genome
from evo_tune.genome.view import Ledger
from evo_tune.rules.fidelity import audits_among

__all__ = ["confirmation", "heritable", "parse_share", "source"]


def parse_share(text: str | float) -> float:
    """Read the share of a full training that a genome gets which inherits, such as '1/3'; 0: none does.

    Raises:
        OptionError: It is no fraction below 1.
    """
    try:
        share = float(Fraction(str(text).strip()))
    except (ValueError, ZeroDivisionError):
        raise OptionError(f"--inherit {text}: expected a fraction of a full training, such as 1/3") from None
    if not 0.0 <= share < 1.0:
        raise OptionError(f"--inherit {text}: expected a fraction above 0 and below 1, such as 1/3")
    return share


def heritable(history: History, population: int) -> list[Trial]:
    """Return the trials whose weights may be inherited: the best quarter of a population, trained in full from scratch.

    Only a quarter, since the heirs of a poor model are poor whatever their genes. Who falls out of it never comes back,
    so what that trial saved can be removed.
    """
    trained = (trial for trial in history.ranking if not trial.candidate.replicate)
    return list(islice(trained, max(1, population // 4)))


def source(genome: Genome, history: History, population: int, fits: Callable[[Genome, Genome], bool]) -> int | None:
    """Return the id of the trial with whose weights a genome begins; None: it is trained from scratch.

    It is the nearest of the heritable whose weights fit. As many genomes as a population has are trained from scratch
    first, so that there is a choice, and an order to put the heirs into.

    Args:
        genome: The one to be trained.
        history: The run's.
        population: Genomes in a population.
        fits: Says of the genome and another one whether a model of the first can begin with the second's weights.
    """
    if len(history.ranking) < population:
        return None
    kept = heritable(history, population)
    units = history.space.encode(genome)
    away = {trial.id: float(np.abs(history.born_units[trial.id] - units).mean()) for trial in kept}
    nearest = sorted(kept, key=lambda trial: (away[trial.id], trial.id))
    return next((trial.id for trial in nearest if fits(genome, trial.genome)), None)


def confirmation(ledger: Ledger, told: Sequence[Entry], out: Sequence[tuple[str, Candidate]]) -> Proposal | None:
    """Return the training from scratch of a genome that inherited which is due, or None.

    Due is whoever stands first, so that in the end nothing that only inherited stands before the best; and the first
    heir, the second, fourth, eighth, … whatever they show: only genomes that were not chosen for it can say how the two
    kinds of losses compare.

    Args:
        ledger: Of the run.
        told: What was told of each genome, by the ledger's rows.
        out: Candidates whose results are not told, with the keys of their genomes.
    """
    again = {key for key, one in out if one.confirms is not None}
    heirs = [(id, told[row].key) for row, id in ledger.began.items()]
    heirs += [(one.id, key) for key, one in out if one.inherits is not None]
    heirs.sort()
    audits = {heirs[number - 1][1] for number in audits_among(len(heirs) + 1)[1:]}
    losses, violation = ledger.as_from_scratch(len(told)), ledger.violation.get(len(told))[:, 0]
    births, alive = ledger.births.get(len(told))[:, 0], ledger.alive.get(len(told))[:, 0] > 0.0
    stands = alive & ~np.isnan(losses).any(axis=1)
    rows = [row for key in audits if (row := ledger.rows.get(key)) is not None and stands[row]]
    rows.sort(key=lambda row: (violation[row], tuple(losses[row]), births[row]))
    first = np.flatnonzero(stands)
    for column in (violation, *losses.T, births):
        first = first[column[first] == column[first].min(initial=np.inf)]
    for row in [*rows, *first.tolist()]:
        entry = told[row]
        if entry.heir is not None and not entry.results and entry.key not in again:
            return Proposal(entry.birth.genome, FROM_SCRATCH, entry.birth.parents, confirms=entry.heir.id)
    return None
