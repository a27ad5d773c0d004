"""Workers are started without importing anything from the working directory, where anything may lie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TASK = """
import os
import helper_beside
from evo_tune import Int, Minimize, SearchSpace

SPACE = SearchSpace(n=Int(1, 9))
OBJECTIVES = [Minimize("loss")]

def evaluate(genome, context):
    return {"loss": helper_beside.ONE, "safe": float("PYTHONSAFEPATH" in os.environ)}
"""

SHADOWED = ("joblib", "multiprocessing", "numpy", "evo_tune", "pickle", "argparse", "filelock")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python looks at PYTHONSAFEPATH from 3.11 on")
@pytest.mark.parametrize("given", [None, "1"])
def test_a_worker_imports_nothing_from_the_working_directory(tmp_path: Path, given: str | None) -> None:
    here, tasks, mark = tmp_path / "here", tmp_path / "tasks", tmp_path / "ran"
    here.mkdir()
    tasks.mkdir()
    (tasks / "task.py").write_text(TASK)
    (tasks / "helper_beside.py").write_text("ONE = 1.0")
    (tasks / "go.py").write_text("from evo_tune.cli import main\nif __name__ == '__main__':\n    main()\n")
    for name in SHADOWED:
        (here / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write({name!r})\nraise SystemExit(3)\n")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    env |= {} if given is None else {"PYTHONSAFEPATH": given}
    words = ["evaluate", str(tasks / "task.py"), "--devices", "cpu", "--format", "json"]
    done = subprocess.run(
        [sys.executable, str(tasks / "go.py"), *words], cwd=here, env=env, capture_output=True, text=True, timeout=120
    )
    assert not mark.exists(), mark.read_text()
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["loss"] == 1.0, "what lies beside the evaluator is imported"
    assert metrics["safe"] == (given is not None), "what an evaluator starts has the user's environment"
