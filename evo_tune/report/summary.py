"""What a saved run says: best, front, course, failures, importances, the closing comparison.

Pure functions of a Run; nothing here prints, reads an evaluator or trains.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from evo_tune.genome.genes import Choice
from evo_tune.genome.importance import importance, rank_correlation
from evo_tune.genome.trial import Candidate, Trial
from evo_tune.report import believed
from evo_tune.report.calibration import Calibrated, calibrated, is_default, recommended, reported, standing
from evo_tune.report.racing import Standing
from evo_tune.store.run import Run

__all__ = [
    "Closing",
    "best_so_far",
    "born",
    "caveats",
    "closing",
    "costs",
    "dominates",
    "failures",
    "front",
    "full_seconds",
    "further_generations",
    "heirs",
    "importances",
    "inheritance",
    "leaders",
    "mean_seconds",
    "seeded",
    "spent",
    "statuses",
    "trained_in_full",
]

TIMES = ("s", "ms", "1/s", "tokens/s")
"""Units of metrics that are times, or rates."""

ENOUGH = 20
"""Fewest good trials from which importances are worth a look."""


LEAST = 0.01
"""Least that a training counts for: one whose every training fails at once ends all the same."""


@dataclass(frozen=True)
class Closing:
    """How a run ended up, on its first objective.

    Args:
        metric: The first objective's metric.
        direction: 'min' or 'max'.
        best: The trial to recommend (see `calibration.recommended`); None if none is ok and trained in full.
        default: The default genome's full trial; None if it has no value.
        calibrated_best: Best over fresh seeds that had no part in its choice, if the run was calibrated.
        calibrated_default: Default over the same seeds.
        evaluations: Recorded results.
        failures: Those that are neither ok nor pruned.
        partial: Those that are ok and not of a full training.
        pruned: Those that were stopped because their curve was hopeless.
        seconds: Wall time over all sessions.
        race: How the race of the finalists stands; None without one.
        seeded: What the best's value in the search is of: 'one seed', or 'the mean of N seeds'.
        expected: What is expected of the best with other seeds (see `believed`); None where nothing is.
        reported: The metric over fresh seeds: that of the test set where the evaluator has one; else `metric`.
    """

    metric: str
    direction: str
    best: Trial | None
    default: Trial | None
    calibrated_best: Calibrated | None
    calibrated_default: Calibrated | None
    evaluations: int
    failures: int
    partial: int
    pruned: int
    seconds: float
    race: Standing | None = None
    seeded: str = "one seed"
    expected: float | None = None
    reported: str = ""

    @property
    def tested(self) -> bool:
        """Whether what is said of fresh seeds is of the test set."""
        return self.reported not in ("", self.metric)

    @property
    def raced(self) -> bool:
        """Whether a race has ended in a comparison; what follows is of the chosen finalist then."""
        return self.race is not None and self.race.over and self.race.pairs > 0

    @property
    def gain(self) -> float:
        """By how much the best beats the default (above 0: better); over fresh seeds where there are any.

        After a race it is of the chosen finalist, over the reporting seeds on which both trained well: below 0 where
        the default is recommended for its mean.
        """
        if self.race is not None and self.raced:
            return self.race.gain
        if self.best and self.default and self.best.losses and self.default.losses:
            return self.default.losses[0] - self.best.losses[0]
        return math.nan

    @property
    def gain_error(self) -> float:
        """Standard error of `gain`, paired by seed; NaN without any."""
        return self.race.error if self.race is not None and self.raced else math.nan

    @property
    def beaten(self) -> bool | None:
        """Whether the best beats the default, by the test of the race (`racing`); None if that was not measured."""
        return self.race.beats if self.race is not None and self.race.over else None


def closing(run: Run) -> Closing:
    """Return how a run ended up."""
    best = recommended(run)
    default = next((trial for trial in run.ranked() if is_default(trial, run)), None)
    rows = {row.id: row for row in calibrated(run)}
    return Closing(
        metric=run.objectives[0].metric,
        direction=run.objectives[0].direction,
        best=best,
        default=default,
        calibrated_best=rows.get(best.id) if best else None,
        calibrated_default=rows.get(default.id) if default else None,
        evaluations=len(run.outcomes),
        failures=sum(outcome.status not in ("ok", "pruned") for outcome in run.outcomes.values()),
        partial=sum(outcome.status == "ok" and run.candidates[id].budget < 1 for id, outcome in run.outcomes.items()),
        pruned=sum(outcome.status == "pruned" for outcome in run.outcomes.values()),
        seconds=run.seconds,
        race=standing(run),
        seeded="one seed" if best is None else seeded(best, run),
        expected=None if best is None else believed.expected(run, best),
        reported=reported(run).metric,
    )


def seeded(trial: Trial, run: Run) -> str:
    """Return in words what a ranked trial's value in the search is of: 'one seed' or 'the mean of N seeds'."""
    key = trial.key
    count = sum(one.rankable and one.key == key for one in run.trials())
    return "one seed" if count < 2 else f"the mean of {count} seeds"


