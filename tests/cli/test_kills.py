"""A killed command leaves nothing of a final name that is not complete, and completes when it is typed again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evo_tune.store.run import Run
from tests.cli.conftest import Typed
from tests.extras import need

# Replaces the last step of publishing, so that the process is killed when all is written but the name.
KILLED = """
import os, signal, sys
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
os.replace = os.rename = os.link = die
import evo_tune.trust.safe_files
sys.argv[0] = "evo-tune"
from evo_tune.cli import main
main()
"""

COMMANDS = {
    "report": (["report", "one", "-o", "out"], True),
    "optuna": (["convert", "one", "--to", "optuna", "-o", "out"], True),
    "propose": (["propose", "one", '{"x": 0.123}'], False),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_command_leaves_nothing_of_the_final_name(typed: Typed, small_run: str, command: str) -> None:
    if command == "optuna":
        need(command)
    words, writes = COMMANDS[command]
    before = Run.open(Path("populations", small_run)).outcomes
    ended = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not os.path.lexists("out")
    assert Run.open(Path("populations", small_run)).outcomes == before
    again = typed(*words)
    assert again.code == 0, again.err
    if writes:
        assert Path("out").stat().st_size > 1000


def test_a_report_is_written_to_what_is_no_file_and_through_a_link(typed: Typed, small_run: str) -> None:
    Path("link").symlink_to("target")
    assert typed("report", small_run, "-o", "link").code == 0
    assert Path("link").is_symlink()
    assert Path("target").stat().st_size > 1000
    assert typed("report", small_run, "-o", "/dev/null").code == 0
    assert not Path("/dev/null").is_file()
