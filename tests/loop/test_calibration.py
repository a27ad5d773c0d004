"""Final calibration: best and default over fresh, paired seeds, outside ids and history, resumable."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop.calibration import calibration_work, collect
from evo_tune.loop.search import Search
from evo_tune.report.calibration import Calibrated, calibrated, recommended
from evo_tune.store.files import read_calibration
from evo_tune.store.run import Run
from tests.conftest import drive, rows

Begin = Callable[..., Search]


def falling(search: Search, candidate: Candidate) -> dict[str, float]:
    """Whatever was born last is best."""
    return {"loss": 10.0 - candidate.id}


def test_best_and_default_are_trained_again_with_paired_seeds(begin: Begin) -> None:
    plain = begin("plain", slots=1).run()
    search = begin("calibrated", slots=2, calibrate=3, order="birth").run()
    folder = search.saved.folder
    assert len(pd.read_parquet(folder)) == len(search.trials) == len(plain.trials) == 12
    best = search.best
    assert best is not None
    assert best.id != 0
    again = Run.open(folder)
    trials = read_calibration(again)
    seeds = {id: sorted(t.candidate.seed for t in trials if t.id == id) for id in (0, best.id)}
    assert len(trials) == 6
    assert len(set(seeds[0])) == 3
    assert seeds[0] == seeds[best.id]
    assert not set(seeds[0]) & {trial.candidate.seed for trial in search.trials}
    assert {trial.outcome.device for trial in trials} == {"cpu"}
    assert all(trial.genome == again.candidates[trial.id].genome for trial in trials)
    default, winner = calibrated(again)
    assert (default.id, winner.id) == (0, best.id)
    losses = [t.outcome.metrics["loss"] for t in trials if t.id == 0]
    assert sorted(default.values) == sorted(losses)
    assert default.mean == pytest.approx(np.mean(losses))
    assert default.error == pytest.approx(np.std(losses, ddof=1) / math.sqrt(3))
    assert winner.mean < default.mean


def test_calibration_is_no_part_of_history(begin: Begin, resume: Begin) -> None:
    plain = drive(begin("plain", generations=2))
    search = drive(begin("calibrated", generations=2))
    resume("calibrated", slots=2, calibrate=2).run()
    assert rows(drive(resume("calibrated", generations=4))) == rows(drive(resume("plain", generations=4)))
    assert len(read_calibration(Run.open(search.saved.folder))) == 4
    assert not read_calibration(Run.open(plain.saved.folder))


def test_only_what_is_missing_is_trained_on_resume(begin: Begin, resume: Begin) -> None:
    def stop_soon(search: Search) -> None:
        if read_calibration(search.saved):
            search.stop()

    search = begin("run", slots=1, calibrate=6, options={"sleep": 0.1}, trials=5, seed=2).run(stop_soon)
    assert search.saved.ended == "interrupted"
    before = read_calibration(Run.open(search.saved.folder))
    assert 1 <= len(before) < 12
    again = resume("run").run()
    after = read_calibration(Run.open(again.saved.folder))
    assert after[: len(before)] == before
    assert len(after) == 12
    assert calibration_work(again.saved, 6) == []
    assert len(calibration_work(again.saved, 8)) == 4


def test_a_new_best_is_trained_and_the_default_is_kept(begin: Begin, resume: Begin) -> None:
    drive(begin("run", trials=6), evaluate=falling)
    resume("run", slots=1, calibrate=2).run()
    drive(resume("run", trials=7), evaluate=falling)
    done = Run.open(resume("run", slots=1).run().saved.folder)
    assert sorted(trial.id for trial in read_calibration(done)) == [0, 0, 5, 5, 6, 6]
    assert [row.id for row in calibrated(done)] == [0, 6]


def test_a_default_that_nothing_has_beaten_needs_none(begin: Begin) -> None:
    search = begin(trials=1, slots=1, calibrate=3).run()
    assert not (search.saved.folder / "_calibration.parquet").exists()
    assert calibrated(search.saved) == []


def test_the_best_is_the_one_that_is_best_over_fresh_seeds(begin: Begin) -> None:
    search = begin("run", trials=6, calibrate=2, calibrate_best=2)
    while (candidate := search.ask()) is not None:
        search.tell(candidate, falling(search, candidate))
    assert search.best is not None
    assert search.best.id == 5
    for candidate, _ in calibration_work(search.saved, 2):
        collect(search.saved, candidate, Outcome("ok", {"loss": 0.0 if candidate.id == 4 else 1.0}))
    assert search.best is not None
    assert search.best.id == 4
    assert search.best == recommended(Run.open(search.saved.folder))


def test_failures_are_counted(begin: Begin) -> None:
    search = begin("run", trials=6)
    while (candidate := search.ask()) is not None:
        search.tell(candidate, falling(search, candidate))
    for number, (candidate, folder) in enumerate(calibration_work(search.saved, 2)):
        assert folder == f"calibration-{candidate.id:06d}-{1 + number // 2}"
        good = number != 1
        collect(search.saved, candidate, Outcome("ok", {"loss": 1.0}) if good else Outcome("failed", error="no"))
    default, best = calibrated(search.saved)
    assert (default.values, default.failures) == ((1.0, 1.0), 0)
    assert (best.values, best.failures) == ((1.0,), 1)
    assert math.isnan(best.error)
    assert math.isnan(Calibrated(0, (), 2).mean)


def test_a_damaged_file_is_done_again(begin: Begin, resume: Begin) -> None:
    drive(begin("run", trials=6), evaluate=falling)
    search = resume("run", slots=1, calibrate=1).run()
    path = search.saved.folder / "_calibration.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"_calibration\.parquet is damaged: the calibration is done again"):
        assert read_calibration(Run.open(search.saved.folder)) == []
    with pytest.warns(UserWarning, match="is damaged"):
        again = resume("run").run()
    assert len(read_calibration(Run.open(again.saved.folder))) == 2


def test_what_a_calibration_fails_on_stops_nothing_else(begin: Begin, resume: Begin, quick: Path) -> None:
    drive(begin("run", trials=6), evaluate=falling)
    quick.write_text(
        quick.read_text().replace("    time.sleep(", "    if context.seed not in SEEN: 1 / 0\n    time.sleep(")
    )
    seed = Run.open(quick.parent / "store" / "run").candidates[0].seed
    quick.write_text(quick.read_text() + f"\nSEEN = {{{seed}}}\n")
    search = resume("run", accept_changes=True, slots=1, calibrate=2).run()
    assert [(row.values, row.failures) for row in calibrated(Run.open(search.saved.folder))] == [((), 2), ((), 2)]
    assert len(search.trials) == 6
