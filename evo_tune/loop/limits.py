"""Limits of a run, which are totals over all sessions, and the check that any trial succeeds at all.

The module returns the reason to stop in words; `Search` acts on it.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from evo_tune.errors import OptionError, RunError
from evo_tune.forecast.ahead import CLOSING, comparison_ends, comparison_trainings
from evo_tune.genome.history import History
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.values import Genome
from evo_tune.report.recommendation import comparison_of
from evo_tune.report.summary import DONE, DONE_BY_ITSELF, further, in_words, mean_seconds, spent
from evo_tune.rules.ruled import Ruled
from evo_tune.settings import LIMITS, SessionSettings
from evo_tune.store.places import as_typed
from evo_tune.store.run import Run

GENERATIONS = 5
"""Default limit in generations, for a run without any limit."""

SLACK = 1e-9
"""Tolerance for the budget, because sums of thirds are not exact."""

LATEST = 24
"""Number of latest full trainings that are used to predict durations."""

LIKE = 5
"""Number of the most similar of these trainings that predict the duration of a genome."""


def next_session(last: SessionSettings, changes: Mapping[str, Any], seeds: int) -> SessionSettings:
    """Return the settings of the next session; new limits replace all earlier ones.

    Args:
        last: Settings of the last session.
        changes: Settings that the user gives now, by name.
        seeds: Maximum number of seeds per genome.

    Raises:
        OptionError: See `check_noise`.
    """
    if set(LIMITS) & changes.keys():
        last = last.unlimited()
    session = last.but(**changes)
    check_noise(session, seeds)
    return session


def limited(session: SessionSettings) -> SessionSettings:
    """Return the settings with the default limit if none is set."""
    return session if session.limited else session.but(generations=GENERATIONS)


def limit_reached(
    run: Run, session: SessionSettings, history: History, strategy: Ruled, seconds: float, slots: int
) -> str | None:
    """Return the reached limit in words; None if no limit is reached.

    Args:
        run: Run in progress.
        session: Limits.
        history: All trials so far.
        strategy: Strategy of the run. Its rules may ask for more trials of known genomes; limits on trials do not
            count these.
        seconds: Time spent in the run so far, in seconds.
        slots: Number of slots of the final comparison; 0 for a run that is driven by hand, which has none.
    """
    if session.budget is not None and spent(run) >= session.budget - SLACK:
        return f"the training of {session.budget:g} full ones is spent"
    born = all_born(run, session, history)
    if done := done_enough(session, history, run.manifest.population):
        return done
    if born and not strategy.settings.continues:
        return born
    if session.hours is not None and seconds >= session.hours * 3600:
        return f"{session.hours:g} hours are over"
    left = math.inf if session.hours is None else session.hours * 3600 - seconds
    if left < math.inf and _reserve(run, session, history, slots, left) > left:
        return f"{session.hours:g} hours are over, except for the final comparison"
    return None


def done_enough(session: SessionSettings, history: History, population: int) -> str | None:
    """Return the reason to stop if `stop_when_done` is set and further improvement is likely to be below seed noise.

    The answer follows from the history, so a resumed run with the same settings stops at the same point.
    """
    if not session.stop_when_done:
        return None
    found = further(history.trials, population)
    return None if found is None or found.chance >= DONE else DONE_BY_ITSELF + in_words(found)


def check_noise(session: SessionSettings, seeds: int) -> None:
    """Refuse `stop_when_done` without extra seeds, which measure the seed noise.

    Raises:
        OptionError: The session sets `stop_when_done`, and no genome gets an extra seed.
    """
    if session.stop_when_done and seeds < 2:
        raise OptionError(
            "--stop-when-done: seed noise must be known: give --seeds-per-trial 2 (or more) when the run begins"
        )


def _reserve(run: Run, session: SessionSettings, history: History, slots: int, room: float) -> float:
    """Return the time until the run would end, in seconds: the mean of the cases without and with one more training.

    With the mean, a run ends about as often before its limit as after it. The result includes running trainings, the
    middle of the possible durations of the final comparison, and the report. It is 0 if much more time is left.
    """
    if not session.final_seeds or not slots or not (mean := mean_seconds(run)):
        return 0.0
    whole = [run.outcomes[id].seconds for id in run.recorded if run.candidates[id].whole and run.outcomes[id].metrics]
    if room > max(whole, default=mean) * (comparison_trainings(session).most + slots):
        return 0.0
    lately, now = Lately.of(run, history.space, mean), time.time()
    out = [one for one in run.candidates if one.id not in run.outcomes]
    left = [_left([each * one.budget for each in lately.of_like(one.genome)], now - run.born_at[one.id]) for one in out]
    ends = max(left, default=0.0)
    return (ends + max(ends, lately.usual)) / 2 + _comparison(run, session, lately, slots) + CLOSING


@dataclass(frozen=True)
class Lately:
    """The latest full trainings of a run; only these are used, because the load of the machine changes.

    Args:
        space: Space of the run.
        seconds: Duration of each training, in seconds.
        units: Unit coordinates of their genomes. Shape (trainings, genes).
    """

    space: SearchSpace
    seconds: tuple[float, ...]
    units: np.ndarray

    @classmethod
    def of(cls, run: Run, space: SearchSpace, mean: float) -> Lately:
        """Return the latest full trainings of a run; without any, a training takes `mean` seconds."""
        ids = [id for id in run.recorded if run.candidates[id].whole and run.outcomes[id].metrics][-LATEST:]
        units = [space.encode(run.candidates[id].genome) for id in ids]
        return cls(space, tuple(run.outcomes[id].seconds for id in ids) or (mean,), np.array(units))

    @property
    def usual(self) -> float:
        """Mean seconds."""
        return fmean(self.seconds)

    def of_like(self, genome: Genome) -> list[float]:
        """Return the durations of the most similar genomes, in seconds."""
        if not len(self.units):
            return list(self.seconds)
        far = np.abs(self.units - self.space.encode(genome)).sum(axis=1)
        return [self.seconds[at] for at in np.argsort(far, kind="stable")[:LIKE]]


def _left(seconds: Sequence[float], age: float) -> float:
    """Return the expected remaining time of a training, in seconds, given its age and the times of others."""
    longer = [each - age for each in seconds if each > age]
    return fmean(longer) if longer else fmean(seconds) / 2


def _comparison(run: Run, session: SessionSettings, lately: Lately, slots: int) -> float:
    """Return the duration of the final comparison, in seconds: the mean of its first and its last possible end.

    A finalist's duration is predicted from recent similar trainings, because the load of the machine may have changed
    since its own. The default was trained first, while workers started. No recent training is similar to it, so its
    duration is capped at the mean of recent ones.
    """
    comparison = comparison_of(run)
    finalists = [median(lately.of_like(run.candidates[id].genome)) for id in comparison.finalists] or [lately.usual]
    default = None if comparison.default is None else min(run.outcomes[comparison.default].seconds, lately.usual)
    ends = comparison_ends(session.final_seeds, finalists, default, slots)
    return (ends[0] + ends[-1]) / 2


def all_born(run: Run, session: SessionSettings, history: History) -> str | None:
    """Return a reason if no new genome may be proposed, else None. Promotions and extra seeds may follow."""
    births = session.births(run.manifest.population)
    more = history.fresh_count - births
    if more < 0:
        return None
    return f"all {births:.0f} births are made" + (f", and {more:.0f} more before" if more else "")


def check_hope(run: Run) -> None:
    """Refuse to continue if every result of a whole generation is a failure.

    Raises:
        RunError: No result is ok; the message names the last error.
    """
    outcomes = run.outcomes
    if len(outcomes) < run.manifest.population or any(one.status == "ok" for one in outcomes.values()):
        return
    last = outcomes[run.recorded[-1]]
    devices = Counter(one.device or "?" for one in outcomes.values())
    where = ", ".join(f"{many} on {device}" for device, many in devices.items())
    raise RunError(
        f"all {len(outcomes)} evaluations so far ended without a value ({where}), the last with {last.status}: "
        f"{last.error}; mend that and start a new run, or `evo-tune resume {as_typed(run.folder)} --accept-changes`"
    )
