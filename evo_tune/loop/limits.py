"""Limits of a run, which are totals over all sessions, and the check that any trial succeeds at all.

The module returns the reason to stop in words; `Search` acts on it.
"""

from collections.abc import Mapping
from typing import Any

from evo_tune.errors import OptionError, RunError
from evo_tune.genome.history import History
from evo_tune.loop.deadline import Deadline
from evo_tune.report.summary import DONE_CHANCE, DONE_REASON, describe_more_trials, predict_more_trials, total_cost
from evo_tune.settings import LIMITS, SessionSettings
from evo_tune.store.run import Run
from evo_tune.store.run_folders import run_reference

# Tolerance for the budget, because sums of thirds are not exact.
SLACK = 1e-9


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
