"""Signs of life: read back as written, told apart from death, and no cause of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from evo_tune.store import heartbeat
from evo_tune.store.heartbeat import HEARTBEAT, Heartbeat, SlotWork, last_beat

ROWS = [SlotWork("slot 0", "cpu", "trial 3", 1.5, 123), SlotWork("slot 1", "node7/cuda:0", "", 0.0, None)]


def test_a_sign_is_read_back(tmp_path):
    Heartbeat(tmp_path).beat(lambda: ROWS)
    beat = last_beat(tmp_path)
    assert beat.slots == tuple(ROWS)
    assert (beat.pid, beat.alive) == (os.getpid(), True)
    assert 0 <= beat.age < 5
    assert [path.name for path in tmp_path.iterdir()] == [HEARTBEAT]


def test_signs_are_rare_and_the_last_is_taken_away(tmp_path):
    asked = []
    heart = Heartbeat(tmp_path)
    for _ in range(5):
        heart.beat(lambda: asked.append(1) or ROWS)
    assert len(asked) == 1
    heart.stop()
    heart.stop()
    assert last_beat(tmp_path) is None


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path):
    Heartbeat(tmp_path / "gone").beat(lambda: ROWS)
    Heartbeat(tmp_path / "gone").stop()


def test_a_dead_process_is_dead_and_another_machine_is_judged_by_age(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    Heartbeat(tmp_path).beat(lambda: ROWS)
    sign = json.loads((tmp_path / HEARTBEAT).read_text())
    for pid, host, age, alive in [
        (child.pid, sign["host"], 0.0, False),
        (os.getpid(), sign["host"], 100.0, True),  # paused, or a slow disk
        (child.pid, "far", 5.0, True),
        (child.pid, "far", heartbeat.LONG + 5, False),
    ]:
        changed = {**sign, "pid": pid, "host": host, "time": time.time() - age}
        (tmp_path / HEARTBEAT).write_text(json.dumps(changed))
        assert last_beat(tmp_path).alive is alive
    (tmp_path / HEARTBEAT).write_text(json.dumps({**sign, "started": "1"}))  # another process has the dead run's id
    assert last_beat(tmp_path).alive is False


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"pid": 1}', '{"pid": "x", "time": 0, "host": 1, "slots": []}']
)
def test_a_broken_file_is_no_sign(tmp_path, text):
    (tmp_path / HEARTBEAT).write_text(text)
    assert last_beat(tmp_path) is None
