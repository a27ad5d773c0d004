"""A quick evaluator and a way to type commands, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

QUICK = '''"""A quadratic with a forbidden corner, for tests."""
import time

from evo_tune import Choice, Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(-1, 1), depth=Int(1, 8), kind=Choice(["a", "b"]))
OBJECTIVES = [Minimize("loss")]
METRICS = {"loss": "", "cost": "s"}


def evaluate(genome, context, *, sleep: float = 0.0, bias: int = 0):
    time.sleep(sleep)
    if genome["depth"] == 7:
        raise ValueError("seven is forbidden")
    noise = context.seed % 1000 / 1e5
    return {"loss": genome["x"] ** 2 + genome["depth"] / 10 + bias + noise, "cost": genome["depth"]}
'''


class Result:
    """What a command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


Typed = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with quick.py in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick.py").write_text(QUICK)
    return tmp_path


@pytest.fixture
def typed(folder: Path) -> Typed:
    """Type `evo-tune …` in a process of its own."""

    def run(*words: str, env: dict[str, str] | None = None) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "evo_tune", *words],
            cwd=folder,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def small_run(typed: Typed) -> str:
    """A finished run of 8 trials named `one`."""
    result = typed("run", "quick.py", "--name", "one", "--population", "4", "--generations", "2", "--calibrate", "2")
    assert result.code == 0, result
    return "one"
