"""The loop: asked and told by hand, resumed at every cut, the same for any number of slots."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evo_tune.errors import StoreError, UsageError
from evo_tune.genome.trial import Outcome
from evo_tune.store.run import Run
from tests.conftest import cut_copy, drive, rows, survivors
from tests.loop.cases import NAMES, WAYS, Begin, agrees, some_fail


def test_ask_and_tell(begin: Begin) -> None:
    search = begin(generations=1)
    first = search.ask()
    assert first is not None
    assert (first.id, first.generation, first.reported_before, first.operator) == (0, 0, 0, "default")
    assert first.genome == search.space.default()
    second = search.ask()
    assert second is not None
    assert second.id == 1
    assert search.best is None
    search.tell(second, {"loss": 0.25, "cost": 3})
    search.tell(first, Outcome("ok", {"loss": 0.5}, seconds=1.5, device="mine"))
    assert [trial.id for trial in search.trials] == [0, 1]
    assert [trial.reported_order for trial in search.trials] == [1, 0]
    assert search.best is not None
    assert (search.best.id, search.best.outcome.metrics) == (1, {"loss": 0.25, "cost": 3.0})
    third, fourth = search.ask(), search.ask()
    assert third is not None
    assert fourth is not None
    assert third.reported_before == 2
    assert search.ask() is None
    assert search.finished == "the limit of 4 trials is reached"
    search.tell(fourth, {"loss": 0.1})
    search.tell(third, {"loss": 0.2})
    search.close()
    assert search.saved.ended == "the limit of 4 trials is reached"
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
        with pytest.raises(UsageError, match=f"candidate {wrong.id} is not pending: report the result"):
            search.tell(wrong, {"loss": 0.5})
    born = search.ask()
    assert born is not None
    with pytest.raises(UsageError, match="candidate 1 is not pending"):
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


@pytest.mark.usefixtures("fast_disk")
@pytest.mark.parametrize("order", ["arrival", "proposal"])
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
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.proof)])
@pytest.mark.parametrize(("order", "slots"), [("arrival", 1), ("proposal", 3)])
@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_resumed_at_every_cut_of_the_journal(
    begin: Begin, resume: Begin, way: dict[str, Any], order: str, slots: int, every: int
) -> None:
    """Of the cuts each way has a third in the suite, so that all ways together have them all."""
    whole = drive(begin("whole", order=order, lag=2, **way), slots, some_fail)
    expected, marked = rows(whole), survivors(whole.saved.folder)
    events = len(whole.saved.journal.path.read_bytes().splitlines())
    for cut in range(1 + (WAYS.index(way) + slots) % every, events + 1, every):
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
        (folder / "_journal.jsonl").write_bytes(data[:end].rstrip(b"}\n"))  # else, now and then, a whole line
        with pytest.warns(UserWarning, match="torn tail"):
            again = resume(f"cut-{number}")
        assert rows(drive(again)) == rows(whole)


@pytest.mark.usefixtures("fast_disk")
@pytest.mark.parametrize("lag", [0, 3, 8])
@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_in_birth_order_slots_change_nothing(begin: Begin, way: dict[str, Any], lag: int) -> None:
    runs = [drive(begin(f"slots-{n}", order="proposal", lag=lag, **way), n, some_fail) for n in (1, 2, 4, 9)]
    assert [rows(run) for run in runs] == [rows(runs[0])] * 4
    assert [survivors(run.saved.folder) for run in runs] == [survivors(runs[0].saved.folder)] * 4
    for trial in runs[0].trials:
        assert trial.candidate.reported_before >= trial.id - lag
        assert trial.reported_order == trial.id
    assert all(agrees(run) for run in runs)


def test_in_birth_order_a_result_that_came_early_waits_its_turn(begin: Begin) -> None:
    search = begin(order="proposal", lag=1, trials=5)
    zero, one = search.ask(), search.ask()
    assert zero is not None
    assert one is not None
    assert search.ask() is None
    assert search.finished is None
    search.tell(one, {"loss": 1.0})
    assert search.ask() is None, "result 0 must be told first"
    assert search.trials[0].reported_order == -1
    assert search.best is not None, "what is recorded can be seen; strategies cannot"
    search.tell(zero, {"loss": 2.0})
    two = search.ask()
    assert two is not None
    assert two.reported_before == 1


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
