"""The ways through the code are short: files entered and calls made for a run of two trials, part by part.

A bound that is exceeded: pass the object that is there already, or say in the commit why the way has become longer.
Where a bound is no longer reached, lower it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.journeys import ROOT

pytestmark = pytest.mark.xdist_group("journeys")

HOOK = """
import os
from pathlib import Path
from tests.journeys import Counting
Counting(Path(os.environ["JOURNEYS"]))
"""

GENES, OPTIONS = "evo_tune/genome/genes.py", "evo_tune/options/declare.py"

# Most files entered, most calls into genes and into declared options, by journey. With 1.1.0: 76 files and 58,608 and
# 27,056 calls before the first worker process; 29, 42, 37 and 51 files.
BOUNDS = {
    "command": (76, 9000, 6600),
    "load": (28, 145, 880),
    "work": (40, 340, 400),
    "reply": (35, 0, 160),
    "end": (50, 240, 0),
}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """Return the number of calls by journey and file, for a run of two trials in processes of its own."""
    folder = tmp_path_factory.mktemp("journeys")
    (folder / "sitecustomize.py").write_text(HOOK)  # Python imports it at the start of each process
    (folder / "text.txt").write_text("the cat sat on the mat, and the dog ran off. " * 400)
    env = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "JOURNEYS": str(folder)}
    command = [sys.executable, "-m", "evo_tune", "run", "-o", "data=text.txt", "-o", "tokens=4096", "--slots", "1"]
    limits = ["--trials", "2", "--final-seeds", "0", "--no-baseline", "--seed", "1", "--quiet"]
    subprocess.run([*command, *limits], env=env, cwd=folder, check=True, timeout=100)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.parametrize("journey", BOUNDS)
def test_a_journey_enters_few_files_and_parses_genes_and_options_once(
    calls: dict[str, dict[str, int]], journey: str
) -> None:
    entered = calls[journey]
    reached = (len(entered), entered.get(GENES, 0), entered.get(OPTIONS, 0))
    assert all(number <= most for number, most in zip(reached, BOUNDS[journey], strict=True)), (reached, entered)
