"""A run read back from its journal, and whatever a forged one may hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune.errors import StoreError
from evo_tune.loop.search import Search
from evo_tune.store.run import Run
from evo_tune.store.run_folders import list_runs
from evo_tune.store.table import table_of
from tests.conftest import drive
from tests.journals import events_of, write_events

Begin = Callable[..., Search]


def one_line(error: pytest.ExceptionInfo[BaseException]) -> bool:
    return "\n" not in str(error.value)


def forge(change: Callable[[list[dict[str, Any]]], Any], folder: Path) -> None:
    events = events_of(folder)
    change(events)
    write_events(folder, events)


@pytest.mark.parametrize(
    "change",
    [
        lambda events: events[1]["candidate"].update(id=5),
        lambda events: events[1]["candidate"].update(id=None),
        lambda events: events[1]["candidate"].pop("seed"),
        lambda events: events[1]["candidate"].update(evil=1),
        lambda events: events[1]["candidate"]["genome"].update(x=99),
        lambda events: events[1]["candidate"]["genome"].update(kind="zzz"),
        lambda events: events[1]["candidate"]["genome"].update(n=float(events[1]["candidate"]["genome"]["n"])),
        lambda events: events[1]["candidate"]["genome"].update(kind=2.0),
        lambda events: events[1]["candidate"]["genome"].pop("n"),
        lambda events: events[1]["candidate"].update(genome=[]),
        lambda events: events[1].pop("time"),
        lambda events: events[1].update(event="evil"),
        lambda events: events[1].update(event="reported", id=0),
        lambda events: events[2].update(id=3),
        lambda events: events[2].update(id=-1),
        lambda events: events[2].update(id=[]),
        lambda events: events[2]["outcome"].update(metrics=[]),
        lambda events: events[2]["outcome"].update(metrics={}),
        lambda events: events[2]["outcome"].update(metrics={"loss": None}),
        lambda events: events[2]["outcome"].update(metrics={"loss": "small"}),
        lambda events: events[2]["outcome"].update(curve=7),
        lambda events: events[2].update(outcome=None),
        lambda events: events[3].update(id=1),
        lambda events: events.insert(3, events[2]),
        lambda events: events.insert(4, events[3]),
        lambda events: events[0].update(session={"evil": 1}),
        lambda events: events[0].update(session={"trials": -1}),
    ],
)
def test_a_forged_journal_is_refused_with_its_line(begin: Begin, resume: Begin, change: Callable[..., Any]) -> None:
    folder = drive(begin("mine")).saved.folder
    forge(change, folder)
    with pytest.raises(StoreError, match=r"_journal\.jsonl: line \d+ is not understood") as caught:
        Run.open(folder)
    assert one_line(caught)
    with pytest.raises(StoreError, match="is not understood"):
        resume("mine")


def test_nothing_of_a_run_is_run_when_it_is_read(begin: Begin, tmp_path: Path) -> None:
    folder = drive(begin("mine")).saved.folder
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'was_here')!r}, 'w')")
    manifest = json.loads((folder / "_run.json").read_text())
    (folder / "_run.json").write_text(json.dumps({**manifest, "evaluator": str(evil), "strategy": str(evil)}))
    run = Run.open(folder)
    assert len(run.trials()) == len(table_of(run, run.trials())) == 12
    assert list_runs(folder.parent) == [folder]
    assert not (tmp_path / "was_here").exists()


def test_times_count_work_and_not_the_pauses_between_sessions(begin: Begin, resume: Begin) -> None:
    folder = drive(begin("mine", trials=5)).saved.folder

    def long_ago(events: list[dict[str, Any]]) -> None:
        for event in events:
            event["time"] -= 1e6

    forge(long_ago, folder)
    search = drive(resume("mine", trials=6))
    assert search.seconds < 100
    assert Run.open(folder).seconds < 100


def test_a_clock_that_jumps_counts_nothing(begin: Begin, resume: Begin) -> None:
    folder = drive(begin("mine", trials=5)).saved.folder
    before = Run.open(folder).seconds

    def jump(events: list[dict[str, Any]]) -> None:
        for event in events[4:]:
            event["time"] += 30 * 86400

    forge(jump, folder)
    assert Run.open(folder).seconds == before
    assert len(drive(resume("mine", trials=6, hours=5.0)).trials) == 6
