"""The final comparison: finalists and default on fresh, paired seeds, outside ids and history, resumable, keyed."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop.comparison import comparison_jobs, record_result
from evo_tune.loop.search import Search
from evo_tune.report.final_comparison import FreshTraining
from evo_tune.report.recommendation import (
    FreshValues,
    comparison_result,
    current_comparison,
    fresh_values,
    recommend_trial,
)
from evo_tune.report.summary import RunResult, best_trials, verdict
from evo_tune.store.run import Run
from evo_tune.store.table import read_comparison
from tests.conftest import drive, rows
from tests.journals import make_older

Begin = Callable[..., Search]


def falling(search: Search, candidate: Candidate) -> dict[str, float]:
    """Whatever was born last is best."""
    return {"loss": 10.0 - candidate.id}


def settled(run: Run, loss: Callable[[int, str, int], float | None]) -> RunResult:
    """Play a run's comparison with these losses, by trial, purpose and number, and return how it ended."""
    while work := comparison_jobs(run, current_comparison(run)):
        for one, job in work.items():
            found = loss(one.id, one.purpose, one.seed_number)
            failed = Outcome("failed", error="no")
            record_result(run, job.candidate, failed if found is None else Outcome("ok", {"loss": found}))
    return RunResult(run)


def kept(run: Run) -> set[tuple[int, int]]:
    return {(trial.id, trial.candidate.seed) for trial in read_comparison(run)}


@pytest.mark.slow
def test_the_best_and_the_default_are_trained_again_with_paired_seeds(begin: Begin) -> None:
    plain = begin("plain", slots=1).run()
    search = begin("compared", slots=2, final_seeds=3, order="proposal").run()
    folder = search.saved.folder
    assert len(pd.read_parquet(folder)) == len(search.trials) == len(plain.trials) == 12
    best = search.best
    assert best is not None
    assert best.id != 0
    again = Run.open(folder)
    trials = read_comparison(again)
    seeds = {id: sorted(t.candidate.seed for t in trials if t.id == id) for id in (0, best.id)}
    assert 4 <= len(trials) <= 12
    assert len(set(seeds[0])) == len(trials) // 2
    assert seeds[0] == seeds[best.id]
    assert not set(seeds[0]) & {trial.candidate.seed for trial in search.trials}
    assert {trial.outcome.device for trial in trials} == {"cpu"}
    assert all(trial.genome == again.candidates[trial.id].genome for trial in trials)
    default, winner = fresh_values(again)
    assert (default.id, winner.id) == (0, best.id)
    losses = [t.outcome.metrics["loss"] for t in trials if t.id == 0]
    assert sorted(default.values) == sorted(losses)
    assert default.mean == pytest.approx(np.mean(losses))
    assert default.error == pytest.approx(np.std(losses, ddof=1) / math.sqrt(len(losses)))
    assert winner.mean < default.mean


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_any_number_of_slots_trains_the_same(begin: Begin) -> None:
    runs = [
        begin(f"slots{slots}", slots=slots, final_seeds=2, finalists=4, order="proposal", seed=3).run()
        for slots in (1, 3)
    ]
    assert kept(runs[0].saved) == kept(runs[1].saved)
    assert comparison_result(runs[0].saved) == comparison_result(runs[1].saved)
    assert [run.best and run.best.id for run in runs[:1]] == [run.best and run.best.id for run in runs[1:]]


@pytest.mark.usefixtures("here")
def test_the_final_comparison_is_no_part_of_history(begin: Begin, resume: Begin) -> None:
    plain = drive(begin("plain", generations=2))
    search = drive(begin("compared", generations=2))
    resume("compared", slots=2, final_seeds=2).run()
    assert rows(drive(resume("compared", generations=4))) == rows(drive(resume("plain", generations=4)))
    assert len(read_comparison(Run.open(search.saved.folder))) >= 4
    assert not read_comparison(Run.open(plain.saved.folder))


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_final_comparison_that_was_stopped_goes_on_exactly(begin: Begin, resume: Begin) -> None:
    def stop_soon(search: Search) -> None:
        if read_comparison(search.saved):
            search.stop()

    settings = {"slots": 1, "final_seeds": 3, "finalists": 3, "trials": 6, "seed": 2}
    whole = begin("whole", **settings).run().saved
    search = begin("run", options={"sleep": 0.1}, **settings).run(stop_soon)
    assert search.saved.ended == "interrupted"
    before = read_comparison(Run.open(search.saved.folder))
    assert 1 <= len(before) < len(kept(whole))
    assert RunResult(search.saved).beaten is None
    assert "the final comparison is not complete" in verdict(RunResult(search.saved))
    again = resume("run").run()
    after = read_comparison(Run.open(again.saved.folder))
    assert after[: len(before)] == before
    assert kept(again.saved) == kept(whole)
    assert comparison_result(again.saved) == comparison_result(whole)
    assert comparison_jobs(again.saved, current_comparison(again.saved)) == {}


