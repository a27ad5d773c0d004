"""The five changes of CONTRIBUTING.md, made in a copy of the repository, pass the tests that the page names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages import FENCE, FILE
from tests.test_release import ROOT, release

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

TESTS = [
    *("tests/test_settings.py", "tests/loop/test_failures.py", "tests/training/recipe/optim/test_schedule.py"),
    *("tests/report/test_charts.py", "tests/report/test_loading.py", "tests/evaluators/test_docs.py"),
    *("tests/strategies/test_docs.py", "tests/strategies/test_contract.py", "tests/strategies/test_climber.py"),
    "tests/test_where.py",
]
CHOSEN = "not test_contract or climber"  # all but other strategies


def hunks() -> Iterator[tuple[str, str, str]]:
    """Yield file, lines before and lines after of each change that the page shows as a diff."""
    for diff in (body for language, body in FENCE.findall(TEXT) if language == "diff"):
        for name, hunk in re.findall(r"^--- (\S+)\n((?:[-+ ].*\n)+?)(?=--- |\Z)", diff, re.MULTILINE):
            lines = hunk.splitlines(keepends=True)
            yield name, *("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository with the changes of the page."""
    folder = tmp_path_factory.mktemp("copy")
    for name in release.tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    for name, before, after in hunks():
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace(before, after), encoding="utf-8")
    for body in (body for language, body in FENCE.findall(TEXT) if language == "python"):
        path = folder / FILE.match(body)[1]  # type: ignore[index]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, encoding="utf-8")
    return folder


def run(folder: Path, *words: str, where: str = ".") -> str:
    """Run Python with the package of a copy, and return what it prints."""
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=folder / where, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.extended
def test_changes_made_as_the_page_says_pass_its_tests(changed: Path) -> None:
    words = ["-p", "no:cacheprovider", "-m", "not (slow or cluster or extended)", "-k", CHOSEN, *TESTS]
    printed = run(changed, "-m", "pytest", *words)
    assert int(re.findall(r"(\d+) passed", printed)[-1]) > 60
    assert "failed" not in printed
    run(changed, "-m", "mypy")


@pytest.mark.extended
def test_the_new_flag_schedule_strategy_and_evaluator_can_be_used(changed: Path) -> None:
    assert "--failures" in run(changed, "-m", "evo_tune", "run", "--help")
    program = "from evo_tune.training.recipe import Schedule\nprint(Schedule(steps=8, schedule='parabola')(4))"
    assert float(run(changed, "-c", program)) == pytest.approx(1 - (3 / 7) ** 2)
    assert "climber" in run(changed, "-m", "evo_tune", "strategies")
    words = ["run", "polynomial", "--trials", "4", "--strategy", "climber", "--final-seeds", "0", "--slots", "1"]
    run(changed, "-m", "evo_tune", *words, "--name", "r1", where="own")
    assert "4 evaluations" in run(changed, "-m", "evo_tune", "show", "r1", where="own")


def test_the_page_is_short_and_shows_lines_that_are_there_once() -> None:
    assert len(TEXT.split()) <= 1200
    assert len(list(hunks())) == 7
    for name, before, _ in hunks():
        assert (ROOT / name).read_text(encoding="utf-8").count(before) == 1, f"not in {name}:\n{before}"
