"""No process outlives its parent, Ctrl-C reaches no worker, and nothing is printed about either."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from slot_helpers import alive, candidate, until

PARENT = """\
import signal, sys, threading
from pathlib import Path
from slot_helpers import candidate
from evo_tune.dispatch import open_slots
from evo_tune.dispatch.devices import plan
from evo_tune.dispatch.slot import Task

path, trials = sys.argv[1:]
task = Task(path, "evaluator", path, "file", {}, ("loss:min",), trials)
(slot,) = open_slots(task, plan(slots=1, devices="cpu"))
"""


@pytest.fixture
def start(tmp_path, task_of, trials):
    """Start a parent in a session of its own, as a shell would; its slot is `slot`."""
    started = []

    def make(body: str, script: str) -> subprocess.Popen[str]:
        (tmp_path / "parent.py").write_text(PARENT + textwrap.dedent(script))
        path = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        command = [sys.executable, str(tmp_path / "parent.py"), task_of(body).path, str(trials)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": ""},
        )
        started.append(process)
        return process

    yield make
    for process in started:
        with process:
            process.kill()


def family(process: subprocess.Popen[str]) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


def test_nothing_outlives_a_killed_parent(start, trials):
    body = """
        child = subprocess.Popen(["sleep", "600"])
        (context.folder / "pid").write_text(str(child.pid))
        time.sleep(600)
        """
    parent = start(body, "slot.run(candidate())")
    assert until(lambda: (trials / "000000" / "pid").exists())
    pids = family(parent)
    assert int(until(lambda: (trials / "000000" / "pid").read_text())) in pids
    assert len(pids) >= 2
    parent.kill()
    _, errors = parent.communicate(timeout=5)
    assert until(lambda: not any(alive(pid) for pid in pids), 4.0)
    assert errors == ""
    assert os.listdir(trials) == ["000000"]


def test_a_parent_killed_while_its_worker_starts(start):
    parent = start("time.sleep(600)", "slot.run(candidate())")
    assert until(lambda: len(family(parent)) >= 1)
    pids = family(parent)
    parent.kill()
    _, errors = parent.communicate(timeout=5)
    assert until(lambda: not any(alive(pid) for pid in pids), 4.0)
    assert errors == ""


STRAYS = """
    direct = subprocess.Popen(["env", "-i", "setsid", "sleep", "600"])
    subprocess.run(f"env -i setsid sleep 600 & echo {direct.pid} $! > {context.folder}/strays.part", shell=True)
    time.sleep(0.2)  # until they have left the group
    os.rename(context.folder / "strays.part", context.folder / "strays")
    """
"""Starts two processes in sessions of their own, with empty environments; the second one's parent is dead."""

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="finding strays needs Linux's /proc")


def strays(trials: Path) -> list[int]:
    return [int(pid) for pid in (trials / "000000" / "strays").read_text().split()]


@needs_proc
@pytest.mark.parametrize(("end", "status"), [("time.sleep(60)", "timeout"), ("return {'loss': 0.0}", "ok")])
def test_a_process_without_group_and_mark_dies_with_its_worker(open_one, trials, end, status):
    slot = open_one(f"{STRAYS}\n    {end}", timeout=0.7 if status == "timeout" else None)
    assert slot.run(candidate()).status == status
    slot.close()
    assert len(strays(trials)) == 2
    assert until(lambda: not any(alive(pid) for pid in strays(trials)), 2.0)


@needs_proc
def test_a_process_without_group_and_mark_dies_with_a_killed_parent(start, trials):
    parent = start(f"{STRAYS}\n    time.sleep(600)", "slot.run(candidate())")
    assert until(lambda: (trials / "000000" / "strays").exists())
    parent.kill()
    parent.communicate(timeout=5)
    assert until(lambda: not any(alive(pid) for pid in strays(trials)), 4.0)


@needs_proc
def test_dead_orphans_do_not_pile_up(open_one):
    slot = open_one("subprocess.run('sleep 0 &', shell=True)\ntime.sleep(0.1)\nreturn {'loss': 0.0}")
    for number in range(5):
        assert slot.run(candidate(number)).status == "ok"
    assert len(psutil.Process(slot.pid).children()) <= 2


def test_an_evaluator_learns_how_a_process_ended_that_it_started_for_the_trial_before(open_one):
    body = (
        "held.append(subprocess.Popen('exit 3', shell=True))\ntime.sleep(0.1)\nreturn {'loss': float(held[0].wait())}"
    )
    slot = open_one(body, top="\nheld = []\n")
    assert [slot.run(candidate(number)).metrics["loss"] for number in range(3)] == [3.0, 3.0, 3.0]


def with_id(pid: int) -> subprocess.Popen[bytes] | None:
    """Start a process that has this id, and its own group; None if the id is not free."""
    for _ in range(20):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        if process.pid == pid:
            return process
        process.kill()
        process.wait()
    return None


@pytest.mark.skipif(not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK), reason="choosing an id needs root")
def test_a_process_with_the_id_of_a_dead_worker_is_not_killed(open_one):
    slot = open_one("return {'loss': 0.0}")
    slot.run(candidate())
    worker = slot.pid
    os.kill(worker, signal.SIGKILL)
    assert until(lambda: slot.pid is None)
    try:
        other = with_id(worker)
    except OSError:
        pytest.skip("choosing an id needs a right that root does not have here")
    slot.run(candidate(1))
    other = other or with_id(worker)
    slot.kill()
    slot.close()
    assert other is not None, "a dead worker is reaped in the end"
    try:
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_ctrl_c_does_not_reach_the_worker(start):
    parent = start(
        "time.sleep(0.4)\nreturn {'loss': 0.0}",
        """
        outcomes = []
        thread = threading.Thread(target=lambda: outcomes.append(slot.run(candidate())))
        signal.signal(signal.SIGINT, lambda *_: None)
        print("ready", flush=True)
        thread.start()
        thread.join()
        slot.close()
        print(outcomes[0].status, outcomes[0].error, flush=True)
        """,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    while parent.poll() is None:  # from before the worker has begun to ignore it until after its end
        os.killpg(parent.pid, signal.SIGINT)
        time.sleep(0.01)
    assert parent.communicate() == ("ok None\n", "")


def test_the_worker_neither_reads_nor_writes_the_parents_terminal(start, trials):
    parent = start(
        "print('not on the terminal', flush=True)\nsubprocess.run(['cat'], timeout=5)\nreturn {'loss': 0.0}",
        "outcome = slot.run(candidate())\nslot.close()\nprint(outcome.status, outcome.error)",
    )
    assert parent.stdout is not None
    assert parent.stdout.read() == "ok None\n"  # from the parent's own input, `cat` would never come back
    assert (trials / "000000" / "log.txt").read_text() == "not on the terminal\n"


def test_an_idle_slot_that_nobody_closed_does_not_hold_up_the_exit(start):
    parent = start("return {'loss': 0.0}", "print(slot.run(candidate()).status, slot.pid)")
    output, errors = parent.communicate(timeout=10)
    status, pid = output.split()
    assert (status, errors, parent.returncode) == ("ok", "", 0)
    assert until(lambda: not alive(int(pid)), 2.0)


def test_importing_dispatch_is_light():
    code = "import evo_tune.dispatch, sys; print({'torch', 'joblib', 'pandas', 'deap'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
