"""`evo-tune devices --probe`: each device is timed once, by a process of its own, and what follows is said."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from typing import Any

import msgspec
import pytest

from evo_tune.cli.training.devices import Devices
from evo_tune.training.recipe.hardware.computing import sizes_for_device
from tests.cli.conftest import Typed
from tests.training.probing.test_probing import CARD


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Have a process for each device that says what an H100 might; the commands that were run."""
    known = {"bf16": 989.0, "bandwidth": 3350.0}
    answer = {"timings": dataclasses.asdict(CARD), "suited": dataclasses.asdict(sizes_for_device(CARD)), "known": known}
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, json.dumps(answer), "")

    monkeypatch.setattr("subprocess.run", run)
    return asked


def test_each_device_is_timed_once_and_what_it_wants_is_told(typed: Typed, timed: list[list[str]]) -> None:
    told = typed("devices", "--devices", "cpu", "--slots", "2", "--probe")
    assert told.code == 0, told
    assert len(timed) == 1
    assert "fastest precision of products: bf16 (data sheet: 989,000 GFLOP/s, 3,350 GB/s)" in told.out
    assert "multiples of 8; vocabularies: multiples of 64; head sizes: 64, 128" in told.out
    assert "fewer than 16384 tokens a step" in told.out
    printed = typed("devices", "--devices", "cpu", "--slots", "2", "--probe", "--format", "json").out
    as_json = msgspec.json.decode(printed.encode(), type=Devices)  # as docs/json.md promises it
    assert as_json.probed[0].suited.batch == 16384
    assert json.loads(typed("devices", "--devices", "cpu", "--format", "json").out)["probed"] == []


def test_a_device_that_cannot_be_timed_is_named(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nRuntimeError: no kernel image\n")

    monkeypatch.setattr("subprocess.run", run)
    told = typed("devices", "--devices", "cpu", "--slots", "1", "--probe")
    assert told.code == 1
    assert "cannot time cpu (RuntimeError: no kernel image)" in told.err
