"""Real slots at work: the same run for any number of them, and what no driver can mend ends it."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from typing import Any

import pytest

from evo_tune.dispatch.slot import NoMachine, Slot, SlotUnfit
from evo_tune.errors import RunError, StoreError
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop import slots
from evo_tune.loop.search import Search
from evo_tune.store.run import Run
from tests.conftest import drive, evaluate, rows
from tests.loop.cases import NAMES, WAYS, Begin, agrees


def test_run_is_what_ask_and_tell_make(begin: Begin) -> None:
    def caught(search: Search, candidate: Candidate) -> Any:
        try:
            return evaluate(search, candidate)
        except ValueError as error:
            return Outcome("failed", error=str(error))

    by_hand = drive(begin("hand", options={"failing": 0.2}), evaluate=caught)
    by_itself = begin("itself", options={"failing": 0.2}, slots=1).run()
    assert [row[:3] for row in rows(by_itself)] == [row[:3] for row in rows(by_hand)]
    assert by_itself.saved.ended == "the limit of 12 trials is reached"
    failed = [trial for trial in by_itself.trials if trial.outcome.status == "failed"]
    assert failed
    assert all("no luck" in str(trial.outcome.error) for trial in failed)


def test_run_takes_up_what_was_asked_for_by_hand(begin: Begin) -> None:
    search = begin(order="proposal", lag=0, slots=2, strategy_options={"generational": True})
    assert search.ask() is not None
    with pytest.warns(UserWarning, match="2 slots will wait"):
        search.run()
    assert len(search.trials) == 12


@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_run(begin: Begin, resume: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    search = begin("run", slots=2, generations=6)
    journal, write, room = search.saved.journal.path, os.write, itertools.count()

    def fill(file: int, data: bytes) -> int:
        number = next(room) if os.path.samestat(os.fstat(file), journal.stat()) else 0
        if number > 19:
            raise OSError(28, "No space left on device")
        return write(file, data[:7] if number == 19 else data)

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
    """A slot that answers by itself; `status` says what it gives from its training number `began` on."""

    pid = None

    def __init__(self, number: int, device: str, status: str, began: int = 0, seconds: float = 1.0) -> None:
        self.name, self.device, self.status = f"slot {number}", device, status
        self.began, self.seconds = began, seconds
        self.done = 0

    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        time.sleep(0.005)
        self.done += 1
        if self.status == "ok" or self.done <= self.began:
            return Outcome("ok", {"loss": candidate.genome["x"]}, seconds=60.0, device=self.device)
        return Outcome(self.status, seconds=self.seconds, error="No CUDA GPUs are available", device=self.device)

    def interrupt(self) -> None: ...

    def close(self) -> None: ...

    def kill(self) -> None: ...


@pytest.fixture
def stubbed(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Begin a run on slots that answer by themselves; return it, and what was warned of while it ran."""

    def make(stubs: list[Slot], **fields: Any) -> tuple[Search, list[str]]:
        monkeypatch.setattr(slots, "open_slots", lambda *given: stubs)
        search = begin(**{"trials": 30, "generations": None, **fields})
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            search.run()
        return search, [str(warning.message) for warning in told]

    return make


@pytest.mark.parametrize("status", ["failed", "crashed", "timeout"])
@pytest.mark.parametrize("seconds", [0.1, 9999.0])
def test_a_device_that_fails_what_others_do_well_gives_no_result_and_is_named(stubbed, status, seconds):
    stubs = [Stub(0, "cuda:0", "ok"), Stub(1, "cuda:1", status, seconds=seconds), Stub(2, "cuda:1", status)]
    search, told = stubbed(stubs)
    assert len(search.trials) == 30
    assert {(trial.outcome.status, trial.outcome.device) for trial in search.trials} == {("ok", "cuda:0")}
    assert len(told) == 1
    assert "cuda:1 is set aside: it failed 3 trainings in a row that did well elsewhere" in told[0]
    assert "No CUDA GPUs are available" in told[0]
    assert agrees(search)


def test_a_device_that_falls_ill_gives_no_false_result(stubbed):
    search, told = stubbed([Stub(0, "cuda:0", "ok"), Stub(1, "cuda:1", "failed", began=5)])
    assert all(trial.ok for trial in search.trials)
    assert sum(trial.outcome.device == "cuda:1" for trial in search.trials) == 5
    assert len(told) == 1


