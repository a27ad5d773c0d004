"""docs/tools.md: the job of the page gives the same result with evo-tune and with Optuna."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extras import need
from tests.pages import FENCE, text_of, typed


@pytest.mark.extended
@pytest.mark.parametrize("tool", ["evo_tune", "optuna"])
def test_the_job_is_done_as_the_page_says(tool: str, tmp_path: Path) -> None:
    if tool == "optuna":
        need("optuna")
    typed("tools.md", tmp_path)
    words = [sys.executable, f"with_{tool}.py"]
    done = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    best = ast.literal_eval(done.stdout.splitlines()[-1])
    assert best.keys() == {"lr", "degree"}
    assert best["degree"] >= 3, "a line or a parabola does not fit a sine"
    assert best["lr"] > 0.05


def test_the_page_is_read_in_two_minutes() -> None:
    blocks = FENCE.findall(text_of("tools.md"))
    assert [language for language, _ in blocks] == ["python"] * 3
    assert len(re.findall(r"\w\S*", FENCE.sub("", text_of("tools.md")))) <= 500
