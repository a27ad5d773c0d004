"""A Dask cluster that does not answer, or whose machines are not what they should be."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from slot_helpers import alive, candidate, dask_cluster, until

from evo_tune.dispatch import open_slots
from evo_tune.dispatch.clusters import dask_cluster as module
from evo_tune.dispatch.clusters.remote import Cluster
from evo_tune.dispatch.devices import CPU, Plan
from evo_tune.errors import ClusterLost, OptionError, RunError
from evo_tune.loop.search import Search
from evo_tune.store.run import Run

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("dask")]

NODES = '''"""An evaluator that knows on which node it is."""
import os

from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(0.0, 1.0))
OBJECTIVES = [Minimize("loss")]


def evaluate(genome, context):
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "GPU-8":
        raise RuntimeError("No CUDA GPUs are available")
    return {"loss": genome["x"], "lacking": float("LACKING" in os.environ)}
'''
FINGERPRINT = """

def fingerprint():
    if os.environ.get("LACKING") == "all":
        raise FileNotFoundError("no data.txt")
    return "other" if "LACKING" in os.environ else "the data"
"""


@contextlib.contextmanager
def nodes(*environments: dict[str, str]) -> Iterator[str]:
    """Start a cluster with a worker for each environment; return its address."""
    with dask_cluster(0) as cluster:
        for number, environment in enumerate(environments, 1):
            cluster.new_spec["options"] = {**cluster.new_spec["options"], "env": environment}
            cluster.scale(number)
            assert until(lambda many=number: len(cluster.scheduler.workers) == many, 30.0)
        yield str(cluster.scheduler_address)


def told(search: Search) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        search.run()
    return [str(one.message) for one in found if "set aside" in str(one.message)]


@pytest.mark.parametrize("lacking", ["some", "all"])
def test_a_node_that_lacks_the_data_gives_no_result_and_is_named(tmp_path, lacking):
    path = tmp_path / "nodes.py"
    path.write_text(NODES + FINGERPRINT)
    with nodes({"KEEPS": "1"}, {"LACKING": lacking}) as address:
        search = Search(str(path), store=tmp_path / "store", trials=8, backend="dask", address=address)
        warned = told(search)
    assert len(search.trials) == 8
    assert all(trial.ok and trial.outcome.metrics["lacking"] == 0.0 for trial in search.trials)
    assert len(warned) == 1
    wanted = "cannot be read on .*no data.txt" if lacking == "all" else "are not the run's on .*'other', the run's 'the"
    assert re.search(rf"set aside: .*the data of nodes {wanted}", warned[0])


def test_where_every_node_lacks_the_data_the_run_stops(tmp_path):
    path = tmp_path / "nodes.py"
    path.write_text(NODES + FINGERPRINT)
    with nodes({"LACKING": "some"}) as address:
        search = Search(str(path), store=tmp_path / "store", trials=8, backend="dask", address=address)
        with (
            pytest.warns(UserWarning, match="set aside"),
            pytest.raises(RunError, match="no device of the cluster can"),
        ):
            search.run()
    assert not search.trials


def test_a_gpu_of_a_cluster_that_fails_at_once_gives_no_result_and_is_named(tmp_path):
    path = tmp_path / "nodes.py"
    path.write_text(NODES)
    with nodes({"CUDA_VISIBLE_DEVICES": "GPU-7"}, {"CUDA_VISIBLE_DEVICES": "GPU-8"}) as address:
        search = Search(str(path), store=tmp_path / "store", trials=30, backend="dask", address=address)
        warned = told(search)
    assert {(trial.outcome.status, trial.outcome.device.rpartition(":")[2]) for trial in search.trials} == {
        ("ok", "GPU-7")
    }
    assert len(search.trials) == 30
    assert len(warned) == 1
    assert "GPU-8: it failed 3 trainings in a row" in warned[0]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evo_tune.dispatch.clusters.remote.CLOSE_SECONDS", 1.0)
    monkeypatch.setattr(module, "CLOSE_SECONDS", 1.0)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 2.0)


@pytest.mark.usefixtures("hasty")
def test_a_worker_that_was_stopped_costs_a_timeout_and_the_training_goes_on_elsewhere(task_of, tmp_path):
    first = tmp_path / "first"
    body = f"""
        if not os.path.exists({str(first)!r}):
            open({str(first)!r}, 'w').write(str(os.getpid()))
            time.sleep(60)
        return {{'loss': 0.5}}
    """
    with nodes({}, {}) as address:
        (slot,) = open_slots(task_of(body), Plan((CPU,), 1), 2.0, cluster=Cluster("dask", address, slots=1))
        with ThreadPoolExecutor(1) as threads, warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            future = threads.submit(slot.run, candidate())
            pid = until(lambda: first.exists() and int(first.read_text() or 0), 20.0)
            worker = psutil.Process(psutil.Process(pid).ppid())
            worker.suspend()
            began = time.monotonic()
            try:
                outcome = future.result(timeout=60)
                assert time.monotonic() - began < 20.0
            finally:
                worker.resume()
        assert any("is suspended until it answers" in str(one.message) for one in found)
        assert (outcome.status, outcome.metrics) == ("ok", {"loss": 0.5})
        assert until(lambda: not alive(pid), 20.0), "what was given up is killed once the worker answers"
        slot.close()


@pytest.mark.usefixtures("hasty")
def test_stopped_workers_hold_up_no_end(task_of):
    with nodes({}, {}) as address:
        slots = open_slots(task_of("time.sleep(60)"), Plan((CPU,), 1), cluster=Cluster("dask", address))
        with ThreadPoolExecutor(2) as running:
            futures = [running.submit(slot.run, candidate(i)) for i, slot in enumerate(slots)]
            pids = [until(lambda slot=slot: slot.pid, 20.0) for slot in slots]
            stopped = [psutil.Process(psutil.Process(pid).ppid()) for pid in pids]
            for process in stopped:
                process.suspend()
            try:
                began = time.monotonic()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    with ThreadPoolExecutor(2) as killing:
                        list(killing.map(lambda slot: slot.kill(), slots))
                    for slot in slots:
                        slot.close()
                assert time.monotonic() - began < 8.0
            finally:
                for process in stopped:
                    process.resume()
            assert all(isinstance(future.exception(timeout=30), RunError) for future in futures)


def test_a_lost_scheduler_ends_the_run_with_one_line_and_it_is_saved(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_TIMEOUT", 2.0)
    script = textwrap.dedent("""
        import sys, time
        from distributed import LocalCluster
        if __name__ == "__main__":
            cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50)
            print(cluster.scheduler_address, flush=True)
            time.sleep(300)
    """)
    path = tmp_path / "cluster.py"
    path.write_text(script)
    process = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        with process.stdout:
            address = process.stdout.readline().strip()
        options = {"sleep": 0.2}
        store: dict[str, Any] = {"store": tmp_path / "store", "name": "lost", "options": options}
        search = Search(str(quick), **store, trials=10**4, backend="dask", address=address)

        def watch(search: Search) -> None:
            if len(search.trials) > 3 and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

        began = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ClusterLost, match=r"the Dask scheduler at tcp://.* does not answer any more") as lost:
                search.run(watch)
        assert time.monotonic() - began < 60.0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert lost.value.exit_code == 130
    assert "\n" not in str(lost.value)
    saved = Run.open(Path(tmp_path / "store" / "lost"))
    assert saved.ended == str(lost.value)
    assert all(trial.ok for trial in saved.trials()), "nothing lost counts as a result"


def test_two_runs_of_one_path_leave_each_other_alone(task_of, tmp_path, trials):
    """On a cluster without a shared folder: the workers' folders go by the run, the parents' marks are not there."""
    body = "open(os.path.join(context.folder, 'weights'), 'w').write(context.device)\nreturn {'loss': 0.5}"
    with nodes({}) as address:
        found = []
        for run in ("one", "two"):
            (slot,) = open_slots(task_of(body), Plan((CPU,), 1), cluster=Cluster("dask", address, slots=1, run=run))
            until(lambda slot=slot: slot.available, 20.0)
            (trials / f".run-{run}").unlink()  # as if the parent's disk were another machine's
            assert slot.run(candidate()).error is None
            slot.close()
            found.append(Path(f"{trials}-{run}", "000000", "weights"))
        assert all(path.is_file() for path in found)
        (slot,) = open_slots(task_of(body), Plan((CPU,), 1), cluster=Cluster("dask", address, slots=1))
        assert slot.run(candidate()).error is None
        slot.close()
        assert (trials / "000000" / "weights").is_file(), "a shared folder is used as it is"
        assert not list(trials.glob(".run-*"))


def test_an_address_whose_scheduler_is_silent_is_an_error(task_of, monkeypatch):
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.0)
    with nodes({}) as address, pytest.raises(OptionError, match="the Dask scheduler there gives no answer within 0 s"):
        open_slots(task_of("return {'loss': 0.5}"), Plan((CPU,), 1), cluster=Cluster("dask", address))


@pytest.mark.parametrize("final_seeds", [0, 2])
def test_a_complete_run_ends_without_a_worker_and_a_longer_one_waits(quick, tmp_path, final_seeds):
    """SLURM starts the job of a run again, although no worker may come for hours."""
    store: dict[str, Any] = {"store": tmp_path / "store"}
    Search(str(quick), name="run", trials=3, slots=1, final_seeds=final_seeds, **store).run()
    with nodes() as address:
        where: dict[str, Any] = {"backend": "dask", "address": address, "slots": 2, "trust": True}
        began = time.monotonic()
        again = Search.resume("run", **store, **where).run()
        assert time.monotonic() - began < 20.0
        assert again.finished == "the limit of 3 trials is reached"
        assert len(again.trials) == 3
        longer = Search.resume("run", trials=5, **store, **where)

        def stop_after_a_while(search: Search) -> None:
            if time.monotonic() - began > 5.0:
                search.kill()

        began = time.monotonic()
        longer.run(stop_after_a_while)
        assert time.monotonic() - began > 5.0
        assert len(longer.saved.outcomes) == 3
        assert len(longer.saved.candidates) == 4, "one candidate waits for a worker, and a resume trains it"