@pytest.mark.parametrize("order", ["arrival", "proposal"])
@pytest.mark.parametrize("lag", [0, 8])
def test_the_last_candidate_is_tried_elsewhere_as_well(stubbed, order, lag):
    search, _ = stubbed([Stub(0, "cuda:0", "failed"), Stub(1, "cuda:1", "ok")], trials=2, order=order, lag=lag)
    assert [trial.ok for trial in search.trials] == [True, True]
    assert search.saved.ended == "the limit of 2 trials is reached"


@pytest.mark.parametrize("way", [WAYS[0], WAYS[1]], ids=NAMES[:2])
def test_in_birth_order_devices_that_are_well_change_nothing(stubbed, way):
    class Failing(Stub):
        def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
            outcome = super().run(candidate, folder)
            bad = candidate.genome["n"] % 3 == 0
            return Outcome("failed", seconds=0.1, device=self.device, error="no luck") if bad else outcome

    found = [stubbed([Failing(i, f"cuda:{i}", "ok") for i in range(many)], order="proposal", **way) for many in (1, 3)]
    assert [told for _, told in found] == [[], []]
    assert rows(found[0][0]) == rows(found[1][0])
    assert {row[1] for row in rows(found[0][0])} == {"ok", "failed"}


def test_where_all_devices_fail_from_the_start_the_run_stops_with_counts(stubbed):
    for stubs in (
        [Stub(0, "cpu", "crashed"), Stub(1, "cpu", "crashed")],
        [Stub(0, "a", "failed"), Stub(1, "b", "failed")],
    ):
        with pytest.raises(RunError, match=r"(all|the first) \d+ trials .*(without a value|alike).*: No"):
            stubbed(stubs)


@pytest.mark.parametrize("devices", [("cpu", "cpu"), ("cuda:0", "cuda:1")])
def test_where_all_devices_fall_ill_the_default_genome_shows_it(stubbed, resume, devices):
    stubs = [Stub(i, device, "failed", began=10) for i, device in enumerate(devices)]
    with pytest.raises(RunError, match=r"no device is left to train on: it fails the default genome too"):
        stubbed(stubs, name="ill")
    failed = [trial for trial in resume("ill").trials if not trial.ok]
    assert len(failed) < 12, "while one slot of a device still does well, the other's failures count for little"


class Unfit(Stub):
    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        self.done += 1
        raise SlotUnfit(f"{self.name}: its worker 7 cannot be killed")


def test_a_slot_that_is_unfit_is_named_and_its_candidate_trained_elsewhere(stubbed):
    unfit = Unfit(1, "cuda:1", "ok")
    search, told = stubbed([Stub(0, "cuda:0", "ok"), unfit])
    assert len(search.trials) == 30
    assert unfit.done == 1
    assert told == ["slot 1 is set aside: slot 1: its worker 7 cannot be killed; the run continues without it"]
    with pytest.raises(RunError, match="no device is left to train on: slot 0: its worker 7 cannot be killed"):
        stubbed([Unfit(0, "cpu", "ok")])


def test_a_slot_without_a_machine_gives_its_candidate_to_another(stubbed):
    class Homeless(Stub):
        def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
            self.done += 1
            if self.done == 1:
                raise NoMachine("slot 1 has lost its machine")
            return super().run(candidate, folder)

    search, told = stubbed([Stub(0, "cuda:0", "ok"), Homeless(1, "cuda:1", "ok")], order="proposal", lag=1)
    assert all(trial.ok for trial in search.trials)
    assert not told


def test_slots_are_killed_side_by_side(begin, monkeypatch):
    class Slow(Stub):
        def kill(self) -> None:
            time.sleep(0.5)

    monkeypatch.setattr(slots, "open_slots", lambda *given: [Slow(i, "cpu", "ok") for i in range(8)])
    search = begin(trials=10**6, generations=None)

    def watch(search: Search) -> None:
        if search.trials:
            raise LookupError("enough")

    began = time.monotonic()
    with pytest.raises(LookupError):
        search.run(watch)
    assert time.monotonic() - began < 3.0
