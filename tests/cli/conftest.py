"""A quick evaluator and a way to type commands, in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from evo_tune.cli import cli, main
from evo_tune.dispatch.slot import Slot, Task
from evo_tune.loop.code import load_named_evaluator, remember
from evo_tune.store.run import Run
from tests.conftest import open_here
from tests.here import Here

QUICK = '''"""A quadratic with a forbidden corner, for tests."""
import time

from evo_tune import Choice, Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(-1, 1, widest=(None, None)), depth=Int(1, 8), kind=Choice(["a", "b"]))
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


def type_in(folder: Path, *words: str, env: dict[str, str] | None = None) -> Result:
    """Type `evo-tune …` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "evo_tune", *words],
        cwd=folder,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def process(folder: Path) -> Typed:
    """Type `evo-tune …` in a process of its own, with workers of its own."""
    return partial(type_in, folder)


@pytest.fixture
def typed(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Do what `evo-tune …` does in this process, evaluations too; it takes a tenth of what processes take."""

    def slots_here(task: Task, *_: object) -> list[Slot]:
        return [Here(task)]

    def run(*words: str, env: dict[str, str] | None = None) -> Result:
        with monkeypatch.context() as patched, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for shown in (UserWarning, RuntimeWarning):  # as a process of its own shows them
                warnings.simplefilter("default", shown)
            for name, value in (env or {}).items():
                patched.setenv(name, value)
            for module in ("evo_tune.dispatch", "evo_tune.loop.slots"):
                patched.setattr(f"{module}.open_slots", slots_here)
            patched.setattr(sys, "argv", ["evo-tune", *words])
            with pytest.raises(SystemExit) as end:
                main()
        printed = capsys.readouterr()
        return Result(int(end.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of 8 trials named `one`, which nobody changes."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "quick.py").write_text(QUICK)
    words = ["--name", "one", "--population", "4", "--generations", "2", "--final-seeds", "2"]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr("evo_tune.loop.slots.open_slots", open_here)
        result = CliRunner().invoke(cli, ["run", "quick.py", *words], standalone_mode=False)
    assert result.exception is None, result.output
    return folder


@pytest.fixture
def small_run(folder: Path, finished: Path) -> str:
    """A finished run of 8 trials named `one`, as if it had been begun here."""
    shutil.copytree(finished / "populations", folder / "populations")
    run = Run.open(folder / "populations" / "one")
    remember(run, load_named_evaluator("quick.py"), run.sessions[-1])
    return "one"
