"""Whose a failure is: the device's only if the same candidate does well elsewhere, and never by one candidate alone."""

from __future__ import annotations

import random
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from evo_tune.genome.trial import Outcome
from evo_tune.loop.health import SICK, Health, Verdict

OK = Outcome("ok", {"loss": 1.0}, seconds=600.0)


def failing(status="failed", seconds=1.0):
    return Outcome(status, seconds=seconds, error="No CUDA GPUs are available")


class Machine:
    """Devices that train: `ill` says from which training on each fails everything; `bad` genomes fail everywhere."""

    def __init__(self, ill, bad, status="failed", seconds=1.0, seed=0):
        self.ill, self.bad, self.failure = ill, bad, failing(status, seconds)
        self.done = dict.fromkeys(ill, 0)
        self.health, self.rng = Health(), random.Random(seed)
        self.recorded: dict[int, Outcome] = {}
        self.where: dict[int, str] = {}

    def train(self, device, id):
        self.done[device] += 1
        began = self.ill[device]
        return self.failure if id in self.bad or (began is not None and self.done[device] > began) else OK

    def run(self, candidates):
        """Drive all devices in turns that come at random, each with one training at a time; return what is left."""
        new, again, out = deque(range(candidates)), [], {}
        while True:
            work = [one for one in self.ill if one not in self.health.aside]
            for device in self.rng.sample(work, len(work)):
                if device in out:
                    continue
                job = next((id for id in again if self.health.may_try(device, id, work)), None)
                if job is not None:
                    again.remove(job)
                elif new and self.health.may_work(device):
                    job = new.popleft()
                if job is not None:
                    out[device] = job
            if not out:
                return len(new) + len(again)
            device = self.rng.choice(sorted(out))
            id = out.pop(device)
            outcome = self.train(device, id)
            others = [one for one in work if one != device and one not in self.health.aside]
            testable = self.recorded.get(0, failing()).status == "ok"
            verdict = self.health.record_outcome(device, id, outcome, others, testable)
            if verdict is Verdict.TEST:
                verdict = self.health.record_test(device, id, self.train(device, 0))
            assert verdict is not Verdict.TEST
            if verdict is Verdict.HOLD:
                again.append(id)
            else:
                assert id not in self.recorded
                self.recorded[id], self.where[id] = outcome, device


NAMES = ("cuda:0", "cuda:1", "node2/cuda:0", "node3/cpu")
DEVICES = st.integers(1, 4).map(lambda many: NAMES[:many])


@given(DEVICES, st.sets(st.integers(0, 29)), st.sampled_from(["failed", "crashed", "timeout"]), st.integers(0, 99))
def test_on_devices_that_are_well_every_result_is_the_genomes_and_no_device_is_lost(devices, bad, status, seed):
    """So a run in proposal order is the same for any number of them."""
    for seconds in (1.0, 9999.0):
        machine = Machine(dict.fromkeys(devices), bad, status, seconds, seed)
        assert machine.run(30) == 0
        assert {id for id, outcome in machine.recorded.items() if outcome.status != "ok"} == bad
        assert not machine.health.aside


@given(
    st.integers(1, 3),
    st.sampled_from(["failed", "crashed", "timeout", "out_of_memory"]),
    st.sets(st.integers(0, 59), max_size=12),
    st.integers(0, 99),
)
def test_a_device_that_never_did_well_gives_no_result_and_is_set_aside(good, status, bad, seed):
    machine = Machine({**dict.fromkeys(NAMES[:good]), "ill": 0}, bad, status, 1.0 if seed % 2 else 9999.0, seed)
    assert machine.run(60) == 0
    assert set(machine.recorded) == set(range(60))
    assert {id for id, outcome in machine.recorded.items() if outcome.status != "ok"} == bad
    assert set(machine.health.aside) <= {"ill"}
    if machine.done["ill"] > SICK + len(bad):
        assert "ill" in machine.health.aside
    assert machine.done["ill"] <= 2 * SICK + len(bad)


@given(st.integers(1, 3), st.integers(1, 20), st.integers(0, 99))
def test_a_device_that_falls_ill_gives_no_false_result_either(good, began, seed):
    machine = Machine({**dict.fromkeys(NAMES[:good]), "ill": began}, set(), "crashed", 1.0, seed)
    assert machine.run(100) == 0
    assert all(outcome.status == "ok" for outcome in machine.recorded.values())
    assert machine.done["ill"] <= began + SICK


@given(DEVICES, st.integers(1, 10), st.integers(0, 99))
def test_only_where_all_fail_is_no_device_left_and_few_results_are_false(devices, began, seed):
    machine = Machine(dict.fromkeys(devices, began), set(), "failed", 1.0, seed)
    machine.run(200)
    if machine.recorded.get(0, OK).status == "ok":
        assert set(machine.health.aside) == set(devices)
        assert any("fails the default genome too" in why for why in machine.health.aside.values()) or len(devices) > 1
        false = sum(outcome.status != "ok" for outcome in machine.recorded.values())
        assert false < SICK + len(devices) * SICK


def test_one_candidate_alone_sets_nobody_aside():
    health = Health()
    for id in range(10):
        assert health.record_outcome("a", id, failing(), ["b"], True) is Verdict.HOLD
        assert health.record_outcome("b", id, OK, ["a"], True) is Verdict.RECORD
        assert health.record_outcome("a", 100 + id, OK, ["b"], True) is Verdict.RECORD
    assert not health.aside


def test_a_device_with_too_much_in_doubt_waits_for_the_others():
    health = Health()
    for id in range(SICK):
        assert health.may_work("a")
        assert health.record_outcome("a", id, failing(), ["b"], False) is Verdict.HOLD
    assert not health.may_work("a")
    assert not health.may_try("a", 0, ["a", "b"])
    assert health.may_try("b", 0, ["a", "b"])
    assert health.may_try("a", 0, ["a"]), "nobody else is left"
    for id in range(SICK):
        assert health.record_outcome("b", id, OK, ["a"], True) is Verdict.RECORD
    assert health.aside["a"] == (
        "it failed 3 trainings in a row that did well elsewhere, the last with 'No CUDA GPUs are available'"
    )


def test_a_failure_that_took_long_on_a_device_that_did_well_is_taken_at_once():
    health = Health()
    for device in ("a", "b"):
        health.record_outcome(device, ord(device), OK, ["a", "b"], True)
    assert health.record_outcome("a", 1, failing("timeout", 9999.0), ["b"], True) is Verdict.RECORD
    assert health.record_outcome("a", 2, failing("timeout", 9999.0), ["b"], True) is Verdict.HOLD, (
        "a second one in a row is not"
    )
    assert health.record_outcome("b", 3, failing("out_of_memory"), ["a"], True) is Verdict.RECORD


def test_the_default_is_the_test_of_the_only_device():
    health = Health()
    health.record_outcome("cpu", 0, OK, [], False)
    verdicts = [health.record_outcome("cpu", id, failing(), [], True) for id in range(1, SICK + 1)]
    assert verdicts == [Verdict.RECORD] * (SICK - 1) + [Verdict.TEST]
    assert health.record_test("cpu", SICK, OK) is Verdict.RECORD
    verdicts = [health.record_outcome("cpu", id, failing(), [], True) for id in range(SICK + 1, 2 * SICK + 1)]
    assert verdicts == [Verdict.RECORD] * (SICK - 1) + [Verdict.TEST]
    assert health.record_test("cpu", 2 * SICK, failing()) is Verdict.HOLD
    assert "it fails the default genome too, which did well before" in health.aside["cpu"]
