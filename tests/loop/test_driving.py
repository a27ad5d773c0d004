"""Real slots at work: the same run for any number of them, and what no driver can mend ends it."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from typing import Any

import pytest

from evo_tune.dispatch import Slot
from evo_tune.errors import RunError, StoreError
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop import driving, opening
from evo_tune.loop.search import Search
from evo_tune.store.run import Run
from tests.conftest import drive, evaluate, rows, survivors
from tests.loop.cases import NAMES, WAYS, Begin, agrees


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
    assert search.drivers.slots == []
    kept = rows(Run.open(search.saved.folder))
    assert kept
    again = resume("run").run()
    assert all(row in rows(again) for row in kept)
    assert len(again.trials) == 24
    assert agrees(again)


def test_a_watcher_that_breaks_ends_the_run_and_its_workers(begin: Begin, resume: Begin) -> None:
    def watch(search: Search) -> None:
        if search.trials:
            raise LookupError("no terminal")

    search = begin("run", slots=2, options={"sleep": 0.2})
    with pytest.raises(LookupError, match="no terminal"):
        search.run(watch)
    assert search.drivers.slots == []
    assert rows(resume("run"))


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
    monkeypatch.setattr(opening, "open_slots", lambda *given: stubs)
    search = begin(trials=60, generations=None)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        search.run()
    assert len(search.trials) == 60
    if aside:
        assert sum(trial.outcome.status == "crashed" for trial in search.trials) <= 2 * (driving.SICK + 1)
        assert any("cuda:1 crashed 3 trainings in a row" in str(warning.message) for warning in told)
    else:
        assert not told
        assert min(stub.done for stub in stubs) > 10


def test_the_only_device_is_never_set_aside(begin, monkeypatch):
    stubs = [Stub(0, "cpu", "crashed"), Stub(1, "cpu", "crashed")]
    monkeypatch.setattr(opening, "open_slots", lambda *given: stubs)
    with pytest.raises(
        RunError, match=r"all \d+ evaluations so far ended without a value, the last with crashed: worker"
    ):
        begin(trials=60, generations=None).run()
