"""What the tests of the slots share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psutil

from evo_tune.dispatch import Device, Plan, Slot, Task, open_slots
from evo_tune.trial import Candidate

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


KINDS = {"local": open_local}
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


def workers() -> list[psutil.Process]:
    """The processes that this one started and that still run, but for the resource trackers."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if alive(child.pid) and not any("resource_tracker" in word for word in child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def candidate(id: int = 0, **fields: Any) -> Candidate:
    values: dict[str, Any] = {"generation": 0, "seed": 7, "told_before": 0, "genome": {"x": 0.5}, "operator": "test"}
    return Candidate(id=id, **{**values, **fields})
