"""What a run's calibration says: the best and the default over fresh seeds, and which of the best to recommend.

Reads a run and writes nothing; the trainings are `loop.calibration`'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evo_tune.genome.trial import Candidate, Trial
from evo_tune.genome.values import genome_key
from evo_tune.store.files import read_calibration
from evo_tune.store.run import Run

__all__ = ["Calibrated", "calibrated", "contenders", "is_default", "is_rounding", "recommended"]


ROUNDING = 1e-12
"""Share of a value below which a difference is taken for rounding: some thousand times that of one operation."""


def is_rounding(difference: float, *values: float) -> bool:
    """Say whether a difference is so small beside the values from which it comes that it tells nothing."""
    return abs(difference) <= ROUNDING * max(map(abs, values))


@dataclass(frozen=True)
class Calibrated:
    """The first objective of one genome over fresh seeds.

    Args:
        id: The trial whose genome it is.
        values: One value per seed that trained well.
        failures: Seeds that did not.
    """

    id: int
    values: tuple[float, ...]
    failures: int

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN without any."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def error(self) -> float:
        """Standard error of the mean; NaN for fewer than two seeds, 0 if they differ by no more than rounding does."""
        if len(self.values) < 2:
            return math.nan
        error = float(np.std(self.values, ddof=1) / math.sqrt(len(self.values)))
        return 0.0 if is_rounding(error, *self.values) else error


def contenders(run: Run) -> list[Candidate]:
    """Return the default, if it has a result, and the best candidates, as many as the last session wants."""
    ranked = run.ranked()
    chosen = [*(trial for trial in ranked if is_default(trial, run)), *_leaders(run, ranked)]
    return list({trial.id: trial.candidate for trial in chosen}.values())


def is_default(trial: Trial, run: Run) -> bool:
    """Say whether a trial is of the default genome, which was born first."""
    return genome_key(trial.genome) == genome_key(run.candidates[0].genome)


def _leaders(run: Run, ranked: list[Trial]) -> list[Trial]:
    count = run.sessions[-1].calibrate_best if run.sessions else 1
    return [trial for trial in ranked[:count] if trial.feasible == ranked[0].feasible]


def recommended(run: Run) -> Trial | None:
    """Return the trial to recommend: the best over fresh seeds where all of the best have them, else the best.

    Those with a seed that failed come last. Any of them would be somewhat flattered by having been chosen on its
    one result; fresh seeds have no such favourite.
    """
    rows = {row.id: row for row in calibrated(run)} if len(run.objectives) == 1 else {}
    if not rows:  # as long as a run goes on, this is asked for again and again
        return run.leader
    chosen = _leaders(run, ranked := run.ranked())
    if not all(trial.id in rows and rows[trial.id].values for trial in chosen):
        return ranked[0]
    sign = run.objectives[0].sign
    return min(chosen, key=lambda trial: (trial.violation, rows[trial.id].failures, sign * rows[trial.id].mean))


def calibrated(run: Run) -> list[Calibrated]:
    """Return the calibrated values of the default and the best, where there are any."""
    done = read_calibration(run)
    if not done:
        return []
    rows = [_values(candidate, run, done) for candidate in contenders(run)]
    return [row for row in rows if row.values or row.failures]


def _values(candidate: Candidate, run: Run, done: Sequence[Trial]) -> Calibrated:
    key = genome_key(candidate.genome)
    mine = [trial for trial in done if genome_key(trial.genome) == key]
    values = tuple(run.objectives[0].value(trial.losses[0]) for trial in mine if trial.losses is not None)
    return Calibrated(candidate.id, values, len(mine) - len(values))