def leaders(run: Run, most: int) -> list[Trial]:
    """Return the best trials of a run, the recommended one first, the others by their values in the search."""
    best, ranked = recommended(run), run.ranked()
    return sorted(ranked, key=lambda trial: best is None or trial.id != best.id)[:most]  # stable


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Say whether losses `a` are nowhere worse than `b`, and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(run: Run) -> list[Trial]:
    """Return the trials that no other dominates, best first objective first; one for each set of losses.

    All are within the constraints; where none is, the front is the trial that breaks them least.
    """
    ranked = run.ranked()
    if ranked and not ranked[0].feasible:
        return ranked[:1]
    kept: list[Trial] = []
    for trial in (
        trial for trial in ranked if trial.feasible
    ):  # sorted by losses, so a trial can only be dominated by an earlier one
        losses = trial.losses or ()
        if not any(dominates(other.losses or (), losses) or other.losses == losses for other in kept):
            kept.append(trial)
    return kept


def best_so_far(run: Run) -> list[tuple[int, float, int]]:
    """Return each improvement of the first objective: (evaluations until then, value, trial id)."""
    steps: list[tuple[int, float, int]] = []
    lowest = math.inf
    for count, id in enumerate(run.recorded, 1):
        trial = run.trial(id)
        counts = trial.rankable and trial.feasible and not trial.candidate.replicate
        if counts and trial.losses is not None and trial.losses[0] < lowest:
            lowest = trial.losses[0]
            steps.append((count, run.objectives[0].value(lowest), id))
    return steps


def born(run: Run) -> int:
    """Return how many genomes were born: what limits count."""
    return sum(candidate.fresh for candidate in run.candidates)


def trained_in_full(run: Run) -> int:
    """Return how many trainings were, or are to be, of the whole budget."""
    return sum(candidate.budget == 1.0 for candidate in run.candidates)


def heirs(run: Run) -> int:
    """Return how many genomes began with weights of others."""
    return sum(candidate.inherits is not None for candidate in run.candidates)


