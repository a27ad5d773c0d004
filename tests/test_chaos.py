"""A short form of benchmarks/chaos.py: no fault of the machine changes anything in the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parent.parent / "benchmarks" / "chaos.py"


@pytest.mark.slow
def test_a_run_in_a_storm_ends_as_if_nothing_had_happened() -> None:
    command = [sys.executable, str(CHAOS), "--rounds", "9", "--seed", "2"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    kinds = "1 clock, 1 disk, 1 exit, 1 parent, 1 pause, 1 readonly, 1 segfault, 1 term, 1 worker"
    assert ended.stdout.startswith(f"9 faults ({kinds})")
