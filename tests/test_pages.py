"""The README's commands and Python blocks, run in order in an empty folder, as a reader would."""

from __future__ import annotations

import json
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
    (tmp_path / "run.toml").write_text(
        'trials = 2\ncalibrate = 0\nname = "fromtoml"\n[option]\ntokens = 1500\neval_tokens = 1000\n'
    )
    (tmp_path / "genomes.csv").write_text("lr,depth\n0.003,2\n0.01,1\n")
    (tmp_path / "populations").mkdir()
    sample = ROOT / "populations" / "sample"
    if not sample.is_dir():
        pytest.fail("populations/sample is missing: make sample")
    subprocess.run(["cp", "-r", str(sample), str(tmp_path / "populations" / "sample")], check=True)
    return tmp_path


def typed(desk: Path) -> list[list[str] | str]:
    """Write the README's files, and return what it types: the words of commands, and Python."""
    found: list[list[str] | str] = []
    for language, body in blocks():
        if language == "python" and body.startswith("# evaluators/"):
            path = desk / body.partition("\n")[0].removeprefix("# ")
            path.parent.mkdir(exist_ok=True)
            path.write_text(body)
        elif language == "python":
            found.append(body)
        else:
            found += [shlex.split(line) for line in body.splitlines() if line not in TOO_LONG]
    return found


def shortened(what: list[str] | str) -> list[str] | str:
    """Leave out what takes long and has tests of its own: most of what is trained on and judged by, and calibration."""
    if isinstance(what, str):
        return what
    words = [re.sub(r"^tokens=\d+$", "tokens=1500", word) for word in what]
    if words != what:
        words += ["-o", "eval_tokens=1000"]
    words = ["epochs=1" if word.startswith("epochs=") else word for word in words]
    if "--tokens" in words:
        words[words.index("--tokens") + 1] = "1500"
    if words[1] in ("run", "resume") and not {"--calibrate", "--config"} & {*words}:
        first = "--name mine" in shlex.join(words)  # the others read what it has saved
        words += ["--calibrate", "1", "--calibrate-best", "1"] if first else ["--calibrate", "0"]
    return words


@pytest.mark.slow
def test_everything_in_the_readme_works(desk: Path) -> None:
    lines = [shortened(what) for what in typed(desk)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    reader = [sys.executable, "-m", "tests.reader"]
    done = subprocess.run(reader, cwd=desk, env=env, input=json.dumps(lines), capture_output=True, text=True)
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(ends) == len(lines), (done.returncode, done.stderr)
    for what, (code, printed) in zip(lines, ends, strict=True):
        assert code == 0, (what, printed)
        assert printed.strip(), (what, "printed nothing")


@pytest.mark.proof
@pytest.mark.timeout(1200)
def test_everything_in_the_readme_works_to_the_letter(desk: Path) -> None:
    """As a reader types it: each a process of its own, with workers of its own, and nothing shortened."""
    script = Path(sys.executable).with_name("evo-tune")
    env = {**os.environ, "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"}
    for what in typed(desk):
        command = [sys.executable, "-c", what] if isinstance(what, str) else what
        done = subprocess.run(command, cwd=desk, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert done.stdout.strip() or done.stderr.strip(), (command, "printed nothing")