@pytest.mark.usefixtures("here")
def test_a_planned_comparison_is_completed_as_planned_though_its_hours_are_over(begin: Begin, resume: Begin) -> None:
    drive(begin("run", trials=6, final_seeds=3, finalists=2), evaluate=falling)
    run = resume("run", hours=1e-6).saved
    run.plan_comparison((5,), 0, (2,))
    run.close()

    def stop_soon(search: Search) -> None:
        if read_comparison(search.saved):
            search.stop()

    search = resume("run", slots=1).run(stop_soon)
    assert len(search.trials) == 6
    again = resume("run").run()
    assert again.saved.ended == "1e-06 hours are over"
    assert sorted(trial.id for trial in read_comparison(again.saved)) == [0, 0, 5, 5]
    said = verdict(RunResult(again.saved))
    assert "to fit into 1e-06 hours, the final comparison had 1 of 2 finalists and 2 of at most 6 seeds" in said
    assert current_comparison(resume("run", finalists=3).saved).finalists == (5, 4, 3), "asked for anew"


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_new_best_is_trained_and_the_default_is_kept(begin: Begin, resume: Begin) -> None:
    drive(begin("run", trials=6), evaluate=falling)
    resume("run", slots=1, final_seeds=1).run()
    drive(resume("run", trials=7), evaluate=falling)
    done = Run.open(resume("run", slots=1).run().saved.folder)
    assert sorted(trial.id for trial in read_comparison(done)) == [0, 0, 5, 5, 6, 6]
    assert [row.id for row in fresh_values(done)] == [0, 6]


@pytest.mark.usefixtures("here")
def test_a_default_that_nothing_has_beaten_needs_none(begin: Begin) -> None:
    search = begin(trials=1, slots=1, final_seeds=3).run()
    assert not (search.saved.folder / "_comparison.parquet").exists()
    assert fresh_values(search.saved) == ()


def test_the_choice_and_the_report_have_seeds_of_their_own(begin: Begin, resume: Begin) -> None:
    drive(begin("run", trials=6), evaluate=falling)
    run = resume("run", final_seeds=3, finalists=2).saved
    wanted = comparison_jobs(run, current_comparison(run))
    assert list(wanted) == [
        FreshTraining(5, "choose", 1),
        FreshTraining(4, "choose", 1),
        FreshTraining(0, "report", 1),
        FreshTraining(0, "report", 2),
    ]
    assert wanted[FreshTraining(5, "choose", 1)].folder == "comparison-000005-choose-1"
    assert wanted[FreshTraining(5, "choose", 1)].candidate.seed == wanted[FreshTraining(4, "choose", 1)].candidate.seed
    assert len({job.candidate.seed for job in wanted.values()}) == 3
    end = settled(run, lambda id, purpose, number: {0: 9.0, 4: 1.0, 5: 2.0}[id] + (number % 3) / 100 * (1 + id))
    best = recommend_trial(run)
    assert best is not None
    assert (best.id, end.best and end.best.id, best_trials(run, 2)[0].id) == (4, 4, 4)
    assert end.beaten
    assert end.fresh_best is not None
    assert end.fresh_best.values == (1.05, 1.1), "the values of the reporting seeds alone"
    assert f"difference: {end.gain:.5f} ± {end.gain_error:.5f}: the best beats the default" in verdict(end)
    assert "paired over 2 fresh seeds" in verdict(end)


def test_a_default_that_is_better_on_fresh_seeds_is_recommended(begin: Begin, resume: Begin) -> None:
    drive(begin("run", trials=6), evaluate=falling)
    end = settled(resume("run", final_seeds=3).saved, lambda id, purpose, number: 1.0 + id / 9 + (id + number) % 2 / 50)
    assert (end.best and end.best.id, end.beaten) == (0, False)
    assert end.gain < 0
    assert "nothing beat the default genome: on fresh seeds trial 5, the finalist, is 0.55556" in verdict(end)


def test_a_finalist_that_trains_exactly_as_the_default_is_not_recommended(begin: Begin, resume: Begin) -> None:
    drive(begin("run", trials=6), evaluate=falling)
    end = settled(resume("run", final_seeds=3).saved, lambda id, purpose, number: 1.0 + number / 9)
    assert (end.best and end.best.id, end.beaten, end.gain) == (0, False, 0.0)
    assert "nothing beat the default genome: on fresh seeds trial 5, the finalist, is exactly as good" in verdict(end)


def test_failures_are_counted(begin: Begin, resume: Begin) -> None:
    drive(begin("run", trials=6), evaluate=falling)
    run = resume("run", final_seeds=3).saved
    end = settled(run, lambda id, purpose, number: None if (id, number) == (5, 2) else 5.0 - id)
    default, best = fresh_values(run)
    assert (default.values, default.failures) == ((5.0, 5.0), 0)
    assert (best.values, best.failures) == ((0.0,), 1)
    assert math.isnan(best.error)
    assert math.isnan(FreshValues(0, (), 2).mean)
    assert (end.beaten, end.best and end.best.id) == (False, 0)
    assert "failed on fresh seeds where the default did not" in verdict(end)


