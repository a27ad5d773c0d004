"""Whether going on pays: the chance that the next trainings improve by more than what seeds differ by.

A model of losses, not of their ranks: the lower tail of what the search has found lately. A search keeps proposing what
lies around its best, so its latest losses say what its next ones will be; above a threshold near the lowest of them
they are taken to be exponential, as the excesses over a high threshold of most distributions nearly are (Pickands,
Statistical inference using extreme order statistics, Annals of Statistics 3, 1975, with shape 0). What it says of one
training is a belief worth two dozen trainings (the mean of a beta distribution), which those since the last improvement
correct: all of them failed to. Pure functions of trials in the order in which they were told, so a run that stops by it
stops there again when it is replayed. benchmarks/stopping.py says how often it is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evo_tune.genome.trial import Trial
from evo_tune.store.calibration import read_calibration
from evo_tune.store.run import Run

__all__ = ["DONE", "DONE_BY_ITSELF", "Further", "chance", "further", "further_of", "in_words", "noise_of"]

ENOUGH = 16
"""Fewest genomes with a loss from which anything is said."""

SHARE, WINDOW = 0.5, 16
"""The latest half of the losses is looked at, and at least so many."""

TAIL = 1 / 3
"""Share of them that makes the tail."""

BELIEF = 24
"""Trainings for which the tail's word counts."""

DONE = 0.05
"""Chance below which a run that is to stop by itself is done."""

DONE_BY_ITSELF = "it is done: "
"""How the reason begins for which such a run has ended."""


@dataclass(frozen=True)
class Further:
    """The expected benefit of more trainings.

    Args:
        chance: Probability that the next trainings improve the best loss by more than the noise.
        trainings: Number of these trainings.
        noise: Standard deviation of the loss of one genome between seeds. Unit: the metric's.
    """

    chance: float
    trainings: int
    noise: float


def noise_of(trials: Sequence[Trial]) -> float:
    """Return the standard deviation of a genome's first loss between seeds, pooled over genomes.

    NaN where fewer than two seeds more than the genomes' first ones are known.

    Args:
        trials: Of any seeds, a calibration's among them.
    """
    seeds: dict[str, list[float]] = {}
    for trial in trials:
        if trial.rankable and trial.losses is not None:
            seeds.setdefault(trial.key, []).append(trial.losses[0])
    squares, freedom = 0.0, 0
    for losses in seeds.values():
        if len(losses) > 1:
            squares += float(np.var(losses)) * len(losses)
            freedom += len(losses) - 1
    return math.sqrt(squares / freedom) if freedom > 1 else math.nan


def chance(losses: Sequence[float], noise: float, trainings: int) -> float:
    """Return the chance that the lowest of the next losses is below the lowest so far by more than the noise.

    Args:
        losses: Of the search's genomes in the order in which they came, finite ones.
        noise: See `Further`.
        trainings: How many are to come.

    Returns:
        NaN for fewer than `ENOUGH` losses.
    """
    if len(losses) < ENOUGH:
        return math.nan
    latest = np.sort(np.array(losses[-max(WINDOW, math.ceil(SHARE * len(losses))) :]))
    count = max(4, math.ceil(TAIL * len(latest)))
    threshold = latest[count - 1]
    mean = float((threshold - latest[:count]).sum()) / (count - 1)
    beyond = threshold - (min(losses) - noise)
    if mean <= 0.0:
        return 0.0 if beyond > 0 else 1.0
    each = count / (len(latest) + 1) * math.exp(-max(0.0, beyond) / mean)
    each *= BELIEF / (BELIEF + _since(losses, noise))
    return 1.0 - (1.0 - min(1.0, each)) ** trainings


def _since(losses: Sequence[float], noise: float) -> int:
    """Return how many losses have come since one was below all earlier ones by more than the noise."""
    lowest, since = math.inf, 0
    for loss in losses:
        improved = loss < lowest - noise
        lowest, since = (loss, 0) if improved else (lowest, since + 1)
    return since


def further(trials: Sequence[Trial], trainings: int, calibration: Sequence[Trial] = ()) -> Further | None:
    """Return what going on promises; None where too little is known, seeds' noise above all.

    Args:
        trials: Those that were told, in that order.
        trainings: How many are to come.
        calibration: Trainings of the same genomes on other seeds, which no search was told.
    """
    noise = noise_of([*trials, *calibration])
    if math.isnan(noise):
        return None
    firsts: dict[str, float] = {}
    for trial in trials:
        if trial.rankable and trial.feasible and trial.losses is not None:
            firsts.setdefault(trial.key, trial.losses[0])
    found = chance(list(firsts.values()), noise, trainings)
    return None if math.isnan(found) else Further(found, trainings, noise)


def further_of(run: Run) -> Further | None:
    """Return what a further generation promises a run, its calibration's seeds counting for the noise."""
    if len(run.objectives) > 1:
        return None
    trials = [run.trial(id) for id in run.sequence()]
    return further(trials, run.manifest.population, read_calibration(run))


def in_words(found: Further) -> str:
    """Return it in words, without a stop."""
    percent = 100 * found.chance
    chance = "less than 1%" if percent < 0.5 else "more than 99%" if percent > 99.5 else f"{percent:.0f}%"
    return (
        f"the next {found.trainings} trainings improve by more than seeds differ ({found.noise:.3g}) "
        f"with a chance of {chance}"
    )
