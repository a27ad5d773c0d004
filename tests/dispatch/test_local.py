"""What is the local slot's alone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from slot_helpers import candidate, until, workers

from evo_tune import dispatch
from evo_tune.dispatch import devices, local, open_slots
from evo_tune.dispatch.devices import CPU, Plan
from evo_tune.dispatch.local import Process, WorkerLost
from evo_tune.dispatch.slot import SlotClosed, SlotUnfit
from evo_tune.errors import OptionError


class Clock:
    """A clock on which every look is a thousand seconds after the last: a machine that was paused."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1000.0
        return self.now


def test_a_training_that_sigterm_ended_is_a_crash_only_if_its_slot_stays(task_of, monkeypatch, tmp_path):
    """A batch system signals all processes of a job: the training dies before the parent has closed the slot."""
    body = f"open({str(tmp_path / 'begun')!r}, 'w')\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)"
    (slot,) = open_slots(task_of(body), Plan((CPU,), 1))
    monkeypatch.setattr(local, "LEAVING", 0.1)
    assert slot.run(candidate()).error == "worker died: killed by signal 15"
    monkeypatch.setattr(local, "LEAVING", 30.0)
    (tmp_path / "begun").unlink()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(slot.run, candidate())
        assert until((tmp_path / "begun").exists)
        time.sleep(0.3)  # by now the slot knows that the training has ended
        slot.kill()
        with pytest.raises(SlotClosed):
            future.result(timeout=10)
    slot.close()
    assert until(lambda: not workers())


def test_a_pause_costs_one_tick_of_the_timeout(monkeypatch):
    monkeypatch.setattr(local, "time", Clock())
    process = object.__new__(Process)
    waits = []
    monkeypatch.setattr(process, "is_dead", lambda: False, raising=False)
    monkeypatch.setattr(process, "_replies", lambda seconds: waits.append(seconds), raising=False)
    with pytest.raises(WorkerLost, match="no result within 5 s: killed"):
        process.receive(5.0)
    assert len(waits) == 5


def test_a_result_cut_in_half_holds_nothing_up(task_of):
    body = """
        frame = sys._getframe()
        while "connection" not in frame.f_locals:
            frame = frame.f_back
        frame.f_locals["connection"].send(b"\\x80\\x04\\x95\\xff")  # the head of a pickle
        os._exit(1)
        """
    (slot,) = open_slots(task_of(body), Plan((CPU,), 1))
    assert slot.run(candidate()).error == "worker died: exit code 1"
    slot.close()
    assert not workers()


def test_a_worker_that_cannot_be_killed_is_named_and_its_slot_is_unfit(task_of, monkeypatch):
    monkeypatch.setattr(local, "DYING", 0.2)
    real = Process.kill
    (slot,) = open_slots(task_of("time.sleep(60)"), Plan((CPU,), 1), timeout=0.5)
    with monkeypatch.context() as patch:
        patch.setattr(Process, "kill", lambda process: None)
        with pytest.raises(SlotUnfit, match=r"slot 0: its worker \d+ on cpu cannot be killed \(no result within"):
            slot.run(candidate())
    for process in workers():
        process.kill()
    assert until(lambda: not workers())
    slot.close()
    assert real is Process.kill


@pytest.mark.slow
def test_a_worker_that_finds_other_data_evaluates_nothing(task_of):
    top = "\ndef fingerprint(*, note: str = ''):\n    return 'mine'\n"
    task = task_of("return {'loss': 0.5}", top=top)
    for fingerprint in ("", "mine"):
        (slot,) = open_slots(replace(task, fingerprint=fingerprint), Plan((CPU,), 1))
        assert slot.run(candidate()).status == "ok"
        slot.close()
    (slot,) = open_slots(replace(task, fingerprint="theirs"), Plan((CPU,), 1))
    with pytest.raises(SlotUnfit, match=r"slot 0: the data of evaluator are not the run's .* 'mine', the run's 'th"):
        slot.run(candidate())
    slot.close()


def test_a_system_without_process_groups_is_refused_as_a_run_begins(task_of, monkeypatch):
    devices.check_system("posix")
    with pytest.raises(OptionError, match=r"cannot train on this system \(nt\): expected Linux"):
        devices.check_system("nt")

    def refuse() -> None:
        raise OptionError("not here")

    monkeypatch.setattr(dispatch, "check_system", refuse)
    with pytest.raises(OptionError, match="not here"):
        open_slots(task_of("return {'loss': 0.5}"), Plan((CPU,), 1))


def test_a_flood_of_output_does_not_fill_the_disk(task_of, trials):
    """While it goes on and at its end; the beginning and the end of the output stay."""
    body = """
        print("the beginning", flush=True)
        for flood in range(2):
            for _ in range(40):
                os.write(1, b"x" * (1 << 20))
            end = time.monotonic() + 10.0
            while flood == 0 and os.fstat(1).st_size > 17 << 20 and time.monotonic() < end:
                time.sleep(0.05)
            assert flood or os.fstat(1).st_size < 17 << 20
        print("the end")
        return {"loss": 0.0}
    """
    (slot,) = open_slots(task_of(body), Plan((CPU,), 1))
    assert slot.run(candidate()).error is None
    slot.close()
    log = (trials / "000000" / "log.txt").read_bytes()
    assert len(log) < 17 << 20
    assert log.startswith(b"the beginning")
    assert log.endswith(b"the end\n")
    assert b"evo-tune has left out a part of the output here" in log
