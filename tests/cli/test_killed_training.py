"""A training inside a run continues from its checkpoint, whether the whole run was killed or only the worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evo_tune import load

pytestmark = pytest.mark.slow

OPTIONS = "size=small tokens=60000 eval_tokens=512 evaluations=2 precision=fp32 checkpoint_minutes=0.002"
"""Some 120 steps; a checkpoint every 0.1 seconds."""
SESSION = ["--trials", "1", "--slots", "1", "--retries", "1", "--final-seeds", "0", "--quiet"]


def evo_tune(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "evo_tune", *words])


def begun(name: str) -> subprocess.Popen[bytes]:
    return evo_tune(
        "run", "language_model", *SESSION, "--name", name, *(word for one in OPTIONS.split() for word in ("-o", one))
    )


def wait_for_checkpoint(name: str, after: int = 0) -> int:
    """Wait for a checkpoint that is newer than a time, and return its time in nanoseconds."""
    file, end = Path("populations", name, "_trials", "000000", "unfinished.pt"), time.monotonic() + 60
    while time.monotonic() < end:
        if file.is_file() and file.stat().st_mtime_ns > after:
            return file.stat().st_mtime_ns
        time.sleep(0.02)
    raise AssertionError("no checkpoint was written")


def workers_of(process: int) -> list[int]:
    """Return the processes that a process started, by any of its threads."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((place / "stat").read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(place.name))
    return found


def test_a_training_continues_after_the_run_and_after_its_worker_is_killed(folder: Path) -> None:
    assert begun("whole").wait() == 0
    process = begun("killed")
    written = wait_for_checkpoint("killed")
    workers = workers_of(process.pid)
    process.kill()
    process.wait()
    while any(Path(f"/proc/{one}").exists() for one in workers):  # a worker ends after its parent
        time.sleep(0.02)
    process = evo_tune("resume", "killed", *SESSION)
    wait_for_checkpoint("killed", written)
    for worker in workers_of(process.pid):
        os.kill(worker, signal.SIGKILL)
    assert process.wait() == 0
    whole, killed = (load(f"populations/{name}").trials[0].outcome for name in ("whole", "killed"))
    steps = killed.metrics["steps"]
    assert 0 < killed.metrics["resumed_step"] < steps
    changing = {"resumed_step", "tokens_per_second"}
    assert {name: v for name, v in killed.metrics.items() if name not in changing} == {
        name: v for name, v in whole.metrics.items() if name not in changing
    }
    assert killed.curve == whole.curve
    assert list(Path("populations").rglob("unfinished.pt*")) == []
    assert evo_tune("verify", "killed").wait() == 0
