"""A short form of benchmarks/chaos.py: no fault of the machine changes anything in the end, and the storm sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_what_is_broken_on_purpose_is_noticed() -> None:
    printed = chaos("--mutants", "lock", "truncate", "--rounds", "4")
    assert "a second parent was let into a run that is in use" in printed
    assert "the journal ends with half an event" in printed
