"""A Ray cluster whose machines are not all fit, and one whose head dies."""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from slot_helpers import candidate, until

from evo_tune.dispatch import open_slots
from evo_tune.dispatch.clusters import ray_cluster as module
from evo_tune.dispatch.clusters.ray_cluster import connect
from evo_tune.dispatch.clusters.remote import Cluster, RemoteSlot
from evo_tune.dispatch.devices import CPU, Plan
from evo_tune.errors import ClusterLost, OptionError, RunError
from evo_tune.store.run import Run
from tests.extras import need


class Ray:
    """As much of Ray as the engine needs: each actor answers `open` with the next of some answers."""

    def __init__(self, *answers: tuple[str, str]) -> None:
        self.answers, self.killed, self.asked = list(answers), 0, 0
        self.head: socket.socket | None = None
        self.alive = True
        self.exceptions = SimpleNamespace(RayError=RuntimeError, GetTimeoutError=TimeoutError)

    def is_initialized(self) -> bool:
        return True

    def get_runtime_context(self) -> SimpleNamespace:
        if self.head is None:
            return SimpleNamespace()
        return SimpleNamespace(gcs_address=f"127.0.0.1:{self.head.getsockname()[1]}")

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": False}, {"Alive": self.alive}]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, kind: type) -> Ray:
        return self

    def options(self, **settings: object) -> SimpleNamespace:
        return SimpleNamespace(remote=self.actor)

    def actor(self) -> SimpleNamespace:
        answer = self.answers.pop(0) if self.answers else None
        self.asked += 1
        never, nothing = SimpleNamespace(remote=lambda *_: TimeoutError), SimpleNamespace(remote=lambda *_: None)
        methods = {"run": never, "renew_lease": nothing, "kill": nothing, "close": nothing}
        return SimpleNamespace(open=SimpleNamespace(remote=lambda *given: answer), **methods)

    def wait(self, pending: list[object], timeout: float) -> tuple[list[object], list[object]]:
        return [one for one in pending if one is not None], []

    def get(self, answer: object, timeout: float) -> object:
        if answer is TimeoutError:
            time.sleep(0.01)
            raise TimeoutError
        return answer

    def kill(self, actor: object) -> None:
        self.killed += 1


@pytest.fixture
def opened(task_of, monkeypatch):
    def make(*answers: tuple[str, str], head: socket.socket | None = None) -> tuple[Ray, RemoteSlot]:
        ray = Ray(*answers)
        ray.head = head
        monkeypatch.setitem(__import__("sys").modules, "ray", ray)
        (slot,) = open_slots(task_of("return {}"), Plan((CPU,), 1), cluster=Cluster("ray", slots=1))
        assert isinstance(slot, RemoteSlot)
        return ray, slot

    return make


def test_a_machine_that_does_not_fit_is_set_aside_and_the_next_one_is_taken(opened):
    ray, slot = opened(("node1/cpu", "node1 has torch 0.0.7"), ("node2/cpu", ""))
    with pytest.warns(UserWarning, match=r"set aside: node1 has torch 0\.0\.7"):
        assert until(lambda: slot.available, 5.0)
    assert ray.killed == 0, "what it has reserved nobody gets again"
    assert slot.device == "node2/cpu"
    slot.close()


def test_only_where_no_machine_fits_the_run_stops(opened):
    _, slot = opened(("node1/cpu", "node1 has torch 0.0.7"), ("node1/cpu", "node1 has torch 0.0.7"))
    with pytest.warns(UserWarning, match="set aside"), pytest.raises(RunError, match="no device of the cluster can be"):
        until(lambda: slot.available, 5.0)
    slot.close()


