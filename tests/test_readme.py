"""The README's commands and Python blocks, run in order in an empty folder, as a reader would."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

TOO_LONG = {"evo-tune run"}
"""Takes minutes: it is what `make run` does, and the parent of the main job has tests of its own."""


def blocks() -> list[tuple[str, str]]:
    return re.findall(r"^```(sh|python)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the few things that the README takes for granted."""
    (tmp_path / "corpus").mkdir()
    text = (ROOT / "README.md").read_bytes() + (ROOT / "LICENSE").read_bytes()
    (tmp_path / "corpus" / "text.txt").write_bytes(text * 4)
    (tmp_path / "run.toml").write_text('trials = 3\ncalibrate = 0\nname = "fromtoml"\n[option]\ntokens = 5000\n')
    (tmp_path / "genomes.csv").write_text("lr,depth\n0.003,2\n0.01,1\n")
    (tmp_path / "populations").mkdir()
    sample = ROOT / "populations" / "sample"
    if not sample.is_dir():
        pytest.fail("populations/sample is missing: make sample")
    subprocess.run(["cp", "-r", str(sample), str(tmp_path / "populations" / "sample")], check=True)
    return tmp_path


def one_core() -> None:
    """Leave a command one core, so that a run without `--slots` starts one worker and not one for each core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.mark.slow
def test_everything_in_the_readme_works(desk: Path) -> None:
    script = Path(sys.executable).with_name("evo-tune")
    env = {**os.environ, "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"}
    for language, body in blocks():
        if language == "python" and body.startswith("# evaluators/"):
            path = desk / body.partition("\n")[0].removeprefix("# ")
            path.parent.mkdir(exist_ok=True)
            path.write_text(body)
            continue
        commands = [[sys.executable, "-c", body]] if language == "python" else map(shlex.split, body.splitlines())
        for command in commands:
            if shlex.join(command) in TOO_LONG:
                continue
            done = subprocess.run(
                command, cwd=desk, env=env, capture_output=True, text=True, timeout=120, preexec_fn=one_core
            )
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            assert done.stdout.strip() or done.stderr.strip(), (command, "printed nothing")
