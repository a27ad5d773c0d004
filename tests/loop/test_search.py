"""The loop: asked and told by hand, resumed at every cut, the same for any number of slots, stopped by what breaks."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from evo_tune.dispatch import Slot
from evo_tune.errors import OptionError, PluginError, RunError, SpaceError, StoreError, UsageError
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop import search as search_module
from evo_tune.loop.replay import verify
from evo_tune.loop.search import Search
from evo_tune.plugins.find import make_strategy
from evo_tune.store.run import Run
from tests.conftest import cut_copy, drive, evaluate, rows, survivors

Begin = Callable[..., Search]

WAYS: list[dict[str, Any]] = [
    {"strategy": "ga"},
    {"strategy": "ga", "strategy_options": {"generational": True}},
    {"strategy": "nsga2", "objectives": ["loss:min", "cost:max"]},
    {"strategy": "nsga2", "strategy_options": {"generational": True}, "objectives": ["loss:min", "cost:max"]},
    {"strategy": "random"},
]
NAMES = ["ga", "ga-generational", "nsga2", "nsga2-generational", "random"]


def some_fail(search: Search, candidate: Candidate) -> Any:
    """Evaluate; one in three fails, and which ones depends on the genome alone."""
    metrics = evaluate(search, candidate)
    return Outcome("failed", error="no luck") if int(metrics["loss"] * 1e6) % 3 == 0 else metrics


def agrees(search: Search) -> bool:
    """Whether every proposal of a closed search comes out again."""
    run = Run.open(search.saved.folder)
    return not verify(run, search.space, make_strategy(run.manifest.strategy, run.manifest.strategy_options))


# By hand.


def test_ask_and_tell(begin: Begin) -> None:
    search = begin(generations=1)
    first = search.ask()
    assert first is not None
    assert (first.id, first.generation, first.told_before, first.operator) == (0, 0, 0, "default")
    assert first.genome == search.space.default()
    second = search.ask()
    assert second is not None
    assert second.id == 1
    assert search.best is None
    search.tell(second, {"loss": 0.25, "cost": 3})
    search.tell(first, Outcome("ok", {"loss": 0.5}, seconds=1.5, device="mine"))
    assert [trial.id for trial in search.trials] == [0, 1]
    assert [trial.told_order for trial in search.trials] == [1, 0]
    assert search.best is not None
    assert (search.best.id, search.best.outcome.metrics) == (1, {"loss": 0.25, "cost": 3.0})
    third, fourth = search.ask(), search.ask()
    assert third is not None
    assert fourth is not None
    assert third.told_before == 2
    assert search.ask() is None
    assert search.finished == "all 4 births are made"
    search.tell(fourth, {"loss": 0.1})
    search.tell(third, {"loss": 0.2})
    search.close()
    assert search.saved.ended == "all 4 births are made"
    assert list(pd.read_parquet(search.saved.folder)["id"]) == [0, 1, 2, 3]
    frame = search.frame()
    assert list(frame["metric.loss"]) == [0.5, 0.25, 0.2, 0.1]
    assert list(frame["device"]) == ["mine", "", "", ""]


def test_a_result_is_told_once_and_only_for_what_is_out(begin: Begin, resume: Begin) -> None:
    search, other = begin("one", generations=1), begin("two", seed=9)
    candidate = search.ask()
    assert candidate is not None
    other.ask()
    foreign = other.ask()
    assert foreign is not None
    search.tell(candidate, {"loss": 1.0})
    for wrong in (candidate, replace(candidate, id=1), replace(candidate, id=-1), foreign):
        with pytest.raises(UsageError, match=f"candidate {wrong.id} is not out: tell each result once"):
            search.tell(wrong, {"loss": 0.5})
    born = search.ask()
    assert born is not None
    with pytest.raises(UsageError, match="candidate 1 is not out"):
        search.tell(replace(born, seed=3), {"loss": 0.5})
    search.close()
    again = resume("one")
    again.tell(born, {"loss": 0.5})  # known from before, without asking again
    asked = again.ask()
    assert asked is not None
    assert asked.id == 2
    assert [trial.outcome.metrics["loss"] for trial in again.trials] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("told", "status", "error"),
    [
        ({"loss": 1}, "ok", None),
        ({"loss": math.nan}, "diverged", "loss is nan"),
        ({"loss": "inf"}, "diverged", "loss is inf"),
        ({"cost": 1.0}, "failed", "evaluate returned no 'loss' (it returned cost)"),
        ({}, "failed", "evaluate returned no 'loss' (it returned nothing)"),
        (None, "failed", "evaluate returned a NoneType: expected a dict of metric names to numbers"),
        ({"loss": "low"}, "failed", "evaluate returned loss='low': expected a number"),
        ({"loss": 1.0, "cost": math.inf}, "ok", None),
        (Outcome("ok", {}), "failed", "evaluate returned no 'loss' (it returned nothing)"),
        (Outcome("ok", {"loss": math.inf}), "diverged", "loss is inf"),
        (Outcome("timeout", error="no result within 5 s"), "timeout", "no result within 5 s"),
        (Outcome("pruned", curve=((0.5, {"loss": math.nan}),)), "pruned", None),
        (Outcome("failed", error="caf\udce9\n"), "failed", "caf\udce9\n"),
    ],
)
def test_whatever_is_told_is_a_value_and_can_be_read_again(
    begin: Begin, resume: Begin, told: Any, status: str, error: str | None
) -> None:
    search = begin("run", trials=1)
    candidate = search.ask()
    assert candidate is not None
    search.tell(candidate, told)
    live = search.trials
    search.close()
    again = resume("run", trials=2)
    assert (again.trials[0].outcome.status, again.trials[0].outcome.error) == (status, error)
    assert repr(again.trials) == repr(live)
    assert (again.best is None) == (status != "ok")
    assert again.ask() is not None


def test_a_status_that_is_none(begin: Begin) -> None:
    search = begin()
    candidate = search.ask()
    assert candidate is not None
    with pytest.raises(UsageError, match="status 'great' is unknown: expected one of ok, failed"):
        search.tell(candidate, Outcome("great"))  # type: ignore[arg-type]
    search.tell(candidate, {"loss": 1.0})


def test_a_result_is_safe_before_anything_hears_of_it(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    search = begin()
    candidate = search.ask()
    assert candidate is not None
    journal = search.saved.journal.path
    heard: list[tuple[int, int, bool]] = []
    fsync = os.fsync

    def watched(file: int) -> None:
        fsync(file)
        if os.path.samestat(os.fstat(file), journal.stat()):
            heard.append(
                (len(search.history.trials), len(search.saved.outcomes), b'"recorded"' in journal.read_bytes())
            )

    monkeypatch.setattr(os, "fsync", watched)
    search.tell(candidate, {"loss": 1.0})
    assert heard == [(0, 0, True)]
    assert len(search.history.trials) == 1


# Limits.


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


# Law 2: resume is reading.


@pytest.mark.usefixtures("fast_disk")
@pytest.mark.parametrize("order", ["arrival", "birth"])
@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_two_generations_and_two_more_are_four(begin: Begin, resume: Begin, way: dict[str, Any], order: str) -> None:
    drive(begin("parts", generations=2, order=order, **way), evaluate=some_fail)
    parts = drive(resume("parts", generations=4), evaluate=some_fail)
    whole = drive(begin("whole", generations=4, order=order, **way), evaluate=some_fail)
    assert rows(parts) == rows(whole)
    assert len(rows(whole)) == 16
    assert {row[1] for row in rows(whole)} == {"ok", "failed"}
    assert survivors(parts.saved.folder) == survivors(whole.saved.folder)
    assert agrees(parts)


@pytest.mark.usefixtures("fast_disk")
@pytest.mark.parametrize(("order", "slots"), [("arrival", 1), ("birth", 3)])
@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_resumed_at_every_cut_of_the_journal(
    begin: Begin, resume: Begin, way: dict[str, Any], order: str, slots: int
) -> None:
    whole = drive(begin("whole", order=order, lag=2, **way), slots, some_fail)
    expected, marked = rows(whole), survivors(whole.saved.folder)
    events = len(whole.saved.journal.path.read_bytes().splitlines())
    for cut in range(1, events + 1):
        cut_copy(whole.saved, whole.saved.folder.with_name(f"cut-{cut}"), cut)
        again = drive(resume(f"cut-{cut}", generations=3), 1 + cut % 4 if slots > 1 else 1, some_fail)
        assert rows(again) == expected, f"cut after {cut} of {events} events"
        assert survivors(again.saved.folder) == marked, f"cut after {cut} of {events} events"
    assert agrees(again)


def test_resumed_after_a_line_was_torn(begin: Begin, resume: Begin) -> None:
    whole = drive(begin("whole"))
    data = whole.saved.journal.path.read_bytes()
    for number, end in enumerate(range(len(data) // 3, len(data), len(data) // 13)):
        folder = cut_copy(whole.saved, whole.saved.folder.with_name(f"cut-{number}"), 1)
        (folder / "_journal.jsonl").write_bytes(data[:end])
        with pytest.warns(UserWarning, match="torn tail"):
            again = resume(f"cut-{number}")
        assert rows(drive(again)) == rows(whole)


def test_a_run_killed_in_every_evaluation_still_ends_the_same(begin: Begin, resume: Begin) -> None:
    search = begin("killed")
    while (candidate := search.ask()) is not None:
        search.saved.close()  # as a death would leave it
        search = resume("killed")
        assert search.ask() == candidate
        search.tell(candidate, evaluate(search, candidate))
        search.saved.close()
        search = resume("killed")
    assert rows(search) == rows(drive(begin("whole")))
    assert agrees(search)


# Law 3: birth order.


@pytest.mark.usefixtures("fast_disk")
@pytest.mark.parametrize("lag", [0, 3, 8])
@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_in_birth_order_slots_change_nothing(begin: Begin, way: dict[str, Any], lag: int) -> None:
    runs = [drive(begin(f"slots-{n}", order="birth", lag=lag, **way), n, some_fail) for n in (1, 2, 4, 9)]
    assert [rows(run) for run in runs] == [rows(runs[0])] * 4
    assert [survivors(run.saved.folder) for run in runs] == [survivors(runs[0].saved.folder)] * 4
    for trial in runs[0].trials:
        assert trial.candidate.told_before >= trial.id - lag
        assert trial.told_order == trial.id
    assert all(agrees(run) for run in runs)


@pytest.mark.usefixtures("fast_disk")
@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_in_arrival_order_everything_told_is_seen(begin: Begin, way: dict[str, Any], slots: int) -> None:
    search = drive(begin(generations=4, **way), slots, some_fail)
    assert agrees(search)
    assert sorted(trial.told_order for trial in search.trials) == list(range(16))


def test_in_birth_order_a_result_that_came_early_waits_its_turn(begin: Begin) -> None:
    search = begin(order="birth", lag=1, trials=5)
    zero, one = search.ask(), search.ask()
    assert zero is not None
    assert one is not None
    assert search.ask() is None
    assert search.finished is None
    search.tell(one, {"loss": 1.0})
    assert search.ask() is None, "result 0 must be told first"
    assert search.trials[0].told_order == -1
    assert search.best is not None, "what is recorded can be seen; strategies cannot"
    search.tell(zero, {"loss": 2.0})
    two = search.ask()
    assert two is not None
    assert two.told_before == 1


# Real slots.


@pytest.mark.parametrize("way", [WAYS[0], WAYS[1]], ids=NAMES[:2])
def test_run_in_birth_order_is_the_same_for_any_number_of_slots(begin: Begin, way: dict[str, Any]) -> None:
    options = {"sleep": 0.01, "failing": 0.2}
    runs = [begin(f"slots-{n}", order="birth", slots=n, options=options, **way).run() for n in (1, 2, 4)]
    assert [rows(run) for run in runs] == [rows(runs[0])] * 3
    assert [survivors(run.saved.folder) for run in runs] == [survivors(runs[0].saved.folder)] * 3
    assert {row[1] for row in rows(runs[0])} == {"ok", "failed"}
    assert all(agrees(run) for run in runs)
    assert {trial.outcome.device for trial in runs[0].trials} == {"cpu"}
    assert all(trial.outcome.seconds > 0 for trial in runs[0].trials)


def test_run_is_what_ask_and_tell_make(begin: Begin) -> None:
    def caught(search: Search, candidate: Candidate) -> Any:
        try:
            return evaluate(search, candidate)
        except ValueError as error:
            return Outcome("failed", error=str(error))

    by_hand = drive(begin("hand", options={"failing": 0.2}), evaluate=caught)
    by_itself = begin("itself", options={"failing": 0.2}, slots=1).run()
    assert [row[:3] for row in rows(by_itself)] == [row[:3] for row in rows(by_hand)]
    assert by_itself.saved.ended == "all 12 births are made"
    failed = [trial for trial in by_itself.trials if trial.outcome.status == "failed"]
    assert failed
    assert all("no luck" in str(trial.outcome.error) for trial in failed)


def test_run_in_arrival_order_on_three_slots(begin: Begin, resume: Begin) -> None:
    seen: list[int] = []

    def watch(search: Search) -> None:
        seen.append(len(search.trials))
        assert search.best is None or search.best.ok
        assert search.seconds >= 0.0

    search = begin("run", slots=3, options={"sleep": 0.02}).run(watch)
    assert seen
    assert agrees(search)
    assert len(resume("run", generations=4).run().trials) == 16


def test_run_takes_up_what_was_asked_for_by_hand(begin: Begin) -> None:
    search = begin(order="birth", lag=0, slots=2, strategy_options={"generational": True})
    assert search.ask() is not None
    with pytest.warns(UserWarning, match="2 slots will wait"):
        search.run()
    assert len(search.trials) == 12


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
        RunError, match=r"all \d evaluations so far ended without a value, the last with failed: .*luck"
    ):
        begin("run", options={"failing": 1.0}, generations=20, slots=1).run()
    assert len(Run.open(resume("run").saved.folder).trials()) == 4


def test_too_many_slots_for_the_lag_is_a_warning(begin: Begin) -> None:
    with pytest.warns(UserWarning, match="with --lag 0, at most 1 slots are ever at work: 2 slots will wait"):
        begin(order="birth", lag=0, slots=2, trials=3).run()


# What breaks.

BROKEN = """
from dataclasses import dataclass
from evo_tune import Proposal, Strategy