@pytest.fixture
def head(monkeypatch):
    """What listens where a head does; silent for a fifth of a second, it is lost."""
    monkeypatch.setattr(module, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(module, "CLUSTER_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_a_head_that_is_silent_for_long_is_a_lost_cluster(opened, head):
    ray, slot = opened(("node1/cpu", ""), head=head)
    assert until(lambda: slot.available, 5.0)
    head.close()
    began = time.monotonic()
    with pytest.raises(ClusterLost, match="the Ray head at this machine does not answer any more") as lost:
        slot.run(candidate())
    assert 0.15 < time.monotonic() - began < 10.0
    assert lost.value.exit_code == 130
    slot.close()
    assert (ray.asked, ray.killed) == (1, 0), "nothing is asked of a head that is gone"


def test_a_cluster_without_a_live_node_is_lost_though_its_head_answers(opened, head):
    ray, slot = opened(("node1/cpu", ""), head=head)
    assert until(lambda: slot.available, 5.0)
    ray.alive = False
    began = time.monotonic()
    with pytest.raises(ClusterLost, match="no node of the Ray cluster at this machine is alive any more"):
        slot.run(candidate())
    assert 0.15 < time.monotonic() - began < 10.0
    slot.close()
    assert (ray.asked, ray.killed) == (1, 0)


@pytest.mark.parametrize("question", ["cluster_resources", "options", "nodes"])
def test_a_head_that_listens_and_does_not_answer_holds_up_nobody(opened, monkeypatch, question):
    """A call to a service that died under it blocks, with the lock of whoever asks, until Ray ends the process."""
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.1)
    forever = threading.Event()
    ray, slot = opened(
        ("node1/cpu", "no"), ("node1/cpu", "no") if question == "cluster_resources" else ("node2/cpu", "")
    )
    assert until(lambda: ray.asked == 1, 5.0)
    monkeypatch.setattr(ray, question, lambda **_: forever.wait(60.0))
    monkeypatch.setattr(module, "CLUSTER_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        slot._engine._head = listening.getsockname()
        with pytest.warns(UserWarning, match="set aside"), pytest.raises(ClusterLost, match="does not answer"):
            until(lambda: slot.available, 10.0)
        slot.close()
    forever.set()


def test_what_ray_cannot_do_is_said_to_who_waits(opened, monkeypatch):
    ray, slot = opened(("node1/cpu", "no"))
    assert until(lambda: ray.asked == 1, 5.0)
    monkeypatch.setattr(ray, "options", lambda **_: {}["no such thing"])
    with pytest.warns(UserWarning, match="set aside"), pytest.raises(RunError, match="Ray gives no place: 'no such"):
        until(lambda: slot.available, 5.0)
    slot.close()


def test_a_head_that_comes_back_in_time_is_asked_for_what_is_owed(opened, head, monkeypatch):
    monkeypatch.setattr(module, "CLUSTER_TIMEOUT", 60.0)
    ray, slot = opened(("node1/cpu", ""), ("node2/cpu", ""), head=head)
    assert until(lambda: slot.available, 5.0)
    address = head.getsockname()
    head.close()
    engine, seat = slot._engine, slot._seat
    assert until(lambda: not engine.connected, 5.0)
    slot._drop_seat(seat)
    assert ray.asked == 1
    assert not slot.available
    with socket.create_server(address):
        assert until(lambda: slot.available, 5.0)
        assert slot.device == "node2/cpu"
        slot.close()


def test_what_ends_a_process_is_told_to_nobody_but_its_user():
    need("ray")
    """Ray's own hook, set when it is imported, asks a head that is gone, and after a minute Ray ends the process."""
    code = "import sys; from evo_tune.dispatch.clusters.ray_cluster import import_ray as i; h = sys.excepthook; i(); "
    code += "print(sys.excepthook is h, 'ray' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["True", "True"]


def test_no_other_thread_frees_references_while_ray_ends():
    """Ray ends a process with status 1 where one does: a garbage collection of any thread, or the watching thread."""
    engine, seen = object.__new__(module.RayEngine), []
    engine._closing, engine._woken = threading.Event(), threading.Event()
    engine._watcher = threading.Thread(target=lambda: (engine._closing.wait(), time.sleep(0.2)))
    engine._watcher.start()
    engine.packed_task = SimpleNamespace(remove_mark=lambda: None)
    engine.connected, engine._head, engine._mine = True, None, True
    engine._parked, engine._free = [], []
    engine.ray = SimpleNamespace(shutdown=lambda: seen.append((gc.isenabled(), engine._watcher.is_alive())))
    engine.close()
    assert seen == [(False, False)]
    assert gc.isenabled()


def test_an_address_where_nobody_listens_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(OptionError, match=f"--address {address}: no Ray answers there"):
        connect(None, address)


@pytest.mark.proof
@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["head", "raylet"])
def test_a_run_whose_head_or_only_node_dies_ends_as_one_that_was_interrupted(quick, tmp_path, victim):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        start = (sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "2")
        where = ("--port", str(port), "--node-ip-address", "127.0.0.1", "--temp-dir", folder)
        environment = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # it stays at 127.0.0.1
        environment.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        pipe = subprocess.PIPE
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        begun = subprocess.Popen((*start, *where, "--include-dashboard", "false"), env=environment, **quiet)
        try:
            store = tmp_path / "store"
            words = ["run", str(quick), "--backend", "ray", "--address", f"127.0.0.1:{port}", "--store", str(store)]
            words += ["--trials", "10000", "--name", "lost", "-o", "sleep=0.2", "--quiet"]
            told = store / "lost" / "_journal.jsonl"
            assert until(lambda: listens(port), 60.0)
            time.sleep(5.0)
            run = subprocess.Popen([sys.executable, "-m", "evo_tune", *words], env=environment, stderr=pipe, text=True)
            assert until(lambda: told.exists() and b'"recorded"' in told.read_bytes(), 120.0)
            os.kill(begun.pid, signal.SIGKILL if victim == "head" else signal.SIGSTOP)  # it would end all the others
            for process in heads(folder):
                if victim == "head" or process.name() == "raylet":
                    process.kill()
            began = time.monotonic()
            _, printed = run.communicate(timeout=120.0)
            assert time.monotonic() - began < 60.0
        finally:
            for process in heads(folder):
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            begun.kill()
            begun.wait()
    last = printed.splitlines()[-1]
    where = f"at 127.0.0.1:{port}"
    dead = (
        f"the Ray head {where} does not answer" if victim == "head" else f"no node of the Ray cluster {where} is alive"
    )
    assert last.startswith(f"Error: {dead} any more; everything recorded"), printed
    assert run.returncode == 130
    saved = Run.open(Path(store / "lost"))
    assert saved.ended is not None
    assert dead in saved.ended
    assert all(trial.ok for trial in saved.trials())


def listens(port):
    """Say whether somebody listens there."""
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def heads(folder):
    """Return the processes of the Ray whose files lie in a folder."""
    import psutil

    return [one for one in psutil.process_iter(["cmdline"]) if folder in " ".join(one.info["cmdline"] or ())]
