"""What a run's calibration says: how the race of the finalists stands, and which trial to recommend.

Reads a run and writes nothing; the trainings are `loop.calibration`'s, the rules of the race `racing`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evo_tune.genome.trial import Candidate, Objective, Trial
from evo_tune.genome.values import genome_key, is_same
from evo_tune.report import believed
from evo_tune.report.racing import ROUNDING, Fresh, Purpose, Race, Standing, most_numbers
from evo_tune.store.calibration import read_calibration
from evo_tune.store.run import Run

__all__ = [
    "Calibrated",
    "calibrated",
    "calibration_seed",
    "is_default",
    "race_of",
    "recommended",
    "reported",
    "results_of",
    "standing",
]


STREAMS: Mapping[Purpose, int] = {"report": 2, "choose": 3}
"""The trainings of the search have 1 (`genome.trial.trial_seed`), births 0."""


def calibration_seed(run_seed: int, number: int, purpose: Purpose = "report") -> int:
    """Return a seed that no trial of the run has used; the same for every genome, so they are paired."""
    return int(np.random.SeedSequence([run_seed, STREAMS[purpose], number]).generate_state(1)[0])


@dataclass(frozen=True)
class Calibrated:
    """The first objective of one genome over fresh seeds, on the test set where there is one (see `reported`).

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
        return error if error > ROUNDING * max(map(abs, self.values)) else 0.0


def reported(run: Run) -> Objective:
    """Return what the reporting seeds are compared by: the first objective, on the test set if the evaluator has one.

    Finalists are chosen by the objective itself, so the test set has no part in what was found.
    """
    first = run.objectives[0]
    return type(first)(run.manifest.tests.get(first.metric, first.metric))


def is_default(trial: Trial, run: Run) -> bool:
    """Say whether a trial is of the default genome, which was born first."""
    default = run.candidates[0].genome
    return trial.genome == default and is_same(trial.genome, default)  # first what is quick


def race_of(run: Run) -> Race:
    """Return the race between the best and the default, as the last session wants it that wanted any.

    With several objectives the first of the first one's ranking is the only finalist: the front is what is looked for.
    """
    wanting = [session for session in run.sessions if session.calibrate][-1:]
    seeds, best = (wanting[0].calibrate, wanting[0].calibrate_best) if wanting else (0, 1)
    ranked = believed.ranked(run)
    default = next((trial.id for trial in ranked if is_default(trial, run)), None)
    leaders = _leaders(ranked, best if len(run.objectives) == 1 else 1)
    return Race(tuple(trial.id for trial in leaders if trial.id != default), default, seeds)


def _leaders(ranked: Sequence[Trial], count: int) -> list[Trial]:
    return [trial for trial in ranked[:count] if trial.feasible == ranked[0].feasible]


def results_of(run: Run, race: Race) -> dict[Fresh, float | None]:
    """Return the losses of a race's trainings so far, by the first objective or `reported`; None for a failure."""
    done = {_key(trial.candidate): trial for trial in read_calibration(run)}
    found: dict[Fresh, float | None] = {}
    if not done:
        return found
    by: dict[Purpose, Objective] = {"choose": run.objectives[0], "report": reported(run)}
    for purpose, most in most_numbers(race).items():
        for number in range(1, most + 1):
            seed = calibration_seed(run.manifest.seed, number, purpose)
            for id in (*race.finalists, *(() if race.default is None else (race.default,))):
                if (key := (genome_key(run.candidates[id].genome), seed)) in done:
                    found[Fresh(id, purpose, number)] = _loss(done[key], by[purpose])
    return found


def _loss(trial: Trial, by: Objective) -> float | None:
    """Return a training's loss; None if it failed, or has no finite one."""
    loss = by.loss(trial.outcome.metrics) if trial.losses and by.metric in trial.outcome.metrics else math.nan
    return loss if math.isfinite(loss) else None


def _key(candidate: Candidate) -> tuple[str, int]:
    return genome_key(candidate.genome), candidate.seed


def standing(run: Run) -> Standing | None:
    """Return how the race stands; None if it was not begun."""
    if not read_calibration(run):
        return None
    race = race_of(run)
    results = results_of(run, race)
    return race.standing(results) if results else None


def recommended(run: Run) -> Trial | None:
    """Return the trial to recommend: once a race has ended, the finalist that was chosen, else the best of the search.

    It is the default where that did better on the reporting seeds: failed on fewer, or had the lower mean.
    """
    rows = {row.id: row for row in calibrated(run)} if len(run.objectives) == 1 else {}
    if not rows:  # as long as a run goes on, this is asked for again and again
        return next(iter(believed.ranked(run)), None) if run.manifest.replicates > 1 else run.leader
    ranked = run.ranked()
    race = standing(run)
    assert race is not None
    chosen = next(trial for trial in ranked if trial.id == race.chosen)
    default = next((trial for trial in ranked if is_default(trial, run)), None)
    if default is None or default.violation > chosen.violation:
        return chosen
    more = rows[chosen.id].failures - rows[default.id].failures
    return default if more > 0 or (more == 0 and race.gain < 0) else chosen


def calibrated(run: Run) -> list[Calibrated]:
    """Return the values of the default and of the chosen finalist over the reporting seeds, once a race has ended."""
    stands = standing(run)
    if stands is None or not stands.over or stands.chosen is None:
        return []
    race = race_of(run)
    results, value = results_of(run, race), reported(run).value
    found = []
    for id in (race.default, stands.chosen):
        if id is not None:
            losses = [results[Fresh(id, "report", number)] for number in range(1, stands.seeds + 1)]
            values = tuple(value(loss) for loss in losses if loss is not None)
            found.append(Calibrated(id, values, len(losses) - len(values)))
    return found
