"""Final calibration: the best and the default trained again with fresh seeds, outside ids and history (law 10).

The best of many noisy results is partly luck; only seeds that took no part in the search can say by
how much it really beats the default.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evo_tune.genome.space import genome_key
from evo_tune.genome.trial import Candidate, Outcome, Trial
from evo_tune.store.run import Run

__all__ = ["Calibrated", "calibrated", "calibration_work", "collect", "is_default", "winner"]


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
        """Standard error of the mean; NaN for fewer than two seeds."""
        return float(np.std(self.values, ddof=1) / math.sqrt(len(self.values))) if len(self.values) > 1 else math.nan


def calibration_seed(run_seed: int, number: int) -> int:
    """Return a seed that no trial of the run has used; the same for every genome, so they are paired."""
    return int(np.random.SeedSequence([run_seed, 2, number]).generate_state(1)[0])


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


def winner(run: Run) -> Trial | None:
    """Return the trial to recommend: the best over fresh seeds where all of the best have them, else the best.

    Those with a seed that failed come last. Any of them would be somewhat flattered by having been chosen on its
    one result; fresh seeds have no such favourite.
    """
    ranked = run.ranked()
    if not ranked:
        return None
    sign = run.objectives[0].sign
    rows = {row.id: row for row in calibrated(run)}
    chosen = _leaders(run, ranked)
    if len(run.objectives) > 1 or not all(trial.id in rows and rows[trial.id].values for trial in chosen):
        return ranked[0]
    return min(chosen, key=lambda trial: (trial.violation, rows[trial.id].failures, sign * rows[trial.id].mean))


def calibration_work(run: Run, seeds: int) -> list[tuple[Candidate, str]]:
    """Return what is still to be trained: candidates with fresh seeds, and the names of their folders.

    Args:
        run: A run with its trials done.
        seeds: Fresh seeds per genome. A default that nothing has beaten needs none.
    """
    chosen = contenders(run)
    if not seeds or len(chosen) < 2:
        return []
    done = {_key(trial.candidate) for trial in run.calibration()}
    wanted = [
        (replace(candidate, seed=calibration_seed(run.manifest.seed, number), resumes=None, stop_if=()), number)
        for number in range(1, seeds + 1)
        for candidate in chosen
    ]
    return [
        (candidate, f"calibration-{candidate.id:06d}-{number}")
        for candidate, number in wanted
        if _key(candidate) not in done
    ]


def _key(candidate: Candidate) -> tuple[str, int]:
    return genome_key(candidate.genome), candidate.seed


def collect(run: Run, candidate: Candidate, outcome: Outcome) -> None:
    """Add one result to the run's calibration file, durably."""
    run.write_calibration(
        [*run.calibration(), Trial.of(candidate, outcome.settled(), -1, run.objectives, run.constraints)]
    )


def calibrated(run: Run) -> list[Calibrated]:
    """Return the calibrated values of the default and the best, where there are any."""
    done = run.calibration()
    rows = [_values(candidate, run, done) for candidate in contenders(run)]
    return [row for row in rows if row.values or row.failures]


def _values(candidate: Candidate, run: Run, done: Sequence[Trial]) -> Calibrated:
    key = genome_key(candidate.genome)
    mine = [trial for trial in done if genome_key(trial.genome) == key]
    values = tuple(run.objectives[0].value(trial.losses[0]) for trial in mine if trial.losses is not None)
    return Calibrated(candidate.id, values, len(mine) - len(values))
