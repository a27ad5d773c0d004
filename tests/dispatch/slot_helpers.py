"""What the tests of the slots share."""

from __future__ import annotations

import atexit
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import psutil

from evo_tune.dispatch import open_slots
from evo_tune.dispatch.clusters.remote import Cluster
from evo_tune.dispatch.devices import Device, Plan
from evo_tune.dispatch.slot import Slot, Task
from evo_tune.genome.trial import Candidate

HEAD = '''\
"""An evaluator of a test."""
import os, signal, subprocess, sys, time
from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(0.0, 1.0))
OBJECTIVES = [Minimize("loss")]


def evaluate(genome, context, *, note: str = ""):
'''
FIRST_LINE = HEAD.count("\n") + 1
"""Line number of the first line of an evaluator's body."""


def open_local(task: Task, devices: tuple[Device, ...], **settings: Any) -> list[Slot]:
    return open_slots(task, Plan(devices, task.threads), **settings)


def open_dask(task: Task, devices: tuple[Device, ...], **settings: Any) -> list[Slot]:
    cluster = Cluster("dask", dask_address(), slots=len(devices))
    return open_slots(task, Plan(devices, task.threads), cluster=cluster, **settings)


def dask_cluster(workers: int, **settings: Any) -> Any:
    import dask
    from distributed import LocalCluster

    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})  # imports once for all workers
    return LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50, **settings
    )


@functools.cache
def dask_address() -> str:
    """Start a cluster that all tests of this process share."""
    cluster = dask_cluster(2)
    atexit.register(cluster.close)
    return str(cluster.scheduler_address)


def open_ray(task: Task, devices: tuple[Device, ...], **settings: Any) -> list[Slot]:
    start_ray()
    plan = Plan(devices, task.threads)
    return open_slots(task, plan, cluster=Cluster("ray", slots=len(devices)), **settings)


def start_ray() -> None:
    import ray

    if ray.is_initialized():  # by a test that imports this file under its other name
        return
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=50)
    atexit.register(ray.shutdown)


SMI = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)
  MIG 3g.20gb     Device  0: (UUID: MIG-cccc)
  MIG 3g.20gb     Device  1: (UUID: MIG-dddd)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-eeee)
"""


def listing(text: str) -> str:
    """Return the shell code of an nvidia-smi that answers everything with a text."""
    return f"cat <<'END'\n{text}END"


def answering(**gpus: str) -> str:
    """Return the shell code of an nvidia-smi that knows the memory of GPUs by UUID: 'name, MiB, MiB free'."""
    listed = "".join(f"GPU {i}: A GPU (UUID: {uuid})\n" for i, uuid in enumerate(gpus))
    told = "".join(f"{uuid}, {text}, 9.0\n" for uuid, text in gpus.items())
    cases = (("-L", listed), ("*memory*", told))
    return 'case "$1" in\n' + "".join(f"{case})\n{listing(text)}\n;;\n" for case, text in cases) + "esac"


OVER_CLUSTERS: dict[str, dict[str, object]] = {
    "test_a_death_is_an_outcome_and_the_slot_goes_on": {"error": "worker died: killed by signal 9"},
    "test_a_hang_is_killed": {},
    "test_an_interrupted_run_leaves_no_worker_behind": {},
    "test_close_is_final_and_may_be_repeated": {},
    "test_kill_ends_a_run_at_once": {"wait": 0.6},
    "test_other_slots_are_undisturbed": {},
    "test_what_a_candidate_says_arrives_and_so_does_what_came_of_it": {},
}
"""Tests of the contract that run over clusters too, and in which of their cases; the rest is what happens inside of the
worker, which is the same. `pytest tests/dispatch --all-slots` runs all over all."""

KINDS = {"local": open_local, "dask": open_dask, "ray": open_ray}
"""Every kind of slot keeps the same contract."""


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie that nobody has reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], Any], seconds: float = 5.0) -> Any:
    """Wait for something; return what it gave last."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


CLUSTERS = (
    "site-packages/ray/",
    "ray::",
    "multiprocessing.spawn",
    "multiprocessing.resource_tracker",
    "multiprocessing.forkserver",
)
"""In the first words of the command lines of the processes of a cluster that the tests share."""


_before: set[psutil.Process] = set()


def note_processes() -> None:
    """Have `workers` leave out what runs now: what an earlier test has left behind fails that test alone."""
    _before.clear()
    _before.update(psutil.Process().children(recursive=True))


def workers() -> list[psutil.Process]:
    """The processes that this test started and that still run, but for those of clusters."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            words = " ".join(child.cmdline()[:4])  # further words of a worker are its path, which may have Ray's folder
            if child not in _before and alive(child.pid) and not any(name in words for name in CLUSTERS):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def candidate(id: int = 0, **fields: Any) -> Candidate:
    values: dict[str, Any] = {
        "generation": 0,
        "seed": 7,
        "reported_before": 0,
        "genome": {"x": 0.5},
        "operator": "test",
    }
    return Candidate(id=id, **{**values, **fields})