@dataclass(frozen=True)
class Broken(Strategy):
    '''A strategy that breaks at birth 5.'''

    def propose(self, history, rng):
        genome = history.space.sample(rng)
        {propose}
        return Proposal(genome, "random", [history.born_count - 1])

    def survivors(self, history):
        {survivors}
        return [trial.id for trial in history.ranked()[: self.population]]
"""


@pytest.fixture
def broken(tmp_path: Path) -> Callable[..., Path]:
    def write(propose: str = "pass", survivors: str = "pass") -> Path:
        path = tmp_path / "broken.py"
        path.write_text(BROKEN.format(propose=propose, survivors=survivors))
        return path

    return write


AT_FIVE = "if history.born_count == 5: "


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ({"propose": AT_FIVE + "raise KeyError('oh')"}, r"raised KeyError in propose\(\): 'oh'"),
        ({"propose": AT_FIVE + "return {'x': 1}"}, r"TypeError in propose\(\): returned a dict, expected a Proposal"),
        ({"propose": AT_FIVE + "genome['x'] = 7.0"}, r"SpaceError in propose\(\): 7.0 is not allowed"),
        ({"propose": AT_FIVE + "del genome['x']"}, r"SpaceError in propose\(\): None is not allowed"),
        ({"propose": AT_FIVE + "genome['y'] = 1"}, r"ValueError in propose\(\): proposed .*, which is not snapped"),
        ({"propose": AT_FIVE + "return Proposal(genome, 'x', budget=0.0)"}, r"proposed budget=0\.0, expected more"),
        ({"propose": AT_FIVE + "return Proposal(genome, 'x', resumes=9)"}, r"proposed resumes=9, which was never born"),
        (
            {"propose": AT_FIVE + "return Proposal(genome, 'x', inherits=1)"},
            r"inherits=1, and only --inherit has weights",
        ),
        ({"survivors": "if len(history.trials) > 3: 1 / 0"}, r"raised ZeroDivisionError in survivors\(\)"),
    ],
)
def test_a_strategy_that_breaks_stops_the_run_and_nothing_is_lost(
    begin: Begin, resume: Begin, broken: Callable[..., Path], breaks: dict[str, str], message: str
) -> None:
    search = begin("run", strategy=str(broken(**breaks)), generations=2)
    with pytest.raises(RunError, match=f"broken.py .*{message}.*; mend it, then `evo-tune resume`") as caught:
        drive(search)
    assert "\n" not in str(caught.value)
    goes_on_once_mended(search, resume, broken)


@pytest.mark.parametrize("where", ["propose", "survivors"])
def test_a_strategy_that_breaks_in_a_slot_stops_the_others(
    begin: Begin, resume: Begin, broken: Callable[..., Path], where: str
) -> None:
    breaks = {where: "if len(history.trials) > 3: 1 / 0"}
    search = begin("run", strategy=str(broken(**breaks)), generations=2, slots=3)
    with pytest.raises(RunError, match=rf"broken\.py raised ZeroDivisionError in {where}\(\): division by zero"):
        search.run()
    assert search.slots == []
    goes_on_once_mended(search, resume, broken)


def goes_on_once_mended(search: Search, resume: Begin, broken: Callable[..., Path]) -> None:
    search.saved.close()
    kept = rows(Run.open(search.saved.folder))
    assert len(kept) >= 4
    broken()
    again = drive(resume("run"))
    assert [row[:4] for row in rows(again)[: len(kept)]] == [row[:4] for row in kept]
    assert rows(again)[-1][0].parents == (6,)
    assert len(again.trials) == 8
    assert agrees(again)


def test_a_disk_that_fills_up_during_a_run(begin: Begin, resume: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    search = begin("run", slots=2, generations=6)
    journal, write, room = search.saved.journal.path, os.write, itertools.count()

    def fill(file: int, data: bytes) -> int:
        full = os.path.samestat(os.fstat(file), journal.stat()) and next(room) > 18
        return write(file, data[:7] if full else data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fill)
        with pytest.raises(StoreError, match=r"cannot write .*_journal\.jsonl: No space left on device; mend that"):
            search.run()
    assert search.slots == []
    kept = rows(Run.open(search.saved.folder))
    assert kept
    again = resume("run").run()
    assert all(row in rows(again) for row in kept)
    assert len(again.trials) == 24
    assert agrees(again)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "store"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root and the right to mount")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(begin: Begin, resume: Begin, small_disk: Path) -> None:
    search = begin("run", generations=30)
    with pytest.raises(StoreError, match="No space left on device; mend that, then `evo-tune resume`"):
        drive(search, evaluate=some_fail)
    search.saved.close()
    kept = rows(Run.open(search.saved.folder))
    assert kept
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    again = drive(resume("run"), evaluate=some_fail)
    assert rows(again)[: len(kept)] == kept
    assert rows(again) == rows(drive(begin("whole", generations=30), evaluate=some_fail))
    assert survivors(again.saved.folder) == survivors(again.saved.folder.with_name("whole"))


def test_a_watcher_that_breaks_ends_the_run_and_its_workers(begin: Begin, resume: Begin) -> None:
    def watch(search: Search) -> None:
        if search.trials:
            raise LookupError("no terminal")

    search = begin("run", slots=2, options={"sleep": 0.2})
    with pytest.raises(LookupError, match="no terminal"):
        search.run(watch)
    assert search.slots == []
    assert rows(resume("run"))


def test_a_changed_evaluator_is_refused_unless_accepted(begin: Begin, resume: Begin, quick: Path) -> None:
    drive(begin("run", trials=5))
    (quick.parent / "helper.py").write_text("y = 1")
    quick.write_text(quick.read_text() + "\nimport helper\n")
    with pytest.raises(StoreError, match=r"quick\.py \(or a module that it imports\) has changed.*--accept-changes"):
        resume("run")
    drive(resume("run", accept_changes=True, trials=6))
    assert len(drive(resume("run", trials=7)).trials) == 7, "what was accepted once is known"
    (quick.parent / "helper.py").write_text("y = 2")
    with pytest.raises(StoreError, match="has changed"):
        resume("run")


def test_changed_data_is_refused_unless_accepted(begin: Begin, resume: Begin, quick: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("one")
    quick.write_text(
        quick.read_text() + f"\nimport pathlib\ndef fingerprint(): return pathlib.Path({str(data)!r}).read_text()\n"
    )
    drive(begin("run", trials=5))
    data.write_text("two")
    with pytest.raises(StoreError, match="the evaluator's data has changed since run run began"):
        resume("run")
    assert len(drive(resume("run", accept_changes=True, trials=6)).trials) == 6
    assert Run.open(tmp_path / "store" / "run").fingerprint == "two"
    assert resume("run").ask() is None


def test_an_evaluator_that_has_moved(begin: Begin, resume: Begin, quick: Path) -> None:
    drive(begin("run", trials=5))
    moved = quick.with_name("elsewhere")
    moved.mkdir()
    quick.rename(moved / "quick.py")
    with pytest.raises(PluginError, match=r"quick\.py"):
        resume("run")
    assert len(drive(resume("run", evaluator=str(moved / "quick.py"), trials=6)).trials) == 6


# Warm starts, duplicates, and what was given wrong.


def test_warm_starts_are_born_right_after_the_default(begin: Begin, resume: Begin) -> None:
    warm = [
        {"x": 0.5, "n": 9, "kind": 2},
        {"x": 0.25, "n": 9.0, "kind": True},
        {"x": 0.5, "n": 9, "kind": 2},  # twice
    ]
    default = begin("default").space.default()
    search = begin("run", warm_start=[*warm, default], trials=6)
    assert search.saved.manifest.warm_start == [warm[0], {"x": 0.25, "n": 9, "kind": True}]
    drive(search)
    operators = [trial.candidate.operator for trial in search.trials]
    assert operators[:3] == ["default", "warm-start", "warm-start"]
    assert "warm-start" not in operators[3:]
    assert search.trials[1].genome == warm[0]
    assert search.trials[1].candidate.seed == search.trials[0].candidate.seed
    genomes = [json.dumps(trial.genome, sort_keys=True) for trial in search.trials]
    assert len(set(genomes)) == 6
    assert agrees(search)
    for cut in range(1, 9):
        cut_copy(search.saved, search.saved.folder.with_name(f"cut-{cut}"), cut)
        assert rows(drive(resume(f"cut-{cut}", trials=6))) == rows(search)


@pytest.mark.parametrize(
    ("genome", "message"),
    [
        ({"x": 0.5, "n": 9, "kind": 2, "lr": 1}, r"--warm-start, genome 2: unknown gene lr: expected x, n, kind"),
        ({"x": 0.5}, r"genome 2: missing gene n, kind: give it, or accept defaults \(--fill-defaults\)"),
        ({"x": 5, "n": 9, "kind": 2}, r"genome 2: gene x: 5 is not allowed: expected a number from -1 to 1"),
        ({"x": 0.5, "n": 9, "kind": "2"}, r"genome 2: gene kind: '2' is not allowed: expected one of a, 2, True"),
    ],
)
def test_a_warm_start_that_does_not_fit(begin: Begin, tmp_path: Path, genome: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        begin(warm_start=[{"x": 0, "n": 9, "kind": 2}, genome])
    assert not (tmp_path / "store").exists()


def test_a_warm_start_can_be_filled_up(begin: Begin) -> None:
    search = begin(warm_start=[{"x": 0.5}], fill_defaults=True)
    assert search.saved.manifest.warm_start == [{**search.space.default(), "x": 0.5}]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"evaluator": "nope"}, PluginError, "there is no evaluator 'nope'"),
        ({"strategy": "gaa"}, PluginError, r"there is no strategy 'gaa' \(did you mean ga\?\)"),
        ({"options": {"slep": 1}}, OptionError, r"quick has no option 'slep' \(did you mean sleep\?\)"),
        ({"options": {"sleep": "long"}}, OptionError, "sleep=long: expected a number"),
        ({"strategy_options": {"elite": 1}}, OptionError, "strategy ga has no option 'elite'"),
        ({"population": 1}, OptionError, "population=1 is not allowed"),
        ({"objectives": ["loss"]}, SpaceError, "objective 'loss' is not understood: expected METRIC:min or METRIC:max"),
        ({"objectives": ["lost:min"]}, SpaceError, r"--objective lost:min: quick returns no metric 'lost'"),
        ({"objectives": ["loss:min", "loss:max"]}, SpaceError, "objectives loss, loss: one is given twice"),
        (
            {"objectives": ["loss:min", "cost:min"], "strategy": "ga"},
            PluginError,
            r"strategy ga optimises one objective, and 2 were given \(loss, cost\): give one --objective, or choose "
            r"--strategy (\w+ or )*nsga2 or ",
        ),
        (
            {"strategy": "cma"},
            PluginError,
            "strategy cma searches numbers and ordered choices, and kind has no order: fix it with --gene kind=VALUE, "
            r"or choose --strategy (\w+ or )*ga or ",
        ),
        ({"order": "size"}, OptionError, "--order size: expected arrival or birth"),
        ({"lag": -1}, OptionError, "--lag -1"),
        ({"slots": 0}, OptionError, "--slots 0 is not allowed"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    begin: Begin, tmp_path: Path, fields: dict[str, Any], error: type[UsageError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        begin(**fields)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("field", [{"timeout": 0.0}, {"slots": -1}, {"devices": "cuda:77"}])
def test_a_session_that_cannot_be_opened_leaves_the_run_free(
    begin: Begin, resume: Begin, field: dict[str, Any]
) -> None:
    drive(begin("run", trials=5))
    with pytest.raises(OptionError, match=f"--{next(iter(field))}"):
        resume("run", trials=6, **field).run()
    assert len(resume("run", trials=6, timeout=None, slots=1, devices=None).run().trials) == 6


# Ctrl-C and SIGTERM.

RUN = """
    import sys
    from evo_tune import Search
    shape = {"slots": 2, "population": 4, "generations": 50}
    search = Search(sys.argv[1], store=sys.argv[2], name="run", options={"sleep": SLEEP}, **shape)
    search.run()
    print(search.saved.ended, len(search.saved.candidates), len(search.trials))
