"""The limits of a run, which are totals over all sessions, and the end of a run with a limit in hours.

The deadline says which trainings may begin, when running ones end, and which comparison fits.

A training begins only if it probably ends before the time that the final comparison needs. The comparison is planned
from the durations of its genomes, and made smaller where it would not end in time. A training that takes longer than
predicted is ended without a result, so a longer run trains it again. The plan depends on the clock, so it is recorded.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from evo_tune.errors import OptionError, RunError
from evo_tune.forecast import CLOSING_SECONDS, comparison_end_times, comparison_seconds
from evo_tune.forecast.clock import Clock
from evo_tune.genome.history import History
from evo_tune.genome.trial import Candidate, Proposal
from evo_tune.report.final_comparison import FinalComparison, FreshTraining, Results
from evo_tune.report.recommendation import comparison_as_requested, comparison_results
from evo_tune.report.summary import (
    DONE_CHANCE,
    DONE_REASON,
    describe_more_trials,
    predict_more_trials,
    total_cost,
    training_share,
)
from evo_tune.settings import LIMITS, SessionSettings
from evo_tune.store.run import Run
from evo_tune.store.run_folders import run_reference

# Tolerance for the budget, because sums of thirds are not exact.
SLACK = 1e-9

# Largest share of the hours that the final comparison may take, where it has to be smaller than asked for.
SHARE = 0.25

# Largest share of the hours that the smallest comparison may take; beyond it there is none.
MOST = 0.5

# Factor on the predicted time of a comparison that is planned; none once it has begun.
MARGIN = 1.1

# A comparison is planned with fewer finalists if it then reaches at least so many seeds in time: a gain of two standard
# deviations between seeds is shown in a third of the runs with two seeds, and in nine tenths with four
# (benchmarks/LOG.md).
ENOUGH_SEEDS = 3

# Ratio of the predicted time to the time that is left, up to which the smallest comparison is tried.
HOPE = 1.5

# Seconds that a slot needs after its training was ended.
RESTART = 1.0

# Seconds that a comparison takes beside its trainings: they wait for the last ones of the search and for each other.
START = 2.0


T = TypeVar("T")


@dataclass
class Deadline:
    """The limit in hours of a session.

    Args:
        run: Run in progress.
        session: Its session, with a limit in hours.
        clock: Durations of its trainings.
        slots: Number of slots (int ≥ 1).
        elapsed: Returns the seconds that count towards the limit.
        after: Returns the seconds to leave after the final comparison, from those of one more training of the best
            genome: `evo-tune auto` trains a model then.
    """

    run: Run
    session: SessionSettings
    clock: Clock
    slots: int
    elapsed: Callable[[], float]
    after: Callable[[float], float] = lambda training: 0.0
    # Numbers that change with each result, by name, with the state of the clock that they follow from.
    _memo: dict[str, tuple[Any, Any]] = field(default_factory=dict, init=False)

    @property
    def limit_seconds(self) -> float:
        """The limit in seconds."""
        return (self.session.hours or 0.0) * 3600

    @property
    def remaining(self) -> float:
        """Seconds until the trainings must have ended. The end of the workers, the report and `after` need the rest."""
        return self.limit_seconds - CLOSING_SECONDS - self._rest() - self.elapsed()

    def _remember(self, name: str, make: Callable[[], T]) -> T:
        """Return what a function makes, called again only after a new result or in a wider space."""
        state = self.clock.state
        if name not in self._memo or self._memo[name][0] != state:
            self._memo[name] = state, make()
        made: T = self._memo[name][1]
        return made

    # The search.

    def limit_reason(self) -> str | None:
        """Return the reached limit in words; None while a training may begin."""
        if self.run.planned is not None or self.remaining <= self._reserve()[0]:
            return self.reached_reason()
        return None

    def fits(self, proposal: Candidate | Proposal) -> bool:
        """Return whether a training probably ends before the time that is reserved for the final comparison.

        It may take longer: then it is ended (`is_over`), and no more is lost than the slot would have been idle.
        """
        share = training_share(self.run, proposal)
        time_left = self.remaining - self._reserve()[0]
        return share <= 0.0 or self.clock.predict_seconds(proposal.genome, share) <= time_left

    def is_over(self) -> bool:
        """Return whether the search must end now, its running trainings included."""
        least = self._reserve()[1]
        return self.remaining <= least + (RESTART if least else 0.0)

    def reached_reason(self) -> str:
        """Return in words that the limit is reached; the text is true during and after the final comparison."""
        hours, rest_uses = f"{self.session.hours:g} hours", []
        if self._reserve()[0] > 0.0 and self.remaining > 0.0:
            rest_uses.append("the final comparison")
        if self._rest() > 0.0:
            rest_uses.append("the final training")
        if not rest_uses:
            return f"{hours} are over"
        return f"the search's part of {hours} is over (the rest is for {' and '.join(rest_uses)})"

    def needed_hours(self, trainings: int) -> tuple[float, float] | None:
        """Return the seconds of a training, and the hours in which some more and the final comparison probably end.

        Args:
            trainings: Number of full trainings.

        Returns:
            Both; None if the duration of a training is unknown.
        """
        default_seconds = self.clock.predict_seconds(self.clock.space().default())
        if not default_seconds:
            return None
        compared = comparison_seconds(self.session, default_seconds, self.slots, len(self.run.patches))[1]
        comparison = MARGIN * (math.ceil(trainings / self.slots) * default_seconds + compared)
        # The next session starts its workers again, and the time of this one counts.
        total = 2 * self.elapsed() + comparison + START + self._rest() + CLOSING_SECONDS
        return default_seconds, float(f"{total / 3600:.2g}")

    def _rest(self) -> float:
        """Return the seconds to leave after the final comparison: for the slowest genome that may be the best."""

        def seconds() -> float:
            requested = comparison_as_requested(self.run)
            ids = (*requested.finalists, requested.default) if requested.finalists else ()
            predictions = (self.clock.repeat_seconds(id) for id in ids if id is not None)
            return self.after(max(predictions, default=self.clock.mean_seconds))

        return self._remember("rest", seconds)

    def _reserve(self) -> tuple[float, float]:
        """Return the seconds to reserve for the final comparison: those wanted, and those of the smallest one."""
        return self._remember("reserve", self._comparison_seconds)

    def _comparison_seconds(self) -> tuple[float, float]:
        if not self.session.final_seeds or not (mean_seconds := self.clock.mean_seconds):
            return 0.0, 0.0
        requested = comparison_as_requested(self.run)
        if not requested.finalists:  # nothing has beaten the default yet
            finalists = tuple(range(-self.session.finalists, 0))
            requested = FinalComparison(finalists, requested.default, self.session.final_seeds)

        def seconds(id: int) -> float:
            return mean_seconds if id < 0 else self.clock.repeat_seconds(id)

        plans = requested.largest_first_alternatives()
        ends = [comparison_end_times(plan, seconds, self.slots) for plan in plans]
        least = MARGIN * ends[-1][0]
        if least > MOST * self.limit_seconds:
            return 0.0, 0.0
        middles = [(end_times[0] + end_times[-1]) / 2 for end_times in ends]
        preferred = next((middle for middle in middles if middle <= SHARE * self.limit_seconds), least)
        return max(preferred, least) + START, least + START

    # The final comparison.

    def plan(self) -> None:
        """Plan the final comparison for the time that is left, and record it, unless that was done before."""
        if self.run.planned is not None or not self.session.final_seeds:
            return
        requested = comparison_as_requested(self.run)
        if requested.finalists:
            results = comparison_results(self.run, requested)
            self.record(self.largest_in_time(requested, results, {}, self.clock.repeat_seconds, MARGIN, ENOUGH_SEEDS))

    def largest_in_time(
        self,
        comparison: FinalComparison,
        results: Results,
        running: Mapping[FreshTraining, float],
        seconds: Callable[[int], float],
        margin: float = 1.0,
        least_seeds: int = 0,
    ) -> FinalComparison | None:
        """Return the largest comparison whose next look is in time; None if even the smallest one is too long.

        The smallest one is also returned while it may be in time (`HOPE`): no more than that time is lost.

        Args:
            comparison: The largest one.
            results: Results so far.
            running: Age of each running training, in seconds.
            seconds: Returns the seconds of a full training of a trial's genome.
            margin: Factor on the predicted times.
            least_seeds: The look with at least so many seeds is to be in time. If no comparison has one, the next look
                is.
        """
        busy = [max(0.0, seconds(training.id) - age) for training, age in running.items()]
        assumed = {**dict.fromkeys(running, 0.0), **results}
        plan, end = None, math.inf
        for seeds in dict.fromkeys((least_seeds, 0)):
            for plan in comparison.largest_first_alternatives():
                if plan.state(results).over:
                    return plan
                look = sum(count < seeds for count in plan.look_seeds)
                if look == len(plan.look_seeds):
                    continue  # it has fewer seeds
                ends = comparison_end_times(plan, seconds, self.slots, assumed, busy)
                end = ends[min(look, len(ends) - 1)] if ends else max(busy, default=0.0)
                if margin * end <= self.remaining:
                    return plan
        return plan if end <= HOPE * self.remaining else None

    def record(self, plan: FinalComparison | None) -> None:
        """Record a plan; None for no comparison."""
        if plan is None:
            self.run.plan_comparison((), None, ())
        else:
            self.run.plan_comparison(plan.finalists, plan.default, plan.look_seeds, bool(plan.patches))


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
        changes = {**dict.fromkeys(LIMITS), "stop_when_done": False, **changes}
    session = last.with_changes(**changes)
    check_noise(session, seeds)
    return session


def limit_reason(
    run: Run, session: SessionSettings, history: History, seconds: float, deadline: Deadline | None
) -> str | None:
    """Return the reached limit in words; None if no limit is reached.

    Limits on trials do not count further trials of known genomes, for which the rules of the run may ask. The answer of
    `stop_when_done` follows from the history, so a resumed run with the same settings stops at the same point.

    Args:
        run: Run in progress.
        session: Limits.
        history: All trials so far.
        seconds: Time spent in the run so far, in seconds.
        deadline: Limit in hours of a run in slots, with the final comparison; None for a run driven by hand.
    """
    if session.budget is not None and total_cost(run) >= session.budget - SLACK:
        return f"the budget of {session.budget:g} full trainings is spent"
    if session.stop_when_done:
        prediction = predict_more_trials(history.trials, run.manifest.population)
        if prediction is not None and prediction.chance < DONE_CHANCE:
            return DONE_REASON + describe_more_trials(prediction)
    proposal_limit = proposal_limit_reason(run, session, history)
    if proposal_limit and not run.manifest.settings.genomes_have_several_trials:
        return proposal_limit
    if session.hours is not None and seconds >= session.hours * 3600:
        return f"{session.hours:g} hours are over"
    return None if deadline is None else deadline.limit_reason()


def check_noise(session: SessionSettings, seeds: int) -> None:
    """Refuse `stop_when_done` without extra seeds, which measure the seed noise.

    Raises:
        OptionError: The session sets `stop_when_done`, and no genome gets an extra seed.
    """
    if session.stop_when_done and seeds < 2:
        raise OptionError("--stop-when-done: seed noise must be known: begin the run with --seeds-per-trial 2 or more")


def proposal_limit_reason(run: Run, session: SessionSettings, history: History) -> str | None:
    """Return a reason if no new genome may be proposed, else None. Promotions and extra seeds may follow."""
    max_genomes, genomes = session.max_genomes(run.manifest.population), history.fresh_count
    if genomes < max_genomes:
        return None
    excess = f" (the run has {genomes})" if genomes > max_genomes else ""
    return f"the limit of {max_genomes:.0f} trials is reached{excess}"


def check_any_success(run: Run, session: SessionSettings) -> None:
    """Refuse to continue if the first trials all failed for one reason, or if a whole generation has no value.

    Args:
        run: Run in progress.
        session: Its `give_up_after` is the number of first trials; 0 allows any failures.

    Raises:
        RunError: No trial has a value; the message has the error.
    """
    outcomes, patience = run.outcomes, session.give_up_after
    if not patience or any(outcome.status == "ok" for outcome in outcomes.values()):
        return
    causes = {outcome.cause for outcome in outcomes.values()}
    first, last = outcomes[run.recorded[0]], outcomes[run.recorded[-1]]
    failed_alike = len(outcomes) >= patience and len(causes) == 1 and first.status == "failed"
    if not failed_alike and len(outcomes) < run.manifest.population:
        return
    remedy = f"correct this and start a new run, or continue with `evo-tune resume {run_reference(run.folder)}"
    if failed_alike:
        message = f"the first {len(outcomes)} trials failed alike: {first.error}"
        raise RunError(f"{message}; {remedy} --accept-changes`")
    message = f"all {len(outcomes)} trials so far ended without a value"
    raise RunError(f"{message}, the last with {last.status}: {last.error}; {remedy} --give-up-after 0`")