def test_a_seed_that_changes_nothing_gives_an_exact_verdict(begin: Begin, resume: Begin) -> None:
    drive(begin("run", trials=6), evaluate=falling)
    end = settled(resume("run", final_seeds=3).saved, lambda id, purpose, number: 0.1 + (0.2 if id else 0.3))
    assert (end.beaten, end.gain_error) == (True, 0.0)
    assert "(the same on each of 4 fresh seeds, which says nothing about other data)" in verdict(end)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_results_of_another_evaluator_or_other_data_are_not_used(begin: Begin, resume: Begin, quick: Path) -> None:
    drive(begin("run", trials=6), evaluate=falling)
    first = resume("run", slots=1, final_seeds=1).run().saved
    assert len(kept(first)) == 4
    quick.write_text(quick.read_text() + "\nOTHER = 1\n")
    changed = resume("run", accept_changes=True)
    assert not read_comparison(changed.saved)
    assert RunResult(changed.saved).beaten is None
    assert fresh_values(changed.saved) == ()
    second = changed.run().saved
    assert len(kept(second)) == 4
    table = pq.read_table(second.folder / "_comparison.parquet")
    assert table.num_rows == 8, "what was recorded is never lost"
    assert len(set(table["evaluator_hash"].to_pylist())) == 2


def forge_comparison(folder: Path) -> None:
    """Let the file of a run's final comparison say that its finalist is much better."""
    rows = pq.read_table(folder / "_comparison.parquet", partitioning=None).to_pandas()
    rows.loc[rows["id"] != 0, "metric.loss"] = -99.0
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), folder / "_comparison.parquet")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("damage", ["forged", "cut", "removed"])
def test_a_file_that_was_changed_is_not_used_and_written_again(begin: Begin, resume: Begin, damage: str) -> None:
    drive(begin("run", trials=6), evaluate=falling)
    saved = resume("run", slots=1, final_seeds=1).run().saved
    before, path = comparison_result(saved), saved.folder / "_comparison.parquet"
    whole = path.read_bytes()
    if damage == "forged":
        forge_comparison(saved.folder)
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.unlink()
    assert comparison_result(Run.open(saved.folder)) == before
    with pytest.warns(UserWarning, match=r"_comparison\.parquet does not agree with the journal .*: written again"):
        again = resume("run").run().saved
    assert comparison_result(again) == before
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("here")
def test_a_file_without_results_in_the_journal_is_set_aside(begin: Begin, resume: Begin) -> None:
    drive(begin("other", trials=6), evaluate=falling)
    other = resume("other", slots=1, final_seeds=1).run().saved
    folder = drive(begin("run", trials=6), evaluate=falling).saved.folder
    shutil.copy(other.folder / "_comparison.parquet", folder)
    assert read_comparison(Run.open(folder)) == []
    with pytest.warns(UserWarning, match="knows nothing of .*_comparison.parquet: renamed"):
        assert read_comparison(resume("run").saved) == []
    assert (folder / "_comparison.parquet.aside").exists()


@pytest.mark.usefixtures("here")
def test_the_file_of_version_1_0_is_read_and_goes_into_the_journal(begin: Begin, resume: Begin) -> None:
    drive(begin("run", trials=6), evaluate=falling)
    folder = resume("run", slots=1, final_seeds=1).run().saved.folder
    before = read_comparison(Run.open(folder))
    assert len(before) == 4
    make_older(folder)
    assert [(one.id, one.candidate, one.outcome) for one in read_comparison(Run.open(folder))] == [
        (one.id, one.candidate, one.outcome) for one in before
    ]
    again = resume("run", final_seeds=6, slots=1).run().saved
    assert len(again.fresh) > 4
    assert read_comparison(again)[:4] == before
    (folder / "_comparison.parquet").unlink()
    assert read_comparison(Run.open(folder)) == read_comparison(again)
    make_older(folder)
    (folder / "_comparison.parquet").write_bytes(b"PAR1")
    with pytest.warns(UserWarning, match=r"_comparison\.parquet is damaged: the final comparison is done again"):
        assert read_comparison(Run.open(folder)) == []


@pytest.mark.usefixtures("here")
def test_a_failing_final_comparison_stops_nothing_else(begin: Begin, resume: Begin, quick: Path) -> None:
    drive(begin("run", trials=6), evaluate=falling)
    quick.write_text(
        quick.read_text().replace("    time.sleep(", "    if context.seed not in SEEN: 1 / 0\n    time.sleep(")
    )
    seed = Run.open(quick.parent / "store" / "run").candidates[0].seed
    quick.write_text(quick.read_text() + f"\nSEEN = {{{seed}}}\n")
    search = resume("run", accept_changes=True, slots=1, final_seeds=1).run()
    run = Run.open(search.saved.folder)
    assert [(row.values, row.failures) for row in fresh_values(run)] == [((), 2), ((), 2)]
    assert "they cannot be compared" in verdict(RunResult(run))
    assert len(search.trials) == 6
