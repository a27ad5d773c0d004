"""When a run is over: limits are totals, the smaller one holds, and without any value there is no hope."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evo_tune.errors import RunError
from evo_tune.store.run import Run
from tests.conftest import drive
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
    assert drive(resume("hours", hours=5.0, trials=1)).finished == "all 1 births are made"


def test_what_is_not_a_limit_is_kept_on_resume(begin: Begin, resume: Begin) -> None:
    drive(begin("run", retries=3, timeout=7.0, slots=2))
    session = resume("run", generations=4, slots=1).session
    assert (session.retries, session.timeout, session.slots, session.generations) == (3, 7.0, 1, 4)


def test_run_without_any_limit_ends_after_five_generations(begin: Begin) -> None:
    assert len(begin(generations=None, slots=1).run().trials) == 20


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


def test_a_run_with_no_value_at_all_gives_up(begin: Begin, resume: Begin) -> None:
    with pytest.raises(
        RunError, match=r"all \d evaluations so far ended without a value .*, the last with failed: .*luck"
    ):
        begin("run", options={"failing": 1.0}, generations=20, slots=1).run()
    assert len(Run.open(resume("run").saved.folder).trials()) == 4