"""


class Running:
    """A run in a process of its own, as started from a terminal."""

    def __init__(self, quick: Path, store: Path, sleep: float) -> None:
        self.mark = uuid.uuid4().hex
        self.journal = store / "run" / "_journal.jsonl"
        script = textwrap.dedent(RUN).replace("SLEEP", str(sleep))
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(quick), str(store)],
            env={**os.environ, "EVO_TUNE_TEST": self.mark},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, event: bytes, times: int) -> None:
        deadline = time.monotonic() + 60
        while not self.journal.exists() or self.journal.read_bytes().count(event) < times:
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)

    def interrupt(self) -> None:
        """Press Ctrl-C: the whole foreground group of the terminal gets it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> str:
        out, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        assert errors == ""
        return out

    def left(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("EVO_TUNE_TEST") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return psutil.wait_procs(found, 5.0)[1]  # loky's resource tracker follows its parent


@pytest.fixture
def running(quick: Path, tmp_path: Path) -> Iterator[Callable[[float], Running]]:
    begun: list[Running] = []

    def start(sleep: float) -> Running:
        begun.append(Running(quick, tmp_path / "store", sleep))
        return begun[-1]

    yield start
    for run in begun:
        run.process.kill()
        run.process.communicate()
        for process in run.left():
            process.kill()


def test_ctrl_c_once_finishes_what_is_in_flight(running: Callable[[float], Running], resume: Begin) -> None:
    run = running(0.3)
    run.wait_for(b'"recorded"', 3)
    run.interrupt()
    reason, born, recorded = run.end().split()
    assert (reason, born) == ("interrupted", recorded)
    assert int(recorded) >= 3
    assert run.left() == []
    search = resume("run", trials=int(recorded) + 1)
    assert {trial.outcome.status for trial in search.trials} == {"ok"}
    assert len(pd.read_parquet(search.saved.folder)) == int(recorded)
    assert len(drive(search).trials) == int(recorded) + 1
    assert agrees(search)


def test_ctrl_c_twice_stops_at_once(running: Callable[[float], Running], resume: Begin) -> None:
    run = running(100.0)
    run.wait_for(b'"born"', 2)
    run.interrupt()
    time.sleep(0.5)
    assert run.process.poll() is None, "the first one waits for what is in flight"
    run.interrupt()
    assert run.end() == "interrupted 2 0\n"
    assert run.left() == []
    search = resume("run", trials=3)
    assert len(drive(search).trials) == 3
    assert agrees(search)


def test_sigterm_stops_at_once(running: Callable[[float], Running], resume: Begin) -> None:
    run = running(100.0)
    run.wait_for(b'"born"', 2)
    run.process.terminate()
    assert run.end() == "interrupted 2 0\n"
    assert run.left() == []
    assert len(drive(resume("run", trials=3)).trials) == 3


# A device that is dead.


class Stub(Slot):
    """A slot that answers by itself."""

    def __init__(self, number: int, device: str, status: str) -> None:
        self.name, self.device, self.status = f"slot {number}", device, status
        self.done = 0

    def run(self, candidate, folder=None):
        time.sleep(0.005)
        self.done += 1
        if self.status == "ok":
            return Outcome("ok", {"loss": candidate.genome["x"]}, device=self.device)
        return Outcome(self.status, error="worker died: killed by signal 9", device=self.device)

    def close(self): ...

    def kill(self): ...

    pid = None


@pytest.mark.parametrize(("status", "aside"), [("crashed", True), ("failed", False)])
def test_a_device_that_crashes_while_others_do_well_is_set_aside_and_named(begin, monkeypatch, status, aside):
    stubs = [Stub(0, "cuda:0", "ok"), Stub(1, "cuda:1", status), Stub(2, "cuda:1", status)]
    monkeypatch.setattr(search_module, "open_slots", lambda *given: stubs)
    search = begin(trials=60, generations=None)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        search.run()
    assert len(search.trials) == 60
    if aside:
        assert sum(trial.outcome.status == "crashed" for trial in search.trials) <= 2 * (search_module.SICK + 1)
        assert any("cuda:1 crashed 3 trainings in a row" in str(warning.message) for warning in told)
    else:
        assert not told
        assert min(stub.done for stub in stubs) > 10


def test_the_only_device_is_never_set_aside(begin, monkeypatch):
    stubs = [Stub(0, "cpu", "crashed"), Stub(1, "cpu", "crashed")]
    monkeypatch.setattr(search_module, "open_slots", lambda *given: stubs)
    with pytest.raises(
        RunError, match=r"all \d+ evaluations so far ended without a value, the last with crashed: worker"
    ):
        begin(trials=60, generations=None).run()