def further_generations(run: Run) -> int:
    """Return a limit in generations that lets a run go on for three more."""
    return max(2, -(-born(run) // run.manifest.population) + 3)


def spent(run: Run) -> float:
    """Return the training begun in a run, in full trainings: the sum of `costs`."""
    return sum(costs(run).values())


def costs(run: Run) -> dict[int, float]:
    """Return what each candidate cost, in full trainings.

    A promotion counts from where the rung was left: a decay that was thrown away has been trained all the same. What
    was pruned or failed counts what it had: up to the last point of its curve, or, where it reported none, by its
    seconds and the median pace of the trainings that are ok; at least a hundredth. As long as none is ok, one without a
    curve counts whole. It follows from the journal alone.
    """
    found: dict[int, float] = {}
    pace: float | None = None
    for candidate in run.candidates:
        outcome, added = run.outcomes.get(candidate.id), _added(run, candidate)
        if outcome is None or outcome.status == "ok":
            found[candidate.id] = added
        elif outcome.curve:
            found[candidate.id] = min(max(outcome.curve[-1][0] - candidate.budget + added, LEAST), added)
        else:
            pace = full_seconds(run) if pace is None else pace
            found[candidate.id] = min(max(outcome.seconds / pace, LEAST), added) if pace > 0 else added
    return found


def _added(run: Run, candidate: Candidate) -> float:
    """Return the part of a full training that a candidate is born for."""
    if candidate.resumes is None:
        return candidate.budget
    budget, outcome = run.candidates[candidate.resumes].budget, run.outcomes.get(candidate.resumes)
    return candidate.budget - (budget if outcome is None else outcome.left_at(budget))


def full_seconds(run: Run) -> float:
    """Return the seconds of a full training: the median pace of all trainings that are ok; 0 if there are none."""
    paces = [seconds / added for seconds, added in _done(run)]
    return median(paces) if paces else 0.0


def mean_seconds(run: Run) -> float:
    """Return the mean seconds of a full training, by all trainings that are ok, in part too; 0 if there are none."""
    done = _done(run)
    return sum(seconds for seconds, _ in done) / sum(added for _, added in done) if done else 0.0


def _done(run: Run) -> list[tuple[float, float]]:
    """Return the seconds of each training that is ok, and the part of a full one that it was."""
    oks = [run.candidates[id] for id in run.recorded if run.outcomes[id].status == "ok"]
    rows = [(run.outcomes[one.id].seconds, _added(run, one)) for one in oks]
    return [(seconds, added) for seconds, added in rows if added > 0]


def inheritance(trials: Iterable[Trial]) -> tuple[float, int]:
    """Return how far results that began with others' weights agree with those of the same genomes from scratch.

    Args:
        trials: A run's.

    Returns:
        Rank correlation of the first objective, NaN for fewer than three, and over how many genomes. Many of them were
        chosen by their inherited losses, which narrows the range and lowers the figure.
    """
    known = {trial.id: trial for trial in trials}
    pairs = [(known[one.candidate.confirms], one) for one in known.values() if one.candidate.confirms is not None]
    both = [(heir.losses[0], own.losses[0]) for heir, own in pairs if heir.losses and own.losses]
    return (rank_correlation(*zip(*both, strict=True)) if len(both) > 2 else math.nan), len(both)


def caveats(run: Run) -> list[str]:
    """Return why a run would not come out the same again; `verify` holds all the same."""
    found = []
    if run.manifest.options.get("seconds") is not None:
        found.append("its budget is in seconds")
    times = [o.metric for o in run.objectives if o.metric == "seconds" or run.manifest.units.get(o.metric) in TIMES]
    if times:
        found.append(f"{', '.join(times)} depends on the machine")
    if any(outcome.status == "timeout" for outcome in run.outcomes.values()):
        found.append("a timeout fired")
    return found


def statuses(run: Run) -> dict[str, int]:
    """Return how many results have each status, ok first, then by number."""
    counts = Counter(outcome.status for outcome in run.outcomes.values())
    return dict(sorted(counts.items(), key=lambda item: (item[0] != "ok", -item[1], item[0])))


def failures(run: Run) -> list[tuple[str, list[int]]]:
    """Return each error that was seen, with its status, and the trials that ended with it; the commonest first."""
    groups: dict[str, list[int]] = {}
    for id, outcome in run.outcomes.items():
        if outcome.status not in ("ok", "pruned"):
            groups.setdefault(f"{outcome.status}: {outcome.error}", []).append(id)
    return sorted(groups.items(), key=lambda item: -len(item[1]))


def importances(run: Run) -> dict[str, float]:
    """Return how much of the spread in the first objective each gene explains by itself (see `importance`).

    Returns:
        Gene name to importance, largest first; empty for fewer than 20 good trials.
    """
    trials = run.ranked()
    if len(trials) < ENOUGH:
        return {}
    losses = np.array([trial.losses[0] for trial in trials if trial.losses])
    found = {
        name: importance(
            np.array([gene.encode(trial.genome[name]) for trial in trials]),
            losses,
            unordered=isinstance(gene, Choice) and not gene.ordered,
        )
        for name, gene in run.genes.items()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))
