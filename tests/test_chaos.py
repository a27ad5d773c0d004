"""A short form of benchmarks/chaos.py: no fault of the machine changes anything in the end, and the storm sees."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

CHAOS = Path(__file__).parent.parent / "benchmarks" / "chaos.py"

pytestmark = pytest.mark.slow


def chaos(*arguments: str) -> str:
    ended = subprocess.run([sys.executable, str(CHAOS), *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_a_run_in_a_storm_ends_as_if_nothing_had_happened() -> None:
    faults = ["all", "power", "second"]
    kinds = ", ".join(f"1 {fault}" for fault in faults)
    printed = chaos("--rounds", "3", "--seed", "2", "--rules", "rungs", "--faults", *faults)
    assert printed.startswith(f"rungs: 3 faults ({kinds})")


def test_who_comes_once_a_parent_has_let_go_of_the_run_is_no_intruder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(CHAOS.parent)
    faults: Any = importlib.import_module("chaos_faults")
    chaos = faults.Chaos(tmp_path, seed=0)
    wait, entered = chaos.wait_ready, []

    def wait_long(parent: Any, first: Any = None) -> bool:
        """As the storm does, but for the first parent until it has let go of the run."""
        ready: bool = wait(parent, first)
        if first is not None:
            entered.append(ready)
        while first is None and chaos.ready[parent.pid].exists():
            time.sleep(0.01)
        return ready

    monkeypatch.setattr(chaos, "wait_ready", wait_long)
    chaos.parent = chaos.start(generations=1, linger=60.0)
    try:
        chaos.intrude()
        assert entered == [True]
        assert chaos.parent.poll() is None
    finally:
        chaos.close()
        chaos.parent.wait()
        chaos.parent.stderr.close()


def test_what_other_programs_do_to_a_run_costs_no_result() -> None:
    faults = ["flip", "move", "nolocks", "recycle", "scribble", "swap"]
    kinds = ", ".join(f"1 {fault}" for fault in faults)
    printed = chaos("--rounds", "6", "--seed", "3", "--rules", "proposal", "--faults", *faults)
    assert printed.startswith(f"proposal: 6 faults ({kinds})")


def test_what_is_broken_on_purpose_is_noticed() -> None:
    printed = chaos("--mutants", "lock", "checks", "checksum", "truncate", "--rounds", "8")
    assert "a second parent" in printed
    assert "the run wrote on behind a foreign line" in printed
    assert "a flipped bit is not named" in printed
    assert "the journal ends with half an event" in printed


def test_limits_of_the_storm_are_longer_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CHAOS.parent)
    checks: Any = importlib.import_module("chaos_checks")
    stopped = threading.Event()

    def burn() -> None:
        while not stopped.is_set():
            pass

    def seconds() -> float:
        began = time.monotonic()
        assert not checks.comes_true(lambda: False, 0.5)
        return time.monotonic() - began

    idle = seconds()
    threads = [threading.Thread(target=burn) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        busy = seconds()
    finally:
        stopped.set()
    assert busy > 1.5 * idle >= 0.6
    assert checks.comes_true(lambda: True, 0.0)


def test_a_violation_is_the_exit_status_of_the_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CHAOS.parent)
    storm: Any = importlib.import_module("chaos")
    monkeypatch.setattr(storm, "storm", lambda *_: ("something is wrong", None))
    monkeypatch.setattr(sys, "argv", ["chaos.py", "--rounds", "1"])
    with pytest.raises(SystemExit) as ended:
        storm.main()
    assert ended.value.code
