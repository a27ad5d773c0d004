"""When a run is over: limits are totals, the smaller one holds, and without any value there is no hope."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Condition
from typing import Any

import pytest

from evo_tune.errors import RunError
from evo_tune.forecast import CLOSING_SECONDS
from evo_tune.forecast.clock import Clock
from evo_tune.forecast.timing import Pace
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.genome.values import Genome, genome_key
from evo_tune.loop.comparison import ComparisonJobs
from evo_tune.loop.deadline import START, Deadline
from evo_tune.loop.driving import NO_MORE_JOBS, Job
from evo_tune.loop.search import Search
from evo_tune.report.recommendation import current_comparison
from evo_tune.report.summary import RunResult, total_cost, verdict
from evo_tune.store.run import Run
from tests.conftest import QUICK, drive
from tests.loop.cases import Begin


def test_limits_are_totals_and_new_ones_replace_the_old(begin: Begin, resume: Begin) -> None:
    assert len(drive(begin("run", generations=2)).trials) == 8
    assert len(drive(resume("run")).trials) == 8
    assert len(drive(resume("run", trials=9)).trials) == 9  # generations=2 would allow 8
    again = drive(resume("run", generations=3))
    assert len(again.trials) == 12
    assert len(drive(resume("run", trials=3)).trials) == 12
    assert [session.trials for session in Run.open(again.saved.folder).sessions] == [None, None, 9, None, 3]


def test_the_smaller_of_two_limits_holds(begin: Begin, resume: Begin) -> None:
    assert len(drive(begin("run", generations=2, trials=5)).trials) == 5
    assert drive(begin("hours", generations=None, hours=1e-9)).trials == []
    assert drive(resume("hours", hours=5.0, trials=1)).finished == "the limit of 1 trials is reached"


def failing_at_once(search: Search, candidate: Candidate) -> Outcome:
    """Train for 10 seconds; every third fails in its first, one in three of them with a curve that got half way."""
    if candidate.id % 3:
        return Outcome("ok", {"loss": candidate.id / 8, "cost": 1.0}, seconds=10.0)
    return Outcome("failed", {}, ((0.5, {}),) if candidate.id % 9 == 6 else (), seconds=1.0, error="no luck")


def test_a_budget_counts_what_a_failed_training_had(begin: Begin, resume: Begin) -> None:
    search = drive(begin("run", generations=None, budget=5.0), evaluate=failing_at_once)
    run = search.saved
    failed = [len(outcome.curve) for outcome in run.outcomes.values() if outcome.status == "failed"]
    oks = len(run.outcomes) - len(failed)
    assert total_cost(run) == pytest.approx(oks + sum(0.5 if curve else 0.1 for curve in failed))
    assert 5.0 <= total_cost(run) < 6.0
    assert len(failed) >= 3
    assert len(run.outcomes) > 6
    assert total_cost(Run.open(run.folder)) == total_cost(run), "a pure function of the journal"
    assert drive(resume("run")).finished == "the budget of 5 full trainings is spent"


def test_failures_that_cost_nothing_end_a_budget_too(begin: Begin) -> None:
    def evaluate(search: Search, candidate: Candidate) -> Outcome:
        return Outcome("ok", {"loss": 1.0}, seconds=9.0) if candidate.id == 0 else Outcome("failed", error="no luck")

    assert len(drive(begin(generations=None, budget=1.1), evaluate=evaluate).trials) == 11


def test_a_failed_training_counts_whole_as_long_as_nothing_is_known(begin: Begin) -> None:
    search = begin(generations=None, budget=2.0)
    drive(search, evaluate=lambda *_: Outcome("failed", seconds=0.1, error="no luck"))
    assert len(search.trials) == 2


def deadline_of(
    search: Search, clock: list[float], slots: int = 2, pace: Pace | None = None, **fields: Any
) -> Deadline:
    """Return the limit in hours of a search whose time is that of a list."""
    return Deadline(
        run=search.saved,
        session=fields.pop("session", search.session),
        clock=Clock(search.saved, pace, lambda: search.space),
        slots=slots,
        elapsed=lambda: clock[0],
        **fields,
    )


def after_two(begin: Begin, **fields: Any) -> Search:
    """Return a search of an hour after two trainings of 100 s; the second one is the better."""
    search = begin(generations=None, hours=1.0, **{"final_seeds": 3, "finalists": 2, **fields})
    for loss in (1.0, 0.5):
        search.tell(search.ask(), Outcome("ok", {"loss": loss, "cost": 1.0}, seconds=100.0))  # type: ignore[arg-type]
    return search


def test_hours_leave_room_for_a_training_and_the_final_comparison(begin: Begin) -> None:
    fresh = begin(generations=None, hours=1.0, final_seeds=3, finalists=2)
    clock = [3597.0]
    assert deadline_of(fresh, clock).limit_reason() is None, "nothing is known"
    search = after_two(begin)
    deadline, candidate = deadline_of(search, clock), search.ask()
    assert candidate is not None
    # The middle of the comparison's looks: one finalist and the default, 2, 4 or 6 seeds, two slots.
    room = 100.0 * (2 + 6) / 2 + START + CLOSING_SECONDS
    clock[0] = 3600.0 - room - 101
    assert deadline.fits(candidate)
    assert deadline.limit_reason() is None
    clock[0] = 3600.0 - room - 99
    assert not deadline.fits(candidate)
    assert deadline.limit_reason() is None, "a shorter training may come"
    clock[0] = 3600.0 - room + 1
    assert deadline.limit_reason() == "the search's part of 1 hours is over (the rest is for the final comparison)"
    assert deadline_of(search, clock, slots=4).limit_reason() is None
    assert not deadline.is_over()
    clock[0] = 3600.0 - 1.1 * 200.0 - START - CLOSING_SECONDS - 0.9
    assert deadline.is_over(), "running trainings leave the time of the smallest comparison"
    alone = deadline_of(search, clock, session=search.session.with_changes(final_seeds=0))
    assert alone.fits(candidate)
    assert not alone.is_over()
    clock[0] = 3598.1
    assert alone.is_over()
    assert alone.limit_reason() == "1 hours are over"


def test_hours_that_are_needed_let_a_generation_and_the_final_comparison_begin(begin: Begin) -> None:
    search, pace = begin(generations=None, hours=0.01), Pace((70.0,))
    assert deadline_of(search, [10.0]).needed_hours(4) is None, "nothing is known"
    found = deadline_of(search, [10.0], pace=pace).needed_hours(4)
    assert found is not None
    assert found[0] == 70.0
    longer, candidate = search.session.with_changes(hours=found[1]), search.ask()
    assert candidate is not None
    for begun, fits in (0, True), (70, True), (1000, False):
        assert deadline_of(search, [20.0 + begun], session=longer, pace=pace).fits(candidate) == fits
    wider = deadline_of(search, [10.0], slots=4, pace=pace).needed_hours(4)
    assert wider is not None
    assert wider[1] < found[1]


def test_timed_steps_tell_what_begins_before_anything_has_ended(begin: Begin) -> None:
    search, clock = begin(generations=None, hours=1.0), [3540.0]
    candidate = search.ask()
    assert candidate is not None
    assert deadline_of(search, clock, pace=Pace((50.0,))).fits(candidate)
    assert not deadline_of(search, clock, pace=Pace((70.0,))).fits(candidate)


def test_a_promotion_takes_what_it_adds(begin: Begin, tmp_path: Path) -> None:
    parts = tmp_path / "parts.py"
    parts.write_text(QUICK + "SUPPORTS = ['budget']\n")
    search = begin(evaluator=str(parts), generations=None, hours=1.0, fidelity="1/4,1")
    first = search.ask()
    assert first is not None
    search.tell(first, Outcome("ok", {"loss": 1.0, "cost": 1.0}, seconds=30.0))
    genome = first.genome
    assert deadline_of(search, [0.0]).clock.predict_seconds(genome, 0.25) == pytest.approx(30.0)
    promoted = search.ask()
    assert promoted is not None
    assert promoted.resumes == first.id
    clock = [3600.0 - CLOSING_SECONDS - 89.0]
    assert not deadline_of(search, clock).fits(promoted), "three quarters of 120 s"
    clock[0] -= 2.0
    assert deadline_of(search, clock).fits(promoted)
    search.tell(promoted, Outcome("ok", {"loss": 1.0, "cost": 1.0}, seconds=45.0))
    durations = deadline_of(search, clock).clock
    assert durations.predict_seconds(genome, 0.75) == pytest.approx(45.0), "by other promotions"
    assert durations.predict_seconds(genome, 0.25) == pytest.approx(30.0)


def test_a_planned_comparison_stays_on_resume_and_longer_hours_plan_anew(begin: Begin, resume: Begin) -> None:
    search = after_two(begin, name="run")
    clock = [3600.0 - CLOSING_SECONDS - 1.1 * 200.0 - 1.0]
    deadline_of(search, clock).plan()
    assert deadline_of(search, [0.0]).limit_reason() is not None, "the search is over, even if a resume has more time"
    planned = current_comparison(search.saved)
    assert (planned.finalists, planned.default, planned.look_seeds) == ((1,), 0, (2, 4, 6))
    jobs = ComparisonJobs(search.saved, Condition(), lambda: False, deadline_of(search, clock))
    job = jobs.fetch(None)  # type: ignore[arg-type]
    assert isinstance(job, Job)
    clock[0] += 150.0
    jobs.record_outcome(job, Outcome("ok", {"loss": 1.0}, seconds=150.0))
    assert jobs.fetch(None) is NO_MORE_JOBS  # type: ignore[arg-type]
    assert current_comparison(search.saved).seeds == 0
    assert current_comparison(search.saved) == current_comparison(Run.open(search.saved.folder))
    clock[0] = 3600.0
    jobs.end_if_late()
    events = search.saved.journal.path.read_text().count('"event":"comparison"')
    assert events == 2, "a plan is recorded where it changes"
    assert "no final comparison" in verdict(RunResult(search.saved))
    search.close()
    again = resume("run")
    assert current_comparison(again.saved).seeds == 0, "the same limits: the plan is not made anew"
    again.close()
    longer = resume("run", hours=2.0)
    assert current_comparison(longer.saved).look_seeds == (2, 4, 6)
    assert longer.saved.planned is None


@pytest.mark.parametrize(
    ("seconds", "finalists"), [(501.0, 2), (499.0, 1), (401.0, 1), (399.0, 2), (301.0, 2), (299.0, 1)]
)
def test_a_comparison_has_four_seeds_rather_than_two_finalists(begin: Begin, seconds: float, finalists: int) -> None:
    search = after_two(begin)
    candidate = search.ask()
    assert candidate is not None
    search.tell(candidate, Outcome("ok", {"loss": 0.1, "cost": 1.0}, seconds=100.0))
    deadline_of(search, [3600.0 - CLOSING_SECONDS - 1.1 * seconds]).plan()
    # Two slots: two finalists need 100 s for the choice, 200 s for two seeds, and 200 s for two more.
    assert current_comparison(search.saved).finalists == (candidate.id, 1)[:finalists]


def test_a_comparison_whose_time_is_over_keeps_what_is_complete(begin: Begin) -> None:
    search = after_two(begin)
    clock = [1000.0]
    deadline_of(search, clock).plan()
    jobs = ComparisonJobs(search.saved, Condition(), lambda: False, deadline_of(search, clock, slots=1))
    for number in range(5):
        job = jobs.fetch(None)  # type: ignore[arg-type]
        assert isinstance(job, Job)
        if number == 4:
            break
        loss = 1.0 - job.candidate.id / 9 + job.candidate.seed % 5 / 30
        jobs.record_outcome(job, Outcome("ok", {"loss": loss}, seconds=100.0))
    jobs.end_if_late()
    assert current_comparison(search.saved).look_seeds == (2, 4, 6), "there is time"
    clock[0] = 3600.0
    assert jobs.time_is_over()
    jobs.end_if_late()
    assert current_comparison(search.saved).look_seeds == (2,)
    assert RunResult(search.saved).beaten is not None


def test_a_later_result_makes_a_plan_outdated(begin: Begin) -> None:
    search = after_two(begin)
    candidate = search.ask()
    assert candidate is not None
    deadline_of(search, [1000.0]).plan()
    assert search.saved.planned is not None
    search.tell(candidate, {"loss": 0.1, "cost": 1.0})
    assert search.saved.planned is None
    assert current_comparison(search.saved).finalists == (candidate.id, 1)


def test_an_evaluators_prediction_is_corrected_by_what_trainings_took(begin: Begin) -> None:
    search = after_two(begin)
    known = {genome_key(one.genome): 50.0 for one in search.saved.candidates}

    def estimate(genome: Genome) -> dict[str, float]:
        return {"seconds": known.get(genome_key(genome), 200.0)}

    durations = Clock(search.saved, None, lambda: search.space, estimate)
    assert durations.predict_seconds(search.saved.candidates[0].genome) == pytest.approx(100.0)
    assert durations.predict_seconds({**search.saved.candidates[0].genome, "n": 64}, 0.5) == pytest.approx(200.0)


def test_what_is_not_a_limit_is_kept_on_resume(begin: Begin, resume: Begin) -> None:
    drive(begin("run", retries=3, timeout=7.0, slots=2))
    session = resume("run", generations=4, slots=1).session
    assert (session.retries, session.timeout, session.slots, session.generations) == (3, 7.0, 1, 4)


@pytest.mark.usefixtures("here")
def test_run_without_any_limit_ends_after_five_generations(begin: Begin) -> None:
    assert len(begin(generations=None, slots=1).run().trials) == 20


@pytest.mark.usefixtures("here")
def test_run_ends_where_the_space_does(begin: Begin, tmp_path: Path) -> None:
    tiny = tmp_path / "tiny.py"
    tiny.write_text(
        "from evo_tune import Choice, Minimize, SearchSpace\n"
        "SPACE = SearchSpace(a=Choice((1, 2, 3)), b=Choice((True, False)))\n"
        "OBJECTIVES = [Minimize('loss')]\n"
        "def evaluate(genome, context):\n"
        "    return {'loss': genome['a'] + genome['b']}\n"
    )
    search = begin(evaluator=str(tiny), generations=9, slots=2).run()
    assert search.finished == "the strategy has nothing more to propose"
    genomes = [json.dumps(trial.genome, sort_keys=True) for trial in search.trials]
    assert len(set(genomes)) == len(genomes) == 6
    assert search.best is not None
    assert search.best.genome == {"a": 1, "b": False}


@pytest.mark.usefixtures("here")
def test_a_run_with_no_value_at_all_gives_up(begin: Begin, resume: Begin) -> None:
    failing = {"options": {"failing": 1.0}, "generations": 20, "slots": 1}
    with pytest.raises(RunError, match=r"the first 3 trials failed alike: ValueError: no luck .*--accept-changes"):
        begin("alike", **failing).run()
    with pytest.raises(RunError, match=r"all 4 trials so far ended without a value, the last with failed: .*luck"):
        begin("run", **failing, give_up_after=9).run()
    assert len(Run.open(resume("run").saved.folder).trials()) == 4
    assert len(begin("on", **{**failing, "generations": 2}, give_up_after=0).run().trials) == 8
