"""`evo-tune status` and `evo-tune devices`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from evo_tune.cli.commands.devices import command as devices_command
from tests.cli.conftest import Typed
from tests.journals import events_of, write_events


def test_status_of_a_run_that_has_ended(typed: Typed, small_run: str) -> None:
    result = typed("status", small_run)
    assert "one: ended: the limit of 8 trials is reached" in result.out
    assert "8 of 8 trials have a result" in result.out
    assert not Path("populations/one/_heartbeat.json").exists()
    told = json.loads(typed("status", "--format", "json").out)
    assert (told["run"], told["proposed"], told["slots"]) == ("one", 8, [])


def test_status_while_a_run_lives_and_after_it_was_killed(typed: Typed, folder: Path) -> None:
    words = ["run", "quick.py", "--name", "busy", "-o", "sleep=30", "--slots", "2", "--quiet", "--trials", "4"]
    process = subprocess.Popen([sys.executable, "-m", "evo_tune", *words], cwd=folder)
    try:
        end = time.monotonic() + 60
        while (told := typed("status", "busy")).out.count("MiB") < 2 and time.monotonic() < end:
            time.sleep(0.2)
        assert "busy: running (last sign of life" in told.out
        assert f"process {process.pid}" in told.out
        assert "trial 0" in told.out
        assert "MiB" in told.out
        assert "0 of 4 trials have a result, 2 pending; 0 failed; no value yet" in told.out
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    told = typed("status", "busy")
    assert "busy: killed, or its machine cannot be reached" in told.out
    assert "`evo-tune resume busy` continues it" in told.out


BY_HAND = """
import sys, time
from evo_tune import Outcome, Search
search = Search("quick.py", name="hand", trials=4)
told = [search.ask() for _ in range(3)]
search.tell(told[0], {"loss": 1.0})
search.tell(told[1], Outcome("pruned"))
search.tell(told[2], Outcome("failed", error="no luck"))
search.ask()
print("asked", flush=True)
time.sleep(60)
"""


def test_status_of_a_run_that_is_driven_by_hand(typed: Typed, folder: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", BY_HAND], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        told = typed("status", "hand")
        assert "hand: running (last sign of life" in told.out
        assert f"process {process.pid}" in told.out
        assert "3 of 4 trials have a result, 1 pending; 1 failed, 1 pruned; best loss 1.0" in told.out
        assert "a program drives it (ask and tell)" in told.out
        row = json.loads(typed("status", "hand", "--format", "json").out)
        assert (row["failed"], row["pruned"], row["slots"]) == (1, 1, [])
        assert "pruning" not in told.out  # the run has no --prune
    finally:
        process.kill()
        process.communicate()
    assert "hand: killed, or its machine cannot be reached (last sign" in typed("status", "hand").out
    sign = folder / "populations" / "hand" / "_heartbeat.json"
    sign.write_text(json.dumps({**json.loads(sign.read_text()), "host": "far", "time": 0.0}))
    assert (
        "hand: killed, or its machine cannot be reached, or a program drives it and is busy"
        in typed("status", "hand").out
    )


def test_devices_says_what_a_run_would_use_and_why(typed: Typed) -> None:
    result = typed("devices", "--devices", "cpu", "--slots", "3", "--threads", "2")
    assert result.out.count("slot ") >= 3
    assert "no GPU is used" in result.out
    told = json.loads(typed("devices", "--format", "json", "--slots", "1").out)
    assert [row["threads"] for row in told["slots"]] == [1]
    assert typed("devices", "--slots", "0").code == 2


def test_devices_leaves_the_precision_on_a_cpu_to_the_first_training() -> None:
    words = ["--devices", "cpu", "--slots", "1", "--threads", "3", "--format", "json"]
    told = json.loads(CliRunner().invoke(devices_command, words).output)
    assert [row["precision"] for row in told["slots"]] == ["measured later"]


def test_devices_tells_a_gpu_by_its_model(typed: Typed, folder: Path) -> None:
    smi = folder / "nvidia-smi"
    cases = {"-L": "GPU 0: NVIDIA H100 (UUID: GPU-aa)", "*memory*": "GPU-aa, NVIDIA H100, 81559, 81000, 9.0"}
    text = "".join(f'{case}) echo "{said}";;\n' for case, said in cases.items())
    smi.write_text(f'#!/bin/sh\ncase "$1" in\n{text}esac\n')
    smi.chmod(0o755)
    env = {"PATH": f"{folder}:/bin:/usr/bin"}
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        env["CUDA_VISIBLE_DEVICES"] = "0"
    result = typed("devices", "--per-device", "2", env=env)
    assert result.out.count("cuda:0") == 3  # two slots, and how the card is used
    assert "cuda:0 (NVIDIA H100, 79.6 GiB): 2 trainings at once, whatever memory each needs" in result.out
    assert "NVIDIA H100" in result.out
    assert "79.6 GiB" in result.out
    assert result.out.count("bf16") == 2, "of each slot"
    assert typed("devices", "--per-device", "auto", "--slots", "2", env=env).out.count("cuda:0") == 3


@pytest.mark.parametrize("moment", [-1e300, 1e300, 0.0])
def test_forged_times_are_shown_as_no_nonsense(typed: Typed, small_run: str, moment: float) -> None:
    folder = Path("populations", small_run)
    write_events(folder, [{**event, "time": moment} for event in events_of(folder)])
    last = typed("status", small_run).out.splitlines()[-1]
    assert last in ("last event more than 100 years ago", "last event 0 s ago") or last.startswith("last event 4")
    assert json.loads(typed("status", small_run, "--format", "json").out)["seconds_since_last_event"] >= 0.0
