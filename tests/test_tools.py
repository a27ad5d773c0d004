"""docs/integrations.md: the job of the examples gives the same result with evo-tune and with Optuna."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extras import need
from tests.pages import DOCS, text_of


@pytest.mark.extended
@pytest.mark.parametrize("tool", ["evo_tune", "optuna"])
def test_the_job_gives_the_same_result(tool: str, tmp_path: Path) -> None:
    if tool == "optuna":
        need("optuna")
    shutil.copytree(DOCS / "examples" / "same_job", tmp_path, dirs_exist_ok=True)
    words = [sys.executable, f"with_{tool}.py"]
    done = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    best = ast.literal_eval(done.stdout.splitlines()[-1])
    assert best.keys() == {"lr", "degree"}
    assert best["degree"] >= 3, "a line or a parabola does not fit a sine"
    assert best["lr"] > 0.05


def test_the_choice_of_a_tool_is_read_in_two_minutes() -> None:
    choice = text_of("integrations.md").partition("\n## Optuna: ")[0]
    assert len(re.findall(r"\w\S*", choice)) <= 500
